//! What cancellations set off.

use crate::worker::panics;

/// What the cancellation of a call sets off.
pub(super) type OnCancel = Box<dyn FnOnce() + Send>;

/// Drops the callbacks of a call that was answered. Runs destructors of the program: not to be called
/// under the lock.
pub(super) fn drop_callbacks(callbacks: Vec<OnCancel>) {
    #[cold]
    fn drop_guarded(callbacks: Vec<OnCancel>) {
        for callback in callbacks {
            // The hook shows a panic, which belongs to no call: this one is answered.
            let _ = panics::catch(|| drop(callback));
        }
    }
    if !callbacks.is_empty() {
        drop_guarded(callbacks);
    }
}

/// Runs the callbacks of a call that was cancelled.
pub(super) fn run_callbacks(callbacks: Vec<OnCancel>) {
    for callback in callbacks {
        // The hook shows a panic, which belongs to no call: this one is cancelled.
        let _ = panics::catch(callback);
    }
}

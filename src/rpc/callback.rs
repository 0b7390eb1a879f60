//! Running the program's code, which may panic, and must not block the reactor.

use crate::error::{Error, ErrorKind};
use crate::sys::Origin;
use crate::unwind;
use std::cell::Cell;

thread_local! {
    /// In which process this thread is a reactor's. In a copy, it is not.
    static REACTOR_OF: Cell<Option<Origin>> = const { Cell::new(None) };
}

/// While it exists, the thread is a reactor's.
pub(super) struct ReactorScope;

impl ReactorScope {
    pub(super) fn enter() -> Self {
        ReactorScope::enter_for_good();
        ReactorScope
    }

    /// The thread is a reactor's until it ends: what callbacks leave to be dropped with the thread
    /// must not block it either.
    pub(super) fn enter_for_good() {
        REACTOR_OF.set(Some(Origin::here()));
    }
}

impl Drop for ReactorScope {
    fn drop(&mut self) {
        REACTOR_OF.set(None);
    }
}

/// Whether this is a reactor's thread, which must not block.
pub(crate) fn in_callback() -> bool {
    let origin = REACTOR_OF.get();
    origin.is_some_and(|origin| !origin.is_elsewhere())
}

/// Refuses to block in a callback.
pub(crate) fn refuse_in_callback(what: &str) -> Result<(), Error> {
    if !in_callback() {
        return Ok(());
    }
    let message = format!("{what} inside a callback would block the reactor; call it elsewhere");
    Err(Error::new(ErrorKind::InCallback, message))
}

/// Runs the program's code. A panic is reported by the panic hook and stops here.
pub(crate) fn guard(callback: impl FnOnce()) {
    let _ = unwind::catch(callback);
}

/// Drops values of the program, each of which may panic.
pub(crate) fn drop_guarded<T>(values: impl IntoIterator<Item = T>) {
    for value in values {
        guard(|| drop(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Panics(mpsc::Sender<&'static str>);

    impl Drop for Panics {
        fn drop(&mut self) {
            self.0.send("dropped").unwrap();
            panic!("a destructor panics");
        }
    }

    #[test]
    fn panic_of_one_value_keeps_no_other_from_being_dropped() {
        let (sender, dropped) = mpsc::channel();
        drop_guarded(vec![Panics(sender.clone()), Panics(sender)]);
        assert_eq!(dropped.iter().count(), 2);
    }

    #[test]
    fn blocking_is_refused_within_the_scope_only() {
        assert!(refuse_in_callback("finish()").is_ok());
        let scope = ReactorScope::enter();
        let error = refuse_in_callback("finish()").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InCallback);
        assert!(error.to_string().starts_with("finish() inside a callback"));
        drop(scope);
        assert!(!in_callback());
    }
}

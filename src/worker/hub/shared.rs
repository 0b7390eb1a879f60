//! The hub itself: its lock, and what is not under it.

use super::state::HubState;
use crate::copies::end_if_copy;
use crate::sys::{self, Origin, SharedNote};
use crate::wire::{self, Plain};
use crate::worker::calls::MainCall;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread::{self, ThreadId};

/// See the [module](super)'s documentation.
pub(crate) struct Hub {
    state: Mutex<HubState>,
    /// The thread that reads requests.
    pub(super) main_thread: ThreadId,
    /// The call that the main thread runs.
    pub(super) main_call: MainCall,
    /// Notified when a thread is done writing.
    pub(super) written: Condvar,
    /// Notified when a request waits for a thread.
    pub(super) work: Condvar,
    /// Notified when the flusher is to wake up.
    pub(super) flusher: Condvar,
    pub(super) fd: OwnedFd,
    pub(super) is_socket: bool,
    plain: Option<Plain>,
    /// The longest payload that the parent takes.
    max_frame: AtomicUsize,
    /// Where it is noted for the parent which calls have begun, if it can read that.
    note: Option<SharedNote>,
    threads_begin: AtomicBool,
    /// Whether the parent is on another machine.
    is_far: AtomicBool,
    /// The process that is the child.
    origin: Origin,
}

impl Hub {
    pub(in crate::worker) fn new(
        fd: OwnedFd,
        plain: Option<Plain>,
        note: Option<SharedNote>,
    ) -> Self {
        Hub {
            state: Mutex::default(),
            main_thread: thread::current().id(),
            main_call: MainCall::default(),
            written: Condvar::new(),
            work: Condvar::new(),
            flusher: Condvar::new(),
            is_socket: sys::is_stream_socket(fd.as_fd()),
            fd,
            plain,
            max_frame: AtomicUsize::new(u32::MAX as usize),
            note,
            threads_begin: AtomicBool::new(false),
            is_far: AtomicBool::new(false),
            origin: Origin::here(),
        }
    }

    /// The call with this id begins now, in the child itself. The last of those that have begun is noted,
    /// by their ids: so that all that have begun are known to have, and others only if calls begin in
    /// another order than they were made.
    #[inline]
    pub(super) fn note_begun(&self, id: u32) {
        let Some(note) = &self.note else { return };
        let is_later = |noted| noted == 0 || is_later(id, noted);
        // ORDERING: set before functions run; threads that they start see it by being started.
        if self.threads_begin.load(Ordering::Relaxed) {
            note.store_if(id, is_later);
        } else if is_later(note.load()) {
            note.store(id);
        }
    }

    /// Other threads begin calls, too, and not only the main thread.
    pub(in crate::worker) fn let_threads_begin(&self) {
        // ORDERING: see `note_begun`.
        self.threads_begin.store(true, Ordering::Relaxed);
    }

    /// Whether this process is a copy that a function has made. It sends nothing, and is told nothing.
    #[inline]
    pub(in crate::worker) fn is_elsewhere(&self) -> bool {
        self.origin.is_elsewhere()
    }

    /// Whether this is the thread that reads requests.
    pub(in crate::worker) fn is_main_thread(&self) -> bool {
        thread::current().id() == self.main_thread
    }

    /// The parent is on another machine.
    pub(in crate::worker) fn set_far(&self) {
        // ORDERING: see `set_max_frame`.
        self.is_far.store(true, Ordering::Relaxed);
    }

    pub(in crate::worker) fn is_far(&self) -> bool {
        // ORDERING: see `set_max_frame`.
        self.is_far.load(Ordering::Relaxed)
    }

    pub(in crate::worker) fn set_max_frame(&self, max_frame: usize) {
        // ORDERING: set before functions run; threads that they start see it by being started.
        self.max_frame.store(max_frame, Ordering::Relaxed);
    }

    pub(in crate::worker) fn max_frame(&self) -> usize {
        // ORDERING: see `set_max_frame`.
        self.max_frame.load(Ordering::Relaxed)
    }

    pub(in crate::worker) fn plain(&self) -> Option<Plain> {
        self.plain
    }

    pub(in crate::worker) fn output(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Ends this process if it is a copy. What functions may call does nothing in one, so it gets here
    /// only if its function has returned.
    #[inline]
    pub(super) fn end_if_copy(&self) {
        end_if_copy(self.origin);
    }

    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, HubState> {
        self.end_if_copy();
        self.state.lock().expect(PROOF)
    }

    /// Waits until a thread is done writing.
    pub(super) fn wait<'a>(&self, mut state: MutexGuard<'a, HubState>) -> MutexGuard<'a, HubState> {
        state.waiting += 1;
        let mut state = self.written.wait(state).expect(PROOF);
        state.waiting -= 1;
        state
    }
}

/// Whether a call was made after another. Ids are given in order, and start over at the greatest: far more
/// lie between than there can be calls.
fn is_later(id: u32, than: u32) -> bool {
    const HALF: u32 = wire::MAX_ID / 2;
    (1..=HALF).contains(&(id.wrapping_sub(than) & wire::MAX_ID))
}

/// Why the lock is never poisoned.
pub(super) const PROOF: &str = "nothing panics under this lock";

#[cfg(test)]
mod tests {
    use super::is_later;
    use crate::wire::MAX_ID;

    #[test]
    fn ids_start_over_after_the_greatest() {
        for (id, than) in [
            (2, 1),
            (MAX_ID, 1 << 30),
            (1, MAX_ID),
            (1 << 20, MAX_ID - 7),
        ] {
            assert!(is_later(id, than) && !is_later(than, id), "{id} and {than}");
        }
        assert!(!is_later(7, 7));
    }
}

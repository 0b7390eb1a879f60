//! The hub itself: its lock, and what is not under it.

use super::state::HubState;
use crate::copies::end_if_copy;
use crate::sys::{self, Origin, SharedNote};
use crate::wire::Plain;
use crate::worker::calls::MainCall;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
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
            origin: Origin::here(),
        }
    }

    /// The call with this id begins now, in the child itself. Those that were made before have begun, or
    /// never will. Under the lock where others may begin, too.
    #[inline]
    pub(super) fn note_begun(&self, id: u32) {
        if let Some(note) = &self.note {
            note.store(id);
        }
    }

    /// Whether this process is a copy that a function has made. It sends nothing, and is told nothing.
    #[inline]
    pub(in crate::worker) fn is_elsewhere(&self) -> bool {
        self.origin.is_elsewhere()
    }

    pub(in crate::worker) fn set_max_frame(&self, max_frame: usize) {
        // ORDERING: set before functions run; threads that they start see it by being started.
        self.max_frame.store(max_frame, Ordering::Relaxed);
    }

    pub(super) fn max_frame(&self) -> usize {
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

/// Why the lock is never poisoned.
pub(super) const PROOF: &str = "nothing panics under this lock";

//! The call that the main thread is at, told apart from those that run. Pure.
//!
//! Most functions answer within the main thread's call of them, and then their call need not be put
//! into the [ledger](super::ledger) and taken out again. Who gives that answer has the hub's lock, and
//! sees to it that the next call may begin without it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Changed under the hub's lock, except by [`begin`](Turn::begin), which has a call that nobody else
/// knows yet.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// [`CLOSED`], [`OPEN`], or [`AT`] with an id.
    state: AtomicU64,
    /// No call with a higher id has begun. The main thread's.
    highest: AtomicU32,
}

/// The ledger is to be asked before a call begins.
const CLOSED: u64 = 0;
/// A call may begin if its id is a new one.
const OPEN: u64 = 1 << 32;
/// The call with this id has begun, and is not answered.
const AT: u64 = 2 << 32;

// ORDERING: a change by another thread, which answers the call, is seen with what it did before.
impl Turn {
    /// Begins a call without asking the ledger. Returns whether it may.
    #[inline]
    pub(super) fn begin(&self, id: u32) -> bool {
        let may = self.is_open() && id > self.highest.load(Ordering::Relaxed);
        if may {
            self.highest.store(id, Ordering::Relaxed);
            self.state.store(AT | u64::from(id), Ordering::Release);
        }
        may
    }

    /// Begins a call which the ledger lets begin. `busy` says whether there are others.
    pub(super) fn begin_as_told(&self, id: u32, busy: bool) {
        let highest = if busy {
            self.highest.load(Ordering::Relaxed).max(id)
        } else {
            id
        };
        self.highest.store(highest, Ordering::Relaxed);
        self.state.store(AT | u64::from(id), Ordering::Release);
    }

    /// Whether a call may begin if its id is a new one.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.state.load(Ordering::Acquire) == OPEN
    }

    /// Whether the main thread is at this call, and it is not answered.
    #[inline]
    pub(super) fn is_at(&self, id: u32) -> bool {
        self.state.load(Ordering::Acquire) == AT | u64::from(id)
    }

    /// The call is answered, or in the ledger; `open` says whether the next one may begin.
    #[inline]
    pub(super) fn end(&self, open: bool) {
        self.state
            .store(if open { OPEN } else { CLOSED }, Ordering::Release);
    }
}

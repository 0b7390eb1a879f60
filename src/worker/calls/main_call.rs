//! The call that the main thread is at, told apart from those that run. Pure.
//!
//! Most functions answer within the main thread's call of them, and then their call need not be put
//! into the [ledger](super::ledger) and taken out again. Who gives that answer has the hub's lock, and
//! sees to it that the next call may begin without it.

use super::ledger::{Duplicate, Ledger};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Changed under the hub's lock, except by [`begin`](Turn::begin), which has a call that nobody else
/// knows yet.
#[derive(Debug, Default)]
pub(crate) struct MainCall {
    /// [`CLOSED`], [`OPEN`], or [`AT`] with an id.
    state: AtomicU64,
    /// No call with a higher id has begun or waits. The main thread's.
    highest: AtomicU32,
}

/// The ledger is to be asked before a call begins.
const CLOSED: u64 = 0;
/// A call may begin if its id is a new one.
const OPEN: u64 = 1 << 32;
/// The call with this id has begun, and is not answered.
const AT: u64 = 2 << 32;

// ORDERING: a change by another thread, which answers the call, is seen with what it did before.
impl MainCall {
    /// Begins a call without asking the ledger. Returns whether it may.
    #[inline]
    pub(crate) fn begin(&self, id: u32) -> bool {
        let may = self.is_open() && id > self.highest.load(Ordering::Relaxed);
        if may {
            self.highest.store(id, Ordering::Relaxed);
            self.state.store(AT | u64::from(id), Ordering::Release);
        }
        may
    }

    /// Begins a call if the ledger lets it. Returns whether it does.
    pub(crate) fn begin_by(&self, ledger: &Ledger, id: u32) -> Result<bool, Duplicate> {
        if ledger.is_running(id) {
            return Err(Duplicate);
        }
        let may = ledger.has_turn();
        if may {
            let highest = self.highest.load(Ordering::Relaxed).max(id);
            let highest = if ledger.is_busy() { highest } else { id };
            self.highest.store(highest, Ordering::Relaxed);
            self.state.store(AT | u64::from(id), Ordering::Release);
        }
        Ok(may)
    }

    /// The main thread is done with a call. If it is not answered, the ledger has it from now on.
    pub(crate) fn leave(&self, ledger: &mut Ledger, id: u32, unsent: usize) {
        if self.is_at(id) {
            let started = ledger.start(id);
            debug_assert_eq!(started, Ok(true), "that was so when it began");
            self.end(ledger.is_open(unsent));
        }
    }

    /// A call was answered, and so many bytes are now to be written. Returns whether the main thread was
    /// at it.
    #[inline]
    pub(crate) fn answered(&self, ledger: &mut Ledger, id: u32, unsent: usize) -> bool {
        let is_at = self.is_at(id);
        if is_at {
            self.end(ledger.is_open(unsent));
        } else {
            ledger.answered(id);
        }
        is_at
    }

    /// A call waits: the next one is to ask the ledger.
    pub(crate) fn wait(&self, id: u32) {
        self.highest.fetch_max(id, Ordering::Relaxed);
        self.end(false);
    }

    /// Whether a call may begin if its id is a new one.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.state.load(Ordering::Acquire) == OPEN
    }

    /// Whether the main thread is at this call, and it is not answered.
    #[inline]
    pub(crate) fn is_at(&self, id: u32) -> bool {
        self.state.load(Ordering::Acquire) == AT | u64::from(id)
    }

    #[inline]
    fn end(&self, open: bool) {
        let state = if open { OPEN } else { CLOSED };
        self.state.store(state, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::CallLimits;
    use super::*;

    fn child(running: usize, high_water: usize) -> (MainCall, Ledger) {
        let mut ledger = Ledger::default();
        ledger.set_limits(CallLimits {
            running,
            high_water,
        });
        (MainCall::default(), ledger)
    }

    #[test]
    fn first_call_asks_the_ledger_and_the_next_need_not() {
        let (turn, mut ledger) = child(1, 100);
        assert!(!turn.begin(1), "nothing is known yet");
        assert_eq!(turn.begin_by(&ledger, 1), Ok(true));
        assert!(turn.is_at(1) && !turn.is_open());
        assert!(!turn.begin(2), "one at a time");
        assert!(turn.answered(&mut ledger, 1, 0));
        assert!(turn.is_open() && !turn.is_at(1));
        assert!(turn.begin(2) && turn.is_at(2));
    }

    #[test]
    fn call_left_unanswered_is_the_ledgers() {
        let (turn, mut ledger) = child(2, 100);
        assert_eq!(turn.begin_by(&ledger, 1), Ok(true));
        turn.leave(&mut ledger, 1, 0);
        assert!(!turn.is_at(1) && ledger.is_running(1));
        assert!(turn.is_open(), "another one may run beside it");
        assert!(turn.begin(2));
        turn.leave(&mut ledger, 2, 0);
        assert!(!turn.is_open(), "no more may");
        assert!(!turn.answered(&mut ledger, 1, 0), "it was not at it");
        assert_eq!(turn.begin_by(&ledger, 3), Ok(true));
    }

    #[test]
    fn answered_call_is_not_left_to_the_ledger() {
        let (turn, mut ledger) = child(1, 100);
        assert_eq!(turn.begin_by(&ledger, 1), Ok(true));
        assert!(turn.answered(&mut ledger, 1, 0));
        turn.leave(&mut ledger, 1, 0);
        assert!(turn.is_open() && !ledger.is_busy());
    }

    #[test]
    fn ledger_is_asked_when_requests_wait_or_answers_gather() {
        let (turn, mut ledger) = child(1, 100);
        assert_eq!(turn.begin_by(&ledger, 1), Ok(true));
        assert!(turn.answered(&mut ledger, 1, 101));
        assert!(!turn.is_open(), "above high water");
        assert_eq!(turn.begin_by(&ledger, 2), Ok(true));
        assert!(turn.answered(&mut ledger, 2, 100) && turn.is_open());
        ledger.wait(3, vec![].into()).unwrap();
        turn.wait(3);
        assert!(!turn.begin(4));
        assert_eq!(turn.begin_by(&ledger, 4), Ok(false), "3 comes first");
    }

    /// Only an id above all others is known to be new without the ledger.
    #[test]
    fn id_that_may_be_in_use_is_looked_up() {
        let (turn, mut ledger) = child(9, 100);
        for id in [5, 7] {
            assert_eq!(turn.begin_by(&ledger, id), Ok(true));
            turn.leave(&mut ledger, id, 0);
        }
        for id in [5, 6, 7] {
            assert!(!turn.begin(id));
        }
        assert_eq!(turn.begin_by(&ledger, 5), Err(Duplicate));
        assert_eq!(turn.begin_by(&ledger, 6), Ok(true));
        assert!(turn.answered(&mut ledger, 6, 0));
        assert!(!turn.begin(7) && turn.begin(8));
        // Ids begin again, when no call runs.
        for id in [5, 7, 8] {
            turn.answered(&mut ledger, id, 0);
        }
        assert_eq!(turn.begin_by(&ledger, 1), Ok(true));
        assert!(turn.answered(&mut ledger, 1, 0));
        assert!(turn.begin(2));
    }
}

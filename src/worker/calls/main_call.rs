//! The call that the main thread runs, apart from the others that run. Pure.
//!
//! Most functions answer before they return to the main thread. Such a call need not be put into the
//! [ledger](super::ledger) and taken out again. The thread that answers it holds the hub's lock, and
//! makes sure that the next call may begin without it.

use super::ledger::{Duplicate, Lane, Ledger};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Changed under the hub's lock, except by [`begin`](MainCall::begin), whose call no other thread knows
/// yet.
#[derive(Debug, Default)]
pub(crate) struct MainCall {
    /// [`CLOSED`], [`OPEN`], or [`AT`] with an id.
    state: AtomicU64,
    /// No call with a higher id has begun or waits. Used by the main thread only.
    highest: AtomicU32,
}

/// A call may begin only if the ledger permits it.
const CLOSED: u64 = 0;
/// A call may begin if its id is new.
const OPEN: u64 = 1 << 32;
/// The call with this id has begun, and is not answered.
const AT: u64 = 2 << 32;

// ORDERING: release and acquire, as another thread answers the call: what it did before is visible to
// the main thread with the change. `highest` is the main thread's own.
impl MainCall {
    /// Begins a call without the ledger, if that is possible. Returns whether it was.
    #[inline]
    pub(crate) fn begin(&self, id: u32) -> bool {
        let may = self.is_open() && id > self.highest.load(Ordering::Relaxed);
        if may {
            self.highest.store(id, Ordering::Relaxed);
            self.state.store(AT | u64::from(id), Ordering::Release);
        }
        may
    }

    /// Begins a call if the ledger permits it. Returns whether it does.
    pub(crate) fn begin_with(
        &self,
        ledger: &Ledger,
        lane: Lane,
        id: u32,
    ) -> Result<bool, Duplicate> {
        if ledger.is_running(id) {
            return Err(Duplicate);
        }
        let may = ledger.may_start_new(lane);
        if may {
            let highest = self.highest.load(Ordering::Relaxed).max(id);
            let highest = if ledger.is_busy() { highest } else { id };
            self.highest.store(highest, Ordering::Relaxed);
            self.state.store(AT | u64::from(id), Ordering::Release);
        }
        Ok(may)
    }

    /// The function has returned from a call. If it is not answered, it goes into its lane of the ledger.
    pub(crate) fn returned(&self, ledger: &mut Ledger, lane: Lane, id: u32, unsent: usize) {
        if self.is_at(id) {
            let started = ledger.start(lane, id);
            debug_assert_eq!(started, Ok(true), "there was room when it began");
            self.end(ledger.is_open(unsent));
        }
    }

    /// A call was answered, and `unsent` bytes are now to be written. Returns whether it was the main
    /// thread's.
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

    /// A call waits. One that waits for the main thread comes first: the next one needs the ledger's
    /// permission.
    pub(crate) fn queued(&self, lane: Lane, id: u32) {
        self.highest.fetch_max(id, Ordering::Relaxed);
        if lane != Lane::Threaded {
            self.end(false);
        }
    }

    /// Whether a call may begin if its id is new.
    pub(crate) fn is_open(&self) -> bool {
        self.state.load(Ordering::Acquire) == OPEN
    }

    /// Whether the main thread runs this call, and it is not answered.
    pub(crate) fn is_at(&self, id: u32) -> bool {
        self.state.load(Ordering::Acquire) == AT | u64::from(id)
    }

    /// The main thread's call, if it runs one that is not answered.
    pub(crate) fn unanswered(&self) -> Option<u32> {
        let state = self.state.load(Ordering::Acquire);
        (state & AT != 0).then_some(state as u32)
    }

    fn end(&self, open: bool) {
        let state = if open { OPEN } else { CLOSED };
        self.state.store(state, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::CallLimits;
    use super::super::ledger::Lane::{Deferred, Returning, Threaded};
    use super::*;

    fn child(running: usize, high_water: usize) -> (MainCall, Ledger) {
        let mut ledger = Ledger::default();
        ledger.set_limits(CallLimits {
            deferred: running,
            threaded: running,
            high_water,
        });
        (MainCall::default(), ledger)
    }

    #[test]
    fn first_call_needs_the_ledger_and_the_next_does_not() {
        let (main, mut ledger) = child(1, 100);
        assert!(!main.begin(1), "nothing is known yet");
        assert_eq!(main.begin_with(&ledger, Deferred, 1), Ok(true));
        assert!(main.is_at(1) && !main.is_open());
        assert!(!main.begin(2), "one at a time");
        assert!(main.answered(&mut ledger, 1, 0));
        assert!(main.is_open() && !main.is_at(1));
        assert!(main.begin(2) && main.is_at(2));
    }

    #[test]
    fn call_that_returns_unanswered_goes_into_the_ledger() {
        let (main, mut ledger) = child(2, 100);
        assert_eq!(main.begin_with(&ledger, Deferred, 1), Ok(true));
        main.returned(&mut ledger, Deferred, 1, 0);
        assert!(!main.is_at(1) && ledger.is_running(1));
        assert!(main.is_open(), "another one may run beside it");
        assert!(main.begin(2));
        main.returned(&mut ledger, Deferred, 2, 0);
        assert!(!main.is_open(), "no more may");
        assert!(
            !main.answered(&mut ledger, 1, 0),
            "it was not the main thread's"
        );
        assert_eq!(main.begin_with(&ledger, Deferred, 3), Ok(true));
    }

    #[test]
    fn answered_call_does_not_go_into_the_ledger() {
        let (main, mut ledger) = child(1, 100);
        assert_eq!(main.begin_with(&ledger, Deferred, 1), Ok(true));
        assert!(main.answered(&mut ledger, 1, 0));
        main.returned(&mut ledger, Deferred, 1, 0);
        assert!(main.is_open() && !ledger.is_busy());
    }

    #[test]
    fn ledger_is_needed_when_requests_wait_or_answers_gather() {
        let (main, mut ledger) = child(1, 100);
        assert_eq!(main.begin_with(&ledger, Deferred, 1), Ok(true));
        assert!(main.answered(&mut ledger, 1, 101));
        assert!(!main.is_open(), "above high water");
        assert_eq!(main.begin_with(&ledger, Deferred, 2), Ok(true));
        assert!(main.answered(&mut ledger, 2, 100) && main.is_open());
        ledger.wait(Deferred, 3, 0, vec![].into()).unwrap();
        main.queued(Deferred, 3);
        assert!(!main.begin(4));
        assert_eq!(
            main.begin_with(&ledger, Deferred, 4),
            Ok(false),
            "3 comes first"
        );
    }

    /// The lock would be taken for each of them.
    #[test]
    fn calls_of_a_child_with_returning_functions_only_begin_without_the_ledger() {
        let (main, mut ledger) = (MainCall::default(), Ledger::default());
        ledger.set_limits(CallLimits::returning(100));
        assert_eq!(main.begin_with(&ledger, Returning, 1), Ok(true));
        assert!(!main.begin(2), "one at a time");
        assert!(main.answered(&mut ledger, 1, 0));
        assert!(main.begin(2));
    }

    #[test]
    fn call_that_waits_for_a_thread_keeps_none_from_beginning_but_with_its_id() {
        let (main, mut ledger) = child(1, 100);
        assert_eq!(main.begin_with(&ledger, Deferred, 1), Ok(true));
        assert!(main.answered(&mut ledger, 1, 0));
        ledger.wait(Threaded, 7, 0, vec![].into()).unwrap();
        main.queued(Threaded, 7);
        assert!(main.is_open() && !main.begin(7) && main.begin(8));
    }

    /// Only an id above all others is certain to be new without the ledger.
    #[test]
    fn id_that_may_be_in_use_needs_the_ledger() {
        let (main, mut ledger) = child(9, 100);
        for id in [5, 7] {
            assert_eq!(main.begin_with(&ledger, Deferred, id), Ok(true));
            main.returned(&mut ledger, Deferred, id, 0);
        }
        for id in [5, 6, 7] {
            assert!(!main.begin(id));
        }
        assert_eq!(main.begin_with(&ledger, Deferred, 5), Err(Duplicate));
        assert_eq!(main.begin_with(&ledger, Deferred, 6), Ok(true));
        assert!(main.answered(&mut ledger, 6, 0));
        assert!(!main.begin(7) && main.begin(8));
        // When no call runs, ids may start over.
        for id in [5, 7, 8] {
            main.answered(&mut ledger, id, 0);
        }
        assert_eq!(main.begin_with(&ledger, Deferred, 1), Ok(true));
        assert!(main.answered(&mut ledger, 1, 0));
        assert!(main.begin(2));
    }
}

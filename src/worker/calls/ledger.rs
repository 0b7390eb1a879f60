//! Which calls a child has: those that wait, those that run, and what it may take on. Pure.
//!
//! ```text
//!   wait() ──▶ waiting ── next() ──▶ running ── answered() ──▶ gone
//!                 │      start() ──────▲ └ cancel(): cancelled, still running
//!                 └ cancel(): gone
//! ```

use super::id_set::IdSet;
use crate::wire::SmallBytes;
use std::collections::VecDeque;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    limits: CallLimits,
    /// Requests that have not started, in order.
    waiting: VecDeque<(u32, SmallBytes)>,
    /// The bytes of those.
    waiting_bytes: usize,
    running: IdSet,
    /// Those of `running` that were cancelled.
    cancelled: IdSet,
    /// Whether no more requests will come.
    closed: bool,
}

/// What a child takes on at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallLimits {
    /// How many calls run simultaneously.
    pub(crate) running: usize,
    /// How many bytes may wait to be started or to be written before no more are read.
    pub(crate) high_water: usize,
}

impl Default for CallLimits {
    fn default() -> Self {
        CallLimits {
            running: usize::MAX,
            high_water: usize::MAX,
        }
    }
}

/// What a cancelled call was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallState {
    /// It never starts.
    Waiting,
    Running,
    /// It was answered, or never made.
    Gone,
}

/// A request with the id of one that is not answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Duplicate;

impl Ledger {
    /// Sets the limits from now on. Default: none.
    pub(crate) fn set_limits(&mut self, limits: CallLimits) {
        self.limits = limits;
    }

    /// Starts a request if none waits and there is room: then it counts as running.
    #[inline]
    pub(crate) fn start(&mut self, id: u32) -> Result<bool, Duplicate> {
        let may = self.may_start_new();
        if may && !self.running.insert(id) {
            return Err(Duplicate);
        }
        Ok(may)
    }

    /// Whether a request with a new id may start immediately, and another may be read, while `unsent`
    /// bytes of answers are not written.
    pub(crate) fn is_open(&self, unsent: usize) -> bool {
        self.may_start_new() && self.wants_requests(unsent)
    }

    /// Whether a new request need not wait for others.
    pub(crate) fn may_start_new(&self) -> bool {
        self.waiting.is_empty() && self.running.len() < self.limits.running
    }

    /// Puts a request behind those that wait.
    pub(crate) fn wait(&mut self, id: u32, request: SmallBytes) -> Result<(), Duplicate> {
        if self.running.contains(id) {
            return Err(Duplicate);
        }
        self.waiting_bytes += request.len();
        self.waiting.push_back((id, request));
        Ok(())
    }

    /// Takes the request that has waited longest, if it may start. One whose id is running holds up
    /// those behind it until that call is answered.
    pub(crate) fn next(&mut self) -> Option<(u32, SmallBytes)> {
        if self.running.len() >= self.limits.running
            || !self.running.insert(self.waiting.front()?.0)
        {
            return None;
        }
        let (id, request) = self.waiting.pop_front()?;
        self.waiting_bytes -= request.len();
        Some((id, request))
    }

    /// Whether [`next`](Ledger::next) would return a request.
    pub(crate) fn may_start_waiting(&self) -> bool {
        let may = self.running.len() < self.limits.running;
        may && self
            .waiting
            .front()
            .is_some_and(|(id, _)| !self.running.contains(*id))
    }

    /// The parent does not wait for the answer any more.
    pub(crate) fn cancel(&mut self, id: u32) -> CallState {
        if let Some(at) = self.waiting.iter().position(|(waiting, _)| *waiting == id) {
            let (_, request) = self.waiting.remove(at).expect("found at this index");
            self.waiting_bytes -= request.len();
            return CallState::Waiting;
        }
        if self.running.contains(id) {
            self.cancelled.insert(id);
            return CallState::Running;
        }
        CallState::Gone
    }

    /// Whether a call runs.
    pub(crate) fn is_running(&self, id: u32) -> bool {
        self.running.contains(id)
    }

    /// Whether a running call was cancelled.
    pub(crate) fn is_cancelled(&self, id: u32) -> bool {
        self.cancelled.contains(id)
    }

    /// A running call was answered.
    #[inline]
    pub(crate) fn answered(&mut self, id: u32) {
        self.running.remove(id);
        if self.cancelled.len() > 0 {
            self.cancelled.remove(id);
        }
    }

    /// No more requests will come.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Whether no more requests will come.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether more requests may be read while `unsent` bytes of answers are not written.
    pub(crate) fn wants_requests(&self, unsent: usize) -> bool {
        !self.closed && unsent.saturating_add(self.waiting_bytes) <= self.limits.high_water
    }

    pub(crate) fn high_water(&self) -> usize {
        self.limits.high_water
    }

    /// How many requests wait to be started.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether there are calls that are not answered.
    pub(crate) fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || self.running.len() > 0
    }

    /// Whether everything is answered, and no more requests will come.
    pub(crate) fn is_finished(&self) -> bool {
        self.closed && !self.is_busy()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(running: usize, high_water: usize) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.set_limits(CallLimits {
            running,
            high_water,
        });
        ledger
    }

    fn bytes(len: usize) -> SmallBytes {
        vec![0; len].into()
    }

    /// The ids of what starts now.
    fn started(ledger: &mut Ledger) -> Vec<u32> {
        std::iter::from_fn(|| ledger.next().map(|(id, _)| id)).collect()
    }

    #[test]
    fn requests_start_in_order_as_others_are_answered() {
        let mut ledger = ledger(2, 100);
        assert_eq!((ledger.start(1), ledger.start(2)), (Ok(true), Ok(true)));
        assert_eq!(ledger.start(3), Ok(false));
        ledger.wait(3, bytes(1)).unwrap();
        ledger.wait(4, bytes(1)).unwrap();
        assert_eq!(started(&mut ledger), [0u32; 0]);
        ledger.answered(2);
        assert_eq!(ledger.start(5), Ok(false), "3 and 4 come first");
        assert_eq!(started(&mut ledger), [3]);
        ledger.answered(1);
        ledger.answered(3);
        assert_eq!(started(&mut ledger), [4]);
    }

    #[test]
    fn cancelled_before_the_start_never_starts() {
        let mut ledger = ledger(1, 100);
        ledger.start(1).unwrap();
        for id in 2..=4 {
            ledger.wait(id, bytes(1)).unwrap();
        }
        assert_eq!(ledger.cancel(3), CallState::Waiting);
        assert_eq!(ledger.cancel(3), CallState::Gone);
        assert_eq!(ledger.cancel(1), CallState::Running);
        assert!(ledger.is_cancelled(1));
        ledger.answered(1);
        assert!(!ledger.is_cancelled(1));
        assert_eq!(ledger.cancel(1), CallState::Gone);
        assert_eq!(started(&mut ledger), [2]);
        ledger.answered(2);
        assert_eq!(started(&mut ledger), [4]);
    }

    #[test]
    fn high_water_counts_what_waits_and_what_is_unsent() {
        let mut ledger = ledger(0, 10);
        assert!(ledger.wants_requests(10));
        assert!(!ledger.wants_requests(11));
        ledger.wait(1, bytes(6)).unwrap();
        assert!(ledger.wants_requests(4));
        assert!(!ledger.wants_requests(5));
        ledger.cancel(1);
        assert!(ledger.wants_requests(10));
        ledger.close();
        assert!(!ledger.wants_requests(0));
    }

    #[test]
    fn finished_when_closed_and_answered() {
        let mut ledger = ledger(1, 10);
        ledger.start(1).unwrap();
        ledger.wait(2, bytes(0)).unwrap();
        ledger.answered(1);
        ledger.close();
        assert!(!ledger.is_finished());
        assert_eq!(started(&mut ledger), [2]);
        assert!(!ledger.is_finished());
        ledger.answered(2);
        assert!(ledger.is_finished());
    }

    #[test]
    fn id_in_use_is_refused() {
        let mut ledger = ledger(9, 10);
        ledger.start(1).unwrap();
        assert_eq!(ledger.start(1), Err(Duplicate));
        assert_eq!(ledger.wait(1, bytes(0)), Err(Duplicate));
    }
}

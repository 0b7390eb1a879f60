//! Which calls a child has: those that wait, those that run, and what it may take on. Pure.
//!
//! ```text
//!   wait() ──▶ waiting ── next() ──▶ running ── answered() ──▶ gone
//!                 │      start() ──────▲ └ cancel(): cancelled, still running
//!                 └ cancel(): gone
//! ```
//!
//! Each kind of function has a [`Lane`] with a limit of its own: calls wait only for those in their lane.

use super::id_set::IdSet;
use crate::wire::SmallBytes;
use std::collections::VecDeque;

/// The kinds of functions, by what runs their calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// The main thread, one at a time.
    Returning,
    /// The main thread, which begins all of them.
    Deferred,
    /// Other threads.
    Threaded,
}

impl Lane {
    /// Those that the main thread runs.
    const MAIN: [Lane; 2] = [Lane::Returning, Lane::Deferred];
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// By [`Lane`].
    lanes: [LaneCalls; 3],
    /// How many bytes may wait to be started or to be written before no more are read.
    high_water: usize,
    /// How many requests have waited.
    waited: u64,
    /// The bytes of those that wait now.
    waiting_bytes: usize,
    /// ... and how many descriptors.
    waiting_fds: usize,
    /// Calls that run and were cancelled.
    cancelled: IdSet,
    /// Whether no more requests will come.
    closed: bool,
}

/// The calls of a lane.
#[derive(Debug)]
struct LaneCalls {
    /// How many may run simultaneously.
    limit: usize,
    /// Requests that have not started, in order.
    waiting: VecDeque<Waiting>,
    running: IdSet,
}

impl Default for LaneCalls {
    fn default() -> Self {
        LaneCalls {
            limit: usize::MAX,
            waiting: VecDeque::new(),
            running: IdSet::default(),
        }
    }
}

impl LaneCalls {
    /// Whether another call may run.
    fn has_room(&self) -> bool {
        self.running.len() < self.limit
    }
}

/// How many descriptors may wait before no more requests are read: a process may have few of them.
const MOST_WAITING_FDS: usize = 16;

/// A request that waits to be started.
#[derive(Debug)]
struct Waiting {
    /// How many requests have waited before it, in whatever lane.
    turn: u64,
    id: u32,
    function: u32,
    request: SmallBytes,
}

/// A request that is started.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Started {
    pub(crate) id: u32,
    /// The function that it is for.
    pub(crate) function: u32,
    pub(crate) request: SmallBytes,
}

/// What a child takes on at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallLimits {
    /// How many calls of deferred functions run simultaneously.
    pub(crate) deferred: usize,
    /// ... and of threaded functions.
    pub(crate) threaded: usize,
    /// How many bytes may wait to be started or to be written before no more are read.
    pub(crate) high_water: usize,
}

impl CallLimits {
    /// The limits of a child that has returning functions only.
    pub(crate) fn returning(high_water: usize) -> Self {
        // There are no others, which keep no call from beginning.
        CallLimits {
            deferred: usize::MAX,
            threaded: usize::MAX,
            high_water,
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

impl Default for Ledger {
    fn default() -> Self {
        Ledger {
            lanes: Default::default(),
            high_water: usize::MAX,
            waited: 0,
            waiting_bytes: 0,
            waiting_fds: 0,
            cancelled: IdSet::default(),
            closed: false,
        }
    }
}

impl Ledger {
    /// Sets the limits from now on. Default: none.
    pub(crate) fn set_limits(&mut self, limits: CallLimits) {
        self.lane_mut(Lane::Returning).limit = 1;
        self.lane_mut(Lane::Deferred).limit = limits.deferred;
        self.lane_mut(Lane::Threaded).limit = limits.threaded;
        self.high_water = limits.high_water;
    }

    fn lane(&self, lane: Lane) -> &LaneCalls {
        &self.lanes[lane as usize]
    }

    fn lane_mut(&mut self, lane: Lane) -> &mut LaneCalls {
        &mut self.lanes[lane as usize]
    }

    /// Starts a request if none waits in its lane and there is room: then it counts as running.
    #[inline]
    pub(crate) fn start(&mut self, lane: Lane, id: u32) -> Result<bool, Duplicate> {
        let may = self.may_start_new(lane);
        if may && !self.lane_mut(lane).running.insert(id) {
            return Err(Duplicate);
        }
        Ok(may)
    }

    /// Whether a request with a new id for the main thread may start immediately, and another may be read,
    /// while `unsent` bytes of answers are not written.
    pub(crate) fn is_open(&self, unsent: usize) -> bool {
        let mut lanes = Lane::MAIN.into_iter();
        lanes.all(|lane| self.may_start_new(lane)) && self.wants_requests(unsent)
    }

    /// Whether a new request need not wait for others.
    pub(crate) fn may_start_new(&self, lane: Lane) -> bool {
        let lane = self.lane(lane);
        lane.waiting.is_empty() && lane.has_room()
    }

    /// Puts a request behind those that wait in its lane.
    pub(crate) fn wait(
        &mut self,
        lane: Lane,
        id: u32,
        function: u32,
        request: SmallBytes,
    ) -> Result<(), Duplicate> {
        if self.is_running(id) {
            return Err(Duplicate);
        }
        self.waiting_bytes += request.len();
        self.waiting_fds += request.fd_count();
        let turn = self.waited;
        self.waited += 1;
        self.lane_mut(lane).waiting.push_back(Waiting {
            turn,
            id,
            function,
            request,
        });
        Ok(())
    }

    /// Takes the request for the main thread that has waited longest of those that may start.
    pub(crate) fn next_for_main(&mut self) -> Option<(Lane, Started)> {
        let lane = self.first_for_main()?;
        Some((lane, self.next(lane)?))
    }

    fn first_for_main(&self) -> Option<Lane> {
        let startable = |lane| Some((self.startable(lane)?, lane));
        let first = Lane::MAIN.into_iter().filter_map(startable);
        first.min_by_key(|(turn, _)| *turn).map(|(_, lane)| lane)
    }

    /// The turn of the request that has waited longest in a lane, if it may start. One whose id is running
    /// holds up those behind it until that call is answered.
    fn startable(&self, lane: Lane) -> Option<u64> {
        let lane = self.lane(lane);
        let first = lane.waiting.front()?;
        let may = lane.has_room() && !self.is_running(first.id);
        may.then_some(first.turn)
    }

    /// Takes the request that has waited longest in a lane, if it may start.
    pub(crate) fn next(&mut self, lane: Lane) -> Option<Started> {
        self.startable(lane)?;
        let lane = self.lane_mut(lane);
        let Waiting {
            id,
            function,
            request,
            ..
        } = lane.waiting.pop_front()?;
        lane.running.insert(id);
        self.waiting_bytes -= request.len();
        self.waiting_fds -= request.fd_count();
        Some(Started {
            id,
            function,
            request,
        })
    }

    /// Whether [`next_for_main`](Ledger::next_for_main) would return a request.
    pub(crate) fn may_start_for_main(&self) -> bool {
        self.first_for_main().is_some()
    }

    /// The parent does not wait for the answer any more.
    pub(crate) fn cancel(&mut self, id: u32) -> CallState {
        for lane in &mut self.lanes {
            if let Some(at) = lane.waiting.iter().position(|waiting| waiting.id == id) {
                let waiting = lane.waiting.remove(at).expect("found at this index");
                self.waiting_bytes -= waiting.request.len();
                self.waiting_fds -= waiting.request.fd_count();
                return CallState::Waiting;
            }
        }
        if self.is_running(id) {
            self.cancelled.insert(id);
            return CallState::Running;
        }
        CallState::Gone
    }

    /// Whether a call runs.
    pub(crate) fn is_running(&self, id: u32) -> bool {
        self.lanes.iter().any(|lane| lane.running.contains(id))
    }

    /// Whether a running call was cancelled.
    pub(crate) fn is_cancelled(&self, id: u32) -> bool {
        self.cancelled.contains(id)
    }

    /// A running call was answered.
    #[inline]
    pub(crate) fn answered(&mut self, id: u32) {
        // It runs in one lane only.
        let _ = self.lanes.iter_mut().any(|lane| lane.running.remove(id));
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
        let bytes = unsent.saturating_add(self.waiting_bytes);
        !self.closed && bytes <= self.high_water && self.waiting_fds <= MOST_WAITING_FDS
    }

    pub(crate) fn high_water(&self) -> usize {
        self.high_water
    }

    /// How many requests wait to be started, in any lane.
    pub(crate) fn waiting(&self) -> usize {
        self.lanes.iter().map(|lane| lane.waiting.len()).sum()
    }

    /// How many requests wait to be started by the main thread.
    pub(crate) fn waiting_for_main(&self) -> usize {
        let waiting = |lane| self.lane(lane).waiting.len();
        Lane::MAIN.into_iter().map(waiting).sum()
    }

    /// How many requests wait for another thread.
    pub(crate) fn waiting_for_threads(&self) -> usize {
        self.lane(Lane::Threaded).waiting.len()
    }

    /// Whether there are calls that are not answered.
    pub(crate) fn is_busy(&self) -> bool {
        let is_busy = |lane: &LaneCalls| !lane.waiting.is_empty() || lane.running.len() > 0;
        self.lanes.iter().any(is_busy)
    }

    /// Whether everything is answered, and no more requests will come.
    pub(crate) fn is_finished(&self) -> bool {
        self.closed && !self.is_busy()
    }
}

#[cfg(test)]
mod tests {
    use super::Lane::{Deferred, Returning, Threaded};
    use super::*;
    use crate::fd::Fd;
    use std::fs::File;

    /// Limits for deferred and threaded functions alike.
    fn ledger(running: usize, high_water: usize) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.set_limits(CallLimits {
            deferred: running,
            threaded: running,
            high_water,
        });
        ledger
    }

    fn wait(ledger: &mut Ledger, lane: Lane, id: u32, len: usize) -> Result<(), Duplicate> {
        ledger.wait(lane, id, 7, vec![0; len].into())
    }

    /// The ids of what starts now in a lane.
    fn started(ledger: &mut Ledger, lane: Lane) -> Vec<u32> {
        std::iter::from_fn(|| ledger.next(lane).map(|started| started.id)).collect()
    }

    /// ... and on the main thread.
    fn started_on_main(ledger: &mut Ledger) -> Vec<(Lane, u32)> {
        let next = || ledger.next_for_main().map(|(lane, it)| (lane, it.id));
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn requests_start_in_order_as_others_are_answered() {
        for lane in [Deferred, Threaded] {
            let mut ledger = ledger(2, 100);
            let first = [ledger.start(lane, 1), ledger.start(lane, 2)];
            assert_eq!(first, [Ok(true), Ok(true)]);
            assert_eq!(ledger.start(lane, 3), Ok(false));
            for id in [3, 4] {
                wait(&mut ledger, lane, id, 1).unwrap();
            }
            assert_eq!(started(&mut ledger, lane), [0u32; 0]);
            ledger.answered(2);
            assert_eq!(ledger.start(lane, 5), Ok(false), "3 and 4 come first");
            assert_eq!(started(&mut ledger, lane), [3]);
            ledger.answered(1);
            ledger.answered(3);
            assert_eq!(started(&mut ledger, lane), [4]);
        }
    }

    #[test]
    fn calls_wait_only_for_those_in_their_lane() {
        let mut ledger = ledger(1, 100);
        for (lane, id) in [(Returning, 1), (Deferred, 2), (Threaded, 3)] {
            assert_eq!(ledger.start(lane, id), Ok(true));
            assert_eq!(ledger.start(lane, 9), Ok(false), "each has room for one");
        }
        // The others wait in turn, whatever lane they are in.
        for (lane, id) in [(Deferred, 4), (Threaded, 5), (Returning, 6), (Deferred, 7)] {
            wait(&mut ledger, lane, id, 1).unwrap();
        }
        let (all, main, threads) = (
            ledger.waiting(),
            ledger.waiting_for_main(),
            ledger.waiting_for_threads(),
        );
        assert_eq!((all, main, threads), (4, 3, 1));
        assert!(!ledger.may_start_for_main());
        ledger.answered(1);
        assert!(ledger.may_start_for_main() && ledger.next(Threaded).is_none());
        ledger.answered(2);
        let on_main = started_on_main(&mut ledger);
        assert_eq!(on_main, [(Deferred, 4), (Returning, 6)]);
        ledger.answered(3);
        assert_eq!(started(&mut ledger, Threaded), [5]);
        ledger.answered(4);
        assert_eq!(started_on_main(&mut ledger), [(Deferred, 7)]);
        assert!(ledger.is_running(5) && !ledger.is_running(4));
        // The same id again, in another lane.
        ledger.answered(7);
        wait(&mut ledger, Deferred, 8, 1).unwrap();
        wait(&mut ledger, Returning, 8, 1).unwrap();
        ledger.answered(6);
        assert_eq!(started_on_main(&mut ledger), [(Deferred, 8)]);
    }

    #[test]
    fn main_thread_may_start_at_once_only_if_nothing_waits_for_it() {
        let mut ledger = ledger(1, 100);
        ledger.start(Threaded, 1).unwrap();
        wait(&mut ledger, Threaded, 2, 1).unwrap();
        assert!(ledger.is_open(0), "those are for other threads");
        for lane in [Returning, Deferred] {
            ledger.start(lane, 3).unwrap();
            assert!(!ledger.is_open(0));
            ledger.answered(3);
            wait(&mut ledger, lane, 4, 1).unwrap();
            assert!(!ledger.is_open(0));
            ledger.cancel(4);
            assert!(ledger.is_open(0) && !ledger.is_open(100));
        }
    }

    #[test]
    fn cancelled_before_the_start_never_starts() {
        let mut ledger = ledger(1, 100);
        ledger.start(Deferred, 1).unwrap();
        for id in 2..=4 {
            wait(&mut ledger, Deferred, id, 1).unwrap();
        }
        assert_eq!(ledger.cancel(3), CallState::Waiting);
        assert_eq!(ledger.cancel(3), CallState::Gone);
        assert_eq!(ledger.cancel(1), CallState::Running);
        assert!(ledger.is_cancelled(1));
        ledger.answered(1);
        assert!(!ledger.is_cancelled(1));
        assert_eq!(ledger.cancel(1), CallState::Gone);
        assert_eq!(started(&mut ledger, Deferred), [2]);
        ledger.answered(2);
        assert_eq!(started(&mut ledger, Deferred), [4]);
    }

    #[test]
    fn high_water_counts_what_waits_and_what_is_unsent() {
        let mut ledger = ledger(0, 10);
        assert!(ledger.wants_requests(10));
        assert!(!ledger.wants_requests(11));
        wait(&mut ledger, Deferred, 1, 4).unwrap();
        wait(&mut ledger, Threaded, 2, 2).unwrap();
        assert!(ledger.wants_requests(4));
        assert!(!ledger.wants_requests(5));
        ledger.cancel(1);
        ledger.cancel(2);
        assert!(ledger.wants_requests(10));
        ledger.close();
        assert!(!ledger.wants_requests(0));
    }

    #[test]
    fn descriptors_that_wait_count_until_their_calls_start_or_are_cancelled() {
        let null = Fd::from(File::open("/dev/null").unwrap());
        let mut ledger = ledger(1, 100);
        ledger.start(Deferred, 1).unwrap();
        for id in 2..4 {
            assert!(ledger.wants_requests(0));
            wait_with(&mut ledger, id, vec![null.clone(); MOST_WAITING_FDS]);
        }
        assert!(!ledger.wants_requests(0));
        assert_eq!(ledger.cancel(3), CallState::Waiting);
        assert!(ledger.wants_requests(0), "as many as may wait");
        wait_with(&mut ledger, 4, vec![null]);
        assert!(!ledger.wants_requests(0));
        ledger.answered(1);
        assert_eq!(started(&mut ledger, Deferred), [2]);
        assert!(ledger.wants_requests(0));
        ledger.answered(2);
        assert_eq!(started(&mut ledger, Deferred), [4]);
        assert_eq!(ledger.waiting_fds, 0);
    }

    /// A request with descriptors.
    fn wait_with(ledger: &mut Ledger, id: u32, fds: Vec<Fd>) {
        let mut request = SmallBytes::from(Vec::new());
        *request.make_fds() = fds.into();
        ledger.wait(Deferred, id, 7, request).unwrap();
    }

    #[test]
    fn finished_when_closed_and_answered() {
        let mut ledger = ledger(1, 10);
        ledger.start(Deferred, 1).unwrap();
        wait(&mut ledger, Deferred, 2, 0).unwrap();
        ledger.answered(1);
        ledger.close();
        assert!(!ledger.is_finished());
        assert_eq!(started(&mut ledger, Deferred), [2]);
        assert!(!ledger.is_finished());
        ledger.answered(2);
        assert!(ledger.is_finished());
    }

    #[test]
    fn id_in_use_is_refused() {
        let mut ledger = ledger(9, 10);
        ledger.start(Deferred, 1).unwrap();
        assert_eq!(ledger.start(Deferred, 1), Err(Duplicate));
        for lane in [Returning, Deferred, Threaded] {
            assert_eq!(wait(&mut ledger, lane, 1, 0), Err(Duplicate));
        }
    }
}

use super::Script;
use crate::wire::SmallBytes;
use crate::worker::Lane::{self, Deferred, Returning, Threaded};
use crate::worker::{CallLimits, CallState, Duplicate, Ledger, MainCall, Started};
use std::collections::VecDeque;

/// A child's calls: whatever arrives and happens, in whatever order, requests start, wait and are
/// refused as in a model made of plain lists, and every accepted request starts or is cancelled
/// exactly once.
pub fn ledger(data: &[u8]) {
    let mut script = Script(data);
    let limits = CallLimits {
        deferred: script.pick(&[usize::MAX, 1, 2, 5]),
        threaded: script.pick(&[usize::MAX, 1, 2, 5]),
        high_water: script.pick(&[usize::MAX, 0, 10, 300]),
    };
    let mut child = ChildModel::new(limits);
    while !script.0.is_empty() {
        let (operation, lane) = (script.byte() % 9, script.pick(&LANES));
        let id = id(script.byte());
        match operation {
            0 | 1 if lane == Threaded => child.queue(lane, id, script.byte()),
            0 | 1 => child.arrive(lane, id, &mut script),
            2 => child.queue(lane, id, script.byte()),
            3 => drop(child.next(lane)),
            4 => drop(child.next_for_main()),
            5 => child.cancel(id),
            6 => child.answered(id),
            7 => child.unsent = script.pick(&[0, 5, 10, 290, usize::MAX]),
            _ if id == 0 => child.close(),
            _ => child.answer_first(),
        }
        child.check();
    }
    child.finish();
}

const LANES: [Lane; 3] = [Returning, Deferred, Threaded];

/// One of a few ids, close to each other and far apart.
fn id(byte: u8) -> u32 {
    let (number, place) = (u32::from(byte % 8), byte / 8 % 4);
    number + [0, 60, 100_000, u32::MAX - 7][usize::from(place)]
}

/// A ledger and its model. Each request has a unique number as its function.
struct ChildModel {
    ledger: Ledger,
    main_call: MainCall,
    limits: CallLimits,
    unsent: usize,
    closed: bool,
    /// In whatever lane, in order.
    waiting: VecDeque<(Lane, Started)>,
    /// Lanes and ids, and whether they were cancelled.
    running: Vec<(Lane, u32, bool)>,
    /// The numbers of requests that were accepted, started and withdrawn.
    taken: usize,
    started: usize,
    withdrawn: usize,
}

impl ChildModel {
    fn new(limits: CallLimits) -> Self {
        let mut ledger = Ledger::default();
        ledger.set_limits(limits);
        ChildModel {
            ledger,
            main_call: MainCall::default(),
            limits,
            unsent: 0,
            closed: false,
            waiting: VecDeque::new(),
            running: Vec::new(),
            taken: 0,
            started: 0,
            withdrawn: 0,
        }
    }

    fn waiting_in(&self, lane: Lane) -> usize {
        let in_lane = self.waiting.iter().filter(|(waits, _)| *waits == lane);
        in_lane.count()
    }

    fn has_room(&self, lane: Lane) -> bool {
        let in_lane = self.running.iter().filter(|(runs, ..)| *runs == lane);
        let limit = match lane {
            Returning => 1,
            Deferred => self.limits.deferred,
            Threaded => self.limits.threaded,
        };
        in_lane.count() < limit
    }

    fn may_start_new(&self, lane: Lane) -> bool {
        self.waiting_in(lane) == 0 && self.has_room(lane)
    }

    /// A request that may start immediately, on the main thread, while other threads answer.
    fn arrive(&mut self, lane: Lane, id: u32, script: &mut Script) {
        let may_start = self.may_start_new(lane);
        let got = match self.main_call.begin(id) {
            true => Ok(true),
            false => self.main_call.begin_with(&self.ledger, lane, id),
        };
        if self.is_running(id) {
            assert_eq!(got, Err(Duplicate));
            return;
        }
        assert_eq!(got, Ok(may_start));
        if !may_start {
            return self.queue(lane, id, script.byte());
        }
        self.taken += 1;
        self.starts(lane, id);
        for _ in 0..script.byte() % 4 {
            assert!(self.main_call.is_at(id) == self.is_running(id) && !self.main_call.is_open());
            match script.byte() % 4 {
                0 => self.answered(id),
                1 => self.answer_first(),
                _ => {}
            }
            if !self.is_running(id) {
                break;
            }
        }
        self.main_call
            .returned(&mut self.ledger, lane, id, self.unsent);
        assert!(!self.main_call.is_at(id));
    }

    /// A request that waits.
    fn queue(&mut self, lane: Lane, id: u32, len: u8) {
        let function = self.taken as u32;
        let request = SmallBytes::from(&vec![self.taken as u8; len.into()][..]);
        let got = self.ledger.wait(lane, id, function, request.clone());
        if self.is_running(id) {
            assert_eq!(got, Err(Duplicate));
            return;
        }
        assert_eq!(got, Ok(()));
        self.main_call.queued(lane, id);
        self.taken += 1;
        let waiting = Started {
            id,
            function,
            request,
        };
        self.waiting.push_back((lane, waiting));
    }

    /// The place of the request that has waited longest in a lane, if it may start.
    fn startable(&self, lane: Lane) -> Option<usize> {
        let first = self.waiting.iter().position(|(waits, _)| *waits == lane)?;
        let may = self.has_room(lane) && !self.is_running(self.waiting[first].1.id);
        may.then_some(first)
    }

    /// Starts the next request of a lane. Returns whether there was one.
    fn next(&mut self, lane: Lane) -> bool {
        let at = self.startable(lane);
        let want = at.and_then(|at| self.waiting.remove(at));
        let got = self.ledger.next(lane);
        assert_eq!(got, want.map(|(_, started)| started));
        if let Some(started) = &got {
            self.starts(lane, started.id);
        }
        got.is_some()
    }

    /// Starts the next request for the main thread. Returns whether there was one.
    fn next_for_main(&mut self) -> bool {
        let places = [Returning, Deferred].map(|lane| self.startable(lane));
        let at = places.into_iter().flatten().min();
        assert_eq!(self.ledger.may_start_for_main(), at.is_some());
        let got = self.ledger.next_for_main();
        assert_eq!(got, at.and_then(|at| self.waiting.remove(at)));
        if let Some((lane, started)) = &got {
            self.starts(*lane, started.id);
        }
        got.is_some()
    }

    fn cancel(&mut self, id: u32) {
        // The lanes are looked through in order.
        let place = |lane| {
            let mut waiting = self.waiting.iter();
            waiting.position(|(waits, it)| *waits == lane && it.id == id)
        };
        let want = if let Some(at) = LANES.into_iter().find_map(place) {
            self.waiting.remove(at);
            self.withdrawn += 1;
            CallState::Waiting
        } else if let Some((.., cancelled)) =
            self.running.iter_mut().find(|(_, runs, _)| *runs == id)
        {
            *cancelled = true;
            CallState::Running
        } else {
            CallState::Gone
        };
        assert_eq!(self.ledger.cancel(id), want);
    }

    fn answered(&mut self, id: u32) {
        let was_at = self.main_call.is_at(id);
        self.running.retain(|(_, runs, _)| *runs != id);
        let answered = self.main_call.answered(&mut self.ledger, id, self.unsent);
        assert_eq!(answered, was_at);
    }

    fn answer_first(&mut self) {
        if let Some((_, id, _)) = self.running.first() {
            self.answered(*id);
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.ledger.close();
    }

    /// Everything is answered, and no more requests arrive.
    fn finish(mut self) {
        while !self.running.is_empty() || !self.waiting.is_empty() {
            self.answer_first();
            let waited = !self.waiting.is_empty();
            let next = self.next_for_main() || self.next(Threaded);
            assert!(next || !waited || !self.running.is_empty());
            self.check();
        }
        self.close();
        self.check();
        assert!(self.ledger.is_finished());
        assert_eq!(self.started + self.withdrawn, self.taken);
    }

    fn starts(&mut self, lane: Lane, id: u32) {
        self.running.push((lane, id, false));
        self.started += 1;
    }

    fn is_running(&self, id: u32) -> bool {
        self.running.iter().any(|(_, runs, _)| *runs == id)
    }

    fn check(&self) {
        let ledger = &self.ledger;
        let mut open = true;
        for lane in LANES {
            let may = self.may_start_new(lane);
            assert_eq!(ledger.may_start_new(lane), may);
            open &= may || lane == Threaded;
        }
        assert!(
            open || !self.main_call.is_open(),
            "a call would begin that must not"
        );
        let busy = !self.running.is_empty() || !self.waiting.is_empty();
        let threaded = self.waiting_in(Threaded);
        assert_eq!(ledger.waiting(), self.waiting.len());
        assert_eq!(ledger.waiting_for_threads(), threaded);
        assert_eq!(ledger.waiting_for_main(), self.waiting.len() - threaded);
        assert_eq!(ledger.is_busy(), busy);
        assert_eq!(ledger.is_finished(), self.closed && !busy);
        assert_eq!(ledger.high_water(), self.limits.high_water);
        let waiting: usize = self.waiting.iter().map(|(_, it)| it.request.len()).sum();
        for unsent in [0, 10, 300, self.unsent] {
            let below = unsent.saturating_add(waiting) <= self.limits.high_water;
            assert_eq!(ledger.wants_requests(unsent), below && !self.closed);
        }
        for id in (0..32).map(id) {
            let is_cancelled = self.running.iter().any(|it| (it.1, it.2) == (id, true));
            assert_eq!(ledger.is_cancelled(id), is_cancelled);
            assert_eq!(ledger.is_running(id), self.is_running(id));
        }
    }
}

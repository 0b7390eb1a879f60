use super::Script;
use crate::wire::SmallBytes;
use crate::worker::{CallLimits, CallState, Duplicate, Ledger, MainCall};
use std::collections::VecDeque;

/// A child's calls: whatever arrives and happens, in whatever order, requests start, wait and are
/// refused as in a model made of plain lists, and every accepted request starts or is cancelled
/// exactly once.
pub fn ledger(data: &[u8]) {
    let mut script = Script(data);
    let limits = CallLimits {
        running: script.pick(&[usize::MAX, 1, 2, 5]),
        high_water: script.pick(&[usize::MAX, 0, 10, 300]),
    };
    let mut child = ChildModel::new(limits);
    while !script.0.is_empty() {
        let operation = script.byte() % 8;
        let id = id(script.byte());
        match operation {
            0 | 1 => child.arrive(id, &mut script),
            2 => child.queue(id, script.byte()),
            3 => drop(child.next()),
            4 => child.cancel(id),
            5 => child.answered(id),
            6 => child.unsent = script.pick(&[0, 5, 10, 290, usize::MAX]),
            _ if id == 0 => child.close(),
            _ => child.answer_first(),
        }
        child.check();
    }
    child.finish();
}

/// One of a few ids, close to each other and far apart.
fn id(byte: u8) -> u32 {
    let (number, place) = (u32::from(byte % 8), byte / 8 % 4);
    number + [0, 60, 100_000, u32::MAX - 7][usize::from(place)]
}

/// A ledger and its model. Each request has a unique number as its payload.
struct ChildModel {
    ledger: Ledger,
    main_call: MainCall,
    limits: CallLimits,
    unsent: usize,
    closed: bool,
    waiting: VecDeque<(u32, Vec<u8>)>,
    /// Ids, and whether they were cancelled.
    running: Vec<(u32, bool)>,
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

    /// A request that may start immediately, on the main thread, while other threads answer.
    fn arrive(&mut self, id: u32, script: &mut Script) {
        let may_start = self.waiting.is_empty() && self.running.len() < self.limits.running;
        let got = match self.main_call.begin(id) {
            true => Ok(true),
            false => self.main_call.begin_with(&self.ledger, id),
        };
        if self.is_running(id) {
            assert_eq!(got, Err(Duplicate));
            return;
        }
        assert_eq!(got, Ok(may_start));
        if !may_start {
            return self.queue(id, script.byte());
        }
        self.taken += 1;
        self.starts(id);
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
        self.main_call.returned(&mut self.ledger, id, self.unsent);
        assert!(!self.main_call.is_at(id));
    }

    /// A request that waits.
    fn queue(&mut self, id: u32, len: u8) {
        let request = vec![self.taken as u8; len.into()];
        let got = self.ledger.wait(id, SmallBytes::from(&request[..]));
        if self.is_running(id) {
            assert_eq!(got, Err(Duplicate));
            return;
        }
        assert_eq!(got, Ok(()));
        self.main_call.queued(id);
        self.taken += 1;
        self.waiting.push_back((id, request));
    }

    /// Starts the next request. Returns whether there was one.
    fn next(&mut self) -> bool {
        let full = self.running.len() >= self.limits.running;
        let first = self.waiting.front().map(|(id, _)| *id);
        let may = first.filter(|id| !full && !self.is_running(*id));
        assert_eq!(self.ledger.may_start_waiting(), may.is_some());
        let got = self.ledger.next();
        let got = got.map(|(id, request)| (id, request.to_vec()));
        if may.is_none() {
            assert_eq!(got, None);
            return false;
        }
        assert_eq!(got, self.waiting.pop_front());
        self.starts(first.expect("it was just there"));
        true
    }

    fn cancel(&mut self, id: u32) {
        let want = if let Some(at) = self.waiting.iter().position(|(waits, _)| *waits == id) {
            self.waiting.remove(at);
            self.withdrawn += 1;
            CallState::Waiting
        } else if let Some((_, cancelled)) = self.running.iter_mut().find(|(runs, _)| *runs == id) {
            *cancelled = true;
            CallState::Running
        } else {
            CallState::Gone
        };
        assert_eq!(self.ledger.cancel(id), want);
    }

    fn answered(&mut self, id: u32) {
        let was_at = self.main_call.is_at(id);
        self.running.retain(|(runs, _)| *runs != id);
        let answered = self.main_call.answered(&mut self.ledger, id, self.unsent);
        assert_eq!(answered, was_at);
    }

    fn answer_first(&mut self) {
        if let Some((id, _)) = self.running.first() {
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
            assert!(self.next() || !waited || !self.running.is_empty());
            self.check();
        }
        self.close();
        self.check();
        assert!(self.ledger.is_finished());
        assert_eq!(self.started + self.withdrawn, self.taken);
    }

    fn starts(&mut self, id: u32) {
        self.running.push((id, false));
        self.started += 1;
    }

    fn is_running(&self, id: u32) -> bool {
        self.running.iter().any(|(runs, _)| *runs == id)
    }

    fn check(&self) {
        let ledger = &self.ledger;
        let has_turn = self.waiting.is_empty() && self.running.len() < self.limits.running;
        assert_eq!(ledger.may_start_new(), has_turn);
        assert!(
            has_turn || !self.main_call.is_open(),
            "a call would begin that must not"
        );
        let busy = !self.running.is_empty() || !self.waiting.is_empty();
        assert!(self.running.len() <= self.limits.running);
        assert_eq!(ledger.waiting(), self.waiting.len());
        assert_eq!(ledger.is_busy(), busy);
        assert_eq!(ledger.is_finished(), self.closed && !busy);
        assert_eq!(ledger.high_water(), self.limits.high_water);
        let waiting: usize = self.waiting.iter().map(|(_, request)| request.len()).sum();
        for unsent in [0, 10, 300, self.unsent] {
            let below = unsent.saturating_add(waiting) <= self.limits.high_water;
            assert_eq!(ledger.wants_requests(unsent), below && !self.closed);
        }
        for id in (0..32).map(id) {
            let is_cancelled = self.running.contains(&(id, true));
            assert_eq!(ledger.is_cancelled(id), is_cancelled);
        }
    }
}

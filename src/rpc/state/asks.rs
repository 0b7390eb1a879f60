//! What a child has asked and its parent has not answered. Pure.

use std::collections::VecDeque;

/// How many asks may be refused before the first refusal is taken to be sent: a child that never reads would
/// have its parent queue refusals without end.
const UNREAD_REFUSALS: usize = 1 << 16;

/// Why a parent without callbacks for asks serves none.
pub(in crate::rpc) const SERVES_NOTHING: &str = "the parent serves nothing: it has no on_ask()";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Asks {
    /// How many may be unanswered, or answered and the answer unsent.
    limit: usize,
    /// Those that are unanswered, sorted by id, and whether the child waits no longer.
    open: Vec<(u32, bool)>,
    /// Where the answers end in the stream that were not taken to be sent, and the refusals.
    unsent: [VecDeque<u64>; 2],
}

/// What becomes of an ask.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Serve,
    /// There are too many.
    Refuse,
}

/// How a child asks as it must not.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadAsk {
    /// With the id of an ask that is not answered.
    Repeated,
    /// More and more, while the refusals of the first cannot be sent.
    Flood,
}

impl Asks {
    pub(super) fn new(limit: usize) -> Self {
        Asks {
            limit,
            open: Vec::new(),
            unsent: Default::default(),
        }
    }

    /// Whether there is an ask with this id.
    pub(super) fn is_open(&self, id: u32) -> bool {
        self.place(id).is_ok()
    }

    fn place(&self, id: u32) -> Result<usize, usize> {
        self.open.binary_search_by_key(&id, |(open, _)| *open)
    }

    /// An ask has come. `taken` is how much of the stream to the child was taken to be sent.
    pub(super) fn admit(&mut self, id: u32, taken: u64) -> Result<Admission, BadAsk> {
        let Err(at) = self.place(id) else {
            return Err(BadAsk::Repeated);
        };
        for unsent in &mut self.unsent {
            while unsent.front().is_some_and(|end| *end <= taken) {
                unsent.pop_front();
            }
        }
        let [answers, refusals] = &self.unsent;
        if self.open.len() + answers.len() < self.limit {
            self.open.insert(at, (id, false));
            return Ok(Admission::Serve);
        }
        if refusals.len() >= UNREAD_REFUSALS {
            return Err(BadAsk::Flood);
        }
        Ok(Admission::Refuse)
    }

    /// The refusal of an ask ends here in the stream.
    pub(super) fn refused(&mut self, end: u64) {
        self.unsent[1].push_back(end);
    }

    /// An ask is about to be answered. Returns whether it was open.
    pub(super) fn close(&mut self, id: u32) -> bool {
        let place = self.place(id);
        place.map(|at| self.open.remove(at)).is_ok()
    }

    /// The answer of one that was [closed](Asks::close) ends here in the stream.
    pub(super) fn answered(&mut self, end: u64) {
        self.unsent[0].push_back(end);
    }

    /// The child waits no longer for an answer.
    pub(super) fn forget(&mut self, id: u32) {
        if let Ok(at) = self.place(id) {
            self.open[at].1 = true;
        }
    }

    /// Whether the child waits for an answer.
    pub(super) fn is_awaited(&self, id: u32) -> bool {
        self.place(id).is_ok_and(|at| !self.open[at].1)
    }

    /// The child is gone.
    pub(super) fn clear(&mut self) {
        *self = Asks::new(self.limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ask_is_open_until_it_is_answered() {
        let mut asks = Asks::new(9);
        assert_eq!(asks.admit(7, 0), Ok(Admission::Serve));
        assert_eq!(asks.admit(7, 0), Err(BadAsk::Repeated));
        assert!(asks.is_open(7) && asks.is_awaited(7) && !asks.is_awaited(8));
        asks.forget(7);
        asks.forget(8);
        assert!(asks.is_open(7) && !asks.is_awaited(7) && !asks.is_open(8));
        assert!(asks.close(7) && !asks.close(7));
        assert_eq!(
            asks.admit(7, 0),
            Ok(Admission::Serve),
            "ids may be used again"
        );
        asks.clear();
        assert!(!asks.is_open(7));
    }

    #[test]
    fn asks_beyond_the_limit_are_refused_until_answers_are_sent() {
        let mut asks = Asks::new(2);
        for id in [1, 2] {
            assert_eq!(asks.admit(id, 0), Ok(Admission::Serve));
        }
        assert_eq!(asks.admit(3, 0), Ok(Admission::Refuse));
        assert!(asks.close(1));
        asks.answered(100);
        assert_eq!(asks.admit(3, 99), Ok(Admission::Refuse));
        assert_eq!(asks.admit(3, 100), Ok(Admission::Serve));
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks 65,536 times")]
    fn child_that_reads_no_refusals_is_stopped() {
        let mut asks = Asks::new(0);
        let mut ask = |sent| {
            let admission = asks.admit(1, sent);
            if admission.is_ok() {
                asks.refused(sent + 10);
            }
            admission
        };
        for _ in 0..UNREAD_REFUSALS {
            assert_eq!(ask(0), Ok(Admission::Refuse));
        }
        assert_eq!(ask(9), Err(BadAsk::Flood));
        assert_eq!(ask(10), Ok(Admission::Refuse), "it has read them");
    }
}

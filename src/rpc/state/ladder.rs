//! How a child is stopped. Pure.

use std::time::{Duration, Instant};

/// The last thing that the parent had to do to stop a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StopStage {
    /// It ended its requests.
    Closed,
    /// It sent SIGTERM.
    Terminated,
    /// It sent SIGKILL.
    Killed,
}

/// The signals that stop a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rpc) enum Signal {
    Term,
    Kill,
}

/// Goes from stage to stage while the child does not end, with `grace` between them.
///
/// ```text
///   start() ── grace ──▶ SIGTERM ── grace ──▶ SIGKILL ── grace, at least PATIENCE ──▶ given up
/// ```
#[derive(Debug)]
pub(crate) struct StopLadder {
    grace: Duration,
    stage: StopStage,
    next: Option<Instant>,
    given_up: bool,
}

/// How long a child is waited for that was sent SIGKILL. How soon it ends depends on how busy the
/// machine is, and a child that is given up is never reaped.
const PATIENCE: Duration = Duration::from_secs(5);

impl StopLadder {
    pub(crate) fn new(grace: Duration) -> Self {
        StopLadder {
            grace,
            stage: StopStage::Closed,
            next: None,
            given_up: false,
        }
    }

    /// Starts the first grace, unless it has started: the child has been told to exit.
    pub(crate) fn start(&mut self, now: Instant) {
        if self.next.is_none() && self.stage == StopStage::Closed {
            self.next = now.checked_add(self.grace);
        }
    }

    /// As [`start`](StopLadder::start), but the first grace is over already.
    pub(crate) fn start_at_once(&mut self, now: Instant) {
        if self.stage == StopStage::Closed {
            self.next = Some(now);
        }
    }

    /// Notes that the child was sent SIGKILL.
    pub(crate) fn killed(&mut self, now: Instant) {
        self.stage = StopStage::Killed;
        self.next = now.checked_add(self.grace.max(PATIENCE));
    }

    /// Notes that SIGKILL could not be sent: there is nothing else to do.
    pub(crate) fn give_up(&mut self) {
        self.next = None;
        self.given_up = true;
    }

    /// Goes to the next stage, if it is time. Returns what to send.
    pub(crate) fn climb(&mut self, now: Instant) -> Option<Signal> {
        if self.next.is_none_or(|next| next > now) {
            return None;
        }
        self.next = now.checked_add(self.grace);
        match self.stage {
            StopStage::Closed => {
                self.stage = StopStage::Terminated;
                Some(Signal::Term)
            }
            StopStage::Terminated => {
                self.killed(now);
                Some(Signal::Kill)
            }
            StopStage::Killed => {
                self.give_up();
                None
            }
        }
    }

    /// When to [`climb`](StopLadder::climb) next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// How far it went.
    pub(crate) fn stage(&self) -> StopStage {
        self.stage
    }

    /// Whether even SIGKILL did not help: the process hangs in the kernel.
    pub(crate) fn has_given_up(&self) -> bool {
        self.given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    #[test]
    fn climbs_in_time() {
        let start = Instant::now();
        let mut ladder = StopLadder::new(GRACE);
        assert_eq!(ladder.climb(start + 9 * GRACE), None);
        ladder.start(start);
        ladder.start(start + GRACE);
        assert_eq!(ladder.deadline(), Some(start + GRACE));
        assert_eq!(ladder.climb(start + GRACE - Duration::from_nanos(1)), None);
        assert_eq!(ladder.climb(start + GRACE), Some(Signal::Term));
        assert_eq!(ladder.climb(start + GRACE), None);
        assert_eq!(ladder.climb(start + 2 * GRACE), Some(Signal::Kill));
        assert_eq!(
            (ladder.climb(start + 3 * GRACE), ladder.has_given_up()),
            (None, true)
        );
        assert_eq!(
            (ladder.stage(), ladder.deadline()),
            (StopStage::Killed, None)
        );
    }

    #[test]
    fn short_grace_does_not_give_up_what_is_killed() {
        let start = Instant::now();
        let mut ladder = StopLadder::new(Duration::ZERO);
        ladder.start(start);
        assert_eq!(ladder.climb(start), Some(Signal::Term));
        assert_eq!(ladder.climb(start), Some(Signal::Kill));
        assert_eq!((ladder.climb(start), ladder.has_given_up()), (None, false));
        assert_eq!(ladder.deadline(), Some(start + PATIENCE));
        ladder.killed(start);
        assert_eq!(ladder.deadline(), Some(start + PATIENCE));
    }

    #[test]
    fn endless_grace_never_climbs() {
        let mut ladder = StopLadder::new(Duration::MAX);
        ladder.start(Instant::now());
        assert_eq!(ladder.deadline(), None);
        assert_eq!(ladder.climb(Instant::now()), None);
    }

    #[test]
    fn start_at_once_skips_the_first_grace() {
        let start = Instant::now();
        let mut ladder = StopLadder::new(GRACE);
        ladder.start(start);
        ladder.start_at_once(start);
        assert_eq!(ladder.climb(start), Some(Signal::Term));
        ladder.start_at_once(start);
        assert_eq!(ladder.climb(start), None);
    }
}

//! Whether the other end of a connection is still there. Pure.

use std::time::{Duration, Instant};

/// Pings the other end when nothing has come from it for a while, and gives it up when nothing comes after
/// that, either.
#[derive(Debug)]
pub(crate) struct Liveness {
    /// How long it may be silent before it is pinged, and after which it is given up.
    after: Duration,
    dead: Duration,
    heard: Instant,
    /// When it was pinged, if nothing has come since.
    pinged: Option<Instant>,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Ping,
    Dead,
}

impl Liveness {
    pub(crate) fn new(after: Duration, dead: Duration, now: Instant) -> Self {
        Liveness {
            after,
            dead,
            heard: now,
            pinged: None,
        }
    }

    /// Something has come.
    pub(crate) fn heard(&mut self, now: Instant) {
        (self.heard, self.pinged) = (now, None);
    }

    /// What is to be done now, once what has come by now has been read. A ping is answered in the time that is
    /// left for it, however late it was sent: this process may have been stopped.
    pub(crate) fn due(&mut self, now: Instant) -> Due {
        if self.deadline().is_none_or(|at| now < at) {
            return Due::Nothing;
        }
        if self.pinged.is_some() {
            return Due::Dead;
        }
        self.pinged = Some(now);
        Due::Ping
    }

    /// When something is to be done, if nothing comes.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.pinged {
            None => self.heard.checked_add(self.after),
            Some(pinged) => pinged.checked_add(self.dead.saturating_sub(self.after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn silent_end_is_pinged_and_then_given_up() {
        let start = Instant::now();
        let mut liveness = Liveness::new(15 * SECOND, 45 * SECOND, start);
        assert_eq!(liveness.due(start), Due::Nothing);
        assert_eq!(liveness.deadline(), Some(start + 15 * SECOND));
        assert_eq!(liveness.due(start + 15 * SECOND), Due::Ping);
        assert_eq!(liveness.due(start + 15 * SECOND), Due::Nothing);
        assert_eq!(liveness.deadline(), Some(start + 45 * SECOND));
        liveness.heard(start + 44 * SECOND);
        assert_eq!(liveness.due(start + 45 * SECOND), Due::Nothing);
        assert_eq!(liveness.due(start + 59 * SECOND), Due::Ping);
        assert_eq!(liveness.due(start + 88 * SECOND), Due::Nothing);
        assert_eq!(liveness.due(start + 89 * SECOND), Due::Dead);
    }

    #[test]
    fn process_that_was_stopped_gives_the_other_end_time_to_answer() {
        let start = Instant::now();
        let mut liveness = Liveness::new(15 * SECOND, 45 * SECOND, start);
        let late = start + 1000 * SECOND;
        assert_eq!(liveness.due(late), Due::Ping);
        assert_eq!(liveness.due(late + 29 * SECOND), Due::Nothing);
        assert_eq!(liveness.due(late + 30 * SECOND), Due::Dead);
    }

    #[test]
    fn for_ever_is_no_deadline() {
        let start = Instant::now();
        let mut never = Liveness::new(Duration::MAX, Duration::MAX, start);
        assert_eq!((never.deadline(), never.due(start)), (None, Due::Nothing));
        let mut patient = Liveness::new(SECOND, Duration::MAX, start);
        assert_eq!(patient.due(start + SECOND), Due::Ping);
        assert_eq!(patient.due(start + 1_000_000 * SECOND), Due::Nothing);
    }
}

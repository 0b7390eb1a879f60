//! Waiting for the other side: busy-polls briefly before blocking, where that pays.
//!
//! A wake-up on another processor takes tens of microseconds, an answer often only a few. A thread
//! that waits for a single thing may therefore poll for a while before it blocks, as long as that
//! has paid recently. Where it has not, one wait in many is timed: if it took about as long as a
//! wake-up, not as long as work, polling is tried again. On a single processor waits are shorter
//! than such a wake-up, as nothing crosses processors, so no thread ever polls.

use std::hint::spin_loop;
use std::io::Result;
use std::time::{Duration, Instant};

/// How long to poll before blocking.
const POLL_TIME: Duration = Duration::from_micros(50);
/// The duration of a wait that is mostly a wake-up on another processor.
const WAKE_UP: std::ops::Range<Duration> = Duration::from_micros(12)..Duration::from_micros(150);
/// The credit that a failed poll costs; a successful one earns 1. And the most credit.
const COST: i32 = 8;
const MAX_CREDIT: i32 = 24;
/// One wait in this many is timed: the initial and the greatest value.
const FIRST_INTERVAL: u32 = 4;
const LAST_INTERVAL: u32 = 4096;
/// After this many successes in a row, earlier failures are forgotten.
const FORGET_AFTER: u32 = 256;

/// Whether polling has paid recently, for one reading end.
#[derive(Debug)]
pub(crate) struct BusyPoll {
    /// Polls while this is positive.
    credit: i32,
    /// One wait in this many is timed.
    interval: u32,
    waits: u32,
    successes: u32,
}

impl Default for BusyPoll {
    fn default() -> Self {
        BusyPoll {
            credit: 0,
            interval: FIRST_INTERVAL,
            waits: 0,
            successes: 0,
        }
    }
}

impl BusyPoll {
    /// Calls `check` repeatedly for a while, if that pays, and returns what it finds. A success at
    /// the first check counts neither for polling nor against it.
    pub(crate) fn poll<T>(
        &mut self,
        mut check: impl FnMut() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        if self.credit <= 0 {
            return Ok(None);
        }
        if let Some(found) = check()? {
            return Ok(Some(found));
        }
        let start = Instant::now();
        loop {
            for _ in 0..4 {
                spin_loop();
                if let Some(found) = check()? {
                    self.succeeded();
                    return Ok(Some(found));
                }
            }
            if start.elapsed() >= POLL_TIME {
                self.failed();
                return Ok(None);
            }
        }
    }

    /// Calls `wait`, which blocks, after [`poll`](BusyPoll::poll) has found nothing.
    pub(crate) fn block<T>(&mut self, wait: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.is_timed() {
            return wait();
        }
        let start = Instant::now();
        let found = wait();
        self.record(start.elapsed());
        found
    }

    /// Whether the next wait should be timed.
    fn is_timed(&mut self) -> bool {
        if self.credit > 0 {
            return false;
        }
        self.waits += 1;
        let timed = self.waits >= self.interval;
        if timed {
            self.waits = 0;
        }
        timed
    }

    /// Records how long a timed wait took.
    fn record(&mut self, took: Duration) {
        if WAKE_UP.contains(&took) {
            self.credit = COST / 2;
        }
    }

    fn succeeded(&mut self) {
        self.credit = (self.credit + 1).min(MAX_CREDIT);
        self.successes += 1;
        if self.successes == FORGET_AFTER {
            (self.successes, self.interval) = (0, FIRST_INTERVAL);
        }
    }

    fn failed(&mut self) {
        self.credit -= COST;
        self.successes = 0;
        if self.credit <= 0 {
            self.interval = (self.interval * 2).min(LAST_INTERVAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits for something that the check number `at` finds, or that a wait of no time brings;
    /// returns the number of checks, and whether it blocked.
    fn wait(busy_poll: &mut BusyPoll, at: usize) -> (usize, bool) {
        let mut checks = 0;
        let check = || {
            checks += 1;
            Ok((checks >= at).then_some(()))
        };
        let blocked = busy_poll.poll(check).unwrap().is_none();
        if blocked && busy_poll.is_timed() {
            busy_poll.record(Duration::ZERO);
        }
        (checks, blocked)
    }

    #[test]
    fn blocks_until_a_wait_was_as_long_as_a_wake_up() {
        let mut busy_poll = BusyPoll::default();
        for _ in 0..100 {
            assert_eq!(wait(&mut busy_poll, 1), (0, true));
        }
        busy_poll.record(Duration::from_micros(5));
        busy_poll.record(Duration::from_millis(1));
        assert_eq!(wait(&mut busy_poll, 2), (0, true));
        busy_poll.record(Duration::from_micros(25));
        assert_eq!(wait(&mut busy_poll, 2), (2, false));
        assert_eq!(wait(&mut busy_poll, 1), (1, false));
    }

    #[test]
    fn stops_polling_after_failures_and_tries_again_less_often() {
        let mut busy_poll = BusyPoll::default();
        let mut intervals = Vec::new();
        for _ in 0..20 {
            busy_poll.record(Duration::from_micros(25));
            let (checks, blocked) = wait(&mut busy_poll, usize::MAX);
            assert!(checks > 1 && blocked);
            assert_eq!(wait(&mut busy_poll, 1), (0, true));
            intervals.push(busy_poll.interval);
        }
        assert_eq!(intervals[..3], [8, 16, 32]);
        assert_eq!(intervals.last(), Some(&LAST_INTERVAL));
    }

    #[test]
    fn wait_as_long_as_a_wake_up_makes_it_poll() {
        let mut busy_poll = BusyPoll::default();
        let sleep = || {
            std::thread::sleep(WAKE_UP.start);
            Ok(())
        };
        // The sleep may take longer: then the next timed one is another chance.
        while wait(&mut busy_poll, 2).1 {
            busy_poll.block(sleep).unwrap();
        }
    }

    #[test]
    fn one_failure_among_many_successes_is_forgiven() {
        let mut busy_poll = BusyPoll::default();
        busy_poll.record(Duration::from_micros(25));
        for _ in 0..1000 {
            assert_eq!(wait(&mut busy_poll, 2), (2, false));
        }
        assert!(wait(&mut busy_poll, usize::MAX).1);
        assert_eq!(wait(&mut busy_poll, 2), (2, false));
        assert_eq!(busy_poll.interval, FIRST_INTERVAL);
    }
}

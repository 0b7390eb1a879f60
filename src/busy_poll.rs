//! Waiting for the other side: by looking again and again where that pays, and asleep where not.
//!
//! To be woken on another processor takes tens of microseconds, an answer often a few. Whoever waits
//! alone for one thing may therefore look for it for a while before it sleeps, as long as that has
//! paid lately. Where it has not, one wait in many is timed, and if it took about as long as a
//! wake-up does, and not as long as work, looking is tried again. On one processor waits are short,
//! as nothing crosses over, and nobody ever looks twice.

use std::hint::spin_loop;
use std::io::Result;
use std::time::{Duration, Instant};

/// For how long to look before sleeping.
const LOOK: Duration = Duration::from_micros(50);
/// What a wait takes that is mostly a wake-up on another processor.
const WAKE_UP: std::ops::Range<Duration> = Duration::from_micros(12)..Duration::from_micros(150);
/// How many fruitless looks one success is worth, and how many may be owed.
const COST: i32 = 8;
const MOST: i32 = 24;
/// How many waits go by between two that are timed: at first, and at most.
const FIRST_HOLD: u32 = 4;
const LAST_HOLD: u32 = 4096;
/// After so many successes in a row it is as if it had never failed.
const FORGET: u32 = 256;

/// What has paid lately, for one reading end.
#[derive(Debug)]
pub(crate) struct BusyPoll {
    /// Looks while it is positive.
    credit: i32,
    /// Every so many waits one is timed.
    hold: u32,
    waits: u32,
    successes: u32,
}

impl Default for BusyPoll {
    fn default() -> Self {
        BusyPoll {
            credit: 0,
            hold: FIRST_HOLD,
            waits: 0,
            successes: 0,
        }
    }
}

impl BusyPoll {
    /// Looks for something, as long as that pays: `look` says whether it is there. What is there at the
    /// first look counts neither for looking nor against it.
    pub(crate) fn poll<T>(
        &mut self,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        if self.credit <= 0 {
            return Ok(None);
        }
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        let start = Instant::now();
        loop {
            for _ in 0..4 {
                spin_loop();
                if let Some(found) = look()? {
                    self.paid();
                    return Ok(Some(found));
                }
            }
            if start.elapsed() >= LOOK {
                self.did_not_pay();
                return Ok(None);
            }
        }
    }

    /// Sleeps until it is there, after [`poll`](Patience::look) has not found it.
    pub(crate) fn block<T>(&mut self, sleep: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.is_timed() {
            return sleep();
        }
        let start = Instant::now();
        let found = sleep();
        self.slept(start.elapsed());
        found
    }

    /// Whether the wait that begins is to be timed.
    fn is_timed(&mut self) -> bool {
        if self.credit > 0 {
            return false;
        }
        self.waits += 1;
        let timed = self.waits >= self.hold;
        if timed {
            self.waits = 0;
        }
        timed
    }

    /// A timed wait took so long.
    fn slept(&mut self, took: Duration) {
        if WAKE_UP.contains(&took) {
            self.credit = COST / 2;
        }
    }

    fn paid(&mut self) {
        self.credit = (self.credit + 1).min(MOST);
        self.successes += 1;
        if self.successes == FORGET {
            (self.successes, self.hold) = (0, FIRST_HOLD);
        }
    }

    fn did_not_pay(&mut self) {
        self.credit -= COST;
        self.successes = 0;
        if self.credit <= 0 {
            self.hold = (self.hold * 2).min(LAST_HOLD);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits for what is there at the look of this number, or after a sleep of no time; returns how
    /// often it looked, and whether it slept.
    fn wait(busy_poll: &mut BusyPoll, at: usize) -> (usize, bool) {
        let mut looks = 0;
        let look = || {
            looks += 1;
            Ok((looks >= at).then_some(()))
        };
        let slept = busy_poll.poll(look).unwrap().is_none();
        if slept && busy_poll.is_timed() {
            busy_poll.slept(Duration::ZERO);
        }
        (looks, slept)
    }

    #[test]
    fn sleeps_until_a_wait_was_as_long_as_a_wake_up() {
        let mut busy_poll = BusyPoll::default();
        for _ in 0..100 {
            assert_eq!(wait(&mut busy_poll, 1), (0, true));
        }
        busy_poll.slept(Duration::from_micros(5));
        busy_poll.slept(Duration::from_millis(1));
        assert_eq!(wait(&mut busy_poll, 2), (0, true));
        busy_poll.slept(Duration::from_micros(25));
        assert_eq!(wait(&mut busy_poll, 2), (2, false));
        assert_eq!(wait(&mut busy_poll, 1), (1, false));
    }

    #[test]
    fn gives_up_what_does_not_pay_and_tries_again_less_often() {
        let mut busy_poll = BusyPoll::default();
        let mut holds = Vec::new();
        for _ in 0..20 {
            busy_poll.slept(Duration::from_micros(25));
            let (looks, slept) = wait(&mut busy_poll, usize::MAX);
            assert!(looks > 1 && slept);
            assert_eq!(wait(&mut busy_poll, 1), (0, true));
            holds.push(busy_poll.hold);
        }
        assert_eq!(holds[..3], [8, 16, 32]);
        assert_eq!(holds.last(), Some(&LAST_HOLD));
    }

    #[test]
    fn sleep_that_was_a_wake_up_makes_it_look() {
        let mut busy_poll = BusyPoll::default();
        let sleep = || {
            std::thread::sleep(WAKE_UP.start);
            Ok(())
        };
        // Such a sleep may take longer: then the next one that is timed is another chance.
        while wait(&mut busy_poll, 2).1 {
            busy_poll.block(sleep).unwrap();
        }
    }

    #[test]
    fn one_failure_among_many_successes_is_forgiven() {
        let mut busy_poll = BusyPoll::default();
        busy_poll.slept(Duration::from_micros(25));
        for _ in 0..1000 {
            assert_eq!(wait(&mut busy_poll, 2), (2, false));
        }
        assert!(wait(&mut busy_poll, usize::MAX).1);
        assert_eq!(wait(&mut busy_poll, 2), (2, false));
        assert_eq!(busy_poll.hold, FIRST_HOLD);
    }
}

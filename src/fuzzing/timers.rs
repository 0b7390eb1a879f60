use super::Script;
use crate::worker::Timers;
use std::time::{Duration, Instant};

/// A loop's timers: whatever is set, set again and removed, and however time passes, the same
/// timers fire as in a plain list, in the same order.
pub fn timers(data: &[u8]) {
    let mut script = Script(data);
    let mut clock = Clock {
        timers: Timers::default(),
        now: Instant::now(),
        last: 0,
        all: Vec::new(),
    };
    while !script.0.is_empty() {
        match script.byte() % 6 {
            0 | 1 => clock.set(duration(&mut script)),
            2 => clock.remove(script.byte().into()),
            3 => drop(clock.expire()),
            4 => clock.repeat(duration(&mut script)),
            _ => clock.pass(duration(&mut script)),
        }
        clock.check();
    }
    clock.finish();
}

fn duration(script: &mut Script<'_>) -> Duration {
    let unit = script.pick(&[
        Duration::from_millis(1),
        Duration::from_nanos(1),
        Duration::ZERO,
        Duration::MAX,
        Duration::from_secs(u64::MAX / 4),
    ]);
    unit.saturating_mul(script.byte().into())
}

/// Timers and their model: ids, and when they are due, if ever.
struct Clock {
    timers: Timers<u64>,
    now: Instant,
    last: u64,
    all: Vec<(u64, Option<Instant>)>,
}

impl Clock {
    fn set(&mut self, after: Duration) {
        self.last += 1;
        self.timers.set(self.last, self.now, after, self.last);
        self.all.push((self.last, self.now.checked_add(after)));
    }

    fn remove(&mut self, id: u64) {
        let at = self.all.iter().position(|(set, _)| *set == id);
        let want = at.map(|at| self.all.remove(at).0);
        assert_eq!(self.timers.remove(id), want);
    }

    /// Takes the first timer that is due.
    fn expire(&mut self) -> Option<(u64, Instant)> {
        let due = self.all.iter().filter_map(|(id, due)| Some(((*due)?, *id)));
        let first = due.filter(|(due, _)| *due <= self.now).min();
        let got = self.timers.expire(self.now);
        let want = first.map(|(due, id)| (id, due, id));
        assert_eq!(got, want);
        let (id, due, _) = want?;
        self.all.retain(|(set, _)| *set != id);
        Some((id, due))
    }

    /// Same as [`expire`](Clock::expire), and sets the timer again.
    fn repeat(&mut self, every: Duration) {
        let Some((id, due)) = self.expire() else {
            return;
        };
        self.timers.repeat(id, due, self.now, every, id);
        // Zero means as soon as time passes.
        let every = every.max(Duration::from_nanos(1));
        let next = due.checked_add(every);
        let missed = next.is_some_and(|next| next <= self.now);
        let next = if missed {
            self.now.checked_add(every)
        } else {
            next
        };
        assert!(next.is_none_or(|next| next > self.now));
        self.all.push((id, next));
    }

    /// Time passes, unless that would overflow the clock.
    fn pass(&mut self, time: Duration) {
        self.now = self.now.checked_add(time).unwrap_or(self.now);
    }

    fn check(&self) {
        let first = self.all.iter().filter_map(|(_, due)| *due).min();
        assert_eq!(self.timers.deadline(), first);
        assert_eq!(self.timers.is_empty(), self.all.is_empty());
    }

    /// Lets everything fire that ever does.
    fn finish(mut self) {
        while let Some(due) = self.timers.deadline() {
            self.now = self.now.max(due);
            assert!(self.expire().is_some());
            self.check();
        }
        for (id, _) in std::mem::take(&mut self.all) {
            assert_eq!(self.timers.remove(id), Some(id));
        }
        self.check();
    }
}

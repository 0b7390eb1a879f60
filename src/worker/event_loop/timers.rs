//! Timers, by when they are due. Pure: times are arguments.

use crate::deadlines::Deadlines;
use crate::id_map::IdMap;
use std::time::{Duration, Instant};

/// Timers that each carry a `T`. Timers due at the same time fire in the order in which they were
/// set.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    /// Those that ever fire.
    queue: Deadlines,
    all: IdMap<T>,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Timers {
            queue: Deadlines::default(),
            all: IdMap::default(),
        }
    }
}

impl<T> Timers<T> {
    /// Sets a timer under a new id. One that overflows the clock never fires.
    pub(crate) fn set(&mut self, id: u64, now: Instant, after: Duration, what: T) {
        if let Some(due) = now.checked_add(after) {
            self.queue.set(id, due);
        }
        self.all.insert(id, what);
    }

    /// Sets a timer again that was due at `due`: one interval later, or one interval from now if that
    /// has passed. It does not fire again at `now`, however short the interval.
    pub(crate) fn repeat(&mut self, id: u64, due: Instant, now: Instant, every: Duration, what: T) {
        let every = every.max(Duration::from_nanos(1));
        let next = due.checked_add(every);
        let from = if next.is_some_and(|next| next <= now) {
            now
        } else {
            due
        };
        self.set(id, from, every, what);
    }

    /// Removes a timer.
    pub(crate) fn remove(&mut self, id: u64) -> Option<T> {
        self.queue.remove(id);
        self.queue.trim();
        let what = self.all.remove(id);
        self.all.trim();
        what
    }

    /// Removes the timer that was due first, if any is due: its id, and when it was due.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<(u64, Instant, T)> {
        let (due, id) = self.queue.first()?;
        if due > now {
            return None;
        }
        let what = self.remove(id).expect("a queued timer exists");
        Some((id, due, what))
    }

    /// When the next one is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.queue.first().map(|(due, _)| due)
    }

    /// All that timers carry.
    pub(crate) fn into_values(self) -> impl Iterator<Item = T> {
        self.all.into_values()
    }

    /// Whether there is no timer, not even one that never fires.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn fired<T>(timers: &mut Timers<T>, now: Instant) -> Vec<T> {
        std::iter::from_fn(|| timers.expire(now).map(|(.., what)| what)).collect()
    }

    #[test]
    fn timers_fire_by_time_and_then_by_age() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.set(1, start, 3 * MS, 'c');
        timers.set(2, start, MS, 'a');
        timers.set(3, start, MS, 'b');
        assert_eq!(timers.deadline(), Some(start + MS));
        assert_eq!(fired(&mut timers, start), []);
        assert_eq!(fired(&mut timers, start + 2 * MS), ['a', 'b']);
        assert_eq!(timers.remove(1), Some('c'));
        assert_eq!(fired(&mut timers, start + 9 * MS), []);
        assert!(timers.is_empty());
    }

    #[test]
    fn zero_interval_fires_once_at_a_time() {
        let now = Instant::now();
        let mut timers = Timers::default();
        timers.set(1, now, Duration::ZERO, 'x');
        let (id, due, what) = timers.expire(now).unwrap();
        timers.repeat(id, due, now, Duration::ZERO, what);
        assert_eq!(timers.expire(now), None);
        assert!(timers.expire(now + MS).is_some());
    }

    #[test]
    fn overflow_means_never() {
        let now = Instant::now();
        let mut timers = Timers::default();
        timers.set(1, now, Duration::MAX, 'x');
        assert_eq!((timers.deadline(), timers.is_empty()), (None, false));
        assert_eq!(timers.remove(1), Some('x'));
    }

    #[test]
    fn repeating_timer_keeps_its_phase_and_skips_missed_ticks() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.set(1, start, 10 * MS, 'x');
        let late = start + 13 * MS;
        let (id, due, what) = timers.expire(late).unwrap();
        timers.repeat(id, due, late, 10 * MS, what);
        assert_eq!(timers.deadline(), Some(start + 20 * MS));
        let later = start + 45 * MS;
        let (id, due, what) = timers.expire(later).unwrap();
        timers.repeat(id, due, later, 10 * MS, what);
        assert_eq!(timers.deadline(), Some(later + 10 * MS));
    }

    #[test]
    fn thousands_fire_in_order() {
        let start = Instant::now();
        let mut timers = Timers::default();
        let count = 5000;
        for n in 0..count {
            let at = n * 7919 % count;
            timers.set(n.into(), start, MS * at, at);
        }
        let order = fired(&mut timers, start + count * MS);
        assert!(order.is_sorted() && order.len() == count as usize);
    }
}

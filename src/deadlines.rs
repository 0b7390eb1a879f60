//! Deadlines by key, and which is the earliest. Pure: it never reads a clock.

use crate::id_map::IdMap;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

/// At most one moment for each key. The earliest is always available; of equal ones, that with the
/// smallest key.
///
/// A removed moment stays queued until it comes first: removal from a tree takes longer, and is
/// several times the code.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    moments: IdMap<Instant>,
    /// Most moments are set in ascending order: these are here, sorted. This and `others` contain
    /// all of `moments`, and stale entries of moments that were changed or removed. The first entry
    /// of either is never stale.
    queue: VecDeque<(Instant, u64)>,
    /// Those that were set out of order.
    others: BinaryHeap<Reverse<(Instant, u64)>>,
}

/// The moment after this time. `None` is never: one that the clock does not reach.
pub(crate) fn after(now: Instant, time: Duration) -> Option<Instant> {
    now.checked_add(time)
}

/// This many stale entries are always allowed.
const FEW: usize = 64;

impl Deadlines {
    /// Sets the moment of a key, and replaces the one it had.
    pub(crate) fn set(&mut self, key: u64, moment: Instant) {
        self.moments.insert(key, moment);
        match self.queue.back() {
            Some(last) if *last > (moment, key) => self.others.push(Reverse((moment, key))),
            _ => self.queue.push_back((moment, key)),
        }
        self.remove_stale();
    }

    /// Removes a key's moment, if it has one.
    pub(crate) fn remove(&mut self, key: u64) {
        if self.moments.remove(key).is_some() {
            self.remove_stale();
        }
    }

    /// Removes all moments.
    pub(crate) fn clear(&mut self) {
        *self = Deadlines::default();
    }

    /// The earliest moment, and its key.
    pub(crate) fn first(&self) -> Option<(Instant, u64)> {
        let other = self.others.peek().map(|Reverse(first)| *first);
        self.queue.front().copied().into_iter().chain(other).min()
    }

    /// Whether the capacity is far more than needed.
    pub(crate) fn is_roomy(&self) -> bool {
        let room = self.queue.capacity() + self.others.capacity();
        room > 8 * self.enough() || self.moments.is_roomy()
    }

    /// Frees most of the excess capacity.
    pub(crate) fn trim(&mut self) {
        if self.is_roomy() {
            for (key, moment) in std::mem::take(self).moments.iter() {
                self.set(key, *moment);
            }
        }
    }

    fn enough(&self) -> usize {
        (self.queue.len() + self.others.len()).max(FEW)
    }

    /// Removes stale entries at the front, and all stale entries once they outnumber the others.
    fn remove_stale(&mut self) {
        if self.queue.len() + self.others.len() > 2 * self.moments.len() + FEW {
            let moments = self.moments.iter();
            let moments = moments.map(|(key, moment)| Reverse((*moment, key)));
            self.others = moments.collect();
            self.queue = VecDeque::new();
        }
        while let Some((moment, key)) = self.queue.front()
            && self.moments.get(*key) != Some(moment)
        {
            self.queue.pop_front();
        }
        while let Some(Reverse((moment, key))) = self.others.peek()
            && self.moments.get(*key) != Some(moment)
        {
            self.others.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);

    fn queued(deadlines: &Deadlines) -> usize {
        deadlines.queue.len() + deadlines.others.len()
    }

    #[test]
    fn equal_moments_are_ordered_by_key() {
        let now = Instant::now();
        let mut deadlines = Deadlines::default();
        for key in [3, 1, 2] {
            deadlines.set(key, now);
        }
        for key in 1..=3 {
            assert_eq!(deadlines.first(), Some((now, key)));
            deadlines.remove(key);
        }
        assert_eq!(deadlines.first(), None);
    }

    #[test]
    fn moment_that_is_set_again_counts_once() {
        let now = Instant::now();
        let mut deadlines = Deadlines::default();
        for moment in [now + 2 * MS, now, now + 2 * MS] {
            deadlines.set(1, moment);
            assert_eq!(deadlines.first(), Some((moment, 1)));
        }
        deadlines.remove(1);
        deadlines.remove(1);
        assert_eq!(deadlines.first(), None);
    }

    #[test]
    fn removed_moments_do_not_pile_up() {
        let now = Instant::now();
        let mut deadlines = Deadlines::default();
        deadlines.set(0, now);
        for n in 1..10_000 {
            deadlines.set(n, now + MS);
            deadlines.remove(n);
            deadlines.set(0, now + (n % 2) as u32 * MS);
            assert!(queued(&deadlines) <= 2 + FEW, "{}", queued(&deadlines));
        }
        deadlines.clear();
        assert!(deadlines.first().is_none() && queued(&deadlines) == 0);
    }

    /// The first entry is never stale, so none of those behind it comes to the front.
    #[test]
    fn removed_moments_do_not_pile_up_behind_one_that_stays() {
        let now = Instant::now();
        let many = 10_000;
        for others_come in [now + MS, now] {
            let mut deadlines = Deadlines::default();
            deadlines.set(0, now);
            for n in 1..many {
                // Later than all, or later than the first and earlier than all others.
                let moment = match others_come > now {
                    true => others_come + n as u32 * MS,
                    false => others_come + (many - n) as u32 * MS,
                };
                deadlines.set(n, moment);
                assert!(queued(&deadlines) <= 2 * 2 + FEW, "{}", queued(&deadlines));
                deadlines.remove(n);
                assert!(queued(&deadlines) <= 2 + FEW, "{}", queued(&deadlines));
                assert_eq!(deadlines.first(), Some((now, 0)));
            }
            // Many, which then go without others coming.
            (1..many).for_each(|n| deadlines.set(n, now + n as u32 * MS));
            for n in 1..many {
                deadlines.remove(n);
                let left = (many - n) as usize;
                assert!(queued(&deadlines) <= 2 * left + FEW);
            }
        }
    }

    #[test]
    fn excess_capacity_is_freed() {
        let now = Instant::now();
        let mut deadlines = Deadlines::default();
        let count = 10_000;
        let all = 0..count;
        let at = |key: u64| now + key as u32 * MS;
        for in_order in [true, false] {
            if in_order {
                all.clone().for_each(|key| deadlines.set(key, at(key)));
            } else {
                all.clone()
                    .rev()
                    .for_each(|key| deadlines.set(key, at(key)));
            }
            (0..count - 10).for_each(|key| deadlines.remove(key));
            assert!(deadlines.is_roomy());
            deadlines.trim();
            assert!(!deadlines.is_roomy());
            let (queue, others) = (deadlines.queue.capacity(), deadlines.others.capacity());
            assert!(queue + others <= 8 * FEW, "{queue}, {others}");
            assert_eq!(deadlines.first(), Some((at(count - 10), count - 10)));
        }
    }

    #[test]
    fn behaves_as_a_sorted_set() {
        let start = Instant::now();
        let (mut deadlines, mut model) = (Deadlines::default(), BTreeSet::new());
        let mut random = 1u32;
        for _ in 0..100_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Few keys and few moments, so that they collide; phases of mostly setting alternate
            // with phases of mostly removing.
            let (key, moment) = (random >> 8 & 0xff, start + (random >> 16 & 0x3f) * MS);
            let key = u64::from(key);
            let growing = (random >> 28 == 0) != (model.len() < 100);
            model.retain(|(_, other)| *other != key);
            if growing {
                deadlines.set(key, moment);
                model.insert((moment, key));
            } else {
                deadlines.remove(key);
            }
            assert_eq!(deadlines.first(), model.first().copied());
            assert!(queued(&deadlines) <= 2 * model.len() + FEW);
        }
    }
}

//! When which part of a stream was written, more precisely of what was written lately. Pure.

use std::collections::VecDeque;
use std::time::Duration;

/// Times are what a clock says that begins anywhere.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    /// How much had been written when. The last one is the first.
    all: VecDeque<(u64, Duration)>,
}

/// How many there may be before some are left out.
const MOST: usize = 64;

impl Stamps {
    /// So much is written by now.
    #[inline]
    pub(crate) fn note(&mut self, written: u64, now: Duration) {
        match self.all.front_mut() {
            Some((before, at)) if *at == now => *before = written,
            _ => self.add(written, now),
        }
    }

    #[cold]
    fn add(&mut self, written: u64, now: Duration) {
        if self.all.len() >= MOST {
            // Those are left out whose neighbours are of about the same age: one is not twice as old as the other.
            let ages = self.all.iter().map(|(_, at)| now.saturating_sub(*at));
            let ages: Vec<_> = ages.collect();
            let mut older = ages.iter().skip(1);
            let mut younger = Duration::ZERO;
            self.all.retain(|(_, at)| {
                let is_needed = older.next().is_none_or(|older| *older > 2 * younger);
                if is_needed {
                    younger = now.saturating_sub(*at);
                }
                is_needed
            });
        }
        self.all.push_front((written, now));
    }

    /// How much is written.
    pub(crate) fn written(&self) -> u64 {
        self.all.front().map_or(0, |(written, _)| *written)
    }

    /// When what begins at this offset had been written, or somewhat later: by up to half of its age.
    pub(crate) fn written_at(&self, offset: u64) -> Option<Duration> {
        let later = self.all.partition_point(|(written, _)| *written > offset);
        self.all.get(later.checked_sub(1)?).map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(4);

    #[test]
    fn what_was_written_has_the_time_of_its_end() {
        let mut stamps = Stamps::default();
        assert_eq!(stamps.written_at(0), None);
        stamps.note(10, TICK);
        stamps.note(20, TICK);
        stamps.note(30, 2 * TICK);
        let at = |offset| stamps.written_at(offset);
        assert_eq!([at(0), at(19)], [Some(TICK); 2]);
        assert_eq!([at(20), at(29)], [Some(2 * TICK); 2]);
        assert_eq!(at(30), None);
        assert_eq!(stamps.written(), 30);
    }

    #[test]
    fn ages_are_never_too_high_and_not_much_too_low() {
        let mut stamps = Stamps::default();
        let last: u32 = if cfg!(miri) { 1000 } else { 100_000 };
        for n in 1..=last {
            stamps.note(n.into(), n * TICK);
            assert!(stamps.all.len() <= MOST);
            if n % 997 == 0 {
                for written in (1..=n).step_by(7) {
                    let at = stamps.written_at(u64::from(written) - 1).unwrap();
                    let (age, told) = ((n - written) * TICK, n * TICK - at);
                    assert!(told <= age && told * 2 >= age, "{told:?} for {age:?}");
                }
            }
        }
    }
}

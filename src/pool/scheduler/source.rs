//! Where children come from, and how starts that fail are put off.

use super::random::Random;
use std::ops::Range;
use std::time::{Duration, Instant};

/// After so many failed starts in a row, calls that wait for nothing else get the error.
pub(super) const BROKEN: u32 = 3;
/// How long is waited after the second failure in a row, about. After each further one it is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// How long is waited at most, about.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Who has served for so long was well.
const HEALTHY: Duration = Duration::from_secs(60);

/// A description of children, with the slots that it fills. `E` is why one could not be started.
#[derive(Debug)]
pub(super) struct Source<E> {
    pub(super) slots: Range<usize>,
    /// How many starts have failed since a child was well.
    failures: u32,
    /// Why the last one has failed, and when the next one may be made.
    last: Option<(E, Instant)>,
}

impl<E: Clone> Source<E> {
    pub(super) fn new(slots: Range<usize>) -> Self {
        Source {
            slots,
            failures: 0,
            last: None,
        }
    }

    /// When a child may be started that is wanted from this moment on. After many failures, no two are started
    /// at a time.
    pub(super) fn starts_at(&self, is_starting: bool, wanted: Instant) -> Option<Instant> {
        if self.failures >= BROKEN && is_starting {
            return None;
        }
        let retry = self.last.as_ref().map(|(_, at)| *at);
        Some(retry.map_or(wanted, |retry| retry.max(wanted)))
    }

    /// Why nothing can be started, if that is known, and nothing is tried now.
    pub(super) fn broken(&self, now: Instant) -> Option<&E> {
        let (error, at) = self.last.as_ref()?;
        (self.failures >= BROKEN && *at > now).then_some(error)
    }

    /// How many starts have failed since a child was well.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// A start has failed.
    pub(super) fn failed(&mut self, error: E, random: &mut Random, now: Instant) {
        let wait = match self.failures {
            0 => Duration::ZERO,
            before => {
                let doubled = FIRST_WAIT.saturating_mul(1 << (before - 1).min(16));
                random.about(doubled.min(LONGEST_WAIT))
            }
        };
        self.failures += 1;
        self.last = Some((error, now + wait));
    }

    /// A child has served for so long.
    pub(super) fn has_served(&mut self, time: Duration) {
        if time >= HEALTHY {
            (self.failures, self.last) = (0, None);
        }
    }
}

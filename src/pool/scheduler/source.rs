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
/// Who has served for so long, while no start has failed, is well.
const HEALTHY: Duration = Duration::from_secs(60);
/// Who has served for so long has not failed to start.
const SETTLED: Duration = Duration::from_secs(10);

/// A description of children, with the slots that it fills. `E` is why one could not be started.
#[derive(Debug)]
pub(super) struct Source<E> {
    pub(super) slots: Range<usize>,
    /// How often starts have failed since a child was well.
    failures: u32,
    last: Option<Failure<E>>,
    /// When the youngest child was to be started that has ended calls, of those that are gone,
    worked: Option<Instant>,
    /// and the youngest of those that have ended none, and not died of one.
    wasted: Option<Instant>,
}

/// A failed start.
#[derive(Debug)]
struct Failure<E> {
    error: E,
    /// When the child was to be started,
    since: Instant,
    /// and when the next one may be.
    retry: Instant,
}

impl<E: Clone> Source<E> {
    pub(super) fn new(slots: Range<usize>) -> Self {
        Source {
            slots,
            failures: 0,
            last: None,
            worked: None,
            wasted: None,
        }
    }

    /// When a child may be started that is wanted from this moment on. After many failures, no two are started
    /// at a time.
    pub(super) fn starts_at(&self, is_starting: bool, wanted: Instant) -> Option<Instant> {
        if self.failures >= BROKEN && is_starting {
            return None;
        }
        let retry = self.last.as_ref().map(|last| last.retry);
        Some(retry.map_or(wanted, |retry| retry.max(wanted)))
    }

    /// Why nothing can be started, if that is known, and nothing is tried now.
    pub(super) fn broken(&self, now: Instant) -> Option<&E> {
        let last = self.last.as_ref()?;
        (self.failures >= BROKEN && last.retry > now).then_some(&last.error)
    }

    /// Why the last start has failed, if one has since a child was well.
    pub(super) fn last_error(&self) -> Option<&E> {
        Some(&self.last.as_ref()?.error)
    }

    /// How many starts have failed since a child was well.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// A child that was to be started `since` then has failed.
    pub(super) fn failed(&mut self, error: E, since: Instant, random: &mut Random, now: Instant) {
        if let Some(last) = &mut self.last
            && since <= last.since
        {
            // It was started together with that one, and fails with it. That is one failure.
            last.error = error;
            return;
        }
        let wait = match self.failures {
            0 => Duration::ZERO,
            before => {
                let doubled = FIRST_WAIT.saturating_mul(1 << (before - 1).min(16));
                random.about(doubled.min(LONGEST_WAIT))
            }
        };
        self.failures += 1;
        self.last = Some(Failure {
            error,
            since,
            retry: now + wait,
        });
    }

    /// A child that was to be started `since` then is gone, and has ended calls.
    pub(super) fn has_worked(&mut self, since: Instant) {
        self.worked = self.worked.max(Some(since));
    }

    /// A child that was to be started `since` then, and has served from `ready_at` on, is gone before it has ended a
    /// call, and not because of one. The youngest that is there, and has ended some, was to be started at `working`.
    /// Returns whether that is a failed start: not if a child has worked that is younger than the last of this kind.
    pub(super) fn has_failed_to_serve(
        &mut self,
        since: Instant,
        ready_at: Instant,
        working: Option<Instant>,
        now: Instant,
    ) -> bool {
        let wasted = self.wasted;
        self.wasted = wasted.max(Some(since));
        // Those that were started together die together.
        let is_known = wasted.is_some_and(|wasted| since <= wasted);
        let has_worked = self.worked.max(working) > wasted;
        let is_settled = now.saturating_duration_since(ready_at) >= SETTLED;
        !(is_known || has_worked || is_settled)
    }

    /// A child has served since this moment.
    pub(super) fn has_served(&mut self, since: Instant, now: Instant) {
        if let Some(last) = &self.last
            && now.saturating_duration_since(since.max(last.retry)) >= HEALTHY
        {
            (self.failures, self.last) = (0, None);
        }
    }
}

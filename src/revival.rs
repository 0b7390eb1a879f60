//! When a template that has failed is started again. Pure.

use std::time::{Duration, Instant};

/// How long is waited after the second failure in a row. After each further one it is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// How long is waited at most.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// See the module's documentation. `E` is why it has failed.
#[derive(Debug)]
pub(crate) struct Revival<E> {
    /// How often it has failed in a row.
    failures: u32,
    /// Why it has failed last, and when it may be started again.
    last: Option<(E, Instant)>,
}

impl<E> Default for Revival<E> {
    fn default() -> Self {
        Revival {
            failures: 0,
            last: None,
        }
    }
}

impl<E> Revival<E> {
    /// Whether it must not be started yet: why it has failed last, how long it is to wait, and how often it has
    /// failed.
    pub(crate) fn must_wait(&self, now: Instant) -> Option<(&E, Duration, u32)> {
        let (why, at) = self.last.as_ref()?;
        let wait = at.saturating_duration_since(now);
        (!wait.is_zero()).then_some((why, wait, self.failures))
    }

    /// It could not be started, or has died.
    pub(crate) fn failed(&mut self, now: Instant, why: E) {
        let wait = match self.failures {
            0 => Duration::ZERO,
            before => FIRST_WAIT
                .saturating_mul(1 << (before - 1).min(20))
                .min(LONGEST_WAIT),
        };
        self.failures += 1;
        self.last = Some((why, now + wait));
    }

    /// It works.
    pub(crate) fn succeeded(&mut self) {
        *self = Revival::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_failure_costs_nothing_and_others_more_and_more() {
        let (start, mut revival) = (Instant::now(), Revival::default());
        assert_eq!(revival.must_wait(start), None);
        revival.failed(start, 1);
        assert_eq!(revival.must_wait(start), None);
        for (failures, wait) in [(2, 100), (3, 200), (4, 400)] {
            revival.failed(start, failures);
            let wait = Duration::from_millis(wait);
            assert_eq!(revival.must_wait(start), Some((&failures, wait, failures)));
            assert_eq!(revival.must_wait(start + wait), None);
        }
        (5..100).for_each(|failures| revival.failed(start, failures));
        assert_eq!(revival.must_wait(start), Some((&99, LONGEST_WAIT, 99)));
        revival.succeeded();
        assert_eq!(revival.must_wait(start), None);
        revival.failed(start, 1);
        assert_eq!(revival.must_wait(start), None, "it begins anew");
    }
}

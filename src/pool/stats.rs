//! What a pool is doing, at one moment.

use super::core::Core;
use super::scheduler::Stage;
use crate::error::Error;
use crate::rpc::{ChildState, plural, write_calls, write_done, write_last_error, write_state};
use std::fmt;
use std::time::{Duration, Instant};

/// A pool at one moment: what [`Pool::stats`](crate::Pool::stats) returns. Displayed, it is a line for the pool
/// and one for each child.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PoolStats {
    /// The number of calls that wait for a child.
    pub queued: usize,
    /// The bytes of their requests.
    pub queued_bytes: usize,
    /// How long the oldest of them has waited. `None` if none waits.
    pub oldest: Option<Duration>,
    /// The number of calls that are done, in all children so far, as [`ChildStats::calls`].
    pub calls: u64,
    /// These calls a second: the average since the pool was started.
    pub rate: f64,
    /// Half of the calls that were sent to a child had waited for it no longer than this: 0, or a time that is
    /// rounded up to 1, 2, 4, .. microseconds.
    pub wait_median: Duration,
    /// The same for 99 of 100 calls.
    pub wait_p99: Duration,
    /// The number of children that were started so far. Starts that failed count, too.
    pub started: u64,
    /// Where children come from: what the pool was made of, and then each [`also`](crate::PoolBuilder::also), in
    /// order.
    pub sources: Vec<SourceStats>,
    /// The children there are, in the order in which they were started.
    pub children: Vec<ChildStats>,
}

/// One of the places that children of a pool come from, at one moment: a host, say.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SourceStats {
    /// The name of a [host](crate::Host), the command line, or what errors call it.
    pub label: String,
    /// How many children it may have at a time.
    pub slots: usize,
    /// How many it has, those included that are starting or leaving.
    pub children: usize,
    /// How many it had that have ended. Starts that failed count, too.
    pub past: u64,
    /// The number of calls that are done in all of these, as [`ChildStats::calls`].
    pub calls: u64,
    /// How many starts have failed since a child last served for a minute.
    pub failures: u32,
    /// The error of the last of these starts; without one, an error that has ended one of its children.
    pub last_error: Option<Error>,
}

/// A child of a pool at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ChildStats {
    /// Its process id. `None` until it serves, and if it is only a stream.
    pub pid: Option<u32>,
    /// Where it is from: an index of [`PoolStats::sources`].
    pub source: usize,
    /// What it is doing. One that has ended is not among them.
    pub state: ChildState,
    /// How often the pool had been [restarted](crate::Pool::restart) when it was started.
    pub generation: u32,
    /// The time since it was started.
    pub age: Duration,
    /// The number of its calls that are done: answered, or cancelled before they were sent.
    pub calls: u64,
    /// The number of calls that it has. One that has timed out counts until it is answered.
    pub in_flight: usize,
    /// How long it has had the oldest of these, if calls are answered in their order; otherwise it may be longer.
    pub oldest: Option<Duration>,
    /// How many children were in its place before it.
    pub restarts: u64,
    /// The last error that ended one of those.
    pub last_error: Option<Error>,
}

impl fmt::Display for PoolStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} ({} started), ",
            self.children.len(),
            children(self.children.len()),
            self.started,
        )?;
        write_done(f, self.calls)?;
        write!(f, ", {:.0}/s, {} queued", self.rate, self.queued)?;
        if let Some(oldest) = self.oldest {
            write!(f, " for {oldest:.1?}")?;
        }
        write!(
            f,
            ", waited {:.1?}, 99 % {:.1?}",
            self.wait_median, self.wait_p99
        )?;
        // With one, there is nothing new in it.
        if self.sources.len() > 1 {
            for source in &self.sources {
                write!(f, "\n{source}")?;
            }
        }
        for child in &self.children {
            write!(f, "\n{child}")?;
        }
        Ok(())
    }
}

impl fmt::Display for SourceStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} of {} {}, {} ended, ",
            self.label,
            self.children,
            self.slots,
            children(self.slots),
            self.past
        )?;
        write_done(f, self.calls)?;
        if self.failures > 0 {
            let starts = plural(self.failures.into(), "start", "starts");
            write!(f, ", {} {starts} failed", self.failures)?;
        }
        write_last_error(f, self.last_error.as_ref())
    }
}

impl fmt::Display for ChildStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_state(f, self.pid, self.state)?;
        let (generation, age) = (self.generation, self.age);
        write!(f, ", generation {generation}, {age:.1?} old, ")?;
        write_calls(f, self.calls, self.in_flight, self.oldest)?;
        let before = plural(self.restarts, "predecessor", "predecessors");
        write!(f, ", {} {before}", self.restarts)?;
        write_last_error(f, self.last_error.as_ref())
    }
}

fn children(number: usize) -> &'static str {
    plural(number as u64, "child", "children")
}

impl Core {
    /// The pool at this moment.
    pub(super) fn stats(&self) -> PoolStats {
        if self.is_elsewhere() {
            return PoolStats::default();
        }
        let state = self.lock();
        let now = Instant::now();
        let since = |at: Instant| now.saturating_duration_since(at);
        let children = state.scheduler.children().iter().map(|child| {
            let serving = state.serving.iter().find(|it| it.id == child.id);
            ChildStats {
                source: state.scheduler.source_of(child),
                pid: serving.and_then(|it| it.link.child()?.pid()),
                state: match child.stage {
                    Stage::Starting => ChildState::Starting,
                    Stage::Serving if child.in_flight() == 0 => ChildState::Idle,
                    Stage::Serving => ChildState::Busy,
                    Stage::Leaving => ChildState::Leaving,
                },
                generation: child.generation,
                age: since(child.since),
                calls: child.ended,
                in_flight: child.in_flight() as usize,
                oldest: child.sent_at.front().copied().map(since),
                restarts: state.scheduler.past(child).children,
                last_error: state.scheduler.past(child).last_error.clone(),
            }
        });
        let states = self.sources.iter().zip(state.scheduler.sources());
        let sources = states.map(|(process, state)| SourceStats {
            label: process.label(),
            slots: state.slots,
            children: state.children,
            past: state.past,
            calls: state.ended,
            failures: state.failures,
            last_error: state.last_error.cloned(),
        });
        PoolStats {
            sources: sources.collect(),
            queued: state.scheduler.waiting(),
            queued_bytes: state.scheduler.waiting_bytes(),
            oldest: state.scheduler.oldest().map(since),
            calls: state.scheduler.ended(),
            rate: state.scheduler.ended() as f64 / since(self.since).as_secs_f64().max(1e-9),
            wait_median: state.waits.quantile(0.5),
            wait_p99: state.waits.quantile(0.99),
            started: state.scheduler.started(),
            children: children.collect(),
        }
    }
}

/// How long calls have waited: how many for how long, by powers of two.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// Those that have not waited, then those of up to a microsecond, two, four, ..
    counts: [u64; 32],
}

impl Waits {
    /// A call has not waited.
    #[inline]
    pub(super) fn add_none(&mut self) {
        self.counts[0] += 1;
    }

    pub(super) fn add(&mut self, wait: Duration) {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        let bits = (u64::BITS - micros.leading_zeros()) as usize;
        self.counts[(bits + 1).min(self.counts.len() - 1)] += 1;
    }

    fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The time that this part of all have not waited longer than.
    fn quantile(&self, part: f64) -> Duration {
        let mut left = (self.count() as f64 * part).ceil() as u64;
        for (at, count) in self.counts.iter().enumerate() {
            if left <= *count {
                let micros = if at == 0 { 0 } else { 1 << (at - 1) };
                return Duration::from_micros(micros);
            }
            left -= count;
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_counts_in_words_that_fit() {
        let stats = |number: u64| {
            let child = ChildStats {
                pid: Some(7),
                source: 0,
                state: ChildState::Idle,
                generation: 0,
                age: Duration::from_secs(2),
                calls: number,
                in_flight: 0,
                oldest: None,
                restarts: number,
                last_error: None,
            };
            let source = SourceStats {
                label: "host".to_owned(),
                slots: number as usize,
                children: 1,
                past: 3,
                calls: number,
                failures: number as u32,
                last_error: None,
            };
            let pool = PoolStats {
                calls: number,
                started: 17,
                sources: vec![source.clone(), source],
                children: vec![child; number as usize],
                ..PoolStats::default()
            };
            let text = pool.to_string();
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.dedup();
            lines
        };
        assert_eq!(
            stats(1),
            [
                "1 child (17 started), 1 call done, 0/s, 0 queued, waited 0.0ns, 99 % 0.0ns",
                "host: 1 of 1 child, 3 ended, 1 call done, 1 start failed",
                "pid 7 idle, generation 0, 2.0s old, 1 call done, 0 in flight, 1 predecessor",
            ]
        );
        assert_eq!(
            stats(2),
            [
                "2 children (17 started), 2 calls done, 0/s, 0 queued, waited 0.0ns, 99 % 0.0ns",
                "host: 1 of 2 children, 3 ended, 2 calls done, 2 starts failed",
                "pid 7 idle, generation 0, 2.0s old, 2 calls done, 0 in flight, 2 predecessors",
            ]
        );
    }

    #[test]
    fn quantiles_are_the_next_powers_of_two() {
        let mut waits = Waits::default();
        assert_eq!(waits.quantile(0.5), Duration::ZERO);
        (0..98).for_each(|_| waits.add_none());
        waits.add(Duration::from_micros(3));
        waits.add(Duration::from_millis(100));
        assert_eq!(waits.count(), 100);
        assert_eq!(waits.quantile(0.5), Duration::ZERO);
        assert_eq!(waits.quantile(0.99), Duration::from_micros(4));
        assert_eq!(waits.quantile(1.0), Duration::from_micros(1 << 17));
        waits.add(Duration::MAX);
        assert!(waits.quantile(1.0) > Duration::from_secs(500));
    }
}

//! What a pool is doing, at one moment.

use super::core::Core;
use super::scheduler::Stage;
use crate::error::Error;
use crate::rpc::{write_calls, write_last_error, write_state};
use std::fmt;
use std::time::{Duration, Instant};

/// A pool at one moment: what [`Pool::stats`](crate::Pool::stats) returns. Displayed, it is a line for the pool
/// and one for each child.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PoolStats {
    /// How many calls wait for a child.
    pub queued: usize,
    /// How many bytes their requests have.
    pub queued_bytes: usize,
    /// How long the one has waited that waits longest.
    pub oldest: Option<Duration>,
    /// How many calls children have answered so far.
    pub calls: u64,
    /// How many that are a second, since the pool was started.
    pub rate: f64,
    /// The time after which half of them were sent, within a factor of two.
    pub wait_median: Duration,
    /// The time after which 99 of 100 were.
    pub wait_p99: Duration,
    /// How many children were started so far.
    pub started: u64,
    /// Where children are from, in the order in which that was said.
    pub sources: Vec<SourceStats>,
    /// The children, in the order in which they were started.
    pub children: Vec<ChildStats>,
}

/// Where children of a pool are from, at one moment: a host, say.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SourceStats {
    /// What it is called: the name of a [host](crate::Host), the command line, or what errors call it.
    pub label: String,
    /// How many children it may have.
    pub slots: usize,
    /// How many it has.
    pub children: usize,
    /// How many there were before those.
    pub past: u64,
    /// How many calls all of them have answered.
    pub calls: u64,
    /// How many starts have failed in a row.
    pub failures: u32,
    /// Why the last of those has failed, or how one of its children has ended that was not to.
    pub last_error: Option<Error>,
}

/// A child of a pool at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ChildStats {
    /// Its process id, once it serves.
    pub pid: Option<u32>,
    /// Which of the [sources](PoolStats::sources) it is from.
    pub source: usize,
    /// `starting`, `idle`, `busy`, or `leaving`: it gets no more calls.
    pub state: &'static str,
    /// How often the pool had been [restarted](crate::Pool::restart) when it was started.
    pub generation: u32,
    /// How long ago that was.
    pub age: Duration,
    /// How many calls it has answered.
    pub calls: u64,
    /// How many it has.
    pub in_flight: usize,
    /// How long it has had the one that it has had longest.
    pub oldest: Option<Duration>,
    /// How many children were in its place before.
    pub restarts: u64,
    /// How the last of those has ended that was not to end.
    pub last_error: Option<Error>,
}

impl fmt::Display for PoolStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} children started, {} calls done, {:.0}/s, {} queued",
            self.children.len(),
            self.started,
            self.calls,
            self.rate,
            self.queued
        )?;
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
            "{}: {} of {} children, {} before, {} calls done",
            self.label, self.children, self.slots, self.past, self.calls
        )?;
        if self.failures > 0 {
            write!(f, ", {} starts failed", self.failures)?;
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
        write!(f, ", {} before it", self.restarts)?;
        write_last_error(f, self.last_error.as_ref())
    }
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
                    Stage::Starting => "starting",
                    Stage::Serving if child.in_flight() == 0 => "idle",
                    Stage::Serving => "busy",
                    Stage::Leaving => "leaving",
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

//! The result of a measurement.

use std::time::{Duration, Instant};

/// How long `n` operations took.
pub(crate) struct Measured {
    pub(crate) n: u32,
    pub(crate) took: Duration,
    /// How long each took, sorted, if they were timed individually.
    laps: Vec<Duration>,
}

impl Measured {
    /// Times `work`, which does `n` operations.
    pub(crate) fn all(n: u32, work: impl FnOnce()) -> Self {
        let start = Instant::now();
        work();
        Measured {
            n,
            took: start.elapsed(),
            laps: Vec::new(),
        }
    }

    /// Times each of `n` calls, after some to warm up.
    pub(crate) fn each(n: u32, mut call: impl FnMut(u32)) -> Self {
        (0..(n / 20).clamp(10, 1000)).for_each(&mut call);
        let mut laps = Vec::with_capacity(n as usize);
        let mut measured = Measured::all(n, || {
            for i in 0..n {
                let start = Instant::now();
                call(i);
                laps.push(start.elapsed());
            }
        });
        laps.sort_unstable();
        measured.laps = laps;
        measured
    }

    /// The quantile `part` of the times, in microseconds.
    pub(crate) fn quantile(&self, part: f64) -> Option<f64> {
        let last = self.laps.len().checked_sub(1)?;
        let at = (self.laps.len() as f64 * part) as usize;
        Some(self.laps[at.min(last)].as_secs_f64() * 1e6)
    }

    /// Microseconds per operation.
    pub(crate) fn mean(&self) -> f64 {
        self.took.as_secs_f64() * 1e6 / f64::from(self.n)
    }

    /// Operations per second.
    pub(crate) fn rate(&self) -> f64 {
        f64::from(self.n) / self.took.as_secs_f64()
    }
}

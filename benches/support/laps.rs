//! What a measurement yields.

use std::time::{Duration, Instant};

/// `n` things took so long.
pub(crate) struct Measured {
    pub(crate) n: u32,
    pub(crate) took: Duration,
    /// How long each of them took, in order of length, if they were timed one by one.
    laps: Vec<Duration>,
}

impl Measured {
    /// Times `work`, which does `n` things.
    pub(crate) fn all(n: u32, work: impl FnOnce()) -> Self {
        let start = Instant::now();
        work();
        Measured {
            n,
            took: start.elapsed(),
            laps: Vec::new(),
        }
    }

    /// Times each of `n` calls, after some that warm up.
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

    /// The time in microseconds that this part of the laps were shorter than.
    pub(crate) fn quantile(&self, part: f64) -> Option<f64> {
        let last = self.laps.len().checked_sub(1)?;
        let at = (self.laps.len() as f64 * part) as usize;
        Some(self.laps[at.min(last)].as_secs_f64() * 1e6)
    }

    /// Microseconds for each.
    pub(crate) fn mean(&self) -> f64 {
        self.took.as_secs_f64() * 1e6 / f64::from(self.n)
    }

    /// Things in a second.
    pub(crate) fn rate(&self) -> f64 {
        f64::from(self.n) / self.took.as_secs_f64()
    }
}

//! Numbers that need not be good, only different.

use std::time::Duration;

/// Pseudo-random numbers: xorshift64*.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A time between three and five quarters of this.
    pub(super) fn about(&mut self, time: Duration) -> Duration {
        // Times of centuries are as good as any.
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.about_number(nanos))
    }

    /// A number between three and five quarters of this.
    pub(super) fn about_number(&mut self, number: u64) -> u64 {
        let quarter = number / 4;
        (number - quarter).saturating_add(self.next() % (2 * quarter + 1))
    }
}

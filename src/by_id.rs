//! A map by numbers that are counted up: ids of calls, keys of links.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// One kind of key for all maps, so that they share code, and no tree, which is several times the
/// code.
pub(crate) type ById<V> = HashMap<u64, V, BuildHasherDefault<IdHasher>>;

/// Spreads numbers that are close to each other, or far apart in equal steps. The program itself
/// counts them, or the parent that it works for: nobody gains by choosing them badly.
#[derive(Debug, Default)]
pub(crate) struct IdHasher(u64);

/// 2^64 divided by the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    #[inline]
    fn write_u64(&mut self, id: u64) {
        // The high bits of the product depend on all of the id, and a map looks at the low ones.
        self.0 = (self.0 ^ id).wrapping_mul(FACTOR).rotate_left(32);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the step between the ids, no place of a table of 4096 has many of 2048.
    #[test]
    fn equal_steps_are_spread() {
        for step in (0..32).map(|n| 1 << n).chain([3, 10, 100, 1000]) {
            let mut places = vec![0; 4096];
            for n in 0..2048u64 {
                let mut hasher = IdHasher::default();
                hasher.write_u64(n * step);
                places[hasher.finish() as usize % 4096] += 1;
            }
            let most = places.iter().max().unwrap();
            assert!(*most <= 8, "{most} in one place with step {step}");
        }
    }
}

//! A set of ids that come in order and mostly leave soon. Pure.

use crate::by_id::ById;

/// A bit for each id, in words of 64. Only words that have a bit are kept, and the one that was
/// changed last is at hand, so that ids which come and go at the end cost no look-up.
#[derive(Debug, Default)]
pub(crate) struct IdSet {
    /// The word at hand is `near` of number `at`; it is not in `far`.
    at: u32,
    near: u64,
    far: ById<u64>,
    len: usize,
}

#[inline]
fn place(id: u32) -> (u32, u64) {
    (id / 64, 1 << (id % 64))
}

impl IdSet {
    /// Puts an id in. Returns whether it was not in.
    #[inline]
    pub(crate) fn insert(&mut self, id: u32) -> bool {
        let bit = self.bring(id);
        if self.near & bit != 0 {
            return false;
        }
        self.near |= bit;
        self.len += 1;
        true
    }

    /// Takes an id out. Returns whether it was in.
    #[inline]
    pub(crate) fn remove(&mut self, id: u32) -> bool {
        if !self.contains(id) {
            return false;
        }
        let bit = self.bring(id);
        self.near &= !bit;
        self.len -= 1;
        true
    }

    #[inline]
    pub(crate) fn contains(&self, id: u32) -> bool {
        let (at, bit) = place(id);
        let word = if at == self.at {
            self.near
        } else {
            self.far.get(at).copied().unwrap_or(0)
        };
        word & bit != 0
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Brings the word of an id to hand. Returns its bit.
    #[inline]
    fn bring(&mut self, id: u32) -> u64 {
        let (at, bit) = place(id);
        if at != self.at {
            if self.near != 0 {
                self.far.insert(self.at, self.near);
            }
            self.at = at;
            self.near = self.far.remove(at).unwrap_or(0);
        }
        bit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn behaves_as_a_set() {
        let (mut set, mut model) = (IdSet::default(), BTreeSet::new());
        let mut random = 1u32;
        for _ in 0..100_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let id = match random >> 30 {
                0 => u32::MAX - (random >> 8) % 70,
                _ => (random >> 8) % 500,
            };
            assert_eq!(set.contains(id), model.contains(&id));
            if random & 64 == 0 {
                assert_eq!(set.insert(id), model.insert(id));
            } else {
                assert_eq!(set.remove(id), model.remove(&id));
            }
            assert_eq!(set.len(), model.len());
        }
    }

    #[test]
    fn old_id_does_not_keep_the_words_between() {
        let mut set = IdSet::default();
        set.insert(1);
        for id in 100..100_000 {
            assert!(set.insert(id) && set.remove(id));
        }
        assert!(set.far.len() <= 1, "{}", set.far.len());
        assert!(set.remove(1));
    }
}

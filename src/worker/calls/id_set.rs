//! A set of ids that come in order and mostly leave soon. Pure.

use crate::id_map::IdMap;

/// A bit for each id, in words of 64. Only words that have a bit are kept, and two are at hand: ids
/// mostly come at the end and leave near the beginning, and few of them cost a look-up.
#[derive(Debug)]
pub(crate) struct IdSet {
    /// Words with their numbers, which are not in `far`: of the last id that came, and of the last
    /// that left. No two have the same number.
    near: [(u32, u64); 2],
    far: IdMap<u64>,
    len: usize,
}

/// Which word at hand makes room for another.
const COMING: usize = 0;
const LEAVING: usize = 1;

/// No word has this number.
const NONE: u32 = u32::MAX;

fn place(id: u32) -> (u32, u64) {
    (id / 64, 1 << (id % 64))
}

impl Default for IdSet {
    fn default() -> Self {
        IdSet {
            near: [(0, 0), (NONE, 0)],
            far: IdMap::default(),
            len: 0,
        }
    }
}

impl IdSet {
    /// Puts an id in. Returns whether it was not in.
    #[inline]
    pub(crate) fn insert(&mut self, id: u32) -> bool {
        let (at, bit) = place(id);
        let word = self.bring(at, COMING);
        // Returned early, not kept for later: rustc 1.88 to 1.96 compares anew after `word` changed
        // when a caller branches on the result (rust-lang/rust#158206, SimplifyComparisonIntegral).
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
        self.len += 1;
        true
    }

    /// Takes an id out. Returns whether it was in.
    #[inline]
    pub(crate) fn remove(&mut self, id: u32) -> bool {
        if !self.contains(id) {
            return false;
        }
        let (at, bit) = place(id);
        *self.bring(at, LEAVING) &= !bit;
        self.len -= 1;
        true
    }

    pub(crate) fn contains(&self, id: u32) -> bool {
        let (at, bit) = place(id);
        let word = match self.near {
            [(near, word), _] | [_, (near, word)] if near == at => word,
            _ => self.far.get(at).copied().unwrap_or(0),
        };
        word & bit != 0
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Brings the word of a number to hand, in place of another if it is not there.
    #[inline]
    fn bring(&mut self, at: u32, which: usize) -> &mut u64 {
        let which = match self.near {
            [(near, _), _] if near == at => COMING,
            [_, (near, _)] if near == at => LEAVING,
            _ => {
                self.exchange(at, which);
                which
            }
        };
        &mut self.near[which].1
    }

    fn exchange(&mut self, at: u32, which: usize) {
        let (before, word) = self.near[which];
        if word != 0 {
            self.far.insert(before, word);
        }
        self.near[which] = (at, self.far.remove(at).unwrap_or(0));
        self.far.trim();
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

    /// Branches on the result, as callers do. With `new = *word & bit == 0` kept until after the bit
    /// is set, this fails in a release build of the compilers named at `insert`.
    #[test]
    fn insert_decides_a_branch() {
        let mut set = IdSet::default();
        for id in [1, 1, 64, 2, 64] {
            let was_in = set.contains(id);
            if set.insert(id) {
                assert!(!was_in, "{id} was put in twice");
            } else {
                assert!(was_in, "{id} was not put in");
            }
        }
        assert_eq!(set.len(), 3);
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

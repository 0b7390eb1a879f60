//! The table of calls that were made and not answered. Pure.

use crate::id_map::IdMap;
use crate::wire::MAX_ID;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Entries by id. Ids are given in order, so the table is a window that moves over them; an entry
/// that is left far behind, because its call takes long, moves to a map and does not hold the window
/// open. No id is used again before two thousand million others, and never while its entry is there.
///
/// The window is made of blocks, and a block that is empty becomes the next one: so the table is as
/// large as what is outstanding, stays in the processor's cache if that is little, and never moves.
pub(crate) struct Calls<E> {
    /// The places of the ids from `base` on, up to the next one. All blocks but the last are full, and the
    /// first one has an entry, if any has.
    window: VecDeque<Block<E>>,
    base: u32,
    /// The next id.
    next: u32,
    /// How many entries the window has.
    here: usize,
    /// How many places at the beginning of the first block are known to be empty.
    gone: usize,
    /// Entries of ids before the window, or from before the ids wrapped around.
    left: IdMap<E>,
    /// Empty blocks, kept for their memory.
    spare: Vec<Places<E>>,
}

/// A removed entry is `None`.
type Places<E> = Vec<Option<E>>;

struct Block<E> {
    places: Places<E>,
    /// How many entries it has.
    here: usize,
}

/// How many places a block has.
const BLOCK: usize = 256;
/// How many blocks are kept for their memory, needed or not.
const KEPT: usize = 4;

impl<E> Calls<E> {
    pub(crate) fn new() -> Self {
        Calls {
            window: VecDeque::new(),
            base: 1,
            next: 1,
            here: 0,
            gone: 0,
            left: IdMap::default(),
            spare: Vec::new(),
        }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.here + self.left.len()
    }

    /// Puts an entry in and returns its id, and where it is.
    #[inline]
    pub(crate) fn insert(&mut self, entry: E) -> (u32, &mut E) {
        if self.next > MAX_ID || !self.left.is_empty() {
            self.find_free_id();
        }
        self.here += 1;
        let id = self.next;
        let block = self.append(Some(entry));
        block.here += 1;
        let last = block.places.last_mut().and_then(Option::as_mut);
        (id, last.expect("it was just put there"))
    }

    /// Makes the next id one that is free. Only after the ids have wrapped around one may be taken.
    fn find_free_id(&mut self) {
        loop {
            if self.next > MAX_ID {
                self.leave_behind(self.window.len());
                (self.base, self.next) = (1, 1);
            }
            if !self.left.contains(self.next) {
                return;
            }
            if self.here == 0 {
                // It needs no place: the window begins behind it.
                (self.base, self.next) = (self.base + 1, self.next + 1);
            } else {
                self.append(None);
            }
        }
    }

    /// Gives the next id a place.
    #[inline]
    fn append(&mut self, entry: Option<E>) -> &mut Block<E> {
        let is_full = |block: &Block<E>| block.places.len() == BLOCK;
        if self.window.back().is_none_or(is_full) {
            self.add_block();
        }
        self.next += 1;
        let block = self.window.back_mut().expect("there is one with room");
        block.places.push(entry);
        block
    }

    #[cold]
    fn add_block(&mut self) {
        let places = self.spare.pop().unwrap_or_else(|| {
            // Most programs have few calls at a time.
            match self.window.is_empty() {
                true => Vec::new(),
                false => Vec::with_capacity(BLOCK),
            }
        });
        self.window.push_back(Block { places, here: 0 });
        // Only now: the last block stays, and it must not be a full one without entries.
        if self.is_sparse() {
            self.leave_behind(self.window.len() / 2);
        }
    }

    /// Where an id is in the window: the block, and the place in it. Out of range if it is not there.
    fn place(&self, id: u32) -> (usize, usize) {
        let n = id.wrapping_sub(self.base) as usize;
        (n / BLOCK, n % BLOCK)
    }

    /// The entry of an id, if it is outstanding.
    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut E> {
        let (block, at) = self.place(id);
        let block = self.window.get_mut(block);
        match block.and_then(|block| block.places.get_mut(at)) {
            Some(Some(entry)) => Some(entry),
            _ => self.left.get_mut(id),
        }
    }

    /// Removes the entry of an id.
    pub(crate) fn remove(&mut self, id: u32) {
        self.remove_with(id, |_| Some(()));
    }

    /// Passes the entry of an id to `take`, and removes it if that returns something.
    #[inline]
    pub(crate) fn remove_with<T>(
        &mut self,
        id: u32,
        take: impl FnOnce(&mut E) -> Option<T>,
    ) -> Option<T> {
        let (block, at) = self.place(id);
        if let Some(block) = self.window.get_mut(block)
            && let Some(slot @ Some(_)) = block.places.get_mut(at)
        {
            let taken = take(slot.as_mut()?)?;
            *slot = None;
            self.here -= 1;
            block.here -= 1;
            if block.here == 0 {
                self.tidy_up();
            }
            return Some(taken);
        }
        let taken = take(self.left.get_mut(id)?)?;
        self.left.remove(id);
        Some(taken)
    }

    /// Removes blocks without entries from the beginning. The last one stays.
    fn tidy_up(&mut self) {
        while let Some(Block { here: 0, .. }) = self.window.front()
            && self.window.len() > 1
            && let Some(block) = self.pop_block()
        {
            self.retire(block);
        }
        if self.here == 0 {
            // As after each blocking call: the next one takes the same place.
            self.window.iter_mut().for_each(|last| last.places.clear());
            (self.base, self.gone) = (self.next, 0);
        }
    }

    /// Takes the first block out of the window.
    fn pop_block(&mut self) -> Option<Block<E>> {
        let block = self.window.pop_front()?;
        self.base += block.places.len() as u32;
        self.here -= block.here;
        self.gone = 0;
        Some(block)
    }

    /// Keeps a block for its memory.
    fn retire(&mut self, mut block: Block<E>) {
        block.places.clear();
        self.spare.push(block.places);
    }

    /// Whether there are many more places than entries.
    fn is_sparse(&self) -> bool {
        self.window.len() > KEPT && self.window.len() * BLOCK > 4 * self.here
    }

    /// Whether there is room for many more than there are.
    pub(crate) fn is_roomy(&self) -> bool {
        self.spare.len() > KEPT || self.is_sparse() || self.left.is_roomy()
    }

    /// Gives most of that room back.
    pub(crate) fn trim(&mut self) {
        while self.is_sparse() {
            self.leave_behind(self.window.len() / 2);
        }
        self.spare = Vec::new();
        self.window.shrink_to(2 * self.window.len());
        self.left.trim();
    }

    /// The oldest outstanding id. Searches all that were left behind.
    pub(crate) fn first(&mut self) -> Option<u32> {
        let old = self.left.iter().min_by_key(|(id, _)| self.age(*id));
        if let Some((id, _)) = old {
            return Some(id as u32);
        }
        let places = &self.window.front()?.places;
        self.gone += places[self.gone..].iter().position(Option::is_some)?;
        Some(self.base + self.gone as u32)
    }

    /// A number that orders the entries that were left behind. Ids from before the wrap-around, the
    /// high ones, come first.
    fn age(&self, id: u64) -> u64 {
        id.wrapping_sub(self.base.into())
    }

    /// How many ids ago this one was given: the last one was given 1 ago.
    pub(crate) fn ids_since(&self, id: u32) -> u32 {
        match id < self.next {
            true => self.next - id,
            false => MAX_ID - id + self.next,
        }
    }

    /// Takes all entries out, in the order in which they were put in, and passes each on with its id, and how
    /// many [ids ago](Calls::ids_since) that was.
    pub(crate) fn drain(&mut self, mut take: impl FnMut(u32, u32, E)) {
        let old = self.left.iter().map(|(id, _)| Reverse((self.age(id), id)));
        let mut old: BinaryHeap<_> = old.collect();
        while let Some(Reverse((_, id))) = old.pop() {
            if let Some(entry) = self.left.remove(id) {
                take(id as u32, self.ids_since(id as u32), entry);
            }
        }
        loop {
            let first = self.base;
            let Some(mut block) = self.pop_block() else {
                break;
            };
            for (place, id) in block.places.iter_mut().zip(first..) {
                if let Some(entry) = place.take() {
                    take(id, self.ids_since(id), entry);
                }
            }
        }
    }

    /// Moves the first `count` blocks of the window to the map.
    fn leave_behind(&mut self, count: usize) {
        for _ in 0..count {
            let first = self.base;
            let Some(mut block) = self.pop_block() else {
                break;
            };
            for (place, id) in block.places.iter_mut().zip(first..) {
                if let Some(entry) = place.take() {
                    self.left.insert(id, entry);
                }
            }
            self.retire(block);
        }
        self.tidy_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn drained<E>(calls: &mut Calls<E>) -> Vec<E> {
        let mut all = Vec::new();
        calls.drain(|_, _, entry| all.push(entry));
        all
    }

    fn taken<E: Copy>(calls: &mut Calls<E>, id: u32) -> Option<E> {
        calls.remove_with(id, |entry| Some(*entry))
    }

    #[test]
    fn ids_count_from_one_and_are_not_reused() {
        let mut calls = Calls::new();
        assert_eq!((calls.insert('a').0, calls.insert('b').0), (1, 2));
        assert_eq!(taken(&mut calls, 1), Some('a'));
        assert_eq!(taken(&mut calls, 1), None);
        assert_eq!(taken(&mut calls, 2), Some('b'));
        assert_eq!(calls.insert('c').0, 3);
        assert_eq!(calls.get_mut(3), Some(&mut 'c'));
        assert_eq!(calls.get_mut(0), None);
        assert_eq!(calls.get_mut(4), None);
    }

    #[test]
    fn old_call_does_not_hold_the_window_open() {
        let mut calls = Calls::new();
        calls.insert(0);
        for n in 1..if cfg!(miri) { 1500 } else { 100_000 } {
            let id = calls.insert(n).0;
            assert_eq!(taken(&mut calls, id), Some(n));
        }
        assert!(calls.window.len() <= 2 * KEPT, "{}", calls.window.len());
        assert_eq!(calls.first(), Some(1));
        assert_eq!(taken(&mut calls, 1), Some(0));
        assert_eq!((calls.len(), calls.first()), (0, None));
    }

    #[test]
    fn ids_are_counted_back_across_the_wrap_around() {
        let mut calls = Calls::new();
        (calls.base, calls.next) = (MAX_ID - 1, MAX_ID - 1);
        let ids: Vec<u32> = (0..4).map(|n| calls.insert(n).0).collect();
        assert_eq!(ids, [MAX_ID - 1, MAX_ID, 1, 2]);
        let since = ids.iter().map(|id| calls.ids_since(*id));
        assert_eq!(since.collect::<Vec<_>>(), [4, 3, 2, 1]);
        assert_eq!(calls.ids_since(3), MAX_ID, "it is next");
        let mut all = Vec::new();
        calls.drain(|_, since, n| all.push((since, n)));
        assert_eq!(all, [(4, 0), (3, 1), (2, 2), (1, 3)]);
    }

    #[test]
    fn room_for_many_is_given_back() {
        let mut calls = Calls::new();
        let count = if cfg!(miri) { 3000 } else { 10_000 };
        let ids: Vec<u32> = (0..count).map(|n| calls.insert(n).0).collect();
        for id in &ids[..ids.len() - 10] {
            assert!(taken(&mut calls, *id).is_some());
        }
        assert!(calls.is_roomy());
        calls.trim();
        assert!(!calls.is_roomy());
        let blocks = calls.window.capacity() + calls.spare.capacity();
        assert!(blocks <= 2 * KEPT, "{blocks}");
        assert_eq!(
            (calls.len(), calls.first()),
            (10, Some(ids[ids.len() - 10]))
        );
    }

    #[test]
    fn ids_begin_again_and_step_over_old_ones() {
        let mut calls = Calls::new();
        assert_eq!(calls.insert('a').0, 1);
        calls.insert('b');
        (calls.base, calls.next) = (MAX_ID - 1, MAX_ID + 1);
        calls.left.insert(1u32, 'o');
        calls.left.insert(2u32, 'p');
        calls.left.insert(4u32, 'q');
        assert_eq!(calls.len(), 5);
        assert_eq!((calls.insert('c').0, calls.insert('d').0), (3, 5));
        assert_eq!(calls.first(), Some(4));
        assert_eq!(taken(&mut calls, 4), Some('q'));
        assert_eq!(calls.first(), Some(MAX_ID - 1));
        assert_eq!(taken(&mut calls, MAX_ID - 1), Some('a'));
        assert_eq!(taken(&mut calls, MAX_ID), Some('b'));
        assert_eq!(taken(&mut calls, 1), Some('o'));
        assert_eq!(taken(&mut calls, 2), Some('p'));
        assert_eq!(drained(&mut calls), ['c', 'd']);
    }

    #[test]
    fn first_is_the_oldest() {
        let mut calls = Calls::new();
        for count in (1..2 * BLOCK).step_by(if cfg!(miri) { 170 } else { 7 }) {
            let ids: Vec<u32> = (0..count).map(|n| calls.insert(n).0).collect();
            for id in ids {
                assert_eq!(calls.first(), Some(id));
                calls.remove(id);
            }
            assert_eq!(calls.first(), None);
        }
    }

    /// Only the block that is about to be added is left in the window.
    #[test]
    fn first_is_found_behind_what_was_left() {
        let mut calls = Calls::new();
        let oldest = calls.insert(0).0;
        for n in 1..(KEPT + 1) * BLOCK {
            let id = calls.insert(n).0;
            calls.remove(id);
        }
        let newest = calls.insert(0).0;
        assert!(!calls.left.is_empty());
        assert_eq!(calls.first(), Some(oldest));
        calls.remove(oldest);
        assert_eq!(calls.first(), Some(newest));
    }

    /// As above, and the next id is one that is taken.
    #[test]
    fn id_is_stepped_over_where_a_block_begins() {
        let mut calls = Calls::new();
        let next = ((KEPT + 1) * BLOCK) as u32 + 1;
        calls.left.insert(next, 42);
        calls.insert(0);
        for n in 1..(KEPT + 1) * BLOCK {
            let id = calls.insert(n).0;
            calls.remove(id);
        }
        assert_eq!(calls.insert(9).0, next + 1);
        assert_eq!(calls.get_mut(next + 1), Some(&mut 9));
        assert_eq!((calls.len(), taken(&mut calls, next)), (3, Some(42)));
    }

    #[test]
    fn drain_keeps_the_order() {
        let mut calls = Calls::new();
        let ids: Vec<u32> = (0..2000).map(|n| calls.insert(n).0).collect();
        for id in ids.into_iter().filter(|id| id % 100 != 0) {
            assert!(taken(&mut calls, id).is_some());
        }
        calls.trim();
        assert!(!calls.left.is_empty() && calls.here > 0);
        let want: Vec<u32> = (0..20).map(|n| n * 100 + 99).collect();
        assert_eq!(drained(&mut calls), want);
    }

    /// The invariants of the window hold.
    fn check<E>(calls: &Calls<E>) {
        let places: usize = calls.window.iter().map(|it| it.places.len()).sum();
        assert_eq!(calls.base as usize + places, calls.next as usize);
        let here: usize = calls.window.iter().map(|it| it.here).sum();
        assert_eq!(calls.here, here);
        let last = calls.window.len().saturating_sub(1);
        let full = calls.window.iter().take(last);
        assert!(full.into_iter().all(|it| it.places.len() == BLOCK));
        assert!(here == 0 || calls.window[0].here > 0);
    }

    /// Growing and shrinking, entries left behind, ids wrapping around: the same entries, in order.
    #[test]
    #[cfg_attr(miri, ignore = "takes long before it has been everywhere")]
    fn behaves_as_a_list() {
        let (mut calls, mut model) = (Calls::new(), BTreeMap::new());
        (calls.base, calls.next) = (MAX_ID - 20_000, MAX_ID - 20_000);
        let mut random = 1u32;
        let (mut left_behind, mut most_spare) = (0, 0);
        for n in 0..400_000u32 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let growing = n / 20_000 % 2 == 0;
            if model.is_empty() || (random >> 24 < 160) == growing {
                let id = calls.insert(n).0;
                assert!((1..=MAX_ID).contains(&id));
                assert!(model.insert(n, id).is_none());
            } else {
                // Mostly one of the oldest: some stay for long.
                let at = (random >> 8 & 0xffff).leading_zeros() as usize % 16 * model.len() / 16;
                let (&n, &id) = model.iter().nth(at.min(200)).unwrap();
                assert_eq!(taken(&mut calls, id), Some(n));
                assert_eq!(taken(&mut calls, id), None);
                model.remove(&n);
            }
            assert_eq!(calls.len(), model.len());
            check(&calls);
            left_behind = left_behind.max(calls.left.len());
            most_spare = most_spare.max(calls.spare.len());
            if n % 1000 == 0 {
                assert_eq!(calls.first(), model.first_key_value().map(|(_, id)| *id));
                for (n, id) in &model {
                    assert_eq!(calls.get_mut(*id).copied(), Some(*n));
                }
            }
            if n % 50_000 == 0 {
                calls.trim();
                assert!(!calls.is_roomy());
            }
        }
        assert!(
            left_behind > 0 && most_spare > KEPT,
            "{left_behind}, {most_spare}"
        );
        assert_eq!(drained(&mut calls), model.into_keys().collect::<Vec<_>>());
        assert_eq!((calls.len(), calls.first()), (0, None));
    }
}

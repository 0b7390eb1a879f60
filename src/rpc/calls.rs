//! The table of calls that were made and not answered. Pure.

use crate::by_id::ById;
use crate::wire::MAX_ID;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Entries by id. Ids are given in order, so the table is a window that moves over them; what is
/// left far behind, because it takes long, moves to a map and does not hold the window open. No id
/// is given again before two thousand million others, and never while its entry is there.
pub(crate) struct Calls<E> {
    /// Entries of the ids from `base` on. The first `gone` are `None`, and are removed many at once.
    window: VecDeque<Option<E>>,
    base: u32,
    gone: usize,
    /// How many entries the window has.
    here: usize,
    /// Entries of ids before the window, or from before ids began again.
    left: ById<E>,
}

/// The window is at least this long before entries are left behind.
const SHORT: usize = 256;
/// So many places are removed at once from the window's beginning.
const MANY: usize = 64;

impl<E> Calls<E> {
    pub(crate) fn new() -> Self {
        Calls {
            window: VecDeque::new(),
            base: 1,
            gone: 0,
            here: 0,
            left: ById::default(),
        }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.here + self.left.len()
    }

    /// Puts an entry in and returns its id, and where it is.
    #[inline]
    pub(crate) fn insert(&mut self, entry: E) -> (u32, &mut E) {
        let id = self.next_id();
        self.here += 1;
        self.window.push_back(Some(entry));
        let last = self.window.back_mut().and_then(Option::as_mut);
        (id, last.expect("it was just put there"))
    }

    /// The id of the next entry of the window.
    #[inline]
    fn next_id(&mut self) -> u32 {
        let id = self.base as usize + self.window.len();
        if id <= MAX_ID as usize && self.left.is_empty() {
            return id as u32;
        }
        self.next_free_id()
    }

    fn next_free_id(&mut self) -> u32 {
        loop {
            if self.base as usize + self.window.len() > MAX_ID as usize {
                self.leave_behind(self.window.len());
                self.base = 1;
            }
            let id = self.base + self.window.len() as u32;
            if self.left.contains(id) {
                // Only after ids began again: step over it.
                match self.window.len() {
                    0 => self.base += 1,
                    _ => self.window.push_back(None),
                }
                continue;
            }
            return id;
        }
    }

    /// The entry of an id, if it is outstanding.
    #[inline]
    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut E> {
        match id
            .checked_sub(self.base)
            .and_then(|n| self.window.get_mut(n as usize))
        {
            Some(Some(entry)) => Some(entry),
            _ => self.left.get_mut(id),
        }
    }

    /// Takes the entry of an id out.
    pub(crate) fn remove(&mut self, id: u32) -> Option<E> {
        let slot = id
            .checked_sub(self.base)
            .and_then(|n| self.window.get_mut(n as usize));
        match slot {
            Some(slot @ Some(_)) => {
                let entry = slot.take();
                self.tidy_up();
                entry
            }
            _ => self.left.remove(id),
        }
    }

    /// Shows the entry of an id to `take`, and removes it if that takes something.
    #[inline]
    pub(crate) fn remove_with<T>(
        &mut self,
        id: u32,
        take: impl FnOnce(&mut E) -> Option<T>,
    ) -> Option<T> {
        let slot = id
            .checked_sub(self.base)
            .and_then(|n| self.window.get_mut(n as usize));
        match slot {
            Some(slot @ Some(_)) => {
                let taken = take(slot.as_mut()?)?;
                *slot = None;
                self.tidy_up();
                Some(taken)
            }
            _ => {
                let taken = take(self.left.get_mut(id)?)?;
                self.left.remove(id);
                Some(taken)
            }
        }
    }

    /// An entry of the window is gone.
    #[inline]
    fn tidy_up(&mut self) {
        self.here -= 1;
        while let Some(None) = self.window.get(self.gone) {
            self.gone += 1;
        }
        if self.gone >= MANY || self.here == 0 {
            self.remove_gone();
        }
        if self.window.len() > SHORT && self.window.len() > 4 * self.here {
            self.leave_behind(self.window.len() / 2);
        }
    }

    /// Removes the places at the beginning that have no entry any more.
    fn remove_gone(&mut self) {
        self.base += self.gone as u32;
        if self.gone == 1 {
            // As after each call that was waited for.
            self.window.pop_front();
        } else {
            self.window.drain(..self.gone);
        }
        self.gone = 0;
    }

    /// Whether there is room for many more than there are.
    pub(crate) fn is_roomy(&self) -> bool {
        self.window.capacity() > 8 * self.enough() || self.left.is_roomy()
    }

    /// Gives most of that room back.
    pub(crate) fn trim(&mut self) {
        if self.is_roomy() {
            self.window.shrink_to(2 * self.enough());
            self.left.trim();
        }
    }

    fn enough(&self) -> usize {
        self.window.len().max(SHORT)
    }

    /// The id that was given first of those outstanding. Looks through all that were left behind.
    pub(crate) fn first(&self) -> Option<u32> {
        let old = self.left.iter().min_by_key(|(id, _)| self.age(*id));
        old.map(|(id, _)| id as u32)
            .or((self.here > 0).then_some(self.base + self.gone as u32))
    }

    /// A number by which those that were left behind are in order. Ids from before ids began again,
    /// the high ones, are first.
    fn age(&self, id: u64) -> u64 {
        id.wrapping_sub(self.base.into())
    }

    /// Takes all entries out, in the order in which they were put in.
    pub(crate) fn drain(&mut self, mut take: impl FnMut(E)) {
        let old = self.left.iter().map(|(id, _)| Reverse((self.age(id), id)));
        let mut old: BinaryHeap<_> = old.collect();
        while let Some(Reverse((_, id))) = old.pop() {
            if let Some(entry) = self.left.remove(id) {
                take(entry);
            }
        }
        self.base += self.window.len() as u32;
        while let Some(place) = self.window.pop_front() {
            if let Some(entry) = place {
                take(entry);
            }
        }
        (self.gone, self.here) = (0, 0);
    }

    /// Moves the first `count` places of the window to the map.
    fn leave_behind(&mut self, count: usize) {
        self.gone = 0;
        for entry in self.window.drain(..count) {
            if let Some(entry) = entry {
                self.left.insert(self.base, entry);
                self.here -= 1;
            }
            self.base += 1;
        }
        while let Some(None) = self.window.get(self.gone) {
            self.gone += 1;
        }
        self.remove_gone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained<E>(calls: &mut Calls<E>) -> Vec<E> {
        let mut all = Vec::new();
        calls.drain(|entry| all.push(entry));
        all
    }

    #[test]
    fn ids_count_from_one_and_are_not_reused() {
        let mut calls = Calls::new();
        assert_eq!((calls.insert('a').0, calls.insert('b').0), (1, 2));
        assert_eq!(calls.remove(1), Some('a'));
        assert_eq!(calls.remove(1), None);
        assert_eq!(calls.remove(2), Some('b'));
        assert_eq!(calls.insert('c').0, 3);
        assert_eq!(calls.get_mut(3), Some(&mut 'c'));
        assert_eq!(calls.get_mut(0), None);
        assert_eq!(calls.get_mut(4), None);
    }

    #[test]
    fn old_call_does_not_hold_the_window_open() {
        let mut calls = Calls::new();
        calls.insert(0);
        for n in 1..100_000 {
            let id = calls.insert(n).0;
            assert_eq!(calls.remove(id), Some(n));
        }
        assert!(calls.window.len() <= 2 * SHORT, "{}", calls.window.len());
        assert_eq!(calls.first(), Some(1));
        assert_eq!(calls.remove(1), Some(0));
        assert_eq!((calls.len(), calls.first()), (0, None));
    }

    #[test]
    fn room_for_many_is_given_back() {
        let mut calls = Calls::new();
        let ids: Vec<u32> = (0..10_000).map(|n| calls.insert(n).0).collect();
        for id in &ids[..9_990] {
            assert!(calls.remove(*id).is_some());
        }
        assert!(calls.is_roomy());
        calls.trim();
        assert!(!calls.is_roomy());
        let room = calls.window.capacity();
        assert!(room <= 8 * SHORT, "{room}");
        assert_eq!((calls.len(), calls.first()), (10, Some(ids[9_990])));
    }

    #[test]
    fn ids_begin_again_and_step_over_old_ones() {
        let mut calls = Calls::new();
        assert_eq!(calls.insert('a').0, 1);
        calls.insert('b');
        calls.base = MAX_ID - 1;
        calls.left.insert(1u32, 'o');
        calls.left.insert(2u32, 'p');
        assert_eq!(calls.len(), 4);
        assert_eq!(calls.insert('c').0, 3);
        assert_eq!(calls.first(), Some(MAX_ID - 1));
        assert_eq!(calls.remove(MAX_ID - 1), Some('a'));
        assert_eq!(calls.remove(MAX_ID), Some('b'));
        assert_eq!(calls.remove(1), Some('o'));
        assert_eq!(calls.remove(2), Some('p'));
        assert_eq!(drained(&mut calls), ['c']);
    }

    #[test]
    fn drain_keeps_the_order() {
        let mut calls = Calls::new();
        let ids: Vec<u32> = (0..2000).map(|n| calls.insert(n).0).collect();
        for id in ids.into_iter().filter(|id| id % 100 != 0) {
            assert!(calls.remove(id).is_some());
        }
        assert!(!calls.left.is_empty());
        let want: Vec<u32> = (0..20).map(|n| n * 100 + 99).collect();
        assert_eq!(drained(&mut calls), want);
    }
}

//! A map for sequential numbers: ids of calls, keys of links. Pure.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Values by id.
///
/// The hash table maps ids to places in a list of values, so it has the same type for all values:
/// one that contains the values is instantiated for each type, at about 2 KiB, and a tree at 5.
#[derive(Debug)]
pub(crate) struct IdMap<V> {
    /// The place in the list of the value of an id.
    places: HashMap<u64, usize, BuildHasherDefault<IdHasher>>,
    list: Vec<(u64, V)>,
}

/// Capacity for eight times this many is always kept.
const FEW: usize = 64;

impl<V> Default for IdMap<V> {
    fn default() -> Self {
        IdMap {
            places: HashMap::default(),
            list: Vec::new(),
        }
    }
}

impl<V> IdMap<V> {
    /// Inserts a value. Drops the one that the id had.
    pub(crate) fn insert(&mut self, id: impl Into<u64>, value: V) {
        let id = id.into();
        match self.places.insert(id, self.list.len()) {
            None => self.list.push((id, value)),
            Some(place) => {
                self.places.insert(id, place);
                self.list[place].1 = value;
            }
        }
    }

    /// Removes the value of an id. The capacity is kept until [`trim`](IdMap::trim) is called.
    pub(crate) fn remove(&mut self, id: impl Into<u64>) -> Option<V> {
        let place = self.places.remove(&id.into())?;
        let (_, value) = self.list.swap_remove(place);
        if let Some((last, _)) = self.list.get(place) {
            self.places.insert(*last, place);
        }
        Some(value)
    }

    /// Whether the capacity is far more than needed.
    pub(crate) fn is_roomy(&self) -> bool {
        self.list.capacity() > 8 * self.list.len().max(FEW)
    }

    /// Frees most of the excess capacity.
    pub(crate) fn trim(&mut self) {
        if self.is_roomy() {
            let enough = 2 * self.list.len().max(FEW);
            self.places.shrink_to(enough);
            self.list.shrink_to(enough);
        }
    }

    pub(crate) fn get_mut(&mut self, id: impl Into<u64>) -> Option<&mut V> {
        let place = *self.places.get(&id.into())?;
        Some(&mut self.list[place].1)
    }

    pub(crate) fn get(&self, id: impl Into<u64>) -> Option<&V> {
        let place = *self.places.get(&id.into())?;
        Some(&self.list[place].1)
    }

    pub(crate) fn contains(&self, id: impl Into<u64>) -> bool {
        self.places.contains_key(&id.into())
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All ids and values, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        self.list.iter().map(|(id, value)| (*id, value))
    }

    /// All values, in no particular order.
    pub(crate) fn into_values(self) -> impl Iterator<Item = V> {
        self.list.into_iter().map(|(_, value)| value)
    }
}

/// Spreads numbers that are consecutive, or in equal steps. They are assigned by the program
/// itself, or by the parent that it serves: nobody gains by choosing colliding ones.
#[derive(Debug, Default)]
struct IdHasher(u64);

/// 2^64 divided by the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    fn write_u64(&mut self, id: u64) {
        // The high bits of the product depend on all bits of the id, and a map uses the low ones.
        self.0 = (self.0 ^ id).wrapping_mul(FACTOR).rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn behaves_as_a_map() {
        let (mut map, mut model) = (IdMap::default(), BTreeMap::new());
        let mut random = 1u32;
        for n in 0..100_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let id = random >> 8 & 0xff;
            match random >> 30 {
                0 => assert_eq!(map.remove(id), model.remove(&id)),
                1 => assert_eq!(map.get_mut(id), model.get_mut(&id)),
                2 => {
                    map.insert(id, n);
                    model.insert(id, n);
                }
                _ => assert_eq!(map.get(id), model.get(&id)),
            }
            assert_eq!(map.contains(id), model.contains_key(&id));
            assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
        }
        let all: BTreeMap<u32, i32> = map.iter().map(|(id, n)| (id as u32, *n)).collect();
        assert_eq!(all, model);
        assert_eq!(map.into_values().count(), model.len());
    }

    #[test]
    fn excess_capacity_is_freed() {
        let mut map = IdMap::default();
        let count = 10_000u32;
        for id in 0..count {
            map.insert(id, id);
        }
        for id in 0..count - 10 {
            assert_eq!(map.remove(id), Some(id));
        }
        assert!(map.is_roomy());
        map.trim();
        assert!(!map.is_roomy());
        let (places, list) = (map.places.capacity(), map.list.capacity());
        assert!(places <= 8 * FEW && list <= 8 * FEW, "{places}, {list}");
        for id in count - 10..count {
            assert_eq!(map.get(id), Some(&id));
        }
    }

    /// Whatever the step between 2048 ids, no place of a table of 4096 gets many of them.
    #[test]
    fn equal_steps_are_spread() {
        let steps = (0..32).map(|n| 1 << n).chain([3, 10, 100, 1000]);
        for step in steps {
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

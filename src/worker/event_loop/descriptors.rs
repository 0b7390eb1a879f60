//! The descriptors that a loop watches.

use crate::sys::{Interest, PollSet};
use std::os::fd::RawFd;

/// A descriptor that is watched. The callback owns it, so it stays open.
#[derive(Debug)]
pub(super) struct Descriptor<C> {
    pub(super) fd: RawFd,
    pub(super) interest: Interest,
    pub(super) callback: C,
}

/// Descriptors by id. All of them are gone through before every sleep, so a list will do.
#[derive(Debug)]
pub(super) struct Descriptors<C>(Vec<(u64, Descriptor<C>)>);

impl<C> Default for Descriptors<C> {
    fn default() -> Self {
        Descriptors(Vec::new())
    }
}

/// Ids of descriptors, and their places in a [`PollSet`].
pub(crate) type PollPlaces = Vec<(u64, usize)>;

impl<C> Descriptors<C> {
    /// Puts a descriptor in, under an id that is not in.
    pub(super) fn insert(&mut self, id: u64, descriptor: Descriptor<C>) {
        let at = self.0.partition_point(|(other, _)| *other < id);
        self.0.insert(at, (id, descriptor));
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Descriptor<C>> {
        let at = self.0.binary_search_by_key(&id, |(other, _)| *other).ok()?;
        Some(self.0.remove(at).1)
    }

    pub(super) fn into_values(self) -> impl Iterator<Item = Descriptor<C>> {
        self.0.into_iter().map(|(_, descriptor)| descriptor)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds all of them to a set, and notes where.
    pub(super) fn add_to(&self, set: &mut PollSet, places: &mut PollPlaces) {
        places.clear();
        for (id, descriptor) in &self.0 {
            places.push((*id, set.add(descriptor.fd, descriptor.interest)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_kept_by_id_and_polled_in_that_order() {
        let mut all = Descriptors::default();
        for id in [3, 1, 7] {
            all.insert(
                id,
                Descriptor {
                    fd: id as RawFd,
                    interest: Interest::Readable,
                    callback: id,
                },
            );
        }
        let (mut set, mut places) = (PollSet::default(), vec![(9, 9)]);
        all.add_to(&mut set, &mut places);
        assert_eq!(places, [(1, 0), (3, 1), (7, 2)]);
        assert!(all.remove(2).is_none());
        assert_eq!(all.remove(3).map(|removed| removed.callback), Some(3));
        assert!(all.remove(3).is_none() && !all.is_empty());
        assert!(all.remove(1).is_some() && all.remove(7).is_some() && all.is_empty());
    }
}

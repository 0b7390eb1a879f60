//! A reference that can be replaced, and is read without a lock: in a copy of the process, another thread
//! may have held that for ever.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct StaticRef<T: 'static>(AtomicPtr<T>);

impl<T: Sync> StaticRef<T> {
    pub(crate) const fn new() -> Self {
        StaticRef(AtomicPtr::new(ptr::null_mut()))
    }

    /// Replaces it. Returns what was there before.
    pub(crate) fn replace(&self, value: &'static T) -> Option<&'static T> {
        let before = self
            .0
            .swap(ptr::from_ref(value).cast_mut(), Ordering::AcqRel);
        // SAFETY: as in `get`.
        unsafe { before.as_ref() }
    }

    pub(crate) fn get(&self) -> Option<&'static T> {
        // SAFETY: it is null, or was a reference that is valid for ever, to what threads may share.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_reference_is_there() {
        static PLACE: StaticRef<u32> = StaticRef::new();
        assert_eq!(PLACE.get(), None);
        assert_eq!(PLACE.replace(&1), None);
        assert_eq!(PLACE.replace(&2), Some(&1));
        assert_eq!(PLACE.get(), Some(&2));
    }
}

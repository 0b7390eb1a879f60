//! A value that is lent to the code that a function calls, without being passed to it.

use std::cell::Cell;
use std::ptr::{self, NonNull};

/// Where a value can be found while it is lent. To be kept in a thread-local variable.
pub(crate) struct Lent<T>(Cell<*mut T>);

/// Puts the pointer back that was there before, also on unwinding.
struct Restore<'a, T>(&'a Cell<*mut T>, *mut T);

impl<T> Drop for Restore<'_, T> {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

impl<T> Lent<T> {
    pub(crate) const fn new() -> Self {
        Lent(Cell::new(ptr::null_mut()))
    }

    /// Runs `body`, in which [`with`](Lent::with) has the value.
    pub(crate) fn lend<R>(&self, value: &mut T, body: impl FnOnce() -> R) -> R {
        let _restore = Restore(&self.0, self.0.replace(value));
        body()
    }

    /// Whether [`with`](Lent::with) would have a value.
    pub(crate) fn is_lent(&self) -> bool {
        !self.0.get().is_null()
    }

    /// Runs `body` with the value that is lent. `None` if none is, or it is in use already.
    pub(crate) fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> Option<R> {
        // Nobody else finds it meanwhile.
        let lent = self.0.replace(ptr::null_mut());
        let _restore = Restore(&self.0, lent);
        let mut lent = NonNull::new(lent)?;
        // SAFETY: the pointer is there only while `lend` runs, which has exclusive access to the value
        // and does not use it meanwhile; the cell cannot be used by another thread. It is taken out
        // while it is used here, so there is no second reference.
        Some(body(unsafe { lent.as_mut() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn value_is_found_while_it_is_lent() {
        let lent = Lent::new();
        let add = |n| lent.with(|sum: &mut i32| *sum += n);
        assert!(add(1).is_none() && !lent.is_lent());
        let (mut sum, mut other) = (0, 0);
        lent.lend(&mut sum, || {
            assert!(add(1).is_some() && lent.is_lent());
            lent.lend(&mut other, || add(10));
            assert_eq!(add(2), Some(()));
        });
        assert_eq!(add(4), None);
        assert_eq!((sum, other), (3, 10));
    }

    #[test]
    fn value_in_use_is_not_found_again() {
        let lent = Lent::new();
        let mut value = 1;
        let found = lent.lend(&mut value, || {
            let inner = lent.with(|value| (*value, lent.with(|value| *value)));
            (inner, lent.with(|value| *value))
        });
        assert_eq!(found, (Some((1, None)), Some(1)));
    }

    #[test]
    fn panic_ends_a_loan() {
        let lent = Lent::new();
        let mut value = 1;
        let panics = |body: &dyn Fn()| assert!(catch_unwind(AssertUnwindSafe(body)).is_err());
        lent.lend(&mut value, || {
            panics(&|| {
                lent.with(|_| panic!("in use"));
            });
            assert_eq!(lent.with(|value| *value), Some(1));
        });
        let _ = catch_unwind(AssertUnwindSafe(|| {
            lent.lend(&mut value, || panic!("lent"))
        }));
        assert_eq!(lent.with(|value| *value), None);
    }
}

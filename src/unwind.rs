//! Where panics end.

use crate::copies;
use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Runs the program's code. Returns `None` after a panic, which the panic hook has reported.
pub(crate) fn catch<T>(code: impl FnOnce() -> T) -> Option<T> {
    let result = try_catch(code);
    result.map_err(discard).ok()
}

/// Runs the program's code. Returns the payload of a panic, which the panic hook has reported.
pub(crate) fn try_catch<T>(code: impl FnOnce() -> T) -> Result<T, Box<dyn Any + Send>> {
    copies::run(|| catch_unwind(AssertUnwindSafe(code)))
}

/// Drops the payload of a panic. It is the program's, and its destructor may panic, too.
#[cold]
pub(crate) fn discard(payload: Box<dyn Any + Send>) {
    if let Err(payload) = try_catch(|| drop(payload)) {
        // This could be repeated for ever.
        mem::forget(payload);
    }
}

/// What a panic says.
pub(crate) fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("the panic payload is not a string")
}

/// Takes a lock under which nothing of the program's runs, so that nothing panics. If a bug makes
/// something panic nevertheless, what is waited for under this lock must still end: everybody else
/// continues with what is there.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As [`lock`], where nobody else has the lock.
pub(crate) fn get_mut<T>(mutex: &mut Mutex<T>) -> &mut T {
    mutex.get_mut().unwrap_or_else(PoisonError::into_inner)
}

/// Waits on `changed` while `condition` holds and `deadline` has not passed, under a [`lock`].
pub(crate) fn wait_until<'a, T>(
    changed: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Option<Instant>,
    condition: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    match deadline {
        None => {
            let woken = changed.wait_while(guard, condition);
            woken.unwrap_or_else(PoisonError::into_inner)
        }
        Some(deadline) => {
            let left = deadline.saturating_duration_since(Instant::now());
            let woken = changed.wait_timeout_while(guard, left, condition);
            woken.unwrap_or_else(PoisonError::into_inner).0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::panic_any;

    /// The payload of a panic that panics when it is dropped, with another one like it.
    struct PanickingPayload(u32);

    impl Drop for PanickingPayload {
        fn drop(&mut self) {
            panic_any(PanickingPayload(self.0 + 1));
        }
    }

    #[test]
    fn payload_whose_destructor_panics_is_caught() {
        assert_eq!(catch(|| 7), Some(7));
        assert_eq!(catch(|| -> i32 { panic_any(PanickingPayload(1)) }), None);
    }
}

//! Panics as values: what was said, and where, and whose calls are to fail with it.

use crate::wire::Failure;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// What this thread's last panic was.
    static LAST: RefCell<Option<Failure>> = const { RefCell::new(None) };
    /// Whether what is dropped now is dropped because of that.
    static BLAMING: Cell<bool> = const { Cell::new(false) };
    /// How many calls have failed with it.
    static BLAMED: Cell<usize> = const { Cell::new(0) };
    /// How many had, when what is run now began.
    static MARK: Cell<usize> = const { Cell::new(0) };
}

/// Runs `function`. A panic in it is returned as a failure, and is also shown on standard error by
/// the panic hook that there is.
///
/// Only the hook is told where a panic happened, so the first call here sets one, around the one
/// that is set. Only children come here, and their hook is theirs to set.
pub(crate) fn catch<T>(function: impl FnOnce() -> T) -> Result<T, Failure> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let place = info.location().map(ToString::to_string);
            LAST.set(Some(Failure::Panic {
                message: message(info.payload()),
                location: place.unwrap_or_default(),
            }));
            previous(info);
        }));
    });
    panic::catch_unwind(AssertUnwindSafe(function)).map_err(|_| last())
}

/// As [`catch`], for a callback that may own calls, in what it captures or was given. If it panics,
/// it is dropped, and those fail with the panic, which is returned if there were none.
pub(crate) fn catch_blaming<C>(
    mut callback: C,
    run: impl FnOnce(&mut C),
) -> Result<Option<C>, Failure> {
    let before = BLAMED.get();
    match catch(|| run(&mut callback)) {
        Ok(()) => Ok(Some(callback)),
        Err(panic) if drop_blaming(callback, &panic) || BLAMED.get() > before => Ok(None),
        Err(panic) => Err(panic),
    }
}

/// As [`catch_blaming`], for what is used up by being run: its panic drops what it owns.
pub(crate) fn catch_blaming_once(run: impl FnOnce()) -> Result<(), Failure> {
    mark();
    match catch(run) {
        Err(panic) if BLAMED.get() == MARK.get() => Err(panic),
        _ => Ok(()),
    }
}

/// What is run now is for [`catch_blaming_once`] as if it were run by itself: one guard for many.
#[inline]
pub(crate) fn mark() {
    MARK.set(BLAMED.get());
}

/// Drops what may own calls, because of a panic, which those fail with. Returns whether there were
/// any.
pub(crate) fn drop_blaming<C>(dropped: C, panic: &Failure) -> bool {
    let before = BLAMED.get();
    LAST.set(Some(panic.clone()));
    BLAMING.set(true);
    // What a destructor has to say in this situation is not worth more.
    let _ = catch(|| drop(dropped));
    BLAMING.set(false);
    BLAMED.get() > before
}

/// What a call fails with that is dropped unanswered at this moment.
pub(crate) fn blame() -> Failure {
    if !BLAMING.get() && !std::thread::panicking() {
        return Failure::Unanswered;
    }
    BLAMED.set(BLAMED.get() + 1);
    last()
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("the panic's value is no text").to_owned()
}

fn last() -> Failure {
    LAST.with_borrow(Clone::clone).unwrap_or(Failure::Panic {
        message: "a panic that no hook saw".to_owned(),
        location: "an unknown place".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tells what it was dropped with.
    struct FakeCall<'a>(&'a RefCell<Option<Failure>>);

    impl Drop for FakeCall<'_> {
        fn drop(&mut self) {
            self.0.replace(Some(blame()));
        }
    }

    #[test]
    fn message_and_place_are_told() {
        let Err(Failure::Panic { message, location }) = catch(|| panic!("no {}", 1)) else {
            panic!("it panicked");
        };
        assert_eq!(message, "no 1");
        assert!(location.contains("panics.rs:"), "{location}");
        assert_eq!(catch(|| 7), Ok(7));
    }

    #[test]
    fn call_that_is_dropped_by_a_panic_is_blamed_on_it() {
        let told = RefCell::default();
        let call = FakeCall(&told);
        let captured = move || {
            let _call = &call;
            panic!("captured");
        };
        let result = catch_blaming(captured, |callback| callback());
        assert!(matches!(result, Ok(None)));
        assert!(
            matches!(told.take(), Some(Failure::Panic { message, .. }) if message == "captured")
        );

        let call = FakeCall(&told);
        let result = catch_blaming(Some(call), |call| {
            let _given = call.take();
            panic!("given");
        });
        assert!(matches!(result, Ok(None)));
        assert!(matches!(told.take(), Some(Failure::Panic { message, .. }) if message == "given"));
    }

    #[test]
    fn panic_without_a_call_comes_back() {
        let result = catch_blaming((), |()| panic!("alone"));
        assert!(matches!(result, Err(Failure::Panic { message, .. }) if message == "alone"));
        let told = RefCell::default();
        drop(FakeCall(&told));
        assert_eq!(told.take(), Some(Failure::Unanswered));
    }
}

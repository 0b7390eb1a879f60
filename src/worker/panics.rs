//! Panics as values: the message, the location, and which calls fail with it.

use crate::unwind;
use crate::wire::Failure;
use std::cell::{Cell, RefCell};
use std::panic;
use std::sync::Once;

thread_local! {
    /// This thread's last panic.
    static LAST: RefCell<Option<Failure>> = const { RefCell::new(None) };
    /// Whether something is being dropped because of it.
    static DROPPING: Cell<bool> = const { Cell::new(false) };
    /// How many calls have failed with a panic.
    static FAILED_CALLS: Cell<usize> = const { Cell::new(0) };
    /// How many of those there were at the last [`begin_once`].
    static FAILED_BEFORE: Cell<usize> = const { Cell::new(0) };
}

/// Runs `function`. A panic in it is returned as a failure, and is also shown on standard error by
/// the panic hook that is set.
///
/// Only the hook is passed the location of a panic, so the first call here sets one that calls the
/// previous one. This runs in children only, and a child's hook is its own to set.
pub(crate) fn catch<T>(function: impl FnOnce() -> T) -> Result<T, Failure> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let location = info.location().map(ToString::to_string);
            LAST.set(Some(Failure::Panic {
                message: unwind::message(info.payload()).to_owned(),
                location: location.unwrap_or_default(),
            }));
            previous(info);
        }));
    });
    unwind::try_catch(function).map_err(|payload| {
        let panic = last();
        // It may own calls, too.
        drop_for(&panic, || unwind::discard(payload));
        panic
    })
}

/// Same as [`catch`], for a callback that may own calls, in what it captures or was given. If it
/// panics, it is dropped, and those calls fail with the panic. The panic is returned if there were
/// none.
pub(crate) fn catch_with_calls<C>(
    mut callback: C,
    run: impl FnOnce(&mut C),
) -> Result<Option<C>, Failure> {
    let before = FAILED_CALLS.get();
    match catch(|| run(&mut callback)) {
        Ok(()) => Ok(Some(callback)),
        Err(panic) if drop_after_panic(callback, &panic) || FAILED_CALLS.get() > before => Ok(None),
        Err(panic) => Err(panic),
    }
}

/// Same as [`catch_with_calls`], for a callback that runs once: its panic drops what it owns.
pub(crate) fn catch_with_calls_once(run: impl FnOnce()) -> Result<(), Failure> {
    begin_once();
    match catch(run) {
        Err(panic) if FAILED_CALLS.get() == FAILED_BEFORE.get() => Err(panic),
        _ => Ok(()),
    }
}

/// What follows counts for [`catch_with_calls_once`] as if it were run on its own: one guard serves
/// many calls.
pub(crate) fn begin_once() {
    FAILED_BEFORE.set(FAILED_CALLS.get());
}

/// Drops a value that may own calls because of a panic: those calls fail with it. Returns whether
/// there were any.
pub(crate) fn drop_after_panic<C>(value: C, panic: &Failure) -> bool {
    let before = FAILED_CALLS.get();
    // The hook shows a panic of a destructor; nothing more can be done about it here.
    drop_for(panic, || {
        let _ = unwind::catch(|| drop(value));
    });
    FAILED_CALLS.get() > before
}

/// Calls that `drop` drops fail with a panic.
fn drop_for(panic: &Failure, drop: impl FnOnce()) {
    LAST.set(Some(panic.clone()));
    let was_dropping = DROPPING.replace(true);
    drop();
    DROPPING.set(was_dropping);
}

/// The failure of a call that is being dropped unanswered.
pub(crate) fn failure_of_dropped_call() -> Failure {
    if !DROPPING.get() && !std::thread::panicking() {
        return Failure::Unanswered;
    }
    FAILED_CALLS.set(FAILED_CALLS.get() + 1);
    last()
}

/// Held by a thread of a child without which calls would be waited for in vain. If it panics, which is
/// a bug and reported by the panic hook, the process ends, and its calls with it: by a signal, as
/// nothing is known of what the thread has left to be flushed.
pub(crate) struct Vital;

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn last() -> Failure {
    LAST.with_borrow(Clone::clone).unwrap_or(Failure::Panic {
        message: "a panic that did not reach the panic hook".to_owned(),
        location: "an unknown location".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores the failure that it is dropped with.
    struct FakeCall<'a>(&'a RefCell<Option<Failure>>);

    impl Drop for FakeCall<'_> {
        fn drop(&mut self) {
            self.0.replace(Some(failure_of_dropped_call()));
        }
    }

    #[test]
    fn message_and_location_are_returned() {
        let Err(Failure::Panic { message, location }) = catch(|| panic!("no {}", 1)) else {
            panic!("it panicked");
        };
        assert_eq!(message, "no 1");
        assert!(location.contains("panics.rs:"), "{location}");
        assert_eq!(catch(|| 7), Ok(7));
    }

    #[test]
    fn call_that_is_dropped_by_a_panic_fails_with_it() {
        let failure = RefCell::default();
        let call = FakeCall(&failure);
        let captured = move || {
            let _call = &call;
            panic!("captured");
        };
        let result = catch_with_calls(captured, |callback| callback());
        assert!(matches!(result, Ok(None)));
        assert!(
            matches!(failure.take(), Some(Failure::Panic { message, .. }) if message == "captured")
        );

        let call = FakeCall(&failure);
        let result = catch_with_calls(Some(call), |call| {
            let _given = call.take();
            panic!("given");
        });
        assert!(matches!(result, Ok(None)));
        assert!(
            matches!(failure.take(), Some(Failure::Panic { message, .. }) if message == "given")
        );
    }

    #[test]
    fn panic_without_a_call_comes_back() {
        let result = catch_with_calls((), |()| panic!("alone"));
        assert!(matches!(result, Err(Failure::Panic { message, .. }) if message == "alone"));
        let failure = RefCell::default();
        drop(FakeCall(&failure));
        assert_eq!(failure.take(), Some(Failure::Unanswered));
    }
}

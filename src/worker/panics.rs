//! Panics as values: what was said, and where.

use crate::wire::Failure;
use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Where this thread panicked last.
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `function`; a panic in it is a failure. It is also shown on standard error, by the panic
/// hook that there is.
///
/// Only the hook is told where a panic happened, so the first call here sets one, around the one
/// that is set. Only children come here, and their hook is theirs to set.
pub(crate) fn catch<T>(function: impl FnOnce() -> T) -> Result<T, Failure> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let place = info.location().map(ToString::to_string);
            PLACE.set(place.unwrap_or_default());
            previous(info);
        }));
    });
    panic::catch_unwind(AssertUnwindSafe(function)).map_err(|panic| Failure::Panic {
        message: message(&*panic),
        location: PLACE.take(),
    })
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("the panic's value is no text").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_and_place_are_told() {
        let Err(Failure::Panic { message, location }) = catch(|| panic!("no {}", 1)) else {
            panic!("it panicked");
        };
        assert_eq!(message, "no 1");
        assert!(location.contains("panics.rs:"), "{location}");
        assert_eq!(catch(|| 7), Ok(7));
    }
}

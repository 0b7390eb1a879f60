//! An output for each thread, for values that are encoded and then copied to a queue.

use super::Output;
use crate::wire::REUSABLE;
use std::cell::Cell;
use std::ops::{Deref, DerefMut};

thread_local! {
    static OUTPUT: Cell<Option<Box<Output>>> = const { Cell::new(None) };
}

/// An initially empty output: this thread's, or a new one if that is in use. Boxed, as it is moved
/// several times in every call, and a pointer is cheap to move.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// `None` only while it is dropped.
    output: Option<Box<Output>>,
}

impl Scratch {
    #[inline]
    pub(crate) fn take() -> Self {
        // There is none while the thread's other locals are dropped, which may call and answer.
        let output = OUTPUT.try_with(Cell::take).ok().flatten();
        let output = output.unwrap_or_default();
        Scratch {
            output: Some(output),
        }
    }
}

impl Drop for Scratch {
    #[inline]
    fn drop(&mut self) {
        let Some(mut output) = self.output.take() else {
            return;
        };
        output.body().clear(REUSABLE);
        // Fails if the thread's local is gone already.
        let _ = OUTPUT.try_with(|place| place.set(Some(output)));
    }
}

impl Deref for Scratch {
    type Target = Output;

    fn deref(&self) -> &Output {
        self.output.as_ref().expect("present until it is dropped")
    }
}

impl DerefMut for Scratch {
    #[inline]
    fn deref_mut(&mut self) -> &mut Output {
        self.output.as_mut().expect("present until it is dropped")
    }
}

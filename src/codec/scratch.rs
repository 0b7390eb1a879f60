//! An output for each thread, for what is encoded and then copied on.

use super::Output;
use crate::wire::REUSABLE;
use std::cell::Cell;
use std::ops::{Deref, DerefMut};

thread_local! {
    static OUTPUT: Cell<Option<Box<Output>>> = const { Cell::new(None) };
}

/// An output that is empty at first: this thread's, or a new one if that is in use. Boxed, as it goes
/// from hand to hand with every call, and a pointer is moved at once.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// `None` once it is dropped.
    output: Option<Box<Output>>,
}

impl Scratch {
    #[inline]
    pub(crate) fn take() -> Self {
        // None is there while the thread's other values are dropped, which may call and answer.
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
        // It is the thread's as long as there is one.
        let _ = OUTPUT.try_with(|place| place.set(Some(output)));
    }
}

impl Deref for Scratch {
    type Target = Output;

    #[inline]
    fn deref(&self) -> &Output {
        self.output
            .as_ref()
            .expect("it is there until it is dropped")
    }
}

impl DerefMut for Scratch {
    #[inline]
    fn deref_mut(&mut self) -> &mut Output {
        self.output
            .as_mut()
            .expect("it is there until it is dropped")
    }
}

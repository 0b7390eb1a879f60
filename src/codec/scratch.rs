//! A buffer for each thread, for what is encoded and then copied on.

use std::cell::Cell;

/// A larger buffer is not kept.
const LARGEST: usize = 64 << 10;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// An empty buffer: this thread's, or a new one if that is in use.
#[inline]
pub(crate) fn take() -> Vec<u8> {
    BUFFER.take()
}

/// Gives a buffer back, whatever is in it.
#[inline]
pub(crate) fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() <= LARGEST {
        buffer.clear();
        BUFFER.set(buffer);
    }
}

//! Starting and joining threads.

use crate::unwind;
use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread. All threads are started here, as the standard library's code for it is
/// instantiated for each type of `work`.
pub(crate) fn start(thread: Builder, work: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
    thread.spawn(work)
}

/// Starts a thread that waits for a process, and does nothing else.
pub(crate) fn start_reaper(wait: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
    const STACK: usize = 32 << 10;
    let thread = Builder::new().name("offspring reap".into());
    start(thread.stack_size(STACK), wait)
}

/// Waits until a thread has ended. If it has panicked, the panic hook has reported it.
pub(crate) fn join(thread: JoinHandle<()>) {
    if let Err(payload) = thread.join() {
        unwind::discard(payload);
    }
}

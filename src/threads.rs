//! Starting threads.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread. All threads are started here, as the standard library's code for it is
/// instantiated for each type of `work`.
pub(crate) fn start(thread: Builder, work: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
    thread.spawn(work)
}

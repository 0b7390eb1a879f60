//! Starting threads.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread. All are started here, as what the standard library does for one is written out
/// for each type of `work`.
pub(crate) fn start(thread: Builder, work: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
    thread.spawn(work)
}

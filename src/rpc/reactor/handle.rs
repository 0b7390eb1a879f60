//! The program's handle to a reactor that serves several children.

use super::core::Core;
use std::io;
use std::sync::Arc;

/// A thread that serves any number of handles, instead of one thread for each.
///
/// All callbacks of its handles run on it, one at a time: a slow one delays the others. The thread
/// is started when it is first needed, and ends when the last clone of this is dropped and the last
/// child that it serves has ended.
///
/// # Examples
///
/// ```
/// use offspring::{Reactor, Worker};
///
/// # fn main() -> Result<(), offspring::BoxError> {
/// let me = Worker::new().function("echo", |request, _| Ok(request)).run();
/// let reactor = Reactor::new()?;
/// let start = || me.rpc("echo").reactor(&reactor).start();
/// let (one, two) = (start()?, start()?);
/// assert_eq!(one.call("hello").wait()?, ["hello"]);
/// assert_eq!(two.call("there").wait()?, ["there"]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Reactor {
    keep: Arc<Keep>,
}

/// Keeps the thread from ending while it has no handlers.
#[derive(Debug)]
struct Keep(Arc<Core>);

impl Reactor {
    /// A reactor without children, and without a thread yet.
    ///
    /// # Errors
    ///
    /// If there are no descriptors left.
    pub fn new() -> io::Result<Self> {
        let core = Core::new(false)?;
        core.lock().keep = true;
        Ok(Reactor {
            keep: Arc::new(Keep(core)),
        })
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.keep.0
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        if self.0.is_elsewhere() {
            return;
        }
        let mut inbox = self.0.lock();
        inbox.keep = false;
        self.0.wake(inbox);
    }
}

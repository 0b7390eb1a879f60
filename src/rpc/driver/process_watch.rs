//! How the end of a process is noticed.

use crate::rpc::link::Link;
use crate::sys::Registration;
use crate::threads;
use std::sync::Arc;
use std::thread;

/// A thread that waits for a process does nothing else.
const STACK: usize = 32 << 10;

/// See the module's documentation.
pub(super) enum ProcessWatch {
    /// It has been reaped, or there is none.
    None,
    /// The poller reports it.
    Polled { _pidfd: Registration },
    /// A thread waits for it: the process has ended, but is traced, and cannot be reaped before its
    /// tracer lets go of it. The poller would report it all the time.
    Traced,
}

impl ProcessWatch {
    pub(super) fn is_none(&self) -> bool {
        matches!(self, ProcessWatch::None)
    }

    /// The process has ended, but cannot be reaped: has the reactor attend to the link when it can.
    pub(super) fn wait_for_tracer(&mut self, link: &Arc<Link>) {
        if let ProcessWatch::Polled { .. } = self {
            let link = Arc::clone(link);
            let wait = move || {
                if let Some(child) = link.child() {
                    child.wait_for_exit();
                }
                link.reactor().attend(link.key());
            };
            if start(wait) {
                *self = ProcessWatch::Traced;
            }
        }
    }

    /// The process, if there is one, lives on when nobody is interested in it any more. It must not be
    /// left a zombie when it ends, whenever that is.
    pub(super) fn reap_when_it_ends(&mut self, link: &Arc<Link>) {
        if !self.is_none() {
            let link = Arc::clone(link);
            start(move || {
                if let Some(child) = link.child() {
                    child.wait_for_exit();
                    child.reap();
                }
            });
        }
        *self = ProcessWatch::None;
    }
}

/// Starts a thread that waits for a process. Returns whether it could.
fn start(wait: impl FnOnce() + Send + 'static) -> bool {
    let thread = thread::Builder::new().name("offspring reap".into());
    threads::start(thread.stack_size(STACK), Box::new(wait)).is_ok()
}

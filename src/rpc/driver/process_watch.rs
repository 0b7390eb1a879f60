//! How the end of a process is noticed.

use crate::rpc::link::Link;
use crate::sys::Registration;
use crate::threads;
use std::io;
use std::mem;
use std::sync::Arc;
use std::thread::JoinHandle;

/// See the module's documentation.
pub(super) enum ProcessWatch {
    /// It has been reaped, or there is none.
    None,
    /// The poller reports it.
    Polled { _pidfd: Registration },
    /// A thread waits for it.
    Thread(JoinHandle<()>),
}

impl ProcessWatch {
    pub(super) fn is_none(&self) -> bool {
        matches!(self, ProcessWatch::None)
    }

    /// Has a thread wait for the process: the reactor is to attend to the link when it can be reaped.
    pub(super) fn by_thread(link: &Arc<Link>) -> io::Result<Self> {
        let link = Arc::clone(link);
        let thread = threads::start_reaper(Box::new(move || {
            if let Some(child) = link.child() {
                child.wait_for_exit();
            }
            link.reactor().attend(link.key());
        }))?;
        Ok(ProcessWatch::Thread(thread))
    }

    /// The process has ended, but cannot be reaped: it is traced, and its tracer is to let go of it first.
    /// Until then the poller would report it all the time.
    pub(super) fn wait_for_tracer(&mut self, link: &Arc<Link>) {
        if let ProcessWatch::Polled { .. } = self
            && let Ok(watch) = ProcessWatch::by_thread(link)
        {
            *self = watch;
        }
    }

    /// It has been reaped. A thread that waited for it has ended when this returns.
    pub(super) fn end(&mut self) {
        if let ProcessWatch::Thread(thread) = mem::replace(self, ProcessWatch::None) {
            threads::join(thread);
        }
    }

    /// The process, if there is one, lives on when nobody is interested in it any more. It must not be
    /// left a zombie when it ends, whenever that is.
    pub(super) fn reap_when_it_ends(&mut self, link: &Arc<Link>) {
        if !self.is_none() {
            let link = Arc::clone(link);
            // Without a thread, it is left a zombie.
            let _ = threads::start_reaper(Box::new(move || {
                if let Some(child) = link.child() {
                    child.wait_for_exit();
                    child.reap();
                }
            }));
        }
        *self = ProcessWatch::None;
    }
}

//! How the end of a process is noticed.

use crate::process::Child;
use crate::rpc::link::Link;
use crate::rpc::reactor::{Source, poll_key};
use crate::sys::Registration;
use crate::threads;
use polling::Event;
use std::io;
use std::mem;
use std::sync::Arc;
use std::thread::JoinHandle;

/// See the module's documentation.
pub(super) enum ProcessWatch {
    /// It has been reaped, or there is none.
    None,
    /// The poller reports it.
    Polled { _end: Registration },
    /// A thread waits for it.
    Thread(JoinHandle<()>),
    /// It is on another machine, and whoever hears of it reports it.
    Remote,
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

    /// Has the poller report what tells that the process can be reaped. `None` if nothing does.
    pub(super) fn by_poller(link: &Link) -> io::Result<Option<Self>> {
        let Some(end) = link.child().and_then(Child::end) else {
            return Ok(None);
        };
        let event = Event::readable(poll_key(link.key(), Source::Process));
        let end = Registration::new(link.reactor().poller(), &end, event)?;
        Ok(Some(ProcessWatch::Polled { _end: end }))
    }

    /// The poller has reported the process, which cannot be reaped yet, and would do so all the time. A child
    /// of another process is to be waited for in another way if that process is gone. One of this process is
    /// traced: its tracer is to let go of it first.
    pub(super) fn wait_on(&mut self, link: &Arc<Link>) {
        if let ProcessWatch::Thread(_) | ProcessWatch::Remote | ProcessWatch::None = self {
            return;
        }
        let watch = match link.child().is_some_and(Child::is_anothers) {
            true => ProcessWatch::by_poller(link),
            false => ProcessWatch::by_thread(link).map(Some),
        };
        if let Ok(Some(watch)) = watch {
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
        // Another process reaps its own children.
        if !self.is_none() && !link.child().is_some_and(Child::is_anothers) {
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

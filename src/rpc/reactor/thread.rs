//! The loop of a reactor's thread.

use super::core::{Core, Job, NextStep};
use super::handler::parse_poll_key;
use super::table::{HandlerTable, panicked};
use crate::error::{Error, ErrorKind};
use crate::rpc::callback::guard;
use crate::unwind;
use polling::Events;
use std::io;
use std::time::Instant;

/// Serves handlers until there are none, or until another thread asks for them: they are returned
/// then. If they cannot be served any more, they end with an error, rather than have everything wait
/// for them for ever.
pub(super) fn work(core: &Core, mut handlers: HandlerTable) -> Option<HandlerTable> {
    let error = match unwind::catch(|| serve(core, &mut handlers)) {
        Some(Ok(NextStep::HandOver)) => return Some(handlers),
        Some(Ok(_)) => return None,
        Some(Err(error)) => {
            let message = format!("the reactor cannot wait for descriptors: {error}");
            Error::new(ErrorKind::Io, message)
        }
        None => panicked(),
    };
    loop {
        handlers.fail_all(&error);
        if core.lock().give_up() {
            return None;
        }
        // What came in meanwhile is tried, and ends with the error, too.
        do_jobs(core, &mut handlers);
    }
}

/// Serves handlers. Returns why it ends, or why they cannot be served.
fn serve(core: &Core, handlers: &mut HandlerTable) -> io::Result<NextStep> {
    let mut events = Events::new();
    loop {
        while do_jobs(core, handlers) {}
        handlers.attend_due(Instant::now());
        let next = core.lock().next_step(handlers.is_empty());
        match next {
            NextStep::Work => continue,
            NextStep::End | NextStep::HandOver => return Ok(next),
            NextStep::Sleep => {}
        }
        events.clear();
        let deadline = handlers.deadline();
        let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let woken = core.poller().wait(&mut events, timeout);
        core.lock().woke_up();
        woken?;
        for event in events.iter() {
            let (key, source) = parse_poll_key(event.key);
            let now = Instant::now();
            handlers.with(key, |handler| handler.ready(source, event, now));
        }
    }
}

/// Does what came into the inbox. Returns whether there was something.
fn do_jobs(core: &Core, handlers: &mut HandlerTable) -> bool {
    let (jobs, attention) = core.lock().take();
    let any = !jobs.is_empty() || !attention.is_empty();
    let now = Instant::now();
    for job in jobs {
        match job {
            Job::Run(callback) => guard(callback),
            Job::Add(handler) => {
                let key = handler.key();
                handlers.insert(handler);
                handlers.with(key, |handler| handler.attend(now));
            }
        }
    }
    for key in attention {
        handlers.with(key, |handler| handler.attend(now));
    }
    any
}

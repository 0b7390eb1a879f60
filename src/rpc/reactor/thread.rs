//! The loop of a reactor's thread.

use super::core::{Core, Job, NextStep};
use super::handler::parse_poll_key;
use super::table::HandlerTable;
use crate::rpc::callback::guard;
use polling::Events;
use std::time::Instant;

/// Serves handlers until there are none, or until another thread asks for them: they are returned
/// then.
pub(super) fn work(core: &Core, mut handlers: HandlerTable) -> Option<HandlerTable> {
    let mut events = Events::new();
    loop {
        while do_jobs(core, &mut handlers) {}
        handlers.attend_due(Instant::now());
        let next = core.lock().next_step(handlers.is_empty());
        match next {
            NextStep::Work => continue,
            NextStep::End => return None,
            NextStep::HandOver => return Some(handlers),
            NextStep::Sleep => {}
        }
        events.clear();
        let deadline = handlers.deadline();
        let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        if let Err(error) = core.poller().wait(&mut events, timeout) {
            panic!("a poller with open descriptors can be waited for: {error}");
        }
        core.lock().woke_up();
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

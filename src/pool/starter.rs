//! Starting children, on a thread that is there only while there are some to start: to execute a program takes
//! a while, and to have a template copied may take long.

use super::core::Core;
use super::scheduler::ChildId;
use crate::codec::Input;
use crate::error::{Error, ErrorKind};
use crate::process::CopyWait;
use crate::rpc::Link;
use crate::rpc::{AskHandler, EventCallback, Handle, Handlers, ServeAsk, StartOptions};
use crate::threads;
use crate::unwind;
use crate::wire::FunctionId;
use std::mem;
use std::sync::{Arc, Mutex};
use std::thread::Builder;

impl Core {
    /// Starts the thread, which starts what there is to start.
    pub(super) fn start_starter(self: &Arc<Self>) {
        let core = Arc::clone(self);
        let work = move || core.start_all();
        let mut starter = unwind::lock(&self.starter);
        if let Some(before) = starter.take() {
            // It has ended, or is about to.
            threads::join(before);
        }
        let thread = threads::start(
            Builder::new().name("offspring start".into()),
            Box::new(work),
        );
        match thread {
            Ok(thread) => *starter = Some(thread),
            Err(error) => {
                drop(starter);
                let mut state = self.lock();
                let starts = mem::take(&mut state.starts);
                state.is_starting = false;
                drop(state);
                let message = format!("cannot start a thread that starts children: {error}");
                for (child, _) in starts {
                    self.start_failed(child, Error::new(ErrorKind::Io, message.clone()));
                }
            }
        }
    }

    fn start_all(self: &Arc<Self>) {
        loop {
            let mut state = self.lock();
            let Some((child, source)) = state.starts.pop_front() else {
                state.is_starting = false;
                let is_over = state.is_over();
                drop(state);
                if is_over {
                    self.reactor.attend(self.key);
                }
                return;
            };
            drop(state);
            // What it drops may be the program's.
            let started = unwind::catch(|| self.start_child(child, source));
            match started.unwrap_or_else(|| Err(panicked())) {
                Ok(handle) => self.started(child, handle),
                Err(error) => self.start_failed(child, error),
            }
        }
    }

    fn start_child(self: &Arc<Self>, child: ChildId, source: usize) -> Result<Handle, Error> {
        let mut handlers = Handlers::default();
        {
            let callbacks = unwind::lock(&self.callbacks);
            handlers.on_event = callbacks.on_event.as_ref().map(event_callback);
            if let Some(on_ask) = &callbacks.on_ask {
                handlers.on_ask = Some(Box::new(SharedAsk(Arc::clone(on_ask))));
            }
        }
        // How it ends is reported by the pool.
        handlers.on_error = Some(Box::new(drop));
        handlers.supervisor = Some(self.watch(child));
        let interrupt = Arc::clone(&self.lock().interrupt);
        let copy_wait = CopyWait::new(self.options.start_timeout, Some(interrupt));
        let options = StartOptions {
            handlers,
            child: self.options,
            reactor: Some(Arc::clone(&self.reactor)),
            copy_wait: Some(copy_wait),
            ..StartOptions::new(self.sources[source].clone())
        };
        self.with_first_function(|function| options.start(function))
    }
}

fn panicked() -> Error {
    Error::new(
        ErrorKind::Spawn,
        "the start has panicked: see the panic's message",
    )
}

/// One of the program's for the events of all children.
pub(super) type SharedEventCallback = Arc<Mutex<EventCallback>>;

fn event_callback(shared: &SharedEventCallback) -> EventCallback {
    let shared = Arc::clone(shared);
    // They all run on one thread.
    Box::new(move |pid, event| (unwind::lock(&shared))(pid, event))
}

/// One of the program's for what all children ask.
pub(super) struct SharedAsk(pub(super) Arc<Mutex<Box<dyn ServeAsk>>>);

impl ServeAsk for SharedAsk {
    fn add(&mut self, service: FunctionId<'_>, handler: AskHandler) {
        unwind::lock(&self.0).add(service, handler);
    }

    fn serve(&mut self, link: &Arc<Link>, payload: Input<'_>) -> Option<String> {
        unwind::lock(&self.0).serve(link, payload)
    }
}

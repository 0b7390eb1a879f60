//! Giving a reactor something to do, which starts its thread when it has none.

use super::core::{Core, Job};
use super::handler::EventHandler;
use super::table::HandlerTable;
use super::thread::work;
use crate::rpc::callback::{ReactorScope, guard, in_callback};
use crate::threads;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

impl Core {
    /// Serves a handler from now on.
    pub(crate) fn add(self: &Arc<Self>, handler: Box<dyn EventHandler>) -> io::Result<()> {
        // Before the thread can know of it: the handler may end immediately.
        self.lock().handlers += 1;
        self.submit(Job::Add(handler)).map_err(|(error, _)| {
            self.lock().handlers -= 1;
            error
        })
    }

    /// Runs a callback on the thread, or here if no thread can be started.
    pub(crate) fn run(self: &Arc<Self>, callback: impl FnOnce() + Send + 'static) {
        if self.is_elsewhere() {
            return match Core::new(true) {
                Ok(core) => core.run(callback),
                Err(_) => guard(callback),
            };
        }
        if let Err((_, Job::Run(callback))) = self.submit(Job::Run(Box::new(callback))) {
            guard(callback);
        }
    }

    /// Serves the only handler of this reactor on the calling thread until it is over, in place of
    /// the reactor's thread, which ends; `meanwhile` runs until it has. Does nothing if other
    /// handlers may share the reactor.
    ///
    /// The system itself wakes the calling thread then: the detour over another thread, and that
    /// thread's end, take as long as the end of a child.
    pub(crate) fn serve_here(self: &Arc<Self>, meanwhile: impl FnOnce()) {
        let mut inbox = self.lock();
        if !self.is_own || in_callback() {
            return;
        }
        let Some(thread) = inbox.ask_to_hand_over() else {
            return;
        };
        self.wake(inbox);
        meanwhile();
        threads::join(thread);
        // Nothing is left if the handler was over.
        let left = self.lock().left.take();
        if let Some(mut handlers) = left {
            let _scope = ReactorScope::enter();
            for key in handlers.keys() {
                handlers.with(key, |handler| handler.resume(Instant::now()));
            }
            let left = work(self, handlers);
            debug_assert!(left.is_none(), "there is no thread to be asked for it");
        }
    }

    fn submit(self: &Arc<Self>, job: Job) -> Result<(), (io::Error, Job)> {
        let mut inbox = self.lock();
        if inbox.needs_thread() {
            let core = Arc::clone(self);
            let builder = thread::Builder::new().name("offspring".into());
            let run = move || {
                ReactorScope::enter_for_good();
                let left = work(&core, HandlerTable::default());
                if left.is_some() {
                    core.lock().left = left;
                }
            };
            match threads::start(builder, Box::new(run)) {
                Ok(thread) => inbox.started(thread),
                Err(error) => return Err((error, job)),
            }
        }
        inbox.push(job);
        self.wake(inbox);
        Ok(())
    }
}

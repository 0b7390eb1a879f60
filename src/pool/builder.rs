//! Options of a pool, and its start.

use super::child::ChildExit;
use super::core::Core;
use super::handle::{Pool, Shared};
use super::scheduler::{MOST_SLOTS, Scheduler, Sizing};
use super::starter::SharedEventCallback;
use super::state::Function;
use super::timer::Timer;
use crate::codec::{Replies, Strings};
use crate::error::{Error, ErrorKind};
use crate::fd::Reach;
use crate::process::Process;
use crate::rpc::{
    AskHandlers, Asker, ChildOptions, ReactorCore, ServeAsk, ask_deferred, ask_returning,
};
use crate::service::{IntoService, Name, Signature, id_of};
use crate::wire::LONGEST_PAYLOAD;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex};
use std::thread::available_parallelism;
use std::time::Duration;

/// No child is replaced for its age sooner than after this, about.
const LEAST_AGE: Duration = Duration::from_millis(100);

type ExitCallback = Box<dyn FnMut(&ChildExit) + Send>;

/// The program's callbacks for all children of a pool.
#[derive(Default)]
pub(super) struct Callbacks {
    pub(super) on_event: Option<SharedEventCallback>,
    pub(super) on_ask: Option<Arc<Mutex<Box<dyn ServeAsk>>>>,
    pub(super) on_exit: Option<ExitCallback>,
    pub(super) on_destroy: Option<Box<dyn FnOnce() + Send>>,
}

/// Options of a pool that has not been started: what [`Process::pool`] returns.
///
/// All callbacks, those of calls included, run on one thread, one at a time, never inside the method that
/// registers them. Methods that wait fail at once in a callback.
#[must_use = "nothing is started before start()"]
pub struct PoolBuilder<S: Signature = Name> {
    service: S,
    /// Where children come from, and how many of each there may be. `None` if [`max`](PoolBuilder::max) says so.
    sources: Vec<(Process, Option<usize>)>,
    max: Option<usize>,
    sizing: Sizing,
    child: ChildOptions,
    max_memory: Option<u64>,
    call_timeout: Option<Duration>,
    callbacks: Callbacks,
}

impl<S: Signature> fmt::Debug for PoolBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder")
            .field("service", &self.service.name())
            .field("sources", &self.sources)
            .field("sizing", &self.sizing)
            .finish_non_exhaustive()
    }
}

impl Process {
    /// A pool of such children that serve this function, once it is [started](PoolBuilder::start).
    pub fn pool<S: IntoService>(&self, service: S) -> PoolBuilder<S::Service> {
        let mut builder = PoolBuilder::new(service.into_service());
        builder.sources.push((self.clone(), None));
        builder
    }
}

impl<S: Signature> PoolBuilder<S> {
    pub(super) fn new(service: S) -> Self {
        PoolBuilder {
            service,
            sources: Vec::new(),
            max: None,
            sizing: Sizing::default(),
            child: ChildOptions::default(),
            max_memory: None,
            call_timeout: None,
            callbacks: Callbacks::default(),
        }
    }

    /// Other children for the same pool, at most `slots` at a time. Each description has its own record of
    /// starts that fail: while one cannot be started, others are.
    pub fn also(mut self, process: Process, slots: usize) -> Self {
        self.sources.push((process, Some(slots)));
        self
    }

    /// How many children there may be at a time, of those that are not from [`also`](PoolBuilder::also).
    /// Default: as many as this process may use processors, by its affinity and its control group. At least
    /// one, and at most 65,536 from any one [`Process`].
    ///
    /// A child that is leaving, and still has calls, or takes its time to exit, comes on top, and so does a
    /// successor that starts: at most one for each of these.
    pub fn max(mut self, children: usize) -> Self {
        self.max = Some(children.max(1));
        self
    }

    /// How many children without calls are kept ready, as far as [`max`](PoolBuilder::max) allows. This many are
    /// started with the pool. Default: 0, so that the pool is empty at first, and after a while without calls.
    #[doc(alias = "min_idle")]
    pub fn idle(mut self, children: usize) -> Self {
        self.sizing.idle = children;
        self
    }

    /// The most calls that are sent to a child and not answered yet; further ones wait in the pool. Default: 2, so
    /// that a child has its next call when it has answered one. At least 1.
    ///
    /// Use 1 for calls that take long, or differ in length: with more, a call may wait in one child while another
    /// is idle. Use a hundred for many short ones. Up to 4, a crash takes along no reply that a
    /// [returning](crate::Worker::function) function has finished: it is written before the next call begins.
    #[doc(alias = "max_in_flight")]
    pub fn load(mut self, calls: usize) -> Self {
        self.sizing.load = calls.max(1);
        self
    }

    /// How long the pool waits before it starts another child. As long as calls wait for which neither its children
    /// nor those that are being started have room, one is started each time this has passed, up to
    /// [`max`](PoolBuilder::max). Default: 100 milliseconds.
    ///
    /// The first child is started at once, and so is one for a [key](crate::PoolCall::key), or in place of one that
    /// has died while calls wait.
    pub fn grow_after(mut self, time: Duration) -> Self {
        self.sizing.grow_after = time;
        self
    }

    /// How long a child must have been idle before it is stopped, if more than [`idle`](PoolBuilder::idle) are.
    /// One is stopped each time this has passed, the least recently used first. Default: 10 seconds.
    pub fn shrink_after(mut self, time: Duration) -> Self {
        self.sizing.shrink_after = time;
        self
    }

    /// After how many calls a child is replaced: a quarter more or less, so that not all are replaced at the same
    /// time. It gets calls until its successor is ready. Default: never.
    pub fn max_calls(mut self, calls: u64) -> Self {
        self.sizing.max_calls = Some(calls.max(1));
        self
    }

    /// At which age a child is replaced, as by [`max_calls`](PoolBuilder::max_calls). Default: never. At least 100
    /// milliseconds: with less, children would do nothing but replace each other.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.sizing.max_age = Some(age.max(LEAST_AGE));
        self
    }

    /// A child is replaced, as by [`max_calls`](PoolBuilder::max_calls), when its resident memory has grown by this
    /// many bytes since it got ready. That is checked when one of its calls ends, every 100 milliseconds at most.
    /// Default: never. [`Limit::Memory`](crate::Limit::Memory) is what a child cannot exceed. Children on
    /// [other machines](crate::machines) are not checked.
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.max_memory = Some(bytes);
        self
    }

    /// How many calls may be outstanding in the whole pool, and how many bytes of requests may wait for a child.
    /// Above either limit, [`call`](Pool::call) waits and [`try_call`](Pool::try_call) is refused. One request
    /// can always wait, however long it is. Default: no limit.
    pub fn max_queue(mut self, calls: usize, bytes: usize) -> Self {
        (self.sizing.queue_calls, self.sizing.queue_bytes) = (calls.max(1), bytes);
        self
    }

    /// The timeout of calls that set none of their own; see [`PoolCall::timeout`](crate::PoolCall::timeout).
    /// Default: none.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = Some(timeout);
        self
    }

    /// Kills and replaces a child that has not answered a call this long after the call's timeout: it hangs. As
    /// [`RpcBuilder::kill_stuck`](crate::RpcBuilder::kill_stuck); calls there that had not begun go to other
    /// children. Default: never.
    pub fn kill_stuck(mut self, after: Duration) -> Self {
        self.child.kill_stuck = Some(after);
        self
    }

    /// As [`RpcBuilder::start_timeout`](crate::RpcBuilder::start_timeout), for each child.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.child.start_timeout = timeout;
        self
    }

    /// As [`RpcBuilder::grace`](crate::RpcBuilder::grace), for each child.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.child.grace = grace;
        self
    }

    /// As [`RpcBuilder::max_frame`](crate::RpcBuilder::max_frame), for each child.
    pub fn max_frame(mut self, bytes: usize) -> Self {
        self.child.max_frame = bytes.min(LONGEST_PAYLOAD);
        self
    }

    /// As [`RpcBuilder::buflen`](crate::RpcBuilder::buflen), for each child.
    #[doc(alias = "buffer_size")]
    #[doc(alias = "read_buffer")]
    pub fn buflen(mut self, bytes: usize) -> Self {
        (self.child.buflen_req, self.child.buflen_res) = (bytes, bytes);
        self
    }

    /// As [`RpcBuilder::max_asks`](crate::RpcBuilder::max_asks), for each child.
    pub fn max_asks(mut self, asks: usize) -> Self {
        self.child.max_asks = asks;
        self
    }

    /// Handles the events of all children, each with the process id of the child that sent it, or 0 if that is only
    /// a stream. Default: none, as for [`RpcBuilder::on_event`](crate::RpcBuilder::on_event).
    pub fn on_event(mut self, mut callback: impl FnMut(u32, Strings) + Send + 'static) -> Self {
        let callback = move |pid: Option<u32>, event| callback(pid.unwrap_or(0), event);
        self.callbacks.on_event = Some(Arc::new(Mutex::new(Box::new(callback))));
        self
    }

    /// Serves what children ask: as [`RpcBuilder::on_ask`](crate::RpcBuilder::on_ask).
    ///
    /// # Panics
    ///
    /// If the service is served already, or its name has more than 32 KiB.
    pub fn on_ask<O, F, R>(mut self, service: O, callback: F) -> Self
    where
        O: IntoService,
        F: FnMut(
                <O::Service as Signature>::Request<'_>,
            ) -> Result<R, <O::Service as Signature>::Error>
            + Send
            + 'static,
        <O::Service as Signature>::Codec: Replies<<O::Service as Signature>::Reply, R>,
    {
        let handler = ask_returning::<O::Service, _, _>(callback);
        self.asks().add(id_of(&service.into_service()), handler);
        self
    }

    /// Serves what children ask: as [`RpcBuilder::on_ask_deferred`](crate::RpcBuilder::on_ask_deferred).
    ///
    /// # Panics
    ///
    /// If the service is served already, or its name has more than 32 KiB.
    pub fn on_ask_deferred<O, F>(mut self, service: O, callback: F) -> Self
    where
        O: IntoService,
        F: FnMut(<O::Service as Signature>::Request<'_>, Asker<O::Service>) + Send + 'static,
    {
        let handler = ask_deferred::<O::Service, _>(callback);
        self.asks().add(id_of(&service.into_service()), handler);
        self
    }

    fn asks(&mut self) -> impl std::ops::DerefMut<Target = Box<dyn ServeAsk>> {
        let asks = self.callbacks.on_ask.get_or_insert_with(|| {
            let handlers: Box<dyn ServeAsk> = Box::new(AskHandlers::default());
            Arc::new(Mutex::new(handlers))
        });
        crate::unwind::lock(asks)
    }

    /// Called with each child that has ended, and each that could not be started. Default: starts that fail are
    /// reported to the log, or to standard error if the feature `log` is off.
    pub fn on_exit(mut self, callback: impl FnMut(&ChildExit) + Send + 'static) -> Self {
        self.callbacks.on_exit = Some(Box::new(callback));
        self
    }

    /// Called when all handles are gone, all calls have ended, and all children have exited. The last callback.
    pub fn on_destroy(mut self, callback: impl FnOnce() + Send + 'static) -> Self {
        self.callbacks.on_destroy = Some(Box::new(callback));
        self
    }

    /// Starts the pool. Its children are started as they are needed: what goes wrong there is reported to
    /// [`on_exit`](PoolBuilder::on_exit), and, if it goes on, to calls.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) if a [`Process`] has an option that such a child cannot have, or
    /// there is none that may have children; [`Setup`](ErrorKind::Setup) if the request of a setup cannot be
    /// sent; [`Io`](ErrorKind::Io) if there are no descriptors or threads left.
    pub fn start(self) -> Result<Pool<S>, Error> {
        let processors = || available_parallelism().map_or(1, usize::from);
        let max = self.max.unwrap_or_else(processors);
        let slots = self.sources.iter().map(|(_, slots)| slots.unwrap_or(max));
        let slots: Vec<_> = slots.map(|slots| slots.min(MOST_SLOTS)).collect();
        if slots.iter().all(|slots| *slots == 0) {
            let message = "a pool needs a Process with at least one slot: PoolBuilder::also()";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        for (process, _) in &self.sources {
            if let Some(why) = process.refusal() {
                return Err(Error::new(ErrorKind::Unsupported, why));
            }
            process.preparations()?;
        }
        let reach = self.sources.iter().map(|(process, _)| process.reach());
        let reach = reach.max().unwrap_or(Reach::Near);
        let io_error =
            |error| Error::new(ErrorKind::Io, format!("cannot start a reactor: {error}"));
        let reactor = ReactorCore::new(false).map_err(io_error)?;
        let sources = self.sources.into_iter().map(|(process, _)| process);
        // Different pools must not do the same at the same time.
        let seed = RandomState::new().hash_one(reactor.new_key());
        let load = self.sizing.load;
        let scheduler = Scheduler::new(self.sizing, &slots, seed);
        let core = Core::new(
            scheduler,
            Function::of(&self.service),
            sources.collect(),
            self.child,
            self.max_memory,
            self.callbacks,
            reactor,
        );
        let timer = Box::new(Timer::new(Arc::clone(&core)));
        core.reactor.add(timer).map_err(io_error)?;
        core.pump();
        let all: usize = slots.iter().sum();
        let shared = Shared {
            core,
            call_timeout: self.call_timeout,
            reach,
            // Each child has its load, and the next one is there.
            ahead: all.saturating_mul(load.saturating_add(1)).clamp(2, 1 << 16),
        };
        Ok(Pool::new(shared, self.service))
    }
}

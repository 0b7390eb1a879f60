//! A child that does many things at once: every request starts as it comes, on the loop or on threads.
//!
//! One round of the loop: take the requests that have come, do what was posted, fire the timers that
//! are due, write what all that made, and sleep until something happens. With nothing but requests
//! to wait for, sleeping is reading: a batch costs one read and one write.

use super::calls::CallLimits;
use super::hub::{Hub, LoopStatus};
use super::looper::{Loop, PollPlaces};
use super::output::WritePolicy;
use super::panics;
use super::request_reader::LINGER;
use super::serve::{Done, Options, Server, Stop, broken, io_error, parent_gone};
use super::session::{ParentViolation, Step};
use super::table::{self, OnPanic};
use crate::codec::Input;
use crate::sys::{Interest, PollSet, Waker};
use crate::threads;
use crate::wire::Failure;
use crate::wire::Plain;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

/// What such a child calls.
pub(super) enum Function<'a> {
    /// All calls at once, on the loop.
    Deferred(&'a mut table::DeferredFn),
    /// Several calls at once, on threads.
    Threaded(&'a Arc<table::ThreadedFn>),
}

/// Answers requests until they end and all is answered, at most `running` of them at once. If there is
/// something to be done then, goes on until nothing is left to wait for.
pub(super) fn answer(
    server: Server,
    function: Function<'_>,
    on_panic: &Arc<OnPanic>,
    options: Options,
    running: usize,
) -> Result<(), Stop> {
    let (hub, on_panic) = (server.hub, Arc::clone(on_panic));
    let on_panic = move |panic: &Failure| on_panic(hub, panic);
    let running = match hub.plain {
        // Answers in order are those of calls that run in order.
        Some(Plain::Ordered) => 1,
        Some(Plain::Tagged) | None => running,
    };
    hub.set_limits(CallLimits {
        running,
        high_water: options.high_water,
    });
    WritePolicy::Batch.set();
    ConcurrentChild {
        events: Loop::new(hub, Box::new(on_panic)),
        threads: 0,
        max_threads: running,
        reading: true,
        backlog: false,
        waker: None,
        set: PollSet::default(),
        places: PollPlaces::new(),
        server,
    }
    .run(function, options.done)
}

struct ConcurrentChild {
    server: Server,
    events: Loop,
    threads: usize,
    max_threads: usize,
    /// Whether requests have not ended.
    reading: bool,
    /// Whether the session may have requests that were not taken.
    backlog: bool,
    waker: Option<Arc<Waker>>,
    /// What the last sleep waited for. Kept for their memory.
    set: PollSet,
    places: PollPlaces,
}

impl ConcurrentChild {
    fn run(mut self, mut function: Function<'_>, mut done: Option<Done>) -> Result<(), Stop> {
        let mut runs_on = false;
        loop {
            self.take_requests(&mut function)?;
            self.events.settle();
            if let Some(deadline) = self.events.deadline() {
                let now = Instant::now();
                if deadline <= now {
                    self.events.fire_timers(now);
                }
            }
            self.start_waiting(&mut function);
            self.server.hub.write_batch();
            let Some(status) = self.server.hub.prepare_to_sleep() else {
                continue;
            };
            if status.broken && !runs_on {
                return Err(parent_gone());
            }
            if runs_on {
                if self.events.is_idle() {
                    return Ok(());
                }
            } else if status.finished {
                let Some(done) = done.take() else {
                    return Ok(());
                };
                runs_on = true;
                self.server.hub.woke_up();
                self.events.guard_once(done);
                continue;
            }
            if status.wants_requests && self.backlog {
                self.server.hub.woke_up();
                continue;
            }
            let wants_waker = status.wants_waker || !self.events.is_idle();
            if wants_waker && self.waker.is_none() {
                // With the bell there, another look: it may have been wanted meanwhile.
                self.waker = Some(self.server.hub.waker().map_err(io_error)?);
                continue;
            }
            self.sleep(status, wants_waker)?;
        }
    }

    /// Starts or queues the requests that were read.
    fn take_requests(&mut self, function: &mut Function<'_>) -> Result<(), Stop> {
        let ConcurrentChild {
            server,
            events,
            backlog,
            ..
        } = self;
        let mut call = None;
        let mut taken = None;
        // A panic ends one call only. The others need no guard of their own.
        while taken.is_none() {
            events.guard_once(|events| {
                taken = Some(take(server, function, &mut call, events));
            });
            if let Some(id) = call.take() {
                server.hub.leave(id);
            }
        }
        *backlog = taken.expect("the loop ends with it")?;
        Ok(())
    }

    /// Starts what waits, as far as it may: here, or on threads, which are made as needed.
    fn start_waiting(&mut self, function: &mut Function<'_>) {
        match function {
            Function::Deferred(function) => {
                while let Some((id, request, _)) = self.server.hub.next() {
                    let hub = &self.server.hub;
                    let request = Input::from(request);
                    self.events
                        .guard_once(|events| function(request, hub, id, events));
                }
            }
            Function::Threaded(function) => {
                while self.threads < self.max_threads && self.server.hub.add_thread() {
                    let (hub, function) = (self.server.hub, Arc::clone(*function));
                    let name = format!("offspring {}", self.threads + 1);
                    let thread = thread::Builder::new().name(name);
                    let spawned = threads::start(thread, Box::new(move || work(hub, &*function)));
                    match spawned {
                        Ok(_) => self.threads += 1,
                        // The ones there are do it. The first one is needed.
                        Err(_) if self.threads > 0 => return self.server.hub.remove_thread(),
                        Err(error) => {
                            eprintln!("offspring server: cannot start a thread: {error}");
                            std::process::exit(1);
                        }
                    }
                }
            }
        }
    }

    /// Waits until there is something to do, and reads if there are requests.
    fn sleep(&mut self, status: LoopStatus, wants_waker: bool) -> Result<(), Stop> {
        let wants_requests = status.wants_requests && self.reading;
        let only_requests =
            wants_requests && !status.wants_room && !wants_waker && self.events.is_idle();
        if only_requests && status.busy {
            let server = &mut self.server;
            let read = server.requests.read_briefly(&mut server.session);
            self.server.hub.woke_up();
            let Some(n) = read.map_err(io_error)? else {
                // From now on it sleeps where it hears of the last answer.
                self.waker = Some(self.server.hub.waker().map_err(io_error)?);
                return Ok(());
            };
            let more = self.server.has_read(n)?;
            return self.has_read(more);
        }
        if only_requests {
            let more = self.server.read();
            self.server.hub.woke_up();
            return self.has_read(more?);
        }
        let mut wait = Wait {
            requests: None,
            room: None,
            waker: None,
        };
        self.set.clear();
        if wants_requests {
            let number = self.server.requests.number();
            wait.requests = Some(self.set.add(number, Interest::Readable));
        }
        if status.wants_room {
            let number = self.server.hub.output().as_raw_fd();
            wait.room = Some(self.set.add(number, Interest::Writable));
        }
        if let Some(waker) = &self.waker {
            let number = waker.as_fd().as_raw_fd();
            wait.waker = Some(self.set.add(number, Interest::Readable));
        }
        self.events.add_to(&mut self.set, &mut self.places);
        self.poll(status.busy)?;
        self.server.hub.woke_up();
        if let (Some(place), Some(waker)) = (wait.waker, &self.waker)
            && self.set.is_ready(place)
        {
            waker.reset();
        }
        self.events.fire_ready(&self.set, &self.places);
        if wait.requests.is_some_and(|place| self.set.is_ready(place)) {
            let server = &mut self.server;
            let read = server
                .requests
                .try_read(&mut server.session)
                .map_err(io_error)?;
            if let Some(n) = read {
                let more = server.has_read(n)?;
                return self.has_read(more);
            }
        }
        Ok(())
    }

    /// Waits for the set and the next timer. A child that is idle for a while lets go of its parent;
    /// one that has calls to answer does not, or it would go on with them when the parent is gone.
    fn poll(&mut self, busy: bool) -> Result<(), Stop> {
        let deadline = self.events.deadline();
        let left = || deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let requests = &mut self.server.requests;
        if requests.is_armed() && self.reading {
            let first = left().map_or(LINGER, |left| left.min(LINGER));
            if self.set.wait(Some(first)).map_err(io_error)? > 0
                || left().is_some_and(|l| l.is_zero())
            {
                return Ok(());
            }
            if !busy {
                requests.disarm_lifeline();
            } else if !self.server.hub.keep_sleeping() {
                return Ok(());
            }
        }
        self.set.wait(left()).map_err(io_error)?;
        if self.reading && !requests.arm_lifeline().map_err(io_error)? {
            // The parent is gone; so are its requests.
            self.end_of_requests();
        }
        Ok(())
    }

    fn has_read(&mut self, more: bool) -> Result<(), Stop> {
        if !more {
            self.end_of_requests();
        }
        Ok(())
    }

    fn end_of_requests(&mut self) {
        self.reading = false;
        self.server.hub.close();
    }
}

/// Starts or queues the requests that were read. Returns whether there may be more, as no more may be
/// taken on. `call` is the one that is being started, if there was a panic.
fn take(
    server: &mut Server,
    function: &mut Function<'_>,
    call: &mut Option<u32>,
    events: &Loop,
) -> Result<bool, Stop> {
    let hub = server.hub;
    loop {
        while let Some(request) = server.session.request() {
            let id = request.id;
            start(function, call, hub, events, id, request.payload)?;
            if !hub.wants_requests() {
                return Ok(true);
            }
        }
        match server.session.next().map_err(broken)? {
            None => return Ok(false),
            Some(Step::Request { id, payload }) => {
                start(function, call, hub, events, id, payload)?;
                if !hub.wants_requests() {
                    return Ok(true);
                }
            }
            Some(Step::Cancel { id }) => hub.cancel(id),
            Some(Step::Setup { .. } | Step::Run(_)) => {
                unreachable!("the session refuses what is too late")
            }
        }
    }
}

/// Starts a call, or queues it.
#[inline(always)]
fn start<'a>(
    function: &mut Function<'_>,
    call: &mut Option<u32>,
    hub: &'static Hub,
    events: &Loop,
    id: u32,
    payload: impl Into<Input<'a>>,
) -> Result<(), Stop> {
    let duplicate = |_| broken(ParentViolation::Duplicate { id });
    match function {
        Function::Deferred(function) if hub.begin(id).map_err(duplicate)? => {
            panics::mark();
            *call = Some(id);
            function(payload.into(), hub, id, events);
            *call = None;
            hub.leave(id);
        }
        _ => hub.queue(id, payload.into()).map_err(duplicate)?,
    }
    Ok(())
}

/// Places in a [`PollSet`].
struct Wait {
    requests: Option<usize>,
    room: Option<usize>,
    waker: Option<usize>,
}

/// A thread of a child: takes requests that wait, and answers them.
fn work(hub: &'static Hub, function: &table::ThreadedFn) {
    loop {
        let (id, request) = hub.take();
        WritePolicy::LastCall.set();
        // A panic has failed the call by now, as its caller was dropped.
        let _ = panics::catch(|| function(Input::from(request), hub, id));
        hub.thread_is_free();
    }
}

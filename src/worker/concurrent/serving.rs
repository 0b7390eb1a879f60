//! Serves a deferred or threaded function: every request starts as it comes, on the loop or on threads.
//!
//! One round of the loop: take the requests that have come, do what was posted, fire the timers that
//! are due, write the output of all that, and sleep until something happens. With nothing but requests
//! to wait for, it sleeps in a read: a batch costs one read and one write.

use super::decision::{Decision, DoneState, LocalStatus, SleepMode};
use crate::codec::Input;
use crate::sys::{Interest, PollSet, Waker};
use crate::threads;
use crate::wire::Plain;
use crate::worker::calls::CallLimits;
use crate::worker::event_loop::{Loop, PollPlaces};
use crate::worker::hub::{Hub, WritePolicy};
use crate::worker::panics;
use crate::worker::request_reader::LINGER;
use crate::worker::server::{Done, Options, Server, Stop};
use crate::worker::session::{ParentViolation, Step};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

/// Runs the function with a request. The call of this id is answered then or later.
pub(in crate::worker) type DeferredFn = dyn FnMut(Input<'_>, &'static Hub, u32, &Loop);
/// Runs the function with a request, on any thread, and answers the call of this id.
pub(in crate::worker) type ThreadedFn = dyn Fn(Input<'_>, &'static Hub, u32) + Send + Sync;

/// What a child serves.
pub(in crate::worker) enum Function<'a> {
    /// All calls simultaneously, on the loop.
    Deferred(&'a mut DeferredFn),
    /// Several calls simultaneously, on threads.
    Threaded(&'a Arc<ThreadedFn>),
}

/// Answers requests until they end and everything is answered, at most `running` of them
/// simultaneously. Calls `done` then, if there is one, and continues until nothing is left to wait for.
pub(in crate::worker) fn answer(
    server: Server,
    function: Function<'_>,
    mut options: Options,
    running: usize,
) -> Result<(), Stop> {
    let hub = server.hub;
    let running = match hub.plain() {
        // Answers come in order if calls run in order.
        Some(Plain::Ordered) => 1,
        Some(Plain::Tagged) | None => running,
    };
    hub.set_limits(CallLimits {
        running,
        high_water: options.high_water,
    });
    WritePolicy::Batch.set();
    let mut done = options.done.take();
    let mut child = ConcurrentChild {
        events: Loop::new(hub),
        threads: 0,
        max_threads: running,
        reading: true,
        backlog: false,
        waker: None,
        set: PollSet::default(),
        places: PollPlaces::new(),
        server,
    };
    let result = child.run(function, &mut done);
    if result.is_err() {
        // The calls that are left are lost with this child. They are not unanswered, as they would be
        // reported to be if they were dropped first.
        hub.flush_and_close();
    }
    child.events.clear();
    options.done = done;
    result
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
    /// What the last poll waited for. Kept for their memory.
    set: PollSet,
    places: PollPlaces,
}

impl ConcurrentChild {
    fn run(&mut self, mut function: Function<'_>, done: &mut Option<Done>) -> Result<(), Stop> {
        let mut done_state = match done {
            Some(_) => DoneState::Pending,
            None => DoneState::None,
        };
        loop {
            self.take_requests(&mut function)?;
            self.events.run_posts();
            if let Some(deadline) = self.events.deadline() {
                let now = Instant::now();
                if deadline <= now {
                    self.events.fire_timers(now);
                }
            }
            self.start_waiting(&mut function)?;
            self.server.hub.write_batch();
            let Some(status) = self.server.hub.prepare_to_sleep() else {
                continue;
            };
            // A post from before that has woken nobody.
            if self.events.has_posts() {
                self.server.hub.woke_up();
                continue;
            }
            match self.status(done_state).decide(status) {
                Decision::ParentGone => return Err(Stop::cannot_write(self.server.hub)),
                Decision::Finished => return Ok(()),
                Decision::CallDone => {
                    done_state = DoneState::Called;
                    self.server.hub.woke_up();
                    if let Some(done) = done.take() {
                        self.events.run_guarded(done);
                    }
                }
                Decision::TakeRequests => self.server.hub.woke_up(),
                Decision::MakeWaker => self.make_waker()?,
                Decision::Sleep(SleepMode::Read) => {
                    let more = self.server.read();
                    self.server.hub.woke_up();
                    self.after_read(more?);
                }
                Decision::Sleep(SleepMode::ReadBriefly) => self.read_briefly()?,
                Decision::Sleep(SleepMode::Poll { requests, room }) => {
                    self.poll(requests, room, status.busy)?;
                }
            }
        }
    }

    fn status(&self, done: DoneState) -> LocalStatus {
        LocalStatus {
            reading: self.reading,
            backlog: self.backlog,
            has_waker: self.waker.is_some(),
            idle: self.events.is_idle(),
            done,
        }
    }

    fn make_waker(&mut self) -> Result<(), Stop> {
        self.waker = Some(self.server.hub.waker().map_err(Stop::connection)?);
        Ok(())
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
            events.run_guarded(|events| {
                taken = Some(take(server, function, &mut call, events));
            });
            if let Some(id) = call.take() {
                server.hub.returned(id);
            }
        }
        *backlog = taken.expect("the loop ends when it is set")?;
        Ok(())
    }

    /// Starts the requests that wait, as far as they may start: here, or on threads, which are started
    /// as needed.
    fn start_waiting(&mut self, function: &mut Function<'_>) -> Result<(), Stop> {
        match function {
            Function::Deferred(function) => {
                while let Some((id, request, _)) = self.server.hub.next_request() {
                    let hub = &self.server.hub;
                    let request = Input::from(request);
                    self.events
                        .run_guarded(|events| function(request, hub, id, events));
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
                        // The threads there are will do. One is needed.
                        Err(_) if self.threads > 0 => {
                            self.server.hub.remove_thread();
                            break;
                        }
                        Err(error) => return Err(Stop::no_thread(&error)),
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads requests while others run. If none come for a while, the loop makes a waker, to be woken
    /// by the last answer.
    fn read_briefly(&mut self) -> Result<(), Stop> {
        let server = &mut self.server;
        let read = server.requests.read_briefly(&mut server.session);
        server.hub.woke_up();
        let Some(n) = read.map_err(Stop::connection)? else {
            return self.make_waker();
        };
        let more = server.after_read(n)?;
        self.after_read(more);
        Ok(())
    }

    /// Waits until there is something to do, and reads if there are requests.
    fn poll(&mut self, requests: bool, room: bool, busy: bool) -> Result<(), Stop> {
        self.set.clear();
        let requests = requests.then(|| {
            let number = self.server.requests.number();
            self.set.add(number, Interest::Readable)
        });
        if room {
            let number = self.server.hub.output().as_raw_fd();
            self.set.add(number, Interest::Writable);
        }
        let waker = self.waker.as_ref().map(|waker| {
            let number = waker.as_fd().as_raw_fd();
            self.set.add(number, Interest::Readable)
        });
        self.events.add_to(&mut self.set, &mut self.places);
        self.wait(busy, requests)?;
        self.server.hub.woke_up();
        if let (Some(place), Some(waker)) = (waker, &self.waker)
            && self.set.is_ready(place)
        {
            waker.reset();
        }
        self.events.fire_ready(&self.set, &self.places);
        if self.reading && requests.is_some_and(|place| self.set.is_ready(place)) {
            let server = &mut self.server;
            let read = server.requests.try_read(&mut server.session);
            if let Some(n) = read.map_err(Stop::connection)? {
                let more = server.after_read(n)?;
                self.after_read(more);
            }
        }
        Ok(())
    }

    /// Waits for the set and the next timer. A child that is idle for a while disarms its lifeline; one
    /// that has calls to answer does not, or it would continue them when the parent is gone.
    /// `at` is the place of the requests in the set.
    fn wait(&mut self, busy: bool, at: Option<usize>) -> Result<(), Stop> {
        let deadline = self.events.deadline();
        let left = || deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let requests = &mut self.server.requests;
        if requests.is_armed() && self.reading {
            let first = left().map_or(LINGER, |left| left.min(LINGER));
            if self.set.wait(Some(first)).map_err(Stop::connection)? > 0
                || left().is_some_and(|l| l.is_zero())
            {
                return Ok(());
            }
            if !busy {
                requests.disarm_lifeline();
            } else if !self.server.hub.wake_when_idle() {
                return Ok(());
            }
        }
        self.set.wait(left()).map_err(Stop::connection)?;
        if self.reading {
            let hung_up = at.is_some_and(|place| self.set.is_hung_up(place));
            let parent_lives = requests.rearm_lifeline(hung_up);
            if !parent_lives.map_err(Stop::connection)? {
                // No more requests will come.
                self.end_of_requests();
            }
        }
        Ok(())
    }

    fn after_read(&mut self, more: bool) {
        if !more {
            self.end_of_requests();
        }
    }

    fn end_of_requests(&mut self) {
        self.reading = false;
        self.server.hub.end_of_requests();
    }
}

/// Starts or queues the requests that were read. Returns whether there may be more, if it stops because
/// no more may be taken now. After a panic, `call` is the one that was being started.
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
        match server
            .session
            .next(|id| hub.is_running(id))
            .map_err(Stop::protocol)?
        {
            None => return Ok(false),
            Some(Step::Request { id, payload }) => {
                start(function, call, hub, events, id, payload)?;
                if !hub.wants_requests() {
                    return Ok(true);
                }
            }
            Some(Step::Cancel { id }) => hub.cancel(id),
            Some(Step::Setup { .. } | Step::Run(_)) => {
                unreachable!("the session refuses these after `run`")
            }
        }
    }
}

/// Starts a call, or queues it.
#[inline]
fn start<'a>(
    function: &mut Function<'_>,
    call: &mut Option<u32>,
    hub: &'static Hub,
    events: &Loop,
    id: u32,
    payload: impl Into<Input<'a>>,
) -> Result<(), Stop> {
    let duplicate = |_| Stop::protocol(ParentViolation::Duplicate { id });
    match function {
        Function::Deferred(function) if hub.begin(id).map_err(duplicate)? => {
            panics::begin_once();
            *call = Some(id);
            function(payload.into(), hub, id, events);
            *call = None;
            hub.returned(id);
        }
        _ => hub.queue(id, payload.into()).map_err(duplicate)?,
    }
    Ok(())
}

/// A thread of a child: takes requests that wait, and answers them.
fn work(hub: &'static Hub, function: &ThreadedFn) {
    let _vital = panics::Vital;
    loop {
        let (id, request) = hub.wait_for_request();
        WritePolicy::LastCall.set();
        // After a panic the call has failed, as its caller was dropped.
        let _ = panics::catch(|| function(Input::from(request), hub, id));
        hub.thread_is_free();
    }
}

//! Serves functions of all kinds: deferred ones start as they come, on the loop, threaded ones on threads,
//! and returning ones on the loop, one at a time.
//!
//! One round of the loop: take the requests that have come, do what was posted, fire the timers that
//! are due, write the output of all that, and sleep until something happens. With nothing but requests
//! to wait for, it sleeps in a read: a batch costs one read and one write.

use super::decision::{Decision, DoneState, LocalStatus, SleepMode};
use crate::codec::Input;
use crate::sys::{Interest, PollSet, Waker};
use crate::threads;
use crate::wire::Plain;
use crate::worker::calls::{CallLimits, Lane, Started};
use crate::worker::event_loop::{Loop, PollPlaces};
use crate::worker::functions::Function;
use crate::worker::hub::{Hub, WritePolicy};
use crate::worker::panics;
use crate::worker::read_ahead::RequestPayload;
use crate::worker::request_reader::LINGER;
use crate::worker::returning::{self, MANY};
use crate::worker::server::{Done, Options, Server, StartThreads, Stop};
use crate::worker::table::{Bodies, Body};
use std::num::NonZero;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

/// Runs the function with a request. The call of this id is answered then or later.
pub(in crate::worker) type DeferredFn = dyn FnMut(Input<'_>, &'static Hub, u32, &Loop);
/// Runs the function with a request, on any thread, and answers the call of this id.
pub(in crate::worker) type ThreadedFn = dyn Fn(Input<'_>, &'static Hub, u32) + Send + Sync;

/// The threaded functions, by their indices.
type ThreadedFns = [Option<Arc<ThreadedFn>>];

/// Answers requests until they end and everything is answered. Calls `done` then, if there is one, and
/// continues until nothing is left to wait for.
pub(in crate::worker) fn answer(
    mut server: Server,
    bodies: &mut Bodies,
    mut options: Options,
) -> Result<(), Stop> {
    let hub = server.hub;
    let threaded: Arc<ThreadedFns> = bodies.iter().map(Body::threaded).collect();
    let any_threaded = threaded.iter().any(Option::is_some);
    // To find out how many processors there are takes a while.
    let all = || thread::available_parallelism().map_or(1, NonZero::get);
    let threads = match (hub.plain(), any_threaded) {
        (_, false) => 0,
        // Answers come in order if calls run in order.
        (Some(Plain::Ordered), true) => 1,
        (Some(Plain::Tagged | Plain::Fallible) | None, true) => options.threads.unwrap_or_else(all),
    };
    let deferred = match hub.plain() {
        Some(Plain::Ordered) => 1,
        Some(Plain::Tagged | Plain::Fallible) | None => options.max_running,
    };
    hub.set_limits(CallLimits {
        deferred,
        threaded: threads,
        high_water: options.high_water,
    });
    if any_threaded {
        hub.let_threads_begin();
        server.start_threads = Some(start_threads(threaded, threads));
    }
    let mut done = options.done.take();
    let mut child = ConcurrentChild {
        events: Loop::new(hub),
        reading: true,
        backlog: false,
        waker: None,
        set: PollSet::default(),
        places: PollPlaces::new(),
        server,
    };
    let result = child.run(bodies, &mut done);
    if result.is_err() {
        // The calls that are left are lost with this child. They are not unanswered, as they would be
        // reported to be if they were dropped first.
        hub.flush_and_close();
        // What the loop drops may wait for threads that wait for answers.
        hub.end_of_requests();
    }
    child.events.clear();
    options.done = done;
    result
}

struct ConcurrentChild {
    server: Server,
    events: Loop,
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
    fn run(&mut self, bodies: &mut Bodies, done: &mut Option<Done>) -> Result<(), Stop> {
        let mut done_state = match done {
            Some(_) => DoneState::Pending,
            None => DoneState::None,
        };
        WritePolicy::Batch.set();
        loop {
            self.take_requests(bodies)?;
            self.events.run_posts();
            if let Some(deadline) = self.events.deadline() {
                let now = Instant::now();
                if deadline <= now {
                    self.events.fire_timers(now);
                }
            }
            self.start_waiting(bodies)?;
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
        self.waker = Some(
            self.server
                .hub
                .waker()
                .map_err(|error| Stop::no_waker(&error))?,
        );
        Ok(())
    }

    /// Starts or queues the requests that were read.
    fn take_requests(&mut self, bodies: &mut Bodies) -> Result<(), Stop> {
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
                taken = Some(take(server, bodies, &mut call, events));
            });
            WritePolicy::Batch.set();
            if let Some(id) = call.take() {
                server.hub.returned(id);
            }
        }
        *backlog = taken.expect("the loop ends when it is set")?;
        Ok(())
    }

    /// Starts the requests that wait, as far as they may start: here, or on threads, which are started
    /// as needed.
    fn start_waiting(&mut self, bodies: &mut Bodies) -> Result<(), Stop> {
        let ConcurrentChild { server, events, .. } = self;
        server.start_threads()?;
        let hub = server.hub;
        while let Some((lane, next, behind)) = hub.next_request() {
            let Started {
                id,
                function,
                request,
            } = next;
            events.run_guarded(|events| match lane {
                Lane::Returning => {
                    let payload = RequestPayload::Owned(request);
                    let many = behind >= MANY;
                    call_returning(bodies, function, server, payload, id, many);
                }
                Lane::Deferred | Lane::Threaded => {
                    deferred(bodies, function)(Input::from(request), hub, id, events);
                }
            });
            WritePolicy::Batch.set();
            server.check()?;
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
        self.server.has_read();
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
    bodies: &mut Bodies,
    call: &mut Option<u32>,
    events: &Loop,
) -> Result<bool, Stop> {
    let hub = server.hub;
    loop {
        // Another function is selected by a control message, which is none of these requests.
        if let Ok(Function { index, lane }) = server.functions.current() {
            while let Some((id, at)) = server.session.request_at() {
                let begins = lane != Lane::Threaded
                    && hub.begin(lane, id).map_err(|_| Stop::duplicate(id))?;
                if !begins {
                    let payload = Input::from(server.session.bytes(at));
                    let function = Function { index, lane };
                    let queued = hub.queue(id, function, payload);
                    queued.map_err(|_| Stop::duplicate(id))?;
                } else if lane == Lane::Deferred {
                    panics::begin_once();
                    *call = Some(id);
                    let payload = Input::from(server.session.bytes(at));
                    deferred(bodies, index)(payload, hub, id, events);
                    *call = None;
                    hub.returned(id);
                } else {
                    panics::begin_once();
                    let many = server.session.has_many(MANY);
                    call_returning(bodies, index, server, RequestPayload::At(at), id, many);
                    WritePolicy::Batch.set();
                    server.check()?;
                }
                if !hub.wants_requests() {
                    return Ok(true);
                }
            }
        }
        // A request that is queued is started in its turn.
        if server.take_step()?.is_none() {
            return Ok(false);
        }
        if !hub.wants_requests() {
            return Ok(true);
        }
    }
}

/// The deferred function of this index.
fn deferred(bodies: &mut Bodies, index: u32) -> &mut DeferredFn {
    match &mut bodies[index as usize] {
        Body::Deferred(function) => &mut **function,
        Body::Returning(_) | Body::Threaded(_) => unreachable!("it is in another lane"),
    }
}

/// Runs a call of a returning function. What others have answered before must not wait for it.
fn call_returning(
    bodies: &mut Bodies,
    index: u32,
    server: &mut Server,
    payload: RequestPayload,
    id: u32,
    many: bool,
) {
    server.hub.leave_to_flusher();
    returning::call(
        returning::returning(bodies, index),
        server,
        payload,
        id,
        many,
    );
}

/// Starts at most `max` threads, as they are needed.
fn start_threads(functions: Arc<ThreadedFns>, max: usize) -> StartThreads {
    let mut threads = 0;
    Box::new(move |hub| {
        while threads < max && hub.add_thread() {
            let functions = Arc::clone(&functions);
            let name = format!("offspring {}", threads + 1);
            let thread = thread::Builder::new().name(name);
            match threads::start(thread, Box::new(move || work(hub, &functions))) {
                Ok(_) => threads += 1,
                // The threads there are will do. One is needed.
                Err(_) if threads > 0 => {
                    hub.remove_thread();
                    break;
                }
                Err(error) => return Err(Stop::no_thread(&error)),
            }
        }
        Ok(())
    })
}

/// A thread of a child: takes requests that wait, and answers them.
fn work(hub: &'static Hub, functions: &ThreadedFns) {
    let _vital = panics::Vital;
    loop {
        let Started {
            id,
            function,
            request,
        } = hub.wait_for_request();
        let function = functions[function as usize].as_deref();
        let function = function.expect("others are in other lanes");
        WritePolicy::LastCall.set();
        // After a panic the call has failed, as its caller was dropped.
        let _ = panics::catch(|| function(Input::from(request), hub, id));
        hub.thread_is_free();
    }
}

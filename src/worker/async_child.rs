//! A child that does many things at once: every request starts as it comes, on the loop or on threads.
//!
//! One round of the loop: take the requests that have come, do what was posted, fire the timers that
//! are due, write what all that made, and sleep until something happens. With nothing but requests
//! to wait for, sleeping is reading: a batch costs one read and one write.

use super::hub::{Hub, Rest};
use super::inlet::LINGER;
use super::ledger::Limits;
use super::looper::{Loop, Places};
use super::output::Pace;
use super::panics;
use super::serve::{Child, Done, Options, Stop, broken, io_error, parent_gone};
use super::session::{Step, Violation};
use super::table::{self, OnPanic};
use crate::codec::Input;
use crate::process::Plain;
use crate::sys::{Bell, Interest, PollSet};
use crate::threads;
use crate::wire::Failure;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

/// What such a child calls.
pub(super) enum Function<'a> {
    /// All calls at once, on the loop.
    Deferred(&'a mut table::Deferred),
    /// Several calls at once, on threads.
    Threaded(&'a Arc<table::Threaded>),
}

/// Answers requests until they end and all is answered, at most `running` of them at once. If there is
/// something to be done then, goes on until nothing is left to wait for.
pub(super) fn answer(
    child: Child,
    function: Function<'_>,
    on_panic: &Arc<OnPanic>,
    options: Options,
    running: usize,
) -> Result<(), Stop> {
    let (hub, on_panic) = (child.hub, Arc::clone(on_panic));
    let on_panic = move |panic: &Failure| on_panic(hub, panic);
    let running = match hub.plain {
        // Answers in order are those of calls that run in order.
        Some(Plain::Ordered) => 1,
        Some(Plain::Tagged) | None => running,
    };
    hub.set_limits(Limits {
        running,
        high_water: options.high_water,
    });
    Pace::Batch.set();
    AsyncChild {
        events: Loop::new(hub, Box::new(on_panic)),
        threads: 0,
        max_threads: running,
        reading: true,
        backlog: false,
        bell: None,
        set: PollSet::default(),
        places: Places::new(),
        child,
    }
    .run(function, options.done)
}

struct AsyncChild {
    child: Child,
    events: Loop,
    threads: usize,
    max_threads: usize,
    /// Whether requests have not ended.
    reading: bool,
    /// Whether the session may have requests that were not taken.
    backlog: bool,
    bell: Option<Arc<Bell>>,
    /// What the last sleep waited for. Kept for their memory.
    set: PollSet,
    places: Places,
}

impl AsyncChild {
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
            self.child.hub.write_batch();
            let Some(rest) = self.child.hub.lie_down() else {
                continue;
            };
            if rest.broken && !runs_on {
                return Err(parent_gone());
            }
            if runs_on {
                if self.events.is_idle() {
                    return Ok(());
                }
            } else if rest.finished {
                let Some(done) = done.take() else {
                    return Ok(());
                };
                runs_on = true;
                self.child.hub.get_up();
                self.events.guard_once(done);
                continue;
            }
            if rest.wants_requests && self.backlog {
                self.child.hub.get_up();
                continue;
            }
            let wants_bell = rest.wants_bell || !self.events.is_idle();
            if wants_bell && self.bell.is_none() {
                // With the bell there, another look: it may have been wanted meanwhile.
                self.bell = Some(self.child.hub.bell().map_err(io_error)?);
                continue;
            }
            self.sleep(rest, wants_bell)?;
        }
    }

    /// Starts or queues the requests that were read.
    fn take_requests(&mut self, function: &mut Function<'_>) -> Result<(), Stop> {
        let AsyncChild {
            child,
            events,
            backlog,
            ..
        } = self;
        let mut call = None;
        let mut taken = None;
        // A panic ends one call only. The others need no guard of their own.
        while taken.is_none() {
            events.guard_once(|events| {
                taken = Some(take(child, function, &mut call, events));
            });
            if let Some(id) = call.take() {
                child.hub.leave(id);
            }
        }
        *backlog = taken.expect("the loop ends with it")?;
        Ok(())
    }

    /// Starts what waits, as far as it may: here, or on threads, which are made as needed.
    fn start_waiting(&mut self, function: &mut Function<'_>) {
        match function {
            Function::Deferred(function) => {
                while let Some((id, request, _)) = self.child.hub.next() {
                    let hub = &self.child.hub;
                    let request = Input::from(request);
                    self.events
                        .guard_once(|events| function(request, hub, id, events));
                }
            }
            Function::Threaded(function) => {
                while self.threads < self.max_threads && self.child.hub.add_thread() {
                    let (hub, function) = (self.child.hub, Arc::clone(*function));
                    let name = format!("offspring {}", self.threads + 1);
                    let thread = thread::Builder::new().name(name);
                    let spawned = threads::start(thread, Box::new(move || work(hub, &*function)));
                    match spawned {
                        Ok(_) => self.threads += 1,
                        // The ones there are do it. The first one is needed.
                        Err(_) if self.threads > 0 => return self.child.hub.remove_thread(),
                        Err(error) => {
                            eprintln!("offspring child: cannot start a thread: {error}");
                            std::process::exit(1);
                        }
                    }
                }
            }
        }
    }

    /// Waits until there is something to do, and reads if there are requests.
    fn sleep(&mut self, rest: Rest, wants_bell: bool) -> Result<(), Stop> {
        let wants_requests = rest.wants_requests && self.reading;
        let only_requests =
            wants_requests && !rest.wants_room && !wants_bell && self.events.is_idle();
        if only_requests && rest.busy {
            let child = &mut self.child;
            let read = child.inlet.read_briefly(&mut child.session);
            self.child.hub.get_up();
            let Some(n) = read.map_err(io_error)? else {
                // From now on it sleeps where it hears of the last answer.
                self.bell = Some(self.child.hub.bell().map_err(io_error)?);
                return Ok(());
            };
            let more = self.child.has_read(n)?;
            return self.has_read(more);
        }
        if only_requests {
            let more = self.child.read();
            self.child.hub.get_up();
            return self.has_read(more?);
        }
        let mut wait = Wait {
            requests: None,
            room: None,
            bell: None,
        };
        self.set.clear();
        if wants_requests {
            let number = self.child.inlet.number();
            wait.requests = Some(self.set.add(number, Interest::Readable));
        }
        if rest.wants_room {
            let number = self.child.hub.output().as_raw_fd();
            wait.room = Some(self.set.add(number, Interest::Writable));
        }
        if let Some(bell) = &self.bell {
            let number = bell.as_fd().as_raw_fd();
            wait.bell = Some(self.set.add(number, Interest::Readable));
        }
        self.events.add_to(&mut self.set, &mut self.places);
        self.poll(rest.busy)?;
        self.child.hub.get_up();
        if let (Some(place), Some(bell)) = (wait.bell, &self.bell)
            && self.set.is_ready(place)
        {
            bell.silence();
        }
        self.events.fire_ready(&self.set, &self.places);
        if wait.requests.is_some_and(|place| self.set.is_ready(place)) {
            let child = &mut self.child;
            let read = child.inlet.try_read(&mut child.session).map_err(io_error)?;
            if let Some(n) = read {
                let more = child.has_read(n)?;
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
        let inlet = &mut self.child.inlet;
        if inlet.is_holding_on() && self.reading {
            let first = left().map_or(LINGER, |left| left.min(LINGER));
            if self.set.wait(Some(first)).map_err(io_error)? > 0
                || left().is_some_and(|l| l.is_zero())
            {
                return Ok(());
            }
            if !busy {
                inlet.let_go();
            } else if !self.child.hub.sleep_on() {
                return Ok(());
            }
        }
        self.set.wait(left()).map_err(io_error)?;
        if self.reading && !inlet.hold_on().map_err(io_error)? {
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
        self.child.hub.close();
    }
}

/// Starts or queues the requests that were read. Returns whether there may be more, as no more may be
/// taken on. `call` is the one that is being started, if there was a panic.
fn take(
    child: &mut Child,
    function: &mut Function<'_>,
    call: &mut Option<u32>,
    events: &Loop,
) -> Result<bool, Stop> {
    let hub = child.hub;
    loop {
        while let Some(request) = child.session.request() {
            let id = request.id;
            start(function, call, hub, events, id, request.payload)?;
            if !hub.wants_requests() {
                return Ok(true);
            }
        }
        match child.session.next().map_err(broken)? {
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
    let duplicate = |_| broken(Violation::Duplicate { id });
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
    bell: Option<usize>,
}

/// A thread of a child: takes requests that wait, and answers them.
fn work(hub: &'static Hub, function: &table::Threaded) {
    loop {
        let (id, request) = hub.take();
        Pace::LastCall.set();
        // A panic has failed the call by now, as its caller was dropped.
        let _ = panics::catch(|| function(Input::from(request), hub, id));
        hub.thread_is_free();
    }
}

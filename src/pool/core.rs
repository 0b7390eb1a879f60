//! What all handles to a pool share: its calls and its children, under one lock.
//!
//! Calls are queued in the link of a child under it, so that those of one caller stay in their order. Nothing is
//! written, started or stopped under it, nor does the program's code run: whoever changes something decides what is
//! to be done, and does that without it.

use super::builder::Callbacks;
use super::child::{ChildExit, ChildWatch};
use super::memory::{Look, Memory};
use super::records::Records;
use super::scheduler::{ChildId, End, Scheduler, Ticket, Want};
use super::state::{Function, Serving, State, Tasks, gone};
use super::waiting::{Place, Repeat, Waiting, was_killed};
use crate::codec::CodecError;
use crate::error::{Error, ErrorKind, Phase, Refusal};
use crate::fd::Reach;
use crate::process::Process;
use crate::rpc::{
    Answer, AnswerWait, CallOptions, Caller, ChildOptions, Completion, Ended, Exit, Fill, Handle,
    Link, ProgressCallback, ReactorCore, Slot, guard, in_callback, log_error, refuse_in_callback,
};
use crate::sys::{self, CoarseTime, Origin};
use crate::unwind;
use crate::wire::{Body, FunctionId};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// See the module's documentation.
pub(super) struct Core {
    state: Mutex<State>,
    /// Notified of room, and of the end.
    changed: Condvar,
    pub(super) reactor: Arc<ReactorCore>,
    /// The key of the pool's timer at the reactor.
    pub(super) key: usize,
    origin: Origin,
    /// The same moment by two clocks, of which the coarse one is read faster.
    clock: (Instant, CoarseTime),
    /// When it was made.
    pub(super) since: Instant,
    /// Where children come from.
    pub(super) sources: Vec<Process>,
    pub(super) options: ChildOptions,
    /// A child that has so much more memory than at its start is replaced.
    pub(super) max_memory: Option<u64>,
    /// The program's. Not locked while they run.
    pub(super) callbacks: Mutex<Callbacks>,
    /// The thread that starts children, or has last. Who locks this waits for no other.
    pub(super) starter: Mutex<Option<JoinHandle<()>>>,
}

/// A request of so many bytes, in one piece, is copied by a link, which leaves it as it is.
const COPIED: usize = 1 << 10;

/// A call that is made.
pub(super) struct NewCall<'a> {
    pub(super) function: usize,
    pub(super) want: Want,
    pub(super) request: &'a mut Body,
    pub(super) progress: Option<ProgressCallback>,
    pub(super) repeatable: u32,
    /// Whether it may wait for room.
    pub(super) may_wait: bool,
}

impl Core {
    pub(super) fn new(
        scheduler: Scheduler<Box<Waiting>, Error>,
        first: Function,
        sources: Vec<Process>,
        options: ChildOptions,
        max_memory: Option<u64>,
        callbacks: Callbacks,
        reactor: Arc<ReactorCore>,
    ) -> Arc<Self> {
        Arc::new(Core {
            state: Mutex::new(State::new(scheduler, first)),
            changed: Condvar::new(),
            key: reactor.new_key(),
            reactor,
            origin: Origin::here(),
            clock: (Instant::now(), sys::coarse_clock()),
            since: Instant::now(),
            sources,
            options,
            max_memory,
            callbacks: Mutex::new(callbacks),
            starter: Mutex::new(None),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        unwind::lock(&self.state)
    }

    /// Whether this process is a copy of the one that made the pool: it must not take the lock.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.origin.is_elsewhere()
    }

    pub(super) fn refuse_elsewhere(&self) -> Result<(), Error> {
        match self.is_elsewhere() {
            true => Err(Error::new(ErrorKind::Forked, Refusal::Forked.to_string())),
            false => Ok(()),
        }
    }

    /// The number of a function.
    pub(super) fn function(&self, function: &Function) -> usize {
        // All calls of a copy are refused.
        if self.is_elsewhere() {
            return 0;
        }
        let functions = &mut self.lock().functions;
        let known = functions.iter().position(|known| known == function);
        known.unwrap_or_else(|| {
            functions.push(function.clone());
            functions.len() - 1
        })
    }

    /// What children are started with.
    pub(super) fn with_first_function<T>(&self, then: impl FnOnce(FunctionId<'_>) -> T) -> T {
        let first = self.lock().functions[0].clone();
        then(first.id())
    }

    // ---- calls ----

    /// Makes a call, and waits for its answer.
    pub(super) fn call_and_wait(self: &Arc<Self>, mut call: NewCall<'_>) -> Answer {
        if self.is_elsewhere() {
            return refused(Refusal::Forked);
        }
        if in_callback() {
            return refused(Refusal::InCallback);
        }
        let mut state = match self.admit(&call) {
            Ok(state) => state,
            Err(ended) => return Answer::Ended(ended),
        };
        let since = Instant::now();
        let mut now = since;
        let ticket = state.scheduler.ticket();
        let mut want = call.want;
        let mut repeat = Repeat::up_to(call.repeatable);
        loop {
            let Some(child) = state.scheduler.place(&want, now) else {
                let slot = Slot::own();
                let waiting = Waiting {
                    ticket,
                    want,
                    since,
                    function: call.function,
                    request: mem::take(call.request),
                    progress: call.progress,
                    completion: Some(Completion::new(Fill(Arc::clone(&slot)))),
                    place: None,
                    repeat,
                };
                self.enqueue(state, waiting);
                let (answer, _) = slot.wait(None);
                return answer.expect("each call ends");
            };
            state.waits.add_none();
            state.visitors += 1;
            let (link, number) = state.link(child, call.function);
            drop(state);
            let answer = self.wait_in(&link, number, &want, &mut call);
            state = self.lock();
            state.visitors -= 1;
            let (error, phase) = match answer {
                Ok(Answer::Ended(Ended::Lost(error, phase))) => (error, phase),
                Ok(answer) => {
                    self.count_freed(state, child, link.freed());
                    return repeat.ends(answer);
                }
                Err(ended) => {
                    state.scheduler.unsent(child, now);
                    match ended {
                        Ended::Lost(error, phase) => (error, phase),
                        Ended::Refused(Refusal::Closed) => (gone(), Phase::Queued),
                        ended => {
                            drop(state);
                            self.pump();
                            return Answer::Ended(ended);
                        }
                    }
                }
            };
            state.scheduler.lost(child);
            now = Instant::now();
            match state.fate(&mut repeat, error, phase) {
                Ok(alone) => want.alone |= alone,
                Err(ended) => {
                    drop(state);
                    self.pump();
                    return repeat.ends(Answer::Ended(ended));
                }
            }
        }
    }

    /// Makes a call that counts as sent to a child, and waits for its answer.
    ///
    /// # Errors
    ///
    /// Why it was not sent.
    fn wait_in(
        &self,
        link: &Arc<Link>,
        function: usize,
        want: &Want,
        call: &mut NewCall<'_>,
    ) -> Result<Answer, Ended> {
        let slot = Slot::own();
        let mut completion = Some(Completion::new(Fill(Arc::clone(&slot))));
        let mut progress = call.progress.clone();
        let mut copy = None;
        let request = match call.request.short(COPIED) {
            Some(_) => &mut *call.request,
            // The link takes it, and it may be needed again.
            None => copy.insert(call.request.clone()),
        };
        let options = CallOptions {
            deadline: want.deadline,
            progress: &mut progress,
            may_wait: false,
            caller: Caller::Waits,
        };
        let made = link.call(function, request, options, &mut completion)?;
        let wait = AnswerWait {
            slot: &slot,
            id: made.id,
            timeout: want.deadline,
            until: None,
        };
        let answer = link.wait_for(&wait, made.reader, made.alone);
        Ok(answer.expect("it is waited for without end"))
    }

    /// Makes a call that ends by its completion. Returns where it is, if that is asked for.
    ///
    /// # Errors
    ///
    /// Why it is refused. The completion is left.
    pub(super) fn call(
        self: &Arc<Self>,
        call: &mut NewCall<'_>,
        completion: &mut Option<Completion>,
        place: Option<Arc<Mutex<Place>>>,
    ) -> Result<(), Ended> {
        if self.is_elsewhere() {
            return Err(Ended::Refused(Refusal::Forked));
        }
        let mut state = self.admit(call)?;
        let now = self.now();
        let mut waiting = Waiting {
            ticket: state.scheduler.ticket(),
            want: call.want,
            since: now,
            function: call.function,
            request: Body::default(),
            progress: call.progress.take(),
            completion: completion.take(),
            place,
            repeat: Repeat::up_to(call.repeatable),
        };
        match state.scheduler.place(&waiting.want, now) {
            Some(child) => {
                state.waits.add_none();
                let mut tasks = Tasks::default();
                state.send(child, waiting, call.request, now, &mut tasks);
                drop(state);
                self.run(tasks);
            }
            None => {
                waiting.request = mem::take(call.request);
                // How long it waits is told more precisely.
                waiting.since = Instant::now();
                waiting.set_place();
                self.enqueue(state, waiting);
            }
        }
        Ok(())
    }

    /// The time of the last tick.
    fn now(&self) -> Instant {
        let (start, then) = self.clock;
        let CoarseTime(seconds, nanos) = sys::coarse_clock();
        let now = Duration::new(seconds, nanos);
        start + now.saturating_sub(Duration::new(then.0, then.1))
    }

    /// Waits until another call may be made.
    fn admit(&self, call: &NewCall<'_>) -> Result<MutexGuard<'_, State>, Ended> {
        let len = call.request.len();
        let limit = self.options.max_frame;
        if len > limit {
            return Err(Ended::Refused(Refusal::TooLarge { len, limit }));
        }
        let is_full =
            |state: &mut State| !state.scheduler.is_closing() && !state.scheduler.has_room(len);
        let mut state = self.lock();
        if is_full(&mut state) {
            if !call.may_wait {
                return Err(Ended::Refused(Refusal::Full));
            }
            if in_callback() {
                return Err(Ended::Refused(Refusal::InCallback));
            }
            state.blocked += 1;
            state = unwind::wait_until(&self.changed, state, call.want.deadline, is_full);
            state.blocked -= 1;
            if is_full(&mut state) {
                return Err(Ended::TimedOut(Phase::Queued));
            }
        }
        if state.scheduler.is_closing() {
            return Err(match &state.killed {
                Some(error) => Ended::Lost(error.clone(), Phase::Queued),
                None => Ended::Refused(Refusal::Closed),
            });
        }
        Ok(state)
    }

    fn enqueue(self: &Arc<Self>, mut state: MutexGuard<'_, State>, waiting: Waiting) {
        state.enqueue(waiting);
        drop(state);
        self.pump();
    }

    /// A call is lost with its child. Returns its completion if it is not the pool's to go on with.
    pub(super) fn lost(
        self: &Arc<Self>,
        child: ChildId,
        id: u32,
        completion: Completion,
        error: &Error,
        phase: Phase,
    ) -> Option<Completion> {
        let mut tasks = Tasks::default();
        let mut state = self.lock();
        let serving = state.serving.iter_mut().find(|serving| serving.id == child);
        let Some(record) = serving.and_then(|serving| serving.records.take(id)) else {
            return Some(completion);
        };
        let waiting = record.into_waiting(completion);
        state.lose(child, waiting, error.clone(), phase, &mut tasks);
        drop(state);
        self.run(tasks);
        None
    }

    /// Nobody waits for a call any more.
    pub(super) fn cancel(self: &Arc<Self>, place: &Mutex<Place>) {
        let was = mem::replace(&mut *unwind::lock(place), Place::Cancelled);
        // It may have ended there.
        match was {
            Place::Waiting(ticket) => {
                let withdrawn = self.lock().scheduler.withdraw(ticket);
                guard(|| drop(withdrawn));
                self.pump();
            }
            Place::Sent(child, link, id) => {
                link.cancel(id);
                // If it was not written yet, there is room for another.
                self.freed(child, link.freed());
            }
            Place::Cancelled => {}
        }
    }

    /// A call to each child there is.
    pub(super) fn everywhere(self: &Arc<Self>, mut make: impl FnMut(Ticket) -> Waiting) {
        let mut tasks = Tasks::default();
        let mut state = self.lock();
        let now = Instant::now();
        let ids: Vec<_> = state
            .scheduler
            .children()
            .iter()
            .map(|child| child.id)
            .collect();
        for id in ids {
            if !state.scheduler.send_to(id, now) {
                continue;
            }
            let mut waiting = make(state.scheduler.ticket());
            match state.serving.iter().any(|serving| serving.id == id) {
                true => {
                    let mut request = mem::take(&mut waiting.request);
                    state.send(id, waiting, &mut request, now, &mut tasks);
                }
                false => state.for_new.push((id, waiting)),
            }
        }
        drop(state);
        self.run(tasks);
        self.pump();
    }

    // ---- what happens ----

    /// A child serves.
    pub(super) fn ready(
        self: &Arc<Self>,
        child: ChildId,
        link: &Arc<Link>,
        memory: Option<Memory>,
    ) {
        let mut state = self.lock();
        let serving = Serving {
            id: child,
            link: Arc::clone(link),
            functions: vec![0],
            records: Records::default(),
            memory,
        };
        let at = state.serving.partition_point(|other| other.id < child);
        state.serving.insert(at, serving);
        let now = Instant::now();
        state.scheduler.ready(child, now);
        let mut tasks = Tasks::default();
        let is_its = |(id, _): &mut (ChildId, Waiting)| *id == child;
        let first: Vec<_> = state.for_new.extract_if(.., is_its).collect();
        for (_, mut waiting) in first {
            let mut request = mem::take(&mut waiting.request);
            state.send(child, waiting, &mut request, now, &mut tasks);
        }
        drop(state);
        self.run(tasks);
        self.pump();
    }

    /// So many calls of a child have ended.
    pub(super) fn freed(self: &Arc<Self>, child: ChildId, total: u64) {
        self.count_freed(self.lock(), child, total);
    }

    fn count_freed(self: &Arc<Self>, mut state: MutexGuard<'_, State>, child: ChildId, total: u64) {
        let now = Instant::now();
        if !state.scheduler.freed(child, total, now) {
            let is_over = state.is_over();
            drop(state);
            if is_over {
                self.reactor.attend(self.key);
            }
            return;
        }
        state.sweep(child);
        let look = self.max_memory.and_then(|_| {
            let serving = state.serving.iter_mut().find(|it| it.id == child)?;
            serving.memory.as_mut()?.look(now)
        });
        let idle = state.scheduler.idle_deadline();
        let is_timed = idle.is_none_or(|idle| state.timer_at.is_some_and(|at| at <= idle));
        let is_calm = state.scheduler.waiting() == 0 && is_timed;
        if look.is_none() && is_calm && !state.scheduler.is_closing() && !state.is_worn(child) {
            return self.notify_of_room(&state);
        }
        drop(state);
        if look.is_some_and(Look::is_exceeded) {
            self.lock().scheduler.outgrown(child);
        }
        self.pump();
    }

    /// A child wants no more calls.
    pub(super) fn retires(self: &Arc<Self>, child: ChildId) {
        let error = Error::new(
            ErrorKind::Died,
            "the child has retired before its first call",
        );
        self.lock().scheduler.retires(child, error, Instant::now());
        self.pump();
    }

    /// A child has ended. So many of the calls that are lost had begun, if it has begun any.
    pub(super) fn ended(
        self: &Arc<Self>,
        child: ChildId,
        pid: Option<u32>,
        end: Result<Exit, Error>,
        begun: usize,
        has_begun: bool,
    ) {
        let now = Instant::now();
        let mut state = self.lock();
        let info = state.scheduler.children().iter().find(|it| it.id == child);
        let exit = info.map(|info| ChildExit::new(pid, end.clone(), info, begun, now));
        let how = match end {
            Ok(_) => End::Wanted,
            Err(error) => End::Died {
                // What this process kills has not failed to start.
                blamed: has_begun || was_killed(&error),
                error,
            },
        };
        state.scheduler.died(child, how, now);
        let was_serving = state.serving.extract_if(.., |it| it.id == child).next();
        let handle = state.handles.extract_if(.., |(id, _)| *id == child).next();
        let lost: Vec<_> = state
            .for_new
            .extract_if(.., |(id, _)| *id == child)
            .collect();
        drop(state);
        drop((was_serving, handle));
        let error = exit
            .as_ref()
            .and_then(|exit| exit.end.as_ref().err().cloned());
        for (_, waiting) in lost {
            let error = error.clone().unwrap_or_else(gone);
            waiting.end(Answer::Ended(Ended::Lost(error, Phase::Queued)));
        }
        if let Some(exit) = exit {
            self.report(&exit);
        }
        self.pump();
    }

    /// A child could not be started.
    pub(super) fn start_failed(self: &Arc<Self>, child: ChildId, error: Error) {
        let core = Arc::clone(self);
        self.lock().jobs += 1;
        self.on_reactor(move || core.ended(child, None, Err(error), 0, false));
    }

    /// A child was started. If it is not wanted any more, it is ended.
    pub(super) fn started(self: &Arc<Self>, child: ChildId, handle: Handle) {
        let mut state = self.lock();
        let is_killed = state.killed.is_some();
        let mut children = state.scheduler.children().iter();
        if !is_killed && children.any(|it| it.id == child && !it.is_told()) {
            return state.handles.push((child, handle));
        }
        drop(state);
        if is_killed {
            handle.link.kill();
        }
    }

    fn report(&self, exit: &ChildExit) {
        let on_exit = unwind::lock(&self.callbacks).on_exit.take();
        match (on_exit, &exit.end) {
            (Some(mut on_exit), _) => {
                guard(|| on_exit(exit));
                unwind::lock(&self.callbacks).on_exit = Some(on_exit);
            }
            // Those that had served have ended calls, which tell.
            (None, Err(error)) if exit.calls == 0 && exit.begun.is_empty() => log_error(error),
            (None, _) => {}
        }
    }

    /// Does what there is to do.
    pub(super) fn pump(self: &Arc<Self>) {
        let mut tasks = Tasks::default();
        let mut state = self.lock();
        state.decide(Instant::now(), &mut tasks);
        let start = !state.starts.is_empty() && !mem::replace(&mut state.is_starting, true);
        let timer_at = state.deadline();
        let is_sooner = timer_at.is_some_and(|at| state.timer_at.is_none_or(|old| at < old));
        let is_over = state.is_over() && !state.over;
        if is_sooner || timer_at.is_none() {
            state.timer_at = timer_at;
        }
        self.notify_of_room(&state);
        drop(state);
        if is_sooner || is_over {
            self.reactor.attend(self.key);
        }
        if start {
            self.start_starter();
        }
        self.run(tasks);
    }

    /// Does what was decided.
    fn run(self: &Arc<Self>, tasks: Tasks) {
        let Tasks {
            ended,
            unsettled,
            stopped,
            aside,
        } = tasks;
        for link in unsettled {
            link.settle();
        }
        drop(stopped);
        for (waiting, ended) in ended {
            self.on_reactor(move || waiting.end(Answer::Ended(ended)));
        }
        for waiting in aside {
            guard(|| drop(waiting));
        }
    }

    fn notify_of_room(&self, state: &State) {
        if state.blocked > 0 && (state.scheduler.has_room(0) || state.scheduler.is_closing()) {
            self.changed.notify_all();
        }
    }

    /// Runs something on the reactor's thread, but not within a callback. It counts as a job by now: the pool is
    /// not over before.
    fn on_reactor(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        let core = Arc::clone(self);
        self.reactor.run(move || {
            guard(job);
            let mut state = core.lock();
            state.jobs -= 1;
            let is_over = state.is_over();
            drop(state);
            if is_over {
                core.reactor.attend(core.key);
            }
        });
    }

    // ---- the end ----

    pub(super) fn restart(self: &Arc<Self>) {
        if self.is_elsewhere() {
            return;
        }
        self.lock().scheduler.restart();
        self.pump();
    }

    /// No more calls are made. Children exit when they have answered all.
    pub(super) fn close(self: &Arc<Self>) {
        if self.is_elsewhere() {
            return self.give_up();
        }
        self.lock().scheduler.close();
        self.pump();
    }

    /// Gives up what this copy of the process shares with the original: children are to learn of that one's end.
    fn give_up(&self) {
        // If a thread that the copy does not have held the lock, they learn of it when the copy ends.
        if let Ok(state) = self.state.try_lock() {
            for (_, handle) in &state.handles {
                handle.link.close(None);
            }
        }
    }

    /// Ends everything with this error.
    pub(super) fn kill(self: &Arc<Self>, error: &Error) {
        if self.is_elsewhere() {
            return;
        }
        let mut ended = Vec::new();
        let mut state = self.lock();
        state.killed.get_or_insert_with(|| error.clone());
        while let Some(entry) = state.scheduler.drain() {
            ended.push(*entry.call);
        }
        for (child, waiting) in mem::take(&mut state.for_new) {
            state.scheduler.unsent(child, Instant::now());
            ended.push(waiting);
        }
        state.jobs += ended.len();
        let unstarted = mem::take(&mut state.starts);
        let handles = mem::take(&mut state.handles);
        let interrupt = Arc::clone(&state.interrupt);
        drop(state);
        interrupt.interrupt(error.clone());
        for (_, handle) in handles {
            handle.link.kill();
        }
        for (child, _) in unstarted {
            self.start_failed(child, error.clone());
        }
        for waiting in ended {
            let ended = Ended::Lost(error.clone(), Phase::Queued);
            self.on_reactor(move || waiting.end(Answer::Ended(ended)));
        }
        self.pump();
    }

    /// Waits until all is over, and the threads have ended. Until then, if there is a `deadline`; returns false
    /// if it has passed.
    pub(super) fn wait_over(&self, deadline: Option<Instant>) -> Result<bool, Error> {
        let mut state = self.lock();
        if !state.over {
            refuse_in_callback("finish()")?;
        }
        state = unwind::wait_until(&self.changed, state, deadline, |state| !state.over);
        if !state.over {
            return Ok(false);
        }
        drop(state);
        let starter = unwind::lock(&self.starter).take();
        if let Some(starter) = starter {
            crate::threads::join(starter);
        }
        self.reactor.join();
        Ok(true)
    }

    /// On the reactor's thread: does what is due. Returns when to do so again, and whether all is over.
    pub(super) fn attend(self: &Arc<Self>) -> (Option<Instant>, bool) {
        self.pump();
        let mut state = self.lock();
        state.timer_at = state.deadline();
        let is_over = state.is_over() && !state.is_starting;
        let at = state.timer_at;
        drop(state);
        if is_over {
            self.end();
        }
        (at, is_over)
    }

    fn end(&self) {
        let on_destroy = unwind::lock(&self.callbacks).on_destroy.take();
        if let Some(on_destroy) = on_destroy {
            guard(on_destroy);
        }
        let Callbacks {
            on_event,
            on_ask,
            on_exit,
            on_destroy: _,
        } = mem::take(&mut *unwind::lock(&self.callbacks));
        // Each on its own: if two destructors panicked in one guard, the process would be aborted.
        guard(|| drop(on_event));
        guard(|| drop(on_ask));
        guard(|| drop(on_exit));
        // First: a thread that is woken here checks whether the reactor's thread is about to end.
        self.reactor.handler_over();
        self.lock().over = true;
        self.changed.notify_all();
    }

    /// On the reactor's thread, which cannot go on: everything ends.
    pub(super) fn fail(self: &Arc<Self>, error: &Error) {
        self.kill(error);
        self.end();
    }

    /// Told of one child.
    pub(super) fn watch(self: &Arc<Self>, child: ChildId) -> Arc<ChildWatch> {
        Arc::new(ChildWatch::new(Arc::clone(self), child))
    }
}

fn refused(refusal: Refusal) -> Answer {
    Answer::Ended(Ended::Refused(refusal))
}

/// Why a request cannot be sent to a pool's children.
pub(super) fn may_send(request: &Body, reach: Reach) -> Result<(), CodecError> {
    match request.fds().len() {
        0 => Ok(()),
        count => crate::fd::may_send(count, reach).map_err(CodecError::new),
    }
}

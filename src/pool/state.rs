//! What the lock of a pool guards, and what is decided from it.

use super::memory::Memory;
use super::records::{Kept, Record, Records};
use super::scheduler::{Action, ChildId, Scheduler};
use super::stats::Waits;
use super::waiting::{BegunBefore, Fate, Place, Repeat, Waiting, may_blame_a_call};
use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Phase, Refusal};
use crate::process::Interrupt;
use crate::rpc::{CallOptions, Caller, Completion, Ended, Handle, Link};
use crate::service::{Signature, id_of};
use crate::unwind;
use crate::wire::{Body, FunctionId};
use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

/// What a pool's lock guards.
pub(super) struct State {
    pub(super) scheduler: Scheduler<Box<Waiting>, Error>,
    /// Children that serve, by their ids.
    pub(super) serving: Vec<Serving>,
    /// All children that were started. Whoever drops one has it exit.
    pub(super) handles: Vec<(ChildId, Handle)>,
    /// The functions that calls are for. The first is that which children are started with.
    pub(super) functions: Vec<Function>,
    /// Calls for children that do not serve yet.
    pub(super) for_new: Vec<(ChildId, Waiting)>,
    /// Children to be started, and where they come from.
    pub(super) starts: VecDeque<(ChildId, usize)>,
    /// Whether the starter works, and looks for more.
    pub(super) is_starting: bool,
    /// Ends its wait for a template.
    pub(super) interrupt: Arc<Interrupt>,
    /// When the timer fires.
    pub(super) timer_at: Option<Instant>,
    /// How many threads wait for room.
    pub(super) blocked: usize,
    /// How many threads wait for the answer of a child by themselves: they send what is lost again.
    pub(super) visitors: usize,
    /// How much was decided that the reactor's thread has not done yet.
    pub(super) jobs: usize,
    /// Why everything ends at once, if so.
    pub(super) killed: Option<Error>,
    pub(super) over: bool,
    pub(super) waits: Waits,
}

/// A child that serves.
pub(super) struct Serving {
    pub(super) id: ChildId,
    pub(super) link: Arc<Link>,
    /// The numbers that the pool's functions have at this link.
    pub(super) functions: Vec<usize>,
    /// Its calls, but for those whose callers wait in it.
    pub(super) records: Records,
    /// If there is a limit for it.
    pub(super) memory: Option<Memory>,
}

/// What a function must be, in the tables of children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Function {
    name: String,
    version: u32,
    codec: &'static str,
}

impl Function {
    pub(super) fn of<S: Signature>(service: &S) -> Self {
        let id = id_of(service);
        Function {
            name: id.name.to_owned(),
            version: id.version,
            codec: S::Codec::NAME,
        }
    }

    pub(super) fn id(&self) -> FunctionId<'_> {
        FunctionId {
            name: &self.name,
            version: self.version,
            codec: self.codec,
        }
    }
}

/// What is to be done without the lock.
#[derive(Default)]
pub(super) struct Tasks {
    /// Calls that end.
    pub(super) ended: Vec<(Waiting, Ended)>,
    /// Where calls were queued that are to be written, or read for.
    pub(super) unsettled: Vec<Arc<Link>>,
    /// Children that are to exit.
    pub(super) stopped: Vec<Handle>,
    /// To be dropped, which may run the program's code.
    pub(super) aside: Vec<Waiting>,
}

impl State {
    /// `first` is what children are started with.
    pub(super) fn new(scheduler: Scheduler<Box<Waiting>, Error>, first: Function) -> Self {
        State {
            scheduler,
            serving: Vec::new(),
            handles: Vec::new(),
            functions: vec![first],
            for_new: Vec::new(),
            starts: VecDeque::new(),
            is_starting: false,
            interrupt: Arc::default(),
            timer_at: None,
            blocked: 0,
            visitors: 0,
            jobs: 0,
            killed: None,
            over: false,
            waits: Waits::default(),
        }
    }

    /// The link of a child that serves, and the number that a function has there.
    pub(super) fn link(&mut self, child: ChildId, function: usize) -> (Arc<Link>, usize) {
        let at = self
            .serving
            .binary_search_by_key(&child, |serving| serving.id);
        let serving = &mut self.serving[at.expect("calls are sent to children that serve")];
        while serving.functions.len() <= function {
            let next = &self.functions[serving.functions.len()];
            serving.functions.push(serving.link.function(next.id()));
        }
        (Arc::clone(&serving.link), serving.functions[function])
    }

    /// Sends a call that counts as sent to a child.
    pub(super) fn send(
        &mut self,
        child: ChildId,
        mut waiting: Waiting,
        request: &mut Body,
        now: Instant,
        tasks: &mut Tasks,
    ) {
        let (link, number) = self.link(child, waiting.function);
        let kept = Kept::new(request);
        let place = waiting.place.clone();
        // So that who cancels it finds it either here or there.
        let mut place = place.as_ref().map(|place| unwind::lock(place));
        if place
            .as_deref()
            .is_some_and(|place| matches!(place, Place::Cancelled))
        {
            self.scheduler.unsent(child, now);
            return tasks.aside.push(waiting);
        }
        let mut progress = waiting.progress.clone();
        let options = CallOptions {
            deadline: waiting.want.deadline,
            progress: &mut progress,
            may_wait: false,
            caller: Caller::Holds,
        };
        if waiting.repeat.has_begun {
            let completion = waiting.completion.take();
            waiting.completion = completion.map(|it| Completion::new(BegunBefore(it)));
        }
        match link.call(number, request, options, &mut waiting.completion) {
            Ok(made) => {
                if let Some(place) = &mut place {
                    **place = Place::Sent(child, Arc::clone(&link), made.id);
                }
                drop(place);
                if let Some(serving) = self.serving(child) {
                    serving.records.push(Record::new(made.id, kept, waiting));
                }
                self.sweep(child);
                if made.is_unsettled {
                    tasks.unsettled.push(link);
                }
            }
            Err(ended) => {
                drop(place);
                self.scheduler.unsent(child, now);
                waiting.request = kept.into_body();
                match ended {
                    Ended::Lost(error, phase) => self.lose(child, waiting, error, phase, tasks),
                    Ended::Refused(Refusal::Closed) => {
                        self.lose(child, waiting, gone(), Phase::Queued, tasks);
                    }
                    ended => self.end(waiting, ended, tasks),
                }
            }
        }
    }

    /// The child that a call was sent to is lost.
    pub(super) fn lose(
        &mut self,
        child: ChildId,
        mut waiting: Waiting,
        error: Error,
        phase: Phase,
        tasks: &mut Tasks,
    ) {
        // Until its end is reported, it would take further calls, and lose them.
        self.scheduler.lost(child);
        match self.fate(&mut waiting.repeat, error, phase) {
            Ok(alone) => {
                waiting.want.alone |= alone;
                match waiting.set_place() {
                    true => self.enqueue(waiting),
                    false => tasks.aside.push(waiting),
                }
            }
            Err(ended) => self.end(waiting, ended, tasks),
        }
    }

    pub(super) fn enqueue(&mut self, waiting: Waiting) {
        let Waiting {
            ticket,
            want,
            since,
            ..
        } = waiting;
        let waiting = Box::new(waiting);
        self.scheduler.enqueue(ticket, want, waiting, since);
    }

    fn serving(&mut self, child: ChildId) -> Option<&mut Serving> {
        let at = self
            .serving
            .binary_search_by_key(&child, |serving| serving.id);
        self.serving.get_mut(at.ok()?)
    }

    /// Forgets the calls of a child that have ended, if they are many.
    pub(super) fn sweep(&mut self, child: ChildId) {
        let in_flight = self.scheduler.in_flight(child);
        if let Some(serving) = self.serving(child)
            && (serving.records.is_crowded(in_flight) || in_flight == 0)
            && !serving.records.is_empty()
        {
            let Serving { link, records, .. } = serving;
            link.with_outstanding(|is_outstanding| records.sweep(is_outstanding));
        }
    }

    /// A call ends, on the reactor's thread.
    fn end(&mut self, waiting: Waiting, ended: Ended, tasks: &mut Tasks) {
        self.jobs += 1;
        tasks.ended.push((waiting, ended));
    }

    /// Whether all is over: nobody has a call in hand, either.
    pub(super) fn is_over(&self) -> bool {
        self.scheduler.is_over() && self.visitors == 0 && self.jobs == 0
    }

    /// When something is due next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let new = self.for_new.iter();
        let expires = new.filter_map(|(_, waiting)| waiting.want.deadline);
        expires.chain(self.scheduler.deadline()).min()
    }

    /// Whether a call whose child is lost is sent again, and whether alone; or how it ends.
    pub(super) fn fate(
        &self,
        repeat: &mut Repeat,
        error: Error,
        phase: Phase,
    ) -> Result<bool, Ended> {
        if let Some(why) = &self.killed {
            repeat.has_begun |= !phase.is_safe_to_repeat();
            // What it did to its child is told nevertheless.
            let is_crash = phase == Phase::Begun && may_blame_a_call(&error);
            let is_same = error.kind() == why.kind();
            let error = if is_crash || is_same {
                error
            } else {
                why.clone()
            };
            return Err(Ended::Lost(error, phase));
        }
        match repeat.lost(error, phase) {
            Fate::Again { alone } => Ok(alone),
            Fate::End(error) => Err(Ended::Lost(error, phase)),
            Fate::Poison(errors) => Err(Ended::Poison(errors)),
        }
    }

    /// Decides what is to be done.
    pub(super) fn decide(&mut self, now: Instant, tasks: &mut Tasks) {
        let is_late = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        let late = self
            .for_new
            .extract_if(.., |(_, it)| is_late(it.want.deadline));
        for (child, waiting) in late.collect::<Vec<_>>() {
            self.scheduler.unsent(child, now);
            self.end(waiting, Ended::TimedOut(Phase::Queued), tasks);
        }
        while let Some(entry) = self.scheduler.expire(now) {
            self.end(*entry.call, Ended::TimedOut(Phase::Queued), tasks);
        }
        while let Some((child, entry)) = self.scheduler.next(now) {
            self.waits.add(now.saturating_duration_since(entry.since));
            let mut waiting = *entry.call;
            // What came back may have to be alone.
            waiting.want = entry.want;
            let mut request = mem::take(&mut waiting.request);
            self.send(child, waiting, &mut request, now, tasks);
        }
        while let Some(action) = self.scheduler.act(now) {
            match action {
                Action::Start { child, source } => self.starts.push_back((child, source)),
                Action::Stop(child) => {
                    let handle = self.handles.extract_if(.., |(id, _)| *id == child).next();
                    tasks.stopped.extend(handle.map(|(_, handle)| handle));
                }
                Action::Fail(entry, error) => {
                    self.end(*entry.call, Ended::Lost(error, Phase::Queued), tasks);
                }
            }
        }
    }

    /// Whether a child is to be replaced soon.
    pub(super) fn is_worn(&self, child: ChildId) -> bool {
        self.scheduler.is_due(child)
    }
}

/// The error of a child that was gone before a call could be sent.
pub(super) fn gone() -> Error {
    Error::new(ErrorKind::Died, "the child has ended")
}

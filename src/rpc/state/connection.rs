//! The parent's side of the conversation with one child, as a state machine. Pure: no descriptors,
//! no threads, no clock.
//!
//! ```text
//!              start() queues setups and run
//!   Starting ──────────── ready ────────────▶ Serving ── close() ──▶ Closing
//!   (plain peers are ready from the start)
//! ```
//!
//! Commands put frames into the outbox and calls into the table, in any state: what is queued while
//! starting is sent with the start. Input is one frame at a time ([`receive`]) or a moment
//! ([`expire`]); both return the completion of the call that has ended. Output is what there is to
//! [write](Connection::writer).
//!
//! `T` is the completion of a call, opaque here. It is returned exactly once: by the command that
//! refuses the call, by [`receive`], [`expire`], [`cancel`] or [`drain_with_ids`]. `P` is what takes reports of
//! the call's progress.
//!
//! [`receive`]: Connection::receive
//! [`expire`]: Connection::expire
//! [`cancel`]: Connection::cancel
//! [`drain_with_ids`]: Connection::drain_with_ids

use super::asks::{Admission, Asks, BadAsk, SERVES_NOTHING};
use super::begun::Begun;
use super::calls::Calls;
use super::switches::Switches;
use super::violation::ChildViolation;
use crate::deadlines::{Deadlines, after};
use crate::error::{Phase, Refusal};
use crate::id_map::IdMap;
use crate::wire::Plain;
use crate::wire::{
    self, ANNOUNCING, Body, Check, Failure, FrameHead, Framing, FunctionId, LONGEST_CONTROL,
    LongToParent, Run, ToChild, ToParent, Writer,
};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// Limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueLimits {
    /// The longest payload of a request.
    pub(crate) max_frame: usize,
    /// The most calls that may be outstanding.
    pub(crate) calls: usize,
    /// The most bytes that may be queued.
    pub(crate) bytes: usize,
    /// The most asks of the child that may be unanswered. `None` if nothing is served.
    pub(crate) asks: Option<usize>,
    /// How long the child may take to answer a call that has timed out. `None` if that does not matter.
    pub(crate) stuck_after: Option<Duration>,
}

/// Requests with half of the ids that there are have at least so many bytes. Ids that are skipped, as old
/// calls have them, take none.
const BYTES_OF_MANY_IDS: u64 = (wire::MAX_ID as u64) / 2 * 8;

/// See the module's documentation.
pub(crate) struct Connection<T, P> {
    plain: Option<Plain>,
    limits: QueueLimits,
    ready: bool,
    closed: bool,
    writer: Writer,
    calls: Calls<CallEntry<T>>,
    /// How many calls were ever made.
    made: u64,
    /// How many of them were lost with the child.
    lost: u64,
    /// How many entries still have their completion.
    live: usize,
    /// When calls expire, by their ids; of those that have, when the child counts as stuck.
    deadlines: Deadlines,
    /// Whether one of those moments has passed.
    is_stuck: bool,
    /// Of the calls that have one, by their ids.
    progress: IdMap<P>,
    /// Of calls that have ended. Dropping it may run the program's code, and so is not done under a lock.
    done: Vec<P>,
    /// The control messages by which the functions are selected that calls are for. The child serves the
    /// first from the start.
    functions: Vec<Vec<u8>>,
    /// Which of them the requests in the queue are for.
    switches: Switches,
    asks: Asks,
}

/// A call that was made.
struct CallEntry<T> {
    /// `None` once the call has ended: the entry then only reserves the id until the late reply.
    note: Option<T>,
    place: FramePlace,
}

/// Where a call's frame is in the stream, and whether the call may be among the deadlines: in one word, as
/// there may be many. Never zero, which marks a missing entry.
#[derive(Clone, Copy)]
struct FramePlace(NonZeroU64);

impl FramePlace {
    fn new(start: u64, timed: bool) -> Self {
        let place = NonZeroU64::new((start + 1) << 1 | u64::from(timed));
        FramePlace(place.expect("no stream has 2^63 bytes"))
    }

    fn start(self) -> u64 {
        (self.0.get() >> 1) - 1
    }

    fn is_timed(self) -> bool {
        self.0.get() & 1 == 1
    }
}

/// What a frame from the child is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Delivery<T, P> {
    /// The child serves from now on.
    Ready,
    /// The child will not serve.
    Refused(Box<StartRefusal>),
    /// An event.
    Event,
    /// A log record: the payload of its control frame is to be decoded again where it is wanted.
    Log,
    /// A progress report, for this callback: its payload is to be decoded again there.
    Progress(P),
    /// An ask, or what the child tells: the payload of its control frame is to be decoded again where it is
    /// served.
    Asked,
    /// The child wishes to be sent no further calls.
    Retires,
    /// The reply to a call.
    Reply(T),
    /// The failed reply to a call.
    Failed(T),
    /// The reply to, or progress of, a call for which nobody waits; or an ask that was refused.
    Late,
}

/// Why a child will not serve.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StartRefusal {
    pub(crate) kind: String,
    pub(crate) message: String,
}

impl<T, P: Clone> Connection<T, P> {
    /// A connection to a plain peer, which is ready, or to a worker, which needs [`start`].
    ///
    /// [`start`]: Connection::start
    pub(crate) fn new(plain: Option<Plain>, limits: QueueLimits) -> Self {
        Connection {
            plain,
            limits,
            ready: plain.is_some(),
            closed: false,
            writer: Writer::default(),
            calls: Calls::new(),
            made: 0,
            lost: 0,
            live: 0,
            deadlines: Deadlines::default(),
            is_stuck: false,
            progress: IdMap::default(),
            done: Vec::new(),
            functions: Vec::new(),
            switches: Switches::default(),
            asks: Asks::new(limits.asks.unwrap_or(0)),
        }
    }

    /// Queues what a worker is to do first: the messages for its setups, in order, and which function to
    /// serve first.
    pub(crate) fn start(&mut self, preparations: Vec<Body>, run: Run<'_>) {
        debug_assert!(self.plain.is_none(), "plain peers know no control frames");
        for mut message in preparations {
            self.push_control(&mut message);
        }
        self.control(&ToChild::Run(run));
        self.add_function(run.function);
    }

    /// Notes a function that calls are for, and returns its number, which is 0 for the one that the child
    /// was started with, and for all functions of a plain peer: it is told of none.
    pub(crate) fn add_function(&mut self, function: FunctionId<'_>) -> usize {
        if self.plain.is_some() {
            return 0;
        }
        let message = ToChild::Function(function).encode();
        let known = self.functions.iter().position(|known| *known == message);
        known.unwrap_or_else(|| {
            self.functions.push(message);
            self.functions.len() - 1
        })
    }

    /// Tells the child that requests are for another function from now on.
    #[cold]
    fn select(&mut self, function: usize) {
        let start = self.writer.outbox().end();
        self.send_control(self.functions[function].clone());
        let len = self.writer.outbox().end() - start;
        self.switches
            .push(function, start, len, self.writer.outbox());
    }

    /// Queues a call of a [function](Connection::add_function). Large parts of the request are taken, the
    /// rest is copied. `progress` and the completion are taken unless the call is refused.
    ///
    /// # Errors
    ///
    /// Why it is refused, see [`admit`](Connection::admit).
    #[inline]
    pub(crate) fn call(
        &mut self,
        function: usize,
        request: &mut Body,
        deadline: Option<Instant>,
        progress: &mut Option<P>,
        note: &mut Option<T>,
    ) -> Result<u32, Refusal> {
        self.admit(request.len())?;
        if function != self.switches.current() {
            self.select(function);
        }
        let len = u32::try_from(request.len()).expect("max_frame is not above");
        if !request.fds().is_empty() {
            self.carry(request);
        }
        let (id, entry) = self.calls.insert(CallEntry {
            note: None,
            place: FramePlace::new(self.writer.outbox().end(), deadline.is_some()),
        });
        entry.note = note.take();
        self.switches.add_request();
        let header = wire::header(self.framing(), id, len);
        self.writer.outbox_mut().push(header, request);
        self.made += 1;
        self.live += 1;
        if let Some(deadline) = deadline {
            self.deadlines.set(id.into(), deadline);
        }
        if let Some(progress) = progress.take() {
            self.progress.insert(id, progress);
        }
        Ok(id)
    }

    /// Has the child expect the descriptors of a payload that is to be queued next.
    #[cold]
    fn carry(&mut self, payload: &Body) {
        debug_assert!(self.plain.is_none(), "plain peers know no control frames");
        let outbox = self.writer.outbox_mut();
        outbox.carry(wire::CONTROL_TO_CHILD, payload);
    }

    /// Refuses calls from now on.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// The call that a frame with this id would answer, and its completion.
    pub(crate) fn answers(&mut self, id: u32) -> Option<(u32, &T)> {
        let call = match self.plain {
            None | Some(Plain::Fallible) => id & wire::MAX_ID,
            Some(Plain::Tagged) => id,
            Some(Plain::Ordered) if id == wire::ORDERED_REPLY => self.calls.first()?,
            Some(Plain::Ordered) => return None,
        };
        if !self.is_sent(call) {
            return None;
        }
        Some((call, self.calls.get_mut(call)?.note.as_ref()?))
    }

    /// Takes in a frame from the child. Most are replies to outstanding calls: for those, the
    /// completion is moved to `place`, which must be empty, and nothing is returned.
    ///
    /// It is moved once, from the table to where it stays: moving it on as a whole right after it was
    /// written in pieces is a store-forwarding stall.
    pub(crate) fn receive_into(
        &mut self,
        id: u32,
        payload: &[u8],
        place: &mut Option<T>,
    ) -> Result<Option<Delivery<T, P>>, ChildViolation> {
        let is_reply = self.plain.is_none() && self.ready && id & wire::FAILED == 0;
        if is_reply && self.answered_into(id, place).is_some() {
            return Ok(place.is_none().then_some(Delivery::Late));
        }
        self.receive(id, payload).map(Some)
    }

    /// Takes in a frame from the child.
    pub(crate) fn receive(
        &mut self,
        id: u32,
        payload: &[u8],
    ) -> Result<Delivery<T, P>, ChildViolation> {
        match self.plain {
            None if !self.ready => self.receive_start(id, payload),
            None if id == wire::CONTROL_TO_PARENT => {
                self.check_control(payload.len(), payload)?;
                match ToParent::decode(payload).map_err(ChildViolation::Control)? {
                    ToParent::Ready { .. } | ToParent::Refused { .. } => {
                        Err(ChildViolation::ReadyTwice)
                    }
                    ToParent::Progress { id, .. } => self.progress(id),
                    ToParent::Ask { id, .. } => self.ask(id),
                    ToParent::Tell(_) => Ok(Delivery::Asked),
                    ToParent::Forget { id } => {
                        self.asks.forget(id);
                        Ok(Delivery::Late)
                    }
                    ToParent::Retire => Ok(Delivery::Retires),
                    ToParent::Log { .. } => Ok(Delivery::Log),
                }
            }
            _ if id == wire::EVENT => Ok(Delivery::Event),
            None | Some(Plain::Fallible) => {
                let id_of_call = id & wire::MAX_ID;
                let Some(note) = self.answered(id_of_call) else {
                    return Err(self.unknown(id));
                };
                Ok(match note {
                    None => Delivery::Late,
                    Some(note) if id & wire::FAILED != 0 => Delivery::Failed(note),
                    Some(note) => Delivery::Reply(note),
                })
            }
            Some(Plain::Tagged) => {
                let Some(note) = self.answered(id) else {
                    return Err(self.unknown(id));
                };
                Ok(note.map_or(Delivery::Late, Delivery::Reply))
            }
            Some(Plain::Ordered) if id == wire::ORDERED_REPLY => {
                let first = self.calls.first().ok_or(ChildViolation::NothingAsked)?;
                let note = self.answered(first).ok_or(ChildViolation::NothingAsked)?;
                Ok(note.map_or(Delivery::Late, Delivery::Reply))
            }
            Some(Plain::Ordered) => Err(ChildViolation::NotOrdered { id }),
        }
    }

    /// Judges a frame from the child of which only the beginning has come, by the same rules as
    /// [`receive`](Connection::receive) once it is whole.
    pub(crate) fn check(&mut self, head: FrameHead<'_>) -> Result<Check, ChildViolation> {
        let FrameHead {
            id, claimed, begun, ..
        } = head;
        let is_control = self.plain.is_none() && id == wire::CONTROL_TO_PARENT;
        let is_expected = match self.plain {
            _ if is_control => return self.check_control(claimed as usize, begun),
            None if !self.ready => return Err(ChildViolation::NotReady { id }),
            _ if id == wire::EVENT => true,
            None | Some(Plain::Fallible) => self.is_sent(id & wire::MAX_ID),
            Some(Plain::Tagged) => self.is_sent(id),
            Some(Plain::Ordered) => {
                let first = self.calls.first();
                id == wire::ORDERED_REPLY && first.is_some_and(|first| self.is_sent(first))
            }
        };
        match is_expected {
            true => Ok(Check::Pass),
            false => Err(self.unknown(id)),
        }
    }

    /// Judges a control frame by its length and the beginning of its payload.
    fn check_control(&mut self, len: usize, begun: &[u8]) -> Result<Check, ChildViolation> {
        if len <= LONGEST_CONTROL {
            return Ok(Check::Pass);
        }
        let long = Err(ChildViolation::LongControl { claimed: len });
        if !self.ready {
            return long;
        }
        if begun.len() < wire::TELLING {
            return Ok(Check::Later);
        }
        match ToParent::long(begun) {
            Some(LongToParent::Progress(id)) if !self.is_sent(id) => {
                Err(ChildViolation::UnknownProgress { id })
            }
            Some(LongToParent::Ask(id)) if self.asks.is_open(id) => {
                Err(ChildViolation::RepeatedAsk { id })
            }
            Some(_) => Ok(Check::Pass),
            None => long,
        }
    }

    /// What is wrong with a reply that has this id, and is to no outstanding call.
    #[cold]
    fn unknown(&mut self, id: u32) -> ChildViolation {
        let call = id & wire::MAX_ID;
        let fails_a_call = call != id && self.is_sent(call);
        match self.plain {
            None => ChildViolation::UnknownId { id: call },
            Some(Plain::Tagged) if fails_a_call => ChildViolation::PlainFailed { id },
            Some(Plain::Tagged | Plain::Fallible) => ChildViolation::UnknownId { id },
            Some(Plain::Ordered) if id == wire::ORDERED_REPLY => ChildViolation::NothingAsked,
            Some(Plain::Ordered) => ChildViolation::NotOrdered { id },
        }
    }

    /// Ends one call whose timeout has passed, if there is one.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<(T, Phase)> {
        loop {
            let (deadline, id) = self.deadlines.first()?;
            if deadline > now {
                return None;
            }
            let ended = self.time_out(id as u32, now);
            if ended.is_some() {
                return ended;
            }
            // It had ended, and the late reply has not come.
            self.deadlines.remove(id);
            self.is_stuck = true;
        }
    }

    /// Ends a call whose timeout has passed, unless it has ended. If it was sent, the child is notified, and
    /// [stuck](Connection::take_stuck) if it does not answer.
    pub(crate) fn time_out(&mut self, id: u32, now: Instant) -> Option<(T, Phase)> {
        let (note, phase) = self.cancel(id)?;
        // One that is not ready yet has a deadline for that.
        if phase == Phase::Begun
            && self.ready
            && let Some(stuck_after) = self.limits.stuck_after
            && let Some(stuck_at) = after(now, stuck_after)
        {
            self.deadlines.set(id.into(), stuck_at);
        }
        Some((note, phase))
    }

    /// If the child has not answered a call for too long after its timeout, for how long. Returned once.
    pub(crate) fn take_stuck(&mut self) -> Option<Duration> {
        self.limits.stuck_after.take_if(|_| self.is_stuck)
    }

    /// Ends a call that nobody waits for any more, unless it has ended. If it was sent, the child is
    /// notified.
    pub(crate) fn cancel(&mut self, id: u32) -> Option<(T, Phase)> {
        let entry = self.calls.get_mut(id)?;
        let note = entry.note.take()?;
        let place = entry.place;
        self.forget(id, place.is_timed());
        if self.withdraw(place.start()) {
            let outbox = self.writer.outbox_mut();
            self.switches.withdraw_request(place.start(), outbox);
            self.calls.remove(id);
            return Some((note, Phase::Queued));
        }
        if self.plain.is_none() {
            self.control(&ToChild::Cancel { id });
        }
        Some((note, Phase::Begun))
    }

    /// When [`expire`](Connection::expire) is to be called next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| deadline)
    }

    /// As [`drain_with_ids`](Connection::drain_with_ids), without the ids.
    #[cfg(any(fuzzing, test))]
    pub(crate) fn drain(&mut self, begun: Begun) -> Vec<(T, Phase)> {
        let all = self.drain_with_ids(begun).into_iter();
        all.map(|(_, note, phase)| (note, phase)).collect()
    }

    /// Ends all calls, in the order in which they were made: the child is lost, and had begun these.
    pub(crate) fn drain_with_ids(&mut self, begun: Begun) -> Vec<(u32, T, Phase)> {
        self.closed = true;
        self.live = 0;
        self.lost += self.calls.len() as u64;
        self.deadlines.clear();
        let progress = std::mem::take(&mut self.progress);
        self.done.extend(progress.into_values());
        let outbox = self.writer.outbox();
        let last_begun = match begun {
            Begun::None => None,
            Begun::UpTo(id) => Some(self.calls.ids_since(id)),
            Begun::Unknown => Some(0),
        };
        let mut all = Vec::new();
        self.calls.drain(|id, ids, entry| {
            let start = entry.place.start();
            let phase = match outbox.is_queued(start) {
                true => Phase::Queued,
                false => phase_of_sent(ids, outbox.end() - start, last_begun),
            };
            if let Some(note) = entry.note {
                all.push((id, note, phase));
            }
        });
        self.writer.clear();
        self.asks.clear();
        self.switches = Switches::default();
        self.trim();
        all
    }

    /// What there is to write. What a batch takes of it counts as sent.
    pub(crate) fn writer(&self) -> &Writer {
        &self.writer
    }

    /// As [`writer`](Connection::writer), to write it.
    pub(crate) fn writer_mut(&mut self) -> &mut Writer {
        &mut self.writer
    }

    /// How many bytes are queued, and no thread has taken them to write.
    pub(crate) fn queued(&self) -> u64 {
        self.writer.outbox().queued()
    }

    /// Whether the child has reported that it serves.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Whether the child knows no control messages.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain.is_some()
    }

    /// Whether threads that wait for room are to check again: when there may be one more call, as the
    /// others may stay for long, and half of the bytes have gone, as all of them will go.
    pub(crate) fn has_room(&self) -> bool {
        let QueueLimits { calls, bytes, .. } = self.limits;
        self.calls.len() < calls && self.writer.outbox().queued() <= bytes as u64 / 2
    }

    /// Whether [`close`](Connection::close) was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes the progress callbacks of calls that have ended, to be dropped.
    pub(crate) fn take_done(&mut self) -> Vec<P> {
        std::mem::take(&mut self.done)
    }

    /// Whether there is something to [`take_done`](Connection::take_done).
    pub(crate) fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// Whether there is room for many more calls than there are.
    pub(crate) fn is_roomy(&self) -> bool {
        self.calls.is_roomy() || self.deadlines.is_roomy() || self.progress.is_roomy()
    }

    /// Gives most of that room back. Not to be called immediately: taking it again costs as much as all
    /// the rest of a call.
    pub(crate) fn trim(&mut self) {
        self.calls.trim();
        self.deadlines.trim();
        self.progress.trim();
    }

    /// How many calls have not ended.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// How many calls were made, and not answered.
    pub(crate) fn outstanding(&self) -> usize {
        self.calls.len()
    }

    /// Where the frame of the oldest of them begins in the stream.
    pub(crate) fn oldest_at(&mut self) -> Option<u64> {
        let oldest = self.calls.first()?;
        Some(self.calls.get_mut(oldest)?.place.start())
    }

    /// Whether a call with this id was made, and not answered.
    pub(crate) fn is_outstanding(&mut self, id: u32) -> bool {
        self.calls.get_mut(id).is_some()
    }

    /// How many calls have ended for the child: it has answered them, or they were taken back before they were
    /// sent.
    pub(crate) fn freed(&self) -> u64 {
        self.made - self.lost - self.calls.len() as u64
    }

    /// The first frame of a worker, apart from log records.
    fn receive_start(&mut self, id: u32, payload: &[u8]) -> Result<Delivery<T, P>, ChildViolation> {
        if id != wire::CONTROL_TO_PARENT {
            return Err(ChildViolation::NotReady { id });
        }
        self.check_control(payload.len(), payload)?;
        match ToParent::decode(payload).map_err(ChildViolation::Control)? {
            ToParent::Ready { protocol } if protocol != wire::VERSION => {
                Ok(Delivery::Refused(Box::new(StartRefusal {
                    kind: wire::REFUSED_VERSION.to_owned(),
                    message: format!(
                        "the child speaks version {protocol} of the protocol, this is version {}",
                        wire::VERSION
                    ),
                })))
            }
            ToParent::Ready { .. } => {
                self.ready = true;
                Ok(Delivery::Ready)
            }
            ToParent::Refused { kind, message } => Ok(Delivery::Refused(Box::new(StartRefusal {
                kind: kind.to_owned(),
                message: message.to_owned(),
            }))),
            ToParent::Log { .. } => Ok(Delivery::Log),
            ToParent::Progress { .. }
            | ToParent::Ask { .. }
            | ToParent::Tell(_)
            | ToParent::Forget { .. }
            | ToParent::Retire => Err(ChildViolation::NotReady { id }),
        }
    }

    fn ask(&mut self, id: u32) -> Result<Delivery<T, P>, ChildViolation> {
        let failure = match self.asks.admit(id, self.writer.outbox().taken()) {
            Ok(Admission::Serve) => return Ok(Delivery::Asked),
            Ok(Admission::Refuse) if self.limits.asks.is_some() => Failure::Full,
            Ok(Admission::Refuse) => Failure::Unserved {
                message: SERVES_NOTHING.to_owned(),
                kind: wire::REFUSED_FUNCTION.to_owned(),
            },
            Err(BadAsk::Repeated) => return Err(ChildViolation::RepeatedAsk { id }),
            Err(BadAsk::Flood) => return Err(ChildViolation::AskFlood),
        };
        // The child may have been told that nothing more comes.
        if !self.writer.is_closed() {
            let end = self.push_answer(id, true, &mut failure.encode().into());
            self.asks.refused(end);
        }
        Ok(Delivery::Late)
    }

    /// Whether the child waits for the answer to an ask, and no answer was given.
    pub(crate) fn is_ask_awaited(&self, id: u32) -> bool {
        !self.writer.is_closed() && self.asks.is_awaited(id)
    }

    /// Answers an ask. Large parts of the payload are taken.
    pub(crate) fn answer(&mut self, id: u32, failed: bool, payload: &mut Body) {
        // The child may be gone, or have been told that nothing more comes.
        if !self.asks.close(id) || self.writer.is_closed() {
            return;
        }
        let (len, limit) = (payload.len(), self.limits.max_frame);
        let room = if failed { wire::CONTROL_ROOM / 2 } else { 0 };
        let end = if len > limit.saturating_add(room) {
            let message =
                format!("the answer has {len} bytes, above the limit (max_frame) of {limit}");
            let failure = Failure::Malformed { message };
            self.push_answer(id, true, &mut failure.encode().into())
        } else {
            self.push_answer(id, failed, payload)
        };
        self.asks.answered(end);
    }

    /// Queues an answer, and returns where it ends in the stream.
    fn push_answer(&mut self, id: u32, failed: bool, payload: &mut Body) -> u64 {
        self.push_control(&mut payload.behind(ToChild::begin_answer(id, failed)));
        self.writer.outbox().end()
    }

    fn progress(&mut self, id: u32) -> Result<Delivery<T, P>, ChildViolation> {
        if !self.is_sent(id) {
            return Err(ChildViolation::UnknownProgress { id });
        }
        let told = self.progress.get(id);
        Ok(told.cloned().map_or(Delivery::Late, Delivery::Progress))
    }

    /// Takes the entry of a call that was answered out of the table. A call that was not sent
    /// cannot have been answered.
    fn answered(&mut self, id: u32) -> Option<Option<T>> {
        let mut note = None;
        self.answered_into(id, &mut note)?;
        Some(note)
    }

    /// As [`answered`](Connection::answered), with an empty place for the completion.
    #[inline]
    fn answered_into(&mut self, id: u32, place: &mut Option<T>) -> Option<()> {
        let outbox = self.writer.outbox();
        let timed = self.calls.remove_with(id, |entry| {
            if outbox.is_queued(entry.place.start()) {
                return None;
            }
            std::mem::swap(&mut entry.note, place);
            Some(entry.place.is_timed())
        })?;
        if place.is_some() {
            self.forget(id, timed);
        } else if timed {
            self.deadlines.remove(id.into());
        }
        Some(())
    }

    fn framing(&self) -> Framing {
        match self.plain {
            Some(Plain::Ordered) => Framing::Counted,
            Some(Plain::Tagged | Plain::Fallible) | None => Framing::Tagged,
        }
    }

    /// Whether a call is outstanding, and some of it was taken to be written.
    fn is_sent(&mut self, id: u32) -> bool {
        let outbox = self.writer.outbox();
        let entry = self.calls.get_mut(id);
        entry.is_some_and(|entry| !outbox.is_queued(entry.place.start()))
    }

    /// Withdraws a request, unless it was taken to be written.
    fn withdraw(&mut self, start: u64) -> bool {
        if !self.writer.outbox().is_queued(start) {
            return false;
        }
        let outbox = self.writer.outbox();
        let header = |at| wire::parse_header(self.framing(), &outbox.frame(start)[at..]);
        let mut header_at = 0;
        if self.plain.is_none() && header(0).is_some_and(|(id, _)| id == wire::CONTROL_TO_CHILD) {
            // It has descriptors, and this announces them.
            header_at = ANNOUNCING;
        }
        let (_, len) = header(header_at).expect("headers are not in pieces");
        let len = header_at as u64 + self.framing().header_len() as u64 + u64::from(len);
        self.writer.outbox_mut().withdraw(start, len)
    }

    /// A call has ended.
    #[inline]
    fn forget(&mut self, id: u32, timed: bool) {
        self.live -= 1;
        if timed {
            self.deadlines.remove(id.into());
        }
        if !self.progress.is_empty() {
            self.done.extend(self.progress.remove(id));
        }
    }

    /// Whether a call of that length would be taken now. [`Refusal::Full`] may change.
    #[inline]
    pub(crate) fn admit(&self, len: usize) -> Result<(), Refusal> {
        let QueueLimits {
            max_frame,
            calls,
            bytes,
            ..
        } = self.limits;
        let queued = self.writer.outbox().queued();
        if self.closed {
            Err(Refusal::Closed)
        } else if len > max_frame {
            Err(Refusal::TooLarge {
                len,
                limit: max_frame,
            })
        } else if self.calls.len() >= calls
            || (queued > 0 && queued.saturating_add(len as u64) > bytes as u64)
        {
            Err(Refusal::Full)
        } else {
            Ok(())
        }
    }

    fn control(&mut self, message: &ToChild<'_>) {
        self.send_control(message.encode());
    }

    fn send_control(&mut self, message: Vec<u8>) {
        self.push_control(&mut Body::from(message));
    }

    fn push_control(&mut self, payload: &mut Body) {
        let len = u32::try_from(payload.len()).expect("what does not fit is not started with");
        let header = wire::header(Framing::Tagged, wire::CONTROL_TO_CHILD, len);
        self.carry(payload);
        self.writer.outbox_mut().push(header, payload);
    }
}

/// How far a call had got that was sent, so many ids and bytes ago. The one that had begun last was given
/// its id `last_begun` ids ago.
fn phase_of_sent(ids: u32, bytes: u64, last_begun: Option<u32>) -> Phase {
    // Its id may have been given to another since.
    let is_ancient = bytes >= BYTES_OF_MANY_IDS;
    match last_begun {
        Some(last) if ids >= last || is_ancient => Phase::Begun,
        _ => Phase::Sent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Family, Once};
    use crate::wire::octets;

    const LIMITS: QueueLimits = QueueLimits {
        max_frame: 100,
        calls: usize::MAX,
        bytes: usize::MAX,
        asks: Some(2),
        stuck_after: None,
    };

    fn sent<T>(connection: &mut Connection<T, char>) -> Vec<u8> {
        let mut sent = Vec::new();
        while let Some(batch) = connection.writer_mut().begin(usize::MAX) {
            let n = batch.write(|parts| {
                parts.iter().for_each(|part| sent.extend_from_slice(part));
                parts.iter().map(|part| part.len()).sum()
            });
            connection.writer_mut().end(batch, Ok(n));
        }
        sent
    }

    fn plain(plain: Plain) -> Connection<char, char> {
        Connection::new(Some(plain), LIMITS)
    }

    fn serving() -> Connection<char, char> {
        let mut connection = Connection::new(None, LIMITS);
        let run = Run {
            protocol: 1,
            function: FunctionId::octets("f"),
            max_frame: 1,
            buflen: 1,
        };
        connection.start(vec![], run);
        sent(&mut connection);
        let ready = ToParent::Ready { protocol: 1 }.encode();
        assert_eq!(
            connection.receive(wire::CONTROL_TO_PARENT, &ready),
            Ok(Delivery::Ready)
        );
        connection
    }

    fn call(connection: &mut Connection<char, char>, note: char) -> u32 {
        connection
            .call(
                0,
                &mut vec![note as u8].into(),
                None,
                &mut None,
                &mut Some(note),
            )
            .unwrap()
    }

    enum Anything {}

    impl Family for Anything {
        type Of<'a> = ();
    }

    #[test]
    fn entry_is_six_words() {
        // With 32 bits, the place is two words of seven.
        let size = 5 * size_of::<usize>() + size_of::<u64>();
        assert_eq!(size_of::<Option<CallEntry<Once<Anything>>>>(), size);
        for start in [0, 1, 1 << 40] {
            for timed in [false, true] {
                let place = FramePlace::new(start, timed);
                assert_eq!((place.start(), place.is_timed()), (start, timed));
            }
        }
    }

    /// However much of the table is left behind, with the first call, when the last one is made.
    #[test]
    fn ordered_replies_are_those_of_what_was_not_cancelled() {
        let every = if cfg!(miri) { 10 } else { 1 };
        for cancelled in (0..20).step_by(every).map(|n| 128 * n + 127) {
            let mut c = plain(Plain::Ordered);
            call(&mut c, 'a');
            sent(&mut c);
            for _ in 0..cancelled {
                let id = call(&mut c, 'x');
                assert_eq!(c.cancel(id), Some(('x', Phase::Queued)));
            }
            call(&mut c, 'b');
            sent(&mut c);
            for note in ['a', 'b'] {
                let reply = c.receive(wire::ORDERED_REPLY, b"");
                assert_eq!(reply, Ok(Delivery::Reply(note)), "{cancelled}");
            }
        }
    }

    #[test]
    fn tagged_replies_come_in_any_order() {
        let mut c = plain(Plain::Tagged);
        call(&mut c, 'a');
        call(&mut c, 'b');
        assert_eq!(sent(&mut c), b"\0\0\0\x01\0\0\0\x01a\0\0\0\x02\0\0\0\x01b");
        assert_eq!(c.receive(2, b""), Ok(Delivery::Reply('b')));
        assert_eq!(c.receive(0, b""), Ok(Delivery::Event));
        assert_eq!(c.receive(1, b""), Ok(Delivery::Reply('a')));
        assert_eq!(c.live(), 0);
        assert_eq!(c.receive(1, b""), Err(ChildViolation::UnknownId { id: 1 }));
        assert_eq!(
            c.receive(0x8000_0001, b""),
            Err(ChildViolation::UnknownId { id: 0x8000_0001 })
        );
    }

    #[test]
    fn tagged_peer_that_fails_a_call_is_told_that_it_cannot() {
        let mut c = plain(Plain::Tagged);
        call(&mut c, 'a');
        let failed = ChildViolation::PlainFailed { id: 0x8000_0001 };
        assert_eq!(
            c.receive(0x8000_0001, b""),
            Err(ChildViolation::UnknownId { id: 0x8000_0001 }),
            "it was not sent"
        );
        sent(&mut c);
        assert_eq!(c.receive(0x8000_0001, b""), Err(failed));
        assert_eq!(c.receive(1, b""), Ok(Delivery::Reply('a')));
    }

    /// Whether a frame may come, of which this has come.
    fn check(
        c: &mut Connection<char, char>,
        id: u32,
        claimed: usize,
        begun: &[u8],
    ) -> Result<Check, ChildViolation> {
        let claimed = claimed as u32;
        let offset = 0;
        c.check(FrameHead {
            offset,
            id,
            claimed,
            begun,
        })
    }

    #[test]
    fn replies_are_judged_by_their_headers() {
        let (pass, long) = (Ok(Check::Pass), 60 << 20);
        for (mut c, unknown) in [
            (serving(), ChildViolation::UnknownId { id: 2 }),
            (plain(Plain::Tagged), ChildViolation::UnknownId { id: 2 }),
            (plain(Plain::Fallible), ChildViolation::UnknownId { id: 2 }),
            (plain(Plain::Ordered), ChildViolation::NotOrdered { id: 2 }),
        ] {
            assert_eq!(check(&mut c, wire::EVENT, long, b""), pass);
            let a = call(&mut c, 'a');
            assert!(check(&mut c, a, long, b"").is_err(), "it was not sent");
            sent(&mut c);
            assert_eq!(check(&mut c, a, long, b""), pass);
            assert_eq!(check(&mut c, 2, long, b""), Err(unknown));
            assert_eq!(c.receive(a, b""), Ok(Delivery::Reply('a')));
            assert!(check(&mut c, a, long, b"").is_err(), "it is answered");
        }
        let mut c = serving();
        let a = call(&mut c, 'a');
        sent(&mut c);
        assert_eq!(check(&mut c, a | wire::FAILED, long, b""), pass);
        assert_eq!(
            check(&mut c, 2 | wire::FAILED, 1, b""),
            Err(ChildViolation::UnknownId { id: 2 })
        );
        assert_eq!(c.cancel(a), Some(('a', Phase::Begun)));
        assert_eq!(
            check(&mut c, a, long, b""),
            pass,
            "the answer is on its way"
        );
    }

    #[test]
    fn long_control_frames_must_be_progress_of_outstanding_calls() {
        let control = wire::CONTROL_TO_PARENT;
        let mut c = Connection::<char, char>::new(None, LIMITS);
        assert_eq!(
            check(&mut c, 7, 1, b""),
            Err(ChildViolation::NotReady { id: 7 })
        );
        assert_eq!(
            check(&mut c, wire::EVENT, 1, b""),
            Err(ChildViolation::NotReady { id: 0 })
        );
        let long = |claimed| Err(ChildViolation::LongControl { claimed });
        let report = |id| {
            let payload = &[7; LONGEST_CONTROL];
            ToParent::Progress { id, payload }.encode()
        };
        let len = report(1).len();
        assert_eq!(check(&mut c, control, len, &report(1)), long(len));
        assert_eq!(check(&mut c, control, 200 << 20, b""), long(200 << 20));
        assert_eq!(
            check(&mut c, control, LONGEST_CONTROL, b""),
            Ok(Check::Pass)
        );
        let mut c = serving();
        call(&mut c, 'a');
        sent(&mut c);
        let dance = octets::encode([&b"dance"[..], &[0; LONGEST_CONTROL]]);
        let unknown = Err(ChildViolation::UnknownProgress { id: 2 });
        for (begun, end) in [
            (report(1), Ok(Check::Pass)),
            (report(2), unknown),
            (dance, long(len)),
        ] {
            for n in 0..wire::TELLING {
                assert_eq!(check(&mut c, control, len, &begun[..n]), Ok(Check::Later));
            }
            for n in [wire::TELLING, wire::TELLING + 1, begun.len()] {
                let got = check(&mut c, control, len, &begun[..n]);
                assert_eq!(got, end);
            }
        }
        // One that comes whole is judged alike.
        assert_eq!(
            c.receive(control, &vec![0; len]),
            Err(ChildViolation::LongControl { claimed: len })
        );
    }

    #[test]
    fn ordered_replies_come_in_order() {
        let mut c = plain(Plain::Ordered);
        assert_eq!(c.receive(1, b""), Err(ChildViolation::NothingAsked));
        call(&mut c, 'a');
        call(&mut c, 'b');
        assert_eq!(sent(&mut c), b"\0\0\0\x01a\0\0\0\x01b");
        assert_eq!(c.receive(1, b""), Ok(Delivery::Reply('a')));
        assert_eq!(c.receive(0, b""), Ok(Delivery::Event));
        assert_eq!(c.receive(1, b""), Ok(Delivery::Reply('b')));
        assert_eq!(c.receive(2, b""), Err(ChildViolation::NotOrdered { id: 2 }));
        assert_eq!(c.receive(1, b""), Err(ChildViolation::NothingAsked));
    }

    #[test]
    fn reply_to_a_call_that_was_not_sent_is_a_violation() {
        for mut c in [
            plain(Plain::Tagged),
            plain(Plain::Fallible),
            plain(Plain::Ordered),
        ] {
            call(&mut c, 'a');
            assert!(c.receive(1, b"").is_err());
            assert!(c.receive(1 | wire::FAILED, b"").is_err());
            assert_eq!(c.drain(Begun::Unknown), [('a', Phase::Queued)]);
        }
    }

    #[test]
    fn worker_must_be_ready_first() {
        let start = || Connection::<char, char>::new(None, LIMITS);
        assert_eq!(
            start().receive(7, b""),
            Err(ChildViolation::NotReady { id: 7 })
        );
        assert_eq!(
            start().receive(0, b""),
            Err(ChildViolation::NotReady { id: 0 })
        );
        let control =
            |strings: &[&str]| start().receive(wire::CONTROL_TO_PARENT, &octets::encode(strings));
        assert!(matches!(
            control(&["dance"]),
            Err(ChildViolation::Control(_))
        ));
        let kind = |delivery| match delivery {
            Ok(Delivery::Refused(refused)) => refused.kind,
            other => panic!("{other:?}"),
        };
        assert_eq!(kind(control(&["ready", "2"])), "version");
        assert_eq!(kind(control(&["refused", "setup", "no disk"])), "setup");
        let again = ToParent::Ready { protocol: 1 }.encode();
        assert_eq!(
            serving().receive(wire::CONTROL_TO_PARENT, &again),
            Err(ChildViolation::ReadyTwice)
        );
    }

    #[test]
    fn failed_reply_belongs_to_its_call() {
        for mut c in [serving(), plain(Plain::Fallible)] {
            let (a, b) = (call(&mut c, 'a'), call(&mut c, 'b'));
            sent(&mut c);
            assert_eq!(c.answers(b | wire::FAILED), Some((b, &'b')));
            assert_eq!(c.receive(b | wire::FAILED, b""), Ok(Delivery::Failed('b')));
            assert!(c.receive(b | wire::FAILED, b"").is_err(), "it is answered");
            assert_eq!(c.receive(a, b""), Ok(Delivery::Reply('a')));
            assert_eq!(c.live(), 0);
        }
    }

    #[test]
    fn peer_of_a_fallible_mode_fails_its_calls_and_nothing_else() {
        let mut c = plain(Plain::Fallible);
        let a = call(&mut c, 'a');
        assert_eq!(sent(&mut c), b"\0\0\0\x01\0\0\0\x01a");
        for id in [wire::FAILED, 2 | wire::FAILED, u32::MAX] {
            let unknown = ChildViolation::UnknownId { id };
            assert_eq!(check(&mut c, id, 60 << 20, b"").as_ref(), Err(&unknown));
            assert_eq!(c.receive(id, b""), Err(unknown));
        }
        assert_eq!(c.cancel(a), Some(('a', Phase::Begun)));
        assert_eq!(sent(&mut c), b"", "it knows no control frames");
        assert_eq!(c.receive(a | wire::FAILED, b""), Ok(Delivery::Late));
    }

    const STUCK_AFTER: Duration = Duration::from_secs(9);

    /// One whose child is stuck if it has not answered so long after a timeout.
    fn watched(mut connection: Connection<char, char>) -> Connection<char, char> {
        connection.limits.stuck_after = Some(STUCK_AFTER);
        connection
    }

    fn call_until(c: &mut Connection<char, char>, deadline: Instant) -> u32 {
        let (request, note) = (&mut vec![].into(), &mut Some('a'));
        c.call(0, request, Some(deadline), &mut None, note).unwrap()
    }

    /// Whether the child is found to be stuck, however long it is waited for.
    fn is_stuck(c: &mut Connection<char, char>) -> bool {
        while let Some(deadline) = c.deadline() {
            assert_eq!(c.expire(deadline), None);
        }
        c.take_stuck().is_some()
    }

    #[test]
    fn child_that_has_not_answered_long_after_a_timeout_is_stuck() {
        let (start, late) = (Instant::now(), Duration::from_secs(1));
        for by_its_caller in [false, true] {
            let mut c = watched(serving());
            let id = call_until(&mut c, start);
            call(&mut c, 'b');
            sent(&mut c);
            // The child is told only now.
            let ended = match by_its_caller {
                true => c.time_out(id, start + late),
                false => c.expire(start + late),
            };
            assert_eq!(ended, Some(('a', Phase::Begun)));
            let stuck_at = start + late + STUCK_AFTER;
            assert_eq!(c.deadline(), Some(stuck_at));
            assert_eq!(c.expire(stuck_at - Duration::from_nanos(1)), None);
            assert_eq!((c.take_stuck(), c.deadline()), (None, Some(stuck_at)));
            assert_eq!(c.expire(stuck_at), None);
            assert_eq!((c.take_stuck(), c.deadline()), (Some(STUCK_AFTER), None));
            assert_eq!(c.take_stuck(), None, "once");
            // It is to be killed, and nothing more is made of others.
            let id = call_until(&mut c, start);
            sent(&mut c);
            assert_eq!(c.time_out(id, start), Some(('a', Phase::Begun)));
            assert!(!is_stuck(&mut c));
            assert_eq!(c.drain(Begun::UpTo(1)), [('b', Phase::Sent)]);
        }
    }

    #[test]
    fn others_expire_before_and_after_a_child_is_found_to_be_stuck() {
        let now = Instant::now();
        let mut c = watched(serving());
        call_until(&mut c, now);
        sent(&mut c);
        assert_eq!(c.expire(now), Some(('a', Phase::Begun)));
        for moment in [now + STUCK_AFTER / 2, now + 2 * STUCK_AFTER] {
            call_until(&mut c, moment);
        }
        let late = now + 3 * STUCK_AFTER;
        assert_eq!(c.expire(late), Some(('a', Phase::Queued)));
        assert_eq!(c.take_stuck(), None);
        assert_eq!(c.expire(late), Some(('a', Phase::Queued)));
        assert_eq!(c.take_stuck(), Some(STUCK_AFTER));
    }

    #[test]
    fn child_that_answers_after_a_timeout_is_not_stuck() {
        let now = Instant::now();
        for (c, reply) in [
            (serving(), 1),
            (serving(), 1 | wire::FAILED),
            (plain(Plain::Tagged), 1),
            (plain(Plain::Fallible), 1 | wire::FAILED),
            (plain(Plain::Ordered), wire::ORDERED_REPLY),
        ] {
            let mut c = watched(c);
            let id = call_until(&mut c, now);
            sent(&mut c);
            assert_eq!(c.expire(now), Some(('a', Phase::Begun)));
            assert!(c.deadline().is_some());
            assert_eq!(
                c.receive_into(reply, b"", &mut None),
                Ok(Some(Delivery::Late))
            );
            assert!(c.deadline().is_none() && !is_stuck(&mut c));
            // It is so for each call.
            assert_ne!(call_until(&mut c, now), id);
            sent(&mut c);
            assert_eq!(c.expire(now), Some(('a', Phase::Begun)));
            assert!(is_stuck(&mut c));
        }
    }

    #[test]
    fn only_calls_that_time_out_after_they_were_sent_make_a_child_stuck() {
        let now = Instant::now();
        let mut c = watched(serving());
        let id = call_until(&mut c, now);
        assert_eq!(c.expire(now), Some(('a', Phase::Queued)), "it was not sent");
        assert_eq!(c.time_out(id, now), None);
        let id = call_until(&mut c, now);
        sent(&mut c);
        assert_eq!(c.cancel(id), Some(('a', Phase::Begun)));
        assert_eq!(c.time_out(id, now), None, "it was cancelled");
        call_until(&mut c, now);
        sent(&mut c);
        c.ready = false;
        assert_eq!(c.expire(now), Some(('a', Phase::Begun)));
        c.ready = true;
        assert!(!is_stuck(&mut c));

        // Nor does any if that does not matter, or takes for ever.
        for stuck_after in [None, Some(Duration::MAX)] {
            c.limits.stuck_after = stuck_after;
            call_until(&mut c, now);
            sent(&mut c);
            assert_eq!(c.expire(now), Some(('a', Phase::Begun)));
            assert!(c.deadline().is_none() && !is_stuck(&mut c));
        }
    }

    #[test]
    fn timeout_of_a_queued_call_unsends_it() {
        let start = Instant::now();
        let mut c = plain(Plain::Ordered);
        c.call(
            0,
            &mut b"a".to_vec().into(),
            Some(start + Duration::from_secs(2)),
            &mut None,
            &mut Some('a'),
        )
        .unwrap();
        c.call(
            0,
            &mut b"b".to_vec().into(),
            Some(start + Duration::from_secs(1)),
            &mut None,
            &mut Some('b'),
        )
        .unwrap();
        call(&mut c, 'c');
        assert_eq!(c.deadline(), Some(start + Duration::from_secs(1)));
        assert_eq!(c.expire(start), None);
        assert_eq!(
            c.expire(start + Duration::from_secs(1)),
            Some(('b', Phase::Queued))
        );
        assert_eq!(sent(&mut c), b"\0\0\0\x01a\0\0\0\x01c");
        assert_eq!(
            c.expire(start + Duration::from_secs(3)),
            Some(('a', Phase::Begun))
        );
        assert_eq!(c.deadline(), None);
        assert_eq!(c.receive(1, b""), Ok(Delivery::Late));
        assert_eq!(c.receive(1, b""), Ok(Delivery::Reply('c')));
    }

    #[test]
    fn cancelled_call_is_withdrawn_or_the_child_is_told() {
        let mut c = serving();
        let (a, b) = (call(&mut c, 'a'), call(&mut c, 'b'));
        assert_eq!(c.cancel(b), Some(('b', Phase::Queued)));
        assert_eq!(sent(&mut c), b"\0\0\0\x01\0\0\0\x01a");
        assert_eq!(c.cancel(a), Some(('a', Phase::Begun)));
        assert_eq!((c.cancel(a), c.cancel(b), c.live()), (None, None, 0));
        let cancel = ToChild::Cancel { id: a }.encode();
        assert_eq!(sent(&mut c)[8..], cancel);
        assert_eq!(c.receive(a, b""), Ok(Delivery::Late));
        assert_eq!(c.receive(a, b""), Err(ChildViolation::UnknownId { id: a }));
    }

    #[test]
    fn id_of_a_cancelled_call_is_kept_until_its_answer() {
        let mut c = plain(Plain::Tagged);
        let a = call(&mut c, 'a');
        sent(&mut c);
        c.cancel(a);
        assert!(c.queued() == 0, "a plain peer is not notified");
        assert_ne!(call(&mut c, 'b'), a);
        assert_eq!(c.drain(Begun::Unknown), [('b', Phase::Queued)]);
    }

    #[test]
    fn progress_goes_to_who_waits_for_the_call() {
        let mut c = serving();
        let a = c
            .call(0, &mut vec![].into(), None, &mut Some('p'), &mut Some('a'))
            .unwrap();
        let b = call(&mut c, 'b');
        let report = |id| ToParent::Progress { id, payload: b"x" }.encode();
        let progress =
            |c: &mut Connection<char, char>, id| c.receive(wire::CONTROL_TO_PARENT, &report(id));
        assert_eq!(
            progress(&mut c, a),
            Err(ChildViolation::UnknownProgress { id: a })
        );
        sent(&mut c);
        assert_eq!(progress(&mut c, a), Ok(Delivery::Progress('p')));
        assert_eq!(progress(&mut c, b), Ok(Delivery::Late));
        c.cancel(a);
        assert_eq!(progress(&mut c, a), Ok(Delivery::Late));
        c.receive(a, b"").unwrap();
        assert_eq!(
            progress(&mut c, a),
            Err(ChildViolation::UnknownProgress { id: a })
        );
    }

    #[test]
    fn answer_takes_the_deadline_away() {
        let mut c = plain(Plain::Tagged);
        let id = c
            .call(
                0,
                &mut vec![].into(),
                Some(Instant::now()),
                &mut None,
                &mut Some('a'),
            )
            .unwrap();
        sent(&mut c);
        assert_eq!(c.receive(id, b""), Ok(Delivery::Reply('a')));
        assert_eq!(c.deadline(), None);
    }

    #[test]
    fn limits_refuse() {
        let limits = QueueLimits {
            max_frame: 10,
            calls: 2,
            bytes: 30,
            asks: Some(2),
            stuck_after: None,
        };
        let mut c = Connection::<(), char>::new(Some(Plain::Tagged), limits);
        let mut refused =
            |len: usize| c.call(0, &mut vec![0; len].into(), None, &mut None, &mut Some(()));
        assert_eq!(refused(11), Err(Refusal::TooLarge { len: 11, limit: 10 }));
        assert_eq!(refused(10), Ok(1));
        // 18 bytes are queued, and 18 more would be above 30.
        assert_eq!(
            refused(13 - 8 + 8),
            Err(Refusal::TooLarge { len: 13, limit: 10 })
        );
        assert_eq!(refused(4), Ok(2));
        assert_eq!(refused(0), Err(Refusal::Full));
        sent(&mut c);
        assert_eq!(c.receive(1, b""), Ok(Delivery::Reply(())));
        assert_eq!(
            c.call(0, &mut vec![].into(), None, &mut None, &mut Some(())),
            Ok(3)
        );
        c.close();
        assert_eq!(
            c.call(0, &mut vec![].into(), None, &mut None, &mut Some(())),
            Err(Refusal::Closed)
        );
    }

    #[test]
    fn queued_bytes_count_against_their_limit() {
        let limits = QueueLimits {
            max_frame: 100,
            calls: usize::MAX,
            bytes: 30,
            asks: Some(2),
            stuck_after: None,
        };
        let mut c = Connection::<(), char>::new(Some(Plain::Tagged), limits);
        // One call always fits, or nothing would.
        assert!(
            c.call(0, &mut vec![0; 50].into(), None, &mut None, &mut Some(()))
                .is_ok()
        );
        assert!(matches!(
            c.call(0, &mut vec![].into(), None, &mut None, &mut Some(())),
            Err(Refusal::Full)
        ));
        sent(&mut c);
        assert!(
            c.call(0, &mut vec![].into(), None, &mut None, &mut Some(()))
                .is_ok()
        );
    }

    #[test]
    fn limits_are_what_is_still_allowed() {
        let limits = QueueLimits {
            max_frame: 100,
            calls: 3,
            bytes: 40,
            asks: Some(2),
            stuck_after: None,
        };
        let mut c = Connection::<char, char>::new(Some(Plain::Tagged), limits);
        // A header has 8 bytes.
        let mut queue = |len: usize| {
            let request = &mut vec![0; len].into();
            c.call(0, request, None, &mut None, &mut Some('a'))
        };
        assert_eq!(queue(100), Ok(1));
        assert_eq!(
            queue(101),
            Err(Refusal::TooLarge {
                len: 101,
                limit: 100
            })
        );
        sent(&mut c);
        let mut c = Connection::<char, char>::new(Some(Plain::Tagged), limits);
        call(&mut c, 'a');
        assert_eq!(c.queued(), 9);
        assert_eq!(c.admit(40 - 9), Ok(()), "exactly the limit");
        assert_eq!(c.admit(40 - 9 + 1), Err(Refusal::Full));
        // Threads that wait check again when half of it has gone.
        for (more, has_room) in [(3, true), (1, false)] {
            c.call(
                0,
                &mut vec![0; more].into(),
                None,
                &mut None,
                &mut Some('b'),
            )
            .unwrap();
            assert_eq!((c.queued() <= 20, c.has_room()), (has_room, has_room));
        }
        sent(&mut c);
        assert!(
            !c.has_room() && c.admit(0) == Err(Refusal::Full),
            "three calls"
        );
        assert_eq!(c.receive(1, b""), Ok(Delivery::Reply('a')));
        assert!(c.has_room() && c.admit(0) == Ok(()));
    }

    #[test]
    fn lost_calls_know_their_phase() {
        let mut c = plain(Plain::Tagged);
        call(&mut c, 'a');
        sent(&mut c);
        call(&mut c, 'b');
        assert_eq!(
            c.drain(Begun::Unknown),
            [('a', Phase::Begun), ('b', Phase::Queued)]
        );
        assert!(c.queued() == 0);
        assert!(c.is_closed());
    }

    #[test]
    fn lost_calls_are_blamed_up_to_the_one_that_had_begun_last() {
        let [begun, sent_only, queued] = [Phase::Begun, Phase::Sent, Phase::Queued];
        for (last, want) in [
            (Begun::None, [sent_only, sent_only, sent_only, queued]),
            (Begun::UpTo(1), [begun, sent_only, sent_only, queued]),
            // It was answered.
            (Begun::UpTo(2), [begun, sent_only, sent_only, queued]),
            (Begun::UpTo(3), [begun, begun, sent_only, queued]),
            (Begun::UpTo(4), [begun, begun, begun, queued]),
            // What a child claims to have begun that it was not sent, it has not.
            (Begun::UpTo(5), [begun, begun, begun, queued]),
            (Begun::Unknown, [begun, begun, begun, queued]),
        ] {
            let mut c = serving();
            for note in ['1', '2', '3', '4'] {
                call(&mut c, note);
            }
            sent(&mut c);
            call(&mut c, '5');
            assert_eq!(c.receive(2, b""), Ok(Delivery::Reply('2')));
            let all: Vec<(char, Phase)> = ['1', '3', '4', '5'].into_iter().zip(want).collect();
            assert_eq!(c.drain(last), all, "{last:?}");
        }
    }

    #[test]
    fn call_that_is_so_old_that_its_id_may_be_anothers_is_blamed() {
        assert_eq!(BYTES_OF_MANY_IDS, 0x1_ffff_fff8);
        for (bytes, phase) in [
            (BYTES_OF_MANY_IDS - 1, Phase::Sent),
            (BYTES_OF_MANY_IDS, Phase::Begun),
        ] {
            assert_eq!(phase_of_sent(6, bytes, Some(7)), phase);
            assert_eq!(phase_of_sent(7, bytes, Some(7)), Phase::Begun);
            assert_eq!(phase_of_sent(7, bytes, None), Phase::Sent);
        }
    }

    /// The child asks, with a request that is long enough to show what it is.
    fn ask(id: u32) -> Vec<u8> {
        let mut ask = ToParent::begin_ask(Some(id), FunctionId::octets("s"));
        ask.resize(wire::TELLING, b'x');
        ask
    }

    #[test]
    fn ask_has_an_id_of_its_own_until_it_is_answered() {
        let mut c = serving();
        let control = wire::CONTROL_TO_PARENT;
        assert_eq!(check(&mut c, control, 1 << 20, &ask(7)), Ok(Check::Pass));
        assert_eq!(c.receive(control, &ask(7)), Ok(Delivery::Asked));
        let repeated = ChildViolation::RepeatedAsk { id: 7 };
        let begun = check(&mut c, control, 1 << 20, &ask(7));
        assert_eq!(begun.as_ref(), Err(&repeated));
        assert_eq!(c.receive(control, &ask(7)), Err(repeated));
        c.answer(7, false, &mut b"a".to_vec().into());
        assert_eq!(check(&mut c, control, 1 << 20, &ask(7)), Ok(Check::Pass));
        assert_eq!(c.receive(control, &ask(7)), Ok(Delivery::Asked));
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks 65,536 times")]
    fn child_that_asks_without_reading_the_refusals_breaks_the_protocol() {
        let mut c = serving();
        let control = wire::CONTROL_TO_PARENT;
        for id in [1, 2] {
            assert_eq!(c.receive(control, &ask(id)), Ok(Delivery::Asked));
        }
        let flood = (3..).find_map(|id| match c.receive(control, &ask(id)) {
            Ok(Delivery::Late) => None,
            end => Some((id, end)),
        });
        // The first of them is unread.
        let (id, end) = flood.unwrap();
        assert_eq!((id, end), (3 + (1 << 16), Err(ChildViolation::AskFlood)));
    }

    #[test]
    fn calls_that_are_withdrawn_make_no_room_for_asks() {
        let mut c = serving();
        let control = wire::CONTROL_TO_PARENT;
        // One is left queued, so that the queue is never empty.
        call(&mut c, 'a');
        for id in [1, 2] {
            assert_eq!(c.receive(control, &ask(id)), Ok(Delivery::Asked));
            c.answer(id, false, &mut vec![7; 50].into());
        }
        for id in 3..9 {
            let withdrawn = call(&mut c, 'b');
            assert_eq!(c.cancel(withdrawn), Some(('b', Phase::Queued)));
            assert_eq!(c.receive(control, &ask(id)), Ok(Delivery::Late), "{id}");
        }
        sent(&mut c);
        assert_eq!(c.receive(control, &ask(9)), Ok(Delivery::Asked));
    }

    #[test]
    fn child_that_gets_nothing_more_is_not_answered() {
        let mut c = serving();
        let control = wire::CONTROL_TO_PARENT;
        assert_eq!(c.receive(control, &ask(1)), Ok(Delivery::Asked));
        assert!(c.is_ask_awaited(1));
        c.writer_mut().close();
        assert!(!c.is_ask_awaited(1));
        c.answer(1, false, &mut b"a".to_vec().into());
        for id in 2..9 {
            c.receive(control, &ask(id)).unwrap();
        }
        assert_eq!(c.queued(), 0);
    }

    #[test]
    fn child_that_serves_may_retire_any_number_of_times() {
        let (control, retire) = (wire::CONTROL_TO_PARENT, ToParent::Retire.encode());
        let mut c = Connection::<char, char>::new(None, LIMITS);
        let not_ready = ChildViolation::NotReady { id: control };
        assert_eq!(c.receive(control, &retire), Err(not_ready));
        let mut c = serving();
        let a = call(&mut c, 'a');
        sent(&mut c);
        for _ in 0..2 {
            assert_eq!(c.receive(control, &retire), Ok(Delivery::Retires));
        }
        assert_eq!(c.receive(a, b""), Ok(Delivery::Reply('a')));
    }

    /// Adds two functions.
    fn add_functions(c: &mut Connection<char, char>) -> [usize; 2] {
        let names = ["g", "h"].map(FunctionId::octets);
        let added = names.map(|name| c.add_function(name));
        assert_eq!(names.map(|name| c.add_function(name)), added);
        added
    }

    /// Calls one of several functions.
    fn call_to(c: &mut Connection<char, char>, function: usize) -> u32 {
        let (request, note) = (&mut vec![].into(), &mut Some('a'));
        c.call(function, request, None, &mut None, note).unwrap()
    }

    /// Otherwise they would gather, as long as the child does not read.
    #[test]
    fn calls_that_are_withdrawn_leave_no_switches_of_functions() {
        let mut c = serving();
        let [g, h] = add_functions(&mut c);
        // One is left queued, so that the queue is never empty.
        call_to(&mut c, 0);
        let queued = c.queued();
        for n in 0..100 {
            let ids = [g, h, 0, h].map(|function| call_to(&mut c, function));
            // In whatever order.
            for at in [0, 1, 2, 3].map(|at| (at * (n % 2 * 2 + 1) + n) % 4) {
                assert!(c.cancel(ids[at]).is_some());
            }
        }
        // At most those of one round.
        assert!(c.queued() < queued + 200, "{} of {queued}", c.queued());
        // And what follows is for the right function.
        call_to(&mut c, h);
        call_to(&mut c, 0);
        let sent = sent(&mut c);
        let messages = String::from_utf8_lossy(&sent).into_owned();
        let last = messages.rfind("\u{8}function\u{1}");
        let last = &messages[last.expect("a switch")..];
        assert!(last.starts_with("\u{8}function\u{1}f"), "{messages:?}");
    }

    #[test]
    fn calls_of_a_plain_peer_may_be_withdrawn_whatever_function_they_are_for() {
        for mode in [Plain::Tagged, Plain::Ordered, Plain::Fallible] {
            let mut c = plain(mode);
            let [g, h] = add_functions(&mut c);
            let mut ids = [0, g, h, g, 0, h].map(|function| call_to(&mut c, function));
            let one = c.queued() / ids.len() as u64;
            ids[1..].reverse();
            for id in &ids[1..] {
                assert_eq!(c.cancel(*id), Some(('a', Phase::Queued)), "{mode:?}");
            }
            assert_eq!(sent(&mut c).len() as u64, one, "only the first is left");
        }
    }
}

use super::Script;
use crate::error::{Phase, Refusal};
use crate::rpc::{Begun, ChildViolation, Connection, Delivery, QueueLimits, StartRefusal};
use crate::wire::Plain;
use crate::wire::{
    self, Asked, Body, Check, Decoder, Failure, FrameHead, Framing, FunctionId, LARGE,
    LONGEST_CONTROL, Run, TELLING, ToChild, ToParent, octets,
};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The parent's connection, in every mode: whatever the child sends and the program does, in
/// whatever order, each call's completion is returned exactly once, and everything is as in a model
/// made of plain lists. A frame of which only the header has come is judged as it would be whole.
pub fn parent(data: &[u8]) {
    let mut script = Script(data);
    let plain = script.mode();
    let limits = QueueLimits {
        max_frame: script.pick(&[10, 1000, 100_000, u32::MAX as usize]),
        calls: script.pick(&[usize::MAX, 0, 1, 3]),
        bytes: script.pick(&[usize::MAX, 0, 100, 40_000]),
        asks: script.pick(&[None, Some(usize::MAX), Some(0), Some(1), Some(3)]),
        stuck_after: script
            .pick(&[None, Some(0), Some(50)])
            .map(Duration::from_millis),
    };
    let mut parent = ParentModel::new(plain, limits);
    while !script.0.is_empty() {
        match script.byte() % 9 {
            0 | 1 => parent.call(script.byte(), script.byte()),
            2 => parent.take(script.pick(&[1, 100, LARGE, usize::MAX])),
            3 => parent.arrive(script.string()),
            4 => {
                let (id, failed) = (script.byte(), script.pick(&[0, wire::FAILED]));
                parent.arrive(&frame(u32::from(id) | failed, script.string()));
            }
            5 => parent.control(script.byte()),
            6 => parent.pass(script.byte()),
            7 => parent.answer(u32::from(script.byte() % 32), script.byte()),
            _ => match script.byte() {
                0 => {
                    let begun = script.pick(&[Begun::None, Begun::UpTo(0), Begun::Unknown]);
                    let begun = match begun {
                        Begun::UpTo(_) => parent.up_to(script.byte()),
                        begun => begun,
                    };
                    parent.drain(begun);
                }
                1 => parent.close(),
                id @ 128.. => parent.cancel(u32::from(id - 128)),
                id @ 64.. => parent.time_out(u32::from(id - 64)),
                _ => parent.expire(),
            },
        }
        parent.check();
    }
    parent.drain(Begun::Unknown);
    parent.check();
    assert!(parent.returned.iter().all(|returned| *returned));
}

/// Stands for the call of a frame that answers an ask.
const ANSWER: u32 = u32::MAX;
/// ... and, less its number, that selects a function.
const SWITCH: u32 = u32::MAX - 1;

/// The function that a frame selects.
fn selected(call: Option<u32>) -> Option<usize> {
    let number = SWITCH.checked_sub(call?)? as usize;
    (number < FUNCTIONS.len()).then_some(number)
}

fn switch_to(function: usize) -> Vec<u8> {
    let FunctionId { name, codec, .. } = FUNCTIONS[function];
    let select = octets::encode(["function", name, "2", codec]);
    frame(wire::CONTROL_TO_CHILD, &select)
}

/// The functions that calls are for.
const FUNCTIONS: [FunctionId<'_>; 3] = [function("f"), function("g"), function("h")];

const fn function(name: &str) -> FunctionId<'_> {
    FunctionId {
        name,
        version: 2,
        codec: "c",
    }
}

/// A connection and its model.
struct ParentModel {
    connection: Connection<usize, u32>,
    decoder: Decoder,
    plain: Option<Plain>,
    limits: QueueLimits,
    ready: bool,
    closed: bool,
    /// The child violated the protocol: nothing more is read.
    broken: bool,
    now: Instant,
    /// Whether the child is stuck, and that was not taken.
    stuck: bool,
    /// The id of the last call.
    last: u32,
    /// The ids of unanswered asks, and whether the child waits no longer.
    asks: Vec<(u32, bool)>,
    /// The function that the last switch was to which was taken from the queue.
    taken_function: usize,
    /// Calls whose id is not free, in order.
    calls: Vec<ExpectedCall>,
    /// Unwritten frames: the call, and the bytes that are left.
    queue: VecDeque<(Option<u32>, VecDeque<u8>)>,
    /// Whether each accepted completion was returned.
    returned: Vec<bool>,
}

struct ExpectedCall {
    id: u32,
    completion: usize,
    /// When it expires; if it has, when the child is stuck.
    deadline: Option<Instant>,
    /// Whether progress is wanted.
    progress: bool,
    ended: bool,
    sent: bool,
}

impl ParentModel {
    fn new(plain: Option<Plain>, limits: QueueLimits) -> Self {
        let mut parent = ParentModel {
            connection: Connection::new(plain, limits),
            decoder: Decoder::new(Framing::Tagged, 64, limits.max_frame)
                .with_control(|id| id & wire::FAILED != 0),
            plain,
            limits,
            ready: plain.is_some(),
            closed: false,
            broken: false,
            now: Instant::now(),
            stuck: false,
            last: 0,
            asks: Vec::new(),
            taken_function: 0,
            calls: Vec::new(),
            queue: VecDeque::new(),
            returned: Vec::new(),
        };
        if plain.is_none() {
            let run = Run {
                protocol: wire::VERSION,
                function: FUNCTIONS[0],
                max_frame: 3,
                buflen: 4,
            };
            let setup = ToChild::Setup {
                setup: run.function,
                request: b"r",
            };
            parent.connection.start(vec![setup.encode().into()], run);
            let setup = octets::encode(["setup", "f", "2", "c"]);
            let setup = [&setup[..], b"r"].concat();
            let run = octets::encode(["run", "1", "f", "2", "c", "3", "4"]);
            for payload in [setup, run] {
                let frame = frame(wire::CONTROL_TO_CHILD, &payload);
                parent.queue.push_back((None, frame.into()));
            }
        }
        // The first of a worker has been noted.
        for (n, function) in FUNCTIONS.into_iter().enumerate() {
            let number = parent.connection.add_function(function);
            assert_eq!(number, if plain.is_none() { n } else { 0 });
            assert_eq!(parent.connection.add_function(function), number);
        }
        parent
    }

    fn call(&mut self, size: u8, time: u8) {
        let len = match usize::from(size) {
            // Up to 56 kB: some are too large to share a chunk with others.
            long @ 200.. => (long - 199) * 1000,
            short => short,
        };
        let completion = self.returned.len();
        let request = vec![completion as u8; len];
        // In two pieces, of which the second may be long enough not to be copied.
        let mut body = Body::default();
        let (head, tail) = request.split_at(len / 2 * usize::from(len % 3 != 0));
        body.push(head.to_vec());
        body.push(tail.to_vec());
        let deadline =
            (!time.is_multiple_of(4)).then(|| self.now + Duration::from_millis(time.into()));
        let progress = size.is_multiple_of(2);
        // A plain peer has one.
        let function = match self.plain {
            None => usize::from(time / 16 % 3),
            Some(_) => 0,
        };
        let mut wants_progress = progress.then_some(self.last + 1);
        let mut taken = Some(completion);
        let result = self.connection.call(
            function,
            &mut body,
            deadline,
            &mut wants_progress,
            &mut taken,
        );
        if let Err(refusal) = self.admit(len) {
            assert_eq!((result, taken), (Err(refusal), Some(completion)));
            return;
        }
        assert_eq!(taken, None);
        if function != self.current() {
            self.select(function);
        }
        self.last += 1;
        assert_eq!(result, Ok(self.last));
        self.returned.push(false);
        self.calls.push(ExpectedCall {
            id: self.last,
            completion,
            deadline,
            progress,
            ended: false,
            sent: false,
        });
        let bytes = match self.plain {
            Some(Plain::Ordered) => [&(len as u32).to_be_bytes()[..], &request].concat(),
            _ => frame(self.last, &request),
        };
        self.queue.push_back((Some(self.last), bytes.into()));
    }

    /// Calls are for another function from now on.
    fn select(&mut self, function: usize) {
        let frame = switch_to(function);
        self.queue
            .push_back((Some(SWITCH - function as u32), frame.into()));
    }

    /// The function that the next call is for.
    fn current(&self) -> usize {
        let mut switches = self
            .queue
            .iter()
            .rev()
            .filter_map(|(what, _)| selected(*what));
        switches.next().unwrap_or(self.taken_function)
    }

    /// A call was withdrawn that was at this place in the queue. So is the switch before it, if nothing of
    /// that was taken, and no call is left up to the next.
    fn withdraw_switch(&mut self, place: usize) {
        let is_switch = |at: &usize| selected(self.queue[*at].0).is_some();
        let Some(at) = (0..place).rev().find(is_switch) else {
            return;
        };
        let (what, frame) = &self.queue[at];
        let is_whole = selected(*what).is_some_and(|to| frame.len() == switch_to(to).len());
        let mut following = self.queue.range(at + 1..).map(|(what, _)| *what);
        let following = following
            .by_ref()
            .take_while(|what| selected(*what).is_none());
        let is_needed = following.flatten().any(|id| id < ANSWER - 10);
        if is_whole && !is_needed {
            self.queue.remove(at);
        }
    }

    fn take(&mut self, limit: usize) {
        let mut taken = Vec::new();
        let writer = self.connection.writer_mut();
        while let Some(batch) = writer.begin(limit) {
            let n = batch.write(|parts| {
                parts.iter().for_each(|part| taken.extend_from_slice(part));
                parts.iter().map(|part| part.len()).sum()
            });
            writer.end(batch, Ok(n));
            if writer.unsent() as u64 == writer.outbox().queued() {
                break;
            }
        }
        assert!(
            taken.len() >= limit.min(self.queued()),
            "too few bytes were taken"
        );
        let mut taken = taken.into_iter();
        while taken.len() > 0 {
            let (id, frame) = self
                .queue
                .front_mut()
                .expect("more was taken than was queued");
            for call in self.calls.iter_mut().filter(|call| Some(call.id) == *id) {
                call.sent = true;
            }
            if let Some(function) = selected(*id) {
                self.taken_function = function;
            }
            let n = frame.len().min(taken.len());
            assert!(frame.drain(..n).eq(taken.by_ref().take(n)));
            if frame.is_empty() {
                self.queue.pop_front();
            }
        }
    }

    fn control(&mut self, which: u8) {
        let number = u32::from(which / 8);
        let asked = Asked {
            service: FUNCTIONS[1],
            request: &[which],
        };
        let payload = match which % 8 {
            0 if self.ready => ToParent::Progress {
                id: number,
                payload: &[which],
            }
            .encode(),
            0 | 1 => ToParent::Ready { protocol: number }.encode(),
            2 => octets::encode(["refused", "function", "no such"]),
            3 | 4 => ToParent::Ask { id: number, asked }.encode(),
            5 => ToParent::Tell(asked).encode(),
            6 => ToParent::Forget { id: number }.encode(),
            _ if number % 2 == 1 => ToParent::Retire.encode(),
            _ => octets::encode(["dance"]),
        };
        self.arrive(&frame(wire::CONTROL_TO_PARENT, &payload));
    }

    /// The program answers an ask.
    fn answer(&mut self, id: u32, len: u8) {
        let payload = vec![len; len.into()];
        let mut body = Body::from(payload.clone());
        let is_open = self.asks.iter().any(|(open, _)| *open == id);
        let awaited = self.asks.contains(&(id, false));
        assert_eq!(self.connection.is_ask_awaited(id), awaited);
        self.connection.answer(id, false, &mut body);
        if !is_open {
            return;
        }
        self.asks.retain(|(open, _)| *open != id);
        let (limit, len) = (self.limits.max_frame, payload.len());
        let bytes = if len > limit {
            let message =
                format!("the answer has {len} bytes, above the limit (max_frame) of {limit}");
            let failure = Failure::Malformed { message }.encode();
            let head = octets::encode(["answer", &id.to_string(), "failed"]);
            [head, failure].concat()
        } else {
            let head = octets::encode(["answer", &id.to_string(), "reply"]);
            [head, payload].concat()
        };
        let frame = frame(wire::CONTROL_TO_CHILD, &bytes);
        self.queue.push_back((Some(ANSWER), frame.into()));
    }

    /// What becomes of an ask.
    fn ask(&mut self, id: u32) -> Result<Delivery<usize, u32>, ChildViolation> {
        if self.asks.iter().any(|(open, _)| *open == id) {
            return Err(ChildViolation::RepeatedAsk { id });
        }
        let unsent = self.queue.iter().filter(|(what, _)| *what == Some(ANSWER));
        if self.asks.len() + unsent.count() < self.limits.asks.unwrap_or(0) {
            self.asks.push((id, false));
            return Ok(Delivery::Asked);
        }
        let refusal = match self.limits.asks {
            Some(_) => Failure::Full,
            None => Failure::Unserved {
                message: "the parent serves nothing: it has no on_ask()".to_owned(),
                kind: "function".to_owned(),
            },
        };
        let head = octets::encode(["answer", &id.to_string(), "failed"]);
        let frame = frame(wire::CONTROL_TO_CHILD, &[head, refusal.encode()].concat());
        self.queue.push_back((None, frame.into()));
        Ok(Delivery::Late)
    }

    /// Bytes arrive from the child.
    fn arrive(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.broken {
            let n = self.decoder.space().fill(bytes);
            bytes = &bytes[n..];
            while !self.broken {
                let want = self.judge_next();
                let connection = &mut self.connection;
                let next = self.decoder.next(|head| {
                    let got = connection.check(head);
                    assert_eq!(Some(&got), want.as_ref());
                    got
                });
                match next {
                    Ok(Some((id, payload))) => {
                        let payload = self.decoder.payload(&payload).to_vec();
                        self.receive(id, &payload);
                    }
                    Ok(None) => break,
                    Err(_) => self.broken = true,
                }
            }
        }
    }

    /// What the model makes of the next frame, if that has a header, and is not whole or too long.
    fn judge_next(&self) -> Option<Result<Check, ChildViolation>> {
        let mut next = None;
        let mut decoder = self.decoder.clone();
        let _ = decoder.next(|head| {
            next = Some(self.judge(head));
            Ok::<_, ChildViolation>(Check::Later)
        });
        next
    }

    fn judge(&self, head: FrameHead<'_>) -> Result<Check, ChildViolation> {
        let FrameHead {
            id, claimed, begun, ..
        } = head;
        match id {
            wire::CONTROL_TO_PARENT if self.plain.is_none() => {
                self.judge_control(claimed as usize, begun)
            }
            _ if !self.ready => Err(ChildViolation::NotReady { id }),
            wire::EVENT => Ok(Check::Pass),
            _ => self.answered(id).map(|_| Check::Pass),
        }
    }

    fn judge_control(&self, claimed: usize, begun: &[u8]) -> Result<Check, ChildViolation> {
        if claimed <= LONGEST_CONTROL {
            return Ok(Check::Pass);
        }
        if !self.ready {
            return Err(ChildViolation::LongControl { claimed });
        }
        if begun.len() < TELLING {
            return Ok(Check::Later);
        }
        let mut strings = octets::iter(&begun[..TELLING]);
        let mut string = || str::from_utf8(strings.next()?.ok()?).ok();
        let verb = string();
        match string().and_then(|id| id.parse().ok()) {
            Some(id) if verb == Some("progress") => match self.position(id) {
                Some(call) if self.calls[call].sent => Ok(Check::Pass),
                _ => Err(ChildViolation::UnknownProgress { id }),
            },
            Some(id) if verb == Some("ask") => {
                match self.asks.iter().any(|(open, _)| *open == id) {
                    true => Err(ChildViolation::RepeatedAsk { id }),
                    false => Ok(Check::Pass),
                }
            }
            _ if verb == Some("tell") => Ok(Check::Pass),
            _ => Err(ChildViolation::LongControl { claimed }),
        }
    }

    /// The place of the call that a reply with this id answers.
    fn answered(&self, id: u32) -> Result<usize, ChildViolation> {
        let number = id & wire::MAX_ID;
        let sent = |call: usize| self.calls.get(call).is_some_and(|call| call.sent);
        let call = match self.plain {
            Some(Plain::Ordered) if id != 1 => return Err(ChildViolation::NotOrdered { id }),
            Some(Plain::Ordered) if sent(0) => Some(0),
            Some(Plain::Ordered) => return Err(ChildViolation::NothingAsked),
            Some(Plain::Tagged) => self.position(id),
            None | Some(Plain::Fallible) => self.position(number),
        };
        let is_failed = id != number && self.position(number).is_some_and(sent);
        match call {
            Some(call) if sent(call) => Ok(call),
            _ if self.plain.is_none() => Err(ChildViolation::UnknownId { id: number }),
            _ if is_failed => Err(ChildViolation::PlainFailed { id }),
            _ => Err(ChildViolation::UnknownId { id }),
        }
    }

    fn receive(&mut self, id: u32, payload: &[u8]) {
        let want = self.deliver(id, payload);
        let got = self.connection.receive(id, payload);
        assert_eq!(got, want);
        match got {
            Ok(Delivery::Reply(completion) | Delivery::Failed(completion)) => {
                self.is_returned(completion)
            }
            Ok(_) => {}
            Err(violation) => {
                assert!(!violation.to_string().is_empty());
                self.broken = true;
            }
        }
    }

    /// The delivery that the model expects for a frame.
    fn deliver(&mut self, id: u32, payload: &[u8]) -> Result<Delivery<usize, u32>, ChildViolation> {
        let control = id == wire::CONTROL_TO_PARENT && self.plain.is_none();
        if !self.ready && !control {
            return Err(ChildViolation::NotReady { id });
        }
        if control {
            self.judge_control(payload.len(), payload)?;
            let message = ToParent::decode(payload).map_err(ChildViolation::Control)?;
            return match message {
                ToParent::Progress { .. } if !self.ready => Err(ChildViolation::NotReady { id }),
                ToParent::Progress { id, .. } => match self.position(id) {
                    Some(call) if self.calls[call].sent => {
                        let ExpectedCall {
                            progress, ended, ..
                        } = self.calls[call];
                        Ok(match progress && !ended {
                            true => Delivery::Progress(id),
                            false => Delivery::Late,
                        })
                    }
                    _ => Err(ChildViolation::UnknownProgress { id }),
                },
                ToParent::Ask { .. }
                | ToParent::Tell(_)
                | ToParent::Forget { .. }
                | ToParent::Retire
                    if !self.ready =>
                {
                    Err(ChildViolation::NotReady { id })
                }
                ToParent::Ask { id, .. } => self.ask(id),
                ToParent::Tell(_) => Ok(Delivery::Asked),
                ToParent::Retire => Ok(Delivery::Retires),
                ToParent::Forget { id } => {
                    for (_, forgotten) in self.asks.iter_mut().filter(|(open, _)| *open == id) {
                        *forgotten = true;
                    }
                    Ok(Delivery::Late)
                }
                ToParent::Log { .. } => Ok(Delivery::Log),
                _ if self.ready => Err(ChildViolation::ReadyTwice),
                ToParent::Ready { protocol: 1 } => {
                    self.ready = true;
                    Ok(Delivery::Ready)
                }
                ToParent::Ready { protocol } => Ok(Delivery::Refused(Box::new(StartRefusal {
                    kind: "version".to_owned(),
                    message: format!(
                        "the child speaks version {protocol} of the protocol, this is version 1"
                    ),
                }))),
                ToParent::Refused { kind, message } => {
                    Ok(Delivery::Refused(Box::new(StartRefusal {
                        kind: kind.to_owned(),
                        message: message.to_owned(),
                    })))
                }
            };
        }
        if id == wire::EVENT {
            return Ok(Delivery::Event);
        }
        let call = self.answered(id)?;
        let ExpectedCall {
            completion, ended, ..
        } = self.calls.remove(call);
        Ok(match ended {
            true => Delivery::Late,
            false if id & wire::FAILED != 0 => Delivery::Failed(completion),
            false => Delivery::Reply(completion),
        })
    }

    fn position(&self, id: u32) -> Option<usize> {
        self.calls.iter().position(|call| call.id == id)
    }

    fn pass(&mut self, milliseconds: u8) {
        self.now += Duration::from_millis(milliseconds.into());
    }

    /// Ends one call whose deadline has passed. Before, calls that had ended may have the child be stuck.
    fn expire(&mut self) {
        let mut due: Vec<_> = self.calls.iter_mut().collect();
        due.retain(|call| call.deadline.is_some_and(|deadline| deadline <= self.now));
        due.sort_by_key(|call| (call.deadline, call.id));
        let mut first = None;
        for call in due {
            if !call.ended {
                first = Some(call.id);
                break;
            }
            call.deadline = None;
            self.stuck = true;
        }
        let got = self.connection.expire(self.now);
        self.ends(first, got);
        self.watch(first);
        let stuck_after = self.limits.stuck_after.take_if(|_| self.stuck);
        assert_eq!(self.connection.take_stuck(), stuck_after);
    }

    /// The child is to answer a call that has timed out, unless that is gone.
    fn watch(&mut self, id: Option<u32>) {
        let stuck_at = self.limits.stuck_after.map(|after| self.now + after);
        if let Some(at) = id.and_then(|id| self.position(id))
            && self.ready
        {
            self.calls[at].deadline = stuck_at;
        }
    }

    /// Cancels one call.
    fn cancel(&mut self, id: u32) {
        let got = self.connection.cancel(id);
        self.ends(self.live(id), got);
    }

    /// The caller of one call has it time out, if it has a deadline.
    fn time_out(&mut self, id: u32) {
        let id = self.live(id);
        let id = id.filter(|id| {
            self.position(*id)
                .is_some_and(|at| self.calls[at].deadline.is_some())
        });
        if let Some(id) = id {
            let got = self.connection.time_out(id, self.now);
            self.ends(Some(id), got);
            self.watch(Some(id));
        }
    }

    /// The id, if the call has not ended.
    fn live(&self, id: u32) -> Option<u32> {
        let at = self.position(id)?;
        (!self.calls[at].ended).then_some(id)
    }

    /// The call with this id has ended, if there was one: it is withdrawn, or the child is notified.
    fn ends(&mut self, id: Option<u32>, got: Option<(usize, Phase)>) {
        let Some(at) = id.and_then(|id| self.position(id)) else {
            assert_eq!(got, None);
            return;
        };
        let ExpectedCall {
            id,
            completion,
            sent,
            ..
        } = self.calls[at];
        let phase = if sent { Phase::Begun } else { Phase::Queued };
        assert_eq!(got, Some((completion, phase)));
        self.is_returned(completion);
        if !sent {
            self.calls.remove(at);
            let place = self.queue.iter().position(|(call, _)| *call == Some(id));
            let place = place.expect("it was not taken");
            self.queue.remove(place);
            self.withdraw_switch(place);
            return;
        }
        self.calls[at].ended = true;
        self.calls[at].deadline = None;
        if self.plain.is_none() {
            let cancel = octets::encode(["cancel", &id.to_string()]);
            let frame = frame(wire::CONTROL_TO_CHILD, &cancel);
            self.queue.push_back((None, frame.into()));
        }
    }

    fn close(&mut self) {
        self.connection.close();
        self.closed = true;
    }

    /// One of the calls that are there, or else one that is gone: the child has begun up to it.
    fn up_to(&self, n: u8) -> Begun {
        let call = self.calls.get(usize::from(n));
        call.map_or(Begun::None, |call| Begun::UpTo(call.id))
    }

    fn drain(&mut self, begun: Begun) {
        let first_unbegun = match begun {
            Begun::None => 0,
            Begun::Unknown => usize::MAX,
            Begun::UpTo(id) => self.position(id).map_or(0, |at| at + 1),
        };
        let numbered = self.calls.drain(..).enumerate();
        let live = numbered.filter(|(_, call)| !call.ended);
        let want: Vec<(usize, Phase)> = live
            .map(|(n, call)| {
                let phase = match call.sent {
                    false => Phase::Queued,
                    true if n < first_unbegun => Phase::Begun,
                    true => Phase::Sent,
                };
                (call.completion, phase)
            })
            .collect();
        assert_eq!(self.connection.drain(begun), want);
        want.into_iter()
            .for_each(|(completion, _)| self.is_returned(completion));
        self.queue.clear();
        self.asks.clear();
        self.taken_function = 0;
        self.closed = true;
    }

    fn is_returned(&mut self, completion: usize) {
        assert!(
            !self.returned[completion],
            "a completion was returned twice"
        );
        self.returned[completion] = true;
    }

    fn queued(&self) -> usize {
        self.queue.iter().map(|(_, frame)| frame.len()).sum()
    }

    /// Whether a call should be accepted.
    fn admit(&self, len: usize) -> Result<(), Refusal> {
        let (queued, limit) = (self.queued(), self.limits.max_frame);
        let over = queued > 0 && queued.saturating_add(len) > self.limits.bytes;
        match () {
            () if self.closed => Err(Refusal::Closed),
            () if len > limit => Err(Refusal::TooLarge { len, limit }),
            () if over || self.calls.len() >= self.limits.calls => Err(Refusal::Full),
            () => Ok(()),
        }
    }

    fn check(&self) {
        let live = || self.calls.iter().filter(|call| !call.ended);
        let first = self.calls.iter().filter_map(|call| call.deadline);
        let connection = &self.connection;
        assert_eq!(connection.live(), live().count());
        assert_eq!(connection.deadline(), first.min());
        assert_eq!(connection.queued() > 0, !self.queue.is_empty());
        assert_eq!(connection.is_ready(), self.ready);
        assert_eq!(connection.is_closed(), self.closed);
        for len in [0, 1, 100, 50_000] {
            assert_eq!(connection.admit(len), self.admit(len));
        }
    }
}

fn frame(id: u32, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u32;
    [&id.to_be_bytes()[..], &len.to_be_bytes(), payload].concat()
}

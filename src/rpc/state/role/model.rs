//! Every interleaving of callers, the reactor, a child and time, explored with the real [`Role`].
//!
//! A step is what the code does while it holds a lock once, or one system call; the steps are those
//! of `rpc::link` and `rpc::driver`, by the same names. There are two kinds. Some may happen or
//! never: a call is made, an event is sent, a timeout passes, the child dies, the handle is closed.
//! The others do happen if nothing else can: all the rest, the clock included. From every state the
//! second kind alone must lead to one where everything is delivered. So no wake-up may depend on
//! somebody else happening to make a call.

use super::{Holder, Role};
use crate::rpc::state::AfterRelease;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Shorter than the pause after which a caller has the socket watched, and than the delay. Two ticks
/// are longer than either.
const TICK: Duration = Duration::from_micros(20);
const DELAY: Duration = Duration::from_micros(35);

/// A scenario that has more states takes too long in a debug build.
const MOST_STATES: usize = 90_000;
const TOO_MANY: &str = "there are more states than is reasonable";

/// A call's number, which also stands for its slot.
type Id = u8;

/// How a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `wait()`.
    Wait,
    /// `timeout(..).wait()`.
    Timed,
    /// `start()`, then `wait_timeout()` and, if that gave nothing, `wait()`.
    Start,
    /// `then()`.
    Then,
}

/// What may happen, and which mistake is made.
#[derive(Debug, Clone)]
struct Scenario {
    rewatch_delay: Duration,
    /// The calls that each caller makes.
    callers: Vec<Vec<Kind>>,
    events: u8,
    may_die: bool,
    may_close: bool,
    fault: Option<Fault>,
}

/// A mistake in the use of a [`Role`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The role is taken after the request was written, and the slot not looked at.
    RoleAfterWrite,
    /// The reactor is not notified of what was handed off.
    HandOffUntold,
    /// The socket is not watched although the role says so.
    ReleaseUnwatched,
    /// The reactor is not asked to check.
    CheckUnscheduled,
    /// The reactor does not watch when it has read.
    GiveBackUnwatched,
    /// The reactor watches on while a caller reads, and reads too.
    NoTurns,
    /// A parked caller does not leave.
    NoLeave,
    /// A caller that was given the role when it had its answer keeps it.
    KeepsGiven,
    /// A caller delivers what is not an answer that it may deliver.
    CallerDelivers,
    /// A caller whose timeout has passed does not wait for the thread that has ended its call.
    EndsTwice,
    /// The reactor is not notified that the last answer of a closed handle was read.
    CloseUntold,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Frame {
    /// Counts what the child made.
    number: u8,
    /// The call that it answers, or an event.
    answers: Option<Id>,
}

/// Where the decoder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum DecoderPlace {
    Link,
    Caller(u8),
    Slot(Id),
    Reactor,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct ModelCall {
    made: bool,
    /// Whether its completion is in the table.
    live: bool,
    /// Whether its timeout is over, or that of the first wait for it; and whether the reactor knows
    /// when it will be.
    expired: bool,
    given_up: bool,
    known: bool,
    /// In its slot.
    answer: bool,
    /// How many times it was completed.
    told: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum At {
    /// Between two calls.
    Idle,
    Sending(Vec<Id>),
    Sent,
    /// `wait_for`: looks into the slot; takes the role or parks; sleeps.
    Look,
    Ask,
    Parked,
    /// `read_for`: looks at what there is; reads; found the end; was too late.
    Read,
    Receive,
    HandOff,
    Tired,
    AfterRead,
    Leave {
        answered: bool,
        given: bool,
    },
    TimedOut,
    /// Another thread has ended the call, and is about to fill the slot.
    Await,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Doing {
    Asleep,
    TakeReader,
    TakeIn,
    HandOver,
    Receive,
    GiveBack,
    Attend,
    Sending(Vec<Id>),
    Rest,
    TellExpired,
    Disconnect,
    End,
    Over,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ModelReactor {
    doing: Doing,
    /// What was taken in, and whether its answer is wanted.
    batch: Vec<(Frame, bool)>,
    /// Calls that are to be completed.
    ended: Vec<Id>,
    /// Whether it attends for the second time.
    again: bool,
    /// Whether the stream has ended.
    disconnected: bool,
    timer: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    role: Role<Id>,
    reader: DecoderPlace,
    decoder: Vec<Frame>,
    calls: Vec<ModelCall>,
    callers: Vec<(usize, At)>,
    reactor: ModelReactor,
    out: Vec<Id>,
    busy: bool,
    /// Whether the reactor was notified and has not attended since; and whether it knows. A thread that
    /// notifies it takes two locks, but nothing else can happen to it between them.
    attention: bool,
    inbox: bool,
    closed: bool,
    shut_down: bool,
    connected: bool,
    /// What the child has to answer, and has written.
    asked: Vec<Id>,
    socket: Vec<Frame>,
    ended: bool,
    events: u8,
    made: u8,
    delivered: u8,
}

/// What is wrong in a state.
type Wrong = String;

/// Successors of a state: what happens, whether it must, and what comes of it.
type Steps = Vec<(String, bool, Result<World, Wrong>)>;

struct Model {
    scenario: Scenario,
    /// The present, always: what is in the past or the future is moved instead.
    now: Instant,
    kinds: Vec<Kind>,
}

impl Model {
    fn new(scenario: &Scenario) -> Self {
        Model {
            scenario: scenario.clone(),
            now: Instant::now() + DELAY,
            kinds: scenario.callers.concat(),
        }
    }

    fn start(&self) -> World {
        let mut role = Role::new(self.scenario.rewatch_delay);
        role.set_watched(true);
        World {
            role,
            reader: DecoderPlace::Link,
            decoder: Vec::new(),
            calls: vec![ModelCall::default(); self.kinds.len()],
            callers: vec![(0, At::Idle); self.scenario.callers.len()],
            reactor: ModelReactor {
                doing: Doing::Asleep,
                batch: Vec::new(),
                ended: Vec::new(),
                again: false,
                disconnected: false,
                timer: None,
            },
            out: Vec::new(),
            busy: false,
            attention: false,
            inbox: false,
            closed: false,
            shut_down: false,
            connected: true,
            asked: Vec::new(),
            socket: Vec::new(),
            ended: false,
            events: self.scenario.events,
            made: 0,
            delivered: 0,
        }
    }

    fn is(&self, fault: Fault) -> bool {
        self.scenario.fault == Some(fault)
    }

    /// The number of a caller's call.
    fn id(&self, caller: usize, call: usize) -> Id {
        let before = &self.scenario.callers[..caller];
        (before.iter().map(Vec::len).sum::<usize>() + call) as Id
    }

    /// Whether a call is waited for by its caller.
    fn is_awaited(&self, id: Id) -> bool {
        self.kinds[usize::from(id)] != Kind::Then
    }

    // ---- what may happen next ----

    fn steps(&self, world: &World) -> Steps {
        let mut steps = Steps::new();
        let mut add = |what: String, must: bool, step: &dyn Fn(&mut World) -> Result<(), Wrong>| {
            let mut next = world.clone();
            let result = step(&mut next).map(|()| {
                self.normalise(&mut next);
                next
            });
            steps.push((what, must, result));
        };
        for (caller, (count, at)) in world.callers.iter().enumerate() {
            if *at == At::Idle {
                if *count < self.scenario.callers[caller].len() && !world.closed && world.connected
                {
                    let what = format!("caller {caller} calls");
                    add(what, false, &|w| self.call(w, caller));
                }
                continue;
            }
            for all in [false, true] {
                if self.can_go_on(world, caller) && (!all || *at == At::Receive) {
                    let what = format!("caller {caller}: {at:?}");
                    add(what, true, &|w| self.go_on(w, caller, all));
                }
            }
        }
        for all in [false, true] {
            let doing = &world.reactor.doing;
            if self.can_react(world) && (!all || *doing == Doing::Receive) {
                add(format!("reactor: {doing:?}"), true, &|w| self.react(w, all));
            }
        }
        if !world.ended {
            for at in 0..world.asked.len() {
                add(format!("child answers its request {at}"), true, &|w| {
                    let id = w.asked.remove(at);
                    w.make(Some(id));
                    Ok(())
                });
            }
            if world.events > 0 {
                add("child sends an event".into(), false, &|w| {
                    w.events -= 1;
                    w.make(None);
                    Ok(())
                });
            }
            if world.shut_down && world.asked.is_empty() {
                add("child ends".into(), true, &|w| w.die());
            }
            if self.scenario.may_die {
                add("child dies".into(), false, &|w| w.die());
            }
        }
        let present = world.callers.iter().enumerate();
        for (caller, (count, _)) in present.filter(|(_, (_, at))| *at != At::Idle) {
            let id = usize::from(self.id(caller, *count));
            let (kind, call) = (self.kinds[id], &world.calls[id]);
            if kind == Kind::Timed && !call.expired {
                add(format!("call {id} takes too long"), false, &|w| {
                    w.calls[id].expired = true;
                    Ok(())
                });
            }
            if kind == Kind::Start && !call.given_up {
                add(format!("the wait for call {id} is over"), false, &|w| {
                    w.calls[id].given_up = true;
                    Ok(())
                });
            }
        }
        if self.scenario.may_close && !world.closed {
            add("the handle is closed".into(), false, &|w| {
                w.closed = true;
                w.notify_reactor();
                Ok(())
            });
        }
        add("time passes".into(), true, &|w| {
            self.pass(w);
            Ok(())
        });
        steps
    }

    fn pass(&self, world: &mut World) {
        let sooner = |at: Instant| at.checked_sub(TICK).expect("now is far from the beginning");
        let role = &mut world.role;
        role.released = role.released.map(sooner);
        role.next_check = role.next_check.map(|(at, taken)| (sooner(at), taken));
        world.reactor.timer = world.reactor.timer.map(sooner);
    }

    /// Makes states equal that differ in nothing that matters.
    fn normalise(&self, world: &mut World) {
        let role = &mut world.role;
        let long_ago = |at: &Instant| self.now.duration_since(*at) >= self.scenario.rewatch_delay;
        role.released = role.released.filter(|at| !long_ago(at));
        role.next_check = role.next_check.map(|(at, taken)| {
            let taken = u64::from(taken != role.taken);
            (at.max(self.now), taken)
        });
        role.taken = 0;
        world.reactor.timer = world.reactor.timer.map(|at| at.max(self.now));
        for (caller, (count, _)) in world.callers.iter().enumerate() {
            for before in 0..*count {
                let call = &mut world.calls[usize::from(self.id(caller, before))];
                if !call.live {
                    (call.expired, call.given_up, call.known) = (false, false, false);
                }
            }
        }
    }

    // ---- callers ----

    /// `Link::call`.
    fn call(&self, w: &mut World, caller: usize) -> Result<(), Wrong> {
        let id = self.id(caller, w.callers[caller].0);
        let call = &mut w.calls[usize::from(id)];
        (call.made, call.live) = (true, true);
        w.out.push(id);
        w.callers[caller].1 = match self.kinds[usize::from(id)] {
            Kind::Wait | Kind::Timed => {
                if !self.is(Fault::RoleAfterWrite) && self.take_role(w) {
                    w.reader = DecoderPlace::Caller(caller as u8);
                }
                if w.busy {
                    At::Sent
                } else {
                    w.busy = true;
                    At::Sending(std::mem::take(&mut w.out))
                }
            }
            kind => {
                if !w.busy {
                    w.notify_reactor();
                }
                if kind == Kind::Then {
                    w.callers[caller].0 += 1;
                    At::Idle
                } else {
                    At::Look
                }
            }
        };
        if w.callers[caller].1 == At::Sent {
            self.sent(w, caller, id);
        }
        Ok(())
    }

    /// The end of `Link::call`, under the lock that it began with if another thread writes.
    fn sent(&self, w: &mut World, caller: usize, id: Id) {
        let kind = self.kinds[usize::from(id)];
        if kind == Kind::Timed && !w.calls[usize::from(id)].known {
            w.notify_reactor();
        }
        w.tell_if_closing(self);
        w.callers[caller].1 = if self.is(Fault::RoleAfterWrite) && self.take_role(w) {
            w.reader = DecoderPlace::Caller(caller as u8);
            At::Receive
        } else if w.reader == DecoderPlace::Caller(caller as u8) {
            match w.decoder.is_empty() {
                true => At::Receive,
                false => At::Read,
            }
        } else {
            At::Look
        };
    }

    fn take_role(&self, w: &mut World) -> bool {
        if !w.connected || w.reader != DecoderPlace::Link || !w.role.take() {
            return false;
        }
        if !self.is(Fault::NoTurns) {
            w.role.set_watched(false);
        }
        true
    }

    /// Whether a caller's step does not wait for something.
    fn can_go_on(&self, w: &World, caller: usize) -> bool {
        let (count, at) = &w.callers[caller];
        let id = self.id(caller, *count);
        let call = &w.calls[usize::from(id)];
        let too_late = call.expired || (call.given_up && self.first_wait(w, id));
        match at {
            At::Receive => !w.socket.is_empty() || w.ended || too_late,
            At::Parked => call.answer || w.reader == DecoderPlace::Slot(id) || too_late,
            At::Await => call.answer,
            _ => true,
        }
    }

    /// Whether the wait that may be given up goes on.
    fn first_wait(&self, w: &World, id: Id) -> bool {
        // `known` is of no other use for such calls.
        self.kinds[usize::from(id)] == Kind::Start && !w.calls[usize::from(id)].known
    }

    fn go_on(&self, w: &mut World, caller: usize, all: bool) -> Result<(), Wrong> {
        let me = DecoderPlace::Caller(caller as u8);
        let (count, at) = w.callers[caller].clone();
        let id = self.id(caller, count);
        let call = usize::from(id);
        let mut done = false;
        let next = match at {
            At::Idle => unreachable!("that is another step"),
            At::Sending(chunk) => {
                w.send(chunk);
                At::Sent
            }
            At::Sent => {
                if !w.out.is_empty() {
                    At::Sending(std::mem::take(&mut w.out))
                } else {
                    w.busy = false;
                    self.sent(w, caller, id);
                    return Ok(());
                }
            }
            At::Look => {
                done = w.take_answer(id);
                At::Ask
            }
            At::Ask => {
                if self.take_role(w) {
                    w.reader = me;
                    At::Read
                } else {
                    w.role.park(id);
                    At::Parked
                }
            }
            At::Parked => {
                let (answered, given) = (w.take_answer(id), w.reader == DecoderPlace::Slot(id));
                if given {
                    w.reader = me;
                }
                if !answered && given {
                    At::Read
                } else {
                    At::Leave { answered, given }
                }
            }
            At::Leave { answered, given } => {
                if !self.is(Fault::NoLeave) && !w.role.unpark(|parked| *parked == id) {
                    if !given && w.reader != DecoderPlace::Slot(id) {
                        return Err("who is not parked was not given the role".into());
                    }
                    w.reader = me;
                    if !self.is(Fault::KeepsGiven) {
                        self.release(w)?;
                    }
                }
                done = answered;
                At::TimedOut
            }
            At::Read => {
                w.must_have(me)?;
                let all_mine = self.take_answers(w)?;
                if !all_mine || !w.connected {
                    self.hand_off(w);
                    At::AfterRead
                } else if w.calls[call].answer {
                    self.release(w)?;
                    At::AfterRead
                } else {
                    At::Receive
                }
            }
            At::Receive => {
                w.must_have(me)?;
                if w.read(all) {
                    At::Read
                } else if w.ended {
                    At::HandOff
                } else {
                    At::Tired
                }
            }
            At::HandOff => {
                w.must_have(me)?;
                self.hand_off(w);
                At::AfterRead
            }
            At::Tired => {
                w.must_have(me)?;
                self.release(w)?;
                At::TimedOut
            }
            At::AfterRead => {
                done = w.take_answer(id);
                At::Look
            }
            At::TimedOut if w.calls[call].expired => {
                if std::mem::take(&mut w.calls[call].live) || self.is(Fault::EndsTwice) {
                    w.calls[call].told += 1;
                    w.tell_if_closing(self);
                    done = true;
                }
                At::Await
            }
            At::TimedOut => {
                done = w.take_answer(id);
                // It waits again, without a limit.
                w.calls[call].known = true;
                At::Look
            }
            At::Await => {
                done = w.take_answer(id);
                At::Await
            }
        };
        w.callers[caller] = if done {
            if w.calls[call].told != 1 {
                let told = w.calls[call].told;
                return Err(format!("call {id} returned, told {told} times"));
            }
            (count + 1, At::Idle)
        } else {
            (count, next)
        };
        Ok(())
    }

    /// `State::take_answers`.
    fn take_answers(&self, w: &mut World) -> Result<bool, Wrong> {
        while let Some(frame) = w.decoder.first().copied() {
            let wanted = |id: Id| w.calls[usize::from(id)].live && self.is_awaited(id);
            if !frame.answers.is_some_and(wanted) && !self.is(Fault::CallerDelivers) {
                return Ok(false);
            }
            w.decoder.remove(0);
            w.deliver(frame)?;
            if let Some(id) = frame.answers {
                if !self.is_awaited(id) {
                    return Err(format!("a caller delivers call {id} to its callback"));
                }
                w.calls[usize::from(id)].live = false;
                w.fill(id)?;
            } else {
                return Err("a caller delivers an event".into());
            }
        }
        Ok(true)
    }

    /// `Link::release`.
    fn release(&self, w: &mut World) -> Result<(), Wrong> {
        let live = w.calls.iter().filter(|call| call.live).count();
        let outstanding = live > 0 || w.closed;
        match w.role.release(outstanding, self.now) {
            AfterRelease::PassTo(next) => {
                w.reader = DecoderPlace::Slot(next);
            }
            after => {
                w.reader = DecoderPlace::Link;
                match after {
                    AfterRelease::Watch if !self.is(Fault::ReleaseUnwatched) => {
                        w.role.set_watched(true)
                    }
                    AfterRelease::ScheduleCheck if !self.is(Fault::CheckUnscheduled) => {
                        w.notify_reactor()
                    }
                    _ => {}
                }
            }
        }
        w.tell_if_closing(self);
        Ok(())
    }

    fn hand_off(&self, w: &mut World) {
        w.role.hand_off();
        w.reader = DecoderPlace::Link;
        if !self.is(Fault::HandOffUntold) {
            w.notify_reactor();
        }
    }

    // ---- the reactor ----

    fn can_react(&self, w: &World) -> bool {
        match w.reactor.doing {
            Doing::Asleep => self.wakes(w) || self.is_readable(w),
            Doing::Over => false,
            _ => true,
        }
    }

    fn is_readable(&self, w: &World) -> bool {
        w.connected && w.role.is_watched() && (!w.socket.is_empty() || w.ended)
    }

    fn wakes(&self, w: &World) -> bool {
        let is_due = |call: &ModelCall| call.live && call.expired && call.known;
        let timer = w.reactor.timer.is_some_and(|at| at <= self.now);
        w.inbox || timer || w.calls.iter().any(is_due)
    }

    fn react(&self, w: &mut World, all: bool) -> Result<(), Wrong> {
        w.reactor.doing = match w.reactor.doing.clone() {
            Doing::Asleep => {
                w.reactor.again = false;
                // It may see both; the order makes no difference to others.
                if self.is_readable(w) {
                    Doing::TakeReader
                } else {
                    w.inbox = false;
                    Doing::Attend
                }
            }
            Doing::TakeReader => {
                if !w.reactor.disconnected && w.role.take_for_reactor() {
                    w.must_have(DecoderPlace::Link)?;
                    w.reader = DecoderPlace::Reactor;
                    Doing::TakeIn
                } else {
                    Doing::Attend
                }
            }
            Doing::TakeIn => {
                w.must_have(DecoderPlace::Reactor)?;
                // Up to an event, whose followers need no lock.
                while !w.decoder.is_empty() {
                    let frame = w.decoder.remove(0);
                    let wanted = frame
                        .answers
                        .is_some_and(|id| std::mem::take(&mut w.calls[usize::from(id)].live));
                    w.reactor.batch.push((frame, wanted));
                    if frame.answers.is_none() {
                        break;
                    }
                }
                match w.reactor.batch.is_empty() {
                    true => Doing::Receive,
                    false => Doing::HandOver,
                }
            }
            Doing::HandOver => {
                let (frame, wanted) = w.reactor.batch.remove(0);
                w.deliver(frame)?;
                if wanted && let Some(id) = frame.answers {
                    self.consume(w, id)?;
                }
                match w.reactor.batch.is_empty() {
                    true => Doing::TakeIn,
                    false => Doing::HandOver,
                }
            }
            Doing::Receive => {
                w.must_have(DecoderPlace::Reactor)?;
                if w.read(all) {
                    Doing::TakeIn
                } else {
                    w.reactor.disconnected |= w.ended;
                    Doing::GiveBack
                }
            }
            Doing::GiveBack => {
                w.role.give_back();
                w.reader = DecoderPlace::Link;
                if w.connected && !self.is(Fault::GiveBackUnwatched) {
                    w.role.set_watched(true);
                }
                Doing::Attend
            }
            Doing::Attend => {
                w.attention = false;
                for id in 0..w.calls.len() {
                    if w.calls[id].expired && std::mem::take(&mut w.calls[id].live) {
                        w.reactor.ended.push(id as Id);
                    }
                }
                if w.busy || w.out.is_empty() {
                    self.rest(w)
                } else {
                    w.busy = true;
                    Doing::Sending(std::mem::take(&mut w.out))
                }
            }
            Doing::Sending(chunk) => {
                w.send(chunk);
                Doing::Rest
            }
            Doing::Rest => {
                if w.out.is_empty() {
                    w.busy = false;
                    self.rest(w)
                } else {
                    Doing::Sending(std::mem::take(&mut w.out))
                }
            }
            Doing::TellExpired => {
                match w.reactor.ended.pop() {
                    Some(id) => self.consume(w, id)?,
                    None => unreachable!("it is only done if there is one"),
                }
                self.told(w)
            }
            Doing::Disconnect => {
                (w.connected, w.ended) = (false, true);
                Doing::End
            }
            Doing::End => {
                for id in 0..w.calls.len() {
                    if std::mem::take(&mut w.calls[id].live) {
                        w.reactor.ended.push(id as Id);
                    }
                }
                self.told(w)
            }
            Doing::Over => unreachable!("nothing is done then"),
        };
        Ok(())
    }

    /// The rest of `Link::attend`, and what `Driver::attend` does about it.
    fn rest(&self, w: &mut World) -> Doing {
        let live = w.calls.iter().any(|call| call.live);
        if w.closed && w.out.is_empty() && !w.busy && !live {
            w.shut_down = true;
        }
        if w.role.check(w.closed || !w.connected, self.now) && w.connected {
            w.role.set_watched(true);
        }
        w.reactor.timer = w.role.deadline();
        for (call, kind) in w.calls.iter_mut().zip(&self.kinds) {
            call.known |= call.live && *kind == Kind::Timed;
        }
        if w.role.is_handed_off() && !std::mem::replace(&mut w.reactor.again, true) {
            return Doing::TakeReader;
        }
        self.told(w)
    }

    fn told(&self, w: &mut World) -> Doing {
        if !w.reactor.ended.is_empty() {
            Doing::TellExpired
        } else if !w.reactor.disconnected {
            Doing::Asleep
        } else if w.connected {
            Doing::Disconnect
        } else {
            Doing::Over
        }
    }

    /// A call is completed: by its callback, or in its slot.
    fn consume(&self, w: &mut World, id: Id) -> Result<(), Wrong> {
        if self.is_awaited(id) {
            return w.fill(id);
        }
        w.calls[usize::from(id)].told += 1;
        Ok(())
    }

    // ---- what must hold ----

    fn check(&self, w: &World) -> Result<(), Wrong> {
        let holder = match w.reader {
            DecoderPlace::Link => Holder::Nobody,
            DecoderPlace::Caller(_) | DecoderPlace::Slot(_) => Holder::Caller,
            DecoderPlace::Reactor => Holder::Reactor,
        };
        if w.role.holder != holder {
            return Err(format!("{:?} has the role", w.role.holder));
        }
        if w.calls.iter().any(|call| call.told > 1) {
            return Err("a call was told twice how it ended".into());
        }
        if holder == Holder::Caller && w.role.is_watched() {
            return Err("the reactor watches what a caller reads".into());
        }
        if holder == Holder::Nobody && w.connected && !self.somebody_looks(w) {
            return Err("nobody reads, watches, or is told to".into());
        }
        if w.role.is_handed_off() && w.connected && !self.reactor_looks(w) {
            return Err("what was handed off is not looked at".into());
        }
        Ok(())
    }

    /// Whether the socket is watched, or the reactor will check whether it is to be.
    fn somebody_looks(&self, w: &World) -> bool {
        let looks_at = w.role.deadline();
        let timer = w.reactor.timer;
        w.role.is_watched()
            || self.reactor_looks(w)
            || (timer.is_some() && looks_at.is_some() && timer <= looks_at)
    }

    /// Whether the reactor attends before it sleeps.
    fn reactor_looks(&self, w: &World) -> bool {
        use Doing::{Asleep, Disconnect, End, Over, TellExpired};
        let done = matches!(
            w.reactor.doing,
            Asleep | TellExpired | Disconnect | End | Over
        );
        w.inbox || !done
    }

    /// Whether nothing is left to be delivered, and nobody waits.
    fn is_settled(&self, w: &World) -> bool {
        let over = w.reactor.doing == Doing::Over;
        let idle = w.callers.iter().all(|(_, at)| *at == At::Idle);
        let answered = w.calls.iter().all(|call| !call.made || call.told == 1);
        let read = w.delivered == w.made && w.reactor.batch.is_empty();
        let asleep = w.reactor.doing == Doing::Asleep && !self.wakes(w);
        idle && answered && read && (over || (asleep && !w.ended && !w.closed))
    }

    // ---- exploration ----

    /// Visits every state. Returns how many there are.
    fn explore(&self) -> Result<usize, Wrong> {
        let mut numbers = HashMap::new();
        let mut worlds = vec![self.start()];
        // By which step, from which state.
        let mut origins = vec![(String::from("start"), 0)];
        // Of the steps that must happen: from where, by where to.
        let mut sources: Vec<Vec<usize>> = vec![Vec::new()];
        numbers.insert(self.start(), 0);
        let mut at = 0;
        while at < worlds.len() {
            let world = worlds[at].clone();
            for (what, must, next) in self.steps(&world) {
                let checked = next.and_then(|next| self.check(&next).map(|()| next));
                let next = match checked {
                    Ok(next) => next,
                    Err(wrong) => {
                        let how = path(&origins, at);
                        return Err(format!("{wrong}, after{how}\n  {what}"));
                    }
                };
                let number = *numbers.entry(next).or_insert_with_key(|next| {
                    worlds.push(next.clone());
                    origins.push((what, at));
                    sources.push(Vec::new());
                    worlds.len() - 1
                });
                if must {
                    sources[number].push(at);
                }
            }
            at += 1;
            if at > MOST_STATES {
                return Err(TOO_MANY.into());
            }
        }
        let mut settles: Vec<bool> = worlds.iter().map(|w| self.is_settled(w)).collect();
        let mut left: Vec<usize> = (0..worlds.len()).filter(|at| settles[*at]).collect();
        while let Some(at) = left.pop() {
            for source in &sources[at] {
                if !std::mem::replace(&mut settles[*source], true) {
                    left.push(*source);
                }
            }
        }
        match settles.iter().position(|settles| !settles) {
            None => Ok(worlds.len()),
            Some(at) => {
                let (how, world) = (path(&origins, at), &worlds[at]);
                Err(format!("nothing leads on, after{how}\n{world:#?}"))
            }
        }
    }
}

fn path(origins: &[(String, usize)], mut at: usize) -> String {
    let mut steps = Vec::new();
    while at > 0 {
        let (what, from) = &origins[at];
        steps.push(format!("\n  {what}"));
        at = *from;
    }
    steps.into_iter().rev().collect()
}

impl World {
    fn make(&mut self, answers: Option<Id>) {
        let number = self.made;
        self.socket.push(Frame { number, answers });
        self.made += 1;
    }

    fn die(&mut self) -> Result<(), Wrong> {
        self.ended = true;
        self.asked.clear();
        Ok(())
    }

    fn send(&mut self, mut requests: Vec<Id>) {
        if !self.ended {
            self.asked.append(&mut requests);
        }
    }

    /// Reads one frame, or all. Returns whether there was something.
    fn read(&mut self, all: bool) -> bool {
        let count = if all { self.socket.len() } else { 1 };
        let count = count.min(self.socket.len());
        self.decoder.extend(self.socket.drain(..count));
        count > 0
    }

    fn must_have(&self, place: DecoderPlace) -> Result<(), Wrong> {
        if self.reader == place {
            return Ok(());
        }
        Err(format!("{place:?} reads, {:?} has the reader", self.reader))
    }

    fn deliver(&mut self, frame: Frame) -> Result<(), Wrong> {
        if frame.number != self.delivered {
            return Err(format!("{frame:?} is delivered out of order"));
        }
        self.delivered += 1;
        Ok(())
    }

    fn fill(&mut self, id: Id) -> Result<(), Wrong> {
        let call = &mut self.calls[usize::from(id)];
        call.told += 1;
        call.answer = true;
        Ok(())
    }

    fn take_answer(&mut self, id: Id) -> bool {
        std::mem::take(&mut self.calls[usize::from(id)].answer)
    }

    fn notify_reactor(&mut self) {
        if self.reactor.doing != Doing::Over && !std::mem::replace(&mut self.attention, true) {
            self.inbox = true;
        }
    }

    fn tell_if_closing(&mut self, model: &Model) {
        if self.closed && !self.shut_down && !model.is(Fault::CloseUntold) {
            self.notify_reactor();
        }
    }
}

/// Together they reach everything that can go wrong.
fn scenarios() -> Vec<Scenario> {
    use Kind::{Start, Then, Timed, Wait};
    let scenario = |callers: &[&[Kind]]| Scenario {
        rewatch_delay: DELAY,
        callers: callers.iter().map(|calls| calls.to_vec()).collect(),
        events: 1,
        may_die: false,
        may_close: false,
        fault: None,
    };
    let dies = |scenario| Scenario {
        may_die: true,
        ..scenario
    };
    let closes = |scenario| Scenario {
        may_close: true,
        ..scenario
    };
    let eager = |scenario| Scenario {
        rewatch_delay: Duration::ZERO,
        ..scenario
    };
    let calm = |scenario| Scenario {
        events: 0,
        ..scenario
    };
    vec![
        scenario(&[&[Wait, Wait, Wait]]),
        calm(scenario(&[&[Wait, Wait], &[Wait]])),
        calm(scenario(&[&[Wait, Then], &[Wait]])),
        scenario(&[&[Timed, Wait]]),
        calm(scenario(&[&[Start], &[Wait]])),
        eager(scenario(&[&[Wait, Then], &[Wait]])),
        eager(calm(scenario(&[&[Timed], &[Then]]))),
        eager(calm(scenario(&[&[Wait], &[Wait], &[Wait]]))),
        dies(scenario(&[&[Wait, Wait]])),
        dies(eager(calm(scenario(&[&[Timed], &[Wait]])))),
        dies(eager(calm(scenario(&[&[Start], &[Then]])))),
        closes(scenario(&[&[Wait, Wait]])),
        closes(eager(calm(scenario(&[&[Timed], &[Wait]])))),
        closes(eager(calm(scenario(&[&[Start], &[Then]])))),
    ]
}

#[test]
#[cfg_attr(miri, ignore = "explores hundreds of thousands of states")]
fn every_interleaving_delivers_everything_in_order() {
    for scenario in scenarios() {
        match Model::new(&scenario).explore() {
            Ok(states) => println!("{states} states: {scenario:?}"),
            Err(wrong) => panic!("{scenario:?}: {wrong}"),
        }
    }
}

/// A model that does not notice a mistake proves nothing.
#[test]
#[cfg_attr(miri, ignore = "explores hundreds of thousands of states")]
fn whatever_is_forgotten_is_found() {
    use Fault::{
        CallerDelivers, CheckUnscheduled, CloseUntold, EndsTwice, GiveBackUnwatched, HandOffUntold,
        KeepsGiven, NoLeave, NoTurns, ReleaseUnwatched, RoleAfterWrite,
    };
    for fault in [
        RoleAfterWrite,
        HandOffUntold,
        ReleaseUnwatched,
        CheckUnscheduled,
        GiveBackUnwatched,
        NoTurns,
        NoLeave,
        KeepsGiven,
        CallerDelivers,
        EndsTwice,
        CloseUntold,
    ] {
        let closes = fault == CloseUntold;
        let scenarios = scenarios().into_iter().filter(|it| it.may_close == closes);
        let found = { scenarios }.find_map(|scenario| {
            let fault = Some(fault);
            let result = Model::new(&Scenario { fault, ..scenario }).explore();
            result.err().filter(|wrong| wrong != TOO_MANY)
        });
        let found = found.unwrap_or_else(|| panic!("{fault:?} is not found"));
        println!("{fault:?}: {}", found.split(',').next().unwrap_or_default());
    }
}

//! Reading by callers: what [`Role`](super::state) decides, done.

use super::link::{Link, LinkState};
use super::reactor::{Source, poll_key};
use super::slot::{Answer, Ended, Fill, Slot};
use super::state::AfterRelease;
use super::state::Delivery;
use crate::busy_poll::BusyPoll;
use crate::codec::Input;
use crate::sys::{self, Interest, ReadMode, Registration};
use crate::wire::{Decoder, Payload};
use polling::Event;
use std::io::{ErrorKind, Result};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

/// What the holder of the reader's role has, and nobody else.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) decoder: Decoder,
    busy_poll: BusyPoll,
}

impl Reader {
    pub(super) fn new(decoder: Decoder) -> Box<Self> {
        let busy_poll = BusyPoll::default();
        Box::new(Reader { decoder, busy_poll })
    }
}

/// How a caller's reading ended.
enum ReadOutcome {
    /// Here is his answer.
    Served(Answer),
    /// The rest is the reactor's.
    HandedOff,
    /// It took too long.
    TimedOut,
}

/// A caller's wait for one answer.
pub(super) struct AnswerWait<'a> {
    pub(super) slot: &'a Arc<Slot>,
    /// The call, and when it ends without an answer.
    pub(super) id: u32,
    pub(super) timeout: Option<Instant>,
    /// When the caller has waited long enough.
    pub(super) until: Option<Instant>,
}

impl Link {
    /// Takes the reader's role, if it is free.
    pub(super) fn take_role(&self, state: &mut LinkState) -> Option<Box<Reader>> {
        if !state.connected || state.reader.is_none() || !state.role.take() {
            return None;
        }
        self.watch(state, false);
        state.reader.take()
    }

    /// Waits for an answer: `None` if it does not come before `until`. Whoever finds the role free has
    /// it, others are woken. `alone` is what is known of a call that was [just made](super::link::Made).
    pub(super) fn wait_for(
        &self,
        wait: &AnswerWait<'_>,
        mut reader: Option<Box<Reader>>,
        mut alone: Option<bool>,
    ) -> Option<Answer> {
        loop {
            match reader.take() {
                Some(reader) => match self.read_for(wait, reader, alone.take()) {
                    ReadOutcome::Served(answer) => return Some(answer),
                    ReadOutcome::TimedOut => return self.timed_out(wait),
                    ReadOutcome::HandedOff => {}
                },
                None => {
                    if let Some(answer) = wait.slot.take() {
                        return Some(answer);
                    }
                    let mut state = self.lock();
                    reader = self.take_role(&mut state);
                    if reader.is_some() {
                        continue;
                    }
                    state.role.park(Arc::clone(wait.slot));
                    drop(state);
                    let deadline = wait.timeout.into_iter().chain(wait.until).min();
                    let (answer, given) = wait.slot.wait(deadline);
                    if answer.is_none() && given.is_some() {
                        reader = given;
                        continue;
                    }
                    self.leave(wait.slot, given);
                    return answer.or_else(|| self.timed_out(wait));
                }
            }
            if let Some(answer) = wait.slot.take() {
                return Some(answer);
            }
        }
    }

    /// A caller who was parked goes. If he was given the role meanwhile, he gives it back.
    fn leave(&self, slot: &Arc<Slot>, given: Option<Box<Reader>>) {
        let mut state = self.lock();
        if state.role.unpark(|parked| Arc::ptr_eq(parked, slot)) {
            return;
        }
        let given = given.or_else(|| slot.take_reader());
        let reader = given.expect("who is not parked was given the role");
        self.release(state, reader);
    }

    /// A wait took too long: the call ends, or only the wait.
    fn timed_out(&self, wait: &AnswerWait<'_>) -> Option<Answer> {
        let now = Instant::now();
        if wait.timeout.is_some_and(|at| at <= now) {
            return match self.withdraw(wait.id) {
                Some((_, phase)) => Some(Answer::Ended(Ended::TimedOut(phase))),
                // Somebody else has ended it, and is about to say how.
                None => wait.slot.wait(wait.until).0,
            };
        }
        // It may just have come.
        wait.slot.take()
    }

    /// Reads until the answer has come, having looked at what was read before, unless it is known that
    /// nothing was.
    fn read_for(
        &self,
        wait: &AnswerWait<'_>,
        mut reader: Box<Reader>,
        mut alone: Option<bool>,
    ) -> ReadOutcome {
        loop {
            let alone = match alone.take() {
                Some(alone) => alone,
                None => {
                    let mut state = self.lock();
                    let was_ready = state.connection.is_ready();
                    let (answer, all) = state.take_answers(&mut reader.decoder, wait.id);
                    self.notify_of_news(&state, was_ready);
                    // It may have been ended by others, who put that into the slot.
                    let answer = answer.or_else(|| wait.slot.take());
                    if !all || !state.connected {
                        self.hand_off(state, reader);
                        return answer.map_or(ReadOutcome::HandedOff, ReadOutcome::Served);
                    }
                    if let Some(answer) = answer {
                        self.release(state, reader);
                        return ReadOutcome::Served(answer);
                    }
                    let alone = state.is_alone();
                    // Others may have had their answers, and this one may take long to come.
                    self.tell_reactor(state);
                    alone
                }
            };
            match self.read_once(wait, &mut reader, alone) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    self.release(self.lock(), reader);
                    return ReadOutcome::TimedOut;
                }
                // The end of the stream, and what is wrong with it, is the reactor's to tell: it finds
                // the same.
                Ok(0) | Err(_) => {
                    self.hand_off(self.lock(), reader);
                    return ReadOutcome::HandedOff;
                }
            }
        }
    }

    /// Reads what has come, or waits for it.
    fn read_once(&self, wait: &AnswerWait<'_>, reader: &mut Reader, alone: bool) -> Result<usize> {
        let mut space = reader.decoder.space();
        let socket = &*self.socket;
        let mut receive = |how| {
            let behind = space.behind.as_mut();
            let behind = behind.map(|(buf, limit)| (&mut **buf, *limit));
            sys::receive(socket, (space.buf, space.limit), behind, how)
        };
        let deadline = wait.timeout.into_iter().chain(wait.until).min();
        let look = || match receive(ReadMode::SocketNow) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            result => result.map(Some),
        };
        // Looking pays only for one who has the processors to himself.
        if alone && let Some(n) = reader.busy_poll.poll(look)? {
            return Ok(n);
        }
        let sleep = || sleep_and_receive(socket, receive, deadline);
        if alone {
            reader.busy_poll.block(sleep)
        } else {
            sleep()
        }
    }

    // ---- for the reactor ----

    /// Takes the role for the reactor, unless a caller has it.
    pub(super) fn take_reader(&self) -> Option<Box<Reader>> {
        let mut state = self.lock();
        if !state.role.take_for_reactor() {
            return None;
        }
        state.reader.take()
    }

    /// The reactor has read what there was.
    pub(super) fn give_reader_back(&self, reader: Box<Reader>) {
        let mut state = self.lock();
        state.role.give_back();
        state.reader = Some(reader);
        if state.connected {
            self.watch(&mut state, true);
        }
    }

    /// Nothing more is read. A caller who reads is woken by the end of the stream.
    pub(super) fn disconnect(&self) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.connected, false) {
            self.set_interest(&mut state);
            // It cannot fail in a way that matters: nobody uses it any more.
            let _ = sys::shutdown(&*self.socket, Shutdown::Both);
        }
    }

    // ---- both ----

    /// Gives the role back.
    fn release(&self, mut state: MutexGuard<'_, LinkState>, reader: Box<Reader>) {
        let closing = state.connection.is_closed() || state.stop_by.is_some();
        let outstanding = state.connection.live() > 0 || closing;
        match state.role.release(outstanding, Instant::now()) {
            AfterRelease::PassTo(next) => next.give(reader),
            after => {
                state.reader = Some(reader);
                match after {
                    AfterRelease::Watch => self.watch(&mut state, true),
                    AfterRelease::ScheduleLook => {
                        if !state.connection.writer().is_blocked() {
                            // For as long as this goes on, the poller need not look at every arrival.
                            state.registration = None;
                        }
                        return self.notify_reactor(state);
                    }
                    AfterRelease::Nothing | AfterRelease::PassTo(_) => {}
                }
            }
        }
        // The answer may have been the last that a handle waited for which is gone.
        self.tell_reactor(state);
    }

    /// Leaves what comes next to the reactor.
    fn hand_off(&self, mut state: MutexGuard<'_, LinkState>, reader: Box<Reader>) {
        state.role.hand_off();
        state.reader = Some(reader);
        self.notify_reactor(state);
    }

    /// Has the reactor watch the socket, or not.
    pub(super) fn watch(&self, state: &mut LinkState, watched: bool) {
        if state.role.is_watched() == watched {
            return;
        }
        state.role.set_watched(watched);
        self.set_interest(state);
    }

    /// Tells the poller what is waited for.
    pub(super) fn set_interest(&self, state: &mut LinkState) {
        if !state.connected {
            state.registration = None;
            return;
        }
        let (readable, writable) = (
            state.role.is_watched(),
            state.connection.writer().is_blocked(),
        );
        let interest = Event::new(poll_key(self.key, Source::Socket), readable, writable);
        let result = match &state.registration {
            Some(registration) => registration.modify(interest),
            None => Registration::new(&self.reactor.poller, &self.socket, interest)
                .map(|registration| state.registration = Some(registration)),
        };
        if result.is_err() {
            // The system has no memory for it. A child that nobody hears must not be waited for.
            state.kill = true;
            state.attention = true;
            self.reactor.attend(self.key);
        }
    }
}

impl LinkState {
    /// Takes the answers in the buffer that are for those who wait: the one to the call `mine` is
    /// returned. The other result is whether that was all; if not, what is next stays there.
    fn take_answers(&mut self, decoder: &mut Decoder, mine: u32) -> (Option<Answer>, bool) {
        let mut answer = None;
        loop {
            let (id, payload) = match decoder.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => return (answer, true),
                // It is found again.
                Err(_) => return (answer, false),
            };
            let is_start = !self.connection.is_ready();
            let answered = self.connection.answers(id);
            let awaited =
                answered.filter(|(_, completion)| completion.downcast_ref::<Fill>().is_some());
            let awaited = awaited.map(|(call, _)| call);
            if awaited.is_none() && !is_start {
                decoder.put_back(id, payload);
                return (answer, false);
            }
            let (mut completion, failed) =
                match self.connection.receive(id, decoder.payload(&payload)) {
                    Ok(Delivery::Reply(completion)) => (completion, false),
                    Ok(Delivery::Failed(completion)) => (completion, true),
                    Ok(Delivery::Ready) => continue,
                    // Nothing has changed by its being looked at.
                    _ => {
                        decoder.put_back(id, payload);
                        return (answer, false);
                    }
                };
            let payload = input(decoder, payload).into_small();
            let told = if failed {
                Answer::Failed(payload)
            } else {
                Answer::Reply(payload)
            };
            if awaited == Some(mine) {
                answer = Some(told);
            } else {
                completion.tell(told);
            }
        }
    }
}

/// A payload for the codec.
pub(super) fn input(decoder: &Decoder, payload: Payload) -> Input<'_> {
    match payload {
        Payload::At(at) => Input::from(decoder.bytes(at)),
        Payload::Owned(bytes) => Input::from(bytes),
    }
}

/// Waits for what comes, and reads it.
fn sleep_and_receive(
    socket: &impl AsFd,
    mut receive: impl FnMut(ReadMode) -> Result<usize>,
    deadline: Option<Instant>,
) -> Result<usize> {
    let how = match deadline {
        Some(_) => ReadMode::SocketNow,
        None => ReadMode::Socket,
    };
    loop {
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if !sys::wait_at_most(socket, Interest::Readable, left)? {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        match receive(how) {
            // The stream was given to us so.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if deadline.is_none() {
                    sys::wait_for(socket, Interest::Readable)?;
                }
            }
            result => return result,
        }
    }
}

//! What a child sends.
//!
//! Frames are put into one outbox, whole and in the order in which they are made, and any thread may
//! write: whoever finds nobody writing takes what has gathered. When a thread does is its [`WritePolicy`].
//! What is left to be written soon is written by a thread for that, the flusher, which is started
//! when it is first needed: it writes what there is at once, and what has come since every
//! [`TICK`], until nothing has. So answers leave in batches, and none waits for the call after it.

use super::hub::{Hub, HubState, describe, drop_unneeded, malformed};
use crate::codec::{Argument, CodecError, Output, Scratch};
use crate::service::Service;
use crate::sys::{self, Interest};
use crate::threads;
use crate::wire::Plain;
use crate::wire::{self, Body, CONTROL_ROOM, FULL_BATCH, Failure, Framing, ToParent};
use std::cell::Cell;
use std::io::{self, IoSlice};
use std::sync::MutexGuard;
use std::thread;
use std::time::Duration;

/// How long the flusher lets output gather.
const TICK: Duration = Duration::from_micros(200);

/// When what a thread sends is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WritePolicy {
    /// A thread that says nothing of what it does: at once.
    Now,
    /// In one call, after which the thread waits for others: at once.
    LastCall,
    /// As that, when an event was sent: the next ones soon, as there may be many.
    LastCallWithEvents,
    /// In one call, after which the thread begins the next one: soon.
    Call,
    /// In a batch of calls, none of which takes long: later.
    Batch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Urgency {
    /// By the thread itself, at once.
    Now,
    /// By the flusher.
    Soon,
    /// By the thread itself, before it waits for anything.
    Later,
}

impl WritePolicy {
    /// This thread's pace from now on.
    pub(super) fn set(self) {
        PACE.set(self);
    }

    /// When a thread of this pace has an answer, or something else, written.
    #[inline]
    fn when(self, is_answer: bool) -> Urgency {
        match self {
            WritePolicy::Now | WritePolicy::LastCall => Urgency::Now,
            WritePolicy::LastCallWithEvents if is_answer => Urgency::Now,
            WritePolicy::LastCallWithEvents | WritePolicy::Call => Urgency::Soon,
            WritePolicy::Batch => Urgency::Later,
        }
    }
}

thread_local! {
    static PACE: Cell<WritePolicy> = const { Cell::new(WritePolicy::Now) };
}

/// What the thread does that writes what is to be written soon.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flusher {
    #[default]
    None,
    Ticking,
    Asleep,
}

/// The flusher does next to nothing on its stack.
const FLUSHER_STACK: usize = 32 << 10;

impl Hub {
    // ---- answers ----

    /// Answers a call: `fill` writes the reply's payload.
    ///
    /// # Errors
    ///
    /// If `fill` fails, or the reply is longer than the parent takes. The call is not answered.
    pub(super) fn reply(
        &'static self,
        id: u32,
        fill: impl FnOnce(&mut Output) -> Result<(), CodecError>,
    ) -> Result<(), Failure> {
        let wire_id = match self.plain {
            Some(Plain::Ordered) => wire::ORDERED_REPLY,
            Some(Plain::Tagged) | None => id,
        };
        self.frame("the reply", wire_id, Some(id), fill)
    }

    /// Answers a call that failed. In plain mode there is no such answer: the process ends, with what
    /// it made before written.
    pub(super) fn fail(&'static self, id: u32, failure: &Failure) {
        if self.plain.is_some() {
            self.flush();
            eprintln!("offspring child: the function {}", describe(failure));
            std::process::exit(1);
        }
        let mut payload = failure.encode();
        if payload.len() > self.max_frame().saturating_add(CONTROL_ROOM) {
            let message = "the error is longer than the limit (max_frame)".to_owned();
            payload = Failure::Malformed { message }.encode();
        }
        self.send(id | wire::FAILED, &mut payload.into(), Some(id));
    }

    /// Sends an event.
    ///
    /// # Panics
    ///
    /// If it cannot be encoded, or is longer than the parent takes: the function that sends it has a
    /// bug, and its call is to fail.
    #[track_caller]
    pub(super) fn event<S: Service>(&'static self, event: impl Argument<S::Event, S::Codec>) {
        let sent = self.frame("an event", wire::EVENT, None, |output| {
            event.encode_to(output)
        });
        if let Err(Failure::Malformed { message }) = sent {
            panic!("{message}");
        }
    }

    /// Sends progress of a call. Plain peers have none.
    ///
    /// # Panics
    ///
    /// As [`event`](Hub::event).
    #[track_caller]
    pub(super) fn progress<S: Service>(
        &'static self,
        id: u32,
        progress: impl Argument<S::Progress, S::Codec>,
    ) {
        let mut output = Output::default();
        if let Err(error) = progress.encode_to(&mut output) {
            panic!("a progress report cannot be encoded: {error}");
        }
        let payload = &output.into_vec();
        let limit = self.max_frame();
        if payload.len() > limit {
            let len = payload.len();
            panic!("a progress report has {len} bytes, above the limit (max_frame) of {limit}");
        }
        self.control(&ToParent::Progress { id, payload });
    }

    /// Sends a control message, unless the parent knows none.
    pub(super) fn control(&'static self, message: &ToParent<'_>) {
        if self.plain.is_none() {
            self.send(wire::CONTROL_TO_PARENT, &mut message.encode().into(), None);
        }
    }

    // ---- output ----

    /// Whether the parent cannot be written to any more.
    pub(super) fn is_broken(&self) -> bool {
        self.lock().writer.has_failed()
    }

    /// Waits until everything sent so far is written. Returns whether it could be.
    pub(super) fn flush(&self) -> bool {
        let mut state = self.transmit(self.lock(), true);
        while state.writer.unsent() > 0 && !state.writer.is_closed() {
            // Who is at it may leave the rest: the loop does when there is no room.
            state = self.wait(state);
            state = self.transmit(state, true);
        }
        !state.writer.has_failed()
    }

    /// Writes what has gathered, as far as there is room.
    pub(super) fn write_batch(&self) {
        let state = self.lock();
        if state.writer.unsent() > 0 {
            drop(self.transmit(state, false));
        }
    }

    /// Makes a frame whose payload `fill` writes, and sends it.
    #[inline(always)]
    fn frame(
        &'static self,
        what: &str,
        id: u32,
        answers: Option<u32>,
        fill: impl FnOnce(&mut Output) -> Result<(), CodecError>,
    ) -> Result<(), Failure> {
        let mut output = Scratch::take();
        fill(&mut output).map_err(|error| malformed(what, &error))?;
        let payload = output.body();
        let (len, limit) = (payload.len(), self.max_frame());
        if len > limit {
            let message = format!("{what} has {len} bytes, above the limit (max_frame) of {limit}");
            return Err(Failure::Malformed { message });
        }
        self.send(id, payload, answers);
        Ok(())
    }

    /// Sends a frame, which may answer a call. What is large of the payload is taken.
    fn send(&'static self, id: u32, payload: &mut Body, answers: Option<u32>) {
        let len = u32::try_from(payload.len()).expect("it was held against max_frame");
        let header = wire::header(Framing::Tagged, id, len);
        let pace = PACE.get();
        let when = pace.when(answers.is_some());
        if pace == WritePolicy::LastCall && answers.is_none() {
            WritePolicy::LastCallWithEvents.set();
        }
        let mut on_cancel = Vec::new();
        let mut state = self.lock();
        while state.is_above_high_water() && state.writer.is_writing() {
            state = self.wait(state);
        }
        let unsent = state.writer.unsent() + header.1 + payload.len();
        if let Some(id) = answers {
            on_cancel = self.answered(&mut state, id, unsent);
        }
        if state.writer.has_failed() {
            drop(state);
            return drop_unneeded(on_cancel);
        }
        state.writer.outbox_mut().push(header, payload);
        let full = unsent >= state.next_batch;
        // Who sends faster than the parent reads waits for it, the loop too, but that only then.
        let wait = when != Urgency::Later || state.is_above_high_water();
        match when {
            Urgency::Soon if !full => self.flush_soon(state),
            Urgency::Later if !full && !wait => drop(state),
            _ => drop(self.transmit(state, wait)),
        }
        drop_unneeded(on_cancel);
    }

    /// Leaves what has gathered to the flusher.
    fn flush_soon(&'static self, mut state: MutexGuard<'_, HubState>) {
        match state.flusher {
            Flusher::Ticking => {}
            Flusher::Asleep => {
                state.flusher = Flusher::Ticking;
                self.flusher.notify_one();
            }
            Flusher::None => {
                let thread = thread::Builder::new().name("offspring flush".into());
                let thread = thread.stack_size(FLUSHER_STACK);
                match threads::start(thread, Box::new(|| self.run_flusher())) {
                    Ok(_) => state.flusher = Flusher::Ticking,
                    // What cannot be done soon is done now.
                    Err(_) => drop(self.transmit(state, true)),
                }
            }
        }
    }

    fn run_flusher(&self) {
        let mut state = self.lock();
        loop {
            if state.writer.unsent() == 0 || state.writer.is_closed() {
                state.flusher = Flusher::Asleep;
                let proof = "nothing panics under this lock";
                let asleep = |state: &mut HubState| state.flusher == Flusher::Asleep;
                state = self.flusher.wait_while(state, asleep).expect(proof);
            }
            drop(self.transmit(state, true));
            thread::sleep(TICK);
            state = self.lock();
        }
    }

    /// Writes what there is, unless another thread is at it, which then takes it along. With `wait`
    /// until all is written, otherwise as far as there is room.
    fn transmit<'a>(
        &'a self,
        mut state: MutexGuard<'a, HubState>,
        wait: bool,
    ) -> MutexGuard<'a, HubState> {
        if state.writer.is_writing() {
            return state;
        }
        // There may be room again: who writes finds out.
        state.writer.unblock();
        state.next_batch = FULL_BATCH;
        while let Some(mut batch) = state.writer.begin(FULL_BATCH) {
            drop(state);
            if batch.should_widen() && self.is_socket {
                // It is only slower if that is refused.
                let _ = sys::widen(&self.fd);
            }
            let result = batch.write(|parts| self.write(parts, wait));
            state = self.lock();
            state.writer.end(batch, result);
        }
        if state.writer.is_blocked() {
            state.next_batch = state.writer.unsent() + FULL_BATCH;
        }
        if state.writer.has_failed() {
            state.writer.clear();
        }
        if state.waiting > 0 {
            self.changed.notify_all();
        }
        if state.slept_full || state.ledger.is_finished() {
            self.wake_loop(&mut state);
        }
        state
    }

    fn write(&self, parts: &[IoSlice<'_>], wait: bool) -> io::Result<usize> {
        loop {
            let result = if self.is_socket {
                sys::send(&self.fd, parts, wait)
            } else {
                sys::write(&self.fd, &parts[0])
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && wait => {
                    sys::wait_for(&self.fd, Interest::Writable)?;
                }
                result => return result,
            }
        }
    }
}

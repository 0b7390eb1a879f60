//! What the reactor does with a link.

use super::completion::Completion;
use super::reader::Reader;
use super::shared::Link;
use super::state::{Actions, ProgressCallback};
use crate::codec::CodecError;
use crate::error::{Error, Phase};
use crate::rpc::callback::in_callback;
use crate::rpc::state::{Begun, ChildViolation, Connection, Exit};
use crate::sys;
use crate::wire::{self, Body, Check, Failure, FrameHead};
use std::io;
use std::net::Shutdown;
use std::time::Instant;

impl Link {
    /// Queues what a worker is to do first.
    ///
    /// # Errors
    ///
    /// Why it cannot be sent descriptors.
    pub(crate) fn start(
        &self,
        preparations: Vec<Body>,
        run: wire::Run<'_>,
    ) -> Result<(), CodecError> {
        preparations
            .iter()
            .try_for_each(|message| self.may_carry(message))?;
        self.lock().connection.start(preparations, run);
        Ok(())
    }

    /// Has the reactor's poller watch the socket.
    pub(crate) fn register(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.role.set_watched(true);
        self.try_set_interest(&mut state)
    }

    /// The start failed half way: the process, if there is one, is killed and reaped.
    pub(crate) fn abandon(&self) {
        if let Some(child) = self.child() {
            child.abandon();
        }
    }

    /// Writes, and handles what is due or was asked for. `room` says that the socket takes bytes
    /// again. What is due at `judge_at` is: `None` if something that has come is unread.
    pub(crate) fn attend(&self, now: Instant, room: bool, judge_at: Option<Instant>) -> Actions {
        let mut state = self.lock();
        let (expired, kill) = state.begin_attend(now, judge_at, room);
        if !state.is_to_be_killed() {
            state = self.transmit(state);
        }
        let all_sent = self.end_requests(&mut state);
        if !expired.is_empty() {
            self.notify_of_room(&state);
        }
        if state.should_watch(now) {
            self.watch(&mut state, true);
        }
        if state.update_room(room) {
            self.set_interest(&mut state);
        }
        state.end_attend(now, judge_at, expired, kill, all_sent)
    }

    /// The signal was sent that kills the child.
    pub(crate) fn killed(&self) {
        let mut state = self.lock();
        state.killed();
        // It may not die of it.
        self.end_requests(&mut state);
    }

    /// Runs something that asks which calls are outstanding, by their ids.
    pub(crate) fn with_outstanding(&self, run: impl FnOnce(&mut dyn FnMut(u32) -> bool)) {
        let mut state = self.lock();
        run(&mut |id| state.connection.is_outstanding(id));
    }

    /// How many calls have ended for the child: see [`Connection::freed`].
    pub(crate) fn freed(&self) -> u64 {
        self.lock().connection.freed()
    }

    /// Whether a call expires, or the child is stuck or to be stopped, by now.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.lock().is_due_at(now)
    }

    /// Whether a caller has the reader's role, and yet to read something or to process it.
    pub(crate) fn is_left_to_a_caller(&self) -> bool {
        let with_a_caller = self.lock().role.is_with_a_caller();
        with_a_caller && (self.is_readable() || self.unprocessed.get())
    }

    /// Takes frames in: all that a read brought, under one lock.
    pub(crate) fn receive<T>(
        &self,
        frames: impl FnOnce(&mut Connection<Completion, ProgressCallback>) -> T,
    ) -> T {
        let mut state = self.lock();
        let was_ready = state.connection.is_ready();
        let result = frames(&mut state.connection);
        self.notify_of_frames(&state, was_ready);
        result
    }

    /// Answers an ask of the child. Large parts of the payload are taken.
    pub(crate) fn answer_ask(&self, id: u32, failed: bool, payload: &mut Body) {
        if self.is_elsewhere() {
            return;
        }
        let may = self.may_carry(payload);
        let mut state = self.lock();
        match may {
            Ok(()) => state.connection.answer(id, failed, payload),
            Err(error) => {
                let failure = Failure::malformed("the answer", &error);
                state
                    .connection
                    .answer(id, true, &mut failure.encode().into());
            }
        }
        // The reactor writes all that its callbacks have answered at once.
        if !in_callback() {
            state = self.transmit(state);
        }
        self.notify_reactor_if_needed(state);
    }

    /// Whether the child waits for the answer to an ask.
    pub(crate) fn is_ask_awaited(&self, id: u32) -> bool {
        !self.is_elsewhere() && self.lock().connection.is_ask_awaited(id)
    }

    /// Judges a frame of which only the beginning has come.
    pub(crate) fn check(&self, head: FrameHead<'_>) -> Result<Check, ChildViolation> {
        self.lock().connection.check(head)
    }

    /// Takes the reader's role for the reactor, unless a caller has it.
    pub(crate) fn take_reader(&self) -> Option<Box<Reader>> {
        let mut state = self.lock();
        if !state.role.take_for_reactor() {
            return None;
        }
        self.unprocessed.set(true);
        state.reader.take()
    }

    /// The reactor has read what there was.
    pub(crate) fn give_reader_back(&self, reader: Box<Reader>) {
        let mut state = self.lock();
        state.role.give_back();
        state.reader = Some(reader);
        self.unprocessed.set(false);
        if state.connected {
            self.watch(&mut state, true);
        }
    }

    /// Nothing more is read. A caller that reads is woken by the end of the stream.
    pub(crate) fn disconnect(&self) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.connected, false) {
            state.registration = None;
            // It cannot fail in a way that matters: nobody uses the socket any more.
            let _ = sys::shutdown(self.socket(), Shutdown::Both);
        }
    }

    /// Ends it for all further calls, and returns the calls that have not ended, with their ids. `begun`
    /// are those that the child has begun.
    pub(crate) fn end(
        &self,
        end: Result<Exit, Error>,
        begun: Begun,
    ) -> Vec<(u32, Completion, Phase)> {
        let mut state = self.lock();
        state.end = Some(end);
        if state.waiting > 0 {
            self.changed.notify_all();
        }
        state.connection.drain_with_ids(begun)
    }

    /// Takes the progress callbacks of calls that have ended, to be dropped.
    pub(crate) fn take_done(&self) -> Vec<ProgressCallback> {
        self.lock().connection.take_done()
    }

    /// The last callback has returned.
    pub(crate) fn over(&self) {
        self.drop_lifeline();
        // First: a thread that is woken here checks whether the reactor's thread is about to end.
        self.reactor().handler_over();
        self.lock().over = true;
        self.changed.notify_all();
    }
}

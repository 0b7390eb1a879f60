//! Frames: replies, failed replies, events and control messages.

use super::on_cancel::drop_callbacks;
use super::shared::Hub;
use super::state::HubState;
use super::write_policy::{AfterSend, Urgency, WritePolicy};
use crate::chain::chain;
use crate::codec::{Argument, CodecError, Octets, Output, Scratch, Strings};
use crate::fd::{Reach, may_send};
use crate::service::Signature;
use crate::stderr;
use crate::wire::Plain;
use crate::wire::{self, Body, CONTROL_ROOM, Failure, Framing, ToParent};
use std::sync::MutexGuard;

impl Hub {
    /// Answers a call: `fill` writes the reply's payload.
    ///
    /// # Errors
    ///
    /// If `fill` fails, or the reply is longer than the parent takes. The call is not answered.
    pub(in crate::worker) fn reply(
        &'static self,
        id: u32,
        fill: impl FnOnce(&mut Output) -> Result<(), CodecError>,
    ) -> Result<(), Failure> {
        let wire_id = match self.plain() {
            Some(Plain::Ordered) => wire::ORDERED_REPLY,
            Some(Plain::Tagged | Plain::Fallible) | None => id,
        };
        self.frame("the reply", wire_id, Some(id), fill)
    }

    /// Answers a call that failed. Two of the plain modes have no such answer: there the process exits
    /// after writing what was sent before.
    pub(in crate::worker) fn fail(&'static self, id: u32, failure: &Failure) {
        if self.is_elsewhere() {
            return;
        }
        if let Some(Plain::Tagged | Plain::Ordered) = self.plain() {
            if self.lock().exiting {
                return;
            }
            self.flush();
            stderr::print(format_args!("offspring child: the function {failure}"));
            std::process::exit(1);
        }
        let mut payload = failure.encode();
        let limit = self.max_frame().saturating_add(CONTROL_ROOM);
        if payload.len() > limit.min(u32::MAX as usize) {
            let message = "the error is longer than the limit (max_frame)".to_owned();
            payload = Failure::Malformed { message }.encode();
        }
        self.send(id | wire::FAILED, &mut payload.into(), Some(id));
    }

    /// Sends an event.
    ///
    /// # Panics
    ///
    /// If it cannot be encoded, or is longer than the parent takes: the function that sends it has a bug,
    /// and its call is to fail.
    #[track_caller]
    pub(in crate::worker) fn event(&'static self, event: impl Argument<Strings, Octets>) {
        let sent = self.frame("an event", wire::EVENT, None, |output| {
            event.encode_to(output)
        });
        if let Err(Failure::Malformed { message }) = sent {
            panic!("{message}");
        }
    }

    /// Sends progress of a call. Plain peers get none.
    ///
    /// # Panics
    ///
    /// Same as [`event`](Hub::event).
    #[track_caller]
    pub(in crate::worker) fn progress<S: Signature>(
        &'static self,
        id: u32,
        progress: impl Argument<S::Progress, S::Codec>,
    ) {
        if self.plain().is_some() {
            return;
        }
        let begin = |len| ToParent::begin_progress(id, len);
        self.long_control("a progress report", begin, |output| {
            progress.encode_to(output)
        });
    }

    /// Sends a control message with a payload that `fill` writes, behind what `begin` makes for its length.
    ///
    /// # Panics
    ///
    /// Same as [`event`](Hub::event).
    #[track_caller]
    pub(super) fn long_control(
        &'static self,
        what: &str,
        begin: impl FnOnce(usize) -> Vec<u8>,
        fill: impl FnOnce(&mut Output) -> Result<(), CodecError>,
    ) {
        let mut output = Output::default();
        if let Err(Failure::Malformed { message }) = self.encode(what, &mut output, fill) {
            panic!("{message}");
        }
        let begun = begin(output.len());
        let mut message = output.body().behind(begun);
        self.send(wire::CONTROL_TO_PARENT, &mut message, None);
    }

    /// Sends a control message, unless the parent is a plain peer.
    pub(in crate::worker) fn control(&'static self, message: &ToParent<'_>) {
        if self.plain().is_none() {
            self.send(wire::CONTROL_TO_PARENT, &mut message.encode().into(), None);
        }
    }

    /// Makes a frame whose payload `fill` writes, and sends it.
    #[inline]
    fn frame(
        &'static self,
        what: &str,
        id: u32,
        answers: Option<u32>,
        fill: impl FnOnce(&mut Output) -> Result<(), CodecError>,
    ) -> Result<(), Failure> {
        let mut output = Scratch::take();
        self.encode(what, &mut output, fill)?;
        self.send(id, output.body(), answers);
        Ok(())
    }

    /// Has `fill` write a payload.
    #[inline]
    fn encode(
        &self,
        what: &str,
        output: &mut Output,
        fill: impl FnOnce(&mut Output) -> Result<(), CodecError>,
    ) -> Result<(), Failure> {
        fill(output).map_err(|error| Failure::malformed(what, &chain(&error)))?;
        // Nearly all are short.
        match output.body().short(self.max_frame()) {
            Some(_) => Ok(()),
            None => self.check(what, output.body()),
        }
    }

    /// Whether the parent takes such a payload.
    #[cold]
    fn check(&self, what: &str, payload: &Body) -> Result<(), Failure> {
        let (len, limit) = (payload.len(), self.max_frame());
        if len > limit {
            let message = format!("{what} has {len} bytes, above the limit (max_frame) of {limit}");
            return Err(Failure::Malformed { message });
        }
        let may = self.may_carry(payload);
        may.map_err(|error| Failure::malformed(what, &error))
    }

    /// Whether the descriptors of a payload can be sent.
    ///
    /// # Errors
    ///
    /// Why they cannot.
    pub(super) fn may_carry(&self, payload: &Body) -> Result<(), CodecError> {
        let reach = match self.plain() {
            Some(_) => Reach::Plain,
            None if self.is_far() => Reach::Far,
            None => Reach::Near,
        };
        may_send(payload.fds().len(), reach).map_err(CodecError::new)
    }

    /// Sends a frame, which may answer a call. The large parts of the payload are moved out of it.
    pub(super) fn send(&'static self, id: u32, payload: &mut Body, answers: Option<u32>) {
        if self.is_elsewhere() {
            return;
        }
        let (mut state, urgency) = self.lock_to_send(answers.is_some());
        let mut on_cancel = Vec::new();
        if let Some(id) = answers {
            let unsent = state.writer.unsent() + Framing::Tagged.header_len() + payload.len();
            on_cancel = self.answered(&mut state, id, unsent);
        }
        self.push(state, urgency, id, payload);
        drop_callbacks(on_cancel);
    }

    /// The lock, for a frame to be [pushed](Hub::push) under, and when that is to be written.
    #[inline]
    pub(super) fn lock_to_send(
        &'static self,
        is_answer: bool,
    ) -> (MutexGuard<'static, HubState>, Urgency) {
        let policy = WritePolicy::current();
        let next = policy.after(is_answer);
        if next != policy {
            next.set();
        }
        let mut state = self.lock();
        while policy != WritePolicy::Apart
            && state.is_above_high_water()
            && state.writer.is_writing()
        {
            state = self.wait(state);
        }
        (state, policy.urgency(is_answer))
    }

    /// Appends a frame, unless nothing is sent any more.
    #[inline]
    pub(super) fn push(
        &'static self,
        mut state: MutexGuard<'static, HubState>,
        urgency: Urgency,
        id: u32,
        payload: &mut Body,
    ) {
        if state.writer.is_closed() || state.exiting {
            return;
        }
        let len = u32::try_from(payload.len()).expect("the caller checked that");
        let header = wire::header(Framing::Tagged, id, len);
        let outbox = state.writer.outbox_mut();
        if !payload.fds().is_empty() {
            outbox.carry(wire::CONTROL_TO_PARENT, payload);
        }
        outbox.push(header, payload);
        let is_batch = state.writer.unsent() >= state.batch_threshold;
        match urgency.after_send(is_batch, state.is_above_high_water()) {
            AfterSend::Write { wait } => drop(self.transmit(state, wait)),
            AfterSend::FlushSoon => self.flush_soon(state),
            AfterSend::Nothing => drop(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::calls::CallLimits;
    use std::io::{ErrorKind, Read};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use std::thread;

    /// A hub, its socket, and the parent's end.
    fn hub() -> (&'static Hub, UnixStream, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        let hub = Hub::new(near.try_clone().unwrap().into(), None, None);
        (Box::leak(Box::new(hub)), near, far)
    }

    const READY: ToParent<'_> = ToParent::Ready { protocol: 1 };
    const POLICIES: [WritePolicy; 5] = [
        WritePolicy::Now,
        WritePolicy::LastCall,
        WritePolicy::LastCallWithEvents,
        WritePolicy::Call,
        WritePolicy::Batch,
    ];

    fn frame() -> Vec<u8> {
        let payload = READY.encode();
        let (header, n) = wire::header(
            Framing::Tagged,
            wire::CONTROL_TO_PARENT,
            payload.len() as u32,
        );
        [&header[..n], &payload].concat()
    }

    #[test]
    fn flush_at_exit_writes_what_was_sent_and_nothing_that_is_sent_later() {
        let (hub, _near, mut far) = hub();
        WritePolicy::Batch.set();
        hub.control(&READY);
        hub.control(&READY);
        assert_eq!(hub.lock().writer.unsent(), 2 * frame().len());
        hub.flush_and_close();
        for policy in POLICIES {
            policy.set();
            hub.control(&READY);
            hub.write_batch();
            assert_eq!(hub.lock().writer.unsent(), 0, "{policy:?}");
            assert!(!hub.flush(), "what was sent is not written");
        }
        far.set_nonblocking(true).unwrap();
        let mut got = Vec::new();
        let end = far.read_to_end(&mut got).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::WouldBlock);
        assert_eq!(got, [frame(), frame()].concat());
    }

    /// The process may end as soon as the flush has returned: nothing may be written by halves.
    #[test]
    fn flush_at_exit_leaves_no_thread_writing() {
        let rounds = if cfg!(debug_assertions) { 20 } else { 200 };
        for _ in 0..rounds {
            let (hub, near, mut far) = hub();
            hub.set_limits(CallLimits {
                deferred: 1,
                threaded: 1,
                high_water: 10_000,
            });
            let senders = POLICIES.map(|policy| {
                thread::spawn(move || {
                    policy.set();
                    while !hub.lock().writer.is_closed() {
                        hub.control(&READY);
                    }
                })
            });
            let reader = thread::spawn(move || {
                let mut got = Vec::new();
                far.read_to_end(&mut got).unwrap();
                got
            });
            while hub.lock().writer.unsent() == 0 {
                thread::yield_now();
            }
            hub.flush_and_close();
            assert!(!hub.lock().writer.is_writing());
            // As if the process had ended.
            near.shutdown(Shutdown::Write).unwrap();
            let got = reader.join().unwrap();
            assert!(got.chunks(frame().len()).all(|got| got == frame()));
            for sender in senders {
                sender.join().unwrap();
            }
        }
    }

    /// Otherwise it may never end.
    #[test]
    fn flush_at_exit_writes_nothing_that_is_sent_after_it_has_begun() {
        let (hub, near, mut far) = hub();
        WritePolicy::Batch.set();
        // More than the socket takes.
        let payload = &vec![0; 4 << 20][..];
        hub.control(&ToParent::Progress { id: 1, payload });
        let unsent = hub.lock().writer.unsent();
        let flusher = thread::spawn(|| hub.flush_and_close());
        while !hub.lock().writer.is_writing() {
            thread::yield_now();
        }
        hub.control(&READY);
        assert!(hub.lock().writer.unsent() <= unsent);
        let reader = thread::spawn(move || {
            let mut got = Vec::new();
            far.read_to_end(&mut got).unwrap();
            got
        });
        flusher.join().unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        assert!(!reader.join().unwrap().ends_with(&frame()));
    }

    #[test]
    fn flush_of_a_closed_writer_returns() {
        let (hub, ..) = hub();
        WritePolicy::Batch.set();
        hub.control(&READY);
        hub.lock().writer.close();
        assert!(!hub.flush());
    }

    #[test]
    fn nothing_is_kept_for_a_parent_that_is_gone() {
        let (hub, _near, far) = hub();
        drop(far);
        WritePolicy::Now.set();
        hub.control(&READY);
        assert!(hub.is_broken() && !hub.flush());
        hub.control(&READY);
        assert_eq!(hub.lock().writer.unsent(), 0);
    }
}

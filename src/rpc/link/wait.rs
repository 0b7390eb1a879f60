//! Waiting for an answer, and reading by the callers that wait: what
//! [`Role`](crate::rpc::state::Role) decides, done.

use super::completion::{Answer, Ended};
use super::reader::Reader;
use super::shared::Link;
use super::slot::Slot;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a wait goes on whose time is up, while the answer may be among what another thread has yet
/// to read. That thread was just let run, as this one was.
const CATCH_UP: Duration = Duration::from_millis(100);
/// How often it is checked meanwhile.
const CATCH_UP_AGAIN: Duration = Duration::from_millis(1);

/// A caller's wait for one answer.
pub(crate) struct AnswerWait<'a> {
    pub(crate) slot: &'a Arc<Slot>,
    /// The call, and when it ends without an answer.
    pub(crate) id: u32,
    pub(crate) timeout: Option<Instant>,
    /// When the caller has waited long enough.
    pub(crate) until: Option<Instant>,
}

impl AnswerWait<'_> {
    /// When the wait ends without an answer.
    fn deadline(&self) -> Option<Instant> {
        self.timeout.into_iter().chain(self.until).min()
    }
}

/// How a caller's reading ended.
enum ReadOutcome {
    /// The caller's answer.
    Served(Answer),
    /// The rest is for the reactor to read.
    HandedOff,
    /// It took too long.
    TimedOut,
}

impl Link {
    /// Waits for an answer: `None` if it does not come before `until`. A caller that finds the role
    /// free takes it, others sleep. `alone` is what is known of a call that was [just
    /// made](super::submit::SubmittedCall).
    pub(crate) fn wait_for(
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
                    let (answer, given) = wait.slot.wait(wait.deadline());
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

    /// A caller that was parked waits no longer. If it was given the role meanwhile, it gives it back.
    fn leave(&self, slot: &Arc<Slot>, given: Option<Box<Reader>>) {
        let mut state = self.lock();
        if state.role.unpark(|parked| Arc::ptr_eq(parked, slot)) {
            return;
        }
        let given = given.or_else(|| slot.take_reader());
        let reader = given.expect("a caller that is not parked was given the role");
        self.release(state, reader);
    }

    /// A wait took too long: the call ends, or only the wait.
    fn timed_out(&self, wait: &AnswerWait<'_>) -> Option<Answer> {
        if wait.timeout.is_none_or(|at| at > Instant::now()) {
            // The answer may just have come.
            return wait.slot.take();
        }
        let last = Instant::now() + CATCH_UP;
        while Instant::now() < last && self.is_unread() {
            let until = Instant::now() + CATCH_UP_AGAIN;
            if let Some(answer) = wait.slot.wait(Some(until)).0 {
                return Some(answer);
            }
        }
        let now = Instant::now();
        match self.withdraw(|state| state.connection.time_out(wait.id, now)) {
            Some((_, phase)) => Some(Answer::Ended(Ended::TimedOut(phase))),
            // Another thread has ended it, and is about to fill the slot.
            None => wait.slot.wait(wait.until).0,
        }
    }

    /// Whether another thread has yet to read something, or to process it.
    fn is_unread(&self) -> bool {
        let state = self.lock();
        let (connected, handed_off) = (state.connected, state.role.is_handed_off());
        drop(state);
        // In this order: see `Unprocessed`.
        connected && (handed_off || self.is_readable() || self.unprocessed.get())
    }

    /// Reads until the answer has come. What was read before is looked through first, unless it is
    /// known that there is nothing.
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
                    let (answer, all) = state.take_answers(reader.decoder(), wait.id);
                    self.unprocessed.set(false);
                    self.notify_of_frames(&state, was_ready);
                    // Another thread may have ended the call, and filled the slot.
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
                    self.notify_reactor_if_needed(state);
                    alone
                }
            };
            match reader.receive(self.socket(), alone, wait.deadline(), &self.unprocessed) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    self.release(self.lock(), reader);
                    return ReadOutcome::TimedOut;
                }
                // The end of the stream, or an error: the reactor finds the same, and reports it.
                Ok(0) | Err(_) => {
                    self.hand_off(self.lock(), reader);
                    return ReadOutcome::HandedOff;
                }
            }
        }
    }
}

//! What the child has asked its parent: which asks are unanswered, and who waits for the answers.

use super::shared::Hub;
use super::state::HubState;
use super::write_policy::WritePolicy;
use crate::codec::{Argument, CodecError, Input};
use crate::error::{Error, ErrorKind, Phase, Refusal};
use crate::id_map::IdMap;
use crate::service::{Signature, id_of};
use crate::wire::{self, AskAnswer, Body, Fds, FunctionId, SmallBytes, ToParent};
use std::mem;

/// How many asks may be unanswered, whatever the parent allows. Fewer than the `UNREAD_REFUSALS` of a
/// parent, which ends a child for those.
const MOST: usize = 1 << 14;

/// What an ask ends with, below the codec.
#[derive(Debug)]
pub(in crate::worker) enum AskEnd {
    /// The payload of the answer.
    Reply(SmallBytes),
    /// The payload of a failed answer.
    Failed(SmallBytes),
    /// The request cannot be encoded.
    Malformed(CodecError),
    TimedOut,
    /// The call for which it was asked is cancelled.
    Cancelled(Phase),
    /// The parent is gone, or wants no more of the child.
    Lost(Error, Phase),
    Refused(Refusal),
    /// It cannot be asked at all.
    Unserved(Error),
}

/// Is passed the end of an ask, once, on any thread, and without a lock.
pub(in crate::worker) type Waiter = Box<dyn FnOnce(AskEnd) + Send>;

/// An answer to no ask.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::worker) struct UnknownAsk;

/// The asks that are not answered, as far as others than those that ask need them. In a program that asks
/// nothing, there are none, and the linker leaves the rest out.
pub(super) trait OpenAsks: Send {
    /// Whether answers are waited for, which are read whatever else waits.
    fn is_any_awaited(&self) -> bool;

    /// Whether this ask is not answered.
    fn is_open(&self, id: u32) -> bool;

    /// How many are not answered.
    fn len(&self) -> usize;

    /// The answer has come. Returns who waits for it.
    fn close(&mut self, id: u32) -> Result<Option<Waiter>, UnknownAsk>;

    /// What is to be done when a call is cancelled.
    fn on_cancelled(&self) -> fn(&'static Hub, u32);

    /// Nobody waits any more for what was asked on behalf of a call. Returns ids, and who did.
    fn abandon_all_of(&mut self, call: u32) -> Vec<(u32, Waiter)>;

    /// No more answers come. Returns what tells those who wait, to be called without the lock.
    fn end_all(&mut self) -> Box<dyn FnOnce()>;

    fn open(&mut self, call: Option<u32>, waiter: Waiter) -> u32;

    /// Nobody waits for the answer any more. Returns who did.
    fn abandon(&mut self, id: u32) -> Option<Waiter>;
}

/// See [`OpenAsks`].
#[derive(Default)]
struct Asks {
    /// The id of the last one.
    last: u32,
    open: IdMap<Ask>,
    /// How many are waited for.
    awaited: usize,
}

struct Ask {
    /// The call for which it is asked.
    call: Option<u32>,
    /// `None` if nobody waits any more: then it only reserves the id.
    waiter: Option<Waiter>,
}

impl OpenAsks for Asks {
    fn is_any_awaited(&self) -> bool {
        self.awaited > 0
    }

    fn open(&mut self, call: Option<u32>, waiter: Waiter) -> u32 {
        self.last = self.last.wrapping_add(1);
        while self.open.contains(self.last) {
            self.last = self.last.wrapping_add(1);
        }
        let waiter = Some(waiter);
        self.open.insert(self.last, Ask { call, waiter });
        self.awaited += 1;
        self.last
    }

    fn is_open(&self, id: u32) -> bool {
        self.open.contains(id)
    }

    fn len(&self) -> usize {
        self.open.len()
    }

    fn close(&mut self, id: u32) -> Result<Option<Waiter>, UnknownAsk> {
        let ask = self.open.remove(id).ok_or(UnknownAsk)?;
        self.open.trim();
        self.awaited -= usize::from(ask.waiter.is_some());
        Ok(ask.waiter)
    }

    fn abandon(&mut self, id: u32) -> Option<Waiter> {
        let waiter = self.open.get_mut(id)?.waiter.take()?;
        self.awaited -= 1;
        Some(waiter)
    }

    fn on_cancelled(&self) -> fn(&'static Hub, u32) {
        Hub::abandon_asks_of
    }

    fn abandon_all_of(&mut self, call: u32) -> Vec<(u32, Waiter)> {
        let of_call = self.open.iter().filter(|(_, ask)| ask.call == Some(call));
        let ids: Vec<_> = of_call.map(|(id, _)| id as u32).collect();
        let abandon = |id| Some((id, self.abandon(id)?));
        ids.into_iter().filter_map(abandon).collect()
    }

    fn end_all(&mut self) -> Box<dyn FnOnce()> {
        self.awaited = 0;
        let all = mem::take(&mut self.open).into_values();
        Box::new(|| {
            for waiter in all.filter_map(|ask| ask.waiter) {
                waiter(AskEnd::Lost(gone(), Phase::Begun));
            }
        })
    }
}

fn gone() -> Error {
    let message = "the parent is gone, or wants no more answers of this child";
    Error::new(ErrorKind::Died, message)
}

impl Hub {
    /// Asks the parent, on behalf of a call. Large parts of the request are taken. Returns the ask's id.
    ///
    /// # Errors
    ///
    /// Why it is not asked. Then the waiter is dropped.
    pub(in crate::worker) fn ask(
        &'static self,
        call: Option<u32>,
        service: FunctionId<'_>,
        request: &mut Body,
        waiter: Waiter,
    ) -> Result<u32, AskEnd> {
        self.may_ask(request.len())?;
        self.may_carry(request).map_err(AskEnd::Malformed)?;
        let (mut state, urgency) = self.lock_to_send(false);
        if state.ledger.is_closed() || state.writer.is_closed() || state.exiting {
            return Err(AskEnd::Lost(gone(), Phase::Queued));
        }
        if call.is_some_and(|call| state.ledger.is_cancelled(call)) {
            return Err(AskEnd::Cancelled(Phase::Queued));
        }
        let asks = state.asks.get_or_insert_with(|| Box::new(Asks::default()));
        if asks.len() >= MOST {
            return Err(AskEnd::Refused(Refusal::Full));
        }
        let id = asks.open(call, waiter);
        // A loop that reads no requests for now is to read the answer.
        if state.requests_paused {
            state.wake_loop();
        }
        let mut message = request.behind(ToParent::begin_ask(Some(id), service));
        // Under the same guard: nothing about it may be sent before.
        self.push(state, urgency, wire::CONTROL_TO_PARENT, &mut message);
        Ok(id)
    }

    /// As [`ask`](Hub::ask), for a thread that waits for the answer, and not for room to write.
    pub(in crate::worker) fn ask_at_once(
        &'static self,
        call: Option<u32>,
        service: FunctionId<'_>,
        request: &mut Body,
        waiter: Waiter,
    ) -> Result<u32, AskEnd> {
        self.without_waiting(|| self.ask(call, service, request, waiter))
    }

    /// Runs `send`, in which this thread does not wait for room to write.
    fn without_waiting<T>(&'static self, send: impl FnOnce() -> T) -> T {
        let policy = WritePolicy::current();
        WritePolicy::Apart.set();
        let result = send();
        policy.set();
        if !self.is_elsewhere() {
            self.write_batch();
            self.leave_to_flusher();
        }
        result
    }

    /// Tells the parent something, as far as it can be told.
    ///
    /// # Panics
    ///
    /// Same as [`event`](Hub::event).
    #[track_caller]
    pub(in crate::worker) fn tell<'r, S: Signature>(
        &'static self,
        service: &S,
        request: impl Argument<S::Request<'r>, S::Codec>,
    ) {
        if self.plain().is_some() {
            return;
        }
        let begin = |_| ToParent::begin_ask(None, id_of(service));
        self.long_control("what is told", begin, |output| request.encode_to(output));
    }

    /// Whether there is a parent that can be asked, with a request of that length.
    fn may_ask(&self, len: usize) -> Result<(), AskEnd> {
        if self.is_elsewhere() {
            return Err(AskEnd::Refused(Refusal::Forked));
        }
        if self.plain().is_some() {
            let message = "a plain peer serves nothing that can be asked for";
            return Err(AskEnd::Unserved(Error::new(
                ErrorKind::Unsupported,
                message,
            )));
        }
        let limit = self.max_frame();
        if len > limit {
            return Err(AskEnd::Refused(Refusal::TooLarge { len, limit }));
        }
        Ok(())
    }

    /// The answer to an ask has come.
    pub(in crate::worker) fn end_ask(
        &self,
        answer: AskAnswer<'_>,
        fds: Fds,
    ) -> Result<(), UnknownAsk> {
        let waiter = match &mut self.lock().asks {
            Some(asks) => asks.close(answer.id)?,
            None => return Err(UnknownAsk),
        };
        if let Some(waiter) = waiter {
            let payload = Input::carrying(answer.payload, fds).into_small();
            waiter(match answer.failed {
                true => AskEnd::Failed(payload),
                false => AskEnd::Reply(payload),
            });
        }
        Ok(())
    }

    /// Nobody waits for an answer any more. Returns whether somebody did.
    pub(in crate::worker) fn abandon_ask(&'static self, id: u32) -> bool {
        let waiter = self.lock().asks.as_mut().and_then(|asks| asks.abandon(id));
        if waiter.is_some() {
            self.without_waiting(|| self.control(&ToParent::Forget { id }));
        }
        waiter.is_some()
    }

    /// A call is cancelled, and what was asked for it is not wanted any more.
    fn abandon_asks_of(&'static self, call: u32) {
        let asks = |state: &mut HubState| Some(state.asks.as_mut()?.abandon_all_of(call));
        let abandoned = asks(&mut self.lock()).unwrap_or_default();
        if abandoned.is_empty() {
            return;
        }
        self.without_waiting(|| {
            for (id, _) in &abandoned {
                self.control(&ToParent::Forget { id: *id });
            }
        });
        for (_, waiter) in abandoned {
            waiter(AskEnd::Cancelled(Phase::Begun));
        }
    }

    /// No more answers will come.
    pub(in crate::worker) fn end_asks(&self) {
        let ended = self.lock().asks.as_mut().map(|asks| asks.end_all());
        if let Some(tell) = ended {
            tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn waiter() -> (Waiter, mpsc::Receiver<AskEnd>) {
        let (send, receive) = mpsc::channel();
        (Box::new(move |end| send.send(end).unwrap()), receive)
    }

    #[test]
    fn asks_are_awaited_until_they_end() {
        let mut asks = Asks::default();
        let (last, ends) = waiter();
        let ids = [None, Some(7), Some(7)].map(|call| asks.open(call, waiter().0));
        assert_eq!((ids, asks.open(Some(8), last)), ([1, 2, 3], 4));
        assert!(asks.abandon(2).is_some() && asks.abandon(2).is_none());
        let of_call = asks.abandon_all_of(7);
        assert!(of_call.iter().map(|(id, _)| *id).eq([3]));
        assert!(asks.abandon_all_of(7).is_empty());
        assert!(matches!(asks.close(2), Ok(None)), "nobody waits");
        assert!(matches!(asks.close(1), Ok(Some(_))), "it is waited for");
        assert!(matches!(asks.close(1), Err(UnknownAsk)));
        assert!(asks.is_any_awaited());
        let tell = asks.end_all();
        assert!(!asks.is_any_awaited() && asks.len() == 0 && ends.try_recv().is_err());
        tell();
        asks.end_all()();
        assert!(matches!(ends.recv(), Ok(AskEnd::Lost(..))) && ends.recv().is_err());
    }

    #[test]
    fn ids_in_use_are_not_given_again() {
        let mut asks = Asks::default();
        asks.open(None, waiter().0);
        asks.last = u32::MAX;
        assert_eq!(asks.open(None, waiter().0), 0);
        assert_eq!(asks.open(None, waiter().0), 2);
    }

    #[test]
    fn waiter_that_is_dropped_is_not_called() {
        let mut asks = Asks::default();
        let (waiter, ends) = waiter();
        asks.open(None, waiter);
        drop(asks);
        assert!(ends.recv().is_err());
    }
}

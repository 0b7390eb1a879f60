//! How a call ends, below the codec, and a place for that to be waited for.

use super::reactor::guard;
use super::reader::Reader;
use crate::codec::{Codec, CodecError, Input};
use crate::error::{CallError, Error, Panic, Phase, Refusal};
use crate::service::Service;
use crate::sys::{Consume, Family, Once};
use crate::wire::{Failure, SmallBytes};
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

/// What a call ends with, as the service's types have it.
pub(crate) type Outcome<S> = Result<<S as Service>::Reply, CallError<<S as Service>::Error>>;

/// What a call ends with, below the codec.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The payload of a reply.
    Reply(SmallBytes),
    /// The payload of a failed reply.
    Failed(SmallBytes),
    /// The parent ended it.
    Ended(Ended),
}

/// What a [`Completion`] is told: a call's answer.
pub(crate) enum BorrowedAnswer<'a> {
    /// The payload of a reply, where it was read to.
    Reply(&'a [u8]),
    /// An answer, which is there to be taken.
    Answer(&'a Cell<Option<Answer>>),
}

/// The family of what is told.
pub(crate) enum AnswerFamily {}

impl Family for AnswerFamily {
    type Of<'a> = &'a BorrowedAnswer<'a>;
}

/// What is done with a call's answer, by the reactor.
pub(crate) type Completion = Once<AnswerFamily>;

/// How a parent ends a call that has no answer.
#[derive(Debug)]
pub(crate) enum Ended {
    Malformed(CodecError),
    TimedOut(Phase),
    Lost(Error, Phase),
    Refused(Refusal),
}

impl Completion {
    /// Tells it of an answer.
    pub(crate) fn tell(&mut self, answer: Answer) {
        self.consume(&BorrowedAnswer::Answer(&Cell::new(Some(answer))));
    }
}

impl BorrowedAnswer<'_> {
    /// The answer, with a payload that is copied if it is short.
    fn answer(&self) -> Answer {
        match self {
            BorrowedAnswer::Reply(payload) => Answer::Reply((*payload).into()),
            BorrowedAnswer::Answer(answer) => answer.take().expect("an answer is told once"),
        }
    }
}

impl Answer {
    /// Reads it as the service's types, whatever the codec does: a panic of it is an error.
    pub(crate) fn decode<S: Service>(self) -> Outcome<S> {
        catch_unwind(AssertUnwindSafe(|| self.decode_or_panic::<S>()))
            .unwrap_or_else(|_| Err(CallError::Malformed(codec_panicked())))
    }

    /// Reads it as the service's types. Panics if the codec does.
    fn decode_or_panic<S: Service>(self) -> Outcome<S> {
        match self {
            Answer::Reply(payload) => reply::<S>(payload.into()),
            Answer::Failed(payload) => Err(match Failure::decode(&payload) {
                Ok(Failure::Error { encoded, .. }) => {
                    match S::Codec::decode(Input::from(encoded)) {
                        Ok(error) => CallError::Failed(error),
                        Err(error) => CallError::Malformed(error),
                    }
                }
                Ok(Failure::Panic { message, location }) => {
                    CallError::Panicked(Panic::new(message, location))
                }
                Ok(Failure::Malformed { message }) => {
                    CallError::Malformed(CodecError::new(message))
                }
                Ok(Failure::Unanswered | Failure::Cancelled) => CallError::Unanswered,
                Err(error) => CallError::Malformed(CodecError::new(error.to_string())),
            }),
            Answer::Ended(ended) => Err(match ended {
                Ended::Malformed(error) => CallError::Malformed(error),
                Ended::TimedOut(phase) => CallError::TimedOut(phase),
                Ended::Lost(error, phase) => CallError::Lost(error, phase),
                Ended::Refused(refusal) => CallError::Refused(refusal),
            }),
        }
    }
}

/// Reads the payload of a reply.
#[inline(always)]
fn reply<S: Service>(payload: Input<'_>) -> Outcome<S> {
    match S::Codec::decode(payload) {
        Ok(reply) => Ok(reply),
        Err(error) => Err(CallError::Malformed(error)),
    }
}

/// Decodes a value that came from the child, whose bytes may make the program's codec panic.
pub(crate) fn decode<C: Codec<T>, T>(input: Input<'_>) -> Result<T, CodecError> {
    catch_unwind(AssertUnwindSafe(|| C::decode(input))).unwrap_or_else(|_| Err(codec_panicked()))
}

/// What is told instead of a panic of a codec, which the panic hook has shown.
pub(super) fn codec_panicked() -> CodecError {
    CodecError::new("the codec panicked")
}

/// A callback of the program's, above the codec.
pub(crate) struct Then<S, F> {
    callback: F,
    service: PhantomData<fn(S)>,
}

impl<S: Service, F: FnOnce(Outcome<S>) + Send + 'static> Then<S, F> {
    pub(crate) fn new(callback: F) -> Self {
        let service = PhantomData;
        Then { callback, service }
    }
}

impl<S: Service, F: FnOnce(Outcome<S>) + Send + 'static> Consume<AnswerFamily> for Then<S, F> {
    fn consume(self, told: &BorrowedAnswer<'_>) {
        // To guard each decoding against panics is dearer than it, and the reactor guards this anyway.
        let mut untold = Untold::<S, F>(Some(self.callback), PhantomData);
        let outcome = match told {
            BorrowedAnswer::Reply(payload) => reply::<S>((*payload).into()),
            // In a box, which is a pointer: a place that either answer is put into would be memory, and
            // the reply, put there in words and taken in pairs of them, would make the processor wait.
            told => *Box::new(told.answer().decode_or_panic::<S>()),
        };
        let callback = untold.0.take().expect("it was just put there");
        callback(outcome);
    }
}

/// A callback that is yet to be told. If the codec panics, it is told that.
struct Untold<S: Service, F: FnOnce(Outcome<S>)>(Option<F>, PhantomData<S>);

impl<S: Service, F: FnOnce(Outcome<S>)> Drop for Untold<S, F> {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            guard(|| callback(Err(CallError::Malformed(codec_panicked()))));
        }
    }
}

/// A slot to be filled.
pub(crate) struct Fill(pub(crate) Arc<Slot>);

impl Consume<AnswerFamily> for Fill {
    fn consume(self, told: &BorrowedAnswer<'_>) {
        self.0.fill(told.answer());
    }
}

/// Where an answer is put by whoever reads, and waited for by a caller. He may find the reader's role
/// in it instead: then it is for him to read.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    inner: Mutex<SlotState>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct SlotState {
    answer: Option<Answer>,
    reader: Option<Box<Reader>>,
    /// Whether a thread waits: to notify nobody would still be a system call.
    awaited: bool,
}

thread_local! {
    /// This thread's slot, for calls that are waited for where they are made.
    static OWN: RefCell<Option<Arc<Slot>>> = const { RefCell::new(None) };
}

impl Slot {
    /// An empty slot: this thread's own, unless that is in use.
    pub(crate) fn own() -> Arc<Self> {
        let own = OWN.try_with(|own| match &mut *own.borrow_mut() {
            Some(slot) if Arc::strong_count(slot) == 1 => {
                slot.lock().answer = None;
                Arc::clone(slot)
            }
            own => Arc::clone(own.insert(Arc::default())),
        });
        // There is none any more while the thread's other values are dropped, which may make calls.
        own.unwrap_or_default()
    }

    /// Puts the answer in, once.
    pub(crate) fn fill(&self, answer: Answer) {
        let mut inner = self.lock();
        inner.answer = Some(answer);
        self.notify(&inner);
    }

    /// Gives the reader's role to the caller who waits.
    pub(super) fn give(&self, reader: Box<Reader>) {
        let mut inner = self.lock();
        inner.reader = Some(reader);
        self.notify(&inner);
    }

    /// Takes the answer out if it is there.
    pub(crate) fn take(&self) -> Option<Answer> {
        self.lock().answer.take()
    }

    /// Takes the reader's role out, if it was given.
    pub(super) fn take_reader(&self) -> Option<Box<Reader>> {
        self.lock().reader.take()
    }

    /// Waits for the answer or the reader's role, until `deadline`, and takes what there is.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> (Option<Answer>, Option<Box<Reader>>) {
        let empty = |inner: &mut SlotState| inner.answer.is_none() && inner.reader.is_none();
        let mut inner = self.lock();
        inner.awaited = true;
        inner = wait_until(&self.filled, inner, deadline, empty);
        inner.awaited = false;
        (inner.answer.take(), inner.reader.take())
    }

    fn notify(&self, inner: &SlotState) {
        if inner.awaited {
            self.filled.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.inner.lock().expect("nothing panics under this lock")
    }
}

/// Waits on `changed` while `condition` holds and `deadline` has not passed.
pub(crate) fn wait_until<'a, T>(
    changed: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Option<Instant>,
    condition: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    let proof = "nothing panics under this lock";
    match deadline {
        None => changed.wait_while(guard, condition).expect(proof),
        Some(deadline) => {
            let left = deadline.saturating_duration_since(Instant::now());
            changed
                .wait_timeout_while(guard, left, condition)
                .expect(proof)
                .0
        }
    }
}

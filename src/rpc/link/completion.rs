//! How a call ends, below the codec and above it.

use crate::codec::CodecError;
use crate::copies;
use crate::error::{CallError, Error, Phase, Refusal};
use crate::outcome::{self, Outcome, codec_panicked};
use crate::rpc::callback::guard;
use crate::service::Signature;
use crate::sys::{Consume, Family, Once};
use crate::unwind;
use crate::wire::SmallBytes;
use std::cell::Cell;
use std::marker::PhantomData;

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

/// How a parent ends a call that has no answer.
#[derive(Debug)]
pub(crate) enum Ended {
    Malformed(CodecError),
    TimedOut(Phase),
    Lost(Error, Phase),
    Poison(Box<[Error]>),
    Refused(Refusal),
}

/// What is done with a call's answer.
pub(crate) type Completion = Once<AnswerFamily>;

/// The answer that a [`Completion`] gets.
pub(crate) enum BorrowedAnswer<'a> {
    /// The payload of a reply, in the buffer that it was read into.
    Reply(&'a [u8]),
    /// Any answer, to be taken out.
    Owned(&'a Cell<Option<Answer>>),
}

/// The family of [`BorrowedAnswer`]s.
pub(crate) enum AnswerFamily {}

impl Family for AnswerFamily {
    type Of<'a> = &'a BorrowedAnswer<'a>;
}

impl Completion {
    /// Completes the call.
    pub(crate) fn complete(&mut self, answer: Answer) {
        self.consume(&BorrowedAnswer::Owned(&Cell::new(Some(answer))));
    }
}

impl BorrowedAnswer<'_> {
    /// The answer, with a copy of the payload if that is short.
    pub(super) fn take(&self) -> Answer {
        match self {
            BorrowedAnswer::Reply(payload) => Answer::Reply((*payload).into()),
            BorrowedAnswer::Owned(answer) => answer.take().expect("a call is completed once"),
        }
    }
}

impl Answer {
    /// Decodes it. A panic of the codec is an error.
    pub(crate) fn decode<S: Signature>(self) -> Outcome<S> {
        unwind::catch(|| self.decode_or_panic::<S>())
            .unwrap_or_else(|| Err(CallError::Malformed(codec_panicked())))
    }

    /// Decodes it. Panics if the codec does.
    fn decode_or_panic<S: Signature>(self) -> Outcome<S> {
        match self {
            Answer::Reply(payload) => outcome::reply::<S>(payload.into()),
            Answer::Failed(payload) => Err(outcome::failed::<S>(&payload)),
            Answer::Ended(ended) => Err(match ended {
                Ended::Malformed(error) => CallError::Malformed(error),
                Ended::TimedOut(phase) => CallError::TimedOut(phase),
                Ended::Lost(error, phase) => CallError::Lost(error, phase),
                Ended::Poison(errors) => CallError::Poison(errors),
                Ended::Refused(refusal) => CallError::Refused(refusal),
            }),
        }
    }
}

/// Completes a call with a callback of the program's, above the codec.
pub(crate) struct Then<S, F> {
    callback: F,
    service: PhantomData<fn(S)>,
}

impl<S: Signature, F: FnOnce(Outcome<S>) + Send + 'static> Then<S, F> {
    pub(crate) fn new(callback: F) -> Self {
        let service = PhantomData;
        Then { callback, service }
    }
}

impl<S: Signature, F: FnOnce(Outcome<S>) + Send + 'static> Consume<AnswerFamily> for Then<S, F> {
    fn consume(self, answer: &BorrowedAnswer<'_>) {
        // A guard around each decoding would cost more than the decoding, and the reactor has one.
        let mut pending = PendingCallback::<S, F>(Some(self.callback), PhantomData);
        let outcome = match answer {
            BorrowedAnswer::Reply(payload) => outcome::reply::<S>((*payload).into()),
            // Boxed, so that it arrives as a pointer: a place in memory for either answer would be
            // written in words and read in pairs of them, a store-forwarding stall for each reply.
            answer => *Box::new(answer.take().decode_or_panic::<S>()),
        };
        let callback = pending.0.take().expect("it was just put there");
        // Other callbacks may follow under the same guard.
        copies::run(|| callback(outcome));
    }
}

/// A callback that has not been called. If the codec panics, it gets that as an error.
struct PendingCallback<S: Signature, F: FnOnce(Outcome<S>)>(Option<F>, PhantomData<S>);

impl<S: Signature, F: FnOnce(Outcome<S>)> Drop for PendingCallback<S, F> {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            guard(|| callback(Err(CallError::Malformed(codec_panicked()))));
        }
    }
}

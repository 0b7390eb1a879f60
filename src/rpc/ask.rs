//! What a parent serves: its children ask for it.

use super::callback::drop_guarded;
use super::link::Link;
use super::log;
use crate::chain::chain;
use crate::codec::{Argument, CodecError, Decode, Input, Output, Replies, Scratch};
use crate::directory::{Directory, OF_PARENT};
use crate::outcome::failure_of;
use crate::process::Child;
use crate::service::{Name, Signature};
use crate::unwind;
use crate::wire::{self, Body, Failure, FunctionId, ToParent};
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::sync::Arc;

/// What a parent serves, by name, below the codec.
pub(crate) struct AskHandlers(Directory<AskHandler>);

/// Decodes what a child asks, and answers it then or later.
pub(crate) type AskHandler = Box<dyn FnMut(Input<'_>, AskReply) + Send>;

/// Where a panic of a callback is said to be: only the panic hook knows, which is the program's.
const PLACE: &str = "a callback of the parent";

impl Default for AskHandlers {
    fn default() -> Self {
        AskHandlers(Directory::new("service", OF_PARENT))
    }
}

/// One that answers by returning.
pub(crate) fn returning<S, F, R>(mut callback: F) -> AskHandler
where
    S: Signature,
    F: FnMut(S::Request<'_>) -> Result<R, S::Error> + Send + 'static,
    S::Codec: Replies<S::Reply, R>,
{
    Box::new(move |mut payload, reply| {
        let mut output = Scratch::take();
        // All of it is the program's code.
        let answered = unwind::try_catch(|| {
            let malformed = |error: &CodecError| Failure::malformed("the request", &chain(error));
            let request = S::Codec::decode(&mut payload).map_err(|error| malformed(&error))?;
            match callback(request) {
                Ok(answer) => encode(&mut output, |output| S::Codec::encode_reply(answer, output)),
                Err(error) => Err(failure_of::<S>(&error)),
            }
        });
        match answered {
            Ok(Ok(())) => reply.answer(false, output.body()),
            Ok(Err(failure)) => reply.fail(&failure),
            Err(payload) => {
                let message = unwind::message(&*payload).to_owned();
                unwind::discard(payload);
                let location = PLACE.to_owned();
                reply.fail(&Failure::Panic { message, location });
            }
        }
    })
}

/// Encodes an answer.
fn encode(
    output: &mut Output,
    fill: impl FnOnce(&mut Output) -> Result<(), CodecError>,
) -> Result<(), Failure> {
    fill(output).map_err(|error| Failure::malformed("the answer", &chain(&error)))
}

/// One that answers later.
pub(crate) fn deferred<S, F>(mut callback: F) -> AskHandler
where
    S: Signature,
    F: FnMut(S::Request<'_>, Asker<S>) + Send + 'static,
{
    Box::new(move |mut payload, reply| {
        // If it panics, the asker is dropped, which fails the ask.
        let _ = unwind::catch(|| {
            let asker = Asker {
                reply,
                service: PhantomData,
            };
            match S::Codec::decode(&mut payload) {
                Ok(request) => callback(request, asker),
                Err(error) => {
                    let failure = Failure::malformed("the request", &chain(&error));
                    asker.reply.fail(&failure);
                }
            }
        });
    })
}

/// Serves what a child asks.
pub(crate) trait ServeAsk: Send {
    /// Adds what serves asks for this service.
    ///
    /// # Panics
    ///
    /// If there is one.
    fn add(&mut self, service: FunctionId<'_>, handler: AskHandler);

    /// A child asks or tells something. Returns what it is if it is told and nobody serves it.
    fn serve(&mut self, link: &Arc<Link>, payload: Input<'_>) -> Option<String>;
}

impl ServeAsk for AskHandlers {
    fn add(&mut self, service: FunctionId<'_>, handler: AskHandler) {
        self.0.add(service, handler);
    }

    fn serve(&mut self, link: &Arc<Link>, mut payload: Input<'_>) -> Option<String> {
        let fds = payload.split_fds();
        let (id, asked) = match ToParent::decode(&payload) {
            Ok(ToParent::Ask { id, asked }) => (Some(id), asked),
            Ok(ToParent::Tell(asked)) => (None, asked),
            _ => unreachable!("the connection has read it before"),
        };
        let reply = AskReply {
            link: Arc::clone(link),
            id,
            told: id.is_none().then(|| asked.service.name.into()),
        };
        match (self.0.find(&asked.service), id) {
            (Ok(at), _) => self.0.get_mut(at)(Input::carrying(asked.request, fds), reply),
            (Err(lack), Some(_)) => {
                let (kind, message) = lack.refusal(wire::REFUSED_FUNCTION);
                let kind = kind.to_owned();
                reply.fail(&Failure::Unserved { message, kind });
            }
            (Err(lack), None) => return Some(lack.refusal(wire::REFUSED_FUNCTION).1),
        }
        None
    }
}

impl Drop for AskHandlers {
    fn drop(&mut self) {
        // Each may panic.
        let all = mem::replace(&mut self.0, Directory::new("service", OF_PARENT));
        drop_guarded(all.into_values());
    }
}

/// The obligation to answer an ask, below the codec. Dropped, it fails it.
pub(crate) struct AskReply {
    link: Arc<Link>,
    /// `None` if the child only tells something, or it is answered.
    id: Option<u32>,
    /// The name of the service if the child only tells something, for messages.
    told: Option<Box<str>>,
}

impl AskReply {
    fn fail(self, failure: &Failure) {
        match &self.told {
            Some(name) => log::error(format_args!("what a child told `{name}` {failure}")),
            None => self.answer(true, &mut failure.encode().into()),
        }
    }

    fn answer(mut self, failed: bool, payload: &mut Body) {
        if let Some(id) = self.id.take() {
            self.link.answer_ask(id, failed, payload);
        }
    }
}

impl Drop for AskReply {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let failure = if std::thread::panicking() {
            Failure::Panic {
                message: "it panicked before it answered".to_owned(),
                location: PLACE.to_owned(),
            }
        } else {
            Failure::Unanswered
        };
        self.link.answer_ask(id, true, &mut failure.encode().into());
    }
}

/// What a child asks its parent, to be answered later; see
/// [`on_ask_deferred`](crate::RpcBuilder::on_ask_deferred). Any thread may answer. Dropped unanswered, it
/// ends the ask as [`Unanswered`](crate::CallError::Unanswered).
///
/// If the child only [tells](crate::Caller::tell) something, nothing is sent.
pub struct Asker<S: Signature = Name> {
    reply: AskReply,
    service: PhantomData<fn(S)>,
}

impl<S: Signature> fmt::Debug for Asker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker")
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}

impl<S: Signature> Asker<S> {
    /// Answers it.
    pub fn reply(self, reply: impl Argument<S::Reply, S::Codec>) {
        let mut output = Scratch::take();
        match encode(&mut output, |output| reply.encode_to(output)) {
            Ok(()) => self.reply.answer(false, output.body()),
            Err(failure) => self.reply.fail(&failure),
        }
    }

    /// Answers it with an error. A [`BoxError`](crate::BoxError) arrives as text that includes its sources.
    pub fn fail(self, error: impl Into<S::Error>) {
        self.reply.fail(&failure_of::<S>(&error.into()));
    }

    /// Answers it with the result of a fallible operation.
    pub fn answer(self, result: Result<impl Argument<S::Reply, S::Codec>, impl Into<S::Error>>) {
        match result {
            Ok(reply) => self.reply(reply),
            Err(error) => self.fail(error),
        }
    }

    /// Whether the child waits no longer: its call was cancelled, or its patience is at an end, or it is
    /// gone.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        match self.reply.id {
            Some(id) => !self.reply.link.is_ask_awaited(id),
            None => false,
        }
    }

    /// The process id of the child that asks, on its machine. `None` if it is only a stream.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.reply.link.child().and_then(Child::pid)
    }
}

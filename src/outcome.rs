//! What calls and asks end with, above the codec. Pure.

use crate::chain::chain;
use crate::codec::{CodecError, Input, Output};
use crate::error::{CallError, Error, ErrorKind, Panic};
use crate::service::{Errors, Name, Signature};
use crate::wire::{self, Failure};
use std::fmt::Display;

/// What a call ends with, in the types of its service.
pub type Outcome<S = Name> = Result<<S as Signature>::Reply, CallError<<S as Signature>::Error>>;

/// Decodes the payload of a reply. Panics if the codec does.
#[inline(always)]
pub(crate) fn reply<S: Signature>(payload: Input<'_>) -> Outcome<S> {
    match S::decode_reply(payload) {
        Ok(reply) => Ok(reply),
        Err(error) => Err(CallError::Malformed(error)),
    }
}

/// An error as the payload of a failed reply. Panics if the codec does.
pub(crate) fn failure_of<S: Signature>(error: &S::Error) -> Failure {
    let message = S::Errors::message(error);
    let mut output = Output::default();
    let malformed = |why: &dyn Display| Failure::malformed(&format!("the error ({message})"), &why);
    match S::Errors::encode(error, &mut output) {
        Ok(()) if !output.body().fds().is_empty() => {
            malformed(&"an error takes no descriptors along")
        }
        Err(error) => malformed(&chain(&error)),
        Ok(()) => {
            let encoded = output.into_vec();
            Failure::Error { message, encoded }
        }
    }
}

/// Decodes the payload of a failed reply. Panics if the codec does.
pub(crate) fn failed<S: Signature>(payload: &[u8]) -> CallError<S::Error> {
    match Failure::decode(payload) {
        Ok(Failure::Error { message, encoded }) => {
            match S::Errors::decode(&mut Input::from(encoded)) {
                Ok(error) => CallError::Failed(error),
                Err(error) => CallError::Malformed(CodecError::new(format!(
                    "the error ({message}): {}",
                    chain(&error)
                ))),
            }
        }
        Ok(Failure::Panic { message, location }) => {
            CallError::Panicked(Panic::new(message, location))
        }
        Ok(Failure::Malformed { message }) => CallError::Malformed(CodecError::new(message)),
        Ok(Failure::Unserved { message, kind }) => {
            CallError::Unserved(Error::new(refusal_kind(&kind), message))
        }
        Ok(Failure::Unanswered | Failure::Cancelled) => CallError::Unanswered,
        Ok(Failure::Full) => unread("only asks are refused with `full`"),
        Err(error) => unread(error),
    }
}

fn unread<E>(why: impl Display) -> CallError<E> {
    let message = format!("the failed reply cannot be read: {why}");
    CallError::Malformed(CodecError::new(message))
}

/// The error that stands for a panic of a codec, which the panic hook has reported.
pub(crate) fn codec_panicked() -> CodecError {
    CodecError::new("the codec panicked")
}

/// The kind of error of what the other side does not serve, by the reason that it gives.
pub(crate) fn refusal_kind(kind: &str) -> ErrorKind {
    match kind {
        wire::REFUSED_SETTINGS => ErrorKind::Spawn,
        wire::REFUSED_SETUP => ErrorKind::Setup,
        wire::REFUSED_FUNCTION => ErrorKind::NoFunction,
        wire::REFUSED_MISMATCH => ErrorKind::Mismatch,
        wire::REFUSED_VERSION => ErrorKind::Version,
        _ => ErrorKind::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_kinds_of_errors() {
        for (word, kind) in [
            ("settings", ErrorKind::Spawn),
            ("setup", ErrorKind::Setup),
            ("function", ErrorKind::NoFunction),
            ("mismatch", ErrorKind::Mismatch),
            ("version", ErrorKind::Version),
            ("another", ErrorKind::Protocol),
        ] {
            assert_eq!(refusal_kind(word), kind);
        }
    }
}

//! Asking the parent, above the codec, and waiting for its answer.

use super::hub::{AskEnd, Hub};
use super::read_ahead::{may_wait_here, wait_here};
use crate::codec::{Argument, Input, Output};
use crate::deadlines::after;
use crate::error::{CallError, Phase, Refusal};
use crate::outcome::{self, Outcome};
use crate::service::{Signature, id_of};
use crate::unwind;
use crate::wire::{Body, Failure, FunctionId};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Asks, and waits for the answer.
pub(super) fn ask<'r, S: Signature>(
    hub: &'static Hub,
    call: Option<u32>,
    service: &S,
    request: impl Argument<S::Request<'r>, S::Codec>,
    timeout: Option<Duration>,
) -> Outcome<S> {
    let mut output = Output::default();
    match request.encode_to(&mut output) {
        Ok(()) => decode::<S>(wait(hub, call, id_of(service), output.body(), timeout)),
        Err(error) => Err(CallError::Malformed(error)),
    }
}

/// The outcome in the types of the service.
pub(super) fn decode<S: Signature>(end: AskEnd) -> Outcome<S> {
    match end {
        AskEnd::Reply(payload) => outcome::reply::<S>(Input::from(payload)),
        AskEnd::Failed(payload) => Err(match Failure::decode(&payload) {
            Ok(Failure::Full) => CallError::Refused(Refusal::Full),
            _ => outcome::failed::<S>(&payload),
        }),
        AskEnd::Malformed(error) => Err(CallError::Malformed(error)),
        AskEnd::TimedOut => Err(CallError::TimedOut(Phase::Begun)),
        AskEnd::Cancelled(phase) => Err(CallError::Cancelled(phase)),
        AskEnd::Lost(error, phase) => Err(CallError::Lost(error, phase)),
        AskEnd::Refused(refusal) => Err(CallError::Refused(refusal)),
        AskEnd::Unserved(error) => Err(CallError::Unserved(error)),
    }
}

/// Where the end of an ask is put, and waited for.
#[derive(Default)]
pub(super) struct AskSlot {
    end: Mutex<Option<AskEnd>>,
    filled: Condvar,
}

impl AskSlot {
    fn fill(&self, end: AskEnd) {
        *unwind::lock(&self.end) = Some(end);
        self.filled.notify_one();
    }

    /// Takes the end out, if it is there.
    pub(super) fn take(&self) -> Option<AskEnd> {
        unwind::lock(&self.end).take()
    }

    /// Waits for the end until `deadline`.
    fn wait(&self, deadline: Option<Instant>) -> Option<AskEnd> {
        let end = unwind::lock(&self.end);
        unwind::wait_until(&self.filled, end, deadline, |end| end.is_none()).take()
    }
}

/// Asks, and waits. The main thread reads the answer itself, and can do so only in a returning function:
/// elsewhere on it, it would stop the loop.
fn wait(
    hub: &'static Hub,
    call: Option<u32>,
    service: FunctionId<'_>,
    request: &mut Body,
    timeout: Option<Duration>,
) -> AskEnd {
    let reads = hub.is_main_thread();
    if reads && !may_wait_here() {
        return AskEnd::Refused(Refusal::InCallback);
    }
    let deadline = timeout.and_then(|timeout| after(Instant::now(), timeout));
    let slot = Arc::new(AskSlot::default());
    let filled = Arc::clone(&slot);
    let waiter = Box::new(move |end| filled.fill(end));
    let id = match hub.ask_at_once(call, service, request, waiter) {
        Ok(id) => id,
        Err(end) => return end,
    };
    let end = if reads {
        wait_here(&slot, deadline)
    } else {
        slot.wait(deadline)
    };
    // In between it may have ended.
    end.or_else(|| (!hub.abandon_ask(id)).then(|| slot.wait(None))?)
        .unwrap_or(AskEnd::TimedOut)
}

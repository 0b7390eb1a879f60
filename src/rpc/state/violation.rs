//! What a child may do wrong, in words. Pure.

use crate::wire::{self, ControlError, DecodeError, LONGEST_CONTROL};
use std::fmt;

/// How a child broke the protocol.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ChildViolation {
    /// Its bytes are not frames.
    Decode(DecodeError),
    /// Its first frame is not what a worker sends first.
    NotReady { id: u32 },
    /// A control frame cannot be read.
    Control(ControlError),
    /// A control frame is too long, and is neither a progress report nor an ask of a child that serves.
    LongControl { claimed: usize },
    /// It reports twice that it is ready, or refuses to serve when it already does.
    ReadyTwice,
    /// It answers a call that was never made, or has been answered.
    UnknownId { id: u32 },
    /// It reports progress of a call that was never made, or has been answered.
    UnknownProgress { id: u32 },
    /// It asks with the id of an ask that is not answered.
    RepeatedAsk { id: u32 },
    /// It asks without end, and does not read that it is refused.
    AskFlood,
    /// It fails a call in a mode that has no failed replies.
    PlainFailed { id: u32 },
    /// It answers in the ordered mode, but no call is outstanding.
    NothingAsked,
    /// An id that the ordered mode does not have.
    NotOrdered { id: u32 },
}

impl fmt::Display for ChildViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChildViolation::Decode(error) => error.fmt(f),
            ChildViolation::NotReady { id } => {
                write!(
                    f,
                    "expected a `ready` control frame first, got a frame with id {id:#x}"
                )
            }
            ChildViolation::Control(error) => error.fmt(f),
            ChildViolation::LongControl { claimed } => write!(
                f,
                "expected a control message of at most {LONGEST_CONTROL} bytes, got one of \
                 {claimed}; only progress reports and asks may be longer, up to `max_frame`"
            ),
            ChildViolation::ReadyTwice => f.write_str("expected `ready` or `refused` only once"),
            ChildViolation::UnknownId { id } => write!(
                f,
                "expected a reply to an outstanding call, got one to id {id:#x}, \
                 which was never made or is answered"
            ),
            ChildViolation::UnknownProgress { id } => write!(
                f,
                "expected progress of an outstanding call, got a report for id {id:#x}, \
                 which was never made or is answered"
            ),
            ChildViolation::RepeatedAsk { id } => write!(
                f,
                "expected a new id, got an ask with id {id:#x}, which is not answered yet"
            ),
            ChildViolation::AskFlood => f.write_str(
                "expected it to read that its asks are refused, but it only asks more and more",
            ),
            ChildViolation::PlainFailed { id } => write!(
                f,
                "expected the reply to call {call:#x} under the same id, got {id:#x}: only \
                 `Plain::Fallible` has failed replies",
                call = id & wire::MAX_ID
            ),
            ChildViolation::NothingAsked => {
                f.write_str("expected no reply, as no call is outstanding, got one")
            }
            ChildViolation::NotOrdered { id } => {
                write!(
                    f,
                    "expected id 1 (reply) or 0 (event) in the ordered mode, got {id:#x}"
                )
            }
        }
    }
}

impl From<DecodeError> for ChildViolation {
    fn from(error: DecodeError) -> Self {
        ChildViolation::Decode(error)
    }
}

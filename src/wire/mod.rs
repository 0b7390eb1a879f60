//! The protocol as bytes: frames, the octet strings inside them, and the control messages made of
//! octet strings. Pure: no I/O, no clocks, no knowledge of processes or calls.
//!
//! Every frame is `id: u32 | length: u32 | payload`, big endian, except for requests in the ordered
//! mode, which carry no id. What an id means depends on the direction:
//!
//! | direction | id | meaning |
//! |---|---|---|
//! | to the child | 1..=[`MAX_ID`] | request |
//! | to the child | [`CONTROL_TO_CHILD`] | control: [`ToChild`] |
//! | to the parent | the request's | reply |
//! | to the parent | the request's, with [`FAILED`] set | failed reply: [`Failure`] |
//! | to the parent | [`EVENT`] | event |
//! | to the parent | [`CONTROL_TO_PARENT`] | control: [`ToParent`] |

mod body;
mod carrier;
mod control;
mod fds;
mod frame;
pub(crate) mod octets;
mod outbox;
mod plain;
mod small;
mod writer;

pub(crate) use body::Body;
pub(crate) use carrier::{
    CARRIER_CONTROL, CARRIER_VERSION, FarGroup, FarNote, Flow, FromRelay, GREETING, Outlet,
    StartOrder, ToRelay,
};
#[cfg(any(fuzzing, test))]
pub(crate) use control::Asked;
#[cfg(feature = "log")]
pub(crate) use control::LogRecord;
pub(crate) use control::{
    AskAnswer, ControlError, Failure, FunctionId, LONGEST_CONTROL, LONGEST_SETUP, LONGEST_TEXT,
    LongToParent, REFUSED_FUNCTION, REFUSED_MISMATCH, REFUSED_SETTINGS, REFUSED_SETUP,
    REFUSED_VERSION, Run, TELLING, ToChild, ToParent, VERSION, truncate,
};
pub(crate) use fds::{Carrying, Fds};
#[cfg(any(fuzzing, test))]
pub(crate) use frame::{BUFFER, LARGE, Space};
pub(crate) use frame::{
    CONTROL_ROOM, Check, DecodeError, Decoder, FrameHead, Framing, LONGEST_PAYLOAD, Payload,
    header, parse_header,
};
pub(crate) use outbox::{ANNOUNCING, Batch, FULL_BATCH, Outbox, REUSABLE};
pub use plain::Plain;
pub(crate) use small::SmallBytes;
pub(crate) use writer::Writer;

/// The greatest id of a call; the bit above it marks a failed reply.
pub(crate) const MAX_ID: u32 = 0x7fff_ffff;
/// Set in the id of a failed reply.
pub(crate) const FAILED: u32 = 0x8000_0000;
/// The id of an event, from child to parent.
pub(crate) const EVENT: u32 = 0;
/// The id of a control frame from parent to child.
pub(crate) const CONTROL_TO_CHILD: u32 = 0;
/// The id of a control frame from child to parent: a failed reply to no call.
pub(crate) const CONTROL_TO_PARENT: u32 = FAILED;
/// The id of every reply in the ordered mode.
pub(crate) const ORDERED_REPLY: u32 = 1;

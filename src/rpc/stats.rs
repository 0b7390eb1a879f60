//! What a child is doing, at one moment.

use crate::error::Error;
use std::fmt;
use std::time::Duration;

/// A child at one moment: what [`Rpc::stats`](crate::Rpc::stats) returns. Displayed, it is one line.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RpcStats {
    /// Its process id. `None` if it is only a stream, or a child on another machine that has not been
    /// started yet.
    pub pid: Option<u32>,
    /// What it is doing.
    pub state: ChildState,
    /// The number of its calls that are done: answered, or cancelled before they were sent.
    pub calls: u64,
    /// The number of calls that are queued or sent and not done. One that has timed out counts until it is
    /// answered.
    pub in_flight: usize,
    /// How long ago the oldest of these was sent, to some milliseconds. If others have been sent since, it may be up
    /// to twice as long ago. `None` if none was sent.
    pub oldest: Option<Duration>,
    /// The bytes that are queued, and not written to the child yet.
    pub queued_bytes: usize,
    /// The bytes that were written to the child so far, and those of requests that were cancelled in the queue.
    pub sent_bytes: u64,
    /// The error that ended it, if one did.
    pub last_error: Option<Error>,
}

/// What a child is doing. Displayed, it is one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ChildState {
    /// It is not ready yet.
    Starting,
    /// It has no calls.
    Idle,
    /// It has calls.
    Busy,
    /// It gets no more calls: it was told to exit, was killed, or has closed its connection.
    Leaving,
    /// It has ended, or is another process's: a copy of the one that started it knows nothing of it.
    #[default]
    Ended,
}

impl fmt::Display for ChildState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ChildState::Starting => "starting",
            ChildState::Idle => "idle",
            ChildState::Busy => "busy",
            ChildState::Leaving => "leaving",
            ChildState::Ended => "ended",
        })
    }
}

impl fmt::Display for RpcStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_state(f, self.pid, self.state)?;
        f.write_str(", ")?;
        write_calls(f, self.calls, self.in_flight, self.oldest)?;
        write!(
            f,
            ", {} bytes sent, {} queued",
            self.sent_bytes, self.queued_bytes
        )?;
        write_last_error(f, self.last_error.as_ref())
    }
}

pub(crate) fn write_state(
    f: &mut fmt::Formatter<'_>,
    pid: Option<u32>,
    state: ChildState,
) -> fmt::Result {
    match pid {
        Some(pid) => write!(f, "pid {pid} {state}"),
        None => write!(f, "no pid {state}"),
    }
}

pub(crate) fn write_calls(
    f: &mut fmt::Formatter<'_>,
    done: u64,
    in_flight: usize,
    oldest: Option<Duration>,
) -> fmt::Result {
    write_done(f, done)?;
    write!(f, ", {in_flight} in flight")?;
    match oldest {
        Some(oldest) => write!(f, " for {oldest:.1?}"),
        None => Ok(()),
    }
}

pub(crate) fn write_done(f: &mut fmt::Formatter<'_>, calls: u64) -> fmt::Result {
    write!(f, "{calls} {} done", plural(calls, "call", "calls"))
}

/// The word for so many.
pub(crate) fn plural(number: u64, one: &'static str, more: &'static str) -> &'static str {
    if number == 1 { one } else { more }
}

/// In one line.
pub(crate) fn write_last_error(f: &mut fmt::Formatter<'_>, error: Option<&Error>) -> fmt::Result {
    match error {
        Some(error) => {
            f.write_str(", last: ")?;
            error.write_summary(f)
        }
        None => Ok(()),
    }
}

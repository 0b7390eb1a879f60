//! What a child is doing, at one moment.

use crate::error::Error;
use std::fmt;
use std::time::Duration;

/// A child at one moment: what [`Rpc::stats`](crate::Rpc::stats) returns. Displayed, it is one line.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RpcStats {
    /// Its process id. `None` if it is only a stream.
    pub pid: Option<u32>,
    /// `starting`, `idle`, `busy`, `leaving`: it is told to exit when it has answered; or `ended`.
    pub state: &'static str,
    /// How many calls it has answered.
    pub calls: u64,
    /// How many it has, or are queued for it. One that has timed out counts until it is answered.
    pub in_flight: usize,
    /// How long ago the oldest of these was sent, to some milliseconds. If others have been sent since, it may be up
    /// to twice as long ago. `None` if none was sent.
    pub oldest: Option<Duration>,
    /// How many bytes are queued, and not written yet.
    pub queued_bytes: usize,
    /// How many bytes were written so far. What was cancelled before counts, too.
    pub sent_bytes: u64,
    /// How it has ended, if it was not to end.
    pub last_error: Option<Error>,
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
    state: &str,
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
    write!(f, "{done} calls done, {in_flight} in flight")?;
    match oldest {
        Some(oldest) => write!(f, " for {oldest:.1?}"),
        None => Ok(()),
    }
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

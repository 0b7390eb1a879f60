//! Reading into a decoder.

use crate::fd::Fd;
use crate::sys::{self, ReadMode};
use crate::wire::Decoder;
use std::io::Result;
use std::os::fd::AsFd;

/// Reads what has come, or waits for it, as `how` says, with the descriptors that come along if some are
/// expected. Returns how many bytes have come, 0 at the end of the stream, and whether there may be more.
pub(crate) fn receive(
    from: impl AsFd,
    decoder: &mut Decoder,
    how: ReadMode,
) -> Result<(usize, bool)> {
    let takes_fds = decoder.takes_fds() && how != ReadMode::Any;
    let space = decoder.space();
    let room = space.room();
    let to = (space.buf, space.limit);
    if !takes_fds {
        let n = sys::receive(from, to, space.behind, how)?;
        return Ok((n, n == room));
    }
    let wait = how == ReadMode::Socket;
    let (n, received) = sys::receive_with_fds(from, to, space.behind, wait)?;
    // With a message that has descriptors, a read ends before its buffer is full.
    let more = n == room || !received.is_none();
    if !received.is_none() {
        let fds = received.fds.into_iter().map(Fd::from).collect();
        decoder.arrived(fds, received.truncated, n);
    }
    Ok((n, more))
}

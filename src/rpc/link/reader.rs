//! Reading the socket: what the thread that has the reader's role owns.

use crate::busy_poll::BusyPoll;
use crate::codec::Input;
use crate::receive::receive;
use crate::sys::{self, Interest, ReadMode};
use crate::wire::{Decoder, Payload, SmallBytes};
use std::io::{ErrorKind, Result};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Whether something was read and is not processed. Callers whose time is up check it: what they wait
/// for may be there.
///
/// It is set before something is read, so that it is set when the socket is found empty; by a reader
/// that blocks without a deadline, right after it.
#[derive(Debug, Default)]
pub(super) struct Unprocessed(AtomicBool);

// ORDERING: what a thread sees in the socket, it sees after the system call of the one that emptied it,
// before which this was set.
impl Unprocessed {
    pub(super) fn set(&self, unprocessed: bool) {
        self.0.store(unprocessed, Ordering::Release);
    }

    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Reader {
    decoder: Decoder,
    busy_poll: BusyPoll,
}

impl Reader {
    pub(crate) fn new(decoder: Decoder) -> Box<Self> {
        let busy_poll = BusyPoll::default();
        Box::new(Reader { decoder, busy_poll })
    }

    /// What turns the bytes into frames.
    pub(crate) fn decoder(&mut self) -> &mut Decoder {
        &mut self.decoder
    }

    /// Whether nothing is buffered.
    pub(super) fn is_empty(&self) -> bool {
        self.decoder.is_empty()
    }

    /// Reads what has come, 0 bytes at the end of the stream. Returns also whether there may be more.
    pub(crate) fn receive_now(&mut self, socket: &OwnedFd) -> Result<(usize, bool)> {
        receive(socket, &mut self.decoder, ReadMode::SocketNow)
    }

    /// Reads what has come, or waits for it until `deadline`. A caller whose call is the only one
    /// outstanding is `alone`.
    pub(super) fn receive(
        &mut self,
        socket: &OwnedFd,
        alone: bool,
        deadline: Option<Instant>,
        unprocessed: &Unprocessed,
    ) -> Result<usize> {
        let decoder = &mut self.decoder;
        let mut receive = |mode| {
            unprocessed.set(mode == ReadMode::SocketNow);
            let result = receive(socket, decoder, mode);
            unprocessed.set(result.is_ok());
            result.map(|(n, _)| n)
        };
        let poll = || match receive(ReadMode::SocketNow) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            result => result.map(Some),
        };
        // Busy-polling pays only for a caller that has the processors to itself.
        if alone && let Some(n) = self.busy_poll.poll(poll)? {
            return Ok(n);
        }
        let block = || wait_and_receive(socket, receive, deadline);
        if alone {
            self.busy_poll.block(block)
        } else {
            block()
        }
    }
}

/// Waits for something to come, and reads it.
fn wait_and_receive(
    socket: &OwnedFd,
    mut receive: impl FnMut(ReadMode) -> Result<usize>,
    deadline: Option<Instant>,
) -> Result<usize> {
    let mode = match deadline {
        Some(_) => ReadMode::SocketNow,
        None => ReadMode::Socket,
    };
    loop {
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if !sys::wait_at_most(socket, Interest::Readable, left)? {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        match receive(mode) {
            // A stream that the program made may be non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if deadline.is_none() {
                    sys::wait_for(socket, Interest::Readable)?;
                }
            }
            result => return result,
        }
    }
}

/// A payload for the codec.
pub(crate) fn input(decoder: &Decoder, payload: Payload) -> Input<'_> {
    match payload {
        Payload::At(at) => Input::from(decoder.bytes(at)),
        Payload::Owned(bytes) => Input::from(bytes),
        Payload::Carrying(carrying) => Input::from(SmallBytes::from(carrying)),
    }
}

//! Waiting for descriptors: in a poller, or for one alone.

use super::{check, retry};
use polling::{Event, PollMode, Poller};
use std::io::Result;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

/// A descriptor that a poller watches. Its existence is the proof that the descriptor is open, and
/// dropping it ends the watch: what `Poller::add` asks for.
#[derive(Debug)]
pub(crate) struct Registration {
    poller: Arc<Poller>,
    fd: Arc<OwnedFd>,
}

impl Registration {
    /// Watches `fd`, level-triggered.
    pub(crate) fn new(poller: &Arc<Poller>, fd: &Arc<OwnedFd>, interest: Event) -> Result<Self> {
        // SAFETY: the descriptor stays open as long as `self` has it, and `drop` deletes it.
        unsafe { poller.add_with_mode(fd.as_raw_fd(), interest, PollMode::Level)? };
        Ok(Registration {
            poller: Arc::clone(poller),
            fd: Arc::clone(fd),
        })
    }

    /// Watches for something else.
    pub(crate) fn modify(&self, interest: Event) -> Result<()> {
        self.poller
            .modify_with_mode(self.fd.as_fd(), interest, PollMode::Level)
    }

    /// The descriptor.
    pub(crate) fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // It can only fail for a descriptor that is not watched, and then nothing is to be done.
        let _ = self.poller.delete(self.fd.as_fd());
    }
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    Readable,
    Writable,
}

/// Waits until a descriptor is ready, or its other end is gone, however long it takes.
pub(crate) fn wait_for(fd: impl AsFd, readiness: Readiness) -> Result<()> {
    let mut poll = libc::pollfd {
        fd: fd.as_fd().as_raw_fd(),
        events: match readiness {
            Readiness::Readable => libc::POLLIN,
            Readiness::Writable => libc::POLLOUT,
        },
        revents: 0,
    };
    // SAFETY: points to one pollfd.
    retry(|| check(unsafe { libc::poll(&raw mut poll, 1, -1) }).map(drop))
}

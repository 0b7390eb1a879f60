//! Waiting for descriptors: in a poller, or for one alone.

use super::{check, retry};
use polling::{Event, PollMode, Poller};
use std::io::Result;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

    /// Watches for something else. For nothing, a hang-up is still told, once.
    pub(crate) fn modify(&self, interest: Event) -> Result<()> {
        let mode = if interest.readable || interest.writable {
            PollMode::Level
        } else {
            PollMode::Oneshot
        };
        self.poller
            .modify_with_mode(self.fd.as_fd(), interest, mode)
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
pub(crate) enum Interest {
    Readable,
    Writable,
}

impl Interest {
    fn events(self) -> libc::c_short {
        match self {
            Interest::Readable => libc::POLLIN,
            Interest::Writable => libc::POLLOUT,
        }
    }
}

/// Waits until a descriptor is ready, or its other end is gone, however long it takes.
pub(crate) fn wait_for(fd: impl AsFd, interest: Interest) -> Result<()> {
    let mut set = PollSet::default();
    set.add(fd.as_fd().as_raw_fd(), interest);
    set.wait(None).map(drop)
}

/// As [`wait_for`], for this long at most. Returns whether it is ready.
pub(crate) fn wait_at_most(fd: impl AsFd, interest: Interest, time: Duration) -> Result<bool> {
    let mut set = PollSet::default();
    set.add(fd.as_fd().as_raw_fd(), interest);
    set.wait(Some(time)).map(|ready| ready > 0)
}

/// Descriptors to wait for with ppoll(2): a system call, and nothing to be set up or torn down for
/// it. What a child's loop has is few, and changes often.
#[derive(Debug, Default)]
pub(crate) struct PollSet(Vec<libc::pollfd>);

impl PollSet {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds a descriptor by number: one that is closed counts as ready. Returns its place.
    pub(crate) fn add(&mut self, fd: RawFd, interest: Interest) -> usize {
        self.0.push(libc::pollfd {
            fd,
            events: interest.events(),
            revents: 0,
        });
        self.0.len() - 1
    }

    /// Waits until one of them is ready, or for this long. Returns how many are.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> Result<usize> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        retry(|| {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let timespec = left.map(|left| libc::timespec {
                tv_sec: left.as_secs() as libc::time_t,
                tv_nsec: left.subsec_nanos().into(),
            });
            let timeout = timespec.as_ref().map_or(ptr::null(), ptr::from_ref);
            let (fds, len) = (self.0.as_mut_ptr(), self.0.len() as libc::nfds_t);
            // SAFETY: `fds` points to `len` pollfds, `timeout` to a timespec or is null; no signal
            // mask is given.
            check(unsafe { libc::ppoll(fds, len, timeout, ptr::null()) }).map(|n| n as usize)
        })
    }

    /// Whether the descriptor at this place is ready, or has an error to tell.
    pub(crate) fn is_ready(&self, place: usize) -> bool {
        self.0[place].revents != 0
    }

    /// Whether the descriptor at this place is closed.
    pub(crate) fn is_closed(&self, place: usize) -> bool {
        self.0[place].revents & libc::POLLNVAL != 0
    }
}

//! Waiting for descriptors: with a poller, or directly with ppoll(2).

use super::origin::{Origin, replace_owned};
use super::{check, retry};
use polling::{Event, PollMode, Poller};
use std::io::Result;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A poller that a copy of this process leaves alone. What is registered is the kernel's, and shared
/// with copies: what one of them removed, the original would no longer hear of.
#[derive(Debug)]
pub(crate) struct SharedPoller {
    poller: ManuallyDrop<Poller>,
    origin: Origin,
}

impl SharedPoller {
    /// A poller of this process, none of whose descriptors has the number of a standard one: see
    /// [`above_standard`](super::above_standard).
    pub(crate) fn new() -> Result<Self> {
        // The poller's first descriptor gets the lowest number, and then keeps it from the next poller.
        let mut low = Vec::new();
        loop {
            let poller = Poller::new()?;
            if poller.as_raw_fd() < super::ABOVE_STANDARD {
                low.push(poller);
                continue;
            }
            return Ok(SharedPoller {
                poller: ManuallyDrop::new(poller),
                origin: Origin::here(),
            });
        }
    }

    /// Whether this process is a copy of the one that made it, which must not use it.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.origin.is_elsewhere()
    }
}

impl Deref for SharedPoller {
    type Target = Poller;

    fn deref(&self) -> &Poller {
        &self.poller
    }
}

impl Drop for SharedPoller {
    fn drop(&mut self) {
        // Its destructor removes what the poller itself has registered: a copy has it do so with an
        // empty one.
        if self.is_elsewhere() && self.replace_by_empty().is_err() {
            return;
        }
        // SAFETY: `self` is being dropped, so that nothing uses it afterwards.
        unsafe { ManuallyDrop::drop(&mut self.poller) }
    }
}

impl SharedPoller {
    fn replace_by_empty(&self) -> Result<()> {
        // SAFETY: takes no pointers.
        let empty = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor was just created and has no other owner.
        let empty = unsafe { OwnedFd::from_raw_fd(empty) };
        replace_owned(&**self, &empty)
    }
}

/// A descriptor that is registered with a poller. Its existence proves that the descriptor is open,
/// and dropping it removes the registration, as `Poller::add` requires.
#[derive(Debug)]
pub(crate) struct Registration {
    poller: Arc<SharedPoller>,
    fd: Arc<OwnedFd>,
}

impl Registration {
    /// Registers `fd`, level-triggered.
    pub(crate) fn new(
        poller: &Arc<SharedPoller>,
        fd: &Arc<OwnedFd>,
        interest: Event,
    ) -> Result<Self> {
        // SAFETY: the descriptor stays open as long as `self` has it, and `drop` deletes it.
        unsafe { poller.add_with_mode(fd.as_raw_fd(), interest, PollMode::Level)? };
        Ok(Registration {
            poller: Arc::clone(poller),
            fd: Arc::clone(fd),
        })
    }

    /// Changes the interest. With none, a hang-up is still reported, once.
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
        if !self.poller.is_elsewhere() {
            // This only fails for a descriptor that is not registered, and then there is nothing to do.
            let _ = self.poller.delete(self.fd.as_fd());
        }
    }
}

/// The condition to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    Readable,
    Writable,
    /// That its other end is gone.
    HangUp,
}

impl Interest {
    fn events(self) -> libc::c_short {
        match self {
            Interest::Readable => libc::POLLIN,
            Interest::Writable => libc::POLLOUT,
            Interest::HangUp => 0,
        }
    }
}

/// Blocks until a descriptor is ready or its other end is gone.
pub(crate) fn wait_for(fd: impl AsFd, interest: Interest) -> Result<()> {
    let mut set = PollSet::default();
    set.add(fd.as_fd().as_raw_fd(), interest);
    set.wait(None).map(drop)
}

/// Same as [`wait_for`], but for at most `time`. Returns whether the descriptor is ready.
pub(crate) fn wait_at_most(fd: impl AsFd, interest: Interest, time: Duration) -> Result<bool> {
    let mut set = PollSet::default();
    set.add(fd.as_fd().as_raw_fd(), interest);
    set.wait(Some(time)).map(|ready| ready > 0)
}

/// Descriptors to wait for with ppoll(2), which needs no set-up or tear-down: a child's loop has
/// few descriptors, and they change often.
#[derive(Debug, Default)]
pub(crate) struct PollSet(Vec<libc::pollfd>);

impl PollSet {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds a descriptor by number: a closed one counts as ready. Returns its place.
    pub(crate) fn add(&mut self, fd: RawFd, interest: Interest) -> usize {
        self.0.push(libc::pollfd {
            fd,
            events: interest.events(),
            revents: 0,
        });
        self.0.len() - 1
    }

    /// Waits until one of them is ready, at most for `timeout`. Returns how many are ready.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> Result<usize> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        retry(|| {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let timespec = left.map(|left| libc::timespec {
                // 68 years are for ever. The type may have 32 bits.
                tv_sec: left.as_secs().min(i32::MAX as u64) as _,
                // Below 10^9, which fits whatever the type is.
                tv_nsec: left.subsec_nanos() as _,
            });
            let timeout = timespec.as_ref().map_or(ptr::null(), ptr::from_ref);
            let (fds, len) = (self.0.as_mut_ptr(), self.0.len() as libc::nfds_t);
            // SAFETY: `fds` points to `len` pollfds, `timeout` to a timespec or is null; no signal
            // mask is given.
            check(unsafe { libc::ppoll(fds, len, timeout, ptr::null()) }).map(|n| n as usize)
        })
    }

    /// Whether the descriptor at this place is ready, or has an error to report.
    pub(crate) fn is_ready(&self, place: usize) -> bool {
        self.0[place].revents != 0
    }

    /// Whether the other end of the descriptor at this place is gone.
    pub(crate) fn is_hung_up(&self, place: usize) -> bool {
        self.0[place].revents & libc::POLLHUP != 0
    }

    /// Whether the descriptor at this place is closed.
    pub(crate) fn is_closed(&self, place: usize) -> bool {
        self.0[place].revents & libc::POLLNVAL != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polling::Events;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    /// Drops values in a copy of this process, and waits for that.
    fn drop_in_copy<T>(value: &mut Option<T>) {
        // SAFETY: the copy drops what needs only the allocator, which the C library has ready there, and
        // ends without anything else.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            drop(value.take());
            super::super::exit_immediately(0);
        }
        assert!(pid > 0);
        // SAFETY: a null pointer means that the status is not wanted.
        let reaped = unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
        assert_eq!(reaped, pid);
    }

    /// The kernel's part of a poller is one for both processes.
    #[test]
    #[cfg_attr(miri, ignore = "Miri does not support fork")]
    fn copy_removes_nothing_from_the_poller_of_the_original() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let poller = Arc::new(SharedPoller::new().unwrap());
        let fd = Arc::new(OwnedFd::from(near));
        let registration = Registration::new(&poller, &fd, Event::readable(7)).unwrap();
        let mut both = Some((registration, poller));
        drop_in_copy(&mut both);
        let (_registration, poller) = both.unwrap();
        // What the poller has registered itself wakes it, and what was registered with it is reported.
        let mut events = Events::new();
        poller.notify().unwrap();
        let limit = Some(Duration::from_secs(60));
        let start = Instant::now();
        poller.wait(&mut events, limit).unwrap();
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "it was not woken"
        );
        far.write_all(b"x").unwrap();
        poller.wait(&mut events, limit).unwrap();
        assert_eq!(
            events.iter().map(|event| event.key).collect::<Vec<_>>(),
            [7]
        );
    }
}

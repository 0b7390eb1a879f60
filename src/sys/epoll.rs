//! Waiting for many descriptors with epoll(7), and for what other threads have to say.
//!
//! What carries the streams of many children waits four times in a call of one of them, and changes hardly ever
//! what it waits for. A portable poller makes four more system calls each time, for its timer and its waker.

use super::origin::Origin;
use super::{Waker, above_standard, check};
use std::io::{ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// How many descriptors are reported at a time.
const EVENTS: usize = 64;
/// The key of the waker.
const WAKER: u64 = u64::MAX;

/// See the module's documentation. A copy of this process leaves it alone.
#[derive(Debug)]
pub(crate) struct Epoll {
    fd: OwnedFd,
    waker: Waker,
    origin: Origin,
}

/// What is waited for, or has happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

impl Ready {
    pub(crate) const READABLE: Ready = Ready {
        readable: true,
        writable: false,
    };
    pub(crate) const NOTHING: Ready = Ready {
        readable: false,
        writable: false,
    };

    fn events(self) -> u32 {
        let readable = if self.readable { libc::EPOLLIN } else { 0 };
        let writable = if self.writable { libc::EPOLLOUT } else { 0 };
        // With nothing to wait for, a hang-up is reported, and would be all the time.
        let once = match self {
            Ready::NOTHING => libc::EPOLLONESHOT,
            _ => 0,
        };
        (readable | writable | once) as u32
    }
}

impl Epoll {
    pub(crate) fn new() -> Result<Arc<Self>> {
        // SAFETY: takes no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor was just created and has no other owner.
        let fd = above_standard(unsafe { OwnedFd::from_raw_fd(fd) })?;
        let epoll = Epoll {
            fd,
            waker: Waker::new()?,
            origin: Origin::here(),
        };
        epoll.control(libc::EPOLL_CTL_ADD, &epoll.waker, WAKER, Ready::READABLE)?;
        Ok(Arc::new(epoll))
    }

    /// Whether this process is a copy of the one that made it, which must not use it.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.origin.is_elsewhere()
    }

    /// Ends the wait that there is, or the next one.
    pub(crate) fn notify(&self) {
        self.waker.wake();
    }

    /// Waits until something is ready or a signal comes, at most for `timeout`, rounded up to milliseconds.
    /// Passes the keys of what is ready to `found`.
    pub(crate) fn wait(
        &self,
        timeout: Option<Duration>,
        mut found: impl FnMut(u64, Ready),
    ) -> Result<()> {
        let timeout = match timeout {
            None => -1,
            Some(timeout) => {
                let millis = timeout.as_nanos().div_ceil(1_000_000);
                millis.min(i32::MAX as u128) as libc::c_int
            }
        };
        let mut events = [const { libc::epoll_event { events: 0, u64: 0 } }; EVENTS];
        let (fd, start, len) = (self.fd.as_raw_fd(), events.as_mut_ptr(), EVENTS as i32);
        // SAFETY: `start` points to `len` events.
        let n = match check(unsafe { libc::epoll_wait(fd, start, len, timeout) }) {
            // How much of the time is left is the caller's to know.
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            result => result?,
        };
        for event in &events[..n as usize] {
            let (key, bits) = (event.u64, event.events as libc::c_int);
            if key == WAKER {
                self.waker.reset();
                continue;
            }
            let ended = bits & (libc::EPOLLHUP | libc::EPOLLERR) != 0;
            let ready = Ready {
                readable: ended || bits & libc::EPOLLIN != 0,
                writable: ended || bits & libc::EPOLLOUT != 0,
            };
            found(key, ready);
        }
        Ok(())
    }

    fn control(&self, what: libc::c_int, fd: impl AsFd, key: u64, wanted: Ready) -> Result<()> {
        let mut event = libc::epoll_event {
            events: wanted.events(),
            u64: key,
        };
        let (epoll, fd) = (self.fd.as_raw_fd(), fd.as_fd().as_raw_fd());
        // SAFETY: points to an event.
        check(unsafe { libc::epoll_ctl(epoll, what, fd, &raw mut event) }).map(drop)
    }
}

/// A descriptor that is waited for. Dropping it ends that, and its share in the descriptor.
#[derive(Debug)]
pub(crate) struct Watched {
    epoll: Arc<Epoll>,
    fd: Arc<OwnedFd>,
    key: u64,
    wanted: Ready,
}

impl Watched {
    pub(crate) fn new(
        epoll: &Arc<Epoll>,
        fd: &Arc<OwnedFd>,
        key: u64,
        wanted: Ready,
    ) -> Result<Self> {
        epoll.control(libc::EPOLL_CTL_ADD, fd, key, wanted)?;
        Ok(Watched {
            epoll: Arc::clone(epoll),
            fd: Arc::clone(fd),
            key,
            wanted,
        })
    }

    /// Changes what is waited for. With nothing, a hang-up is still reported, once.
    pub(crate) fn want(&mut self, wanted: Ready) -> Result<()> {
        if wanted == self.wanted {
            return Ok(());
        }
        self.wanted = wanted;
        let (what, fd) = (libc::EPOLL_CTL_MOD, &self.fd);
        self.epoll.control(what, fd, self.key, wanted)
    }

    pub(crate) fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.epoll.is_elsewhere() {
            // It fails only if it is not waited for, and then there is nothing to do.
            let what = libc::EPOLL_CTL_DEL;
            let _ = self.epoll.control(what, &self.fd, 0, Ready::NOTHING);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn found(epoll: &Epoll) -> Vec<(u64, Ready)> {
        let mut all = Vec::new();
        let wait = epoll.wait(Some(Duration::ZERO), |key, ready| all.push((key, ready)));
        wait.unwrap();
        all
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no level-triggered epoll")]
    fn what_is_wanted_is_reported_as_long_as_it_is() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut stream = near.try_clone().unwrap();
        let epoll = Epoll::new().unwrap();
        let near = Arc::new(OwnedFd::from(near));
        let mut watched = Watched::new(&epoll, &near, 7, Ready::READABLE).unwrap();
        assert_eq!(found(&epoll), []);
        far.write_all(b"x").unwrap();
        assert_eq!(found(&epoll), [(7, Ready::READABLE)]);
        assert_eq!(found(&epoll), [(7, Ready::READABLE)]);
        let both = Ready {
            readable: true,
            writable: true,
        };
        watched.want(both).unwrap();
        assert_eq!(found(&epoll), [(7, both)]);
        stream.read_exact(&mut [0]).unwrap();
        watched.want(Ready::NOTHING).unwrap();
        assert_eq!(found(&epoll), []);
        drop(far);
        assert_eq!(found(&epoll), [(7, both)], "a hang-up");
        assert_eq!(found(&epoll), [], "once");
        drop(watched);
        assert_eq!(found(&epoll), []);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no level-triggered epoll")]
    fn wait_is_ended_by_another_thread() {
        let epoll = Epoll::new().unwrap();
        let other = Arc::clone(&epoll);
        std::thread::spawn(move || other.notify());
        let waited = epoll.wait(None, |key, _| panic!("{key}"));
        waited.unwrap();
        epoll.notify();
        epoll.notify();
        epoll.wait(None, |key, _| panic!("{key}")).unwrap();
        assert_eq!(found(&epoll), []);
    }

    /// It does not begin anew with each signal: a deadline would not be noticed.
    #[test]
    #[cfg_attr(miri, ignore = "Miri has no level-triggered epoll")]
    fn wait_ends_though_signals_interrupt_it() {
        extern "C" fn handler(_: libc::c_int) {}
        // SAFETY: the handler does nothing. Nothing else uses this signal.
        unsafe { libc::signal(libc::SIGURG, handler as *const () as libc::sighandler_t) };
        // A number or a pointer, depending on the C library.
        // SAFETY: takes no pointers.
        let waiting = unsafe { libc::pthread_self() } as usize;
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        let interrupter = std::thread::spawn(move || {
            for _ in 0..10_000 {
                // SAFETY: that thread waits for this one.
                unsafe { libc::pthread_kill(waiting as libc::pthread_t, libc::SIGURG) };
                match is_done.recv_timeout(Duration::from_millis(1)) {
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                    _ => return true,
                }
            }
            false
        });
        let wait = Epoll::new()
            .unwrap()
            .wait(Some(Duration::from_secs(1)), |_, _| {});
        wait.unwrap();
        drop(done);
        assert!(interrupter.join().unwrap(), "it was interrupted for ever");
    }
}

//! Which process something was made in. A copy of a process that fork(2) makes has all the memory of
//! the original, and shares its descriptors, but none of its other threads.

use super::check;
use std::fs::File;
use std::io::Result;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Changes with each fork that lies between this process and the first one that asked.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// A process. What is made in one has this to find out that it is used in a copy.
///
/// To ask getpid(2) each time would cost more than to queue a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin(u32);

impl Origin {
    /// This process. Its copies are noticed from now on.
    pub(crate) fn here() -> Self {
        static WATCHED: AtomicBool = AtomicBool::new(false);
        // Not a `Once`, which is a lock: in a copy it may be held for ever. To count forks twice does no
        // harm.
        if !WATCHED.load(Ordering::Acquire) {
            // SAFETY: the function only does arithmetic, which may be done in a copy of a process that
            // has threads. This fails if there is no memory, and then copies are taken for the
            // original.
            let _ = unsafe { libc::pthread_atfork(None, None, Some(forked)) };
            WATCHED.store(true, Ordering::Release);
        }
        Origin::current()
    }

    /// As [`here`](Origin::here), where that was called before.
    #[inline]
    pub(crate) fn current() -> Self {
        Origin(forks())
    }

    /// Whether this process is a copy of that one, or a copy of a copy.
    #[inline]
    pub(crate) fn is_elsewhere(self) -> bool {
        self.0 != forks()
    }
}

/// Called in each copy, before fork(2) returns there.
unsafe extern "C" fn forked() {
    // ORDERING: the copy has one thread. Those that it starts see this by being started.
    FORKS.fetch_add(1, Ordering::Relaxed);
}

#[inline]
fn forks() -> u32 {
    // ORDERING: see `forked`.
    FORKS.load(Ordering::Relaxed)
}

/// Gives up a copy's share in what a descriptor refers to. The number stays taken, for the descriptor
/// may have owners on the stacks of threads that the copy does not have.
pub(crate) fn give_up(fd: impl AsFd) {
    // Without descriptors or memory it stays open until the copy ends.
    let _ = File::open("/dev/null").and_then(|null| replace_owned(fd, null));
}

/// Makes an owned descriptor refer to the same file as another one, close-on-exec. Its owner does not
/// notice.
pub(super) fn replace_owned(fd: impl AsFd, with: impl AsFd) -> Result<()> {
    let (fd, with) = (fd.as_fd().as_raw_fd(), with.as_fd().as_raw_fd());
    // SAFETY: takes no pointers. The number stays its owner's, and stays open.
    check(unsafe { libc::dup3(with, fd, libc::O_CLOEXEC) }).map(drop)
}

/// Ends this process immediately: nothing is flushed, and no destructor runs.
pub(crate) fn exit_immediately(status: i32) -> ! {
    // SAFETY: takes no pointers, and does not return.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn origin_is_elsewhere_in_another_process() {
        let before = Origin::here();
        assert!(!before.is_elsewhere() && before == Origin::here());
        let other = Origin(before.0.wrapping_add(1));
        assert!(other.is_elsewhere());
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not support dup3")]
    fn stream_that_is_given_up_ends_for_its_peer_and_stays_owned() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let number = near.as_raw_fd();
        give_up(&near);
        assert_eq!(far.read(&mut [0]).unwrap(), 0);
        assert_eq!(near.as_raw_fd(), number);
        let mut null = File::from(std::os::fd::OwnedFd::from(near));
        assert_eq!(null.read(&mut [0]).unwrap(), 0);
    }
}

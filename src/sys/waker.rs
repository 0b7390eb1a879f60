//! A way to wake a thread that polls.

use super::{above_standard, check, check_size, retry};
use std::io::{ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A descriptor that is readable from [`wake`](Waker::wake) until [`reset`](Waker::reset); see
/// eventfd(2).
#[derive(Debug)]
pub(crate) struct Waker(OwnedFd);

impl Waker {
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: takes no pointers.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the descriptor was just created and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Waker(above_standard(fd)?))
    }

    pub(crate) fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        let (fd, start) = (self.0.as_raw_fd(), one.as_ptr().cast());
        // Fails only after 2^64 - 2 calls without a reset, and then the descriptor is readable.
        // SAFETY: `start` points to eight bytes.
        let _ = retry(|| check_size(unsafe { libc::write(fd, start, one.len()) }));
    }

    pub(crate) fn reset(&self) {
        let mut count = [0u8; 8];
        let (fd, start) = (self.0.as_raw_fd(), count.as_mut_ptr().cast());
        // SAFETY: `start` points to eight writable bytes.
        let read = retry(|| check_size(unsafe { libc::read(fd, start, count.len()) }));
        debug_assert!(
            !matches!(&read, Err(error) if error.kind() != ErrorKind::WouldBlock),
            "an eventfd can be read"
        );
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

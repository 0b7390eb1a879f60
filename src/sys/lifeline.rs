//! How a busy child notices that its parent is gone, without a thread or a signal handler.

use super::check;
use std::io::Result;
use std::os::fd::{AsRawFd, OwnedFd};

/// Which signal `O_ASYNC` sends; see F_SETSIG in fcntl(2). Not in the libc crate. It is 10 in Linux's
/// asm-generic/fcntl.h; PA-RISC, for which there is no Rust target, has a number of its own.
const F_SETSIG: libc::c_int = 10;

/// The reading end of a pipe whose writing end only the parent holds. Nothing is ever written.
///
/// While it is armed, the kernel sends this process SIGKILL when the parent is gone, whatever the
/// process is doing: the pipe hangs up, and `O_ASYNC` with `F_SETSIG` (fcntl(2)) turns that into
/// the signal. Disarmed it does nothing, so that an idle child can read the end of its requests
/// and exit cleanly. A running handler might never return, whereas an idle child exits promptly.
///
/// Rejected alternatives: `PR_SET_PDEATHSIG` fires when the *thread* that started the child ends.
/// On the connection itself, `O_ASYNC` would signal every request, too. A thread would cost every
/// child memory and start-up time.
#[derive(Debug)]
pub(crate) struct Lifeline {
    pipe: OwnedFd,
}

impl Lifeline {
    /// Prepares the pipe. Not armed yet.
    pub(crate) fn new(pipe: OwnedFd) -> Result<Self> {
        let fd = pipe.as_raw_fd();
        // SAFETY: takes no pointers.
        let me = unsafe { libc::getpid() };
        // SAFETY: takes no pointers.
        check(unsafe { libc::fcntl(fd, libc::F_SETOWN, me) })?;
        // SAFETY: takes no pointers.
        check(unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGKILL) })?;
        Ok(Lifeline { pipe })
    }

    /// From now on the process dies with its parent. Returns whether the parent is still alive: if
    /// it has already gone, no signal comes.
    pub(crate) fn arm(&self) -> Result<bool> {
        self.set_flags(libc::O_ASYNC)?;
        let fd = self.pipe.as_raw_fd();
        let mut poll = libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: points to one pollfd.
        let gone = check(unsafe { libc::poll(&raw mut poll, 1, 0) });
        Ok(gone? == 0)
    }

    /// From now on the process outlives its parent.
    pub(crate) fn disarm(&self) -> Result<()> {
        self.set_flags(0)
    }

    fn set_flags(&self, flags: libc::c_int) -> Result<()> {
        // SAFETY: takes no pointers. The pipe has no other flags that could be lost: the parent
        // created it, and this process has the only copy of its reading end.
        check(unsafe { libc::fcntl(self.pipe.as_raw_fd(), libc::F_SETFL, flags) }).map(drop)
    }
}

/// Whether the lifeline is armed that has this pipe.
#[cfg(test)]
pub(crate) fn is_armed(pipe: impl std::os::fd::AsFd) -> bool {
    // SAFETY: takes no pointers.
    let flags = unsafe { libc::fcntl(pipe.as_fd().as_raw_fd(), libc::F_GETFL) };
    flags & libc::O_ASYNC != 0
}

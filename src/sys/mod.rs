//! Everything the standard library has no safe call for: each system call behind a function with a
//! safe signature. All `unsafe` of the crate is here.
//!
//! What is safe elsewhere is not here: sockets, pipes and duplicated descriptors come from `std`.

mod clock;
mod inline;
mod io;
mod lifeline;
mod poll;
mod process;
mod signals;
mod spawn;
mod waker;

pub(crate) use clock::{CoarseTime, coarse_clock};
pub(crate) use inline::{Consume, Family, Once};
pub(crate) use io::{
    ReadMode, duplicate_above, inode, is_stream_socket, receive, replace, send, set_nonblocking,
    shutdown, standard, take_inherited, widen, write,
};
pub(crate) use lifeline::Lifeline;
pub(crate) use poll::{Interest, PollSet, Registration, wait_at_most, wait_for};
pub(crate) use process::{
    SIGKILL, SIGTERM, at_exit, is_no_process, kill_and_reap, open_pidfd, reap, rename_process,
    signal,
};
pub(crate) use signals::signal_name;
pub(crate) use spawn::{Spawn, spawn};
pub(crate) use waker::Waker;

use std::io::{Error, ErrorKind, Result};

/// A system call's result: -1 is `errno`. Retries nothing; see [`retry`].
fn check(result: libc::c_int) -> Result<libc::c_int> {
    match result {
        -1 => Err(Error::last_os_error()),
        result => Ok(result),
    }
}

/// As [`check`], for calls that return a size.
fn check_size(result: libc::ssize_t) -> Result<usize> {
    usize::try_from(result).map_err(|_| Error::last_os_error())
}

/// Repeats a call that a signal handler of the program interrupted.
fn retry<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

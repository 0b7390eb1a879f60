//! Everything for which the standard library has no safe function: each system call is wrapped in a
//! function with a safe signature. All `unsafe` code of the crate is here.
//!
//! Sockets, pipes and duplicated descriptors come from `std`, where it has safe functions for them.

mod clock;
mod epoll;
mod fork;
mod huge_pages;
mod inherited;
mod inline;
mod io;
mod lent;
mod lifeline;
mod origin;
mod poll;
mod process;
mod rights;
mod settings;
mod shared_note;
mod signals;
mod spawn;
mod static_ref;
mod waker;

pub(crate) use clock::{CoarseTime, coarse_clock};
pub(crate) use epoll::{Epoll, Ready, Watched};
pub(crate) use fork::{
    Dispositions, Forked, OtherThreads, begin_session, flush_c_streams, fork, join_group,
    own_group, pid_of,
};
pub(crate) use huge_pages::use_huge_pages;
pub(crate) use inherited::{
    ExtraFd, Inherited, MARKER, Marker, Unserved, has_childs_socket, unserved,
};
pub(crate) use inline::{Consume, Family, Once};
pub(crate) use io::{
    ABOVE_STANDARD, ReadMode, above_standard, do_not_linger, duplicate_above, is_pipe_or_socket,
    is_stream_socket, is_unix_socket, own_end, receive, replace, send, set_nonblocking, shutdown,
    standard, unread, widen, write,
};
pub(crate) use lent::Lent;
pub(crate) use lifeline::Lifeline;
#[cfg(test)]
pub(crate) use lifeline::is_armed;
pub(crate) use origin::{Origin, exit_immediately, give_up};
pub(crate) use poll::{Interest, PollSet, Registration, SharedPoller, wait_at_most, wait_for};
pub(crate) use process::{
    ProcessHandle, SIGKILL, SIGTERM, at_exit, exit_code, is_no_child, is_no_process,
    is_secure_execution, kill_and_reap, no_process, open_pidfd, reap, rename_process,
};
pub(crate) use rights::{MOST_FDS, is_crowded, receive_with_fds, send_with_fds};
pub(crate) use settings::{
    MOST_CPUS, Resource, ResourceLimit, SIGABRT, SIGSEGV, SIGXCPU, SIGXFSZ, resource_limit,
    set_cpus, set_nice, set_oom_score_adj, set_resource_limit, set_umask,
};
pub(crate) use shared_note::{SharedNote, pid_namespace};
pub(crate) use signals::{accept_stop_signals, block_sigpipe, signal_name};
pub(crate) use spawn::{Leads, Spawn, spawn};
pub(crate) use static_ref::StaticRef;
pub(crate) use waker::Waker;

use std::io::{Error, ErrorKind, Result};

/// The result of a system call: -1 becomes the error in `errno`. Does not retry; see [`retry`].
fn check(result: libc::c_int) -> Result<libc::c_int> {
    match result {
        -1 => Err(Error::last_os_error()),
        result => Ok(result),
    }
}

/// Same as [`check`], for calls that return a size.
fn check_size(result: libc::ssize_t) -> Result<usize> {
    usize::try_from(result).map_err(|_| Error::last_os_error())
}

/// Repeats a call that was interrupted by one of the program's signal handlers.
fn retry<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

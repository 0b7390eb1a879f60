//! Child processes by pidfd: a process id is not used once it may have been reused.

use super::{above_standard, check, retry};
use std::ffi::CStr;
use std::io::Result;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// A descriptor that becomes readable when the process ends; see pidfd_open(2).
///
/// # Errors
///
/// `ESRCH` if the process has ended and was reaped by other code, `ENOSYS` before Linux 5.3.
pub(crate) fn open_pidfd(pid: u32) -> Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    let fd = check(fd as libc::c_int)?;
    // SAFETY: the descriptor was just created and has no other owner. The kernel makes it
    // close-on-exec.
    above_standard(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes the exit status of a child, if it has ended; see waitid(2).
///
/// # Errors
///
/// `ECHILD` if other code took it, or the program ignores SIGCHLD.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> Result<Option<ExitStatus>> {
    let id = pidfd.as_raw_fd() as libc::id_t;
    let flags = libc::WEXITED | libc::WNOHANG;
    // SAFETY: all-zero is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: points to a siginfo_t.
    retry(|| check(unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, flags) }))?;
    // SAFETY: waitid fills this field, or leaves it zero if no child has ended.
    if unsafe { info.si_pid() } == 0 {
        return Ok(None);
    }
    // SAFETY: waitid fills this field for every child that has ended.
    let status = unsafe { info.si_status() };
    // The encoding of wait(2) for what waitid(2) returns separately.
    Ok(Some(ExitStatus::from_raw(match info.si_code {
        libc::CLD_EXITED => (status & 0xff) << 8,
        libc::CLD_DUMPED => status | 0x80,
        _ => status,
    })))
}

/// Waits until a child can be reaped, and leaves that to others; see `WNOWAIT` in waitid(2).
///
/// # Errors
///
/// `ECHILD` if other code took its status, or the program ignores SIGCHLD.
pub(crate) fn wait_for_exit(pidfd: BorrowedFd<'_>) -> Result<()> {
    let id = pidfd.as_raw_fd() as libc::id_t;
    let flags = libc::WEXITED | libc::WNOWAIT;
    // SAFETY: all-zero is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: points to a siginfo_t.
    retry(|| check(unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, flags) }).map(drop))
}

/// The number of SIGTERM.
pub(crate) const SIGTERM: i32 = libc::SIGTERM;
/// The number of SIGKILL.
pub(crate) const SIGKILL: i32 = libc::SIGKILL;

/// Signals a child that has not been reaped, and if it leads a process group, that, too: the
/// group's id is the child's.
///
/// The pidfd is used first: only if the child exists, if only as a zombie, the group id is certain to be
/// its own. A child in that group is only probed by it, so that it does not get the signal twice:
/// programs take a second SIGTERM for impatience. If it does not lead a group, it is signalled alone.
pub(crate) fn signal(
    pid: u32,
    pidfd: BorrowedFd<'_>,
    number: i32,
    leads_group: bool,
) -> Result<()> {
    // SAFETY: takes no pointers.
    let is_leader = unsafe { libc::getpgid(pid as libc::pid_t) } == pid as libc::pid_t;
    let first = if leads_group && is_leader { 0 } else { number };
    let info: *const libc::siginfo_t = std::ptr::null();
    let (call, fd) = (libc::SYS_pidfd_send_signal, pidfd.as_raw_fd());
    // SAFETY: a null siginfo means what kill(2) would send.
    let sent = unsafe { libc::syscall(call, fd, first, info, 0) };
    check(sent as libc::c_int)?;
    if !leads_group {
        return Ok(());
    }
    // SAFETY: takes no pointers.
    check(unsafe { libc::kill(-(pid as libc::pid_t), number) })
        .map(drop)
        .or_else(|error| {
            // The child has changed its group, but has itself been signalled.
            if error.raw_os_error() == Some(libc::ESRCH) {
                Ok(())
            } else {
                Err(error)
            }
        })
}

/// Kills and reaps a child that was not reaped yet.
pub(crate) fn kill_and_reap(pid: u32) {
    let pid = pid as libc::pid_t;
    // SAFETY: takes no pointers. The process id is still the child's.
    let _ = unsafe { libc::kill(pid, libc::SIGKILL) };
    let status = std::ptr::null_mut();
    // SAFETY: a null pointer means that the status is not wanted. This fails if the program ignores
    // SIGCHLD, and then there is nothing to reap.
    let _ = retry(|| check(unsafe { libc::waitpid(pid, status, 0) }));
}

/// Sets the name that `ps` and `top` show, if called on the process's first thread: a program
/// executed through `/proc/self/exe` would otherwise be called `exe`. Truncated to 15 bytes.
pub(crate) fn rename_process(name: &CStr) {
    // SAFETY: takes no pointers.
    if unsafe { libc::syscall(libc::SYS_gettid) } != libc::c_long::from(std::process::id() as i32) {
        return;
    }
    // SAFETY: PR_SET_NAME reads a C string. It cannot fail otherwise.
    let _ = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Whether a call failed because there is no such process.
pub(crate) fn is_no_process(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESRCH)
}

/// The error of a call if there is no such process.
pub(crate) fn no_process() -> std::io::Error {
    std::io::Error::from_raw_os_error(libc::ESRCH)
}

/// Registers a function to be called when the process exits by exit(3); see atexit(3).
pub(crate) fn at_exit(function: extern "C" fn()) {
    // SAFETY: any function may be registered. This fails if there is no memory, and then the
    // function is not called.
    let _ = unsafe { libc::atexit(function) };
}

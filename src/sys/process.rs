//! Child processes: by pidfd, so that a process id is not used once it may have been reused.

use super::{
    Interest, ReadMode, above_standard, check, give_up, receive, retry, wait_at_most, wait_for,
};
use std::ffi::CStr;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The number of SIGTERM.
pub(crate) const SIGTERM: i32 = libc::SIGTERM;
/// The number of SIGKILL.
pub(crate) const SIGKILL: i32 = libc::SIGKILL;

/// A child that this process has not reaped.
///
/// Old systems lack some of what is done with pidfds, and sandboxes refuse some. That is then done with the
/// process id, which is the child's as long as nobody has reaped it.
#[derive(Debug)]
pub(crate) struct ProcessHandle {
    pid: u32,
    /// `None` where the system has none, or does not permit it.
    pidfd: Option<Arc<OwnedFd>>,
    /// Of the child of another process, which reports its end here, and reaps it when this is closed.
    report: Option<Mutex<Option<Arc<OwnedFd>>>>,
}

impl ProcessHandle {
    /// A handle to a child.
    ///
    /// # Errors
    ///
    /// `ESRCH` if it has ended and was reaped by other code.
    pub(crate) fn open(pid: u32) -> Result<Self> {
        let pidfd = match open_pidfd(pid) {
            Ok(pidfd) => Some(Arc::new(pidfd)),
            Err(error) if is_refusal(&error) => None,
            Err(error) => return Err(error),
        };
        Ok(ProcessHandle {
            pid,
            pidfd,
            report: None,
        })
    }

    /// A handle to a child of another process, which sends the end's [code](exit_code) through the other end
    /// of `report`, and does not reap it before `report` is closed.
    pub(crate) fn of_other(pid: u32, pidfd: OwnedFd, report: OwnedFd) -> Self {
        ProcessHandle {
            pid,
            pidfd: Some(Arc::new(pidfd)),
            report: Some(Mutex::new(Some(Arc::new(report)))),
        }
    }

    /// What becomes readable when the process can be reaped: its pidfd, or for the child of another process
    /// what its end is reported with, as long as that process is there. `None` if there is nothing to wait
    /// for by a descriptor.
    pub(crate) fn end(&self) -> Option<Arc<OwnedFd>> {
        match self.report() {
            Some(report) if !self.is_orphan() || self.has_pidfd_ended() => Some(report),
            _ => self.pidfd.clone(),
        }
    }

    fn report(&self) -> Option<Arc<OwnedFd>> {
        let report = self.report.as_ref()?.lock();
        report.expect("nothing panics under this lock").clone()
    }

    /// Gives up what this copy of the process shares with the original.
    pub(crate) fn give_up(&self) {
        let pidfd = self.pidfd.as_deref();
        // If a thread that the copy does not have held the lock, it is letting go.
        let report = self
            .report
            .as_ref()
            .and_then(|report| report.try_lock().ok());
        let report = report.as_ref().and_then(|report| report.as_deref());
        [pidfd, report].into_iter().flatten().for_each(give_up);
    }

    /// The child of another process can be reaped: its number is not used any more.
    pub(crate) fn let_go(&self) {
        if let Some(report) = &self.report {
            *report.lock().expect("nothing panics under this lock") = None;
        }
    }

    /// The status of the child of another process. If that is gone, so is the status.
    fn reported(&self, report: &OwnedFd) -> Result<Option<ExitStatus>> {
        let mut code = Vec::with_capacity(size_of::<i32>());
        let room = code.capacity();
        match receive(report, (&mut code, room), None, ReadMode::SocketNow) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Ok(0) | Err(_) => {}
            Ok(_) => {
                if let Ok(code) = code[..].try_into() {
                    return Ok(Some(ExitStatus::from_raw(i32::from_ne_bytes(code))));
                }
            }
        }
        match self.has_pidfd_ended() {
            true => Err(Error::from_raw_os_error(libc::ECHILD)),
            false => Ok(None),
        }
    }

    fn has_pidfd_ended(&self) -> bool {
        let Some(pidfd) = &self.pidfd else {
            return false;
        };
        wait_at_most(&**pidfd, Interest::Readable, Duration::ZERO).unwrap_or(false)
    }

    /// Takes the exit status, if the process has ended; see waitid(2).
    ///
    /// # Errors
    ///
    /// `ECHILD` if other code took it, or the program ignores SIGCHLD.
    pub(crate) fn reap(&self) -> Result<Option<ExitStatus>> {
        match self.report() {
            Some(report) => self.reported(&report),
            None => self.wait(libc::WEXITED | libc::WNOHANG),
        }
    }

    /// Whether the process has ended. It may have been reaped by other code.
    pub(crate) fn has_ended(&self) -> bool {
        if self.report.is_some() {
            return self.has_pidfd_ended();
        }
        let ended = self.wait(libc::WEXITED | libc::WNOHANG | libc::WNOWAIT);
        !matches!(ended, Ok(None))
    }

    /// Waits until the process can be reaped, and leaves that to others; see `WNOWAIT` in waitid(2).
    ///
    /// # Errors
    ///
    /// `ECHILD` if other code took its status, or the program ignores SIGCHLD.
    pub(crate) fn wait_for_exit(&self) -> Result<()> {
        if let (Some(_), Some(pidfd)) = (&self.report, &self.pidfd) {
            return wait_for(&**pidfd, Interest::Readable);
        }
        self.wait(libc::WEXITED | libc::WNOWAIT).map(drop)
    }

    /// Signals the process, and if it leads a process group, that, too: the group's id is the process's.
    ///
    /// The pidfd is used first: only if the process exists, if only as a zombie, the group id is certain
    /// to be its own. A process in that group is only probed by it, so that it does not get the signal
    /// twice: programs take a second SIGTERM for impatience. If it does not lead a group, it is signalled
    /// alone.
    ///
    /// # Errors
    ///
    /// `ESRCH` if other code has reaped it, `EPERM` if it may not be signalled.
    pub(crate) fn signal(&self, number: i32, leads_group: bool) -> Result<()> {
        let leads_group = leads_group && !self.is_orphan();
        let pid = self.pid as libc::pid_t;
        // SAFETY: takes no pointers.
        let is_leader = unsafe { libc::getpgid(pid) } == pid;
        let first = if leads_group && is_leader { 0 } else { number };
        let signalled = self.pidfd.as_ref().map(|pidfd| signal_pidfd(pidfd, first));
        match signalled {
            Some(Err(error)) if !is_refusal(&error) => return Err(error),
            Some(Ok(())) => {}
            // The process's own refusal to be signalled is found again here.
            Some(Err(_)) | None => {
                // As long as it can be waited for, the number is its own.
                let probe = self.wait(libc::WEXITED | libc::WNOHANG | libc::WNOWAIT);
                probe.map_err(|_| no_process())?;
                // SAFETY: takes no pointers.
                check(unsafe { libc::kill(pid, first) })?;
            }
        }
        if !leads_group {
            return Ok(());
        }
        // SAFETY: takes no pointers.
        check(unsafe { libc::kill(-pid, number) })
            .map(drop)
            .or_else(|error| {
                // The process has changed its group, but has itself been signalled.
                if is_no_process(&error) {
                    Ok(())
                } else {
                    Err(error)
                }
            })
    }

    /// Whether it is the child of a process that is gone: others reap it, and then the number of its group may
    /// be another's.
    fn is_orphan(&self) -> bool {
        let is_gone = |report: Arc<OwnedFd>| {
            wait_at_most(&*report, Interest::HangUp, Duration::ZERO).unwrap_or(true)
        };
        self.report.is_some() && self.report().is_none_or(is_gone)
    }

    fn wait(&self, flags: libc::c_int) -> Result<Option<ExitStatus>> {
        if let Some(pidfd) = &self.pidfd {
            match wait(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, flags) {
                Err(error) if is_refusal(&error) => {}
                result => return result,
            }
        }
        wait(libc::P_PID, self.pid, flags)
    }
}

/// What systems report that do not know a call, or its arguments, and what sandboxes report.
fn is_refusal(error: &Error) -> bool {
    let refusals = [libc::ENOSYS, libc::EINVAL, libc::EPERM, libc::EACCES];
    error
        .raw_os_error()
        .is_some_and(|it| refusals.contains(&it))
}

/// A descriptor of a process that this one has not reaped, and that is therefore there.
pub(crate) fn open_pidfd(pid: u32) -> Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    let fd = check(fd as libc::c_int)?;
    // SAFETY: the descriptor was just created and has no other owner. The kernel makes it
    // close-on-exec.
    above_standard(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn signal_pidfd(pidfd: &OwnedFd, number: i32) -> Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    let (call, fd) = (libc::SYS_pidfd_send_signal, pidfd.as_raw_fd());
    // SAFETY: a null siginfo means what kill(2) would send.
    let sent = unsafe { libc::syscall(call, fd, number, info, 0) };
    check(sent as libc::c_int).map(drop)
}

/// The exit status of a child, if it has ended.
fn wait(kind: libc::idtype_t, id: libc::id_t, flags: libc::c_int) -> Result<Option<ExitStatus>> {
    // SAFETY: all-zero is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: points to a siginfo_t.
    retry(|| check(unsafe { libc::waitid(kind, id, &raw mut info, flags) }))?;
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

/// The status of a child of this process that has ended, as a number that [`ProcessHandle::of_other`] takes;
/// it is left to be [reaped](reap).
pub(crate) fn exit_code(pidfd: impl AsFd) -> Result<Option<i32>> {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    let pidfd = pidfd.as_fd().as_raw_fd();
    let status = wait(libc::P_PIDFD, pidfd as libc::id_t, flags)?;
    Ok(status.map(ExitStatus::into_raw))
}

/// Kills and reaps a child that was not reaped yet, and kills the process group that it leads.
///
/// # Errors
///
/// If it may not be signalled, as it has become another user's: it is not waited for then.
pub(crate) fn kill_and_reap(pid: u32) -> Result<()> {
    let number = pid as libc::pid_t;
    // SAFETY: takes no pointers. The process id is still the child's.
    if unsafe { libc::getpgid(number) } == number {
        // Whether the process itself may be killed is found out below.
        // SAFETY: takes no pointers.
        let _ = unsafe { libc::kill(-number, libc::SIGKILL) };
    }
    // SAFETY: takes no pointers.
    match check(unsafe { libc::kill(number, libc::SIGKILL) }) {
        Err(error) if !is_no_process(&error) => return Err(error),
        _ => {}
    }
    reap(pid);
    Ok(())
}

/// Waits until a child that was not reaped yet has ended, and reaps it.
pub(crate) fn reap(pid: u32) {
    let status = std::ptr::null_mut();
    // SAFETY: a null pointer means that the status is not wanted. This fails if the program ignores
    // SIGCHLD, and then there is nothing to reap.
    let _ = retry(|| check(unsafe { libc::waitpid(pid as libc::pid_t, status, 0) }));
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

/// Whether a wait failed because there is no such child, or other code has reaped it.
pub(crate) fn is_no_child(error: &Error) -> bool {
    error.raw_os_error() == Some(libc::ECHILD)
}

/// Whether a call failed because there is no such process.
pub(crate) fn is_no_process(error: &Error) -> bool {
    error.raw_os_error() == Some(libc::ESRCH)
}

/// The error of a call if there is no such process.
pub(crate) fn no_process() -> Error {
    Error::from_raw_os_error(libc::ESRCH)
}

/// Whether the program has more rights than whoever has started it: see `AT_SECURE` in getauxval(3).
pub(crate) fn is_secure_execution() -> bool {
    // SAFETY: takes no pointers.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Registers a function to be called when the process exits by exit(3); see atexit(3).
pub(crate) fn at_exit(function: extern "C" fn()) {
    // SAFETY: any function may be registered. This fails if there is no memory, and then the
    // function is not called.
    let _ = unsafe { libc::atexit(function) };
}

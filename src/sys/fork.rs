//! Copies of this process that are to live on, made by fork(2).

use super::check;
use std::fs;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::ptr;

/// Which of the two processes this is, after a fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forked {
    /// The one that was copied; the process id of the copy.
    Original(u32),
    Copy,
}

/// The threads that a process may have besides the one that forks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OtherThreads {
    None,
    /// The main thread, which waits for this one: that of a test harness.
    Main,
}

/// Forks this process, by the C library's function: it keeps the library's own state right, and calls the
/// handlers of pthread_atfork(3).
///
/// # Errors
///
/// `EAGAIN` or `ENOMEM`, as of fork(2); or the names of the threads that would not be in the copy.
pub(crate) fn fork(others: OtherThreads) -> Result<Forked> {
    let names = other_threads(others)?;
    if !names.is_empty() {
        return Err(Error::other(format!(
            "it has other threads, which a copy would be without: {}",
            names.join(", ")
        )));
    }
    // SAFETY: no other thread has left anything half done that the copy will need: there is none, or only
    // one that waits for this one to end, in the standard library's code.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Forked::Copy),
        pid => Ok(Forked::Original(pid as u32)),
    }
}

/// The names of this process's other threads, but for those that it may have.
fn other_threads(may_have: OtherThreads) -> Result<Vec<String>> {
    const TASKS: &str = "/proc/self/task";
    // Each thread is a directory, and a directory has two links besides those in it.
    if may_have == OtherThreads::None && fs::metadata(TASKS)?.nlink() == 3 {
        return Ok(Vec::new());
    }
    // SAFETY: takes no pointers.
    let this = unsafe { libc::syscall(libc::SYS_gettid) };
    let (this, main) = (this.to_string(), std::process::id().to_string());
    let mut names = Vec::new();
    for task in fs::read_dir(TASKS)? {
        let task = task?;
        let number = task.file_name();
        let is_allowed = number == *this || may_have == OtherThreads::Main && number == *main;
        // One that has just been joined may be here for a moment, and has no name any more.
        if !is_allowed && let Ok(name) = fs::read_to_string(task.path().join("comm")) {
            names.push(format!("`{}`", name.trim_end()));
        }
    }
    Ok(names)
}

/// Writes what the C library has buffered of its output streams: a copy would write it once more.
pub(crate) fn flush_c_streams() {
    // SAFETY: a null pointer stands for all streams that are written to.
    let _ = unsafe { libc::fflush(ptr::null_mut()) };
}

/// What this process does about some signals.
pub(crate) struct Dispositions(Vec<(libc::c_int, libc::sigaction)>);

impl Dispositions {
    /// What it does now, about all.
    pub(crate) fn now() -> Self {
        let mut all = Vec::new();
        for number in 1..=libc::SIGRTMAX() {
            // SAFETY: all-zero is a valid sigaction.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: the pointers are null, and to room for a sigaction.
            let got = unsafe { libc::sigaction(number, ptr::null(), &raw mut action) };
            // The C library keeps some for itself.
            if got == 0 {
                all.push((number, action));
            }
        }
        Dispositions(all)
    }

    /// Those that are others now.
    pub(crate) fn that_have_changed(mut self) -> Self {
        let now = Dispositions::now();
        let same = |one: &libc::sigaction, other: &libc::sigaction| {
            one.sa_sigaction == other.sa_sigaction && one.sa_flags == other.sa_flags
        };
        let now = |number| now.0.iter().find(|(it, _)| *it == number);
        self.0
            .retain(|(number, before)| now(*number).is_none_or(|(_, now)| !same(before, now)));
        self
    }

    /// Makes it so again, and blocks no signal.
    pub(crate) fn restore(&self) {
        for (number, action) in &self.0 {
            // SAFETY: what was valid before is valid now. Those of SIGKILL and SIGSTOP cannot be set, and
            // have not changed.
            let _ = unsafe { libc::sigaction(*number, action, ptr::null_mut()) };
        }
        // SAFETY: all-zero is an empty set.
        let none: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: points to a set; the old one is not wanted.
        let _ = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
    }
}

/// Moves a process, 0 for this one, into the process group of this id, 0 for its own.
pub(crate) fn join_group(pid: u32, group: u32) -> Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::setpgid(pid as libc::pid_t, group as libc::pid_t) }).map(drop)
}

/// The process group of this process.
pub(crate) fn own_group() -> u32 {
    // SAFETY: takes no pointers.
    (unsafe { libc::getpgrp() }) as u32
}

/// Makes this process the leader of a session without a terminal.
pub(crate) fn begin_session() -> Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::setsid() }).map(drop)
}

/// The id, in this process's namespace, of the process that a pidfd from another process refers to.
pub(crate) fn pid_of(pidfd: &OwnedFd) -> Result<u32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    let pid = pid.and_then(|pid| pid.trim().parse().ok());
    pid.ok_or_else(|| Error::other("what came is not the descriptor of a process"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ProcessHandle;

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not support fork")]
    fn process_with_threads_is_not_forked() {
        // Those of the test harness, at least.
        let error = fork(OtherThreads::None).unwrap_err().to_string();
        assert!(error.starts_with("it has other threads"), "{error}");
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not support signals")]
    fn dispositions_are_restored() {
        let before = Dispositions::now();
        assert!(before.0.len() >= 60);
        let number = libc::SIGWINCH;
        // SAFETY: to ignore a signal is valid.
        unsafe { libc::signal(number, libc::SIG_IGN) };
        let changed = before.that_have_changed();
        assert_eq!(
            changed.0.iter().map(|(it, _)| *it).collect::<Vec<_>>(),
            [number]
        );
        changed.restore();
        let after = Dispositions::now();
        let action = after.0.iter().find(|(it, _)| *it == number);
        assert_eq!(action.unwrap().1.sa_sigaction, libc::SIG_DFL);
        assert!(after.that_have_changed().0.is_empty());
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no pidfds")]
    fn process_of_a_pidfd_is_found() {
        let handle = ProcessHandle::open(std::process::id()).unwrap();
        assert_eq!(pid_of(&handle.end().unwrap()).unwrap(), std::process::id());
        let null = OwnedFd::from(fs::File::open("/dev/null").unwrap());
        assert!(pid_of(&null).is_err());
    }
}

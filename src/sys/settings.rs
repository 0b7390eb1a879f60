//! What the kernel holds a process to. Each function is for this process, or for a child of this one that
//! it has not reaped.

use super::{check, is_no_process};
use std::fs;
use std::io::{Error, Result};
use std::mem::size_of_val;
use std::ptr;

/// What can be limited; see getrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Private writable memory.
    Data,
    CpuSeconds,
    FileSize,
    OpenFiles,
    Processes,
    Core,
}

impl Resource {
    fn number(self) -> libc::c_long {
        let number = match self {
            Resource::Data => libc::RLIMIT_DATA,
            Resource::CpuSeconds => libc::RLIMIT_CPU,
            Resource::FileSize => libc::RLIMIT_FSIZE,
            Resource::OpenFiles => libc::RLIMIT_NOFILE,
            Resource::Processes => libc::RLIMIT_NPROC,
            Resource::Core => libc::RLIMIT_CORE,
        };
        number as libc::c_long
    }
}

/// The two values of a limit, in the kernel's form for all architectures.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResourceLimit {
    /// What is enforced.
    pub(crate) soft: u64,
    /// What an unprivileged process can raise that to.
    pub(crate) hard: u64,
}

/// The most CPUs that a kernel has; their numbers are below that.
pub(crate) const MOST_CPUS: usize = 1 << 16;

/// The signals of limits that are reached, and of an allocation that fails.
pub(crate) const SIGABRT: i32 = libc::SIGABRT;
pub(crate) const SIGSEGV: i32 = libc::SIGSEGV;
pub(crate) const SIGXCPU: i32 = libc::SIGXCPU;
pub(crate) const SIGXFSZ: i32 = libc::SIGXFSZ;

/// 0 is this process in the calls below.
fn number(pid: Option<u32>) -> libc::pid_t {
    pid.unwrap_or(0) as libc::pid_t
}

/// The limit of a resource.
pub(crate) fn resource_limit(pid: Option<u32>, resource: Resource) -> Result<ResourceLimit> {
    let mut limit = ResourceLimit { soft: 0, hard: 0 };
    prlimit(pid, resource, ptr::null(), &raw mut limit)?;
    Ok(limit)
}

/// Sets the limit of a resource.
///
/// # Errors
///
/// `EPERM` if the hard limit would be raised, and this process may not do that.
pub(crate) fn set_resource_limit(
    pid: Option<u32>,
    resource: Resource,
    limit: ResourceLimit,
) -> Result<()> {
    prlimit(pid, resource, &raw const limit, ptr::null_mut())
}

/// prlimit(2), which the C library has with values of 32 bits on some architectures.
fn prlimit(
    pid: Option<u32>,
    resource: Resource,
    new: *const ResourceLimit,
    old: *mut ResourceLimit,
) -> Result<()> {
    let (pid, resource) = (libc::c_long::from(number(pid)), resource.number());
    // SAFETY: each pointer is null, or to a value in the kernel's form that the callers above have.
    let result = unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, new, old) };
    check(result as libc::c_int).map(drop)
}

/// Sets the nice value of all threads of a process; see setpriority(2).
pub(crate) fn set_nice(pid: Option<u32>, nice: i32) -> Result<()> {
    for_each_thread(pid, &mut |thread| {
        // The type of the first argument depends on the C library.
        let (which, who) = (libc::PRIO_PROCESS as _, thread as libc::id_t);
        // SAFETY: takes no pointers.
        check(unsafe { libc::setpriority(which, who, nice) }).map(drop)
    })
}

/// Sets which mode bits are removed of files that this process creates; see umask(2).
pub(crate) fn set_umask(mask: u32) {
    // SAFETY: takes no pointers, and cannot fail.
    unsafe { libc::umask(mask as libc::mode_t) };
}

/// Sets which CPUs all threads of a process may run on, one bit for each; see sched_setaffinity(2). The
/// kernel leaves out those that there are not: returns which are left, in this process for the calling
/// thread.
///
/// # Errors
///
/// `EINVAL` if there is none of them.
pub(crate) fn set_cpus(pid: Option<u32>, cpus: &[u8]) -> Result<Vec<u8>> {
    // Whole words, whose bytes are in the order of this machine.
    const WORD: usize = size_of::<libc::c_ulong>();
    let mut words = vec![0; MOST_CPUS / 8 / WORD];
    for (word, bytes) in words.iter_mut().zip(cpus.chunks(WORD)) {
        let mut whole = [0; WORD];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = libc::c_ulong::from_le_bytes(whole);
    }
    let len = size_of_val(&words[..]);
    for_each_thread(pid, &mut |thread| {
        // SAFETY: the words have this length.
        let result = unsafe { libc::sched_setaffinity(thread, len, words.as_ptr().cast()) };
        check(result).map(drop)
    })?;
    // SAFETY: the words have this length.
    let result = unsafe { libc::sched_getaffinity(number(pid), len, words.as_mut_ptr().cast()) };
    check(result)?;
    Ok(words.iter().flat_map(|word| word.to_le_bytes()).collect())
}

/// Sets how likely the kernel kills a process when memory runs out; see proc_pid_oom_score_adj(5).
pub(crate) fn set_oom_score_adj(pid: Option<u32>, adjustment: i32) -> Result<()> {
    let file = proc_path(pid, "oom_score_adj");
    let written = fs::write(&file, adjustment.to_string());
    written.map_err(|error| proc_error(&file, &error))
}

/// Does something to each thread that a process has.
fn for_each_thread(
    pid: Option<u32>,
    change: &mut dyn FnMut(libc::pid_t) -> Result<()>,
) -> Result<()> {
    let dir = proc_path(pid, "task");
    for thread in fs::read_dir(&dir).map_err(|error| proc_error(&dir, &error))? {
        let name = thread?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        match number.map_or(Ok(()), &mut *change) {
            // It has ended.
            Err(error) if is_no_process(&error) => {}
            result => result?,
        }
    }
    Ok(())
}

fn proc_path(pid: Option<u32>, file: &str) -> String {
    match pid {
        Some(pid) => format!("/proc/{pid}/{file}"),
        None => format!("/proc/self/{file}"),
    }
}

/// Adds to an error which file it is about.
fn proc_error(file: &str, error: &Error) -> Error {
    Error::new(error.kind(), format!("{file}: {error}"))
}

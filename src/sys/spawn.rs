//! Starting a program with posix_spawn(3).
//!
//! Not `std::process::Command`: it does not reset ignored signals, cannot close the program's
//! descriptors that are not close-on-exec, and doing either in a `pre_exec` hook would make it
//! `fork`, which for a parent of 10 GB takes as long as copying its page tables.

use super::signals::stop_signals;
use std::ffi::{CStr, CString, c_char, c_int, c_short};
use std::io::{Error, ErrorKind, Result};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

/// What to start.
pub(crate) struct Spawn<'a> {
    /// The program; searched for in `PATH` if it contains no slash.
    pub(crate) program: &'a CStr,
    /// Its arguments; the first is its own name.
    pub(crate) args: &'a [CString],
    /// Its whole environment, each entry as `NAME=value`.
    pub(crate) env: &'a [CString],
    /// The directory it starts in.
    pub(crate) dir: Option<&'a CStr>,
    pub(crate) leads: Leads,
    /// Its descriptors: one of this process's, and the number it gets in the child. The former must
    /// be above all of the latter, see [`super::duplicate_above`]. 0, 1 and 2 are inherited if not
    /// listed here.
    pub(crate) fds: &'a [(BorrowedFd<'a>, RawFd)],
    /// All other descriptors below this number are closed, and all from it on. Where the C library
    /// cannot do the latter, those are closed that are open and not close-on-exec just before the
    /// start: one that another thread opens meanwhile is inherited.
    pub(crate) close_from: RawFd,
}

/// What a new process leads. Otherwise it belongs to what its parent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leads {
    Nothing,
    /// A process group.
    Group,
    /// A session, and a process group in it.
    Session,
}

/// In glibc since 2.26, which refuses flags that it does not know, and in every musl that Rust
/// supports.
const POSIX_SPAWN_SETSID: c_int = 0x80;

/// Starts a program with default signal dispositions, and with no signal blocked but those of
/// [`stop_signals`]. Returns its process id.
///
/// # Errors
///
/// Whatever prevented its execution: the C library reports errors of the new process, too.
pub(crate) fn spawn(what: &Spawn<'_>) -> Result<u32> {
    let mut actions = FileActions::new()?;
    if let Some(dir) = what.dir {
        actions.change_dir(dir)?;
    }
    for &(fd, number) in what.fds {
        assert!(
            fd.as_raw_fd() >= what.close_from,
            "a descriptor's number collides with the child's"
        );
        actions.duplicate(fd, number)?;
    }
    for number in 3..what.close_from {
        if what.fds.iter().all(|(_, given)| *given != number) {
            actions.close(number)?;
        }
    }
    if let Some(add) = add_closefrom() {
        // SAFETY: the actions are initialised.
        check(unsafe { add(&raw mut actions.0, what.close_from) })?;
    } else {
        for number in inheritable(what.close_from)? {
            actions.close(number)?;
        }
    }
    let attributes = SpawnAttributes::new(what.leads)?;
    let (args, env) = (pointers(what.args), pointers(what.env));
    let mut pid: libc::pid_t = 0;
    // SAFETY: `program` is a C string; `args` and `env` are null-terminated arrays of C strings;
    // actions and attributes are initialised. All outlive the call, which returns after the
    // program is executed.
    check(unsafe {
        libc::posix_spawnp(
            &raw mut pid,
            what.program.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            args.as_ptr(),
            env.as_ptr(),
        )
    })?;
    Ok(pid as u32)
}

/// An array of C strings in the form that execve(2) needs.
fn pointers(strings: &[CString]) -> Vec<*mut c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr().cast_mut())
        .chain([ptr::null_mut()])
        .collect()
}

/// The posix_spawn functions return the error instead of setting `errno`.
fn check(result: c_int) -> Result<()> {
    match result {
        0 => Ok(()),
        error => Err(Error::from_raw_os_error(error)),
    }
}

/// The new process's actions before it executes the program.
struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    fn new() -> Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: initialises what it points to.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: it has just been initialised.
        Ok(FileActions(unsafe { actions.assume_init() }))
    }

    fn duplicate(&mut self, fd: BorrowedFd<'_>, number: RawFd) -> Result<()> {
        let fd = fd.as_raw_fd();
        // SAFETY: the actions are initialised.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, fd, number) })
    }

    /// Closes a descriptor, which need not be open.
    fn close(&mut self, number: RawFd) -> Result<()> {
        // SAFETY: the actions are initialised.
        check(unsafe { libc::posix_spawn_file_actions_addclose(&raw mut self.0, number) })
    }

    fn change_dir(&mut self, dir: &CStr) -> Result<()> {
        let Some(add) = add_chdir() else {
            let why = "setting the child's directory needs glibc 2.29";
            return Err(Error::new(ErrorKind::Unsupported, why));
        };
        // SAFETY: the actions are initialised; the path is copied.
        check(unsafe { add(&raw mut self.0, dir.as_ptr()) })
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: initialised, and not used again.
        let _ = unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

/// The new process's signal state and process group.
struct SpawnAttributes(libc::posix_spawnattr_t);

impl SpawnAttributes {
    fn new(leads: Leads) -> Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: initialises what it points to.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: it has just been initialised. From here on `drop` destroys it.
        let mut this = SpawnAttributes(unsafe { attributes.assume_init() });
        let attributes = &raw mut this.0;
        // A terminal's stop signal that reached the new process before it left the parent's group
        // would stop it before it has executed the program: posix_spawn never returned, and nothing
        // that continues the parent's group would reach it.
        let blocked = stop_signals();
        // SAFETY: attributes and set are initialised.
        check(unsafe { libc::posix_spawnattr_setsigmask(attributes, &raw const blocked) })?;
        let mut all = MaybeUninit::uninit();
        // SAFETY: initialises what it points to.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: attributes and set are initialised.
        check(unsafe { libc::posix_spawnattr_setsigdefault(attributes, all.as_ptr()) })?;
        // SAFETY: the attributes are initialised. 0 means the process's own id.
        check(unsafe { libc::posix_spawnattr_setpgroup(attributes, 0) })?;
        let flags = libc::POSIX_SPAWN_SETSIGMASK
            | libc::POSIX_SPAWN_SETSIGDEF
            | match leads {
                Leads::Nothing => 0,
                Leads::Group => libc::POSIX_SPAWN_SETPGROUP,
                Leads::Session => POSIX_SPAWN_SETSID,
            };
        // SAFETY: the attributes are initialised.
        let set = unsafe { libc::posix_spawnattr_setflags(attributes, flags as c_short) };
        check(set).map_err(|error| match leads {
            Leads::Session if error.kind() == ErrorKind::InvalidInput => {
                let why = "a session of the child's own needs glibc 2.26";
                Error::new(ErrorKind::Unsupported, why)
            }
            _ => error,
        })?;
        Ok(this)
    }
}

impl Drop for SpawnAttributes {
    fn drop(&mut self) {
        // SAFETY: initialised, and not used again.
        let _ = unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

type AddChdir = unsafe extern "C" fn(*mut libc::posix_spawn_file_actions_t, *const c_char) -> c_int;
type AddClosefrom = unsafe extern "C" fn(*mut libc::posix_spawn_file_actions_t, c_int) -> c_int;

// Functions that not every version of the C library has. A program that is linked dynamically looks
// for them when it runs, since one that names them does not start where they are missing. A static
// program has none to look them up, but has its C library with it, so they are linked directly. A
// weak reference would not do: it does not make the linker take anything from a static library.

/// Every musl that Rust supports has the function, and static programs do not run on an older glibc
/// than they were built with.
#[cfg(any(
    target_env = "musl",
    all(target_env = "gnu", target_feature = "crt-static")
))]
fn add_chdir() -> Option<AddChdir> {
    unsafe extern "C" {
        fn posix_spawn_file_actions_addchdir_np(
            actions: *mut libc::posix_spawn_file_actions_t,
            dir: *const c_char,
        ) -> c_int;
    }
    Some(posix_spawn_file_actions_addchdir_np)
}

/// glibc 2.29.
#[cfg(not(any(
    target_env = "musl",
    all(target_env = "gnu", target_feature = "crt-static")
)))]
fn add_chdir() -> Option<AddChdir> {
    let function = symbol(c"posix_spawn_file_actions_addchdir_np")?;
    // SAFETY: the function of that name has this signature in every C library that has it.
    Some(unsafe { std::mem::transmute::<*mut libc::c_void, AddChdir>(function) })
}

/// glibc 2.34.
#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
fn add_closefrom() -> Option<AddClosefrom> {
    unsafe extern "C" {
        fn posix_spawn_file_actions_addclosefrom_np(
            actions: *mut libc::posix_spawn_file_actions_t,
            from: c_int,
        ) -> c_int;
    }
    Some(posix_spawn_file_actions_addclosefrom_np)
}

/// glibc 2.34. In a static program for musl this finds nothing.
#[cfg(not(all(target_env = "gnu", target_feature = "crt-static")))]
fn add_closefrom() -> Option<AddClosefrom> {
    let function = symbol(c"posix_spawn_file_actions_addclosefrom_np")?;
    // SAFETY: the function of that name has this signature in every C library that has it.
    Some(unsafe { std::mem::transmute::<*mut libc::c_void, AddClosefrom>(function) })
}

/// A function of the C library that not every version has.
#[cfg(not(all(target_env = "gnu", target_feature = "crt-static")))]
fn symbol(name: &CStr) -> Option<*mut libc::c_void> {
    // SAFETY: the name is a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

/// The open descriptors from this number on that a program would inherit.
fn inheritable(least: RawFd) -> Result<Vec<RawFd>> {
    let error = |error: Error| {
        let message = format!("cannot list the descriptors in /proc/thread-self/fd: {error}");
        Error::new(error.kind(), message)
    };
    let mut found = Vec::new();
    // A thread can have descriptors of its own.
    for entry in std::fs::read_dir("/proc/thread-self/fd").map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        let number = name.to_str().and_then(|name| name.parse::<RawFd>().ok());
        let Some(number) = number.filter(|number| *number >= least) else {
            continue;
        };
        // SAFETY: takes no pointers. It fails if the descriptor was closed meanwhile.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags != -1 && flags & libc::FD_CLOEXEC == 0 {
            found.push(number);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not support F_SETFD")]
    fn inheritable_descriptors_are_those_that_are_not_close_on_exec() {
        let (inherited, private) = (File::open("/dev/null").unwrap(), File::open("/dev/null"));
        let private = private.unwrap();
        // SAFETY: takes no pointers.
        let result = unsafe { libc::fcntl(inherited.as_raw_fd(), libc::F_SETFD, 0) };
        assert_eq!(result, 0);
        let number = inherited.as_fd().as_raw_fd();
        let found = inheritable(number).unwrap();
        assert!(found.contains(&number));
        assert!(!found.contains(&private.as_raw_fd()));
        assert!(!inheritable(number + 1).unwrap().contains(&number));
        assert!(inheritable(3).unwrap().iter().all(|number| *number >= 3));
    }
}

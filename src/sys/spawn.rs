//! Starting a program with posix_spawn(3).
//!
//! Not `std::process::Command`: it does not reset ignored signals, cannot close the program's
//! descriptors that are not close-on-exec, and doing either in a `pre_exec` hook would make it
//! `fork`, which for a parent of 10 GB takes as long as copying its page tables.

use std::ffi::{CStr, CString, c_char, c_int, c_short, c_void};
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
    /// Its descriptors: one of this process's, and the number it gets in the child. The former must
    /// be above all of the latter, see [`super::duplicate_above`]. 0, 1 and 2 are inherited if not
    /// listed here.
    pub(crate) fds: &'a [(BorrowedFd<'a>, RawFd)],
    /// All other descriptors below this number are closed, and all from it on if the C library
    /// can (glibc 2.34). Otherwise those that are not close-on-exec are inherited.
    pub(crate) close_from: RawFd,
}

/// Starts a program in its own process group, with default signal dispositions and no signal
/// blocked. Returns its process id.
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
    actions.close_from(what.close_from)?;
    let attributes = SpawnAttributes::new()?;
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
        type AddChdir =
            unsafe extern "C" fn(*mut libc::posix_spawn_file_actions_t, *const c_char) -> c_int;
        let Some(function) = symbol(c"posix_spawn_file_actions_addchdir_np") else {
            let why = "setting the child's directory needs glibc 2.29 or musl 1.1.24";
            return Err(Error::new(ErrorKind::Unsupported, why));
        };
        // SAFETY: the function of that name has this signature in every C library that has it.
        let add = unsafe { std::mem::transmute::<*mut c_void, AddChdir>(function) };
        // SAFETY: the actions are initialised; the path is copied.
        check(unsafe { add(&raw mut self.0, dir.as_ptr()) })
    }

    fn close_from(&mut self, number: RawFd) -> Result<()> {
        type AddClosefrom =
            unsafe extern "C" fn(*mut libc::posix_spawn_file_actions_t, c_int) -> c_int;
        let Some(function) = symbol(c"posix_spawn_file_actions_addclosefrom_np") else {
            return Ok(());
        };
        // SAFETY: the function of that name has this signature in every C library that has it.
        let add = unsafe { std::mem::transmute::<*mut c_void, AddClosefrom>(function) };
        // SAFETY: the actions are initialised.
        check(unsafe { add(&raw mut self.0, number) })
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
    fn new() -> Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: initialises what it points to.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: it has just been initialised. From here on `drop` destroys it.
        let mut this = SpawnAttributes(unsafe { attributes.assume_init() });
        let attributes = &raw mut this.0;
        let (mut none, mut all) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: initialises what it points to.
        unsafe { libc::sigemptyset(none.as_mut_ptr()) };
        // SAFETY: as above.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: attributes and set are initialised.
        check(unsafe { libc::posix_spawnattr_setsigmask(attributes, none.as_ptr()) })?;
        // SAFETY: as above.
        check(unsafe { libc::posix_spawnattr_setsigdefault(attributes, all.as_ptr()) })?;
        // SAFETY: the attributes are initialised. 0 means the process's own id.
        check(unsafe { libc::posix_spawnattr_setpgroup(attributes, 0) })?;
        let flags = libc::POSIX_SPAWN_SETSIGMASK
            | libc::POSIX_SPAWN_SETSIGDEF
            | libc::POSIX_SPAWN_SETPGROUP;
        // SAFETY: the attributes are initialised.
        check(unsafe { libc::posix_spawnattr_setflags(attributes, flags as c_short) })?;
        Ok(this)
    }
}

impl Drop for SpawnAttributes {
    fn drop(&mut self) {
        // SAFETY: initialised, and not used again.
        let _ = unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

/// A function of the C library that not every version has.
fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name is a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

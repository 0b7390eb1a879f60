//! Memory that a parent shares with a child: what the child has stored there is left when it is killed.

use super::{above_standard, check, check_size, retry};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

/// What is in the file. It takes a page.
#[derive(Debug)]
#[repr(C)]
struct Words {
    /// The process id of the one that stores, or [`STRANGER`].
    author: AtomicU32,
    /// What it has stored.
    word: AtomicU32,
}

/// An author whose id may be that of another process for the parent. No process has this one.
const STRANGER: u32 = u32::MAX;

const LEN: usize = size_of::<Words>();

/// Not in every version of the libc crate. Since Linux 6.3, which can be told to refuse memory that could
/// be executed; see memfd_create(2).
const MFD_NOEXEC_SEAL: libc::c_uint = 8;

/// See the module's documentation. A word of it, which is zero until the child has stored something.
#[derive(Debug)]
pub(crate) struct SharedNote(NonNull<Words>);

// SAFETY: it owns a mapping of atomics, which any thread may use and drop.
unsafe impl Send for SharedNote {}
// SAFETY: as above.
unsafe impl Sync for SharedNote {}

impl SharedNote {
    /// A note, and what a child [inherits](SharedNote::sign) to write it.
    pub(crate) fn new() -> Result<(Self, OwnedFd)> {
        if file_size_limit()? < LEN as libc::rlim_t {
            // A write would be answered with SIGXFSZ.
            return Err(Error::from_raw_os_error(libc::EFBIG));
        }
        let fd = match create(libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL) {
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                create(libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)?
            }
            fd => fd?,
        };
        let zero = [0u8; LEN];
        let (number, start) = (fd.as_raw_fd(), zero.as_ptr().cast());
        // The page is there from now on: a lack of memory is an error here, and not a signal later.
        // SAFETY: `start` points to `LEN` bytes.
        retry(|| check_size(unsafe { libc::write(number, start, LEN) }))?;
        // If the child could make the file shorter, this process would get SIGBUS.
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: takes no pointers.
        check(unsafe { libc::fcntl(number, libc::F_ADD_SEALS, seals) })?;
        Ok((SharedNote::map(&fd)?, fd))
    }

    /// The parent's note, in a child. The first process that has it signs it: the child, or what it has
    /// started in its place. With the parent's [namespace](pid_namespace) one from another does so as a
    /// stranger: there, it may have the child's number.
    ///
    /// # Errors
    ///
    /// If it cannot be mapped, or another process has signed it.
    pub(crate) fn sign(fd: &OwnedFd, namespace: Option<u64>) -> Result<Self> {
        let note = SharedNote::map(fd)?;
        let author = match namespace {
            Some(parents) if pid_namespace() != Some(parents) => STRANGER,
            _ => std::process::id(),
        };
        let place = &note.words().author;
        // ORDERING: the parent reads it when this process has ended.
        place
            .compare_exchange(0, author, Ordering::Relaxed, Ordering::Relaxed)
            .map_err(|_| Error::other("another process serves in this one's place"))?;
        Ok(note)
    }

    fn map(fd: &OwnedFd) -> Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let (address, fd) = (ptr::null_mut(), fd.as_raw_fd());
        // SAFETY: makes a new mapping, which overlaps no other.
        let at = unsafe { libc::mmap(address, LEN, protection, libc::MAP_SHARED, fd, 0) };
        if at == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or(ErrorKind::AddrNotAvailable)?;
        Ok(SharedNote(at))
    }

    /// The process id of the one that has signed it, or 0. Not that of any process, if it is a stranger.
    pub(crate) fn author(&self) -> u32 {
        // ORDERING: as in `load`.
        self.words().author.load(Ordering::Relaxed)
    }

    /// What the child has stored last.
    pub(crate) fn load(&self) -> u32 {
        // ORDERING: nothing else that the child did is looked at. A process that has ended stores nothing
        // any more, and this is called after its end was reported.
        self.words().word.load(Ordering::Relaxed)
    }

    /// Stores a word. If the process is killed in what follows, the word is there. For a thread that alone
    /// stores.
    #[inline]
    pub(crate) fn store(&self, value: u32) {
        // ORDERING: the processor stores what it was told to before the thread ends, and nobody looks
        // before that. Only the compiler must not move what follows.
        self.words().word.store(value, Ordering::Relaxed);
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
    }

    /// As [`store`](SharedNote::store), unless `replaces` says that what is there is to stay. Any thread may
    /// do so at the same time.
    pub(crate) fn store_if(&self, value: u32, replaces: impl Fn(u32) -> bool) {
        let word = &self.words().word;
        // ORDERING: as in `store`.
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        let update = |old| replaces(old).then_some(value);
        let _ = word.fetch_update(set, fetch, update);
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
    }

    #[inline]
    fn words(&self) -> &Words {
        // SAFETY: mapped, as long as `self` exists, from a file that has this length and cannot get
        // shorter. Mappings begin at a page, so it is aligned. Any bits are atomics of this
        // kind, and the other process, if it does not keep to atomic stores, tears only its own words.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedNote {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and no reference to it is left.
        let _ = unsafe { libc::munmap(self.0.as_ptr().cast(), LEN) };
    }
}

/// The namespace of this process's id: see pid_namespaces(7).
pub(crate) fn pid_namespace() -> Option<u64> {
    let namespace = std::fs::metadata("/proc/self/ns/pid").ok()?;
    Some(namespace.ino())
}

/// How large files may be, those in memory included: see `RLIMIT_FSIZE` in getrlimit(2).
fn file_size_limit() -> Result<libc::rlim_t> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: points to a limit.
    check(unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) })?;
    Ok(limit.rlim_cur)
}

fn create(flags: libc::c_uint) -> Result<OwnedFd> {
    // SAFETY: the name is a C string.
    let fd = check(unsafe { libc::memfd_create(c"offspring".as_ptr(), flags) })?;
    // SAFETY: the descriptor was just created and has no other owner.
    above_standard(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not support memfd_create")]
    fn what_one_stores_the_other_loads() {
        let (parents, fd) = SharedNote::new().unwrap();
        assert_eq!((parents.author(), parents.load()), (0, 0));
        let childs = SharedNote::sign(&fd, pid_namespace()).unwrap();
        assert_eq!(parents.author(), std::process::id());
        assert!(SharedNote::sign(&fd, None).is_err(), "one process only");
        drop(fd);
        childs.store(7);
        assert_eq!(parents.load(), 7);
        childs.store(u32::MAX);
        drop(childs);
        assert_eq!(parents.load(), u32::MAX);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not support memfd_create")]
    fn process_of_another_namespace_signs_as_a_stranger() {
        for (namespace, author) in [(Some(7), STRANGER), (None, std::process::id())] {
            let (parents, fd) = SharedNote::new().unwrap();
            SharedNote::sign(&fd, namespace).unwrap();
            assert_eq!(parents.author(), author);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no /proc")]
    fn namespace_is_the_number_that_the_system_shows() {
        let shown = std::fs::read_link("/proc/self/ns/pid").unwrap();
        let number = pid_namespace().unwrap();
        assert_eq!(shown.to_str(), Some(&*format!("pid:[{number}]")));
    }

    /// A process that has a longer mapping of a file than the file is gets SIGBUS.
    #[test]
    #[cfg_attr(miri, ignore = "Miri does not support memfd_create")]
    fn child_cannot_make_it_shorter() {
        let (_word, fd) = SharedNote::new().unwrap();
        let file = File::from(fd.as_fd().try_clone_to_owned().unwrap());
        for len in [0, 1, 1 << 20] {
            let error = file.set_len(len).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        }
        // SAFETY: takes no pointers.
        let sealed = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) };
        assert_eq!(sealed, -1, "the seals are final");
    }
}

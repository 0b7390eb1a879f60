//! How a process detects that it was started as a child, and takes what it inherited.
//!
//! This is here since it makes owners for descriptors that the process did not open itself. That is
//! sound only if the parent passed them on for this purpose, and only once.

use super::io::inode;
use super::{ABOVE_STANDARD, check, duplicate_above, standard};
use std::fmt;
use std::io::Result;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The environment variable that marks a child. Its value begins with the inode of the socket on
/// descriptor 0: a process that inherited the variable from a child, but not that socket, is not a
/// child. So the variable need not be removed, which would race with other threads.
pub(crate) const MARKER: &str = "OFFSPRING_CHILD";

/// What the names of childrens' ends of connections begin with: see unix(7). They are in no
/// directory, and nothing can be connected to them.
const NAME: &[u8] = b"\0offspring-child-";

/// What comes before the place in a marker.
const PLACE: &str = " at=";

/// A descriptor that a child may inherit in addition to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExtraFd {
    /// The reading end of the pipe that tells whether the parent is alive.
    Lifeline = 3,
    /// The parent's standard output, in children whose descriptor 1 is another file.
    Stdout = 4,
    /// The memory in which the child notes what it begins: see [`SharedNote`](super::SharedNote).
    Note = 5,
}

impl ExtraFd {
    /// No child inherits a descriptor of this number or above.
    pub(crate) const LIMIT: RawFd = 6;

    /// Its number in the child.
    pub(crate) fn number(self) -> RawFd {
        self as RawFd
    }
}

/// What a child is told about its descriptors: the value of [`MARKER`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marker {
    /// The inode of its connection.
    socket: u64,
    /// The inodes of what else it inherits.
    lifeline: Option<u64>,
    stdout: Option<u64>,
    note: Option<u64>,
    /// The parent's namespace of process ids, if the child may be in another.
    namespace: Option<u64>,
    /// Where in the program's source the child is to be served, if that matters.
    place: Option<String>,
}

impl Marker {
    /// For a child that has this end of the connection. It gets a name, so that a child whose
    /// environment was cleared can still find out what it has.
    pub(crate) fn new(
        socket: impl AsFd,
        namespace: Option<u64>,
        place: Option<String>,
    ) -> Result<Self> {
        let socket = socket.as_fd();
        let inode = inode(socket)?;
        let name = [NAME, inode.to_string().as_bytes()].concat();
        // Without a name there is only the variable.
        let _ = bind(socket, &name);
        Ok(Marker {
            socket: inode,
            lifeline: None,
            stdout: None,
            note: None,
            namespace,
            place,
        })
    }

    /// Adds a descriptor that it inherits.
    pub(crate) fn add(&mut self, which: ExtraFd, fd: impl AsFd) -> Result<()> {
        let inode = Some(inode(fd.as_fd())?);
        match which {
            ExtraFd::Lifeline => self.lifeline = inode,
            ExtraFd::Stdout => self.stdout = inode,
            ExtraFd::Note => self.note = inode,
        }
        Ok(())
    }

    /// The marker with this text.
    fn parse(text: &str) -> Option<Self> {
        // The place comes last, since it may contain anything.
        let (words, place) = match text.split_once(PLACE) {
            Some((words, place)) => (words, Some(place.to_owned())),
            None => (text, None),
        };
        let mut words = words.split(' ');
        let mut marker = Marker {
            socket: words.next()?.parse().ok()?,
            lifeline: None,
            stdout: None,
            note: None,
            namespace: None,
            place,
        };
        for word in words {
            match word.split_once('=') {
                Some(("lifeline", inode)) => marker.lifeline = Some(inode.parse().ok()?),
                Some(("stdout", inode)) => marker.stdout = Some(inode.parse().ok()?),
                Some(("note", inode)) => marker.note = Some(inode.parse().ok()?),
                Some(("namespace", inode)) => marker.namespace = Some(inode.parse().ok()?),
                _ => {}
            }
        }
        Some(marker)
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.socket)?;
        if let Some(inode) = self.lifeline {
            write!(f, " lifeline={inode}")?;
        }
        if let Some(inode) = self.stdout {
            write!(f, " stdout={inode}")?;
        }
        if let Some(inode) = self.note {
            write!(f, " note={inode}")?;
        }
        if let Some(inode) = self.namespace {
            write!(f, " namespace={inode}")?;
        }
        if let Some(place) = &self.place {
            write!(f, "{PLACE}{place}")?;
        }
        Ok(())
    }
}

/// This process, which was started as a child and has not taken its connection yet.
#[derive(Debug)]
pub(crate) struct Unserved(Marker);

/// Whether this process was started as a child and has not taken its connection yet.
pub(crate) fn unserved() -> Option<Unserved> {
    let marker = Marker::parse(&std::env::var(MARKER).ok()?)?;
    (inode(standard(0)).ok()? == marker.socket).then_some(Unserved(marker))
}

/// Whether descriptor 0 is a connection for a child: if the process is not [`unserved`], its
/// environment has been changed, or it belongs to a program that the child has started.
pub(crate) fn has_childs_socket() -> bool {
    // SAFETY: all-zero is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&address) as libc::socklen_t;
    let (fd, start) = (standard(0).as_raw_fd(), (&raw mut address).cast());
    // SAFETY: `start` points to `len` writable bytes, and `len` to its length.
    if unsafe { libc::getsockname(fd, start, &raw mut len) } == -1 {
        return false;
    }
    address.sun_family == libc::AF_UNIX as libc::sa_family_t
        && address
            .sun_path
            .iter()
            .map(|c| *c as u8)
            .take(NAME.len())
            .eq(NAME.iter().copied())
}

/// Gives a Unix socket a name.
fn bind(socket: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    // SAFETY: all-zero is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    assert!(name.len() < address.sun_path.len(), "the name is short");
    for (to, from) in address.sun_path.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    let len = std::mem::offset_of!(libc::sockaddr_un, sun_path) + name.len();
    let (fd, start) = (socket.as_raw_fd(), (&raw const address).cast());
    // SAFETY: `start` points to more than `len` bytes.
    check(unsafe { libc::bind(fd, start, len as libc::socklen_t) }).map(drop)
}

/// What a child inherited.
#[derive(Debug)]
pub(crate) struct Inherited {
    /// The connection, with a number above those of the standard descriptors.
    pub(crate) socket: OwnedFd,
    pub(crate) lifeline: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) note: Option<OwnedFd>,
    /// See [`SharedNote::sign`](super::SharedNote::sign).
    pub(crate) namespace: Option<u64>,
    /// What it should have inherited, too, but the program has closed.
    pub(crate) missing: Option<ExtraFd>,
}

impl Unserved {
    /// Where in the program's source it is to be served, if that matters.
    pub(crate) fn place(&self) -> Option<&str> {
        self.0.place.as_deref()
    }

    /// Takes what the process inherited, and leaves descriptor 0 as it is. `None` if this was done
    /// before.
    pub(crate) fn claim(self) -> Option<Result<Inherited>> {
        static CLAIMED: AtomicBool = AtomicBool::new(false);
        if CLAIMED.swap(true, Ordering::Relaxed) {
            return None;
        }
        let mut missing = None;
        let mut take = |which: ExtraFd, inode: Option<u64>| {
            let fd = take(which, inode?);
            if fd.is_none() {
                missing = missing.or(Some(which));
            }
            fd
        };
        // Before anything gets the number of one that the program has closed.
        let lifeline = take(ExtraFd::Lifeline, self.0.lifeline);
        let stdout = take(ExtraFd::Stdout, self.0.stdout);
        let note = take(ExtraFd::Note, self.0.note);
        let socket = duplicate_above(standard(0), ABOVE_STANDARD);
        Some(socket.map(|socket| Inherited {
            socket,
            lifeline,
            stdout,
            note,
            namespace: self.0.namespace,
            missing,
        }))
    }
}

/// Takes one descriptor, and makes it close-on-exec, if it is still what the parent passed on.
fn take(which: ExtraFd, expected: u64) -> Option<OwnedFd> {
    let number = which.number();
    // SAFETY: if there is a descriptor of this number, nothing closes it while it is borrowed: only
    // this process's first call of `run` gets here, and other owners than the one below do not
    // close what they do not own.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if inode(borrowed).ok()? != expected {
        return None;
    }
    // SAFETY: takes no pointers.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }).ok()?;
    // SAFETY: it is open. It is what the parent passed on for this library to own, under this
    // number: the environment names its inode, and that of the connection, which is on descriptor
    // 0. It has no other owner, since `claim` gets this far only once in the life of the process.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marker_is_its_text() {
        for ([lifeline, stdout, note, namespace], place, text) in [
            ([None; 4], None, "7"),
            (
                [Some(8), None, None, None],
                Some("src/a b.rs:1:2"),
                "7 lifeline=8 at=src/a b.rs:1:2",
            ),
            (
                [Some(8), Some(9), Some(10), Some(11)],
                None,
                "7 lifeline=8 stdout=9 note=10 namespace=11",
            ),
            (
                [None, None, Some(8), None],
                Some("a at=b stdout=1"),
                "7 note=8 at=a at=b stdout=1",
            ),
        ] {
            let marker = Marker {
                socket: 7,
                lifeline,
                stdout,
                note,
                namespace,
                place: place.map(str::to_owned),
            };
            assert_eq!(marker.to_string(), text);
            assert_eq!(Marker::parse(text), Some(marker));
        }
        for junk in ["", "x", "7 lifeline=x", "7 note=", "-1"] {
            assert_eq!(Marker::parse(junk), None, "{junk}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not support fstat")]
    fn name_of_a_socket_is_found_only_on_a_childs() {
        use std::os::unix::net::UnixStream;
        let (near, far) = UnixStream::pair().unwrap();
        Marker::new(&far, None, None).unwrap();
        let name = far.local_addr().unwrap();
        assert!(!name.is_unnamed() && name.as_pathname().is_none());
        assert!(near.local_addr().unwrap().is_unnamed());
        assert!(!has_childs_socket(), "of a test process");
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not support fstat")]
    fn descriptor_that_is_not_what_was_passed_on_is_not_taken() {
        // Whatever has this number in a test process is not the parent's.
        assert!(take(ExtraFd::Stdout, u64::MAX).is_none());
    }
}

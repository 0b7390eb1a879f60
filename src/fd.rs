//! Descriptors as values of a program: in requests, replies, events and setups.

use crate::sys::{self, MOST_FDS};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A descriptor that goes along with a request, reply, event or setup: the other process gets one of its
/// own that refers to the same open file, socket or pipe, as if it had been duplicated.
///
/// Cheap to clone: clones share the descriptor, which is closed with the last of them. A request can so be
/// sent more than once.
///
/// It may be anywhere among [octet strings](crate::Strings), of which it is none: the other side
/// [takes](crate::Strings::take_fds) all of them. With the features `json`, `cbor` and `compact` it is a value
/// of serde's, a structure with one field, and may be part of any type, but not of an error's. A value one of
/// whose descriptors has not arrived cannot be decoded.
///
/// At most 253 descriptors go with one message, and none to [plain peers](crate::Plain). Otherwise a call or ask
/// ends as [`Malformed`](crate::CallError::Malformed), a reply fails its call with that, a setup is a start
/// error, and an event panics.
///
/// Descriptors are close-on-exec where they arrive. A process that has too many open files does not get them,
/// nor one that is not allowed to have one of these: then taking them is an error, which says so. The last
/// eighth of the numbers that a process may have open, or the last 64, are kept free for its own use. All
/// others are closed when nobody takes them, the call is cancelled, or the other process is gone. A socket that
/// is closed so does not linger (`SO_LINGER` in socket(7)): who wants it to takes it
/// [out](Fd::into_owned) first.
///
/// Of a user who is not root, the kernel lets only so many descriptors be on their way at a time as the sender
/// may have open (`ETOOMANYREFS` in unix(7)). Further ones wait for a second, and are lost then.
///
/// # Examples
///
/// ```
/// use offspring::{Fd, Worker};
/// use std::fs::File;
/// use std::io::{self, Read};
///
/// # fn main() -> Result<(), offspring::BoxError> {
/// let me = Worker::new()
///     .function("open", |request, _caller| {
///         let [path] = request.texts()?;
///         Ok(("opened", Fd::from(File::open(path)?))) // a string and a descriptor
///     })
///     .function("read", |mut request, _caller| {
///         let [file] = request.take_fds()?;
///         Ok(io::read_to_string(File::from(file))?)
///     })
///     .run();
/// let open = me.rpc("open").start()?;
/// let [file] = open.call("Cargo.toml").wait()?.take_fds()?;
/// let mut start = [0; 9];
/// File::from(file.try_clone()?).read_exact(&mut start)?;
/// assert_eq!(&start, b"[package]");
///
/// // The position is that of the one open file.
/// let rest = open.function("read").call(Fd::from(file)).wait()?;
/// assert!(rest[0].starts_with(b"\nname = \"offspring\""));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Fd(Arc<OwnedFd>);

impl Fd {
    /// The descriptor itself: a duplicate, if there are other clones.
    ///
    /// # Errors
    ///
    /// If it cannot be duplicated, as the process has too many open files (`EMFILE`).
    ///
    /// # Examples
    ///
    /// ```
    /// use offspring::Fd;
    /// use std::fs::File;
    ///
    /// let fd = Fd::from(File::open("Cargo.toml")?);
    /// let clone = fd.clone();
    /// let first = File::from(fd.into_owned()?); // a duplicate
    /// let second = File::from(clone.into_owned()?);
    /// # let _ = (first, second);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_owned(self) -> io::Result<OwnedFd> {
        Arc::try_unwrap(self.0).or_else(|shared| shared.try_clone())
    }

    /// Drops one that nobody wants. If it is the last clone, this does not block, whatever it is: reactors do
    /// this, and some of it is done under locks.
    pub(crate) fn discard(self) {
        if let Some(last) = Arc::into_inner(self.0) {
            sys::do_not_linger(&last);
        }
    }

    /// How many clones there are.
    #[cfg(any(fuzzing, test))]
    pub(crate) fn clones(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// Whether it is a clone of the other.
    pub(crate) fn is_clone_of(&self, other: &Fd) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T: Into<OwnedFd>> From<T> for Fd {
    fn from(fd: T) -> Self {
        Fd(Arc::new(fd.into()))
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl fmt::Debug for Fd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fd").field(&self.as_fd()).finish()
    }
}

/// Where a peer is, as far as that matters for descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// It can be sent some.
    Near,
    /// It knows nothing of them.
    Plain,
    /// It is on another machine.
    Far,
}

/// Whether so many descriptors can be sent in one message.
pub(crate) fn may_send(count: usize, to: Reach) -> Result<(), String> {
    if count > 0 && to == Reach::Plain {
        return Err("descriptors cannot be sent to a plain peer".to_owned());
    }
    if count > 0 && to == Reach::Far {
        return Err("descriptors cannot be sent to another machine".to_owned());
    }
    if count > MOST_FDS {
        return Err(format!(
            "{count} descriptors are too many for one message, which takes {MOST_FDS}"
        ));
    }
    Ok(())
}

//! Descriptors as values of a program: in requests, replies, events and setups.

use crate::sys::{self, MOST_FDS};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A descriptor that is sent with a request, reply, event or setup: the other process gets one of its own
/// that refers to the same open file, socket or pipe, as if it had been duplicated.
///
/// Cheap to clone: clones share the descriptor, which is closed with the last of them. So a request can be sent
/// more than once.
///
/// It may stand anywhere among [octet strings](crate::Strings), and is not one of them: the other side
/// [takes](crate::Strings::take_fds) all the descriptors of a list. With the features `json`, `cbor` and
/// `compact` it implements serde's traits, as a structure with one field, and may be part of any type but an
/// error's. A value cannot be decoded if one of its descriptors has not arrived.
///
/// One message can have 253 descriptors, and one to a [plain peer](crate::Plain) or
/// [another machine](crate::machines) none. With more, a call or ask ends as
/// [`Malformed`](crate::CallError::Malformed), a reply fails its call with that, a setup is a start error, and an
/// event panics.
///
/// Descriptors are close-on-exec where they arrive. A process that has too many open files does not get them,
/// nor does one that is not allowed to have them: taking them is an error then, which says so. Of the numbers
/// that a process may have open, the last 64 are kept free for its own use, or the last eighth if that is fewer.
/// Descriptors that nobody takes are closed, as are those of a call that is cancelled, or when the other process
/// is gone. A socket that is closed in this way does not linger (`SO_LINGER` in socket(7)); take it
/// [out](Fd::into_owned) first if it should.
///
/// Unless the sender is root, the kernel allows only as many descriptors to be in transit as the sender may have
/// open (`ETOOMANYREFS` in unix(7)). Further ones wait for a second, and are lost then.
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

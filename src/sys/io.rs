//! Descriptors and streams.

use super::{check, check_size, retry};
use std::fs::File;
use std::io::{IoSlice, Result};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

/// How to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadMode {
    /// From a socket; blocks until something arrives.
    Socket,
    /// From a socket; never blocks.
    SocketNow,
    /// From any descriptor; whether it blocks depends on its flags.
    Any,
}

/// A buffer to append to, and the most bytes to append. There must be capacity for at least one.
pub(crate) type Spare<'a> = (&'a mut Vec<u8>, usize);

/// Appends to `to`, and what exceeds its limit to `behind`. Returns 0 at the end of the stream,
/// `WouldBlock` if nothing has arrived and the read must not block.
pub(crate) fn receive(
    fd: impl AsFd,
    (to, limit): Spare<'_>,
    behind: Option<Spare<'_>>,
    how: ReadMode,
) -> Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    let (start, room) = spare(to, limit);
    let Some((behind, limit)) = behind else {
        let n = retry(|| {
            check_size(match how {
                // SAFETY: `start` points to `room` writable bytes, borrowed from `to` throughout.
                ReadMode::Socket => unsafe { libc::recv(fd, start, room, 0) },
                // SAFETY: as above.
                ReadMode::SocketNow => unsafe { libc::recv(fd, start, room, libc::MSG_DONTWAIT) },
                // SAFETY: as above.
                ReadMode::Any => unsafe { libc::read(fd, start, room) },
            })
        })?;
        // SAFETY: the kernel has initialised the first `n <= room` bytes of the spare capacity.
        unsafe { to.set_len(to.len() + n) };
        return Ok(n);
    };
    let (start_behind, room_behind) = spare(behind, limit);
    let part = |iov_base, iov_len| libc::iovec { iov_base, iov_len };
    let mut parts = [part(start, room), part(start_behind, room_behind)];
    let n = retry(|| {
        check_size(match how {
            // SAFETY: `parts` points to two parts of writable bytes, borrowed until the end.
            ReadMode::Any => unsafe { libc::readv(fd, parts.as_ptr(), 2) },
            _ => {
                // SAFETY: all-zero is a valid msghdr: no name, no parts, no control data.
                let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
                message.msg_iov = parts.as_mut_ptr();
                message.msg_iovlen = 2;
                let flags = match how {
                    ReadMode::SocketNow => libc::MSG_DONTWAIT,
                    _ => 0,
                };
                // SAFETY: `message` points to two parts, as above.
                unsafe { libc::recvmsg(fd, &raw mut message, flags) }
            }
        })
    })?;
    // SAFETY: the kernel has written `n` bytes there.
    unsafe { filled((to, room), Some(behind), n) };
    Ok(n)
}

/// Counts `n` bytes as appended.
///
/// # Safety
///
/// They have been written to the spare capacity of `to`, at most `room`, and what exceeds that to `behind`.
pub(super) unsafe fn filled((to, room): Spare<'_>, behind: Option<&mut Vec<u8>>, n: usize) {
    let first = n.min(room);
    // SAFETY: the first `n` bytes of both parts together are initialised, in order.
    unsafe { to.set_len(to.len() + first) };
    if let Some(behind) = behind {
        // SAFETY: as above.
        unsafe { behind.set_len(behind.len() + n - first) };
    }
}

/// How many bytes of a stream can be read now; 0 if that is not known.
pub(crate) fn unread(fd: impl AsFd) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: points to an integer.
    let got = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    if got == 0 { bytes as usize } else { 0 }
}

/// The start of a buffer's spare capacity, and how much of it may be filled.
pub(super) fn spare(to: &mut Vec<u8>, limit: usize) -> (*mut libc::c_void, usize) {
    let spare = to.spare_capacity_mut();
    let room = spare.len().min(limit);
    // A read of no bytes returns 0, which would look like the end.
    assert!(room > 0, "no room to read into");
    (spare.as_mut_ptr().cast(), room)
}

/// Sends as much of `parts` as the socket accepts immediately, or with `wait` all of it, unless the
/// socket is non-blocking. Never raises SIGPIPE.
pub(crate) fn send(socket: impl AsFd, parts: &[IoSlice<'_>], wait: bool) -> Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    let flags = libc::MSG_NOSIGNAL | if wait { 0 } else { libc::MSG_DONTWAIT };
    if let [part] = parts {
        let start = part.as_ptr().cast();
        // SAFETY: `start` points to that many bytes. This is sendmsg with fewer arguments to copy.
        return retry(|| check_size(unsafe { libc::send(fd, start, part.len(), flags) }));
    }
    // SAFETY: all-zero is a valid msghdr: no name, no parts, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // IoSlice is guaranteed to have the layout of iovec, and sendmsg does not write through it.
    message.msg_iov = parts.as_ptr().cast_mut().cast();
    message.msg_iovlen = parts.len() as _;
    // SAFETY: `message` points to `parts.len()` valid parts, which outlive the call.
    retry(|| check_size(unsafe { libc::sendmsg(fd, &raw const message, flags) }))
}

/// Writes as much of `bytes` as there is room for, and blocks until there is some. For a socket or
/// any other descriptor. A closed pipe raises SIGPIPE, which Rust programs ignore.
pub(crate) fn write(fd: impl AsFd, bytes: &[u8]) -> Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    let start = bytes.as_ptr().cast();
    // SAFETY: `start` points to that many bytes.
    retry(|| check_size(unsafe { libc::write(fd, start, bytes.len()) }))
}

/// The requested size of a socket's send buffer. The system may grant less. With a much larger
/// one, successive payloads have left the processor's caches before they are read.
const WIDE: libc::c_int = 512 << 10;

/// Enlarges a socket's buffer for large payloads: each part of a payload that does not fit costs
/// two context switches.
pub(crate) fn widen(socket: impl AsFd) -> Result<()> {
    let (fd, wide) = (socket.as_fd().as_raw_fd(), WIDE);
    let (value, len) = (
        (&raw const wide).cast(),
        size_of_val(&wide) as libc::socklen_t,
    );
    // SAFETY: `value` points to `len` bytes.
    check(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, value, len) }).map(drop)
}

/// Has the last close of a socket return at once: what is unsent is sent in the background. For anything but
/// a socket, this does nothing.
pub(crate) fn do_not_linger(fd: impl AsFd) {
    let fd = fd.as_fd().as_raw_fd();
    let mut linger = libc::linger {
        l_onoff: 0,
        l_linger: 0,
    };
    let mut len = size_of_val(&linger) as libc::socklen_t;
    let (level, option, value) = (libc::SOL_SOCKET, libc::SO_LINGER, (&raw mut linger).cast());
    // SAFETY: `value` points to `len` writable bytes, and `len` to its length.
    let got = unsafe { libc::getsockopt(fd, level, option, value, &raw mut len) };
    // One of no time aborts the connection, and takes none.
    if got == 0 && linger.l_onoff != 0 && linger.l_linger > 0 {
        linger.l_onoff = 0;
        let value = (&raw const linger).cast();
        // SAFETY: `value` points to `len` bytes.
        let _ = unsafe { libc::setsockopt(fd, level, option, value, len) };
    }
}

/// Shuts down one or both directions of a socket. A socket that is no longer connected is not an
/// error.
pub(crate) fn shutdown(socket: impl AsFd, how: Shutdown) -> Result<()> {
    let how = match how {
        Shutdown::Read => libc::SHUT_RD,
        Shutdown::Write => libc::SHUT_WR,
        Shutdown::Both => libc::SHUT_RDWR,
    };
    // SAFETY: takes no pointers.
    match check(unsafe { libc::shutdown(socket.as_fd().as_raw_fd(), how) }) {
        Err(error) if error.raw_os_error() != Some(libc::ENOTCONN) => Err(error),
        _ => Ok(()),
    }
}

/// Makes a descriptor, and all its duplicates, non-blocking.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: takes no pointers.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

/// Whether this is a stream socket.
pub(crate) fn is_stream_socket(fd: BorrowedFd<'_>) -> bool {
    socket_option(fd, libc::SO_TYPE) == Some(libc::SOCK_STREAM)
}

/// Whether this is a Unix socket, over which descriptors can be sent.
pub(crate) fn is_unix_socket(fd: BorrowedFd<'_>) -> bool {
    socket_option(fd, libc::SO_DOMAIN) == Some(libc::AF_UNIX)
}

/// An option of a socket that is a number: `None` if this is no socket.
fn socket_option(fd: BorrowedFd<'_>, option: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of_val(&value) as libc::socklen_t;
    let (level, to) = (libc::SOL_SOCKET, (&raw mut value).cast());
    // SAFETY: `to` points to `len` writable bytes, and `len` to its length.
    let result = unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, to, &raw mut len) };
    check(result).ok().map(|_| value)
}

/// A close-on-exec duplicate with a number of at least `least`, so that it does not collide with
/// the small numbers that a child's descriptors are moved to.
pub(crate) fn duplicate_above(fd: impl AsFd, least: RawFd) -> Result<OwnedFd> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: takes no pointers.
    let new = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, least) })?;
    // SAFETY: the descriptor was just created and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// The least number that is not a standard descriptor's.
pub(crate) const ABOVE_STANDARD: RawFd = 3;

/// A descriptor that was just created, with a number above those of the standard ones: if the
/// program has closed one of these, it would get that number, and what the program then prints.
pub(crate) fn above_standard(fd: impl Into<OwnedFd>) -> Result<OwnedFd> {
    let fd = fd.into();
    if fd.as_raw_fd() >= ABOVE_STANDARD {
        return Ok(fd);
    }
    duplicate_above(fd, ABOVE_STANDARD)
}

/// A standard descriptor: 0, 1 or 2.
///
/// `std::io::stdin()` and `stdout()` refer to these, too, but each allocates a buffer.
pub(crate) fn standard(number: RawFd) -> BorrowedFd<'static> {
    assert_standard(number);
    // SAFETY: the standard library makes sure that these are open from the start, and they have no
    // owner that could close them. Its own functions lend them the same way.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Whether a descriptor is an end of a pipe, or a socket.
pub(crate) fn is_pipe_or_socket(fd: BorrowedFd<'_>) -> bool {
    let kind = mode(fd).map_or(0, |mode| mode & libc::S_IFMT);
    matches!(kind, libc::S_IFIFO | libc::S_IFSOCK)
}

fn mode(fd: BorrowedFd<'_>) -> Result<libc::mode_t> {
    // SAFETY: all-zero is a valid stat64.
    let mut stat: libc::stat64 = unsafe { std::mem::zeroed() };
    // SAFETY: points to a stat64.
    check(unsafe { libc::fstat64(fd.as_raw_fd(), &raw mut stat) })?;
    Ok(stat.st_mode)
}

/// An end of a connection that this process has inherited as its standard input or output, and that does not
/// block it. Whether an end blocks is a property of the open file, which others may share, so that a pipe is
/// opened once more, where that is permitted. A socket may still block, but can be used with flags for that.
pub(crate) fn own_end(number: RawFd) -> Result<OwnedFd> {
    let fd = standard(number);
    if socket_option(fd, libc::SO_TYPE).is_some() {
        return duplicate_above(fd, ABOVE_STANDARD);
    }
    let mut options = File::options();
    options.read(number == 0).write(number != 0);
    options.custom_flags(libc::O_NONBLOCK);
    if let Ok(file) = options.open(format!("/proc/self/fd/{number}")) {
        return above_standard(file);
    }
    let fd = duplicate_above(fd, ABOVE_STANDARD)?;
    set_nonblocking(&fd)?;
    Ok(fd)
}

/// The inode of a file, socket or pipe.
pub(crate) fn inode(fd: BorrowedFd<'_>) -> Result<u64> {
    // SAFETY: all-zero is a valid stat64.
    let mut stat: libc::stat64 = unsafe { std::mem::zeroed() };
    // SAFETY: points to a stat64.
    check(unsafe { libc::fstat64(fd.as_raw_fd(), &raw mut stat) })?;
    Ok(stat.st_ino)
}

/// Makes the descriptor `number`, one of 0, 1 and 2, refer to the same file as `fd`. It stays open
/// across exec.
pub(crate) fn replace(number: RawFd, fd: impl AsFd) -> Result<()> {
    assert_standard(number);
    // SAFETY: takes no pointers; the standard descriptors have no owner, so none is closed that an
    // owner still uses.
    retry(|| check(unsafe { libc::dup2(fd.as_fd().as_raw_fd(), number) }).map(drop))
}

fn assert_standard(number: RawFd) {
    assert!(
        (0..=2).contains(&number),
        "only the standard descriptors have no owner"
    );
}

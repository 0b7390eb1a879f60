//! Descriptors that are sent with bytes: `SCM_RIGHTS`, see unix(7).

use super::io::{Spare, filled, spare};
use super::{Resource, above_standard, check_size, resource_limit, retry};
use std::io::{Error, IoSlice, Result};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// The most descriptors that one message may carry (`SCM_MAX_FD` in the kernel).
pub(crate) const MOST_FDS: usize = 253;

/// Whether descriptors could not be sent since too many are on their way, of this user and all that he runs:
/// some will arrive. See `ETOOMANYREFS` in unix(7).
pub(crate) fn is_crowded(error: &Error) -> bool {
    error.raw_os_error() == Some(libc::ETOOMANYREFS)
}

/// How many descriptors a process may open after others have sent it as many as they could.
const KEPT: u64 = 64;

/// Room for the control data of a message, as a number of words: that of [`MOST_FDS`] descriptors, and of
/// the credentials and the like that a socket may be set to pass, too.
const CONTROL: usize = 160;

/// Descriptors that have come with bytes.
#[derive(Debug, Default)]
pub(crate) struct ReceivedFds {
    pub(crate) fds: Vec<OwnedFd>,
    /// Whether there were more, which are lost: this process may have too many, or none may come.
    pub(crate) truncated: bool,
}

impl ReceivedFds {
    /// Whether none were sent.
    pub(crate) fn is_none(&self) -> bool {
        self.fds.is_empty() && !self.truncated
    }
}

/// As [`send`](super::send), with descriptors, at most [`MOST_FDS`]. They come with the first byte: if any
/// was sent, they were. After an error, none were.
pub(crate) fn send_with_fds(
    socket: impl AsFd,
    parts: &[IoSlice<'_>],
    fds: &[impl AsFd],
    wait: bool,
) -> Result<usize> {
    assert!(fds.len() <= MOST_FDS, "the kernel takes no more");
    let numbers: Vec<RawFd> = fds.iter().map(|fd| fd.as_fd().as_raw_fd()).collect();
    let len = size_of_val(&numbers[..]);
    let mut control = [0_u64; CONTROL];
    // SAFETY: all-zero is a valid msghdr: no name, no parts, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // IoSlice is guaranteed to have the layout of iovec, and sendmsg does not write through it.
    message.msg_iov = parts.as_ptr().cast_mut().cast();
    message.msg_iovlen = parts.len() as _;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: computes a number.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(len as _) } as _;
    // SAFETY: `message` has control data, which is long enough for a header.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: `header` points into `control`, which is aligned for it, and nothing else refers to it.
    let header = unsafe { &mut *header };
    header.cmsg_level = libc::SOL_SOCKET;
    header.cmsg_type = libc::SCM_RIGHTS;
    // SAFETY: computes a number.
    header.cmsg_len = unsafe { libc::CMSG_LEN(len as _) } as _;
    // SAFETY: `header` is that of control data with room for `len` bytes.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: `numbers` has `len` bytes, and so has `data`, which is part of `control`.
    unsafe { ptr::copy_nonoverlapping(numbers.as_ptr().cast(), data, len) };
    let fd = socket.as_fd().as_raw_fd();
    let flags = libc::MSG_NOSIGNAL | if wait { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: `message` points to valid parts and control data, which outlive the call.
    retry(|| check_size(unsafe { libc::sendmsg(fd, &raw const message, flags) }))
}

/// As [`receive`](super::receive) from a socket, with the descriptors that come along. They are
/// close-on-exec, and none has the number of a standard one.
pub(crate) fn receive_with_fds(
    socket: impl AsFd,
    (to, limit): Spare<'_>,
    behind: Option<Spare<'_>>,
    wait: bool,
) -> Result<(usize, ReceivedFds)> {
    let (start, room) = spare(to, limit);
    let part = |(iov_base, iov_len)| libc::iovec { iov_base, iov_len };
    let mut parts = [(start, room), (ptr::null_mut(), 0)].map(part);
    let behind = behind.map(|(behind, limit)| {
        parts[1] = part(spare(behind, limit));
        behind
    });
    let mut control = [const { MaybeUninit::<u64>::uninit() }; CONTROL];
    // SAFETY: all-zero is a valid msghdr: no name, no parts, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = if behind.is_some() { 2 } else { 1 };
    message.msg_control = control.as_mut_ptr().cast();
    let flags = libc::MSG_CMSG_CLOEXEC | if wait { 0 } else { libc::MSG_DONTWAIT };
    let n = retry(|| {
        message.msg_controllen = size_of_val(&control) as _;
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: `message` points to one or two parts of writable bytes, and to control data, all of
        // which outlive the call.
        check_size(unsafe { libc::recvmsg(fd, &raw mut message, flags) })
    })?;
    // SAFETY: the kernel has written `n` bytes to both parts together.
    unsafe { filled((to, room), behind, n) };
    let fds = take_fds(&message);
    Ok((n, fds))
}

/// Numbers below this are not kept free, whatever the limit: to ask for it takes a call of the kernel.
const NEVER_KEPT: RawFd = 32;

/// Whether a number is kept free for the process itself: whoever sends it more and more must not keep it from
/// opening anything.
fn is_kept(number: RawFd) -> bool {
    if number < NEVER_KEPT {
        return false;
    }
    let limit = resource_limit(None, Resource::OpenFiles).map_or(u64::MAX, |limit| limit.soft);
    let first = limit - (limit / 8).min(KEPT);
    u64::try_from(number).is_ok_and(|number| number >= first)
}

/// The descriptors in the control data of a message that was received. To be called once.
fn take_fds(message: &libc::msghdr) -> ReceivedFds {
    let mut received = ReceivedFds {
        fds: Vec::new(),
        truncated: message.msg_flags & libc::MSG_CTRUNC != 0,
    };
    // SAFETY: the kernel has written `msg_controllen` bytes of control data.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: what the functions return is null or points to a header that the kernel has written.
    while let Some(header) = unsafe { next.as_ref() } {
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: computes a number.
            let before = unsafe { libc::CMSG_LEN(0) } as usize;
            let len: usize = header.cmsg_len as _;
            let count = (len - before) / size_of::<RawFd>();
            // SAFETY: `header` is that of control data.
            let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
            for at in 0..count {
                // SAFETY: the kernel has written so many numbers there.
                let number = unsafe { data.add(at) };
                // SAFETY: as above, perhaps not aligned.
                let number = unsafe { number.read_unaligned() };
                // SAFETY: it was just opened for this process, and has no other owner.
                let fd = unsafe { OwnedFd::from_raw_fd(number) };
                match above_standard(fd) {
                    Ok(fd) if !is_kept(fd.as_raw_fd()) => received.fds.push(fd),
                    Ok(_) | Err(_) => received.truncated = true,
                }
            }
        }
        // SAFETY: `header` is one of this message.
        next = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    received
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::super::check;
    use super::*;
    use std::fs::File;
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::UnixStream;

    fn receive(socket: &UnixStream, room: usize) -> Result<(Vec<u8>, ReceivedFds)> {
        let mut to = Vec::with_capacity(room);
        let (n, fds) = receive_with_fds(socket, (&mut to, room), None, false)?;
        assert_eq!(n, to.len());
        Ok((to, fds))
    }

    fn null() -> File {
        File::open("/dev/null").unwrap()
    }

    fn send(socket: &UnixStream, bytes: &[u8], fds: &[File]) -> Result<usize> {
        send_with_fds(socket, &[IoSlice::new(bytes)], fds, false)
    }

    #[test]
    fn descriptors_come_with_the_first_byte_of_their_message_and_are_closed_on_exec() {
        let (near, far) = UnixStream::pair().unwrap();
        let (pipe, mut writer) = std::io::pipe().unwrap();
        send_with_fds(
            &near,
            &[IoSlice::new(b"ab"), IoSlice::new(b"c")],
            &[OwnedFd::from(pipe), null().into()],
            false,
        )
        .unwrap();
        let (bytes, fds) = receive(&far, 1).unwrap();
        assert_eq!(
            (bytes, fds.fds.len(), fds.truncated),
            (b"a".to_vec(), 2, false)
        );
        for fd in &fds.fds {
            // SAFETY: takes no pointers.
            let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) });
            assert_eq!(flags.unwrap(), libc::FD_CLOEXEC);
        }
        writer.write_all(b"x").unwrap();
        drop(writer);
        let mut text = String::new();
        let pipe = fds.fds.into_iter().next().unwrap();
        File::from(pipe).read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        let (bytes, fds) = receive(&far, 10).unwrap();
        assert!(bytes == b"bc" && fds.is_none());
        let error = receive(&far, 10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn read_stops_after_a_message_with_descriptors_and_fills_both_buffers() {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"plain").unwrap();
        send(&near, b"first", &[null()]).unwrap();
        send(&near, b"second", &[null()]).unwrap();
        let (mut to, mut behind) = (Vec::with_capacity(7), Vec::with_capacity(100));
        let (n, fds) =
            receive_with_fds(&far, (&mut to, 7), Some((&mut behind, 100)), true).unwrap();
        assert_eq!((n, fds.fds.len()), (10, 1));
        assert_eq!([&to[..], &behind].concat(), b"plainfirst");
        let (bytes, fds) = receive(&far, 100).unwrap();
        assert_eq!((&bytes[..], fds.fds.len()), (&b"second"[..], 1));
        drop(near);
        let (bytes, fds) = receive(&far, 100).unwrap();
        assert!(bytes.is_empty() && fds.is_none(), "the end");
    }

    /// Whoever does not expect any must not miss those that he is to be told of.
    #[test]
    fn plain_read_stops_there_too() {
        let (near, mut far) = UnixStream::pair().unwrap();
        send(&near, b"first", &[null()]).unwrap();
        send(&near, b"second", &[null()]).unwrap();
        let mut bytes = [0; 100];
        assert_eq!(far.read(&mut bytes).unwrap(), 5);
        let (bytes, fds) = receive(&far, 100).unwrap();
        assert_eq!((&bytes[..], fds.fds.len()), (&b"second"[..], 1));
    }

    #[test]
    fn as_many_as_there_may_be_come_and_one_more_is_refused() {
        let (near, far) = UnixStream::pair().unwrap();
        let many: Vec<File> = (0..MOST_FDS).map(|_| null()).collect();
        send(&near, b"x", &many).unwrap();
        let (_, fds) = receive(&far, 1).unwrap();
        assert_eq!((fds.fds.len(), fds.truncated), (MOST_FDS, false));
    }
}

//! The child's reading end, and its lifeline.

use super::session::Session;
use crate::busy_poll::BusyPoll;
use crate::receive::receive;
use crate::sys::{self, Interest, Lifeline, PollSet, ReadMode};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long after the last request a child is still killed immediately when its parent is gone. After
/// that it is idle, and exits cleanly. Arming and disarming the lifeline takes three system calls: too
/// much for every call.
pub(super) const LINGER: Duration = Duration::from_millis(50);

/// Where requests come from.
pub(super) struct RequestReader {
    fd: OwnedFd,
    is_socket: bool,
    lifeline: Option<Lifeline>,
    /// Whether a blocking read ends after [`LINGER`].
    has_timeout: bool,
    /// Whether the lifeline is armed.
    armed: bool,
    busy_poll: BusyPoll,
}

impl RequestReader {
    /// A reading end. With a lifeline it must be a socket.
    pub(super) fn new(fd: OwnedFd, lifeline: Option<Lifeline>) -> io::Result<Self> {
        let mut reader = RequestReader {
            is_socket: sys::is_stream_socket(fd.as_fd()),
            fd,
            lifeline: None,
            has_timeout: false,
            armed: false,
            busy_poll: BusyPoll::default(),
        };
        if let Some(lifeline) = lifeline {
            reader.set_lifeline(lifeline)?;
        }
        Ok(reader)
    }

    /// Gives it a lifeline, which is not armed yet. It must be a socket.
    pub(super) fn set_lifeline(&mut self, lifeline: Lifeline) -> io::Result<()> {
        let socket = UnixStream::from(self.fd.try_clone()?);
        socket.set_read_timeout(Some(LINGER))?;
        (self.lifeline, self.has_timeout, self.armed) = (Some(lifeline), true, false);
        Ok(())
    }

    /// The process is to outlive its parent.
    pub(super) fn outlive_parent(&mut self) {
        self.disarm_lifeline();
        self.lifeline = None;
    }

    /// From here on the process is killed when its parent is gone, unless it is to outlive it. Returns
    /// whether the parent is still there.
    pub(super) fn arm_lifeline(&mut self) -> io::Result<bool> {
        match &self.lifeline {
            Some(lifeline) if !self.armed => {
                self.armed = true;
                lifeline.arm()
            }
            _ => Ok(true),
        }
    }

    /// Same as [`arm_lifeline`](RequestReader::arm_lifeline), after a wait for requests which has
    /// found that the connection has, or has not, hung up. A parent that dies closes the connection
    /// before the lifeline: armed in between, it would kill a child that is about to exit cleanly.
    pub(super) fn rearm_lifeline(&mut self, hung_up: bool) -> io::Result<bool> {
        if hung_up && !self.armed && self.lifeline.is_some() {
            return Ok(false);
        }
        self.arm_lifeline()
    }

    /// The process is idle: it will read the end of its requests.
    pub(super) fn disarm_lifeline(&mut self) {
        if let Some(lifeline) = &self.lifeline
            && std::mem::take(&mut self.armed)
        {
            // The descriptor is open, and there is no other reason to fail.
            let _ = lifeline.disarm();
        }
    }

    pub(super) fn is_armed(&self) -> bool {
        self.armed
    }

    pub(super) fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Reads what has come, blocking until something has. Returns 0 at the end.
    pub(super) fn read(&mut self, session: &mut Session) -> io::Result<usize> {
        loop {
            match self.poll_and_read(session) {
                // Nothing has come for a while.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.disarm_lifeline();
                    let mut set = PollSet::default();
                    let place = set.add(self.fd.as_raw_fd(), Interest::Readable);
                    set.wait(None)?;
                    if !self.rearm_lifeline(set.is_hung_up(place))? {
                        return Ok(0);
                    }
                }
                result => return result,
            }
        }
    }

    /// Same as [`read`](RequestReader::read), with the lifeline armed throughout: `None` if nothing
    /// comes for a while, after which the child may be idle.
    pub(super) fn read_briefly(&mut self, session: &mut Session) -> io::Result<Option<usize>> {
        match self.receive(session, self.blocking_mode()) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            result => result.map(Some),
        }
    }

    /// As [`read_briefly`](RequestReader::read_briefly), until `deadline`, with the lifeline as it is. For
    /// sockets.
    pub(super) fn read_by(
        &mut self,
        session: &mut Session,
        deadline: Option<Instant>,
    ) -> io::Result<Option<usize>> {
        let left = || deadline.map(|at| at.saturating_duration_since(Instant::now()));
        // Reading at once is cheaper, if it ends in time.
        let ends_in_time = left().is_none_or(|left| self.has_timeout && left > LINGER);
        if ends_in_time && let Some(n) = self.read_briefly(session)? {
            return Ok(Some(n));
        }
        let mut set = PollSet::default();
        set.add(self.number(), Interest::Readable);
        set.wait(left())?;
        self.try_read(session)
    }

    /// Reads what has come: `None` if nothing has. A descriptor that is not a socket must be known to
    /// be readable.
    pub(super) fn try_read(&mut self, session: &mut Session) -> io::Result<Option<usize>> {
        let mode = if self.is_socket {
            ReadMode::SocketNow
        } else {
            ReadMode::Any
        };
        match self.receive(session, mode) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            result => result.map(Some),
        }
    }

    /// Busy-polls briefly, where that has paid off lately, before blocking.
    fn poll_and_read(&mut self, session: &mut Session) -> io::Result<usize> {
        let mut busy_poll = std::mem::take(&mut self.busy_poll);
        let found = if self.is_socket {
            busy_poll.poll(|| self.try_read(session))
        } else {
            Ok(None)
        };
        let result = match found {
            Ok(Some(n)) => Ok(n),
            Ok(None) => busy_poll.block(|| self.receive(session, self.blocking_mode())),
            Err(error) => Err(error),
        };
        self.busy_poll = busy_poll;
        result
    }

    /// How to read if that may block.
    fn blocking_mode(&self) -> ReadMode {
        if self.is_socket {
            ReadMode::Socket
        } else {
            ReadMode::Any
        }
    }

    /// How many bytes have come that were not read.
    pub(super) fn unread(&self) -> usize {
        sys::unread(&self.fd)
    }

    /// Whether [`try_read`](RequestReader::try_read) may be called at any time.
    pub(super) fn is_socket(&self) -> bool {
        self.is_socket
    }

    fn receive(&mut self, session: &mut Session, mode: ReadMode) -> io::Result<usize> {
        match receive(&self.fd, session.decoder(), mode) {
            // The parent is gone, with replies unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(0),
            result => result.map(|(n, _)| n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Plain;
    use std::io::Write;

    fn reader() -> (RequestReader, UnixStream, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        let input = near.try_clone().unwrap().into();
        (RequestReader::new(input, None).unwrap(), near, far)
    }

    fn session() -> Session {
        Session::new(Some(Plain::Tagged), 64)
    }

    #[test]
    fn reads_what_has_come_and_then_the_end() {
        let ((mut reader, _near, mut far), mut session) = (reader(), session());
        assert_eq!(reader.try_read(&mut session).unwrap(), None);
        far.write_all(&[0; 8]).unwrap();
        assert_eq!(reader.try_read(&mut session).unwrap(), Some(8));
        far.write_all(&[0; 8]).unwrap();
        assert_eq!(reader.read_briefly(&mut session).unwrap(), Some(8));
        drop(far);
        assert_eq!(reader.try_read(&mut session).unwrap(), Some(0));
        assert_eq!(reader.read(&mut session).unwrap(), 0);
    }

    #[test]
    fn parent_that_is_gone_with_replies_unread_is_the_end() {
        let ((mut reader, mut near, far), mut session) = (reader(), session());
        near.write_all(b"unread").unwrap();
        drop(far);
        assert_eq!(reader.read(&mut session).unwrap(), 0);
    }

    /// The lifeline must be dropped before the other end of its pipe: armed, it would kill this process.
    #[test]
    fn idle_child_whose_parent_dies_does_not_arm_its_lifeline_again() {
        let (near, far) = UnixStream::pair().unwrap();
        let (pipe, _still_open) = std::io::pipe().unwrap();
        let watched = pipe.try_clone().unwrap();
        let is_armed = move || sys::is_armed(&watched);
        let lifeline = Lifeline::new(pipe.into()).unwrap();
        let mut reader = RequestReader::new(near.into(), Some(lifeline)).unwrap();
        assert!(reader.arm_lifeline().unwrap() && is_armed());
        let parent = std::thread::spawn(move || {
            while is_armed() {
                std::thread::yield_now();
            }
            drop(far);
        });
        assert_eq!(reader.read(&mut session()).unwrap(), 0);
        assert!(!reader.is_armed());
        parent.join().unwrap();
        drop(reader);
    }

    #[test]
    fn read_for_a_while_ends_without_a_request() {
        let ((mut reader, near, _far), mut session) = (reader(), session());
        near.set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        assert_eq!(reader.read_briefly(&mut session).unwrap(), None);
    }
}

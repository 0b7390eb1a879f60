//! The child's reading end.

use super::session::Session;
use crate::patience::Patience;
use crate::sys::{self, How, Interest, Lifeline};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// For how long after the last request a child still dies at once with its parent. Then it is idle,
/// and exits in order. Holding on and letting go costs three system calls: too much for every call.
pub(super) const LINGER: Duration = Duration::from_millis(50);

/// Where requests come from.
pub(super) struct Inlet {
    fd: OwnedFd,
    is_socket: bool,
    lifeline: Option<Lifeline>,
    /// Whether the lifeline is armed.
    holding_on: bool,
    patience: Patience,
}

impl Inlet {
    /// A reading end. With a lifeline it must be a socket.
    pub(super) fn new(fd: OwnedFd, lifeline: Option<Lifeline>) -> io::Result<Self> {
        if lifeline.is_some() {
            let socket = UnixStream::from(fd.try_clone()?);
            socket.set_read_timeout(Some(LINGER))?;
        }
        Ok(Inlet {
            is_socket: sys::is_stream_socket(fd.as_fd()),
            fd,
            lifeline,
            holding_on: false,
            patience: Patience::default(),
        })
    }

    /// The process is to live on without its parent.
    pub(super) fn outlive_parent(&mut self) {
        self.let_go();
        self.lifeline = None;
    }

    /// From here on the process dies with its parent, if it is meant to. Returns whether the parent
    /// is still there.
    pub(super) fn hold_on(&mut self) -> io::Result<bool> {
        match &self.lifeline {
            Some(lifeline) if !self.holding_on => {
                self.holding_on = true;
                lifeline.arm()
            }
            _ => Ok(true),
        }
    }

    /// The process is idle: it will see the end of its requests.
    pub(super) fn let_go(&mut self) {
        if let Some(lifeline) = &self.lifeline
            && std::mem::take(&mut self.holding_on)
        {
            // The descriptor is open, and nothing else can be wrong with it.
            let _ = lifeline.disarm();
        }
    }

    pub(super) fn is_holding_on(&self) -> bool {
        self.holding_on
    }

    pub(super) fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Reads what has come, or waits for it. Returns 0 at the end.
    pub(super) fn read(&mut self, session: &mut Session) -> io::Result<usize> {
        loop {
            match self.read_patiently(session) {
                // Nothing for a while.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.let_go();
                    sys::wait_for(&self.fd, Interest::Readable)?;
                    if !self.hold_on()? {
                        return Ok(0);
                    }
                }
                result => return result,
            }
        }
    }

    /// As [`read`](Inlet::read), without letting go of the parent: `None` if nothing comes for a
    /// while, and it should be known whether the child is idle by then.
    pub(super) fn read_briefly(&mut self, session: &mut Session) -> io::Result<Option<usize>> {
        match self.receive(session, self.waiting()) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            result => result.map(Some),
        }
    }

    /// Reads what has come: `None` if nothing has. A descriptor that is no socket must be known to
    /// be readable.
    pub(super) fn try_read(&mut self, session: &mut Session) -> io::Result<Option<usize>> {
        let how = if self.is_socket {
            How::SocketNow
        } else {
            How::Any
        };
        match self.receive(session, how) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            result => result.map(Some),
        }
    }

    /// Looks for what comes, where that pays, and waits for it.
    fn read_patiently(&mut self, session: &mut Session) -> io::Result<usize> {
        let mut patience = std::mem::take(&mut self.patience);
        let found = if self.is_socket {
            patience.look(|| self.try_read(session))
        } else {
            Ok(None)
        };
        let result = match found {
            Ok(Some(n)) => Ok(n),
            Ok(None) => patience.sleep(|| self.receive(session, self.waiting())),
            Err(error) => Err(error),
        };
        self.patience = patience;
        result
    }

    /// How to read where it may wait.
    fn waiting(&self) -> How {
        if self.is_socket {
            How::Socket
        } else {
            How::Any
        }
    }

    /// Whether [`try_read`](Inlet::try_read) may be called at any time.
    pub(super) fn is_socket(&self) -> bool {
        self.is_socket
    }

    fn receive(&mut self, session: &mut Session, how: How) -> io::Result<usize> {
        let space = session.space();
        match sys::receive(&self.fd, (space.buf, space.limit), space.behind, how) {
            // The parent went with replies unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(0),
            result => result,
        }
    }
}

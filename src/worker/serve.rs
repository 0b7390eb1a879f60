//! A child at work: takes its connection over, reads, calls, writes, exits.

use super::outlet::{Frame, Outlet};
use super::session::{Session, Step, Violation};
use super::table::{Entry, Refused, Table, describe};
use crate::process::Plain;
use crate::process::marker::{self, Given};
use crate::sys::{self, Lifeline, Readiness};
use crate::wire::{self, ToParent};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Where a child's read buffer starts before its parent says how large it is to be.
const BUFLEN: usize = 4 << 10;

/// For how long after the last request a child still dies at once with its parent. Then it is idle,
/// and exits in order.
const LINGER: Duration = Duration::from_millis(50);

/// No descriptor of a child's own is below this.
const STANDARD: i32 = 3;

/// Why a child stops serving, if not for the end of its requests.
enum Stop {
    /// The parent was told that it will not serve.
    Refused,
    /// To be told on standard error.
    Error(String),
}

/// Serves the parent that started this process, and exits.
pub(super) fn serve(mut table: Table, given: Given) -> ! {
    let result = take_over(given).map_err(|error| Stop::Error(error.to_string()));
    let result = result.and_then(|(inlet, outlet)| {
        let session = Session::new(None, BUFLEN);
        Child::new(session, inlet, outlet).start(&mut table)
    });
    exit(table, result)
}

/// Serves a plain peer on the standard input and output, and exits.
pub(super) fn serve_plain(mut table: Table, name: &str, plain: Plain) -> ! {
    let entry = table.plain_function(name);
    let take_over = || -> io::Result<(Inlet, Outlet)> {
        let input = sys::duplicate_above(io::stdin(), STANDARD)?;
        let output = sys::duplicate_above(io::stdout(), STANDARD)?;
        sys::replace(0, File::open("/dev/null")?)?;
        // A stray print must not get between the frames.
        sys::replace(1, io::stderr())?;
        let inlet = Inlet {
            fd: input,
            lifeline: None,
        };
        Ok((inlet, Outlet::new(output, Some(plain))))
    };
    let result = take_over().map_err(|error| Stop::Error(error.to_string()));
    let result = result.and_then(|(inlet, outlet)| {
        let session = Session::new(Some(plain), BUFLEN);
        Child::new(session, inlet, outlet).answer(entry)
    });
    exit(table, result)
}

/// What `function`s captured is dropped first.
fn exit(table: Table, result: Result<(), Stop>) -> ! {
    drop(table);
    std::process::exit(match result {
        Ok(()) => 0,
        Err(Stop::Refused) => 1,
        Err(Stop::Error(message)) => {
            eprintln!("offspring child: {message}");
            1
        }
    })
}

/// Makes the standard descriptors what a program expects, and the connection private.
fn take_over(given: Given) -> io::Result<(Inlet, Outlet)> {
    let input = sys::duplicate_above(io::stdin(), STANDARD)?;
    sys::replace(0, File::open("/dev/null")?)?;
    let inherited = |number| {
        let missing = || io::Error::new(ErrorKind::NotFound, "an inherited descriptor is closed");
        sys::clear_inherited(number).ok_or_else(missing)
    };
    if given.stdout {
        sys::replace(1, inherited(marker::STDOUT)?)?;
    }
    let mut lifeline = None;
    if given.lifeline {
        let socket = UnixStream::from(input.try_clone()?);
        socket.set_read_timeout(Some(LINGER))?;
        lifeline = Some(Lifeline::new(inherited(marker::LIFELINE)?)?);
    }
    if let Some(name) = std::env::args_os().next() {
        let name = Path::new(&name)
            .file_name()
            .map_or(&b""[..], OsStr::as_bytes);
        if let Ok(name) = CString::new(name) {
            sys::rename_process(&name);
        }
    }
    let outlet = Outlet::new(input.try_clone()?, None);
    let inlet = Inlet {
        fd: input,
        lifeline,
    };
    Ok((inlet, outlet))
}

/// The child's reading end.
struct Inlet {
    fd: OwnedFd,
    lifeline: Option<Lifeline>,
}

impl Inlet {
    /// From here on the process dies with its parent, if it is meant to. Returns whether the parent
    /// is still there.
    fn hold_on(&self) -> io::Result<bool> {
        self.lifeline.as_ref().map_or(Ok(true), Lifeline::arm)
    }

    /// Reads what has come, or waits for it. Returns 0 at the end.
    fn read(&self, session: &mut Session) -> io::Result<usize> {
        let space = session.space();
        loop {
            match sys::receive(&self.fd, space.buf, space.limit, false) {
                // Nothing for a while: the child is idle now.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if let Some(lifeline) = &self.lifeline {
                        lifeline.disarm()?;
                    }
                    sys::wait_for(self.fd.as_fd(), Readiness::Readable)?;
                    if !self.hold_on()? {
                        return Ok(0);
                    }
                }
                // The parent went with replies unread.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(0),
                result => return result,
            }
        }
    }
}

/// A child with its connection.
struct Child {
    session: Session,
    inlet: Inlet,
    outlet: Arc<Outlet>,
}

impl Child {
    fn new(session: Session, inlet: Inlet, outlet: Outlet) -> Self {
        Child {
            session,
            inlet,
            outlet: Arc::new(outlet),
        }
    }

    /// Runs setups until it is told what to serve, and serves that.
    fn start(mut self, table: &mut Table) -> Result<(), Stop> {
        if !self.inlet.hold_on().map_err(io_error)? {
            return Ok(());
        }
        loop {
            let step = self.session.next().map_err(broken)?;
            match step {
                None => {
                    if !self.read()? {
                        return Ok(());
                    }
                }
                Some(Step::Setup { name, strings }) => {
                    let result = table.set_up(name, strings);
                    result.map_err(|refused| self.refuse(refused))?;
                }
                Some(Step::Run(run)) => {
                    let (buflen, max_frame) = (run.buflen as usize, run.max_frame as usize);
                    let result = table.function(&run);
                    let entry = result.map_err(|refused| self.refuse(refused))?;
                    self.session.serve(buflen, max_frame);
                    self.outlet.set_max_frame(max_frame);
                    let protocol = wire::VERSION;
                    let ready = ToParent::Ready { protocol }.encode();
                    self.outlet.control(wire::CONTROL_TO_PARENT, &ready);
                    return self.answer(entry);
                }
                Some(Step::Request { .. }) => unreachable!("the session refuses early requests"),
            }
        }
    }

    /// Answers requests, one at a time, each before the next is looked at, until they end.
    fn answer(mut self, entry: &mut Entry) -> Result<(), Stop> {
        let mut buffer = Vec::new();
        loop {
            match self.session.next().map_err(broken)? {
                None => {
                    if !self.read()? {
                        return Ok(());
                    }
                }
                Some(Step::Request { id, payload }) => {
                    let mut frame = Frame::new(buffer);
                    let result = entry.call(payload, &self.outlet, &mut frame);
                    let result = result.and_then(|()| self.outlet.reply(id, frame));
                    buffer = match result {
                        Ok(buffer) => buffer,
                        Err(failure) if self.outlet.is_plain() => {
                            let message = format!("the function {}", describe(&failure));
                            return Err(Stop::Error(message));
                        }
                        Err(failure) => {
                            self.outlet.fail(id, &failure);
                            Vec::new()
                        }
                    };
                    if !self.outlet.is_open() {
                        let message = "the parent is gone, a reply could not be written";
                        return Err(Stop::Error(message.to_owned()));
                    }
                    if buffer.capacity() > wire::LARGE {
                        buffer = Vec::new();
                    }
                }
                Some(Step::Setup { .. } | Step::Run(_)) => {
                    unreachable!("the session refuses late control messages")
                }
            }
        }
    }

    /// Reads on. Returns false at the end of the requests.
    fn read(&mut self) -> Result<bool, Stop> {
        match self.inlet.read(&mut self.session).map_err(io_error)? {
            0 => {
                let finished = self.session.finish();
                finished.map_err(|error| broken(Violation::Decode(error)))?;
                Ok(false)
            }
            _ => Ok(true),
        }
    }

    fn refuse(&self, (kind, message): Refused) -> Stop {
        let message = &message;
        let refused = ToParent::Refused { kind, message }.encode();
        self.outlet.control(wire::CONTROL_TO_PARENT, &refused);
        Stop::Refused
    }
}

fn io_error(error: io::Error) -> Stop {
    Stop::Error(format!("cannot read from the parent: {error}"))
}

fn broken(violation: Violation) -> Stop {
    Stop::Error(format!("the parent broke the protocol: {violation}"))
}

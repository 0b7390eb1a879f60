//! A child takes its connection over, prepares, serves in the shape that its function has, and exits.

use super::hub::Hub;
use super::looper::Loop;
use super::request_reader::RequestReader;
use super::session::{ParentViolation, Session, Step};
use super::table::{FunctionEntry, StartFailure, Table};
use crate::process::marker::{self, Inherited};
use crate::sys::{self, Lifeline};
use crate::wire::Plain;
use crate::wire::{self, ToParent};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Where a child's read buffer starts before its parent says how large it is to be.
const BUFLEN: usize = 2 << 10;

/// No descriptor of a child's own is below this.
const STANDARD: i32 = 3;

/// What a child does at the end of its requests instead of exiting.
pub(super) type Done = Box<dyn FnOnce(&Loop)>;

/// How a table is served.
pub(super) struct Options {
    /// `None` is one for each processor. To find out how many there are takes a while.
    pub(super) threads: Option<usize>,
    pub(super) max_running: usize,
    pub(super) high_water: usize,
    pub(super) done: Option<Done>,
    #[cfg(feature = "log")]
    pub(super) log: Option<log::LevelFilter>,
}

/// Why a child stops serving, if not for the end of its requests.
pub(super) enum Stop {
    /// The parent was told that it will not serve.
    Refused,
    /// To be told on standard error.
    Error(String),
}

/// A child with its connection.
pub(super) struct Server {
    pub(super) session: Session,
    pub(super) requests: RequestReader,
    pub(super) hub: &'static Hub,
}

/// Serves the parent that started this process, and exits.
pub(super) fn serve(mut table: Table, options: Options, given: Inherited) -> ! {
    let serve = || {
        let (input, lifeline) = take_over(given)?;
        let mut requests = RequestReader::new(input.try_clone()?, lifeline)?;
        if options.done.is_some() {
            requests.outlive_parent();
        }
        Ok(Server::new(None, requests, input))
    };
    let result = serve().map_err(io_error);
    let result = result.and_then(|server| server.start(&mut table, options));
    exit(table, result)
}

/// Serves a plain peer on the standard input and output, and exits.
pub(super) fn serve_plain(mut table: Table, options: Options, name: &str, plain: Plain) -> ! {
    let entry = table.plain_function(name);
    let take_over = || -> io::Result<Server> {
        let input = sys::duplicate_above(sys::standard(0), STANDARD)?;
        let output = sys::duplicate_above(sys::standard(1), STANDARD)?;
        sys::replace(0, File::open("/dev/null")?)?;
        // A stray print must not get between the frames.
        sys::replace(1, sys::standard(2))?;
        Ok(Server::new(
            Some(plain),
            RequestReader::new(input, None)?,
            output,
        ))
    };
    let result = take_over().map_err(io_error);
    let result = result.and_then(|server| server.answer(entry, options));
    exit(table, result)
}

/// What functions captured is dropped first.
fn exit(table: Table, result: Result<(), Stop>) -> ! {
    drop(table);
    std::process::exit(match result {
        Ok(()) => 0,
        Err(Stop::Refused) => 1,
        Err(Stop::Error(message)) => {
            eprintln!("offspring server: {message}");
            1
        }
    })
}

/// Makes the standard descriptors what a program expects, and the connection private.
fn take_over(given: Inherited) -> io::Result<(OwnedFd, Option<Lifeline>)> {
    let socket = sys::duplicate_above(sys::standard(0), STANDARD)?;
    sys::replace(0, File::open("/dev/null")?)?;
    let inherited = |number| {
        let missing = || io::Error::new(ErrorKind::NotFound, "an inherited descriptor is closed");
        sys::take_inherited(number).ok_or_else(missing)
    };
    if given.stdout {
        sys::replace(1, inherited(marker::STDOUT)?)?;
    }
    let mut lifeline = None;
    if given.lifeline {
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
    Ok((socket, lifeline))
}

impl Server {
    fn new(plain: Option<Plain>, requests: RequestReader, output: OwnedFd) -> Self {
        Server {
            session: Session::new(plain, BUFLEN),
            requests,
            // Everything has it, as long as the process lives: references need not be counted.
            hub: Box::leak(Box::new(Hub::new(output, plain))),
        }
    }

    /// Runs setups until it is told what to serve, and serves that.
    fn start(mut self, table: &mut Table, options: Options) -> Result<(), Stop> {
        #[cfg(feature = "log")]
        if let Some(level) = options.log
            && super::logger::install(self.hub, level).is_err()
        {
            let message =
                "Worker::log() found a logger in the server; set it after run()".to_owned();
            return Err(refuse(self.hub, (wire::REFUSED_SETUP, message)));
        }
        if !self.requests.arm_lifeline().map_err(io_error)? {
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
                    result.map_err(|refused| refuse(self.hub, refused))?;
                }
                Some(Step::Run(run)) => {
                    let (buflen, max_frame) = (run.buflen as usize, run.max_frame as usize);
                    let result = table.function(&run);
                    let entry = result.map_err(|refused| refuse(self.hub, refused))?;
                    self.session.serve(buflen, max_frame);
                    self.hub.set_max_frame(max_frame);
                    let protocol = wire::VERSION;
                    self.hub.control(&ToParent::Ready { protocol });
                    return self.answer(entry, options);
                }
                Some(Step::Request { .. } | Step::Cancel { .. }) => {
                    unreachable!("the session refuses what is too early")
                }
            }
        }
    }

    /// Answers requests until they end.
    fn answer(self, entry: &mut FunctionEntry, options: Options) -> Result<(), Stop> {
        self.hub.flush_at_exit();
        entry.serve(self, options)
    }

    /// Reads on, waiting for something to come. Returns false at the end of the requests.
    pub(super) fn read(&mut self) -> Result<bool, Stop> {
        let n = self.requests.read(&mut self.session).map_err(io_error)?;
        self.has_read(n)
    }

    /// What it means to have read so many bytes: whether there may be more.
    pub(super) fn has_read(&self, n: usize) -> Result<bool, Stop> {
        if n == 0 {
            let finished = self.session.finish();
            finished.map_err(|error| broken(ParentViolation::Decode(error)))?;
        }
        Ok(n > 0)
    }
}

fn refuse(hub: &'static Hub, (kind, message): StartFailure) -> Stop {
    let message = &message;
    hub.control(&ToParent::Refused { kind, message });
    Stop::Refused
}

pub(super) fn io_error(error: io::Error) -> Stop {
    Stop::Error(format!("the connection to the parent: {error}"))
}

pub(super) fn broken(violation: ParentViolation) -> Stop {
    Stop::Error(format!("the parent broke the protocol: {violation}"))
}

/// The parent cannot be written to.
pub(super) fn parent_gone() -> Stop {
    Stop::Error("the parent is gone, and replies could not be written".to_owned())
}

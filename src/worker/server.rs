//! A child with its connection, and why it stops serving.

use super::event_loop::Loop;
use super::functions::Functions;
use super::hub::Hub;
use super::read_ahead::ReadAhead;
use super::request_reader::RequestReader;
use super::session::{ParentViolation, Session};
use crate::sys::SharedNote;
use crate::unwind;
use crate::wire::Plain;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

/// The size of a child's read buffer until its parent asks for another.
const BUFLEN: usize = 2 << 10;

/// What a child does at the end of its requests instead of exiting.
pub(super) type Done = Box<dyn FnOnce(&Loop)>;

/// How a table is served.
pub(super) struct Options {
    /// `None` is one for each processor, which takes a while to find out.
    pub(super) threads: Option<usize>,
    pub(super) max_running: usize,
    pub(super) high_water: usize,
    pub(super) done: Option<Done>,
    #[cfg(feature = "log")]
    pub(super) log: Option<log::LevelFilter>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            threads: None,
            max_running: usize::MAX,
            high_water: 1 << 20,
            done: None,
            #[cfg(feature = "log")]
            log: None,
        }
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        let done = self.done.take();
        // It is the program's. The panic hook shows a panic of its destructor.
        let _ = unwind::catch(|| drop(done));
    }
}

/// Why a child stops serving before the end of its requests.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It has sent its parent a refusal to serve.
    Refused,
    /// A message for standard error.
    Error(String),
}

impl Stop {
    /// A system call on the connection failed.
    pub(super) fn connection(error: io::Error) -> Self {
        Stop::error(format_args!("the connection to the parent: {error}"))
    }

    pub(super) fn protocol(violation: ParentViolation) -> Self {
        Stop::error(format_args!("the parent broke the protocol: {violation}"))
    }

    /// Two calls have the same id.
    pub(super) fn duplicate(id: u32) -> Self {
        Stop::protocol(ParentViolation::Duplicate { id })
    }

    /// There is none to run the function on.
    pub(super) fn no_thread(error: &io::Error) -> Self {
        Stop::error(format_args!("cannot start a thread: {error}"))
    }

    /// There is no descriptor to wake the loop with.
    pub(super) fn no_waker(error: &io::Error) -> Self {
        Stop::error(format_args!(
            "cannot make a descriptor to wake the loop with: {error}"
        ))
    }

    /// Replies could not be written.
    pub(super) fn cannot_write(hub: &Hub) -> Self {
        let error = hub.write_error();
        Stop::error(format_args!("cannot write to the parent: {error}"))
    }

    fn error(message: impl fmt::Display) -> Self {
        Stop::Error(message.to_string())
    }
}

/// A child with its connection.
pub(super) struct Server {
    pub(super) session: Session,
    pub(super) requests: RequestReader,
    pub(super) hub: &'static Hub,
    pub(super) functions: Functions,
    pub(super) ahead: ReadAhead,
    /// `None` if no function runs on one.
    pub(super) start_threads: Option<StartThreads>,
}

/// See [`Server::start_threads`].
pub(super) type StartThreads = Box<dyn FnMut(&'static Hub) -> Result<(), Stop>>;

impl Server {
    pub(super) fn new(
        plain: Option<Plain>,
        requests: RequestReader,
        output: OwnedFd,
        note: Option<SharedNote>,
        functions: Functions,
    ) -> Self {
        // Shared by everything until the process exits: references need not be counted.
        let hub: &'static Hub = Box::leak(Box::new(Hub::new(output, plain, note)));
        hub.flush_at_exit();
        Server {
            session: Session::new(plain, BUFLEN),
            requests,
            hub,
            functions,
            ahead: ReadAhead::new(),
            start_threads: None,
        }
    }

    /// Reads requests, blocking until some arrive. Returns false at their end.
    pub(super) fn read(&mut self) -> Result<bool, Stop> {
        let n = self.requests.read(&mut self.session);
        self.after_read(n.map_err(Stop::connection)?)
    }

    /// Starts threads for the requests that no free one takes.
    pub(super) fn start_threads(&mut self) -> Result<(), Stop> {
        match &mut self.start_threads {
            Some(start) => start(self.hub),
            None => Ok(()),
        }
    }

    /// Returns whether there may be more requests after a read of `n` bytes.
    pub(super) fn after_read(&self, n: usize) -> Result<bool, Stop> {
        if n == 0 {
            let finished = self.session.finish();
            finished.map_err(|error| Stop::protocol(ParentViolation::Decode(error)))?;
        }
        Ok(n > 0)
    }
}

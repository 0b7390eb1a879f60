//! The start of a child with the options of its handle, below the codec.

use super::driver::{CapturedOutput, Driver, Handlers};
use super::handle::Handle;
use super::link::{Link, Peer, Reader};
use super::reactor::Core;
use super::state::{Connection, Life, QueueLimits, StartBy};
use crate::deadlines::after;
use crate::error::{Error, ErrorKind};
use crate::process::{CopyWait, Launched, Process};
use crate::wire::{self, Body, Decoder, Framing, FunctionId, Plain, ToChild};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The options that do not depend on the types of the function: see [`RpcBuilder`](super::RpcBuilder).
pub(crate) struct StartOptions {
    pub(crate) process: Process,
    pub(crate) handlers: Handlers,
    pub(crate) child: ChildOptions,
    pub(crate) call_timeout: Option<Duration>,
    pub(crate) max_queue: (usize, usize),
    pub(crate) reactor: Option<Arc<Core>>,
    /// How long a copy of a template is waited for, if not for the start timeout.
    pub(crate) copy_wait: Option<CopyWait>,
}

/// Those that a pool has for each of its children, too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChildOptions {
    pub(crate) start_timeout: Duration,
    pub(crate) kill_stuck: Option<Duration>,
    pub(crate) grace: Duration,
    pub(crate) buflen_req: usize,
    pub(crate) buflen_res: usize,
    pub(crate) max_frame: usize,
    pub(crate) max_asks: usize,
    pub(crate) event_delay: Duration,
}

impl Default for ChildOptions {
    fn default() -> Self {
        ChildOptions {
            start_timeout: Duration::from_secs(10),
            kill_stuck: None,
            grace: Duration::from_secs(5),
            buflen_req: 2 << 10,
            buflen_res: 2 << 10,
            max_frame: 256 << 20,
            max_asks: 1024,
            event_delay: Duration::from_micros(500),
        }
    }
}

impl StartOptions {
    /// The default options.
    pub(crate) fn new(process: Process) -> Self {
        StartOptions {
            process,
            handlers: Handlers::default(),
            child: ChildOptions::default(),
            call_timeout: None,
            max_queue: (usize::MAX, usize::MAX),
            reactor: None,
            copy_wait: None,
        }
    }

    /// Starts the child. Not generic: a program has one of these, whatever it calls.
    pub(crate) fn start(self, function: FunctionId<'_>) -> Result<Handle, Error> {
        let io_error =
            |error| Error::new(ErrorKind::Io, format!("cannot start a reactor: {error}"));
        let core = match &self.reactor {
            Some(reactor) if reactor.is_elsewhere() => {
                let message = "this process was forked from the one that made the Reactor, which \
                               alone can use it; make another one here";
                return Err(Error::new(ErrorKind::Forked, message));
            }
            Some(reactor) => Arc::clone(reactor),
            None => Core::new(true).map_err(io_error)?,
        };
        let plain = self.process.plain_mode();
        let max_frame = self.child.max_frame;
        let run = wire::Run {
            protocol: wire::VERSION,
            function,
            max_frame: max_frame as u32,
            buflen: self.child.buflen_req.min(u32::MAX as usize) as u32,
        };
        // A plain peer has none: an option that asks for some is refused below.
        let mut preparations = match plain {
            None => self.process.preparations()?,
            Some(_) => Vec::new(),
        };
        let Launched {
            socket,
            child,
            lifeline,
            stdout,
            stderr,
        } = match self.process.far_starter() {
            Some(starter) => {
                let child = &self.child;
                starter.launch(&self.process, child.start_timeout, child.grace)?
            }
            None => {
                let wait = || CopyWait::new(self.child.start_timeout, None);
                self.process.launch(&self.copy_wait.unwrap_or_else(wait))?
            }
        };
        let lifeline = lifeline.map(|(reader, writer)| {
            let mut message = Body::from(ToChild::Lifeline.encode());
            message.attach(reader);
            preparations.insert(0, message);
            writer
        });
        let (calls, bytes) = self.max_queue;
        let limits = QueueLimits {
            max_frame,
            calls,
            bytes,
            asks: self
                .handlers
                .on_ask
                .is_some()
                .then_some(self.child.max_asks),
            stuck_after: self.child.kill_stuck,
        };
        let is_remote = child
            .as_ref()
            .is_some_and(|child| child.as_remote().is_some());
        let start_by = match plain {
            None if is_remote => Some(StartBy::Awaited),
            None => Some(StartBy::At(after(Instant::now(), self.child.start_timeout))),
            Some(_) => None,
        };
        let life = Life::new(child.is_some(), start_by, self.child.grace);
        let connection = Connection::new(plain, limits);
        let mut decoder = Decoder::new(Framing::Tagged, self.child.buflen_res, max_frame);
        if matches!(plain, None | Some(Plain::Fallible)) {
            // Control frames have the id of a failed reply, and no call.
            decoder = decoder.with_control(|id| id & wire::FAILED != 0);
        }
        if plain.is_none() && !is_remote {
            decoder = decoder.with_fds(wire::CONTROL_TO_PARENT);
        }
        let (reader, rewatch_delay) = (Reader::new(decoder), self.child.event_delay);
        let stdout = stdout.map(|pipe| (pipe, self.process.stdout_callback()));
        let stderr = stderr.map(|pipe| (pipe, self.process.stderr_callback()));
        let has_callback = |output: &Option<CapturedOutput>| {
            output
                .as_ref()
                .is_some_and(|(_, callback)| callback.is_some())
        };
        let has_callbacks = self.handlers.any() || has_callback(&stdout) || has_callback(&stderr);
        let on_reactor = Arc::clone(&core);
        let peer = Peer {
            socket,
            child,
            lifeline,
        };
        let link = Link::new(connection, reader, rewatch_delay, peer, on_reactor);
        let link = Arc::new(link);
        let abandon = Abandon(&link);
        if plain.is_none() {
            let sent = link.start(preparations, run);
            sent.map_err(|error| Error::new(ErrorKind::Setup, error.to_string()))?;
        }
        let timeout = self.child.start_timeout;
        let driver = Driver::new(
            Arc::clone(&link),
            self.handlers,
            life,
            timeout,
            stdout,
            stderr,
        );
        let added = driver.and_then(|driver| core.add(Box::new(driver)));
        added.map_err(io_error)?;
        mem::forget(abandon);
        Ok(Handle::new(link, self.call_timeout, has_callbacks))
    }
}

/// Undoes a start that fails half way, even if that is because a destructor of the program's panics.
struct Abandon<'a>(&'a Link);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

//! Options of a handle, and its start.

use super::driver::{CapturedOutput, Driver, Handlers, OnEvent, TypedOnEvent};
use super::handle::{Handle, Rpc};
use super::link::{Link, Reader};
use super::reactor::{Core, Reactor};
use super::state::{Connection, Life, QueueLimits, StartBy};
use crate::codec::Codec;
use crate::deadlines::after;
use crate::error::{Error, ErrorKind};
use crate::process::{Launched, Process};
use crate::service::Service;
use crate::wire::{self, Decoder, Framing, ToChild, truncate};
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Options of a handle to a child that has not been started: what [`Process::rpc`] returns.
///
/// All callbacks run on the reactor's thread, one at a time, never inside the method that registers
/// them. A panic of one is reported by the panic hook, and has no other effect. Methods that wait
/// refuse to do so in a callback.
#[must_use = "nothing is started before start()"]
pub struct RpcBuilder<S: Service> {
    process: Process,
    service: S,
    on_event: Option<Box<dyn FnMut(S::Event) + Send>>,
    on_error: Option<Box<dyn FnOnce(Error) + Send>>,
    on_destroy: Option<Box<dyn FnOnce() + Send>>,
    start_timeout: Duration,
    call_timeout: Option<Duration>,
    grace: Duration,
    buflen_req: usize,
    buflen_res: usize,
    max_frame: usize,
    max_queue: (usize, usize),
    event_delay: Duration,
    reactor: Option<Reactor>,
}

impl<S: Service> fmt::Debug for RpcBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcBuilder")
            .field("process", &self.process)
            .field("service", &self.service.name())
            .finish_non_exhaustive()
    }
}

impl Process {
    /// A handle to a new child that serves this function, once it is
    /// [started](RpcBuilder::start).
    pub fn rpc<S: Service>(&self, service: S) -> RpcBuilder<S> {
        RpcBuilder {
            process: self.clone(),
            service,
            on_event: None,
            on_error: None,
            on_destroy: None,
            start_timeout: Duration::from_secs(10),
            call_timeout: None,
            grace: Duration::from_secs(5),
            buflen_req: 2 << 10,
            buflen_res: 2 << 10,
            max_frame: 256 << 20,
            max_queue: (usize::MAX, usize::MAX),
            event_delay: Duration::from_micros(500),
            reactor: None,
        }
    }
}

impl<S: Service> RpcBuilder<S> {
    /// Handles the events that the child sends, in the order in which it made them and its replies.
    ///
    /// Without [`on_error`](RpcBuilder::on_error) it also gets the error that ended the child, in the
    /// form that [`Service::error_event`] gives it: for octet strings `["error", message]`.
    ///
    /// Default: none. Then an event is an error, and ends the child.
    pub fn on_event(mut self, callback: impl FnMut(S::Event) + Send + 'static) -> Self {
        self.on_event = Some(Box::new(callback));
        self
    }

    /// Handles the error that ended the child, after all calls have ended. Exactly one of this and
    /// [`on_destroy`](RpcBuilder::on_destroy) is called, exactly once, and no callback after it.
    ///
    /// Default: the error goes to `on_event`, without that to the log, or to standard error if the
    /// feature `log` is off.
    pub fn on_error(mut self, callback: impl FnOnce(Error) + Send + 'static) -> Self {
        self.on_error = Some(Box::new(callback));
        self
    }

    /// Called when the handle is gone, all calls have ended and the child has exited cleanly.
    pub fn on_destroy(mut self, callback: impl FnOnce() + Send + 'static) -> Self {
        self.on_destroy = Some(Box::new(callback));
        self
    }

    /// How long the child may take to get ready, setups included. After that it is killed, and its
    /// calls end with [`ErrorKind::StartTimeout`]. Default: 10 seconds. [`Duration::MAX`] is no limit.
    /// Plain peers do not report that they are ready: they count as ready from the start.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// The timeout of calls that set none of their own; see [`Call::timeout`](crate::Call::timeout).
    /// Default: none.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = Some(timeout);
        self
    }

    /// How long the child may take to exit once it has been told to and has answered everything, before
    /// it gets SIGTERM, and then the same time again before it gets SIGKILL. Default: 5 seconds.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// The initial size in bytes of the read buffers of both sides. They grow to 64 KiB when traffic is
    /// dense; a frame above 16 KiB that has not arrived whole gets a buffer of its own. Default: 2048, at
    /// most 1 MiB.
    pub fn buflen(self, bytes: usize) -> Self {
        self.buflen_req(bytes).buflen_res(bytes)
    }

    /// As [`buflen`](RpcBuilder::buflen), for the child's buffer only, into which requests are read. A
    /// plain peer is not told.
    pub fn buflen_req(mut self, bytes: usize) -> Self {
        self.buflen_req = bytes;
        self
    }

    /// As [`buflen`](RpcBuilder::buflen), for the parent's buffer only, into which replies and events
    /// are read.
    pub fn buflen_res(mut self, bytes: usize) -> Self {
        self.buflen_res = bytes;
        self
    }

    /// The longest payload in bytes that either side accepts. A longer request is refused, a longer
    /// reply fails its call, and a child that sends one nevertheless breaks the protocol.
    /// Default: 256 MiB. The format allows 4 GiB less one byte.
    pub fn max_frame(mut self, bytes: usize) -> Self {
        self.max_frame = bytes.min(u32::MAX as usize);
        self
    }

    /// How many calls may be outstanding, and how many bytes of requests may wait to be written.
    /// Above either limit, [`call`](Rpc::call) waits and [`try_call`](Rpc::try_call) is refused. One
    /// request can always be queued, however long it is. Default: no limit.
    pub fn max_queue(mut self, calls: usize, bytes: usize) -> Self {
        self.max_queue = (calls.max(1), bytes);
        self
    }

    /// How much an event or the report of the child's end may be delayed that comes just after a dense
    /// series of blocking calls. Callers that block read the socket themselves, and the reactor takes
    /// over only when there was no such call for this time; to do so after each call would cost two
    /// more system calls. With zero it does so after each.
    ///
    /// Default: 500 microseconds.
    pub fn event_delay(mut self, delay: Duration) -> Self {
        self.event_delay = delay;
        self
    }

    /// The reactor that serves the handle. Default: one of its own.
    pub fn reactor(mut self, reactor: &Reactor) -> Self {
        self.reactor = Some(reactor.clone());
        self
    }

    /// Starts the child without waiting for it: calls can be made immediately, and are sent with the
    /// start. See [`Rpc::wait_ready`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Spawn`] if the program cannot be executed, [`ErrorKind::Unsupported`] if the
    /// [`Process`] has an option that such a child cannot have, [`ErrorKind::Setup`] if the strings of
    /// a [setup](crate::Process::setup) are too long, [`ErrorKind::NotServing`] if this process is a
    /// child itself and does not serve yet, [`ErrorKind::Forked`] if the [`Reactor`] is
    /// that of the process from which this one was forked, [`ErrorKind::Io`] if there are no descriptors or threads
    /// left. What goes wrong later is reported to `on_error` and to all calls.
    pub fn start(self) -> Result<Rpc<S>, Error> {
        let io_error =
            |error| Error::new(ErrorKind::Io, format!("cannot start a reactor: {error}"));
        let core = match &self.reactor {
            Some(reactor) if reactor.core().is_elsewhere() => {
                let message = "this process was forked from the one that made the Reactor, which \
                               alone can use it; make another one here";
                return Err(Error::new(ErrorKind::Forked, message));
            }
            Some(reactor) => Arc::clone(reactor.core()),
            None => Core::new(true).map_err(io_error)?,
        };
        let plain = self.process.plain();
        let max_frame = self.max_frame;
        let run = wire::Run {
            protocol: wire::VERSION,
            name: self.service.name(),
            version: self.service.version(),
            codec: <S::Codec as Codec<S::Request>>::NAME,
            max_frame: max_frame as u32,
            buflen: self.buflen_req.min(u32::MAX as usize) as u32,
        };
        if plain.is_none() {
            check_lengths(self.process.setups(), &run)?;
        }
        let Launched {
            socket,
            child,
            stdout,
            stderr,
        } = self.process.launch()?;
        let (calls, bytes) = self.max_queue;
        let limits = QueueLimits {
            max_frame,
            calls,
            bytes,
        };
        let start_by = plain
            .is_none()
            .then(|| StartBy(after(Instant::now(), self.start_timeout)));
        let life = Life::new(child.is_some(), start_by, self.grace);
        let connection = Connection::new(plain, limits);
        let mut decoder = Decoder::new(Framing::Tagged, self.buflen_res, max_frame);
        if plain.is_none() {
            // Control frames have the id of a failed reply, and no call.
            decoder = decoder.with_control(|id| id & wire::FAILED != 0);
        }
        let (reader, rewatch_delay) = (Reader::new(decoder), self.event_delay);
        let stdout = stdout.map(|pipe| (pipe, self.process.stdout_callback()));
        let stderr = stderr.map(|pipe| (pipe, self.process.stderr_callback()));
        let has_callback = |output: &Option<CapturedOutput>| {
            output
                .as_ref()
                .is_some_and(|(_, callback)| callback.is_some())
        };
        let has_callbacks = self.on_event.is_some()
            || self.on_error.is_some()
            || self.on_destroy.is_some()
            || has_callback(&stdout)
            || has_callback(&stderr);
        let on_reactor = Arc::clone(&core);
        let link = Link::new(connection, reader, rewatch_delay, socket, child, on_reactor);
        let link = Arc::new(link);
        if plain.is_none() {
            link.start(self.process.setups(), run);
        }
        let abandon = Abandon(&link);
        let service = self.service;
        let on_event = self.on_event.map(|callback| {
            Box::new(TypedOnEvent::new(service.clone(), callback)) as Box<dyn OnEvent>
        });
        let handlers = Handlers {
            on_event,
            on_error: self.on_error,
            on_destroy: self.on_destroy,
        };
        let added = Driver::new(Arc::clone(&link), handlers, life, stdout, stderr)
            .and_then(|driver| core.add(Box::new(driver)));
        added.map_err(io_error)?;
        mem::forget(abandon);
        Ok(Rpc::new(
            Handle::new(link, self.call_timeout, has_callbacks),
            service,
        ))
    }
}

/// Refuses what a child would not take, as it is too long.
fn check_lengths(setups: &[(String, Vec<u8>)], run: &wire::Run<'_>) -> Result<(), Error> {
    for (name, strings) in setups {
        if !(ToChild::Setup { name, strings }).fits() {
            let name = truncate(name, 100);
            let message = format!(
                "the strings of the setup `{name}` have more than a mebibyte; pass what is long in a \
                 request or in a file"
            );
            return Err(Error::new(ErrorKind::Setup, message));
        }
    }
    if !ToChild::Run(run.clone()).fits() {
        let message = "the function's name has more than a mebibyte";
        return Err(Error::new(ErrorKind::NoFunction, message));
    }
    Ok(())
}

/// Undoes a start that fails half way, even if that is because a destructor of the program's panics.
struct Abandon<'a>(&'a Link);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

//! Options of a handle, and its start.

use super::ask::{self, Asker};
use super::handle::Rpc;
use super::reactor::Reactor;
use super::start::StartOptions;
use crate::codec::{Replies, Strings};
use crate::error::Error;
use crate::process::{CopyWait, Process};
use crate::service::{IntoService, Name, Signature, id_of};
use crate::wire::LONGEST_PAYLOAD;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Options of a handle to a child that has not been started: what [`Process::rpc`] returns.
///
/// All callbacks run on the reactor's thread, one at a time, never inside the method that registers
/// them. A panic of one is reported by the panic hook, and has no other effect. Methods that wait
/// for a child fail at once in a callback; [`start`](RpcBuilder::start) may wait there, too.
#[must_use = "nothing is started before start()"]
pub struct RpcBuilder<S: Signature = Name> {
    service: S,
    options: StartOptions,
}

impl<S: Signature> fmt::Debug for RpcBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcBuilder")
            .field("process", &self.options.process)
            .field("service", &self.service.name())
            .finish_non_exhaustive()
    }
}

impl Process {
    /// A handle to a new child that serves this function, once it is
    /// [started](RpcBuilder::start).
    pub fn rpc<S: IntoService>(&self, service: S) -> RpcBuilder<S::Service> {
        RpcBuilder {
            service: service.into_service(),
            options: StartOptions::new(self.clone()),
        }
    }
}

impl<S: Signature> RpcBuilder<S> {
    /// Handles the events that the child sends, in the order in which it made them and its replies,
    /// whatever function they come from.
    ///
    /// Without [`on_error`](RpcBuilder::on_error) it also gets the error that ended the child, as the
    /// strings `error` and the message. A child may send such an event, too: to tell them apart, set
    /// `on_error`.
    ///
    /// Default: none. Events are dropped then, and the first is reported to the log, or to standard error
    /// if the feature `log` is off.
    pub fn on_event(mut self, mut callback: impl FnMut(Strings) + Send + 'static) -> Self {
        self.options.handlers.on_event = Some(Box::new(move |_pid, event| callback(event)));
        self
    }

    /// Serves what the child [asks](crate::Caller::ask): `callback` is called with the request, and what it
    /// returns is the answer. It also gets what the child [tells](crate::Caller::tell), and what it returns
    /// is dropped then, but for an error, which goes to the log.
    ///
    /// A panic is the answer, too. What nobody serves is answered with
    /// [`CallError::Unserved`](crate::CallError::Unserved), and told it is treated like an event that nobody
    /// handles.
    ///
    /// # Panics
    ///
    /// If the service is served already, or its name has more than 32 KiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::collections::HashMap;
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new()
    ///     .function("greet", |name, caller| {
    ///         let greeting = caller.ask("setting", "greeting")?;
    ///         Ok(format!("{greeting} {name}"))
    ///     })
    ///     .run();
    /// let settings = HashMap::from([("greeting".to_owned(), "good morning")]);
    /// let rpc = me
    ///     .rpc("greet")
    ///     .on_ask("setting", move |name| {
    ///         Ok(*settings.get(&name.to_string()).ok_or("no such setting")?)
    ///     })
    ///     .start()?;
    /// assert_eq!(rpc.call("Alice").wait()?, ["good morning Alice"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_ask<O, F, R>(mut self, service: O, callback: F) -> Self
    where
        O: IntoService,
        F: FnMut(
                <O::Service as Signature>::Request<'_>,
            ) -> Result<R, <O::Service as Signature>::Error>
            + Send
            + 'static,
        <O::Service as Signature>::Codec: Replies<<O::Service as Signature>::Reply, R>,
    {
        let handler = ask::returning::<O::Service, _, _>(callback);
        self.options
            .handlers
            .serve(&service.into_service(), handler);
        self
    }

    /// As [`on_ask`](RpcBuilder::on_ask), for what is answered later: `callback` gets an [`Asker`] to own,
    /// which any thread may answer.
    ///
    /// # Panics
    ///
    /// If the service is served already, or its name has more than 32 KiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new()
    ///     .function("ask twice", |_, caller| {
    ///         let (one, two) = (caller.ask("next", ())?, caller.ask("next", ())?);
    ///         Ok(format!("{one} {two}"))
    ///     })
    ///     .run();
    /// let (send, askers) = std::sync::mpsc::channel();
    /// let rpc = me
    ///     .rpc("ask twice")
    ///     .on_ask_deferred("next", move |_, asker| drop(send.send(asker)))
    ///     .start()?;
    /// let reply = rpc.call(()).start();
    /// for (n, asker) in (1..=2).zip(&askers) {
    ///     asker.reply(n.to_string());
    /// }
    /// assert_eq!(reply.wait()?, ["1 2"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_ask_deferred<O, F>(mut self, service: O, callback: F) -> Self
    where
        O: IntoService,
        F: FnMut(<O::Service as Signature>::Request<'_>, Asker<O::Service>) + Send + 'static,
    {
        let handler = ask::deferred::<O::Service, _>(callback);
        self.options
            .handlers
            .serve(&service.into_service(), handler);
        self
    }

    /// How many asks of the child may be unanswered, or their answers not yet sent. Further ones end with
    /// [`Refusal::Full`](crate::Refusal::Full). It is what bounds the memory for answers to a child that does
    /// not read them. Default: 1024.
    pub fn max_asks(mut self, asks: usize) -> Self {
        self.options.child.max_asks = asks;
        self
    }

    /// Handles the error that ended the child, after all calls have ended. Exactly one of this and
    /// [`on_destroy`](RpcBuilder::on_destroy) is called, exactly once, and no callback after it.
    ///
    /// Default: the error goes to `on_event`, without that to the log, or to standard error if the
    /// feature `log` is off.
    pub fn on_error(mut self, callback: impl FnOnce(Error) + Send + 'static) -> Self {
        self.options.handlers.on_error = Some(Box::new(callback));
        self
    }

    /// Called after every call has ended and the child is gone, if no call was lost and it ended because
    /// it was told to: by [`finish`](Rpc::finish), [`kill`](Rpc::kill), or the drop of the last handle. Its
    /// exit status is not checked: see [`Exit::status`](crate::Exit::status).
    #[doc(alias = "on_exit")]
    pub fn on_destroy(mut self, callback: impl FnOnce() + Send + 'static) -> Self {
        self.options.handlers.on_destroy = Some(Box::new(callback));
        self
    }

    /// How long the child may take to get ready, setups included. After that it is killed, and its
    /// calls end with [`ErrorKind::StartTimeout`](crate::ErrorKind::StartTimeout). Default: 10 seconds.
    /// [`Duration::MAX`] is no limit. Plain peers do not report that they are ready: they count as ready
    /// from the start.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.options.child.start_timeout = timeout;
        self
    }

    /// The timeout of calls that set none of their own; see [`Call::timeout`](crate::Call::timeout).
    /// Default: none.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.options.call_timeout = Some(timeout);
        self
    }

    /// Kills the child if it has not answered a call this long after the call's
    /// [timeout](crate::Call::timeout): it hangs. That call has ended at its timeout, and all others end as
    /// [lost](crate::CallError::Lost), with an error of the kind [`Stuck`](crate::ErrorKind::Stuck), which
    /// `on_error` gets, too.
    ///
    /// Any answer that comes by then will do: a function may [notice](crate::Caller::is_cancelled) that
    /// nobody waits for it, and return early. In a child that runs one call at a time, one that times out
    /// behind another is answered after that, so this should be longer than calls may take. Calls do not
    /// count that were [cancelled](crate::Pending::cancel), or that timed out before they were sent or the
    /// child was ready.
    ///
    /// Default: never, and so is [`Duration::MAX`].
    ///
    /// # Examples
    ///
    /// ```
    /// use offspring::{CallError, ErrorKind, Worker};
    /// use std::{thread, time::Duration};
    ///
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = Worker::new()
    ///     .function("hang", |_request, _caller| -> Result<(), _> { loop { thread::park() } })
    ///     .run();
    /// let short = Duration::from_millis(100);
    /// let rpc = me.rpc("hang").kill_stuck(short).on_error(drop).start()?;
    /// rpc.wait_ready()?;
    /// let first = rpc.call(()).timeout(short).wait();
    /// assert!(matches!(first, Err(CallError::TimedOut(_))));
    /// let Err(CallError::Lost(error, _)) = rpc.call(()).wait() else {
    ///     panic!("nothing answers it");
    /// };
    /// assert_eq!(error.kind(), ErrorKind::Stuck);
    /// # Ok(())
    /// # }
    /// ```
    pub fn kill_stuck(mut self, after: Duration) -> Self {
        self.options.child.kill_stuck = Some(after);
        self
    }

    /// How long the child may take to exit once it has been told to and has answered everything, before
    /// it gets SIGTERM, and then the same time again before it gets SIGKILL. Default: 5 seconds.
    ///
    /// A [command](Process::command) that reaches it has the same time to end after it, but at most 5 seconds.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.options.child.grace = grace;
        self
    }

    /// The initial size in bytes of the read buffers of both sides. They grow to 64 KiB when traffic is
    /// dense; a frame above 16 KiB that has not arrived whole gets a buffer of its own. Default: 2048, at
    /// most 1 MiB.
    #[doc(alias = "buffer_size")]
    #[doc(alias = "read_buffer")]
    pub fn buflen(self, bytes: usize) -> Self {
        self.buflen_req(bytes).buflen_res(bytes)
    }

    /// As [`buflen`](RpcBuilder::buflen), for the child's buffer only, into which requests are read. A
    /// plain peer is not told.
    pub fn buflen_req(mut self, bytes: usize) -> Self {
        self.options.child.buflen_req = bytes;
        self
    }

    /// As [`buflen`](RpcBuilder::buflen), for the parent's buffer only, into which replies and events
    /// are read.
    pub fn buflen_res(mut self, bytes: usize) -> Self {
        self.options.child.buflen_res = bytes;
        self
    }

    /// The longest payload in bytes that either side accepts. A longer request is refused, a longer
    /// reply fails its call, and a child that sends one nevertheless breaks the protocol.
    /// Default: 256 MiB. At most it is 64 KiB less than 4 GiB.
    pub fn max_frame(mut self, bytes: usize) -> Self {
        self.options.child.max_frame = bytes.min(LONGEST_PAYLOAD);
        self
    }

    /// How many calls may be outstanding, and how many bytes of requests may wait to be written.
    /// Above either limit, [`call`](Rpc::call) waits and [`try_call`](Rpc::try_call) is refused. One
    /// request can always be queued, however long it is. Default: no limit.
    pub fn max_queue(mut self, calls: usize, bytes: usize) -> Self {
        self.options.max_queue = (calls.max(1), bytes);
        self
    }

    /// How much an event or the report of the child's end may be delayed that comes just after a dense
    /// series of blocking calls. Callers that block read the socket themselves, and the reactor takes
    /// over only when there was no such call for this time; to do so after each call would cost two
    /// more system calls. With zero it does so after each.
    ///
    /// Default: 500 microseconds.
    pub fn event_delay(mut self, delay: Duration) -> Self {
        self.options.child.event_delay = delay;
        self
    }

    /// The reactor that serves the handle. Default: one of its own.
    pub fn reactor(mut self, reactor: &Reactor) -> Self {
        self.options.reactor = Some(Arc::clone(reactor.core()));
        self
    }

    /// Starts the child, and does not wait until it is ready: calls can be made immediately, and are sent
    /// with the start. See [`Rpc::wait_ready`].
    ///
    /// In two cases this blocks, even in a callback. A copy of a [template](Process::template) on this
    /// machine waits until the template has made it, at most for the
    /// [start timeout](RpcBuilder::start_timeout); and [`Process::connect`] calls its closure here, if there
    /// is no connection yet.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Spawn`] if the program cannot be executed, a template cannot be copied, a connection
    ///   cannot be made, or a [limit](Process::limit) or the like is out of range or, for a plain command,
    ///   cannot be applied
    /// - [`ErrorKind::StartTimeout`] if a template on this machine makes no copy in time, or the error that
    ///   ended the template
    /// - [`ErrorKind::Unsupported`] if the [`Process`] has an option that such a child cannot have
    /// - [`ErrorKind::Setup`] if the request of a [setup](crate::Process::setup) cannot be encoded or is too
    ///   long
    /// - [`ErrorKind::NotServing`] if this process is a child itself and does not serve yet
    /// - [`ErrorKind::Forked`] if the [`Reactor`] is that of the process from which this one was forked
    /// - [`ErrorKind::Io`] if there are no descriptors or threads left
    ///
    /// What goes wrong later is reported to `on_error` and to all calls.
    ///
    /// [`ErrorKind::Spawn`]: crate::ErrorKind::Spawn
    /// [`ErrorKind::StartTimeout`]: crate::ErrorKind::StartTimeout
    /// [`ErrorKind::Unsupported`]: crate::ErrorKind::Unsupported
    /// [`ErrorKind::Setup`]: crate::ErrorKind::Setup
    /// [`ErrorKind::NotServing`]: crate::ErrorKind::NotServing
    /// [`ErrorKind::Forked`]: crate::ErrorKind::Forked
    /// [`ErrorKind::Io`]: crate::ErrorKind::Io
    pub fn start(self) -> Result<Rpc<S>, Error> {
        let RpcBuilder { service, options } = self;
        let handle = options.start(id_of(&service))?;
        Ok(Rpc::new(handle, service))
    }

    /// How long a copy of a template is waited for, instead of for the start timeout.
    pub(super) fn copy_wait(mut self, wait: Option<CopyWait>) -> Self {
        self.options.copy_wait = wait;
        self
    }
}

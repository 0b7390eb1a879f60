//! The handle to a child.

use super::call::Call;
use super::link::Link;
use super::state::Exit;
use super::stats::RpcStats;
use crate::codec::Argument;
use crate::deadlines::after;
use crate::error::Error;
use crate::process::Child;
use crate::service::{IntoService, Name, Signature, id_of};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A child process, and a function that it serves.
///
/// Cheap to clone, and usable from any thread: all clones are handles to the same child. When the last
/// one is dropped, the child answers all outstanding calls in the background, and exits;
/// [`finish`](Rpc::finish) waits for that. A clone that is held by the handle's own callbacks is a
/// reference cycle, which only `finish` or [`kill`](Rpc::kill) breaks.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), offspring::BoxError> {
/// let me = offspring::Worker::new()
///     .function("greet", |request, _caller| Ok(format!("hello {request}")))
///     .run();
/// let rpc = me.rpc("greet").start()?;
///
/// // Wait for the reply,
/// assert_eq!(rpc.call("Alice").wait()?, ["hello Alice"]);
///
/// // have it passed to a callback,
/// rpc.call("Bob").then(|reply| println!("{}", reply.expect("greeting never fails")));
///
/// // or take it later.
/// let carol = rpc.call("Carol").start();
/// assert_eq!(carol.wait()?, ["hello Carol"]);
///
/// let exit = rpc.finish()?;
/// assert!(exit.status().is_some_and(|status| status.success()));
/// # Ok(())
/// # }
/// ```
pub struct Rpc<S: Signature = Name> {
    handle: Arc<Handle>,
    service: S,
    /// The number of the function at the link.
    function: usize,
}

/// What all clones share. Dropped with the last one.
pub(crate) struct Handle {
    pub(crate) link: Arc<Link>,
    pub(super) call_timeout: Option<Duration>,
    /// Whether the program has callbacks other than those of calls.
    has_callbacks: bool,
}

impl Handle {
    pub(super) fn new(
        link: Arc<Link>,
        call_timeout: Option<Duration>,
        has_callbacks: bool,
    ) -> Self {
        Handle {
            link,
            call_timeout,
            has_callbacks,
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.link.close(None);
    }
}

impl<S: Signature> Clone for Rpc<S> {
    fn clone(&self) -> Self {
        Rpc {
            handle: Arc::clone(&self.handle),
            service: self.service.clone(),
            function: self.function,
        }
    }
}

impl<S: Signature> fmt::Debug for Rpc<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rpc")
            .field("service", &self.service.name())
            .field("pid", &self.pid())
            .finish()
    }
}

impl<S: Signature> Rpc<S> {
    pub(super) fn new(handle: Handle, service: S) -> Self {
        let handle = Arc::new(handle);
        Rpc {
            handle,
            service,
            function: 0,
        }
    }

    /// A handle to another function of the same child. All such handles share one connection, and calls of
    /// different functions are sent in the order in which they are made; a change of function costs some
    /// forty bytes more.
    ///
    /// A function that the child does not have, or in another version or with another codec, fails its calls,
    /// with [`CallError::Unserved`](crate::CallError::Unserved). A plain peer is not told which function a
    /// call is for.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new()
    ///     .function("up", |request, _| Ok(request.to_string().to_uppercase()))
    ///     .function("down", |request, _| Ok(request.to_string().to_lowercase()))
    ///     .run();
    /// let up = me.rpc("up").start()?;
    /// let down = up.function("down");
    /// assert_eq!(up.call("Tea").wait()?, ["TEA"]);
    /// assert_eq!(down.call("Tea").wait()?, ["tea"]); // in the same child
    ///
    /// let error = up.function("turn").call("Tea").wait().unwrap_err();
    /// assert_eq!(error.to_string(), "no function `turn`; there are: `down`, `up`");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn function<O: IntoService>(&self, service: O) -> Rpc<O::Service> {
        let service = service.into_service();
        Rpc {
            handle: Arc::clone(&self.handle),
            function: self.handle.link.function(id_of(&service)),
            service,
        }
    }

    /// Prepares a call. Nothing is sent before one of [`then`](Call::then), [`wait`](Call::wait) and
    /// [`start`](Call::start), which wait if the queue is [full](crate::RpcBuilder::max_queue).
    ///
    /// The request is encoded here, and need not live longer.
    pub fn call<'r>(&self, request: impl Argument<S::Request<'r>, S::Codec>) -> Call<'_, S> {
        Call::new(&self.handle, self.function, request, true)
    }

    /// As [`call`](Rpc::call), but if the queue is full, the call ends with
    /// [`Refusal::Full`](crate::Refusal::Full).
    pub fn try_call<'r>(&self, request: impl Argument<S::Request<'r>, S::Codec>) -> Call<'_, S> {
        Call::new(&self.handle, self.function, request, false)
    }

    /// Waits until the child serves. Calls need not wait for it.
    ///
    /// It waits at most for the [start timeout](crate::RpcBuilder::start_timeout), when the child is killed; for
    /// one on another machine, the [patience](crate::Process::patience) comes before that. A plain peer counts
    /// as ready, and is not waited for.
    ///
    /// # Errors
    ///
    /// What kept it from serving, or ended it since. [`ErrorKind::InCallback`] in a callback, if it
    /// would have to wait.
    ///
    /// [`ErrorKind::InCallback`]: crate::ErrorKind::InCallback
    pub fn wait_ready(&self) -> Result<(), Error> {
        self.handle.link.wait_ready()
    }

    /// Whether the child serves, or has served.
    pub(super) fn is_ready(&self) -> bool {
        self.handle.link.is_ready()
    }

    /// The child's process id, on its machine. `None` if the peer is only a stream, or a child on another
    /// machine has not been started yet.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.handle.link.child().and_then(Child::pid)
    }

    /// The child at this moment: its state, its calls and its queue.
    ///
    /// For this, each write to the child reads a clock, which takes some nanoseconds and no system call, and up
    /// to 1.5 KiB are kept. The snapshot takes the lock that each call takes. In a copy of the process, made by
    /// fork(2), it is empty.
    ///
    /// # Examples
    ///
    /// ```
    /// use offspring::ChildState;
    ///
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// # let me = offspring::Worker::new().function("echo", |request, _caller| Ok(request)).run();
    /// let rpc = me.rpc("echo").start()?;
    /// rpc.call("hello").wait()?;
    /// let stats = rpc.stats();
    /// println!("{stats}"); // pid 4711 idle, 1 call done, 0 in flight, 74 bytes sent, 0 queued
    /// assert_eq!((stats.state, stats.calls, stats.in_flight), (ChildState::Idle, 1, 0));
    /// # rpc.finish()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn stats(&self) -> RpcStats {
        self.handle.link.stats()
    }

    /// Kills the child and its process group, if that [is its own](crate::Group), with SIGKILL; a
    /// peer that is only a stream is disconnected. Calls that it has not answered end with
    /// [`ErrorKind::Killed`](crate::ErrorKind::Killed), and so does the child. If there are none, it has
    /// ended as it was told to: [`finish`](Rpc::finish) returns its [`Exit`], and
    /// [`on_destroy`](crate::RpcBuilder::on_destroy) is called. Does not wait.
    pub fn kill(&self) {
        self.handle.link.kill();
    }

    /// Sends the child and its process group a signal by its number, as in `libc::SIGUSR1`. What it does
    /// is up to the child: the handle stays in use, and a child that ends by the signal has died. To end
    /// it, use [`kill`](Rpc::kill) or [`finish`](Rpc::finish). With the number 0, this only checks
    /// whether the child is there. To one on [another machine](crate::machines) the signal is passed on, and what
    /// becomes of that is not told.
    ///
    /// # Errors
    ///
    /// `ESRCH` once the child has ended and was reaped, `EINVAL` if there is no such signal, `EPERM` if
    /// the child runs as another user; [`Unsupported`](io::ErrorKind::Unsupported) if the peer is only a
    /// stream.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new().function("echo", |request, _caller| Ok(request)).run();
    /// let rpc = me.rpc("echo").start()?;
    /// rpc.signal(libc::SIGSTOP)?;
    /// let reply = rpc.call("hello").start(); // it waits
    /// rpc.signal(libc::SIGCONT)?;
    /// assert_eq!(reply.wait()?, ["hello"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn signal(&self, number: i32) -> io::Result<()> {
        let link = &self.handle.link;
        link.refuse_elsewhere().map_err(io::Error::other)?;
        match link.child() {
            Some(child) => child.try_signal(number),
            None => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the peer is only a stream, and has no process to signal",
            )),
        }
    }

    /// Whether the child has ended, and how: what [`finish`](Rpc::finish) would return. `None` as long
    /// as it runs, or something that it wrote has not been read. Does not wait.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new()
    ///     .function("exit", |_request, _caller| -> Result<(), _> { std::process::exit(3) })
    ///     .run();
    /// let rpc = me.rpc("exit").on_error(drop).start()?;
    /// assert!(rpc.try_exit().is_none());
    /// rpc.call(()).wait().unwrap_err();
    ///
    /// let error = rpc.try_exit().expect("its last call has ended with it").unwrap_err();
    /// assert_eq!(error.status().and_then(|status| status.code()), Some(3));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "try_wait")]
    #[must_use]
    pub fn try_exit(&self) -> Option<Result<Exit, Error>> {
        self.handle.link.try_end()
    }

    /// Lets the child answer all outstanding calls and exit, and waits for that and for the last
    /// callback. This applies to all clones: their further calls are refused.
    ///
    /// Waits for calls as long as they take. A child that does not exit then gets SIGTERM after the
    /// [grace](crate::RpcBuilder::grace), and SIGKILL after the same time again.
    ///
    /// `Ok` means that no call was lost and the child ended because it was told to, not that it succeeded:
    /// [`Exit`] has its status, and whether it had to be killed.
    ///
    /// # Errors
    ///
    /// The error that ended the child, as [`on_error`](crate::RpcBuilder::on_error) gets it.
    /// [`ErrorKind::InCallback`](crate::ErrorKind::InCallback) in a callback; the child is told to exit
    /// nevertheless.
    pub fn finish(self) -> Result<Exit, Error> {
        self.finish_by(None)
    }

    /// As [`finish`](Rpc::finish), but a child that has not exited after `timeout` gets SIGTERM, and
    /// SIGKILL after the [grace](crate::RpcBuilder::grace), even with calls unanswered.
    ///
    /// # Errors
    ///
    /// As [`finish`](Rpc::finish), and [`ErrorKind::Stopped`](crate::ErrorKind::Stopped) if there were calls
    /// that it had not answered when it was stopped: they end with that error, too.
    pub fn finish_timeout(self, timeout: Duration) -> Result<Exit, Error> {
        self.finish_by(after(Instant::now(), timeout))
    }

    fn finish_by(self, stop_by: Option<Instant>) -> Result<Exit, Error> {
        let link = Arc::clone(&self.handle.link);
        link.refuse_elsewhere()?;
        let is_last = Arc::strong_count(&self.handle) == 1;
        let has_callbacks = self.handle.has_callbacks;
        drop(self);
        link.close(stop_by);
        // If nobody can call any more, and there is nothing to report, no callback runs any more: this
        // thread can do the rest.
        if is_last && !has_callbacks && link.is_idle() {
            link.reactor().serve_here(|| link.wait_for_exit());
        }
        let end = link.wait_end();
        link.reactor().join();
        end
    }
}

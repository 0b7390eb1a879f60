//! A function's handles to the call that it serves, and to its parent.

use super::ask;
use super::hub::Hub;
use super::panics;
use super::read_ahead::read_if_asked;
use crate::chain::chain;
use crate::codec::{Argument, CodecError, Decode, Input, Octets, Output, Replies, Strings};
use crate::outcome::{Outcome, failure_of};
use crate::service::{IntoService, Name, Signature};
use crate::wire::{Failure, ToParent};
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::time::Duration;

/// The call that a function serves: sends events and progress to the parent, and answers the call
/// where that is not done by returning.
///
/// Returning and threaded functions borrow it; deferred functions own it. It can be sent to any thread
/// and answered there. A caller that is dropped unanswered fails its call: as panicked if a panic drops
/// it, otherwise as [unanswered](crate::CallError::Unanswered).
///
/// # Examples
///
/// ```
/// use offspring::{Caller, Strings};
///
/// fn count_to(request: Strings, caller: &Caller) -> Result<(), offspring::BoxError> {
///     let [to] = request.texts()?;
///     for n in 1..=to.parse::<u32>()? {
///         caller.event(n.to_string());
///     }
///     Ok(())
/// }
/// # fn main() -> Result<(), offspring::BoxError> {
/// # let me = offspring::Worker::new().function("count to", count_to).run();
/// # let (send, events) = std::sync::mpsc::channel();
/// # let rpc = me.rpc("count to").on_event(move |n| drop(send.send(n))).start()?;
/// # rpc.call("3").wait()?;
/// # rpc.finish()?;
/// # assert_eq!(events.iter().map(|n| n.to_string()).collect::<String>(), "123");
/// # Ok(())
/// # }
/// ```
pub struct Caller<S: Signature = Name> {
    parent: Parent,
    id: u32,
    service: PhantomData<fn(S)>,
}

impl<S: Signature> fmt::Debug for Caller<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("id", &self.id).finish()
    }
}

impl<S: Signature> Caller<S> {
    #[inline]
    pub(super) fn new(hub: &'static Hub, id: u32) -> Self {
        Caller {
            parent: Parent { hub },
            id,
            service: PhantomData,
        }
    }

    /// Decodes the request, and answers the call with what the function returns.
    #[inline]
    pub(super) fn answer_with<R>(
        self,
        mut request: Input<'_>,
        function: impl FnOnce(S::Request<'_>, &Self) -> Result<R, S::Error>,
    ) where
        S::Codec: Replies<S::Reply, R>,
    {
        match S::Codec::decode(&mut request) {
            Ok(request) => {
                let result = function(request, &self);
                self.answer_returned(result);
            }
            Err(error) => self.reject_request(&error),
        }
    }

    /// Answers the call with what a function has returned.
    #[inline]
    pub(super) fn answer_returned<R>(self, result: Result<R, S::Error>)
    where
        S::Codec: Replies<S::Reply, R>,
    {
        match result {
            Ok(reply) => self.reply_with(|output| S::Codec::encode_reply(reply, output)),
            Err(error) => self.fail_as(&error),
        }
    }

    /// Fails the call, as its request cannot be decoded.
    pub(super) fn reject_request(self, error: &CodecError) {
        self.fail_with(&Failure::malformed("the request", &chain(error)));
    }

    /// Answers the call.
    pub fn reply(self, reply: impl Argument<S::Reply, S::Codec>) {
        self.reply_with(|output| reply.encode_to(output));
    }

    #[inline]
    fn reply_with(self, fill: impl FnOnce(&mut Output) -> Result<(), CodecError>) {
        match self.parent.hub.reply(self.id, fill) {
            Ok(()) => mem::forget(self),
            Err(failure) => self.fail_with(&failure),
        }
    }

    /// Answers the call with an error. A [`BoxError`](crate::BoxError) arrives as text that includes its sources, as in
    /// `cannot read the configuration: permission denied`: at most 16, and 8 KiB of them.
    ///
    /// # Examples
    ///
    /// ```
    /// use offspring::BoxError;
    /// use std::{fmt, io};
    ///
    /// #[derive(Debug)]
    /// struct NoConfiguration(io::Error);
    ///
    /// impl fmt::Display for NoConfiguration {
    ///     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    ///         f.write_str("cannot read the configuration")
    ///     }
    /// }
    ///
    /// impl std::error::Error for NoConfiguration {
    ///     fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
    ///         Some(&self.0)
    ///     }
    /// }
    ///
    /// # fn main() -> Result<(), BoxError> {
    /// let me = offspring::Worker::new()
    ///     .deferred("read", |_request, caller, _events| {
    ///         caller.fail(NoConfiguration(io::Error::other("permission denied")));
    ///     })
    ///     .run();
    /// let error = me.rpc("read").start()?.call(()).wait().unwrap_err();
    /// assert_eq!(error.to_string(), "cannot read the configuration: permission denied");
    /// # Ok(())
    /// # }
    /// ```
    pub fn fail(self, error: impl Into<S::Error>) {
        self.fail_as(&error.into());
    }

    fn fail_as(self, error: &S::Error) {
        self.fail_with(&failure_of::<S>(error));
    }

    /// Answers the call with the result of a fallible operation.
    pub fn answer(self, result: Result<impl Argument<S::Reply, S::Codec>, impl Into<S::Error>>) {
        match result {
            Ok(reply) => self.reply(reply),
            Err(error) => self.fail(error),
        }
    }

    /// Sends a progress report of the call to the parent's
    /// [`on_progress`](crate::Call::on_progress). It arrives in order with the answer, events and
    /// other replies. A plain peer gets none.
    ///
    /// # Panics
    ///
    /// Same as [`event`](Caller::event), or if it cannot be encoded.
    #[track_caller]
    pub fn progress(&self, progress: impl Argument<S::Progress, S::Codec>) {
        self.parent.hub.progress::<S>(self.id, progress);
    }

    /// Same as [`Parent::event`].
    ///
    /// # Panics
    ///
    /// If the event is longer than [`max_frame`](crate::RpcBuilder::max_frame), or has [descriptors](crate::Fd)
    /// that cannot be sent: too many, to a plain peer, or such as have not arrived. The call then fails with
    /// that message.
    #[track_caller]
    pub fn event(&self, event: impl Argument<Strings, Octets>) {
        self.parent.event(event);
    }

    /// Same as [`Parent::flush`].
    pub fn flush(&self) -> bool {
        self.parent.flush()
    }

    /// Asks the parent for what it [serves](crate::RpcBuilder::on_ask), and waits for its answer, as long as
    /// the call may take: if that is cancelled or its timeout passes, the ask ends, too.
    ///
    /// Returning functions and threads of the child may wait. Requests that come meanwhile are kept, however
    /// many there are. While a returning function runs and does not ask itself, threads get no answers, as
    /// only the main thread reads; and nobody gets one while a callback of the parent waits for something.
    ///
    /// # Errors
    ///
    /// As those of calls, the other way round: what the parent's callback returned, that it panicked, that
    /// the parent [serves no such thing](crate::CallError::Unserved), allows [no more
    /// asks](crate::Refusal::Full), or is [gone](crate::CallError::Lost);
    /// [`Cancelled`](crate::CallError::Cancelled) if the call is. Nothing is asked if the request cannot be
    /// [encoded](crate::CallError::Malformed), is [too large](crate::Refusal::TooLarge), or the parent is a
    /// plain peer, which is [unserved](crate::CallError::Unserved).
    /// [`Refusal::InCallback`](crate::Refusal::InCallback) on a child's [`Loop`](crate::Loop), which would
    /// stop: use [`Loop::ask`](crate::Loop::ask) there.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new()
    ///     .function("greet", |name, caller| Ok(format!("{} {name}", caller.ask("greeting", ())?)))
    ///     .run();
    /// let rpc = me.rpc("greet").on_ask("greeting", |_| Ok("good morning")).start()?;
    /// assert_eq!(rpc.call("Alice").wait()?, ["good morning Alice"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn ask<'r, O: IntoService>(
        &self,
        service: O,
        request: impl Argument<<O::Service as Signature>::Request<'r>, <O::Service as Signature>::Codec>,
    ) -> Outcome<O::Service> {
        let (hub, call) = (self.parent.hub, Some(self.id));
        ask::ask(hub, call, &service.into_service(), request, None)
    }

    /// As [`ask`](Caller::ask), for at most this long.
    ///
    /// # Errors
    ///
    /// As those of [`ask`](Caller::ask), and [`CallError::TimedOut`](crate::CallError::TimedOut).
    pub fn ask_timeout<'r, O: IntoService>(
        &self,
        service: O,
        request: impl Argument<<O::Service as Signature>::Request<'r>, <O::Service as Signature>::Codec>,
        timeout: Duration,
    ) -> Outcome<O::Service> {
        let (hub, call) = (self.parent.hub, Some(self.id));
        ask::ask(hub, call, &service.into_service(), request, Some(timeout))
    }

    /// Same as [`Parent::tell`].
    ///
    /// # Panics
    ///
    /// Same as [`progress`](Caller::progress).
    #[doc(alias = "notify")]
    #[track_caller]
    pub fn tell<'r, O: IntoService>(
        &self,
        service: O,
        request: impl Argument<<O::Service as Signature>::Request<'r>, <O::Service as Signature>::Codec>,
    ) {
        self.parent.tell(service, request);
    }

    /// Same as [`Parent::retire`].
    pub fn retire(&self) {
        self.parent.retire();
    }

    /// The parent, to which events can be sent after the call is answered, too.
    #[must_use]
    pub fn parent(&self) -> &Parent {
        &self.parent
    }

    /// Whether the parent does not wait for the answer any more: the call was cancelled, or its timeout
    /// has passed. It must still be answered, or dropped.
    ///
    /// A [returning](crate::Worker::function) function finds out some milliseconds later, and on its own
    /// thread only: there this also reads what has come, every few milliseconds at most. Otherwise it is
    /// cheap, and can be asked often. It reads no further than
    /// [`high_water`](crate::Worker::high_water) bytes of requests that wait, unless another thread
    /// waits for what it has [asked](Caller::ask). A
    /// [deferred](crate::Worker::deferred) function must return to its loop to find out.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new()
    ///     .function("search", |_request, caller| {
    ///         for _step in 0.. {
    ///             if caller.is_cancelled() {
    ///                 caller.event("given up");
    ///                 break;
    ///             }
    ///         }
    ///         Ok(())
    ///     })
    ///     .run();
    /// let (send, events) = std::sync::mpsc::channel();
    /// let rpc = me.rpc("search").on_event(move |event| drop(send.send(event))).start()?;
    /// rpc.wait_ready()?;
    /// rpc.call(()).timeout(Duration::from_millis(50)).wait().unwrap_err();
    /// assert_eq!(events.recv()?, ["given up"]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        is_cancelled(self.parent.hub, self.id)
    }

    /// The call's cancellation, to keep when the caller itself is moved elsewhere.
    #[must_use]
    pub fn cancellation(&self) -> Cancellation {
        Cancellation {
            hub: self.parent.hub,
            id: self.id,
        }
    }

    fn fail_with(self, failure: &Failure) {
        let (hub, id) = (self.parent.hub, self.id);
        mem::forget(self);
        hub.fail(id, failure);
    }
}

impl<S: Signature> Drop for Caller<S> {
    fn drop(&mut self) {
        // An answered one is forgotten instead.
        self.parent
            .hub
            .fail(self.id, &panics::failure_of_dropped_call());
    }
}

/// A function's handle to the child's parent; see [`Caller::parent`]. Any thread may hold a clone, and
/// use it after the call is answered, too.
///
/// # Examples
///
/// ```
/// use std::thread;
///
/// # fn main() -> Result<(), offspring::BoxError> {
/// let me = offspring::Worker::new()
///     .function("begin", |_request, caller| {
///         let parent = caller.parent().clone();
///         thread::spawn(move || parent.event("done at last"));
///         Ok("it has begun")
///     })
///     .run();
/// let (send, events) = std::sync::mpsc::channel();
/// let rpc = me.rpc("begin").on_event(move |event| drop(send.send(event))).start()?;
/// assert_eq!(rpc.call(()).wait()?, ["it has begun"]);
/// assert_eq!(events.recv()?, ["done at last"]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Parent {
    hub: &'static Hub,
}

impl fmt::Debug for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parent").finish_non_exhaustive()
    }
}

impl Parent {
    /// Sends an event to the parent's [`on_event`](crate::RpcBuilder::on_event). Events and replies
    /// arrive in the order in which they are sent. If the parent is gone, this does nothing: the child
    /// is about to exit.
    ///
    /// # Panics
    ///
    /// If the event is longer than [`max_frame`](crate::RpcBuilder::max_frame), or has [descriptors](crate::Fd)
    /// that cannot be sent.
    #[track_caller]
    pub fn event(&self, event: impl Argument<Strings, Octets>) {
        self.hub.event(event);
    }

    /// Tells the parent something that it [serves](crate::RpcBuilder::on_ask), without an answer: an event
    /// with a type. It arrives in order with events and replies. A plain peer gets none.
    ///
    /// # Panics
    ///
    /// If it cannot be encoded, or is longer than [`max_frame`](crate::RpcBuilder::max_frame).
    #[doc(alias = "notify")]
    #[track_caller]
    pub fn tell<'r, S: IntoService>(
        &self,
        service: S,
        request: impl Argument<<S::Service as Signature>::Request<'r>, <S::Service as Signature>::Codec>,
    ) {
        self.hub.tell(&service.into_service(), request);
    }

    /// Asks not to be sent further calls, as this child has grown too large, say. A pool of children acts on
    /// it: such a child answers what it was sent, and is replaced, after each call if it asks for that in each.
    /// One that does so before its first call counts as a start that has failed. An [`Rpc`](crate::Rpc) has no other child,
    /// and does nothing. More than once is the same as once. A plain peer is not told.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let mut calls = 0;
    /// let me = offspring::Worker::new()
    ///     .function("render", move |_page, caller| {
    ///         calls += 1;
    ///         if calls >= 1000 {
    ///             caller.retire(); // the renderer leaks a bit of memory each time
    ///         }
    ///         Ok("rendered")
    ///     })
    ///     .run();
    /// let pool = me.pool("render").start()?;
    /// assert_eq!(pool.call("a page").wait()?, ["rendered"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn retire(&self) {
        self.hub.control(&ToParent::Retire);
    }

    /// As [`Caller::ask`], for no call in particular: only the parent's end ends it.
    ///
    /// # Errors
    ///
    /// As those of [`Caller::ask`].
    pub fn ask<'r, S: IntoService>(
        &self,
        service: S,
        request: impl Argument<<S::Service as Signature>::Request<'r>, <S::Service as Signature>::Codec>,
    ) -> Outcome<S::Service> {
        ask::ask(self.hub, None, &service.into_service(), request, None)
    }

    /// As [`ask`](Parent::ask), for at most this long.
    ///
    /// # Errors
    ///
    /// As those of [`ask`](Parent::ask), and [`CallError::TimedOut`](crate::CallError::TimedOut).
    pub fn ask_timeout<'r, S: IntoService>(
        &self,
        service: S,
        request: impl Argument<<S::Service as Signature>::Request<'r>, <S::Service as Signature>::Codec>,
        timeout: Duration,
    ) -> Outcome<S::Service> {
        ask::ask(
            self.hub,
            None,
            &service.into_service(),
            request,
            Some(timeout),
        )
    }

    /// Waits until everything sent so far, from any thread, is written to the connection: it reaches
    /// the parent whatever this process does next. Returns whether it could be written.
    pub fn flush(&self) -> bool {
        self.hub.flush()
    }
}

/// Whether a call was cancelled, and what to do then; see [`Caller::cancellation`]. Dropping it does
/// nothing.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// # fn main() -> Result<(), offspring::BoxError> {
/// let me = offspring::Worker::new()
///     .deferred("wait", |_request, caller, events| {
///         let (cancellation, parent) = (caller.cancellation(), caller.parent().clone());
///         let hour = Duration::from_secs(3600);
///         let timer = events.after(hour, |_| caller.reply("at last"));
///         cancellation.then(move || {
///             parent.event("not needed");
///             timer.cancel(); // drops the caller, too
///         });
///     })
///     .run();
/// let (send, events) = std::sync::mpsc::channel();
/// let rpc = me.rpc("wait").on_event(move |event| drop(send.send(event))).start()?;
/// rpc.wait_ready()?;
/// let outcome = rpc.call(()).timeout(Duration::from_millis(50)).wait();
/// assert!(matches!(outcome, Err(offspring::CallError::TimedOut(_))));
/// assert_eq!(events.recv()?, ["not needed"]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Cancellation {
    hub: &'static Hub,
    id: u32,
}

impl fmt::Debug for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancellation")
            .field("id", &self.id)
            .finish()
    }
}

fn is_cancelled(hub: &Hub, id: u32) -> bool {
    if hub.is_elsewhere() {
        return false;
    }
    read_if_asked();
    hub.is_cancelled(id)
}

impl Cancellation {
    /// Same as [`Caller::is_cancelled`]. False once the call is answered.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        is_cancelled(self.hub, self.id)
    }

    /// Calls `callback` when the call is cancelled, on the child's main thread; immediately, on this
    /// one, if it was. Drops it uncalled if the call is answered before. While a
    /// [returning](crate::Worker::function) function runs, it is called only if that asks
    /// [whether it is cancelled](Caller::is_cancelled).
    pub fn then(&self, callback: impl FnOnce() + Send + 'static) {
        self.hub.on_cancel(self.id, Box::new(callback));
    }
}

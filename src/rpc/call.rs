//! One call: made, and waited for.

use super::callback::{guard, in_callback};
use super::handle::Handle;
use super::link::{
    Answer, AnswerWait, CallOptions, Caller, Completion, Ended, Fill, Link, ProgressCallback, Slot,
    SubmittedCall, Then,
};
use crate::codec::{Argument, CodecError, Decode, Input, Scratch};
use crate::deadlines::after;
use crate::error::{CallError, Refusal};
use crate::outcome::{Outcome, codec_panicked};
use crate::service::{Name, Signature};
use crate::unwind;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A call that is being made: what [`Rpc::call`](crate::Rpc::call) returns. If it is dropped, nothing
/// is sent.
#[must_use = "nothing is sent before then(), wait() or start()"]
pub struct Call<'a, S: Signature = Name> {
    handle: &'a Handle,
    function: usize,
    request: Scratch,
    /// Why the request could not be encoded.
    malformed: Option<CodecError>,
    timeout: Option<Duration>,
    progress: Option<ProgressCallback>,
    cancel_on_drop: bool,
    may_wait: bool,
    service: PhantomData<fn(S)>,
}

impl<S: Signature> fmt::Debug for Call<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("bytes", &self.request.len())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl<'a, S: Signature> Call<'a, S> {
    pub(super) fn new<'r>(
        handle: &'a Handle,
        function: usize,
        request: impl Argument<S::Request<'r>, S::Codec>,
        may_wait: bool,
    ) -> Self {
        let (output, encoded) = encode_request(request);
        Call {
            handle,
            function,
            request: output,
            malformed: encoded.err(),
            timeout: handle.call_timeout,
            progress: None,
            cancel_on_drop: false,
            may_wait,
            service: PhantomData,
        }
    }

    /// How long the call may take, counted from when it is queued or begins to wait for room in the
    /// queue. After that it ends with [`CallError::TimedOut`], as if it had been
    /// [cancelled](Pending::cancel). [`Duration::MAX`] is no limit.
    ///
    /// Default: the handle's [`call_timeout`](crate::RpcBuilder::call_timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Calls `callback` with the progress that the function reports, on the reactor's thread, in order
    /// with events and replies, and never after the call's outcome. Reports that cannot be decoded are
    /// dropped. A callback that has panicked is not called again.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new()
    ///     .function("work", |_request, caller| {
    ///         for percent in [25, 50, 75] {
    ///             caller.progress(percent.to_string());
    ///         }
    ///         Ok("done")
    ///     })
    ///     .run();
    /// let rpc = me.rpc("work").start()?;
    /// let (send, progress) = std::sync::mpsc::channel();
    /// rpc.call(()).on_progress(move |percent| drop(send.send(percent))).wait()?;
    /// assert_eq!(progress.iter().collect::<Vec<_>>(), [["25"], ["50"], ["75"]]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_progress(mut self, callback: impl FnMut(S::Progress) + Send + 'static) -> Self
    where
        S::Codec: for<'d> Decode<'d, S::Progress>,
    {
        self.progress = Some(progress_callback::<S>(callback));
        self
    }

    /// Cancels the call, as [`Pending::cancel`] does, if its [`Pending`] is dropped before it has
    /// returned the outcome. Default: the call continues.
    pub fn cancel_on_drop(mut self) -> Self {
        self.cancel_on_drop = true;
        self
    }

    /// Queues the call. `callback` is called with its outcome exactly once, on the reactor's thread,
    /// never inside this method.
    ///
    /// While the queue is [full](crate::RpcBuilder::max_queue), this waits for room, and in a callback the
    /// call is refused with [`Refusal::InCallback`]. A call made by [`try_call`](crate::Rpc::try_call) never
    /// waits.
    pub fn then(mut self, callback: impl FnOnce(Outcome<S>) + Send + 'static) {
        let mut completion = Some(Completion::new(Then::<S, _>::new(callback)));
        let deadline = self.deadline();
        if let Err(ended) = self.submit(deadline, Caller::Leaves, &mut completion) {
            // No progress is reported after the outcome, so nobody should be able to wait for it then.
            // A panic of its destructor must not keep the callback from being called.
            let progress = self.progress.take();
            guard(|| drop(progress));
            let complete = move || refused(completion).complete(Answer::Ended(ended));
            self.handle.link.reactor().run(complete);
        }
    }

    /// Makes the call and waits for its outcome. The callbacks of everything that came before the
    /// reply have returned by then.
    ///
    /// # Errors
    ///
    /// What kept the call from being answered, or what the function answered.
    /// [`Refusal::InCallback`] in a callback.
    pub fn wait(self) -> Outcome<S> {
        let outcome = self.wait_until(None);
        outcome.expect("it is waited for without end")
    }

    /// As [`wait`](Call::wait), until then: `None` if there is no outcome, which is lost.
    pub(super) fn wait_until(mut self, until: Option<Instant>) -> Option<Outcome<S>> {
        if in_callback() {
            return Some(Err(CallError::Refused(Refusal::InCallback)));
        }
        let slot = Slot::own();
        let link = &*self.handle.link;
        let timeout = self.deadline();
        let mut completion = Some(Completion::new(Fill(Arc::clone(&slot))));
        let answer = match self.submit(timeout, Caller::Waits, &mut completion) {
            Err(ended) => Some(Answer::Ended(ended)),
            Ok(SubmittedCall {
                id, reader, alone, ..
            }) => {
                let slot = &slot;
                let wait = AnswerWait {
                    slot,
                    id,
                    timeout,
                    until,
                };
                link.wait_for(&wait, reader, alone)
            }
        };
        answer.map(Answer::decode::<S>)
    }

    /// Queues the call. Its outcome can be taken from the [`Pending`]. A full queue is as for
    /// [`then`](Call::then).
    pub fn start(mut self) -> Pending<S> {
        let slot = Arc::new(Slot::default());
        let (link, cancel_on_drop) = (Arc::clone(&self.handle.link), self.cancel_on_drop);
        let timeout = self.deadline();
        let mut completion = Some(Completion::new(Fill(Arc::clone(&slot))));
        let id = match self.submit(timeout, Caller::Leaves, &mut completion) {
            Ok(made) => made.id,
            Err(ended) => {
                refused(completion).complete(Answer::Ended(ended));
                REFUSED
            }
        };
        let place = PendingPlace::Link { link, id, timeout };
        Pending::new(slot, place, cancel_on_drop)
    }

    fn deadline(&self) -> Option<Instant> {
        // Most calls have none, and reading the clock is a good part of what a call costs.
        let timeout = self.timeout?;
        after(Instant::now(), timeout)
    }

    /// Makes the call. The completion is taken unless the call is refused.
    fn submit(
        &mut self,
        deadline: Option<Instant>,
        caller: Caller,
        completion: &mut Option<Completion>,
    ) -> Result<SubmittedCall, Ended> {
        if let Some(error) = self.malformed.take() {
            return Err(Ended::Malformed(error));
        }
        if !self.request.body().fds().is_empty() {
            let may = self.handle.link.may_carry(self.request.body());
            may.map_err(Ended::Malformed)?;
        }
        let options = CallOptions {
            deadline,
            progress: &mut self.progress,
            may_wait: self.may_wait,
            caller,
        };
        self.handle
            .link
            .call(self.function, self.request.body(), options, completion)
    }
}

/// The completion of a call that was refused.
fn refused(completion: Option<Completion>) -> Completion {
    completion.expect("a call that is refused leaves it")
}

/// The id of a call that was refused. No other call has it.
const REFUSED: u32 = 0;

/// A call that was started, whose outcome is taken later. If this is dropped, the outcome is lost but
/// the call continues, unless it was made with [`cancel_on_drop`](Call::cancel_on_drop).
#[must_use = "dropped, the call's outcome is lost; use then() if it is not wanted"]
pub struct Pending<S: Signature = Name> {
    slot: Arc<Slot>,
    place: PendingPlace,
    cancel_on_drop: bool,
    taken: bool,
    service: PhantomData<fn() -> S>,
}

/// Encodes a request. Fails if it cannot be encoded, or its codec panics.
#[inline]
pub(crate) fn encode_request<T, C>(
    request: impl Argument<T, C>,
) -> (Scratch, Result<(), CodecError>) {
    let mut output = Scratch::take();
    // The program's code: if it panics, the hook shows it.
    let encoded = unwind::catch(|| request.encode_to(&mut output));
    (output, encoded.unwrap_or_else(|| Err(codec_panicked())))
}

/// Decodes reports of progress.
pub(crate) fn progress_callback<S: Signature>(
    mut callback: impl FnMut(S::Progress) + Send + 'static,
) -> ProgressCallback
where
    S::Codec: for<'d> Decode<'d, S::Progress>,
{
    Arc::new(Mutex::new(move |mut payload: Input<'_>| {
        let progress = unwind::catch(|| S::Codec::decode(&mut payload));
        if let Some(Ok(progress)) = progress {
            callback(progress);
        }
    }))
}

/// Where a call is that was started.
pub(crate) enum PendingPlace {
    Link {
        link: Arc<Link>,
        /// Of no call, if it was refused.
        id: u32,
        timeout: Option<Instant>,
    },
    Pool(Arc<dyn PooledCall>),
}

/// A call to a pool.
pub(crate) trait PooledCall: Send + Sync {
    /// Nobody waits for it any more.
    fn cancel(&self);

    /// Whether this process is a copy of the one that has made it.
    fn is_elsewhere(&self) -> bool;
}

impl<S: Signature> Drop for Pending<S> {
    fn drop(&mut self) {
        if self.cancel_on_drop && !self.taken {
            match &self.place {
                PendingPlace::Link { link, id, .. } => link.cancel(*id),
                PendingPlace::Pool(call) => call.cancel(),
            }
        }
    }
}

impl<S: Signature> fmt::Debug for Pending<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

impl<S: Signature> Pending<S> {
    pub(crate) fn new(slot: Arc<Slot>, place: PendingPlace, cancel_on_drop: bool) -> Self {
        Pending {
            slot,
            place,
            cancel_on_drop,
            taken: false,
            service: PhantomData,
        }
    }

    /// Waits for the outcome. The callbacks of everything that came before the reply have returned
    /// by then.
    ///
    /// # Errors
    ///
    /// As [`Call::wait`]; [`Refusal::Taken`] if another method has returned the outcome.
    pub fn wait(mut self) -> Outcome<S> {
        self.wait_deadline_opt(None)
            .expect("without a deadline it waits until there is one")
    }

    /// The outcome, if there is one by now. Never waits.
    pub fn try_wait(&mut self) -> Option<Outcome<S>> {
        let is_elsewhere = match &self.place {
            PendingPlace::Link { link, .. } => link.is_elsewhere(),
            PendingPlace::Pool(call) => call.is_elsewhere(),
        };
        if is_elsewhere {
            return Some(Err(CallError::Refused(Refusal::Forked)));
        }
        match self.slot.take() {
            Some(answer) => Some(self.deliver(answer)),
            None if self.taken => Some(Err(CallError::Refused(Refusal::Taken))),
            None => None,
        }
    }

    /// Waits for the outcome, at most this long. After `None` it can be waited for again.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Outcome<S>> {
        self.wait_deadline_opt(after(Instant::now(), timeout))
    }

    /// Waits for the outcome until `deadline`. After `None` it can be waited for again.
    pub fn wait_deadline(&mut self, deadline: Instant) -> Option<Outcome<S>> {
        self.wait_deadline_opt(Some(deadline))
    }

    /// Cancels the call. If it has not been sent, it never is. If it has not begun in the child, it does
    /// not begin; except that a child which runs one call at a time may begin one whose cancellation
    /// arrived within the last few milliseconds, or is behind more than 64 KiB of requests that it has
    /// not read. If it is running, the function [can find out](crate::Caller::is_cancelled). Does nothing
    /// if the call has ended.
    ///
    /// A plain peer is not notified; its reply is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{thread, time::Duration};
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new()
    ///     .threaded("work", |_request, caller| {
    ///         caller.event("it has begun");
    ///         while !caller.is_cancelled() {
    ///             thread::sleep(Duration::from_millis(1)); // a bit of the work
    ///         }
    ///         caller.event("it ends early");
    ///         Err::<(), _>("cancelled".into()) // nobody gets this
    ///     })
    ///     .run();
    /// let (send, events) = std::sync::mpsc::channel();
    /// let rpc = me.rpc("work").on_event(move |event| drop(send.send(event))).start()?;
    /// let call = rpc.call(()).start();
    /// assert_eq!(events.recv()?, ["it has begun"]);
    /// call.cancel();
    /// assert_eq!(events.recv()?, ["it ends early"]);
    /// rpc.finish()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn cancel(mut self) {
        self.cancel_on_drop = true;
    }

    fn wait_deadline_opt(&mut self, deadline: Option<Instant>) -> Option<Outcome<S>> {
        if let Some(outcome) = self.try_wait() {
            return Some(outcome);
        }
        if in_callback() {
            return Some(Err(CallError::Refused(Refusal::InCallback)));
        }
        let answer = match &self.place {
            PendingPlace::Link { link, id, timeout } => {
                let wait = AnswerWait {
                    slot: &self.slot,
                    id: *id,
                    timeout: *timeout,
                    until: deadline,
                };
                link.wait_for(&wait, None, None)
            }
            // It may be with one child or another: who reads from that fills the slot.
            PendingPlace::Pool(_) => self.slot.wait(deadline).0,
        };
        Some(self.deliver(answer?))
    }

    fn deliver(&mut self, answer: Answer) -> Outcome<S> {
        self.taken = true;
        answer.decode::<S>()
    }
}

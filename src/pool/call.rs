//! One call to a pool.

use super::core::{Core, NewCall, may_send};
use super::handle::Shared;
use super::scheduler::{Ticket, Want};
use super::waiting::{Place, Repeat, Waiting};
use crate::codec::{Argument, CodecError, Decode, Scratch};
use crate::deadlines::after;
use crate::error::CallError;
use crate::outcome::Outcome;
use crate::rpc::{
    Answer, Completion, Ended, Fill, Pending, PendingPlace, PooledCall, ProgressCallback, Slot,
    Then, encode_request, guard, progress_callback,
};
use crate::service::{Name, Signature};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A call to a [`Pool`](crate::Pool) that is not made yet: what [`Pool::call`](crate::Pool::call) returns.
#[must_use = "nothing is sent before then(), wait() or start()"]
pub struct PoolCall<'a, S: Signature = Name> {
    shared: &'a Shared,
    function: usize,
    request: Scratch,
    /// Why there is no request, if so.
    malformed: Option<CodecError>,
    want: Want,
    timeout: Option<Duration>,
    progress: Option<ProgressCallback>,
    cancel_on_drop: bool,
    repeatable: u32,
    may_wait: bool,
    service: PhantomData<fn(S)>,
}

impl<S: Signature> fmt::Debug for PoolCall<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolCall")
            .field("bytes", &self.request.len())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl<'a, S: Signature> PoolCall<'a, S> {
    pub(super) fn new<'r>(
        shared: &'a Shared,
        function: usize,
        request: impl Argument<S::Request<'r>, S::Codec>,
        may_wait: bool,
    ) -> Self {
        let (mut output, encoded) = encode_request(request);
        let encoded = encoded.and_then(|()| may_send(output.body(), shared.reach));
        PoolCall {
            shared,
            function,
            request: output,
            malformed: encoded.err(),
            want: Want::default(),
            timeout: shared.call_timeout,
            progress: None,
            cancel_on_drop: false,
            repeatable: 0,
            may_wait,
            service: PhantomData,
        }
    }

    /// How long the call may take, counted from [`wait`](PoolCall::wait), [`then`](PoolCall::then) or
    /// [`start`](PoolCall::start): the time in the queue and all repeats included. After that it ends with
    /// [`CallError::TimedOut`]. If it is in a child by then, it keeps its place there until the child has answered
    /// it, or is [killed](crate::PoolBuilder::kill_stuck). [`Duration::MAX`] is no limit.
    ///
    /// Default: the pool's [`call_timeout`](crate::PoolBuilder::call_timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How often the call may be begun again if it had begun when its child was lost: for calls that do no harm if
    /// they are begun twice. Default: 0. One that had not begun is always sent again.
    ///
    /// After a crash it is alone in its next child. One that has killed two ends with [`CallError::Poison`].
    pub fn repeatable(mut self, times: u32) -> Self {
        self.repeatable = times;
        self
    }

    /// Calls with the same key go to the same child, as long as it lives, and then to its successor: it may have
    /// kept something. The key alone decides which of the pool's places for children that is. The child is started
    /// at once if it is not there, and the call waits for it even if others are idle. Calls with different keys
    /// may share a child, and calls without one may go there, too. Default: no key, any child.
    pub fn key(mut self, key: impl Hash) -> Self {
        // The same in every process.
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        self.want.key = Some(hasher.finish());
        self
    }

    /// Goes before all calls that wait and are not urgent.
    pub fn urgent(mut self) -> Self {
        self.want.urgent = true;
        self
    }

    /// Calls back with the progress that the function reports: as
    /// [`Call::on_progress`](crate::Call::on_progress).
    pub fn on_progress(mut self, callback: impl FnMut(S::Progress) + Send + 'static) -> Self
    where
        S::Codec: for<'d> Decode<'d, S::Progress>,
    {
        self.progress = Some(progress_callback::<S>(callback));
        self
    }

    /// Cancels the call if its [`Pending`] is dropped before it has returned the outcome. Default: the call
    /// continues.
    pub fn cancel_on_drop(mut self) -> Self {
        self.cancel_on_drop = true;
        self
    }

    /// Queues the call. `callback` is called with its outcome exactly once, on the pool's thread, never inside this
    /// method. While the queue is [full](crate::PoolBuilder::max_queue), this is as [`Call::then`](crate::Call::then).
    pub fn then(self, callback: impl FnOnce(Outcome<S>) + Send + 'static) {
        let mut completion = Some(Completion::new(Then::<S, _>::new(callback)));
        let core = &self.shared.core;
        if let Err((ended, progress)) = self.submit(&mut completion, None) {
            // No progress is reported after the outcome, so nobody should be able to wait for it then.
            guard(|| drop(progress));
            let mut completion = completion.expect("a call that is refused leaves it");
            core.reactor
                .run(move || completion.complete(Answer::Ended(ended)));
        }
    }

    /// As [`then`](PoolCall::then), for who may cancel it.
    pub(super) fn then_started(
        self,
        callback: impl FnOnce(Outcome<S>) + Send + 'static,
    ) -> Started {
        let mut completion = Some(Completion::new(Then::<S, _>::new(callback)));
        let started = Started::new(&self.shared.core);
        let core = &self.shared.core;
        if let Err((ended, _)) = self.submit(&mut completion, Some(Arc::clone(&started.place))) {
            let mut completion = completion.expect("a call that is refused leaves it");
            core.reactor
                .run(move || completion.complete(Answer::Ended(ended)));
        }
        started
    }

    /// Queues the call, and waits for its outcome.
    ///
    /// # Errors
    ///
    /// As [`CallError`] says. [`Refusal::InCallback`](crate::Refusal::InCallback) in a callback.
    pub fn wait(mut self) -> Outcome<S> {
        if let Some(error) = self.malformed.take() {
            return Err(CallError::Malformed(error));
        }
        let core = &self.shared.core;
        core.call_and_wait(self.new_call()).decode::<S>()
    }

    /// Queues the call. Its outcome can be taken from what this returns.
    pub fn start(self) -> Pending<S> {
        let slot = Arc::new(Slot::default());
        let call = Started::new(&self.shared.core);
        let cancel_on_drop = self.cancel_on_drop;
        let mut completion = Some(Completion::new(Fill(Arc::clone(&slot))));
        if let Err((ended, _)) = self.submit(&mut completion, Some(Arc::clone(&call.place))) {
            let mut completion = completion.expect("a call that is refused leaves it");
            completion.complete(Answer::Ended(ended));
        }
        Pending::new(slot, PendingPlace::Pool(Arc::new(call)), cancel_on_drop)
    }

    /// Queues the call for each child.
    pub(super) fn everywhere(mut self) -> Vec<Pending<S>> {
        let core = &self.shared.core;
        if self.malformed.is_some() || core.is_elsewhere() {
            // One that tells.
            return vec![self.start()];
        }
        let mut all = Vec::new();
        let call = self.new_call();
        core.everywhere(|ticket| {
            let slot = Arc::new(Slot::default());
            let started = Started::new(core);
            let place = Arc::clone(&started.place);
            let completion = Some(Completion::new(Fill(Arc::clone(&slot))));
            all.push(Pending::new(
                slot,
                PendingPlace::Pool(Arc::new(started)),
                false,
            ));
            Waiting {
                ticket,
                want: call.want,
                since: Instant::now(),
                function: call.function,
                request: call.request.clone(),
                progress: call.progress.clone(),
                completion,
                place: Some(place),
                repeat: Repeat::of_one_child(),
            }
        });
        all
    }

    fn submit(
        mut self,
        completion: &mut Option<Completion>,
        place: Option<Arc<Mutex<Place>>>,
    ) -> Result<(), (Ended, Option<ProgressCallback>)> {
        if let Some(error) = self.malformed.take() {
            return Err((Ended::Malformed(error), self.progress));
        }
        let core = &self.shared.core;
        let mut call = self.new_call();
        let result = core.call(&mut call, completion, place);
        result.map_err(|ended| (ended, call.progress))
    }

    fn new_call(&mut self) -> NewCall<'_> {
        if let Some(timeout) = self.timeout {
            self.want.deadline = after(Instant::now(), timeout);
        }
        self.want.bytes = self.request.len();
        NewCall {
            function: self.function,
            want: self.want,
            request: self.request.body(),
            progress: self.progress.take(),
            repeatable: self.repeatable,
            may_wait: self.may_wait,
        }
    }
}

/// A call that was started, for who may cancel it.
pub(super) struct Started {
    core: Arc<Core>,
    place: Arc<Mutex<Place>>,
}

impl Started {
    fn new(core: &Arc<Core>) -> Self {
        Started {
            core: Arc::clone(core),
            place: Arc::new(Mutex::new(Place::Waiting(Ticket(0)))),
        }
    }
}

impl PooledCall for Started {
    fn cancel(&self) {
        if !self.core.is_elsewhere() {
            self.core.cancel(&self.place);
        }
    }

    fn is_elsewhere(&self) -> bool {
        self.core.is_elsewhere()
    }
}

//! The handle to a pool.

use super::builder::PoolBuilder;
use super::call::PoolCall;
use super::core::Core;
use super::map::{Map, MapUnordered};
use super::state::Function;
use super::stats::PoolStats;
use crate::codec::Argument;
use crate::deadlines::after;
use crate::error::{Error, ErrorKind};
use crate::fd::Reach;
use crate::rpc::Pending;
use crate::service::{IntoService, Name, Signature};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Replaceable children that serve a function: a call goes to one that has room.
///
/// Cheap to clone, and usable from any thread: all clones are handles to the same pool. When the last one is
/// dropped, all calls are answered in the background, and the children exit; [`finish`](Pool::finish) waits for
/// that.
///
/// A clone that is held by the pool's own callbacks is a reference cycle, which only `finish` or
/// [`kill`](Pool::kill) breaks.
///
/// Children are started when they are needed and stopped when they are not; one that dies is replaced. Its
/// death is an error of the calls that it had begun, or may have; the others go to other children, and nobody
/// notices. A call that does no harm when it is begun twice may be [repeated](PoolCall::repeatable).
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), offspring::BoxError> {
/// let me = offspring::Worker::new()
///     .function("square", |request, _caller| {
///         let [n] = request.texts()?;
///         let n: u64 = n.parse()?;
///         Ok((n * n).to_string())
///     })
///     .run();
/// let pool = me.pool("square").max(2).start()?;
/// assert_eq!(pool.call("7").wait()?, ["49"]);
///
/// let squares: Result<Vec<_>, _> = pool.map(["1", "2", "3"]).collect();
/// assert_eq!(squares?, [["1"], ["4"], ["9"]]);
/// pool.finish()?;
/// # Ok(())
/// # }
/// ```
pub struct Pool<S: Signature = Name> {
    shared: Arc<Shared>,
    service: S,
    /// The number of the function in the pool.
    function: usize,
}

/// What all clones share. Dropped with the last one.
pub(super) struct Shared {
    pub(super) core: Arc<Core>,
    pub(super) call_timeout: Option<Duration>,
    /// Where its descriptors must reach.
    pub(super) reach: Reach,
    /// How many calls are made ahead for a map.
    pub(super) ahead: usize,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.core.close();
    }
}

impl<S: Signature> Clone for Pool<S> {
    fn clone(&self) -> Self {
        Pool {
            shared: Arc::clone(&self.shared),
            service: self.service.clone(),
            function: self.function,
        }
    }
}

impl<S: Signature> fmt::Debug for Pool<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("service", &self.service.name())
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool whose children all come from [`also`](PoolBuilder::also).
    pub fn builder<S: IntoService>(service: S) -> PoolBuilder<S::Service> {
        PoolBuilder::new(service.into_service())
    }
}

impl<S: Signature> Pool<S> {
    pub(super) fn new(shared: Shared, service: S) -> Self {
        Pool {
            shared: Arc::new(shared),
            service,
            function: 0,
        }
    }

    /// A handle to another function of the same children: as [`Rpc::function`](crate::Rpc::function).
    #[must_use]
    pub fn function<O: IntoService>(&self, service: O) -> Pool<O::Service> {
        let service = service.into_service();
        Pool {
            shared: Arc::clone(&self.shared),
            function: self.shared.core.function(&Function::of(&service)),
            service,
        }
    }

    /// Prepares a call. Nothing is sent before one of [`then`](PoolCall::then), [`wait`](PoolCall::wait) and
    /// [`start`](PoolCall::start), which wait if the queue is [full](PoolBuilder::max_queue).
    ///
    /// The request is encoded here, and need not live longer.
    pub fn call<'r>(&self, request: impl Argument<S::Request<'r>, S::Codec>) -> PoolCall<'_, S> {
        PoolCall::new(&self.shared, self.function, request, true)
    }

    /// As [`call`](Pool::call), but if the queue is full, the call ends with
    /// [`Refusal::Full`](crate::Refusal::Full).
    pub fn try_call<'r>(
        &self,
        request: impl Argument<S::Request<'r>, S::Codec>,
    ) -> PoolCall<'_, S> {
        PoolCall::new(&self.shared, self.function, request, false)
    }

    /// Calls the function with each of the inputs, and returns the outcomes in their order. Inputs are taken as
    /// there is room, some more than the children have at a time. What is not answered is cancelled when the
    /// iterator is dropped. [`Map::with`] sets options of the calls.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// # let me = offspring::Worker::new()
    /// #     .function("length", |request, _caller| Ok(request[0].len().to_string()))
    /// #     .run();
    /// let pool = me.pool("length").max(2).start()?;
    /// let total = pool
    ///     .map((0..1000).map(|n| n.to_string()))
    ///     .map(|length| length?.to_string().parse::<usize>().map_err(Into::into))
    ///     .sum::<Result<usize, offspring::BoxError>>()?;
    /// assert_eq!(total, 2890);
    /// # pool.finish()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn map<'a, 'r, I>(&'a self, inputs: I) -> Map<'a, S>
    where
        I: IntoIterator<IntoIter: 'a>,
        I::Item: Argument<S::Request<'r>, S::Codec>,
    {
        let calls = inputs.into_iter().map(|input| self.call(input));
        Map::new(calls, self.shared.ahead)
    }

    /// As [`map`](Pool::map), but returns the outcomes as they come, each with its input.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// # let me = offspring::Worker::new()
    /// #     .function("count", |request, _caller| {
    /// #         Ok(std::fs::read_to_string(request.to_string())?.lines().count().to_string())
    /// #     })
    /// #     .run();
    /// let pool = me.pool("count").max(2).start()?;
    /// for (file, lines) in pool.map_unordered(["Cargo.toml", "README.md", "no such file"]) {
    ///     match lines {
    ///         Ok(lines) => println!("{file}: {lines} lines"),
    ///         Err(error) => println!("{file}: {error}"),
    ///     }
    /// }
    /// # pool.finish()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn map_unordered<'a, 'r, I>(&'a self, inputs: I) -> MapUnordered<'a, S, I::Item>
    where
        I: IntoIterator<IntoIter: 'a>,
        I::Item: Argument<S::Request<'r>, S::Codec> + Clone,
    {
        let calls = inputs
            .into_iter()
            .map(|input| (input.clone(), self.call(input)));
        MapUnordered::new(calls, self.shared.ahead)
    }

    /// Makes one call to each child there is, those included that are being started, whatever else they have: to
    /// clear or refresh something. What every child needs, later ones included, is a
    /// [setup](crate::Process::setup).
    #[doc(alias = "broadcast")]
    pub fn everywhere<'r>(
        &self,
        request: impl Argument<S::Request<'r>, S::Codec>,
    ) -> Vec<Pending<S>> {
        PoolCall::new(&self.shared, self.function, request, true).everywhere()
    }

    /// The pool at this moment: its queue and its children.
    ///
    /// What is counted for it is counted under the lock that each call takes anyway. In a copy of the process, made
    /// by fork(2), it is empty.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.shared.core.stats()
    }

    /// Replaces all children, one after the other: each has a successor that is ready before it gets no more
    /// calls. Does not wait.
    pub fn restart(&self) {
        self.shared.core.restart();
    }

    /// Kills all children. Calls that have no answer end with [`ErrorKind::Killed`], and so do all that are made
    /// from now on. Does not wait.
    pub fn kill(&self) {
        self.shared
            .core
            .kill(&Error::new(ErrorKind::Killed, "the pool was killed"));
    }

    /// Waits until all calls are answered, all children have exited, and the last callback has returned. This
    /// applies to all clones: their further calls are refused.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InCallback`] in a callback; the pool finishes nevertheless.
    pub fn finish(self) -> Result<(), Error> {
        self.finish_by(None)
    }

    /// As [`finish`](Pool::finish), but after `timeout` everything is [killed](Pool::kill).
    ///
    /// # Errors
    ///
    /// As [`finish`](Pool::finish), and [`ErrorKind::Stopped`] if it took too long: calls that were unanswered
    /// have ended with that error.
    pub fn finish_timeout(self, timeout: Duration) -> Result<(), Error> {
        self.finish_by(after(Instant::now(), timeout))
    }

    fn finish_by(self, deadline: Option<Instant>) -> Result<(), Error> {
        let core = Arc::clone(&self.shared.core);
        core.refuse_elsewhere()?;
        drop(self);
        core.close();
        if core.wait_over(deadline)? {
            return Ok(());
        }
        let error = Error::new(
            ErrorKind::Stopped,
            "the pool was stopped before it had answered",
        );
        core.kill(&error);
        core.wait_over(None)?;
        Err(error)
    }
}

//! A call for each of many inputs.

use super::call::{PoolCall, Started};
use crate::error::{CallError, Refusal};
use crate::id_map::IdMap;
use crate::outcome::Outcome;
use crate::rpc::{Pending, PooledCall, in_callback};
use crate::service::Signature;
use std::collections::VecDeque;
use std::fmt;
use std::iter::Fuse;
use std::mem;
use std::sync::mpsc::{self, Receiver, Sender};

/// The calls for inputs that have not been taken yet.
type Calls<'a, T> = Fuse<Box<dyn Iterator<Item = T> + 'a>>;

/// The options of the calls that are made, if any were set.
type Options<'a, S> = Option<Box<dyn FnMut(PoolCall<'a, S>) -> PoolCall<'a, S> + 'a>>;

/// The outcomes of calls in the order of their inputs: what [`Pool::map`](crate::Pool::map) returns.
#[must_use = "calls are made as outcomes are taken"]
pub struct Map<'a, S: Signature> {
    calls: Calls<'a, PoolCall<'a, S>>,
    options: Options<'a, S>,
    pending: VecDeque<Pending<S>>,
    ahead: usize,
}

impl<S: Signature> fmt::Debug for Map<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map")
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

impl<'a, S: Signature> Map<'a, S> {
    /// Makes so many of these calls ahead.
    pub(super) fn new(calls: impl Iterator<Item = PoolCall<'a, S>> + 'a, ahead: usize) -> Self {
        let calls: Box<dyn Iterator<Item = _>> = Box::new(calls);
        Map {
            calls: calls.fuse(),
            options: None,
            pending: VecDeque::new(),
            ahead,
        }
    }

    /// Sets the options of the calls that are made from now on: `options` gets each of them before it is made. A
    /// timeout counts from then on, not from when its outcome is asked for.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// # let me = offspring::Worker::new()
    /// #     .function("square", |request, _caller| {
    /// #         let [n] = request.texts()?;
    /// #         Ok(n.parse::<u64>()?.pow(2).to_string())
    /// #     })
    /// #     .run();
    /// use std::time::Duration;
    ///
    /// let pool = me.pool("square").max(2).start()?;
    /// let squares: Result<Vec<_>, _> = pool
    ///     .map(["1", "2", "3"])
    ///     .with(|call| call.repeatable(1).timeout(Duration::from_secs(60)))
    ///     .collect();
    /// assert_eq!(squares?, [["1"], ["4"], ["9"]]);
    /// # pool.finish()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with(mut self, options: impl FnMut(PoolCall<'a, S>) -> PoolCall<'a, S> + 'a) -> Self {
        self.options = Some(Box::new(options));
        self
    }
}

impl<S: Signature> Iterator for Map<'_, S> {
    type Item = Outcome<S>;

    fn next(&mut self) -> Option<Outcome<S>> {
        while self.pending.len() < self.ahead
            && let Some(call) = self.calls.next()
        {
            let call = set(&mut self.options, call);
            self.pending.push_back(call.cancel_on_drop().start());
        }
        self.pending.pop_front().map(Pending::wait)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        with_pending(self.calls.size_hint(), self.pending.len())
    }
}

/// The outcomes of calls as they come, each with its input: what
/// [`Pool::map_unordered`](crate::Pool::map_unordered) returns.
#[must_use = "calls are made as outcomes are taken"]
pub struct MapUnordered<'a, S: Signature, T> {
    calls: Calls<'a, (T, PoolCall<'a, S>)>,
    options: Options<'a, S>,
    /// The inputs of the calls whose outcomes were not returned, by their numbers.
    pending: IdMap<(T, Started)>,
    /// How many calls were made.
    made: u64,
    ahead: usize,
    sender: Sender<(u64, Outcome<S>)>,
    outcomes: Receiver<(u64, Outcome<S>)>,
}

impl<S: Signature, T> fmt::Debug for MapUnordered<'_, S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapUnordered")
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

impl<'a, S: Signature, T> MapUnordered<'a, S, T> {
    /// Makes so many of these calls ahead.
    pub(super) fn new(
        calls: impl Iterator<Item = (T, PoolCall<'a, S>)> + 'a,
        ahead: usize,
    ) -> Self {
        let (sender, outcomes) = mpsc::channel();
        let calls: Box<dyn Iterator<Item = _>> = Box::new(calls);
        MapUnordered {
            calls: calls.fuse(),
            options: None,
            pending: IdMap::default(),
            made: 0,
            ahead,
            sender,
            outcomes,
        }
    }

    /// Sets the options of the calls that are made from now on, as [`Map::with`].
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// # let me = offspring::Worker::new()
    /// #     .function("length", |request, _caller| Ok(request[0].len().to_string()))
    /// #     .run();
    /// let pool = me.pool("length").max(2).start()?;
    /// for (word, length) in pool.map_unordered(["a", "bc"]).with(|call| call.urgent()) {
    ///     assert_eq!(length?, [word.len().to_string()]);
    /// }
    /// # pool.finish()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with(mut self, options: impl FnMut(PoolCall<'a, S>) -> PoolCall<'a, S> + 'a) -> Self {
        self.options = Some(Box::new(options));
        self
    }

    /// Ends one of the calls, if their outcomes cannot be waited for here.
    fn refuse(&mut self) -> Option<(T, Refusal)> {
        let (number, (_, call)) = self.pending.iter().next()?;
        let refusal = match call.is_elsewhere() {
            true => Refusal::Forked,
            false if in_callback() => Refusal::InCallback,
            false => return None,
        };
        let (input, call) = self.pending.remove(number)?;
        call.cancel();
        Some((input, refusal))
    }
}

impl<S: Signature, T> Iterator for MapUnordered<'_, S, T>
where
    Outcome<S>: Send,
{
    type Item = (T, Outcome<S>);

    fn next(&mut self) -> Option<(T, Outcome<S>)> {
        while self.pending.len() < self.ahead
            && let Some((input, call)) = self.calls.next()
        {
            let call = set(&mut self.options, call);
            self.made += 1;
            let number = self.made;
            let sender = self.sender.clone();
            // If nobody takes it any more, it is not wanted.
            let started = call.then_started(move |outcome| drop(sender.send((number, outcome))));
            self.pending.insert(number, (input, started));
        }
        if let Some((input, refusal)) = self.refuse() {
            return Some((input, Err(CallError::Refused(refusal))));
        }
        while !self.pending.is_empty() {
            let (number, outcome) = self.outcomes.recv().expect("there is a sender here");
            // Unless it was refused.
            if let Some((input, _)) = self.pending.remove(number) {
                return Some((input, outcome));
            }
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        with_pending(self.calls.size_hint(), self.pending.len())
    }
}

impl<S: Signature, T> Drop for MapUnordered<'_, S, T> {
    fn drop(&mut self) {
        for (_, call) in mem::take(&mut self.pending).into_values() {
            call.cancel();
        }
    }
}

/// A call with these options.
fn set<'a, S: Signature>(options: &mut Options<'a, S>, call: PoolCall<'a, S>) -> PoolCall<'a, S> {
    match options {
        Some(options) => options(call),
        None => call,
    }
}

fn with_pending((least, most): (usize, Option<usize>), pending: usize) -> (usize, Option<usize>) {
    let most = most.and_then(|most| most.checked_add(pending));
    (least.saturating_add(pending), most)
}

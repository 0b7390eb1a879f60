//! A call for each of many inputs.

use super::call::{PoolCall, Started};
use crate::outcome::Outcome;
use crate::rpc::{Pending, PooledCall};
use crate::service::Signature;
use std::collections::VecDeque;
use std::fmt;
use std::iter::Fuse;
use std::sync::mpsc::{self, Receiver, Sender};

/// The calls for inputs that have not been taken yet.
type Calls<'a, T> = Fuse<Box<dyn Iterator<Item = T> + 'a>>;

/// The outcomes of calls in the order of their inputs: what [`Pool::map`](crate::Pool::map) returns.
#[must_use = "calls are made as outcomes are taken"]
pub struct Map<'a, S: Signature> {
    calls: Calls<'a, PoolCall<'a, S>>,
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
            pending: VecDeque::new(),
            ahead,
        }
    }
}

impl<S: Signature> Iterator for Map<'_, S> {
    type Item = Outcome<S>;

    fn next(&mut self) -> Option<Outcome<S>> {
        while self.pending.len() < self.ahead
            && let Some(call) = self.calls.next()
        {
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
    /// The inputs of the calls that have not ended, by their places.
    pending: Vec<Option<(T, Started)>>,
    free: Vec<usize>,
    ahead: usize,
    sender: Sender<(usize, Outcome<S>)>,
    outcomes: Receiver<(usize, Outcome<S>)>,
}

impl<S: Signature, T> fmt::Debug for MapUnordered<'_, S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapUnordered")
            .field("pending", &self.pending())
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
            pending: Vec::new(),
            free: Vec::new(),
            ahead,
            sender,
            outcomes,
        }
    }

    fn pending(&self) -> usize {
        self.pending.len() - self.free.len()
    }
}

impl<S: Signature, T> Iterator for MapUnordered<'_, S, T>
where
    Outcome<S>: Send,
{
    type Item = (T, Outcome<S>);

    fn next(&mut self) -> Option<(T, Outcome<S>)> {
        while self.pending() < self.ahead
            && let Some((input, call)) = self.calls.next()
        {
            let at = self.free.pop().unwrap_or_else(|| {
                self.pending.push(None);
                self.pending.len() - 1
            });
            let sender = self.sender.clone();
            // If nobody takes it any more, it is not wanted.
            let started = call.then_started(move |outcome| drop(sender.send((at, outcome))));
            self.pending[at] = Some((input, started));
        }
        if self.pending() == 0 {
            return None;
        }
        let (at, outcome) = self.outcomes.recv().expect("there is a sender here");
        self.free.push(at);
        let (input, _) = self.pending[at].take().expect("each call ends once");
        Some((input, outcome))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        with_pending(self.calls.size_hint(), self.pending())
    }
}

impl<S: Signature, T> Drop for MapUnordered<'_, S, T> {
    fn drop(&mut self) {
        for (_, call) in self.pending.drain(..).flatten() {
            call.cancel();
        }
    }
}

fn with_pending((least, most): (usize, Option<usize>), pending: usize) -> (usize, Option<usize>) {
    let most = most.and_then(|most| most.checked_add(pending));
    (least.saturating_add(pending), most)
}

//! The messages that tell a child which of its functions the next requests are for. Pure.
//!
//! One is not needed any more if all requests were withdrawn that follow it, up to the next: then it is
//! withdrawn, too. Otherwise calls that are made and cancelled would leave more and more of them to a child
//! that does not read.

use crate::wire::Outbox;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Switches {
    /// The function that requests are for before all of these.
    base: usize,
    /// Those that may be in the queue, in order.
    queued: Vec<Switch>,
}

#[derive(Debug)]
struct Switch {
    function: usize,
    /// Where the message is in the stream, and how long.
    start: u64,
    len: u64,
    /// How many requests follow it, up to the next one.
    requests: usize,
}

impl Switches {
    /// The function that the next request is for.
    pub(super) fn current(&self) -> usize {
        let last = self.queued.last();
        last.map_or(self.base, |switch| switch.function)
    }

    /// A message was queued: requests are for another function from now on.
    pub(super) fn push(&mut self, function: usize, start: u64, len: u64, outbox: &Outbox) {
        let taken = self
            .queued
            .partition_point(|it| !outbox.is_queued(it.start));
        if let Some(last) = taken.checked_sub(1) {
            self.base = self.queued[last].function;
            self.queued.drain(..taken);
        }
        self.queued.push(Switch {
            function,
            start,
            len,
            requests: 0,
        });
    }

    /// A request was queued.
    #[inline]
    pub(super) fn add_request(&mut self) {
        if let Some(last) = self.queued.last_mut() {
            last.requests += 1;
        }
    }

    /// The request that was queued at `start` was withdrawn.
    pub(super) fn withdraw_request(&mut self, start: u64, outbox: &mut Outbox) {
        let after = self.queued.partition_point(|switch| switch.start < start);
        let Some(at) = after.checked_sub(1) else {
            return;
        };
        let switch = &mut self.queued[at];
        switch.requests -= 1;
        if switch.requests == 0 && outbox.withdraw(switch.start, switch.len) {
            self.queued.remove(at);
        }
    }
}

//! A child, as the scheduler knows it.

use super::{ChildId, Ticket};
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::Instant;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) id: ChildId,
    pub(crate) slot: usize,
    pub(crate) stage: Stage,
    pub(crate) generation: u32,
    /// How many calls have ended for it.
    pub(crate) ended: u64,
    /// When those were sent that have not, in this order. They may end in any.
    pub(crate) sent_at: VecDeque<Instant>,
    /// Whether it has a call that is to be alone.
    is_taken: bool,
    /// When it was sent something last.
    pub(super) last_used: Ticket,
    /// Since when it has had no calls.
    pub(super) idle_since: Instant,
    pub(crate) since: Instant,
    /// When it has served since.
    ready_at: Option<Instant>,
    /// When it is to be replaced: after so many calls,
    max_calls: Option<u64>,
    /// at this time,
    max_age: Option<Instant>,
    /// or as it has become too large.
    pub(super) outgrown: bool,
    /// Whether it was told to exit.
    pub(super) is_told: bool,
    /// Whether it has ended, and that is to be reported.
    pub(super) is_lost: bool,
}

/// What a child is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// In its slot, another one may serve until this one does.
    Starting,
    Serving,
    /// It gets no more calls.
    Leaving,
}

impl Child {
    pub(super) fn new(id: ChildId, slot: usize, generation: u32, now: Instant) -> Self {
        Child {
            id,
            slot,
            stage: Stage::Starting,
            generation,
            ended: 0,
            sent_at: VecDeque::new(),
            is_taken: false,
            last_used: Ticket(0),
            idle_since: now,
            since: now,
            ready_at: None,
            max_calls: None,
            max_age: None,
            outgrown: false,
            is_told: false,
            is_lost: false,
        }
    }

    pub(super) fn serve(&mut self, calls: Option<u64>, age: Option<Instant>, now: Instant) {
        self.stage = Stage::Serving;
        self.ready_at = Some(now);
        self.idle_since = now;
        (self.max_calls, self.max_age) = (calls, age);
    }

    /// How many of its calls have not ended.
    pub(crate) fn in_flight(&self) -> u64 {
        self.sent_at.len() as u64
    }

    pub(super) fn has_room(&self, load: usize, alone: bool) -> bool {
        let room = if alone { 1 } else { load };
        self.stage == Stage::Serving && !self.is_taken && self.sent_at.len() < room
    }

    /// The smallest gets the next call.
    pub(super) fn rank(&self) -> (usize, Reverse<Ticket>) {
        (self.sent_at.len(), Reverse(self.last_used))
    }

    pub(super) fn send(&mut self, alone: bool, ticket: Ticket, now: Instant) {
        self.sent_at.push_back(now);
        self.is_taken |= alone;
        self.last_used = ticket;
    }

    pub(super) fn unsend(&mut self, now: Instant) {
        self.sent_at.pop_back();
        self.look_idle(now);
    }

    /// Returns how many have ended since the last time.
    pub(super) fn free(&mut self, total: u64, now: Instant) -> u64 {
        // Threads may report this in any order.
        let freed = total.saturating_sub(self.ended).min(self.in_flight());
        self.ended += freed;
        self.sent_at.drain(..freed as usize);
        if freed > 0 {
            self.look_idle(now);
        }
        freed
    }

    fn look_idle(&mut self, now: Instant) {
        if self.sent_at.is_empty() {
            (self.is_taken, self.idle_since) = (false, now);
        }
    }

    pub(super) fn has_served(&self) -> bool {
        self.ready_at.is_some()
    }

    pub(super) fn serves_since(&self) -> Option<Instant> {
        self.ready_at
    }

    /// From when on it is to be replaced.
    pub(super) fn renews_at(&self, generation: u32) -> Option<Instant> {
        if self.stage != Stage::Serving {
            return None;
        }
        match self.is_worn(generation) {
            true => self.ready_at,
            false => self.max_age,
        }
    }

    /// Whether it is to be replaced, whatever its age is.
    pub(super) fn is_worn(&self, generation: u32) -> bool {
        let is_spent = self.max_calls.is_some_and(|calls| self.ended >= calls);
        is_spent || self.outgrown || self.generation < generation
    }

    pub(crate) fn is_told(&self) -> bool {
        self.is_told
    }
}

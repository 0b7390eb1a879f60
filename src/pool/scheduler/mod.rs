//! Which call goes to which child of a pool, and when children are started and stopped. Pure: no processes,
//! no threads, no clock.
//!
//! A pool has slots, each for one child at a time. Calls that find no room wait in a lane: one for all
//! children, and one for each slot, for the calls that are bound to it by a key.
//!
//! ```text
//!   place() ──▶ a child with room                  enqueue() ──▶ lanes
//!                                                                  │ next(), whenever
//!   freed(), ready(), retires(), lost(), died() ──────────────────▶│ something has changed
//!                                                                  ▼
//!                                                     a call and its child, one at a time
//!   act() ──▶ children to start and to stop, calls to fail; again at deadline()
//! ```
//!
//! `C` is a call that waits, `E` why a child could not be started.

mod child;
mod lane;
mod random;
mod source;
#[cfg(test)]
mod tests;

pub(crate) use child::{Child, Stage};
pub(crate) use lane::Entry;

use crate::deadlines::{Deadlines, after};
use lane::{Lane, Turn};
use random::Random;
use source::Source;
use std::time::{Duration, Instant};

/// When a call was made, among all calls of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// Which child. Never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChildId(pub(crate) u64);

/// What a call needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Want {
    /// Calls with the same key go to the same child.
    pub(crate) key: Option<u64>,
    /// Before others.
    pub(crate) urgent: bool,
    /// Without others in the same child: a child has died of it, perhaps.
    pub(crate) alone: bool,
    /// When it ends, wherever it is.
    pub(crate) deadline: Option<Instant>,
    /// How long its request is.
    pub(crate) bytes: usize,
}

/// The options of a pool.
#[derive(Debug, Clone)]
pub(crate) struct Sizing {
    /// How many children without calls there are to be, at least.
    pub(crate) idle: usize,
    /// How many calls a child has at a time, at most.
    pub(crate) load: usize,
    /// How long all children must have been full before another is started.
    pub(crate) grow_after: Duration,
    /// How long a child must have been idle before it is stopped.
    pub(crate) shrink_after: Duration,
    /// After how many calls, about, a child is replaced.
    pub(crate) max_calls: Option<u64>,
    /// At which age, about.
    pub(crate) max_age: Option<Duration>,
    /// How many calls there may be that have not ended.
    pub(crate) queue_calls: usize,
    /// How many bytes of requests may wait.
    pub(crate) queue_bytes: usize,
}

impl Default for Sizing {
    /// As in `AnyEvent::Fork::Pool`.
    fn default() -> Self {
        Sizing {
            idle: 0,
            load: 2,
            grow_after: Duration::from_millis(100),
            shrink_after: Duration::from_secs(10),
            max_calls: None,
            max_age: None,
            queue_calls: usize::MAX,
            queue_bytes: usize::MAX,
        }
    }
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Action<C, E> {
    /// Start a child from this source.
    Start { child: ChildId, source: usize },
    /// Have this child exit: it has no calls, and gets no more.
    Stop(ChildId),
    /// This call ends: there is no child for it, and cannot be, for this reason.
    Fail(Entry<C>, E),
}

/// What has become of the former children of a slot.
#[derive(Debug, Clone)]
pub(crate) struct Past<E> {
    /// How many there were.
    pub(crate) children: u64,
    /// How many calls have ended for them.
    pub(crate) calls: u64,
    /// How the last one has ended that was not to.
    pub(crate) last_error: Option<E>,
}

/// A source at one moment.
#[derive(Debug)]
pub(crate) struct SourceState<'a, E> {
    pub(crate) slots: usize,
    /// How many children there are of it,
    pub(crate) children: usize,
    /// how many there were before,
    pub(crate) past: u64,
    /// and how many calls have ended for all of them.
    pub(crate) ended: u64,
    /// How many starts have failed in a row.
    pub(crate) failures: u32,
    /// Why the last of these has, or how one of its children has ended that was not to.
    pub(crate) last_error: Option<&'a E>,
}

impl<E> Default for Past<E> {
    fn default() -> Self {
        Past {
            children: 0,
            calls: 0,
            last_error: None,
        }
    }
}

/// How many slots a source has at most: some programs ask for as many as possible.
pub(crate) const MOST_SLOTS: usize = 1 << 16;

/// How a child has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End<E> {
    /// It was to end.
    Wanted,
    /// It was not. Whether one of its calls is to blame.
    Died { error: E, blamed: bool },
}

/// How many children get calls, or will.
struct Crew {
    serving: usize,
    /// Of these, how many have no calls.
    idle: usize,
    /// Without those that succeed others.
    starting: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Scheduler<C, E> {
    sizing: Sizing,
    sources: Vec<Source<E>>,
    /// The source of each slot.
    slots: Vec<usize>,
    /// What has become of the children of each slot before the one that is there.
    past: Vec<Past<E>>,
    /// By their ids.
    children: Vec<Child>,
    last_child: u64,
    last_ticket: u64,
    /// Calls for any child.
    shared: Lane<C>,
    /// Calls for one slot.
    keyed: Vec<Lane<C>>,
    /// When waiting calls end, by their tickets.
    deadlines: Deadlines,
    waiting: usize,
    waiting_bytes: usize,
    in_flight: u64,
    /// When the next child is started, if one is missing.
    grow_at: Option<Instant>,
    /// When the next one may be stopped that is idle.
    shrink_at: Option<Instant>,
    /// Children of an earlier one are to be replaced.
    generation: u32,
    /// Whether the children have been started that there are to be from the beginning.
    is_begun: bool,
    closing: bool,
    random: Random,
}

impl<C, E: Clone> Scheduler<C, E> {
    /// A pool of so many slots of each source.
    pub(crate) fn new(sizing: Sizing, slots: &[usize], seed: u64) -> Self {
        let mut sources = Vec::new();
        let mut all = Vec::new();
        for (source, count) in slots.iter().enumerate() {
            let count = (*count).min(MOST_SLOTS);
            sources.push(Source::new(all.len()..all.len() + count));
            all.resize(all.len() + count, source);
        }
        Scheduler {
            sizing,
            sources,
            keyed: all.iter().map(|_| Lane::default()).collect(),
            past: all.iter().map(|_| Past::default()).collect(),
            slots: all,
            children: Vec::new(),
            last_child: 0,
            last_ticket: 0,
            shared: Lane::default(),
            deadlines: Deadlines::default(),
            waiting: 0,
            waiting_bytes: 0,
            in_flight: 0,
            grow_at: None,
            shrink_at: None,
            generation: 0,
            is_begun: false,
            closing: false,
            random: Random::new(seed),
        }
    }

    // ---- calls ----

    /// Whether another call may be made, with a request of so many bytes. One can always wait, however long
    /// it is.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let calls = self.in_flight as usize + self.waiting;
        let fits = self.waiting_bytes.saturating_add(bytes) <= self.sizing.queue_bytes;
        calls < self.sizing.queue_calls && (fits || self.waiting_bytes == 0)
    }

    /// A number for a call that is made now.
    pub(crate) fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    /// The child that a call is to be sent to at once, if no other waits for the same, there is room, and
    /// nothing else is to be done. It counts as sent.
    pub(crate) fn place(&mut self, want: &Want, now: Instant) -> Option<ChildId> {
        if !self.shared.is_empty() {
            return None;
        }
        let at = match want.key {
            None => self.pick(want.alone, (!want.urgent, Ticket(u64::MAX)))?,
            Some(key) => {
                let slot = self.slot_of(key);
                let is_next = self.keyed[slot].is_empty();
                let at = is_next.then(|| self.pick_in(slot, want.alone))??;
                (!self.hides_another(at)).then_some(at)?
            }
        };
        (!self.takes_spare(at)).then(|| self.send(at, want.alone, now))
    }

    /// A call waits. If it was sent before, it has its old place.
    pub(crate) fn enqueue(&mut self, ticket: Ticket, want: Want, call: C, since: Instant) {
        self.waiting += 1;
        self.waiting_bytes += want.bytes;
        if let Some(deadline) = want.deadline {
            self.deadlines.set(ticket.0, deadline);
        }
        let entry = Entry {
            ticket,
            want,
            since,
            call,
        };
        match want.key {
            None => self.shared.insert(entry),
            Some(key) => {
                let slot = self.slot_of(key);
                self.keyed[slot].insert(entry);
            }
        }
    }

    /// Takes a call back that waits, if it does.
    pub(crate) fn withdraw(&mut self, ticket: Ticket) -> Option<Entry<C>> {
        let lanes = std::iter::once(&mut self.shared).chain(&mut self.keyed);
        let entry = lanes
            .filter(|lane| !lane.is_empty())
            .find_map(|lane| lane.take(ticket))?;
        Some(self.waits_no_more(entry))
    }

    /// Takes a call out that has waited too long.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Entry<C>> {
        let (deadline, ticket) = self.deadlines.first()?;
        match deadline <= now {
            true => self.withdraw(Ticket(ticket)),
            false => None,
        }
    }

    /// A call that can be sent now, and where to. It counts as sent.
    pub(crate) fn next(&mut self, now: Instant) -> Option<(ChildId, Entry<C>)> {
        if self.waiting == 0 {
            return None;
        }
        let first = self.shared.first();
        let shared = first.and_then(|first| {
            let at = self.pick(first.want.alone, first.turn())?;
            Some((first.turn(), at, None))
        });
        // Younger ones would go on and on, and no child would ever be idle.
        let alone = first.filter(|first| first.want.alone).map(Entry::turn);
        let keyed = self.keyed_waiting().filter_map(|(slot, lane)| {
            let first = lane.first()?;
            let waits = alone.is_some_and(|alone| alone < first.turn());
            let at = self.pick_in(slot, first.want.alone).filter(|_| !waits)?;
            Some((first.turn(), at, Some(slot)))
        });
        let (_, at, slot) = keyed.chain(shared).min()?;
        let lane = match slot {
            None => &mut self.shared,
            Some(slot) => &mut self.keyed[slot],
        };
        let entry = lane.take_first()?;
        let entry = self.waits_no_more(entry);
        Some((self.send(at, entry.want.alone, now), entry))
    }

    /// Sends something to a child, even if it is full. Returns false if it gets no calls any more.
    pub(crate) fn send_to(&mut self, child: ChildId, now: Instant) -> bool {
        match self.find(child) {
            Some(at) if self.children[at].stage != Stage::Leaving => {
                self.send(at, false, now);
                true
            }
            _ => false,
        }
    }

    /// What counted as sent was not taken.
    pub(crate) fn unsent(&mut self, child: ChildId, now: Instant) {
        if let Some(at) = self.find(child) {
            self.in_flight -= 1;
            self.children[at].unsend(now);
        }
    }

    /// So many calls have ended for a child of all that it was ever sent. Returns whether that is news.
    pub(crate) fn freed(&mut self, child: ChildId, total: u64, now: Instant) -> bool {
        let Some(at) = self.find(child) else {
            return false;
        };
        let freed = self.children[at].free(total, now);
        self.in_flight -= freed;
        freed > 0
    }

    // ---- children ----

    /// A child serves.
    pub(crate) fn ready(&mut self, child: ChildId, now: Instant) {
        let Some(at) = self.find(child) else {
            return;
        };
        let Child { slot, stage, .. } = self.children[at];
        if stage == Stage::Starting {
            // Who was there before has a successor now.
            for old in &mut self.children {
                if old.slot == slot && old.stage == Stage::Serving {
                    old.stage = Stage::Leaving;
                }
            }
            let calls = self.sizing.max_calls;
            let calls = calls.map(|calls| self.random.about_number(calls));
            let age = self.sizing.max_age;
            let age = age.and_then(|age| after(now, self.random.about(age)));
            self.children[at].serve(calls, age, now);
        }
    }

    /// A child wants no more calls. If it has had none, this is the error of a start in vain.
    pub(crate) fn retires(&mut self, child: ChildId, error: E, now: Instant) {
        let Some(at) = self.find(child) else {
            return;
        };
        self.forgive(now);
        let child = &mut self.children[at];
        let serves = child.stage == Stage::Serving;
        child.stage = Stage::Leaving;
        // It does so before it is of any use, perhaps again and again.
        if serves && child.ended == 0 && child.in_flight() == 0 {
            let (slot, since, ready_at) = (child.slot, child.since, child.serves_since());
            self.started_in_vain(slot, since, ready_at, error, now);
        }
    }

    /// A child has lost a call: it has ended, which is reported when all its calls are lost. Until then it is
    /// told nothing, as it would seem to have ended of that.
    pub(crate) fn lost(&mut self, child: ChildId) {
        if let Some(at) = self.find(child) {
            let child = &mut self.children[at];
            (child.stage, child.is_lost) = (Stage::Leaving, true);
        }
    }

    /// A child has become too large.
    pub(crate) fn outgrown(&mut self, child: ChildId) {
        if let Some(at) = self.find(child) {
            self.children[at].outgrown = true;
        }
    }

    /// A child has ended, and all its calls, or could not be started.
    pub(crate) fn died(&mut self, child: ChildId, end: End<E>, now: Instant) {
        let Some(at) = self.find(child) else {
            return;
        };
        self.forgive(now);
        let child = self.children.remove(at);
        self.in_flight -= child.in_flight();
        let past = &mut self.past[child.slot];
        past.children += 1;
        past.calls += child.ended;
        if let (End::Died { error, .. }, false) = (&end, child.is_told) {
            past.last_error = Some(error.clone());
        }
        if child.ended > 0 {
            self.sources[self.slots[child.slot]].has_worked(child.since);
        }
        let End::Died { error, blamed } = end else {
            return;
        };
        if child.is_told {
            return;
        }
        // One that dies before it does anything may do so again and again.
        if !child.has_served() || (child.ended == 0 && !blamed) {
            self.started_in_vain(child.slot, child.since, child.serves_since(), error, now);
        }
        if self.waiting > 0 && self.is_free(child.slot) {
            // It is missed.
            self.grow_at = Some(now);
        }
    }

    /// All children are to be replaced.
    pub(crate) fn restart(&mut self) {
        self.generation += 1;
    }

    /// No more calls come: children end when they have none.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// No calls are sent any more. Takes a call out that waits, until there is none.
    pub(crate) fn drain(&mut self) -> Option<Entry<C>> {
        self.closing = true;
        for child in &mut self.children {
            (child.stage, child.is_told) = (Stage::Leaving, true);
        }
        let lanes = std::iter::once(&mut self.shared).chain(&mut self.keyed);
        let entry = lanes.filter_map(Lane::take_first).next()?;
        Some(self.waits_no_more(entry))
    }

    /// How many calls a child has.
    pub(crate) fn in_flight(&self, child: ChildId) -> usize {
        let at = self.find(child);
        at.map_or(0, |at| self.children[at].in_flight() as usize)
    }

    /// Whether a child is to be replaced.
    pub(crate) fn is_due(&self, child: ChildId) -> bool {
        let child = self.find(child).map(|at| &self.children[at]);
        child.is_some_and(|child| child.stage == Stage::Leaving || child.is_worn(self.generation))
    }

    /// What is to be done now.
    pub(crate) fn act(&mut self, now: Instant) -> Option<Action<C, E>> {
        self.forgive(now);
        if let Some((entry, error)) = self.hopeless(now) {
            return Some(Action::Fail(entry, error));
        }
        if let Some(slot) = self.missing(now) {
            self.last_child += 1;
            let (child, source) = (ChildId(self.last_child), self.slots[slot]);
            let new = Child::new(child, slot, self.generation, now);
            self.children.push(new);
            return Some(Action::Start { child, source });
        }
        let closing = self.closing && self.waiting == 0;
        let is_over = |child: &Child| {
            let leaves = closing || child.stage == Stage::Leaving;
            leaves && !child.is_told && !child.is_lost && child.in_flight() == 0
        };
        let over = self.children.iter().position(is_over);
        let at = over.or_else(|| self.too_many(now))?;
        let child = &mut self.children[at];
        (child.stage, child.is_told) = (Stage::Leaving, true);
        Some(Action::Stop(child.id))
    }

    /// When to [`expire`](Scheduler::expire) and [`act`](Scheduler::act) next, if nothing happens before.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let expires = self.deadlines.first().map(|(at, _)| at);
        let grows = self.grow_at.and_then(|at| {
            // Any of those that have a free slot.
            let slots = self
                .sources
                .iter()
                .filter_map(|source| self.free_slot(source));
            slots.filter_map(|slot| self.starts_at(slot, at)).min()
        });
        let keyed = self.keyed_waiting().filter(|(slot, _)| self.is_free(*slot));
        let keyed = keyed.filter_map(|(slot, lane)| self.starts_at(slot, lane.oldest()?));
        let renews = !self.closing && !self.is_renewing();
        let renewals = self.children.iter().filter(|_| renews).filter_map(|child| {
            let at = child.renews_at(self.generation)?;
            self.starts_at(child.slot, at)
        });
        let moments = [expires, grows, self.idle_deadline()].into_iter().flatten();
        moments.chain(keyed).chain(renewals).min()
    }

    /// When to act because children are idle.
    pub(crate) fn idle_deadline(&self) -> Option<Instant> {
        self.shrinks_at(self.longest_idle()?)
    }

    // ---- what is there ----

    /// Whether all is over, once it is [closed](Scheduler::close).
    pub(crate) fn is_over(&self) -> bool {
        self.closing && self.children.is_empty() && self.waiting == 0
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// How many calls wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many bytes their requests have.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Since when the one waits that waits longest.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        let keyed = self.keyed_waiting().filter_map(|(_, lane)| lane.oldest());
        keyed.chain(self.shared.oldest()).min()
    }

    /// How many children were ever started.
    pub(crate) fn started(&self) -> u64 {
        self.last_child
    }

    /// What has become of the former children of a child's slot.
    pub(crate) fn past(&self, child: &Child) -> &Past<E> {
        &self.past[child.slot]
    }

    /// How many calls have ended for children.
    pub(crate) fn ended(&self) -> u64 {
        let past: u64 = self.past.iter().map(|past| past.calls).sum();
        past + self.children.iter().map(|child| child.ended).sum::<u64>()
    }

    pub(crate) fn children(&self) -> &[Child] {
        &self.children
    }

    /// The number of the source that a child is from.
    pub(crate) fn source_of(&self, child: &Child) -> usize {
        self.slots[child.slot]
    }

    /// Each source at this moment, in order.
    pub(crate) fn sources(&self) -> impl Iterator<Item = SourceState<'_, E>> {
        self.sources.iter().map(|source| {
            let past = &self.past[source.slots.clone()];
            let its = |child: &&Child| source.slots.contains(&child.slot);
            let children = self.children.iter().filter(its);
            let ended = children.clone().map(|child| child.ended);
            SourceState {
                slots: source.slots.len(),
                children: children.count(),
                ended: past.iter().map(|past| past.calls).chain(ended).sum(),
                past: past.iter().map(|past| past.children).sum(),
                failures: source.failures(),
                last_error: source
                    .last_error()
                    .or_else(|| past.iter().find_map(|past| past.last_error.as_ref())),
            }
        })
    }

    // ---- decisions ----

    /// The slot that calls with this key are for.
    pub(crate) fn slot_of(&self, key: u64) -> usize {
        // Rendezvous hashing: of the same slots, each key always has the same one.
        let weight = |slot: usize| {
            let mixed = (key ^ (slot as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
                .wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed ^ (mixed >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb)
        };
        let slots = 0..self.slots.len();
        slots.max_by_key(|slot| weight(*slot)).unwrap_or(0)
    }

    /// The lanes of slots in which calls wait.
    fn keyed_waiting(&self) -> impl Iterator<Item = (usize, &Lane<C>)> {
        // Mostly there is none, and then no lane is looked at.
        let all = match self.waiting > self.shared.len() {
            true => &self.keyed[..],
            false => &[],
        };
        let lanes = all.iter().enumerate();
        lanes.filter(|(_, lane)| !lane.is_empty())
    }

    /// The child that is to get the next call: an idle one if there is one, and of equal ones that which was
    /// used last.
    fn pick(&self, alone: bool, turn: Turn) -> Option<usize> {
        let keyed = self.waiting > self.shared.len();
        let is_promised = |child: &Child| {
            let first = self.keyed[child.slot].first();
            first.is_some_and(|first| first.turn() < turn)
        };
        let children = self.children.iter().enumerate();
        let with_room = children.filter(|(_, child)| {
            child.has_room(self.sizing.load, alone) && !(keyed && is_promised(child))
        });
        let best = with_room.min_by_key(|(_, child)| child.rank());
        best.map(|(at, _)| at)
    }

    /// The child of this slot, if it has room.
    fn pick_in(&self, slot: usize, alone: bool) -> Option<usize> {
        let mut children = self.children.iter();
        children.position(|child| child.slot == slot && child.has_room(self.sizing.load, alone))
    }

    /// Whether there are to be more idle children if this one is not idle any more, and none is on its way.
    fn takes_spare(&self, at: usize) -> bool {
        if self.sizing.idle == 0 || self.grow_at.is_some() || self.children[at].in_flight() > 0 {
            return false;
        }
        let crew = self.crew();
        crew.serving + crew.starting < self.slots.len()
            && crew.idle + crew.starting <= self.sizing.idle
    }

    fn send(&mut self, at: usize, alone: bool, now: Instant) -> ChildId {
        self.in_flight += 1;
        self.last_ticket += 1;
        let child = &mut self.children[at];
        child.send(alone, Ticket(self.last_ticket), now);
        child.id
    }

    fn waits_no_more(&mut self, entry: Entry<C>) -> Entry<C> {
        self.waiting -= 1;
        self.waiting_bytes -= entry.want.bytes;
        if entry.want.deadline.is_some() {
            self.deadlines.remove(entry.ticket.0);
        }
        entry
    }

    /// A call that no child can be started for.
    fn hopeless(&mut self, now: Instant) -> Option<(Entry<C>, E)> {
        if self.waiting == 0 {
            return None;
        }
        let error = |source: &Source<E>| source.broken(now).cloned();
        let takes_calls = |child: &Child| child.stage != Stage::Leaving;
        let mut sources = self.sources.iter().filter(|it| !it.slots.is_empty());
        let (lane, error) = if !self.shared.is_empty()
            && !self.children.iter().any(takes_calls)
            && sources.clone().all(|source| source.broken(now).is_some())
        {
            let error = sources.next().and_then(error)?;
            (&mut self.shared, error)
        } else {
            let (slot, error) = self.keyed_waiting().find_map(|(slot, _)| {
                let error = error(&self.sources[self.slots[slot]])?;
                self.is_free(slot).then_some((slot, error))
            })?;
            (&mut self.keyed[slot], error)
        };
        let entry = lane.take_first()?;
        Some((self.waits_no_more(entry), error))
    }

    /// A slot that a child is to be started for: its first, or one that succeeds that which is there.
    fn missing(&mut self, now: Instant) -> Option<usize> {
        let is_missing = |slot: &usize| self.is_free(*slot) && self.may_start(*slot, now);
        let keyed = self.keyed_waiting().map(|(slot, _)| slot).find(is_missing);
        let first = keyed.or_else(|| self.grows_into(now));
        if first.is_some() {
            return first;
        }
        if self.closing || self.is_renewing() {
            return None;
        }
        let due = self.children.iter().find(|child| {
            child.renews_at(self.generation).is_some_and(|at| at <= now)
                && self.may_start(child.slot, now)
        })?;
        Some(due.slot)
    }

    /// A slot for another child, if one is needed and it is time.
    fn grows_into(&mut self, now: Instant) -> Option<usize> {
        let Crew {
            serving,
            idle,
            starting,
        } = self.crew();
        let is_full = self.shared.len() > starting.saturating_mul(self.sizing.load);
        let lacks_idle = !self.closing && idle + starting < self.sizing.idle;
        if !(is_full || lacks_idle) || serving + starting >= self.slots.len() {
            (self.is_begun, self.grow_at) = (true, None);
            return None;
        }
        self.is_begun |= !lacks_idle;
        let at_once = !self.is_begun || (is_full && serving + starting == 0);
        let grow_at = match self.grow_at {
            _ if at_once => now,
            Some(at) => at,
            None => {
                // Times that the clock does not reach are never.
                let at = after(now, self.sizing.grow_after)?;
                *self.grow_at.insert(at)
            }
        };
        self.grow_at = Some(grow_at);
        if grow_at > now {
            return None;
        }
        let able = |source: &&Source<E>| {
            let slot = self.free_slot(source);
            slot.is_some_and(|slot| self.may_start(slot, now))
        };
        // Where nothing has failed, and the fewest are.
        let source = self.sources.iter().filter(able);
        let source = source.min_by_key(|source| (source.failures(), self.used(source)))?;
        let slot = self.free_slot(source);
        self.grow_at = after(now, self.sizing.grow_after);
        slot
    }

    /// A child that has been idle for too long, if it is time to let one go.
    fn too_many(&mut self, now: Instant) -> Option<usize> {
        let at = self.longest_idle()?;
        if self.shrinks_at(at)? > now {
            return None;
        }
        self.shrink_at = after(now, self.sizing.shrink_after);
        Some(at)
    }

    /// Of more idle children than there are to be, that which was used least recently.
    fn longest_idle(&self) -> Option<usize> {
        let children = self.children.iter().enumerate();
        let idle =
            children.filter(|(_, child)| child.stage == Stage::Serving && child.in_flight() == 0);
        let (count, last) = idle.fold((0, None), |(count, last), (at, child)| {
            // Of those that were never used, that which has been there longest.
            let used = (child.last_used, child.idle_since);
            let is_older = last.is_none_or(|(oldest, _)| used < oldest);
            (count + 1, if is_older { Some((used, at)) } else { last })
        });
        (count > self.sizing.idle).then_some(last?.1)
    }

    /// Whether another idle child is to be let go next, and sooner, if this one gets a call.
    fn hides_another(&self, at: usize) -> bool {
        let child = &self.children[at];
        let is_longer = |other: &Child| {
            let is_idle = other.stage == Stage::Serving && other.in_flight() == 0;
            is_idle && other.idle_since < child.idle_since
        };
        child.in_flight() == 0
            && self.children.iter().any(is_longer)
            && self.longest_idle() == Some(at)
    }

    /// When an idle child is let go.
    fn shrinks_at(&self, at: usize) -> Option<Instant> {
        let idle = after(self.children[at].idle_since, self.sizing.shrink_after)?;
        Some(self.shrink_at.map_or(idle, |next| next.max(idle)))
    }

    /// A child that has been well for long makes its source forget what failed before.
    fn forgive(&mut self, now: Instant) {
        for child in &self.children {
            if let Some(since) = child.serves_since() {
                self.sources[self.slots[child.slot]].has_served(since, now);
            }
        }
    }

    /// A child that was to be started `since` then, and has served from `ready_at` on, if it has, is gone before it
    /// has ended a call.
    fn started_in_vain(
        &mut self,
        slot: usize,
        since: Instant,
        ready_at: Option<Instant>,
        error: E,
        now: Instant,
    ) {
        let source = self.slots[slot];
        let children = self.children.iter();
        let works = |child: &&Child| child.ended > 0 && self.slots[child.slot] == source;
        let working = children.filter(works).map(|child| child.since).max();
        let source = &mut self.sources[source];
        let has_failed =
            ready_at.is_none_or(|at| source.has_failed_to_serve(since, at, working, now));
        if has_failed {
            source.failed(error, since, &mut self.random, now);
        }
    }

    fn crew(&self) -> Crew {
        let serving = self
            .children
            .iter()
            .filter(|child| child.stage == Stage::Serving);
        let idle = serving.clone().filter(|child| child.in_flight() == 0);
        let starting = self
            .children
            .iter()
            .filter(|child| child.stage == Stage::Starting && !self.serves(child.slot));
        Crew {
            serving: serving.count(),
            idle: idle.count(),
            starting: starting.count(),
        }
    }

    /// Whether a slot has a child that serves.
    fn serves(&self, slot: usize) -> bool {
        let serves = |child: &Child| child.slot == slot && child.stage == Stage::Serving;
        self.children.iter().any(serves)
    }

    /// Whether a child starts while another one serves in its slot.
    fn is_renewing(&self) -> bool {
        let succeeds = |child: &Child| child.stage == Stage::Starting && self.serves(child.slot);
        self.children.iter().any(succeeds)
    }

    fn may_start(&self, slot: usize, now: Instant) -> bool {
        self.starts_at(slot, now).is_some_and(|at| at <= now)
    }

    /// When a child may be started that is wanted from this moment on, unless that depends on another child.
    fn starts_at(&self, slot: usize, wanted: Instant) -> Option<Instant> {
        if self.is_crowded(slot) {
            return None;
        }
        let source = self.slots[slot];
        let is_starting =
            |child: &Child| child.stage == Stage::Starting && self.slots[child.slot] == source;
        let is_starting = self.children.iter().any(is_starting);
        self.sources[source].starts_at(is_starting, wanted)
    }

    /// Whether a slot has no child that serves or will.
    fn is_free(&self, slot: usize) -> bool {
        let taken = |child: &Child| child.slot == slot && child.stage != Stage::Leaving;
        !self.children.iter().any(taken)
    }

    /// Whether a slot has a child beside that which serves in it, or will. While such children have calls that
    /// do not end, they must not become more and more.
    fn is_crowded(&self, slot: usize) -> bool {
        let there = self.children.iter().filter(|child| child.slot == slot);
        there.count() >= 2
    }

    fn free_slot(&self, source: &Source<E>) -> Option<usize> {
        let mut slots = source.slots.clone();
        slots.find(|slot| self.is_free(*slot) && !self.is_crowded(*slot))
    }

    /// How many slots of a source are taken, in thousandths.
    fn used(&self, source: &Source<E>) -> usize {
        let taken = self
            .children
            .iter()
            .filter(|child| source.slots.contains(&child.slot) && child.stage != Stage::Leaving);
        taken.count() * 1000 / source.slots.len().max(1)
    }

    fn find(&self, child: ChildId) -> Option<usize> {
        self.children
            .binary_search_by_key(&child, |child| child.id)
            .ok()
    }
}

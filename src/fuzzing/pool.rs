use super::Script;
use crate::pool::{Action, Child, ChildId, End, Scheduler, Sizing, Stage, Ticket, Want};
use std::time::{Duration, Instant};

/// A pool's scheduler: whatever is called, ends, dies and is told, and however time passes, each call goes where
/// plain lists say, each child is started and stopped for a reason and in time, each call ends exactly once, and
/// a pool that is closed ends.
pub fn pool(data: &[u8]) {
    let mut script = Script(data);
    let mut model = Model::new(&mut script);
    model.settle();
    while !script.0.is_empty() {
        model.step(&mut script);
        // Others may be faster than who has changed something.
        if script.byte() % 8 > 0 {
            model.settle();
        }
    }
    model.finish();
}

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);
const NS: Duration = Duration::from_nanos(1);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Who has served for so long is well.
const HEALTHY: Duration = Duration::from_secs(60);
/// ... and for so long has not failed to start.
const SETTLED: Duration = Duration::from_secs(10);
/// No jump goes further, so that the clock does not overflow.
const END: Duration = Duration::from_secs(3000 * 365 * 24 * 3600);

/// A call that waits.
#[derive(Clone, Copy)]
struct Waits {
    call: usize,
    ticket: Ticket,
    want: Want,
    since: Instant,
}

/// A child as the model sees it.
struct Kid {
    id: ChildId,
    slot: usize,
    stage: Stage,
    told: bool,
    lost: bool,
    generation: u32,
    since: Instant,
    ready_at: Option<Instant>,
    /// Calls that were sent and have not ended for it. Those to each child have no number.
    calls: Vec<Option<usize>>,
    /// How many have ended, and how many of them were reported.
    ended: u64,
    reported: u64,
    taken: bool,
    used: u64,
    idle_since: Instant,
    outgrown: bool,
}

impl Kid {
    fn in_flight(&self) -> u64 {
        self.calls.len() as u64 + self.ended - self.reported
    }

    fn is_idle(&self) -> bool {
        self.in_flight() == 0
    }

    fn look_idle(&mut self, now: Instant) {
        if self.is_idle() {
            (self.taken, self.idle_since) = (false, now);
        }
    }
}

/// What is known of the failures of a source. Waits are random, so some of it is only known within limits.
#[derive(Clone, Copy, PartialEq)]
struct Failures {
    least: u32,
    most: u32,
    since: Option<Instant>,
    retry: (Instant, Instant),
    /// When the youngest child was started that has ended calls, and is gone,
    worked: Option<Instant>,
    /// and the youngest that was gone before it had ended any, and not because of one.
    wasted: Option<Instant>,
}

/// A call, wherever it is.
struct Made {
    as_waiting: Waits,
    ended: bool,
}

struct Model {
    scheduler: Scheduler<usize, u64>,
    sizing: Sizing,
    /// The source of each slot.
    slots: Vec<usize>,
    failures: Vec<Failures>,
    start: Instant,
    now: Instant,
    calls: Vec<Made>,
    /// In the order in which they were made.
    waiting: Vec<Waits>,
    kids: Vec<Kid>,
    sends: u64,
    generation: u32,
    /// Since when children are missing, or when the last one was started that was.
    grows_from: Option<Instant>,
    /// A child has died, and is replaced at once.
    missed: bool,
    begun: bool,
    last_shrink: Option<Instant>,
    closing: bool,
    drained: bool,
    /// Whether everything was done that there is to do, and nothing has happened since.
    settled: bool,
}

impl Model {
    fn new(script: &mut Script<'_>) -> Self {
        let mut counts = vec![usize::from(script.byte() % 4)];
        (0..script.byte() % 3).for_each(|_| counts.push(usize::from(script.byte() % 4)));
        if counts.iter().all(|count| *count == 0) {
            counts[0] = 1;
        }
        let sizing = Sizing {
            idle: script.pick(&[0, 1, 2, usize::MAX]),
            load: script.pick(&[2, 1, 3, usize::MAX]),
            grow_after: script.pick(&[100 * MS, Duration::ZERO, MS, 100 * YEAR, Duration::MAX]),
            shrink_after: script.pick(&[10 * SEC, Duration::ZERO, MS, 100 * YEAR, Duration::MAX]),
            max_calls: script.pick(&[None, Some(1), Some(3), Some(8), Some(u64::MAX)]),
            max_age: script.pick(&[None, Some(Duration::ZERO), Some(SEC), Some(Duration::MAX)]),
            queue_calls: script.pick(&[usize::MAX, 1, 5]),
            queue_bytes: script.pick(&[usize::MAX, 0, 100]),
        };
        let slots = counts.iter().enumerate();
        let now = Instant::now();
        let none = Failures {
            least: 0,
            most: 0,
            since: None,
            retry: (now, now),
            worked: None,
            wasted: None,
        };
        Model {
            scheduler: Scheduler::new(sizing.clone(), &counts, script.byte().into()),
            sizing,
            slots: slots
                .flat_map(|(source, count)| vec![source; *count])
                .collect(),
            failures: vec![none; counts.len()],
            start: now,
            now,
            calls: Vec::new(),
            waiting: Vec::new(),
            kids: Vec::new(),
            sends: 0,
            generation: 0,
            grows_from: None,
            missed: false,
            begun: false,
            last_shrink: None,
            closing: false,
            drained: false,
            settled: false,
        }
    }

    // ---- what happens ----

    fn step(&mut self, script: &mut Script<'_>) {
        let operation = script.byte() % 32;
        let settled = std::mem::take(&mut self.settled);
        let deadline = self.scheduler.deadline();
        let sent = self.sends;
        let kid = match self.kids.len() {
            0 => None,
            count => Some(usize::from(script.byte()) % count),
        };
        match (operation, kid) {
            (0..8, _) => self.call(script),
            (8..12, Some(kid)) => self.ready(kid),
            (12..17, Some(kid)) => self.answer(kid, script),
            (17..19, Some(kid)) => self.die(kid, script),
            (19, Some(kid)) => self.retire(kid),
            (20, Some(kid)) => {
                self.kids[kid].outgrown = true;
                self.scheduler.outgrown(self.kids[kid].id);
            }
            (21, Some(kid)) => self.unsent(kid),
            (22, Some(kid)) if self.kids[kid].told => {
                self.exit(kid, script.byte().is_multiple_of(2))
            }
            (23, _) => self.cancel(script.byte().into()),
            (24, _) => self.everywhere(),
            (25, _) => {
                self.scheduler.restart();
                self.generation += 1;
            }
            (26, _) => self.end_a_sent_call(script.byte().into()),
            (27, _) if script.byte().is_multiple_of(16) => {
                self.scheduler.close();
                self.closing = true;
            }
            (28, _) if script.byte().is_multiple_of(32) => self.drain(),
            (29, _) => {
                let unit = script.pick(&[NS, MS, 10 * MS, SEC, 60 * SEC, YEAR]);
                self.jump(unit * script.byte().into());
            }
            (30 | 31, _) => {
                let unit = script.pick(&[MS, 10 * MS, SEC, 60 * SEC]);
                self.pass(unit * script.byte().into());
            }
            _ => {}
        }
        self.check();
        // After some things, nobody looks what there is to do.
        let is_placed = operation < 8 && self.sends > sent;
        let is_calm = (12..17).contains(&operation)
            && !self.closing
            && self.waiting.is_empty()
            && self.kids.iter().all(|kid| !self.scheduler.is_due(kid.id));
        if settled && (is_placed || is_calm) {
            let idle = self.scheduler.idle_deadline().filter(|_| is_calm);
            // What time has made forgotten is noticed when somebody looks.
            let failures = self.failures.clone();
            self.forgive();
            if idle.is_none_or(|at| at > self.now) && failures == self.failures {
                assert!(!self.settle(), "somebody should have looked");
                let by = deadline.into_iter().chain(idle).min();
                let due = self.scheduler.deadline();
                assert!(
                    due.is_none_or(|due| by.is_some_and(|by| by <= due)),
                    "it will be late"
                );
            }
        }
    }

    fn call(&mut self, script: &mut Script<'_>) {
        let flags = script.byte();
        let bytes = script.pick(&[0, 10, 60, 1000]);
        let room = self.has_room(bytes);
        assert_eq!(self.scheduler.has_room(bytes), room);
        if self.closing || !room {
            return;
        }
        let timeout = script.pick(&[None, None, Some(MS), Some(SEC), Some(Duration::ZERO)]);
        let want = Want {
            key: (flags & 3 == 0).then_some(u64::from(flags >> 5)),
            urgent: flags & 0xc == 0,
            alone: flags & 0x10 == 0 && flags & 0xc != 0xc,
            deadline: timeout.map(|timeout| self.now + timeout),
            bytes,
        };
        let ticket = self.scheduler.ticket();
        let call = self.calls.len();
        let new = Waits {
            call,
            ticket,
            want,
            since: self.now,
        };
        self.calls.push(Made {
            as_waiting: new,
            ended: false,
        });
        let expected = self.child_for(&new);
        match self.scheduler.place(&want, self.now) {
            Some(child) => {
                assert_eq!(Some(child), expected.map(|kid| self.kids[kid].id));
                self.sent(child, call);
            }
            None => {
                let is_free = self.waiting.is_empty() && expected.is_some();
                let may_wait = self.sizing.idle > 0 || want.key.is_some();
                assert!(!is_free || may_wait, "it has to wait");
                self.enqueue(new);
            }
        }
    }

    fn enqueue(&mut self, new: Waits) {
        self.scheduler
            .enqueue(new.ticket, new.want, new.call, new.since);
        let at = self.waiting.partition_point(|it| it.ticket < new.ticket);
        self.waiting.insert(at, new);
    }

    fn ready(&mut self, kid: usize) {
        self.scheduler.ready(self.kids[kid].id, self.now);
        let Kid { slot, stage, .. } = self.kids[kid];
        if stage == Stage::Starting {
            let before = self.kids.iter_mut();
            before
                .filter(|it| it.slot == slot && it.stage == Stage::Serving)
                .for_each(|it| it.stage = Stage::Leaving);
            let kid = &mut self.kids[kid];
            (kid.stage, kid.ready_at) = (Stage::Serving, Some(self.now));
            kid.idle_since = self.now;
        }
    }

    /// Some calls end, and that is reported, now or later.
    fn answer(&mut self, kid: usize, script: &mut Script<'_>) {
        let how = script.byte();
        let kid = &mut self.kids[kid];
        if kid.stage == Stage::Starting {
            return;
        }
        for n in 0..how % 4 {
            if !kid.calls.is_empty() {
                let call = kid
                    .calls
                    .remove(usize::from(how / 16 + n) % kid.calls.len());
                kid.ended += 1;
                call.into_iter().for_each(|call| end(&mut self.calls, call));
            }
        }
        if how & 8 == 0 {
            let is_news = kid.ended > kid.reported;
            let (id, ended) = (kid.id, kid.ended);
            assert_eq!(self.scheduler.freed(id, ended, self.now), is_news);
            assert!(!self.scheduler.freed(id, ended / 2, self.now));
            kid.reported = kid.ended;
            if is_news {
                kid.look_idle(self.now);
            }
        }
    }

    /// Calls that a child has begun end with it, and the others come back.
    fn die(&mut self, kid: usize, script: &mut Script<'_>) {
        let how = script.byte();
        let begun = usize::from(how % 4);
        let blamed = begun > 0 && !self.kids[kid].calls.is_empty();
        let calls = std::mem::take(&mut self.kids[kid].calls);
        // As if they had ended, as long as it is there.
        self.kids[kid].ended += calls.len() as u64;
        if self.kids[kid].stage != Stage::Starting {
            self.scheduler.lost(self.kids[kid].id);
            self.kids[kid].stage = Stage::Leaving;
            self.kids[kid].lost = true;
        }
        for (n, call) in calls.into_iter().enumerate() {
            let Some(call) = call else { continue };
            let made = &mut self.calls[call];
            if made.ended {
                continue;
            }
            made.as_waiting.want.alone |= n < begun;
            let waits = made.as_waiting;
            match self.drained || (n < begun && how & 4 == 0) {
                true => end(&mut self.calls, call),
                false => self.enqueue(waits),
            }
        }
        if how & 16 == 0 {
            self.settle();
        }
        // Not in the same instant in which it was started.
        self.now += NS;
        let id = self.kids[kid].id;
        let error = id.0;
        self.died(kid, End::Died { error, blamed });
    }

    fn exit(&mut self, kid: usize, cleanly: bool) {
        if !self.kids[kid].calls.is_empty() {
            return;
        }
        let end = match cleanly {
            true => End::Wanted,
            false => End::Died {
                error: self.kids[kid].id.0,
                blamed: false,
            },
        };
        self.died(kid, end);
    }

    fn died(&mut self, kid: usize, end: End<u64>) {
        self.settled = false;
        self.forgive();
        let kid = self.kids.remove(kid);
        let is_crash = matches!(end, End::Died { .. }) && !kid.told;
        let blamed = matches!(end, End::Died { blamed: true, .. });
        self.scheduler.died(kid.id, end, self.now);
        let source = self.slots[kid.slot];
        if kid.reported > 0 {
            let failures = &mut self.failures[source];
            failures.worked = failures.worked.max(Some(kid.since));
        }
        if !is_crash {
            return;
        }
        let has_failed = match kid.ready_at {
            None => true,
            Some(ready_at) if kid.reported == 0 && !blamed => {
                self.is_start_in_vain(source, kid.since, ready_at)
            }
            Some(_) => false,
        };
        if has_failed {
            self.failures[source].failed(kid.since, self.now);
        }
        self.missed |= !self.waiting.is_empty() && self.is_free(kid.slot);
    }

    /// Whether the idle end of a child that has ended no call is a failed start.
    fn is_start_in_vain(&mut self, source: usize, since: Instant, ready_at: Instant) -> bool {
        let kids = self.kids.iter();
        let kids = kids.filter(|kid| kid.reported > 0 && self.slots[kid.slot] == source);
        let working = kids.map(|kid| Some(kid.since)).max().flatten();
        let failures = &mut self.failures[source];
        let Some(before) = failures.wasted.replace(since) else {
            let has_worked = working.is_some() || failures.worked.is_some();
            return !has_worked && self.now < ready_at + SETTLED;
        };
        if since <= before {
            failures.wasted = Some(before);
            return false;
        }
        let worked = working.max(failures.worked);
        worked.is_none_or(|at| at <= before) && self.now < ready_at + SETTLED
    }

    fn retire(&mut self, kid: usize) {
        self.forgive();
        let id = self.kids[kid].id;
        self.scheduler.retires(id, id.0, self.now);
        let kid = &mut self.kids[kid];
        let serves = std::mem::replace(&mut kid.stage, Stage::Leaving) == Stage::Serving;
        let (source, since) = (self.slots[kid.slot], kid.since);
        if let Some(ready_at) = kid.ready_at
            && serves
            && kid.reported == 0
            && kid.in_flight() == 0
            && self.is_start_in_vain(source, since, ready_at)
        {
            self.failures[source].failed(since, self.now);
        }
    }

    /// The last call that was sent was not taken.
    fn unsent(&mut self, kid: usize) {
        let kid = &mut self.kids[kid];
        if let Some(call) = kid.calls.pop() {
            self.scheduler.unsent(kid.id, self.now);
            kid.look_idle(self.now);
            call.into_iter().for_each(|call| end(&mut self.calls, call));
        }
    }

    /// Nobody waits for a call any more that waits.
    fn cancel(&mut self, which: usize) {
        if self.waiting.is_empty() {
            return assert!(self.scheduler.withdraw(Ticket(1)).is_none());
        }
        let waits = self.waiting.remove(which % self.waiting.len());
        let entry = self.scheduler.withdraw(waits.ticket);
        assert_eq!(entry.map(|entry| entry.call), Some(waits.call));
        assert!(self.scheduler.withdraw(waits.ticket).is_none());
        end(&mut self.calls, waits.call);
    }

    /// A call that was sent is cancelled, or times out: its child still has it.
    fn end_a_sent_call(&mut self, which: usize) {
        let sent = self.kids.iter_mut().flat_map(|kid| &mut kid.calls);
        let mut sent: Vec<_> = sent.filter(|call| call.is_some()).collect();
        if !sent.is_empty() {
            let which = which % sent.len();
            let call = sent.swap_remove(which).take();
            call.into_iter().for_each(|call| end(&mut self.calls, call));
        }
    }

    fn everywhere(&mut self) {
        for kid in &mut self.kids {
            let takes = kid.stage != Stage::Leaving;
            assert_eq!(self.scheduler.send_to(kid.id, self.now), takes);
            if takes {
                kid.calls.push(None);
                self.sends += 1;
                kid.used = self.sends;
            }
        }
    }

    fn drain(&mut self) {
        (self.closing, self.drained) = (true, true);
        while let Some(entry) = self.scheduler.drain() {
            self.take_out(entry.call);
            end(&mut self.calls, entry.call);
        }
        assert!(self.waiting.is_empty());
        for kid in &mut self.kids {
            (kid.stage, kid.told) = (Stage::Leaving, true);
        }
    }

    // ---- time ----

    /// Time passes, and nobody does what is due.
    fn jump(&mut self, time: Duration) {
        self.now = (self.now + time).min(self.now.max(self.start + END));
    }

    /// Time passes, and what is due is done in time.
    fn pass(&mut self, time: Duration) {
        self.settle();
        let end = self.now + time;
        for _ in 0..100 {
            let due = self.scheduler.deadline().filter(|at| *at <= end);
            let before = due.map_or(end, |at| at - NS);
            // A child that is well may allow others to be started before that is due.
            let mut kids = self.kids.iter().filter(|kid| kid.ready_at.is_some());
            let forgives = kids.any(|kid| self.failures[self.slots[kid.slot]].most > 0);
            if before > self.now && !forgives {
                self.now = before;
                assert!(!self.settle(), "before it is due");
            }
            let Some(at) = due else {
                self.now = end;
                break;
            };
            self.now = at;
            assert!(self.settle(), "nothing is due");
        }
    }

    // ---- what is done ----

    /// Has done what there is to do. Returns whether there was something.
    fn settle(&mut self) -> bool {
        let mut done = false;
        loop {
            let due = self.waiting.iter();
            let due = due.filter_map(|it| Some((it.want.deadline?, it.ticket, it.call)));
            let first = due.filter(|(at, ..)| *at <= self.now).min();
            let expired = self.scheduler.expire(self.now).map(|entry| entry.call);
            assert_eq!(expired, first.map(|(.., call)| call));
            let Some(call) = expired else { break };
            self.take_out(call);
            end(&mut self.calls, call);
            done = true;
        }
        loop {
            let expected = self.next();
            let next = self.scheduler.next(self.now);
            let next = next.map(|(child, entry)| (child, entry.call));
            assert_eq!(next, expected);
            let Some((child, call)) = next else { break };
            self.take_out(call);
            self.sent(child, call);
            done = true;
        }
        self.forgive();
        while let Some(action) = self.scheduler.act(self.now) {
            match action {
                Action::Start { child, source } => self.started(child, source),
                Action::Stop(child) => self.stopped(child),
                Action::Fail(entry, error) => self.failed(entry.call, error),
            }
            done = true;
        }
        self.settled();
        done
    }

    fn started(&mut self, child: ChildId, source: usize) {
        let new = self.scheduler.children().last().expect("it is there");
        assert_eq!((new.id, new.stage), (child, Stage::Starting));
        assert_eq!(child.0, self.scheduler.started());
        let slot = new.slot;
        assert_eq!(self.slots[slot], source);
        assert!(self.in_slot(slot).count() < 2, "more and more");
        let failures = self.failures[source];
        assert!(self.now >= failures.retry.0, "it was not put off");
        assert!(
            failures.least < 3 || !self.is_starting(source),
            "two at a time"
        );
        if self.serves(slot) {
            assert!(!self.closing && !self.is_renewing());
            let due = self.in_slot(slot).any(|kid| self.is_due(kid, 3));
            assert!(due, "nobody needs a successor");
        } else {
            assert!(self.is_free(slot));
            let is_keyed = |it: &Waits| self.slot_of(&it.want) == Some(slot);
            if !self.waiting.iter().any(is_keyed) {
                assert!(self.needs_more(), "nobody needs it");
                assert!(self.may_grow(), "too early");
                (self.grows_from, self.missed) = (Some(self.now), false);
            }
        }
        self.kids.push(Kid {
            id: child,
            slot,
            stage: Stage::Starting,
            told: false,
            lost: false,
            generation: self.generation,
            since: self.now,
            ready_at: None,
            calls: Vec::new(),
            ended: 0,
            reported: 0,
            taken: false,
            used: 0,
            idle_since: self.now,
            outgrown: false,
        });
    }

    fn stopped(&mut self, child: ChildId) {
        let at = self.find(child);
        let kid = &self.kids[at];
        assert!(kid.is_idle() && !kid.told && !kid.lost);
        let is_closed = self.closing && self.waiting.is_empty();
        if self.kids[at].stage != Stage::Leaving && !is_closed {
            let last = self.spare().expect("there is one too many");
            assert_eq!(last, at, "another one was used less recently");
            assert!(self.shrinks_at(at).is_some_and(|at| at <= self.now));
            self.last_shrink = Some(self.now);
        }
        let kid = &mut self.kids[at];
        (kid.stage, kid.told) = (Stage::Leaving, true);
    }

    fn failed(&mut self, call: usize, error: u64) {
        let waits = self.take_out(call);
        assert!(error > 0 && error <= self.scheduler.started());
        let turn = turn(&waits);
        let slot = self.slot_of(&waits.want);
        let before = |it: &&Waits| self.slot_of(&it.want) == slot && self::turn(it) < turn;
        assert!(
            !self.waiting.iter().any(|it| before(&it)),
            "another is first"
        );
        let is_broken = |source: usize| {
            let failures = self.failures[source];
            failures.most >= 3 && self.now < failures.retry.1
        };
        match slot {
            Some(slot) => assert!(self.is_free(slot) && is_broken(self.slots[slot])),
            None => {
                assert!(self.kids.iter().all(|kid| kid.stage == Stage::Leaving));
                assert!(self.slots.iter().all(|source| is_broken(*source)));
            }
        }
        end(&mut self.calls, call);
    }

    /// Everything was done that there is to do.
    fn settled(&mut self) {
        if self.needs_more() {
            // What could not be done at once is still to be.
            self.missed = self.may_grow();
            self.grows_from.get_or_insert(self.now);
        } else {
            (self.grows_from, self.missed, self.begun) = (None, false, true);
        }
        self.begun |= !self.lacks_idle();
        self.settled = true;
        let deadline = self.scheduler.deadline();
        assert!(deadline.is_none_or(|at| at > self.now), "it spins");
        assert!(self.next().is_none());
        for kid in &self.kids {
            let is_over = kid.stage == Stage::Leaving || self.closing && self.waiting.is_empty();
            let is_asked = kid.told || kid.lost;
            assert!(!is_over || !kid.is_idle() || is_asked, "it stays for ever");
        }
        if let Some(last) = self.spare() {
            assert!(self.shrinks_at(last).is_none_or(|at| at > self.now));
        }
        if !self.closing && !self.is_renewing() {
            let is_due = |kid: &Kid| self.is_due(kid, 5) && self.is_startable(kid.slot);
            assert!(!self.kids.iter().any(is_due), "it is not renewed");
        }
        let mut free = (0..self.slots.len()).filter(|slot| self.is_free(*slot));
        if self.needs_more() && self.may_grow() {
            assert!(
                !free.any(|slot| self.is_startable(slot)),
                "it does not grow"
            );
        }
        let none = self.kids.iter().all(|kid| kid.stage == Stage::Leaving);
        for waits in &self.waiting {
            if let Some(slot) = self.slot_of(&waits.want) {
                let is_free = self.is_free(slot);
                assert!(
                    !is_free || !self.is_startable(slot),
                    "it waits for no child"
                );
                assert!(
                    !is_free || !self.is_broken(self.slots[slot]),
                    "it waits in vain"
                );
            } else if none {
                let in_vain = self.slots.iter().all(|source| self.is_broken(*source));
                assert!(!in_vain, "it waits in vain");
            }
        }
    }

    /// Whether nothing keeps a child from being started here, for sure.
    fn is_startable(&self, slot: usize) -> bool {
        let source = self.slots[slot];
        let failures = self.failures[source];
        self.in_slot(slot).count() < 2
            && self.now >= failures.retry.1
            && (failures.most < 3 || !self.is_starting(source))
    }

    fn is_starting(&self, source: usize) -> bool {
        let starts = |kid: &Kid| kid.stage == Stage::Starting && self.slots[kid.slot] == source;
        self.kids.iter().any(starts)
    }

    /// Whether no child can be started, for sure.
    fn is_broken(&self, source: usize) -> bool {
        let failures = self.failures[source];
        failures.least >= 3 && self.now < failures.retry.0
    }

    // ---- rules ----

    /// Where a call would be sent now, if all before it stay where they are.
    fn child_for(&self, call: &Waits) -> Option<usize> {
        let slot = self.slot_of(&call.want);
        let before = |it: &&Waits| turn(it) < turn(call);
        let before: Vec<_> = self.waiting.iter().filter(before).collect();
        if before.iter().any(|it| self.slot_of(&it.want) == slot) {
            return None;
        }
        let unkeyed = before.iter().filter(|it| it.want.key.is_none());
        let first = unkeyed.min_by_key(|it| turn(it));
        if slot.is_some() && first.is_some_and(|it| it.want.alone) {
            return None;
        }
        let room = if call.want.alone {
            1
        } else {
            self.sizing.load as u64
        };
        let kids = self.kids.iter().enumerate().filter(|(_, kid)| {
            let promised = before
                .iter()
                .any(|it| self.slot_of(&it.want) == Some(kid.slot));
            kid.stage == Stage::Serving
                && !kid.taken
                && kid.in_flight() < room
                && slot.is_none_or(|slot| slot == kid.slot)
                && !(slot.is_none() && promised)
        });
        let best = kids.min_by_key(|(_, kid)| (kid.in_flight(), u64::MAX - kid.used));
        best.map(|(at, _)| at)
    }

    /// Which call is sent next.
    fn next(&self) -> Option<(ChildId, usize)> {
        let mut all: Vec<_> = self.waiting.iter().collect();
        all.sort_by_key(|it| turn(it));
        let mut able = all.into_iter().filter_map(|it| {
            let kid = self.child_for(it)?;
            Some((self.kids[kid].id, it.call))
        });
        able.next()
    }

    /// Whether another child is needed, and there may be one.
    fn needs_more(&self) -> bool {
        let unkeyed = self.waiting.iter().filter(|it| it.want.key.is_none());
        let starting = self.starting().count();
        let is_full = unkeyed.count() > starting.saturating_mul(self.sizing.load);
        (is_full || self.lacks_idle()) && self.members() < self.slots.len()
    }

    fn lacks_idle(&self) -> bool {
        let idle = self.serving().filter(|kid| kid.is_idle());
        !self.closing && idle.count() + self.starting().count() < self.sizing.idle
    }

    fn may_grow(&self) -> bool {
        let grow_after = self.sizing.grow_after;
        let waited = self
            .grows_from
            .and_then(|from| from.checked_add(grow_after));
        let is_first = self.members() == 0 && self.waiting.iter().any(|it| it.want.key.is_none());
        waited.is_some_and(|at| at <= self.now)
            || grow_after.is_zero()
            || self.missed
            || is_first
            || (self.lacks_idle() && !self.begun)
    }

    /// Of more idle children than there are to be, that which was used least recently.
    fn spare(&self) -> Option<usize> {
        let idle = self.kids.iter().enumerate();
        let idle = idle.filter(|(_, kid)| kid.stage == Stage::Serving && kid.is_idle());
        let count = idle.clone().count();
        let last = idle.min_by_key(|(_, kid)| (kid.used, kid.idle_since))?.0;
        (count > self.sizing.idle).then_some(last)
    }

    fn shrinks_at(&self, kid: usize) -> Option<Instant> {
        let after = |at: Instant| at.checked_add(self.sizing.shrink_after);
        let idle = after(self.kids[kid].idle_since)?;
        let last = self.last_shrink.map_or(Some(idle), after)?;
        Some(idle.max(last))
    }

    /// Whether a child is to be replaced, if its random limits are this many quarters of the options.
    fn is_due(&self, kid: &Kid, quarters: u32) -> bool {
        let calls = self.sizing.max_calls.map(|calls| match quarters {
            3 => calls - calls / 4,
            _ => calls.saturating_add(calls / 4),
        });
        // Longer ones are that long.
        let most = Duration::from_nanos(u64::MAX);
        let age = self.sizing.max_age.map(|age| age.min(most) / 4 * quarters);
        let ready_at = kid.ready_at.filter(|_| kid.stage == Stage::Serving);
        ready_at.is_some_and(|at| {
            kid.outgrown
                || kid.generation < self.generation
                || calls.is_some_and(|calls| kid.reported >= calls)
                || age.is_some_and(|age| self.now - at >= age)
        })
    }

    fn has_room(&self, bytes: usize) -> bool {
        let queued: usize = self.waiting.iter().map(|it| it.want.bytes).sum();
        let in_flight: u64 = self.kids.iter().map(Kid::in_flight).sum();
        in_flight as usize + self.waiting.len() < self.sizing.queue_calls
            && (queued == 0 || queued + bytes <= self.sizing.queue_bytes)
    }

    /// A child that was well for long makes its source forget.
    fn forgive(&mut self) {
        for kid in &self.kids {
            let failures = &mut self.failures[self.slots[kid.slot]];
            let well = |retry: Instant| {
                let since = kid.ready_at.map(|at| at.max(retry));
                since.is_some_and(|at| self.now.saturating_duration_since(at) >= HEALTHY)
            };
            if well(failures.retry.1) {
                (failures.most, failures.since) = (0, None);
            }
            if well(failures.retry.0) {
                failures.least = 0;
            }
        }
    }

    // ---- helpers ----

    fn sent(&mut self, child: ChildId, call: usize) {
        let at = self.find(child);
        let kid = &mut self.kids[at];
        kid.calls.push(Some(call));
        kid.taken |= self.calls[call].as_waiting.want.alone;
        self.sends += 1;
        kid.used = self.sends;
    }

    fn take_out(&mut self, call: usize) -> Waits {
        let at = self.waiting.iter().position(|it| it.call == call);
        self.waiting.remove(at.expect("it waits"))
    }

    fn find(&self, child: ChildId) -> usize {
        let at = self.kids.iter().position(|kid| kid.id == child);
        at.expect("it is there")
    }

    fn slot_of(&self, want: &Want) -> Option<usize> {
        want.key.map(|key| self.scheduler.slot_of(key))
    }

    fn in_slot(&self, slot: usize) -> impl Iterator<Item = &Kid> {
        self.kids.iter().filter(move |kid| kid.slot == slot)
    }

    fn serves(&self, slot: usize) -> bool {
        self.in_slot(slot).any(|kid| kid.stage == Stage::Serving)
    }

    fn is_free(&self, slot: usize) -> bool {
        self.in_slot(slot).all(|kid| kid.stage == Stage::Leaving)
    }

    fn serving(&self) -> impl Iterator<Item = &Kid> {
        self.kids.iter().filter(|kid| kid.stage == Stage::Serving)
    }

    /// Those that succeed no other.
    fn starting(&self) -> impl Iterator<Item = &Kid> {
        let starting = self.kids.iter().filter(|kid| kid.stage == Stage::Starting);
        starting.filter(|kid| !self.serves(kid.slot))
    }

    fn members(&self) -> usize {
        self.serving().count() + self.starting().count()
    }

    fn is_renewing(&self) -> bool {
        let mut kids = self.kids.iter();
        kids.any(|kid| kid.stage == Stage::Starting && self.serves(kid.slot))
    }

    /// What the scheduler says of itself.
    fn check(&self) {
        let seen = |kid: &Child| {
            (
                kid.id,
                kid.slot,
                kid.stage,
                kid.ended,
                kid.in_flight(),
                kid.is_told(),
            )
        };
        let expected = |kid: &Kid| {
            (
                kid.id,
                kid.slot,
                kid.stage,
                kid.reported,
                kid.in_flight(),
                kid.told,
            )
        };
        let children = self.scheduler.children();
        assert!(children.iter().map(seen).eq(self.kids.iter().map(expected)));
        assert_eq!(self.scheduler.waiting(), self.waiting.len());
        let queued = self.waiting.iter().map(|it| it.want.bytes);
        assert_eq!(self.scheduler.waiting_bytes(), queued.sum::<usize>());
        let oldest = self.waiting.iter().map(|it| it.since).min();
        assert_eq!(self.scheduler.oldest(), oldest);
        let is_over = self.closing && self.kids.is_empty() && self.waiting.is_empty();
        assert_eq!(self.scheduler.is_over(), is_over);
        assert!(self.members() <= self.slots.len());
    }

    /// All calls are answered, and idle children stopped; then the pool is closed, and ends.
    fn finish(mut self) {
        self.settle();
        let is_quick = self.sizing.shrink_after <= 10 * SEC && self.sizing.max_age.is_none();
        for _ in 0..200 {
            self.obey();
            if self.waiting.is_empty() && !is_quick {
                break;
            }
            self.pass(60 * SEC);
        }
        assert!(self.waiting.is_empty(), "{} calls wait", self.waiting.len());
        if is_quick && !self.closing {
            let count = self.kids.iter().filter(|kid| !kid.told).count();
            let idle = self.sizing.idle.min(self.slots.len());
            assert!(count <= idle, "{count} children are left of {idle}");
        }
        self.scheduler.close();
        self.closing = true;
        for _ in 0..4 {
            self.settle();
            self.obey();
        }
        self.check();
        assert!(
            self.scheduler.is_over(),
            "{} children are left",
            self.kids.len()
        );
        assert!(self.scheduler.deadline().is_none());
        assert!(self.calls.iter().all(|call| call.ended), "a call is lost");
    }

    /// Children get ready, answer, and exit if they were told.
    fn obey(&mut self) {
        for kid in (0..self.kids.len()).rev() {
            self.ready(kid);
            while !self.kids[kid].calls.is_empty() || self.kids[kid].ended > self.kids[kid].reported
            {
                self.answer(kid, &mut Script(&[3]));
                if self.kids[kid].stage == Stage::Starting {
                    break;
                }
            }
            if self.kids[kid].told {
                self.exit(kid, true);
            }
        }
    }
}

impl Failures {
    /// A child that was started `since` then has failed.
    fn failed(&mut self, since: Instant, now: Instant) {
        let is_known = self.since.is_some_and(|last| since <= last);
        if is_known && self.least > 0 {
            return;
        }
        let wait = |before: u32| match before {
            0 => Duration::ZERO,
            _ => (100 * MS * (1 << (before - 1).min(16))).min(30 * SEC),
        };
        let (least, most) = (
            now + wait(self.least) / 4 * 3,
            now + wait(self.most) / 4 * 5 + MS,
        );
        if is_known {
            // Unless the others are forgotten.
            self.least = 1;
            self.retry = (self.retry.0.min(least), self.retry.1.max(least));
            return;
        }
        (self.least, self.most) = (self.least + 1, self.most + 1);
        self.since = Some(since);
        self.retry = (least, most);
    }
}

/// The order in which calls are sent.
fn turn(waits: &Waits) -> (bool, Ticket) {
    (!waits.want.urgent, waits.ticket)
}

fn end(calls: &mut [Made], call: usize) {
    assert!(!calls[call].ended, "a call ends twice");
    calls[call].ended = true;
}

#[cfg(test)]
mod tests {
    #[test]
    fn random_scripts_pass() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for len in 0..3000 {
            let script: Vec<_> = (0..len % 700)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state >> 33) as u8
                })
                .collect();
            super::pool(&script);
        }
    }
}

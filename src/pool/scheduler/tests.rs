//! A pool in which each step says what is done because of it:
//!
//! | | |
//! |---|---|
//! | `+1` | child 1 is started; `+1@0` if there are several sources |
//! | `a:1` | the call a is sent to child 1 |
//! | `-1` | child 1 is to exit |
//! | `a!no` | the call a fails with the error `no` |
//! | `a?` | the call a has waited too long |
//!
//! Time passes from one deadline to the next: there must be nothing to do before each, and something at it.

mod calls;
mod ending;
mod failures;
mod renewal;
mod sizing;

use super::*;
use std::collections::BTreeMap;

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);
const NS: Duration = Duration::from_nanos(1);
const HOUR: Duration = Duration::from_secs(3600);

/// See the module's documentation.
struct Pool {
    scheduler: Scheduler<char, &'static str>,
    sources: usize,
    start: Instant,
    now: Instant,
    /// All calls there ever were.
    calls: BTreeMap<char, (Ticket, Want)>,
}

/// One source, each child takes one call.
fn pool(max: usize) -> Pool {
    pool_with(max, |_| {})
}

fn pool_with(max: usize, set: impl FnOnce(&mut Sizing)) -> Pool {
    pool_of(&[max], set)
}

fn pool_of(slots: &[usize], set: impl FnOnce(&mut Sizing)) -> Pool {
    let mut sizing = Sizing {
        load: 1,
        ..Sizing::default()
    };
    set(&mut sizing);
    let now = Instant::now();
    Pool {
        scheduler: Scheduler::new(sizing, slots, 1),
        sources: slots.len(),
        start: now,
        now,
        calls: BTreeMap::new(),
    }
}

impl Pool {
    /// A pool with so many children that serve, which is there for the first time.
    fn serving(mut self, children: u64) -> Self {
        let idle = std::mem::replace(&mut self.scheduler.sizing.idle, children as usize);
        self.run();
        (1..=children).for_each(|child| drop(self.ready(child)));
        self.scheduler.sizing.idle = idle;
        self
    }

    fn call(&mut self, name: char) -> String {
        self.call_with(name, Want::default())
    }

    fn keyed(&mut self, name: char, key: u64) -> String {
        let key = Some(key);
        self.call_with(
            name,
            Want {
                key,
                ..Want::default()
            },
        )
    }

    fn urgent(&mut self, name: char) -> String {
        self.call_with(
            name,
            Want {
                urgent: true,
                ..Want::default()
            },
        )
    }

    fn alone(&mut self, name: char) -> String {
        self.call_with(
            name,
            Want {
                alone: true,
                ..Want::default()
            },
        )
    }

    fn timed(&mut self, name: char, timeout: Duration) -> String {
        let deadline = Some(self.now + timeout);
        self.call_with(
            name,
            Want {
                deadline,
                ..Want::default()
            },
        )
    }

    fn call_with(&mut self, name: char, want: Want) -> String {
        let ticket = self.scheduler.ticket();
        self.calls.insert(name, (ticket, want));
        let deadline = self.scheduler.deadline();
        if let Some(child) = self.scheduler.place(&want, self.now) {
            assert_eq!(self.run(), "", "nobody looks after that");
            let due = self.scheduler.deadline();
            assert!(due.is_none_or(|due| deadline.is_some_and(|at| at <= due)));
            return format!("{name}:{}", child.0);
        }
        self.scheduler.enqueue(ticket, want, name, self.now);
        self.run()
    }

    /// A call that was sent waits again.
    fn comes_back(&mut self, name: char) {
        let (ticket, want) = self.calls[&name];
        self.scheduler.enqueue(ticket, want, name, self.now);
    }

    fn cancel(&mut self, name: char) -> String {
        let (ticket, _) = self.calls[&name];
        let entry = self.scheduler.withdraw(ticket);
        assert_eq!(entry.map(|entry| entry.call), Some(name));
        self.run()
    }

    fn ready(&mut self, child: u64) -> String {
        self.scheduler.ready(ChildId(child), self.now);
        self.run()
    }

    /// A call of this child has ended.
    fn answer(&mut self, child: u64) -> String {
        let total = self.child(child).ended + 1;
        assert!(self.scheduler.freed(ChildId(child), total, self.now));
        self.run()
    }

    fn retire(&mut self, child: u64) -> String {
        self.scheduler.retires(ChildId(child), "no", self.now);
        self.run()
    }

    fn lose(&mut self, child: u64) -> String {
        self.scheduler.lost(ChildId(child));
        self.run()
    }

    fn outgrown(&mut self, child: u64) -> String {
        self.scheduler.outgrown(ChildId(child));
        self.run()
    }

    /// A child has ended as it was to.
    fn exit(&mut self, child: u64) -> String {
        self.scheduler.died(ChildId(child), End::Wanted, self.now);
        self.run()
    }

    /// A child cannot be started, or dies, and no call is to blame.
    fn fail(&mut self, child: u64) -> String {
        self.die(child, false)
    }

    /// One of its calls has killed it.
    fn crash(&mut self, child: u64) -> String {
        self.die(child, true)
    }

    fn die(&mut self, child: u64, blamed: bool) -> String {
        // Not in the same instant in which it was started.
        self.now += NS;
        let error = "no";
        let end = End::Died { error, blamed };
        self.scheduler.died(ChildId(child), end, self.now);
        self.run()
    }

    fn restart(&mut self) -> String {
        self.scheduler.restart();
        self.run()
    }

    fn close(&mut self) -> String {
        self.scheduler.close();
        self.run()
    }

    fn run(&mut self) -> String {
        let mut done = Vec::new();
        while let Some(entry) = self.scheduler.expire(self.now) {
            done.push(format!("{}?", entry.call));
        }
        while let Some((child, entry)) = self.scheduler.next(self.now) {
            done.push(format!("{}:{}", entry.call, child.0));
        }
        while let Some(action) = self.scheduler.act(self.now) {
            done.push(match action {
                Action::Start { child, source } if self.sources > 1 => {
                    format!("+{}@{source}", child.0)
                }
                Action::Start { child, .. } => format!("+{}", child.0),
                Action::Stop(child) => format!("-{}", child.0),
                Action::Fail(entry, error) => format!("{}!{error}", entry.call),
            });
        }
        let deadline = self.scheduler.deadline();
        assert!(deadline.is_none_or(|at| at > self.now), "it would spin");
        done.join(" ")
    }

    /// Time passes.
    fn pass(&mut self, time: Duration) -> String {
        let end = self.now + time;
        let mut done = Vec::new();
        while let Some(at) = self.scheduler.deadline().filter(|at| *at <= end) {
            self.now = at - NS;
            assert_eq!(self.run(), "", "before it is due");
            self.now = at;
            let due = self.run();
            assert!(!due.is_empty(), "nothing is due");
            done.push(due);
        }
        self.now = end;
        assert_eq!(self.run(), "", "nobody was told that it is due");
        done.join(" ")
    }

    /// How long it takes until something is due.
    fn due_in(&self) -> Option<Duration> {
        let at = self.scheduler.deadline()?;
        Some(at - self.now)
    }

    fn child(&self, child: u64) -> &Child {
        &self.scheduler.children[self.scheduler.find(ChildId(child)).expect("it is there")]
    }

    /// The children that are there.
    fn children(&self) -> Vec<u64> {
        let children = self.scheduler.children().iter();
        children.map(|child| child.id.0).collect()
    }

    /// A key whose calls go to this slot.
    fn key_of(&self, slot: usize) -> u64 {
        let mut keys = 0..;
        keys.find(|key| self.scheduler.slot_of(*key) == slot)
            .expect("each slot has some")
    }
}

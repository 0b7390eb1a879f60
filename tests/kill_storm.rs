//! Children killed at random moments under load.
//!
//! Looks for: a call that is both answered and lost, one that never ends, a timeout that races with
//! a reply or with the death, a process that is signalled after it was reaped, and anything left
//! behind. Runs for one second, or for `OFFSPRING_STORM_SECONDS`.

mod common;

use common::{Random, Storm, alone, children, eventually, logged, worker};
use offspring::{Reactor, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How the calls of a round ended.
#[derive(Default)]
struct Counts {
    answered: AtomicUsize,
    lost: AtomicUsize,
}

impl Counts {
    fn ended(&self) -> usize {
        self.answered.load(Ordering::Relaxed) + self.lost.load(Ordering::Relaxed)
    }

    fn count<T, E>(&self, outcome: &Result<T, E>) {
        let counter = if outcome.is_ok() {
            &self.answered
        } else {
            &self.lost
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn killed_children_lose_nothing_and_leave_nothing() {
    let me = worker().run_in_test();
    alone(move || {
        let me = me.stderr(Stdio::capture());
        let mut random = Random::new();
        let (mut rounds, mut calls, mut ended) = (0, 0, Vec::new());
        let storm = Storm::new(&me, "do");
        let mut reactor = Reactor::new().unwrap();
        let answered = |(counts, _): &(Arc<Counts>, usize)| counts.answered.load(Ordering::Relaxed);
        // A child may be killed before it has answered anything.
        while storm.continues(rounds) || ended.iter().map(answered).sum::<usize>() == 0 {
            if rounds % 10 == 0 {
                reactor = Reactor::new().unwrap();
            }
            let mut builder = me.rpc("do");
            if random.below(2) == 0 {
                builder = builder.reactor(&reactor);
            }
            if random.below(4) == 0 {
                builder = builder.max_queue(20, 100_000);
            }
            let (builder, log) = logged(builder);
            let rpc = builder.start().unwrap();
            let counts = Arc::new(Counts::default());
            let n = random.below(300);
            let kill_at = random.below(n + 1);
            let delay = random.below(20_000);
            let killer = random.below(5);
            let mut pending = Vec::new();
            for call in 0..n {
                if call == kill_at {
                    match killer {
                        0 => rpc.kill(),
                        1 => common::signal(rpc.pid().unwrap(), "KILL"),
                        2 => rpc.call("segv").then(|_| {}),
                        3 => rpc.call(["exit", "0"]).then(|_| {}),
                        // Not at all.
                        _ => {}
                    }
                }
                let size = match random.below(50) {
                    0 => 300_000,
                    _ => random.below(200),
                };
                let call = match random.below(3) {
                    0 => rpc.call([b"events".to_vec(), b"2".to_vec()]),
                    _ => rpc.call([b"echo".to_vec(), vec![7; size]]),
                };
                let call = match random.below(10) {
                    0 => call.timeout(Duration::from_micros(random.below(3000) as u64)),
                    _ => call,
                };
                match random.below(3) {
                    0 => pending.push(call.start()),
                    1 if random.below(20) == 0 => counts.count(&call.wait()),
                    _ => {
                        let counts = Arc::clone(&counts);
                        call.then(move |outcome| counts.count(&outcome));
                    }
                }
            }
            // A delay that is unrelated to what the child is doing.
            (0..delay).for_each(|_| std::hint::spin_loop());
            match random.below(4) {
                0 => drop(rpc),
                1 => {
                    rpc.kill();
                    drop(rpc);
                }
                2 => drop(rpc.finish_timeout(Duration::from_millis(random.below(5) as u64))),
                _ => drop(rpc.finish()),
            }
            for pending in pending {
                counts.count(&pending.wait());
            }
            log.end();
            // Calls made after the end are refused after it.
            eventually("all calls have ended", || counts.ended() >= n);
            ended.push((counts, n));
            assert_eq!(children(), [0u32; 0], "round {rounds}: zombies");
            rounds += 1;
            calls += n;
        }
        drop(reactor);
        for (counts, n) in &ended {
            assert_eq!(counts.ended(), *n, "all calls ended once");
        }
        let answers: usize = ended.iter().map(answered).sum();
        storm.assert_nothing_left();
        println!("{rounds} rounds, {calls} calls, {answers} of them answered");
    });
}

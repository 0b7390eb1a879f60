//! Children with many simultaneous calls, killed at random moments: `kill_storm.rs` for functions
//! that answer later, from timers and threads, mixed with cancellations, timeouts and progress.
//!
//! Looks for: a call that ends twice or never, progress after the outcome, a cancellation that
//! races with the answer or the death, a loop that misses an answer of another thread, and
//! anything left behind. Runs for one second, or for `OFFSPRING_STORM_SECONDS`.

mod common;

use common::{Random, Storm, alone, children, eventually, logged, obey};
use offspring::{Caller, Loop, Reactor, Stdio, Strings, Worker};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// The deferred function: `obey`, in the place that the request names.
fn later(request: Strings, caller: Caller, events: &Loop) {
    match &request[0] {
        b"timer" => {
            let delay = Duration::from_micros(request[1].len() as u64);
            events.after(delay, |_| answer(caller, request));
        }
        b"thread" => drop(thread::spawn(move || answer(caller, request))),
        b"offload" => events.offload(
            || request,
            move |request, _| {
                answer(caller, request);
            },
        ),
        // Only its cancellation, or the child's end, ends it.
        b"hold" => {
            let (cancellation, poster) = (caller.cancellation(), events.poster());
            cancellation.then(move || poster.post(|_| drop(caller)));
        }
        b"drop" => {}
        _ => answer(caller, request),
    }
}

fn answer(caller: Caller, request: Strings) {
    caller.progress("about to");
    let result = obey(request.iter().skip(1).collect(), &caller);
    caller.answer(result);
}

/// How a call ended.
#[derive(Default)]
struct End {
    ended: AtomicUsize,
    answered: AtomicUsize,
    late_progress: AtomicUsize,
}

#[test]
fn killed_children_lose_nothing_and_leave_nothing() {
    let me = Worker::new()
        .deferred("later", later)
        .threaded("threads", |request: Strings, caller: &Caller| {
            caller.progress("about to");
            obey(request.iter().skip(1).collect(), caller)
        })
        .threads(3)
        .high_water(50_000)
        .run_in_test();
    alone(move || {
        let me = me.stderr(Stdio::capture());
        let mut random = Random::new();
        let (mut rounds, mut calls) = (0, Vec::new());
        let storm = Storm::new(&me, "later");
        let mut reactor = Reactor::new().unwrap();
        let answered = |call: &Arc<End>| call.answered.load(Ordering::SeqCst);
        // A child may be killed before it has answered anything.
        while storm.continues(rounds) || calls.iter().map(answered).sum::<usize>() == 0 {
            if rounds % 10 == 0 {
                reactor = Reactor::new().unwrap();
            }
            let function = ["later", "threads"][random.below(2)];
            let mut builder = me.rpc(function);
            if random.below(2) == 0 {
                builder = builder.reactor(&reactor);
            }
            let (builder, log) = logged(builder);
            let rpc = builder.start().unwrap();
            let n = random.below(300);
            let (kill_at, killer) = (random.below(n + 1), random.below(5));
            let (delay, goodbye) = (random.below(20_000), random.below(4));
            let killed = (killer < 4 && kill_at < n) || matches!(goodbye, 1 | 2);
            let (mut pending, mut cancelled) = (Vec::new(), Vec::new());
            for call in 0..n {
                if call == kill_at {
                    match killer {
                        0 => rpc.kill(),
                        1 => common::signal(rpc.pid().unwrap(), "KILL"),
                        2 => rpc.call(["now", "segv"]).then(|_| {}),
                        3 => rpc.call(["now", "exit", "0"]).then(|_| {}),
                        // Not at all.
                        _ => {}
                    }
                }
                let how: &[u8] = match random.below(6) {
                    0 => b"timer",
                    1 => b"thread",
                    2 => b"offload",
                    3 if random.below(4) == 0 => b"drop",
                    _ => b"now",
                };
                let size = match random.below(50) {
                    0 => 300_000,
                    _ => random.below(200),
                };
                let request = match random.below(3) {
                    0 => vec![how.to_vec(), b"events".to_vec(), b"2".to_vec()],
                    1 => vec![how.to_vec(), b"panic".to_vec(), b"dear me".to_vec()],
                    _ => vec![how.to_vec(), b"echo".to_vec(), vec![7; size]],
                };
                // A call that is never answered needs something else that ends it.
                let held = random.below(20) == 0;
                let request = match held && function == "later" {
                    true => vec![b"hold".to_vec()],
                    false => request,
                };
                let end = Arc::new(End::default());
                let progressed = Arc::clone(&end);
                let mut call = rpc.call(request).on_progress(move |_| {
                    let ended = progressed.ended.load(Ordering::SeqCst);
                    progressed.late_progress.fetch_add(ended, Ordering::SeqCst);
                });
                let timeout = Duration::from_micros(random.below(3000) as u64);
                let times_out = random.below(10) == 0;
                if times_out || (held && !killed) {
                    call = call.timeout(timeout);
                }
                let finish = {
                    let end = Arc::clone(&end);
                    move |answered: bool| {
                        end.ended.fetch_add(1, Ordering::SeqCst);
                        end.answered
                            .fetch_add(usize::from(answered), Ordering::SeqCst);
                    }
                };
                match random.below(6) {
                    0 => cancelled.push(call.start()),
                    1 => drop(call.cancel_on_drop().start()),
                    2 => pending.push((call.start(), finish, Arc::clone(&end))),
                    _ => {
                        call.then(move |outcome| finish(outcome.is_ok()));
                        calls.push(end);
                    }
                }
                if random.below(10) == 0
                    && let Some(call) = cancelled.pop()
                {
                    call.cancel();
                }
            }
            // A delay that is unrelated to what the child is doing.
            (0..delay).for_each(|_| std::hint::spin_loop());
            cancelled.into_iter().for_each(offspring::Pending::cancel);
            match goodbye {
                0 => drop(rpc),
                1 => {
                    rpc.kill();
                    drop(rpc);
                }
                2 => drop(rpc.finish_timeout(Duration::from_millis(random.below(5) as u64))),
                _ => drop(rpc.finish()),
            }
            for (pending, finish, end) in pending {
                finish(pending.wait().is_ok());
                calls.push(end);
            }
            log.end();
            let all_ended = || {
                calls
                    .iter()
                    .all(|call| call.ended.load(Ordering::SeqCst) > 0)
            };
            eventually("all calls have ended", all_ended);
            assert_eq!(children(), [0u32; 0], "round {rounds}: zombies");
            rounds += 1;
        }
        drop(reactor);
        for call in &calls {
            assert_eq!(call.ended.load(Ordering::SeqCst), 1, "it ended once");
            assert_eq!(call.late_progress.load(Ordering::SeqCst), 0);
        }
        let answers: usize = calls.iter().map(answered).sum();
        storm.assert_nothing_left();
        println!(
            "{rounds} rounds, {} calls ended, {answers} of them answered",
            calls.len()
        );
    });
}

//! Pools whose children are killed, stopped, replaced and restarted at random moments under load.
//!
//! Looks for: a call that never ends or ends twice, one that is begun twice though it may not be, one that is
//! blamed though it had not begun, one that ends unbegun though children can be started, a pool that is stuck, and anything left behind. Runs for one second, or for
//! `OFFSPRING_STORM_SECONDS`.

mod common;

use common::{Random, Storm, alone, children, eventually};
use offspring::{CallError, ErrorKind, Phase, Pool, Process, Worker};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

fn worker() -> Worker {
    let run = |request: offspring::Strings, caller: &offspring::Caller| {
        let [what, number] = request.texts()?;
        // In order with the answer, and delivered before the death of this process is.
        caller.event(number);
        match what {
            "abort" => std::process::abort(),
            "exit" => std::process::exit(3),
            "fail" => Err("as told".into()),
            "sleep" => {
                thread::sleep(Duration::from_millis(3));
                Ok(number.to_owned())
            }
            _ => Ok(number.to_owned()),
        }
    };
    Worker::new()
        .function("run", move |request, caller| run(request, caller))
        .threaded("threaded", |request, caller| {
            let [what, number] = request.texts()?;
            caller.event(number);
            match what {
                "abort" => std::process::abort(),
                "fail" => Err("as told".into()),
                _ => Ok(number.to_owned()),
            }
        })
        .threads(3)
}

/// What is known of the calls of a round, by their numbers.
#[derive(Default)]
struct Calls {
    /// How often each was begun.
    begun: Mutex<HashMap<usize, usize>>,
    /// How each has ended.
    ended: Mutex<HashMap<usize, &'static str>>,
    answered: AtomicUsize,
}

impl Calls {
    fn end(&self, number: usize, outcome: Result<offspring::Strings, CallError>) {
        let how = match outcome {
            Ok(reply) => {
                assert_eq!(reply, [number.to_string()]);
                self.answered.fetch_add(1, Ordering::Relaxed);
                "answered"
            }
            Err(CallError::Failed(_)) => "failed",
            Err(CallError::Lost(_, Phase::Begun)) => "lost",
            // The whole pool is killed.
            Err(CallError::Lost(error, _)) if error.kind() == ErrorKind::Killed => "killed",
            // Only if no child can be started, as those that start are killed.
            Err(CallError::Lost(..)) => "unbegun",
            Err(CallError::TimedOut(_)) => "timed out",
            Err(CallError::Poison(_)) => "poison",
            Err(CallError::Refused(_)) => "refused",
            Err(error) => panic!("call {number}: {error}"),
        };
        let before = self.ended.lock().unwrap().insert(number, how);
        assert_eq!(before, None, "call {number} has ended twice");
    }
}

fn start(me: &Process, random: &mut Random, calls: &Arc<Calls>) -> Pool {
    let me = match random.below(4) {
        0 => me.clone().template(),
        _ => me.clone(),
    };
    let function = ["run", "threaded"][random.below(2)];
    let builder = me.pool(function).max(1 + random.below(4));
    let calls = Arc::clone(calls);
    random
        .options(builder)
        .on_event(move |_, number| {
            let number: usize = number.to_string().parse().unwrap();
            *calls.begun.lock().unwrap().entry(number).or_default() += 1;
        })
        .on_exit(|_| {})
        .start()
        .unwrap()
}

/// Kills, stops and continues children, and restarts the pool, until it is told to end.
fn wreak_havoc(pool: &Pool, random: &mut Random, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let pids: Vec<_> = pool
            .stats()
            .children
            .iter()
            .filter_map(|it| it.pid)
            .collect();
        if let Some(pid) = pids.get(random.below(pids.len().max(1))) {
            // It may be gone, and its number is nobody's so soon.
            let _ = std::process::Command::new("kill")
                .args([
                    ["-KILL", "-STOP", "-ABRT"][random.below(3)],
                    &pid.to_string(),
                ])
                .stderr(std::process::Stdio::null())
                .status();
            let _ = std::process::Command::new("kill")
                .args(["-CONT", &pid.to_string()])
                .stderr(std::process::Stdio::null())
                .status();
        }
        if random.below(10) == 0 {
            pool.restart();
        }
    }
}

fn make_calls(
    pool: &Pool,
    random: &mut Random,
    numbers: &AtomicUsize,
    calls: &Arc<Calls>,
    n: usize,
) -> (usize, Vec<usize>) {
    let (mut cancelled, mut repeatable) = (0, Vec::new());
    let mut pending = Vec::new();
    for _ in 0..n {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let what = match random.below(60) {
            0 => "abort",
            1 => "exit",
            2..=5 => "fail",
            6..=10 => "sleep",
            _ => "echo",
        };
        let mut call = pool.call([what, &number.to_string()]);
        if random.below(3) == 0 {
            call = call.repeatable(random.below(3) as u32);
            repeatable.push(number);
        }
        if random.below(4) == 0 {
            call = call.key(random.below(5));
        }
        if random.below(8) == 0 {
            call = call.urgent();
        }
        if random.below(8) == 0 {
            call = call.timeout(Duration::from_micros(random.below(5000) as u64));
        }
        match random.below(4) {
            0 => calls.end(number, call.wait()),
            1 => pending.push((number, call.start())),
            2 if random.below(4) == 0 => {
                call.start().cancel();
                cancelled += 1;
            }
            _ => {
                let calls = Arc::clone(calls);
                call.then(move |outcome| calls.end(number, outcome));
            }
        }
    }
    for (number, pending) in pending {
        calls.end(number, pending.wait());
    }
    (cancelled, repeatable)
}

#[test]
fn pools_lose_no_call_and_begin_none_twice() {
    let me = worker().run_in_test();
    alone(move || {
        let mut random = Random::new();
        let storm = Storm::new(&me, "run");
        let (mut rounds, mut made, mut answered) = (0, 0, 0);
        while storm.continues(rounds) {
            let calls = Arc::new(Calls::default());
            let pool = start(&me, &mut random, &calls);
            let (numbers, over) = (AtomicUsize::new(0), AtomicBool::new(false));
            let mut havoc = random.fork();
            let is_wild = random.below(3) > 0;
            let (mut cancelled, mut repeatable) = (0, Vec::new());
            thread::scope(|scope| {
                let wreaker =
                    is_wild.then(|| scope.spawn(|| wreak_havoc(&pool, &mut havoc, &over)));
                let callers: Vec<_> = (0..3)
                    .map(|_| {
                        let (mut random, n) = (random.fork(), random.below(100));
                        let (pool, numbers, calls) = (&pool, &numbers, &calls);
                        scope.spawn(move || make_calls(pool, &mut random, numbers, calls, n))
                    })
                    .collect();
                for caller in callers {
                    let (more, may) = caller.join().unwrap();
                    cancelled += more;
                    repeatable.extend(may);
                }
                over.store(true, Ordering::Relaxed);
                if let Some(wreaker) = wreaker {
                    wreaker.join().unwrap();
                }
            });
            let n = numbers.into_inner();
            match random.below(4) {
                0 => pool.kill(),
                1 => drop(pool.function("run").call(["echo", "0"]).start()),
                _ => {}
            }
            pool.finish().unwrap();
            // Nothing waits for a template.
            eventually("no child is left", || children().is_empty());
            let ended = calls.ended.lock().unwrap();
            assert_eq!(
                ended.len() + cancelled,
                n,
                "round {rounds}: each call has ended once"
            );
            let has_failed = ended.values().any(|how| *how == "unbegun");
            assert!(is_wild || !has_failed, "round {rounds}: starts have failed");
            for (number, times) in &*calls.begun.lock().unwrap() {
                let may = repeatable.contains(number) || *number == 0;
                assert!(*times == 1 || may, "call {number} was begun {times} times");
            }
            rounds += 1;
            made += n;
            answered += calls.answered.load(Ordering::Relaxed);
        }
        assert!(answered > 0);
        storm.assert_nothing_left();
        println!("{rounds} rounds, {made} calls, {answered} of them answered");
    });
}

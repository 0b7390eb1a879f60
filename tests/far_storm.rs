//! Pools with children of this program, of a template, and of a template behind a command, all of which are
//! killed and stopped at random moments under load, as are the command, which is the relay, and the templates.
//!
//! Looks for: a call that never ends or ends twice, one that is begun twice though it may not be, one that has
//! begun and is said not to have, one that is lost although nobody was killed, a pool that is stuck, and
//! anything left behind, here or behind the command. Runs for one second, or for `OFFSPRING_STORM_SECONDS`.

mod common;

use common::{Random, Storm, alone, behind_shell, children, eventually, is_gone};
use offspring::{CallError, Caller, Phase, Pool, Process, Stdio, Worker};
use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

fn worker() -> Worker {
    let run = |request: offspring::Strings, caller: &Caller| {
        let [notes, what, number] = request.texts()?;
        // It is there whatever becomes of this process and of its connection.
        let note = format!("{number} {}\n", std::process::id());
        let mut notes = OpenOptions::new().append(true).open(notes)?;
        notes.write_all(note.as_bytes())?;
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
        .function("run", run)
        .threaded("threaded", run)
        .threads(3)
}

/// How a call has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum End {
    Answered,
    Failed,
    /// It has begun, or may have.
    Lost,
    /// It was lost, and has not begun.
    Unbegun,
    TimedOut,
    TimedOutUnbegun,
    Refused,
}

/// What is known of the calls of a round, by their numbers.
struct Calls {
    /// Where those that have begun note it.
    notes: PathBuf,
    numbers: AtomicUsize,
    events: Mutex<HashMap<usize, usize>>,
    ended: Mutex<HashMap<usize, End>>,
}

impl Calls {
    fn new() -> Arc<Self> {
        let name = format!("offspring-test-notes-{}", std::process::id());
        let notes = std::env::temp_dir().join(name);
        std::fs::write(&notes, "").unwrap();
        Arc::new(Calls {
            notes,
            numbers: AtomicUsize::new(0),
            events: Mutex::default(),
            ended: Mutex::default(),
        })
    }

    fn end(&self, number: usize, outcome: Result<offspring::Strings, CallError>) {
        let how = match outcome {
            Ok(reply) => {
                assert_eq!(reply, [number.to_string()]);
                End::Answered
            }
            Err(CallError::Failed(_)) => End::Failed,
            Err(CallError::Lost(_, Phase::Begun) | CallError::Poison(_)) => End::Lost,
            Err(CallError::Lost(..)) => End::Unbegun,
            Err(CallError::TimedOut(Phase::Begun)) => End::TimedOut,
            Err(CallError::TimedOut(_)) => End::TimedOutUnbegun,
            Err(CallError::Refused(_)) => End::Refused,
            Err(error) => panic!("call {number}: {error}"),
        };
        let before = self.ended.lock().unwrap().insert(number, how);
        assert_eq!(before, None, "call {number} has ended twice");
    }

    /// Checks how all have ended. Returns the processes in which they had begun.
    fn check(&self, made: &Made, is_wild: bool) -> HashSet<u32> {
        let mut begun = HashMap::<usize, usize>::new();
        let mut pids = HashSet::new();
        for line in std::fs::read_to_string(&self.notes).unwrap().lines() {
            let (number, pid) = line.split_once(' ').unwrap();
            *begun.entry(number.parse().unwrap()).or_default() += 1;
            pids.insert(pid.parse().unwrap());
        }
        let times = |number: &usize| begun.get(number).copied().unwrap_or(0);
        let ended = self.ended.lock().unwrap();
        let n = self.numbers.load(Ordering::Relaxed);
        assert_eq!(ended.len() + made.cancelled, n, "each call has ended once");
        for (number, times) in &begun {
            let may = made.repeatable.contains(number);
            assert!(*times == 1 || may, "call {number} was begun {times} times");
        }
        let events = self.events.lock().unwrap();
        for (number, events) in &*events {
            assert!(*events <= times(number), "call {number}: {events} events");
        }
        for (number, how) in &*ended {
            let has_begun = times(number) > 0;
            match how {
                End::Answered | End::Failed => {
                    assert!(has_begun, "call {number}: {how:?}");
                    assert!(events.contains_key(number), "call {number}: no event");
                }
                // It may have begun before.
                _ if made.repeatable.contains(number) => {}
                End::Unbegun | End::TimedOutUnbegun | End::Refused => {
                    assert!(!has_begun, "call {number} has begun: {how:?}");
                }
                End::Lost | End::TimedOut => {}
            }
            assert!(is_wild || *how != End::Unbegun, "call {number}: {how:?}");
        }
        pids
    }

    fn answered(&self) -> usize {
        let ended = self.ended.lock().unwrap();
        ended.values().filter(|how| **how == End::Answered).count()
    }
}

/// Calls that were made.
#[derive(Default)]
struct Made {
    cancelled: usize,
    repeatable: HashSet<usize>,
}

fn start(me: &Process, far: &Process, random: &mut Random, calls: &Arc<Calls>) -> Pool {
    let mut sources = vec![
        me.clone(),
        me.clone().template(),
        far.clone().template(),
        far.clone(),
    ];
    // A child of its own command is another kind of child, and a slow one to start.
    if random.below(3) > 0 {
        sources.pop();
    }
    let first = sources.swap_remove(random.below(sources.len()));
    let function = ["run", "threaded"][random.below(2)];
    let mut builder = first.pool(function).max(1 + random.below(3));
    for source in sources {
        builder = builder.also(source, 1 + random.below(3));
    }
    let calls = Arc::clone(calls);
    random
        .options(builder)
        .on_event(move |_, number| {
            let number: usize = number.to_string().parse().unwrap();
            *calls.events.lock().unwrap().entry(number).or_default() += 1;
        })
        .on_exit(|_| {})
        .start()
        .unwrap()
}

/// Kills, stops and continues children, commands and templates, and restarts the pool, until it is told to
/// end. Returns how many commands and templates it has killed.
fn wreak_havoc(pool: &Pool, random: &mut Random, over: &AtomicBool) -> usize {
    let mut killed = 0;
    while !over.load(Ordering::Relaxed) {
        let of_pool = pool.stats().children;
        let of_pool: Vec<u32> = of_pool.iter().filter_map(|it| it.pid).collect();
        let mut victims = of_pool.clone();
        let signal = ["KILL", "STOP", "ABRT"][random.below(3)];
        if random.below(3) == 0 {
            // Commands and templates.
            victims = children();
            victims.retain(|pid| !of_pool.contains(pid));
            killed += usize::from(signal != "STOP" && !victims.is_empty());
        }
        if let Some(pid) = victims.get(random.below(victims.len().max(1))) {
            for signal in [signal, "CONT"] {
                // It may be gone, and its number is nobody's so soon.
                let _ = std::process::Command::new("kill")
                    .args([&format!("-{signal}"), &pid.to_string()])
                    .stderr(std::process::Stdio::null())
                    .status();
            }
        }
        if random.below(10) == 0 {
            pool.restart();
        }
        thread::sleep(Duration::from_millis(random.below(20) as u64));
    }
    killed
}

fn make_calls(pool: &Pool, random: &mut Random, calls: &Arc<Calls>, n: usize) -> Made {
    let mut made = Made::default();
    let mut pending = Vec::new();
    let notes = calls.notes.to_str().unwrap();
    for _ in 0..n {
        let number = calls.numbers.fetch_add(1, Ordering::Relaxed);
        let what = match random.below(60) {
            0 => "abort",
            1 => "exit",
            2..=5 => "fail",
            6..=10 => "sleep",
            _ => "echo",
        };
        let mut call = pool.call([notes, what, &number.to_string()]);
        if random.below(3) == 0 {
            call = call.repeatable(random.below(3) as u32);
            made.repeatable.insert(number);
        }
        if random.below(4) == 0 {
            call = call.key(random.below(5));
        }
        if random.below(8) == 0 {
            call = call.urgent();
        }
        if random.below(8) == 0 {
            call = call.timeout(Duration::from_micros(random.below(20_000) as u64));
        }
        match random.below(4) {
            0 => calls.end(number, call.wait()),
            1 => pending.push((number, call.start())),
            2 if random.below(4) == 0 => {
                call.start().cancel();
                made.cancelled += 1;
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
    made
}

/// Calls from three threads, while somebody kills.
fn round(pool: &Pool, random: &mut Random, calls: &Arc<Calls>, is_wild: bool) -> (Made, usize) {
    let over = AtomicBool::new(false);
    let mut havoc = random.fork();
    thread::scope(|scope| {
        let wreaker = is_wild.then(|| scope.spawn(|| wreak_havoc(pool, &mut havoc, &over)));
        let callers: Vec<_> = (0..3)
            .map(|_| {
                let (mut random, n) = (random.fork(), random.below(150));
                scope.spawn(move || make_calls(pool, &mut random, calls, n))
            })
            .collect();
        let mut all = Made::default();
        for caller in callers {
            let made = caller.join().unwrap();
            all.cancelled += made.cancelled;
            all.repeatable.extend(made.repeatable);
        }
        over.store(true, Ordering::Relaxed);
        (all, wreaker.map_or(0, |wreaker| wreaker.join().unwrap()))
    })
}

#[test]
fn pools_of_near_and_far_children_lose_no_call_and_begin_none_twice() {
    let me = worker().run_in_test();
    let far = behind_shell(":").stderr(Stdio::null());
    alone(move || {
        let mut random = Random::new();
        let me = me.stderr(Stdio::null());
        let storm = Storm::new(&me, "run");
        let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
        eventually("no thread is left", || common::reactors() == 0);
        let before = threads();
        let (mut rounds, mut made, mut answered, mut killed) = (0, 0, 0, 0);
        let mut ends = HashMap::<End, usize>::new();
        while storm.continues(rounds) || answered == 0 {
            let calls = Calls::new();
            let pool = start(&me, &far, &mut random, &calls);
            let is_wild = random.below(3) > 0;
            let (all, more) = round(&pool, &mut random, &calls, is_wild);
            let is_killed = random.below(4) == 0;
            if is_killed {
                pool.kill();
            }
            pool.finish().unwrap();
            eventually("no child is left", || children().is_empty());
            // Those behind a command whose relay was killed end by themselves.
            let mut pids = HashSet::new();
            eventually("nobody is left behind a command", || {
                let noted = std::fs::read_to_string(&calls.notes).unwrap();
                let noted = noted.lines().filter_map(|line| line.split(' ').nth(1));
                pids = noted.map(|pid| pid.parse().unwrap()).collect();
                pids.iter().all(|pid| is_gone(*pid))
            });
            assert_eq!(calls.check(&all, is_wild || is_killed), pids);
            rounds += 1;
            killed += more;
            made += calls.numbers.load(Ordering::Relaxed);
            answered += calls.answered();
            for how in calls.ended.lock().unwrap().values() {
                *ends.entry(*how).or_default() += 1;
            }
            std::fs::remove_file(&calls.notes).unwrap();
        }
        storm.assert_nothing_left();
        eventually("no thread is left", || threads() <= before);
        println!("{rounds} rounds, {made} calls, {killed} commands and templates killed; {ends:?}");
    });
}

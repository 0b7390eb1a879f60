//! Everything simultaneously, from many threads, on handles of a shared reactor and of their own.
//!
//! Operations of a thread: a call that blocks; one that is waited for in short waits; one with a
//! callback, which calls again; each with a timeout that may fire, or cancelled; with small and
//! large payloads, and with events from the child before the answer. Meanwhile children are killed,
//! exit, or are finished. Looks for: a call that ends twice or never, an event or a reply that
//! overtakes another, a caller that misses its answer, and anything left behind. Runs for one
//! second, or for `OFFSPRING_STORM_SECONDS`.

mod common;

use common::{Random, Storm, alone, children, eventually};
use offspring::{CallError, Caller, Loop, Process, Reactor, Rpc, Stdio, Strings, Worker};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The number of threads that use the handles of a round, and of the handles.
const THREADS: usize = 4;
const CHILDREN: usize = 3;

/// The number of events and replies that the child has made, and of events only. It makes them
/// under this lock, so their numbers are the order in which the parent must get them.
static MADE: Mutex<(usize, usize)> = Mutex::new((0, 0));

/// Sends the requested number of events, and returns the reply: its number, the number of the last
/// event, and the padding. Exits if the padding is `exit`.
fn serve(request: &Strings, caller: &Caller, made: &mut (usize, usize)) -> Strings {
    if &request[1] == b"exit" {
        std::process::exit(3);
    }
    for _ in 0..number(&request[0]) {
        *made = (made.0 + 1, made.1 + 1);
        caller.event([made.0.to_string(), made.1.to_string()]);
    }
    made.0 += 1;
    let numbers = [made.0.to_string(), made.1.to_string()].map(String::into_bytes);
    numbers.into_iter().chain([request[1].to_vec()]).collect()
}

fn number(bytes: &[u8]) -> usize {
    str::from_utf8(bytes).unwrap().parse().unwrap()
}

fn workers() -> Worker {
    let now =
        |request: Strings, caller: &Caller| Ok(serve(&request, caller, &mut MADE.lock().unwrap()));
    let later = |request: Strings, caller: Caller, events: &Loop| {
        let answer = move || {
            let mut made = MADE.lock().unwrap();
            let reply = serve(&request, &caller, &mut made);
            caller.reply(reply);
        };
        let made = MADE.lock().unwrap().0;
        match made % 3 {
            0 => answer(),
            1 => {
                events.after(Duration::from_micros(100), |_| answer());
            }
            _ => drop(thread::spawn(answer)),
        }
    };
    Worker::new()
        .function("returning", now)
        .deferred("deferred", later)
        .threaded("threaded", now)
        .threads(3)
        .high_water(50_000)
}

/// What a parent has received from a child.
#[derive(Default)]
struct Seen {
    /// The last number that was delivered on the reactor's thread, and that of the last event.
    last: AtomicUsize,
    events: AtomicUsize,
    /// Errors found by callbacks: a panic there would not fail the test.
    wrong: Mutex<Vec<String>>,
}

impl Seen {
    fn event(&self, event: &Strings) {
        let (made, event) = (number(&event[0]), number(&event[1]));
        let last = self.last.swap(made, Ordering::SeqCst);
        let before = self.events.swap(event, Ordering::SeqCst);
        if made <= last || event != before + 1 {
            self.wrong(format!("event {event} ({made}) after {before} ({last})"));
        }
    }

    /// A call ended. Callbacks run in the order in which the child made events and replies, except
    /// that threads make their replies after they have numbered them.
    fn end(&self, outcome: &Outcome, size: usize, ordered: bool) -> bool {
        let reply = match outcome {
            Ok(reply) => reply,
            Err(CallError::Lost(..) | CallError::TimedOut(_) | CallError::Refused(_)) => {
                return false;
            }
            Err(error) => {
                self.wrong(format!("a call ended with: {error}"));
                return false;
            }
        };
        let (made, event) = (number(&reply[0]), number(&reply[1]));
        if self.events.load(Ordering::SeqCst) < event || reply[2].len() != size {
            self.wrong(format!("reply {made} came before event {event}"));
        }
        if ordered && self.last.swap(made, Ordering::SeqCst) >= made {
            self.wrong(format!("reply {made} came too late"));
        }
        true
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }
}

type Outcome = Result<Strings, CallError>;

/// A handle, and what is known of its child.
#[derive(Clone)]
struct Child {
    rpc: Rpc,
    seen: Arc<Seen>,
    /// Whether its callbacks run in the order of the numbers.
    ordered: bool,
}

impl Child {
    fn start(me: &Process, reactor: &Reactor, random: &mut Random) -> Child {
        let function = ["returning", "deferred", "threaded"][random.below(3)];
        let seen = Arc::new(Seen::default());
        let sees = Arc::clone(&seen);
        let mut builder = me.rpc(function).on_event(move |event| sees.event(&event));
        builder = builder.on_error(|_| {});
        if random.below(3) > 0 {
            builder = builder.reactor(reactor);
        }
        if random.below(2) == 0 {
            builder = builder.event_delay(Duration::ZERO);
        }
        if random.below(4) == 0 {
            builder = builder.max_queue(20, 100_000);
        }
        Child {
            rpc: builder.start().unwrap(),
            seen,
            ordered: function != "threaded",
        }
    }

    /// Makes one call in a random way.
    fn call(&self, random: &mut Random, calls: &mut Vec<Arc<End>>) {
        let size = match random.below(20) {
            0 => 300_000,
            _ => random.below(200),
        };
        let events = random.below(3).to_string().into_bytes();
        let mut call = self.rpc.call([events, vec![7; size]]);
        if random.below(8) == 0 {
            call = call.timeout(Duration::from_micros(random.below(2000) as u64));
        }
        let how = random.below(8);
        if how == 0 {
            return call.start().cancel();
        }
        let end = Arc::new(End::default());
        calls.push(Arc::clone(&end));
        let outcome = match how {
            1 | 2 => {
                let (child, again) = (self.clone(), random.below(4) == 0);
                let then = move |outcome: Outcome| {
                    let answered = child.seen.end(&outcome, size, child.ordered);
                    if answered && again {
                        // This call is the one that is counted.
                        let seen = Arc::clone(&child.seen);
                        let call = child.rpc.call(["0", ""]);
                        return call.then(move |outcome| {
                            end.count(seen.end(&outcome, 0, child.ordered));
                        });
                    }
                    end.count(answered);
                };
                return call.then(then);
            }
            3 | 4 => {
                let mut pending = call.start();
                loop {
                    let timeout = Duration::from_micros(random.below(300) as u64);
                    if let Some(outcome) = pending.wait_timeout(timeout) {
                        break outcome;
                    }
                }
            }
            _ => call.wait(),
        };
        end.count(self.seen.end(&outcome, size, false));
    }
}

/// How often a call ended, and how often with a reply.
#[derive(Default)]
struct End {
    ended: AtomicUsize,
    answered: AtomicUsize,
}

impl End {
    fn count(&self, answered: bool) {
        self.ended.fetch_add(1, Ordering::SeqCst);
        let answered = usize::from(answered);
        self.answered.fetch_add(answered, Ordering::SeqCst);
    }
}

/// The operations of one thread in a round. Returns its calls.
fn operate(children: &[Child], mut random: Random) -> Vec<Arc<End>> {
    let mut calls = Vec::new();
    let operations = random.below(60);
    let strikes_at = random.below(200);
    for count in 0..operations {
        let child = &children[random.below(children.len())];
        if count == strikes_at {
            match random.below(3) {
                0 => child.rpc.kill(),
                1 => child.rpc.call(["0", "exit"]).then(|_| {}),
                _ => drop(child.rpc.clone().finish_timeout(Duration::from_millis(1))),
            }
        }
        // The reader's role is given back late for the sake of dense series on one child.
        for _ in 0..[1, 1, 5][random.below(3)] {
            child.call(&mut random, &mut calls);
        }
    }
    calls
}

#[test]
fn everything_at_once_ends_once_and_in_order() {
    let me = workers().run_in_test();
    alone(move || {
        let me = me.stderr(Stdio::capture());
        let mut random = Random::new();
        let (mut rounds, mut calls) = (0, Vec::new());
        let storm = Storm::new(&me, "returning");
        let answered = |call: &Arc<End>| call.answered.load(Ordering::SeqCst);
        // A child may be killed before it has answered anything.
        while storm.continues(rounds) || calls.iter().map(answered).sum::<usize>() == 0 {
            let reactor = Reactor::new().unwrap();
            let round = (0..CHILDREN).map(|_| Child::start(&me, &reactor, &mut random));
            let round: Vec<Child> = round.collect();
            let first = calls.len();
            thread::scope(|scope| {
                let start = |random| scope.spawn(|| operate(&round, random));
                let threads: Vec<_> = (0..THREADS).map(|_| start(random.fork())).collect();
                for thread in threads {
                    calls.extend(thread.join().expect("no thread panics"));
                }
            });
            let seen: Vec<_> = round.iter().map(|child| Arc::clone(&child.seen)).collect();
            for child in round {
                match random.below(3) {
                    0 => drop(child),
                    1 => drop(child.rpc.finish()),
                    _ => drop(child.rpc.finish_timeout(Duration::from_millis(2))),
                }
            }
            let ended = |call: &Arc<End>| call.ended.load(Ordering::SeqCst) > 0;
            eventually("all calls end", || calls[first..].iter().all(ended));
            eventually("no process is left", || children().is_empty());
            for seen in seen {
                let wrong = seen.wrong.lock().unwrap();
                assert!(wrong.is_empty(), "round {rounds}: {wrong:?}");
            }
            rounds += 1;
        }
        storm.assert_nothing_left();
        for call in &calls {
            assert_eq!(call.ended.load(Ordering::SeqCst), 1, "it ended once");
        }
        let answers: usize = calls.iter().map(answered).sum();
        println!("{rounds} rounds, {} calls, {answers} answered", calls.len());
    });
}

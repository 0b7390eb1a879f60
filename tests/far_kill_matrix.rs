//! Every way to lose the connection to children behind a command, at every moment, whatever kind of function
//! they serve: each call ends once and with the right error, none that has begun is said not to have, and
//! nothing is left.
//!
//! What happens to a child behind a command if it dies itself is in `kill_matrix`.

mod common;

use common::{
    Entered, Gate, alone, behind_shell, children, children_of, eventually, is_gone, relay_of_shell,
    signal, stop,
};
use offspring::{
    BoxError, CallError, Caller, ErrorKind, Phase, Process, Rpc, RpcBuilder, Stdio, Strings, Worker,
};
use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

const FUNCTIONS: [&str; 3] = ["function", "threaded", "deferred"];

/// How many calls the threaded function serves at the same time.
const THREADS: usize = 2;

/// A way to lose the connection.
struct Way {
    name: &'static str,
    /// What starts the relay.
    script: &'static str,
    victim: Victim,
    signal: &'static str,
    /// Whether only a ping that is not answered tells.
    is_silent: bool,
}

/// Who gets the signal.
#[derive(Clone, Copy, PartialEq)]
enum Victim {
    Command,
    /// A child of the command.
    Relay,
    /// Another one, which copies bytes from or to the relay.
    Cat,
}

const WAYS: [Way; 6] = [
    Way {
        name: "the command, which is the relay, is killed",
        script: r#"exec "$@""#,
        victim: Victim::Command,
        signal: "KILL",
        is_silent: false,
    },
    Way {
        name: "the relay is killed, and its command ends with it",
        script: r#""$@"; exit 3"#,
        victim: Victim::Relay,
        signal: "KILL",
        is_silent: false,
    },
    Way {
        name: "the relay is told to end",
        script: r#"exec "$@""#,
        victim: Victim::Command,
        signal: "TERM",
        is_silent: false,
    },
    Way {
        name: "the relay is stopped",
        script: r#"exec "$@""#,
        victim: Victim::Command,
        signal: "STOP",
        is_silent: true,
    },
    Way {
        name: "nothing gets there any more",
        script: r#"cat | "$@"; exit 3"#,
        victim: Victim::Cat,
        signal: "KILL",
        is_silent: false,
    },
    Way {
        name: "nothing comes back any more",
        script: r#""$@" | cat; exit 3"#,
        victim: Victim::Cat,
        signal: "KILL",
        is_silent: true,
    },
];

/// What all functions do: they note that they have begun, before anything else.
fn act(request: &Strings, caller: &Caller) -> Result<Strings, BoxError> {
    let texts: Result<Vec<&str>, _> = request.iter().map(str::from_utf8).collect();
    let texts = texts?;
    let [path, number, what @ ..] = &texts[..] else {
        return Err("a call without a number".into());
    };
    let mut notes = OpenOptions::new().append(true).open(path)?;
    notes.write_all(format!("{number}\n").as_bytes())?;
    match what {
        [] => {}
        ["gate", gate] => Gate::enter(gate),
        ["blob"] => {
            caller.event("the reply comes next");
            return Ok(Strings::from_iter([vec![7; 16 << 20]]));
        }
        _ => unreachable!("{what:?}"),
    }
    Ok(request.clone())
}

fn noting() -> Worker {
    Worker::new()
        .function("function", |request: Strings, caller: &Caller| {
            act(&request, caller)
        })
        .threaded("threaded", |request: Strings, caller: &Caller| {
            act(&request, caller)
        })
        .deferred("deferred", |request: Strings, caller, _| {
            match act(&request, &caller) {
                Ok(reply) => caller.reply(reply),
                Err(error) => caller.fail(error),
            };
        })
        .threads(THREADS)
        .setup("gate", |request| {
            let [gate] = request.texts()?;
            Gate::enter(gate);
            Ok(())
        })
}

type Outcome = Result<Strings, CallError>;

/// A child behind a command, and the calls that were made to it.
struct Scenario {
    way: &'static Way,
    rpc: Rpc,
    /// Where calls note that they have begun.
    notes: PathBuf,
    sender: Sender<(usize, Outcome)>,
    ended: Receiver<(usize, Outcome)>,
    calls: usize,
}

impl Scenario {
    fn new(process: &Process, function: &'static str, way: &'static Way) -> Self {
        Scenario::start(process.rpc(function), way)
    }

    fn start(builder: RpcBuilder, way: &'static Way) -> Self {
        let rpc = builder.on_error(drop).start().unwrap();
        let (sender, ended) = mpsc::channel();
        let name = format!("offspring-test-notes-{}", std::process::id());
        let notes = std::env::temp_dir().join(name);
        std::fs::write(&notes, "").unwrap();
        Scenario {
            way,
            rpc,
            notes,
            sender,
            ended,
            calls: 0,
        }
    }

    fn call<const N: usize>(&mut self, what: [&str; N]) {
        let (n, sender) = (self.calls, self.sender.clone());
        self.calls += 1;
        let number = n.to_string();
        let mut request = vec![self.notes.to_str().unwrap(), &number];
        request.extend(what);
        let report = move |outcome| sender.send((n, outcome)).unwrap();
        self.rpc.call(Strings::from_iter(request)).then(report);
    }

    /// Makes as many calls as run at the same time, which wait at gates.
    fn make_busy(&mut self, function: &str) -> Vec<Entered> {
        let calls = if function == "threaded" { THREADS } else { 1 };
        let gates = (0..calls).map(|_| {
            let gate = Gate::new();
            self.call(["gate", gate.name()]);
            gate.entered()
        });
        gates.collect()
    }

    /// Loses the connection. Returns the process ids of everybody behind it.
    fn lose(&self) -> Vec<u32> {
        let [command] = children()[..] else {
            panic!("there is one command");
        };
        let behind = children_of(command);
        let is_cat = |pid: &&u32| common::comm(**pid).as_deref() == Some("cat");
        let victim = match self.way.victim {
            Victim::Command => command,
            Victim::Relay => *behind.iter().find(|pid| !is_cat(pid)).unwrap(),
            Victim::Cat => *behind.iter().find(is_cat).unwrap(),
        };
        match self.way.signal {
            "STOP" => stop(victim),
            name => {
                signal(victim, name);
                let is_dead = || common::state(victim).is_none_or(|state| state == "Z");
                eventually("it is dead", is_dead);
            }
        }
        let mut all = vec![command];
        all.extend(behind);
        all.extend(self.rpc.pid());
        all
    }

    /// Waits for the end of all calls, which are lost, but for those that were answered before.
    fn end(self, behind: &[u32]) -> Vec<Outcome> {
        let situation = self.way.name;
        let mut outcomes: Vec<Option<Outcome>> = (0..self.calls).map(|_| None).collect();
        for _ in 0..self.calls {
            let (n, outcome) = self
                .ended
                .recv_timeout(common::FOREVER)
                .expect("a call ends");
            let before = outcomes[n].replace(outcome);
            assert!(before.is_none(), "{situation}: call {n} ended twice");
        }
        let end = self.rpc.finish();
        let Err(error) = end else {
            panic!("{situation}: {end:?}, {outcomes:?}");
        };
        assert_eq!(
            error.kind(),
            ErrorKind::Disconnected,
            "{situation}: {error}"
        );
        // Nothing begins any more.
        eventually("all behind it have ended", || {
            behind.iter().all(|pid| is_gone(*pid))
        });
        let noted = noted(&self.notes);
        drop(self.sender);
        assert!(self.ended.recv().is_err(), "a call ended twice");
        std::fs::remove_file(&self.notes).unwrap();
        let outcomes: Vec<_> = outcomes.into_iter().map(Option::unwrap).collect();
        for (n, outcome) in outcomes.iter().enumerate() {
            match outcome {
                Ok(_) => assert!(noted.contains(&n)),
                Err(CallError::Lost(error, phase)) => {
                    assert_eq!(
                        error.kind(),
                        ErrorKind::Disconnected,
                        "{situation}: {error}"
                    );
                    let is_right = *phase == Phase::Begun || !noted.contains(&n);
                    assert!(
                        is_right,
                        "{situation}: call {n} had begun, and is {phase:?}"
                    );
                }
                Err(other) => panic!("{situation}: {other}"),
            }
        }
        outcomes
    }
}

/// Whose calls have begun. A child may be killed, but not in the middle of writing so little.
fn noted(notes: &Path) -> HashSet<usize> {
    let notes = std::fs::read_to_string(notes).unwrap();
    notes.lines().map(|line| line.parse().unwrap()).collect()
}

/// Runs a scenario for each way and each kind of function, with the relay's only child and with a copy of a
/// template behind it.
fn for_each(scenario: impl Fn(&Process, &'static str, &'static Way) + Send + 'static) {
    let ways = WAYS.iter().map(|way| {
        let far = relay_of_shell(way.script).stderr(Stdio::null());
        match way.is_silent {
            true => (
                way,
                far.ping(Duration::from_millis(50), Duration::from_millis(300)),
            ),
            false => (way, far),
        }
    });
    let ways: Vec<_> = ways.collect();
    alone(move || {
        for (way, far) in ways {
            // To wait for pings that are not answered takes a while.
            let functions = if way.is_silent { 1 } else { FUNCTIONS.len() };
            for function in &FUNCTIONS[..functions] {
                // A new template each time: the connection is made again.
                for process in [far.clone(), far.clone().template().stderr(Stdio::null())] {
                    scenario(&process, function, way);
                    drop(process);
                    eventually("the command has ended", || children().is_empty());
                }
            }
        }
    });
}

fn assert_all_lost(outcomes: &[Outcome]) {
    assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
}

#[test]
fn before_it_greets() {
    let _me = noting().run_in_test();
    let far = relay_of_shell("exec sleep 1000").stderr(Stdio::null());
    alone(move || {
        for process in [far.clone(), far.template()] {
            for name in ["KILL", "TERM"] {
                let rpc = process.rpc("function").on_error(drop).start().unwrap();
                let call = rpc.call(["never"]).start();
                let [command] = children()[..] else {
                    panic!("there is one command");
                };
                signal(command, name);
                match call.wait() {
                    Err(CallError::Lost(error, phase)) => {
                        assert_eq!(error.kind(), ErrorKind::Exited, "{error}");
                        assert!(phase.is_safe_to_repeat(), "{phase:?}");
                    }
                    other => panic!("{other:?}"),
                }
                drop(rpc);
                eventually("the command has ended", || children().is_empty());
            }
        }
    });
}

#[test]
fn in_a_setup() {
    let _me = noting().run_in_test();
    for_each(|far, function, way| {
        let gate = Gate::new();
        let mut it = Scenario::new(&far.clone().setup("gate", gate.name()), function, way);
        it.call([]);
        let _inside = gate.entered();
        it.call([]);
        let behind = it.lose();
        let outcomes = it.end(&behind);
        for outcome in &outcomes {
            assert!(matches!(outcome, Err(CallError::Lost(..))), "{outcome:?}");
        }
    });
}

#[test]
fn idle() {
    let _me = noting().run_in_test();
    for_each(|far, function, way| {
        let mut it = Scenario::new(far, function, way);
        it.rpc.wait_ready().unwrap();
        common::await_sleep(it.rpc.pid().unwrap());
        let behind = it.lose();
        it.call([]);
        it.call([]);
        assert_all_lost(&it.end(&behind));
    });
}

#[test]
fn running() {
    let _me = noting().run_in_test();
    for_each(|far, function, way| {
        let mut it = Scenario::new(far, function, way);
        let _busy = it.make_busy(function);
        it.call([]);
        let behind = it.lose();
        assert_all_lost(&it.end(&behind));
    });
}

#[test]
fn thousands_queued() {
    let _me = noting().run_in_test();
    for_each(|far, function, way| {
        let mut it = Scenario::new(far, function, way);
        let _busy = it.make_busy(function);
        (0..3000).for_each(|_| it.call([]));
        let behind = it.lose();
        assert_all_lost(&it.end(&behind));
    });
}

#[test]
fn thousands_on_their_way() {
    let _me = noting().run_in_test();
    for_each(|far, function, way| {
        let mut it = Scenario::new(far, function, way);
        (0..3000).for_each(|_| it.call([]));
        eventually("some have begun", || noted(&it.notes).len() > 20);
        let behind = it.lose();
        it.end(&behind);
    });
}

/// The parent does not read for a while, and the child is blocked in the middle of its reply.
#[test]
fn half_way_through_a_large_reply() {
    let _me = noting().run_in_test();
    for_each(|far, function, way| {
        let (resume, paused) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let builder = far.rpc(function).on_event(move |_| {
            tell.send(()).unwrap();
            let _ = paused.recv();
        });
        let mut it = Scenario::start(builder, way);
        it.call(["blob"]);
        told.recv().unwrap();
        common::await_sleep(it.rpc.pid().unwrap());
        let behind = it.lose();
        if !way.is_silent {
            eventually("the child has ended", || is_gone(*behind.last().unwrap()));
        }
        drop(resume);
        assert_all_lost(&it.end(&behind));
    });
}

#[test]
fn during_finish() {
    let _me = noting().run_in_test();
    for_each(|far, function, way| {
        let mut it = Scenario::new(far, function, way);
        let _busy = it.make_busy(function);
        it.call([]);
        let rpc = it.rpc.clone();
        let finish = thread::spawn(move || rpc.finish());
        eventually("it is closed", || {
            let probe = it.rpc.try_call("").timeout(Duration::ZERO).start().wait();
            matches!(probe, Err(CallError::Refused(_)))
        });
        let behind = it.lose();
        assert_all_lost(&it.end(&behind));
        let error = finish.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
    });
}

/// A command that only starts the relay may be killed: the connection is not lost with it.
#[test]
fn command_without_the_relay() {
    let _me = noting().run_in_test();
    let far = relay_of_shell(r#""$@"; exit 3"#).stderr(Stdio::null());
    alone(move || {
        for process in [far.clone(), far.template()] {
            let mut it = Scenario::new(&process, "function", &WAYS[0]);
            let busy = it.make_busy("function");
            it.call([]);
            let behind = it.lose();
            drop(busy);
            it.call([]);
            for _ in 0..3 {
                let (_, outcome) = it.ended.recv_timeout(common::FOREVER).unwrap();
                outcome.unwrap();
            }
            it.rpc.finish().unwrap();
            drop(process);
            std::fs::remove_file(&it.notes).unwrap();
            eventually("nobody is left", || {
                children().is_empty() && behind.iter().all(|pid| is_gone(*pid))
            });
        }
    });
}

/// The pool goes on, and only calls that may have begun are lost.
#[test]
fn in_a_pool() {
    let _me = noting().run_in_test();
    let far = behind_shell(":").stderr(Stdio::null());
    alone(move || {
        for function in FUNCTIONS {
            for process in [far.clone(), far.clone().template()] {
                lose_in_a_pool(process, function);
            }
        }
    });
}

fn lose_in_a_pool(process: Process, function: &'static str) {
    let name = format!("offspring-test-notes-{}", std::process::id());
    let notes = std::env::temp_dir().join(name);
    std::fs::write(&notes, "").unwrap();
    let path = notes.to_str().unwrap();
    let pool = process.pool(function).max(2).load(3).on_exit(|_| {});
    let pool = pool.start().unwrap();
    let calls: Vec<_> = (0..300)
        .map(|n: usize| pool.call([path, &n.to_string()]).start())
        .collect();
    eventually("some have begun", || noted(&notes).len() > 10);
    signal(children()[0], "KILL");
    let mut answered = HashSet::new();
    for (n, call) in calls.into_iter().enumerate() {
        match call.wait() {
            Ok(_) => drop(answered.insert(n)),
            Err(CallError::Lost(error, Phase::Begun)) => {
                assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
            }
            Err(other) => panic!("{function}: call {n}: {other}"),
        }
    }
    // Two children had three each.
    assert!(answered.len() >= 294, "{} were answered", answered.len());
    pool.finish().unwrap();
    drop(process);
    eventually("nobody is left", || children().is_empty());
    assert!(answered.is_subset(&noted(&notes)));
    let text = std::fs::read_to_string(&notes).unwrap();
    assert_eq!(
        text.lines().count(),
        noted(&notes).len(),
        "one was begun twice"
    );
    std::fs::remove_file(&notes).unwrap();
}

//! Every way for a child to die, at every moment, whatever kind of function it serves: each call ends once
//! and with the right error, and the child is gone.
//!
//! Run with `--nocapture`, this prints how long the calls took to end.

mod common;

use common::{Entered, Gate, alone, behind_shell, eventually, is_gone, signal};
use offspring::{
    BoxError, CallError, Caller, ErrorKind, Phase, Process, Rpc, RpcBuilder, Stdio, Strings, Worker,
};
use std::hint::black_box;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

const FUNCTIONS: [&str; 3] = ["function", "threaded", "deferred"];

/// How many calls the threaded function serves at the same time.
const THREADS: usize = 2;

const WAYS: [&str; 10] = [
    "SIGKILL",
    "SIGSEGV",
    "abort",
    "_exit",
    "exit",
    "panic",
    "stack overflow",
    "out of memory",
    "stopped, then killed",
    "descriptors closed",
];

/// Set in a child that is to die before `run`.
const VARIABLE: &str = "OFFSPRING_TEST_DIE";

/// Whether it is the end of the process if a thread of it dies this way.
fn is_deadly(way: &str) -> bool {
    way != "panic" && way != "descriptors closed"
}

/// In a child: dies, if the way is deadly.
#[expect(unsafe_code, reason = "nothing safe dies in all these ways")]
fn die(way: &str) {
    let me = std::process::id() as i32;
    match way {
        // SAFETY: takes no pointers.
        "SIGKILL" => drop(unsafe { libc::kill(me, libc::SIGKILL) }),
        "SIGSEGV" => common::segv(),
        // SAFETY: as above.
        "stopped, then killed" => drop(unsafe { libc::kill(me, libc::SIGSTOP) }),
        "abort" => std::process::abort(),
        // SAFETY: as above.
        "_exit" => unsafe { libc::_exit(3) },
        "exit" => std::process::exit(3),
        "panic" => panic!("a way to die"),
        "stack overflow" => drop(black_box(overflow(1))),
        "out of memory" => exhaust_memory(),
        "descriptors closed" => (3..100).for_each(|number| {
            // SAFETY: takes no pointers. What owns these descriptors does not close others: nothing
            // is opened any more.
            let _ = unsafe { libc::close(number) };
        }),
        other => unreachable!("{other}"),
    }
    if is_deadly(way) {
        // The signal may take a moment.
        loop {
            thread::park();
        }
    }
}

#[expect(unconditional_recursion, reason = "that is the point")]
fn overflow(n: u64) -> u64 {
    black_box([n; 100])[1] + overflow(black_box(n + 1))
}

#[expect(unsafe_code, reason = "a system call")]
fn exhaust_memory() {
    let limit = libc::rlimit {
        rlim_cur: 1 << 20,
        rlim_max: 1 << 20,
    };
    // SAFETY: points to a limit.
    let limited = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
    assert_eq!(limited, 0);
    loop {
        black_box(vec![1u8; 1 << 20].leak());
    }
}

/// What all functions do.
fn act(request: &Strings, caller: &Caller) -> Strings {
    let texts: Vec<String> = request
        .iter()
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    match texts[..] {
        ["echo"] => {}
        ["die", way] => die(way),
        // A thread of the child dies when the gate opens.
        ["arm", gate, way] => {
            let (gate, way) = (gate.to_owned(), way.to_owned());
            thread::spawn(move || {
                Gate::enter(&gate);
                die(&way);
            });
        }
        ["gate", gate] => Gate::enter(gate),
        ["blob"] => {
            caller.event("the reply comes next");
            return Strings::from_iter([vec![7; 16 << 20]]);
        }
        _ => unreachable!("{texts:?}"),
    }
    request.clone()
}

fn dying() -> Worker {
    if let Ok(way) = std::env::var(VARIABLE) {
        die(&way);
    }
    let function = |request: Strings, caller: &Caller| Ok::<_, BoxError>(act(&request, caller));
    Worker::new()
        .function("function", function)
        .threaded("threaded", function)
        .deferred("deferred", |request: Strings, caller, _| {
            let reply = act(&request, &caller);
            caller.reply(reply);
        })
        .threads(THREADS)
        .setup("die", |strings| {
            let [way] = strings.texts()?;
            die(way);
            Ok(())
        })
}

/// A child, and the calls that were made to it.
struct Scenario {
    way: &'static str,
    rpc: Rpc,
    pid: u32,
    sender: Sender<(usize, Outcome)>,
    ended: Receiver<(usize, Outcome)>,
    calls: usize,
    doomed_at: Instant,
}

type Outcome = Result<Strings, CallError>;

impl Scenario {
    fn new(process: &Process, function: &'static str, way: &'static str) -> Self {
        Scenario::start(process.rpc(function), way)
    }

    fn start(builder: RpcBuilder, way: &'static str) -> Self {
        let rpc = builder.on_error(drop).start().unwrap();
        // One behind a command takes a moment.
        eventually("it is started", || rpc.pid().is_some());
        let (sender, ended) = mpsc::channel();
        Scenario {
            way,
            pid: rpc.pid().unwrap(),
            rpc,
            sender,
            ended,
            calls: 0,
            doomed_at: Instant::now(),
        }
    }

    fn call<const N: usize>(&mut self, request: [&str; N]) {
        let (n, sender) = (self.calls, self.sender.clone());
        self.calls += 1;
        let report = move |outcome| sender.send((n, outcome)).unwrap();
        self.rpc.call(request).then(report);
    }

    /// Arms a thread of the child, which dies when that is let go.
    fn arm(&mut self) -> Entered {
        let gate = Gate::new();
        let arm = ["arm", gate.name(), self.way];
        self.rpc.call(arm).wait().unwrap();
        gate.entered()
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

    /// Has the armed thread die.
    fn doom(&mut self, armed: Entered) {
        self.doomed_at = Instant::now();
        armed.open();
        if self.way == "descriptors closed" {
            // It may have noticed, and be gone.
            let open = || std::fs::read_dir(format!("/proc/{}/fd", self.pid));
            eventually("they are", || open().map_or(true, |all| all.count() <= 3));
        }
    }

    /// Kills a child that has stopped itself.
    fn kill_if_stopped(&self) {
        if self.way == "stopped, then killed" {
            eventually("it is stopped", || {
                common::state(self.pid).is_none_or(|state| state == "T")
            });
            signal(self.pid, "KILL");
        }
    }

    /// Waits for the end of all calls, and returns their outcomes in order.
    fn end(self) -> Vec<Outcome> {
        let Scenario {
            rpc,
            pid,
            sender,
            ended,
            calls,
            doomed_at,
            way,
        } = self;
        let mut outcomes: Vec<Option<Outcome>> = (0..calls).map(|_| None).collect();
        for _ in 0..calls {
            let (n, outcome) = ended.recv_timeout(common::FOREVER).expect("a call ends");
            assert!(
                outcomes[n].replace(outcome).is_none(),
                "call {n} ended twice"
            );
        }
        println!("{way}: {:?}", doomed_at.elapsed());
        let _ = rpc.finish();
        eventually("the child is gone", || is_gone(pid));
        drop(sender);
        assert!(ended.recv().is_err(), "a call ended twice");
        outcomes.into_iter().map(Option::unwrap).collect()
    }
}

fn assert_lost(outcome: &Outcome, kind: ErrorKind, situation: &str) {
    match outcome {
        Err(CallError::Lost(error, _)) => assert_eq!(error.kind(), kind, "{situation}: {error}"),
        Err(other) => panic!("{situation}: {other}"),
        Ok(reply) => panic!("{situation}: a reply of {} bytes", reply[0].len()),
    }
}

/// Runs a scenario for each way and each kind of function, with executed children and with copies of a
/// template, here and behind a command.
fn for_each(me: Process, scenario: impl Fn(&Process, &'static str, &'static str) + Send + 'static) {
    let far = behind_shell(":").stderr(Stdio::null());
    let children = vec![
        me.clone(),
        me.stderr(Stdio::null()).template(),
        far.clone(),
        far.template(),
    ];
    for_each_of(children, scenario);
}

fn for_each_of(
    children: Vec<Process>,
    scenario: impl Fn(&Process, &'static str, &'static str) + Send + 'static,
) {
    alone(move || {
        for child in children {
            let child = child.stderr(Stdio::null());
            for way in WAYS {
                for function in FUNCTIONS {
                    scenario(&child, function, way);
                }
            }
        }
    });
}

/// Calls to a child that dies while it starts, and how they end.
fn starting(me: &Process, function: &'static str, way: &'static str, kind: ErrorKind) {
    let mut it = Scenario::new(me, function, way);
    it.call(["echo"]);
    it.call(["echo"]);
    it.kill_if_stopped();
    for outcome in it.end() {
        assert_lost(&outcome, kind, way);
    }
}

#[test]
fn before_run() {
    let me = dying().run_in_test();
    for_each_of(vec![me], |me, function, way| {
        let kind = match way {
            // run() says what it misses.
            "descriptors closed" => ErrorKind::Setup,
            _ => ErrorKind::Exited,
        };
        starting(&me.clone().env(VARIABLE, way), function, way, kind);
    });
}

#[test]
fn in_a_setup() {
    let me = dying().run_in_test();
    for_each(me, |me, function, way| {
        let kind = match way {
            "panic" => ErrorKind::Setup,
            _ => ErrorKind::Exited,
        };
        starting(&me.clone().setup("die", way), function, way, kind);
    });
}

#[test]
fn idle() {
    let me = dying().run_in_test();
    for_each(me, |me, function, way| {
        let mut it = Scenario::new(me, function, way);
        let armed = it.arm();
        common::await_sleep(it.pid);
        it.doom(armed);
        it.kill_if_stopped();
        if is_deadly(way) {
            eventually("it is dead", || is_gone(it.pid));
        }
        it.call(["echo"]);
        it.call(["echo"]);
        for outcome in it.end() {
            match way {
                "panic" => assert!(outcome.is_ok(), "{outcome:?}"),
                _ => assert_lost(&outcome, ErrorKind::Died, way),
            }
        }
    });
}

#[test]
fn running() {
    let me = dying().run_in_test();
    for_each(me, |me, function, way| {
        let mut it = Scenario::new(me, function, way);
        it.rpc.wait_ready().unwrap();
        it.call(["die", way]);
        it.call(["echo"]);
        it.kill_if_stopped();
        let outcomes = it.end();
        if way == "panic" {
            assert!(matches!(outcomes[0], Err(CallError::Panicked(_))));
            assert!(outcomes[1].is_ok());
            return;
        }
        assert_lost(&outcomes[0], ErrorKind::Died, way);
        // A thread may have answered it before.
        if function != "threaded" || outcomes[1].is_err() {
            assert_lost(&outcomes[1], ErrorKind::Died, way);
        }
    });
}

/// The parent does not read for a while, and the child is blocked in the middle of its reply.
#[test]
fn half_way_through_a_large_reply() {
    let me = dying().run_in_test();
    for_each(me, |me, function, way| {
        let (resume, paused) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let builder = me.rpc(function).on_event(move |_| {
            tell.send(()).unwrap();
            let _ = paused.recv();
        });
        let mut it = Scenario::start(builder, way);
        let armed = it.arm();
        it.call(["blob"]);
        told.recv().unwrap();
        common::await_sleep(it.pid);
        it.doom(armed);
        it.kill_if_stopped();
        if is_deadly(way) && way != "exit" {
            // With all its threads: one that writes does not stop for SIGKILL while there is room. A relay
            // reaps it.
            let tasks = || std::fs::read_dir(format!("/proc/{}/task", it.pid));
            let is_single = || tasks().map_or(true, |tasks| tasks.count() <= 1);
            let is_dead = || common::state(it.pid).is_none_or(|state| state == "Z") && is_single();
            eventually("it is dead", is_dead);
        }
        drop(resume);
        let outcome = it.end().remove(0);
        match way {
            "exit" | "panic" => assert_eq!(outcome.unwrap()[0].len(), 16 << 20),
            "descriptors closed" if outcome.is_ok() => {}
            _ => assert_lost(&outcome, ErrorKind::Died, way),
        }
    });
}

#[test]
fn thousands_queued() {
    let me = dying().run_in_test();
    for_each(me, |me, function, way| {
        let mut it = Scenario::new(me, function, way);
        let armed = it.arm();
        let busy = it.make_busy(function);
        (0..3000).for_each(|_| it.call(["echo"]));
        it.doom(armed);
        it.kill_if_stopped();
        if !is_deadly(way) {
            drop(busy);
            if way != "panic" {
                // Requests that it has read may be answered before it tries to write.
                it.call(["echo"]);
            }
        }
        for outcome in it.end() {
            match way {
                "panic" => assert!(outcome.is_ok(), "{outcome:?}"),
                _ => assert_lost(&outcome, ErrorKind::Died, way),
            }
        }
    });
}

#[test]
fn during_finish() {
    let me = dying().run_in_test();
    for_each(me, |me, function, way| {
        let mut it = Scenario::new(me, function, way);
        let armed = it.arm();
        let busy = it.make_busy(function);
        it.call(["echo"]);
        let rpc = it.rpc.clone();
        let finish = thread::spawn(move || rpc.finish());
        eventually("it is closed", || {
            let probe = it
                .rpc
                .try_call("echo")
                .timeout(Duration::ZERO)
                .start()
                .wait();
            matches!(probe, Err(CallError::Refused(_)))
        });
        it.doom(armed);
        it.kill_if_stopped();
        if !is_deadly(way) {
            drop(busy);
        }
        let outcomes = it.end();
        let end = finish.join().unwrap();
        for outcome in outcomes {
            match way {
                "panic" => assert!(outcome.is_ok() && end.is_ok(), "{outcome:?} {end:?}"),
                _ => {
                    assert_lost(&outcome, ErrorKind::Died, way);
                    let error = end.as_ref().unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Died, "{way}: {error}");
                }
            }
        }
    });
}

/// The pool goes on, and only calls that had begun are lost.
#[test]
fn in_a_pool() {
    let me = dying().run_in_test();
    for_each(me, |me, function, way| {
        let pool = me.pool(function).max(2).load(3).on_exit(|_| {}).start();
        let pool = pool.unwrap();
        let calls: Vec<_> = (0..20)
            .map(|n| match n {
                7 => pool.call(["die", way]).start(),
                _ => pool.call("echo").start(),
            })
            .collect();
        if way == "stopped, then killed" {
            eventually("it is stopped", || {
                let children = pool.stats().children;
                let mut pids = children.iter().filter_map(|child| child.pid);
                let is_stopped = |pid: &u32| common::state(*pid).as_deref() == Some("T");
                pids.find(is_stopped)
                    .map(|pid| signal(pid, "KILL"))
                    .is_some()
            });
        }
        for (n, call) in calls.into_iter().enumerate() {
            // A reply may not have been written yet when the next call begins.
            let may_have_begun = n <= 7 || function != "function" || !is_deadly(way);
            match call.wait() {
                Ok(_) => assert!(n != 7, "{function}: {way}"),
                Err(CallError::Panicked(_)) => assert!(n == 7 && way == "panic"),
                Err(CallError::Lost(error, Phase::Begun)) if may_have_begun => {
                    assert_eq!(error.kind(), ErrorKind::Died, "{function}: {way}: {error}");
                }
                Err(other) => panic!("{function}: {way}: call {n}: {other}"),
            }
        }
        assert_eq!(pool.call("echo").wait().unwrap(), ["echo"]);
        pool.finish().unwrap();
    });
}

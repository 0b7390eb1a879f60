//! How children that answer later, or on threads, end.

mod common;

use common::{
    Entered, FOREVER, Gate, Log, await_sleep, bounded, eventually, logged, lost_kind, obey,
};
use offspring::{
    CallError, Caller, ErrorKind, Loop, Pending, Process, Rpc, StopStage, Strings, Worker,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Same as `obey`, but nothing blocks the loop except `spin`.
fn later(request: Strings, caller: Caller, events: &Loop) {
    match &request[0] {
        b"gate" => {
            let [_, gate] = request.texts().unwrap();
            Gate::enter_on(events, gate, |_| caller.reply("opened"));
        }
        // Held by a thread, with nothing for the loop to wait for.
        b"gate on a thread" => drop(thread::spawn(move || {
            let [_, gate] = request.texts().unwrap();
            Gate::enter(gate);
            caller.reply("opened");
        })),
        _ => {
            let result = obey(request, &caller);
            caller.answer(result);
        }
    }
}

fn both_kinds() -> Worker {
    Worker::new()
        .deferred("deferred", later)
        .threaded("threaded", obey)
        .threads(3)
}

#[test]
fn child_exits_with_0_when_everything_is_answered() {
    let me = both_kinds().run_in_test();
    bounded(move || {
        for function in ["deferred", "threaded"] {
            let rpc = me.rpc(function).start().unwrap();
            let (gate, calls) = (Gate::new(), 20);
            let answered = Arc::new(AtomicUsize::new(0));
            for n in 0..calls {
                let answered = Arc::clone(&answered);
                let request = [["gate", gate.name()], ["echo", "x"]][usize::from(n > 2)];
                rpc.call(request).then(move |reply| {
                    reply.unwrap();
                    answered.fetch_add(1, Ordering::Relaxed);
                });
            }
            let inside = [(); 3].map(|()| gate.entered());
            let finish = thread::spawn(move || rpc.finish().unwrap());
            drop(inside);
            let exit = finish.join().unwrap();
            assert!(exit.status().unwrap().success());
            assert_eq!(exit.stage(), StopStage::Closed);
            assert_eq!(answered.load(Ordering::Relaxed), calls);
        }
    });
}

#[test]
fn end_of_requests_lets_outstanding_work_finish_first() {
    let me = both_kinds().run_in_test();
    bounded(move || {
        for (function, verb) in [
            ("deferred", "gate"),
            ("deferred", "gate on a thread"),
            ("threaded", "gate"),
        ] {
            let (builder, log) = logged(me.rpc(function));
            let rpc = builder.start().unwrap();
            let (gate, pid) = (Gate::new(), rpc.pid().unwrap());
            let call = rpc.call([verb, gate.name()]).start();
            let mut inside = gate.entered();
            drop(rpc);
            await_sleep(pid);
            assert!(inside.is_waiting(), "it continues");
            assert_eq!(log.lines(), [""; 0]);
            inside.open();
            call.wait().unwrap();
            assert_eq!(log.end(), "destroy");
        }
    });
}

#[test]
fn timers_and_descriptors_alone_do_not_keep_a_child_alive() {
    let me = Worker::new()
        .deferred("do", |_, caller: Caller, events| {
            events.after(FOREVER * 60, |_| ());
            events.every(Duration::from_millis(1), (), |(), _| Some(()));
            let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
            events.readable(near, far, |_, far, _| Some(far));
            caller.reply(());
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        rpc.call(()).wait().unwrap();
        let exit = rpc.finish().unwrap();
        assert!(exit.status().unwrap().success());
        assert_eq!(exit.stage(), StopStage::Closed);
    });
}

#[test]
fn done_is_called_when_everything_is_answered_and_may_run_on() {
    let me = both_kinds()
        .done(|events| {
            let gate = std::env::var(DONE_AT).unwrap();
            let second = gate.clone();
            // A descriptor, then a timer, then another descriptor.
            Gate::enter_on(events, &gate, move |events| {
                events.after(Duration::from_millis(1), move |events| {
                    Gate::enter_on(events, &second, |_| ());
                });
            });
        })
        .run_in_test();
    bounded(move || {
        for function in ["deferred", "threaded"] {
            let (gate, held) = (Gate::new(), Gate::new());
            let process = me.clone().env(DONE_AT, gate.name());
            let (builder, log) = logged(process.rpc(function));
            let rpc = builder.grace(Duration::MAX).start().unwrap();
            let call = rpc.call(["gate", held.name()]).start();
            let inside = held.entered();
            drop(rpc);
            inside.open();
            call.wait().unwrap();
            let first = gate.entered();
            assert_eq!(log.lines(), [""; 0]);
            first.open();
            let mut second = gate.entered();
            assert!(
                second.is_waiting(),
                "it runs as long as it waits for something"
            );
            second.open();
            assert_eq!(log.end(), "destroy");
        }
    });
}

#[test]
fn panic_in_done_still_ends_the_child_cleanly() {
    let me = both_kinds().done(|_| panic!("done with it")).run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("deferred"));
        let rpc = builder.start().unwrap();
        rpc.call(["echo", "x"]).wait().unwrap();
        drop(rpc);
        assert_eq!(log.end(), "destroy");
        let lines = log.lines();
        assert!(lines[0].contains("done with it"), "{lines:?}");
    });
}

/// Those functions, and `middle`, which starts a child that serves the function in its first
/// string, sends the child's process id as an event, and calls it with the rest. With `done`, the
/// child waits at a gate at the end.
fn with_grandchild(done: bool) -> Worker {
    let build = move || match done {
        false => both_kinds(),
        true => both_kinds().done(|events| {
            let gate = std::env::var(DONE_AT).unwrap();
            Gate::enter_on(events, &gate, |_| ());
        }),
    };
    build().function("middle", move |request, caller| {
        let [function, done_at] = [0, 1].map(|at| str::from_utf8(&request[at]).unwrap());
        let me = build().run_in_test().env(DONE_AT, done_at);
        let functions = ["deferred", "threaded"];
        let function = functions.into_iter().find(|f| *f == function);
        let rpc = me.rpc(function.unwrap()).start()?;
        caller.event(rpc.pid().unwrap().to_string());
        let request: Strings = request.iter().skip(2).collect();
        rpc.call("pid").wait()?;
        Ok(rpc.call(request).wait()?)
    })
}

/// The environment variable with the gate for the end.
const DONE_AT: &str = "OFFSPRING_TEST_DONE_AT";

/// A middle process and its child, which has reached `gate`.
fn middle(me: &Process, request: [&str; 4], gate: &Gate) -> (Rpc, Pending, u32, Entered, Log) {
    let (builder, log) = logged(me.rpc("middle"));
    let rpc = builder.start().unwrap();
    let call = rpc.call(request).start();
    let inside = gate.entered();
    eventually("its pid", || !log.lines().is_empty());
    let pid = log.lines()[0]["event: ".len()..].parse().unwrap();
    (rpc, call, pid, inside, log)
}

/// What a child may be doing when its parent dies.
const BUSY: [(&str, &str); 5] = [
    ("deferred", "gate"),
    ("deferred", "gate on a thread"),
    ("deferred", "spin"),
    ("threaded", "gate"),
    ("threaded", "spin"),
];

#[test]
fn busy_children_die_with_their_parent() {
    let me = with_grandchild(false).run_in_test();
    bounded(move || {
        for (function, verb) in BUSY {
            for long in [false, true] {
                let gate = Gate::new();
                let request = [function, "", verb, gate.name()];
                let (rpc, call, pid, _inside, log) = middle(&me, request, &gate);
                if long && verb != "spin" {
                    await_sleep(pid);
                    // After a while without requests, an idle child disarms its lifeline. The test
                    // would also pass without this delay.
                    thread::sleep(Duration::from_millis(120));
                }
                common::signal(rpc.pid().unwrap(), "KILL");
                assert_eq!(lost_kind(call.wait()), ErrorKind::Died);
                let what = format!("{function} {verb} is gone");
                eventually(&what, || common::is_gone(pid));
                assert_eq!(log.end(), "error: Died");
            }
        }
    });
}

#[test]
fn child_that_is_done_runs_on_without_its_parent() {
    let me = with_grandchild(true).run_in_test();
    bounded(move || {
        for (function, verb) in [("deferred", "gate"), ("threaded", "gate")] {
            let (gate, done_at) = (Gate::new(), Gate::new());
            let request = [function, done_at.name(), verb, gate.name()];
            let (rpc, call, pid, inside, log) = middle(&me, request, &gate);
            inside.open();
            call.wait().unwrap();
            // The middle process closes its handle, and is killed before its child ends.
            let mut done = done_at.entered();
            common::signal(rpc.pid().unwrap(), "KILL");
            assert_eq!(log.end(), "error: Died");
            assert!(done.is_waiting(), "it runs on");
            done.open();
            eventually("it is gone", || common::is_gone(pid));
        }
    });
}

#[test]
fn child_with_done_finishes_its_work_without_its_parent() {
    let me = with_grandchild(true).run_in_test();
    bounded(move || {
        for (function, verb) in [
            ("deferred", "gate"),
            ("deferred", "gate on a thread"),
            ("threaded", "gate"),
        ] {
            let (gate, done_at) = (Gate::new(), Gate::new());
            let request = [function, done_at.name(), verb, gate.name()];
            let (rpc, call, pid, mut inside, _) = middle(&me, request, &gate);
            common::signal(rpc.pid().unwrap(), "KILL");
            assert_eq!(lost_kind(call.wait()), ErrorKind::Died);
            assert!(inside.is_waiting(), "it continues");
            inside.open();
            // The answer cannot be written: that is an error, and `done` is not called after it.
            eventually("it is gone", || common::is_gone(pid));
        }
    });
}

#[test]
fn idle_child_exits_when_its_parent_is_killed() {
    let me = both_kinds()
        .function("middle", |request, _| {
            let me = both_kinds().run_in_test();
            let [gate] = request.texts()?;
            let deferred = me.rpc("deferred").start()?;
            let threaded = me.rpc("threaded").start()?;
            for rpc in [&deferred, &threaded] {
                rpc.call(["echo", "x"]).wait()?;
            }
            Gate::enter(gate);
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("middle").on_error(drop).start().unwrap();
        let gate = Gate::new();
        let call = rpc.call(gate.name()).start();
        let _inside = gate.entered();
        let pids = common::children_of(rpc.pid().unwrap());
        assert_eq!(pids.len(), 2, "{pids:?}");
        common::signal(rpc.pid().unwrap(), "KILL");
        assert_eq!(lost_kind(call.wait()), ErrorKind::Died);
        for pid in pids {
            eventually("it is gone", || common::is_gone(pid));
        }
    });
}

#[test]
fn crash_is_every_outstanding_calls_error() {
    let me = both_kinds().run_in_test();
    bounded(move || {
        for (function, verb) in [("deferred", "gate"), ("threaded", "gate")] {
            for (crash, signal) in [
                (vec!["abort"], 6),
                (vec!["segv"], 11),
                (vec!["signal", "KILL"], 9),
            ] {
                let (builder, log) = logged(me.rpc(function));
                let rpc = builder.start().unwrap();
                let gate = Gate::new();
                let calls = [(); 2].map(|()| rpc.call([verb, gate.name()]).start());
                let _inside = [(); 2].map(|()| gate.entered());
                rpc.call(["event", "before the crash"]).wait().unwrap();
                let crashed = rpc.call(&crash).start();
                for call in calls.into_iter().chain([crashed]) {
                    let Err(CallError::Lost(error, _)) = call.wait() else {
                        panic!("the child crashed");
                    };
                    assert_eq!(error.kind(), ErrorKind::Died);
                    let status = error.status().unwrap();
                    let killed_by = std::os::unix::process::ExitStatusExt::signal(&status);
                    assert_eq!(killed_by, Some(signal));
                }
                assert_eq!(log.end(), "error: Died");
                assert_eq!(log.lines(), ["event: before the crash", "error: Died"]);
            }
        }
    });
}

//! Many functions in one child, of all kinds side by side.

mod common;

use common::{Gate, alone, bounded, lost, obey, signal};
use offspring::{
    CallError, Caller, ErrorKind, Loop, Outcome, Phase, Process, Refusal, Rpc, Stdio, Strings,
    Worker,
};
use std::sync::mpsc;
use std::time::Duration;

/// Functions of all kinds that obey, and one that counts its calls.
fn worker() -> Worker {
    let mut count = 0;
    Worker::new()
        .function("do", obey)
        .function("count", move |_, _| {
            count += 1;
            Ok(count.to_string())
        })
        .threaded("do on threads", obey)
        .deferred("do later", do_later)
        .threads(2)
}

/// Waits at a gate without blocking the loop, or replies with what it gets.
fn do_later(request: Strings, caller: Caller, events: &Loop) {
    match request.texts() {
        Ok(["gate", name]) => {
            Gate::enter_on(events, name, |_| caller.reply(()));
        }
        _ => caller.reply(request),
    }
}

fn start(me: &Process) -> Rpc {
    let rpc = me.rpc("do").on_error(drop).start().unwrap();
    rpc.wait_ready().unwrap();
    rpc
}

#[test]
fn functions_of_one_child_share_its_connection_and_keep_the_order_of_their_calls() {
    let me = worker().run_in_test();
    alone(move || {
        let one = start(&me);
        let open = common::descriptors(std::process::id()).len();
        let others = ["count", "do on threads", "do later"].map(|name| one.function(name));
        let [count, threads, later] = &others;
        let now = common::descriptors(std::process::id()).len();
        assert_eq!(now, open, "one child, one connection");
        let pids = [&one, threads].map(|rpc| rpc.call("pid").wait().unwrap().to_string());
        assert_eq!(pids, [one.pid().unwrap().to_string(), pids[0].clone()]);
        // Alternating, without waiting: each call reaches its function.
        let (send, replies) = mpsc::channel();
        for n in 0..300 {
            let (rpc, wanted) = match n % 4 {
                0 => (&one, format!("{n}")),
                1 => (count, (n / 4 + 1).to_string()),
                2 => (threads, format!("{n}")),
                _ => (later, format!("echo {n}")),
            };
            let send = send.clone();
            rpc.call(["echo", &n.to_string()]).then(move |reply| {
                assert_eq!(reply.unwrap().to_string(), wanted);
                send.send(n).unwrap();
            });
        }
        drop(send);
        let order: Vec<_> = replies.iter().collect();
        assert_eq!(order.len(), 300);
        let of_returning: Vec<_> = order.into_iter().filter(|n| n % 4 < 2).collect();
        assert!(of_returning.is_sorted(), "one at a time, in order");
        // Any of them finishes the child, for all.
        later.clone().finish().unwrap();
        let refused = count.call(()).wait();
        assert!(matches!(refused, Err(CallError::Refused(Refusal::Closed))));
    });
}

fn unserved<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> (ErrorKind, String) {
    match outcome {
        Err(CallError::Unserved(error)) => (error.kind(), error.to_string()),
        other => panic!("there is no such function, but {other:?}"),
    }
}

#[test]
fn function_that_the_child_does_not_have_fails_its_calls_only() {
    // Returning functions have a loop of their own.
    let returning = Worker::new()
        .function("do", obey)
        .function("count", |_, _| Ok(()));
    let all = std::env::var("OFFSPRING_TEST_KINDS").is_ok();
    let me = if all { worker() } else { returning }.run_in_test();
    bounded(move || {
        for me in [me.clone(), me.env("OFFSPRING_TEST_KINDS", "all")] {
            let rpc = start(&me);
            let missing = rpc.function("dance");
            let long = rpc.function("x".repeat(100_000));
            let before = rpc.call(["echo", "before"]).start();
            let failed: Vec<_> = (0..3)
                .map(|_| missing.call([vec![7; 100_000]]).start())
                .collect();
            let between = rpc.call(["echo", "between"]).start();
            let (kind, message) = unserved(long.call("x").wait());
            assert_eq!(kind, ErrorKind::NoFunction);
            assert!(message.len() < 400, "{message}");
            for call in failed {
                let (kind, message) = unserved(call.wait());
                assert_eq!(kind, ErrorKind::NoFunction);
                assert!(message.starts_with("no function `dance`; there are: `count`, `do`"));
            }
            assert_eq!(before.wait().unwrap(), ["before"]);
            assert_eq!(between.wait().unwrap(), ["between"]);
            // By callback, as well; and a clone is a handle to the same function.
            let (send, receive) = mpsc::channel();
            let reply = move |outcome: Outcome| send.send(unserved(outcome).0).unwrap();
            missing.clone().call(()).then(reply);
            assert_eq!(receive.recv().unwrap(), ErrorKind::NoFunction);
            assert_eq!(missing.function("do").call("pid").wait().unwrap().len(), 1);
            rpc.finish().unwrap();
        }
    });
}

#[cfg(feature = "json")]
#[test]
fn function_of_another_version_or_codec_fails_its_calls_only() {
    use offspring::{Json, Service};
    const HALF: Service<Json, u32, u32> = Service::new("half").version(2);
    let me = Worker::new()
        .function(HALF, |n, _| Ok(n / 2))
        .function("do", obey)
        .run_in_test();
    bounded(move || {
        let rpc = start(&me);
        let half = rpc.function(HALF);
        let (old, name) = (rpc.function(HALF.version(1)), rpc.function("half"));
        for _ in 0..2 {
            assert_eq!(half.call(8).wait().unwrap(), 4);
            let (kind, message) = unserved(old.call(8).wait());
            assert_eq!(kind, ErrorKind::Mismatch);
            assert!(
                message.contains("version 2") && message.contains("version 1"),
                "{message}"
            );
            let (kind, message) = unserved(name.call("8").wait());
            assert_eq!(kind, ErrorKind::Mismatch);
            assert!(
                message.contains("`json`") && message.contains("`octets`"),
                "{message}"
            );
            // Its request is not one of this function.
            let wrong = Service::<Json, String, u32>::new("half").version(2);
            let error = rpc.function(wrong).call("eight").wait().unwrap_err();
            assert!(matches!(error, CallError::Malformed(_)), "{error:?}");
        }
        assert_eq!(rpc.call(["echo", "on"]).wait().unwrap(), ["on"]);
    });
}

/// What was answered before does not wait for it, what runs on threads goes on, and what is for the main
/// thread waits.
#[test]
fn others_go_on_while_a_returning_function_runs_long_as_far_as_they_can() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = start(&me);
        let (threads, later) = (rpc.function("do on threads"), rpc.function("do later"));
        // Both are at hand when the loop gets to them.
        let (gate, thread_gate) = (Gate::new(), Gate::new());
        let on_thread = threads.call(["gate", thread_gate.name()]).start();
        let inside_thread = thread_gate.entered();
        signal(rpc.pid().unwrap(), "STOP");
        let answered = later.call("answered before").start();
        let long = rpc.call(["gate", gate.name()]).start();
        let waits = later.call("waits").start();
        signal(rpc.pid().unwrap(), "CONT");
        let mut inside = gate.entered();
        assert_eq!(answered.wait().unwrap(), ["answered before"]);
        inside_thread.open();
        on_thread.wait().unwrap();
        assert!(inside.is_waiting());
        let mut waits = waits;
        assert!(
            waits.try_wait().is_none(),
            "nothing else runs on the main thread"
        );
        inside.open();
        long.wait().unwrap();
        assert_eq!(waits.wait().unwrap(), ["waits"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn limit_of_one_kind_holds_up_no_other() {
    let me = worker().max_running(1).threads(1).run_in_test();
    bounded(move || {
        let rpc = start(&me);
        let (threads, later) = (rpc.function("do on threads"), rpc.function("do later"));
        let (thread_gate, loop_gate) = (Gate::new(), Gate::new());
        let on_thread = threads.call(["gate", thread_gate.name()]).start();
        let on_loop = later.call(["gate", loop_gate.name()]).start();
        let inside = [thread_gate.entered(), loop_gate.entered()];
        // They wait for those.
        let mut behind = [
            threads.call(["echo", "thread"]).start(),
            later.call("loop").start(),
        ];
        assert_eq!(rpc.call(["echo", "now"]).wait().unwrap(), ["now"]);
        assert!(behind.iter_mut().all(|call| call.try_wait().is_none()));
        let [thread, on] = inside;
        thread.open();
        on_thread.wait().unwrap();
        let [on_thread, mut behind_on_loop] = behind;
        assert_eq!(on_thread.wait().unwrap(), ["thread"]);
        assert!(behind_on_loop.try_wait().is_none());
        on.open();
        on_loop.wait().unwrap();
        assert_eq!(behind_on_loop.wait().unwrap(), ["loop"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn returning_function_beside_others_finds_out_that_it_is_cancelled_and_keeps_what_comes() {
    let me = worker()
        .function("until cancelled", |_, caller| {
            caller.event("begun");
            while !caller.is_cancelled() {
                std::thread::yield_now();
            }
            caller.event("cancelled");
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        let (send, events) = mpsc::channel();
        let rpc = me
            .rpc("until cancelled")
            .on_event(move |event| send.send(event).unwrap());
        let rpc = rpc.start().unwrap();
        let (threads, later) = (rpc.function("do on threads"), rpc.function("do later"));
        let (now, count) = (rpc.function("do"), rpc.function("count"));
        // A thread is there, and takes what the function reads.
        threads.call("pid").wait().unwrap();
        let call = rpc.call(()).start();
        assert_eq!(events.recv().unwrap(), ["begun"]);
        let gate = Gate::new();
        let on_thread = threads.call(["gate", gate.name()]).start();
        let after = [
            now.call(["echo", "now"]).start(),
            later.call("later").start(),
        ];
        let counted: Vec<_> = (0..50).map(|_| count.call(()).start()).collect();
        let missing = rpc.function("dance").call(()).start();
        gate.entered().open();
        on_thread.wait().unwrap();
        call.cancel();
        assert_eq!(events.recv().unwrap(), ["cancelled"]);
        let after = after.map(|call| call.wait().unwrap().to_string());
        assert_eq!(after, ["now", "later"]);
        let counted: Vec<_> = counted
            .into_iter()
            .map(|call| call.wait().unwrap())
            .collect();
        assert!(
            counted
                .iter()
                .zip(1..)
                .all(|(got, n)| *got == [n.to_string()])
        );
        assert_eq!(unserved(missing.wait()).0, ErrorKind::NoFunction);
        rpc.finish().unwrap();
    });
}

#[test]
fn panics_and_errors_of_all_kinds_end_their_calls_only() {
    let me = worker()
        .deferred("panic later", |_, _caller, _| panic!("later"))
        .run_in_test();
    bounded(move || {
        let rpc = start(&me.stderr(Stdio::null()));
        let threads = rpc.function("do on threads");
        for _ in 0..3 {
            for one in [&rpc, &threads] {
                let outcome = one.call(["panic", "now"]).wait();
                assert!(
                    matches!(outcome, Err(CallError::Panicked(_))),
                    "{outcome:?}"
                );
                let outcome = one.call(["fail", "now"]).wait();
                assert!(matches!(outcome, Err(CallError::Failed(_))), "{outcome:?}");
            }
            let outcome = rpc.function("panic later").call(()).wait();
            assert!(
                matches!(outcome, Err(CallError::Panicked(_))),
                "{outcome:?}"
            );
        }
        // What the loop does afterwards is not written for each call.
        let all: Vec<_> = (0..100)
            .map(|_| rpc.function("do later").call("x").start())
            .collect();
        for call in all {
            assert_eq!(call.wait().unwrap(), ["x"]);
        }
        rpc.finish().unwrap();
    });
}

/// Calls begin in another order than they were made: none that had begun is taken for one that had not.
#[test]
fn calls_that_had_begun_are_known_whatever_runs_them() {
    let me = worker().threads(1).run_in_test();
    bounded(move || {
        for round in 0..20 {
            let rpc = start(&me.clone().stderr(Stdio::null()));
            let (threads, later) = (rpc.function("do on threads"), rpc.function("do later"));
            let gates = [Gate::new(), Gate::new(), Gate::new()];
            let [on_thread, on_loop, on_main] = &gates;
            let first = threads.call(["gate", on_thread.name()]).start();
            let inside = on_thread.entered();
            // It waits for the thread, while calls that are made later begin.
            let waits = threads.call(["gate", on_thread.name()]).start();
            let second = later.call(["gate", on_loop.name()]).start();
            let _on_loop = on_loop.entered();
            // And now it begins, after those.
            let began = (round % 2 == 0).then(|| {
                inside.open();
                on_thread.entered()
            });
            let third = rpc.call(["gate", on_main.name()]).start();
            let _on_main = on_main.entered();
            let never = rpc.call("pid").start();
            rpc.kill();
            let phase = |call: offspring::Pending| match call.wait() {
                Ok(_) => Phase::Begun,
                Err(error) => error.phase().expect("it is lost"),
            };
            for (call, name) in [(first, "first"), (second, "second"), (third, "third")] {
                assert_eq!(phase(call), Phase::Begun, "{name}");
            }
            if began.is_some() {
                assert_eq!(phase(waits), Phase::Begun);
            }
            let never = phase(never);
            assert!(never.is_safe_to_repeat(), "{never:?}");
        }
    });
}

#[test]
fn end_of_a_child_ends_the_calls_of_all_its_functions() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = start(&me.stderr(Stdio::null()));
        let (threads, later) = (rpc.function("do on threads"), rpc.function("do later"));
        let gate = Gate::new();
        let all = [
            later.call(["gate", gate.name()]).start(),
            threads.call(["gate", gate.name()]).start(),
            rpc.call("abort").start(),
        ];
        for call in all {
            assert_eq!(lost(call.wait()).kind(), ErrorKind::Died);
        }
        let missing = rpc.function("dance").call(()).wait();
        assert_eq!(lost(missing).kind(), ErrorKind::Died);
    });
}

/// The first function is the one without which a child is of no use.
#[test]
fn first_function_is_a_start_error_and_others_are_not() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("dance").on_error(drop).start().unwrap();
        let error = rpc.wait_ready().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoFunction);
        assert_eq!(
            lost(rpc.function("do").call("pid").wait()).kind(),
            ErrorKind::NoFunction
        );
    });
}

#[test]
fn timeouts_and_withdrawn_calls_leave_the_others_with_their_functions() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = start(&me);
        let count = rpc.function("count");
        let gate = Gate::new();
        // So much that calls stay in the queue, with the messages that select their functions.
        let busy = rpc.call(["gate", gate.name()]).start();
        let inside = gate.entered();
        let block = vec![7; 1 << 20];
        let blocks: Vec<_> = (0..4)
            .map(|_| rpc.call([&b"size"[..], &block]).start())
            .collect();
        for _ in 0..10 {
            let withdrawn = count.call(()).timeout(Duration::ZERO).wait();
            assert!(
                matches!(withdrawn, Err(CallError::TimedOut(_))),
                "{withdrawn:?}"
            );
            rpc.call("pid").start().cancel();
        }
        let (one, size) = (count.call(()).start(), rpc.call(["size", "four"]).start());
        inside.open();
        busy.wait().unwrap();
        for block in blocks {
            assert_eq!(block.wait().unwrap(), ["1048576"]);
        }
        assert_eq!(size.wait().unwrap(), ["4"]);
        assert_eq!(
            one.wait().unwrap(),
            ["1"],
            "the others have not been counted"
        );
        rpc.finish().unwrap();
    });
}

#[test]
fn plain_peer_is_not_told_which_function_a_call_is_for() {
    use offspring::Plain;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    bounded(|| {
        let (near, mut far) = UnixStream::pair().unwrap();
        let rpc = Process::stream(near).plain(Plain::Tagged).rpc("one");
        let rpc = rpc.start().unwrap();
        let handles = [rpc.function("two"), rpc.function("three"), rpc];
        let calls = (0..9).map(|n| handles[n % 3].call(n.to_string()).start());
        let calls: Vec<_> = calls.collect();
        for (n, call) in calls.into_iter().enumerate() {
            let (id, text) = (n as u8 + 1, b'0' + n as u8);
            let mut got = [0; 10];
            far.read_exact(&mut got).unwrap();
            assert_eq!(got, [0, 0, 0, id, 0, 0, 0, 2, 1, text]);
            far.write_all(&got).unwrap();
            assert_eq!(call.wait().unwrap(), [n.to_string()]);
        }
        drop(handles);
        assert_eq!(far.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn child_that_retires_goes_on_serving_its_only_parent() {
    let me = Worker::new()
        .function("function", |_, caller| {
            caller.retire();
            Ok("function")
        })
        .threaded("threaded", |_, caller: &Caller| {
            caller.retire();
            Ok("threaded")
        })
        .deferred("deferred", |_, caller, _| {
            caller.parent().retire();
            caller.reply("deferred");
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("function").start().unwrap();
        for name in ["function", "threaded", "deferred"].repeat(2) {
            let rpc = rpc.function(name);
            let (send, reply) = mpsc::channel();
            rpc.call(()).then(move |reply| send.send(reply).unwrap());
            assert_eq!(rpc.call(()).wait().unwrap(), [name]);
            assert_eq!(reply.recv().unwrap().unwrap(), [name]);
        }
        rpc.finish().unwrap();
    });
}

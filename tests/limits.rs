//! Bounds on memory, and large transfers both ways without a deadlock.

mod common;

use common::{Gate, bounded, eventually, worker};
use offspring::{CallError, Phase, Refusal, Worker};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

const MIB: usize = 1 << 20;

fn refusal<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> Refusal {
    match outcome {
        Err(CallError::Refused(refusal)) => refusal,
        other => panic!("it should be refused, but ended with {other:?}"),
    }
}

#[test]
fn full_queue_refuses_try_call_and_blocks_call() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").max_queue(2, usize::MAX).start().unwrap();
        let gate = Gate::new();
        let held = rpc.call(["gate", gate.name()]).start();
        let second = rpc.try_call(["echo", "second"]).start();
        assert_eq!(refusal(rpc.try_call("echo").start().wait()), Refusal::Full);
        let (send, receive) = mpsc::channel();
        rpc.try_call("echo")
            .then(move |outcome| send.send(refusal(outcome)).unwrap());
        assert_eq!(receive.recv().unwrap(), Refusal::Full);
        // A call that waits for room has its timeout, too.
        let timed_out = rpc.call("echo").timeout(Duration::from_millis(20)).wait();
        assert!(matches!(timed_out, Err(CallError::TimedOut(Phase::Queued))));

        let waits = rpc.clone();
        let (begun, begin) = mpsc::channel();
        let third = std::thread::spawn(move || {
            begun.send(()).unwrap();
            waits.call(["echo", "third"]).wait()
        });
        begin.recv().unwrap();
        assert_eq!(refusal(rpc.try_call("echo").start().wait()), Refusal::Full);
        gate.entered().open();
        held.wait().unwrap();
        assert_eq!(second.wait().unwrap(), ["second"]);
        assert_eq!(third.join().unwrap().unwrap(), ["third"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn one_call_may_always_be_queued() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").max_queue(0, 0).start().unwrap();
        assert_eq!(rpc.call(["echo", "one"]).wait().unwrap(), ["one"]);
        assert_eq!(rpc.call(["echo", "two"]).wait().unwrap(), ["two"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn room_for_one_call_wakes_a_waiting_call() {
    let me = Worker::new()
        .deferred("gate", |request, caller, events| {
            let name = request.to_string();
            Gate::enter_on(events, &name, move |_| caller.reply(()));
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("gate").max_queue(4, usize::MAX).start().unwrap();
        let gate = Gate::new();
        let calls: Vec<_> = (0..4).map(|_| rpc.call(gate.name()).start()).collect();
        let mut inside: Vec<_> = calls.iter().map(|_| gate.entered()).collect();
        let (waits, name) = (rpc.clone(), gate.name().to_owned());
        let (begun, begin) = mpsc::channel();
        let fifth = std::thread::spawn(move || {
            begun.send(()).unwrap();
            waits.call(&name).wait()
        });
        begin.recv().unwrap();
        // Three stay; the fourth leaves room.
        inside.remove(0).open();
        inside.push(gate.entered());
        drop(inside);
        fifth.join().unwrap().unwrap();
        for call in calls {
            call.wait().unwrap();
        }
        rpc.finish().unwrap();
    });
}

#[test]
fn call_that_times_out_while_it_is_waited_for_makes_room() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").max_queue(2, usize::MAX).start().unwrap();
        rpc.call("echo").wait().unwrap();
        common::stop(rpc.pid().unwrap());
        // More than the socket takes: the next calls stay here.
        let large = rpc.call([b"size".to_vec(), vec![0; 10 * MIB]]).start();
        let (second, third) = (rpc.clone(), rpc.clone());
        let second = std::thread::spawn(move || {
            let call = second.call("echo").timeout(Duration::from_millis(300));
            call.wait()
        });
        // Each attempt that finds room makes a call, and cancels it.
        eventually("the queue is full", || {
            let mut attempt = rpc.try_call("echo").cancel_on_drop().start();
            attempt.try_wait().is_some()
        });
        // Waits for room, and is then queued.
        let third = third.call(["echo", "third"]).start();
        let second = second.join().unwrap();
        assert!(matches!(second, Err(CallError::TimedOut(Phase::Queued))));
        common::signal(rpc.pid().unwrap(), "CONT");
        assert_eq!(large.wait().unwrap(), [(10 * MIB).to_string()]);
        assert_eq!(third.wait().unwrap(), ["third"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn full_queue_in_a_callback_is_refused_immediately() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").max_queue(2, usize::MAX).start().unwrap();
        let gate = Gate::new();
        let (send, receive) = mpsc::channel();
        let (inner, name) = (rpc.clone(), gate.name().to_owned());
        rpc.call("echo").then(move |_| {
            // This one is answered, so there is room for two.
            let (held, more) = (
                inner.call(["gate", &name]).start(),
                inner.call("echo").start(),
            );
            let mut pending = inner.call("echo").start();
            let outcome = pending.try_wait().expect("it ended immediately");
            send.send((refusal(outcome), held, more)).unwrap();
        });
        let (refusal, held, more) = receive.recv().unwrap();
        assert_eq!(refusal, Refusal::InCallback);
        gate.entered().open();
        held.wait().unwrap();
        more.wait().unwrap();
        rpc.finish().unwrap();
    });
}

#[test]
fn full_queue_releases_waiting_calls_when_the_child_dies() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").max_queue(1, usize::MAX);
        let rpc = rpc.on_error(drop).start().unwrap();
        let gate = Gate::new();
        let held = rpc.call(["gate", gate.name()]).start();
        let _inside = gate.entered();
        let waits = rpc.clone();
        let waiting = std::thread::spawn(move || waits.call("echo").wait());
        rpc.kill();
        common::lost(held.wait());
        common::lost(waiting.join().unwrap());
    });
}

#[test]
fn bytes_in_the_queue_are_bounded() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").max_queue(usize::MAX, 3 * MIB).start().unwrap();
        rpc.call("echo").wait().unwrap();
        common::stop(rpc.pid().unwrap());
        let block = || [b"size".to_vec(), vec![0; MIB]];
        let mut calls = Vec::new();
        // The socket takes some, a batch is being written, the rest is queued.
        let full = loop {
            let mut call = rpc.try_call(block()).start();
            match call.try_wait() {
                Some(outcome) => break refusal(outcome),
                None => calls.push(call),
            }
            assert!(calls.len() < 100, "there is no bound");
        };
        assert_eq!(full, Refusal::Full);
        common::signal(rpc.pid().unwrap(), "CONT");
        // A call that waits for room gets some.
        calls.push(rpc.call(block()).start());
        for call in calls {
            assert_eq!(call.wait().unwrap(), [MIB.to_string()]);
        }
        // One call is always accepted, however large.
        let large = rpc.call([b"size".to_vec(), vec![0; 10 * MIB]]).wait();
        assert_eq!(large.unwrap(), [(10 * MIB).to_string()]);
        rpc.finish().unwrap();
    });
}

#[test]
fn frames_above_the_limit_fail_their_call_only() {
    let me = Worker::new()
        .function("do", common::obey)
        .function("large event", |_, caller| {
            caller.event([[0; 2000]]);
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").max_frame(1000).start().unwrap();
        let outcome = rpc.call([b"size".to_vec(), vec![0; 1000]]).wait();
        let want = Refusal::TooLarge {
            len: 1007,
            limit: 1000,
        };
        assert_eq!(refusal(outcome), want);
        assert!(want.to_string().contains("max_frame"), "{want}");
        let outcome = rpc.call(["blob", "1000"]).wait();
        let Err(CallError::Malformed(error)) = outcome else {
            panic!("a reply of 1002 bytes is too large: {outcome:?}");
        };
        assert!(error.to_string().contains("limit (max_frame) of 1000"));
        assert_eq!(rpc.call(["blob", "998"]).wait().unwrap(), [[7; 998]]);
        assert!(rpc.call(["fail", &"x".repeat(2000)]).wait().is_err());
        assert_eq!(rpc.call(["echo", "on"]).wait().unwrap(), ["on"]);
        rpc.finish().unwrap();

        let rpc = me.rpc("large event").max_frame(1000).start().unwrap();
        let Err(CallError::Panicked(panic)) = rpc.call(()).wait() else {
            panic!("the function sends an event that is too large");
        };
        assert!(panic.message().contains("max_frame"), "{panic}");
        rpc.finish().unwrap();
    });
}

#[test]
fn hundred_mebibytes_both_ways_do_not_deadlock() {
    let me = worker().run_in_test();
    bounded(move || {
        let received = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&received);
        let rpc = me
            .rpc("do")
            .on_event(move |event| {
                counted.fetch_add(event[0].len(), Ordering::Relaxed);
            })
            .start()
            .unwrap();
        // While it writes 100 MiB it does not read, and 100 MiB wait to be read.
        let flood = rpc.call(["flood", "100"]).start();
        let large = rpc.call([b"size".to_vec(), vec![1; 100 * MIB]]).start();
        flood.wait().unwrap();
        assert_eq!(received.load(Ordering::Relaxed), 100 * MIB);
        assert_eq!(large.wait().unwrap(), [(100 * MIB).to_string()]);
        // One frame of that size in both directions, and many that add up to it.
        let echo = rpc.call([b"echo".to_vec(), vec![2; 100 * MIB]]).wait();
        assert_eq!(echo.unwrap()[0].len(), 100 * MIB);
        let calls: Vec<_> = (0..100)
            .map(|_| rpc.call([b"echo".to_vec(), vec![3; MIB]]).start())
            .collect();
        for call in calls {
            assert_eq!(call.wait().unwrap()[0].len(), MIB);
        }
        rpc.finish().unwrap();
    });
}

#[test]
fn million_calls_queued_to_a_slow_child_are_all_answered() {
    const CALLS: usize = 1_000_000;
    let me = Worker::new()
        .setup("gate", |name| {
            Gate::enter(name.texts::<1>()?[0]);
            Ok(())
        })
        .function("count", |request, _| Ok(request))
        .run_in_test();
    bounded(move || {
        let gate = Gate::new();
        let rpc = me.setup("gate", gate.name()).rpc("count");
        let rpc = rpc.start_timeout(Duration::MAX).start().unwrap();
        let inside = gate.entered();
        let next = Arc::new(AtomicUsize::new(0));
        for n in 0..CALLS {
            let next = Arc::clone(&next);
            rpc.call([n.to_be_bytes()]).then(move |reply| {
                assert_eq!(&reply.unwrap()[0], n.to_be_bytes());
                let expected = next.fetch_add(1, Ordering::Relaxed);
                assert_eq!(expected, n, "replies come in order");
            });
        }
        // None of them can have been answered so far.
        assert_eq!(next.load(Ordering::Relaxed), 0);
        inside.open();
        rpc.finish().unwrap();
        assert_eq!(next.load(Ordering::Relaxed), CALLS);
    });
}

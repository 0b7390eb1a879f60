//! Calls: made, answered, waited for, refused.

mod common;

use common::{FOREVER, Gate, Log, bounded, logged, worker};
use offspring::{CallError, Phase, Reactor, Refusal, Strings};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn octet_strings_round_trip() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        let every_byte: Vec<u8> = (0..=255).collect();
        for strings in [
            vec![],
            vec![vec![]],
            vec![vec![], vec![], vec![]],
            vec![every_byte, vec![0; 127], vec![1; 128], vec![2; 16_384]],
            vec![vec![3; 70_000], vec![], vec![4; 3 << 20]],
        ] {
            let mut request: Strings = ["echo"].into_iter().collect();
            request.extend(&strings);
            assert_eq!(rpc.call(request).wait().unwrap(), strings);
        }
        let many: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
        let mut request: Strings = ["echo"].into_iter().collect();
        request.extend(&many);
        assert_eq!(rpc.call(request).wait().unwrap(), many);
        rpc.finish().unwrap();
    });
}

#[test]
fn every_way_to_take_an_outcome_yields_it_once() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        let (send, receive) = mpsc::channel();
        rpc.call(["echo", "then"])
            .then(move |reply| send.send(reply.unwrap()).unwrap());
        assert_eq!(receive.recv().unwrap(), ["then"]);
        assert!(receive.recv().is_err(), "the callback is gone");

        assert_eq!(rpc.call(["echo", "wait"]).wait().unwrap(), ["wait"]);

        let gate = Gate::new();
        let mut pending = rpc.call(["gate", gate.name()]).start();
        let inside = gate.entered();
        assert!(pending.try_wait().is_none());
        assert!(pending.wait_timeout(Duration::ZERO).is_none());
        assert!(pending.wait_deadline(Instant::now()).is_none());
        inside.open();
        let outcome = pending.wait_timeout(Duration::MAX);
        assert!(outcome.expect("it was answered").unwrap().is_empty());
        let taken = |outcome| matches!(outcome, Err(CallError::Refused(Refusal::Taken)));
        assert!(taken(pending.try_wait().unwrap()));
        assert!(taken(pending.wait_timeout(Duration::ZERO).unwrap()));
        assert!(taken(pending.wait()));

        let deadline = Instant::now() + FOREVER;
        let mut pending = rpc.call(["echo", "late"]).start();
        assert_eq!(pending.wait_deadline(deadline).unwrap().unwrap(), ["late"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn dropping_an_outcome_does_not_cancel_the_call() {
    let me = worker().run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        drop(rpc.call(["event", "ran"]).start());
        rpc.finish().unwrap();
        assert_eq!(log.lines(), ["event: ran", "destroy"]);
    });
}

#[test]
fn call_that_is_dropped_before_it_is_made_is_never_sent() {
    let me = worker().run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        drop(rpc.call(["event", "ran"]));
        rpc.finish().unwrap();
        assert_eq!(log.lines(), ["destroy"]);
    });
}

#[test]
fn error_and_panic_end_only_their_call() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        let pid = rpc.call("pid").wait().unwrap();
        let error = rpc.call(["fail", "no luck"]).wait().unwrap_err();
        assert!(matches!(&error, CallError::Failed(error) if error.to_string() == "no luck"));
        assert_eq!(error.to_string(), "no luck");

        let Err(CallError::Panicked(panic)) = rpc.call(["panic", "dear me"]).wait() else {
            panic!("it should have panicked");
        };
        assert_eq!(panic.message(), "dear me");
        assert!(panic.location().contains("common/mod.rs:"), "{panic}");
        assert_eq!(rpc.call("pid").wait().unwrap(), pid);
        rpc.finish().unwrap();
    });
}

#[test]
fn timeout_ends_a_sent_call_and_its_late_reply_is_dropped() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        let gate = Gate::new();
        // The caller sends it before the reactor checks its deadline.
        let outcome = rpc
            .call(["gate", gate.name()])
            .timeout(Duration::from_millis(20))
            .wait();
        assert!(matches!(outcome, Err(CallError::TimedOut(Phase::Begun))));
        let inside = gate.entered();
        let next = rpc.call(["echo", "next"]).start();
        inside.open();
        assert_eq!(next.wait().unwrap(), ["next"]);
        assert_eq!(rpc.call(["echo", "more"]).wait().unwrap(), ["more"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn timeout_fires_while_the_child_is_stopped() {
    let me = worker().run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        // While a single byte is queued, the next call waits, too.
        let rpc = builder.max_queue(usize::MAX, 1).start().unwrap();
        rpc.call("echo").wait().unwrap();
        let pid = rpc.pid().unwrap();
        common::stop(pid);
        let short = Duration::from_millis(20);
        assert!(matches!(
            rpc.call(["event", "sent"]).timeout(short).wait(),
            Err(CallError::TimedOut(Phase::Begun))
        ));
        // More than the socket takes: the rest of it, and what follows it, stays here.
        let large = rpc.call([b"size".to_vec(), vec![0; 16 << 20]]).start();
        assert!(matches!(
            rpc.call(["event", "never"]).timeout(short).wait(),
            Err(CallError::TimedOut(Phase::Queued))
        ));
        common::signal(pid, "CONT");
        assert_eq!(large.wait().unwrap(), [(16 << 20).to_string()]);
        assert_eq!(rpc.call(["echo", "on"]).wait().unwrap(), ["on"]);
        rpc.finish().unwrap();
        // A call that timed out before it was sent never ran. One that was sent may have: that
        // depends on whether the child read the request together with its cancellation.
        let lines = log.lines();
        assert!(!lines.contains(&"event: never".to_owned()), "{lines:?}");
        assert_eq!(lines.last().map(String::as_str), Some("destroy"));
    });
}

#[test]
fn blocking_in_a_callback_is_refused_immediately() {
    let me = worker().run_in_test();
    bounded(move || {
        let gate = Gate::new();
        let reactor = Reactor::new().unwrap();
        let start = || me.rpc("do").reactor(&reactor).start().unwrap();
        let (rpc, other) = (start(), start());
        let (narrow, finished) = (me.rpc("do").max_queue(1, usize::MAX), start());
        let narrow = narrow.reactor(&reactor).start().unwrap();
        let busy = narrow.call(["gate", gate.name()]).start();
        let inside = gate.entered();

        let (send, receive) = mpsc::channel();
        let inner = rpc.clone();
        rpc.call("echo").then(move |_| {
            let refused = |outcome: Result<_, CallError>| {
                matches!(outcome, Err(CallError::Refused(Refusal::InCallback)))
            };
            let kind = offspring::ErrorKind::InCallback;
            let mut pending = other.call("echo").start();
            let _ = send.send([
                refused(inner.call("echo").wait()),
                refused(other.call("echo").wait()),
                pending.wait_timeout(FOREVER).is_some_and(refused),
                refused(other.call("echo").start().wait()),
                refused(narrow.call("echo").start().wait()),
                finished.finish().is_err_and(|error| error.kind() == kind),
            ]);
        });
        let refusals: [bool; 6] = receive.recv().unwrap();
        assert_eq!(refusals, [true; 6]);
        inside.open();
        busy.wait().unwrap();
        assert_eq!(rpc.call(["echo", "on"]).wait().unwrap(), ["on"]);
    });
}

#[test]
fn waiting_for_ready_in_a_callback_is_refused() {
    // The setup holds the child before it is ready.
    let me = worker()
        .setup("gate", |request| {
            Gate::enter(request.texts::<1>()?[0]);
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        let gate = Gate::new();
        let reactor = Reactor::new().unwrap();
        let rpc = me.rpc("do").reactor(&reactor).start().unwrap();
        let held = me.clone().setup("gate", gate.name());
        let held = held.rpc("do").reactor(&reactor).start().unwrap();
        let inside = gate.entered();
        let (send, receive) = mpsc::channel();
        let inner = held.clone();
        rpc.call("echo")
            .then(move |_| send.send(inner.wait_ready()).unwrap());
        let error = receive.recv().unwrap().unwrap_err();
        assert_eq!(error.kind(), offspring::ErrorKind::InCallback);
        inside.open();
        held.wait_ready().unwrap();
        held.finish().unwrap();
    });
}

#[test]
fn panicking_callbacks_leave_the_reactor_alive() {
    let me = worker().run_in_test();
    bounded(move || {
        let log = Log::default();
        let destroyed = log.clone();
        let rpc = me
            .rpc("do")
            .on_event(|event| panic!("event {event}"))
            .on_destroy(move || {
                destroyed.add("destroy");
                panic!("destroyed")
            })
            .start()
            .unwrap();
        rpc.call(["event", "1"])
            .then(|reply| panic!("reply {reply:?}"));
        rpc.call(["fail", "2"])
            .then(|reply| panic!("reply {reply:?}"));
        assert_eq!(rpc.call(["echo", "on"]).wait().unwrap(), ["on"]);
        rpc.finish().unwrap();
        assert_eq!(log.end(), "destroy");
    });
}

#[test]
fn calls_from_many_threads_get_their_own_replies() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        thread::scope(|scope| {
            for thread in 0..8 {
                let rpc = rpc.clone();
                scope.spawn(move || {
                    for n in 0..200 {
                        let text = format!("{thread} {n}");
                        assert_eq!(rpc.call(["echo", &text]).wait().unwrap(), [text]);
                    }
                });
            }
        });
        rpc.finish().unwrap();
    });
}

#[test]
fn one_reactor_serves_many_children() {
    let me = worker().run_in_test();
    bounded(move || {
        let reactor = Reactor::new().unwrap();
        let handles: Vec<_> = (0..10)
            .map(|_| me.rpc("do").reactor(&reactor).start().unwrap())
            .collect();
        let (send, receive) = mpsc::channel();
        for (n, rpc) in handles.iter().enumerate() {
            let send = send.clone();
            rpc.call(["echo", &n.to_string()]).then(move |reply| {
                send.send((reply.unwrap().to_string(), thread::current().id()))
                    .unwrap();
            });
        }
        drop(send);
        let mut replies: Vec<_> = receive.iter().collect();
        let thread = replies[0].1;
        assert!(replies.iter().all(|reply| reply.1 == thread));
        replies.sort_by_key(|reply| reply.0.parse::<usize>().unwrap());
        assert_eq!(replies.len(), 10);
        // Killing one does not affect the others.
        handles[3].kill();
        for (n, rpc) in handles.into_iter().enumerate() {
            match n {
                3 => drop(rpc.finish()),
                _ => assert_eq!(rpc.call(["echo", "on"]).wait().unwrap(), ["on"]),
            }
        }
        // The thread outlives its children, as the reactor may get more.
        let rpc = me.rpc("do").reactor(&reactor).start().unwrap();
        rpc.call("echo").wait().unwrap();
        rpc.finish().unwrap();
    });
}

//! A returning function that asks whether its call is cancelled, and what comes meanwhile.

mod common;

use common::{FOREVER, bounded, eventually, logged};
use offspring::{BoxError, Caller, Process, Rpc, Strings, Worker};
use std::time::{Duration, Instant};

/// `until NAME` runs until it is cancelled, `panic NAME` panics then; `echo NAME` does not. All report
/// by events that they ran.
fn run(request: Strings, caller: &Caller) -> Result<Strings, BoxError> {
    let name = str::from_utf8(&request[1])?.to_owned();
    caller.event(format!("began {name}"));
    if &request[0] != b"echo" {
        let parent = caller.parent().clone();
        let notified = format!("notified {name}");
        caller.cancellation().then(move || parent.event(notified));
        let start = Instant::now();
        while !caller.is_cancelled() {
            if start.elapsed() > FOREVER {
                std::process::exit(4);
            }
        }
        // It stays so.
        assert!(caller.is_cancelled() && caller.cancellation().is_cancelled());
        caller.event(format!("cancelled {name}"));
    }
    assert!(&request[0] != b"panic");
    Ok(request)
}

fn worker() -> Worker {
    Worker::new().function("do", run)
}

fn start(me: &Process) -> (Rpc, common::Log) {
    let (builder, log) = logged(me.rpc("do"));
    let rpc = builder.start().unwrap();
    rpc.wait_ready().unwrap();
    (rpc, log)
}

fn event(log: &common::Log, text: &str) {
    let event = format!("event: {text}");
    eventually(text, || log.lines().contains(&event));
}

#[test]
fn running_function_finds_out() {
    let me = worker().run_in_test();
    bounded(move || {
        let (rpc, log) = start(&me);
        // At its first call, and at later ones, which begin in another way.
        for round in 0..3 {
            let name = format!("cancel {round}");
            let call = rpc.call(["until", &name]).start();
            event(&log, &format!("began {name}"));
            call.cancel();
            event(&log, &format!("cancelled {name}"));
            rpc.call(["echo", "next"]).wait().unwrap();
        }
        let call = rpc.call(["until", "timeout"]);
        call.timeout(Duration::from_millis(50)).wait().unwrap_err();
        event(&log, "cancelled timeout");
        assert!(log.lines().contains(&"event: notified timeout".to_owned()));
        // The handle is closed before the call is cancelled.
        let call = rpc.call(["until", "closed"]).start();
        event(&log, "began closed");
        drop(rpc);
        call.cancel();
        assert_eq!(log.end(), "destroy");
    });
}

#[test]
fn what_comes_meanwhile_is_answered_in_order_and_cancelled_calls_never_begin() {
    let me = worker().run_in_test();
    bounded(move || {
        let (rpc, log) = start(&me);
        for first in ["until", "panic"] {
            let call = rpc.call([first, first]).start();
            event(&log, &format!("began {first}"));
            let large = "x".repeat(200_000);
            let mut calls = Vec::new();
            for n in 0..300 {
                // Some are large: they do not fit into any buffer, and some come in pieces.
                let large = if n % 100 == 50 { &large[..] } else { "" };
                calls.push(rpc.call(["echo", &n.to_string(), large]).start());
                rpc.call(["echo", "never"]).start().cancel();
            }
            let never = rpc.call(["echo", "never"]).start();
            // This is sent last, so that everything is read before the function ends.
            call.cancel();
            never.cancel();
            for (n, call) in calls.into_iter().enumerate() {
                let reply = call.wait().unwrap();
                assert_eq!(reply.iter().nth(1).unwrap(), n.to_string().as_bytes());
            }
            event(&log, &format!("cancelled {first}"));
            assert_eq!(
                rpc.call(["echo", "after"]).wait().unwrap(),
                ["echo", "after"]
            );
            let began: Vec<_> = log.lines();
            let began = began
                .iter()
                .filter_map(|line| line.strip_prefix("event: began "));
            let numbers: Vec<usize> = began.filter_map(|name| name.parse().ok()).collect();
            let expected = (0..300).cycle().take(numbers.len());
            assert!(expected.eq(numbers.iter().copied()), "{numbers:?}");
        }
        let never = "event: began never".to_owned();
        assert!(!log.lines().contains(&never), "it was cancelled before");
        rpc.finish().unwrap();
    });
}

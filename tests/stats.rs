//! What handles tell of a child at one moment.

mod common;

use common::{Gate, bounded, eventually, obey, script, signal, stop};
use offspring::{ChildState, Worker};
use std::time::Duration;

fn worker() -> Worker {
    Worker::new()
        .function("do", obey)
        .threaded("gate", |request, _| {
            Gate::enter(&request.to_string());
            Ok(())
        })
}

#[test]
fn snapshot_tells_state_calls_and_how_old_they_are() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").on_error(drop).start().unwrap();
        rpc.call("pid").wait().unwrap();
        let stats = rpc.stats();
        assert_eq!((stats.pid, stats.state), (rpc.pid(), ChildState::Idle));
        assert_eq!((stats.calls, stats.in_flight, stats.oldest), (1, 0, None));
        let sent = stats.sent_bytes;

        let gate = Gate::new();
        let held = rpc.function("gate").call(gate.name()).start();
        let entered = gate.entered();
        // Others are answered meanwhile.
        eventually("it is a while", || {
            rpc.call("pid").wait().unwrap();
            rpc.stats().oldest.unwrap() >= Duration::from_millis(300)
        });
        let stats = rpc.stats();
        assert_eq!((stats.state, stats.in_flight), (ChildState::Busy, 1));
        assert!(stats.calls > 1 && stats.sent_bytes > sent);
        entered.open();
        held.wait().unwrap();
        assert_eq!(rpc.stats().state, ChildState::Idle);

        let aborts = rpc.call("abort").wait();
        let error = common::lost(aborts);
        let stats = rpc.stats();
        assert_eq!(
            (stats.state, stats.in_flight, stats.oldest),
            (ChildState::Ended, 0, None)
        );
        let line = stats.to_string();
        assert!(
            !line.contains('\n') && line.contains(&error.to_string()),
            "{line}"
        );
        assert!(line.starts_with(&format!("pid {} ended, ", error.pid().unwrap())));
    });
}

#[test]
fn call_that_is_queued_has_no_age_and_one_that_has_timed_out_still_counts() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        rpc.call("pid").wait().unwrap();
        stop(rpc.pid().unwrap());
        let timed_out = rpc.call(["size", "x"]).timeout(Duration::from_millis(50));
        timed_out.wait().unwrap_err();
        assert_eq!(rpc.stats().in_flight, 1);
        assert!(rpc.stats().oldest >= Some(Duration::from_millis(20)));
        // More than the socket takes.
        let big = rpc.call(["size", &"x".repeat(8 << 20)]).start();
        assert!(rpc.stats().queued_bytes > 1 << 20);
        signal(rpc.pid().unwrap(), "CONT");
        big.wait().unwrap();
        let stats = rpc.stats();
        assert_eq!(
            (stats.calls, stats.in_flight, stats.queued_bytes),
            (3, 0, 0)
        );
        rpc.finish().unwrap();
    });
}

#[test]
fn child_that_does_not_serve_yet_is_starting_and_one_that_is_to_exit_is_leaving() {
    bounded(|| {
        let rpc = script("exec sleep 1000")
            .rpc("do")
            .on_error(drop)
            .start()
            .unwrap();
        let call = rpc.call("x").start();
        let stats = rpc.stats();
        assert_eq!(
            (stats.state, stats.calls, stats.in_flight),
            (ChildState::Starting, 0, 1)
        );
        rpc.kill();
        assert!([ChildState::Leaving, ChildState::Ended].contains(&rpc.stats().state));
        call.wait().unwrap_err();
        assert_eq!((rpc.stats().calls, rpc.stats().in_flight), (0, 0));
    });
}

//! The order of events and replies.

mod common;

use common::{Gate, Log, bounded, logged, worker};
use offspring::Worker;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn events_and_replies_arrive_in_the_order_they_were_made() {
    let mut count = 0;
    let me = Worker::new()
        .function("mix", move |_, caller| {
            for _ in 0..3 {
                caller.event(format!("event {count}"));
                count += 1;
            }
            match count % 2 {
                0 => Ok(count.to_string()),
                _ => Err(count.to_string().into()),
            }
        })
        .run_in_test();
    bounded(move || {
        let log = Log::default();
        let events = log.clone();
        let rpc = me
            .rpc("mix")
            .on_event(move |event| events.add(event.to_string()))
            .start()
            .unwrap();
        for _ in 0..1000 {
            let replies = log.clone();
            rpc.call(()).then(move |reply| {
                replies.add(match reply {
                    Ok(reply) => format!("reply {reply}"),
                    Err(error) => format!("failed {error}"),
                });
            });
        }
        rpc.finish().unwrap();
        let mut want = Vec::new();
        for call in 1..=1000 {
            let count = 3 * call;
            want.extend((count - 3..count).map(|n| format!("event {n}")));
            let word = if count % 2 == 0 { "reply" } else { "failed" };
            want.push(format!("{word} {count}"));
        }
        assert_eq!(log.lines(), want);
    });
}

#[test]
fn wait_returns_after_the_callbacks_of_everything_that_came_before() {
    let me = worker().run_in_test();
    bounded(move || {
        let seen = Arc::new(AtomicUsize::new(0));
        let (events, replies) = (Arc::clone(&seen), Arc::clone(&seen));
        let rpc = me
            .rpc("do")
            .on_event(move |_| {
                events.fetch_add(1, Ordering::Relaxed);
            })
            .start()
            .unwrap();
        for round in 1..=100 {
            let replies = Arc::clone(&replies);
            rpc.call("echo").then(move |_| {
                // Gives a wait() that returns too early the time to do so.
                std::thread::yield_now();
                replies.fetch_add(1, Ordering::Relaxed);
            });
            rpc.call(["events", "50"]).wait().unwrap();
            assert_eq!(seen.load(Ordering::Relaxed), round * 51);
        }
        rpc.finish().unwrap();
    });
}

#[test]
fn reply_is_written_before_the_next_call_begins() {
    let me = worker().run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        let gate = Gate::new();
        // All three leave in one write.
        let first = rpc.call(["echo", "first"]).start();
        let held = rpc.call(["gate", gate.name()]).start();
        let last = rpc.call(["event", "last"]).start();
        let mut inside = gate.entered();
        assert_eq!(first.wait().unwrap(), ["first"]);
        // One at a time: the third does not run beside the second.
        assert!(inside.is_waiting());
        assert_eq!(log.lines(), [""; 0]);
        inside.open();
        held.wait().unwrap();
        last.wait().unwrap();
        assert_eq!(log.lines(), ["event: last"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn events_of_many_threads_are_not_interleaved() {
    let me = Worker::new()
        .function("threads", |_, caller| {
            std::thread::scope(|scope| {
                for thread in 0..4_u8 {
                    scope.spawn(move || {
                        for n in 0..100_usize {
                            caller.event([vec![thread; n * 100], n.to_string().into_bytes()]);
                        }
                    });
                }
            });
            Ok(caller.flush().to_string())
        })
        .run_in_test();
    bounded(move || {
        let log = Log::default();
        let events = log.clone();
        let rpc = me
            .rpc("threads")
            .on_event(move |event| {
                let [block, n] = event.array().unwrap();
                let n: usize = str::from_utf8(n).unwrap().parse().unwrap();
                assert_eq!(block.len(), n * 100);
                assert!(block.iter().all(|byte| *byte == block[0]));
                events.add("whole");
            })
            .start()
            .unwrap();
        assert_eq!(rpc.call(()).wait().unwrap(), ["true"]);
        assert_eq!(log.lines().len(), 400);
        rpc.finish().unwrap();
    });
}

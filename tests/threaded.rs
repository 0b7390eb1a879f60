//! Functions that run on several threads of a child.

mod common;

use common::{Gate, Log, bounded, logged, obey};
use offspring::{CallError, Caller, Strings, Worker};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

#[test]
fn as_many_calls_run_as_there_are_threads() {
    let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let threads = Mutex::new(BTreeSet::new());
    let me = Worker::new()
        .threaded("gate", move |request: Strings, _: &Caller| {
            let [name] = request.texts()?;
            if name == "report" {
                let threads = threads.lock().unwrap().len();
                return Ok([most.load(Ordering::SeqCst), threads].map(|n| n.to_string()));
            }
            let now = running.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            let thread = thread::current().name().unwrap_or_default().to_owned();
            threads.lock().unwrap().insert(thread);
            Gate::enter(name);
            running.fetch_sub(1, Ordering::SeqCst);
            Ok([String::new(), String::new()])
        })
        .threads(3)
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("gate").start().unwrap();
        Gate::new().pass_in_threes(&rpc);
        assert_eq!(rpc.call("report").wait().unwrap(), ["3", "3"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn one_thread_runs_calls_in_the_order_they_were_made() {
    let me = Worker::new().threaded("do", obey).threads(1).run_in_test();
    bounded(move || {
        let log = Log::default();
        let events = log.clone();
        let rpc = me
            .rpc("do")
            .on_event(move |event| events.add(event.to_string()))
            .start()
            .unwrap();
        let gate = Gate::new();
        rpc.call(["gate", gate.name()]).then(|_| {});
        let mut inside = gate.entered();
        for n in 0..100 {
            rpc.call(["event", &n.to_string()]).then(|_| {});
        }
        assert!(inside.is_waiting());
        assert_eq!(log.lines(), [""; 0], "one at a time");
        inside.open();
        rpc.finish().unwrap();
        let want: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(log.lines(), want);
    });
}

#[test]
fn events_and_replies_are_not_interleaved() {
    let me = Worker::new()
        .threaded("blocks", |request: Strings, caller: &Caller| {
            let [n] = request.texts()?;
            let byte: u8 = n.parse()?;
            for size in [1, 70_000, 100, 20_000] {
                caller.event([vec![byte; size], n.as_bytes().to_vec()]);
            }
            Ok([vec![byte; 30_000]])
        })
        .threads(4)
        .run_in_test();
    bounded(move || {
        let log = Log::default();
        let events = log.clone();
        let rpc = me
            .rpc("blocks")
            .on_event(move |event| {
                let [block, n] = event.array().unwrap();
                let n: u8 = str::from_utf8(n).unwrap().parse().unwrap();
                assert!(block.iter().all(|byte| *byte == n));
                events.add(format!("{n} {}", block.len()));
            })
            .start()
            .unwrap();
        let calls: Vec<_> = (0..100)
            .map(|n| (n, rpc.call(n.to_string()).start()))
            .collect();
        for (n, call) in calls {
            assert_eq!(call.wait().unwrap(), [vec![n; 30_000]]);
            // The events of one call arrive in order, and before its reply.
            let (number, lines) = (format!("{n} "), log.lines());
            let its = lines.iter().filter_map(|line| line.strip_prefix(&number));
            assert!(its.eq(["1", "70000", "100", "20000"]), "{n}");
        }
        rpc.finish().unwrap();
    });
}

#[test]
fn panic_or_error_in_one_thread_fails_its_call_only() {
    let me = Worker::new().threaded("do", obey).threads(2).run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        let gate = Gate::new();
        let held = rpc.call(["gate", gate.name()]).start();
        let inside = gate.entered();
        for n in 0..20 {
            let text = format!("no luck {n}");
            let Err(CallError::Panicked(panic)) = rpc.call(["panic", &text]).wait() else {
                panic!("it should have panicked");
            };
            assert_eq!(panic.message(), text);
            assert!(
                panic.location().contains("common/mod.rs:"),
                "{}",
                panic.location()
            );
            let error = rpc.call(["fail", &text]).wait().unwrap_err();
            assert!(matches!(&error, CallError::Failed(error) if error.to_string() == text));
            assert_eq!(rpc.call(["echo", &text]).wait().unwrap(), [text]);
        }
        inside.open();
        held.wait().unwrap();
        drop(rpc);
        assert_eq!(log.end(), "destroy");
        assert_eq!(log.lines(), ["destroy"], "the panics belong to calls");
    });
}

#[test]
fn waiting_calls_are_run_after_the_end_of_requests() {
    let me = Worker::new().threaded("do", obey).threads(2).run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        let gate = Gate::new();
        for _ in 0..2 {
            rpc.call(["gate", gate.name()]).then(|_| {});
        }
        let inside = [gate.entered(), gate.entered()];
        for n in 0..50 {
            rpc.call(["event", &n.to_string()]).then(|_| {});
        }
        let pid = rpc.pid().unwrap();
        drop(rpc);
        common::await_sleep(pid);
        drop(inside);
        assert_eq!(log.end(), "destroy");
        assert_eq!(log.lines().len(), 51);
    });
}

#[test]
fn hundreds_of_calls_of_many_callers_are_answered() {
    let me = Worker::new().threaded("do", obey).threads(8).run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        thread::scope(|scope| {
            for caller in 0..4 {
                let rpc = rpc.clone();
                scope.spawn(move || {
                    for n in 0..200 {
                        let text = format!("{caller} {n}");
                        assert_eq!(rpc.call(["echo", &text]).wait().unwrap(), [text]);
                    }
                });
            }
        });
        rpc.finish().unwrap();
    });
}

#[test]
fn flush_waits_for_what_another_thread_is_writing() {
    const LARGE: usize = 8 << 20;
    let me = Worker::new()
        .threaded("do", |request: Strings, caller: &Caller| {
            let [verb, gate] = request.texts()?;
            Gate::announce(gate);
            match verb {
                "large" => caller.event([vec![7; LARGE]]),
                _ => {
                    caller.event("small");
                    assert!(caller.flush());
                    std::process::exit(3);
                }
            }
            Ok(())
        })
        .threads(2)
        // The second event need not wait for the first.
        .high_water(2 * LARGE)
        .run_in_test();
    bounded(move || {
        let log = Log::default();
        let events = log.clone();
        let rpc = me
            .rpc("do")
            .on_event(move |event| events.add(event[0].len().to_string()))
            .on_error(drop)
            .start()
            .unwrap();
        rpc.wait_ready().unwrap();
        // Nothing is read while a callback blocks the reactor. Blocking callers write themselves.
        let (blocked, is_blocked) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        rpc.call("malformed").then(move |_| {
            blocked.send(()).unwrap();
            let _ = released.recv();
        });
        is_blocked.recv().unwrap();
        thread::scope(|scope| {
            let (large, flush) = (Gate::new(), Gate::new());
            let call = |verb: &str, gate: &Gate| {
                let (rpc, request) = (rpc.clone(), [verb, gate.name()].map(str::to_owned));
                scope.spawn(move || rpc.call(request).wait())
            };
            let first = call("large", &large);
            drop(large.entered());
            common::await_sleep(rpc.pid().unwrap());
            let second = call("flush and exit", &flush);
            drop(flush.entered());
            drop(release);
            // The first may be answered by then.
            drop(first.join().unwrap());
            common::lost(second.join().unwrap());
        });
        assert_eq!(log.lines(), [LARGE.to_string(), "5".to_owned()]);
    });
}

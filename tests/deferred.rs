//! Functions that answer later: from a timer, a descriptor, another thread, or not at all.

mod common;

use common::{FOREVER, Gate, Log, await_sleep, bounded, logged};
use offspring::{CallError, Caller, Loop, Strings, Worker};
use std::cell::{Cell, RefCell};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// A function that keeps its calls until it is called with `answer`. Then it answers them all, the
/// last one first, each with its request and the number of calls.
fn keeper() -> impl FnMut(Strings, Caller, &Loop) {
    let mut kept: Vec<(Strings, Caller)> = Vec::new();
    move |request, caller, _| {
        if request != ["answer"] {
            kept.push((request, caller));
            return;
        }
        let count = kept.len();
        for (request, caller) in kept.drain(..).rev() {
            caller.reply([request.to_string(), count.to_string()]);
        }
        caller.reply(count.to_string());
    }
}

#[test]
fn all_calls_start_immediately_and_are_answered_in_any_order() {
    let me = Worker::new().deferred("keep", keeper()).run_in_test();
    bounded(move || {
        let rpc = me.rpc("keep").start().unwrap();
        let log = Log::default();
        for n in 0..100 {
            let replies = log.clone();
            rpc.call(n.to_string())
                .then(move |reply| replies.add(reply.unwrap().to_string()));
        }
        assert_eq!(rpc.call("answer").wait().unwrap(), ["100"]);
        let want: Vec<String> = (0..100).rev().map(|n| format!("{n} 100")).collect();
        assert_eq!(log.lines(), want);
        rpc.finish().unwrap();
    });
}

#[test]
fn ten_thousand_calls_may_be_outstanding() {
    const CALLS: usize = 10_000;
    let me = Worker::new().deferred("keep", keeper()).run_in_test();
    bounded(move || {
        let rpc = me.rpc("keep").start().unwrap();
        let calls: Vec<_> = (0..CALLS)
            .map(|n| rpc.call(n.to_string()).start())
            .collect();
        assert_eq!(rpc.call("answer").wait().unwrap(), [CALLS.to_string()]);
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(call.wait().unwrap(), [n.to_string(), CALLS.to_string()]);
        }
        rpc.finish().unwrap();
    });
}

/// Answers from the place that the request names.
fn answer_from(request: Strings, caller: Caller, events: &Loop) {
    match &request[0] {
        b"function" => caller.reply("function"),
        b"timer" => drop(events.after(Duration::from_millis(1), |_| caller.reply("timer"))),
        b"repeating timer" => {
            let mut ticks = 0;
            events.every(Duration::from_millis(1), caller, move |caller, _| {
                ticks += 1;
                if ticks < 5 {
                    return Some(caller);
                }
                caller.reply("repeating timer");
                None
            });
        }
        b"readable" => {
            let (near, far) = UnixStream::pair().unwrap();
            drop(far);
            events.readable(near, caller, |_, caller, _| {
                caller.reply("readable");
                None
            });
        }
        b"writable" => {
            let (near, far) = UnixStream::pair().unwrap();
            events.writable(near, (caller, far), |_, (caller, _), _| {
                caller.reply("writable");
                None
            });
        }
        b"thread" => drop(thread::spawn(|| caller.reply("thread"))),
        b"post" => {
            let poster = events.poster();
            thread::spawn(move || poster.post(|_| caller.reply("post")));
        }
        b"offload" => events.offload(|| "offload", |word, _| caller.reply(word)),
        b"error" => drop(events.after(Duration::ZERO, |_| caller.fail("no luck"))),
        other => caller.fail(format!("no `{}`", other.escape_ascii())),
    }
}

#[test]
fn answers_come_from_timers_descriptors_and_threads() {
    let me = Worker::new().deferred("from", answer_from).run_in_test();
    bounded(move || {
        let rpc = me.rpc("from").start().unwrap();
        let places = [
            "function",
            "timer",
            "repeating timer",
            "readable",
            "writable",
            "thread",
            "post",
            "offload",
        ];
        // One at a time, with a loop that blocks in between, and then all simultaneously.
        for place in places {
            assert_eq!(rpc.call(place).wait().unwrap(), [place]);
        }
        let rounds = (0..20).flat_map(|_| places);
        let calls: Vec<_> = rounds.map(|p| (p, rpc.call(p).start())).collect();
        for (place, call) in calls {
            assert_eq!(call.wait().unwrap(), [place]);
        }
        let error = rpc.call("error").wait().unwrap_err();
        assert!(matches!(&error, CallError::Failed(_)), "{error:?}");
        assert_eq!(error.to_string(), "no luck");
        rpc.finish().unwrap();
    });
}

#[test]
fn answer_from_a_thread_wakes_a_blocked_loop() {
    let me = Worker::new()
        .deferred("thread", |request, caller: Caller, _| {
            thread::spawn(move || {
                Gate::enter(request.texts::<1>().unwrap()[0]);
                caller.event("from the thread");
                caller.reply("answered");
            });
        })
        .run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("thread"));
        let rpc = builder.start().unwrap();
        let gate = Gate::new();
        let mut call = rpc.call(gate.name()).start();
        let inside = gate.entered();
        await_sleep(rpc.pid().unwrap());
        assert!(call.try_wait().is_none());
        inside.open();
        assert_eq!(call.wait().unwrap(), ["answered"]);
        assert_eq!(log.lines(), ["event: from the thread"]);

        // The last answer comes when requests have ended: it wakes the loop, too.
        let call = rpc.call(gate.name()).start();
        let inside = gate.entered();
        let pid = rpc.pid().unwrap();
        drop(rpc);
        await_sleep(pid);
        inside.open();
        assert_eq!(call.wait().unwrap(), ["answered"]);
        assert_eq!(log.end(), "destroy");
    });
}

/// Drops the call in the place that the request names.
fn drop_in(request: Strings, caller: Caller, events: &Loop) {
    match &request[0] {
        b"function" => drop(caller),
        b"timer" => drop(events.after(Duration::ZERO, move |_| drop(caller))),
        b"end of a timer" => {
            events.every(Duration::ZERO, caller, |_, _| None);
        }
        b"cancelled timer" => events.after(FOREVER, |_| caller.reply(())).cancel(),
        b"cancelled descriptor" => {
            let (near, far) = UnixStream::pair().unwrap();
            let keep = (caller, far);
            let watch = events.readable(near, keep, |_, keep, _| Some(keep));
            watch.cancel();
        }
        b"descriptor" => {
            let (near, _) = UnixStream::pair().unwrap();
            events.readable(near, caller, |_, _, _| None);
        }
        b"thread" => drop(thread::spawn(move || drop(caller))),
        b"post" => events.poster().post(move |_| drop(caller)),
        b"offload" => events.offload(move || drop(caller), |(), _| ()),
        b"then of an offload" => events.offload(|| (), move |(), _| drop(caller)),
        _ => caller.reply(()),
    }
}

#[test]
fn call_that_is_dropped_is_unanswered() {
    let me = Worker::new().deferred("drop", drop_in).run_in_test();
    bounded(move || {
        let rpc = me.rpc("drop").start().unwrap();
        for place in [
            "function",
            "timer",
            "end of a timer",
            "cancelled timer",
            "cancelled descriptor",
            "descriptor",
            "thread",
            "post",
            "offload",
            "then of an offload",
        ] {
            let error = rpc.call(place).wait().unwrap_err();
            assert!(matches!(error, CallError::Unanswered), "{place}: {error:?}");
            rpc.call("go on").wait().unwrap();
        }
        rpc.finish().unwrap();
    });
}

#[test]
fn function_has_returned_when_its_call_is_answered() {
    let running = Rc::new(Cell::new(false));
    let me = Worker::new()
        .deferred("later", move |_, caller: Caller, events| {
            running.set(true);
            let seen = Rc::clone(&running);
            events.after(Duration::ZERO, move |_| {
                caller.reply(seen.get().to_string());
            });
            running.set(false);
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("later").start().unwrap();
        assert_eq!(rpc.call(()).wait().unwrap(), ["false"]);
    });
}

#[test]
fn panic_in_a_function_fails_its_call_only() {
    let kept = Rc::new(RefCell::new(None));
    let me = Worker::new()
        .deferred("do", move |request, caller: Caller, _| {
            match request.to_string().as_str() {
                "keep" => drop(kept.replace(Some(caller))),
                "answer" => {
                    kept.take().unwrap().reply("kept");
                    caller.reply("on");
                }
                "panic and keep" => {
                    kept.replace(Some(caller));
                    panic!("while the call is kept");
                }
                what => panic!("{what}"),
            }
        })
        .run_in_test();
    bounded(move || {
        let log = Log::default();
        let events = log.clone();
        let rpc = me.rpc("do").on_event(move |event| {
            events.add(event.to_string());
        });
        let rpc = rpc.start().unwrap();
        let kept = rpc.call("keep").start();
        let Err(CallError::Panicked(panic)) = rpc.call("dear me").wait() else {
            panic!("it should have panicked");
        };
        assert_eq!(panic.message(), "dear me");
        assert!(
            panic.location().contains("deferred.rs:"),
            "{}",
            panic.location()
        );
        rpc.call("answer").wait().unwrap();
        assert_eq!(kept.wait().unwrap(), ["kept"]);
        assert_eq!(log.lines(), [""; 0]);

        // A call that survives its function's panic does not fail; the panic is reported.
        let kept = rpc.call("panic and keep").start();
        rpc.call("answer").wait().unwrap();
        assert_eq!(kept.wait().unwrap(), ["kept"]);
        let lines = log.lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].starts_with("error a callback panicked at "),
            "{lines:?}"
        );
        assert!(lines[0].ends_with("while the call is kept"), "{lines:?}");
        rpc.finish().unwrap();
    });
}

#[test]
fn call_that_is_answered_while_the_process_exits_ends_once() {
    let me = Worker::new()
        .deferred("exit", |_, caller: Caller, events| {
            let (send, receive) = mpsc::channel::<()>();
            thread::spawn(move || {
                let _ = receive.recv();
                caller.reply(());
            });
            events.after(Duration::ZERO, move |_| {
                drop(send);
                std::process::exit(3);
            });
        })
        .run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("exit"));
        let rpc = builder.start().unwrap();
        // Answered or lost, but not both, and not neither.
        drop(rpc.call(()).wait());
        assert_eq!(log.end(), "error: Died");
    });
}

/// Another thread gives the answer that a request waits for while the loop is about to block.
#[test]
fn request_starts_when_another_thread_answers_the_one_before() {
    let me = Worker::new()
        .max_running(3)
        .deferred("do", |request: Strings, caller: Caller, _| {
            let n: u64 = request.texts::<1>().unwrap()[0].parse().unwrap();
            caller.event("it begins");
            thread::spawn(move || {
                spin(n % 7 * 30);
                caller.reply("done");
            });
            spin(n % 11 * 20);
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").on_event(drop).start().unwrap();
        for _ in 0..5 {
            let calls: Vec<_> = (0..2000).map(|n| rpc.call(n.to_string()).start()).collect();
            for call in calls {
                assert_eq!(call.wait().unwrap(), ["done"]);
            }
        }
        rpc.finish().unwrap();
    });
}

/// Takes this many microseconds, and no wake-up.
fn spin(microseconds: u64) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_micros(microseconds) {}
}

/// Answers its call when it is dropped.
struct Late(RefCell<Option<Caller>>);

impl Drop for Late {
    fn drop(&mut self) {
        if let Some(caller) = self.0.take() {
            caller.reply("late");
        }
    }
}

thread_local! {
    static LATE: Late = const { Late(RefCell::new(None)) };
}

#[test]
fn call_is_answered_at_the_end_of_a_thread() {
    let me = Worker::new()
        .deferred("do", |_: Strings, caller: Caller, _| {
            thread::spawn(move || {
                LATE.with(|late| late.0.replace(Some(caller)));
                // The library's locals of this thread are created after it, and dropped before.
                LATE.with(|late| late.0.borrow().as_ref().unwrap().event("it begins"));
            });
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").on_event(drop).start().unwrap();
        assert_eq!(rpc.call(()).wait().unwrap(), ["late"]);
        rpc.finish().unwrap();
    });
}

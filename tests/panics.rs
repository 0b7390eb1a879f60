//! Panics where nobody expects them: values that panic when they are dropped, as payloads of panics
//! and in what callbacks capture, and a reactor that can serve no longer.

mod common;

use common::{FOREVER, Gate, alone, bounded, eventually, logged, obey, worker};
use offspring::{
    BoxError, CallError, Caller, Encode, ErrorKind, Loop, OctetStrings, Octets, Output, Process,
    Reactor, Refusal, RpcBuilder, Stdio, Strings, Worker,
};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::panic_any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Panics when it is dropped, with another one like it, and says before that it does. But not while a
/// panic unwinds, when that aborts the process.
struct Bomb(Option<mpsc::Sender<()>>);

impl Drop for Bomb {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        if let Some(dropped) = &self.0 {
            let _ = dropped.send(());
        }
        panic_any(Bomb(None));
    }
}

const BOMB: Bomb = Bomb(None);

/// Whether what a worker's functions captured panics when it is dropped. Set in children only, as the
/// parent drops its copy, too.
static ARMED: AtomicBool = AtomicBool::new(false);

struct Captured;

impl Drop for Captured {
    fn drop(&mut self) {
        if ARMED.load(Ordering::Relaxed) {
            drop(BOMB);
        }
    }
}

#[test]
fn values_that_panic_when_they_are_dropped_leave_a_shared_reactor_alone() {
    let me = worker()
        .function("ask", |service, caller| {
            let service = service.texts::<1>()?[0].to_owned();
            Ok(caller.ask(service, ())?)
        })
        .run_in_test();
    bounded(move || {
        let reactor = Reactor::new().unwrap();
        let other = me.rpc("do").reactor(&reactor).start().unwrap();
        let (dropped, drops) = mpsc::channel();
        let bomb = || Bomb(Some(dropped.clone()));
        let (line, event, error, destroy) = (bomb(), bomb(), bomb(), bomb());
        let (now, later) = (bomb(), bomb());
        let stderr = Stdio::lines(move |_, _| {
            let _ = &line;
            panic_any(BOMB);
        });
        // The only owner of the callback that is left then is the handle.
        let rpc = { me }.stderr(stderr).rpc("do");
        let rpc = rpc
            .reactor(&reactor)
            .on_event(move |_| {
                let _ = &event;
                panic_any(BOMB);
            })
            .on_ask("now", move |_| -> Result<(), BoxError> {
                let _ = &now;
                panic_any(BOMB)
            })
            .on_ask_deferred("later", move |_, asker| {
                let (_later, _asker) = (&later, asker);
                panic_any(BOMB)
            })
            .on_error(move |_| drop(error))
            .on_destroy(move || drop(destroy))
            .start()
            .unwrap();
        for service in ["now", "later"] {
            let error = rpc.function("ask").call(service).wait().unwrap_err();
            assert!(error.to_string().contains("panicked"), "{error}");
        }
        rpc.call(["stderr", "a line"]).wait().unwrap();
        rpc.call(["events", "3"]).wait().unwrap();
        let (called, calls) = mpsc::channel();
        for _ in 0..3 {
            let called = called.clone();
            rpc.call("echo").then(move |_| {
                called.send(()).unwrap();
                panic_any(BOMB);
            });
            let captured = bomb();
            rpc.call("echo").then(move |_| drop(captured));
            let captured = bomb();
            let progress = move |_| {
                let _ = &captured;
            };
            drop(rpc.call("echo").on_progress(progress).start());
        }
        // A call that is refused, with more to be dropped.
        rpc.clone().finish().unwrap();
        let (captured, called) = (bomb(), called);
        let refused = rpc.call("echo").on_progress(move |_| {
            let _ = &captured;
        });
        refused.then(move |outcome| {
            assert!(matches!(outcome, Err(CallError::Refused(Refusal::Closed))));
            called.send(()).unwrap();
        });
        assert_eq!(calls.iter().count(), 4);
        drop(dropped);
        let drops = thread::spawn(move || drops.iter().count());
        assert_eq!(drops.join().unwrap(), 6 + 3 + 3 + 1, "each panicked");

        assert_eq!(other.call(["echo", "on"]).wait().unwrap(), ["on"]);
        other.finish().unwrap();
    });
}

/// A reply, or one that panics when it is dropped, after it was encoded.
enum Reply {
    Strings(Strings),
    Bomb(#[expect(dead_code, reason = "it is dropped")] Bomb),
}

impl OctetStrings for Reply {
    fn push_all(self, output: &mut Output) {
        match &self {
            Reply::Strings(strings) => Octets::encode(strings, output).unwrap(),
            Reply::Bomb(_) => "encoded".push_all(output),
        }
    }
}

fn explode(request: Strings, caller: &Caller) -> Result<Reply, BoxError> {
    match &request[0] {
        b"bomb" => panic_any(BOMB),
        b"reply" => return Ok(Reply::Bomb(BOMB)),
        b"arm" => ARMED.store(true, Ordering::Relaxed),
        _ => return obey(request, caller).map(Reply::Strings),
    }
    Ok(Reply::Strings(Strings::new()))
}

/// Each of many calls ends once with a panic, more of them than there are threads. The child answers
/// others, and exits as if nothing had happened.
fn check_child(me: &Process, verbs: &[&str]) {
    let (builder, log) = logged(me.rpc("do"));
    let rpc = builder.start().unwrap();
    for verb in verbs {
        let calls: Vec<_> = (0..20).map(|_| rpc.call(*verb).start()).collect();
        for call in calls {
            let outcome = call.wait();
            assert!(
                matches!(outcome, Err(CallError::Panicked(_))),
                "{verb}: {outcome:?}"
            );
        }
    }
    assert_eq!(rpc.call(["echo", "on"]).wait().unwrap(), ["on"]);
    rpc.call("arm").wait().unwrap();
    let exit = rpc.finish().unwrap();
    assert!(exit.status().unwrap().success(), "{exit:?}");
    assert_eq!(log.lines(), ["destroy"]);
}

/// A table with more that is dropped at the end.
fn table() -> Worker {
    let (setup, function) = (Captured, Captured);
    Worker::new()
        .setup("unused", move |_| {
            let _ = &setup;
            Ok(())
        })
        .function("unused", move |request, _| {
            let _ = &function;
            Ok(request)
        })
}

#[test]
fn returning_function_survives_values_that_panic_when_they_are_dropped() {
    let (captured, done) = (Captured, Captured);
    let me = table()
        .function("do", move |request, caller| {
            let _ = &captured;
            explode(request, caller)
        })
        // It is for the other kinds of functions.
        .done(move |_| drop(done))
        .run_in_test();
    bounded(move || check_child(&me, &["bomb", "reply"]));
}

#[test]
fn threaded_function_survives_values_that_panic_when_they_are_dropped() {
    let captured = Captured;
    let me = table()
        .threaded("do", move |request: Strings, caller: &Caller| {
            let _ = &captured;
            explode(request, caller)
        })
        .threads(3)
        .run_in_test();
    bounded(move || check_child(&me, &["bomb", "reply"]));
}

/// Explodes in the place that the request names.
fn explode_later(request: Strings, caller: Caller, events: &Loop) {
    let soon = Duration::from_millis(1);
    match &request[0] {
        b"function" => {
            let _caller = caller;
            panic_any(BOMB)
        }
        b"payload" => panic_any((caller, BOMB)),
        b"reply" => caller.reply(Reply::Bomb(BOMB)),
        b"timer" => {
            events.after(soon, |_| {
                let _caller = caller;
                panic_any(BOMB)
            });
        }
        b"interval" => {
            events.every(soon, caller, |_caller, _| panic_any(BOMB));
        }
        b"post" => events.poster().post(|_| {
            let _caller = caller;
            panic_any(BOMB)
        }),
        b"offload" => events.offload(|| panic_any(BOMB), |(), _| drop(caller)),
        b"value" => events.offload(
            || BOMB,
            |bomb, _| {
                let _caller = caller;
                drop(bomb);
            },
        ),
        b"cancel" => {
            // It is dropped uncalled.
            let bomb = BOMB;
            caller.cancellation().then(move || drop(bomb));
            caller.reply(());
        }
        b"arm" => {
            ARMED.store(true, Ordering::Relaxed);
            let (timer, descriptor) = (Captured, Captured);
            events.after(FOREVER, move |_| drop(timer));
            let (near, far) = UnixStream::pair().unwrap();
            let kept = (descriptor, far);
            events.readable(near, kept, |_, kept, _| Some(kept));
            caller.reply(());
        }
        _ => {
            let result = obey(request, &caller);
            caller.answer(result);
        }
    }
}

#[test]
fn deferred_function_survives_values_that_panic_when_they_are_dropped() {
    let captured = Captured;
    let me = table()
        .deferred("do", move |request, caller, events: &Loop| {
            let _ = &captured;
            explode_later(request, caller, events);
        })
        .run_in_test();
    bounded(move || {
        let verbs = [
            "function", "payload", "reply", "timer", "interval", "post", "offload", "value",
        ];
        check_child(&me, &verbs);
        let rpc = me.rpc("do").start().unwrap();
        rpc.call("cancel").wait().unwrap();
        rpc.call(["echo", "on"]).wait().unwrap();
        rpc.finish().unwrap();
    });
}

/// Has the pollers of this process fail from now on.
#[expect(unsafe_code, reason = "a system call")]
fn break_pollers() {
    let null = fs::File::open("/dev/null").unwrap();
    for (number, what) in common::descriptors(std::process::id()) {
        if what == "anon_inode:[eventpoll]" {
            // SAFETY: takes no pointers. The descriptor stays open, for something useless.
            let result = unsafe { libc::dup2(null.as_raw_fd(), number as i32) };
            assert!(result >= 0, "{}", std::io::Error::last_os_error());
        }
    }
}

#[test]
fn reactor_that_can_serve_no_longer_ends_everything_with_an_error() {
    let me = worker().run_in_test();
    alone(move || {
        let (shared, gate) = (Reactor::new().unwrap(), Gate::new());
        let start = |builder: RpcBuilder| {
            let (builder, log) = logged(builder);
            let rpc = builder.start().unwrap();
            rpc.wait_ready().unwrap();
            (rpc, log)
        };
        let (busy, busy_log) = start(me.rpc("do").reactor(&shared));
        let (idle, idle_log) = start(me.rpc("do").reactor(&shared));
        let (own, own_log) = start(me.rpc("do"));
        // The thread that finishes it serves it.
        let quiet = me.rpc("do").start().unwrap();
        quiet.wait_ready().unwrap();
        let (sender, ended) = mpsc::channel();
        for n in 0..3 {
            let sender = sender.clone();
            busy.call(["gate", gate.name()]).then(move |outcome| {
                sender.send((n, common::lost_kind(outcome))).unwrap();
            });
        }
        drop(sender);
        let _inside = gate.entered();
        let waiting = {
            let busy = busy.clone();
            thread::spawn(move || common::lost_kind(busy.call("echo").wait()))
        };
        break_pollers();
        // Wakes the reactors.
        drop(busy.call("echo").start());
        drop(own.call("echo").start());
        let all: Vec<_> = ended.iter().collect();
        assert_eq!(all, [0, 1, 2].map(|n| (n, ErrorKind::Io)));
        assert_eq!(waiting.join().unwrap(), ErrorKind::Io);
        for (rpc, log) in [(busy, busy_log), (idle, idle_log), (own, own_log)] {
            assert_eq!(log.end(), "error: Io");
            assert_eq!(common::lost_kind(rpc.call("echo").wait()), ErrorKind::Io);
            assert_eq!(rpc.finish().unwrap_err().kind(), ErrorKind::Io);
        }
        let error = quiet.finish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert!(
            error.to_string().contains("cannot wait for descriptors"),
            "{error}"
        );
        eventually("all are reaped", || common::children().is_empty());
        // Nothing hangs, now or later.
        assert!(me.rpc("do").reactor(&shared).start().is_err());
        drop(shared);
        eventually("no thread is left", || common::reactors() == 0);
    });
}

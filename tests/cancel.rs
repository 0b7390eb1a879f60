//! Cancelled calls: never sent, never started, or their function is notified.

mod common;

use common::{FOREVER, Gate, await_sleep, bounded, eventually, logged, obey, time_out};
use offspring::{
    CallError, Caller, Loop, Pending, Phase, Plain, Process, Rpc, StopStage, Strings, Worker,
};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// `hold NAME` reports by events that it started and that it is cancelled; `answer NAME` answers
/// it, and replies whether it was cancelled; `names` replies with the names of held calls.
fn hold() -> impl FnMut(Strings, Caller, &Loop) {
    let mut held: BTreeMap<String, Caller> = BTreeMap::new();
    move |request, caller, _| {
        let name = || str::from_utf8(&request[1]).unwrap().to_owned();
        match &request[0] {
            b"hold" => {
                let (name, parent) = (name(), caller.parent().clone());
                caller.event(format!("started {name}"));
                let notified = format!("notified {name}");
                caller.cancellation().then(move || parent.event(notified));
                held.insert(name, caller);
            }
            b"answer" => {
                let answered = held.remove(&name()).unwrap();
                caller.reply(answered.is_cancelled().to_string());
                answered.reply("late");
            }
            b"names" => caller.reply(held.keys().collect::<Strings>()),
            other => panic!("no `{}`", other.escape_ascii()),
        }
    }
}

/// Starts a call of this name, and cancels it in some way.
type GiveUp = fn(&Rpc, &str);

const WAYS: &[(&str, GiveUp)] = &[
    ("cancel", |rpc, name| {
        let call = rpc.call(["hold", name]).start();
        started(rpc);
        call.cancel();
    }),
    ("drop", |rpc, name| {
        let call = rpc.call(["hold", name]).cancel_on_drop().start();
        started(rpc);
        drop(call);
    }),
    ("timeout", |rpc, name| time_out(|| rpc.call(["hold", name]))),
];

/// Waits until all calls so far have started.
fn started(rpc: &Rpc) {
    rpc.call("names").wait().unwrap();
}

#[test]
fn running_function_is_notified_and_its_late_answer_is_dropped() {
    let me = Worker::new().deferred("do", hold()).run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        rpc.wait_ready().unwrap();
        let kept = rpc.call(["hold", "kept"]).start();
        for (way, give_up) in WAYS {
            give_up(&rpc, way);
            let notified = format!("event: notified {way}");
            eventually("it is notified", || log.lines().contains(&notified));
            // Its reply is sent before this one's, and is dropped.
            assert_eq!(rpc.call(["answer", way]).wait().unwrap(), ["true"]);
            assert_eq!(rpc.call("names").wait().unwrap(), ["kept"]);
        }
        assert_eq!(rpc.call(["answer", "kept"]).wait().unwrap(), ["false"]);
        assert_eq!(kept.wait().unwrap(), ["late"]);
        assert!(!log.lines().contains(&"event: notified kept".to_owned()));
        drop(rpc);
        assert_eq!(log.end(), "destroy");
    });
}

#[test]
fn function_is_notified_when_the_handle_is_gone() {
    // It answers only if it is notified.
    let me = Worker::new()
        .deferred("wait", |request: Strings, caller: Caller, events| {
            caller.progress("waits");
            let (cancellation, poster) = (caller.cancellation(), events.poster());
            cancellation.then(move || poster.post(|_| caller.reply(request)));
        })
        .run_in_test();
    bounded(move || {
        for timeout in [None, Some(Duration::from_millis(30))] {
            let (builder, log) = logged(me.rpc("wait"));
            let rpc = builder.start().unwrap();
            let (send, waits) = mpsc::channel();
            let call = rpc.call(()).on_progress(move |_| _ = send.send(()));
            let call = call.timeout(timeout.unwrap_or(FOREVER)).start();
            let other = rpc.clone();
            drop(rpc);
            if timeout.is_none() {
                waits.recv().unwrap();
                let finish = thread::spawn(move || other.finish().unwrap());
                call.cancel();
                assert_eq!(finish.join().unwrap().stage(), StopStage::Closed);
            } else {
                assert_eq!(other.finish().unwrap().stage(), StopStage::Closed);
                assert!(matches!(call.wait(), Err(CallError::TimedOut(_))));
            }
            assert_eq!(log.end(), "destroy");
        }
    });
}

#[test]
fn call_is_not_cancelled_by_dropping_or_by_taking_its_outcome() {
    let me = Worker::new().deferred("do", hold()).run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        drop(rpc.call(["hold", "dropped"]).start());
        let taken = rpc.call(["hold", "taken"]).cancel_on_drop().start();
        let mut polled = rpc.call(["hold", "polled"]).cancel_on_drop().start();
        rpc.call(["hold", "then"]).cancel_on_drop().then(|_| {});
        started(&rpc);
        for name in ["dropped", "taken", "polled", "then"] {
            assert_eq!(rpc.call(["answer", name]).wait().unwrap(), ["false"]);
        }
        assert_eq!(taken.wait().unwrap(), ["late"]);
        assert_eq!(polled.wait_timeout(FOREVER).unwrap().unwrap(), ["late"]);
        drop(polled);
        // One that was answered can no longer be cancelled.
        let answered = rpc.call(["hold", "answered"]).cancel_on_drop().start();
        rpc.call(["answer", "answered"]).wait().unwrap();
        started(&rpc);
        answered.cancel();
        started(&rpc);
        rpc.finish().unwrap();
        let notified = log.lines().iter().any(|line| line.contains("notified"));
        assert!(!notified, "{:?}", log.lines());
    });
}

#[test]
fn threaded_function_is_notified() {
    let me = Worker::new()
        .threaded("wait", |_, caller: &Caller| {
            let (send, receive) = mpsc::channel();
            let cancellation = caller.cancellation();
            let before = cancellation.is_cancelled();
            cancellation.then(move || send.send(()).unwrap());
            caller.progress("waits");
            receive.recv()?;
            // A callback that is registered after the cancellation runs immediately.
            let (send, receive) = mpsc::channel();
            let me = thread::current().id();
            cancellation.then(move || send.send(thread::current().id() == me).unwrap());
            let now = [before, caller.is_cancelled(), receive.recv()?];
            caller.event(now.map(|flag| flag.to_string()));
            Ok(())
        })
        .threads(3)
        .run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("wait"));
        let rpc = builder.start().unwrap();
        let wait = || {
            let (send, receive) = mpsc::channel();
            let call = rpc.call(()).on_progress(move |_| send.send(()).unwrap());
            (call, receive)
        };
        let (call, waits) = wait();
        let call = call.start();
        waits.recv().unwrap();
        call.cancel();
        let (call, waits) = wait();
        let call = call.cancel_on_drop().start();
        waits.recv().unwrap();
        drop(call);
        time_out(|| rpc.call(()));
        // They all return, or this would not.
        rpc.finish().unwrap();
        let lines = log.lines();
        assert_eq!(lines[..3], ["event: false true true"; 3], "{lines:?}");
    });
}

/// The reactor has just found that there are no more deadlines, and is about to block.
#[test]
fn call_that_is_made_while_another_times_out_has_its_timeout() {
    let mut kept = Vec::new();
    let me = Worker::new()
        .deferred("keep", move |request: Strings, caller, _| {
            if !request.is_empty() {
                Gate::announce(request.texts::<1>().unwrap()[0]);
            }
            kept.push(caller);
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("keep").on_error(drop).start().unwrap();
        let (gate, short) = (Gate::new(), Duration::from_millis(20));
        let name = gate.name().to_owned();
        let (send, timed_out) = mpsc::channel();
        rpc.call(()).timeout(short).then(move |_| {
            send.send(()).unwrap();
            drop(gate.entered());
        });
        timed_out.recv().unwrap();
        let outcome = rpc.call(name).timeout(short).wait();
        assert!(matches!(outcome, Err(CallError::TimedOut(Phase::Begun))));
        rpc.kill();
    });
}

/// In a child that runs one call at a time, cancelling the running call releases it, so that the
/// calls that wait behind it are considered after the cancellations that were sent before.
fn one_at_a_time(worker: Worker) {
    let me = worker.run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("one"));
        let rpc = builder.start().unwrap();
        let first = rpc.call("first").start();
        eventually("the first runs", || log.lines() == ["event: first"]);
        let cancelled = rpc.call("cancelled").start();
        let dropped = rpc.call("dropped").cancel_on_drop().start();
        let waits = rpc.call("waits").start();
        // Everything before it has been sent by now.
        time_out(|| rpc.call("timed out"));
        cancelled.cancel();
        drop(dropped);
        first.cancel();
        assert_eq!(waits.wait().unwrap(), ["waits"]);
        drop(rpc);
        assert_eq!(log.end(), "destroy");
        assert_eq!(log.lines(), ["event: first", "event: waits", "destroy"]);
    });
}

#[test]
fn call_that_waits_for_max_running_never_starts() {
    one_at_a_time(
        Worker::new()
            .deferred("one", |request: Strings, caller: Caller, events| {
                caller.event(&request);
                if request != ["first"] {
                    return caller.reply(request);
                }
                let poster = events.poster();
                caller
                    .cancellation()
                    .then(move || poster.post(|_| drop(caller)));
            })
            .max_running(1),
    );
}

#[test]
fn call_that_waits_for_a_thread_never_starts() {
    one_at_a_time(
        Worker::new()
            .threaded("one", |request: Strings, caller: &Caller| {
                caller.event(&request);
                if request == ["first"] {
                    let (send, receive) = mpsc::channel();
                    caller.cancellation().then(move || send.send(()).unwrap());
                    receive.recv()?;
                }
                Ok(request)
            })
            .threads(1),
    );
}

#[test]
fn call_that_waits_behind_one_at_a_time_never_starts() {
    behind(|gate| vec!["gate".into(), gate.into()]);
}

#[test]
fn call_that_waits_behind_a_panic_never_starts() {
    behind(|gate| vec!["gate and panic".into(), gate.into()]);
}

#[test]
fn call_that_waits_behind_a_large_request_never_starts() {
    behind(|gate| vec!["gate".into(), gate.into(), "x".repeat(200_000)]);
}

/// Cancels calls that wait behind one that is held at a gate.
fn behind(first: impl FnOnce(&str) -> Vec<String> + Send + 'static) {
    let me = Worker::new().function("do", obey).run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        let gate = Gate::new();
        let first = rpc.call(first(gate.name())).start();
        let inside = gate.entered();
        let cancelled = rpc.call(["event", "cancelled"]).start();
        let dropped = rpc.call(["event", "dropped"]).cancel_on_drop().start();
        let waits = rpc.call(["event", "waits"]).start();
        time_out(|| rpc.call(["event", "timed out"]));
        cancelled.cancel();
        drop(dropped);
        // This takes long enough for the child to notice that time has passed since its last read.
        time_out(|| rpc.call(["event", "timed out, too"]));
        time_out(|| rpc.call("echo"));
        inside.open();
        drop(first.wait());
        waits.wait().unwrap();
        rpc.finish().unwrap();
        assert_eq!(log.lines(), ["event: waits", "destroy"]);
    });
}

#[test]
fn call_that_is_still_queued_is_never_sent() {
    let me = Worker::new().function("do", obey).run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        rpc.call("echo").wait().unwrap();
        common::stop(rpc.pid().unwrap());
        // More than the socket takes.
        let large = rpc.call([b"size".to_vec(), vec![0; 16 << 20]]).start();
        let cancelled = rpc.call(["event", "cancelled"]).start();
        let dropped = rpc.call(["event", "dropped"]).cancel_on_drop().start();
        let timed_out = rpc
            .call(["event", "timed out"])
            .timeout(Duration::from_millis(20))
            .wait();
        let timed_out = timed_out.unwrap_err();
        assert_eq!(timed_out.phase(), Some(Phase::Queued), "{timed_out}");
        cancelled.cancel();
        drop(dropped);
        let last = rpc.call(["event", "last"]).start();
        common::signal(rpc.pid().unwrap(), "CONT");
        assert_eq!(large.wait().unwrap(), [(16 << 20).to_string()]);
        last.wait().unwrap();
        assert_eq!(log.lines(), ["event: last"]);
        rpc.finish().unwrap();
    });
}

fn request(id: u32, text: &[u8]) -> Vec<u8> {
    let len = text.len() as u32 + 1;
    let header = [id.to_be_bytes(), len.to_be_bytes()].concat();
    [&header, &[len as u8 - 1][..], text].concat()
}

#[test]
fn plain_peer_gets_sent_requests_and_no_cancellations() {
    bounded(|| {
        let (near, mut far) = UnixStream::pair().unwrap();
        let rpc = Process::stream(near).plain(Plain::Tagged).rpc("peer");
        let rpc = rpc.start().unwrap();
        let cancel = |call: Pending| call.cancel();
        cancel_sent(&rpc, &mut far, cancel);

        // Large enough to hold up what follows it.
        let block = vec![b'x'; 32 << 20];
        let large = rpc.call([&block]).start();
        let held_up: Vec<Pending> = (0..10).map(|_| rpc.call("never").start()).collect();
        let timed_out = rpc
            .call("never")
            .timeout(Duration::from_millis(20))
            .wait()
            .unwrap_err();
        assert!(matches!(timed_out, CallError::TimedOut(Phase::Queued)));
        held_up.into_iter().for_each(cancel);
        let last = rpc.call("last").start();
        let mut head = [0; 12];
        far.read_exact(&mut head).unwrap();
        far.read_exact(&mut vec![0; block.len()]).unwrap();
        let mut got = [0; 13];
        far.read_exact(&mut got).unwrap();
        assert_eq!(got[4..], request(0, b"last")[4..]);
        let ids = [&head[..4], &got[..4]];
        for id in ids {
            far.write_all(&[id, &[0; 4][..]].concat()).unwrap();
        }
        large.wait().unwrap();
        last.wait().unwrap();
        drop(rpc);
        assert_eq!(far.read(&mut got).unwrap(), 0, "nothing more was sent");
    });
}

/// An id is not reused before the late reply has arrived.
fn cancel_sent(rpc: &Rpc, far: &mut UnixStream, cancel: impl Fn(Pending)) {
    let call = rpc.call("one").start();
    let mut got = [0; 12];
    far.read_exact(&mut got).unwrap();
    assert_eq!(got[..], request(1, b"one"));
    cancel(call);
    let call = rpc.call("two").start();
    far.read_exact(&mut got).unwrap();
    assert_eq!(got[..], request(2, b"two"));
    far.write_all(b"\0\0\0\x01\0\0\0\x02\x011\0\0\0\x02\0\0\0\x02\x012")
        .unwrap();
    assert_eq!(call.wait().unwrap(), ["2"]);
}

#[test]
fn thousands_of_cancelled_calls_are_all_notified() {
    const CALLS: usize = 5000;
    let me = Worker::new().deferred("do", hold()).run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        let calls: Vec<_> = (0..CALLS)
            .map(|n| rpc.call(["hold", &n.to_string()]).start())
            .collect();
        started(&rpc);
        for call in calls {
            call.cancel();
        }
        eventually("all are notified", || log.lines().len() == 2 * CALLS);
        // They must be answered although they are cancelled.
        let pid = rpc.pid().unwrap();
        await_sleep(pid);
        for n in 0..CALLS {
            rpc.call(["answer", &n.to_string()]).then(|_| {});
        }
        rpc.finish().unwrap();
    });
}

#[test]
fn panic_in_a_cancellation_callback_affects_nothing_else() {
    let me = Worker::new()
        .deferred("do", |request: Strings, caller: Caller, events| {
            if request == ["echo"] {
                return caller.reply(request);
            }
            let (parent, poster) = (caller.parent().clone(), events.poster());
            let cancellation = caller.cancellation();
            cancellation.then(|| panic!("notified"));
            cancellation.then(move || {
                parent.event("notified");
                poster.post(|_| drop(caller));
            });
        })
        .run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        let call = rpc.call(()).start();
        rpc.call("echo").wait().unwrap();
        call.cancel();
        eventually("the second runs, too", || {
            log.lines() == ["event: notified"]
        });
        assert_eq!(rpc.call("echo").wait().unwrap(), ["echo"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn cancellation_callback_may_answer_a_call_when_it_is_dropped() {
    let mut held = None;
    let me = Worker::new()
        .deferred("do", move |_: Strings, caller: Caller, _: &Loop| {
            let Some(first) = held.take() else {
                held = Some(caller);
                return;
            };
            caller.cancellation().then(move || drop::<Caller>(first));
            caller.reply("second");
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        let first = rpc.call("hold").start();
        assert_eq!(rpc.call("answer").wait().unwrap(), ["second"]);
        let outcome = first.wait();
        assert!(matches!(outcome, Err(CallError::Unanswered)), "{outcome:?}");
    });
}

/// Panics when it is dropped.
struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("in a destructor");
    }
}

#[test]
fn panic_in_the_destructor_of_a_callback_affects_nothing_else() {
    let me = Worker::new()
        .deferred("do", |request: Strings, caller: Caller, _| {
            if request == ["panics"] {
                let panics = PanicsWhenDropped;
                caller.cancellation().then(move || drop(panics));
            }
            caller.reply(request);
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        assert_eq!(rpc.call("panics").wait().unwrap(), ["panics"]);
        assert_eq!(rpc.call("next").wait().unwrap(), ["next"]);
        rpc.finish().unwrap();
    });
}

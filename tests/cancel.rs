//! Calls that nobody waits for any more: not sent, not started, or told.

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

/// `hold NAME` tells that it started and that it is cancelled; `answer NAME` answers it, and is
/// answered whether it was cancelled; `names` are those that have started.
fn hold() -> impl FnMut(Strings, Caller, &Loop) {
    let mut held: BTreeMap<String, Caller> = BTreeMap::new();
    move |request, caller, _| {
        let name = || str::from_utf8(&request[1]).unwrap().to_owned();
        match &request[0] {
            b"hold" => {
                let (name, parent) = (name(), caller.parent().clone());
                caller.event(format!("started {name}"));
                let told = format!("told {name}");
                caller.cancellation().then(move || parent.event(told));
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

/// Has a call of this name begin, and gives it up.
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
fn function_that_runs_is_told_and_its_late_answer_is_dropped() {
    let me = Worker::new().deferred("do", hold()).run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        rpc.wait_ready().unwrap();
        let kept = rpc.call(["hold", "kept"]).start();
        for (way, give_up) in WAYS {
            give_up(&rpc, way);
            let told = format!("event: told {way}");
            eventually("it is told", || log.lines().contains(&told));
            // Its reply is on the way before this one's, and is nobody's.
            assert_eq!(rpc.call(["answer", way]).wait().unwrap(), ["true"]);
            assert_eq!(rpc.call("names").wait().unwrap(), ["kept"]);
        }
        assert_eq!(rpc.call(["answer", "kept"]).wait().unwrap(), ["false"]);
        assert_eq!(kept.wait().unwrap(), ["late"]);
        assert!(!log.lines().contains(&"event: told kept".to_owned()));
        drop(rpc);
        assert_eq!(log.end(), "destroy");
    });
}

#[test]
fn function_is_told_when_the_handle_is_gone() {
    // It answers only if it is told.
    let me = Worker::new()
        .deferred("wait", |request: Strings, caller: Caller, events| {
            caller.progress("waits");
            let (cancellation, poster) = (caller.cancellation(), events.poster());
            cancellation.then(move || poster.post(|_| caller.answer(Ok(request))));
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
        // One that was answered cannot be cancelled any more.
        let answered = rpc.call(["hold", "answered"]).cancel_on_drop().start();
        rpc.call(["answer", "answered"]).wait().unwrap();
        started(&rpc);
        answered.cancel();
        started(&rpc);
        rpc.finish().unwrap();
        let told = log.lines().iter().any(|line| line.contains("told"));
        assert!(!told, "{:?}", log.lines());
    });
}

#[test]
fn threaded_function_is_told() {
    let me = Worker::new()
        .threaded("wait", |_, caller: &Caller| {
            let (send, receive) = mpsc::channel();
            let cancellation = caller.cancellation();
            let before = cancellation.is_cancelled();
            cancellation.then(move || send.send(()).unwrap());
            caller.progress("waits");
            receive.recv()?;
            // What comes too late for that is done at once.
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

/// The reactor has just seen that there are no more deadlines, and is about to sleep.
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
        assert!(matches!(outcome, Err(CallError::TimedOut(Phase::Sent))));
        rpc.kill();
    });
}

/// What is held in a child that may run one at a time is let go by its cancellation, so that whatever
/// waits behind it is looked at after the cancellations that were sent before.
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
        // Everything before it has been sent now.
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

/// Cancels calls that wait behind one that is at a gate.
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
        // This takes long enough for the child to see that time has passed since it looked.
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
fn plain_peer_gets_what_was_sent_and_no_word_of_cancellation() {
    bounded(|| {
        let (near, mut far) = UnixStream::pair().unwrap();
        let rpc = Process::stream(Plain::Tagged, near).rpc("peer");
        let rpc = rpc.start().unwrap();
        let cancel = |call: Pending| call.cancel();
        cancel_sent(&rpc, &mut far, cancel);

        // Large enough to hold up what comes behind it.
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
        assert_eq!(far.read(&mut got).unwrap(), 0, "there is no more");
    });
}

/// An id is not used again before the late reply has come.
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
fn thousands_of_calls_are_cancelled_and_all_are_told() {
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
        eventually("all are told", || log.lines().len() == 2 * CALLS);
        // Cancelled or not, they are to be answered.
        let pid = rpc.pid().unwrap();
        await_sleep(pid);
        for n in 0..CALLS {
            rpc.call(["answer", &n.to_string()]).then(|_| {});
        }
        rpc.finish().unwrap();
    });
}

#[test]
fn callback_that_panics_when_told_hurts_nobody() {
    let me = Worker::new()
        .deferred("do", |request: Strings, caller: Caller, events| {
            if request == ["echo"] {
                return caller.reply(request);
            }
            let (told, poster) = (caller.parent().clone(), events.poster());
            let cancellation = caller.cancellation();
            cancellation.then(|| panic!("told"));
            cancellation.then(move || {
                told.event("told");
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
        eventually("the second is told, too", || log.lines() == ["event: told"]);
        assert_eq!(rpc.call("echo").wait().unwrap(), ["echo"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn what_waits_for_a_cancellation_may_answer_when_it_is_dropped() {
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
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a bomb was dropped");
    }
}

#[test]
fn panic_of_a_callback_that_is_not_needed_hurts_nobody() {
    let me = Worker::new()
        .deferred("do", |request: Strings, caller: Caller, _| {
            if request == ["bomb"] {
                let bomb = Bomb;
                caller.cancellation().then(move || drop(bomb));
            }
            caller.reply(request);
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        assert_eq!(rpc.call("bomb").wait().unwrap(), ["bomb"]);
        assert_eq!(rpc.call("next").wait().unwrap(), ["next"]);
        rpc.finish().unwrap();
    });
}

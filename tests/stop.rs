//! Stopping children, and which stages that took.

mod common;

use common::{Gate, Random, Storm, alone, bounded, logged, lost_kind, script, worker};
use offspring::{
    CallError, ErrorKind, Phase, Plain, Process, Refusal, Rpc, Stdio, StopStage, Worker,
};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A grace period for children that never exit by themselves.
const SHORT: Duration = Duration::from_millis(20);

#[test]
fn finish_waits_until_everything_is_answered_and_the_child_has_exited() {
    let me = worker().run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        for n in 0..100 {
            let replied = log.clone();
            rpc.call(["echo", &n.to_string()])
                .then(move |reply| replied.add(reply.unwrap().to_string()));
        }
        let pid = rpc.pid().unwrap();
        let exit = rpc.finish().unwrap();
        assert_eq!(exit.stage(), StopStage::Closed);
        assert_eq!(exit.status().and_then(|status| status.code()), Some(0));
        assert_eq!(common::state(pid), None, "it is reaped");
        let mut want: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        want.push("destroy".to_owned());
        assert_eq!(log.lines(), want);
    });
}

#[test]
fn end_can_be_asked_for_without_waiting() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        rpc.wait_ready().unwrap();
        assert!(rpc.try_exit().is_none());
        let other = rpc.clone();
        rpc.finish().unwrap();
        let exit = other.try_exit().expect("finish() has waited").unwrap();
        assert_eq!(exit.stage(), StopStage::Closed);
        assert_eq!(exit.status().and_then(|status| status.code()), Some(0));

        let rpc = me.rpc("do").on_error(drop).start().unwrap();
        let kind = lost_kind(rpc.call(["exit", "3"]).wait());
        let error = rpc.try_exit().expect("its call was lost").unwrap_err();
        assert_eq!((kind, error.kind()), (ErrorKind::Died, ErrorKind::Died));
        assert_eq!(error.status().and_then(|status| status.code()), Some(3));

        // Nobody waits or calls.
        let rpc = me.rpc("do").on_error(drop).start().unwrap();
        rpc.wait_ready().unwrap();
        rpc.kill();
        common::eventually("it has ended", || rpc.try_exit().is_some());
        assert_eq!(rpc.try_exit().unwrap().unwrap().stage(), StopStage::Killed);
    });
}

#[test]
fn signals_reach_the_child_and_its_group_until_it_has_ended() {
    bounded(|| {
        let (send, lines) = mpsc::channel();
        // Both shells report the signal, and live on.
        let shell =
            "trap 'echo $0 >&2' USR1; echo ready >&2; while :; do sleep 1000 & wait $!; done";
        let both = format!(r#"sh -c "{}" inner & {shell}"#, shell.replace('$', r"\$"));
        let rpc = Process::command("sh")
            .plain(Plain::Tagged)
            .args(["-c", &both, "outer"])
            .stderr(Stdio::lines(move |_, line| {
                // Shells also report how their `sleep` ended.
                if ["ready", "inner", "outer"].contains(&line) {
                    let _ = send.send(line.to_owned());
                }
            }))
            .rpc("any")
            .start()
            .unwrap();
        assert_eq!([lines.recv().unwrap(), lines.recv().unwrap()], ["ready"; 2]);
        rpc.signal(0).unwrap();
        rpc.signal(libc::SIGUSR1).unwrap();
        let mut names = [lines.recv().unwrap(), lines.recv().unwrap()];
        names.sort();
        assert_eq!(names, ["inner", "outer"]);
        assert!(rpc.try_exit().is_none(), "the handle is in use");
        let number = |signal| rpc.signal(signal).unwrap_err().raw_os_error();
        assert_eq!(number(12345), Some(libc::EINVAL));
        rpc.kill();
        common::eventually("it has ended", || rpc.try_exit().is_some());
        for signal in [0, libc::SIGUSR1, libc::SIGKILL] {
            assert_eq!(number(signal), Some(libc::ESRCH));
        }
        let (near, _far) = UnixStream::pair().unwrap();
        let stream = Process::stream(near).plain(Plain::Tagged).rpc("any");
        let error = stream.start().unwrap().signal(0).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
    });
}

/// Counts the first real-time signal. Unlike others, that is queued if it comes twice.
#[expect(unsafe_code, reason = "the standard library knows no signals")]
fn count_signals() -> &'static AtomicUsize {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn count(_: i32) {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
    let handler: extern "C" fn(i32) = count;
    // SAFETY: the handler only changes an atomic.
    unsafe { libc::signal(libc::SIGRTMIN(), handler as libc::sighandler_t) };
    &COUNT
}

#[test]
fn signal_arrives_once() {
    let me = Worker::new()
        .setup("count", |_| {
            count_signals();
            Ok(())
        })
        .function("count", |_, _| {
            Ok(count_signals().load(Ordering::Relaxed).to_string())
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.setup("count", ()).rpc("count").start().unwrap();
        rpc.wait_ready().unwrap();
        let count = || rpc.call(()).wait().unwrap()[0].to_vec();
        for want in ["1", "2", "3"] {
            // All of the last round have arrived, or the next one's number is too high.
            rpc.signal(libc::SIGRTMIN()).unwrap();
            common::eventually("it arrives", || count() >= want.as_bytes().to_vec());
            assert_eq!(count(), want.as_bytes());
        }
        rpc.finish().unwrap();
    });
}

/// Whatever the state of another clone's call when the handle is closed.
#[test]
fn finish_ends_while_other_threads_call() {
    let me = worker().run_in_test();
    alone(move || {
        let mut random = Random::new();
        let storm = Storm::new(&me, "do");
        let mut rounds = 0;
        while storm.continues(rounds) {
            rounds += 1;
            let rpc = me.rpc("do").start().unwrap();
            let waits = random.below(2) == 0;
            let call = move |rpc: &Rpc| {
                if waits {
                    return rpc.call("echo").wait().is_ok();
                }
                // Long enough that the caller writes it.
                let (send, receive) = mpsc::channel();
                let report = move |reply: Result<_, _>| send.send(reply.is_ok()).unwrap();
                rpc.call(["echo", &"x".repeat(66_000)]).then(report);
                receive.recv().unwrap()
            };
            let others = [rpc.clone(), rpc.clone()].map(|rpc| {
                thread::spawn(move || {
                    while call(&rpc) {}
                    rpc
                })
            });
            for _ in 0..random.below(100) {
                rpc.call("echo").wait().unwrap();
            }
            rpc.finish().unwrap();
            for other in others {
                other.join().unwrap();
            }
        }
        println!("{rounds} rounds");
    });
}

#[test]
fn no_callback_runs_on_the_thread_that_finishes() {
    let me = worker().run_in_test();
    bounded(move || {
        let here = thread::current().id();
        let (send, receive) = mpsc::channel();
        let report = |what| {
            let send = send.clone();
            move || send.send((what, thread::current().id() == here)).unwrap()
        };
        // The callbacks that are left: of the answer, of an event before it, of the end, or none.
        let rpc = me.rpc("do").start().unwrap();
        let answered = report("answer");
        rpc.call("echo").then(move |_| answered());
        rpc.finish().unwrap();
        let event = report("event");
        let rpc = me.rpc("do").on_event(move |_| event()).start().unwrap();
        rpc.call(["event", "one"]).start().cancel();
        rpc.finish().unwrap();
        let rpc = me.rpc("do").on_destroy(report("end")).start().unwrap();
        rpc.wait_ready().unwrap();
        rpc.finish().unwrap();
        let (error, lost) = (
            report("error"),
            script("ready; cat > /dev/null; send garbage"),
        );
        let rpc = lost.rpc("any").on_error(move |_| error()).start().unwrap();
        rpc.wait_ready().unwrap();
        rpc.finish().unwrap_err();
        let calls: Vec<_> = receive.try_iter().collect();
        assert!(calls.iter().all(|(_, here)| !here), "{calls:?}");
        let mut calls: Vec<_> = calls.into_iter().map(|(what, _)| what).collect();
        // A call that was cancelled before it was sent causes no event.
        calls.retain(|what| *what != "event");
        assert_eq!(calls, ["answer", "end", "error"]);
    });
}

#[test]
fn finish_without_callbacks_goes_through_the_stages_it_needs() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        assert_eq!(rpc.call("echo").wait().unwrap().len(), 0);
        assert_eq!(rpc.finish().unwrap().stage(), StopStage::Closed);

        let stubborn = script("trap '' TERM; ready; while :; do sleep 1000; done");
        let rpc = stubborn.rpc("any").grace(SHORT).start().unwrap();
        rpc.wait_ready().unwrap();
        assert_eq!(rpc.finish().unwrap().stage(), StopStage::Killed);

        let late = script("ready; cat > /dev/null; sleep 0.1");
        let rpc = late.rpc("any").start().unwrap();
        rpc.wait_ready().unwrap();
        let exit = rpc.finish().unwrap();
        assert_eq!(exit.stage(), StopStage::Closed);
        assert_eq!(exit.status().and_then(|status| status.code()), Some(0));

        let rpc = me.rpc("do").start().unwrap();
        rpc.wait_ready().unwrap();
        common::signal(rpc.pid().unwrap(), "KILL");
        assert!(
            rpc.call("echo").wait().is_err(),
            "the handle knows that it died"
        );
        assert_eq!(rpc.finish().unwrap_err().kind(), ErrorKind::Died);
    });
}

#[test]
fn drop_of_the_last_clone_lets_the_child_answer_and_exit() {
    let me = worker().run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        let gate = Gate::new();
        let (first, replied) = (log.clone(), log.clone());
        rpc.call(["gate", gate.name()])
            .then(move |reply| first.add(format!("{}", reply.is_ok())));
        rpc.call(["echo", "last"])
            .then(move |reply| replied.add(reply.unwrap().to_string()));
        let clone = rpc.clone();
        let pid = rpc.pid().unwrap();
        drop(rpc);
        let inside = gate.entered();
        assert_eq!(clone.call("pid").timeout(SHORT).wait().ok(), None);
        drop(clone);
        inside.open();
        assert_eq!(log.end(), "destroy");
        assert_eq!(log.lines(), ["true", "last", "destroy"]);
        assert_eq!(common::state(pid), None, "it is reaped");
    });
}

#[test]
fn handle_dropped_in_its_own_callback_ends_cleanly() {
    let me = worker().run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        let inner = rpc.clone();
        rpc.call("echo").then(move |_| drop(inner));
        drop(rpc);
        assert_eq!(log.end(), "destroy");
    });
}

#[test]
fn finish_in_a_callback_is_refused_but_the_child_exits() {
    let me = worker().run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        let (inner, outcome) = (rpc.clone(), log.clone());
        rpc.call("echo")
            .then(move |_| outcome.add(format!("{:?}", inner.finish().unwrap_err().kind())));
        common::eventually("the end", || log.last().as_deref() == Some("destroy"));
        assert_eq!(log.lines(), ["InCallback", "destroy"]);
        let late = rpc.call("echo").wait();
        assert!(matches!(late, Err(CallError::Refused(Refusal::Closed))));
    });
}

#[test]
fn calls_on_other_clones_are_refused_after_finish() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        let clone = rpc.clone();
        rpc.finish().unwrap();
        let refused = |outcome| matches!(outcome, Err(CallError::Refused(Refusal::Closed)));
        assert!(refused(clone.call("echo").wait()));
        assert!(refused(clone.try_call("echo").start().wait()));
        let (send, receive) = std::sync::mpsc::channel();
        clone
            .call("echo")
            .then(move |outcome| send.send(outcome).unwrap());
        assert!(refused(receive.recv().unwrap()));
        assert_eq!(clone.finish().unwrap().stage(), StopStage::Closed);
    });
}

#[test]
fn child_that_exits_on_sigterm_is_not_killed() {
    bounded(|| {
        for (text, code, signal) in [
            // With a command in the loop, the shell might start waiting for it after the signal.
            (
                "trap 'exit 7' TERM; ready; while :; do :; done",
                Some(7),
                None,
            ),
            ("ready; exec sleep 1000", None, Some(15)),
        ] {
            let rpc = script(text).rpc("any").grace(common::FOREVER);
            let rpc = rpc.start().unwrap();
            rpc.wait_ready().unwrap();
            let exit = rpc.finish_timeout(Duration::ZERO).unwrap();
            assert_eq!(exit.stage(), StopStage::Terminated);
            let status = exit.status().unwrap();
            assert_eq!((status.code(), status.signal()), (code, signal));
        }
    });
}

#[test]
fn child_that_ignores_sigterm_is_killed() {
    bounded(|| {
        let stubborn = script("trap '' TERM; ready; while :; do sleep 1000; done");
        let (builder, log) = logged(stubborn.rpc("any").grace(SHORT));
        let rpc = builder.start().unwrap();
        rpc.wait_ready().unwrap();
        let exit = rpc.finish().unwrap();
        assert_eq!(exit.stage(), StopStage::Killed);
        assert_eq!(exit.status().and_then(|status| status.signal()), Some(9));
        assert_eq!(log.end(), "destroy", "that is not an error");
    });
}

#[test]
fn stopped_child_is_killed() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").grace(SHORT).start().unwrap();
        rpc.wait_ready().unwrap();
        common::stop(rpc.pid().unwrap());
        let exit = rpc.finish().unwrap();
        assert_eq!(exit.stage(), StopStage::Killed);
    });
}

#[test]
fn finish_timeout_stops_a_child_that_does_not_answer() {
    let me = worker().run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do").grace(SHORT));
        let rpc = builder.start().unwrap();
        let gate = Gate::new();
        let stuck = rpc.call(["spin", gate.name()]).start();
        drop(gate.entered());
        let behind = rpc.call("echo").start();
        let error = rpc.finish_timeout(SHORT).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stopped);
        assert!(error.status().is_some(), "{error}");
        let stuck = stuck.wait();
        assert_eq!(stuck.as_ref().unwrap_err().phase(), Some(Phase::Begun));
        assert_eq!(lost_kind(stuck), ErrorKind::Stopped);
        let behind = behind.wait();
        assert!(
            behind
                .as_ref()
                .unwrap_err()
                .phase()
                .unwrap()
                .is_safe_to_repeat()
        );
        assert_eq!(lost_kind(behind), ErrorKind::Stopped);
        assert_eq!(log.end(), "error: Stopped");
    });
}

#[test]
fn finish_timeout_that_is_not_reached_is_not_an_error() {
    let me = worker().run_in_test();
    bounded(move || {
        for timeout in [common::FOREVER, Duration::MAX] {
            let rpc = me.rpc("do").start().unwrap();
            rpc.call("echo").then(|_| {});
            let exit = rpc.finish_timeout(timeout).unwrap();
            assert_eq!(exit.stage(), StopStage::Closed);
        }
    });
}

#[test]
fn plain_child_that_ignores_the_end_of_its_input_is_stopped() {
    bounded(|| {
        let sleep = offspring::Process::command("sleep")
            .plain(offspring::Plain::Tagged)
            .arg("1000");
        let rpc = sleep.rpc("any").grace(SHORT).start().unwrap();
        let exit = rpc.finish().unwrap();
        assert!(exit.stage() >= StopStage::Terminated);

        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let stream = offspring::Process::stream(near).plain(offspring::Plain::Tagged);
        let rpc = stream.rpc("any").grace(SHORT).start().unwrap();
        // The other end stays open and silent.
        let exit = rpc.finish().unwrap();
        assert_eq!(exit.status(), None);
        drop(far);
    });
}

/// A plain peer gets the end of its input before it has answered. The caller that waits for the
/// last answer reads it, and that starts the grace period, too.
#[test]
fn plain_peer_that_stays_after_its_last_answer_is_abandoned() {
    bounded(|| {
        let (near, mut far) = UnixStream::pair().unwrap();
        let builder = Process::stream(near).plain(Plain::Tagged).rpc("peer");
        let builder = builder.grace(Duration::from_millis(20));
        let rpc = builder.start().unwrap();
        // Dropping a handle would wake the reactor, too.
        let kept = rpc.clone();
        let caller = rpc.clone();
        let call = thread::spawn(move || caller.call("hello").wait());
        let mut request = [0; 8 + 6];
        far.read_exact(&mut request).unwrap();
        let finish = thread::spawn(move || rpc.finish());
        assert_eq!(far.read(&mut request).unwrap(), 0);
        far.write_all(b"\0\0\0\x01\0\0\0\x06\x05hello").unwrap();
        assert_eq!(call.join().unwrap().unwrap(), ["hello"]);
        let exit = finish.join().unwrap().unwrap();
        assert_ne!(exit.stage(), StopStage::Closed);
        drop((far, kept));
    });
}

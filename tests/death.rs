//! How children die, and how that is reported.

mod common;

use common::{Gate, Log, alone, bounded, eventually, logged, lost, lost_kind, worker};
use offspring::{CallError, ErrorKind, Phase, Process, Reactor, Stdio};
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// Every way for a child or a call to end, and whether the handle then ends with an error.
const ENDS: &[(&[&str], bool)] = &[
    (&["echo", "all is well"], false),
    (&["fail", "no luck"], false),
    (&["panic", "dear me"], false),
    (&["signal", "KILL"], true),
    (&["signal", "TERM"], true),
    (&["segv"], true),
    (&["abort"], true),
    (&["exit", "0"], true),
    (&["exit", "3"], true),
];

/// What the parent does after the calls.
#[derive(Debug, Clone, Copy)]
enum Goodbye {
    Finish,
    Drop,
    Kill,
    Stop,
}

#[test]
fn every_call_ends_exactly_once() {
    let me = worker().run_in_test();
    bounded(move || {
        let reactor = Reactor::new().unwrap();
        let me = me.stderr(Stdio::null());
        for (request, fatal) in ENDS {
            for goodbye in [Goodbye::Finish, Goodbye::Drop, Goodbye::Kill, Goodbye::Stop] {
                let situation = format!("{request:?} {goodbye:?}");
                let (builder, log) = logged(me.rpc("do").reactor(&reactor));
                let rpc = builder.start().unwrap();
                let ends: Vec<Arc<AtomicUsize>> = (0..20).map(|_| Arc::default()).collect();
                for (n, end) in ends.iter().enumerate() {
                    let end = Arc::clone(end);
                    let call = match n {
                        10 => rpc.call(*request),
                        11 => rpc.call("echo").timeout(Duration::ZERO),
                        _ => rpc.call("echo"),
                    };
                    call.then(move |_| {
                        end.fetch_add(1, Ordering::Relaxed);
                        if n % 5 == 0 {
                            panic!("a callback panics");
                        }
                    });
                }
                let pending = rpc.call("echo").start();
                match goodbye {
                    Goodbye::Finish => drop(rpc.finish()),
                    Goodbye::Drop => drop(rpc),
                    Goodbye::Kill => rpc.kill(),
                    Goodbye::Stop => drop(rpc.finish_timeout(Duration::ZERO)),
                }
                let answered = pending.wait().is_ok();
                let end = log.end();
                if *fatal {
                    assert!(!answered, "{situation}");
                    assert!(end.starts_with("error: "), "{situation}: {end}");
                } else if let Goodbye::Finish | Goodbye::Drop = goodbye {
                    assert!(answered, "{situation}");
                    assert_eq!(end, "destroy", "{situation}");
                }
                for (n, end) in ends.iter().enumerate() {
                    let count = || end.load(Ordering::Relaxed);
                    // One that was made when all was over already is refused by the reactor, later.
                    eventually("it has ended", || count() > 0);
                    assert_eq!(count(), 1, "{situation}: call {n} ended more than once");
                }
            }
        }
    });
}

#[test]
fn crash_is_reported_with_pid_signal_and_last_stderr() {
    let me = worker().run_in_test();
    bounded(move || {
        for (request, what, signal) in [
            (vec!["segv"], "killed by SIGSEGV", 11),
            (vec!["abort"], "killed by SIGABRT", 6),
            (vec!["signal", "KILL"], "killed by SIGKILL", 9),
            (vec!["signal", "TERM"], "killed by SIGTERM", 15),
        ] {
            let rpc = me.clone().stderr(Stdio::capture()).rpc("do");
            let rpc = rpc.on_error(drop).start().unwrap();
            rpc.call(["stderr", "about to crash"]).wait().unwrap();
            let error = lost(rpc.call(&request).wait());
            assert_eq!(error.kind(), ErrorKind::Died, "{error}");
            assert_eq!(error.pid(), rpc.pid());
            assert_eq!(error.status().and_then(|s| s.signal()), Some(signal));
            assert!(error.stderr().contains("about to crash\n"), "{error:?}");
            let text = error.to_string();
            for part in [
                what,
                "about to crash",
                &format!("pid {}", rpc.pid().unwrap()),
                "with 1 call unanswered",
            ] {
                assert!(text.contains(part), "no `{part}` in: {text}");
            }
            let again = rpc.finish().unwrap_err();
            assert_eq!(again.to_string(), text, "everything reports the same error");
        }
    });
}

#[test]
fn exit_in_a_call_is_reported_with_status_and_last_stderr() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.stderr(Stdio::capture()).rpc("do");
        let rpc = rpc.on_error(drop).start().unwrap();
        let error = lost(rpc.call(["stderr and exit", "enough"]).wait());
        assert_eq!(error.status().and_then(|s| s.code()), Some(3));
        assert!(error.stderr().ends_with("enough\n"), "{error:?}");
        assert!(
            error.to_string().contains("exited with status 3"),
            "{error}"
        );
    });
}

#[test]
fn standard_error_is_reported_line_by_line() {
    let me = worker().run_in_test();
    bounded(move || {
        let log = Log::default();
        let lines = log.clone();
        let stderr = Stdio::lines(move |pid, line| lines.add(format!("{pid} {line}")));
        let rpc = me.stderr(stderr).rpc("do").start().unwrap();
        let pid = rpc.pid().unwrap();
        rpc.call(["stderr", "one\ntwo"]).wait().unwrap();
        rpc.finish().unwrap();
        assert_eq!(log.lines(), [format!("{pid} one"), format!("{pid} two")]);
    });
}

#[test]
fn phase_states_what_was_never_sent() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").on_error(drop).max_queue(usize::MAX, 1);
        let rpc = rpc.start().unwrap();
        let gate = Gate::new();
        let first = rpc.call(["gate", gate.name()]).start();
        let _inside = gate.entered();
        // The child does not read, and this is more than the socket takes.
        let large = rpc.call([b"size".to_vec(), vec![0; 16 << 20]]).start();
        // It waits until the other one is being sent.
        let behind = rpc.call("echo").start();
        common::signal(rpc.pid().unwrap(), "KILL");
        for (call, phase) in [
            (first, Phase::Begun),
            (large, Phase::Sent),
            (behind, Phase::Queued),
        ] {
            let outcome = call.wait();
            assert_eq!(outcome.as_ref().unwrap_err().phase(), Some(phase));
            let error = outcome.unwrap_err();
            let text = error.to_string();
            assert!(text.ends_with(&format!("the call {phase}")), "{text}");
        }
        // A call that is made now cannot have been sent.
        let late = rpc.call("echo").wait();
        assert!(matches!(late, Err(CallError::Lost(_, Phase::Queued))));
    });
}

#[test]
fn output_written_before_a_death_is_delivered_before_it() {
    let me = worker().run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        let replied = log.clone();
        rpc.call(["echo", "answer"])
            .then(move |reply| replied.add(format!("reply: {}", reply.unwrap())));
        let failed = log.clone();
        rpc.call(["events and exit", "5000"])
            .then(move |reply| failed.add(format!("lost: {:?}", lost_kind(reply))));
        assert_eq!(log.end(), "error: Died");
        let mut want = vec!["reply: answer".to_owned()];
        want.extend((0..5000).map(|n| format!("event: {n}")));
        want.extend(["lost: Died".to_owned(), "error: Died".to_owned()]);
        assert_eq!(log.lines(), want);
    });
}

#[test]
fn kill_during_a_write_is_not_a_protocol_error() {
    let me = worker().run_in_test();
    bounded(move || {
        let (began, begin) = mpsc::channel();
        let (go, held) = mpsc::channel::<()>();
        let rpc = me
            .rpc("do")
            .on_event(move |_| {
                // Nothing is read until the other end of this is dropped.
                let _ = began.send(());
                let _ = held.recv();
            })
            .on_error(drop)
            .start()
            .unwrap();
        let call = rpc.call(["flood", "40"]).start();
        begin.recv().unwrap();
        let pid = rpc.pid().unwrap();
        // It has written as much of the next event as the socket takes.
        common::eventually("it waits", || common::all_threads(pid, "S"));
        common::signal(pid, "KILL");
        common::eventually("it is dead", || common::state(pid).as_deref() == Some("Z"));
        drop(go);
        let error = lost(call.wait());
        assert_eq!(error.kind(), ErrorKind::Died, "{error}");
        assert_eq!(error.status().and_then(|status| status.signal()), Some(9));
    });
}

#[test]
fn kill_ends_calls_and_is_not_an_error_without_them() {
    let me = worker().run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        let gate = Gate::new();
        let call = rpc.call(["gate", gate.name()]).start();
        let _inside = gate.entered();
        rpc.kill();
        assert_eq!(lost_kind(call.wait()), ErrorKind::Killed);
        assert_eq!(log.end(), "error: Killed");

        // Repeatedly, as the child must not read the end of its requests and exit first.
        for _ in 0..30 {
            let (builder, log) = logged(me.rpc("do"));
            let rpc = builder.start().unwrap();
            rpc.call("echo").wait().unwrap();
            rpc.kill();
            let exit = rpc.finish().unwrap();
            assert_eq!(exit.stage(), offspring::StopStage::Killed);
            assert_eq!(exit.status().and_then(|status| status.signal()), Some(9));
            assert_eq!(log.end(), "destroy");
        }
    });
}

#[test]
fn kill_reaches_the_process_group() {
    let me = worker()
        .function("start another", |_, _| {
            let sleep = std::process::Command::new("sleep").arg("1000").spawn()?;
            Ok(sleep.id().to_string())
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("start another").start().unwrap();
        let pid = rpc.call(()).wait().unwrap().to_string().parse().unwrap();
        assert!(!common::is_gone(pid));
        rpc.kill();
        rpc.finish().unwrap();
        common::eventually("its child is gone, too", || common::is_gone(pid));
    });
}

#[test]
fn error_without_on_error_goes_to_on_event() {
    let me = worker().run_in_test();
    bounded(move || {
        let log = Log::default();
        let (events, destroyed) = (log.clone(), log.clone());
        let rpc = me
            .rpc("do")
            .on_event(move |event| {
                let [word, message] = event.texts().unwrap();
                events.add(format!("{word}: {message}"));
            })
            .on_destroy(move || destroyed.add("destroy"))
            .start()
            .unwrap();
        let error = lost(rpc.call(["exit", "7"]).wait());
        let end = log.end();
        assert_eq!(end, format!("error: {error}"));
        assert!(end.contains("exited with status 7"), "{end}");
    });
}

// With the feature it goes to the log: `tests/logging.rs`.
#[cfg(not(feature = "log"))]
#[test]
fn error_without_any_handler_goes_to_standard_error() {
    let me = worker()
        .function("have a child die", |_, _| {
            let me = worker().run_in_test();
            let rpc = me.rpc("do").start()?;
            let error = lost(rpc.call(["exit", "7"]).wait());
            // It has been reported when this returns.
            let _ = rpc.finish();
            Ok(error.to_string())
        })
        .run_in_test();
    bounded(move || {
        let log = Log::default();
        let lines = log.clone();
        let me = me.stderr(Stdio::lines(move |_, line| lines.add(line)));
        let rpc = me.rpc("have a child die").start().unwrap();
        let error = rpc.call(()).wait().unwrap();
        rpc.finish().unwrap();
        assert_eq!(log.lines(), [format!("offspring: {error}")]);
    });
}

// With the feature it goes to the log: `tests/logging.rs`.
#[cfg(not(feature = "log"))]
#[test]
fn first_of_what_nobody_handles_is_reported_and_all_is_dropped() {
    let me = worker()
        .function("send", |request, caller| {
            match request.texts()? {
                ["event", text] => caller.event(text),
                [service, text] => caller.tell(service.to_owned(), text),
            }
            Ok(())
        })
        .function("have a child send", |request, _| {
            let mut rpc = worker().run_in_test().rpc("send");
            let [what, serve] = request.texts()?;
            if serve == "serve" {
                rpc = rpc.on_ask("another", |_| Ok(()));
            }
            let rpc = rpc.start()?;
            for text in ["one", "two"] {
                rpc.call([what, text]).wait()?;
            }
            rpc.call(["another", "x"]).wait()?; // the child lives on
            let pid = rpc.pid().expect("it is a process");
            rpc.finish()?;
            Ok(pid.to_string())
        })
        .run_in_test();
    bounded(move || {
        let log = Log::default();
        let lines = log.clone();
        let me = me.stderr(Stdio::lines(move |_, line| lines.add(line)));
        let rpc = me.rpc("have a child send").start().unwrap();
        let mut lines = Vec::new();
        for (what, serve, want) in [
            ("event", "", "an event, as there is no on_event(): one"),
            (
                "service",
                "",
                "what the child tells: the parent serves nothing: it has no on_ask()",
            ),
            (
                "service",
                "serve",
                "what the child tells: no service `service`; there are: `another`",
            ),
        ] {
            let pid = rpc.call([what, serve]).wait().unwrap();
            lines.push(format!(
                "offspring: dropped {want}; only the first is reported (pid {pid})"
            ));
        }
        rpc.finish().unwrap();
        assert_eq!(log.lines(), lines);
    });
}

#[test]
fn child_that_only_closes_its_connection_is_ended() {
    bounded(|| {
        let me = common::script("ready; exec 0</dev/null; exec sleep 1000");
        let (builder, log) = logged(me.rpc("any").grace(Duration::from_millis(20)));
        let rpc = builder.start().unwrap();
        let error = lost(rpc.call("hello").wait());
        assert_eq!(error.kind(), ErrorKind::Died);
        assert_eq!(error.status().and_then(|s| s.signal()), Some(15), "{error}");
        assert_eq!(log.end(), "error: Died");
    });
}

#[test]
fn calls_end_soon_after_the_connection_whatever_the_grace() {
    bounded(|| {
        let me = common::script("ready; exec 0</dev/null 1>&0; exec sleep 1000");
        let (builder, log) = logged(me.rpc("any").grace(Duration::MAX));
        let rpc = builder.start().unwrap();
        let pid = rpc.pid().unwrap();
        let error = lost(rpc.call("hello").wait());
        assert_eq!(error.kind(), ErrorKind::Died);
        assert_eq!(error.status(), None, "it has not exited: {error}");
        // Further calls are refused with the same error.
        let outcome = rpc.call("again").wait();
        let phase = outcome.as_ref().unwrap_err().phase();
        assert_eq!(phase, Some(Phase::Queued));
        assert_eq!(lost(outcome).kind(), ErrorKind::Died);
        assert!(log.lines().is_empty(), "its end is not known yet");
        common::signal(pid, "KILL");
        assert_eq!(lost_kind(rpc.call("late").wait()), ErrorKind::Died);
        assert_eq!(rpc.finish().unwrap_err().kind(), ErrorKind::Died);
        assert_eq!(log.end(), "error: Died");
    });
}

#[test]
fn children_die_with_a_parent_that_is_killed() {
    let me = with_grandchild(|me| me).run_in_test();
    bounded(move || {
        let rpc = me.rpc("middle").on_error(drop).start().unwrap();
        let (idle, busy) = (Gate::new(), Gate::new());
        let middle = rpc.call([idle.name(), busy.name()]).start();
        let mut inside = idle.entered();
        assert!(inside.is_waiting());
        // The other one loops forever by now.
        drop(busy.entered());
        let pids = common::children_of(rpc.pid().unwrap());
        assert_eq!(pids.len(), 2, "{pids:?}");
        inside.open();
        common::signal(rpc.pid().unwrap(), "KILL");
        assert_eq!(lost_kind(middle.wait()), ErrorKind::Died);
        for pid in pids {
            common::eventually("a grandchild is gone", || common::is_gone(pid));
        }
    });
}

#[test]
fn child_that_may_outlive_its_parent_finishes_its_work() {
    let me = with_grandchild(Process::outlive_parent).run_in_test();
    bounded(move || {
        let rpc = me.rpc("middle").on_error(drop).start().unwrap();
        let (gate, busy) = (Gate::new(), Gate::new());
        let middle = rpc.call([gate.name(), busy.name()]).start();
        let mut inside = gate.entered();
        drop(busy.entered());
        let pids = common::children_of(rpc.pid().unwrap());
        common::signal(rpc.pid().unwrap(), "KILL");
        assert_eq!(lost_kind(middle.wait()), ErrorKind::Died);
        // The middle one is reaped, its end of the connection closed.
        assert!(inside.is_waiting(), "the busy child is still running");
        inside.open();
        // One exits when it next reads requests, the other never reads.
        let gone = || pids.iter().filter(|pid| common::is_gone(**pid)).count();
        common::eventually("the one that can exit does", || gone() > 0);
        assert_eq!(gone(), 1);
        let looping = pids.iter().find(|pid| !common::is_gone(**pid)).unwrap();
        common::signal(*looping, "KILL");
    });
}

/// A worker whose function `middle` starts two children: one waits at the gate of the first
/// string, the other announces itself at the second and loops.
fn with_grandchild(how: fn(Process) -> Process) -> offspring::Worker {
    worker().function("middle", move |request, _| {
        let [gate, busy] = request.texts()?;
        let me = how(worker().run_in_test());
        let (one, two) = (me.rpc("do").start()?, me.rpc("do").start()?);
        let gate = one.call(["gate", gate]).start();
        two.call(["spin", busy]).wait()?;
        Ok(gate.wait()?)
    })
}

#[test]
fn status_that_other_code_took_is_unknown() {
    let me = worker().run_in_test();
    alone(move || {
        ignore_children();
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        assert_eq!(rpc.call(["echo", "on"]).wait().unwrap(), ["on"]);
        let exit = rpc.finish().unwrap();
        assert_eq!(exit.status(), None);
        assert_eq!(log.end(), "destroy");

        let rpc = me.rpc("do").on_error(drop).start().unwrap();
        let error = lost(rpc.call(["exit", "3"]).wait());
        assert_eq!((error.kind(), error.status()), (ErrorKind::Died, None));
    });
}

/// Makes the kernel reap this process's children.
#[expect(unsafe_code, reason = "a system call")]
fn ignore_children() {
    // SAFETY: there is no handler for it that could be lost.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

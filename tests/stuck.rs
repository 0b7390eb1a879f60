//! Children that have not answered a call long after its timeout, and are killed for that.

mod common;

use common::{Entered, Gate, bounded, eventually, is_gone, logged, obey, time_out, worker};
use offspring::{
    CallError, Caller, Error, ErrorKind, Phase, Plain, Process, Rpc, RpcBuilder, Strings, Worker,
};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long after a timeout a child is killed.
const SHORT: Duration = Duration::from_millis(50);
/// Time enough for a busy machine to send a call, or to answer it.
const LONG: Duration = Duration::from_secs(2);

fn start(builder: RpcBuilder) -> Rpc {
    let rpc = builder.start().unwrap();
    rpc.wait_ready().unwrap();
    rpc
}

fn check(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Stuck, "{error}");
    let text =
        "the child had not answered a call 50ms after its timeout (kill_stuck), and was killed";
    assert!(error.to_string().starts_with(text), "{error}");
}

/// How far a call had got that was lost with a stuck child.
fn lost_phase(outcome: Result<Strings, CallError>) -> Phase {
    match outcome {
        Err(CallError::Lost(error, phase)) => {
            check(&error);
            phase
        }
        other => panic!("it should be lost, but ended with {other:?}"),
    }
}

/// Makes a call that comes to the gate, and times out. Its outcome is waited for, or passed to a callback.
/// Others are made `meanwhile`.
fn time_out_at(
    rpc: &Rpc,
    gate: &Gate,
    how: &str,
    waits: bool,
    meanwhile: impl FnOnce(),
) -> Entered {
    let call = rpc.call([how, gate.name()]).timeout(LONG);
    let (outcome, entered) = if waits {
        let call = call.start();
        let entered = gate.entered();
        meanwhile();
        (call.wait(), entered)
    } else {
        let (send, outcome) = mpsc::channel();
        call.then(move |outcome| send.send(outcome).unwrap());
        let entered = gate.entered();
        meanwhile();
        (outcome.recv().unwrap(), entered)
    };
    let timed_out = matches!(outcome, Err(CallError::TimedOut(Phase::Begun)));
    assert!(timed_out, "{outcome:?}");
    entered
}

#[test]
fn child_that_hangs_is_killed_and_takes_all_other_calls_along() {
    let hang = |me: &Process, how, waits| {
        let (builder, log) = logged(me.rpc("do").kill_stuck(SHORT));
        let (rpc, gate) = (start(builder), Gate::new());
        let pid = rpc.pid().unwrap();
        let mut others = Vec::new();
        let _entered = time_out_at(&rpc, &gate, how, waits, || {
            // More than the socket takes.
            let blob = [b"size".to_vec(), vec![0; 16 << 20]];
            others.push(rpc.call(["echo", "sent"]).start());
            others.push(rpc.call(&blob).start());
            others.push(rpc.call(["echo", "queued"]).start());
        });
        let phases: Vec<_> = others.into_iter().map(|it| lost_phase(it.wait())).collect();
        assert_eq!(phases, [Phase::Sent, Phase::Sent, Phase::Queued]);
        assert!(is_gone(pid));
        assert_eq!(log.end(), "error: Stuck");
        check(&rpc.finish().unwrap_err());
    };
    let me = worker().run_in_test();
    bounded(move || {
        let me = &me;
        thread::scope(|scope| {
            // It computes for ever, or sleeps.
            for how in ["spin", "gate"] {
                for waits in [false, true] {
                    scope.spawn(move || hang(me, how, waits));
                }
            }
        });
    });
}

/// The reactor, which has nothing to do with the call, learns that it has timed out.
#[test]
fn child_is_killed_whose_only_caller_reads_from_it() {
    let me = worker().run_in_test();
    bounded(move || {
        let gate = Gate::new();
        let start = || {
            let rpc = start(me.rpc("do").kill_stuck(SHORT).on_error(drop));
            time_out(|| rpc.call(["gate", gate.name()]));
            rpc
        };
        let rpc = start();
        eventually("it is killed", || rpc.try_exit().is_some());
        check(&rpc.try_exit().unwrap().unwrap_err());
        // Its end may be awaited meanwhile.
        check(&start().finish().unwrap_err());
        lost_phase(start().call(["echo", "a"]).wait());
    });
}

#[test]
fn calls_that_had_begun_are_lost_with_one_that_hangs() {
    let mut kept = Vec::new();
    let me = Worker::new()
        .threaded("threaded", |request, caller: &Caller| obey(request, caller))
        .deferred("deferred", move |request: Strings, caller, _| {
            Gate::announce(request.texts::<2>().unwrap()[1]);
            kept.push(caller);
        })
        .threads(2)
        .run_in_test();
    bounded(move || {
        for function in ["threaded", "deferred"] {
            let rpc = start(me.rpc(function).kill_stuck(SHORT).on_error(drop));
            let (gate, hangs) = (Gate::new(), Gate::new());
            let begun = rpc.call(["gate", gate.name()]).start();
            let _entered = gate.entered();
            time_out(|| rpc.call(["gate", hangs.name()]));
            assert_eq!(lost_phase(begun.wait()), Phase::Begun);
        }
    });
}

#[test]
fn plain_peer_that_hangs_is_killed_and_a_stream_closed() {
    bounded(|| {
        for mode in [Plain::Tagged, Plain::Ordered, Plain::Fallible] {
            let sleep = Process::command("sleep").arg("1000").plain(mode);
            let rpc = start(sleep.rpc("f").kill_stuck(SHORT).on_error(drop));
            time_out(|| rpc.call("a"));
            assert_eq!(lost_phase(rpc.call("b").wait()), Phase::Begun);

            let (near, mut far) = UnixStream::pair().unwrap();
            let stream = Process::stream(near).plain(mode);
            let rpc = start(stream.rpc("f").kill_stuck(SHORT).on_error(drop));
            time_out(|| rpc.call("a"));
            assert_eq!(lost_phase(rpc.call("b").wait()), Phase::Begun);
            far.read_to_end(&mut Vec::new()).unwrap();
        }
    });
}

#[test]
fn child_that_answers_late_but_in_time_lives_on() {
    let me = worker().run_in_test();
    let answer_late = |me: &Process, waits| {
        let (rpc, gate) = (start(me.rpc("do").kill_stuck(LONG)), Gate::new());
        // The second takes longer than a child lives that has not answered the first.
        for _ in 0..2 {
            time_out_at(&rpc, &gate, "gate", waits, || {}).open();
            assert_eq!(rpc.call(["echo", "a"]).wait().unwrap(), ["a"]);
        }
        rpc.finish().unwrap();
    };
    bounded(move || {
        let me = &me;
        thread::scope(|scope| {
            for waits in [false, true] {
                scope.spawn(move || answer_late(me, waits));
            }
        });
    });
}

/// A child would be killed at once for others.
#[test]
fn calls_that_are_cancelled_or_time_out_during_the_start_do_not_count() {
    let me = worker()
        .setup("enter", |gate| {
            Gate::enter(&gate.to_string());
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        let gate = Gate::new();
        let starting = me.setup("enter", gate.name()).rpc("do");
        let rpc = starting.kill_stuck(Duration::ZERO).start().unwrap();
        let in_setup = gate.entered();
        time_out(|| rpc.call(["echo", "early"]));
        in_setup.open();
        rpc.wait_ready().unwrap();
        let cancelled = rpc.call(["gate", gate.name()]).start();
        let entered = gate.entered();
        cancelled.cancel();
        entered.open();
        assert_eq!(rpc.call(["echo", "b"]).wait().unwrap(), ["b"]);
        rpc.finish().unwrap();
    });
}

//! How far calls had got that a child has taken along: which of them may be made again.

mod common;

use common::{Gate, bounded, lost_kind, script, signal};
use offspring::{
    CallError, Caller, ErrorKind, Pending, Phase, Plain, Process, Rpc, Stdio, Strings, Worker,
};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What functions write to it, before anything else: which calls have begun, whatever follows.
struct Begun(PathBuf);

impl Begun {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("begun-{}-{count}", std::process::id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        File::create(&path).unwrap();
        Begun(path)
    }

    /// For the child.
    fn add(path: &str, call: &str) {
        let mut file = File::options().append(true).open(path).unwrap();
        file.write_all(format!("{call}\n").as_bytes()).unwrap();
    }

    fn calls(&self) -> BTreeSet<usize> {
        let lines = fs::read_to_string(&self.0).unwrap();
        lines.lines().map(|line| line.parse().unwrap()).collect()
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Notes that it has begun, and does what it is told.
fn act(request: &Strings) -> Strings {
    let [path, call, what] = request.texts().unwrap();
    Begun::add(path, call);
    let me = std::process::id();
    match what {
        "return" => {}
        "kill" => signal(me, "KILL"),
        "term" => signal(me, "TERM"),
        "abort" => std::process::abort(),
        "exit" => std::process::exit(3),
        gate => Gate::enter(gate),
    }
    Strings::from_iter([call])
}

/// How many calls of the child run at the same time, by the name of its function.
const FUNCTIONS: [(&str, usize); 3] = [("function", 1), ("threaded", 4), ("deferred", usize::MAX)];

fn acting() -> Worker {
    Worker::new()
        .function("function", |request, _| Ok(act(&request)))
        .threaded("threaded", |request: Strings, _: &Caller| Ok(act(&request)))
        .deferred("deferred", |request: Strings, caller, _| {
            caller.reply(act(&request));
        })
        .threads(4)
        .setup("die", |strings| {
            let [how] = strings.texts()?;
            match how {
                "exit" => std::process::exit(3),
                "kill" => signal(std::process::id(), "KILL"),
                _ => {}
            }
            Err("no such luck".into())
        })
}

fn request(begun: &Begun, call: usize, what: &str) -> Strings {
    Strings::from_iter([begun.0.to_str().unwrap(), &call.to_string(), what])
}

/// None that has begun is called unbegun, and few that have not are suspected of it.
#[test]
fn death_blames_only_calls_that_had_begun() {
    const CALLS: usize = 200;
    let me = acting().run_in_test();
    bounded(move || {
        let me = me.stderr(Stdio::null());
        for (function, running) in FUNCTIONS {
            for what in ["kill", "term", "abort", "exit"] {
                for crashing in [0, 60, CALLS - 1] {
                    let situation = format!("{function} {what} {crashing}");
                    let begun = Begun::new();
                    let rpc = me.rpc(function).on_error(drop).start().unwrap();
                    let call = |n| match n == crashing {
                        true => rpc.call(request(&begun, n, what)).start(),
                        false => rpc.call(request(&begun, n, "return")).start(),
                    };
                    let calls: Vec<_> = (0..CALLS).map(call).collect();
                    let outcomes: Vec<_> = calls.into_iter().map(|call| call.wait()).collect();
                    let begun = begun.calls();
                    let mut suspected = 0;
                    for (n, outcome) in outcomes.iter().enumerate() {
                        match outcome.as_ref().map_err(CallError::phase) {
                            Ok(_) => assert!(begun.contains(&n), "{situation}: {n}"),
                            Err(Some(Phase::Begun)) => {
                                suspected += usize::from(!begun.contains(&n));
                            }
                            Err(phase) => {
                                assert!(phase.unwrap().is_safe_to_repeat());
                                assert!(!begun.contains(&n), "{situation}: {n} is {phase:?}");
                            }
                        }
                    }
                    assert!(suspected < running.min(10), "{situation}: {suspected}");
                    let phase = outcomes[crashing].as_ref().unwrap_err().phase();
                    assert_eq!(phase, Some(Phase::Begun), "{situation}");
                }
            }
        }
    });
}

/// Calls that wait in the child have not begun, nor have those that it has not read.
#[test]
fn calls_behind_running_ones_have_not_begun() {
    let me = acting().max_running(4).run_in_test();
    bounded(move || {
        for (function, running) in FUNCTIONS.map(|(function, running)| (function, running.min(4))) {
            if function == "deferred" {
                // It would have to wait on the loop.
                continue;
            }
            let begun = Begun::new();
            let gate = Gate::new();
            let rpc = me.rpc(function).on_error(drop).start().unwrap();
            let calls: Vec<_> = (0..50)
                .map(|n| rpc.call(request(&begun, n, gate.name())).start())
                .collect();
            let inside: Vec<_> = (0..running).map(|_| gate.entered()).collect();
            signal(rpc.pid().unwrap(), "KILL");
            for (n, call) in calls.into_iter().enumerate() {
                let phase = call.wait().unwrap_err().phase().unwrap();
                let want = if n < running {
                    Phase::Begun
                } else {
                    Phase::Sent
                };
                assert_eq!(phase, want, "{function}: {n}");
            }
            drop(inside);
        }
    });
}

/// How a child ended, and how far its calls had got, the first of which was sent.
fn end(rpc: &Rpc, calls: [Pending; 2]) -> (ErrorKind, Phase) {
    let [first, second] = calls.map(|call| call.wait());
    let [phase, other] = [&first, &second].map(|it| it.as_ref().unwrap_err().phase().unwrap());
    // The second one is sent with the first, or never.
    assert!(
        other == phase || other == Phase::Queued,
        "{phase:?} {other:?}"
    );
    let kind = lost_kind(first);
    assert_eq!(lost_kind(second), kind);
    assert_eq!(rpc.try_exit().unwrap().unwrap_err().kind(), kind);
    (kind, phase)
}

fn two_calls(rpc: &Rpc) -> [Pending; 2] {
    [rpc.call("a").start(), rpc.call("b").start()]
}

#[test]
fn nothing_has_begun_in_a_child_that_was_never_ready() {
    let me = acting().run_in_test();
    bounded(move || {
        let me = me.stderr(Stdio::null());
        let sleep = || script("exec sleep 1000");
        for (process, want, kill) in [
            (me.clone().setup("die", "exit"), ErrorKind::Exited, false),
            (me.clone().setup("die", "kill"), ErrorKind::Exited, false),
            (me.clone().setup("die", "fail"), ErrorKind::Setup, false),
            (sleep(), ErrorKind::StartTimeout, false),
            (sleep(), ErrorKind::Killed, true),
            // It lives on without its connection.
            (
                script("exec 0</dev/null 1>&0; exec sleep 1000"),
                ErrorKind::Exited,
                false,
            ),
        ] {
            let short = Duration::from_millis(50);
            let timeout = match want {
                ErrorKind::StartTimeout => short,
                _ => Duration::MAX,
            };
            let rpc = process.rpc("function").start_timeout(timeout).grace(short);
            let rpc = rpc.on_error(drop).start().unwrap();
            let calls = two_calls(&rpc);
            if kill {
                rpc.kill();
            }
            let (kind, phase) = end(&rpc, calls);
            assert_eq!(kind, want);
            assert!(phase.is_safe_to_repeat(), "{kind:?}: {phase:?}");
        }
        let rpc = me.rpc("missing").on_error(drop).start().unwrap();
        let (kind, phase) = end(&rpc, two_calls(&rpc));
        assert_eq!(kind, ErrorKind::NoFunction);
        assert!(phase.is_safe_to_repeat(), "{phase:?}");
    });
}

#[test]
fn everything_may_have_begun_in_a_child_that_does_not_note_it() {
    bounded(|| {
        // A worker in another language.
        let rpc = script("ready; exec cat >/dev/null").rpc("any");
        let rpc = rpc.on_error(drop).start().unwrap();
        let calls = two_calls(&rpc);
        // This one is sent after them.
        common::time_out(|| rpc.call("c"));
        signal(rpc.pid().unwrap(), "KILL");
        assert_eq!(end(&rpc, calls), (ErrorKind::Died, Phase::Begun));

        let peer = Process::command("sh")
            .plain(Plain::Tagged)
            .args(["-c", "head -c 1 >/dev/null"]);
        let rpc = peer.rpc("any").on_error(drop).start().unwrap();
        assert_eq!(end(&rpc, two_calls(&rpc)), (ErrorKind::Died, Phase::Begun));
    });
}

/// The shell is gone, and what it has started comes too late: nobody hears that it is ready.
#[test]
fn nothing_begins_in_a_worker_that_nobody_hears() {
    const NAME: &str = "nothing_begins_in_a_worker_that_nobody_hears";
    let _ = acting().run_in_test();
    bounded(|| {
        let path = |what| {
            let name = format!("unheard-{what}-{}", std::process::id());
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
        };
        let (pid, door) = (path("pid"), path("door"));
        assert!(
            Command::new("mkfifo")
                .arg(&door)
                .status()
                .unwrap()
                .success()
        );
        let begun = Begun::new();
        // Opening the door for reading waits until it is opened for writing.
        let late = r#"echo $$ >"$1"; : <"$2"; exec "$3" "$4" --exact --nocapture"#;
        let script = r#"exec 9<&0; sh -c "$0" sh "$@" <&9 9<&- & exit 0"#;
        let process = Process::exe("/bin/sh").args(["-c", script, late]);
        let process = process.arg(&pid).arg(&door);
        let process = process.arg(std::env::current_exe().unwrap()).arg(NAME);
        let process = process.outlive_parent();
        let process = process.stdout(Stdio::null()).stderr(Stdio::null());
        let rpc = process.rpc("function").on_error(drop).start().unwrap();
        let outcome = rpc.call(request(&begun, 1, "return")).wait();
        let phase = outcome.unwrap_err().phase().unwrap();
        assert!(phase.is_safe_to_repeat(), "{phase:?}");
        let late = || fs::read_to_string(&pid).ok()?.trim().parse().ok();
        common::eventually("what comes late is there", || late().is_some());
        let late = late().unwrap();
        drop(File::options().write(true).open(&door).unwrap());
        common::eventually("it has given up", || common::is_gone(late));
        assert!(begun.calls().is_empty());
        [pid, door]
            .iter()
            .for_each(|path| fs::remove_file(path).unwrap());
    });
}

/// Whether it has is not known at that moment, and it may begin later.
#[test]
fn call_that_times_out_or_is_cancelled_may_have_begun() {
    let me = acting().run_in_test();
    bounded(move || {
        let begun = Begun::new();
        let gate = Gate::new();
        let rpc = me.rpc("function").start().unwrap();
        let running = rpc.call(request(&begun, 1, gate.name())).start();
        let inside = gate.entered();
        let timeout = Duration::from_millis(20);
        let behind = rpc.call(request(&begun, 2, "return")).timeout(timeout);
        let phase = behind.wait().unwrap_err().phase();
        assert_eq!(phase, Some(Phase::Begun));
        inside.open();
        running.wait().unwrap();
        rpc.finish().unwrap();
    });
}

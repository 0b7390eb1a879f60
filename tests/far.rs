//! Children behind a command: a relay that the command starts, and what becomes of them when it, the command
//! or a child ends.

mod common;

use common::{
    Gate, alone, behind_shell as far, bounded, children, children_of, descriptors, eventually,
    is_gone, logged, pid, stop, worker,
};
use offspring::{CallError, Error, ErrorKind, Fd, Limit, Phase, Process, Stdio, StopStage, Worker};
use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

/// A shell that is no relay.
fn script(text: &str) -> Process {
    Process::command("sh").args(["-c", text])
}

/// The error of a child that does not get ready.
fn error_of(process: &Process) -> Error {
    let rpc = process.rpc("do").on_error(drop).start().unwrap();
    let Err(CallError::Lost(error, phase)) = rpc.call("echo").wait() else {
        panic!("it does not answer");
    };
    // What was sent may have begun.
    let has_greeted = matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Disconnected);
    assert!(has_greeted || phase != Phase::Begun, "{error}");
    error
}

#[test]
fn child_behind_a_command_is_a_child_like_any_other() {
    let _me = worker().run_in_test();
    let far = far("echo Welcome; echo 'You have mail' >&2");
    bounded(move || {
        let (send, events) = mpsc::channel();
        let builder = far.rpc("do");
        let rpc = builder
            .on_event(move |event| send.send(event).unwrap())
            .start()
            .unwrap();
        assert_eq!(rpc.call(["echo", "a", "b"]).wait().unwrap(), ["a", "b"]);
        assert_eq!(rpc.pid(), Some(pid(&rpc)));
        rpc.call(["event", "x"]).wait().unwrap();
        assert_eq!(events.recv().unwrap(), ["x"]);
        let failed = rpc.call(["fail", "no luck"]).wait().unwrap_err();
        assert_eq!(failed.to_string(), "no luck");
        let many: Vec<_> = (0..1000)
            .map(|n| rpc.call(["echo", &n.to_string()]).start())
            .collect();
        for (n, call) in many.into_iter().enumerate() {
            assert_eq!(call.wait().unwrap(), [n.to_string()]);
        }
        let exit = rpc.finish().unwrap();
        assert_eq!(exit.status().and_then(|status| status.code()), Some(0));
        assert_eq!(exit.stage(), StopStage::Closed);
    });
}

#[test]
fn nothing_is_left() {
    let _me = worker().run_in_test();
    let far = far(":");
    alone(move || {
        let open = || descriptors(std::process::id()).len();
        let thread_count = || std::fs::read_dir("/proc/self/task").unwrap().count();
        let threads = thread_count();
        let rounds = || {
            let rpc = far.rpc("do").start().unwrap();
            rpc.call("echo").wait().unwrap();
            rpc.finish().unwrap();
            let template = far.clone().template();
            let rpcs: Vec<_> = (0..3)
                .map(|_| template.rpc("do").start().unwrap())
                .collect();
            for rpc in &rpcs {
                rpc.call("echo").wait().unwrap();
            }
            rpcs[0].kill();
            rpcs[1].call("abort").wait().unwrap_err();
            drop((template, rpcs));
            drop(logged(script("exit 3").rpc("do")).0.start());
            eventually("no thread is left", || thread_count() == threads);
            eventually("no child is left", || children().is_empty());
        };
        rounds();
        let before = open();
        rounds();
        eventually("no descriptor is left", || open() == before);
    });
}

#[test]
fn finish_leaves_neither_the_command_nor_a_thread() {
    let _me = worker().run_in_test();
    let far = far(":");
    alone(move || {
        let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
        let before = threads();
        let rpc = far.rpc("do").start().unwrap();
        rpc.call("echo").wait().unwrap();
        rpc.finish().unwrap();
        assert_eq!(children(), [0; 0]);
        // The kernel takes a moment to forget a thread that was joined.
        eventually("no thread is left", || threads() == before);
    });
}

#[test]
fn command_that_does_not_greet_is_shown() {
    alone(|| {
        let error = error_of(&script(
            "echo Welcome; printf 'bad \\033[2J' >&2; echo >&2; exit 3",
        ));
        assert_eq!(error.kind(), ErrorKind::Exited);
        let message = error.to_string();
        let what = "` is lost: it ended before a worker greeted (exited with status 3); before that, \
                    it printed \"Welcome\\n\"";
        assert!(message.starts_with("the connection through `sh -c echo Welcome"));
        assert!(message.contains(what), "{message}");
        assert_eq!(error.stderr(), "bad \\u{1b}[2J\n");

        let error = error_of(&script("yes 'no worker' | head -c 1000000; sleep 1000"));
        assert_eq!(error.kind(), ErrorKind::NotWorker);
        let message = error.to_string();
        assert!(message.contains("it has printed 64 KiB"), "{message}");
        assert!(message.contains("no worker\\nno worker"), "{message}");
        assert!(message.contains("[..]"), "{message}");

        let error = error_of(&script("exec >&-; sleep 1000"));
        assert_eq!(error.kind(), ErrorKind::Exited);
        let message = error.to_string();
        assert!(message.ends_with("before a worker greeted"), "{message}");

        let patience = Duration::from_millis(100);
        let error = error_of(&script("echo Password:; sleep 1000").patience(patience));
        assert_eq!(error.kind(), ErrorKind::StartTimeout);
        let message = error.to_string();
        let what = "no worker has greeted within 100ms (patience); before that, it printed \
                    \"Password:\\n\"";
        assert!(message.ends_with(what), "{message}");
        eventually("no command is left", || children().is_empty());
    });
}

#[test]
fn other_version_and_a_terminal_are_named() {
    alone(|| {
        let error = error_of(&script(
            r"printf '\0offspring relay\n7\n\377'; cat >/dev/null",
        ));
        assert_eq!(error.kind(), ErrorKind::Version);
        let message = error.to_string();
        assert!(
            message
                .contains("speaks version 7 of the connection's protocol, and this one version 1"),
            "{message}"
        );
        let error = error_of(&script(
            r"printf '\0offspring relay\r\n1\r\n\377'; sleep 1000",
        ));
        assert_eq!(error.kind(), ErrorKind::NotWorker);
        assert!(error.to_string().contains("there is a terminal in between"));
        eventually("no command is left", || children().is_empty());
    });
}

#[test]
fn program_that_cannot_be_executed_is_a_start_error() {
    let error = Process::command("no-such-program")
        .rpc("do")
        .start()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Spawn);
    let message = error.to_string();
    assert!(
        message.starts_with("cannot start `no-such-program`: it is not in PATH"),
        "{message}"
    );
    let refused = || Err(std::io::ErrorKind::ConnectionRefused.into());
    let error = Process::connect(refused).rpc("do").start().unwrap_err();
    let message = "cannot start the connection: connection refused";
    assert_eq!(error.to_string(), message);
}

#[test]
fn options_that_it_cannot_have_are_refused() {
    let connection = || Process::connect(|| unreachable!("it is not made"));
    let seconds = Duration::from_secs(1);
    for (process, option) in [
        (connection().arg("x"), "arg()"),
        (connection().env("A", "b"), "env()"),
        (connection().current_dir("/"), "current_dir()"),
        (
            Process::exe("/bin/true").ping(seconds, 2 * seconds),
            "ping()",
        ),
        (Process::exe("/bin/true").patience(seconds), "patience()"),
        (
            Process::command("true").template().patience(seconds),
            "patience()",
        ),
        (Process::command("true").template().arg("x"), "arg()"),
        (
            Process::command("true").ping(seconds, seconds),
            "ping(1s, 1s)",
        ),
    ] {
        let error = process.rpc("do").start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let message = error.to_string();
        assert!(message.contains(&format!("Process::{option}")), "{message}");
    }
}

#[test]
fn many_children_are_behind_one_command() {
    let _me = worker().run_in_test();
    let far = far("echo noise");
    alone(move || {
        let template = far.template();
        let all: Vec<_> = (0..20)
            .map(|_| template.rpc("do").start().unwrap())
            .collect();
        let mut pids: Vec<_> = all.iter().map(pid).collect();
        pids.sort_unstable();
        pids.dedup();
        assert_eq!(pids.len(), 20);
        let [relay] = children()[..] else {
            panic!("there is one command");
        };
        assert!(pids.iter().all(|pid| !children_of(relay).contains(pid)));
        for rpc in all {
            rpc.finish().unwrap();
        }
        assert!(pids.iter().all(|pid| is_gone(*pid)));
        drop(template);
        eventually("the command has ended", || children().is_empty());
    });
}

thread_local! {
    static LOADED: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
}

fn loading() -> Worker {
    worker()
        .setup("load", |_| {
            LOADED.set((LOADED.get().0 + 1, std::process::id()));
            Ok(())
        })
        .setup("more", |_| {
            LOADED.set((LOADED.get().0 + 10, LOADED.get().1));
            Ok(())
        })
        .setup("fail", |_| Err("it cannot be loaded".into()))
        .setup("take", |mut request| {
            let [file] = request.take_fds()?;
            drop(file);
            Ok(())
        })
        .function("loaded", |_, _| {
            let (times, by) = LOADED.get();
            Ok([times.to_string(), (by == std::process::id()).to_string()])
        })
        .function("open", |_, _| {
            Ok(("opened", Fd::from(File::open("/dev/null")?)))
        })
}

#[test]
fn setups_before_and_after_a_template_run_there() {
    let _me = loading().run_in_test();
    let far = far(":");
    bounded(move || {
        let loaded = |process: &Process| {
            let rpc = process.rpc("loaded").start().unwrap();
            let reply = rpc.call(()).wait().unwrap();
            rpc.finish().unwrap();
            reply
        };
        assert_eq!(loaded(&far.clone().setup("load", ())), ["1", "true"]);
        let template = far.clone().setup("load", ()).template();
        template.warm().unwrap();
        assert_eq!(loaded(&template), ["1", "false"]);
        assert_eq!(loaded(&template.clone().setup("more", ())), ["11", "false"]);
        let second = template.setup("more", ()).template();
        assert_eq!(loaded(&second), ["11", "false"]);
        assert_eq!(loaded(&second.setup("more", ())), ["21", "false"]);

        let failing = far.setup("fail", ()).template();
        let error = failing.warm().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Setup);
        let message = error.to_string();
        assert!(
            message.starts_with("on the other side of `sh -c"),
            "{message}"
        );
        assert!(message.contains("it cannot be loaded"), "{message}");
        let error = error_of(&failing);
        assert_eq!(error.kind(), ErrorKind::Setup);
        assert!(error.to_string().contains("it cannot be loaded"));
    });
}

#[test]
fn start_that_fails_there_says_why() {
    let _me = loading().run_in_test();
    let far = far(":");
    bounded(move || {
        let rpc = far.rpc("nothing").on_error(drop).start().unwrap();
        let error = rpc.wait_ready().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoFunction);
        assert!(error.to_string().contains("`nothing`"));

        let missing = far.clone().template().current_dir("/nowhere");
        let error = error_of(&missing);
        assert!(error.to_string().contains("/nowhere"), "{error}");

        let error = error_of(&far.limit(Limit::OpenFiles(1 << 40)));
        assert_eq!(error.kind(), ErrorKind::Spawn);
        assert!(error.to_string().contains("OpenFiles"), "{error}");
    });
}

#[test]
fn descriptors_are_an_error_of_what_has_them() {
    let _me = loading().run_in_test();
    let far = far(":");
    bounded(move || {
        let file = || Fd::from(File::open("/dev/null").unwrap());
        let rpc = far.rpc("do").start().unwrap();
        let error = rpc.call(file()).wait().unwrap_err();
        let why = "descriptors cannot be sent to another machine";
        assert!(
            matches!(&error, CallError::Malformed(it) if it.to_string().contains(why)),
            "{error}"
        );
        let error = rpc.function("open").call(()).wait().unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(rpc.call(["echo", "on"]).wait().unwrap(), ["on"]);
        rpc.finish().unwrap();

        let error = far
            .clone()
            .setup("take", file())
            .rpc("do")
            .start()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Setup);
        assert!(error.to_string().contains(why), "{error}");
        let pool = far.pool("do").start().unwrap();
        let error = pool.call(file()).wait().unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    });
}

#[test]
fn output_of_each_child_is_its_own() {
    let _me = worker().run_in_test();
    let far = far("echo 'from the command' >&2");
    bounded(move || {
        let said = Arc::new(Mutex::new(Vec::new()));
        let lines = |said: &Arc<Mutex<Vec<(u32, String)>>>| {
            let said = Arc::clone(said);
            Stdio::lines(move |pid, line| said.lock().unwrap().push((pid, line.to_owned())))
        };
        let of_command = Arc::new(Mutex::new(Vec::new()));
        let template = far.stderr(lines(&of_command)).template();
        let start = || {
            let process = template.clone().stderr(lines(&said));
            process.rpc("do").on_error(drop).start().unwrap()
        };
        let (one, two) = (start(), start());
        let pids = [pid(&one), pid(&two)];
        one.call(["stderr", "from one"]).wait().unwrap();
        let error = two
            .call(["stderr and exit", "from two"])
            .wait()
            .unwrap_err();
        let CallError::Lost(error, Phase::Begun) = error else {
            panic!("{error}");
        };
        assert_eq!(error.stderr(), "from two\n");
        assert_eq!(error.status().and_then(|status| status.code()), Some(3));
        assert_eq!(error.pid(), Some(pids[1]));
        one.finish().unwrap();
        let mut said = said.lock().unwrap().clone();
        said.sort();
        let mut want = vec![
            (pids[0], "from one".to_owned()),
            (pids[1], "from two".to_owned()),
        ];
        want.sort();
        assert_eq!(said, want);
        eventually("the command was heard", || {
            let of_command = of_command.lock().unwrap();
            of_command
                .iter()
                .any(|(_, line)| line == "from the command")
        });
    });
}

#[test]
fn child_that_dies_takes_nobody_along() {
    let _me = worker().run_in_test();
    let far = far(":");
    bounded(move || {
        let template = far.template();
        let start = || template.rpc("do").on_error(drop).start().unwrap();
        let (one, two, three) = (start(), start(), start());
        let gate = Gate::new();
        let held = two.call(["gate", gate.name()]).start();
        let queued = two.call("echo").start();
        let inside = gate.entered();
        common::signal(pid(&one), "KILL");
        let error = one.call("echo").wait().unwrap_err();
        let CallError::Lost(error, _) = error else {
            panic!("{error}");
        };
        assert_eq!(error.kind(), ErrorKind::Died);
        assert_eq!(error.status().and_then(|status| status.signal()), Some(9));

        two.kill();
        let Err(CallError::Lost(error, Phase::Begun)) = held.wait() else {
            panic!("it had begun");
        };
        assert_eq!(error.kind(), ErrorKind::Killed);
        // The relay knows what it had begun.
        let lost = queued.wait().unwrap_err();
        assert_eq!(lost.phase(), Some(Phase::Sent), "{lost}");
        drop(inside);
        assert_eq!(three.call(["echo", "on"]).wait().unwrap(), ["on"]);
        three.signal(0).unwrap();
        three.finish().unwrap();
    });
}

#[test]
fn far_child_that_does_not_end_is_stopped() {
    let _me = worker().run_in_test();
    let far = far(":");
    bounded(move || {
        let template = far.template();
        let short = Duration::from_millis(20);
        let rpc = template
            .rpc("do")
            .grace(short)
            .on_error(drop)
            .start()
            .unwrap();
        let gate = Gate::new();
        let held = rpc.call(["gate", gate.name()]).start();
        let _inside = gate.entered();
        let error = rpc.finish_timeout(short).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stopped);
        assert_eq!(error.status().and_then(|status| status.signal()), Some(15));
        held.wait().unwrap_err();
    });
}

#[test]
fn lost_connection_ends_the_calls_and_the_children_and_is_made_again() {
    let _me = worker().run_in_test();
    let far = far("echo 'last words' >&2");
    alone(move || {
        let template = far.template();
        let start = || template.rpc("do").on_error(drop).start().unwrap();
        let (busy, idle) = (start(), start());
        let pids = [pid(&busy), pid(&idle)];
        let gate = Gate::new();
        let held = busy.call(["gate", gate.name()]).start();
        let _inside = gate.entered();
        let [relay] = children()[..] else {
            panic!("there is one command");
        };
        common::signal(relay, "KILL");
        let Err(CallError::Lost(error, Phase::Begun)) = held.wait() else {
            panic!("it had begun");
        };
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        let message = error.to_string();
        let what = "is lost: it ended (killed by SIGKILL)";
        assert!(message.contains(what), "{message}");
        assert_eq!(error.stderr(), "last words\n");
        let lost = idle.call("echo").wait().unwrap_err();
        assert!(lost.to_string().contains(what), "{lost}");
        eventually("the children have ended", || pids.into_iter().all(is_gone));

        let again = start();
        assert_eq!(again.call(["echo", "again"]).wait().unwrap(), ["again"]);
        again.finish().unwrap();
    });
}

/// How often a process has read something: see proc_pid_io(5).
fn reads(pid: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let reads = io.lines().find_map(|line| line.strip_prefix("syscr: "));
    reads.unwrap().parse().unwrap()
}

#[test]
fn frozen_connection_is_noticed() {
    let _me = worker().run_in_test();
    let far = far(":").ping(Duration::from_millis(50), Duration::from_millis(500));
    alone(move || {
        let rpc = far.rpc("do").on_error(drop).start().unwrap();
        let child = pid(&rpc);
        let [relay] = children()[..] else {
            panic!("there is one command");
        };
        // Longer than it may be silent: it answers pings.
        let before = reads(relay);
        eventually("it was pinged often", || reads(relay) >= before + 15);
        rpc.call("echo").wait().unwrap();
        stop(relay);
        let error = rpc.call("echo").wait().unwrap_err();
        let CallError::Lost(error, Phase::Begun) = error else {
            panic!("{error}");
        };
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        assert!(
            error.to_string().contains("a ping was not answered"),
            "{error}"
        );
        eventually("the command was killed", || {
            is_gone(relay) && is_gone(child)
        });
    });
}

#[test]
fn relay_ends_with_its_parent() {
    let _me = worker().run_in_test();
    let far = far(":");
    if std::env::var_os("OFFSPRING_TEST_PARENT").is_some() {
        let rpc = far
            .env_remove("OFFSPRING_TEST_PARENT")
            .rpc("do")
            .start()
            .unwrap();
        let gate = std::env::var("OFFSPRING_TEST_GATE").unwrap();
        println!("\npid {}", pid(&rpc));
        let _held = rpc.call(["gate", &gate]).wait();
        unreachable!("this process is killed");
    }
    bounded(|| {
        let name = "relay_ends_with_its_parent";
        let gate = Gate::new();
        let mut parent = Command::new("/proc/self/exe")
            .args([name, "--exact", "--nocapture"])
            .env("OFFSPRING_TEST_PARENT", "1")
            .env("OFFSPRING_TEST_GATE", gate.name())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let inside = gate.entered();
        let relays = children_of(parent.id());
        parent.kill().unwrap();
        let mut said = String::new();
        let mut output = parent.stdout.take().unwrap();
        output.read_to_string(&mut said).unwrap();
        parent.wait().unwrap();
        let child: u32 = said
            .lines()
            .find_map(|line| line.strip_prefix("pid "))
            .unwrap()
            .parse()
            .unwrap();
        eventually("they have ended", || {
            is_gone(child) && relays.iter().all(|relay| is_gone(*relay))
        });
        drop(inside);
    });
}

#[test]
fn large_transfers_keep_nobody_waiting() {
    let _me = worker().run_in_test();
    let far = far(":");
    bounded(move || {
        let template = far.template();
        let start = || template.rpc("do").start().unwrap();
        let (large, small) = (start(), start());
        let blob = vec![7; 20 << 20];
        let got = large.call(["size".as_bytes(), &blob]).wait().unwrap();
        assert_eq!(got, [blob.len().to_string()]);
        let mut reply = large.call(["blob", &blob.len().to_string()]).start();
        let mut rounds = 0;
        let reply = loop {
            if let Some(reply) = reply.try_wait() {
                break reply.unwrap();
            }
            small.call(["echo", "x"]).wait().unwrap();
            rounds += 1;
        };
        assert_eq!(reply[0], blob[..]);
        assert!(rounds > 0);
        let both = [&large, &small].map(|rpc| rpc.call(["echo".as_bytes(), &blob]).start());
        for call in both {
            assert_eq!(call.wait().unwrap()[0], blob[..]);
        }
    });
}

#[test]
fn reader_that_is_slow_delays_its_own_child_only() {
    let _me = worker().run_in_test();
    let far = far(":");
    bounded(move || {
        let template = far.template();
        let (hold, held) = mpsc::channel::<()>();
        let slow = template
            .rpc("do")
            .on_event(move |_| {
                let _ = held.recv();
            })
            .start()
            .unwrap();
        let flood = slow.call(["flood", "50"]).start();
        let other = template.rpc("do").start().unwrap();
        for n in 0..100 {
            let n = n.to_string();
            assert_eq!(other.call(["echo", &n]).wait().unwrap(), [n]);
        }
        drop(hold);
        flood.wait().unwrap();
    });
}

#[test]
fn other_side_that_breaks_the_rules_ends_only_its_own_children() {
    let greeting = r"printf '\0offspring relay\n1\n\377'";
    let frame = |id: u32, payload: &[u8]| {
        let bytes = [
            &id.to_be_bytes(),
            &(payload.len() as u32).to_be_bytes()[..],
            payload,
        ]
        .concat();
        let escaped: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
        format!("printf '{escaped}'")
    };
    let message = move |strings: &[&str]| {
        let mut payload = Vec::new();
        for string in strings {
            payload.push(string.len() as u8);
            payload.extend_from_slice(string.as_bytes());
        }
        frame(0, &payload)
    };
    bounded(move || {
        for (what, why) in [
            (frame(9, b"x"), "channel 9 was never opened"),
            (
                frame(0x8000_0000, b"x"),
                "there can be no channel 2147483648",
            ),
            (message(&["fly"]), "unknown control verb"),
            (message(&["opened", "9", "1"]), "channel 9 is no child's"),
            (message(&["credit", "1", "99999999"]), "senseless credit"),
            (message(&["warmed", "1"]), "template 1 was not waited for"),
            (message(&["eof", "7"]), "channel 7 was never opened"),
            (frame(1, &[0; 20_000]), "are too many"),
            (frame(0, b"\xff"), "octet strings end inside a length"),
        ] {
            // It is not heard before it knows the channel.
            let text = format!("{greeting}; head -c 8 >/dev/null; {what}; exec cat >/dev/null");
            let error = error_of(&script(&text));
            assert_eq!(error.kind(), ErrorKind::Protocol, "{what}: {error}");
            let message = error.to_string();
            assert!(message.contains("broke the protocol"), "{message}");
            assert!(message.contains(why), "{message}");
        }
        let died = format!("{greeting}; head -c 8 >/dev/null; exit 5");
        let error = error_of(&script(&died));
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        assert!(
            error
                .to_string()
                .contains("is lost: it ended (exited with status 5)")
        );

        let cut = r"printf '\0\0'";
        let error = error_of(&script(&format!("{greeting}; head -c 8 >/dev/null; {cut}")));
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        assert!(
            error
                .to_string()
                .contains("it ended in the middle of a message")
        );
    });
}

#[test]
fn relay_that_is_fed_garbage_ends() {
    let _me = worker().run_in_test();
    let name = thread::current().name().unwrap().to_owned();
    bounded(move || {
        let mut relay = Command::new("/proc/self/exe")
            .args([&*name, "--exact", "--nocapture"])
            .env("OFFSPRING", "serve")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = relay.stdin.take().unwrap();
        input.write_all(b"\0\0\0\x09\0\0\0\x01x").unwrap();
        let output = relay.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        let what = "offspring relay: the other side broke the protocol: channel 9 was never opened";
        assert!(said.contains(what), "{said}");
    });
}

#[test]
fn transport_may_be_a_socket_that_the_program_connects() {
    let _me = worker().run_in_test();
    let name = thread::current().name().unwrap().to_owned();
    bounded(move || {
        let connect = move || {
            let (near, far) = UnixStream::pair()?;
            let far = std::os::fd::OwnedFd::from(far);
            Command::new("/proc/self/exe")
                .args([&*name, "--exact", "--nocapture"])
                .env("OFFSPRING", "serve")
                .stdin(far.try_clone()?)
                .stdout(far)
                .spawn()?;
            Ok(near.into())
        };
        let process = Process::connect(connect);
        let rpc = process.rpc("do").start().unwrap();
        assert_eq!(rpc.call(["echo", "x"]).wait().unwrap(), ["x"]);
        rpc.finish().unwrap();
        let template = process.template();
        let rpc = template.rpc("do").start().unwrap();
        assert_eq!(rpc.call(["echo", "y"]).wait().unwrap(), ["y"]);
    });
}

#[test]
fn pool_of_far_children_survives_the_loss_of_its_connection() {
    let _me = worker().run_in_test();
    let far = far(":");
    alone(move || {
        let pool = far.template().pool("do").max(3).start().unwrap();
        let call = |n: usize| {
            let number = n.to_string();
            let reply = pool.call(["echo", &number]).repeatable(3).wait().unwrap();
            assert_eq!(reply, [number]);
        };
        (0..50).for_each(call);
        let [relay] = children()[..] else {
            panic!("there is one command");
        };
        common::signal(relay, "KILL");
        (50..100).for_each(call);
        pool.finish().unwrap();
    });
}

#[test]
fn frozen_connection_is_noticed_when_nothing_more_fits_into_it() {
    let _me = worker().run_in_test();
    let far = far(":").ping(Duration::from_millis(50), Duration::from_millis(500));
    alone(move || {
        let rpc = far.rpc("do").on_error(drop).start().unwrap();
        pid(&rpc);
        let [relay] = children()[..] else {
            panic!("there is one command");
        };
        stop(relay);
        let blob = vec![7; 1 << 20];
        let error = rpc.call(["size".as_bytes(), &blob]).wait().unwrap_err();
        let CallError::Lost(error, Phase::Begun) = error else {
            panic!("{error}");
        };
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        eventually("the command was killed", || is_gone(relay));
    });
}

/// A connection whose other end nobody has yet.
fn unmade() -> (Process, mpsc::Receiver<UnixStream>) {
    let (sender, far_ends) = mpsc::channel();
    let connect = move || {
        let (near, far) = UnixStream::pair()?;
        sender.send(far).unwrap();
        Ok(near.into())
    };
    (Process::connect(connect), far_ends)
}

/// Starts a relay of this test at the other end of a connection.
fn relay_at(far: UnixStream, name: &str) -> std::process::Child {
    let far = std::os::fd::OwnedFd::from(far);
    Command::new("/proc/self/exe")
        .args([name, "--exact", "--nocapture", "--include-ignored"])
        .env("OFFSPRING", "serve")
        .stdin(far.try_clone().unwrap())
        .stdout(far)
        .spawn()
        .unwrap()
}

#[test]
fn child_that_is_killed_before_the_greeting_takes_nobody_along() {
    let _me = worker().run_in_test();
    let name = thread::current().name().unwrap().to_owned();
    bounded(move || {
        let (process, far_ends) = unmade();
        let template = process.template();
        let start = || template.rpc("do").on_error(drop).start().unwrap();
        let (one, two, dropped) = (start(), start(), start());
        let call = two.call(["echo", "on"]).start();
        let lost = one.call("echo").start();
        one.kill();
        let lost = lost.wait().unwrap_err();
        assert!(
            lost.phase().is_some_and(|phase| phase != Phase::Begun),
            "{lost}"
        );
        assert_eq!(one.finish().unwrap_err().kind(), ErrorKind::Killed);
        dropped.kill();
        drop(dropped);
        let mut relay = relay_at(far_ends.recv().unwrap(), &name);
        assert_eq!(call.wait().unwrap(), ["on"]);
        let three = start();
        assert_eq!(three.call(["echo", "too"]).wait().unwrap(), ["too"]);
        three.finish().unwrap();
        two.finish().unwrap();
        drop(template);
        assert!(relay.wait().unwrap().success());
    });
}

#[test]
fn end_of_a_child_is_told_though_another_process_has_its_output() {
    let leaving = || {
        worker().function("leave", |request, _| -> Result<(), _> {
            Command::new("sleep").arg("1000").spawn()?;
            Gate::enter(request.texts::<1>()?[0]);
            eprintln!("last");
            std::process::exit(3)
        })
    };
    let _me = leaving().run_in_test();
    let far = far(":").stderr(Stdio::capture());
    alone(move || {
        let rpc = far.rpc("leave").on_error(drop).start().unwrap();
        // Its process id is known then.
        rpc.wait_ready().unwrap();
        let gate = Gate::new();
        let call = rpc.call(gate.name()).start();
        let inside = gate.entered();
        let child = rpc.pid().unwrap();
        let [relay] = children()[..] else {
            panic!("there is one command");
        };
        // It finds the output and the exit at the same time.
        stop(relay);
        inside.open();
        eventually("it has ended", || is_gone(child));
        common::signal(relay, "CONT");
        let Err(CallError::Lost(error, Phase::Begun)) = call.wait() else {
            panic!("it had begun");
        };
        let group = format!("-{child}");
        let killed = Command::new("kill").args(["-KILL", "--", &group]).status();
        assert!(killed.unwrap().success());
        assert_eq!(
            error.status().and_then(|status| status.code()),
            Some(3),
            "{error}"
        );
        assert_eq!(error.stderr(), "last\n");
        drop(rpc);
    });
}

#[test]
fn command_whose_standard_error_others_have_ends() {
    alone(|| {
        // There is always more.
        let slowly = Stdio::chunks(|_, _| thread::sleep(Duration::from_millis(50)));
        let error = error_of(&script("yes no >&2 & sleep 0.2; exit 3").stderr(slowly));
        assert_eq!(error.kind(), ErrorKind::Exited);
        assert!(
            error.to_string().contains("exited with status 3"),
            "{error}"
        );
    });
}

#[test]
fn callback_for_what_a_command_says_keeps_no_call_from_ending() {
    bounded(|| {
        let (hold, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let lines = Stdio::lines(move |_, _| {
            let _ = held.lock().unwrap().recv();
        });
        let error = error_of(&script("echo no >&2; exit 3").stderr(lines));
        assert_eq!(error.kind(), ErrorKind::Exited);
        drop(hold);
    });
}

const NEVER: (Duration, Duration) = (Duration::from_secs(1 << 20), Duration::MAX);

#[test]
fn far_child_that_cannot_be_stopped_is_given_up() {
    bounded(|| {
        let greeting = r"printf '\0offspring relay\n1\n\377'";
        let text = format!("{greeting}; head -c 8 >/dev/null; echo >&2; cat >/dev/null");
        let (asked, is_asked) = mpsc::channel();
        let lines = Stdio::lines(move |_, _| asked.send(()).unwrap());
        let far = script(&text).stderr(lines).ping(NEVER.0, NEVER.1);
        let short = Duration::from_millis(20);
        let rpc = far.rpc("do").grace(short).on_error(drop).start().unwrap();
        is_asked.recv().unwrap();
        let error = rpc.finish_timeout(short).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unstoppable, "{error}");
        eventually("the command has ended", || children().is_empty());
    });
}

#[test]
fn command_that_reads_nothing_more_is_noticed() {
    alone(|| {
        let greeting = r"printf '\0offspring relay\n1\n\377'";
        let far = script(&format!("exec <&-; {greeting}; exec sleep 1000")).ping(NEVER.0, NEVER.1);
        let error = error_of(&far);
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        assert!(error.to_string().contains("takes nothing more"), "{error}");
        eventually("the command has ended", || children().is_empty());
    });
}

#[test]
#[expect(unsafe_code, reason = "a system call")]
fn command_that_is_gone_does_not_end_a_program_that_has_not_ignored_sigpipe() {
    alone(|| {
        // SAFETY: no handler is installed.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let greeting = r"printf '\0offspring relay\n1\n\377'";
        let far = script(&format!("exec <&-; {greeting}; exec sleep 1000"));
        let far = far.ping(Duration::from_millis(50), Duration::from_millis(500));
        let error = error_of(&far);
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        eventually("the command has ended", || children().is_empty());
    });
}

#[test]
fn child_that_is_killed_while_its_template_is_made_ends_at_once() {
    let gated = || {
        worker().setup("gate", |request| {
            Gate::enter(request.texts::<1>()?[0]);
            Ok(())
        })
    };
    let _me = gated().run_in_test();
    let far = far(":");
    alone(move || {
        let gate = Gate::new();
        let template = far.setup("gate", gate.name()).template();
        let rpc = template.rpc("do").on_error(drop).start().unwrap();
        let call = rpc.call("echo").start();
        let mut inside = gate.entered();
        rpc.kill();
        let error = call.wait().unwrap_err();
        assert!(
            error.phase().is_some_and(|phase| phase != Phase::Begun),
            "{error}"
        );
        let CallError::Lost(error, _) = error else {
            panic!("{error}");
        };
        assert_eq!(error.kind(), ErrorKind::Killed);
        assert_eq!(rpc.finish().unwrap_err().kind(), ErrorKind::Killed);
        assert!(inside.is_waiting());
        inside.open();
        // What was started for it is gone, and others are served.
        let other = template.rpc("do").start().unwrap();
        assert_eq!(other.call(["echo", "on"]).wait().unwrap(), ["on"]);
        let [relay] = children()[..] else {
            panic!("there is one command");
        };
        let [template_there] = children_of(relay)[..] else {
            panic!("there is one template");
        };
        let other_pid = other.pid().unwrap();
        eventually("no other copy is left", || {
            children_of(template_there) == [other_pid]
        });
        other.finish().unwrap();
    });
}

#[test]
fn word_in_the_environment_is_checked() {
    let _me = worker().run_in_test();
    let name = thread::current().name().unwrap().to_owned();
    let output = Command::new("/proc/self/exe")
        .args([&*name, "--exact", "--nocapture"])
        .env("OFFSPRING", "fly")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    let what = "the environment variable OFFSPRING can only be `serve`, and is \"fly\"";
    assert!(said.contains(what), "{said}");
}

#[test]
fn program_that_is_only_a_worker_serves_whoever_is_there() {
    const VARIABLE: &str = "OFFSPRING_TEST_SERVE";
    if std::env::var_os(VARIABLE).is_some() {
        worker().serve();
    }
    let name = thread::current().name().unwrap().to_owned();
    bounded(move || {
        let words = [&*name, "--exact", "--nocapture"];
        let exe = std::env::current_exe().unwrap();
        let far = Process::command(&exe).args(words).env(VARIABLE, "1");
        let rpc = far.rpc("do").start().unwrap();
        assert_eq!(rpc.call(["echo", "x"]).wait().unwrap(), ["x"]);
        rpc.finish().unwrap();
        let near = Process::exe(&exe).args(words).env(VARIABLE, "1");
        let rpc = near.rpc("do").start().unwrap();
        assert_eq!(rpc.call(["echo", "y"]).wait().unwrap(), ["y"]);
        rpc.finish().unwrap();

        let output = Command::new(&exe)
            .args(words)
            .env(VARIABLE, "1")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "there is nobody");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("this program is a worker, to be started by"),
            "{said}"
        );
    });
}

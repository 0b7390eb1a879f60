//! Children behind a command: a relay that the command starts, and what becomes of them when it, the command
//! or a child ends.

mod common;

use common::{
    Gate, alone, behind_shell as far, bounded, children, children_of, error_of, eventually,
    is_gone, pid, stop, worker,
};
use offspring::{CallError, ErrorKind, Phase, Process, Stdio, StopStage};
use std::io::{Read, Write};
use std::process::Command;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

/// A shell that is no relay.
fn script(text: &str) -> Process {
    Process::command("sh").args(["-c", text])
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
            (
                format!("{0}; {0}", message(&["opened", "1", "7"])),
                "the child on channel 1 was started twice",
            ),
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

/// A relay of this test's, as a command would start it.
fn relay(test: &str) -> std::process::Child {
    let piped = std::process::Stdio::piped;
    Command::new("/proc/self/exe")
        .args([test, "--exact", "--nocapture"])
        .env("OFFSPRING", "serve")
        .stdin(piped())
        .stdout(piped())
        .stderr(piped())
        .spawn()
        .unwrap()
}

#[test]
fn relay_that_is_fed_garbage_ends() {
    let _me = worker().run_in_test();
    let name = thread::current().name().unwrap().to_owned();
    bounded(move || {
        let mut relay = relay(&name);
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
fn relay_that_nobody_hears_ends() {
    let _me = worker().run_in_test();
    let name = thread::current().name().unwrap().to_owned();
    bounded(move || {
        let mut relay = relay(&name);
        // Its end would end the relay, too.
        let input = relay.stdin.take();
        let mut output = relay.stdout.take().unwrap();
        let mut byte = [0];
        while byte != [0xff] {
            output.read_exact(&mut byte).unwrap();
        }
        drop(output);
        assert_eq!(relay.wait().unwrap().code(), Some(0));
        drop(input);
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

const NEVER: Duration = Duration::MAX;

#[test]
fn far_child_that_cannot_be_stopped_is_given_up() {
    bounded(|| {
        let greeting = r"printf '\0offspring relay\n1\n\377'";
        let text = format!("{greeting}; head -c 8 >/dev/null; echo >&2; cat >/dev/null");
        let (asked, is_asked) = mpsc::channel();
        let lines = Stdio::lines(move |_, _| asked.send(()).unwrap());
        let far = script(&text).stderr(lines).ping(NEVER, NEVER);
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
        let far = script(&format!("exec <&-; {greeting}; exec sleep 1000")).ping(NEVER, NEVER);
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

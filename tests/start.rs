//! Starting children, and the errors when that fails.

mod common;

use common::{Gate, alone, bounded, logged, lost, script, worker};
use offspring::{Error, ErrorKind, Plain, Process, Rpc, Stdio, Worker};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A start timeout for children that are never ready.
const SHORT: Duration = Duration::from_millis(50);

/// Checks that calls, handlers and `wait_ready` all get the same start error, and returns it.
fn start_error(process: &Process, timeout: Duration) -> Error {
    let process = process.clone().stderr(Stdio::null());
    let builder = process.rpc("do").start_timeout(timeout).grace(SHORT);
    let (builder, log) = logged(builder);
    let rpc = builder.start().unwrap();
    let calls: Vec<_> = (0..3).map(|_| rpc.call("echo").start()).collect();
    let error = rpc.wait_ready().unwrap_err();
    for call in calls {
        let lost = lost(call.wait());
        assert_eq!(lost.to_string(), error.to_string());
    }
    assert_eq!(lost(rpc.call("late").wait()).kind(), error.kind());
    let end = rpc.finish().unwrap_err();
    assert_eq!(end.to_string(), error.to_string());
    assert_eq!(log.lines(), [format!("error: {:?}", error.kind())]);
    error
}

/// A file for a test, removed afterwards.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Self {
        let name = format!("offspring-{name}-{}", std::process::id());
        Temporary(std::env::temp_dir().join(name))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn calls_made_before_ready_are_answered() {
    let me = worker()
        .setup("gate", |name| {
            Gate::enter(name.texts::<1>()?[0]);
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        let gate = Gate::new();
        let rpc = me.setup("gate", gate.name()).rpc("do").start().unwrap();
        let inside = gate.entered();
        let calls: Vec<_> = (0..10)
            .map(|n| rpc.call(["echo", &n.to_string()]).start())
            .collect();
        inside.open();
        rpc.wait_ready().unwrap();
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(call.wait().unwrap(), [n.to_string()]);
        }
        rpc.finish().unwrap();
    });
}

#[test]
fn setups_run_in_order_with_their_strings() {
    use std::{cell::RefCell, rc::Rc};
    let seen = Rc::new(RefCell::new(Vec::new()));
    let (one, two) = (Rc::clone(&seen), Rc::clone(&seen));
    let me = Worker::new()
        .setup("one", move |strings| {
            one.borrow_mut().push(format!("one {strings:?}"));
            Ok(())
        })
        .setup("two", move |strings| {
            two.borrow_mut().push(format!("two {strings:?}"));
            Ok(())
        })
        .function("seen", move |_, _| Ok(seen.borrow().clone()))
        .run_in_test();
    bounded(move || {
        let process = me
            .setup("two", ())
            .setup("one", "a")
            .setup("one", ["", "b"]);
        let rpc = process.rpc("seen").start().unwrap();
        let want = ["two []", r#"one ["a"]"#, r#"one ["", "b"]"#];
        assert_eq!(rpc.call(()).wait().unwrap(), want);
        rpc.finish().unwrap();
    });
}

#[test]
fn arguments_environment_and_directory_reach_the_child() {
    let me = Worker::new()
        .function("look", |_, _| {
            let variable = |name| std::env::var(name).unwrap_or("none".into());
            let dir = std::env::current_dir()?;
            Ok([
                variable("OFFSPRING_A"),
                variable("OFFSPRING_B"),
                dir.display().to_string(),
            ])
        })
        .run_in_test();
    bounded(move || {
        let look = |process: &Process| {
            let rpc = process.rpc("look").start().unwrap();
            let seen = rpc.call(()).wait().unwrap();
            rpc.finish().unwrap();
            seen
        };
        let here = std::env::current_dir().unwrap().display().to_string();
        assert_eq!(look(&me), ["none", "none", &here]);
        let changed = me.clone().env("OFFSPRING_A", "a b=c").current_dir("/");
        assert_eq!(look(&changed), ["a b=c", "none", "/"]);
        let removed = changed.env("OFFSPRING_B", "b").env_remove("OFFSPRING_A");
        assert_eq!(look(&removed), ["none", "b", "/"]);
        let cleared = removed.env_clear().env("OFFSPRING_A", "a");
        assert_eq!(look(&cleared), ["a", "none", "/"]);
        // As a child passes it on that sets every variable that it has.
        let marked = cleared.env("OFFSPRING_CHILD", "1 lifeline=2");
        assert_eq!(look(&marked), ["a", "none", "/"]);

        let rpc = script("ready; exec cat >/dev/null")
            .arg("ignored")
            .rpc("any");
        drop(rpc.start().unwrap());
    });
}

#[test]
fn missing_program_is_reported_immediately() {
    bounded(|| {
        let missing = Process::exe("/nowhere/to/be/found");
        let error = missing.rpc("do").start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Spawn);
        let text = error.to_string();
        for part in [
            "`/nowhere/to/be/found`: there is no such program",
            "No such file",
        ] {
            assert!(text.contains(part), "no `{part}` in: {text}");
        }
        let missing = Process::command("offspring-no-such-command").plain(Plain::Tagged);
        let error = missing.rpc("do").start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Spawn);
        assert!(error.to_string().contains("not in PATH"), "{error}");
        let nul = Process::exe("/bin/cat").arg("a\0b");
        let error = nul.rpc("do").start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Spawn);
        assert!(error.to_string().contains("NUL"), "{error}");
    });
}

#[test]
fn program_that_is_not_executable_is_reported_immediately() {
    alone(|| {
        let file = Temporary::new("not-executable");
        fs::write(&file.0, "#!/bin/sh\n").unwrap();
        let error = Process::exe(&file.0).rpc("do").start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Spawn);
        assert!(error.to_string().contains("Permission denied"), "{error}");
        // An executable file need not be a program.
        fs::write(&file.0, [0; 100]).unwrap();
        fs::set_permissions(&file.0, fs::Permissions::from_mode(0o755)).unwrap();
        match Process::exe(&file.0).rpc("do").on_error(drop).start() {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Spawn),
            // posix_spawnp(3) runs files that the kernel cannot execute with a shell.
            Ok(rpc) => assert_eq!(rpc.finish().unwrap_err().kind(), ErrorKind::Exited),
        }
        drop(File::open(&file.0).unwrap());
    });
}

#[test]
fn error_says_which_file_is_missing_or_unusable() {
    // Alone: a process that another test forks could have a new file open for writing.
    alone(|| {
        let script = Temporary::new("script");
        fs::write(&script.0, "#!/nowhere/interpreter -x\n").unwrap();
        fs::set_permissions(&script.0, fs::Permissions::from_mode(0o755)).unwrap();
        let cat = || Process::exe("/bin/cat");
        for (process, parts) in [
            (
                cat().current_dir("/nowhere/to/be/found"),
                [
                    "`/bin/cat`: its current_dir() `/nowhere/to/be/found`",
                    "No such file",
                ],
            ),
            (
                cat().current_dir("/bin/cat"),
                [
                    "`/bin/cat`: its current_dir() `/bin/cat`",
                    "Not a directory",
                ],
            ),
            (
                Process::exe(&script.0),
                ["its interpreter `/nowhere/interpreter`", "No such file"],
            ),
            (
                Process::exe("/"),
                ["it is a directory", "Permission denied"],
            ),
            (
                Process::exe("/bin/cat/cat"),
                ["there is no such program", "Not a directory"],
            ),
        ] {
            let error = process.rpc("do").start().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Spawn);
            for part in parts {
                assert!(error.to_string().contains(part), "no `{part}` in: {error}");
            }
        }
    });
}

#[test]
fn program_that_is_being_written_is_tried_for_a_while() {
    alone(|| {
        let program = Temporary::new("busy");
        fs::copy("/bin/true", &program.0).unwrap();
        let writer = File::options().append(true).open(&program.0).unwrap();
        let start = || Process::exe(&program.0).rpc("do").on_error(drop).start();
        let begin = Instant::now();
        let error = start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Spawn);
        let text = error.to_string();
        assert!(text.contains("it is open for writing"), "{text}");
        // The sum of the pauses: it cannot be less, however busy the machine is.
        assert!(begin.elapsed() >= Duration::from_millis(100));
        drop(writer);
        let end = start().unwrap().finish().unwrap_err();
        assert_eq!(end.kind(), ErrorKind::Exited);
    });
}

#[test]
fn program_that_exits_immediately_is_reported_with_its_status() {
    bounded(|| {
        let error = start_error(&Process::exe("/bin/true"), Duration::MAX);
        assert_eq!(error.kind(), ErrorKind::Exited);
        assert_eq!(error.status().and_then(|status| status.code()), Some(0));
        assert!(error.to_string().contains("exited with status 0"));
        let script = script("echo oh no >&2; exit 3");
        let rpc = script.stderr(Stdio::capture()).rpc("do");
        let rpc = rpc.on_error(drop).start().unwrap();
        let error = rpc.wait_ready().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exited);
        assert_eq!(error.stderr(), "oh no\n");
        assert!(error.to_string().contains("exited with status 3"));
        assert!(error.to_string().contains("oh no"));
    });
}

#[test]
fn program_that_is_not_a_worker_is_reported_as_such() {
    bounded(|| {
        // It would echo the frames, but the connection is only its standard input.
        let error = start_error(&Process::exe("/bin/cat"), SHORT);
        assert_eq!(error.kind(), ErrorKind::StartTimeout);
        for junk in [
            // Decoded as a length, this is above the limit, ...
            "send 'hello, this is a shell'; exec cat >/dev/null",
            // ... this is a frame that comes too early, and this is not a whole frame.
            "cat >&0",
            "send 'hello'",
        ] {
            let error = start_error(&script(junk), Duration::MAX);
            assert_eq!(error.kind(), ErrorKind::NotWorker, "{error}");
        }
    });
}

#[test]
fn child_that_is_never_ready_is_stopped() {
    let me = worker()
        .setup("stuck", |name| {
            Gate::enter(name.texts::<1>()?[0]);
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        let gate = Gate::new();
        let stuck = me.setup("stuck", gate.name());
        let error = start_error(&stuck, SHORT);
        assert_eq!(error.kind(), ErrorKind::StartTimeout);
        let pid = error.pid().unwrap();
        common::eventually("it is gone", || common::is_gone(pid));
    });
}

#[test]
fn setup_that_fails_is_reported_with_its_message() {
    let me = worker()
        .setup("fail", |_| Err("no such luck".into()))
        .setup("panic", |_| panic!("dear me"))
        .setup("count", |strings| {
            let [_, _] = strings.array()?;
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        for (name, parts) in [
            ("fail", vec!["setup `fail`", "no such luck"]),
            ("panic", vec!["setup `panic`", "dear me", "start.rs:"]),
            ("count", vec!["setup `count`", "expected 2 strings, got 1"]),
            (
                "other",
                vec!["no setup `other`", "`count`, `fail`, `panic`"],
            ),
        ] {
            let error = start_error(&me.clone().setup(name, "x"), Duration::MAX);
            assert_eq!(error.kind(), ErrorKind::Setup);
            let text = error.to_string();
            for part in parts {
                assert!(text.contains(part), "no `{part}` in: {text}");
            }
        }
    });
}

/// The parent takes no longer control message than 64 KiB.
#[test]
fn long_message_of_a_setup_that_fails_is_cut() {
    let me = worker()
        .setup("fail", |_| Err("\u{e9}".repeat(1 << 20).into()))
        .run_in_test();
    bounded(move || {
        let error = start_error(&me.setup("fail", ()), Duration::MAX);
        assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
        let text = error.to_string();
        assert!(text.contains("setup `fail`: \u{e9}\u{e9}") && text.len() < 64 << 10);
    });
}

#[test]
fn strings_of_a_setup_have_a_limit() {
    let me = worker()
        .setup("long", |strings| {
            let [one] = strings.array()?;
            assert!(one.iter().all(|byte| *byte == b'x'));
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        let long = |len| me.clone().setup("long", [vec![b'x'; len]]);
        let most = (1 << 20) - 300;
        let rpc = long(most).rpc("do").start().unwrap();
        rpc.call("echo").wait().unwrap();
        rpc.finish().unwrap();
        let error = long(1 << 20).rpc("do").start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Setup);
        let text = error.to_string();
        assert!(text.contains("`long` has more than a mebibyte"), "{text}");
        // A plain peer could not have a shorter one, either.
        let cat = Process::command("cat")
            .plain(Plain::Tagged)
            .setup("long", [vec![b'x'; 1 << 20]]);
        let error = cat.rpc("peer").start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    });
}

#[test]
fn child_that_closed_what_it_inherited_is_reported() {
    const VARIABLE: &str = "OFFSPRING_TEST_CLOSE";
    let close = std::env::var(VARIABLE);
    let mut opened = None;
    if let Ok(what) = &close {
        close_all_but_standard();
        if what == "and open" {
            opened = Some(File::open("/dev/null").unwrap());
        }
    }
    let me = worker().run_in_test();
    drop(opened);
    bounded(move || {
        for what in ["all", "and open"] {
            let error = start_error(&me.clone().env(VARIABLE, what), Duration::MAX);
            assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
            assert!(error.to_string().contains("closed descriptor 3"), "{error}");
        }
    });
}

/// What daemons do, and sudo.
#[expect(unsafe_code, reason = "a system call")]
fn close_all_but_standard() {
    for number in 3..100 {
        // SAFETY: takes no pointers. What is open belongs to nothing that is used after this.
        let _ = unsafe { libc::close(number) };
    }
}

#[test]
fn unknown_function_is_reported_with_the_existing_ones() {
    let me = worker().function("other", |_, _| Ok(())).run_in_test();
    bounded(move || {
        let rpc = me.rpc("missing").on_error(drop).start().unwrap();
        let error = lost(rpc.call("x").wait());
        assert_eq!(error.kind(), ErrorKind::NoFunction);
        let text = error.to_string();
        assert!(
            text.contains("no function `missing`; there are: `do`, `other`"),
            "{text}"
        );
    });
}

#[test]
fn other_version_of_the_protocol_is_reported() {
    bounded(|| {
        // ready, 2
        let future = script(r"send '\0200\0\0\0\0\0\0\0010\0005ready\00012'; exec cat >/dev/null");
        let error = start_error(&future, Duration::MAX);
        assert_eq!(error.kind(), ErrorKind::Version, "{error}");
        assert!(error.to_string().contains("version 2"), "{error}");
        assert!(error.to_string().contains("version 1"), "{error}");
    });
}

#[test]
fn refusal_of_a_child_is_passed_on() {
    bounded(|| {
        // refused, KIND, no
        for (kind, want) in [
            (r"\0005setup", ErrorKind::Setup),
            (r"\0010mismatch", ErrorKind::Mismatch),
            (r"\0007version", ErrorKind::Version),
            (r"\0010function", ErrorKind::NoFunction),
            (r"\0005dance", ErrorKind::Protocol),
        ] {
            let length = 8 + kind.len() - 4 + 3;
            let refusal = format!(
                r"send '\0200\0\0\0\0\0\0\0{length:o}\0007refused{kind}\0002no'; exec cat >/dev/null"
            );
            let error = start_error(&script(&refusal), Duration::MAX);
            assert_eq!(error.kind(), want, "{error}");
            assert!(error.to_string().starts_with("no"), "{error}");
        }
    });
}

#[test]
fn process_that_does_not_serve_yet_cannot_start_children() {
    // In the parent this succeeds; in the child it comes before its run().
    let early = Process::exe("/bin/true").rpc("do").on_error(drop).start();
    let early = early.map(drop).map_err(|error| error.kind());
    let me = Worker::new()
        .function("early", move |_, _| Ok(format!("{early:?}")))
        .function("later", |_, _| {
            let me = Worker::new().run_in_test();
            let rpc = me.rpc("early").start()?;
            let reply = rpc.call(()).wait()?;
            rpc.finish()?;
            Ok(format!("a grandchild: {reply}"))
        })
        .run_in_test();
    bounded(move || {
        let ask = |name| {
            let rpc: Rpc = me.rpc(name).start().unwrap();
            let reply = rpc.call(()).wait().unwrap();
            rpc.finish().unwrap();
            reply.to_string()
        };
        assert_eq!(ask("early"), "Err(NotServing)");
        assert_eq!(ask("later"), "a grandchild: Err(NotServing)");
    });
}

#[test]
fn child_with_a_cleared_environment_cannot_start_children() {
    const CLEARED: &str = "cleared";
    let me = worker().run_in_test();
    if std::env::args().any(|arg| arg == CLEARED) {
        let error = me.rpc("do").start().unwrap_err();
        eprintln!("{:?}: {error}", error.kind());
        std::process::exit(3);
    }
    let name = std::thread::current().name().unwrap().to_owned();
    bounded(move || {
        let wrapped = Process::exe("/usr/bin/env")
            .arg("-i")
            .arg(std::env::current_exe().unwrap())
            .args([&name, "--exact", "--nocapture", CLEARED])
            .stderr(Stdio::capture());
        let rpc = wrapped.rpc("do").on_error(drop).start().unwrap();
        let error = rpc.finish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exited, "{error}");
        let text = error.stderr();
        assert!(
            text.contains("NotServing: ") && text.contains("environment"),
            "{error}"
        );
    });
}

/// Code to be tested that calls `run()`.
fn product() -> Process {
    worker().run()
}

#[test]
fn child_is_served_by_the_run_that_described_it() {
    let me = product();
    let name = std::thread::current().name().unwrap().to_owned();
    bounded(move || {
        // Not the whole test binary, as it would be without arguments.
        let this = me.clone().args([&name, "--exact", "--nocapture"]);
        let rpc = this.rpc("do").start().unwrap();
        assert_eq!(rpc.call(["echo", "on"]).wait().unwrap(), ["on"]);
        rpc.finish().unwrap();

        let other = "calls_made_before_ready_are_answered";
        let error = start_error(&me.args([other, "--exact"]), Duration::MAX);
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.to_string().contains("run_in_test()"), "{error}");
    });
}

#[test]
fn child_of_a_test_is_served_by_the_run_that_described_it() {
    const VARIABLE: &str = "OFFSPRING_TEST_OTHER";
    if std::env::var_os(VARIABLE).is_some() {
        drop(worker().run_in_test());
    }
    let me = worker().run_in_test();
    bounded(move || {
        let error = start_error(&me.env(VARIABLE, "1"), Duration::MAX);
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        let text = error.to_string();
        assert_eq!(text.matches("tests/start.rs:").count(), 2, "{text}");
    });
}

#[test]
fn stream_can_be_started_once_and_must_be_a_stream() {
    bounded(|| {
        let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
        let process = Process::stream(near).plain(Plain::Tagged);
        let _rpc = process.rpc("peer").start().unwrap();
        let error = process.clone().rpc("peer").start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Spawn);
        for fd in [
            std::os::fd::OwnedFd::from(File::open("/dev/null").unwrap()),
            std::os::unix::net::UnixDatagram::pair().unwrap().0.into(),
        ] {
            let process = Process::stream(fd).plain(Plain::Tagged);
            let error = process.rpc("peer").start().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Spawn);
        }
    });
}

#[test]
fn program_whose_file_was_removed_can_start_children() {
    const VARIABLE: &str = "OFFSPRING_TEST_COPY";
    let me = worker().run_in_test();
    if std::env::var_os(VARIABLE).is_some() {
        return bounded(move || {
            fs::remove_file(std::env::current_exe().unwrap()).unwrap();
            let rpc = me.rpc("do").start().unwrap();
            assert_eq!(rpc.call(["echo", "on"]).wait().unwrap(), ["on"]);
            rpc.finish().unwrap();
        });
    }
    let copy = Temporary::new("copy");
    fs::copy(std::env::current_exe().unwrap(), &copy.0).unwrap();
    let name = std::thread::current().name().unwrap().to_owned();
    let mut command = std::process::Command::new(&copy.0);
    command
        .args([&name, "--exact", "--nocapture"])
        .env(VARIABLE, "1");
    let mut status = command.status();
    common::eventually("no process that another test forked has it open", || {
        let busy = |error: &io::Error| error.kind() == io::ErrorKind::ExecutableFileBusy;
        let is_busy = status.as_ref().is_err_and(busy);
        if is_busy {
            status = command.status();
        }
        !is_busy
    });
    assert!(status.unwrap().success());
    assert!(!copy.0.exists(), "it removed itself");
}

#[test]
fn name_that_no_environment_variable_can_have_is_an_error() {
    for name in ["", "=", "A=B"] {
        let process = Process::exe("/bin/true").env(name, "value");
        let error = process.rpc("any").start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Spawn);
        let text = error.to_string();
        assert!(
            text.contains(&format!("{name:?} cannot be the name")),
            "{text}"
        );
    }
}

#[test]
fn lack_of_descriptors_is_a_clear_error() {
    let me = worker().run_in_test();
    alone(move || {
        limit_descriptors(100);
        let hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        let error = me.rpc("do").start().unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Io | ErrorKind::Spawn),
            "{error:?}"
        );
        drop(hoard);
        let rpc = me.rpc("do").start().unwrap();
        assert_eq!(rpc.call(["echo", "on"]).wait().unwrap(), ["on"]);
        rpc.finish().unwrap();
        assert_eq!(common::children(), [0u32; 0]);
    });
}

/// Limits the number of this process's descriptors.
#[expect(unsafe_code, reason = "a system call")]
fn limit_descriptors(count: libc::rlim_t) {
    let limit = libc::rlimit {
        rlim_cur: count,
        rlim_max: count,
    };
    // SAFETY: points to an rlimit.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(result, 0);
}

//! Children that cannot be signalled, or not be reaped.

mod common;

use common::{alone, bounded, eventually, logged, lost, script_text, worker};
use offspring::{ErrorKind, Process};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// Whether all threads of this process but this one sleep, and go on sleeping.
fn is_calm() -> bool {
    let me = fs::read_link("/proc/thread-self").unwrap();
    (0..20).all(|_| {
        thread::sleep(Duration::from_millis(1));
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
        let mut others = tasks.filter(|task| Some(&*task.file_name()) != me.file_name());
        others.all(|task| {
            let stat = fs::read_to_string(task.path().join("stat"));
            stat.is_ok_and(|stat| stat.contains(") S "))
        })
    })
}

const TRACED_CHILD: &str = "OFFSPRING_TEST_TRACED_CHILD";

/// For another process: traces a child, until the end of its standard input.
#[expect(unsafe_code, reason = "no safe call traces a process")]
fn trace(pid: &str) {
    let (pid, none): (libc::pid_t, usize) = (pid.parse().unwrap(), 0);
    // SAFETY: reads no memory, with these arguments.
    let traces = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, none, none) } == 0;
    println!("\ntraces: {traces}");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn traced_child_that_died_is_reaped_when_its_tracer_lets_go() {
    if let Ok(pid) = std::env::var(TRACED_CHILD) {
        return trace(&pid);
    }
    let me = worker().run_in_test();
    alone(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        rpc.wait_ready().unwrap();
        let pid = rpc.pid().unwrap();
        let test = "traced_child_that_died_is_reaped_when_its_tracer_lets_go";
        let mut tracer = Command::new("/proc/self/exe")
            .args([test, "--exact", "--nocapture"])
            .env(TRACED_CHILD, pid.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(tracer.stdout.take().unwrap()).lines();
        let mut traces = lines
            .map_while(Result::ok)
            .filter(|it| it.starts_with("traces: "));
        if traces.next().unwrap() != "traces: true" {
            // Not an error in CI: a container may forbid it.
            tracer.wait().unwrap();
            return println!("skipped: no process may be traced");
        }
        let call = rpc.call("echo").start();
        common::signal(pid, "KILL");
        drop(call.wait());
        eventually("the child is a zombie", || {
            common::state(pid).as_deref() == Some("Z")
        });
        let error = lost(rpc.call("late").wait());
        assert_eq!((error.kind(), error.status()), (ErrorKind::Died, None));
        assert!(log.lines().is_empty(), "how it ended is not known yet");
        eventually("the reactor sleeps", is_calm);
        drop(tracer.stdin.take());
        let error = rpc.finish().unwrap_err();
        assert_eq!(error.status().and_then(|status| status.signal()), Some(9));
        assert!(!fs::exists(format!("/proc/{pid}")).unwrap(), "it is reaped");
        assert_eq!(log.end(), "error: Died");
        tracer.wait().unwrap();
    });
}

const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];
const ROOT: [&str; 3] = ["--reuid=0", "--regid=0", "--clear-groups"];
const SETUID_PROGRAM: &str = "OFFSPRING_TEST_SETUID";

/// The child becomes root, its parent is nobody.
#[test]
fn child_that_became_another_user_is_reported_and_reaped() {
    if let Ok(program) = std::env::var(SETUID_PROGRAM) {
        return bounded(move || child_becomes_root(&program));
    }
    let is_root = common::status_field(std::process::id(), "Uid").starts_with("0\t0");
    let find = Command::new("sh")
        .args(["-c", "command -v setpriv"])
        .output();
    let setpriv = String::from_utf8(find.unwrap().stdout).unwrap();
    if !is_root || setpriv.is_empty() {
        // Not an error in CI: it need not run as root.
        return println!("skipped: only root can make a setuid program, of setpriv");
    }
    let dir = std::env::temp_dir().join(format!("offspring-setuid-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    let program = dir.join("setpriv");
    fs::copy(setpriv.trim(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    let test = thread::current().name().unwrap().to_owned();
    let mut parent = Command::new("setpriv")
        .args(NOBODY)
        .arg(std::env::current_exe().unwrap())
        .args([&test, "--exact", "--nocapture"])
        .env(SETUID_PROGRAM, &program)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for line in BufReader::new(parent.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        println!("{line}");
        if let Some(pid) = line.strip_prefix("unstoppable: ") {
            common::signal(pid.parse().unwrap(), "KILL");
        }
    }
    let status = parent.wait().unwrap();
    fs::remove_dir_all(&dir).unwrap();
    assert!(status.success(), "as nobody, the test ended with {status}");
}

fn child_becomes_root(program: &str) {
    let command = [&ROOT[..], &["/bin/sh", "-c"]].concat();
    let child = Process::exe(program).args(command);
    let child = child.arg(script_text("ready; exec sleep 1000"));
    let (builder, log) = logged(child.rpc("any"));
    let rpc = builder.grace(Duration::from_millis(20)).start().unwrap();
    rpc.wait_ready().unwrap();
    let pid = rpc.pid().unwrap();
    if !common::status_field(pid, "Uid").starts_with("0\t0") {
        return println!("skipped: setuid programs do not work there");
    }
    let error = rpc.finish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unstoppable, "{error}");
    let message = error.to_string();
    assert!(message.contains("Operation not permitted"), "{message}");
    assert_eq!(log.end(), "error: Unstoppable");
    assert_ne!(common::state(pid).as_deref(), Some("Z"), "it lives on");
    println!("unstoppable: {pid}");
    eventually("it is reaped", || {
        !fs::exists(format!("/proc/{pid}")).unwrap()
    });
}

//! Children and the terminal of their parent: each test runs in a process whose controlling terminal
//! is a new one, which has it in its foreground, and the keyboard is here.

mod common;

use common::{Gate, bounded, eventually, logged, worker};
use offspring::{BoxError, Group, Plain, Process, Strings, Worker};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind as IoErrorKind, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::thread;

/// Runs `body` in a process on a terminal, and `keyboard` until that ends.
fn on_terminal(
    body: impl FnOnce() + Send + 'static,
    mut keyboard: impl FnMut(&mut File, &mut Child),
) {
    const VARIABLE: &str = "OFFSPRING_TEST_TERMINAL";
    let name = thread::current().name().unwrap().to_owned();
    if std::env::var(VARIABLE).is_ok_and(|running| running == name) {
        return bounded(body);
    }
    let (mut keys, terminal) = new_terminal();
    let mut command = Command::new("/proc/self/exe");
    command
        .args([&name, "--exact", "--nocapture", "--include-ignored"])
        .env(VARIABLE, &name);
    let mut process = start_on(&mut command, terminal);
    keyboard(&mut keys, &mut process);
    let status = process.wait().unwrap();
    assert!(
        status.success(),
        "on a terminal, the test ended with {status}"
    );
}

/// A new terminal, and the end where its keyboard would be.
#[expect(unsafe_code, reason = "system calls")]
fn new_terminal() -> (File, OwnedFd) {
    let keys = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/ptmx")
        .unwrap();
    let unlocked: libc::c_int = 0;
    // SAFETY: it reads an int.
    let result = unsafe { libc::ioctl(keys.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) };
    assert_eq!(result, 0);
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: it takes flags.
    let terminal = unsafe { libc::ioctl(keys.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    assert!(terminal >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: it was just created.
    (keys, unsafe { OwnedFd::from_raw_fd(terminal) })
}

/// Starts a command as the leader of a session that has this terminal.
#[expect(unsafe_code, reason = "system calls")]
fn start_on(command: &mut Command, terminal: OwnedFd) -> Child {
    let take_terminal = move || {
        // SAFETY: takes no pointers.
        if unsafe { libc::setsid() } == -1 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: takes no pointers.
        if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) } == -1 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: it makes only system calls.
    unsafe { command.pre_exec(take_terminal) };
    command.spawn().unwrap()
}

fn type_hello(keys: &mut File, _: &mut Child) {
    keys.write_all(b"hello\n").unwrap();
}

#[test]
fn start_is_not_stopped_by_the_keyboard() {
    on_terminal(
        || {
            for _ in 0..200 {
                let command = Process::command("true").plain(Plain::Tagged);
                drop(command.rpc("any").on_error(drop).start().unwrap());
            }
        },
        // The process is in no shell's session, so that these do not stop the process itself.
        |keys, process| {
            while process.try_wait().unwrap().is_none() {
                match keys.write_all(&[b'Z' - b'@'; 16]) {
                    Err(error) if error.kind() != IoErrorKind::WouldBlock => break,
                    _ => thread::yield_now(),
                }
            }
        },
    );
}

/// What comes of reading a line from the terminal: the line, or the error's number.
fn read_terminal() -> String {
    let number = |error: std::io::Error| error.raw_os_error().unwrap().to_string();
    let mut line = String::new();
    let read = File::open("/dev/tty").and_then(|file| BufReader::new(file).read_line(&mut line));
    read.map_or_else(number, |_| line)
}

/// Changes the terminal's settings, so that prints from the background stop a process, and prints.
#[expect(unsafe_code, reason = "system calls")]
fn change_and_print() -> Result<(), BoxError> {
    let mut file = File::options().write(true).open("/dev/tty")?;
    let mut settings = std::mem::MaybeUninit::<libc::termios>::uninit();
    // SAFETY: it fills the settings.
    let result = unsafe { libc::tcgetattr(file.as_raw_fd(), settings.as_mut_ptr()) };
    assert_eq!(result, 0);
    // SAFETY: they are filled.
    let mut settings = unsafe { settings.assume_init() };
    settings.c_lflag |= libc::TOSTOP;
    // SAFETY: they are settings.
    let result = unsafe { libc::tcsetattr(file.as_raw_fd(), libc::TCSANOW, &raw const settings) };
    assert_eq!(result, 0);
    writeln!(file, "from the background")?;
    Ok(())
}

#[test]
fn child_that_uses_the_terminal_is_not_stopped() {
    let me = Worker::new()
        .function("read", |_, _| Ok(read_terminal()))
        .function("print", |_, _| change_and_print())
        .run_in_test();
    on_terminal(
        move || {
            for (group, read) in [
                (Group::Own, libc::EIO.to_string()),
                (Group::Session, libc::ENXIO.to_string()),
                (Group::Parents, "hello\n".to_owned()),
            ] {
                let rpc = me.clone().group(group).rpc("read").start().unwrap();
                assert_eq!(rpc.call(()).wait().unwrap(), [read], "{group:?}");
                rpc.finish().unwrap();
            }
            let rpc = me.rpc("print").start().unwrap();
            assert!(rpc.call(()).wait().unwrap().is_empty());
            rpc.finish().unwrap();

            let shell = r#"read line </dev/tty; printf "\0\0\0\0\0\0\0\2\001$?"; cat >/dev/null"#;
            let command = Process::command("sh")
                .plain(Plain::Tagged)
                .args(["-c", shell]);
            let (builder, log) = logged(command.rpc("any"));
            let rpc = builder.start().unwrap();
            eventually("its event", || log.last().is_some());
            assert_eq!(log.lines(), ["event: 1"]);
            rpc.finish().unwrap();
        },
        type_hello,
    );
}

#[test]
fn child_is_in_the_group_that_was_asked_for() {
    let me = worker().run_in_test();
    bounded(move || {
        let own = std::process::id();
        for group in [Group::Own, Group::Session, Group::Parents] {
            let rpc = me.clone().group(group).rpc("do").start().unwrap();
            rpc.wait_ready().unwrap();
            let pid = rpc.pid().unwrap();
            let leader = match group {
                Group::Parents => common::group(own),
                _ => Some(pid),
            };
            assert_eq!(common::group(pid), leader, "{group:?}");
            assert_eq!(common::session(pid) == Some(pid), group == Group::Session);
            rpc.finish().unwrap();
        }
    });
}

/// A function that makes the child lead a group, with a process that waits at a gate.
#[expect(unsafe_code, reason = "a system call")]
fn lead(gate: &str) -> Result<(), BoxError> {
    // SAFETY: takes no pointers.
    assert_eq!(unsafe { libc::setpgid(0, 0) }, 0);
    let name = thread::current().name().unwrap().to_owned();
    let mut waiting = Command::new("/proc/self/exe");
    waiting.args([&name, "--exact", "--nocapture"]);
    waiting.env(GATE, gate).spawn()?;
    Ok(())
}

/// The gate that a process waits at.
const GATE: &str = "OFFSPRING_TEST_GATE";

#[test]
fn kill_ends_what_the_child_has_started_only_in_a_group_of_its_own() {
    if let Ok(gate) = std::env::var(GATE) {
        return Gate::enter(&gate);
    }
    let me = Worker::new()
        .function("lead", |gate: Strings, _| lead(gate.texts::<1>()?[0]))
        .run_in_test();
    bounded(move || {
        for (group, survives) in [(Group::Own, false), (Group::Parents, true)] {
            let rpc = me
                .clone()
                .group(group)
                .rpc("lead")
                .on_error(drop)
                .start()
                .unwrap();
            let gate = Gate::new();
            rpc.call(gate.name()).wait().unwrap();
            let mut inside = gate.entered();
            assert!(inside.is_waiting());
            rpc.kill();
            let _ = rpc.finish();
            assert_eq!(inside.is_waiting(), survives, "{group:?}");
        }
    });
}

//! What a child inherits and what it does not.

mod common;

use common::{Log, alone, descriptors, eventually, logged, status_field, worker};
use offspring::{Plain, Process, Rpc, Stdio};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::process;

/// The kinds of a child's open descriptors, except the standard ones.
fn extra(pid: u32) -> Vec<String> {
    let all = descriptors(pid).into_iter();
    all.filter(|(number, _)| *number > 2)
        .map(|(_, what)| what.split(':').next().unwrap().to_owned())
        .collect()
}

#[test]
fn child_has_only_its_own_descriptors() {
    let me = worker().run_in_test();
    alone(move || {
        // The parent leaks these into the programs that it executes.
        let leaked: Vec<i32> = (0..3)
            .map(|_| inherited(OpenOptions::new().write(true).open("/dev/null").unwrap()))
            .collect();
        let rpc = me.rpc("do").start().unwrap();
        rpc.wait_ready().unwrap();
        let pid = rpc.pid().unwrap();
        // The connection twice, for reading and writing, and the lifeline.
        let mut kept = extra(pid);
        kept.sort();
        assert_eq!(kept, ["pipe", "socket", "socket"]);
        assert_eq!(descriptors(pid)[0], (0, "/dev/null".to_owned()));
        rpc.finish().unwrap();

        let rpc = me.clone().outlive_parent().rpc("do").start().unwrap();
        rpc.wait_ready().unwrap();
        assert_eq!(extra(rpc.pid().unwrap()), ["socket", "socket"]);
        rpc.finish().unwrap();

        // A command gets the connection as both its input and its output.
        let (rpc, _log) = quiet_command();
        let all = descriptors(rpc.pid().unwrap());
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(all[0].1.starts_with("socket:") && all[0].1 == all[1].1);
        assert_eq!(all[2].1, "/dev/null");
        rpc.finish().unwrap();
        assert_eq!(leaked.len(), 3);
    });
}

#[test]
fn handles_are_not_inherited_by_other_programs() {
    let me = worker().run_in_test();
    alone(move || {
        // The open descriptors of a program that is started by other means.
        let other = || {
            let mut shell = std::process::Command::new("sh")
                .args(["-c", "echo; read line"])
                .stdin(process::Stdio::piped())
                .stdout(process::Stdio::piped())
                .spawn()
                .unwrap();
            shell.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            let extra = extra(shell.id());
            drop(shell.stdin.take());
            shell.wait().unwrap();
            extra
        };
        let before = other();
        let rpc = me.stderr(Stdio::capture()).rpc("do").start().unwrap();
        rpc.call("echo").wait().unwrap();
        assert_eq!(other(), before);
        rpc.finish().unwrap();
    });
}

#[test]
fn signals_of_a_child_are_reset() {
    let me = worker().run_in_test();
    alone(move || {
        let before = signals(std::process::id(), "SigCgt");
        disturb_signals();
        let (shell, _log) = quiet_command();
        let rpc = me.rpc("do").start().unwrap();
        rpc.wait_ready().unwrap();
        let set = |numbers: &[i32]| numbers.iter().map(|n| 1 << (n - 1)).sum::<u64>();
        // What a terminal stops processes with.
        let stop = set(&[libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU]);
        let pid = shell.pid().unwrap();
        assert_eq!((signals(pid, "SigIgn"), signals(pid, "SigBlk")), (0, stop));
        let pid = rpc.pid().unwrap();
        // In the thread that called run(). The C library blocks signals briefly.
        let tasks = || std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let blocks = |task: &std::fs::DirEntry| {
            let task = task.file_name().into_string().unwrap();
            signals(task.parse().unwrap(), "SigBlk")
        };
        eventually("none is blocked", || {
            tasks().flatten().any(|task| blocks(&task) == 0)
        });
        // The runtime of a Rust program ignores SIGPIPE.
        let ignored = set(&[libc::SIGPIPE, libc::SIGTTIN, libc::SIGTTOU]);
        assert_eq!(signals(pid, "SigIgn"), ignored);
        // The library has set no handlers, neither here nor there.
        assert_eq!(signals(pid, "SigCgt"), before);
        assert_eq!(signals(std::process::id(), "SigCgt"), before);
        for rpc in [shell, rpc] {
            let pid = rpc.pid().unwrap();
            assert_eq!(common::group(pid), Some(pid), "its own group");
            rpc.finish().unwrap();
        }
    });
}

#[test]
fn numbers_of_closed_standard_descriptors_are_not_used() {
    let me = worker()
        .deferred("closed", |_request, caller, events| {
            let closed = Closed::new(&[0, 1, 2]);
            // It has to wake the loop, for which there is a descriptor then.
            events.offload(|| (), move |(), _| caller.reply([closed.reopen()]));
        })
        .run_in_test();
    alone(move || {
        for numbers in [&[0][..], &[2], &[0, 2]] {
            let closed = Closed::new(numbers);
            let rpc = me.clone().stderr(Stdio::capture()).rpc("do").start();
            let reply = rpc.as_ref().map(|rpc| rpc.call(["echo", "on"]).wait());
            assert_eq!(closed.reopen(), "none");
            assert_eq!(reply.unwrap().unwrap(), ["on"]);
            rpc.unwrap().finish().unwrap();
        }
        let closed = Closed::new(&[0, 1, 2]);
        let command = Process::command("cat")
            .plain(Plain::Tagged)
            .stderr(Stdio::capture());
        let command = command.rpc("any").start();
        assert_eq!(closed.reopen(), "none");
        drop(command.unwrap());

        let rpc = me.rpc("closed").start().unwrap();
        assert_eq!(rpc.call(()).wait().unwrap(), ["none"]);
        rpc.finish().unwrap();
    });
}

/// Standard descriptors that are closed, and what they were.
struct Closed(Vec<(i32, OwnedFd)>);

#[expect(unsafe_code, reason = "system calls")]
impl Closed {
    fn new(numbers: &[i32]) -> Self {
        let kept = numbers.iter().map(|&number| {
            // SAFETY: they are open.
            let fd = unsafe { BorrowedFd::borrow_raw(number) };
            (number, fd.try_clone_to_owned().unwrap())
        });
        let kept = kept.collect();
        for &number in numbers {
            // SAFETY: takes no pointers, and the descriptor has no owner.
            let _ = unsafe { libc::close(number) };
        }
        Closed(kept)
    }

    /// Makes them what they were. Returns which of them something else had got the number of.
    fn reopen(self) -> String {
        let mut found = String::new();
        for (number, kept) in self.0 {
            // SAFETY: takes no pointers.
            if unsafe { libc::fcntl(number, libc::F_GETFD) } != -1 {
                found += &format!("{number} ");
            }
            // SAFETY: takes no pointers.
            let result = unsafe { libc::dup2(kept.as_raw_fd(), number) };
            assert_eq!(result, number);
        }
        if found.is_empty() {
            found += "none";
        }
        found
    }
}

/// A command that has fully started, and does nothing until the end of its input.
fn quiet_command() -> (Rpc, Log) {
    let shell = Process::command("sh").plain(Plain::Tagged);
    let shell = shell.args(["-c", r"printf '\0\0\0\0\0\0\0\0'; read line"]);
    let (builder, log) = logged(shell.stderr(Stdio::null()).rpc("any"));
    let rpc = builder.start().unwrap();
    eventually("its event", || log.last().as_deref() == Some("event: "));
    (rpc, log)
}

/// A signal set of a process, without the signals that glibc reserves.
fn signals(pid: u32, field: &str) -> u64 {
    let own = 0b11 << (32 - 1);
    u64::from_str_radix(&status_field(pid, field), 16).unwrap() & !own
}

/// Makes a file stay open across exec.
#[expect(unsafe_code, reason = "a system call")]
fn inherited(file: File) -> i32 {
    // SAFETY: takes no pointers.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) };
    assert_eq!(result, 0);
    file.into_raw_fd()
}

/// Ignores some signals in the whole process, and blocks all in this thread.
#[expect(unsafe_code, reason = "system calls")]
fn disturb_signals() {
    for signal in [libc::SIGUSR1, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: there is no handler for it that could be lost.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: initialises the set.
    unsafe { libc::sigfillset(set.as_mut_ptr()) };
    // SAFETY: the set is initialised; the old one is not wanted.
    let result =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
    assert_eq!(result, 0);
}

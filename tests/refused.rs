//! System calls that fail: refused by a sandbox, missing in an old system, or for lack of something. Each
//! of these tests is a process in which the kernel refuses some calls from a moment on.

mod common;

use common::{
    Gate, alone, children, descriptors, eventually, is_gone, logged, lost, lost_kind, signal,
    worker,
};
use offspring::{CallError, ErrorKind, Phase, Plain, Process, Reactor, Refusal, Stdio};
use std::os::unix::process::ExitStatusExt;
use std::sync::mpsc;
use std::time::Duration;

/// A system call that is to fail.
#[derive(Clone, Copy)]
struct Refused {
    call: libc::c_long,
    /// Only if an argument, by its place, has this value.
    only: Option<(u32, Test)>,
    error: i32,
}

#[derive(Clone, Copy)]
enum Test {
    Equal(u32),
    AnyBitOf(u32),
}

/// Refuses a call, whatever its arguments.
fn all(call: libc::c_long, error: i32) -> Refused {
    Refused {
        call,
        only: None,
        error,
    }
}

/// Has the kernel refuse calls of this process, and of the programs that it starts from now on; see
/// seccomp(2).
#[expect(unsafe_code, reason = "system calls")]
fn refuse(calls: &[Refused]) {
    let op = |code: u32, k| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let load = |at| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at);
    let skip_unless = |test: Test, count| {
        let (test, k) = match test {
            Test::Equal(k) => (libc::BPF_JEQ, k),
            Test::AnyBitOf(k) => (libc::BPF_JSET, k),
        };
        libc::sock_filter {
            jf: count,
            ..op(libc::BPF_JMP | test | libc::BPF_K, k)
        }
    };
    let result = |k| op(libc::BPF_RET | libc::BPF_K, k);
    let mut program = Vec::new();
    for refused in calls {
        let action = result(libc::SECCOMP_RET_ERRNO | refused.error as u32);
        program.push(load(0));
        let number = Test::Equal(refused.call as u32);
        match refused.only {
            None => program.push(skip_unless(number, 1)),
            Some((at, test)) => {
                program.push(skip_unless(number, 3));
                // The low half of an argument: seccomp_data is a number, an architecture and an
                // address, 16 bytes, and then the arguments.
                let low = if cfg!(target_endian = "big") { 4 } else { 0 };
                program.push(load(16 + 8 * at + low));
                program.push(skip_unless(test, 1));
            }
        }
        program.push(action);
    }
    program.push(result(libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: takes no pointers.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(result, 0);
    let (operation, flags) = (
        libc::SECCOMP_SET_MODE_FILTER,
        libc::SECCOMP_FILTER_FLAG_TSYNC,
    );
    // SAFETY: points to a program, which the kernel checks and copies.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// The beginning of a thread fails. The C library uses the other call if one is missing.
fn refuse_threads() {
    let flag = Test::AnyBitOf(libc::CLONE_THREAD as u32);
    refuse(&[
        all(libc::SYS_clone3, libc::ENOSYS),
        Refused {
            call: libc::SYS_clone,
            only: Some((0, flag)),
            error: libc::EAGAIN,
        },
    ]);
}

/// Everything that is done with a process works without pidfds.
fn works_without_pidfds(me: &Process) {
    let me = me.clone().stderr(Stdio::null());
    let reactor = Reactor::new().unwrap();
    for shared in [false, true] {
        let start = || {
            let builder = me.rpc("do").grace(Duration::from_millis(50));
            let builder = match shared {
                true => builder.reactor(&reactor),
                false => builder,
            };
            let (builder, log) = logged(builder);
            (builder.start().unwrap(), log)
        };
        let (rpc, log) = start();
        assert_eq!(rpc.call(["echo", "a"]).wait().unwrap(), ["a"]);
        rpc.signal(0).unwrap();
        assert!(rpc.try_exit().is_none());
        let exit = rpc.clone().finish().unwrap();
        assert!(exit.status().unwrap().success());
        assert_eq!(log.end(), "destroy");
        let error = rpc.signal(0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));

        let (rpc, log) = start();
        let error = lost(rpc.call(["signal", "KILL"]).wait());
        assert_eq!(error.kind(), ErrorKind::Died);
        assert_eq!(error.status().unwrap().signal(), Some(libc::SIGKILL));
        assert_eq!(log.end(), "error: Died");

        let (rpc, _log) = start();
        rpc.wait_ready().unwrap();
        let call = rpc.call(["spin", Gate::new().name()]).start();
        rpc.kill();
        assert_eq!(lost_kind(call.wait()), ErrorKind::Killed);

        let (rpc, _log) = start();
        let gate = Gate::new();
        let call = rpc.call(["spin", gate.name()]).start();
        drop(gate.entered());
        let error = rpc.finish_timeout(Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stopped);
        assert_eq!(error.status().unwrap().signal(), Some(libc::SIGTERM));
        assert_eq!(lost_kind(call.wait()), ErrorKind::Stopped);

        let missing = Process::exe("/bin/true").rpc("do").on_error(drop);
        let error = lost(missing.start().unwrap().call("echo").wait());
        assert_eq!(error.kind(), ErrorKind::Exited);

        // A command that lives on is not waited for until it ends.
        let mute = Process::command("sh").args(["-c", "exec sleep 1000 >&-"]);
        let mute = mute
            .rpc("do")
            .grace(Duration::from_millis(50))
            .on_error(drop);
        let error = lost(mute.start().unwrap().call("echo").wait());
        assert_eq!(error.kind(), ErrorKind::Exited);
    }
    drop(reactor);
    eventually("all are reaped", || children().is_empty());
    eventually("no thread is left", || {
        std::fs::read_dir("/proc/self/task").unwrap().count() <= 3
    });
}

#[test]
fn child_costs_a_thread_only_where_there_are_no_pidfds() {
    let me = worker().run_in_test();
    alone(move || {
        let open = || descriptors(std::process::id());
        let mut before = Vec::new();
        // What those threads hold is closed when finish() returns, every time.
        for round in 0..50 {
            let threads = if round == 0 { 0 } else { 2 };
            let children = [(); 2].map(|()| me.rpc("do").start().unwrap());
            children.iter().for_each(|rpc| rpc.wait_ready().unwrap());
            // A thread takes its name when it runs.
            let waiting = || common::threads("offspring reap");
            eventually("the threads have names", || waiting() >= threads);
            assert_eq!(waiting(), threads);
            for rpc in children {
                rpc.finish().unwrap();
            }
            if round == 0 {
                refuse(&[all(libc::SYS_pidfd_open, libc::ENOSYS)]);
                before = open();
            }
            assert_eq!(open(), before);
        }
        eventually("no thread is left", || {
            common::threads("offspring reap") == 0
        });
    });
}

/// As if it had become another user's.
#[test]
fn child_of_a_failed_start_that_cannot_be_killed_is_reaped_when_it_ends() {
    alone(|| {
        refuse(&[all(libc::SYS_kill, libc::EPERM)]);
        // It ends with its connection.
        let cat = Process::command("cat").plain(Plain::Tagged).cpus([65_535]);
        for _ in 0..3 {
            let error = cat.rpc("peer").start().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Spawn, "{error}");
        }
        eventually("all are reaped", || children().is_empty());
    });
}

#[test]
fn system_that_has_no_pidfds_waits_by_process_id() {
    let me = worker().run_in_test();
    alone(move || {
        refuse(&[all(libc::SYS_pidfd_open, libc::ENOSYS)]);
        works_without_pidfds(&me);
    });
}

#[test]
fn sandbox_that_permits_no_signals_by_pidfd_gets_them_by_process_id() {
    let me = worker().run_in_test();
    alone(move || {
        refuse(&[all(libc::SYS_pidfd_send_signal, libc::EPERM)]);
        works_without_pidfds(&me);
    });
}

#[test]
fn system_that_cannot_wait_by_pidfd_waits_by_process_id() {
    let me = worker().run_in_test();
    alone(move || {
        refuse(&[Refused {
            call: libc::SYS_waitid,
            only: Some((0, Test::Equal(libc::P_PIDFD))),
            error: libc::EINVAL,
        }]);
        works_without_pidfds(&me);
    });
}

/// It is not known to have ended, and not taken for it.
#[test]
fn child_that_cannot_be_waited_for_is_said_to_live_on() {
    let me = worker().run_in_test();
    alone(move || {
        let rpc = me.rpc("do").grace(Duration::from_millis(20)).on_error(drop);
        let rpc = rpc.start().unwrap();
        rpc.wait_ready().unwrap();
        refuse(&[all(libc::SYS_waitid, libc::EPERM)]);
        let error = rpc.finish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unstoppable, "{error}");
    });
}

/// As in `F_SETSIG`, which the libc crate does not have.
const F_SETSIG: u32 = 10;

#[test]
fn child_that_cannot_watch_its_parent_says_so() {
    let me = worker().run_in_test();
    alone(move || {
        refuse(&[Refused {
            call: if cfg!(target_pointer_width = "32") {
                // The C library uses the other one, whose number is that of x86.
                221
            } else {
                libc::SYS_fcntl
            },
            only: Some((1, Test::Equal(F_SETSIG))),
            error: libc::EINVAL,
        }]);
        let rpc = me.rpc("do").on_error(drop).start().unwrap();
        let error = lost(rpc.call("echo").wait());
        assert_eq!(error.kind(), ErrorKind::Setup);
        let text = error.to_string();
        for part in ["F_SETSIG", "os error 22", "outlive_parent()"] {
            assert!(text.contains(part), "no `{part}` in: {text}");
        }
        let rpc = me.outlive_parent().rpc("do").start().unwrap();
        assert_eq!(rpc.call(["echo", "a"]).wait().unwrap(), ["a"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn everything_may_have_begun_if_there_is_no_memory_to_note_it_in() {
    let me = worker().run_in_test();
    alone(move || {
        refuse(&[all(libc::SYS_memfd_create, libc::EPERM)]);
        let rpc = me.rpc("do").on_error(drop).start().unwrap();
        let gate = Gate::new();
        let calls = [rpc.call(["gate", gate.name()]), rpc.call("echo")].map(|call| call.start());
        let _inside = gate.entered();
        signal(rpc.pid().unwrap(), "KILL");
        for call in calls {
            assert_eq!(call.wait().unwrap_err().phase(), Some(Phase::Begun));
        }
    });
}

/// Limits the size of files that this process may write.
#[expect(unsafe_code, reason = "a system call")]
fn limit_files(size: libc::rlim_t) {
    let limit = libc::rlimit {
        rlim_cur: size,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: points to a limit.
    let limited = unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) };
    assert_eq!(limited, 0);
}

/// Files in memory are limited, too, and the signal would end this process.
#[test]
fn children_are_started_where_no_file_may_be_written() {
    let me = worker().run_in_test();
    alone(move || {
        limit_files(0);
        let rpc = me.rpc("do").start().unwrap();
        let reply = rpc.call(["echo", "a"]).wait();
        let exit = rpc.finish();
        // What the harness prints may go to a file.
        limit_files(libc::RLIM_INFINITY);
        assert_eq!(reply.unwrap(), ["a"]);
        assert!(exit.unwrap().status().unwrap().success());
    });
}

#[test]
fn child_is_not_left_behind_if_there_is_no_thread_to_serve_it() {
    let me = worker().run_in_test();
    alone(move || {
        let before = descriptors(std::process::id());
        let reactor = Reactor::new().unwrap();
        refuse_threads();
        for builder in [me.rpc("do"), me.rpc("do").reactor(&reactor)] {
            let error = builder.start().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io);
            let text = error.to_string();
            assert!(text.contains("cannot start a reactor"), "{text}");
            assert_eq!(children(), [0u32; 0]);
        }
        drop(reactor);
        assert_eq!(descriptors(std::process::id()), before);
    });
}

/// The reactor's thread has ended, and there is no other.
#[test]
fn callback_of_a_refused_call_runs_even_without_a_thread() {
    let me = worker().run_in_test();
    alone(move || {
        let rpc = me.rpc("do").start().unwrap();
        rpc.clone().finish().unwrap();
        eventually("no reactor is left", || common::reactors() == 0);
        refuse_threads();
        let (sender, outcome) = mpsc::channel();
        rpc.call("echo")
            .then(move |outcome| sender.send(outcome).unwrap());
        let outcome = outcome.recv_timeout(common::FOREVER).unwrap();
        assert!(matches!(outcome, Err(CallError::Refused(Refusal::Closed))));
    });
}

#[test]
fn no_child_is_started_without_a_poller() {
    let me = worker().run_in_test();
    alone(move || {
        refuse(&[all(libc::SYS_epoll_create1, libc::EMFILE)]);
        assert!(Reactor::new().is_err());
        let error = me.rpc("do").start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert_eq!(children(), [0u32; 0]);
    });
}

#[test]
fn no_command_is_left_without_a_connection() {
    alone(|| {
        let reactor = Reactor::new().unwrap();
        let command = Process::command("sleep").arg("1000");
        let refused = || {
            let error = command.rpc("do").reactor(&reactor).start().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Spawn);
            assert_eq!(children(), [0u32; 0]);
        };
        refuse_threads();
        refused();
        refuse(&[all(libc::SYS_epoll_create1, libc::EMFILE)]);
        refused();
    });
}

#[test]
fn child_whose_socket_cannot_be_polled_any_more_is_killed() {
    let me = worker().run_in_test();
    alone(move || {
        let before = descriptors(std::process::id());
        // Callers that wait take the socket from the poller, and give it back after each call.
        let (builder, log) = logged(me.rpc("do").event_delay(Duration::ZERO));
        let rpc = builder.start().unwrap();
        let pid = rpc.pid().unwrap();
        rpc.call("echo").wait().unwrap();
        let all = descriptors(std::process::id()).into_iter();
        let mut new = all.filter(|open| !before.contains(open));
        let (socket, _) = new.find(|(_, what)| what.starts_with("socket:")).unwrap();
        refuse(&[Refused {
            call: libc::SYS_epoll_ctl,
            only: Some((2, Test::Equal(socket))),
            error: libc::ENOMEM,
        }]);
        let mut outcomes = std::iter::repeat_with(|| rpc.call("echo").wait());
        let error = lost(outcomes.find(Result::is_err).unwrap());
        assert_eq!(error.kind(), ErrorKind::Io);
        let text = error.to_string();
        assert!(text.contains("os error 12"), "{text}");
        assert_eq!(error.status().unwrap().signal(), Some(libc::SIGKILL));
        assert_eq!(log.end(), "error: Io");
        assert!(is_gone(pid));
    });
}

/// Before it is running, and while it is.
#[test]
fn child_that_cannot_be_polled_is_killed() {
    let me = worker().run_in_test();
    alone(move || {
        // Callers that wait take the socket from the poller, and give it back after each call.
        let (builder, log) = logged(me.rpc("do").event_delay(Duration::ZERO));
        let rpc = builder.start().unwrap();
        let pid = rpc.pid().unwrap();
        rpc.call("echo").wait().unwrap();
        refuse(&[all(libc::SYS_epoll_ctl, libc::ENOMEM)]);
        let mut outcomes = std::iter::repeat_with(|| rpc.call("echo").wait());
        let error = lost(outcomes.find(Result::is_err).unwrap());
        assert_eq!(error.kind(), ErrorKind::Io);
        eventually("it is gone", || is_gone(pid));
        assert_eq!(log.end(), "error: Io");

        let error = me.rpc("do").start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert_eq!(children(), [0u32; 0]);
    });
}

/// Refuses to receive from sockets.
fn refuse_to_receive() {
    refuse(&[libc::SYS_recvfrom, libc::SYS_recvmsg].map(|call| all(call, libc::EIO)));
    // There, sockets share one call, and these are recv, recvfrom and recvmsg.
    #[cfg(target_arch = "x86")]
    refuse(&[10, 12, 17].map(|which| Refused {
        call: libc::SYS_socketcall,
        only: Some((0, Test::Equal(which))),
        error: libc::EIO,
    }));
}

#[test]
fn read_that_fails_is_the_error_of_all_calls() {
    let me = worker().run_in_test();
    alone(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        rpc.wait_ready().unwrap();
        let gate = Gate::new();
        let call = rpc.call(["gate", gate.name()]).start();
        let inside = gate.entered();
        refuse_to_receive();
        // The test's own gates are read with read(2).
        inside.open();
        let error = lost(call.wait());
        assert_eq!(error.kind(), ErrorKind::Io);
        let text = error.to_string();
        assert!(
            text.contains("cannot read from the child: ") && text.contains("os error 5"),
            "{text}"
        );
        assert_eq!(log.end(), "error: Io");
    });
}

//! Children that lose their connection, a resource that they need, or their parent; and those that
//! exit while their threads write.

mod common;

use common::{Gate, bounded, descriptors, eventually, is_gone, logged, lost, obey};
use offspring::{BoxError, Caller, ErrorKind, Loop, Rpc, Stdio, Strings, Worker};
use std::cell::RefCell;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

/// The function `do`, and ways for a child to lose its connection.
fn lose(request: Strings, caller: &Caller) -> Result<Strings, BoxError> {
    let parent = caller.parent().clone();
    match &request[0] {
        b"shut down" => shut_down(),
        b"replace" => replace_all(),
        b"replace later" => {
            thread::spawn(move || {
                replace_all();
                parent.event("cannot be written");
            });
        }
        _ => return obey(request, caller),
    }
    Ok(Strings::new())
}

/// Shuts the writing side of this process's connection down.
#[expect(unsafe_code, reason = "system calls")]
fn shut_down() {
    for (number, what) in descriptors(std::process::id()) {
        if what.starts_with("socket:") {
            // SAFETY: takes no pointers.
            unsafe { libc::shutdown(number as i32, libc::SHUT_WR) };
        }
    }
}

/// Takes all descriptors of this process away, but the standard ones. A read of the connection that has
/// begun continues.
#[expect(unsafe_code, reason = "system calls")]
fn replace_all() {
    let null = File::open("/dev/null").unwrap();
    for (number, _) in descriptors(std::process::id()) {
        if number > 2 && number as i32 != null.as_raw_fd() {
            // SAFETY: takes no pointers. The descriptor stays open.
            unsafe { libc::dup2(null.as_raw_fd(), number as i32) };
        }
    }
}

fn lose_later(request: Strings, caller: Caller, _: &Loop) {
    let result = lose(request, &caller);
    caller.answer(result);
}

#[test]
fn child_that_loses_its_connection_on_a_thread_exits() {
    let me = Worker::new()
        .function("returning", lose)
        .threaded("threaded", lose)
        .deferred("deferred", lose_later)
        .run_in_test();
    bounded(move || {
        for (function, verb) in [
            ("threaded", "shut down"),
            ("threaded", "replace"),
            ("threaded", "replace later"),
            ("returning", "replace later"),
            ("deferred", "replace later"),
        ] {
            // It would notice by itself when it next pauses to watch for the death of its parent.
            let me = me.clone().stderr(Stdio::capture()).outlive_parent();
            // Nothing but the child's own exit ends it.
            let (builder, log) = logged(me.rpc(function).grace(Duration::MAX));
            let rpc = builder.start().unwrap();
            assert_eq!(rpc.call(["echo", "on"]).wait().unwrap(), ["on"]);
            drop(rpc.call(verb).start());
            assert_eq!(log.end(), "error: Died", "{function} {verb}");
            let error = rpc.finish().unwrap_err();
            let code = error.status().and_then(|status| status.code());
            assert_eq!(code, Some(1), "{function} {verb}: {error}");
            let text = error.stderr();
            assert!(text.contains("offspring child: "), "{text}");
        }
    });
}

#[test]
fn exit_while_threads_write_is_not_a_protocol_error() {
    let me = Worker::new()
        .threaded("do", |request: Strings, caller: &Caller| {
            match &request[0] {
                // As much as there is room for.
                b"write" => loop {
                    caller.event([vec![b'x'; 3000]]);
                    caller.progress("on");
                },
                _ => obey(request, caller),
            }
        })
        .threads(4)
        .run_in_test();
    bounded(move || {
        for round in 0..60 {
            let (builder, log) = logged(me.rpc("do"));
            let rpc = builder.start().unwrap();
            let verbs: &[&[&str]] = match round % 2 {
                0 => &[&["write"][..]; 3],
                _ => &[&["blob", "100000"][..]; 20],
            };
            let calls: Vec<_> = verbs.iter().map(|verb| rpc.call(*verb).start()).collect();
            let exit = rpc.call(["exit", "3"]).start();
            let error = lost(exit.wait());
            assert_eq!(error.kind(), ErrorKind::Died, "{error}");
            let code = error.status().and_then(|status| status.code());
            assert_eq!(code, Some(3), "{error}");
            for call in calls {
                if let Err(error) = call.wait() {
                    assert_eq!(lost::<()>(Err(error)).kind(), ErrorKind::Died);
                }
            }
            assert_eq!(log.end(), "error: Died");
        }
    });
}

/// Has this process get no more descriptors.
#[expect(unsafe_code, reason = "a system call")]
fn allow_no_more_descriptors() {
    let Ok(next) = File::open("/dev/null") else {
        return;
    };
    let next = next.as_raw_fd();
    let limit = libc::rlimit {
        rlim_cur: next as libc::rlim_t,
        rlim_max: next as libc::rlim_t,
    };
    // SAFETY: points to an rlimit.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(result, 0);
}

#[test]
fn deferred_child_without_a_descriptor_to_be_woken_with_loses_its_calls() {
    let mut kept = Vec::new();
    let me = Worker::new()
        .deferred(
            "do",
            move |request: Strings, caller: Caller, events: &Loop| {
                allow_no_more_descriptors();
                match &request[0] {
                    // Whether it needs the descriptor now, or after a while.
                    b"timer" => {
                        events.after(Duration::from_millis(1), |_| caller.reply("late"));
                    }
                    b"keep" => kept.push(caller),
                    _ => caller.reply(&request),
                }
            },
        )
        .run_in_test();
    bounded(move || {
        let me = me.stderr(Stdio::capture());
        for verb in ["timer", "keep"] {
            let rpc = me.rpc("do").on_error(drop).start().unwrap();
            let answered = rpc.call("echo").start();
            let error = lost(rpc.call(verb).wait());
            assert_eq!(answered.wait().unwrap(), ["echo"]);
            assert_eq!(error.kind(), ErrorKind::Died);
            let code = error.status().and_then(|status| status.code());
            assert_eq!(code, Some(1), "{error}");
            assert!(error.stderr().contains("(os error 24)"), "{error:?}");
            assert_eq!(rpc.finish().unwrap_err().to_string(), error.to_string());
        }
    });
}

/// Captured by a function. Reports at a gate that it is dropped.
#[derive(Default)]
struct Mark(RefCell<Option<String>>);

impl Drop for Mark {
    fn drop(&mut self) {
        if let Some(gate) = self.0.take() {
            Gate::announce(&gate);
        }
    }
}

/// A worker whose function `middle` starts a child that serves the function in the second string and
/// captures a mark for the gate in the first. Returns the child's process id.
fn table() -> Worker {
    let (returning, deferred) = (Mark::default(), Mark::default());
    let mut children: Vec<Rpc> = Vec::new();
    Worker::new()
        .function("returning", move |request, _| {
            returning.0.replace(Some(request.to_string()));
            Ok(())
        })
        .deferred("deferred", move |request, caller, events| {
            let [gate, sleep] = request.texts().unwrap();
            deferred.0.replace(Some(gate.to_owned()));
            if sleep == "poll" {
                // It can be woken from now on.
                let _ = events.poster();
            }
            caller.reply(());
        })
        .function("middle", move |request, _| {
            let [gate, kind] = request.texts()?;
            let me = table().run_in_test();
            let (function, request) = match kind {
                "returning" => ("returning", vec![gate]),
                sleep => ("deferred", vec![gate, sleep]),
            };
            let rpc = me.rpc(function).start()?;
            rpc.call(request).wait()?;
            let pid = rpc.pid().ok_or("it is a process")?;
            children.push(rpc);
            Ok(pid.to_string())
        })
}

/// Whether the kernel is to kill the process when its parent is gone.
fn is_lifeline_armed(pid: u32) -> bool {
    let all = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    all.flatten().any(|entry| {
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.map(|flags| i32::from_str_radix(flags.trim(), 8).unwrap());
        flags.is_some_and(|flags| flags & libc::O_ASYNC != 0)
    })
}

#[test]
fn idle_child_whose_parent_is_killed_drops_what_its_function_captured() {
    let me = table().run_in_test();
    bounded(move || {
        for kind in ["returning", "read", "poll"] {
            for _ in 0..3 {
                let rpc = me.rpc("middle").on_error(drop).start().unwrap();
                let gate = Gate::new();
                let pid = rpc.call([gate.name(), kind]).wait().unwrap();
                let pid = pid.to_string().parse().unwrap();
                assert!(!is_gone(pid));
                eventually("it is idle", || !is_lifeline_armed(pid));
                common::signal(rpc.pid().unwrap(), "KILL");
                drop(gate.entered());
                eventually("it is gone", || is_gone(pid));
                // Whether that counts as an error depends on when it is noticed.
                let _ = rpc.finish();
            }
        }
    });
}

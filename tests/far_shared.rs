//! Many children behind one command, and templates there: what becomes of the others when one ends, or is slow,
//! and of all of them when the connection does.

mod common;

use common::{
    Gate, alone, behind_shell as far, bounded, children, children_of, descriptors, error_of,
    eventually, is_gone, logged, pid, worker,
};
use offspring::{CallError, ErrorKind, Fd, Limit, Phase, Process, Stdio, Worker};
use std::cell::Cell;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

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
            drop(logged(Process::command("false").rpc("do")).0.start());
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

/// Longer than any buffer, each, and with something behind it.
#[test]
fn long_setups_get_there() {
    let _me = loading().run_in_test();
    let far = far(":");
    bounded(move || {
        let long = vec![7; 100 << 10];
        let template = far.setup("load", [&long]).setup("more", [&long]).template();
        let rpcs: Vec<_> = (0..16)
            .map(|_| template.rpc("loaded").start().unwrap())
            .collect();
        for rpc in rpcs {
            assert_eq!(rpc.call([&long]).wait().unwrap(), ["11", "false"]);
            rpc.finish().unwrap();
        }
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

//! Children that are handed over as streams, and adopted.

mod common;

use common::{
    Gate, alone, bounded, children, children_of, descriptors, eventually, is_gone, lost, obey, pid,
    signal,
};
use offspring::{
    Call, CallError, ErrorKind, Fd, Limit, Phase, Plain, Process, Rpc, Stdio, Strings, Worker,
};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, mpsc};

/// What setups have done in this process.
static DONE: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn worker() -> Worker {
    Worker::new()
        .setup("note", |request| {
            DONE.lock().unwrap().push(request.to_string());
            Ok(())
        })
        .setup("thread", |_| {
            std::thread::spawn(|| {
                loop {
                    std::thread::park();
                }
            });
            Ok(())
        })
        .setup("fail", |request| Err(request.to_string().into()))
        .setup("exit", |_| std::process::exit(7))
        .after_fork(|| DONE.lock().unwrap().push("hook".into()))
        .function("do", obey)
        .function("done", |_, _| {
            Ok(DONE.lock().unwrap().iter().collect::<Strings>())
        })
        .function("parent", |_, _| {
            Ok(std::os::unix::process::parent_id().to_string())
        })
        .function("files", |_, _| {
            let limits = std::fs::read_to_string("/proc/self/limits")?;
            let line = limits
                .lines()
                .find(|line| line.starts_with("Max open files"));
            let line = line.ok_or("no such limit")?;
            Ok(line
                .split_whitespace()
                .nth(3)
                .unwrap_or_default()
                .to_owned())
        })
        // Adopts what it is sent, and has it do the rest.
        .threaded("adopt", |mut request, _| {
            let [stream] = request.take_fds()?;
            let rpc = Process::stream(stream).rpc("do").on_error(drop).start()?;
            Ok(rpc.call(request).wait()?)
        })
        .threaded("adopt to outlive", |mut request, _| {
            let [stream] = request.take_fds()?;
            let process = Process::stream(stream).outlive_parent();
            let rpc = process.rpc("do").on_error(drop).start()?;
            Ok(rpc.call(request).wait()?)
        })
}

fn adopt(stream: OwnedFd) -> Rpc {
    let builder = Process::stream(stream).rpc("do").on_error(drop);
    builder.start().unwrap()
}

#[test]
fn child_is_set_up_before_it_is_handed_over_and_after() {
    let me = worker().run_in_test();
    bounded(move || {
        let first = me.setup("note", "before").setup("thread", ());
        let stream = first.into_stream().unwrap();
        let second = Process::stream(stream).setup("note", "after");
        let second = second.limit(Limit::OpenFiles(77));
        let rpc = second.rpc("done").start().unwrap();
        assert_eq!(rpc.call(()).wait().unwrap(), ["before", "after"]);
        assert_eq!(rpc.function("files").call(()).wait().unwrap(), ["77"]);
        assert_eq!(rpc.pid(), None);
        assert_eq!(rpc.finish().unwrap().status(), None);
    });
}

#[test]
fn another_process_adopts_it_and_who_started_it_reaps_it() {
    let me = worker().run_in_test();
    alone(move || {
        let other = me.rpc("adopt").start().unwrap();
        let stream = Fd::from(me.clone().into_stream().unwrap());
        let of = |child: &u32| Some(*child) != other.pid();
        let child = children().into_iter().find(of).unwrap();
        let adopted = other.call(("pid", stream));
        assert_eq!(adopted.wait().unwrap(), [child.to_string()]);
        eventually("it is reaped", || children() == [other.pid().unwrap()]);
        eventually("nobody waits for it", || common::reactors() == 1);
        other.finish().unwrap();
    });
}

#[test]
fn child_exits_when_nobody_has_its_connection_and_nothing_is_left() {
    let me = worker().run_in_test();
    alone(move || {
        let open = || descriptors(std::process::id()).len();
        let before = open();
        for _ in 0..10 {
            drop(me.clone().into_stream().unwrap());
            adopt(me.clone().into_stream().unwrap()).kill();
        }
        eventually("all are reaped", || children().is_empty());
        eventually("nothing is left", || {
            common::reactors() == 0 && open() == before
        });
    });
}

/// In a loop, and in a system call.
#[test]
fn busy_child_ends_with_who_has_adopted_it() {
    let me = worker().run_in_test();
    alone(move || {
        for what in ["spin", "gate"] {
            let (gate, other) = (Gate::new(), me.rpc("adopt").on_error(drop));
            let other = other.start().unwrap();
            let stream = Fd::from(me.clone().into_stream().unwrap());
            let request = Strings::from_iter([what, gate.name()]).with_fd(stream);
            let call = other.call(request).start();
            let _entered = gate.entered();
            let before = children();
            assert_eq!(before.len(), 2);
            signal(other.pid().unwrap(), "KILL");
            assert_eq!(lost(call.wait()).kind(), ErrorKind::Died);
            eventually("it is gone, too", || children().is_empty());
        }
    });
}

#[test]
fn child_that_may_outlive_who_has_adopted_it_finishes_its_work() {
    let me = worker().run_in_test();
    alone(move || {
        let (gate, other) = (Gate::new(), me.rpc("adopt to outlive"));
        let other = other.on_error(drop).start().unwrap();
        let stream = Fd::from(me.clone().into_stream().unwrap());
        let request = Strings::from_iter(["gate", gate.name()]).with_fd(stream);
        let call = other.call(request).start();
        let mut entered = gate.entered();
        signal(other.pid().unwrap(), "KILL");
        assert_eq!(lost(call.wait()).kind(), ErrorKind::Died);
        assert!(entered.is_waiting());
        entered.open();
        eventually("it exits", || children().is_empty());
    });
}

/// The one who has started it is the middle one of three processes.
#[test]
fn child_lives_on_when_who_has_started_it_ends() {
    let me = worker()
        .threaded("start", |_, _| {
            let test = "child_lives_on_when_who_has_started_it_ends";
            let me = Process::exe("/proc/self/exe").args([test, "--exact", "--nocapture"]);
            Ok(Fd::from(me.stdout(Stdio::null()).into_stream()?))
        })
        .run_in_test();
    bounded(move || {
        let middle = me.rpc("start").start().unwrap();
        let [stream] = middle.call(()).wait().unwrap().take_fds().unwrap();
        let rpc = adopt(stream);
        let child = pid(&rpc);
        assert_eq!(children_of(middle.pid().unwrap()), [child]);
        let gate = Gate::new();
        let call = rpc.call(["gate", gate.name()]).start();
        let entered = gate.entered();
        middle.kill();
        middle.finish().unwrap();
        entered.open();
        assert_eq!(call.wait().unwrap(), Strings::new());
        assert_eq!(pid(&rpc), child);
        rpc.finish().unwrap();
        eventually("it is gone", || is_gone(child));
    });
}

#[test]
fn child_that_dies_after_its_adoption_takes_its_calls_along() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = adopt(me.into_stream().unwrap());
        let calls = [rpc.call("abort"), rpc.call("pid")].map(Call::start);
        for call in calls {
            let outcome = call.wait();
            assert_eq!(outcome.as_ref().unwrap_err().phase(), Some(Phase::Begun));
            let error = lost(outcome);
            assert_eq!(error.kind(), ErrorKind::Died);
            let want = "the child closed its connection with 2 calls unanswered";
            assert!(error.to_string().starts_with(want), "{error}");
        }
    });
}

#[test]
fn start_that_fails_is_an_error_of_who_hands_over_or_of_who_adopts() {
    let me = worker().run_in_test();
    alone(move || {
        let here = |process: Process| process.into_stream().unwrap_err();
        let there = |process: Process| {
            let rpc = process.rpc("do").on_error(drop).start().unwrap();
            rpc.wait_ready().unwrap_err()
        };
        let adopted = || Process::stream(me.clone().into_stream().unwrap());
        for error in [
            here(me.clone().setup("fail", "no luck")),
            there(adopted().setup("fail", "no luck")),
        ] {
            assert_eq!(error.kind(), ErrorKind::Setup);
            assert!(error.to_string().contains("no luck"), "{error}");
        }
        let error = here(me.clone().setup("exit", ()));
        assert_eq!(error.kind(), ErrorKind::Exited);
        assert_eq!(error.status().unwrap().code(), Some(7));
        assert_eq!(there(adopted().setup("exit", ())).kind(), ErrorKind::Exited);
        let error = here(Process::exe("/nowhere"));
        assert_eq!(error.kind(), ErrorKind::Spawn);
        let builder = adopted().rpc("nothing").on_error(drop);
        let error = builder.start().unwrap().wait_ready().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoFunction);
        eventually("nothing is left", || children().is_empty());
    });
}

#[test]
fn what_a_stream_cannot_have_is_named() {
    let me = worker().run_in_test();
    bounded(move || {
        let stream = || Process::stream(UnixStream::pair().unwrap().0);
        for (process, option) in [
            (stream().arg("x"), "arg()"),
            (stream().env("A", "b"), "env()"),
            (stream().current_dir("/"), "current_dir()"),
            (stream().stdout(Stdio::null()), "stdout()"),
            (stream().stderr(Stdio::null()), "stderr()"),
            (stream().huge_pages(0), "huge_pages()"),
            (
                stream().plain(Plain::Tagged).outlive_parent(),
                "outlive_parent()",
            ),
            (me.clone().plain(Plain::Tagged), "plain()"),
            (me.clone().template().plain(Plain::Tagged), "plain()"),
            (Process::exe("cat").plain(Plain::Tagged), "plain()"),
        ] {
            let error = process.rpc("do").start().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(option), "{error}");
        }
        for process in [
            stream().plain(Plain::Tagged),
            Process::command("cat").plain(Plain::Tagged),
            Process::command("cat"),
            Process::command("cat").template(),
            me.huge_pages(0),
        ] {
            let error = process.into_stream().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        }
    });
}

#[test]
fn only_a_unix_socket_is_a_workers() {
    bounded(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let error = Process::stream(near).rpc("do").start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Spawn);
        assert!(error.to_string().contains("into_stream()"), "{error}");
    });
}

/// It is no worker: it must not be waited for longer than is allowed.
#[test]
fn silent_peer_is_no_worker() {
    bounded(|| {
        let (near, far) = UnixStream::pair().unwrap();
        let builder = Process::stream(near).rpc("do").on_error(drop);
        let builder = builder.start_timeout(std::time::Duration::from_millis(50));
        let rpc = builder.start().unwrap();
        let error = rpc.wait_ready().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StartTimeout);
        drop(far);
    });
}

#[test]
fn copy_of_a_template_is_handed_over_and_its_template_reaps_it() {
    let me = worker().run_in_test();
    alone(move || {
        let template = me.setup("note", "shared").template();
        let rpc = adopt(template.clone().into_stream().unwrap());
        let done = rpc.function("done").call(()).wait().unwrap();
        assert_eq!(done, ["shared", "hook"]);
        let parent = rpc.function("parent").call(()).wait().unwrap();
        let parent: u32 = parent.to_string().parse().unwrap();
        drop(template);
        assert_eq!(children_of(parent), [pid(&rpc)], "it needs its template");
        rpc.finish().unwrap();
        eventually("both are gone", || children().is_empty());
    });
}

#[test]
fn child_that_was_adopted_is_a_template() {
    let me = worker().run_in_test();
    alone(move || {
        let stream = me.setup("note", "first").into_stream().unwrap();
        let template = Process::stream(stream).setup("note", "second").template();
        template.warm().unwrap();
        let rpcs: Vec<_> = (0..3)
            .map(|_| template.rpc("done").start().unwrap())
            .collect();
        for rpc in &rpcs {
            let done = rpc.call(()).wait().unwrap();
            assert_eq!(done, ["first", "second", "hook"]);
        }
        drop(template);
        for rpc in rpcs {
            assert!(rpc.finish().unwrap().status().unwrap().success());
        }
        eventually("all are gone", || children().is_empty());
    });
}

#[test]
fn it_is_handed_over_again() {
    let me = worker().run_in_test();
    bounded(move || {
        let first = me.setup("note", "1").into_stream().unwrap();
        let second = Process::stream(first).setup("note", "2");
        let second = second.into_stream().unwrap();
        let rpc = adopt(second);
        let done = rpc.function("done").call(()).wait().unwrap();
        assert_eq!(done, ["1", "2"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn output_goes_on_to_who_has_started_it() {
    let me = worker().run_in_test();
    bounded(move || {
        let (send, lines) = mpsc::channel();
        let lines_to = Stdio::lines(move |_, line| send.send(line.to_owned()).unwrap());
        let rpc = adopt(me.stderr(lines_to).into_stream().unwrap());
        rpc.call(["stderr", "still here"]).wait().unwrap();
        assert_eq!(lines.recv().unwrap(), "still here");
        rpc.finish().unwrap();
        assert!(lines.recv().is_err(), "it has ended");
    });
}

#[test]
fn callbacks_must_not_wait_for_it() {
    let me = worker().run_in_test();
    bounded(move || {
        let (send, error) = mpsc::channel();
        let rpc = me.rpc("do").start().unwrap();
        rpc.call("pid")
            .then(move |_| send.send(me.into_stream().map(drop)).unwrap());
        let error = error.recv().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InCallback);
        rpc.finish().unwrap();
    });
}

#[test]
fn descriptors_are_sent_to_what_was_adopted() {
    let me = worker()
        .function("read", |mut request, _| {
            let [file] = request.take_fds()?;
            Ok(std::io::read_to_string(std::fs::File::from(file))?)
        })
        .run_in_test();
    bounded(move || {
        let rpc = adopt(me.into_stream().unwrap());
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, b"in the pipe").unwrap();
        drop(writer);
        let read = rpc.function("read").call(Fd::from(reader)).wait();
        assert_eq!(read.unwrap(), ["in the pipe"]);
        let failed = rpc.call(["fail", "no luck"]).wait().unwrap_err();
        assert!(matches!(failed, CallError::Failed(_)));
        rpc.finish().unwrap();
    });
}

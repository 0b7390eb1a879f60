//! Copies of parents and of children, made by fork(2): in one, nothing is done in the original's name.

mod common;

use common::{FOREVER, alone, bounded, eventually, is_gone, obey, worker};
use offspring::{
    BoxError, CallError, Caller, ErrorKind, Parent, Process, Reactor, Refusal, Stdio, Strings,
    Worker,
};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

/// Forks. Returns the copy's process id, or in the copy `None`. A copy that hangs ends by SIGALRM.
#[expect(unsafe_code, reason = "nothing safe forks")]
fn fork() -> Option<i32> {
    // SAFETY: what the copies in these tests do is only what the C library permits after a fork, or
    // what is tested here.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: takes no pointers.
            unsafe { libc::alarm(FOREVER.as_secs() as u32 / 2) };
            None
        }
        pid => {
            assert!(pid > 0, "cannot fork: {}", io::Error::last_os_error());
            Some(pid)
        }
    }
}

#[expect(unsafe_code, reason = "nothing safe ends a copy")]
fn exit_immediately(status: i32) -> ! {
    // SAFETY: takes no pointers.
    unsafe { libc::_exit(status) }
}

#[expect(unsafe_code, reason = "nothing safe waits for it")]
fn wait(pid: i32) -> String {
    let mut status = 0;
    // SAFETY: points to a status.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    ExitStatus::from_raw(status).to_string()
}

/// Runs `code` in a copy of this process, and waits for it: what it did not do, too.
fn in_copy(code: impl FnOnce()) {
    let Some(pid) = fork() else {
        let passed = catch_unwind(AssertUnwindSafe(code)).is_ok();
        exit_immediately(i32::from(!passed));
    };
    assert_eq!(wait(pid), "exit status: 0", "in the copy");
}

fn is_refused<T>(outcome: &Result<T, CallError>) -> bool {
    matches!(outcome, Err(CallError::Refused(Refusal::Forked)))
}

/// The kind of error that something ended with.
fn kind<T: std::fmt::Debug>(result: Result<T, offspring::Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn copy_of_a_parent_is_refused_everything() {
    let me = worker().run_in_test();
    alone(move || {
        let rpc = me.rpc("do").start().unwrap();
        rpc.wait_ready().unwrap();
        in_copy(|| {
            assert!(is_refused(&rpc.call("echo").wait()));
            assert!(is_refused(&rpc.try_call("echo").start().wait()));
            let (sender, outcome) = mpsc::channel();
            let caller = std::thread::current().id();
            rpc.call("echo").then(move |outcome| {
                let elsewhere = std::thread::current().id() != caller;
                sender.send((outcome, elsewhere)).unwrap();
            });
            let (outcome, elsewhere) = outcome.recv().unwrap();
            assert!(is_refused(&outcome) && elsewhere);
            assert_eq!(kind(rpc.wait_ready()), ErrorKind::Forked);
            assert_eq!(kind(rpc.try_exit().unwrap()), ErrorKind::Forked);
            assert_eq!(kind(rpc.clone().finish()), ErrorKind::Forked);
            assert_eq!(kind(rpc.clone().finish_timeout(FOREVER)), ErrorKind::Forked);
            let error = rpc.signal(libc::SIGKILL).unwrap_err().to_string();
            assert!(error.contains("was forked from the one"), "{error}");
            rpc.kill();
        });
        assert_eq!(
            rpc.call(["echo", "still here"]).wait().unwrap(),
            ["still here"]
        );
        assert!(rpc.finish().unwrap().status().unwrap().success());
    });
}

#[test]
fn copy_of_a_parent_drops_its_handles_and_the_child_serves_on() {
    let me = worker().run_in_test();
    alone(move || {
        let mut rpc = Some(me.rpc("do").start().unwrap());
        in_copy(|| drop(rpc.take()));
        let rpc = rpc.unwrap();
        assert_eq!(rpc.call(["echo", "a"]).wait().unwrap(), ["a"]);
        in_copy(|| {
            let mut rpc = Some(rpc.clone());
            assert_eq!(kind(rpc.take().unwrap().finish()), ErrorKind::Forked);
        });
        assert_eq!(rpc.call(["echo", "b"]).wait().unwrap(), ["b"]);
        assert!(rpc.finish().unwrap().status().unwrap().success());
    });
}

#[test]
fn copy_of_a_parent_is_refused_a_pool() {
    let me = worker().run_in_test();
    alone(move || {
        let counter = Counter::new();
        let exit = counter.writer();
        let pool = me.pool("do").max(2).idle(2).on_exit(move |_| {
            (&exit).write_all(b"x").unwrap();
        });
        let mut pool = Some(pool.start().unwrap());
        // Otherwise the one that waits at the gate might get more calls.
        common::eventually("both children serve", || {
            let children = pool.as_ref().unwrap().stats().children;
            children.iter().filter(|child| child.pid.is_some()).count() == 2
        });
        let gate = common::Gate::new();
        let mut call = Some(pool.as_ref().unwrap().call(["gate", gate.name()]).start());
        let inside = gate.entered();
        // A thread has the pool's lock, now and then.
        let over = Arc::new(AtomicBool::new(false));
        let busy = {
            let (pool, over) = (pool.clone().unwrap(), Arc::clone(&over));
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    drop(pool.stats());
                }
            })
        };
        let inputs = [["echo", "a"], ["echo", "b"]];
        let other = pool.clone().unwrap();
        let mut map = other.map_unordered(inputs);
        map.next().unwrap().1.unwrap();
        for _ in 0..100 {
            in_copy(|| {
                let pool = pool.take().unwrap();
                assert!(is_refused(&pool.call("echo").wait()));
                assert!(is_refused(&pool.try_call("echo").start().wait()));
                assert!(
                    pool.everywhere("echo")
                        .into_iter()
                        .all(|it| is_refused(&it.wait()))
                );
                assert!(pool.map(inputs).all(|outcome| is_refused(&outcome)));
                assert!(map.by_ref().all(|(_, outcome)| is_refused(&outcome)));
                assert!(is_refused(&call.take().unwrap().wait()));
                let (sender, outcome) = mpsc::channel();
                pool.function("other").call("echo").then(move |outcome| {
                    sender.send(outcome).unwrap();
                });
                assert!(is_refused(&outcome.recv().unwrap()));
                pool.restart();
                pool.kill();
                assert!(pool.stats().children.is_empty());
                assert_eq!(kind(pool.clone().finish()), ErrorKind::Forked);
                assert_eq!(kind(pool.finish_timeout(FOREVER)), ErrorKind::Forked);
            });
        }
        over.store(true, Ordering::Relaxed);
        busy.join().unwrap();
        assert_eq!(map.count(), 1);
        inside.open();
        call.unwrap().wait().unwrap();
        let pool = pool.unwrap();
        assert!(pool.stats().children.iter().all(|it| it.generation == 0));
        drop(other);
        let children = pool.stats().started;
        pool.finish().unwrap();
        assert_eq!(counter.count() as u64, children);
    });
}

/// As with the handle to one child.
#[test]
fn children_end_with_their_parent_while_a_copy_lives_that_has_dropped_the_pool() {
    let me = worker().run_in_test();
    alone(move || {
        let gate = common::Gate::new();
        let (mut told, mut tell) = io::pipe().unwrap();
        let (mut let_go, hold) = io::pipe().unwrap();
        let mut hold = Some(hold);
        in_copy(|| {
            let mut pool = Some(me.pool("do").max(1).start().unwrap());
            let _busy = pool.as_ref().unwrap().call(["spin", gate.name()]).start();
            drop(gate.entered());
            let pid = pool.as_ref().unwrap().stats().children[0].pid.unwrap();
            if fork().is_none() {
                drop(pool.take());
                drop(hold.take());
                tell.write_all(&pid.to_ne_bytes()).unwrap();
                let _ = let_go.read(&mut [0]);
                exit_immediately(0);
            }
            // It is not waited for: it outlives this process.
            let mut ready = [0; 4];
            told.read_exact(&mut ready).unwrap();
            tell.write_all(&ready).unwrap();
            exit_immediately(0);
        });
        let mut pid = [0; 4];
        told.read_exact(&mut pid).unwrap();
        let pid = u32::from_ne_bytes(pid);
        eventually("the busy child is gone", || is_gone(pid));
        drop(hold);
    });
}

/// Its outcome is the original's: the copy neither waits for it nor cancels it.
#[test]
fn call_that_was_made_before_the_fork_ends_in_the_original() {
    let me = worker().run_in_test();
    alone(move || {
        let rpc = me.rpc("do").start().unwrap();
        rpc.wait_ready().unwrap();
        let gate = common::Gate::new();
        let mut first = Some(rpc.call(["gate", gate.name()]).cancel_on_drop().start());
        let mut second = Some(rpc.call(["echo", "second"]).cancel_on_drop().start());
        let mut answered = Some(rpc.call(["echo", "third"]).cancel_on_drop().start());
        let inside = gate.entered();
        in_copy(|| {
            drop(first.take());
            let mut second = second.take().unwrap();
            assert!(is_refused(&second.try_wait().unwrap()));
            assert!(is_refused(&second.wait_timeout(FOREVER).unwrap()));
            assert!(is_refused(&second.wait()));
            answered.take().unwrap().cancel();
        });
        inside.open();
        first.unwrap().wait().unwrap();
        assert_eq!(second.unwrap().wait().unwrap(), ["second"]);
        assert_eq!(answered.unwrap().wait().unwrap(), ["third"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn copy_of_a_parent_starts_children_of_its_own() {
    let me = worker().run_in_test();
    alone(move || {
        let rpc = me.rpc("do").start().unwrap();
        assert_eq!(rpc.call(["echo", "mine"]).wait().unwrap(), ["mine"]);
        let reactor = Reactor::new().unwrap();
        in_copy(|| {
            let started = me.rpc("do").reactor(&reactor).start();
            assert_eq!(kind(started), ErrorKind::Forked);
            let reactor = Reactor::new().unwrap();
            for builder in [me.rpc("do"), me.rpc("do").reactor(&reactor)] {
                let rpc = builder.start().unwrap();
                let (sender, reply) = mpsc::channel();
                rpc.call(["echo", "the copy's"])
                    .then(move |reply| sender.send(reply.unwrap()).unwrap());
                assert_eq!(reply.recv().unwrap(), ["the copy's"]);
                assert!(rpc.finish().unwrap().status().unwrap().success());
            }
        });
        assert_eq!(rpc.call(["echo", "mine"]).wait().unwrap(), ["mine"]);
        rpc.finish().unwrap();
    });
}

/// What a poller has registered is shared with copies: a copy must not remove it.
#[test]
fn copy_of_a_parent_makes_connections_of_its_own() {
    let _me = worker().run_in_test();
    let name = thread::current().name().unwrap().to_owned();
    alone(move || {
        let far = Process::command("/proc/self/exe")
            .args([&*name, "--exact", "--nocapture", "--include-ignored"])
            .env("OFFSPRING", "serve");
        let template = far.template();
        template.warm().unwrap();
        in_copy(|| {
            template.warm().unwrap();
            let rpc = template.rpc("do").start().unwrap();
            assert_eq!(rpc.call(["echo", "a"]).wait().unwrap(), ["a"]);
            rpc.finish().unwrap();
        });
        let rpc = template.rpc("do").start().unwrap();
        assert_eq!(rpc.call(["echo", "b"]).wait().unwrap(), ["b"]);
        rpc.finish().unwrap();
        // It ends with its original though a copy lives that has dropped it.
        let mut template = Some(template);
        let (mut holder, held) = io::pipe().unwrap();
        let copy = fork();
        if copy.is_none() {
            drop((template.take(), held));
            let _ = holder.read(&mut [0]);
            exit_immediately(0);
        }
        drop(template.take());
        eventually("the command has ended", || {
            common::children() == [copy.unwrap() as u32]
        });
        drop(held);
        wait(copy.unwrap());
    });
}

#[test]
fn reactor_that_a_copy_has_dropped_works_on() {
    let me = worker().run_in_test();
    alone(move || {
        let mut reactor = Some(Reactor::new().unwrap());
        in_copy(|| drop(reactor.take()));
        let reactor = reactor.unwrap();
        let rpc = me.rpc("do").reactor(&reactor).start().unwrap();
        rpc.wait_ready().unwrap();
        for text in ["a", "b", "c"].into_iter().cycle().take(99) {
            let (sender, reply) = mpsc::channel();
            rpc.call(["echo", text])
                .then(move |reply| sender.send(reply.unwrap()).unwrap());
            assert_eq!(reply.recv_timeout(FOREVER).unwrap(), [text]);
        }
        rpc.finish().unwrap();
    });
}

/// The last of it is a call that nobody has waited for, and its reactor's thread has ended.
#[test]
fn copy_drops_what_is_left_of_a_handle() {
    let me = worker().run_in_test();
    alone(move || {
        let rpc = me.rpc("do").start().unwrap();
        let mut pending = Some(rpc.call(["echo", "a"]).start());
        drop(rpc);
        eventually("its reactor has ended", || common::reactors() == 0);
        in_copy(|| {
            drop(pending.take());
            let thread = thread::spawn(|| 7);
            assert_eq!(thread.join().unwrap(), 7);
        });
        assert_eq!(pending.unwrap().wait().unwrap(), ["a"]);
    });
}

/// A child lives as long as somebody holds its lifeline. A copy that has dropped the handle does not.
#[test]
fn child_ends_with_its_parent_while_a_copy_lives_that_has_dropped_the_handle() {
    let me = worker().run_in_test();
    alone(move || {
        let gate = common::Gate::new();
        let (mut told, mut tell) = io::pipe().unwrap();
        let (mut let_go, hold) = io::pipe().unwrap();
        let mut hold = Some(hold);
        let (mut hear, mut answer) = io::pipe().unwrap();
        in_copy(|| {
            // This is the parent.
            let mut rpc = Some(me.rpc("do").start().unwrap());
            let pid = rpc.as_ref().unwrap().pid().unwrap();
            let _busy = rpc.as_ref().unwrap().call(["spin", gate.name()]).start();
            drop(gate.entered());
            if fork().is_none() {
                // And this is the copy.
                drop(rpc.take());
                drop(hold.take());
                tell.write_all(&pid.to_ne_bytes()).unwrap();
                let _ = let_go.read(&mut [0]);
                answer.write_all(b"y").unwrap();
                exit_immediately(0);
            }
            // It is not waited for: it outlives this process.
            let mut ready = [0; 4];
            told.read_exact(&mut ready).unwrap();
            tell.write_all(&ready).unwrap();
            exit_immediately(0);
        });
        let mut pid = [0; 4];
        told.read_exact(&mut pid).unwrap();
        let pid = u32::from_ne_bytes(pid);
        eventually("the busy child is gone", || is_gone(pid));
        drop((hold, answer));
        assert_eq!(hear.read(&mut [0]).unwrap(), 1, "the copy is still there");
    });
}

/// Counts what is written to it, by whichever process.
struct Counter(io::PipeReader, io::PipeWriter);

impl Counter {
    fn new() -> Self {
        let (reader, writer) = io::pipe().unwrap();
        Counter(reader, writer)
    }

    fn writer(&self) -> io::PipeWriter {
        self.1.try_clone().unwrap()
    }

    fn count(self) -> usize {
        let Counter(mut reader, writer) = self;
        drop(writer);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all.len()
    }
}

#[test]
fn copy_that_returns_from_a_callback_is_ended_before_it_runs_another() {
    let me = worker().run_in_test();
    alone(move || {
        let counter = Counter::new();
        let statuses = common::Log::default();
        let run = |count: io::PipeWriter| {
            let statuses = statuses.clone();
            move || {
                (&count).write_all(b"x").unwrap();
                if let Some(pid) = fork() {
                    statuses.add(wait(pid));
                }
            }
        };
        let on_event = run(counter.writer());
        let on_destroy = run(counter.writer());
        let rpc = me
            .rpc("do")
            .on_event(move |_| on_event())
            .on_destroy(on_destroy)
            .start()
            .unwrap();
        rpc.call(["events", "20"]).wait().unwrap();
        for _ in 0..20 {
            let callback = run(counter.writer());
            rpc.call(["blob", "10"]).then(move |reply| {
                reply.unwrap();
                callback();
            });
        }
        rpc.finish().unwrap();
        assert_eq!(statuses.lines(), vec!["exit status: 1"; 41]);
        assert_eq!(counter.count(), 41);
    });
}

/// Forks. Returns how the copy ended, or in the copy `None` if that is to return to the library.
fn split(what: &str, mut use_it: impl FnMut()) -> Option<String> {
    if let Some(pid) = fork() {
        return Some(wait(pid));
    }
    match what {
        "exit" => std::process::exit(7),
        "panic" => panic!("in the copy"),
        "use" => {
            let passed = catch_unwind(AssertUnwindSafe(&mut use_it)).is_ok();
            exit_immediately(i32::from(!passed))
        }
        "use and exit" => {
            use_it();
            std::process::exit(0);
        }
        "return" => None,
        other => unreachable!("{other}"),
    }
}

const COPIES: [(&str, &str); 5] = [
    ("exit", "exit status: 7"),
    ("panic", "exit status: 1"),
    ("use", "exit status: 0"),
    ("use and exit", "exit status: 0"),
    ("return", "exit status: 1"),
];

/// Everything that a function can do with its caller but answer.
fn use_caller(caller: &Caller) {
    caller.event("from the copy");
    caller.progress("from the copy");
    use_parent(caller.parent());
    assert!(!caller.is_cancelled() && !caller.cancellation().is_cancelled());
    caller.cancellation().then(|| panic!("nobody cancels it"));
}

fn use_parent(parent: &Parent) {
    parent.event("from the copy");
    assert!(!parent.flush(), "nothing is written by a copy");
}

/// A worker whose functions fork as the request says, and reply with the status of the copy.
fn splitting() -> Worker {
    let split_or_echo = |request: Strings, caller: &Caller| -> Result<Strings, BoxError> {
        match request.texts()? {
            ["split", what] => {
                caller.event("before");
                let status = split(what, || use_caller(caller));
                let status = status.unwrap_or_else(|| "the copy's".to_owned());
                Ok([status].into_iter().collect())
            }
            _ => obey(request, caller),
        }
    };
    Worker::new()
        .function("function", split_or_echo)
        .threaded("threaded", split_or_echo)
        .deferred("deferred", |request: Strings, caller, events| {
            let texts = request.texts();
            let [_, what] = texts.unwrap();
            if what == "echo" {
                return caller.reply("echo");
            }
            caller.event("before");
            let poster = events.poster();
            let mut caller = Some(caller);
            let status = split(what, || {
                use_caller(caller.as_ref().unwrap());
                for poster in [events.poster(), poster.clone()] {
                    poster.post(|_| unreachable!("the copy's loop runs no more"));
                }
                events.offload(|| {}, |(), _| unreachable!("the copy's loop runs no more"));
                caller.take().unwrap().reply("from the copy");
            });
            if let Some(caller) = caller {
                caller.reply(status.unwrap_or_else(|| "the copy's".to_owned()));
            }
        })
        .setup("split", |strings| {
            let [what, status] = strings.texts()?;
            match split(what, || {}) {
                Some(got) if got != status => Err(format!("the copy: {got}").into()),
                _ => Ok(()),
            }
        })
}

/// Answers that a child has not written when it is copied are written once, and so are events.
#[test]
fn copy_of_a_child_sends_nothing_whatever_it_does() {
    let me = splitting().run_in_test();
    bounded(move || {
        for function in ["function", "threaded", "deferred"] {
            for (what, status) in COPIES {
                let events = common::Log::default();
                let log = events.clone();
                let rpc = me
                    .rpc(function)
                    .on_event(move |event| log.add(event.to_string()))
                    .start()
                    .unwrap();
                let calls: Vec<_> = (0..60)
                    .map(|n| match n % 20 {
                        10 => rpc.call(["split", what]).start(),
                        _ => rpc.call(["echo", "echo"]).start(),
                    })
                    .collect();
                for (n, call) in calls.into_iter().enumerate() {
                    let want = if n % 20 == 10 { status } else { "echo" };
                    let got = call.wait().unwrap();
                    assert_eq!(got, [want], "{function} {what}: call {n}");
                }
                rpc.finish().unwrap();
                assert_eq!(events.lines(), ["before"; 3], "{function} {what}");
            }
        }
    });
}

/// It reaches `run`, too, on the same socket.
#[test]
fn copy_that_is_made_before_run_does_not_serve() {
    const VARIABLE: &str = "OFFSPRING_TEST_FORK_FIRST";
    if let Ok(gate) = std::env::var(VARIABLE)
        && fork().is_none()
    {
        common::Gate::enter(&gate);
    }
    let me = worker().run_in_test();
    bounded(move || {
        let gate = common::Gate::new();
        let lines = common::Log::default();
        let log = lines.clone();
        let me = me.env(VARIABLE, gate.name());
        let me = me.stderr(Stdio::lines(move |_, line| log.add(line)));
        let rpc = me.rpc("do").start().unwrap();
        rpc.wait_ready().unwrap();
        let copies = common::children_of(rpc.pid().unwrap());
        assert_eq!(copies.len(), 1);
        gate.entered().open();
        let is_refused = |line: &String| line.contains("another process serves");
        eventually("the copy is refused", || {
            lines.lines().iter().any(is_refused)
        });
        eventually("it has ended", || is_gone(copies[0]));
        for n in 0..100 {
            let text = n.to_string();
            assert_eq!(rpc.call(["echo", &text]).wait().unwrap(), [text]);
        }
        assert!(rpc.finish().unwrap().status().unwrap().success());
    });
}

#[test]
fn copy_that_a_setup_makes_does_not_serve() {
    let me = splitting().run_in_test();
    bounded(move || {
        for (what, status) in [COPIES[0], COPIES[1], COPIES[4]] {
            let me = me.clone().setup("split", [what, status]);
            let rpc = me.rpc("function").start().unwrap();
            let reply = rpc.call(["echo", "served"]).wait();
            assert_eq!(reply.unwrap(), ["served"], "{what}");
            rpc.finish().unwrap();
        }
    });
}

/// Its call is answered, and nothing else keeps the copy from taking the next one.
#[test]
fn copy_that_returns_from_a_function_that_has_replied_begins_no_other_call() {
    let me = Worker::new()
        .deferred("count", |request: Strings, caller, _| {
            let [path, what] = request.texts().unwrap();
            let file = File::options().append(true).open(path);
            file.unwrap().write_all(b"x").unwrap();
            caller.reply(());
            if what == "fork"
                && let Some(pid) = fork()
            {
                assert_eq!(wait(pid), "exit status: 1");
            }
        })
        .run_in_test();
    bounded(move || {
        let path = format!("{}/replied", env!("CARGO_TARGET_TMPDIR"));
        File::create(&path).unwrap();
        let rpc = me.rpc("count").start().unwrap();
        let call = |n| {
            rpc.call([&*path, if n % 5 == 2 { "fork" } else { "" }])
                .start()
        };
        let calls: Vec<_> = (0..20).map(call).collect();
        calls
            .into_iter()
            .for_each(|call| drop(call.wait().unwrap()));
        rpc.finish().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 20);
        fs::remove_file(path).unwrap();
    });
}

#[test]
fn copy_that_returns_from_a_progress_callback_runs_no_other() {
    let me = Worker::new()
        .function("report", |_request: Strings, caller: &Caller| {
            (0..5).for_each(|n| caller.progress(n.to_string()));
            Ok::<_, BoxError>(())
        })
        .run_in_test();
    alone(move || {
        let counter = Counter::new();
        let (progress, end) = (counter.writer(), counter.writer());
        let statuses = common::Log::default();
        let rpc = me.rpc("report").start().unwrap();
        let log = statuses.clone();
        rpc.call(())
            .on_progress(move |_| {
                (&progress).write_all(b"x").unwrap();
                if let Some(pid) = fork() {
                    log.add(wait(pid));
                }
            })
            .then(move |_| (&end).write_all(b"x").unwrap());
        rpc.finish().unwrap();
        assert_eq!(statuses.lines(), ["exit status: 1"; 5]);
        assert_eq!(counter.count(), 6);
    });
}

/// There, it is not a reactor's thread any more.
#[test]
fn copy_that_is_made_in_a_callback_starts_children_of_its_own() {
    let me = worker().run_in_test();
    alone(move || {
        let rpc = me.rpc("do").start().unwrap();
        let (sender, done) = mpsc::channel();
        let (other, again) = (rpc.clone(), me.clone());
        rpc.call("echo").then(move |_| {
            in_copy(|| {
                assert!(is_refused(&other.call("echo").wait()));
                let own = again.rpc("do").start().unwrap();
                own.wait_ready().unwrap();
                assert_eq!(own.call(["echo", "own"]).wait().unwrap(), ["own"]);
                own.finish().unwrap();
            });
            drop(other);
            sender.send(()).unwrap();
        });
        done.recv_timeout(FOREVER).unwrap();
        rpc.finish().unwrap();
    });
}

/// Another thread may have a lock of the loop's at that moment.
#[test]
fn copy_posts_to_a_loop_that_others_post_to() {
    let me = Worker::new()
        .deferred("do", |_request: Strings, caller, events| {
            let stop = Arc::new(AtomicBool::new(false));
            for _ in 0..2 {
                let (poster, stop) = (events.poster(), Arc::clone(&stop));
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        poster.post(|_| {});
                    }
                });
            }
            let poster = events.poster();
            for _ in 0..100 {
                in_copy(|| poster.post(|_| {}));
            }
            stop.store(true, Ordering::Relaxed);
            caller.reply(());
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        rpc.call(()).wait().unwrap();
        rpc.finish().unwrap();
    });
}

/// Locks that other threads hold at the moment of the fork are held in the copy for ever.
#[test]
fn copy_of_a_child_whose_threads_write_ends() {
    let me = Worker::new()
        .threaded("do", |request: Strings, caller: &Caller| {
            let [what] = request.texts()?;
            for _ in 0..20 {
                (0..50).for_each(|_| caller.event("event"));
                let status = split(what, || use_caller(caller));
                if status.as_deref() != Some("exit status: 0") {
                    return Err::<(), _>(format!("{status:?}").into());
                }
            }
            Ok(())
        })
        .threads(4)
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").on_event(|_| {}).start().unwrap();
        let calls: Vec<_> = (0..8).map(|_| rpc.call("use and exit").start()).collect();
        for call in calls {
            call.wait().unwrap();
        }
        rpc.finish().unwrap();
    });
}

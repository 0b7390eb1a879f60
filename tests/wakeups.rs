//! Wake-ups, each in a situation in which nothing else wakes the thread that sleeps; and that nothing
//! does once there is nothing to do.

mod common;

use common::{Gate, alone, behind_shell, bounded, children, eventually, obey, worker};
use offspring::{CallError, Caller, Loop, Phase, Plain, Process, Rpc, Strings, Worker};
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

const MIB: usize = 1 << 20;

/// Starts a thread, and waits until it sleeps.
fn sleeping<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let (send, receive) = mpsc::channel();
    let thread = thread::spawn(move || {
        send.send(fs::canonicalize("/proc/thread-self").unwrap())
            .unwrap();
        body()
    });
    let task: PathBuf = receive.recv().unwrap();
    eventually("it sleeps, or is done", || {
        let stat = fs::read_to_string(task.join("stat"));
        stat.is_ok_and(|stat| stat.contains(") S ")) || thread.is_finished()
    });
    thread
}

// ---- room in the queue ----

/// A handle with these limits to a peer that the test impersonates, and a call that is more than the
/// socket takes: until the peer reads, nothing is written.
fn blocked(calls: usize, bytes: usize) -> (Rpc, UnixStream, offspring::Pending) {
    let (near, far) = UnixStream::pair().unwrap();
    let rpc = Process::stream(near).plain(Plain::Tagged).rpc("peer");
    let rpc = rpc.on_error(drop).max_queue(calls, bytes).start().unwrap();
    let large = rpc.call([vec![0; 10 * MIB]]).start();
    (rpc, far, large)
}

/// A thread that waits for room to make another call.
fn waiting(rpc: &Rpc) -> JoinHandle<()> {
    let rpc = rpc.clone();
    sleeping(move || drop(rpc.call("waits for room").start()))
}

#[test]
fn write_wakes_callers_that_wait_for_room_for_bytes() {
    bounded(|| {
        let (rpc, mut far, large) = blocked(usize::MAX, 1000);
        // A batch is being written, the rest is queued.
        let mut calls = vec![large];
        let mut is_full = false;
        while !is_full {
            let mut call = rpc.try_call([vec![0; MIB]]).start();
            is_full = call.try_wait().is_some();
            calls.push(call);
            assert!(calls.len() < 100, "there is no bound");
        }
        let waiting = waiting(&rpc);
        assert!(!waiting.is_finished(), "the queue is full");
        // It reads everything, and answers nothing.
        let reader = thread::spawn(move || io::copy(&mut far, &mut io::sink()));
        waiting.join().unwrap();
        drop(rpc);
        reader.join().unwrap().unwrap();
    });
}

#[test]
fn cancellation_wakes_callers_that_wait_for_room() {
    bounded(|| {
        let (rpc, far, _large) = blocked(2, usize::MAX);
        let second = rpc.call("second").start();
        let waiting = waiting(&rpc);
        assert!(!waiting.is_finished(), "the queue is full");
        second.cancel();
        waiting.join().unwrap();
        drop(far);
    });
}

#[test]
fn timeout_wakes_callers_that_wait_for_room() {
    bounded(|| {
        let (rpc, far, _large) = blocked(2, usize::MAX);
        let timeout = Duration::from_millis(300);
        let second = rpc.call("second").timeout(timeout).start();
        waiting(&rpc).join().unwrap();
        let second = second.wait();
        assert!(matches!(second, Err(CallError::TimedOut(Phase::Queued))));
        drop(far);
    });
}

// ---- ready ----

#[test]
fn ready_wakes_threads_that_wait_for_it_while_the_queue_is_full() {
    let me = worker()
        .setup("gate", |name| {
            Gate::enter(name.texts::<1>()?[0]);
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        let (setup, call) = (Gate::new(), Gate::new());
        let rpc = me.setup("gate", setup.name()).rpc("do");
        let rpc = rpc.start_timeout(Duration::MAX).max_queue(1, usize::MAX);
        let rpc = rpc.start().unwrap();
        let held = rpc.call(["gate", call.name()]).start();
        let starting = setup.entered();
        let waits = rpc.clone();
        let waiting = sleeping(move || waits.wait_ready());
        assert!(!waiting.is_finished(), "it is in a setup");
        starting.open();
        let inside = call.entered();
        waiting.join().unwrap().unwrap();
        inside.open();
        held.wait().unwrap();
        rpc.finish().unwrap();
    });
}

// ---- requests ----

/// The child reads no more while a large request waits for a thread. When one has taken it, nothing
/// but that says so: the call is not answered.
#[test]
fn thread_that_takes_a_large_request_wakes_the_loop_that_reads() {
    let me = Worker::new()
        .threaded("do", obey)
        .threads(2)
        .high_water(1000)
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        // A thread may be faster than the loop, which then does not sleep. Not every time.
        for _ in 0..20 {
            let (first, second) = (Gate::new(), Gate::new());
            let padding = "x".repeat(100_000);
            let large = rpc.call(["gate", first.name(), &padding]).start();
            let held = first.entered();
            let small = rpc.call(["gate", second.name()]).start();
            second.entered().open();
            small.wait().unwrap();
            held.open();
            large.wait().unwrap();
        }
        rpc.finish().unwrap();
    });
}

// ---- idleness ----

/// How often each thread of a process has been given a processor.
fn switches(pid: u32, but: Option<&Path>) -> Vec<(PathBuf, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let tasks = tasks.map(|task| task.unwrap().path());
    let all = tasks
        .filter(|task| Some(task.as_path()) != but)
        .map(|task| {
            let status = fs::read_to_string(task.join("status")).unwrap_or_default();
            let switches = status.lines().filter(|line| line.contains("_switches:"));
            let switches = switches.collect();
            (task, switches)
        });
    all.collect()
}

/// Waits until no thread of this process, but for this one, or of the child runs any more, or of what is in
/// between.
fn becomes_idle(what: &str, rpc: &Rpc) {
    let own = fs::canonicalize("/proc/thread-self").unwrap();
    let own = own.file_name().unwrap();
    let own = Path::new("/proc")
        .join(std::process::id().to_string())
        .join("task")
        .join(own);
    let all = || {
        let here = switches(std::process::id(), Some(&own));
        let others = children().into_iter().chain(rpc.pid());
        let others: Vec<_> = others.map(|pid| switches(pid, None)).collect();
        (here, others)
    };
    eventually(&format!("nothing runs after {what}"), || {
        let before = all();
        thread::sleep(Duration::from_millis(300));
        all() == before
    });
}

/// A thousand calls with callbacks, without waiting in between.
fn pipeline(rpc: &Rpc, request: &[&str]) {
    let (done, wait) = mpsc::channel::<()>();
    for _ in 0..1000 {
        let done = done.clone();
        rpc.call(request).then(move |reply| {
            reply.unwrap();
            drop(done);
        });
    }
    drop(done);
    wait.recv().unwrap_err();
}

/// Has a child do much of each kind.
fn bursts(function: &'static str, is_far: bool) {
    let me = Worker::new()
        .function("returning", obey)
        .threaded("threaded", obey)
        .threads(2)
        .deferred("deferred", |request: Strings, caller: Caller, _: &Loop| {
            let result = obey(request, &caller);
            caller.answer(result);
        })
        .run_in_test();
    // Without pings.
    let far = behind_shell(":").ping(Duration::MAX, Duration::MAX);
    let process = if is_far { far } else { me };
    alone(move || {
        let rpc = process.rpc(function).on_event(drop).start().unwrap();
        let idle = |what: &str| becomes_idle(&format!("{what}, {function}"), &rpc);
        rpc.wait_ready().unwrap();
        idle("the start");
        pipeline(&rpc, &["echo", "x"]);
        idle("calls");
        for _ in 0..1000 {
            rpc.call("echo").wait().unwrap();
        }
        idle("calls that are waited for");
        let threads = [(); 3].map(|()| {
            let rpc = rpc.clone();
            thread::spawn(move || (0..300).for_each(|_| drop(rpc.call("echo").wait())))
        });
        for thread in threads {
            thread.join().unwrap();
        }
        idle("calls of several threads");
        pipeline(&rpc, &["event", "x"]);
        idle("calls with events");
        rpc.call(["flood", "4"]).wait().unwrap();
        idle("many events");
        let large = vec![7; MIB];
        let calls = [(); 8].map(|()| rpc.call([&b"echo"[..], &large]).start());
        for call in calls {
            call.wait().unwrap();
        }
        idle("large calls");
        for _ in 0..1000 {
            drop(rpc.call("echo").cancel_on_drop().start());
            drop(rpc.call("echo").timeout(Duration::from_millis(1)).start());
        }
        rpc.call("echo").wait().unwrap();
        idle("calls that are cancelled and time out");
        rpc.finish().unwrap();
    });
}

#[test]
fn nothing_runs_after_bursts_of_returning_calls() {
    bursts("returning", false);
}

#[test]
fn nothing_runs_after_bursts_behind_a_command() {
    bursts("returning", true);
}

#[test]
fn nothing_runs_after_bursts_of_threaded_calls() {
    bursts("threaded", false);
}

#[test]
fn nothing_runs_after_bursts_of_deferred_calls() {
    bursts("deferred", false);
}

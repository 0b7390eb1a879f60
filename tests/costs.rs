//! Counts what a call costs, see `src/costs.md`: allocations, system calls and context switches.
//! Bounds are generous, but tight enough that losing a fast path exceeds them. Nothing is timed.
//!
//! The counts are printed: `cargo test --test costs -- --nocapture --test-threads 1`.

mod common;

use common::{Gate, alone, descriptors, eventually, signal, stop};
use offspring::{BoxError, Caller, Fd, Loop, Pending, Process, Reactor, Rpc, Strings, Worker};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

// ---- allocations ----

/// Counts the allocations of all threads of this process.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
static FREED: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
}

#[expect(unsafe_code, reason = "there is no other way to count allocations")]
// SAFETY: everything is delegated to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's duties are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        FREED.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller's duties are the same.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.saturating_sub(layout.size()));
        let less = layout.size().saturating_sub(size);
        FREED.fetch_add(less as u64, Ordering::Relaxed);
        // SAFETY: the caller's duties are the same.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// The number of allocations in this process so far, and of their bytes.
fn allocated() -> [u64; 2] {
    [&ALLOCATIONS, &BYTES].map(|count| count.load(Ordering::Relaxed))
}

/// The number of bytes that are allocated in this process now.
fn in_use() -> u64 {
    let [_, allocated] = allocated();
    allocated.saturating_sub(FREED.load(Ordering::Relaxed))
}

fn echo(request: Strings) -> Result<Strings, BoxError> {
    Ok(request)
}

/// Echoes a request, and answers an empty one with what the child has allocated.
fn echo_or_report(request: Strings) -> Result<Strings, BoxError> {
    if request.is_empty() {
        return Ok(allocated().map(|n| n.to_string()).into_iter().collect());
    }
    echo(request)
}

fn counting_worker() -> Worker {
    Worker::new()
        .function("returning", |request, _| echo_or_report(request))
        .deferred("deferred", |request, caller, _: &Loop| {
            caller.answer(echo_or_report(request));
        })
        .threaded("threaded", |request, _: &Caller| echo_or_report(request))
        .threads(1)
        .function("take", |mut request, _| {
            let [_descriptor] = request.take_fds()?;
            Ok(request)
        })
        .function("events", |request: Strings, caller| {
            if let Ok(n) = request.to_string().parse::<u32>() {
                (0..n).for_each(|_| caller.event("an event"));
            }
            echo_or_report(Strings::new())
        })
        .function("progress", |request: Strings, caller| {
            if let Ok(n) = request.to_string().parse::<u32>() {
                (0..n).for_each(|_| caller.progress("a step"));
            }
            echo_or_report(Strings::new())
        })
}

/// What the child has allocated.
fn allocated_by(child: &Rpc) -> [u64; 2] {
    let reply = child.call(()).wait().unwrap();
    reply.texts().unwrap().map(|n| n.parse().unwrap())
}

/// The allocations and allocated bytes that `body` causes in the parent and in the child.
fn allocations(rpc: &Rpc, body: impl Fn()) -> [[u64; 2]; 2] {
    let less = |a: [u64; 2], b: [u64; 2]| [a[0].saturating_sub(b[0]), a[1].saturating_sub(b[1])];
    // Asking the child costs something, too.
    let idle = allocated_by(rpc);
    let before = allocated_by(rpc);
    let here = allocated();
    body();
    let here = less(allocated(), here);
    let there = less(less(allocated_by(rpc), before), less(before, idle));
    [here, there]
}

/// Makes this many calls with callbacks, without waiting in between.
fn pipeline(rpc: &Rpc, calls: u64) {
    let (done, wait) = mpsc::sync_channel(1);
    for n in 1..=calls {
        let last = (n == calls).then(|| done.clone());
        rpc.call("sixteen bytes ..").then(move |reply| {
            assert!(reply.is_ok());
            if let Some(done) = last {
                done.send(()).unwrap();
            }
        });
    }
    wait.recv().unwrap();
}

/// Prints `count`, and fails if it is above `bound`.
#[track_caller]
fn at_most(what: &str, count: u64, bound: u64) {
    println!("{what}: {count}, bound {bound}");
    assert!(count <= bound, "{what}: {count} is above {bound}");
}

#[test]
fn small_pipelined_calls_allocate_nothing() {
    let me = counting_worker().run_in_test();
    alone(move || {
        const CALLS: u64 = 50_000;
        for function in ["returning", "deferred"] {
            let rpc = me.rpc(function).start().unwrap();
            pipeline(&rpc, CALLS);
            let [here, there] = allocations(&rpc, || pipeline(&rpc, CALLS));
            at_most(
                &format!("{function}: allocations here for {CALLS} calls"),
                here[0],
                CALLS / 5,
            );
            at_most(
                &format!("{function}: allocations there for {CALLS} calls"),
                there[0],
                CALLS / 50,
            );
        }
    });
}

#[test]
fn waited_calls_allocate_nothing() {
    let me = counting_worker().run_in_test();
    alone(move || {
        // On one processor, calls are dense unless other threads run between them, which does not
        // happen in every round.
        confine_to_one_cpu();
        const CALLS: u64 = 1000;
        let least = |rpc: &Rpc, calls: &dyn Fn()| {
            calls();
            let rounds = (0..10).map(|_| allocations(rpc, calls).map(|[n, _]| n));
            rounds.min_by_key(|[here, _]| *here).unwrap()
        };
        for function in ["returning", "deferred", "threaded"] {
            let rpc = me.rpc(function).start().unwrap();
            let [here, there] = least(&rpc, &|| waits(&rpc, CALLS, Duration::ZERO));
            println!("{CALLS} times wait(), {function}:");
            at_most("allocations here", here, CALLS * 4 / 5);
            at_most("allocations there", there, CALLS / 10);
        }
        let rpc = me.rpc("returning").start().unwrap();
        let [here, there] = least(&rpc, &|| {
            let all = (0..CALLS).map(|_| rpc.call("sixteen bytes ..").start());
            let all: Vec<_> = all.collect();
            all.into_iter().for_each(|call| drop(call.wait().unwrap()));
        });
        println!("{CALLS} times start() and wait():");
        at_most("allocations here", here, CALLS * 3 / 2);
        at_most("allocations there", there, CALLS / 10);
    });
}

#[test]
fn waited_calls_of_a_pool_allocate_nothing() {
    let me = counting_worker().run_in_test();
    alone(move || {
        confine_to_one_cpu();
        const CALLS: u64 = 1000;
        let pool = me.pool("returning").max(1).start().unwrap();
        let rounds = (0..10).map(|_| {
            let [before, _] = allocated();
            for _ in 0..CALLS {
                pool.call("sixteen bytes ..").wait().unwrap();
            }
            allocated()[0] - before
        });
        println!("{CALLS} times wait(), in a pool:");
        at_most("allocations here", rounds.min().unwrap(), CALLS * 4 / 5);
    });
}

#[test]
fn events_allocate_nothing_and_progress_little() {
    let me = counting_worker().run_in_test();
    alone(move || {
        const N: u64 = 10_000;
        let rpc = me.rpc("events").on_event(drop).start().unwrap();
        let events = || drop(rpc.call(N.to_string()).wait().unwrap());
        events();
        let [here, there] = allocations(&rpc, events);
        at_most(&format!("allocations here for {N} events"), here[0], 500);
        at_most(&format!("allocations there for {N} events"), there[0], 500);

        let rpc = me.rpc("progress").start().unwrap();
        let steps = || drop(rpc.call(N.to_string()).on_progress(drop).wait().unwrap());
        steps();
        let [here, there] = allocations(&rpc, steps);
        at_most(
            &format!("allocations here for {N} progress reports"),
            here[0],
            5 * N,
        );
        at_most(
            &format!("allocations there for {N} progress reports"),
            there[0],
            9 * N,
        );
    });
}

/// Whether callers or the reactor read the answers, with everything that may belong to a call, and
/// without another call.
#[test]
fn memory_of_many_calls_is_freed() {
    let me = counting_worker().run_in_test();
    alone(move || {
        // Buffers, and memory for some hundred calls.
        const SOME: u64 = 1 << 20;
        for waits in [true, false] {
            // With a delay, a caller may wake the reactor for something else.
            let rpc = me
                .rpc("returning")
                .event_delay(Duration::ZERO)
                .start()
                .unwrap();
            pipeline(&rpc, 100);
            let before = in_use();
            stop(rpc.pid().unwrap());
            let (done, all_ended) = mpsc::channel::<()>();
            let mut calls = Vec::new();
            for _ in 0..50_000 {
                let call = rpc.call("sixteen bytes ..");
                if waits {
                    calls.push(call.start());
                } else {
                    let call = call.timeout(Duration::from_secs(3600));
                    let done = done.clone();
                    call.on_progress(drop)
                        .then(move |reply| drop((reply.unwrap(), done)));
                }
            }
            println!("waits {waits}: {} KiB", (in_use() - before) >> 10);
            let (pid, epoll) = (rpc.pid().unwrap(), epoll_of_the_reactor());
            let resume = thread::spawn(move || {
                if waits {
                    let reads = || !is_socket_watched(epoll);
                    eventually("the caller reads", reads);
                }
                signal(pid, "CONT");
            });
            // The caller that waits for the last answer reads them all.
            for call in calls.into_iter().rev() {
                call.wait().unwrap();
            }
            resume.join().unwrap();
            drop(done);
            assert!(all_ended.recv().is_err());
            eventually("the memory is freed", || in_use() < before + SOME);
            rpc.call("one more").wait().unwrap();
            rpc.finish().unwrap();
        }
    });
}

/// A caller that waits for one answer reads those of others, and does not keep their memory.
#[test]
fn memory_of_many_calls_is_freed_while_another_is_waited_for() {
    let me = Worker::new()
        .threaded("gate", |gate: Strings, _: &Caller| {
            if !gate.is_empty() {
                Gate::enter(&gate.to_string());
            }
            Ok(())
        })
        .threads(2)
        .run_in_test();
    alone(move || {
        let rpc = me.rpc("gate").event_delay(Duration::ZERO).start().unwrap();
        let (gate, before) = (Gate::new(), in_use());
        let slow = rpc.call(gate.name()).start();
        let inside = gate.entered();
        stop(rpc.pid().unwrap());
        let calls: Vec<Pending> = (0..50_000).map(|_| rpc.call(()).start()).collect();
        let (pid, epoll) = (rpc.pid().unwrap(), epoll_of_the_reactor());
        let resume = thread::spawn(move || {
            let reads = || !is_socket_watched(epoll);
            eventually("the caller reads", reads);
            signal(pid, "CONT");
            for mut call in calls {
                eventually("it is answered", || call.try_wait().is_some());
            }
            eventually("the memory is freed", || in_use() < before + (1 << 20));
            inside.open();
        });
        slow.wait().unwrap();
        resume.join().unwrap();
    });
}

#[test]
fn large_payload_is_allocated_where_it_arrives() {
    let me = counting_worker().run_in_test();
    alone(move || {
        const CALLS: u64 = 20;
        const LEN: u64 = 4 << 20;
        for function in ["returning", "deferred"] {
            let rpc = me.rpc(function).start().unwrap();
            let payload = [vec![7; LEN as usize]];
            let borrowed = || rpc.call(&payload).wait().unwrap();
            // The payload itself is counted here.
            let owned = || rpc.call([vec![7; LEN as usize]]).wait().unwrap();
            for (how, call) in [
                ("borrowed", &borrowed as &dyn Fn() -> Strings),
                ("owned", &owned),
            ] {
                let calls = || {
                    for _ in 0..CALLS {
                        assert_eq!(call()[0].len() as u64, LEN);
                    }
                };
                calls();
                let [here, there] = allocations(&rpc, calls);
                let kib = |bytes: u64| bytes / CALLS / 1024;
                at_most(
                    &format!("{function}: KiB here for an echo of 4096 KiB, {how}"),
                    kib(here[1]),
                    8192 + 512,
                );
                at_most(
                    &format!("{function}: KiB there for an echo of 4096 KiB"),
                    kib(there[1]),
                    4096 + 512,
                );
            }
        }
    });
}

// ---- context switches ----

/// How often threads of a process with this name, or all for an empty name, have gone to sleep.
fn sleeps(pid: u32, name: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let tasks = tasks.map(|task| task.unwrap().path());
    let is_meant = |task: &PathBuf| {
        name.is_empty() || fs::read_to_string(task.join("comm")).unwrap().trim() == name
    };
    let sleeps = |task: PathBuf| -> u64 {
        let status = fs::read_to_string(task.join("status")).unwrap();
        let name = "voluntary_ctxt_switches:";
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    };
    tasks.filter(is_meant).map(sleeps).sum()
}

/// Confines this thread, and the threads and processes it starts, to one processor.
#[expect(unsafe_code, reason = "std has no function for it")]
fn confine_to_one_cpu() {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: a set is an array of integers, for which 0 is a value.
    let mut all: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `all` has this size.
    let result = unsafe { libc::sched_getaffinity(0, size, &raw mut all) };
    assert_eq!(result, 0);
    // SAFETY: as above.
    let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let first = (0..8 * size)
        // SAFETY: the number is within the set.
        .find(|cpu| unsafe { libc::CPU_ISSET(*cpu, &all) })
        .unwrap();
    // SAFETY: the number is within the set.
    unsafe { libc::CPU_SET(first, &mut one) };
    // SAFETY: `one` has this size.
    let result = unsafe { libc::sched_setaffinity(0, size, &raw const one) };
    assert_eq!(result, 0);
}

#[test]
fn dense_calls_on_one_processor_switch_twice() {
    let me = counting_worker().run_in_test();
    alone(move || {
        confine_to_one_cpu();
        const CALLS: u64 = 1000;
        let rpc = me.rpc("returning").start().unwrap();
        let calls = || {
            for _ in 0..CALLS {
                rpc.call("sixteen bytes ..").wait().unwrap();
            }
        };
        calls();
        let child = rpc.pid().unwrap();
        let sleeps = || {
            let of = |pid, name| sleeps(pid, name);
            let here = std::process::id();
            let caller = fs::read_to_string("/proc/thread-self/comm").unwrap();
            [
                of(here, caller.trim()),
                of(here, "offspring"),
                of(child, ""),
            ]
        };
        // Other threads may run between the calls, which then are not dense, but not every time.
        let rounds = (0..10).map(|_| {
            let before = sleeps();
            calls();
            let after = sleeps();
            [0, 1, 2].map(|n| after[n] - before[n])
        });
        let sleeps = rounds.min_by_key(|sleeps| sleeps.iter().sum::<u64>());
        let [caller, reactor, child] = sleeps.unwrap();
        println!("sleeps of the reactor: {reactor}");
        at_most("sleeps here in 1000 calls", caller + reactor, CALLS * 7 / 4);
        at_most("sleeps there in 1000 calls", child, CALLS * 7 / 4);
    });
}

/// The socket is not registered for reading again after each of many calls, which would take two
/// more system calls. `strace` cannot show that: with it, calls take too long to be dense.
#[test]
fn dense_calls_leave_the_socket_unwatched() {
    let me = counting_worker().run_in_test();
    alone(move || {
        confine_to_one_cpu();
        let rpc = me.rpc("returning").start().unwrap();
        waits(&rpc, 100, Duration::ZERO);
        let epoll = epoll_of_the_reactor();
        let left_unwatched = || {
            waits(&rpc, 100, Duration::ZERO);
            let watched = is_socket_watched(epoll);
            eventually("it is watched when nothing happens", || {
                is_socket_watched(epoll)
            });
            !watched
        };
        // Other threads may run between the last two calls, or before the check. Not every time.
        assert!((0..1000).any(|_| left_unwatched()), "calls are never dense");
    });
}

/// The epoll instance of this process: there is only one.
fn epoll_of_the_reactor() -> u32 {
    let all = descriptors(std::process::id());
    let epoll =
        |(number, what): &(u32, String)| (what == "anon_inode:[eventpoll]").then_some(*number);
    all.iter().find_map(epoll).unwrap()
}

/// Whether this epoll instance watches a socket for reading.
fn is_socket_watched(epoll: u32) -> bool {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{epoll}")).unwrap();
    info.lines()
        .filter(|line| line.starts_with("tfd:"))
        .any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let events = u32::from_str_radix(words[3], 16).unwrap();
            let what = fs::read_link(format!("/proc/self/fd/{}", words[1])).unwrap();
            what.to_str().unwrap().starts_with("socket:") && events & libc::EPOLLIN as u32 != 0
        })
}

// ---- system calls ----

/// How often each system call was made.
type Counts = BTreeMap<String, u64>;

/// A test that runs itself under strace.
struct Traced {
    name: String,
}

const VARIABLE: &str = "OFFSPRING_TEST_TRACED";
const BEGIN: &str = "/offspring/begin";
const END: &str = "/offspring/end/";

impl Traced {
    /// If this process runs under strace, runs the scenario and returns `None`. Also returns `None`
    /// if strace cannot be used: then nothing can be tested, which is an error only if CI is set.
    fn new(scenario: impl FnOnce()) -> Option<Self> {
        let name = thread::current().name().unwrap().to_owned();
        if std::env::var(VARIABLE).is_ok_and(|traced| traced == name) {
            scenario();
            return None;
        }
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "true"]);
        let status = strace.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !status.is_ok_and(|status| status.success()) {
            assert!(std::env::var_os("CI").is_none(), "strace cannot be used");
            println!("skipped: strace cannot be used");
            return None;
        }
        Some(Traced { name })
    }

    /// The system calls that parent and child made in each measured section.
    fn count(&self) -> Vec<[Counts; 2]> {
        let id = std::process::id();
        let path = std::env::temp_dir().join(format!("offspring-costs-{id}-{}", self.name));
        let trace = Trace(path);
        let output = Command::new("strace")
            .args(["-f", "-qq", "-s", "1000", "-o"])
            .arg(&trace.0)
            .arg(std::env::current_exe().unwrap())
            .args([&self.name, "--exact", "--nocapture", "--include-ignored"])
            .env(VARIABLE, &self.name)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        sections(&String::from_utf8_lossy(&fs::read(&trace.0).unwrap()))
    }

    /// Same as `count`, for a single section.
    fn count_one(&self) -> [Counts; 2] {
        let [counts] = self.count().try_into().unwrap();
        counts
    }
}

/// A trace file, removed when dropped.
struct Trace(PathBuf);

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Marks the section in which system calls are counted: in the trace, by the names of files that do
/// not exist. The body returns the child's threads.
fn measured(body: impl FnOnce() -> Vec<String>) {
    let _ = fs::metadata(BEGIN);
    let threads = body();
    let _ = fs::metadata(format!("{END}{}", threads.join(",")));
}

/// The threads of a child.
fn threads(rpc: &Rpc) -> Vec<String> {
    threads_of(rpc.pid().unwrap())
}

fn threads_of(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let name = |task: fs::DirEntry| task.file_name().into_string().unwrap();
    tasks.map(|task| name(task.unwrap())).collect()
}

/// Counts the lines between the marks: all others, and those of the child's threads.
fn sections(trace: &str) -> Vec<[Counts; 2]> {
    let mut sections = Vec::new();
    let mut lines = trace.lines();
    while lines.by_ref().any(|line| line.contains(BEGIN)) {
        let mut section = Vec::new();
        let end = lines.by_ref().find(|line| {
            section.push(*line);
            line.contains(END)
        });
        section.pop();
        let child = end.unwrap().split_once(END).unwrap().1;
        let child: Vec<&str> = child.split_once('"').unwrap().0.split(',').collect();
        let mut counts = [Counts::new(), Counts::new()];
        for line in section {
            let (thread, event) = line.split_once(' ').unwrap();
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let name = event.trim_start().split(|c| !is_part(c)).next().unwrap();
            // Skips the second halves of interrupted lines, signals and exits.
            if !name.is_empty() {
                let counts = &mut counts[usize::from(child.contains(&thread))];
                *counts.entry(name.to_owned()).or_default() += 1;
            }
        }
        sections.push(counts);
    }
    sections
}

fn waits(rpc: &Rpc, calls: u64, pause: Duration) {
    for _ in 0..calls {
        rpc.call("sixteen bytes ..").wait().unwrap();
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
}

/// Measures what `body` does with a child after a few calls.
fn scenario(me: &Process, function: &'static str, body: impl FnOnce(&Rpc)) {
    let rpc = me.rpc(function).on_event(drop).start().unwrap();
    waits(&rpc, 10, Duration::ZERO);
    measured(|| {
        body(&rpc);
        threads(&rpc)
    });
}

/// The number of system calls with these names.
fn of(counts: &Counts, names: &[&str]) -> u64 {
    names.iter().filter_map(|name| counts.get(*name)).sum()
}

fn all(counts: &Counts) -> u64 {
    counts.values().sum()
}

/// A caller that polls for the answer instead of sleeping often receives nothing.
///
/// `send` and `recv` are how strace shows the one call for sockets that 32-bit x86 has.
const SEND: &[&str] = &["sendto", "send", "sendmsg"];
const RECEIVE: &[&str] = &["read", "recvfrom", "recv"];

#[test]
fn waited_calls_send_and_receive_once() {
    let me = counting_worker().run_in_test();
    let traced = Traced::new(|| {
        confine_to_one_cpu();
        scenario(&me, "returning", |rpc| waits(rpc, 1000, Duration::ZERO));
    });
    let Some(traced) = traced else { return };
    let [here, there] = traced.count_one();
    println!("1000 waited calls: {here:?}, {there:?}");
    for counts in [&here, &there] {
        assert_eq!(of(counts, SEND), 1000);
        assert!(of(counts, RECEIVE) >= 1000);
    }
    // Traced calls take so long that they are not dense: each makes two more to update the poller.
    at_most(
        "calls here except receiving",
        all(&here) - of(&here, RECEIVE),
        3500,
    );
    at_most(
        "calls there except receiving",
        all(&there) - of(&there, RECEIVE),
        1250,
    );
}

/// Beside those that are made by its child alone: the pool adds none.
#[test]
fn waited_calls_through_a_pool() {
    let me = counting_worker().run_in_test();
    let traced = Traced::new(|| {
        confine_to_one_cpu();
        scenario(&me, "returning", |rpc| waits(rpc, 1000, Duration::ZERO));
        let pool = me.pool("returning").max(1).start().unwrap();
        let calls = |n| {
            for _ in 0..n {
                pool.call("sixteen bytes ..").wait().unwrap();
            }
        };
        calls(10);
        measured(|| {
            calls(1000);
            threads_of(pool.stats().children[0].pid.unwrap())
        });
    });
    let Some(traced) = traced else { return };
    let [of_child, of_pool] = traced.count().try_into().unwrap();
    println!("1000 waited calls of a child: {of_child:?}");
    println!("1000 waited calls of a pool: {of_pool:?}");
    for side in [0, 1] {
        assert_eq!(of(&of_pool[side], SEND), 1000);
        let [child, pool] = [&of_child, &of_pool].map(|it| all(&it[side]) - of(&it[side], RECEIVE));
        let what = [
            "calls here except receiving",
            "calls there except receiving",
        ];
        at_most(what[side], pool, child + 250);
    }
}

#[test]
fn waited_calls_with_a_descriptor_take_one_more_that_closes_it() {
    let me = counting_worker().run_in_test();
    let traced = Traced::new(|| {
        confine_to_one_cpu();
        let descriptor = Fd::from(File::open("/dev/null").unwrap());
        let call = |rpc: &Rpc| rpc.call(("x", &descriptor)).wait().unwrap();
        scenario(&me, "returning", |rpc| {
            let take = rpc.function("take");
            (0..1000).for_each(|_| drop(call(&take)));
        });
    });
    let Some(traced) = traced else { return };
    let [here, there] = traced.count_one();
    println!("1000 waited calls with a descriptor: {here:?}, {there:?}");
    assert_eq!(of(&there, &["close"]), 1000 + 1, "one more is a barrier");
    // As others, but for what announces the first one.
    let here = all(&here) - of(&here, RECEIVE);
    at_most("calls here except receiving", here, 3510);
    // When it is built for debugging, std looks whether what it closes is open.
    let there = all(&there) - of(&there, &["recvfrom", "recvmsg", "fcntl", "fcntl64"]);
    at_most("calls there except receiving", there, 2260);
}

#[test]
fn timeouts_of_waited_calls_do_not_wake_the_reactor() {
    let me = counting_worker().run_in_test();
    let traced = Traced::new(|| {
        confine_to_one_cpu();
        scenario(&me, "returning", |rpc| {
            for _ in 0..1000 {
                let call = rpc
                    .call("sixteen bytes ..")
                    .timeout(Duration::from_secs(3600));
                call.wait().unwrap();
            }
        });
    });
    let Some(traced) = traced else { return };
    let [here, there] = traced.count_one();
    println!("1000 calls with a timeout: {here:?}, {there:?}");
    at_most(
        "waits of the reactor",
        of(&here, &["epoll_pwait", "epoll_wait"]),
        100,
    );
    at_most(
        "calls here except receiving",
        all(&here) - of(&here, RECEIVE),
        4500,
    );
    at_most(
        "calls there except receiving",
        all(&there) - of(&there, RECEIVE),
        1250,
    );
}

#[test]
fn waited_calls_to_a_thread() {
    let me = counting_worker().run_in_test();
    let traced = Traced::new(|| {
        confine_to_one_cpu();
        scenario(&me, "threaded", |rpc| waits(rpc, 1000, Duration::ZERO));
    });
    let Some(traced) = traced else { return };
    let [here, there] = traced.count_one();
    println!("1000 calls to a thread: {here:?}, {there:?}");
    // The threads and the loop wake one another.
    at_most("calls there", all(&there), 25_000);
}

#[test]
fn rare_waited_calls() {
    let me = counting_worker().run_in_test();
    let traced = Traced::new(|| {
        confine_to_one_cpu();
        scenario(&me, "returning", |rpc| {
            waits(rpc, 5, Duration::from_millis(400))
        });
    });
    let Some(traced) = traced else { return };
    let [here, there] = traced.count_one();
    println!("5 rare calls: {here:?}, {there:?}");
    let nap = of(&here, &["clock_nanosleep"]);
    at_most(
        "calls here except receiving",
        all(&here) - of(&here, RECEIVE) - nap,
        5 * 5,
    );
    at_most(
        "calls there except receiving",
        all(&there) - of(&there, RECEIVE),
        5 * 7,
    );
}

#[test]
fn waited_calls_beside_another() {
    let me = counting_worker()
        .deferred("second", |request: Strings, caller, events: &Loop| {
            if request.is_empty() {
                events.after(Duration::from_secs(3600), |_| caller.reply(()));
            } else {
                caller.answer(echo(request));
            }
        })
        .run_in_test();
    let traced = Traced::new(|| {
        confine_to_one_cpu();
        let rpc = me.rpc("second").start().unwrap();
        let other = rpc.call(()).start();
        waits(&rpc, 10, Duration::ZERO);
        measured(|| {
            waits(&rpc, 1000, Duration::ZERO);
            threads(&rpc)
        });
        rpc.kill();
        other.wait().unwrap_err();
    });
    let Some(traced) = traced else { return };
    let [here, there] = traced.count_one();
    println!("1000 calls beside another: {here:?}, {there:?}");
    at_most("calls here", all(&here), 6500);
    at_most("calls there", all(&there), 4500);
}

#[test]
fn pipelined_calls_are_batched() {
    pipelined("returning");
}

#[test]
fn pipelined_calls_to_a_deferred_function_are_batched() {
    pipelined("deferred");
}

fn pipelined(function: &'static str) {
    let me = counting_worker().run_in_test();
    let traced = Traced::new(|| scenario(&me, function, |rpc| pipeline(rpc, 10_000)));
    let Some(traced) = traced else { return };
    const BOUND: u64 = 500;
    // A writer that runs beside other threads may write more often than necessary, on a busy machine again and
    // again. Without batches, no run would be within the bound.
    let mut runs = (0..10).map(|_| traced.count_one());
    let within = |[here, there]: &[_; 2]| all(here).max(all(there)) <= BOUND;
    let [here, there] = runs.find(within).unwrap_or_else(|| traced.count_one());
    println!("10,000 calls, {function}: {here:?}, {there:?}");
    at_most("calls here", all(&here), BOUND);
    at_most("calls there", all(&there), BOUND);
}

#[test]
fn events_are_batched() {
    let me = counting_worker().run_in_test();
    let traced = Traced::new(|| {
        scenario(&me, "events", |rpc| {
            rpc.call("10000").wait().unwrap();
        });
    });
    let Some(traced) = traced else { return };
    let [here, there] = traced.count_one();
    println!("10,000 events: {here:?}, {there:?}");
    at_most("calls here", all(&here), 500);
    at_most("calls there", all(&there), 500);
}

#[test]
fn large_payloads_are_sent_in_large_parts() {
    let me = counting_worker().run_in_test();
    let traced = Traced::new(|| {
        scenario(&me, "returning", |rpc| {
            let payload = [vec![7; 1 << 20]];
            (0..10).for_each(|_| drop(rpc.call(&payload).wait().unwrap()));
        });
    });
    let Some(traced) = traced else { return };
    let [here, there] = traced.count_one();
    println!("10 echoes of 1 MiB: {here:?}, {there:?}");
    at_most("calls here", all(&here) - of(&here, &["recvfrom"]), 500);
    at_most("calls there", all(&there), 500);
}

#[test]
fn start_one_call_and_finish() {
    let me = counting_worker().run_in_test();
    let traced = Traced::new(|| {
        let reactor = Reactor::new().unwrap();
        let start = || me.rpc("returning").reactor(&reactor).start().unwrap();
        waits(&start(), 1, Duration::ZERO);
        let other = start();
        waits(&other, 1, Duration::ZERO);
        measured(|| {
            let rpc = start();
            waits(&rpc, 1, Duration::ZERO);
            let threads = threads(&rpc);
            rpc.finish().unwrap();
            threads
        });
    });
    let Some(traced) = traced else { return };
    let [here, there] = traced.count_one();
    println!("start, one call and finish: {here:?}, {there:?}");
    at_most("calls here", all(&here), 200);
    // This includes the loader's, the runtime's and the test harness's.
    at_most("calls there", all(&there), 800);
}

#[test]
fn nothing_happens_when_idle() {
    let me = counting_worker()
        .deferred("later", |_, caller, events: &Loop| {
            events.after(Duration::from_secs(3600), |_| caller.reply(()));
        })
        .run_in_test();
    let traced = Traced::new(|| {
        for function in ["returning", "deferred", "threaded"] {
            let rpc = me.rpc(function).start().unwrap();
            waits(&rpc, 100, Duration::ZERO);
            thread::sleep(Duration::from_millis(500));
            let threads = threads(&rpc);
            measured(|| {
                thread::sleep(Duration::from_secs(1));
                threads
            });
        }
        let rpc = me.rpc("later").start().unwrap();
        let call = rpc.call(()).start();
        thread::sleep(Duration::from_millis(500));
        let threads = threads(&rpc);
        measured(|| {
            thread::sleep(Duration::from_secs(1));
            threads
        });
        rpc.kill();
        call.wait().unwrap_err();
    });
    let Some(traced) = traced else { return };
    for [here, there] in traced.count() {
        println!("idle: {here:?}, {there:?}");
        // The test's thread sleeps.
        assert_eq!(all(&here) - of(&here, &["clock_nanosleep"]), 0, "{here:?}");
        assert_eq!(all(&there), 0, "{there:?}");
    }
}

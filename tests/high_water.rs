//! The memory of children that answer later, or on threads, is bounded: they stop reading requests
//! while too much waits to be written or to be started.

mod common;

use common::{Gate, await_sleep, bounded, eventually, obey, status_field};
use offspring::{CallError, Caller, Phase, Rpc, Strings, Worker};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

const MIB: usize = 1 << 20;
const HIGH_WATER: usize = 512 << 10;
const REPLY: usize = 256 << 10;

/// Counts, in a child, the calls that have started. Its parent can read the count at any time.
struct Started {
    path: PathBuf,
}

impl Started {
    /// The file that both use; the child gets its path from the environment.
    fn new() -> Self {
        let own = std::env::temp_dir().join(format!(
            "offspring-test-{}-{}",
            std::process::id(),
            thread::current().name().unwrap()
        ));
        let path = std::env::var_os(COUNT_IN).map_or(own, PathBuf::from);
        Started { path }
    }

    /// For the child.
    fn add(&self) {
        let mut file = fs::File::options().append(true).open(&self.path).unwrap();
        file.write_all(b".").unwrap();
    }

    /// For the parent.
    fn seen(&self) -> usize {
        fs::metadata(&self.path).unwrap().len() as usize
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if std::env::var_os(COUNT_IN).is_none() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

const COUNT_IN: &str = "OFFSPRING_TEST_COUNT_IN";

/// Calls a child while its parent does not read.
fn parent_that_does_not_read(function: &'static str) {
    const CALLS: usize = 1000;
    let (deferred, threaded) = (Arc::new(Started::new()), Arc::new(Started::new()));
    let seen = Arc::clone(&deferred);
    let me = Worker::new()
        .deferred("deferred", move |_, caller: Caller, _| {
            deferred.add();
            caller.reply([vec![7; REPLY]]);
        })
        .threaded("threaded", move |_, _: &Caller| {
            threaded.add();
            Ok([vec![7; REPLY]])
        })
        .threads(3)
        .high_water(HIGH_WATER)
        .run_in_test();
    fs::write(&seen.path, b"").unwrap();
    bounded(move || {
        let rpc = me.env(COUNT_IN, &seen.path).rpc(function).start().unwrap();
        let pid = rpc.pid().unwrap();
        // A callback blocks the reactor.
        let (blocked, is_blocked) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        rpc.call(()).then(move |_| {
            blocked.send(()).unwrap();
            let _ = released.recv();
        });
        is_blocked.recv().unwrap();
        let answered = Arc::new(AtomicUsize::new(0));
        for _ in 0..CALLS {
            let answered = Arc::clone(&answered);
            rpc.call(()).then(move |reply| {
                assert_eq!(reply.unwrap()[0].len(), REPLY);
                answered.fetch_add(1, Ordering::SeqCst);
            });
        }
        // A blocking caller writes its own request, and everything before it.
        let waits = rpc.clone();
        let waits = thread::spawn(move || waits.call(()).wait());
        eventually("some have started", || seen.seen() > 3);
        await_sleep(pid);
        let started = seen.seen();
        assert!(started < 50, "{started} of {CALLS} calls have started");
        assert_eq!(answered.load(Ordering::SeqCst), 0);
        let memory = status_field(pid, "VmRSS");
        let memory: usize = memory.trim_end_matches(" kB").parse().unwrap();
        assert!(memory << 10 < 40 * MIB, "{memory} kB instead of 64 MB");
        drop(release);
        waits.join().unwrap().unwrap();
        rpc.finish().unwrap();
        assert_eq!(answered.load(Ordering::SeqCst), CALLS);
    });
}

#[test]
fn deferred_calls_are_not_started_while_replies_wait() {
    parent_that_does_not_read("deferred");
}

#[test]
fn threaded_calls_are_not_started_while_replies_wait() {
    parent_that_does_not_read("threaded");
}

/// Sends requests of 1 MiB that wait in the child, and checks that it leaves most of them unread.
fn unread(rpc: &Rpc, hold: impl FnOnce()) {
    const CALLS: usize = 60;
    let (send, phases) = mpsc::channel();
    hold();
    for _ in 0..CALLS {
        let send = send.clone();
        rpc.call([b"size".to_vec(), vec![0; MIB]])
            .then(move |outcome| {
                let lost = matches!(&outcome, Err(CallError::Lost(..)));
                assert!(lost, "{outcome:?}");
                send.send(outcome.unwrap_err().phase().unwrap()).unwrap();
            });
    }
    drop(send);
    let pid = rpc.pid().unwrap();
    // Until it has read as much as it wants: nothing changes while every thread sleeps.
    for _ in 0..20 {
        await_sleep(pid);
        thread::yield_now();
    }
    let memory = status_field(pid, "VmRSS");
    let memory: usize = memory.trim_end_matches(" kB").parse().unwrap();
    assert!(memory << 10 < 30 * MIB, "{memory} kB of 60 MB were read");
    rpc.kill();
    let queued = phases
        .iter()
        .take(CALLS)
        .filter(|phase| *phase == Phase::Queued);
    assert!(queued.count() > CALLS / 2);
}

#[test]
fn requests_that_wait_to_be_started_are_not_read_without_bound() {
    let me = Worker::new()
        .deferred("deferred", |request: Strings, caller: Caller, events| {
            if let [b"gate", name] = request.iter().collect::<Vec<_>>()[..] {
                let name = str::from_utf8(name).unwrap();
                Gate::enter_on(events, name, |_| caller.reply(()));
            }
        })
        .threaded("threaded", obey)
        .max_running(1)
        .threads(1)
        .high_water(MIB)
        .run_in_test();
    bounded(move || {
        for function in ["deferred", "threaded"] {
            let rpc = me.rpc(function).on_error(drop).start().unwrap();
            let gate = Gate::new();
            let mut inside = None;
            unread(&rpc, || {
                rpc.call(["gate", gate.name()]).then(|_| {});
                inside = Some(gate.entered());
            });
        }
    });
}

#[test]
fn requests_that_were_held_up_are_all_answered() {
    let me = Worker::new()
        .deferred(
            "deferred",
            |request: Strings, caller: Caller, events| match request.iter().collect::<Vec<_>>()[..]
            {
                [b"gate", name] => {
                    let name = str::from_utf8(name).unwrap();
                    Gate::enter_on(events, name, |_| caller.reply(()));
                }
                _ => drop(events.after(Duration::ZERO, |_| {
                    let result = obey(request, &caller);
                    caller.answer(result);
                })),
            },
        )
        .threaded("threaded", obey)
        .max_running(2)
        .threads(2)
        .high_water(1000)
        .run_in_test();
    bounded(move || {
        for function in ["deferred", "threaded"] {
            let rpc = me.rpc(function).start().unwrap();
            let gate = Gate::new();
            for _ in 0..2 {
                rpc.call(["gate", gate.name()]).then(|_| {});
            }
            let inside = [gate.entered(), gate.entered()];
            let calls: Vec<_> = (0..200)
                .map(|n| rpc.call([b"size".to_vec(), vec![0; n * 100]]).start())
                .collect();
            drop(inside);
            for (n, call) in calls.into_iter().enumerate() {
                assert_eq!(call.wait().unwrap(), [(n * 100).to_string()]);
            }
            // Nothing may be left waiting.
            rpc.finish().unwrap();
        }
    });
}

#[test]
fn at_most_max_running_deferred_calls_run() {
    let running = Arc::new(AtomicUsize::new(0));
    let me = Worker::new()
        .deferred("gate", move |request: Strings, caller: Caller, events| {
            let now = running.fetch_add(1, Ordering::SeqCst) + 1;
            let running = Arc::clone(&running);
            Gate::enter_on(events, request.texts::<1>().unwrap()[0], move |_| {
                running.fetch_sub(1, Ordering::SeqCst);
                caller.reply(now.to_string());
            });
        })
        .max_running(3)
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("gate").start().unwrap();
        for reply in Gate::new().pass_in_threes(&rpc) {
            let now = reply.to_string().parse::<usize>().unwrap();
            assert!(now <= 3, "{now} simultaneously");
        }
        rpc.finish().unwrap();
    });
}

#[test]
fn large_transfers_both_ways_do_not_deadlock() {
    const CALLS: usize = 40;
    let me = Worker::new()
        .deferred("deferred", |request: Strings, caller: Caller, _| {
            caller.event(&request);
            caller.reply(request);
        })
        .threaded("threaded", |request: Strings, caller: &Caller| {
            caller.event(&request);
            Ok(request)
        })
        .threads(3)
        .run_in_test();
    bounded(move || {
        for function in ["deferred", "threaded"] {
            let received = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&received);
            let rpc = me.rpc(function).on_event(move |event| {
                counted.fetch_add(event[0].len(), Ordering::SeqCst);
            });
            let rpc = rpc.start().unwrap();
            let calls: Vec<_> = (0..CALLS)
                .map(|n| rpc.call([vec![n as u8; MIB]]).start())
                .collect();
            for (n, call) in calls.into_iter().enumerate() {
                assert_eq!(call.wait().unwrap()[0], vec![n as u8; MIB]);
            }
            rpc.finish().unwrap();
            assert_eq!(received.load(Ordering::SeqCst), CALLS * MIB);
        }
    });
}

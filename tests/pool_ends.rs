//! How pools end: their calls, their children and themselves, whatever happens meanwhile.

mod common;

use common::{
    Gate, alone, bounded, children, eventually, obey, script, signal, stop, unprivileged,
};
use offspring::{CallError, ChildState, ErrorKind, Phase, Pool, Process, Refusal, Strings, Worker};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(1000);
const SHORT: Duration = Duration::from_millis(20);

fn worker() -> Worker {
    Worker::new()
        .function("do", obey)
        .function("first", |request, _| {
            Ok(["first", &request.to_string()].iter().collect::<Strings>())
        })
}

/// A callback of a pool that has the pool, once that is there.
#[derive(Clone, Default)]
struct Late(Arc<Mutex<Option<Pool>>>);

impl Late {
    fn set(&self, pool: &Pool) {
        *self.0.lock().unwrap() = Some(pool.clone());
    }

    fn take(&self) -> Option<Pool> {
        self.0.lock().unwrap().take()
    }
}

/// What panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic!("a destructor panics");
        }
    }
}

/// As a `Bomb`, even if something has panicked.
struct Mine;

impl Drop for Mine {
    fn drop(&mut self) {
        panic!("a destructor panics");
    }
}

#[test]
fn call_that_has_begun_is_not_called_unbegun_when_it_was_to_begin_again() {
    let me = worker().run_in_test();
    bounded(move || {
        let late = Late::default();
        let exit = late.clone();
        let pool = me.pool("do").max(1).load(1).on_exit(move |_| {
            // The call waits for the next child by now.
            if let Some(pool) = exit.take() {
                pool.kill();
            }
        });
        let pool = pool.start().unwrap();
        late.set(&pool);
        let gate = Gate::new();
        let call = pool.call(["gate", gate.name()]).repeatable(5).start();
        let _entered = gate.entered();
        signal(pool.stats().children[0].pid.unwrap(), "KILL");
        match call.wait() {
            Err(CallError::Lost(error, Phase::Begun)) => {
                assert_eq!(error.kind(), ErrorKind::Killed);
            }
            other => panic!("{other:?}"),
        }
        pool.finish().unwrap();
    });
}

#[test]
fn child_that_dies_in_a_call_that_nobody_waits_for_has_not_failed_to_start() {
    let me = worker().run_in_test();
    bounded(move || {
        let (sender, exits) = mpsc::channel();
        let on_exit = move |_: &_| sender.send(()).unwrap();
        let pool = me.pool("do").max(1).on_exit(on_exit).start().unwrap();
        // After three failed starts, the error would be that of the start.
        for _ in 0..5 {
            let gate = Gate::new();
            let call = pool.call(["gate", gate.name()]).cancel_on_drop();
            let call = call.start();
            let _entered = gate.entered();
            let pid = pool.stats().children[0].pid.unwrap();
            drop(call);
            signal(pid, "KILL");
            exits.recv().unwrap();
        }
        assert!(pool.call("pid").wait().is_ok());
        pool.finish().unwrap();
    });
}

#[test]
fn idle_children_that_are_killed_have_not_failed_to_start_if_others_have_answered() {
    let me = worker().run_in_test();
    bounded(move || {
        let (sender, exits) = mpsc::channel();
        let on_exit = move |_: &_| sender.send(()).unwrap();
        let pool = me.pool("do").max(1).idle(1).on_exit(on_exit);
        let pool = pool.start().unwrap();
        let kill = || {
            eventually("it is idle", || {
                pool.stats()
                    .children
                    .iter()
                    .any(|it| it.state == ChildState::Idle)
            });
            signal(pool.stats().children[0].pid.unwrap(), "KILL");
            exits.recv().unwrap();
        };
        // After three failed starts, the error would be that of the start.
        for _ in 0..5 {
            assert!(pool.call("pid").wait().is_ok());
            kill();
            kill();
        }
        pool.finish().unwrap();
    });
}

#[test]
fn children_of_no_age_are_not_replaced_without_end() {
    let me = worker().run_in_test();
    bounded(move || {
        let (sender, exits) = mpsc::channel();
        // Nobody listens in the end.
        let on_exit = move |_: &_| sender.send(()).unwrap_or_default();
        let pool = me.pool("do").max(1).idle(1).max_age(Duration::ZERO);
        let start = Instant::now();
        let pool = pool.on_exit(on_exit).start().unwrap();
        for n in 1..=3 {
            exits.recv().unwrap();
            assert!(start.elapsed() >= n * Duration::from_millis(75));
        }
        pool.finish().unwrap();
    });
}

#[test]
fn child_that_retires_before_its_first_call_has_failed_to_start() {
    bounded(|| {
        // What it is sent kills it.
        let retires = r"ready; send '\0200\0000\0000\0000\0000\0000\0000\0007\0006retire'; head -c 1 <&0 >/dev/null";
        let pool = script(retires).pool("do").max(1).idle(1).on_exit(|_| {});
        let pool = pool.grow_after(Duration::ZERO).start().unwrap();
        eventually("calls get the error", || {
            let error = common::lost(pool.call("x").wait());
            error.to_string() == "the child has retired before its first call"
        });
        pool.finish().unwrap();
    });
}

#[test]
fn pool_is_killed_in_a_callback_while_children_are_to_be_started() {
    let me = worker().run_in_test();
    bounded(move || {
        let late = Late::default();
        let exit = late.clone();
        let (sender, ends) = mpsc::channel();
        let pool = me.pool("do").max(20).on_exit(move |_| {
            let Some(pool) = exit.take() else { return };
            for key in 0..100 {
                let sender = sender.clone();
                let call = pool.call("pid").key(key);
                call.then(move |outcome| sender.send(outcome).unwrap());
            }
            pool.kill();
        });
        let pool = pool.start().unwrap();
        late.set(&pool);
        let _: Result<_, _> = pool.call("abort").wait();
        assert_eq!(ends.iter().filter(Result::is_err).count(), 100);
        pool.finish().unwrap();
    });
}

#[test]
fn pools_do_not_mix_up_their_calls_when_one_is_used_in_a_callback_of_another() {
    let me = worker().run_in_test();
    bounded(move || {
        let one = me.pool("first").max(1).load(1000).start().unwrap();
        let two = me.pool("do").max(1).load(1000).start().unwrap();
        let (sender, replies) = mpsc::channel();
        one.call("x").wait().unwrap();
        two.call("pid").wait().unwrap();
        for round in 0..20 {
            let gate = Gate::new();
            let begun = two.call(["gate", gate.name()]).start();
            let entered = gate.entered();
            let sent = Mutex::new(
                (0..300)
                    .map(|_| two.call("pid").start())
                    .collect::<Vec<_>>(),
            );
            let sent = Arc::new(sent);
            for _ in 0..200 {
                let (sent, sender) = (Arc::clone(&sent), sender.clone());
                one.call("x").then(move |reply| {
                    // This makes room in the other pool.
                    let pending = sent.lock().unwrap().pop();
                    pending.unwrap().cancel();
                    sender.send(reply.unwrap()).unwrap();
                });
            }
            for _ in 0..200 {
                replies.recv().unwrap();
            }
            let calls: Vec<_> = (0..300)
                .map(|n| two.call(["echo", &n.to_string()]).start())
                .collect();
            signal(two.stats().children[0].pid.unwrap(), "KILL");
            drop(entered);
            assert!(begun.wait().is_err());
            for (n, call) in calls.into_iter().enumerate() {
                assert_eq!(call.wait().unwrap(), [n.to_string()], "round {round}");
            }
        }
        one.finish().unwrap();
        two.finish().unwrap();
    });
}

#[test]
fn callback_of_a_call_never_runs_inside_the_method_that_makes_it() {
    bounded(|| {
        static INSIDE: AtomicBool = AtomicBool::new(false);
        let pool = Process::exe("/nowhere/at/all").pool("do").on_exit(|_| {});
        let pool = pool.start().unwrap();
        let (sender, done) = mpsc::channel();
        let inner = pool.clone();
        pool.call("x").then(move |outcome| {
            assert!(outcome.is_err());
            // There is no child, and nothing is tried now: this one is to fail at once.
            INSIDE.store(true, Ordering::Relaxed);
            inner.call("y").then(move |_| {
                sender.send(INSIDE.load(Ordering::Relaxed)).unwrap();
            });
            INSIDE.store(false, Ordering::Relaxed);
        });
        assert!(!done.recv().unwrap());
        pool.finish().unwrap();
    });
}

#[test]
fn map_without_order_does_not_wait_in_a_callback() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("do").max(1).start().unwrap();
        let (sender, done) = mpsc::channel();
        let inner = pool.clone();
        pool.call("pid").then(move |_| {
            let inputs = [["echo", "a"], ["echo", "b"]];
            let all: Vec<_> = inner.map_unordered(inputs).map(|(_, it)| it).collect();
            sender.send(all).unwrap();
        });
        let all = done.recv().unwrap();
        assert_eq!(all.len(), 2);
        for outcome in all {
            assert!(matches!(
                outcome,
                Err(CallError::Refused(Refusal::InCallback))
            ));
        }
        pool.finish().unwrap();
    });
}

#[test]
fn idle_child_is_stopped_though_something_else_is_due_later() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("do").max(1).max_age(LONG).shrink_after(SHORT);
        let pool = pool.start().unwrap();
        pool.call("pid").wait().unwrap();
        eventually("it is stopped", || pool.stats().children.is_empty());
        pool.finish().unwrap();
    });
}

#[test]
fn another_child_is_started_when_the_idle_one_gets_a_call() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("do").max(2).idle(1).grow_after(SHORT);
        let pool = pool.start().unwrap();
        let is_idle = || {
            pool.stats()
                .children
                .iter()
                .any(|it| it.state == ChildState::Idle)
        };
        eventually("one is idle", is_idle);
        let gate = Gate::new();
        let call = pool.call(["gate", gate.name()]).start();
        let entered = gate.entered();
        eventually("another is idle", is_idle);
        entered.open();
        call.wait().unwrap();
        pool.finish().unwrap();
    });
}

#[test]
fn destructors_and_callbacks_that_panic_end_nothing_else() {
    alone(|| {
        let pool = Process::exe("/nowhere/at/all").pool("do").on_exit(|_| {});
        let pool = pool.start().unwrap();
        let (sender, ends) = mpsc::channel();
        for _ in 0..5 {
            let (mine, sender) = (Mine, sender.clone());
            let call = pool.call("x").on_progress(move |_| {
                let _ = &mine;
            });
            call.then(move |outcome| {
                sender.send(outcome.is_err()).unwrap();
                panic!("a callback panics");
            });
        }
        drop(sender);
        assert_eq!(ends.iter().filter(|it| *it).count(), 5);
        pool.finish().unwrap();
    });
}

#[test]
fn pools_callbacks_that_panic_when_they_are_dropped_abort_nothing() {
    let me = worker().run_in_test();
    alone(move || {
        let (one, two) = (Mine, Mine);
        let pool = me
            .pool("do")
            .on_event(move |_, _| {
                let _ = &one;
            })
            .on_exit(move |_| {
                let _ = &two;
                panic!("a callback panics");
            })
            .start()
            .unwrap();
        for _ in 0..3 {
            assert!(pool.call("abort").wait().is_err());
        }
        pool.finish().unwrap();
        assert!(children().is_empty());
    });
}

#[test]
fn cancelled_call_makes_room_though_its_destructor_panics() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("do").max(1).load(1).max_queue(2, usize::MAX);
        let pool = pool.start().unwrap();
        let gate = Gate::new();
        let first = pool.call(["gate", gate.name()]).start();
        let entered = gate.entered();
        let bomb = Bomb;
        let second = pool.call("pid").on_progress(move |_| {
            let _ = &bomb;
        });
        let second = second.start();
        thread::scope(|scope| {
            let (sender, made) = mpsc::channel();
            let pool = &pool;
            scope.spawn(move || {
                let third = pool.call("pid").start();
                sender.send(()).unwrap();
                third.wait().unwrap();
            });
            second.cancel();
            made.recv().unwrap();
            entered.open();
        });
        first.wait().unwrap();
        pool.finish().unwrap();
    });
}

#[test]
fn calls_of_a_pool_that_takes_too_long_to_finish_end_with_its_error() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("do").max(1).load(2).start().unwrap();
        let gate = Gate::new();
        let calls: Vec<_> = (0..4)
            .map(|_| pool.call(["gate", gate.name()]).start())
            .collect();
        let _entered = gate.entered();
        let waiting = pool.clone();
        let gate_name = gate.name().to_owned();
        let waits = thread::spawn(move || waiting.call(["gate", &gate_name]).wait());
        eventually("it waits", || pool.stats().queued == 3);
        let error = pool.finish_timeout(SHORT).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stopped);
        let outcomes = calls.into_iter().map(|call| call.wait());
        for outcome in outcomes.chain([waits.join().unwrap()]) {
            assert_eq!(common::lost_kind(outcome), ErrorKind::Stopped);
        }
    });
}

#[test]
fn pool_is_killed_while_a_start_waits_for_a_template() {
    let me = worker()
        .setup("gate", |request| {
            Gate::enter(&request.to_string());
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        for is_nested in [false, true] {
            let gate = Gate::new();
            let mut template = me.clone().setup("gate", gate.name()).template();
            if is_nested {
                template = template.template();
            }
            let mut entered = None;
            for is_killed in [false, true, false] {
                let pool = template.pool("do").max(2).idle(2).start_timeout(LONG);
                let pool = pool.on_exit(|_| {}).start().unwrap();
                let call = pool.call("pid").start();
                entered.get_or_insert_with(|| gate.entered());
                let kind = if is_killed {
                    pool.kill();
                    pool.finish().unwrap();
                    ErrorKind::Killed
                } else {
                    let error = pool.finish_timeout(SHORT).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Stopped);
                    ErrorKind::Stopped
                };
                assert_eq!(common::lost_kind(call.wait()), kind);
            }
            drop(entered);
            // Nothing of this was its fault.
            let rpc = template.rpc("do").start().unwrap();
            assert_eq!(rpc.call(["echo", "x"]).wait().unwrap(), ["x"]);
            rpc.finish().unwrap();
        }
    });
}

#[test]
fn exit_tells_what_a_child_had_begun_for_callers_that_wait() {
    let me = worker().run_in_test();
    bounded(move || {
        let (sender, exits) = mpsc::channel();
        let pool = me.pool("do").max(1).on_exit(move |exit| {
            sender.send((exit.calls, exit.begun.len())).unwrap();
        });
        let pool = pool.start().unwrap();
        for _ in 0..30 {
            pool.call("pid").wait().unwrap();
            assert!(pool.call("abort").wait().is_err());
            assert_eq!(exits.recv().unwrap(), (1, 1));
        }
        pool.finish().unwrap();
    });
}

/// Has children crash in the last of four calls that they read together.
fn crash_behind_three_calls(me: &Process) {
    for others in [["do"; 3], ["first", "do", "first"]] {
        let pool = me.pool("do").max(1).load(4).on_exit(|_| {});
        let pool = pool.start().unwrap();
        for _ in 0..20 {
            pool.call("pid").wait().unwrap();
            let pid = pool.stats().children[0].pid.unwrap();
            stop(pid);
            let calls = others.map(|name| pool.function(name).call("pid").start());
            let aborts = pool.call("abort").start();
            assert_eq!(pool.stats().children[0].in_flight, 4);
            signal(pid, "CONT");
            let aborted = aborts.wait();
            assert!(matches!(aborted, Err(CallError::Lost(_, Phase::Begun))));
            for call in calls {
                call.wait().unwrap();
            }
        }
        pool.finish().unwrap();
    }
}

#[test]
fn crash_takes_along_no_reply_of_the_few_calls_before_it() {
    let me = worker().run_in_test();
    bounded(move || crash_behind_three_calls(&me));
}

#[test]
fn nor_does_it_in_a_child_with_functions_of_several_kinds() {
    let me = worker().threaded("other", |_, _| Ok(())).run_in_test();
    bounded(move || crash_behind_three_calls(&me));
}

#[test]
fn options_that_are_huge_are_as_good_as_none() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me
            .pool("do")
            .max(usize::MAX)
            .also(me.clone(), usize::MAX)
            .load(usize::MAX)
            .max_calls(u64::MAX)
            .max_age(Duration::MAX)
            .max_memory(u64::MAX)
            .max_queue(usize::MAX, usize::MAX)
            .call_timeout(Duration::MAX)
            .kill_stuck(Duration::MAX)
            .start_timeout(Duration::MAX)
            .grace(Duration::MAX)
            .max_frame(usize::MAX)
            .buflen(usize::MAX)
            .max_asks(usize::MAX)
            .grow_after(Duration::MAX)
            .shrink_after(Duration::MAX);
        let pool = pool.start().unwrap();
        let inputs = (0..100).map(|n| ["echo".to_owned(), n.to_string()]);
        for (input, reply) in pool.map_unordered(inputs) {
            assert_eq!(reply.unwrap(), [input[1].clone()]);
        }
        assert!(pool.call("pid").repeatable(u32::MAX).key(7).wait().is_ok());
        pool.finish_timeout(Duration::MAX).unwrap();
    });
}

#[test]
fn first_of_several_sources_may_have_no_slots() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = Pool::builder("do")
            .also(Process::exe("/nowhere/at/all"), 0)
            .also(me, 1)
            .start()
            .unwrap();
        for _ in 0..10 {
            pool.call("pid").wait().unwrap();
        }
        assert_eq!(pool.stats().started, 1);
        pool.finish().unwrap();
    });
}

#[test]
fn call_for_each_child_times_out_in_one_that_does_not_serve_yet() {
    bounded(|| {
        let pool = script("exec sleep 1000").pool("do").idle(1).max(1);
        let pool = pool.call_timeout(SHORT).start_timeout(LONG);
        let pool = pool.on_exit(|_| {}).start().unwrap();
        for call in pool.everywhere("x") {
            let outcome = call.wait();
            assert!(matches!(outcome, Err(CallError::TimedOut(Phase::Queued))));
        }
        assert_eq!(pool.stats().children[0].in_flight, 0);
        pool.kill();
        pool.finish().unwrap();
    });
}

/// Another thread may have taken calls in hand, to send them or to end them, when the last child ends.
#[test]
fn pool_is_over_after_all_its_calls_have_ended() {
    let me = worker().run_in_test();
    bounded(move || {
        for round in 0..150 {
            let over = Arc::new(AtomicBool::new(false));
            let (ended, late) = (Arc::new(AtomicUsize::new(0)), Arc::new(OnceLock::new()));
            let destroyed = Arc::clone(&over);
            let pool = me.pool("do").max(2).load(1 + round % 3);
            let pool = pool
                .grow_after(Duration::ZERO)
                .on_exit(|_| {})
                .on_destroy(move || destroyed.store(true, Ordering::SeqCst))
                .start()
                .unwrap();
            let done = AtomicBool::new(false);
            let mut made = 0;
            let finishing = pool.clone();
            thread::scope(|scope| {
                for n in 0..2 {
                    let (pool, done) = (pool.clone(), &done);
                    scope.spawn(move || {
                        while !done.load(Ordering::Relaxed) {
                            // Takes in hand what there is.
                            pool.call("pid").key(n).start().cancel();
                            let outcome = pool.call(["echo", "x"]).wait();
                            match outcome {
                                Err(CallError::Refused(Refusal::Closed)) => return,
                                Ok(_) | Err(CallError::Lost(_, Phase::Begun)) => {}
                                other => panic!("{other:?}"),
                            }
                        }
                    });
                }
                for n in 0..40 {
                    let what = if n % 10 == 9 { "abort" } else { "pid" };
                    let mut call = pool.call(what);
                    if n % 3 == 0 {
                        call = call.timeout(Duration::from_micros(50 * n));
                    }
                    let (over, ended, late) =
                        (Arc::clone(&over), Arc::clone(&ended), Arc::clone(&late));
                    call.then(move |outcome| {
                        if over.load(Ordering::SeqCst) {
                            let _ = late.set(format!("{outcome:?}"));
                        }
                        ended.fetch_add(1, Ordering::SeqCst);
                    });
                    made += 1;
                }
                finishing.finish().unwrap();
                assert_eq!(ended.load(Ordering::SeqCst), made, "round {round}");
                assert!(over.load(Ordering::SeqCst));
                done.store(true, Ordering::Relaxed);
            });
            assert_eq!(late.get(), None);
        }
    });
}

#[test]
fn full_pool_lets_callers_go_when_it_ends() {
    let me = worker().run_in_test();
    bounded(move || {
        for is_killed in [false, true] {
            let pool = me.pool("do").max(1).load(1).max_queue(1, usize::MAX);
            let pool = pool.start().unwrap();
            let gate = Gate::new();
            let first = pool.call(["gate", gate.name()]).start();
            let entered = gate.entered();
            let blocked: Vec<_> = (0..3)
                .map(|n| {
                    let pool = pool.clone();
                    thread::spawn(move || match n {
                        0 => pool.call("pid").wait(),
                        1 => pool.call("pid").start().wait(),
                        _ => pool.map(["pid"]).next().unwrap(),
                    })
                })
                .collect();
            let finishing = pool.clone();
            let finishing = thread::spawn(move || match is_killed {
                true => finishing.kill(),
                false => finishing.finish().unwrap(),
            });
            for caller in blocked {
                match caller.join().unwrap() {
                    Err(CallError::Refused(Refusal::Closed)) if !is_killed => {}
                    Err(CallError::Lost(error, Phase::Queued)) if is_killed => {
                        assert_eq!(error.kind(), ErrorKind::Killed);
                    }
                    other => panic!("{other:?}"),
                }
            }
            if is_killed {
                assert_eq!(common::lost_kind(first.wait()), ErrorKind::Killed);
            } else {
                entered.open();
                first.wait().unwrap();
            }
            finishing.join().unwrap();
            pool.finish().unwrap();
        }
    });
}

#[test]
fn everything_is_dropped_with_a_pool() {
    let me = worker().run_in_test();
    alone(move || {
        let token = Arc::new(());
        me.rpc("do").start().unwrap().finish().unwrap();
        let before = common::descriptors(std::process::id()).len();
        for round in 0..30 {
            let hold = || {
                let token = Arc::clone(&token);
                move || drop(Arc::clone(&token))
            };
            let (event, exit, destroy) = (hold(), hold(), hold());
            let me = if round % 5 == 0 {
                me.clone().template()
            } else {
                me.clone()
            };
            let pool = me
                .pool("do")
                .max(1 + round % 3)
                .idle(round % 2)
                .load(1 + round % 4)
                .max_age(LONG)
                .on_event(move |_, _| event())
                .on_exit(move |_| exit())
                .on_destroy(destroy)
                .start()
                .unwrap();
            for n in 0..50 {
                let (then, progress) = (hold(), hold());
                let what = if n % 20 == 7 { "abort" } else { "pid" };
                let call = pool.call(what).on_progress(move |_| progress());
                match n % 3 {
                    0 => call.then(move |_| then()),
                    1 => drop(call.cancel_on_drop().start()),
                    _ => drop(call.timeout(Duration::from_micros(100)).wait()),
                }
            }
            match round % 4 {
                0 => drop(pool),
                1 => pool.kill(),
                2 => pool.finish().unwrap(),
                _ => drop(pool.finish_timeout(Duration::ZERO)),
            }
        }
        eventually("no thread is left", || {
            common::reactors() + common::threads("offspring start") == 0
        });
        eventually("no child is left", || children().is_empty());
        assert_eq!(Arc::strong_count(&token), 1);
        assert_eq!(common::descriptors(std::process::id()).len(), before);
    });
}

#[test]
fn calls_of_one_thread_stay_in_order_in_one_child() {
    let me = worker().run_in_test();
    bounded(move || {
        let (sender, events) = mpsc::channel();
        let pool = me.pool("do").max(1).load(1).on_event(move |_, event| {
            sender
                .send(event.to_string().parse::<usize>().unwrap())
                .unwrap();
        });
        let pool = pool.start().unwrap();
        for n in 0..5000 {
            let call = pool.call(["event", &n.to_string()]);
            match n % 7 {
                0 => drop(call.wait().unwrap()),
                1 => drop(call.start()),
                _ => call.then(|reply| drop(reply.unwrap())),
            }
        }
        pool.finish().unwrap();
        assert!(events.iter().eq(0..5000));
    });
}

#[test]
fn pool_goes_on_when_a_lack_of_descriptors_is_over() {
    let me = worker().run_in_test();
    alone(move || {
        let (sender, exits) = mpsc::channel();
        let pool = me.pool("do").max(2).on_exit(move |exit| {
            let end = exit.end.as_ref().map(drop);
            // Nobody listens in the end.
            let _: Result<_, _> = sender.send(end.map_err(|error| error.kind()));
        });
        let pool = pool.start().unwrap();
        let files = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok());
        let taken: Vec<_> = files.collect();
        assert_eq!(common::lost_kind(pool.call("pid").wait()), ErrorKind::Spawn);
        assert_eq!(exits.recv().unwrap(), Err(ErrorKind::Spawn));
        drop(taken);
        eventually("it goes on", || pool.call("pid").wait().is_ok());
        pool.finish().unwrap();
    });
}

/// Neither children nor the thread that starts them can be started, and not even by a callback.
#[test]
fn pool_goes_on_when_a_lack_of_processes_is_over() {
    let me = worker().run_in_test();
    unprivileged(move || {
        let (sender, ends) = mpsc::channel();
        let late = Late::default();
        let exit = late.clone();
        let pool = me.pool("do").max(2).on_exit(move |_| {
            if let Some(pool) = exit.take() {
                let sender = sender.clone();
                let call = pool.call("pid");
                call.then(move |outcome| sender.send(outcome).unwrap());
            }
        });
        let pool = pool.start().unwrap();
        late.set(&pool);
        let whole = limit_processes(1);
        for outcome in [pool.call("pid").wait(), ends.recv().unwrap()] {
            let kind = common::lost_kind(outcome);
            assert!(matches!(kind, ErrorKind::Io | ErrorKind::Spawn), "{kind:?}");
        }
        limit_processes(whole);
        eventually("it goes on", || pool.call("pid").wait().is_ok());
        pool.finish().unwrap();
        assert!(children().is_empty());
    });
}

/// Sets how many processes and threads there may be, and returns how many that were.
#[expect(unsafe_code, reason = "the standard library has no function for it")]
fn limit_processes(processes: libc::rlim_t) -> libc::rlim_t {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: points to a limit.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NPROC, &raw mut limit) };
    let before = std::mem::replace(&mut limit.rlim_cur, processes);
    // SAFETY: points to a limit.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit) };
    assert_eq!((got, set), (0, 0));
    before
}

/// Calls something when it is dropped.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn destructors_of_callbacks_use_the_pool() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("do").max(1).start().unwrap();
        for _ in 0..10 {
            let inner = pool.clone();
            let uses = OnDrop(move || drop(inner.stats()));
            let answered = pool.call("pid").on_progress(move |_| {
                let _ = &uses;
            });
            let answered = answered.start();
            let gate = Gate::new();
            let lost = pool.call(["gate", gate.name()]).start();
            let _entered = gate.entered();
            answered.wait().unwrap();
            signal(pool.stats().children[0].pid.unwrap(), "KILL");
            assert!(lost.wait().is_err());
        }
        pool.finish().unwrap();
    });
}

#[test]
fn destructors_of_several_callbacks_panic_and_abort_nothing() {
    let me = worker().run_in_test();
    alone(move || {
        let pool = me.pool("do").max(1).load(100).start().unwrap();
        for _ in 0..3 {
            let calls: Vec<_> = (0..20)
                .map(|_| {
                    let mine = OnDrop(|| panic!("a destructor panics"));
                    let call = pool.call("pid").on_progress(move |_| {
                        let _ = &mine;
                    });
                    call.start()
                })
                .collect();
            let gate = Gate::new();
            let last = pool.call(["gate", gate.name()]).start();
            let entered = gate.entered();
            for call in calls {
                call.wait().unwrap();
            }
            entered.open();
            last.wait().unwrap();
        }
        pool.finish().unwrap();
    });
}

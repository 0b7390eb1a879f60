//! Pools: replaceable children behind one call.

mod common;

use common::{Gate, alone, bounded, children, eventually, obey, signal};
use offspring::{
    CallError, ChildState, ErrorKind, Limit, Phase, Pool, Process, Refusal, Strings, Worker,
};
use std::sync::mpsc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(1000);
/// Time enough for a call to begin in a child that is there.
const TIMEOUT: Duration = Duration::from_secs(1);

fn worker() -> Worker {
    Worker::new()
        .function("do", obey)
        .threaded("gate", |request, _| {
            Gate::enter(&request.to_string());
            Ok(std::process::id().to_string())
        })
        .function("pid", |_, _| Ok(std::process::id().to_string()))
        .threads(8)
}

#[test]
fn calls_are_answered_by_waiting_by_callback_and_later() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("do").max(2).start().unwrap();
        assert_eq!(pool.call(["echo", "a"]).wait().unwrap(), ["a"]);
        let later = pool.call(["echo", "b"]).start();
        let (sender, replies) = mpsc::channel();
        pool.call(["echo", "c"])
            .then(move |reply| sender.send(reply).unwrap());
        assert_eq!(later.wait().unwrap(), ["b"]);
        assert_eq!(replies.recv().unwrap().unwrap(), ["c"]);
        let failed = pool.call(["fail", "no luck"]).wait();
        assert!(matches!(failed, Err(CallError::Failed(error)) if error.to_string() == "no luck"));
        pool.finish().unwrap();
    });
}

#[test]
fn pool_ends_when_it_is_dropped_and_leaves_nothing() {
    let me = worker().run_in_test();
    alone(move || {
        let (sender, replies) = mpsc::channel();
        let pool = me.pool("do").max(3).idle(2).start().unwrap();
        for n in 0..100 {
            let sender = sender.clone();
            let call = pool.call(["echo", &n.to_string()]);
            call.then(move |reply| sender.send(reply.unwrap()).unwrap());
        }
        drop((pool, sender));
        assert_eq!(replies.iter().count(), 100);
        eventually("nothing is left", || {
            children().is_empty() && common::reactors() == 0
        });
    });
}

#[test]
fn call_that_had_begun_ends_with_its_child_and_the_others_go_on() {
    let me = worker().run_in_test();
    bounded(move || {
        let (sender, exits) = mpsc::channel();
        let pool = me.pool("do").max(1).load(10);
        let pool = pool
            .on_exit(move |exit| sender.send(exit.clone()).unwrap())
            .start()
            .unwrap();
        let gate = Gate::new();
        let begun = pool.call(["gate", gate.name()]).start();
        let others: Vec<_> = (0..20)
            .map(|n| pool.call(["echo", &n.to_string()]).start())
            .collect();
        let _entered = gate.entered();
        let pid = pool.stats().children[0].pid.unwrap();
        signal(pid, "KILL");
        match begun.wait() {
            Err(CallError::Lost(error, Phase::Begun)) => assert_eq!(error.pid(), Some(pid)),
            other => panic!("{other:?}"),
        }
        for (n, other) in others.into_iter().enumerate() {
            assert_eq!(other.wait().unwrap(), [n.to_string()]);
        }
        let exit = exits.recv().unwrap();
        assert_eq!((exit.pid, exit.calls, exit.begun.len()), (Some(pid), 0, 1));
        assert_eq!(exit.end.unwrap_err().kind(), ErrorKind::Died);
        pool.finish().unwrap();
    });
}

#[test]
fn map_returns_outcomes_in_order_and_unordered_with_their_inputs() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me
            .pool("do")
            .max(3)
            .grow_after(Duration::ZERO)
            .start()
            .unwrap();
        let inputs = (0..1000).map(|n| ["echo".to_owned(), n.to_string()]);
        let all: Vec<_> = pool.map(inputs.clone()).map(Result::unwrap).collect();
        assert_eq!(all.len(), 1000);
        for (n, reply) in all.iter().enumerate() {
            assert_eq!(*reply, [n.to_string()]);
        }
        let mut count = 0;
        for (input, reply) in pool.map_unordered(inputs) {
            assert_eq!(reply.unwrap(), [input[1].clone()]);
            count += 1;
        }
        assert_eq!(count, 1000);
        pool.finish().unwrap();
    });
}

#[test]
fn options_of_a_map_are_those_of_all_its_calls() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("do").max(1).start().unwrap();
        let input = ["abort"];
        for times in [0, 1] {
            let ordered = pool.map([input; 3]).with(|call| call.repeatable(times));
            let unordered = pool.map_unordered([input; 3]);
            let unordered = unordered.with(|call| call.repeatable(times));
            for outcome in ordered.chain(unordered.map(|(_, outcome)| outcome)) {
                match outcome {
                    Err(CallError::Lost(_, Phase::Begun)) if times == 0 => {}
                    Err(CallError::Poison(_)) if times == 1 => {}
                    other => panic!("{times}: {other:?}"),
                }
            }
        }
        pool.finish().unwrap();
    });
}

/// Drops a map of calls that wait at the gate, of which each of the two children has one.
fn drop_at_the_gate<T>(pool: &Pool, gate: &Gate, map: T) {
    let entered = [gate.entered(), gate.entered()];
    assert_eq!(pool.stats().queued, 1, "a third call is made by now");
    drop(map);
    assert_eq!(pool.stats().queued, 0);
    drop(entered);
    assert!(pool.call("pid").wait().is_ok());
}

#[test]
fn map_that_is_dropped_cancels_the_calls_whose_outcomes_it_has_not_returned() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("do").max(2).load(1).grow_after(Duration::ZERO);
        let pool = pool.start().unwrap();
        let gate = Gate::new();
        let gates = std::iter::repeat_n(["gate", gate.name()], 100);
        let inputs = std::iter::once(["echo", "first"]).chain(gates);

        let mut map = pool.map(inputs.clone());
        assert_eq!(map.next().unwrap().unwrap(), ["first"]);
        drop_at_the_gate(&pool, &gate, map);

        let mut map = pool.map_unordered(inputs);
        assert_eq!(map.next().unwrap().1.unwrap(), ["first"]);
        drop_at_the_gate(&pool, &gate, map);
        pool.finish().unwrap();
    });
}

#[test]
fn poison_is_told_from_other_calls_and_ends_with_both_errors() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("do").max(2).load(4).start().unwrap();
        let good: Vec<_> = (0..10)
            .map(|n| pool.call(["echo", &n.to_string()]).repeatable(3).start())
            .collect();
        let poison = pool.call("abort").repeatable(3).start();
        let more: Vec<_> = (0..10)
            .map(|n| pool.call(["echo", &n.to_string()]).repeatable(3).start())
            .collect();
        match poison.wait() {
            Err(CallError::Poison(errors)) => {
                assert_eq!(errors.len(), 2);
                assert_ne!(errors[0].pid(), errors[1].pid());
            }
            other => panic!("{other:?}"),
        }
        for call in good.into_iter().chain(more) {
            call.wait().unwrap();
        }
        pool.finish().unwrap();
    });
}

#[test]
fn program_that_cannot_be_started_is_every_calls_error() {
    bounded(|| {
        let (sender, exits) = mpsc::channel();
        let pool = Process::exe("/nowhere/at/all").pool("do");
        let pool = pool
            .on_exit(move |exit| sender.send(exit.clone()).unwrap())
            .start()
            .unwrap();
        let calls: Vec<_> = (0..5).map(|_| pool.call("x").start()).collect();
        for call in calls {
            match call.wait() {
                Err(CallError::Lost(error, Phase::Queued)) => {
                    assert_eq!(error.kind(), ErrorKind::Spawn);
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(pool.call("x").wait(), Err(CallError::Lost(..))));
        pool.finish().unwrap();
        assert!(exits.iter().count() >= 3);
    });
}

#[test]
fn restart_replaces_all_children_while_calls_go_on() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("pid").max(2).idle(2).start().unwrap();
        eventually("both serve", || {
            pool.stats()
                .children
                .iter()
                .filter(|it| it.pid.is_some())
                .count()
                == 2
        });
        let before: Vec<_> = pool.stats().children.iter().map(|it| it.pid).collect();
        pool.restart();
        eventually("both are replaced", || {
            pool.call(()).wait().unwrap();
            let stats = pool.stats();
            stats.children.len() == 2
                && stats
                    .children
                    .iter()
                    .all(|it| it.generation == 1 && it.pid.is_some() && !before.contains(&it.pid))
        });
        pool.finish().unwrap();
    });
}

#[test]
fn call_to_each_child() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("pid").max(3).idle(3).start().unwrap();
        let mut pids: Vec<_> = pool
            .everywhere(())
            .into_iter()
            .map(|call| call.wait().unwrap().to_string())
            .collect();
        pids.sort();
        pids.dedup();
        assert_eq!(pids.len(), 3);
        pool.finish().unwrap();
    });
}

#[test]
fn same_key_goes_to_the_same_child() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("pid").max(4).start().unwrap();
        let mut all = Vec::new();
        for key in 0..20 {
            let pid = pool.call(()).key(key).wait().unwrap();
            for _ in 0..3 {
                assert_eq!(pool.call(()).key(key).wait().unwrap(), pid);
            }
            all.push(pid.to_string());
        }
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 4);
        pool.finish().unwrap();
    });
}

#[test]
fn calls_time_out_in_the_queue_and_in_a_child() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("do").max(1).load(1).start().unwrap();
        pool.call("pid").wait().unwrap();
        let gate = Gate::new();
        let first = pool.call(["gate", gate.name()]).timeout(TIMEOUT).start();
        let entered = gate.entered();
        let second = pool.call("pid").timeout(TIMEOUT).start();
        assert!(matches!(
            first.wait(),
            Err(CallError::TimedOut(Phase::Begun))
        ));
        assert!(matches!(
            second.wait(),
            Err(CallError::TimedOut(Phase::Queued))
        ));
        let third = pool.call("pid").start();
        assert_eq!(pool.stats().queued, 1, "its child has not answered yet");
        entered.open();
        third.wait().unwrap();
        pool.finish().unwrap();
    });
}

#[test]
fn cancelled_calls_leave_the_queue_and_their_child() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("do").max(1).load(1).start().unwrap();
        let gate = Gate::new();
        let first = pool.call(["gate", gate.name()]).start();
        let entered = gate.entered();
        let second = pool.call("pid").start();
        eventually("it waits", || pool.stats().queued == 1);
        second.cancel();
        assert_eq!(pool.stats().queued, 0);
        first.cancel();
        entered.open();
        pool.call("pid").wait().unwrap();
        pool.finish().unwrap();
    });
}

#[test]
fn full_pool_refuses_or_lets_wait() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("do").max(1).load(1).max_queue(2, usize::MAX);
        let pool = pool.start().unwrap();
        let gate = Gate::new();
        let first = pool.call(["gate", gate.name()]).start();
        let entered = gate.entered();
        let second = pool.call("pid").start();
        let full = pool.try_call("pid").wait();
        assert!(matches!(full, Err(CallError::Refused(Refusal::Full))));
        std::thread::scope(|scope| {
            let third = scope.spawn(|| pool.call("pid").wait());
            entered.open();
            third.join().unwrap().unwrap();
        });
        first.wait().unwrap();
        second.wait().unwrap();
        pool.finish().unwrap();
    });
}

#[test]
fn killed_pool_ends_everything() {
    let me = worker().run_in_test();
    alone(move || {
        let pool = me.pool("do").max(2).load(1).start().unwrap();
        let gate = Gate::new();
        let begun = pool.call(["gate", gate.name()]).start();
        let _entered = gate.entered();
        let queued: Vec<_> = (0..5)
            .map(|_| pool.call(["gate", gate.name()]).start())
            .collect();
        pool.kill();
        for call in queued.into_iter().chain([begun]) {
            match call.wait() {
                Err(CallError::Lost(error, _)) => assert_eq!(error.kind(), ErrorKind::Killed),
                other => panic!("{other:?}"),
            }
        }
        pool.finish().unwrap();
        assert!(children().is_empty());
    });
}

#[test]
fn idle_children_are_stopped_and_the_pool_goes_on() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("do").max(2).shrink_after(Duration::from_millis(10));
        let pool = pool.start().unwrap();
        pool.call("pid").wait().unwrap();
        eventually("none is left", || pool.stats().children.is_empty());
        pool.call("pid").wait().unwrap();
        assert!(pool.stats().started >= 2);
        pool.finish().unwrap();
    });
}

#[test]
fn idle_child_is_stopped_in_time_however_late_something_else_is_due() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("do").shrink_after(Duration::from_millis(10));
        let pool = pool.max_age(LONG).start().unwrap();
        pool.call(["echo", "x"]).wait().unwrap();
        eventually("none is left", || pool.stats().children.is_empty());
        pool.finish().unwrap();
    });
}

#[test]
fn another_child_is_started_when_the_idle_one_gets_a_call() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("do").max(3).idle(1).load(1).start().unwrap();
        let idle = || {
            let children = pool.stats().children;
            children
                .iter()
                .filter(|it| it.state == ChildState::Idle)
                .count()
        };
        let gate = Gate::new();
        for busy in 0..3 {
            eventually("one is idle", || idle() == 1);
            assert_eq!(pool.stats().started, busy + 1);
            pool.call(["gate", gate.name()]).then(drop);
        }
        pool.kill();
        pool.finish().unwrap();
    });
}

#[test]
fn children_are_replaced_after_so_many_calls() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("pid").max(1).max_calls(10).start().unwrap();
        let mut pids = std::collections::BTreeSet::new();
        eventually("there have been five", || {
            pids.insert(pool.call(()).wait().unwrap().to_string());
            pids.len() >= 5
        });
        pool.finish().unwrap();
    });
}

#[test]
fn child_that_has_grown_is_replaced() {
    let me = worker()
        .function("grow", |_, _| {
            Box::leak(vec![1_u8; 8 << 20].into_boxed_slice());
            Ok(std::process::id().to_string())
        })
        .run_in_test();
    bounded(move || {
        let pool = me.pool("grow").max(1).max_memory(64 << 20).start().unwrap();
        let first = pool.call(()).wait().unwrap();
        eventually("it is replaced", || pool.call(()).wait().unwrap() != first);
        pool.finish().unwrap();
    });
}

#[test]
fn what_cannot_be_a_pool_is_an_error() {
    let me = worker().run_in_test();
    bounded(move || {
        let error = Pool::builder("do").start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let error = Process::stream(std::os::unix::net::UnixStream::pair().unwrap().0)
            .arg("x")
            .pool("do")
            .start()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        // Zero of either is one.
        let pool = me.limit(Limit::Core(0)).pool("do").max(0).load(0).start();
        let pool = pool.unwrap();
        assert_eq!(pool.call(["echo", "x"]).wait().unwrap(), ["x"]);
        pool.finish_timeout(LONG).unwrap();
    });
}

#[test]
fn callbacks_call_the_pool_and_must_not_wait_for_it() {
    let me = worker().run_in_test();
    bounded(move || {
        let pool = me.pool("do").max(1).start().unwrap();
        let (sender, replies) = mpsc::channel();
        let inner = pool.clone();
        pool.call("pid").then(move |_| {
            let refused = inner.call("pid").wait();
            assert!(matches!(
                refused,
                Err(CallError::Refused(Refusal::InCallback))
            ));
            inner.call(["echo", "inner"]).then(move |reply| {
                let _: Result<(), _> = sender.send(reply.unwrap());
            });
        });
        let reply: Strings = replies.recv().unwrap();
        assert_eq!(reply, ["inner"]);
        pool.finish().unwrap();
    });
}

#[test]
fn child_that_retires_gets_no_more_calls_and_exits() {
    let me = worker()
        .function("last", |_, caller| {
            caller.retire();
            Ok(std::process::id().to_string())
        })
        .run_in_test();
    alone(move || {
        let pool = me.pool("last").max(1).start().unwrap();
        let mut pids = std::collections::BTreeSet::new();
        for _ in 0..5 {
            // Each is the last of its child.
            assert!(pids.insert(pool.call(()).wait().unwrap().to_string()));
        }
        eventually("all have exited", || children().is_empty());
        pool.finish().unwrap();
    });
}

#[test]
fn child_that_hangs_is_killed_and_replaced_and_what_had_not_begun_goes_on() {
    let me = worker().run_in_test();
    bounded(move || {
        let (sender, exits) = mpsc::channel();
        let short = Duration::from_millis(30);
        let pool = me.pool("do").max(1).load(2).kill_stuck(short);
        let pool = pool
            .on_exit(move |exit| sender.send(exit.clone()).unwrap())
            .start()
            .unwrap();
        pool.call("pid").wait().unwrap();
        let gate = Gate::new();
        let hangs = pool.call(["spin", gate.name()]).timeout(TIMEOUT).start();
        let _entered = gate.entered();
        let behind: Vec<_> = (0..5).map(|_| pool.call("pid").start()).collect();
        assert!(matches!(hangs.wait(), Err(CallError::TimedOut(_))));
        for call in behind {
            call.wait().unwrap();
        }
        assert_eq!(
            exits.recv().unwrap().end.unwrap_err().kind(),
            ErrorKind::Stuck
        );
        pool.finish().unwrap();
    });
}

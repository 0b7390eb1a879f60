//! How pools end: their calls, their children and themselves, whatever happens meanwhile.

mod common;

use common::{Gate, alone, bounded, children, eventually, obey, script, signal};
use offspring::{CallError, ErrorKind, Phase, Pool, Process, Refusal, Strings, Worker};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

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

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

//! Events, progress and replies from timers and threads, with flushes, arrive in the order in which
//! they were made.

mod common;

use common::bounded;
use offspring::{CallError, Caller, Loop, Strings, Worker};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The number of calls. What each does depends on its number.
const CALLS: usize = 600;

/// Numbers what the child makes. The lock keeps the numbering and the making together.
fn make<T>(make: impl FnOnce(String) -> T) -> T {
    static COUNT: Mutex<usize> = Mutex::new(0);
    let mut count = COUNT.lock().unwrap();
    *count += 1;
    make(count.to_string())
}

fn event(caller: &Caller, size: usize) {
    make(|n| caller.event([n.into_bytes(), vec![7; size]]));
}

fn end(caller: Caller) {
    make(|n| match n.parse::<usize>() {
        Ok(odd) if odd % 2 == 1 => caller.fail(n),
        _ => caller.reply(n),
    });
}

fn deferred(request: Strings, caller: Caller, events: &Loop) {
    let n: usize = request.to_string().parse().unwrap();
    event(&caller, n);
    match n % 6 {
        0 => end(caller),
        1 => {
            let mut left = 5;
            let interval = Duration::from_micros(n as u64 % 50);
            events.every(interval, caller, move |caller, _| {
                make(|n| caller.progress(n));
                left -= 1;
                if left > 0 {
                    return Some(caller);
                }
                end(caller);
                None
            });
        }
        2 => drop(thread::spawn(move || {
            for size in [0, 100_000, 10] {
                event(&caller, size);
                make(|n| caller.progress(n));
            }
            end(caller);
        })),
        3 => {
            assert!(caller.flush());
            event(&caller, 30_000);
            assert!(caller.flush());
            end(caller);
        }
        4 => events.offload(
            move || {
                event(&caller, 1);
                caller
            },
            |caller, _| end(caller),
        ),
        _ => {
            let poster = events.poster();
            thread::spawn(move || {
                event(&caller, 1);
                assert!(caller.flush());
                poster.post(|_| end(caller));
            });
        }
    }
}

fn threaded(request: Strings, caller: &Caller) {
    let n: usize = request.to_string().parse().unwrap();
    for size in [0, 1000 * (n % 100), 3] {
        event(caller, size);
        make(|n| caller.progress(n));
        if n.is_multiple_of(10) {
            assert!(caller.flush());
        }
    }
}

fn check(function: &'static str) {
    let me = Worker::new()
        .deferred("deferred", deferred)
        .threaded("threaded", |request, caller| {
            threaded(request, caller);
            // The reply is made when this has returned: it has no number.
            Ok("0")
        })
        .threads(4)
        .high_water(100_000)
        .run_in_test();
    bounded(move || {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let see = move |seen: &Mutex<Vec<usize>>, number: &[u8]| {
            let number = str::from_utf8(number).unwrap().parse().unwrap();
            if number > 0 {
                seen.lock().unwrap().push(number);
            }
        };
        let events = Arc::clone(&seen);
        let rpc = me.rpc(function);
        let rpc = rpc.on_event(move |event| see(&events, &event[0]));
        let rpc = rpc.start().unwrap();
        for n in 0..CALLS {
            let (progress, replies) = (Arc::clone(&seen), Arc::clone(&seen));
            rpc.call(n.to_string())
                .on_progress(move |number| see(&progress, &number[0]))
                .then(move |outcome| match outcome {
                    Ok(reply) => see(&replies, &reply[0]),
                    Err(CallError::Failed(error)) => see(&replies, error.to_string().as_bytes()),
                    Err(error) => panic!("{error}"),
                });
        }
        rpc.finish().unwrap();
        let seen = seen.lock().unwrap();
        assert!(seen.len() > 3 * CALLS / 2, "{} things", seen.len());
        assert!(seen.iter().copied().eq(1..=seen.len()), "{seen:?}");
    });
}

#[test]
fn deferred_functions() {
    check("deferred");
}

#[test]
fn threaded_functions() {
    check("threaded");
}

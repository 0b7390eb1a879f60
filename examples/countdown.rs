//! Three simultaneous countdowns in one child, with repeating timers: the second example of
//! `AnyEvent::Fork::RPC`. The one that starts last finishes first.

use offspring::{BoxError, Caller, Loop, Strings, Worker};
use std::time::Duration;

/// Runs in the child, and returns immediately: the timer owns the call and answers it.
fn count(request: Strings, caller: Caller, events: &Loop) {
    let Ok(to) = request.to_string().parse::<u32>() else {
        return caller.fail(format!("`{request}` is not a number"));
    };
    caller.event(format!("starting to count up to {to}"));
    let mut n = 0;
    events.every(Duration::from_secs(1), caller, move |caller, _| {
        n += 1;
        caller.event(format!("count {n} of {to}"));
        if n < to {
            return Some(caller);
        }
        caller.reply(());
        None
    });
}

fn main() -> Result<(), BoxError> {
    let me = Worker::new().deferred("count", count).run();

    let rpc = me
        .rpc("count")
        .on_event(|line| println!("{line}"))
        .start()?;
    for to in [3, 2, 1] {
        rpc.call(to.to_string()).then(move |reply| match reply {
            Ok(_) => println!("job {to} finished"),
            Err(error) => println!("job {to}: {error}"),
        });
    }
    rpc.finish()?;
    Ok(())
}

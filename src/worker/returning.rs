//! Serves returning functions, one call at a time: read, call, write. If [many](MANY) more whole requests have
//! been read, a call's answer is left to the flusher, and the next call begins.

use super::calls::{CallLimits, Lane, Started};
use super::functions::Function;
use super::hub::{Hub, WritePolicy};
use super::panics;
use super::read_ahead::{Incoming, RequestPayload};
use super::server::{Options, Server, Stop};
use super::table::{Bodies, Body};
use crate::sys::coarse_clock;

/// With so many requests in hand behind a call, its answer may be written while the next call runs: a system call
/// for each would cost more than short calls do. With fewer, it is written first: a crash in the next call takes
/// along only its own answer. That is a promise to pools, whose children have few calls at a time.
pub(super) const MANY: usize = 4;

/// Runs the function with a request, and answers the call of this id.
pub(super) type ReturningFn = dyn FnMut(Incoming<'_>, u32);

/// Answers requests until they end, each before the next is begun. All functions are returning ones.
pub(super) fn answer(
    mut server: Server,
    bodies: &mut Bodies,
    options: Options,
) -> Result<(), Stop> {
    let hub = server.hub;
    hub.set_limits(CallLimits::returning(options.high_water));
    loop {
        // A panic ends one call only. The others need no guard of their own.
        match panics::catch(|| answer_small(&mut server, bodies)) {
            Ok(result) => result?,
            // The call has failed, as its caller was dropped.
            Err(_) => {
                check_parent(hub, false)?;
                read_ahead_if_due(&mut server, bodies)?;
                continue;
            }
        }
        // What comes next, if it has come, is no small request, or is for a function that there is not.
        server.take_steps()?;
        if server.has_queued() {
            read_ahead(&mut server, bodies)?;
        } else if !server.read()? {
            // Nothing may be left to the flusher.
            hub.flush();
            return check_parent(hub, false);
        }
        server.has_read();
    }
}

/// Begins a call. No other call runs or waits.
fn begin(hub: &Hub, id: u32) {
    let begins = hub.begin(Lane::Returning, id);
    debug_assert_eq!(begins, Ok(true), "no other call runs or waits");
}

/// Answers the small requests that come next.
fn answer_small(server: &mut Server, bodies: &mut Bodies) -> Result<(), Stop> {
    let hub = server.hub;
    // Another is selected by a control message, which is none of them.
    let Ok(Function { index, .. }) = server.functions.current() else {
        return Ok(());
    };
    let function = returning(bodies, index);
    while let Some((id, at)) = server.session.request_at() {
        let many = server.session.has_many(MANY);
        begin(hub, id);
        call(function, server, RequestPayload::At(at), id, many);
        check_parent(hub, many)?;
        if server.is_read_due() {
            return read_ahead_if_due(server, bodies);
        }
    }
    Ok(())
}

/// The function of this index.
pub(super) fn returning(bodies: &mut Bodies, index: u32) -> &mut ReturningFn {
    match &mut bodies[index as usize] {
        Body::Returning(function) => &mut **function,
        Body::Deferred(_) | Body::Threaded(_) => unreachable!("it is in another lane"),
    }
}

/// Reads ahead if the clock has ticked since the last read. Among the requests that have come there may
/// be cancellations of others; but reading is a system call, too much for each of thousands of short
/// calls.
#[inline]
fn read_ahead_if_due(server: &mut Server, bodies: &mut Bodies) -> Result<(), Stop> {
    if server.is_read_due() {
        read_ahead(server, bodies)?;
        server.has_read();
    }
    Ok(())
}

/// Answers everything that has come, having read what cancellations there are before each call.
fn read_ahead(server: &mut Server, bodies: &mut Bodies) -> Result<(), Stop> {
    let hub = server.hub;
    server.check()?;
    if hub.is_broken() {
        return Err(Stop::cannot_write(hub));
    }
    let mut may_read = true;
    loop {
        server.take_steps()?;
        // One read each time: if everything were read here, short calls would never be answered in
        // the faster way again.
        if may_read && server.read_once()? {
            may_read = false;
            continue;
        }
        may_read = true;
        let started = coarse_clock();
        loop {
            let Some((_, next, behind)) = hub.next_request() else {
                return Ok(());
            };
            let Started {
                id,
                function,
                request,
            } = next;
            let payload = RequestPayload::Owned(request);
            call_guarded(server, bodies, function, payload, id, behind >= MANY)?;
            server.check()?;
            if started != coarse_clock() {
                break;
            }
        }
    }
}

/// Answers one call, even if the function panics.
fn call_guarded(
    server: &mut Server,
    bodies: &mut Bodies,
    function: u32,
    payload: RequestPayload,
    id: u32,
    many: bool,
) -> Result<(), Stop> {
    let hub = server.hub;
    let function = returning(bodies, function);
    // After a panic the call has failed, as its caller was dropped.
    let _ = panics::catch(|| call(function, server, payload, id, many));
    check_parent(hub, many)
}

/// Runs one call, with many others behind it or not.
pub(super) fn call(
    function: &mut ReturningFn,
    server: &mut Server,
    payload: RequestPayload,
    id: u32,
    many: bool,
) {
    let policy = if many {
        WritePolicy::Call
    } else {
        WritePolicy::LastCall
    };
    policy.set();
    function(Incoming { server, payload }, id);
}

/// After a call: stops if the parent is gone.
fn check_parent(hub: &Hub, many: bool) -> Result<(), Stop> {
    // With many to come it is found a little later, and costs less.
    if !many && hub.is_broken() {
        return Err(Stop::cannot_write(hub));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Failure;
    use crate::worker::read_ahead::read_if_asked;
    use crate::worker::read_ahead::tests::{frame, server};
    use std::io::Write;
    use std::net::Shutdown;
    use std::sync::mpsc;

    /// Lets the clock tick.
    fn tick() {
        let begun = coarse_clock();
        while coarse_clock() == begun {}
    }

    #[test]
    fn violation_that_is_read_during_a_call_ends_the_child_after_it() {
        // In a call that is taken out of the read buffer, and in one that has waited.
        for asking in [1, 2] {
            let (server, mut far) = server();
            far.write_all(&[frame(2, b""), frame(3, b"")].concat())
                .unwrap();
            let (send, answered) = mpsc::channel();
            let function = move |incoming: Incoming<'_>, id| {
                let hub = incoming.hub();
                if id == asking {
                    far.write_all(&frame(0x8000_0000, b"")).unwrap();
                } else if id > asking {
                    // It must not get here. If it does, it must not wait for more, either.
                    far.shutdown(Shutdown::Write).unwrap();
                }
                incoming.run(|| {
                    tick();
                    if id == asking {
                        read_if_asked();
                    }
                });
                hub.fail(id, &Failure::Unanswered);
                send.send(id).unwrap();
            };
            let mut bodies = vec![Body::Returning(Box::new(function))];
            let stop = answer(server, &mut bodies, Options::default());
            assert!(matches!(stop, Err(Stop::Error(error)) if error.contains("0x80000000")));
            drop(bodies);
            assert!(answered.iter().eq(1..=asking), "asking {asking}");
        }
    }
}

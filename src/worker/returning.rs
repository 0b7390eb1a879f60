//! Serves a returning function, one call at a time: read, call, write. If more whole requests have
//! been read, a call's answer is left to the flusher, and the next call begins.

use super::calls::CallLimits;
use super::hub::{Hub, WritePolicy};
use super::panics;
use super::returning_child::{Incoming, RequestPayload, ReturningChild};
use super::server::{Server, Stop};
use super::session::Step;
use crate::sys::coarse_clock;

/// Runs the function with a request, and answers the call of this id.
pub(super) type ReturningFn = dyn FnMut(Incoming<'_>, u32);

/// Answers requests until they end, each before the next is begun.
pub(super) fn answer(
    server: Server,
    function: &mut ReturningFn,
    high_water: usize,
) -> Result<(), Stop> {
    let hub = server.hub;
    hub.set_limits(CallLimits {
        running: 1,
        high_water,
    });
    let mut child = ReturningChild::new(server);
    loop {
        // A panic ends one call only. The others need no guard of their own.
        match panics::catch(|| answer_small(&mut child, function)) {
            Ok(result) => result?,
            // The call has failed, as its caller was dropped.
            Err(_) => {
                check_parent(hub, false)?;
                read_ahead_if_due(&mut child, function)?;
                continue;
            }
        }
        match child
            .server
            .session
            .next(|id| hub.is_running(id))
            .map_err(Stop::protocol)?
        {
            None => {
                if !child.server.read()? {
                    // Nothing may be left to the flusher.
                    hub.flush();
                    return check_parent(hub, false);
                }
                child.has_read();
            }
            Some(Step::Request { id, payload }) => {
                let payload = RequestPayload::Owned(payload.into_small());
                begin(hub, id);
                call_guarded(function, &mut child, payload, id, false)?;
                read_ahead_if_due(&mut child, function)?;
            }
            Some(Step::Cancel { id }) => hub.cancel(id),
            Some(Step::Setup { .. } | Step::Run(_)) => {
                unreachable!("the session refuses these after `run`")
            }
        }
    }
}

/// Begins a call. No other call runs or waits.
fn begin(hub: &Hub, id: u32) {
    let begins = hub.begin(id);
    debug_assert_eq!(begins, Ok(true), "no other call runs or waits");
}

/// Answers the small requests that come next.
fn answer_small(child: &mut ReturningChild, function: &mut ReturningFn) -> Result<(), Stop> {
    let hub = child.server.hub;
    while let Some((id, at)) = child.server.session.request_at() {
        let more = child.server.session.has_more();
        begin(hub, id);
        call(function, child, RequestPayload::At(at), id, more);
        check_parent(hub, more)?;
        read_ahead_if_due(child, function)?;
    }
    Ok(())
}

/// Reads ahead if the clock has ticked since the last read. Among the requests that have come there may
/// be cancellations of others; but reading is a system call, too much for each of thousands of short
/// calls.
#[inline]
fn read_ahead_if_due(child: &mut ReturningChild, function: &mut ReturningFn) -> Result<(), Stop> {
    if child.is_read_due() {
        read_ahead(child, function)?;
        child.has_read();
    }
    Ok(())
}

/// Answers everything that has come, having read what cancellations there are before each call.
fn read_ahead(child: &mut ReturningChild, function: &mut ReturningFn) -> Result<(), Stop> {
    let hub = child.server.hub;
    child.check()?;
    if hub.is_broken() {
        return Err(Stop::cannot_write(hub));
    }
    let mut may_read = true;
    loop {
        child.take_steps()?;
        // One read each time: if everything were read here, short calls would never be answered in
        // the faster way again.
        if may_read && child.read_once()? {
            may_read = false;
            continue;
        }
        may_read = true;
        let started = coarse_clock();
        loop {
            let Some((id, request, more)) = hub.next_request() else {
                return Ok(());
            };
            call_guarded(function, child, RequestPayload::Owned(request), id, more)?;
            child.check()?;
            if started != coarse_clock() {
                break;
            }
        }
    }
}

/// Answers one call, even if the function panics.
fn call_guarded(
    function: &mut ReturningFn,
    child: &mut ReturningChild,
    payload: RequestPayload,
    id: u32,
    more: bool,
) -> Result<(), Stop> {
    let hub = child.server.hub;
    // After a panic the call has failed, as its caller was dropped.
    let _ = panics::catch(|| call(function, child, payload, id, more));
    check_parent(hub, more)
}

/// Runs one call. With `more`, the next one begins as soon as it is answered.
fn call(
    function: &mut ReturningFn,
    child: &mut ReturningChild,
    payload: RequestPayload,
    id: u32,
    more: bool,
) {
    let policy = if more {
        WritePolicy::Call
    } else {
        WritePolicy::LastCall
    };
    policy.set();
    function(Incoming { child, payload }, id);
}

/// After a call: stops if the parent is gone.
fn check_parent(hub: &Hub, more: bool) -> Result<(), Stop> {
    // With more to do it is found a little later, and costs less.
    if !more && hub.is_broken() {
        return Err(Stop::cannot_write(hub));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Failure;
    use crate::worker::returning_child::read_if_asked;
    use crate::worker::returning_child::tests::{frame, server};
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
            let mut function = move |incoming: Incoming<'_>, id| {
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
            let stop = answer(server, &mut function, 1 << 20);
            assert!(matches!(stop, Err(Stop::Error(error)) if error.contains("0x80000000")));
            drop(function);
            assert!(answered.iter().eq(1..=asking), "asking {asking}");
        }
    }
}

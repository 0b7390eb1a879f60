//! Serves a returning function, one call at a time: read, call, write. If more whole requests have
//! been read, a call's answer is left to the flusher, and the next call begins.

use super::calls::CallLimits;
use super::hub::{Hub, WritePolicy};
use super::panics;
use super::server::{Server, Stop};
use super::session::{ParentViolation, Step};
use crate::codec::Input;
use crate::sys::{CoarseTime, coarse_clock};

/// Runs the function with a request, and answers the call of this id.
pub(super) type ReturningFn = dyn FnMut(Input<'_>, &'static Hub, u32);

/// Answers requests until they end, each before the next is begun.
pub(super) fn answer(
    mut server: Server,
    function: &mut ReturningFn,
    high_water: usize,
) -> Result<(), Stop> {
    server.hub.set_limits(CallLimits {
        running: 1,
        high_water,
    });
    let mut read_at = coarse_clock();
    loop {
        // A panic ends one call only. The others need no guard of their own.
        match panics::catch(|| answer_small(&mut server, function, &mut read_at)) {
            Ok(result) => result?,
            // The call has failed, as its caller was dropped.
            Err(_) => {
                check_parent(server.hub, false)?;
                read_ahead_if_due(&mut server, function, &mut read_at)?;
                continue;
            }
        }
        match server.session.next().map_err(Stop::protocol)? {
            None => {
                if !server.read()? {
                    // Nothing may be left to the flusher.
                    server.hub.flush();
                    return check_parent(server.hub, false);
                }
                read_at = coarse_clock();
            }
            Some(Step::Request { id, payload }) => {
                begin(server.hub, id);
                call_guarded(function, payload, server.hub, id, false)?;
                read_ahead_if_due(&mut server, function, &mut read_at)?;
            }
            Some(Step::Cancel { id }) => server.hub.cancel(id),
            Some(Step::Setup { .. } | Step::Run(_)) => {
                unreachable!("the session refuses these after `run`")
            }
        }
    }
}

/// Begins a call. No other call runs or waits.
#[inline]
fn begin(hub: &Hub, id: u32) {
    let begins = hub.begin(id);
    debug_assert_eq!(begins, Ok(true), "no other call runs or waits");
}

/// Answers the small requests that come next.
fn answer_small(
    server: &mut Server,
    function: &mut ReturningFn,
    read_at: &mut CoarseTime,
) -> Result<(), Stop> {
    let hub = server.hub;
    while let Some(request) = server.session.request() {
        let (id, more) = (request.id, request.has_more());
        begin(hub, id);
        call(function, request.payload.into(), hub, id, more);
        check_parent(hub, more)?;
        read_ahead_if_due(server, function, read_at)?;
    }
    Ok(())
}

/// Reads ahead if the clock has ticked since the last read. Among the requests that have come there may
/// be cancellations of others; but reading is a system call, too much for each of thousands of short
/// calls.
#[inline(always)]
fn read_ahead_if_due(
    server: &mut Server,
    function: &mut ReturningFn,
    read_at: &mut CoarseTime,
) -> Result<(), Stop> {
    if *read_at != coarse_clock() {
        read_ahead(server, function)?;
        *read_at = coarse_clock();
    }
    Ok(())
}

/// Answers everything that has come, having read what cancellations there are before each call.
fn read_ahead(server: &mut Server, function: &mut ReturningFn) -> Result<(), Stop> {
    if server.hub.is_broken() {
        return Err(Stop::cannot_write(server.hub));
    }
    let mut may_read = true;
    loop {
        while let Some(step) = server.session.next().map_err(Stop::protocol)? {
            match step {
                Step::Request { id, payload } => {
                    let queued = server.hub.queue(id, payload);
                    queued.map_err(|_| Stop::protocol(ParentViolation::Duplicate { id }))?;
                }
                Step::Cancel { id } => server.hub.cancel(id),
                Step::Setup { .. } | Step::Run(_) => {
                    unreachable!("the session refuses these after `run`")
                }
            }
        }
        // One read each time: if everything were read here, short calls would never be answered in
        // the faster way again.
        if may_read && server.requests.is_socket() && server.hub.wants_requests() {
            may_read = false;
            let read = server
                .requests
                .try_read(&mut server.session)
                .map_err(Stop::connection)?;
            // The end of the requests is found again when none are left.
            if let Some(n @ 1..) = read {
                server.after_read(n)?;
                continue;
            }
        }
        may_read = true;
        let started = coarse_clock();
        loop {
            let Some((id, request, more)) = server.hub.next_request() else {
                return Ok(());
            };
            call_guarded(function, Input::from(request), server.hub, id, more)?;
            if started != coarse_clock() {
                break;
            }
        }
    }
}

/// Answers one call, even if the function panics.
fn call_guarded(
    function: &mut ReturningFn,
    request: Input<'_>,
    hub: &'static Hub,
    id: u32,
    more: bool,
) -> Result<(), Stop> {
    // After a panic the call has failed, as its caller was dropped.
    let _ = panics::catch(|| call(function, request, hub, id, more));
    check_parent(hub, more)
}

/// Runs one call. With `more`, the next one begins as soon as it is answered.
#[inline]
fn call(function: &mut ReturningFn, request: Input<'_>, hub: &'static Hub, id: u32, more: bool) {
    let policy = if more {
        WritePolicy::Call
    } else {
        WritePolicy::LastCall
    };
    policy.set();
    function(request, hub, id);
}

/// After a call: stops if the parent is gone.
fn check_parent(hub: &Hub, more: bool) -> Result<(), Stop> {
    // With more to do it is found a little later, and costs less.
    if !more && hub.is_broken() {
        return Err(Stop::cannot_write(hub));
    }
    Ok(())
}

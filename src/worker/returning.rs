//! A child that does one thing at a time: read, call, write. Where more requests have come whole, a
//! call's answer is left to the flusher, and the next one begins.

use super::calls::CallLimits;
use super::hub::Hub;
use super::output::WritePolicy;
use super::panics;
use super::serve::{Server, Stop, broken, io_error, parent_gone};
use super::session::{ParentViolation, Step};
use super::table;
use crate::codec::Input;
use crate::sys::{CoarseTime, coarse_clock};

/// Answers requests, one at a time, each before the next is begun, until they end.
pub(super) fn answer(
    mut server: Server,
    function: &mut table::ReturningFn,
    high_water: usize,
) -> Result<(), Stop> {
    server.hub.set_limits(CallLimits {
        running: 1,
        high_water,
    });
    let mut looked = coarse_clock();
    loop {
        // A panic ends one call only. The others need no guard of their own.
        match panics::catch(|| answer_short(&mut server, function, &mut looked)) {
            Ok(result) => result?,
            // Its caller was dropped, which has failed the call.
            Err(_) => {
                has_run(server.hub, false)?;
                look(&mut server, function, &mut looked)?;
                continue;
            }
        }
        match server.session.next().map_err(broken)? {
            None => {
                if !server.read()? {
                    // Nothing may be left to be written soon.
                    return if server.hub.flush() {
                        Ok(())
                    } else {
                        Err(parent_gone())
                    };
                }
                looked = coarse_clock();
            }
            Some(Step::Request { id, payload }) => {
                begin(server.hub, id);
                call(function, payload, server.hub, id, false)?;
                look(&mut server, function, &mut looked)?;
            }
            Some(Step::Cancel { id }) => server.hub.cancel(id),
            Some(Step::Setup { .. } | Step::Run(_)) => {
                unreachable!("the session refuses what is too late")
            }
        }
    }
}

/// Begins a call, where no other one runs or waits.
#[inline]
fn begin(hub: &Hub, id: u32) {
    let begins = hub.begin(id);
    debug_assert_eq!(begins, Ok(true), "no other call runs or waits");
}

/// Answers the short requests that come next.
fn answer_short(
    server: &mut Server,
    function: &mut table::ReturningFn,
    looked: &mut CoarseTime,
) -> Result<(), Stop> {
    let hub = server.hub;
    while let Some(request) = server.session.request() {
        let (id, more) = (request.id, request.has_more());
        begin(hub, id);
        run(function, request.payload.into(), hub, id, more);
        has_run(hub, more)?;
        look(server, function, looked)?;
    }
    Ok(())
}

/// Looks ahead, if time has passed since it was done. Among the requests that have come there may be
/// cancelled ones; but to look costs a system call: not for every one of thousands of short calls.
#[inline(always)]
fn look(
    server: &mut Server,
    function: &mut table::ReturningFn,
    looked: &mut CoarseTime,
) -> Result<(), Stop> {
    if *looked != coarse_clock() {
        look_ahead(server, function)?;
        *looked = coarse_clock();
    }
    Ok(())
}

/// Answers everything that has come, having looked through it for cancelled calls before each.
fn look_ahead(server: &mut Server, function: &mut table::ReturningFn) -> Result<(), Stop> {
    if server.hub.is_broken() {
        return Err(parent_gone());
    }
    let mut may_read = true;
    loop {
        while let Some(step) = server.session.next().map_err(broken)? {
            match step {
                Step::Request { id, payload } => {
                    let queued = server.hub.queue(id, payload);
                    queued.map_err(|_| broken(ParentViolation::Duplicate { id }))?;
                }
                Step::Cancel { id } => server.hub.cancel(id),
                Step::Setup { .. } | Step::Run(_) => {
                    unreachable!("the session refuses what is too late")
                }
            }
        }
        // One read for each look: to read all there is would make this the only way that short calls
        // ever take, and it is not the shortest.
        if may_read && server.requests.is_socket() && server.hub.wants_requests() {
            may_read = false;
            let read = server
                .requests
                .try_read(&mut server.session)
                .map_err(io_error)?;
            // That the requests have ended is found again when there are none left.
            if let Some(n @ 1..) = read {
                server.has_read(n)?;
                continue;
            }
        }
        may_read = true;
        let looked = coarse_clock();
        loop {
            let Some((id, request, more)) = server.hub.next() else {
                return Ok(());
            };
            call(function, Input::from(request), server.hub, id, more)?;
            if looked != coarse_clock() {
                break;
            }
        }
    }
}

/// Answers one call, whatever the function does.
fn call(
    function: &mut table::ReturningFn,
    request: Input<'_>,
    hub: &'static Hub,
    id: u32,
    more: bool,
) -> Result<(), Stop> {
    // A panic has failed the call by now, as its caller was dropped.
    let _ = panics::catch(|| run(function, request, hub, id, more));
    has_run(hub, more)
}

/// Runs one call. With `more`, the next one will begin as soon as it is answered.
#[inline]
fn run(
    function: &mut table::ReturningFn,
    request: Input<'_>,
    hub: &'static Hub,
    id: u32,
    more: bool,
) {
    let pace = if more {
        WritePolicy::Call
    } else {
        WritePolicy::LastCall
    };
    pace.set();
    function(request, hub, id);
}

/// A call has run.
fn has_run(hub: &Hub, more: bool) -> Result<(), Stop> {
    // With more to do it is found a little later, and costs less.
    if !more && hub.is_broken() {
        return Err(parent_gone());
    }
    Ok(())
}

//! A child that does one thing at a time: read, call, write. Where more requests have come whole, a
//! call's answer is left to the flusher, and the next one begins.

use super::hub::Hub;
use super::ledger::Limits;
use super::output::Pace;
use super::panics;
use super::serve::{Child, Stop, broken, io_error, parent_gone};
use super::session::{Step, Violation};
use super::table;
use crate::codec::Input;
use crate::sys::{CoarseTime, coarse_clock};

/// Answers requests, one at a time, each before the next is begun, until they end.
pub(super) fn answer(
    mut child: Child,
    function: &mut table::Sync,
    high_water: usize,
) -> Result<(), Stop> {
    child.hub.set_limits(Limits {
        running: 1,
        high_water,
    });
    let mut looked = coarse_clock();
    loop {
        // A panic ends one call only. The others need no guard of their own.
        match panics::catch(|| answer_short(&mut child, function, &mut looked)) {
            Ok(result) => result?,
            // Its caller was dropped, which has failed the call.
            Err(_) => {
                has_run(child.hub, false)?;
                look(&mut child, function, &mut looked)?;
                continue;
            }
        }
        match child.session.next().map_err(broken)? {
            None => {
                if !child.read()? {
                    // Nothing may be left to be written soon.
                    return if child.hub.flush() {
                        Ok(())
                    } else {
                        Err(parent_gone())
                    };
                }
                looked = coarse_clock();
            }
            Some(Step::Request { id, payload }) => {
                begin(child.hub, id);
                call(function, payload, child.hub, id, false)?;
                look(&mut child, function, &mut looked)?;
            }
            Some(Step::Cancel { id }) => child.hub.cancel(id),
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
    child: &mut Child,
    function: &mut table::Sync,
    looked: &mut CoarseTime,
) -> Result<(), Stop> {
    let hub = child.hub;
    while let Some(request) = child.session.request() {
        let (id, more) = (request.id, request.has_more());
        begin(hub, id);
        run(function, request.payload.into(), hub, id, more);
        has_run(hub, more)?;
        look(child, function, looked)?;
    }
    Ok(())
}

/// Looks ahead, if time has passed since it was done. Among the requests that have come there may be
/// cancelled ones; but to look costs a system call: not for every one of thousands of short calls.
#[inline(always)]
fn look(
    child: &mut Child,
    function: &mut table::Sync,
    looked: &mut CoarseTime,
) -> Result<(), Stop> {
    if *looked != coarse_clock() {
        look_ahead(child, function)?;
        *looked = coarse_clock();
    }
    Ok(())
}

/// Answers everything that has come, having looked through it for cancelled calls before each.
fn look_ahead(child: &mut Child, function: &mut table::Sync) -> Result<(), Stop> {
    if child.hub.is_broken() {
        return Err(parent_gone());
    }
    let mut may_read = true;
    loop {
        while let Some(step) = child.session.next().map_err(broken)? {
            match step {
                Step::Request { id, payload } => {
                    let queued = child.hub.queue(id, payload);
                    queued.map_err(|_| broken(Violation::Duplicate { id }))?;
                }
                Step::Cancel { id } => child.hub.cancel(id),
                Step::Setup { .. } | Step::Run(_) => {
                    unreachable!("the session refuses what is too late")
                }
            }
        }
        // One read for each look: to read all there is would make this the only way that short calls
        // ever take, and it is not the shortest.
        if may_read && child.inlet.is_socket() && child.hub.wants_requests() {
            may_read = false;
            let read = child.inlet.try_read(&mut child.session).map_err(io_error)?;
            // That the requests have ended is found again when there are none left.
            if let Some(n @ 1..) = read {
                child.has_read(n)?;
                continue;
            }
        }
        may_read = true;
        let looked = coarse_clock();
        loop {
            let Some((id, request, more)) = child.hub.next() else {
                return Ok(());
            };
            call(function, Input::from(request), child.hub, id, more)?;
            if looked != coarse_clock() {
                break;
            }
        }
    }
}

/// Answers one call, whatever the function does.
fn call(
    function: &mut table::Sync,
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
fn run(function: &mut table::Sync, request: Input<'_>, hub: &'static Hub, id: u32, more: bool) {
    let pace = if more { Pace::Call } else { Pace::LastCall };
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

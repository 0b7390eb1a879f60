//! A child that serves a returning function, and what it does about requests that come while the
//! function runs: they are read at most once per tick of the coarse clock, and only if the function
//! asks whether its call is cancelled.

use super::hub::Hub;
use super::server::{Server, Stop};
use super::session::{ParentViolation, Step};
use crate::codec::Input;
use crate::sys::{CoarseTime, Lent, coarse_clock};
use crate::wire::SmallBytes;
use std::ops::Range;

/// How often the connection is read when a function asks.
const READS: usize = 16;

thread_local! {
    /// The child whose function runs on this thread.
    static CHILD: Lent<ReturningChild> = const { Lent::new() };
}

/// See the module's documentation.
pub(super) struct ReturningChild {
    pub(super) server: Server,
    /// When it last read between two calls.
    read_at: CoarseTime,
    /// When it last read because a function asked. Not `read_at`: what it has read then is still to be
    /// answered after the call.
    asked_at: CoarseTime,
    /// Why it stops after the call that runs.
    stop: Option<Stop>,
}

/// A request that is about to be answered. It is decoded first, and then its function runs.
pub(super) struct Incoming<'a> {
    pub(super) child: &'a mut ReturningChild,
    pub(super) payload: RequestPayload,
}

/// Where the payload of a request is.
pub(super) enum RequestPayload {
    /// In the session's buffer.
    At(Range<usize>),
    Owned(SmallBytes),
}

impl Incoming<'_> {
    pub(super) fn hub(&self) -> &'static Hub {
        self.child.server.hub
    }

    /// The payload, once.
    #[inline]
    pub(super) fn payload(&mut self) -> Input<'_> {
        match std::mem::replace(&mut self.payload, RequestPayload::At(0..0)) {
            RequestPayload::At(at) => Input::from(self.child.server.session.bytes(at)),
            RequestPayload::Owned(bytes) => Input::from(bytes),
        }
    }

    /// The payload, once, in a place of its own.
    pub(super) fn take_payload(&mut self) -> Input<'static> {
        Input::from(self.payload().into_small())
    }

    /// Runs the function. Meanwhile [`read_if_asked`] reads.
    #[inline]
    pub(super) fn run<R>(self, function: impl FnOnce() -> R) -> R {
        CHILD.with(|lent| lent.lend(self.child, function))
    }
}

/// Reads what has come while a function runs on this thread: its call may have been cancelled. Does
/// nothing on other threads, and most of the time.
pub(super) fn read_if_asked() {
    CHILD.with(|lent| lent.with(|child| child.read_if_due(coarse_clock())));
}

impl ReturningChild {
    pub(super) fn new(server: Server) -> Self {
        let now = coarse_clock();
        ReturningChild {
            server,
            read_at: now,
            asked_at: now,
            stop: None,
        }
    }

    /// It has just read.
    pub(super) fn has_read(&mut self) {
        self.read_at = coarse_clock();
    }

    /// Whether the clock has ticked since it last read.
    pub(super) fn is_read_due(&self) -> bool {
        self.read_at != coarse_clock()
    }

    fn read_if_due(&mut self, now: CoarseTime) {
        // If it were not due after the call, nothing would take what is queued here.
        let due = now != self.read_at && now != self.asked_at;
        // Plain peers cancel nothing.
        if due && self.stop.is_none() && self.server.hub.plain().is_none() {
            self.asked_at = now;
            self.server.hub.set_main_call_aside();
            self.stop = self.read_ahead().err();
        }
    }

    fn read_ahead(&mut self) -> Result<(), Stop> {
        self.take_steps()?;
        for _ in 0..READS {
            if !self.read_once()? {
                break;
            }
            self.take_steps()?;
        }
        Ok(())
    }

    /// Reads what has come, if more may be taken. Returns whether something had.
    pub(super) fn read_once(&mut self) -> Result<bool, Stop> {
        let server = &mut self.server;
        if !server.requests.is_socket() || !server.hub.wants_requests() {
            return Ok(false);
        }
        let read = server.requests.try_read(&mut server.session);
        match read.map_err(Stop::connection)? {
            Some(n @ 1..) => server.after_read(n),
            // The end of the requests is found again when none are left.
            Some(0) | None => Ok(false),
        }
    }

    /// Queues the requests that were read, and cancels what is cancelled among them.
    pub(super) fn take_steps(&mut self) -> Result<(), Stop> {
        let Server { session, hub, .. } = &mut self.server;
        while let Some(step) = session
            .next(|id| hub.is_running(id))
            .map_err(Stop::protocol)?
        {
            match step {
                Step::Request { id, payload } => {
                    let queued = hub.queue(id, payload);
                    queued.map_err(|_| Stop::protocol(ParentViolation::Duplicate { id }))?;
                }
                Step::Cancel { id } => hub.cancel(id),
                Step::Setup { .. } | Step::Run(_) => {
                    unreachable!("the session refuses these after `run`")
                }
            }
        }
        Ok(())
    }

    /// Stops if something that was read during a call is a reason to.
    pub(super) fn check(&mut self) -> Result<(), Stop> {
        match self.stop.take() {
            Some(stop) => Err(stop),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::wire::{self, Failure, Framing, FunctionId, Run, ToChild};
    use crate::worker::calls::CallLimits;
    use crate::worker::request_reader::RequestReader;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    pub(in crate::worker) fn frame(id: u32, payload: &[u8]) -> Vec<u8> {
        let (header, n) = wire::header(Framing::Tagged, id, payload.len() as u32);
        [&header[..n], payload].concat()
    }

    /// A child that is about to run call 1, and its parent's end.
    fn child() -> (ReturningChild, UnixStream) {
        let (server, far) = server();
        (ReturningChild::new(server), far)
    }

    /// A child that has read call 1, and its parent's end.
    pub(in crate::worker) fn server() -> (Server, UnixStream) {
        let (near, mut far) = UnixStream::pair().unwrap();
        let input = near.try_clone().unwrap().into();
        let requests = RequestReader::new(input, None).unwrap();
        let mut server = Server::new(None, requests, near.into(), None);
        server.hub.set_limits(CallLimits {
            running: 1,
            high_water: 1 << 20,
        });
        let run = ToChild::Run(Run {
            protocol: wire::VERSION,
            function: FunctionId {
                name: "f",
                version: 0,
                codec: "c",
            },
            max_frame: 1 << 20,
            buflen: 64,
        });
        let start = [
            frame(wire::CONTROL_TO_CHILD, &run.encode()),
            frame(1, b"one"),
        ];
        far.write_all(&start.concat()).unwrap();
        assert!(server.read().unwrap());
        assert!(matches!(
            server.session.next(|_| false),
            Ok(Some(Step::Run(_)))
        ));
        server.session.serve(64, 1 << 20);
        (server, far)
    }

    /// Runs call 1, whose function does this, and answers it.
    fn run<R>(child: &mut ReturningChild, function: impl FnOnce(&'static Hub) -> R) -> R {
        let hub = child.server.hub;
        let (id, at) = child.server.session.request_at().unwrap();
        assert_eq!((id, hub.begin(id)), (1, Ok(true)));
        let payload = RequestPayload::At(at);
        let mut incoming = Incoming { child, payload };
        assert_eq!(*incoming.payload(), *b"one");
        let result = incoming.run(|| function(hub));
        hub.fail(id, &Failure::Unanswered);
        result
    }

    fn become_due(child: &mut ReturningChild) {
        (child.read_at, child.asked_at) = (CoarseTime(0, 0), CoarseTime(0, 0));
    }

    fn cancel(id: u32) -> Vec<u8> {
        frame(wire::CONTROL_TO_CHILD, &ToChild::Cancel { id }.encode())
    }

    #[test]
    fn function_that_asks_finds_out_and_what_else_has_come_waits() {
        let (mut child, mut far) = child();
        far.write_all(&[frame(2, b"two"), frame(3, b""), cancel(3), cancel(1)].concat())
            .unwrap();
        become_due(&mut child);
        run(&mut child, |hub| {
            assert!(!hub.is_cancelled(1), "it has not asked");
            read_if_asked();
            assert!(hub.is_cancelled(1));
            assert!(hub.next_request().is_none(), "one at a time");
        });
        assert!(child.is_read_due(), "or nothing would take what waits");
        let hub = child.server.hub;
        assert!(!hub.is_cancelled(1));
        let (id, payload, more) = hub.next_request().unwrap();
        assert_eq!((id, &*payload, more), (2, &b"two"[..], false));
        assert!(child.check().is_ok());
    }

    #[test]
    fn it_reads_once_per_tick_and_only_while_its_function_runs() {
        let (mut child, mut far) = child();
        become_due(&mut child);
        far.write_all(&frame(2, b"")).unwrap();
        read_if_asked();
        run(&mut child, |_| {});
        let hub = child.server.hub;
        assert!(hub.next_request().is_none(), "nobody has asked");
        for (tick, reads) in [(0, false), (1, true), (1, false), (2, true)] {
            child.read_if_due(CoarseTime(tick, 0));
            assert_eq!(hub.next_request().is_some(), reads, "tick {tick}");
            hub.fail(2, &Failure::Unanswered);
            if reads {
                far.write_all(&frame(2, b"")).unwrap();
            }
        }
    }

    #[test]
    fn violation_stops_the_child_after_the_call() {
        let (mut child, mut far) = child();
        far.write_all(&[frame(2, b""), frame(0x8000_0000, b"")].concat())
            .unwrap();
        become_due(&mut child);
        run(&mut child, |_| read_if_asked());
        assert!(child.check().is_err());
    }
}

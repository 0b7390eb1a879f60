//! What a child reads while a function runs on its main thread: what has come, at most once per tick of the
//! coarse clock, if the function wants to know whether its call is cancelled; and all that comes, while it
//! waits for the answer to an ask. Requests that come meanwhile are kept.

use super::ask::AskSlot;
use super::hub::AskEnd;
use super::server::{Server, Stop};
use super::session::{ParentViolation, Step};
use crate::codec::Input;
use crate::sys::{CoarseTime, Lent, coarse_clock};
use crate::wire::SmallBytes;
use crate::worker::hub::Hub;
use std::ops::Range;
use std::time::Instant;

/// How often the connection is read when a function asks.
const READS: usize = 16;

thread_local! {
    /// The child whose function runs on this thread.
    static SERVER: Lent<Server> = const { Lent::new() };
}

/// When a child has read, and what came of it.
#[derive(Debug)]
pub(super) struct ReadAhead {
    /// When it last read between two calls.
    read_at: CoarseTime,
    /// When it last read because a function asked. Not `read_at`: what it has read then is still to be
    /// answered after the call.
    asked_at: CoarseTime,
    /// Whether it has queued requests since it last read between two calls.
    has_queued: bool,
    /// Why it stops after the call that runs.
    stop: Option<Stop>,
}

impl ReadAhead {
    pub(super) fn new() -> Self {
        let now = coarse_clock();
        ReadAhead {
            read_at: now,
            asked_at: now,
            has_queued: false,
            stop: None,
        }
    }
}

/// A request that is about to be answered. It is decoded first, and then its function runs.
pub(super) struct Incoming<'a> {
    pub(super) server: &'a mut Server,
    pub(super) payload: RequestPayload,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is a request, which was queued.
    Queued,
    /// It was something else.
    Done,
}

/// Where the payload of a request is.
pub(super) enum RequestPayload {
    /// In the session's buffer.
    At(Range<usize>),
    Owned(SmallBytes),
}

impl Incoming<'_> {
    pub(super) fn hub(&self) -> &'static Hub {
        self.server.hub
    }

    /// The payload, once.
    #[inline]
    pub(super) fn payload(&mut self) -> Input<'_> {
        match std::mem::replace(&mut self.payload, RequestPayload::At(0..0)) {
            RequestPayload::At(at) => Input::from(self.server.session.bytes(at)),
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
        SERVER.with(|lent| lent.lend(self.server, function))
    }
}

/// Whether this thread can [wait](wait_here) for the answer to an ask: a function runs on it.
pub(super) fn may_wait_here() -> bool {
    SERVER.with(Lent::is_lent)
}

/// Waits for the end of an ask until `deadline`, and reads meanwhile: what else comes is kept.
pub(super) fn wait_here(slot: &AskSlot, deadline: Option<Instant>) -> Option<AskEnd> {
    SERVER.with(|lent| lent.with(|server| server.read_for_ask(slot, deadline))?)
}

/// Reads what has come while a function runs on this thread: its call may have been cancelled. Does
/// nothing on other threads, and most of the time.
pub(super) fn read_if_asked() {
    SERVER.with(|lent| lent.with(|server| server.read_if_due(coarse_clock())));
}

impl Server {
    /// It has just read.
    pub(super) fn has_read(&mut self) {
        self.ahead.read_at = coarse_clock();
        self.ahead.has_queued = false;
    }

    /// Whether the clock has ticked since it last read, or a function has had it read.
    pub(super) fn is_read_due(&self) -> bool {
        self.ahead.has_queued || self.ahead.read_at != coarse_clock()
    }

    /// Whether it has queued requests since it last read between two calls.
    pub(super) fn has_queued(&self) -> bool {
        self.ahead.has_queued
    }

    fn read_if_due(&mut self, now: CoarseTime) {
        let ahead = &mut self.ahead;
        let due = now != ahead.read_at && now != ahead.asked_at;
        // Plain peers cancel nothing.
        if due && ahead.stop.is_none() && self.hub.plain().is_none() {
            ahead.asked_at = now;
            self.hub.set_main_call_aside();
            self.ahead.stop = self.read_ahead().err();
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
        if !self.requests.is_socket() || !self.hub.wants_requests() {
            return Ok(false);
        }
        let read = self.requests.try_read(&mut self.session);
        match read.map_err(Stop::connection)? {
            Some(n @ 1..) => self.after_read(n),
            // The end of the requests is found again when none are left.
            Some(0) | None => Ok(false),
        }
    }

    /// Queues the requests that were read, and does what else was.
    pub(super) fn take_steps(&mut self) -> Result<(), Stop> {
        let mut queued = false;
        while let Some(taken) = self.take_step()? {
            queued |= taken == Taken::Queued;
        }
        if queued {
            self.ahead.has_queued = true;
            self.start_threads()?;
        }
        Ok(())
    }

    /// Queues the request that was read, or does what else was.
    pub(super) fn take_step(&mut self) -> Result<Option<Taken>, Stop> {
        let hub = self.hub;
        let step = self.session.next(|known| hub.is_open(known));
        let Some(step) = step.map_err(Stop::protocol)? else {
            return Ok(None);
        };
        match step {
            Step::Request { id, payload } => match self.functions.current() {
                Ok(function) => {
                    let queued = hub.queue(id, function, payload);
                    queued.map_err(|_| Stop::duplicate(id))?;
                    return Ok(Some(Taken::Queued));
                }
                Err(failure) => hub.fail(id, failure),
            },
            // Requests for one that there is not fail.
            Step::Function(function) => drop(self.functions.select(&function)),
            Step::Cancel { id } => hub.cancel(id),
            Step::Answer(answer, fds) => {
                let id = answer.id;
                let ended = hub.end_ask(answer, fds);
                ended.map_err(|_| Stop::protocol(ParentViolation::UnknownAsk { id }))?;
            }
            Step::Template { .. }
            | Step::Lifeline(_)
            | Step::Far
            | Step::Settings(_)
            | Step::Setup { .. }
            | Step::Run(_) => {
                unreachable!("the session refuses these after `run`")
            }
        }
        Ok(Some(Taken::Done))
    }

    /// Reads until an ask has ended, or `deadline` has passed.
    fn read_for_ask(&mut self, slot: &AskSlot, deadline: Option<Instant>) -> Option<AskEnd> {
        self.hub.set_main_call_aside();
        // How much is to be read of what had come when it was too late.
        let mut left = None;
        loop {
            if self.ahead.stop.is_none() {
                self.ahead.stop = self.take_steps().err();
            }
            if let Some(end) = slot.take() {
                return Some(end);
            }
            // What had come in time has been read, however much more comes.
            if left == Some(0) {
                return None;
            }
            if left.is_none() && deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                left = Some(self.requests.unread());
                continue;
            }
            let read = match self.ahead.stop {
                None => self.requests.read_by(&mut self.session, deadline),
                // Nothing more is read of a parent that breaks the protocol.
                Some(_) => Ok(Some(0)),
            };
            match read {
                Ok(Some(n @ 1..)) => left = left.map(|left| left.saturating_sub(n)),
                Ok(None) => left = left.map(|_| 0),
                // The end, which the main thread finds again.
                Ok(Some(0)) | Err(_) => self.hub.end_asks(),
            }
        }
    }

    /// Stops if something that was read during a call is a reason to.
    pub(super) fn check(&mut self) -> Result<(), Stop> {
        match self.ahead.stop.take() {
            Some(stop) => Err(stop),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::directory::{Directory, OF_CHILD};
    use crate::wire::{self, Failure, Framing, FunctionId, Run, ToChild};
    use crate::worker::calls::{CallLimits, Lane};
    use crate::worker::functions::Functions;
    use crate::worker::request_reader::RequestReader;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::Ordering::Relaxed;
    use std::thread;
    use std::time::Duration;

    pub(in crate::worker) fn frame(id: u32, payload: &[u8]) -> Vec<u8> {
        let (header, n) = wire::header(Framing::Tagged, id, payload.len() as u32);
        [&header[..n], payload].concat()
    }

    /// A child that has read call 1 of a returning function, and its parent's end.
    pub(in crate::worker) fn server() -> (Server, UnixStream) {
        let (near, mut far) = UnixStream::pair().unwrap();
        let input = near.try_clone().unwrap().into();
        let requests = RequestReader::new(input, None).unwrap();
        let mut directory = Directory::new("function", OF_CHILD);
        directory.add(FunctionId::octets("f"), Lane::Returning);
        let functions = Functions::new(directory);
        let mut server = Server::new(None, requests, near.into(), None, functions);
        server.hub.set_limits(CallLimits {
            deferred: 1,
            threaded: 1,
            high_water: 1 << 20,
        });
        let function = FunctionId::octets("f");
        server.functions.select(&function).unwrap();
        let run = ToChild::Run(Run {
            protocol: wire::VERSION,
            function,
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
    fn run<R>(server: &mut Server, function: impl FnOnce(&'static Hub) -> R) -> R {
        let hub = server.hub;
        let (id, at) = server.session.request_at().unwrap();
        assert_eq!((id, hub.begin(Lane::Returning, id)), (1, Ok(true)));
        let payload = RequestPayload::At(at);
        let mut incoming = Incoming { server, payload };
        assert_eq!(*incoming.payload(), *b"one");
        let result = incoming.run(|| function(hub));
        hub.fail(id, &Failure::Unanswered);
        result
    }

    fn become_due(server: &mut Server) {
        let ahead = &mut server.ahead;
        (ahead.read_at, ahead.asked_at) = (CoarseTime(0, 0), CoarseTime(0, 0));
    }

    fn cancel(id: u32) -> Vec<u8> {
        frame(wire::CONTROL_TO_CHILD, &ToChild::Cancel { id }.encode())
    }

    #[test]
    fn function_that_asks_finds_out_and_what_else_has_come_waits() {
        let (mut child, mut far) = server();
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
        let hub = child.hub;
        assert!(!hub.is_cancelled(1));
        let (lane, next, behind) = hub.next_request().unwrap();
        assert_eq!((lane, behind), (Lane::Returning, 0));
        assert_eq!((next.id, &*next.request), (2, &b"two"[..]));
        assert!(child.check().is_ok());
    }

    #[test]
    fn it_reads_once_per_tick_and_only_while_its_function_runs() {
        let (mut child, mut far) = server();
        become_due(&mut child);
        far.write_all(&frame(2, b"")).unwrap();
        read_if_asked();
        run(&mut child, |_| {});
        let hub = child.hub;
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
        let (mut child, mut far) = server();
        far.write_all(&[frame(2, b""), frame(0x8000_0000, b"")].concat())
            .unwrap();
        become_due(&mut child);
        run(&mut child, |_| read_if_asked());
        assert!(child.check().is_err());
    }

    /// A parent that sends without end keeps no ask from ending.
    #[test]
    fn wait_for_an_answer_ends_though_more_and_more_comes() {
        let (mut child, mut far) = server();
        let stop = Arc::new(AtomicBool::new(false));
        let writer = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let (frames, start) = (cancel(9).repeat(1000), Instant::now());
                // Not for ever, or the test would hang if it fails.
                while !stop.load(Relaxed) && start.elapsed() < Duration::from_secs(20) {
                    far.write_all(&frames).unwrap();
                }
                stop.load(Relaxed)
            }
        });
        run(&mut child, |_| {
            assert!(may_wait_here());
            let deadline = Instant::now() + Duration::from_millis(10);
            assert!(wait_here(&AskSlot::default(), Some(deadline)).is_none());
            stop.store(true, Relaxed);
            // The writer may be waiting for room.
            while wait_here(&AskSlot::default(), Some(Instant::now())).is_none()
                && !writer.is_finished()
            {}
        });
        assert!(writer.join().unwrap(), "it ended before the writer did");
    }
}

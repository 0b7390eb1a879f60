//! What the reactor does for one child: a dull loop of reading, writing, waiting and telling. What
//! any of it means is decided by [`Connection`](super::state) and [`Life`](super::life).

use super::link::{Exit, Link, ProgressCallback};
use super::reactor::{Source, guard, poll_key};
use super::reader::input;
use super::slot::{Answer, BorrowedAnswer, Completion, Ended, codec_panicked};
use super::state::{ChildViolation, Delivery};
use super::state::{Life, Signal, Verdict};
use crate::codec::{CodecError, Input};
use crate::error::{Error, ErrorKind, Refusal};
use crate::process::{Lines, StderrCallback, Tail};
use crate::sys::{self, ReadMode, Registration};
use crate::wire::{self, DecodeError, Decoder, Payload, ToParent};
use polling::Event;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

/// How often one descriptor is read before others have their turn.
const READS: usize = 16;
/// How many frames are looked up under one lock.
const FRAMES: usize = 4096;
/// How much of standard error is read at once.
const STDERR_READ: usize = 4 << 10;
/// How often the socket is read once the process has ended. Far more than a socket holds: what comes
/// after that is not from the child, and may never end.
const LAST_READS: usize = 10_000;
/// How often standard error is read once the process has ended: 1 MiB, which is as much as a pipe
/// holds. What comes after that is not from the child, and may never end.
const LAST_STDERR_READS: usize = (1 << 20) / STDERR_READ;

/// The program's callbacks, below the codec.
pub(super) struct Handlers {
    pub(super) on_event: Option<Box<dyn OnEvent>>,
    pub(super) on_error: Option<Box<dyn FnOnce(Error) + Send>>,
    pub(super) on_destroy: Option<Box<dyn FnOnce() + Send>>,
}

/// The program's `on_event`, below the codec.
pub(super) trait OnEvent: Send {
    /// Takes the payload of an event.
    fn event(&mut self, payload: Input<'_>) -> Result<(), CodecError>;

    /// Whether the codec is at work: if that is so after a panic, it was the codec's.
    fn is_decoding(&self) -> bool;

    /// Takes an error, as there is no `on_error`.
    fn error(&mut self, error: Error);
}

/// See the module's documentation.
pub(crate) struct Driver {
    link: Arc<Link>,
    handlers: Option<Handlers>,
    life: Life,
    /// Until the process has ended.
    process: Option<Registration>,
    stderr: Option<Capture>,
    tail: Tail,
    /// Frames of a read until they are delivered; the notes of the calls that they reply to; and what
    /// those are, in order, that have none. The first two are kept for their memory.
    frames: Vec<(u32, Payload)>,
    completions: Vec<Option<Completion>>,
    others: Vec<Delivery<Completion, ProgressCallback>>,
    deadline: Option<Instant>,
    over: bool,
}

/// The child's standard error, while it is open.
struct Capture {
    pipe: Registration,
    lines: Lines,
    callback: Option<StderrCallback>,
}

impl Driver {
    pub(super) fn new(
        link: Arc<Link>,
        handlers: Handlers,
        life: Life,
        stderr: Option<(OwnedFd, Option<StderrCallback>)>,
    ) -> io::Result<Self> {
        let register = |fd: &Arc<OwnedFd>, source| {
            let event = Event::readable(poll_key(link.key, source));
            Registration::new(&link.reactor.poller, fd, event)
        };
        link.register()?;
        let process = match link.child.as_ref().and_then(|child| child.pidfd()) {
            Some(pidfd) => Some(register(pidfd, Source::Process)?),
            None => None,
        };
        let stderr = match stderr {
            Some((pipe, callback)) => Some(Capture {
                pipe: register(&Arc::new(pipe), Source::Stdio)?,
                lines: Lines::default(),
                callback,
            }),
            None => None,
        };
        let mut driver = Driver {
            handlers: Some(handlers),
            life,
            process,
            stderr,
            tail: Tail::default(),
            frames: Vec::new(),
            completions: Vec::new(),
            others: Vec::new(),
            deadline: None,
            over: false,
            link,
        };
        if let (Some(child), None) = (&driver.link.child, &driver.process) {
            driver.life.exited(child.reap().flatten());
        }
        Ok(driver)
    }

    pub(super) fn key(&self) -> usize {
        self.link.key
    }

    /// When to [`attend`](Driver::attend), if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether the last callback has run: the driver is done with.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// The socket can be read or written.
    pub(super) fn socket_ready(&mut self, event: Event, now: Instant) {
        if event.readable {
            self.read(READS, now);
        }
        self.attend(now, event.writable);
    }

    /// The process has ended, or others say so.
    pub(super) fn process_ended(&mut self, now: Instant) {
        if self.process.is_none() {
            return;
        }
        let Some(status) = self.link.child.as_ref().and_then(|child| child.reap()) else {
            return;
        };
        self.process = None;
        self.life.exited(status);
        // What it wrote is all there now. Its own children may have the other ends open still, and
        // are not waited for: this is the end of the stream, for a caller, too, who reads.
        let _ = sys::shutdown(&*self.link.socket, Shutdown::Read);
        self.read(LAST_READS, now);
        self.read_stderr(LAST_STDERR_READS);
        self.close_stderr();
        self.attend(now, false);
    }

    /// Standard error can be read.
    pub(super) fn stderr_ready(&mut self, now: Instant) {
        self.read_stderr(READS);
        self.attend(now, false);
    }

    /// Writes, signals, and sees whether it is over.
    pub(super) fn attend(&mut self, now: Instant, room: bool) {
        let mut orders = self.link.attend(now, room);
        if orders.handed_off {
            self.read(READS, now);
            let more = self.link.attend(now, false);
            orders = orders.and_then(more);
        }
        if orders.ready {
            self.life.ready();
        }
        for (mut completion, phase) in orders.expired {
            guard(|| completion.tell(Answer::Ended(Ended::TimedOut(phase))));
        }
        drop_guarded(orders.done);
        if orders.close {
            self.life.close(now);
        }
        if orders.broken {
            self.life.unreachable(now);
        }
        if orders.stop {
            self.life.stop(now);
        }
        if orders.kill {
            self.life.kill(now);
        }
        while let Some(signal) = self.life.poll(now) {
            if let Some(child) = &self.link.child {
                child.signal(match signal {
                    Signal::Term => sys::SIGTERM,
                    Signal::Kill => sys::SIGKILL,
                });
            }
        }
        if !self.life.is_connected() {
            self.link.disconnect();
        }
        self.deadline = orders
            .deadline
            .into_iter()
            .chain(self.life.deadline())
            .min();
        if let Some(verdict) = self.life.verdict(orders.unanswered) {
            self.conclude(verdict);
        }
    }

    /// Reads what has come, at most `reads` times, unless a caller reads.
    fn read(&mut self, reads: usize, now: Instant) {
        if !self.life.is_connected() {
            return;
        }
        let Some(mut reader) = self.link.take_reader() else {
            return;
        };
        // What a caller left.
        self.deliver(&mut reader.decoder, now);
        for _ in 0..reads {
            if !self.life.is_connected() || !self.read_once(&mut reader.decoder, now) {
                break;
            }
        }
        self.link.give_reader_back(reader);
    }

    /// Reads once, and delivers it. Returns whether there may be more.
    fn read_once(&mut self, decoder: &mut Decoder, now: Instant) -> bool {
        let space = decoder.space();
        let room = space.room();
        let to = (space.buf, space.limit);
        match sys::receive(&*self.link.socket, to, space.behind, ReadMode::SocketNow) {
            Ok(n @ 1..) => {
                self.deliver(decoder, now);
                // If it was all, the poller will not say so again; at the end there is no poller.
                return n == room || self.process.is_none();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The child may have closed with requests unread: a reset.
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => {
                self.life.disconnected(Some(error), now);
            }
            Ok(_) | Err(_) => self.stream_ended(decoder, now),
        }
        false
    }

    fn stream_ended(&mut self, decoder: &Decoder, now: Instant) {
        match decoder.finish() {
            Ok(()) => self.life.disconnected(None, now),
            Err(error) => {
                let (kind, message) = Broken::Decode(error).describe(self.life.is_ready());
                self.life.cut(kind, message, now);
            }
        }
    }

    /// Delivers the frames that are in the buffer, in order: runs of events, for which nothing needs to
    /// be looked up, and runs of everything else, looked up under one lock and then told.
    fn deliver(&mut self, decoder: &mut Decoder, now: Instant) {
        loop {
            let offset = decoder.offset();
            let next = self.gather(decoder);
            let looked_up = self.look_up(decoder, offset, matches!(next, Ok(Some(_))));
            self.hand_over_batch(decoder, now);
            match (looked_up, next) {
                (Err(broken), _) => return self.broken(broken, now),
                (Ok(()), Err(error)) => return self.broken(Broken::Decode(error), now),
                (Ok(()), Ok(Some(event))) => self.hand_over_events(decoder, event, now),
                (Ok(()), Ok(None)) if decoder.offset() == offset => return,
                (Ok(()), Ok(None)) => {}
            }
        }
    }

    /// Takes frames out of the buffer, up to the next event, which is returned.
    fn gather(&mut self, decoder: &mut Decoder) -> Result<Option<Payload>, DecodeError> {
        self.frames.clear();
        while self.frames.len() < FRAMES {
            if let Some((id, at)) = decoder.next_if(|id| id != wire::EVENT) {
                self.frames.push((id, Payload::At(at)));
                continue;
            }
            match decoder.next()? {
                Some((wire::EVENT, payload)) => return Ok(Some(payload)),
                Some(frame) => self.frames.push(frame),
                None => break,
            }
        }
        Ok(None)
    }

    /// Looks up what the frames are that were gathered, the first of which was at `offset`.
    fn look_up(&mut self, decoder: &Decoder, offset: u64, event: bool) -> Result<(), Broken> {
        let Driver {
            link,
            frames,
            completions,
            others,
            life,
            ..
        } = self;
        if frames.is_empty() && life.is_ready() {
            return Ok(());
        }
        completions.resize_with(frames.len(), || None);
        let mut good = 0;
        let result = link.receive(|connection| {
            let mut result = Ok(());
            for ((id, payload), completion) in frames.iter().zip(completions) {
                match connection.receive_into(*id, decoder.payload(payload), completion) {
                    Ok(None) => {}
                    Ok(Some(other)) => others.push(other),
                    Err(violation) => {
                        result = Err(violation);
                        break;
                    }
                }
                good += 1;
            }
            if result.is_ok() && event && !connection.is_ready() {
                result = connection.receive(wire::EVENT, &[]).map(drop);
            }
            if connection.is_ready() {
                // A caller may have read that.
                life.ready();
            }
            result
        });
        result.map_err(|violation| {
            let before = frames[..good].iter();
            let before = before.map(|(_, payload)| decoder.len_of(payload));
            Broken::ChildViolation(violation, offset + before.sum::<u64>())
        })
    }

    /// Tells what was looked up.
    fn hand_over_batch(&mut self, decoder: &Decoder, now: Instant) {
        let mut frames = std::mem::take(&mut self.frames);
        let mut completions = std::mem::take(&mut self.completions);
        let mut others = std::mem::take(&mut self.others).into_iter();
        let mut left = frames.iter_mut().zip(&mut completions);
        // A panic ends one of them only. The others need no guard of their own.
        while left.len() > 0 {
            guard(|| {
                for ((_, payload), completion) in left.by_ref() {
                    match (completion, payload) {
                        (Some(completion), Payload::At(at)) => {
                            completion.consume(&BorrowedAnswer::Reply(decoder.bytes(at.clone())));
                        }
                        (Some(completion), Payload::Owned(bytes)) => {
                            completion.tell(Answer::Reply(std::mem::take(bytes).into()));
                        }
                        (None, payload) => {
                            let payload = std::mem::replace(payload, Payload::At(0..0));
                            if let Some(other) = others.next() {
                                self.hand_over(other, decoder, payload, now);
                            }
                        }
                    }
                }
            });
        }
        frames.clear();
        completions.clear();
        (self.frames, self.completions) = (frames, completions);
    }

    /// Tells of an event, and of those that follow it in the buffer.
    fn hand_over_events(&mut self, decoder: &mut Decoder, first: Payload, now: Instant) {
        let Driver { handlers, life, .. } = self;
        let on_event = handlers.as_mut().and_then(|all| all.on_event.as_mut());
        let Some(on_event) = on_event else {
            let message = "an event came, but there is no on_event() to take it";
            return life.fail(ErrorKind::UnhandledEvent, message, now);
        };
        let mut next = Some(first);
        let mut result = Ok(());
        while result.is_ok() && next.is_some() {
            guard(|| {
                while let Some(payload) = next.take() {
                    // Before the callback, which may panic.
                    let following = decoder.next_if(|id| id == wire::EVENT);
                    next = following.map(|(_, at)| Payload::At(at));
                    result = on_event.event(input(decoder, payload));
                    if result.is_err() {
                        return;
                    }
                }
            });
            if result.is_ok() && on_event.is_decoding() {
                result = Err(codec_panicked());
            }
        }
        if let Err(error) = result {
            let message = format!("an event from the child is malformed: {error}");
            life.fail(ErrorKind::Protocol, message, now);
        }
    }

    fn broken(&mut self, broken: Broken, now: Instant) {
        let (kind, message) = broken.describe(self.life.is_ready());
        self.life.fail(kind, message, now);
    }

    fn hand_over(
        &mut self,
        delivery: Delivery<Completion, ProgressCallback>,
        decoder: &Decoder,
        payload: Payload,
        now: Instant,
    ) {
        let input = input(decoder, payload);
        match delivery {
            Delivery::Reply(mut completion) => completion.tell(Answer::Reply(input.into_small())),
            Delivery::Failed(mut completion) => completion.tell(Answer::Failed(input.into_small())),
            Delivery::Progress(progress) => {
                // It is poisoned if it panicked before: it is not called again then.
                if let Ok(ToParent::Progress { payload, .. }) = ToParent::decode(&input)
                    && let Ok(mut progress) = progress.lock()
                {
                    progress(Input::from(payload));
                }
            }
            Delivery::Log => super::log::emit(&input, self.link.pid()),
            Delivery::Late => {}
            Delivery::Ready => self.life.ready(),
            Delivery::Refused(refused) => {
                let kind = refusal_kind(&refused.kind);
                self.life.refused(kind, refused.message, now);
            }
            Delivery::Event => unreachable!("events of a child that is ready are not looked up"),
        }
    }

    fn read_stderr(&mut self, reads: usize) {
        let mut buf = Vec::with_capacity(STDERR_READ);
        for _ in 0..reads {
            let Some(capture) = &mut self.stderr else {
                return;
            };
            buf.clear();
            match sys::receive(
                &**capture.pipe.fd(),
                (&mut buf, STDERR_READ),
                None,
                ReadMode::Any,
            ) {
                Ok(n) if n > 0 => {
                    let (pid, tail) = (self.link.pid(), &mut self.tail);
                    capture
                        .lines
                        .push(&buf, |line| tell_line(tail, &capture.callback, pid, line));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => return self.close_stderr(),
            }
        }
    }

    fn close_stderr(&mut self) {
        if let Some(mut capture) = self.stderr.take() {
            let (pid, tail) = (self.link.pid(), &mut self.tail);
            capture
                .lines
                .finish(|line| tell_line(tail, &capture.callback, pid, line));
        }
    }

    /// It is over: ends the calls that are left, and tells the program, last of all.
    fn conclude(&mut self, verdict: Verdict) {
        self.over = true;
        self.link.disconnect();
        self.process = None;
        self.close_stderr();
        let Verdict {
            error,
            status,
            stage,
        } = verdict;
        let pid = self.link.child.as_ref().map(|child| child.pid());
        let error =
            error.map(|(kind, text)| Error::new(kind, text).of(pid, status, self.tail.text()));
        let end = match &error {
            None => Ok(Exit::new(status, stage)),
            Some(error) => Err(error.clone()),
        };
        for (mut completion, phase) in self.link.end(end) {
            let ended = match &error {
                Some(error) => Ended::Lost(error.clone(), phase),
                None => Ended::Refused(Refusal::Closed),
            };
            guard(|| completion.tell(Answer::Ended(ended)));
        }
        drop_guarded(self.link.take_done());
        guard(|| self.handlers.take().expect("concluded once").end(error));
        self.link.over();
    }
}

impl Handlers {
    /// Tells how it ended, by the chain of the original: an error goes to `on_error`, else to
    /// `on_event`, else to standard error.
    fn end(self, error: Option<Error>) {
        let Some(error) = error else {
            if let Some(on_destroy) = self.on_destroy {
                on_destroy();
            }
            return;
        };
        match (self.on_error, self.on_event) {
            (Some(on_error), _) => on_error(error),
            (None, Some(mut on_event)) => on_event.error(error),
            (None, None) => super::log::error(&error),
        }
    }
}

/// Why frames are no frames, or not ones that a child may send; with the offset.
enum Broken {
    Decode(DecodeError),
    ChildViolation(ChildViolation, u64),
}

impl Broken {
    /// What comes from a child that has not been ready is another program's, unless it is at least
    /// a control frame.
    fn describe(self, ready: bool) -> (ErrorKind, String) {
        let is_worker =
            ready || matches!(self, Broken::ChildViolation(ChildViolation::Control(_), _));
        let what = match self {
            Broken::Decode(error) => format!(": {error}"),
            Broken::ChildViolation(violation, offset) => {
                format!(" at offset {offset}: {violation}")
            }
        };
        if is_worker {
            let message = format!("the child broke the protocol{what}");
            return (ErrorKind::Protocol, message);
        }
        let message = format!(
            "the program is no offspring worker, or writes to its standard input before it \
             serves{what}"
        );
        (ErrorKind::NotWorker, message)
    }
}

/// The child's own word for why it does not serve.
fn refusal_kind(kind: &str) -> ErrorKind {
    match kind {
        wire::REFUSED_SETUP => ErrorKind::Setup,
        wire::REFUSED_FUNCTION => ErrorKind::NoFunction,
        wire::REFUSED_MISMATCH => ErrorKind::Mismatch,
        wire::REFUSED_VERSION => ErrorKind::Version,
        _ => ErrorKind::Protocol,
    }
}

/// Drops callbacks of calls that have ended. Even that may panic.
fn drop_guarded(done: Vec<ProgressCallback>) {
    for progress in done {
        guard(|| drop(progress));
    }
}

fn tell_line(tail: &mut Tail, callback: &Option<StderrCallback>, pid: u32, line: &str) {
    tail.push(line);
    if let Some(callback) = callback {
        guard(|| callback(pid, line));
    }
}

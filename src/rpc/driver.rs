//! What the reactor does for one child: it reads, writes, waits and reports. What any of it means is
//! decided by [`Connection`](super::state::Connection) and [`Life`].

mod breach;
mod capture;
mod handlers;
mod process_watch;
mod supervise;

use super::callback::{drop_guarded, guard};
use super::link::{
    Answer, BorrowedAnswer, Completion, Ended, Link, ProgressCallback, Reader, input,
};
use super::log;
use super::reactor::{EventHandler, Source, poll_key};
use super::state::{Begun, ChildViolation, Delivery, Exit, Life, Signal, Verdict};
use crate::chain::chain;
use crate::codec::{Input, Strings};
use crate::copies;
use crate::deadlines::after;
use crate::error::{Error, ErrorKind, Phase, Refusal};
use crate::outcome::refusal_kind;
use crate::process::{Child, Ended as ProcessEnd, Noted, OutputCallback};
use crate::sys::{self, Registration};
use crate::wire::{self, Check, Decoder, FrameHead, Payload, ToParent};
use breach::Breach;
use capture::Capture;
use polling::Event;
use process_watch::ProcessWatch;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use handlers::{EventCallback, Handlers};
pub(crate) use supervise::Supervise;

/// How often one descriptor is read before others have their turn.
const READS: usize = 16;
/// How often the socket is read before what is due is judged: more than a socket holds, of messages with
/// descriptors, each of which ends a read.
const CATCH_UP_READS: usize = 2048;
/// After how long it is checked again whether a caller has read what there is.
const CATCH_UP_AGAIN: Duration = Duration::from_millis(1);
/// How many frames are looked up under one lock.
const FRAMES: usize = 4096;
/// How often the socket is read once the process has ended. Far more than a socket holds: what comes
/// after that is not from the child, and may never end.
const LAST_READS: usize = 10_000;

/// The reading end of a pipe that a child writes to, and what the output is passed to.
pub(super) type CapturedOutput = (OwnedFd, Option<OutputCallback>);

/// See the module's documentation.
pub(super) struct Driver {
    link: Arc<Link>,
    handlers: Option<Handlers>,
    life: Life,
    process: ProcessWatch,
    stdout: Capture,
    stderr: Capture,
    /// Frames of a read until they are delivered; the completions of the calls that they reply to; and
    /// what the others are, in order. The first two are kept for their memory.
    frames: Vec<(u32, Payload)>,
    /// Where the first of them begins in the stream.
    frames_at: u64,
    completions: Vec<Option<Completion>>,
    others: Vec<Delivery<Completion, ProgressCallback>>,
    deadline: Option<Instant>,
    /// What the supervisor has been told: that it is ready, and how many calls have ended.
    reported: (bool, u64),
    /// How many calls had begun that were lost.
    begun: usize,
    /// How long a process has to get ready whose start has not begun yet.
    start_timeout: Option<Duration>,
    /// What the command has said that carried a lost connection.
    carrier_said: String,
    /// How it ended, once that is known.
    verdict: Option<Verdict>,
    over: bool,
}

impl EventHandler for Driver {
    fn key(&self) -> usize {
        self.link.key()
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn is_over(&self) -> bool {
        self.over
    }

    fn ready(&mut self, source: Source, event: Event, now: Instant) {
        match source {
            Source::Socket => {
                if event.readable {
                    self.read(READS, usize::MAX, now);
                }
                self.attend_to_link(now, event.writable);
            }
            Source::Process => self.process_ended(now),
            Source::Stdout => {
                self.stdout.read(READS);
                self.attend_to_link(now, false);
            }
            Source::Stderr => {
                self.stderr.read(READS);
                self.attend_to_link(now, false);
            }
        }
    }

    fn attend(&mut self, now: Instant) {
        if let ProcessWatch::Thread(_) | ProcessWatch::Remote = self.process {
            self.check_start(now);
            self.reap(now);
        }
        self.attend_to_link(now, false);
    }

    fn resume(&mut self, now: Instant) {
        // If it has not ended yet, the poller reports when it does.
        if self.reap(now) {
            self.attend_to_link(now, false);
        }
    }

    /// Each step has a guard of its own, as nothing is known of the state that a panic has left.
    fn fail(&mut self, error: Error) {
        if self.over {
            return;
        }
        let error = self.with_process(error, None);
        let lost = |mut completion: Completion, phase| {
            let ended = Ended::Lost(error.clone(), phase);
            guard(|| completion.complete(Answer::Ended(ended)));
        };
        guard(|| {
            if self.link.child().is_none_or(Child::abandon) {
                self.process.end();
            }
            self.process = ProcessWatch::None;
        });
        guard(|| self.link.disconnect());
        guard(|| self.stdout.close());
        guard(|| self.stderr.close());
        // Those that were looked up, and not handed out.
        for completion in self.completions.drain(..).flatten() {
            lost(completion, Phase::Begun);
        }
        for other in self.others.drain(..) {
            guard(|| {
                if let Delivery::Reply(completion) | Delivery::Failed(completion) = other {
                    lost(completion, Phase::Begun);
                }
            });
        }
        guard(|| {
            for (id, completion, phase) in self.link.end(Err(error.clone()), Begun::Unknown) {
                if let Some(completion) = self.lose(id, completion, &error, phase) {
                    lost(completion, phase);
                }
            }
        });
        guard(|| drop_guarded(self.link.take_done()));
        self.end(&Err(error));
    }
}

impl Driver {
    pub(super) fn new(
        link: Arc<Link>,
        handlers: Handlers,
        life: Life,
        start_timeout: Duration,
        stdout: Option<CapturedOutput>,
        stderr: Option<CapturedOutput>,
    ) -> io::Result<Self> {
        let register = |fd: &Arc<OwnedFd>, source| {
            let event = Event::readable(poll_key(link.key(), source));
            Registration::new(link.reactor().poller(), fd, event)
        };
        link.register()?;
        let process = match link.child().filter(|child| child.is_there()) {
            Some(child) if child.as_remote().is_some() => ProcessWatch::Remote,
            Some(_) => match ProcessWatch::by_poller(&link)? {
                Some(watch) => watch,
                None => ProcessWatch::by_thread(&link)?,
            },
            None => ProcessWatch::None,
        };
        let pid = || link.child().and_then(Child::pid);
        let capture = |output: Option<CapturedOutput>, source| {
            let Some((pipe, callback)) = output else {
                return Ok(Capture::default());
            };
            sys::set_nonblocking(&pipe)?;
            let pipe = register(&Arc::new(pipe), source)?;
            io::Result::Ok(Capture::new(pid(), pipe, callback))
        };
        let mut driver = Driver {
            handlers: Some(handlers),
            life,
            process,
            stdout: capture(stdout, Source::Stdout)?,
            stderr: capture(stderr, Source::Stderr)?,
            frames: Vec::new(),
            frames_at: 0,
            completions: Vec::new(),
            others: Vec::new(),
            deadline: None,
            reported: (false, 0),
            begun: 0,
            start_timeout: None,
            carrier_said: String::new(),
            verdict: None,
            over: false,
            link,
        };
        let child = driver.link.child();
        if let Some(remote) = child.and_then(Child::as_remote) {
            let (reactor, key) = (Arc::clone(driver.link.reactor()), driver.link.key());
            remote.watch(Box::new(move || reactor.attend(key)));
            driver.start_timeout = Some(start_timeout);
            // What has happened before is looked at as soon as the reactor has this.
            driver.deadline = Some(Instant::now());
        } else if let (Some(child), ProcessWatch::None) = (child, &driver.process) {
            driver.life.exited(match child.reap() {
                Some(ProcessEnd::Exited(status)) => status,
                Some(ProcessEnd::Lost(_)) | None => None,
            });
        }
        Ok(driver)
    }

    // ---- what happens ----

    /// The process may have ended.
    fn process_ended(&mut self, now: Instant) {
        if self.reap(now) {
            self.attend_to_link(now, false);
        } else {
            self.process.wait_on(&self.link);
        }
    }

    /// Reaps the process and reads what it has left, if it has ended just now.
    fn reap(&mut self, now: Instant) -> bool {
        if self.process.is_none() {
            return false;
        }
        let Some(end) = self.link.child().and_then(Child::reap) else {
            return false;
        };
        self.process.end();
        if let ProcessEnd::Exited(status) = end {
            self.life.exited(status);
        }
        // All that it wrote is there now. Its own children may still have the other ends open, and are
        // not waited for: this is the end of the stream, for a caller that reads, too.
        let _ = sys::shutdown(self.link.socket(), Shutdown::Read);
        self.read(LAST_READS, usize::MAX, now);
        for output in [&mut self.stdout, &mut self.stderr] {
            output.read(capture::LAST_READS);
            output.close();
        }
        if let ProcessEnd::Lost(error) = end {
            self.life.lost(error.kind(), error.summary(), now);
            self.carrier_said = error.stderr().to_owned();
        }
        true
    }

    /// A process on another machine may be being started, which could not be expected before.
    fn check_start(&mut self, now: Instant) {
        let Some(remote) = self.link.child().and_then(Child::as_remote) else {
            return;
        };
        if remote.is_begun()
            && let Some(timeout) = self.start_timeout.take()
        {
            self.life.begun(after(now, timeout), now);
        }
        let pid = remote.pid();
        self.stdout.learn_pid(pid);
        self.stderr.learn_pid(pid);
    }

    /// Takes in what has come by now if something is due: what came in time counts, however late this
    /// thread is. Returns whether that was all, so that what is due can be judged.
    fn catch_up(&mut self, now: Instant) -> bool {
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        if !is_due(self.life.deadline()) && !self.link.is_due(now) {
            return true;
        }
        let unread = sys::unread(self.link.socket());
        self.read(CATCH_UP_READS, unread, now);
        self.reap(now);
        !self.link.is_left_to_a_caller()
    }

    /// Writes, signals, and checks whether it is over. `room` says that the socket takes bytes again.
    fn attend_to_link(&mut self, now: Instant, room: bool) {
        let all_read = self.catch_up(now);
        let judge_at = all_read.then_some(now);
        let mut actions = self.link.attend(now, room, judge_at);
        if actions.handed_off {
            self.read(READS, usize::MAX, now);
            let more = self.link.attend(now, false, judge_at);
            actions = actions.and_then(more);
        }
        if actions.ready {
            self.life.ready();
        }
        for (mut completion, phase) in actions.expired {
            guard(|| completion.complete(Answer::Ended(Ended::TimedOut(phase))));
        }
        drop_guarded(actions.done);
        if actions.close {
            self.life.close(now);
        }
        if actions.broken {
            self.life.unreachable(now);
        }
        if actions.stop {
            self.life.stop(now);
        }
        if let Some(fault) = actions.fault {
            self.life.fail(ErrorKind::Io, fault, now);
        }
        if let Some(why) = actions.kill {
            self.life.kill(why, now);
        }
        while let Some(at) = judge_at
            && let Some(signal) = self.life.poll(at)
        {
            if let Some(child) = self.link.child() {
                let sent = child.signal(match signal {
                    Signal::Term => sys::SIGTERM,
                    Signal::Kill => sys::SIGKILL,
                });
                if let Err(error) = sent {
                    self.life.signal_failed(signal, &error);
                }
            }
        }
        if !self.life.is_connected() {
            self.link.disconnect();
        }
        self.report();
        let mut unanswered = actions.unanswered;
        if let Some((kind, text)) = self.life.lose_calls(unanswered, now) {
            let error = Error::new(kind, text);
            let error = self.with_process(error, None);
            self.end_calls(&Err(error));
            unanswered = 0;
        }
        let deadlines = [actions.deadline, self.life.deadline()];
        self.deadline = deadlines.into_iter().flatten().min();
        if !all_read {
            self.deadline = self.deadline.max(Some(now + CATCH_UP_AGAIN));
        }
        if self.verdict.is_none() {
            self.verdict = self.life.verdict(unanswered);
            if let Some(verdict) = &self.verdict {
                self.link.disconnect();
                self.stdout.close();
                self.stderr.close();
                let end = self.end_by(verdict);
                self.end_calls(&end);
            }
        }
        let remote = self.link.child().and_then(Child::as_remote);
        let is_settled = remote.is_none_or(|remote| remote.is_settled());
        // One that is given up is not waited for.
        let is_given_up =
            |verdict: &mut Verdict| matches!(verdict.error, Some((ErrorKind::Unstoppable, _)));
        if let Some(verdict) = self.verdict.take_if(|it| is_settled || is_given_up(it)) {
            self.conclude(&verdict);
        }
    }

    /// Ends the calls that are left, and all that are made from now on.
    fn end_calls(&mut self, end: &Result<Exit, Error>) {
        let noted = || self.link.child().map_or(Noted::Unknown, Child::noted);
        let begun = self.life.begun_calls(noted);
        for (id, mut completion, phase) in self.link.end(end.clone(), begun) {
            let ended = match &end {
                Err(error) => match self.lose(id, completion, error, phase) {
                    Some(left) => {
                        completion = left;
                        Ended::Lost(error.clone(), phase)
                    }
                    None => continue,
                },
                Ok(_) => Ended::Refused(Refusal::Closed),
            };
            guard(|| completion.complete(Answer::Ended(ended)));
        }
        drop_guarded(self.link.take_done());
    }

    /// A call is lost. Returns its completion, unless a supervisor goes on with it.
    fn lose(
        &mut self,
        id: u32,
        completion: Completion,
        error: &Error,
        phase: Phase,
    ) -> Option<Completion> {
        self.begun += usize::from(phase == Phase::Begun);
        match self.handlers.as_ref().and_then(|it| it.supervisor.as_ref()) {
            Some(supervisor) => supervisor.lost(id, completion, error, phase),
            None => Some(completion),
        }
    }

    fn pid(&self) -> Option<u32> {
        self.link.child().and_then(Child::pid)
    }

    /// An error, with what is known of the process.
    fn with_process(&self, error: Error, status: Option<ExitStatus>) -> Error {
        let child = self.link.child();
        // Others are stopped by this process.
        let died = matches!(error.kind(), ErrorKind::Died | ErrorKind::Exited);
        let ended = child.zip(status).filter(|_| died);
        let cause = ended.and_then(|(child, status)| child.cause_of(status));
        let mut stderr = self.stderr.tail();
        stderr += &self.carrier_said;
        error.with_process(self.pid(), status, cause, stderr)
    }

    /// It is over: reports the end after everything else.
    fn conclude(&mut self, verdict: &Verdict) {
        self.process.reap_when_it_ends(&self.link);
        let end = self.end_by(verdict);
        self.end(&end);
    }

    fn end_by(&self, verdict: &Verdict) -> Result<Exit, Error> {
        let Verdict {
            error,
            status,
            stage,
        } = verdict;
        match error {
            None => Ok(Exit::new(*status, *stage)),
            Some((kind, text)) => Err(self.with_process(Error::new(*kind, text), *status)),
        }
    }

    /// Reports the end, after everything else.
    fn end(&mut self, end: &Result<Exit, Error>) {
        if let Some(handlers) = self.handlers.take() {
            let supervisor = handlers.supervisor.clone();
            guard(|| handlers.end(end.as_ref().err().cloned(), self.pid()));
            if let Some(supervisor) = supervisor {
                guard(|| supervisor.ended(&self.link, end, self.begun));
            }
        }
        self.link.over();
        self.over = true;
    }

    /// Tells the supervisor, if there is one, what is new.
    fn report(&mut self) {
        let supervisor = self.handlers.as_ref().and_then(|it| it.supervisor.as_ref());
        let Some(supervisor) = supervisor else {
            return;
        };
        let now = (self.life.is_ready(), self.link.freed());
        let before = std::mem::replace(&mut self.reported, now);
        if now.0 && !before.0 {
            supervisor.ready(&self.link);
        }
        if now.1 != before.1 {
            supervisor.freed(now.1);
        }
    }

    // ---- what comes from the child ----

    /// Reads what has come, at most `reads` times, and no further than `bytes`, unless a caller reads.
    fn read(&mut self, reads: usize, mut bytes: usize, now: Instant) {
        if !self.life.is_connected() {
            return;
        }
        let Some(mut reader) = self.link.take_reader() else {
            return;
        };
        // What a caller has read and left.
        self.deliver(reader.decoder(), now);
        for _ in 0..reads {
            if !self.life.is_connected() {
                break;
            }
            match self.read_once(&mut reader, now) {
                Some(n) if n < bytes => bytes -= n,
                _ => break,
            }
        }
        self.link.give_reader_back(reader);
    }

    /// Reads once, and delivers it. Returns how much that was, if there may be more.
    fn read_once(&mut self, reader: &mut Reader, now: Instant) -> Option<usize> {
        let takes_fds = reader.decoder().takes_fds();
        match reader.receive_now(self.link.socket()) {
            Ok((n @ 1.., more)) => {
                self.deliver(reader.decoder(), now);
                // A read also ends with a message whose descriptors were not expected yet.
                let more = more || reader.decoder().takes_fds() != takes_fds;
                // If that was all, the poller reports what comes next; after the exit there is no
                // poller any more.
                return (more || self.process.is_none()).then_some(n);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The child may have closed with requests unread: a reset.
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => {
                self.life.disconnected(Some(error), now);
            }
            Ok(_) | Err(_) => self.stream_ended(reader.decoder(), now),
        }
        None
    }

    fn stream_ended(&mut self, decoder: &Decoder, now: Instant) {
        match decoder.finish() {
            Ok(()) => self.life.disconnected(None, now),
            Err(error) => {
                let (kind, message) = Breach::Decode(error).describe(self.life.is_ready());
                self.life.cut(kind, message, now);
            }
        }
    }

    /// Delivers the frames that are in the buffer, in order: runs of events, for which nothing needs to
    /// be looked up, and runs of everything else, looked up under one lock and then handed out.
    fn deliver(&mut self, decoder: &mut Decoder, now: Instant) {
        loop {
            let offset = decoder.offset();
            let next = self.gather(decoder);
            let looked_up = self.look_up(decoder, matches!(next, Ok(Some(_))));
            // Before the callbacks: the child can do the next call meanwhile.
            self.report();
            self.hand_out_batch(decoder, now);
            match (looked_up, next) {
                (Err(breach), _) => return self.breached(breach, now),
                (Ok(()), Err(violation)) => {
                    return self.breached(Breach::new(violation, decoder.offset()), now);
                }
                (Ok(()), Ok(Some(event))) => self.hand_out_events(decoder, event, now),
                (Ok(()), Ok(None)) if decoder.offset() == offset => return,
                (Ok(()), Ok(None)) => {}
            }
        }
    }

    /// Takes frames out of the buffer, up to the next event, which is returned. Control frames, which have
    /// an event's id but for one bit, may be the decoder's own.
    fn gather(&mut self, decoder: &mut Decoder) -> Result<Option<Payload>, ChildViolation> {
        let Driver {
            link,
            frames,
            frames_at,
            life,
            ..
        } = self;
        frames.clear();
        *frames_at = decoder.offset();
        while frames.len() < FRAMES {
            if let Some((id, at)) = decoder.next_if(|id| id & wire::MAX_ID != 0) {
                frames.push((id, Payload::At(at)));
                continue;
            }
            let check = |head: FrameHead<'_>| match head.id {
                // What may come depends on these, which are to be looked up before.
                _ if !frames.is_empty() => Ok(Check::Later),
                wire::EVENT if life.is_ready() => Ok(Check::Pass),
                _ => link.check(head),
            };
            let offset = decoder.offset();
            let Some((id, payload)) = decoder.next(check)? else {
                break;
            };
            // Others may have been before it, which were the decoder's own.
            let begins_at = decoder.offset() - decoder.len_of(&payload);
            match id {
                wire::EVENT => return Ok(Some(payload)),
                _ if frames.is_empty() => *frames_at = begins_at,
                _ if begins_at == offset => {}
                _ => {
                    decoder.put_back(id, payload);
                    break;
                }
            }
            frames.push((id, payload));
        }
        Ok(None)
    }

    /// Looks up what the frames are that were gathered; `event` says that an event follows them.
    fn look_up(&mut self, decoder: &Decoder, event: bool) -> Result<(), Breach> {
        let Driver {
            link,
            frames,
            frames_at,
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
            Breach::Violation(violation, *frames_at + before.sum::<u64>())
        })
    }

    /// Hands out what was looked up.
    fn hand_out_batch(&mut self, decoder: &Decoder, now: Instant) {
        let mut frames = std::mem::take(&mut self.frames);
        let mut completions = std::mem::take(&mut self.completions);
        let mut others = std::mem::take(&mut self.others).into_iter();
        let mut left = frames.iter_mut().zip(&mut completions);
        // A panic ends one of them only: the others need no guard of their own.
        while left.len() > 0 {
            guard(|| {
                for ((_, payload), completion) in left.by_ref() {
                    match (completion, payload) {
                        (Some(completion), Payload::At(at)) => {
                            completion.consume(&BorrowedAnswer::Reply(decoder.bytes(at.clone())));
                        }
                        (Some(completion), Payload::Owned(bytes)) => {
                            completion.complete(Answer::Reply(std::mem::take(bytes).into()));
                        }
                        (Some(completion), payload @ Payload::Carrying(_)) => {
                            let payload = std::mem::replace(payload, Payload::At(0..0));
                            let payload = input(decoder, payload).into_small();
                            completion.complete(Answer::Reply(payload));
                        }
                        (None, payload) => {
                            let payload = std::mem::replace(payload, Payload::At(0..0));
                            if let Some(other) = others.next() {
                                self.hand_out(other, decoder, payload, now);
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

    fn hand_out(
        &mut self,
        delivery: Delivery<Completion, ProgressCallback>,
        decoder: &Decoder,
        payload: Payload,
        now: Instant,
    ) {
        let mut input = input(decoder, payload);
        match delivery {
            Delivery::Reply(mut call) => call.complete(Answer::Reply(input.into_small())),
            Delivery::Failed(mut call) => call.complete(Answer::Failed(input.into_small())),
            Delivery::Progress(progress) => {
                let fds = input.split_fds();
                // A callback that has panicked is poisoned, and not called again.
                if let Ok(ToParent::Progress { payload, .. }) = ToParent::decode(&input)
                    && let Ok(mut progress) = progress.lock()
                {
                    // Other callbacks may follow under the same guard.
                    copies::run(|| progress(Input::carrying(payload, fds)));
                }
            }
            Delivery::Asked => {
                let handlers = self.handlers.as_mut().expect("present until the end");
                handlers.ask(&self.link, input);
            }
            Delivery::Log => log::emit(&input, self.pid().unwrap_or(0)),
            // Retiring is for a pool to act on, which has other children.
            Delivery::Late => {}
            Delivery::Retires => {
                let handlers = self.handlers.as_ref().expect("present until the end");
                if let Some(supervisor) = &handlers.supervisor {
                    supervisor.retires();
                }
            }
            Delivery::Ready => self.life.ready(),
            Delivery::Refused(refused) => {
                let kind = refusal_kind(&refused.kind);
                self.life.refused(kind, refused.message, now);
            }
            Delivery::Event => unreachable!("events of a child that is ready are not looked up"),
        }
    }

    /// Hands out an event, and those that follow it in the buffer.
    fn hand_out_events(&mut self, decoder: &mut Decoder, first: Payload, now: Instant) {
        let pid = self.pid();
        let Driver { handlers, life, .. } = self;
        let handlers = handlers.as_mut().expect("present until the end");
        let mut next = Some(first);
        let mut malformed = None;
        while next.is_some() && malformed.is_none() {
            guard(|| {
                while let Some(payload) = next.take() {
                    // Before the callback, which may panic.
                    let following = decoder.next_if(|id| id == wire::EVENT);
                    next = following.map(|(_, at)| Payload::At(at));
                    match Strings::decode(input(decoder, payload)) {
                        Ok(event) => handlers.event(event, pid),
                        Err(error) => return malformed = Some(error),
                    }
                }
            });
        }
        if let Some(error) = malformed {
            let message = format!("an event from the child is malformed: {}", chain(&error));
            life.fail(ErrorKind::Protocol, message, now);
        }
    }

    fn breached(&mut self, breach: Breach, now: Instant) {
        let (kind, message) = breach.describe(self.life.is_ready());
        self.life.fail(kind, message, now);
    }
}

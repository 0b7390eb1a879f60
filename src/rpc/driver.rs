//! What the reactor does for one child: it reads, writes, waits and reports. What any of it means is
//! decided by [`Connection`](super::state::Connection) and [`Life`].

mod breach;
mod capture;
mod handlers;
mod incoming;
mod process_watch;
mod supervise;

use super::callback::{drop_guarded, guard};
use super::link::{Answer, Completion, Ended, Link, ProgressCallback};
use super::reactor::{EventHandler, Source, poll_key};
use super::state::{Begun, Delivery, Exit, Life, Signal, Verdict};
use crate::deadlines::after;
use crate::error::{Error, ErrorKind, Phase, Refusal};
use crate::process::{Child, Ended as ProcessEnd, Noted, OutputCallback};
use crate::sys::{self, Registration};
use crate::wire::Payload;
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
                let pid = self.shown_pid();
                self.stdout.read(READS, pid);
                self.attend_to_link(now, false);
            }
            Source::Stderr => {
                let pid = self.shown_pid();
                self.stderr.read(READS, pid);
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
        let pid = self.shown_pid();
        guard(|| self.stdout.close(pid));
        guard(|| self.stderr.close(pid));
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
        let capture = |output: Option<CapturedOutput>, source| {
            let Some((pipe, callback)) = output else {
                return Ok(Capture::default());
            };
            sys::set_nonblocking(&pipe)?;
            let pipe = register(&Arc::new(pipe), source)?;
            io::Result::Ok(Capture::new(pipe, callback))
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
        let pid = self.shown_pid();
        for output in [&mut self.stdout, &mut self.stderr] {
            output.read(capture::LAST_READS, pid);
            output.close(pid);
        }
        if let ProcessEnd::Lost(error) = end {
            self.life.lost(error.kind(), error.summary());
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
            if signal == Signal::Kill {
                self.link.killed();
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
                let pid = self.shown_pid();
                self.stdout.close(pid);
                self.stderr.close(pid);
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

    /// The process id that callbacks for output get: 0 if there is none.
    fn shown_pid(&self) -> u32 {
        self.pid().unwrap_or(0)
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
}

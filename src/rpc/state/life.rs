//! The life of one child, from its start to the verdict on its end. Pure: from what happened and when,
//! it decides which signals to send, when to check again, and how the child ended.
//!
//! ```text
//!   Starting ── ready ──▶ Serving ── close() ──▶ Closing      fail(), kill(), stop()
//!      │                     │                      │            from anywhere
//!      └─────────────────────┴──────────────────────┴──▶ the stream ends, the process exits
//!                                                            ──▶ verdict()
//! ```
//!
//! The verdict waits for the end of both the stream and the process: what a child wrote before it died
//! is worth reading, and how it died is worth reporting.

use super::begun::Begun;
use super::ladder::{Signal, StopLadder, StopStage};
use crate::error::ErrorKind;
use crate::process::Noted;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// How long the exit of a child is waited for, for its status, once its stream has ended. Then its
/// calls end without it.
const EXIT_WAIT: Duration = Duration::from_millis(500);
/// The same of one on another machine, whose output comes before its status, through the same connection.
const FAR_EXIT_WAIT: Duration = Duration::from_secs(5);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Life {
    process: ProcessState,
    /// Whether more may come from the child.
    connected: bool,
    /// Whether that is because nothing more is read, whatever it may have sent.
    given_up: bool,
    ready: bool,
    closing: bool,
    /// Whether the start has not begun, and nobody knows when it will.
    awaited: bool,
    /// When a child that is not ready is killed.
    start_by: Option<Instant>,
    ladder: StopLadder,
    /// How long its exit is waited for once nothing more comes from it.
    exit_wait: Duration,
    /// When the calls of a child end whose stream has ended, if it has not exited by then.
    exit_by: Option<Instant>,
    /// Whether that time has passed, and calls end.
    is_overdue: bool,
    /// Whether they have ended so.
    calls_lost: bool,
    /// Why the last signal could not be sent.
    unsignalled: Option<String>,
    /// To be sent immediately.
    signal: Option<Signal>,
    /// The first thing that went wrong, if something did.
    cause: Option<(ErrorKind, String)>,
    /// The error of a stream that ended inside a frame, unless the child died while it wrote.
    cut: Option<(ErrorKind, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProcessState {
    /// There is only a stream.
    None,
    Running,
    /// Its status is `None` if somebody else took it.
    Exited(Option<ExitStatus>),
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// `None` if it ended as it was told to.
    pub(crate) error: Option<(ErrorKind, String)>,
    pub(crate) status: Option<ExitStatus>,
    pub(crate) stage: StopStage,
}

/// How a child ended that had answered all its calls, and was told to end: what
/// [`Rpc::finish`](crate::Rpc::finish) returns.
///
/// Not necessarily success: on its way out it may have failed, crashed, or been killed. The
/// [status](Exit::status) tells, and the [stage](Exit::stage).
#[derive(Debug, Clone)]
pub struct Exit {
    status: Option<ExitStatus>,
    stage: StopStage,
}

impl Exit {
    pub(in crate::rpc) fn new(status: Option<ExitStatus>, stage: StopStage) -> Self {
        Exit { status, stage }
    }

    /// The exit status. `None` if there was no process, or its status went to somebody else who reaped
    /// it.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// How far the parent had to go to end it.
    #[must_use]
    pub fn stage(&self) -> StopStage {
        self.stage
    }
}

impl Life {
    /// The life of a process, or of only a stream. It is ready from the start if `start_by` is `None`.
    pub(crate) fn new(process: bool, start_by: Option<StartBy>, grace: Duration) -> Self {
        Life {
            process: if process {
                ProcessState::Running
            } else {
                ProcessState::None
            },
            connected: true,
            given_up: false,
            ready: start_by.is_none(),
            closing: false,
            awaited: matches!(start_by, Some(StartBy::Awaited)),
            exit_wait: match start_by {
                Some(StartBy::Awaited) => FAR_EXIT_WAIT,
                Some(StartBy::At(_)) | None => EXIT_WAIT,
            },
            start_by: match start_by {
                Some(StartBy::At(by)) => by,
                Some(StartBy::Awaited) | None => None,
            },
            ladder: StopLadder::new(grace),
            exit_by: None,
            is_overdue: false,
            calls_lost: false,
            unsignalled: None,
            signal: None,
            cause: None,
            cut: None,
        }
    }

    /// The child serves.
    pub(crate) fn ready(&mut self) {
        self.ready = true;
        self.start_by = None;
    }

    /// The child was told to exit, and nothing is left to answer: it should exit now.
    pub(crate) fn close(&mut self, now: Instant) {
        self.closing = true;
        // What is not there yet can take as long to exit once it is.
        if !self.awaited {
            self.ladder.start(now);
        }
    }

    /// The child has been waited for long enough.
    pub(crate) fn stop(&mut self, now: Instant) {
        self.fail_with(ErrorKind::Stopped, || {
            "the child was stopped before it had answered".to_owned()
        });
        self.ladder.start_at_once(now);
    }

    /// The child is to be killed. What it has written is still read.
    pub(crate) fn kill(&mut self, why: Kill, now: Instant) {
        match why {
            Kill::Wanted => {
                self.fail_with(ErrorKind::Killed, || "the child was killed".to_owned());
            }
            Kill::Stuck(after) => self.fail_with(ErrorKind::Stuck, || {
                format!(
                    "the child had not answered a call {after:?} after its timeout (kill_stuck), and \
                     was killed"
                )
            }),
        }
        self.kill_now(now);
    }

    /// The child is to be killed because of what it did. Nothing more is read from it.
    pub(crate) fn fail(&mut self, kind: ErrorKind, message: impl Into<String>, now: Instant) {
        self.fail_with(kind, || message.into());
        self.given_up |= self.connected;
        self.end_stream(now);
        self.kill_now(now);
    }

    /// The child has reported that it will not serve, and exits.
    pub(crate) fn refused(&mut self, kind: ErrorKind, message: String, now: Instant) {
        self.start_by = None;
        self.fail_with(kind, || message);
        self.ladder.start(now);
    }

    /// The child reads no more. What it has written is still read, but it must exit.
    pub(crate) fn unreachable(&mut self, now: Instant) {
        self.ladder.start(now);
    }

    /// Nothing more comes from the child: because of this error, if there was one.
    pub(crate) fn disconnected(&mut self, error: Option<std::io::Error>, now: Instant) {
        self.end_stream(now);
        if let Some(error) = error {
            self.given_up = true;
            self.fail_with(ErrorKind::Io, || {
                format!("cannot read from the child: {error}")
            });
        }
        self.ladder.start(now);
    }

    /// Nothing more comes from the child, and what came ends inside a frame. Whether that is the
    /// child's fault depends on how it ends.
    pub(crate) fn cut(&mut self, kind: ErrorKind, message: String, now: Instant) {
        self.cut = Some((kind, message));
        self.disconnected(None, now);
    }

    /// It is being started, which was awaited: from here on it must get ready, and exit if it was told to.
    pub(crate) fn begun(&mut self, start_by: Option<Instant>, now: Instant) {
        self.awaited = false;
        if !self.ready {
            self.start_by = start_by;
        }
        if self.closing {
            self.ladder.start(now);
        }
    }

    /// Nothing more is heard of the process, because of this, unless something else went wrong before. What has come
    /// from it is still read.
    pub(crate) fn lost(&mut self, kind: ErrorKind, message: String) {
        self.given_up = true;
        self.fail_with(kind, || message);
        self.exited(None);
    }

    /// The process has ended.
    pub(crate) fn exited(&mut self, status: Option<ExitStatus>) {
        self.process = ProcessState::Exited(status);
        (self.exit_by, self.is_overdue) = (None, false);
    }

    /// The next signal that it is time to send, if there is one.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Signal> {
        if let ProcessState::Exited(_) = self.process {
            return None;
        }
        if self.start_by.is_some_and(|by| by <= now) {
            self.start_by = None;
            let message = "the child did not get ready within the start timeout";
            self.fail(ErrorKind::StartTimeout, message, now);
        }
        let signal = self.signal.take().or_else(|| self.ladder.climb(now))?;
        if self.process == ProcessState::None {
            // There is nothing to signal: the stream is given up.
            self.connected = false;
            return None;
        }
        Some(signal)
    }

    /// A signal could not be sent.
    pub(crate) fn signal_failed(&mut self, signal: Signal, error: &std::io::Error) {
        self.unsignalled = Some(error.to_string());
        if signal == Signal::Kill {
            self.ladder.give_up();
        }
    }

    /// The error with which all calls end, before the process has: its stream has ended, and its exit
    /// was waited for. Returned once; the verdict is an error then.
    pub(crate) fn lose_calls(
        &mut self,
        unanswered: usize,
        now: Instant,
    ) -> Option<(ErrorKind, String)> {
        self.is_overdue |= self.exit_by.take_if(|by| *by <= now).is_some();
        if !self.is_overdue {
            return None;
        }
        let cause = self.cause.as_ref().or(self.cut.as_ref());
        let in_order = match cause {
            None => self.closing,
            Some(cause) => is_deliberate(cause),
        };
        if unanswered == 0 && in_order {
            // It has answered everything, and takes its time to exit.
            return None;
        }
        self.is_overdue = false;
        let cause = cause.cloned().unwrap_or_else(|| self.death(unanswered));
        self.calls_lost = true;
        self.cause.get_or_insert(cause.clone());
        Some(cause)
    }

    /// When to [`poll`](Life::poll) and [`lose_calls`](Life::lose_calls) next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if let ProcessState::Exited(_) = self.process {
            return None;
        }
        let deadlines = [self.start_by, self.exit_by, self.ladder.deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Whether the child has reported that it serves, or need not.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Which calls the child has begun. What it has `noted` is final once the process has ended.
    pub(crate) fn begun_calls(&self, noted: impl FnOnce() -> Noted) -> Begun {
        let noted = match self.process {
            ProcessState::Exited(_) => noted(),
            ProcessState::Running | ProcessState::None => Noted::Unknown,
        };
        // A worker says that it is ready before it begins any, and while it is read from, that is heard.
        let is_heard = !self.connected && !self.given_up;
        match noted {
            Noted::Unknown if !self.ready && is_heard => Begun::None,
            // It does not note what it begins.
            Noted::Nothing if self.ready => Begun::Unknown,
            noted => noted.into(),
        }
    }

    /// Whether more is read from the child.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// How it ended, once it has; `unanswered` is the number of calls that were not.
    pub(crate) fn verdict(&self, unanswered: usize) -> Option<Verdict> {
        let (over, status) = match self.process {
            ProcessState::None => (!self.connected, None),
            ProcessState::Running if self.ladder.has_given_up() => {
                return Some(self.lives_on(unanswered));
            }
            ProcessState::Running => (false, None),
            ProcessState::Exited(status) => (!self.connected, status),
        };
        let by_itself = self.closing || self.ladder.stage() == StopStage::Closed;
        let killed = by_itself && status.is_some_and(|status| status.signal().is_some());
        let cut = self.cut.as_ref().filter(|_| !killed);
        let failed = by_itself && status.is_some_and(|status| !status.success());
        let in_order = unanswered == 0
            && !self.calls_lost
            && match self.cause.as_ref().or(cut) {
                None => self.closing && self.ready,
                Some(cause) => is_deliberate(cause),
            };
        over.then(|| Verdict {
            error: (!in_order).then(|| {
                // What fails in the middle of a frame has died, and not written nonsense.
                let cause = self.cause.as_ref().or(cut.filter(|_| !failed));
                let cause = cause.cloned();
                cause.unwrap_or_else(|| self.death(unanswered))
            }),
            status,
            stage: self.ladder.stage(),
        })
    }

    /// The verdict on a child that cannot be stopped.
    fn lives_on(&self, unanswered: usize) -> Verdict {
        let why = match &self.unsignalled {
            Some(error) => format!("it may not be signalled ({error})"),
            None => "it does not end after SIGKILL, and may hang in the kernel".to_owned(),
        };
        let cause = match &self.cause {
            Some((_, cause)) => cause.clone(),
            None if self.closing => "the child cannot be stopped".to_owned(),
            None => self.death(unanswered).1,
        };
        let message = format!("{cause}, and lives on: {why}");
        Verdict {
            error: Some((ErrorKind::Unstoppable, message)),
            status: None,
            stage: self.ladder.stage(),
        }
    }

    /// The error of an end that has no other cause.
    fn death(&self, unanswered: usize) -> (ErrorKind, String) {
        let what = match self.process {
            ProcessState::Exited(_) => "the child ended",
            ProcessState::Running | ProcessState::None => "the child closed its connection",
        };
        if !self.ready {
            let hint = "does its main() reach Worker::run() or Worker::serve()?";
            return (
                ErrorKind::Exited,
                format!("{what} before it was ready ({hint})"),
            );
        }
        let when = match unanswered {
            0 => "while it was in use".to_owned(),
            1 => "with 1 call unanswered".to_owned(),
            n => format!("with {n} calls unanswered"),
        };
        (ErrorKind::Died, format!("{what} {when}"))
    }

    fn fail_with(&mut self, kind: ErrorKind, message: impl FnOnce() -> String) {
        if self.cause.is_none() {
            self.cause = Some((kind, message()));
        }
    }

    /// Nothing more comes from the child.
    fn end_stream(&mut self, now: Instant) {
        if self.connected && self.process == ProcessState::Running {
            self.exit_by = now.checked_add(self.exit_wait);
        }
        self.connected = false;
    }

    fn kill_now(&mut self, now: Instant) {
        self.signal = Some(Signal::Kill);
        self.ladder.killed(now);
    }
}

/// Whether it was the program that wanted a child to end, so that this is an error only for its calls.
fn is_deliberate((kind, _): &(ErrorKind, String)) -> bool {
    matches!(kind, ErrorKind::Killed | ErrorKind::Stopped)
}

/// Why a child is killed that has broken no rule of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kill {
    /// The program wants it.
    Wanted,
    /// It has not answered a call, so long after its timeout.
    Stuck(Duration),
}

/// When a child must be ready.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StartBy {
    /// `None` is never.
    At(Option<Instant>),
    /// That is known when the start has [begun](Life::begun).
    Awaited,
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);
    const OK: Option<ExitStatus> = None;

    fn serving() -> (Life, Instant) {
        let now = Instant::now();
        let mut life = Life::new(true, Some(StartBy::At(Some(now + GRACE))), GRACE);
        life.ready();
        (life, now)
    }

    fn kind(life: &Life, unanswered: usize) -> Option<ErrorKind> {
        let verdict = life.verdict(unanswered).expect("it is over");
        verdict.error.map(|(kind, _)| kind)
    }

    #[test]
    fn clean_exit_is_no_error() {
        let (mut life, now) = serving();
        life.close(now);
        assert_eq!(life.verdict(0), None);
        life.disconnected(None, now);
        assert_eq!(life.verdict(0), None, "how it exits is not known yet");
        life.exited(Some(ExitStatus::from_raw(3 << 8)));
        let verdict = life.verdict(0).unwrap();
        assert_eq!((verdict.error, verdict.stage), (None, StopStage::Closed));
        assert_eq!(verdict.status.and_then(|s| s.code()), Some(3));
    }

    #[test]
    fn note_of_a_child_is_final_once_it_has_ended() {
        let all = [
            Noted::Nothing,
            Noted::LastCall(0),
            Noted::LastCall(7),
            Noted::Unknown,
        ];
        let begun = |life: &Life| all.map(|noted| life.begun_calls(|| noted));
        let (mut life, now) = serving();
        assert_eq!(begun(&life), [Begun::Unknown; 4]);
        life.disconnected(None, now);
        assert_eq!(begun(&life), [Begun::Unknown; 4], "it may live on");
        life.exited(OK);
        // A program that serves and has noted nothing never does.
        let want = [Begun::Unknown, Begun::None, Begun::UpTo(7), Begun::Unknown];
        assert_eq!(begun(&life), want);
    }

    #[test]
    fn child_has_begun_nothing_before_it_was_heard_to_be_ready() {
        let now = Instant::now();
        let starting = || Life::new(true, Some(StartBy::At(Some(now))), GRACE);
        let mut life = starting();
        assert_eq!(
            life.begun_calls(|| Noted::Nothing),
            Begun::Unknown,
            "more may come"
        );
        life.disconnected(None, now);
        assert_eq!(life.begun_calls(|| Noted::Unknown), Begun::None);
        life.exited(OK);
        assert_eq!(life.begun_calls(|| Noted::Unknown), Begun::None);

        // One that takes too long may get ready while it is killed.
        let mut life = starting();
        assert_eq!(life.poll(now), Some(Signal::Kill));
        assert_eq!(life.begun_calls(|| Noted::Unknown), Begun::Unknown);
        life.exited(OK);
        assert_eq!(life.begun_calls(|| Noted::Unknown), Begun::Unknown);
        assert_eq!(life.begun_calls(|| Noted::Nothing), Begun::None);
        assert_eq!(life.begun_calls(|| Noted::LastCall(7)), Begun::UpTo(7));

        // What it has sent cannot be read.
        let mut life = starting();
        life.disconnected(Some(std::io::Error::from_raw_os_error(12)), now);
        assert_eq!(life.begun_calls(|| Noted::Unknown), Begun::Unknown);

        // Whatever is found wrong with it after its end.
        let mut life = starting();
        life.disconnected(None, now);
        life.fail(ErrorKind::Protocol, "a late discovery", now);
        assert_eq!(life.begun_calls(|| Noted::Unknown), Begun::None);
    }

    #[test]
    fn exit_before_the_stream_is_read_is_not_the_end() {
        let (mut life, now) = serving();
        life.exited(OK);
        assert_eq!(life.verdict(1), None);
        life.disconnected(None, now);
        assert_eq!(kind(&life, 1), Some(ErrorKind::Died));
    }

    #[test]
    fn unanswered_calls_make_an_exit_a_death() {
        let (mut life, now) = serving();
        life.close(now);
        life.disconnected(None, now);
        life.exited(OK);
        assert_eq!(kind(&life, 0), None);
        assert_eq!(kind(&life, 2), Some(ErrorKind::Died));
    }

    #[test]
    fn exit_while_in_use_is_a_death() {
        let (mut life, now) = serving();
        life.disconnected(None, now);
        life.exited(OK);
        assert_eq!(kind(&life, 0), Some(ErrorKind::Died));
    }

    #[test]
    fn start_is_bounded() {
        let now = Instant::now();
        let mut life = Life::new(true, Some(StartBy::At(Some(now + GRACE))), GRACE);
        assert_eq!(life.deadline(), Some(now + GRACE));
        assert_eq!(life.poll(now), None);
        assert_eq!(life.poll(now + GRACE), Some(Signal::Kill));
        assert_eq!(life.poll(now + GRACE), None);
        life.exited(OK);
        assert_eq!(kind(&life, 0), Some(ErrorKind::StartTimeout));
    }

    #[test]
    fn exit_before_ready_is_a_start_error_even_if_nobody_waits() {
        let now = Instant::now();
        let mut life = Life::new(true, Some(StartBy::At(None)), GRACE);
        life.close(now);
        life.disconnected(None, now);
        life.exited(OK);
        assert_eq!(kind(&life, 0), Some(ErrorKind::Exited));
    }

    #[test]
    fn kill_is_an_error_only_to_calls() {
        let (mut life, now) = serving();
        life.kill(Kill::Wanted, now);
        assert_eq!(life.poll(now), Some(Signal::Kill));
        life.disconnected(None, now);
        life.exited(OK);
        assert_eq!(kind(&life, 0), None);
        assert_eq!(kind(&life, 1), Some(ErrorKind::Killed));
        assert_eq!(life.verdict(0).unwrap().stage, StopStage::Killed);
    }

    #[test]
    fn child_that_is_killed_as_it_is_stuck_is_an_error_also_without_calls() {
        let (mut life, now) = serving();
        life.kill(Kill::Stuck(Duration::from_millis(1500)), now);
        assert_eq!(life.poll(now), Some(Signal::Kill));
        assert!(life.is_connected(), "what it has written counts");
        life.close(now);
        life.disconnected(None, now);
        life.exited(Some(ExitStatus::from_raw(9)));
        let verdict = life.verdict(0).unwrap();
        let (kind, message) = verdict.error.unwrap();
        assert_eq!((kind, verdict.stage), (ErrorKind::Stuck, StopStage::Killed));
        let text =
            "the child had not answered a call 1.5s after its timeout (kill_stuck), and was killed";
        assert_eq!(message, text);
    }

    #[test]
    fn half_frame_is_a_violation_unless_the_child_died() {
        for (status, want) in [
            (0, ErrorKind::Protocol),
            (3 << 8, ErrorKind::Died),
            (11, ErrorKind::Died),
        ] {
            let (mut life, now) = serving();
            life.cut(ErrorKind::Protocol, "half a frame".to_owned(), now);
            life.exited(Some(ExitStatus::from_raw(status)));
            assert_eq!(kind(&life, 1), Some(want));
        }
        // Nor is it lost silently if everything was answered.
        let (mut life, now) = serving();
        life.close(now);
        life.cut(ErrorKind::Protocol, "half an event".to_owned(), now);
        life.exited(Some(ExitStatus::from_raw(3 << 8)));
        assert_eq!(kind(&life, 0), Some(ErrorKind::Died));
    }

    #[test]
    fn first_cause_counts() {
        let (mut life, now) = serving();
        life.fail(ErrorKind::Protocol, "nonsense", now);
        life.kill(Kill::Wanted, now);
        life.exited(OK);
        assert_eq!(kind(&life, 0), Some(ErrorKind::Protocol));
    }

    #[test]
    fn child_whose_start_is_awaited_need_not_exit_before_it_has_begun() {
        let now = Instant::now();
        let mut life = Life::new(true, Some(StartBy::Awaited), GRACE);
        life.close(now);
        assert_eq!(life.deadline(), None);
        assert_eq!(life.poll(now + 100 * GRACE), None);
        let begun = now + 100 * GRACE;
        life.begun(Some(begun + 3 * GRACE), begun);
        assert_eq!(life.deadline(), Some(begun + GRACE));
        assert_eq!(life.poll(begun + GRACE), Some(Signal::Term));

        let mut life = Life::new(true, Some(StartBy::Awaited), GRACE);
        life.begun(Some(now + GRACE), now);
        assert_eq!(life.poll(now + GRACE), Some(Signal::Kill));
        life.exited(None);
        assert_eq!(kind(&life, 0), Some(ErrorKind::StartTimeout));

        // Who does not want to wait need not.
        let mut life = Life::new(true, Some(StartBy::Awaited), GRACE);
        life.stop(now);
        assert_eq!(life.poll(now), Some(Signal::Term));
    }

    #[test]
    fn closed_connection_gets_the_process_signalled_and_given_up() {
        let (mut life, now) = serving();
        life.disconnected(None, now);
        assert_eq!(life.poll(now), None);
        assert_eq!(life.poll(now + GRACE), Some(Signal::Term));
        assert_eq!(life.poll(now + 2 * GRACE), Some(Signal::Kill));
        assert_eq!(life.verdict(1), None);
        assert_eq!(life.poll(now + 3 * GRACE), None);
        let (kind, message) = life.verdict(1).unwrap().error.unwrap();
        assert_eq!(kind, ErrorKind::Unstoppable);
        let cause = "the child closed its connection with 1 call unanswered, and lives on";
        assert!(message.starts_with(cause), "{message}");
    }

    #[test]
    fn child_that_may_not_be_signalled_lives_on() {
        let (mut life, now) = serving();
        life.close(now);
        assert_eq!(life.poll(now + GRACE), Some(Signal::Term));
        let error = std::io::Error::from_raw_os_error(1);
        life.signal_failed(Signal::Term, &error);
        assert_eq!(life.verdict(0), None, "SIGKILL is tried");
        assert_eq!(life.poll(now + 2 * GRACE), Some(Signal::Kill));
        life.signal_failed(Signal::Kill, &error);
        assert_eq!((life.poll(now + 9 * GRACE), life.deadline()), (None, None));
        let verdict = life.verdict(0).unwrap();
        let (kind, message) = verdict.error.unwrap();
        assert_eq!(kind, ErrorKind::Unstoppable);
        assert!(message.contains("may not be signalled"), "{message}");
        assert!(message.contains("Operation not permitted"), "{message}");

        // The cause is not lost.
        let (mut life, now) = serving();
        life.kill(Kill::Wanted, now);
        life.signal_failed(Signal::Kill, &error);
        let (_, message) = life.verdict(3).unwrap().error.unwrap();
        assert!(
            message.starts_with("the child was killed, and lives on"),
            "{message}"
        );
    }

    #[test]
    fn process_that_has_ended_is_not_late() {
        let (mut life, now) = serving();
        life.close(now);
        life.exited(Some(ExitStatus::from_raw(0)));
        assert_eq!((life.poll(now + GRACE), life.deadline()), (None, None));
        life.disconnected(None, now + GRACE);
        let verdict = life.verdict(0).unwrap();
        assert_eq!((verdict.error, verdict.stage), (None, StopStage::Closed));

        let mut life = Life::new(true, Some(StartBy::At(Some(now))), GRACE);
        life.exited(Some(ExitStatus::from_raw(0)));
        assert_eq!(life.poll(now), None);
        life.disconnected(None, now);
        assert_eq!(kind(&life, 0), Some(ErrorKind::Exited));
    }

    #[test]
    fn calls_end_soon_after_the_stream_whatever_the_grace() {
        let now = Instant::now();
        let mut life = Life::new(true, None, Duration::MAX);
        life.disconnected(None, now);
        assert_eq!(life.deadline(), Some(now + EXIT_WAIT));
        let mut far = Life::new(true, Some(StartBy::Awaited), Duration::MAX);
        far.disconnected(None, now);
        assert_eq!(far.deadline(), Some(now + FAR_EXIT_WAIT));
        let almost = now + EXIT_WAIT - Duration::from_nanos(1);
        assert_eq!(life.lose_calls(1, almost), None, "its status may come");
        let (kind_of_end, message) = life.lose_calls(1, now + EXIT_WAIT).unwrap();
        assert_eq!(kind_of_end, ErrorKind::Died);
        assert_eq!(
            message,
            "the child closed its connection with 1 call unanswered"
        );
        assert_eq!(life.lose_calls(0, now + EXIT_WAIT), None, "once");
        assert_eq!((life.deadline(), life.verdict(0)), (None, None));
        life.exited(Some(ExitStatus::from_raw(0)));
        assert_eq!(kind(&life, 0), Some(ErrorKind::Died));
    }

    #[test]
    fn calls_of_a_killed_child_that_does_not_end_are_lost_for_that_reason() {
        let (mut life, now) = serving();
        life.kill(Kill::Wanted, now);
        life.disconnected(None, now);
        let (kind_of_end, _) = life.lose_calls(1, now + EXIT_WAIT).unwrap();
        assert_eq!(kind_of_end, ErrorKind::Killed);
        life.exited(Some(ExitStatus::from_raw(9)));
        assert_eq!(kind(&life, 0), Some(ErrorKind::Killed), "calls were lost");

        let (mut life, now) = serving();
        life.kill(Kill::Wanted, now);
        life.disconnected(None, now);
        assert_eq!(life.lose_calls(0, now + EXIT_WAIT), None, "there are none");
        life.exited(Some(ExitStatus::from_raw(9)));
        assert_eq!(kind(&life, 0), None);

        let (mut life, now) = serving();
        life.kill(Kill::Wanted, now);
        life.disconnected(None, now);
        assert_eq!(life.lose_calls(0, now + EXIT_WAIT), None);
        let (kind_of_end, _) = life.lose_calls(1, now + EXIT_WAIT).unwrap();
        assert_eq!(kind_of_end, ErrorKind::Killed, "it was made since");
        assert_eq!(life.lose_calls(1, now + EXIT_WAIT), None, "once");
    }

    #[test]
    fn exit_that_takes_long_after_the_last_answer_is_no_loss() {
        let (mut life, now) = serving();
        life.close(now);
        life.disconnected(None, now);
        assert_eq!(life.lose_calls(0, now + EXIT_WAIT), None);
        life.exited(Some(ExitStatus::from_raw(0)));
        assert_eq!(kind(&life, 0), None);

        let (mut life, now) = serving();
        life.disconnected(None, now);
        life.exited(Some(ExitStatus::from_raw(0)));
        assert_eq!(life.lose_calls(1, now + EXIT_WAIT), None, "it has ended");
    }

    #[test]
    fn what_has_come_from_a_lost_process_is_still_read() {
        let (mut life, now) = serving();
        life.lost(ErrorKind::Disconnected, "the cable is cut".to_owned());
        assert!(life.is_connected() && life.verdict(1).is_none());
        assert_eq!(life.lose_calls(1, now + EXIT_WAIT), None);
        life.disconnected(None, now);
        assert_eq!(kind(&life, 1), Some(ErrorKind::Disconnected));
        assert_eq!(kind(&life, 0), Some(ErrorKind::Disconnected));
    }

    #[test]
    fn stream_that_does_not_end_is_given_up() {
        let now = Instant::now();
        let mut life = Life::new(false, None, GRACE);
        life.close(now);
        assert_eq!((life.poll(now), life.verdict(0)), (None, None));
        assert_eq!(life.poll(now + GRACE), None);
        assert_eq!(kind(&life, 0), None);
    }
}

//! Errors of children and of calls.

use crate::codec::CodecError;
use crate::sys;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;

/// Any error, as returned by functions in a child. `?` and `"text".into()` convert to it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An error of a child, at its start, in use or at its end.
///
/// Cheap to clone: every call that was lost with the child gets one. [`Display`](fmt::Display)
/// includes everything that is known; the methods are for programs that act on it.
///
/// # Examples
///
/// ```
/// use offspring::{CallError, ErrorKind, Plain, Process, Stdio};
///
/// let rpc = Process::command("sh").plain(Plain::Tagged)
///     .args(["-c", "head -c 1 >/dev/null; echo oh no >&2; exit 3"])
///     .stderr(Stdio::capture())
///     .rpc("shell")
///     .on_error(drop)
///     .start()?;
/// let Err(CallError::Lost(error, _)) = rpc.call("hello").wait() else {
///     panic!("the shell does not answer");
/// };
/// assert_eq!(error.kind(), ErrorKind::Died);
/// assert_eq!(error.status().and_then(|status| status.code()), Some(3));
/// assert_eq!(error.stderr(), "oh no\n");
/// # Ok::<(), offspring::Error>(())
/// ```
#[derive(Clone)]
pub struct Error(Arc<ErrorDetails>);

struct ErrorDetails {
    kind: ErrorKind,
    message: String,
    pid: Option<u32>,
    status: Option<ExitStatus>,
    /// Which limit may have ended it, as an addition to its status.
    cause: Option<String>,
    stderr: String,
}

/// The kind of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The program could not be executed, or resources (memory, descriptors) for that were lacking, or
    /// something that the child is to have cannot be set, such as a [`Limit`](crate::Limit).
    Spawn,
    /// An option of the [`Process`](crate::Process) that this kind of child cannot have. The message
    /// names it.
    Unsupported,
    /// A process that was started as a child and has not reached [`Worker::run`] tried to start
    /// children. Call `run` first: without this check, such a program would start itself for ever.
    /// Or its environment was cleared, by which it would have known that it is a child.
    ///
    /// [`Worker::run`]: crate::Worker::run
    NotServing,
    /// The child was not ready within the [start timeout](crate::RpcBuilder::start_timeout), and was
    /// killed. Also if its [template](crate::Process::template) made no copy in that time, or nothing
    /// greeted on another machine within the [patience](crate::Process::patience).
    StartTimeout,
    /// The child exited, or closed its connection, before it was ready.
    Exited,
    /// The child's output is not this protocol: its program does not run a
    /// [`Worker`](crate::Worker).
    NotWorker,
    /// The child speaks another version of the protocol.
    Version,
    /// The child has no function of that name, or the parent serves none. The message lists those there are.
    NoFunction,
    /// The other side's function has another codec, or another service version; or the child came to
    /// another [`Worker::run`](crate::Worker::run) than the one that described it.
    Mismatch,
    /// A setup failed in the child, or none has that name; or the child has closed a descriptor
    /// that it needs and did not open.
    Setup,
    /// The child exited, crashed or was killed, or closed its connection, while in use.
    Died,
    /// The connection to the child's machine was lost: its command ended, or nothing came for too long
    /// ([`Process::ping`](crate::Process::ping)). Whether the child lives is not known; it ends when its side
    /// notices.
    Disconnected,
    /// [`Rpc::kill`](crate::Rpc::kill) was called.
    Killed,
    /// The child had not answered a call long after its timeout, and was killed: see
    /// [`RpcBuilder::kill_stuck`](crate::RpcBuilder::kill_stuck).
    Stuck,
    /// The stop ladder ended the child before it had answered all calls: see
    /// [`Rpc::finish_timeout`](crate::Rpc::finish_timeout).
    Stopped,
    /// The child could not be stopped, and lives on: it may not be signalled, as it has become
    /// another user's, or it hangs in the kernel. It is reaped when it ends.
    Unstoppable,
    /// The child violated the protocol, and was killed; or its output ended inside a message.
    Protocol,
    /// A blocking method was called in a callback, where it would stop the reactor.
    InCallback,
    /// This process is a copy, made by fork(2), of the one that started the child, which alone can use
    /// it: see the [guide](crate::guide#forking).
    Forked,
    /// An operation in the parent failed. Also if the [`Reactor`](crate::Reactor) that served the
    /// child can serve no longer: the child is killed then.
    Io,
}

impl ErrorKind {
    /// What they are called between machines.
    const WORDS: [(ErrorKind, &str); 19] = [
        (ErrorKind::Spawn, "spawn"),
        (ErrorKind::Unsupported, "unsupported"),
        (ErrorKind::NotServing, "not serving"),
        (ErrorKind::StartTimeout, "start timeout"),
        (ErrorKind::Exited, "exited"),
        (ErrorKind::NotWorker, "not worker"),
        (ErrorKind::Version, "version"),
        (ErrorKind::NoFunction, "no function"),
        (ErrorKind::Mismatch, "mismatch"),
        (ErrorKind::Setup, "setup"),
        (ErrorKind::Died, "died"),
        (ErrorKind::Disconnected, "disconnected"),
        (ErrorKind::Killed, "killed"),
        (ErrorKind::Stuck, "stuck"),
        (ErrorKind::Stopped, "stopped"),
        (ErrorKind::Unstoppable, "unstoppable"),
        (ErrorKind::Protocol, "protocol"),
        (ErrorKind::Forked, "forked"),
        (ErrorKind::Io, "io"),
    ];

    pub(crate) fn word(self) -> &'static str {
        let word = ErrorKind::WORDS.iter().find(|(kind, _)| *kind == self);
        word.map_or("io", |(_, word)| word)
    }

    /// The kind that is called so. What is not known is [`Io`](ErrorKind::Io).
    pub(crate) fn from_word(word: &str) -> Self {
        let kind = ErrorKind::WORDS.iter().find(|(_, it)| *it == word);
        kind.map_or(ErrorKind::Io, |(kind, _)| *kind)
    }
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Error(Arc::new(ErrorDetails {
            kind,
            message,
            pid: None,
            status: None,
            cause: None,
            stderr: String::new(),
        }))
    }

    /// Adds what is known of the process.
    pub(crate) fn with_process(
        self,
        pid: Option<u32>,
        status: Option<ExitStatus>,
        cause: Option<String>,
        stderr: String,
    ) -> Self {
        let ErrorDetails { kind, message, .. } = &*self.0;
        Error(Arc::new(ErrorDetails {
            kind: *kind,
            message: message.clone(),
            pid,
            status,
            cause,
            stderr,
        }))
    }

    /// The kind of error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The child's process id. `None` if it was never started, or is not a child process.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.0.pid
    }

    /// The child's exit status. `None` if it is not known to have ended, or if other code took the
    /// status.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.0.status
    }

    /// The first and last lines the child wrote to standard error, with control characters escaped. Empty unless that is captured, which
    /// is not the default; see [`Stdio`](crate::Stdio).
    #[must_use]
    pub fn stderr(&self) -> &str {
        &self.0.stderr
    }
}

impl Error {
    /// Everything but the lines of standard error.
    pub(crate) fn summary(&self) -> String {
        struct Summary<'a>(&'a Error);
        impl fmt::Display for Summary<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write_summary(f)
            }
        }
        Summary(self).to_string()
    }

    /// Writes everything but the lines of standard error.
    pub(crate) fn write_summary(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ErrorDetails {
            message,
            pid,
            status,
            cause,
            ..
        } = &*self.0;
        f.write_str(message)?;
        if let Some(status) = status {
            write!(f, ": {}", describe_status(*status))?;
        }
        if let Some(cause) = cause {
            f.write_str(cause)?;
        }
        if let Some(pid) = pid {
            write!(f, " (pid {pid})")?;
        }
        Ok(())
    }

    /// Writes the lines of standard error, if there are any. They may be many, so they come last.
    fn write_stderr(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.stderr.trim_end() {
            "" => Ok(()),
            lines if lines.contains('\n') => write!(f, "; its stderr:\n{lines}"),
            line => write!(f, "; its stderr: {line}"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_summary(f)?;
        self.write_stderr(f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({:?})", self.0.kind, self.to_string())
    }
}

impl std::error::Error for Error {}

/// `exited with status 3`, `killed by SIGSEGV (core dumped)`.
pub(crate) fn describe_status(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (_, Some(signal)) => {
            let core = if status.core_dumped() {
                " (core dumped)"
            } else {
                ""
            };
            format!("killed by {}{core}", sys::signal_name(signal))
        }
        _ => status.to_string(),
    }
}

/// The reason why a call ended without a reply.
///
/// After `Failed`, `Panicked`, `Unanswered`, `Malformed`, `Unserved` and `TimedOut` the child is still
/// running and accepts further calls. After `Lost` and `Poison` it does not; a [pool](crate::Pool) replaces
/// it.
///
/// # Examples
///
/// ```
/// use offspring::{BoxError, CallError, Worker};
///
/// fn main() -> Result<(), BoxError> {
///     let me = Worker::new()
///         .function("half", |request, _caller| {
///             let n: u32 = request.to_string().parse()?;
///             assert!(n % 2 == 0, "{n} is odd");
///             Ok((n / 2).to_string())
///         })
///         .run();
///     let rpc = me.rpc("half").start()?;
///     for n in ["8", "7", "x"] {
///         match rpc.call(n).wait() {
///             Ok(half) => assert_eq!(half, ["4"]),
///             Err(CallError::Panicked(panic)) => assert_eq!(panic.message(), "7 is odd"),
///             Err(CallError::Failed(error)) => println!("{n}: {error}"),
///             Err(error) => return Err(error.into()),
///         }
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum CallError<E = BoxError> {
    /// The function returned this error.
    Failed(E),
    /// The function panicked.
    Panicked(Panic),
    /// The function dropped the call without answering it.
    Unanswered,
    /// The request, the reply or the error could not be encoded or decoded. The error states which.
    Malformed(CodecError),
    /// The child has no such [function](crate::Rpc::function), or the parent that is
    /// [asked](crate::Caller::ask) serves none, or it has another version or codec: an error of the kind
    /// [`NoFunction`](ErrorKind::NoFunction) or [`Mismatch`](ErrorKind::Mismatch), or
    /// [`Unsupported`](ErrorKind::Unsupported) if the parent is a plain peer. Nothing was done.
    Unserved(Error),
    /// The call's timeout passed. The function may still be running.
    TimedOut(Phase),
    /// Only for [asks](crate::Caller::ask): the call on whose behalf the parent was asked was cancelled.
    Cancelled(Phase),
    /// The call was lost because of this error of the child.
    Lost(Error, Phase),
    /// A call to a [pool](crate::Pool) that might be [repeated](crate::PoolCall::repeatable) has killed two
    /// children: their errors.
    Poison(Box<[Error]>),
    /// The call was never queued. An ask may also have been refused by the parent; it has not begun.
    Refused(Refusal),
}

/// How far a call had got when it ended without an answer.
///
/// Of a worker that has ended, the parent knows which calls it had begun, whatever killed it: the
/// others can be made again in another child. Where it cannot know that, all that was sent may have
/// begun: see [`gotchas`](crate::gotchas#calls-that-a-crash-takes-along).
///
/// # Examples
///
/// ```
/// use offspring::{Phase, Worker};
///
/// # fn main() -> Result<(), offspring::BoxError> {
/// let me = Worker::new()
///     .function("crash", |_request, _caller| -> Result<(), _> { std::process::abort() })
///     .run();
/// let rpc = me.rpc("crash").on_error(drop).start()?;
/// let (first, second) = (rpc.call(()).start(), rpc.call(()).start());
/// let phase = first.wait().unwrap_err().phase();
/// assert_eq!(phase, Some(Phase::Begun));
/// let phase = second.wait().unwrap_err().phase();
/// assert!(phase.is_some_and(Phase::is_safe_to_repeat));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// No byte of it was sent to the child.
    Queued,
    /// It was sent, and the function is known not to have begun.
    Sent,
    /// It was sent, and the function has begun, or may have: also calls that time out or are cancelled, and
    /// those of plain peers, of streams, of children that live on without a connection, and of workers
    /// that a shell or the like has started.
    Begun,
}

impl Phase {
    /// Whether the function has not begun: if the call is made again, nothing is done twice.
    #[must_use]
    pub fn is_safe_to_repeat(self) -> bool {
        match self {
            Phase::Queued | Phase::Sent => true,
            Phase::Begun => false,
        }
    }
}

/// The reason why a call was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The queue limit is reached, and the call was not allowed to wait; or a child has more
    /// [asks](crate::Caller::ask) unanswered than [its parent allows](crate::RpcBuilder::max_asks).
    Full,
    /// The handle was finished.
    Closed,
    /// It would have blocked inside a callback, which would stop the reactor, or the loop of a child. Use
    /// [`Call::then`](crate::Call::then) there, or [`Loop::ask`](crate::Loop::ask).
    InCallback,
    /// The request is longer than `max_frame`.
    TooLarge {
        /// The request's length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The outcome was already taken.
    Taken,
    /// This process is a copy, made by fork(2), of the one that started the child, which alone can call
    /// it: see the [guide](crate::guide#forking). If the call was made before the fork, the original
    /// gets its outcome.
    Forked,
}

/// A panic in the child, or for an [ask](crate::Caller::ask) in a callback of the parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panic {
    message: String,
    location: String,
}

impl Panic {
    pub(crate) fn new(message: String, location: String) -> Self {
        Panic { message, location }
    }

    /// The panic's message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Where it happened, such as `src/main.rs:7:13`; in the parent, `a callback of the parent`.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.location
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panicked at {}: {}", self.location, self.message)
    }
}

impl<E> CallError<E> {
    /// How far the call had got, if it ended without an answer from the child.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        match self {
            CallError::TimedOut(phase)
            | CallError::Cancelled(phase)
            | CallError::Lost(_, phase) => Some(*phase),
            CallError::Poison(_) => Some(Phase::Begun),
            CallError::Refused(_) => Some(Phase::Queued),
            _ => None,
        }
    }
}

impl<E: fmt::Display> fmt::Display for CallError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Failed(error) => error.fmt(f),
            CallError::Panicked(panic) => panic.fmt(f),
            CallError::Unanswered => f.write_str("the function dropped the call unanswered"),
            CallError::Malformed(error) => write!(f, "malformed: {error}"),
            CallError::Unserved(error) => error.fmt(f),
            CallError::TimedOut(phase) => write!(f, "timed out; the call {phase}"),
            CallError::Cancelled(phase) => write!(f, "cancelled; the call {phase}"),
            CallError::Poison(errors) => {
                write!(f, "the call has killed {} children:", errors.len())?;
                for (n, error) in errors.iter().enumerate() {
                    write!(f, "{} {error}", if n == 0 { "" } else { ";" })?;
                }
                Ok(())
            }
            CallError::Lost(error, phase) => {
                error.write_summary(f)?;
                write!(f, "; the call {phase}")?;
                error.write_stderr(f)
            }
            CallError::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl<E: fmt::Display + fmt::Debug> std::error::Error for CallError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CallError::Malformed(error) => error.source(),
            _ => None,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Queued => "was never sent",
            Phase::Sent => "had not begun",
            Phase::Begun => "had begun, or may have",
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Full => {
                f.write_str("refused: the limit (max_queue, or max_asks of an ask) is reached")
            }
            Refusal::Closed => f.write_str("refused: the handle was finished"),
            Refusal::InCallback => f.write_str(
                "refused: blocking inside a callback would stop the reactor or the loop; use then() there, or \
                 Loop::ask()",
            ),
            Refusal::TooLarge { len, limit } => write!(
                f,
                "refused: a request of {len} bytes is above the limit (max_frame) of {limit}"
            ),
            Refusal::Taken => f.write_str("refused: the outcome was already taken"),
            Refusal::Forked => f.write_str(
                "refused: this process was forked from the one that started the child, which alone can \
                 use it; start another one here",
            ),
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn status_is_described() {
        const CORE: i32 = 0x80;
        for (raw, text) in [
            (0, "exited with status 0"),
            (3 << 8, "exited with status 3"),
            (9, "killed by SIGKILL"),
            (6 | CORE, "killed by SIGABRT (core dumped)"),
            (27, "killed by SIGPROF"),
            (40, "killed by signal 40"),
        ] {
            assert_eq!(describe_status(ExitStatus::from_raw(raw)), text);
        }
    }
}

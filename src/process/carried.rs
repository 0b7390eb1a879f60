//! Children on other machines: what carries the connection to them, and how they are described there.

use super::{Child, Group, Launched, Process, Stdio, Target};
use crate::error::Error;
use crate::sys;
use crate::wire::{FarGroup, Outlet, StartOrder};
use std::fmt;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// How long a far side may take to greet by default.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may be silent before it is pinged, and after which it is given up, by default.
const PING: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(45));

/// The most characters of a command line in a label.
const LONGEST_LABEL: usize = 80;

/// What starts children behind a command or connection that reaches a worker. A program that describes none does
/// not have the code.
pub(crate) trait FarStarter: fmt::Debug + Sync {
    /// Starts a child, with a connection of its own. Within `timeout` it is to be there, once it is begun; the
    /// command has at most `grace` to end, after it.
    fn launch(
        &self,
        process: &Process,
        timeout: Duration,
        grace: Duration,
    ) -> Result<Launched, Error>;

    /// Children that are copies of this process, all of them behind one connection.
    fn template(&self, process: Process) -> Process;
}

/// What makes a connection.
#[derive(Clone)]
pub(crate) struct Connector(pub(crate) Arc<dyn Fn() -> io::Result<OwnedFd> + Send + Sync>);

impl Connector {
    pub(crate) fn connect(&self) -> io::Result<OwnedFd> {
        (self.0)()
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector(..)")
    }
}

/// What carries a connection.
pub(crate) struct Transport {
    /// What comes from the other side, and what goes there.
    pub(crate) input: OwnedFd,
    pub(crate) output: OwnedFd,
    pub(crate) command: Option<CarrierCommand>,
}

/// A command that was started to carry a connection.
pub(crate) struct CarrierCommand {
    pub(crate) child: Child,
    /// Its standard error.
    pub(crate) stderr: PipeReader,
}

impl Process {
    /// How long the other side may take to greet, counted from the start of the command, or from when
    /// [`connect`](Process::connect)'s closure has returned: time for a login, or in a queue of jobs. After that the
    /// connection is given up, and its children end with [`StartTimeout`](crate::ErrorKind::StartTimeout). From the
    /// greeting on, each child has its own [start timeout](crate::RpcBuilder::start_timeout). Default: one minute;
    /// [`Duration::MAX`] is no limit.
    ///
    /// Only for what connects to [other machines](crate::machines), and to be set before
    /// [`template`](Process::template).
    #[doc(alias = "connect_timeout")]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// If nothing has come from the other side for `after`, it is pinged; if nothing has come for `dead`, the
    /// connection is given up, and its children end with [`Disconnected`](crate::ErrorKind::Disconnected). Both
    /// count from what came last, so `dead` must be longer than `after`, or starts fail. Default: 15 and 45 seconds;
    /// [`Duration::MAX`] is never.
    ///
    /// The other side waits ten minutes before it ends its children, so that a parent that is stopped, perhaps in a
    /// debugger, keeps them.
    ///
    /// Only for what connects to [other machines](crate::machines), and to be set before
    /// [`template`](Process::template).
    #[doc(alias = "keepalive")]
    pub fn ping(mut self, after: Duration, dead: Duration) -> Self {
        self.ping = Some((after, dead));
        self
    }

    /// What it is called in statistics and errors: the whole command line, where that says more.
    pub(crate) fn label(&self) -> String {
        let words = match &self.target {
            _ if self.label.is_some() => return self.label.clone().unwrap_or_default(),
            Target::Template(forker) => return forker.label(),
            Target::Command(program, _) => [program].into_iter().chain(&self.args),
            _ => return self.to_string(),
        };
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        let line: String = words.join(" ").escape_debug().collect();
        match line.char_indices().nth(LONGEST_LABEL) {
            None => format!("`{line}`"),
            Some((end, _)) => format!("`{}..`", &line[..end]),
        }
    }

    /// Calls it so.
    pub(crate) fn labelled(mut self, label: &str) -> Self {
        self.label = Some(label.to_owned());
        self
    }

    /// Starts what carries a connection.
    pub(crate) fn start_carrier(&self) -> Result<Transport, Error> {
        self.check()?;
        self.check_start()?;
        let transport = match &self.target {
            Target::Connect(connector, _) => connector.connect().and_then(|fd| {
                let input = sys::above_standard(fd)?;
                let output = input.try_clone()?;
                Ok(Transport {
                    input,
                    output,
                    command: None,
                })
            }),
            _ => self.start_command(),
        };
        transport.map_err(|error| self.cannot_start(&error))
    }

    fn start_command(&self) -> io::Result<Transport> {
        let (stdin, output) = pipe()?;
        let (input, stdout) = pipe()?;
        let (stderr, writer) = io::pipe()?;
        let fds = [
            (super::launch::duplicate(stdin)?, 0),
            (super::launch::duplicate(stdout)?, 1),
            (super::launch::duplicate(writer)?, 2),
        ];
        let stderr = sys::above_standard(stderr)?.into();
        let pid = self.execute(&fds, None)?;
        let leads_group = self.group != Group::Parents;
        let child = Child::new(pid, leads_group, None, None, Arc::default())?;
        Ok(Transport {
            input,
            output,
            command: Some(CarrierCommand { child, stderr }),
        })
    }

    /// How long the other side may take to greet.
    pub(crate) fn patience_or_default(&self) -> Duration {
        self.patience.unwrap_or(PATIENCE)
    }

    /// See [`Process::ping`].
    pub(crate) fn ping_or_default(&self) -> (Duration, Duration) {
        self.ping.unwrap_or(PING)
    }

    /// What it is held to.
    pub(crate) fn settings(&self) -> Arc<super::Settings> {
        Arc::clone(&self.settings)
    }

    /// Whether its standard error is this process's.
    pub(crate) fn inherits_stderr(&self) -> bool {
        self.stderr.is_inherit()
    }

    /// Whether this process is to read its standard output.
    pub(crate) fn captures_stdout(&self) -> bool {
        self.stdout.is_capture()
    }

    /// Whether this process is to read its standard error.
    pub(crate) fn captures_stderr(&self) -> bool {
        self.stderr.is_capture()
    }

    /// What the other side is told about how to start it. `captured` are the channels of its output.
    pub(crate) fn start_order(&self, base: u32, captured: [Option<u32>; 2]) -> StartOrder<'_> {
        // Those of a command are its own.
        let connects = self.connects();
        StartOrder {
            base,
            stdout: self.stdout.outlet(captured[0]),
            stderr: self.stderr.outlet(captured[1]),
            group: match self.group {
                _ if connects => FarGroup::Own,
                Group::Own => FarGroup::Own,
                Group::Parents => FarGroup::Relays,
                Group::Session => FarGroup::Session,
            },
            outlives: self.outlive,
            dir: self.dir.as_deref().filter(|_| !connects),
        }
    }

    /// This process as another side wants it started.
    pub(crate) fn as_ordered(&self, order: &StartOrder<'_>) -> Self {
        let stdio = |outlet| match outlet {
            Outlet::Inherit => Stdio::inherit(),
            Outlet::Null => Stdio::null(),
            Outlet::Channel(_) => Stdio::capture(),
        };
        let mut process = self.clone();
        process.stdout = stdio(order.stdout);
        process.stderr = stdio(order.stderr);
        process.group = match order.group {
            FarGroup::Own => Group::Own,
            FarGroup::Relays => Group::Parents,
            FarGroup::Session => Group::Session,
        };
        process.outlive = order.outlives;
        if let Some(dir) = order.dir {
            process.dir = Some(dir.to_owned());
        }
        process
    }

    /// The running program, with the arguments that this process has got.
    pub(crate) fn with_own_args(self) -> Self {
        match self.target {
            Target::ThisProgram(_) => self.args(std::env::args_os().skip(1)),
            _ => self,
        }
    }

    /// Adds messages that it is sent before it serves.
    pub(crate) fn prepared_by(mut self, messages: Vec<Vec<u8>>) -> Self {
        self.prepared = messages;
        self
    }

    /// What it is sent as a template on another machine: how much memory is put into huge pages, and the messages.
    pub(crate) fn far_preparations(&self) -> Result<(u64, Vec<Vec<u8>>), Error> {
        let mut process = self.clone();
        process.is_template = true;
        // The message that makes it one is the other side's.
        let messages = process.preparations()?.into_iter().skip(1);
        let messages = messages.map(|body| body.into_vec()).collect();
        Ok((self.huge_pages.unwrap_or(super::HUGE_PAGES), messages))
    }
}

impl Stdio {
    fn outlet(&self, captured: Option<u32>) -> Outlet {
        match captured {
            Some(channel) => Outlet::Channel(channel),
            None if self.is_inherit() => Outlet::Inherit,
            None => Outlet::Null,
        }
    }
}

/// A pipe, none of whose ends has the number of a standard descriptor.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer): (PipeReader, PipeWriter) = io::pipe()?;
    Ok((sys::above_standard(reader)?, sys::above_standard(writer)?))
}

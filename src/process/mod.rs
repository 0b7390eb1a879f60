//! Ways to get a child: a description that can be started any number of times.

mod child;
mod launch;
pub(crate) mod marker;
mod stdio;

pub(crate) use child::Child;
pub(crate) use launch::Launched;
pub use stdio::Stdio;
pub(crate) use stdio::{Lines, StderrCallback, Tail};

use crate::codec::{Argument, Octets, Output, Strings};
use crate::wire::Plain;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A description of how to get a child, and what to do to it before it serves.
///
/// [`Worker::run`](crate::Worker::run) returns the one of this very program. Nothing is started
/// until [`rpc`](Process::rpc) is: any number of times, each a new child. Cloning clones the
/// description.
///
/// Options that say nothing of a stream (arguments, environment, directory, standard error) are
/// ignored where the child is a [`stream`](Process::stream).
///
/// # What a child inherits
///
/// Standard input is the connection, or `/dev/null` once it serves; standard output and error are
/// the parent's unless told otherwise; no other descriptor is open. Signals have their default
/// dispositions and none is blocked. It leads a process group of its own, so Ctrl-C reaches the
/// parent only, which decides. When the parent is gone, however it went, the child goes too: an
/// idle one exits, a busy one is killed, unless it may [outlive](Process::outlive_parent) it.
///
/// # Examples
///
/// ```no_run
/// use offspring::{Process, Stdio};
///
/// let rpc = Process::exe("/usr/lib/thumbnailer")
///     .arg("--quiet")
///     .env("TMPDIR", "/var/tmp")
///     .stderr(Stdio::lines(|pid, line| eprintln!("thumbnailer {pid}: {line}")))
///     .rpc("resize")
///     .start()?;
/// # Ok::<(), offspring::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a description starts nothing; call rpc() and start()"]
pub struct Process {
    target: Target,
    args: Vec<OsString>,
    env_clear: bool,
    /// Changes to the inherited environment, by name; `None` takes a variable away.
    env: Vec<(OsString, Option<OsString>)>,
    dir: Option<PathBuf>,
    stderr: Stdio,
    outlive: bool,
    /// Names, and arguments as they travel.
    setups: Vec<(String, Vec<u8>)>,
}

/// What is started.
#[derive(Debug, Clone)]
enum Target {
    /// The program that is running.
    ThisProgram,
    /// The program that is running is a test harness, and this the test to run.
    Test(String),
    /// A program that serves a [`Worker`](crate::Worker).
    Exe(PathBuf),
    /// A program that speaks a plain mode.
    Command(Plain, OsString),
    /// Nothing: the other end of this, until it is taken.
    Stream(Plain, Arc<Mutex<Option<OwnedFd>>>),
}

impl Process {
    fn new(target: Target) -> Self {
        Process {
            target,
            args: Vec::new(),
            env_clear: false,
            env: Vec::new(),
            dir: None,
            stderr: Stdio::default(),
            outlive: false,
            setups: Vec::new(),
        }
    }

    /// This program. It runs from `main` again, up to [`Worker::run`](crate::Worker::run).
    pub(crate) fn this_program() -> Self {
        Process::new(Target::ThisProgram)
    }

    /// This program, which is a test harness, running this one test.
    pub(crate) fn test(name: String) -> Self {
        Process::new(Target::Test(name))
    }

    /// Another program, which serves a [`Worker`](crate::Worker). A relative path is taken from
    /// the parent's current directory; `PATH` is not searched.
    pub fn exe(path: impl AsRef<Path>) -> Self {
        Process::new(Target::Exe(path.as_ref().to_owned()))
    }

    /// Any command that speaks a plain mode on its standard input and output, which are one
    /// socket. It is searched for in the parent's `PATH` if it has no slash.
    ///
    /// Such a child knows nothing of setups, and is not killed if the parent is: it sees the end
    /// of its input.
    pub fn command(plain: Plain, program: impl AsRef<OsStr>) -> Self {
        Process::new(Target::Command(plain, program.as_ref().to_owned()))
    }

    /// Whatever is at the other end of a connected stream socket, in a plain mode. There is one
    /// such peer: this description can be started once, all its clones together.
    ///
    /// # Examples
    ///
    /// ```
    /// use offspring::{Plain, Process};
    /// use std::io::{Read, Write};
    /// use std::os::unix::net::UnixStream;
    ///
    /// let (near, mut far) = UnixStream::pair()?;
    /// let rpc = Process::stream(Plain::Ordered, near).rpc("peer").start()?;
    /// let reply = rpc.call(["ping"]).start();
    ///
    /// let mut request = [0; 9];
    /// far.read_exact(&mut request)?;
    /// assert_eq!(&request, b"\0\0\0\x05\x04ping");
    /// far.write_all(b"\0\0\0\x01\0\0\0\x05\x04pong")?;
    ///
    /// assert_eq!(reply.wait()?, ["pong"]);
    /// # Ok::<(), offspring::BoxError>(())
    /// ```
    pub fn stream(plain: Plain, socket: impl Into<OwnedFd>) -> Self {
        Process::new(Target::Stream(
            plain,
            Arc::new(Mutex::new(Some(socket.into()))),
        ))
    }

    /// Adds an argument to the command line. Default: none.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments to the command line.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable. Default: the parent's environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.change_env(name.as_ref(), Some(value.as_ref().to_owned()));
        self
    }

    /// Takes an environment variable away.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.change_env(name.as_ref(), None);
        self
    }

    /// Takes all environment variables away, also those set before.
    pub fn env_clear(mut self) -> Self {
        self.env_clear = true;
        self.env.clear();
        self
    }

    /// The directory the child starts in. Default: the parent's.
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// What becomes of the child's standard error. Default: [`Stdio::inherit`].
    pub fn stderr(mut self, stderr: Stdio) -> Self {
        self.stderr = stderr;
        self
    }

    /// Lets a busy child finish its work when the parent is gone, instead of being killed. It
    /// exits when it looks for the next request. Default: it does not live on.
    pub fn outlive_parent(mut self) -> Self {
        self.outlive = true;
        self
    }

    /// Runs the setup of that name in the child, with these strings, before it serves; after the
    /// ones added before. For what the original has as `init`, `eval`, `require` and `send_arg`.
    ///
    /// A setup that fails, or that the child does not have, is a start error of the kind
    /// [`Setup`](crate::ErrorKind::Setup).
    pub fn setup(
        mut self,
        name: impl Into<String>,
        strings: impl Argument<Strings, Octets>,
    ) -> Self {
        let mut output = Output::default();
        strings
            .encode_to(&mut output)
            .expect("octet strings can always be encoded");
        self.setups.push((name.into(), output.into_vec()));
        self
    }

    /// The setups in order: names, and arguments as they travel.
    pub(crate) fn setups(&self) -> &[(String, Vec<u8>)] {
        &self.setups
    }

    pub(crate) fn stderr_callback(&self) -> Option<StderrCallback> {
        self.stderr.callback()
    }

    /// Where a variable is among the changes, or where it is to be put.
    fn find_env(&self, name: &OsStr) -> Result<usize, usize> {
        self.env
            .binary_search_by(|(other, _)| other.as_os_str().cmp(name))
    }

    fn change_env(&mut self, name: &OsStr, value: Option<OsString>) {
        match self.find_env(name) {
            Ok(at) => self.env[at].1 = value,
            Err(at) => self.env.insert(at, (name.to_owned(), value)),
        }
    }

    /// The plain mode of the peer, if it has one.
    pub(crate) fn plain(&self) -> Option<Plain> {
        match self.target {
            Target::Command(plain, _) | Target::Stream(plain, _) => Some(plain),
            Target::ThisProgram | Target::Test(_) | Target::Exe(_) => None,
        }
    }
}

/// What is started, for messages.
impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::ThisProgram => f.write_str("this program"),
            Target::Test(name) => write!(f, "this test binary's `{name}`"),
            Target::Exe(path) => write!(f, "`{}`", path.display()),
            Target::Command(_, program) => write!(f, "`{}`", program.display()),
            Target::Stream(..) => f.write_str("the stream"),
        }
    }
}

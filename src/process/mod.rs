//! Ways to get a child, as a description that can be started any number of times.

mod carried;
mod child;
mod diagnosis;
mod group;
mod interrupt;
mod launch;
mod limit;
mod refusal;
mod remote;
mod settings;
mod setup;
mod stdio;
mod template_order;

pub(crate) use carried::{Connector, FarStarter, Transport};
pub(crate) use child::{Child, ForkedChild, Noted};
pub(crate) use diagnosis::lack_of_processes;
pub use group::Group;
pub(crate) use interrupt::{CopyWait, Interrupt};
pub(crate) use launch::Launched;
pub use limit::Limit;
pub(crate) use remote::{Ended, Remote, RemoteEnd};
pub(crate) use settings::{Settings, apply_settings};
pub(crate) use setup::Setup;
pub use stdio::Stdio;
pub(crate) use stdio::{Lines, OutputCallback, Tail, escape};
pub(crate) use template_order::{CopyGroup, ForkOrder, TemplateOrder};

use crate::codec::Argument;
use crate::error::Error;
use crate::fd::Reach;
use crate::service::{IntoService, Signature};
use crate::wire::{Body, Plain, ToChild};
use settings::Setting;
use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::OwnedFd;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A description of how to get a child, and how to set it up before it serves.
///
/// [`Worker::run`](crate::Worker::run) returns the description of the running program. Nothing is
/// started until `start` is called on what [`rpc`](Process::rpc) returns; each start makes a new
/// child. Cloning copies the description.
///
/// What a kind of child cannot do is an error at its start,
/// [`Unsupported`](crate::ErrorKind::Unsupported), which names the option: a
/// [`stream`](Process::stream) has no arguments, environment and the like, as nothing is executed, and a
/// plain [`command`](Process::command) has no setups, no umask, and no standard output but the connection.
///
/// # What a child inherits
///
/// Standard input is the connection, or `/dev/null` once the child serves; standard output and
/// error are the parent's unless configured otherwise; no other descriptor is open. Environment,
/// directory, [limits](Process::limit), umask, CPUs and the like are the parent's, too, unless set.
/// The child leads its own process group, so Ctrl-C reaches only the parent, which decides what to
/// do, unless it is [told otherwise](Process::group). When the parent ends, for whatever reason, the
/// child ends too: an idle one exits, a busy one is killed, unless it may
/// [outlive](Process::outlive_parent) the parent.
///
/// Signals have their default dispositions, and none is blocked but SIGTSTP, SIGTTIN and SIGTTOU,
/// with which a terminal stops processes: they are blocked until the program is executed, and a
/// [command](Process::command) keeps them blocked. A worker discards those that came, and
/// from [`run`](crate::Worker::run) on blocks none, but ignores SIGTTIN and SIGTTOU.
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
    /// What it speaks, if it is no worker.
    plain: Option<Plain>,
    args: Vec<OsString>,
    env_clear: bool,
    /// Changes to the inherited environment, by name; `None` removes a variable.
    env: Vec<(OsString, Option<OsString>)>,
    dir: Option<PathBuf>,
    stdout: Stdio,
    stderr: Stdio,
    group: Group,
    outlive: bool,
    settings: Arc<Settings>,
    /// Whether it is to be copied when it has run its setups.
    is_template: bool,
    /// See [`Process::huge_pages`].
    huge_pages: Option<u64>,
    setups: Vec<Setup>,
    /// What else it is sent before it serves, as messages.
    prepared: Vec<Vec<u8>>,
    /// What it is called, if not as it is started.
    label: Option<String>,
    patience: Option<Duration>,
    ping: Option<(Duration, Duration)>,
}

/// See [`Process::huge_pages`].
const HUGE_PAGES: u64 = 64 << 20;

/// Where in the source of the program a function is called.
pub(crate) type Place = &'static Location<'static>;

/// What to start.
#[derive(Debug, Clone)]
enum Target {
    /// The running program, up to this call of `run`.
    ThisProgram(Place),
    /// The running program, which is a test harness, with this test, up to this call of
    /// `run_in_test`.
    Test(String, Place),
    /// A program that serves a [`Worker`](crate::Worker).
    Exe(PathBuf),
    /// A command that speaks a plain mode, or reaches a worker.
    Command(OsString, &'static dyn FarStarter),
    /// What makes a connection to a worker.
    Connect(Connector, &'static dyn FarStarter),
    /// No program: the peer is at the other end of this socket. `None` once started.
    Stream(Arc<Mutex<Option<OwnedFd>>>),
    /// A process that is to be copied.
    Template(Arc<dyn Forker>),
}

/// What starts a template, and has it make copies.
pub(crate) trait Forker: fmt::Debug + Send + Sync {
    /// Makes a copy of the template, which is started if it is not there. Waits for it as long as this says.
    fn launch(&self, copy: &Process, wait: &CopyWait) -> Result<Launched, Error>;

    /// What its copies are called in statistics and errors.
    fn label(&self) -> String;

    /// Whether descriptors can be sent to its copies.
    fn reach(&self) -> Reach;

    /// What makes a template of a copy that is on another machine.
    fn far_starter(&self) -> Option<&'static dyn FarStarter>;

    fn as_any(&self) -> &dyn Any;

    /// Starts the template, if it is not there, and waits until it has run its setups.
    fn warm(&self) -> Result<(), Error>;
}

/// Why there is no copy.
pub(crate) enum ForkError {
    /// The template has died since it has run its setups, and may be started again.
    Died(Error),
    Other(Error),
}

impl Process {
    fn new(target: Target) -> Self {
        Process {
            target,
            plain: None,
            args: Vec::new(),
            env_clear: false,
            env: Vec::new(),
            dir: None,
            stdout: Stdio::default(),
            stderr: Stdio::default(),
            group: Group::default(),
            outlive: false,
            settings: Arc::default(),
            is_template: false,
            huge_pages: None,
            setups: Vec::new(),
            prepared: Vec::new(),
            label: None,
            patience: None,
            ping: None,
        }
    }

    /// The running program. The child runs from `main` up to [`Worker::run`](crate::Worker::run),
    /// called at this place.
    pub(crate) fn this_program(place: Place) -> Self {
        Process::new(Target::ThisProgram(place))
    }

    /// The running program, which is a test harness, running this one test.
    pub(crate) fn test(name: String, place: Place) -> Self {
        Process::new(Target::Test(name, place))
    }

    /// Another program, which serves a [`Worker`](crate::Worker). A relative path is resolved
    /// against the parent's current directory; `PATH` is not searched.
    ///
    /// # Examples
    ///
    /// ```
    /// use offspring::{Process, Worker};
    ///
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let _me = Worker::new()
    ///     .function("greet", |name, _caller| Ok(format!("hello {name}")))
    ///     .run();
    ///
    /// let program = std::env::current_exe()?; // in place of another one
    /// let rpc = Process::exe(program).rpc("greet").start()?;
    /// assert_eq!(rpc.call("Alice").wait()?, ["hello Alice"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn exe(path: impl AsRef<Path>) -> Self {
        Process::new(Target::Exe(path.as_ref().to_owned()))
    }

    /// The peer at the other end of a connected stream socket: a child that another description has turned
    /// [into a stream](Process::into_stream), or, with [`plain`](Process::plain), any program. As there is only
    /// one such peer, this description and all its clones can be started once in total.
    ///
    /// An adopted child can be given setups and limits. If it is busy when the process that has adopted it ends, it
    /// is killed, unless it may [outlive](Process::outlive_parent) its parent. It has no process id here, so all
    /// calls that it leaves unanswered count as [begun](crate::Phase::Begun).
    ///
    /// # Examples
    ///
    /// ```
    /// use offspring::{Plain, Process};
    /// use std::io::{Read, Write};
    /// use std::os::unix::net::UnixStream;
    ///
    /// let (near, mut far) = UnixStream::pair()?;
    /// let rpc = Process::stream(near).plain(Plain::Ordered).rpc("peer").start()?;
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
    pub fn stream(socket: impl Into<OwnedFd>) -> Self {
        let socket = Arc::new(Mutex::new(Some(socket.into())));
        Process::new(Target::Stream(socket))
    }

    /// The peer serves no [`Worker`](crate::Worker), but speaks a mode that is easily written in any language.
    /// A [command](Process::command) without one reaches a worker; a [stream](Process::stream) is one.
    pub fn plain(mut self, plain: Plain) -> Self {
        self.plain = Some(plain);
        self
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

    /// Sets an environment variable. Default: the parent's environment. A name that is empty or has a `=`
    /// is an error at the start.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new()
    ///     .function("zone", |_request, _caller| Ok(std::env::var("TZ")?))
    ///     .run();
    /// let rpc = me.env("TZ", "UTC").rpc("zone").start()?;
    /// assert_eq!(rpc.call(()).wait()?, ["UTC"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.change_env(name.as_ref(), Some(value.as_ref().to_owned()));
        self
    }

    /// Removes an environment variable.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.change_env(name.as_ref(), None);
        self
    }

    /// Removes all environment variables, including those set before.
    pub fn env_clear(mut self) -> Self {
        self.env_clear = true;
        self.env.clear();
        self
    }

    /// Sets the directory the child starts in. Default: the parent's.
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Sets which process group and session the child is in. Default: [`Group::Own`].
    pub fn group(mut self, group: Group) -> Self {
        self.group = group;
        self
    }

    /// Sets where a worker's standard output goes. Default: [`Stdio::inherit`], the parent's. Errors
    /// do not contain it, so that [`Stdio::capture`] only discards it.
    ///
    /// A plain [`command`](Process::command) has the connection there: to set this for it is an error
    /// at its start.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// use offspring::{Stdio, Worker};
    ///
    /// let me = Worker::new()
    ///     .function("greet", |request, _caller| {
    ///         println!("greeting {request}");
    ///         Ok(format!("hello {request}"))
    ///     })
    ///     .run();
    /// let (send, lines) = std::sync::mpsc::channel();
    /// let rpc = me
    ///     .stdout(Stdio::lines(move |_pid, line| send.send(line.to_owned()).unwrap()))
    ///     .rpc("greet")
    ///     .start()?;
    /// assert_eq!(rpc.call("Alice").wait()?, ["hello Alice"]);
    /// assert_eq!(lines.recv()?, "greeting Alice");
    /// # Ok(())
    /// # }
    /// ```
    pub fn stdout(mut self, stdout: Stdio) -> Self {
        self.stdout = stdout;
        self
    }

    /// Sets where the child's standard error goes. Default: [`Stdio::inherit`], the parent's.
    pub fn stderr(mut self, stderr: Stdio) -> Self {
        self.stderr = stderr;
        self
    }

    /// Lets a busy child finish its work when the parent ends, instead of being killed: it exits when it
    /// would read its next request. Default: a busy child is killed.
    pub fn outlive_parent(mut self) -> Self {
        self.outlive = true;
        self
    }

    /// Limits what the child may have of something. Another limit of the same resource replaces it.
    /// Default: the parent's limits.
    ///
    /// A worker applies its limits in [`run`](crate::Worker::run), before setups; to a plain
    /// [command](Process::command) the parent does as soon as it is started. What cannot be applied is an
    /// error that names it, of the kind [`Spawn`](crate::ErrorKind::Spawn). For a command, `start()`
    /// returns it; for a worker it ends the start as a setup that fails does. To raise a hard limit takes
    /// privileges. The same holds for `nice`, `umask`, `oom_score_adj` and `cpus`.
    ///
    /// # Examples
    ///
    /// ```
    /// use offspring::{Limit, Worker};
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = Worker::new()
    ///     .function("search", |_request, _caller| {
    ///         while std::hint::black_box(true) {}
    ///         Ok(())
    ///     })
    ///     .run();
    /// let limited = me.limit(Limit::CpuTime(Duration::from_secs(1))).limit(Limit::Core(0));
    /// let error = limited.rpc("search").start()?.call(()).wait().unwrap_err().to_string();
    /// assert!(error.contains("killed by SIGXCPU, perhaps because of Process::limit(Limit::CpuTime(1s))"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn limit(self, limit: Limit) -> Self {
        self.set(Setting::limit(limit))
    }

    /// Sets the child's nice value, from -20, which gets the most of a busy machine, to 19: see
    /// setpriority(2). To lower it takes privileges. Default: the parent's.
    pub fn nice(self, nice: i32) -> Self {
        self.set(Setting::nice(nice))
    }

    /// Sets the permissions that files created by the child are denied, such as `0o077`, up to `0o777`:
    /// see umask(2). Default: the parent's.
    ///
    /// A plain [command](Process::command) cannot have it: only a process itself can set it.
    pub fn umask(self, mask: u32) -> Self {
        self.set(Setting::umask(mask))
    }

    /// Sets how likely the kernel kills the child when memory runs out, from -1000, never, to 1000, first:
    /// see proc_pid_oom_score_adj(5). To lower it takes privileges. Default: the parent's.
    ///
    /// Children with a high one protect their parent. A plain [command](Process::command) whose program may
    /// be executed but not read is refused it.
    pub fn oom_score_adj(self, adjustment: i32) -> Self {
        self.set(Setting::oom_score_adj(adjustment))
    }

    /// Sets which CPUs the child runs on, by their numbers: see sched_setaffinity(2). A CPU that does not
    /// exist, or that the child may not run on, is an error at the start. Default: the parent's.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new()
    ///     .function("cores", |_request, _caller| {
    ///         Ok(std::thread::available_parallelism()?.to_string())
    ///     })
    ///     .run();
    /// assert_eq!(me.cpus([0]).rpc("cores").start()?.call(()).wait()?, ["1"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn cpus(self, cpus: impl IntoIterator<Item = usize>) -> Self {
        self.set(Setting::cpus(&cpus.into_iter().collect::<Vec<_>>()))
    }

    fn set(mut self, setting: Setting) -> Self {
        Arc::make_mut(&mut self.settings).set(setting);
        self
    }

    /// Runs this setup in the child, with this request, before it serves. Setups run in the order in which
    /// they were added. In Perl's `AnyEvent::Fork` and `AnyEvent::Fork::RPC` they are `require`, `eval`, `send_arg`
    /// and `init`.
    ///
    /// A setup that fails, or that the child does not have, is a start error of the kind
    /// [`Setup`](crate::ErrorKind::Setup), and so is a request that cannot be encoded, or that has more
    /// than a mebibyte: pass what is long in a call or in a file. Plain peers have no setups: that is an
    /// error of the kind [`Unsupported`](crate::ErrorKind::Unsupported).
    ///
    /// # Examples
    ///
    /// ```
    /// use offspring::{ErrorKind, Plain, Process};
    ///
    /// let cat = Process::command("cat").plain(Plain::Tagged);
    /// let process = cat.setup("drop privileges", ());
    /// let error = process.rpc("cat").start().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Unsupported);
    /// assert!(error.to_string().contains("setup()"));
    /// ```
    pub fn setup<'r, S: IntoService>(
        mut self,
        service: S,
        request: impl Argument<<S::Service as Signature>::Request<'r>, <S::Service as Signature>::Codec>,
    ) -> Self {
        self.setups
            .push(Setup::new(&service.into_service(), request));
        self
    }

    /// Has the memory of a [template](Process::template) put into huge pages after its setups, if it is this many
    /// bytes or more: to be set before `template()`. Default: 64 MiB, from which on a copy would take longer than
    /// to execute a program. 0 is always, [`u64::MAX`] never.
    ///
    /// fork(2) copies the tables of pages. With small ones, that takes some 30 microseconds for each mebibyte; with
    /// huge ones next to nothing. To change them takes some 3 milliseconds a mebibyte, once, so it pays for a
    /// hundred copies and more. Sharing does not suffer: a page that is written to is split. It needs Linux 6.1
    /// (`MADV_COLLAPSE`, madvise(2)); where there are no huge pages, nothing happens.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// # let me = offspring::Worker::new()
    /// #     .setup("load", |_| Ok(()))
    /// #     .function("lookup", |request, _caller| Ok(request))
    /// #     .run();
    /// let few = me.setup("load", ()).huge_pages(u64::MAX).template(); // for a few copies only
    /// let rpc = few.rpc("lookup").start()?;
    /// # rpc.finish()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn huge_pages(mut self, at_least: u64) -> Self {
        self.huge_pages = Some(at_least);
        self
    }

    /// A command.
    pub(crate) fn of_command(program: &OsStr, starter: &'static dyn FarStarter) -> Self {
        Process::new(Target::Command(program.to_owned(), starter))
    }

    /// What makes a connection.
    pub(crate) fn of_connector(connector: Connector, starter: &'static dyn FarStarter) -> Self {
        Process::new(Target::Connect(connector, starter))
    }

    /// What starts it, if it connects to another machine, or may.
    pub(crate) fn far_starter(&self) -> Option<&'static dyn FarStarter> {
        match &self.target {
            Target::Command(_, starter) if self.plain.is_none() => Some(*starter),
            Target::Connect(_, starter) => Some(*starter),
            _ => None,
        }
    }

    /// What makes a template of it, if it is on another machine.
    pub(crate) fn starter_of_templates(&self) -> Option<&'static dyn FarStarter> {
        self.far_starter().or_else(|| self.forker()?.far_starter())
    }

    /// Whether its start makes a connection to another machine.
    pub(crate) fn connects(&self) -> bool {
        self.far_starter().is_some()
    }

    /// The messages that prepare a child, in order.
    ///
    /// # Errors
    ///
    /// Why a child cannot be asked for a setup.
    pub(crate) fn preparations(&self) -> Result<Vec<Body>, Error> {
        let settings = self.settings.encode();
        let settings = settings.map(|settings| ToChild::Settings(&settings).encode());
        let huge_pages = self.huge_pages.unwrap_or(HUGE_PAGES);
        let template = ToChild::Template { huge_pages };
        let template = self.is_template.then(|| template.encode());
        let is_far = self.reach() == Reach::Far && !self.is_template;
        let far = is_far.then(|| ToChild::Far.encode());
        let messages = template.into_iter().chain(far).chain(settings);
        let messages = messages.chain(self.prepared.iter().cloned());
        let mut messages: Vec<_> = messages.map(Body::from).collect();
        for setup in &self.setups {
            messages.push(setup.message(self.reach())?);
        }
        Ok(messages)
    }

    pub(crate) fn stdout_callback(&self) -> Option<OutputCallback> {
        self.stdout.callback()
    }

    pub(crate) fn stderr_callback(&self) -> Option<OutputCallback> {
        self.stderr.callback()
    }

    /// Where a variable is among the changes, or where it should be inserted.
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

    /// Where in its source the child is to be served. Another program may do so anywhere.
    fn place(&self) -> Option<Place> {
        match self.target {
            Target::ThisProgram(place) | Target::Test(_, place) => Some(place),
            Target::Command(..)
            | Target::Connect(..)
            | Target::Stream(_)
            | Target::Exe(_)
            | Target::Template(_) => None,
        }
    }

    /// Whether descriptors can be sent to it.
    pub(crate) fn reach(&self) -> Reach {
        match &self.target {
            _ if self.plain.is_some() => Reach::Plain,
            Target::Command(..) | Target::Connect(..) => Reach::Far,
            Target::Template(forker) => forker.reach(),
            _ => Reach::Near,
        }
    }

    /// The plain mode of the peer, if it uses one.
    pub(crate) fn plain_mode(&self) -> Option<Plain> {
        self.plain
    }

    /// The description of this process as a template, which is started by others.
    pub(crate) fn into_template(mut self) -> Self {
        self.is_template = true;
        self
    }

    /// Copies of a template.
    pub(crate) fn copy_of(forker: Arc<dyn Forker>) -> Self {
        Process::new(Target::Template(forker))
    }

    /// The template, if this is a copy of one.
    pub(crate) fn forker(&self) -> Option<&dyn Forker> {
        match &self.target {
            Target::Template(forker) => Some(&**forker),
            _ => None,
        }
    }
}

/// Names what is started, for messages.
impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::ThisProgram(_) => f.write_str("this program"),
            Target::Test(name, _) => write!(f, "this test binary's `{name}`"),
            Target::Exe(path) => write!(f, "`{}`", path.display()),
            Target::Command(program, _) => write!(f, "`{}`", program.display()),
            Target::Stream(_) => f.write_str("the stream"),
            Target::Connect(..) => f.write_str("the connection"),
            Target::Template(_) => f.write_str("a copy of the template"),
        }
    }
}

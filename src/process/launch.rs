//! Starting a child from its description.

use super::diagnosis::{Attempt, pause, retry_while_busy};
use super::stdio::{Stdio, StdioKind};
use super::{
    Child, CopyGroup, CopyWait, ForkError, ForkOrder, ForkedChild, Group, Process, Target,
    apply_settings,
};
use crate::error::{Error, ErrorKind};
use crate::fd::Fd;
use crate::sys::{self, ExtraFd, Marker, SharedNote};
use std::ffi::{CString, OsStr, OsString};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::panic::Location;
use std::path::Path;
use std::sync::Arc;

/// A child that was started, and the parent's ends of its descriptors.
pub(crate) struct Launched {
    /// The connection.
    pub(crate) socket: OwnedFd,
    /// The process, unless there is only a connection.
    pub(crate) child: Option<Child>,
    /// The lifeline of a worker that is no child of this process: what is to be sent there, and the other end.
    pub(crate) lifeline: Option<(Fd, PipeWriter)>,
    /// Its standard output, if captured.
    pub(crate) stdout: Option<OwnedFd>,
    /// Its standard error, if captured.
    pub(crate) stderr: Option<OwnedFd>,
}

/// The parent's ends of what a copy of a template has.
struct CopyEnds {
    socket: OwnedFd,
    lifeline: Option<PipeWriter>,
    note: Option<SharedNote>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Process {
    /// Starts the child. Setups and functions are sent to it later.
    /// A copy of a template is waited for.
    pub(crate) fn launch(&self, wait: &CopyWait) -> Result<Launched, Error> {
        self.check()?;
        if let Target::Stream(socket) = &self.target {
            let socket = socket
                .lock()
                .expect("nothing panics under this lock")
                .take();
            return self.adopt(socket);
        }
        self.check_start()?;
        match self.forker() {
            Some(forker) => forker.launch(self, wait),
            None => self.spawn().map_err(|error| self.cannot_start(&error)),
        }
    }

    /// Whether it can be started as it is described.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.refusal() {
            Some(why) => Err(Error::new(ErrorKind::Unsupported, why)),
            None => Ok(()),
        }
    }

    /// Whether this process may start children, and this one's settings are sound.
    pub(crate) fn check_start(&self) -> Result<(), Error> {
        if sys::unserved().is_some() {
            let message = "this process was started as a child and has not called Worker::run(), \
                           so it must not start children; call run() first in main()";
            return Err(Error::new(ErrorKind::NotServing, message));
        }
        if sys::has_childs_socket() {
            let message = "this process was started as a child, but the environment variable \
                           OFFSPRING_CHILD is missing, so it cannot serve, and must not start \
                           children; whatever started it must not clear its environment";
            return Err(Error::new(ErrorKind::NotServing, message));
        }
        match self.settings.fault() {
            Some(fault) => Err(self.cannot_start(&fault)),
            None => Ok(()),
        }
    }

    pub(crate) fn cannot_start(&self, why: &dyn Display) -> Error {
        Error::new(ErrorKind::Spawn, format!("cannot start {self}: {why}"))
    }

    /// Has a template copied. If that dies, and is started again, the descriptors are others: there may be a
    /// copy that has these.
    pub(crate) fn copy_by(
        &self,
        mut fork: impl FnMut(ForkOrder<Fd>) -> Result<ForkedChild, ForkError>,
    ) -> Result<Launched, Error> {
        let mut has_died = false;
        loop {
            let order = self.order_copy();
            let (order, ends) = order.map_err(|error| self.cannot_start(&error))?;
            match fork(order) {
                Ok(forked) => {
                    let leads_group = self.group != Group::Parents;
                    let settings = Arc::clone(&self.settings);
                    let CopyEnds {
                        socket,
                        lifeline,
                        note,
                        stdout,
                        stderr,
                    } = ends;
                    let child = Child::forked(forked, leads_group, lifeline, note, settings);
                    return Ok(Launched {
                        socket,
                        child: Some(child),
                        lifeline: None,
                        stdout,
                        stderr,
                    });
                }
                Err(ForkError::Died(_)) if !has_died => has_died = true,
                Err(ForkError::Died(error) | ForkError::Other(error)) => return Err(error),
            }
        }
    }

    /// What a template is told about a copy, and the parent's ends of that.
    fn order_copy(&self) -> io::Result<(ForkOrder<Fd>, CopyEnds)> {
        let (near, far) = UnixStream::pair()?;
        let (stdout, stdout_reader) = self.stdout.open()?;
        let (stderr, stderr_reader) = self.stderr.open()?;
        let (lifeline_reader, lifeline) = match self.outlive {
            true => (None, None),
            false => {
                let (reader, writer) = lifeline()?;
                (Some(reader), Some(writer))
            }
        };
        // Without one, it is not known what a child that has ended had begun.
        let (note, note_fd) = SharedNote::new().ok().unzip();
        let order = ForkOrder {
            socket: far.into(),
            lifeline: lifeline_reader.map(Fd::from),
            note: note_fd.map(Fd::from),
            stdout: stdout.map(Fd::from),
            stderr: stderr.map(Fd::from),
            group: match self.group {
                Group::Own => CopyGroup::Own,
                Group::Parents => CopyGroup::Join(sys::own_group()),
                Group::Session => CopyGroup::Session,
            },
            dir: self.dir.clone(),
            // 0 is no namespace.
            namespace: sys::pid_namespace().unwrap_or(0),
        };
        let ends = CopyEnds {
            socket: sys::above_standard(near)?,
            lifeline,
            note,
            stdout: stdout_reader,
            stderr: stderr_reader,
        };
        Ok((order, ends))
    }

    fn adopt(&self, socket: Option<OwnedFd>) -> Result<Launched, Error> {
        let error = |message: &str| Error::new(ErrorKind::Spawn, message);
        let socket = socket.ok_or_else(|| {
            error("the stream was already started; a stream can be started only once")
        })?;
        let is_plain = self.plain.is_some();
        if !sys::is_stream_socket(socket.as_fd()) {
            return Err(error("Process::stream() needs a connected stream socket"));
        }
        if !is_plain && !sys::is_unix_socket(socket.as_fd()) {
            let message = "Process::stream() needs the Unix socket that Process::into_stream() has returned; \
                           other peers are Process::plain()";
            return Err(error(message));
        }
        let lifeline = (!is_plain && !self.outlive).then(lifeline).transpose();
        let lifeline = lifeline.map_err(|error| self.cannot_start(&error))?;
        Ok(Launched {
            socket,
            child: None,
            lifeline: lifeline.map(|(reader, writer)| (reader.into(), writer)),
            stdout: None,
            stderr: None,
        })
    }

    fn spawn(&self) -> io::Result<Launched> {
        let (near, far) = UnixStream::pair()?;
        let near = sys::above_standard(near)?;
        let mut fds = vec![(duplicate(far)?, 0)];
        let mut lifeline = None;
        let mut note = None;
        let mut marker = None;
        let mut stdout = None;
        if self.plain.is_some() {
            fds.push((fds[0].0.try_clone()?, 1));
        } else {
            // The harness prints the name of the test that it runs: discard that. The child moves its
            // standard output to its place later.
            let is_test = matches!(self.target, Target::Test(..));
            let (writer, reader) = self.stdout.open()?;
            stdout = reader;
            let mut extras = Vec::new();
            if !self.outlive {
                let (reader, writer) = self::lifeline()?;
                extras.push((duplicate(reader)?, ExtraFd::Lifeline));
                lifeline = Some(writer);
            }
            // Without one, it is not known what a child that has ended had begun.
            if let Ok((ours, fd)) = SharedNote::new() {
                extras.push((duplicate(fd)?, ExtraFd::Note));
                note = Some(ours);
            }
            match writer {
                writer if is_test => {
                    fds.push((null()?, 1));
                    let writer = writer.map_or_else(|| duplicate(sys::standard(1)), Ok);
                    extras.push((writer?, ExtraFd::Stdout));
                }
                Some(writer) => fds.push((writer, 1)),
                None => {}
            }
            // Another program may be one that starts the worker elsewhere, and 0 is no namespace.
            let namespace = || sys::pid_namespace().unwrap_or(0);
            let namespace = matches!(self.target, Target::Exe(_)).then(namespace);
            let place = self.place().map(Location::to_string);
            let mut text = Marker::new(&fds[0].0, namespace, place)?;
            for (fd, which) in extras {
                text.add(which, &fd)?;
                fds.push((fd, which.number()));
            }
            marker = Some(text.to_string());
        }
        let (writer, stderr) = self.stderr.open()?;
        fds.extend(writer.map(|writer| (writer, 2)));
        let pid = self.execute(&fds, marker)?;
        let leads_group = self.group != Group::Parents;
        let settings = Arc::clone(&self.settings);
        let child = Child::new(pid, leads_group, lifeline, note, settings)?;
        if self.plain.is_some()
            && let Some(settings) = self.settings.encode()
            && let Err(error) = apply_settings(&settings, Some(pid))
            && !child.is_ending()
        {
            child.abandon();
            return Err(error);
        }
        Ok(Launched {
            socket: near,
            child: Some(child),
            lifeline: None,
            stdout,
            stderr,
        })
    }

    /// Executes the program with these descriptors. Returns its process id.
    pub(super) fn execute(
        &self,
        fds: &[(OwnedFd, RawFd)],
        marker: Option<String>,
    ) -> io::Result<u32> {
        let fds: Vec<(BorrowedFd<'_>, RawFd)> = fds
            .iter()
            .map(|(fd, number)| (fd.as_fd(), *number))
            .collect();
        let dir = self
            .dir
            .as_deref()
            .map(|dir| c_string(dir.as_os_str()))
            .transpose()?;
        let program = self.program()?;
        let spawn = sys::Spawn {
            program: &c_string(&program)?,
            args: &self.arguments()?,
            env: &self.environment(marker)?,
            dir: dir.as_deref(),
            leads: self.group.leads(),
            fds: &fds,
            close_from: fds.iter().map(|(_, number)| number + 1).fold(3, i32::max),
        };
        let attempt = Attempt {
            program: program.as_bytes().contains(&b'/').then(|| program.as_ref()),
            dir: self.dir.as_deref(),
            is_own: matches!(self.target, Target::ThisProgram(..) | Target::Test(..)),
        };
        let pid = retry_while_busy(|| sys::spawn(&spawn), pause);
        pid.map_err(|error| attempt.explain(error))
    }

    /// The program to execute. It contains a slash, unless `PATH` is to be searched.
    fn program(&self) -> io::Result<OsString> {
        let absolute = |path: &Path| {
            let absolute = std::path::absolute(path);
            let named = absolute.map_err(|error| about("the parent's directory", error));
            named.map(OsString::from)
        };
        match &self.target {
            // Not its path, where there may be another program by now.
            Target::ThisProgram(_) | Target::Test(..) => Ok("/proc/self/exe".into()),
            Target::Exe(path) => absolute(path),
            Target::Command(program, _) if program.as_bytes().contains(&b'/') => {
                absolute(Path::new(program))
            }
            Target::Command(program, _) => Ok(program.clone()),
            Target::Stream(_) | Target::Connect(..) | Target::Template(_) => {
                unreachable!("it is not executed")
            }
        }
    }

    /// The command line.
    fn arguments(&self) -> io::Result<Vec<CString>> {
        let name = match &self.target {
            Target::ThisProgram(_) | Target::Test(..) => {
                std::env::args_os().next().unwrap_or_default()
            }
            Target::Exe(path) => path.clone().into(),
            Target::Command(program, _) => program.clone(),
            Target::Stream(_) | Target::Connect(..) | Target::Template(_) => OsString::new(),
        };
        let mut all = vec![c_string(&name)?];
        if let Target::Test(test, _) = &self.target {
            // Options that both libtest and nextest understand.
            for arg in [test, "--exact", "--nocapture", "--include-ignored"] {
                all.push(c_string(arg.as_ref())?);
            }
        }
        for arg in &self.args {
            all.push(c_string(arg)?);
        }
        Ok(all)
    }

    /// The environment, each entry as `NAME=value`.
    fn environment(&self, marker: Option<String>) -> io::Result<Vec<CString>> {
        let mut all = Vec::new();
        if let Some((name, _)) = self.env.iter().find(|(name, _)| !is_env_name(name)) {
            let name = name.to_string_lossy();
            let message = format!("{name:?} cannot be the name of an environment variable");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let mut add = |name: &OsStr, value: &OsStr| -> io::Result<()> {
            let both = [name.as_bytes(), b"=", value.as_bytes()].concat();
            all.push(c_string(OsStr::from_bytes(&both))?);
            Ok(())
        };
        if !self.env_clear {
            for (name, value) in std::env::vars_os() {
                if self.find_env(&name).is_err() && name != sys::MARKER {
                    add(&name, &value)?;
                }
            }
        }
        for (name, value) in &self.env {
            // The marker of a child that passes on its environment by name is not its children's.
            if let (Some(value), true) = (value, name != sys::MARKER) {
                add(name, value)?;
            }
        }
        if let Some(marker) = marker {
            add(sys::MARKER.as_ref(), marker.as_ref())?;
        }
        Ok(all)
    }
}

impl Stdio {
    /// What the child writes to, unless it inherits that, and what the parent reads, if it does.
    fn open(&self) -> io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
        match &self.0 {
            StdioKind::Inherit => Ok((None, None)),
            StdioKind::Null => Ok((Some(null()?), None)),
            StdioKind::Capture(_) => {
                let (reader, writer) = io::pipe()?;
                Ok((Some(duplicate(writer)?), Some(sys::above_standard(reader)?)))
            }
        }
    }
}

/// The ends of a child's lifeline.
fn lifeline() -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader, sys::above_standard(writer)?.into()))
}

/// A duplicate whose number is above those that a child's descriptors get.
pub(super) fn duplicate(fd: impl AsFd) -> io::Result<OwnedFd> {
    sys::duplicate_above(fd, ExtraFd::LIMIT)
}

fn null() -> io::Result<OwnedFd> {
    let null = File::options().write(true).open("/dev/null");
    duplicate(null.map_err(|error| about("/dev/null", error))?)
}

/// Whether an environment variable can have this name: what has a `=` would be another one.
fn is_env_name(name: &OsStr) -> bool {
    !name.is_empty() && !name.as_bytes().contains(&b'=')
}

/// Adds to an error which file it is about.
fn about(file: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{file}: {error}"))
}

fn c_string(string: &OsStr) -> io::Result<CString> {
    CString::new(string.as_bytes()).map_err(|_| {
        let message = format!("{:?} contains a NUL byte", string.to_string_lossy());
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

//! A template: a process that has run its setups, and is copied by fork(2) when its parent asks for it, or
//! goes on with another connection.
//!
//! Each request has the connection of the copy, and is answered with its pidfd and with a socket on which
//! its end is reported. The template alone can find out how the copy has ended, and reaps it when its parent
//! has closed that socket: until then nobody else gets the copy's process id.

use super::calls::{CallLimits, Lane};
use super::functions::Functions;
use super::request_reader::RequestReader;
use super::serve::without_lifeline;
use super::server::{Server, Stop};
use super::session::Step;
use crate::chain::chain;
use crate::codec::{CodecError, Encode, Octets, Strings};
use crate::fd::Fd;
use crate::process::{CopyGroup, ForkOrder, TemplateOrder, lack_of_processes};
use crate::sys::{
    self, Dispositions, Forked, Interest, Lifeline, OtherThreads, PollSet, SharedNote,
};
use crate::wire::Failure;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

/// How long a thread may be there that has been joined: the kernel takes that long to forget it.
const THREAD_ENDS: Duration = Duration::from_millis(50);
/// How soon something is looked at again that tells no other way when it is over.
const AGAIN: Duration = Duration::from_millis(1);

/// See the module's documentation.
pub(super) struct Template {
    server: Server,
    /// What was done about signals before the setups, where that has changed.
    dispositions: Dispositions,
    others: OtherThreads,
    copies: Vec<CopyWatch>,
}

/// How a template has served.
pub(super) enum Served {
    /// No more copies are wanted.
    Ended,
    /// This process is a copy, with a connection of its own; or with what it lacks.
    Copy(Box<Server>, Option<String>),
    /// This process has another connection.
    Moved(Box<Server>),
}

/// What a parent asks for, and by which id.
type Request = (u32, Result<Strings, CodecError>);

/// What has become of this process.
enum Fate {
    /// It is the template, and answers this.
    Template(Strings),
    /// It is a copy.
    Copy(ForkOrder<OwnedFd>),
    /// It goes on with this connection.
    Moves(OwnedFd),
}

impl Template {
    pub(super) fn new(server: Server, dispositions: Dispositions, others: OtherThreads) -> Self {
        Template {
            server,
            dispositions: dispositions.that_have_changed(),
            others,
            copies: Vec::new(),
        }
    }

    /// Makes copies until no more are wanted. Returns in each of them, too.
    pub(super) fn serve(mut self) -> Result<Served, Stop> {
        let hub = self.server.hub;
        hub.set_limits(CallLimits::returning(usize::MAX));
        loop {
            while let Some((id, request)) = self.next_request()? {
                let begins = hub.begin(Lane::Returning, id);
                begins.map_err(|_| Stop::duplicate(id))?;
                let mut moves_to = None;
                let answered = match self.follow(request) {
                    Ok(Fate::Copy(order)) => return self.become_copy(order),
                    Ok(Fate::Template(reply)) => {
                        hub.reply(id, |output| Octets::encode_owned(reply, output))
                    }
                    Ok(Fate::Moves(socket)) => {
                        // Its parent may be gone as soon as it has the answer.
                        self.server.requests.outlive_parent();
                        moves_to = Some(socket);
                        hub.reply(id, |output| Octets::encode_owned(Strings::new(), output))
                    }
                    Err(message) => Err(Failure::Error {
                        encoded: message.clone().into_bytes(),
                        message,
                    }),
                };
                if let Err(failure) = answered {
                    hub.fail(id, &failure);
                }
                if !hub.flush() {
                    return Err(Stop::cannot_write(hub));
                }
                if let Some(socket) = moves_to {
                    return self.go_on_with(socket);
                }
            }
            if !self.wait()? {
                return Ok(Served::Ended);
            }
        }
    }

    fn next_request(&mut self) -> Result<Option<Request>, Stop> {
        let Server { session, hub, .. } = &mut self.server;
        while let Some(step) = session
            .next(|known| hub.is_open(known))
            .map_err(Stop::protocol)?
        {
            if let Step::Request { id, payload } = step {
                return Ok(Some((id, Strings::decode(payload))));
            }
        }
        Ok(None)
    }

    /// Does what is asked for. The error is a message for the parent.
    fn follow(&mut self, request: Result<Strings, CodecError>) -> Result<Fate, String> {
        let order = request.and_then(TemplateOrder::decode);
        match order.map_err(|error| chain(&error))? {
            TemplateOrder::Copy(order) => self.fork(order),
            TemplateOrder::Move(socket) => Ok(Fate::Moves(socket)),
        }
    }

    fn fork(&mut self, order: ForkOrder<OwnedFd>) -> Result<Fate, String> {
        let (report, parents) = UnixStream::pair().map_err(|error| error.to_string())?;
        // What is buffered would be written by each copy, too.
        let _ = io::stdout().flush();
        sys::flush_c_streams();
        let forked = self.fork_when_alone();
        let explain = |error| lack_of_processes(&error).unwrap_or_else(|| error.to_string());
        let pid = match forked.map_err(explain)? {
            Forked::Copy => return Ok(Fate::Copy(order)),
            Forked::Original(pid) => pid,
        };
        // The copy does the same, and either may be first.
        let _ = match order.group {
            CopyGroup::Own => sys::join_group(pid, 0),
            CopyGroup::Join(group) => sys::join_group(pid, group),
            CopyGroup::Session => Ok(()),
        };
        let pidfd = sys::open_pidfd(pid).map_err(|error| {
            let _ = sys::kill_and_reap(pid);
            format!("there is no pidfd of the copy: {error}")
        })?;
        let pidfd = Fd::from(pidfd);
        self.copies.push(CopyWatch {
            pid,
            pidfd: pidfd.clone(),
            report,
            reported: false,
        });
        Ok(Fate::Template(
            Strings::new().with_fd(pidfd).with_fd(parents),
        ))
    }

    /// Forks this process, if it has no other threads, or has none soon.
    fn fork_when_alone(&self) -> io::Result<Forked> {
        let start = Instant::now();
        loop {
            match sys::fork(self.others) {
                // The system's errors are no matter of threads.
                Err(error) if error.raw_os_error().is_none() && start.elapsed() < THREAD_ENDS => {
                    thread::sleep(AGAIN);
                }
                forked => return forked,
            }
        }
    }

    /// This process is a copy: takes over its own connection, and gives up the template's.
    fn become_copy(self, order: ForkOrder<OwnedFd>) -> Result<Served, Stop> {
        let Template {
            server,
            dispositions,
            copies,
            ..
        } = self;
        drop(copies);
        let functions = leave(server);
        dispositions.restore();
        let mut lack = None;
        let mut check = |what: &str, result: io::Result<()>| {
            if let (Err(error), None) = (result, &lack) {
                lack = Some(format!("{what}: {error}"));
            }
        };
        let joined = match order.group {
            CopyGroup::Own => sys::join_group(0, 0),
            CopyGroup::Join(group) => sys::join_group(0, group),
            CopyGroup::Session => sys::begin_session(),
        };
        check("Process::group()", joined);
        for (number, fd) in [(1, order.stdout), (2, order.stderr)] {
            if let Some(fd) = fd {
                check("its standard output or error", sys::replace(number, fd));
            }
        }
        if let Some(dir) = order.dir {
            let what = format!("Process::current_dir({})", dir.display());
            check(&what, std::env::set_current_dir(dir));
        }
        let connect = || -> io::Result<(Server, Option<String>)> {
            let mut lack = None;
            let lifeline = order.lifeline.and_then(|pipe| {
                let lifeline = Lifeline::new(pipe);
                let lifeline = lifeline.map_err(|error| lack = Some(without_lifeline(&error)));
                lifeline.ok()
            });
            let note = order.note;
            let note = note.map(|fd| SharedNote::sign(&fd, Some(order.namespace)));
            let requests = RequestReader::new(order.socket.try_clone()?, lifeline)?;
            let server = Server::new(None, requests, order.socket, note.transpose()?, functions);
            Ok((server, lack))
        };
        let (server, no_lifeline) = connect().map_err(Stop::connection)?;
        Ok(Served::Copy(Box::new(server), lack.or(no_lifeline)))
    }

    /// Takes over another connection, of whose other end nothing is known. What a parent has to say comes
    /// there.
    fn go_on_with(self, socket: OwnedFd) -> Result<Served, Stop> {
        let functions = leave(self.server);
        let requests = socket.try_clone();
        let requests = requests.and_then(|socket| RequestReader::new(socket, None));
        let requests = requests.map_err(Stop::connection)?;
        let server = Server::new(None, requests, socket, None, functions);
        Ok(Served::Moved(Box::new(server)))
    }

    /// Waits for a request or the end of a copy. Returns false at the end of the requests.
    fn wait(&mut self) -> Result<bool, Stop> {
        let mut set = PollSet::default();
        let Server {
            requests, session, ..
        } = &mut self.server;
        let at = set.add(requests.number(), Interest::Readable);
        for copy in &self.copies {
            copy.add_to(&mut set);
        }
        requests.disarm_lifeline();
        set.wait(None).map_err(Stop::connection)?;
        let mut place = at;
        self.copies.retain_mut(|copy| {
            place += 1;
            !set.is_ready(place) || copy.attend()
        });
        if !set.is_ready(at) {
            return Ok(true);
        }
        let parent_lives = requests.rearm_lifeline(set.is_hung_up(at));
        if !parent_lives.map_err(Stop::connection)? {
            return Ok(false);
        }
        let read = requests.try_read(session);
        match read.map_err(Stop::connection)? {
            Some(n) => self.server.after_read(n),
            None => Ok(true),
        }
    }
}

/// Gives up a connection. Returns what is served on the next one.
fn leave(server: Server) -> Functions {
    let Server { hub, functions, .. } = server;
    // The hub stays where it is, for who may still refer to it.
    sys::give_up(hub.output());
    functions
}

/// A copy that was not reaped.
struct CopyWatch {
    pid: u32,
    pidfd: Fd,
    /// Where its end is reported. The parent closes the other end when it does not use the process id any
    /// more.
    report: UnixStream,
    reported: bool,
}

impl CopyWatch {
    fn add_to(&self, set: &mut PollSet) {
        match self.reported {
            false => set.add(self.pidfd.as_fd().as_raw_fd(), Interest::Readable),
            true => set.add(self.report.as_raw_fd(), Interest::HangUp),
        };
    }

    /// What is waited for has happened. Returns whether there is more to wait for.
    fn attend(&mut self) -> bool {
        if !self.reported {
            match sys::exit_code(self.pidfd.as_fd()) {
                Ok(Some(code)) => {
                    let code = code.to_ne_bytes();
                    let sent = sys::send(&self.report, &[IoSlice::new(&code)], false);
                    self.reported = true;
                    if sent.is_ok() {
                        return true;
                    }
                }
                // It is traced, and its tracer is to let go of it first.
                Ok(None) => {
                    thread::sleep(AGAIN);
                    return true;
                }
                // A setup has arranged for other code to reap it. Nobody knows how it has ended.
                Err(_) => return false,
            }
        }
        sys::reap(self.pid);
        false
    }
}

//! What the handles of one child and the reactor share: the conversation, under one lock.
//!
//! Any thread may write: whoever finds nobody writing takes what is queued and sends it outside of
//! the lock. What the socket does not take is left to the reactor, which alone waits for room.
//! Any thread that waits may read: see [`reader`](super::reader).

use super::reactor::{self, Core, Source, poll_key};
use super::reader::Reader;
use super::slot::{Completion, Ended, Slot, wait_until};
use super::state::Connection;
use super::state::Role;
use crate::StopStage;
use crate::codec::Input;
use crate::error::{Error, ErrorKind, Phase, Refusal};
use crate::process::Child;
use crate::sys::{self, Interest, Registration};
use crate::wire::{self, Body, COMFORTABLE};
use polling::Event;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How much is written at once, at most.
const BATCH: usize = 256 << 10;

/// For how long there is room for many calls after they are gone.
const CALM: Duration = Duration::from_millis(100);

/// For how long a child that was told to go may be waited for without listening to it.
const SOON: Duration = Duration::from_millis(5);

/// Called with the payload of each progress report of a call, by the reactor only.
pub(crate) type ProgressCallback = Arc<Mutex<dyn FnMut(Input<'_>) + Send>>;

/// See the module's documentation.
pub(crate) struct Link {
    state: Mutex<LinkState>,
    /// Notified of everything that threads wait for: room in the queue, `ready`, the end.
    changed: Condvar,
    pub(super) socket: Arc<OwnedFd>,
    pub(super) child: Option<Child>,
    pub(super) reactor: Arc<Core>,
    /// The link's number at the reactor.
    pub(super) key: usize,
    /// Whether the program has callbacks that are not those of calls.
    has_callbacks: bool,
}

/// What [`Link`]'s lock guards.
pub(super) struct LinkState {
    pub(super) connection: Connection<Completion, ProgressCallback>,
    /// Whether the reactor waits for room in the socket.
    pub(super) awaits_room: bool,
    /// Who reads.
    pub(super) role: Role<Arc<Slot>>,
    /// What to read with, while nobody does.
    pub(super) reader: Option<Box<Reader>>,
    /// Whether more may come from the child.
    pub(super) connected: bool,
    /// The socket at the reactor's poller, while the reactor waits for it.
    pub(super) registration: Option<Registration>,
    /// Threads that wait for `changed`.
    pub(super) waiting: usize,
    /// Whether the reactor has been told to look at this link, and has not yet.
    pub(super) attention: bool,
    /// When the reactor looks by itself.
    looks_at: Option<Instant>,
    /// When it gives room back that calls have left, unless they need it again by then.
    trim_at: Option<Instant>,
    pub(super) kill: bool,
    /// By when all is to be over.
    pub(super) stop_by: Option<Instant>,
    shut_down: bool,
    /// Why calls are refused from now on: it ended.
    end: Option<Result<Exit, Error>>,
    /// Whether the last callback has run.
    over: bool,
}

/// A call that was made.
pub(super) struct SubmittedCall {
    pub(super) id: u32,
    /// The reader's role, if the caller waits and it was free.
    pub(super) reader: Option<Box<Reader>>,
    /// Whether this is the only call, if nothing can have come for it yet.
    pub(super) alone: Option<bool>,
}

impl LinkState {
    /// Whether a call of that length would have to wait.
    fn is_full(&self, len: usize) -> bool {
        self.connection.admit(len) == Err(Refusal::Full)
    }

    /// Whether there is something for the reactor to do.
    fn concerns_the_reactor(&self) -> bool {
        // A plain child is told early that nothing more comes, and must go after its last answer.
        let answers_left = self.shut_down && self.connection.live() > 0;
        let closing = self.connection.is_closed() && !answers_left;
        let roomy = self.trim_at.is_none() && self.connection.is_roomy();
        let asked = closing || roomy || self.connection.has_done();
        asked || self.is_due() || self.has_unattended_output()
    }

    /// Whether a call ends before the reactor looks by itself.
    fn is_due(&self) -> bool {
        match (self.connection.deadline(), self.looks_at) {
            (Some(due), Some(looks_at)) => due < looks_at,
            (due, None) => due.is_some(),
            (None, Some(_)) => false,
        }
    }

    /// Whether there is something to write that nobody is at.
    #[inline]
    fn has_unattended_output(&self) -> bool {
        let writer = self.connection.writer();
        let attended = writer.is_writing() || writer.is_closed() || self.awaits_room;
        !attended && writer.unsent() > 0
    }

    /// Gives room back that there was no need of a while ago, and is none now.
    fn trim(&mut self, now: Instant) {
        if !self.connection.is_roomy() {
            self.trim_at = None;
        } else if *self.trim_at.get_or_insert(now + CALM) <= now {
            self.connection.trim();
            self.trim_at = None;
        }
    }

    /// Whether one call only is outstanding, and nothing is left to be taken and sent.
    pub(super) fn is_alone(&self) -> bool {
        self.connection.live() == 1 && self.connection.writer().unsent() == 0
    }
}

/// How a call is made.
pub(crate) struct CallOptions<'a> {
    /// When it ends without an answer.
    pub(crate) deadline: Option<Instant>,
    /// Taken, unless the call is refused.
    pub(crate) progress: &'a mut Option<ProgressCallback>,
    /// Whether it waits for room in the queue.
    pub(crate) may_wait: bool,
    /// Whether the caller is going to wait for the answer: he then sends the request himself, and reads
    /// the answer himself if nobody else does.
    pub(crate) waits: bool,
}

/// How a child ended that had answered everything.
#[derive(Debug, Clone)]
pub struct Exit {
    status: Option<ExitStatus>,
    stage: StopStage,
}

impl Exit {
    pub(crate) fn new(status: Option<ExitStatus>, stage: StopStage) -> Self {
        Exit { status, stage }
    }

    /// Its exit status. `None` if there was no process, or somebody else reaped it.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// How far the parent had to go.
    #[must_use]
    pub fn stage(&self) -> StopStage {
        self.stage
    }
}

/// What the reactor is to do about a link.
pub(super) struct Actions {
    /// Calls whose time is up.
    pub(super) expired: Vec<(Completion, Phase)>,
    /// Of calls that have ended, to be dropped.
    pub(super) done: Vec<ProgressCallback>,
    pub(super) kill: bool,
    /// Whether it has taken too long.
    pub(super) stop: bool,
    /// Whether the child should exit now: all is sent and answered.
    pub(super) close: bool,
    /// Whether there is something to read that a caller left.
    pub(super) handed_off: bool,
    /// Whether the child serves.
    pub(super) ready: bool,
    /// Whether the child reads no more.
    pub(super) broken: bool,
    /// How many calls have not ended.
    pub(super) unanswered: usize,
    /// When to come again.
    pub(super) deadline: Option<Instant>,
}

impl Actions {
    /// These orders, and then others.
    pub(super) fn and_then(mut self, mut more: Actions) -> Actions {
        self.expired.append(&mut more.expired);
        self.done.append(&mut more.done);
        Actions {
            expired: self.expired,
            done: self.done,
            kill: self.kill || more.kill,
            stop: self.stop || more.stop,
            ..more
        }
    }
}

impl Link {
    pub(super) fn new(
        connection: Connection<Completion, ProgressCallback>,
        reader: Box<Reader>,
        laziness: Duration,
        socket: OwnedFd,
        child: Option<Child>,
        reactor: Arc<Core>,
        has_callbacks: bool,
    ) -> Self {
        let key = reactor.new_key();
        Link {
            state: Mutex::new(LinkState {
                connection,
                awaits_room: false,
                role: Role::new(laziness),
                reader: Some(reader),
                connected: true,
                registration: None,
                waiting: 0,
                attention: false,
                looks_at: None,
                trim_at: None,
                kill: false,
                stop_by: None,
                shut_down: false,
                end: None,
                over: false,
            }),
            changed: Condvar::new(),
            socket: Arc::new(socket),
            child,
            reactor,
            key,
            has_callbacks,
        }
    }

    // ---- for handles, on any thread ----

    /// The child's process id, 0 if there is only a stream.
    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::pid)
    }

    /// Makes a call. What is large of the request is taken, and so is the note, unless the call is
    /// refused.
    pub(crate) fn call(
        &self,
        request: &mut Body,
        how: CallOptions<'_>,
        completion: &mut Option<Completion>,
    ) -> Result<SubmittedCall, Ended> {
        let CallOptions {
            deadline,
            progress,
            may_wait,
            waits,
        } = how;
        let mut state = self.lock();
        let id = loop {
            let connection = &mut state.connection;
            match connection.call(request, deadline, progress, completion) {
                Ok(id) => break id,
                Err(Refusal::Full) if may_wait => {
                    state = self.wait_for_room(state, request.len(), deadline)?;
                }
                Err(refusal) => {
                    return Err(match &state.end {
                        Some(Err(error)) => Ended::Lost(error.clone(), Phase::Queued),
                        Some(Ok(_)) | None => Ended::Refused(refusal),
                    });
                }
            }
        };
        // Before the request is written: the reactor could otherwise read the answer, while this
        // caller begins to wait for it on the socket.
        let reader = if waits {
            self.take_role(&mut state)
        } else {
            None
        };
        // A caller who does not wait writes, too, when a comfortable batch has gathered: that keeps
        // the queue in the processor's cache, and him from running far ahead of the child.
        if waits || state.connection.queued() >= COMFORTABLE as u64 {
            state = self.transmit(state);
        }
        if !waits && state.role.is_unattended() {
            // Left unwatched by callers who read: this answer is the reactor's, and must not be late.
            self.watch(&mut state, true);
        }
        let nothing_read = reader.as_ref().is_some_and(|it| it.decoder.is_empty());
        let alone = nothing_read.then(|| state.is_alone());
        // This much of what concerns the reactor a call may bring about. And while it was sent, others may
        // have closed the handle, and waited for that.
        let is_due = deadline.is_some() && state.is_due();
        if is_due || state.connection.is_closed() || state.has_unattended_output() {
            self.notify_reactor(state);
        }
        Ok(SubmittedCall { id, reader, alone })
    }

    /// Waits until there is room for a call of that length, or there will be none.
    fn wait_for_room<'a>(
        &'a self,
        state: MutexGuard<'a, LinkState>,
        len: usize,
        deadline: Option<Instant>,
    ) -> Result<MutexGuard<'a, LinkState>, Ended> {
        if reactor::in_callback() {
            return Err(Ended::Refused(Refusal::InCallback));
        }
        let state = self.wait(state, deadline, |state| state.is_full(len));
        if state.is_full(len) {
            return Err(Ended::TimedOut(Phase::Queued));
        }
        Ok(state)
    }

    /// Nobody waits for a call's outcome any more. Its note is dropped.
    pub(crate) fn cancel(&self, id: u32) {
        drop(self.withdraw(id));
    }

    /// Ends a call, unless it has ended.
    pub(super) fn withdraw(&self, id: u32) -> Option<(Completion, Phase)> {
        let mut state = self.lock();
        let ended = state.connection.cancel(id);
        self.notify_of_room(&state);
        self.tell_reactor(state);
        ended
    }

    /// No more calls; the child is told to go when it has answered. `stop_by` bounds that.
    pub(crate) fn close(&self, stop_by: Option<Instant>) {
        let mut state = self.lock();
        state.connection.close();
        state.stop_by = stop_by.into_iter().chain(state.stop_by).min();
        if !state.kill {
            // The child may already be on its way while the reactor hears of it.
            self.say_goodbye(&mut state);
        }
        self.notify_reactor(state);
    }

    /// Whether no callback of the program's will run, unless there are more calls.
    pub(super) fn is_quiet(&self) -> bool {
        !self.has_callbacks && self.lock().connection.live() == 0
    }

    /// Waits for the process to end, for a while: until then nothing else need be looked at.
    pub(super) fn wait_for_exit(&self) {
        if let Some(pidfd) = self.child.as_ref().and_then(Child::pidfd) {
            // If it cannot be waited for here, it is elsewhere.
            let _ = sys::wait_at_most(&**pidfd, Interest::Readable, SOON);
        }
    }

    /// Tells the child that its requests have ended, if the handle is closed and all is sent. Returns
    /// whether it has been told all there was.
    fn say_goodbye(&self, state: &mut LinkState) -> bool {
        let connection = &mut state.connection;
        let all_sent = connection.writer().unsent() == 0;
        let close = connection.is_closed() && (all_sent || state.shut_down);
        // A worker may have to be told that calls are cancelled, as long as there are any.
        let says_no_more = connection.live() == 0 || connection.is_plain();
        if close && says_no_more && !std::mem::replace(&mut state.shut_down, true) {
            connection.writer_mut().close();
            // That it is broken tells the reader.
            let _ = sys::shutdown(&*self.socket, Shutdown::Write);
        }
        close
    }

    /// The child is killed, whatever it does.
    pub(crate) fn kill(&self) {
        let mut state = self.lock();
        state.kill = true;
        self.notify_reactor(state);
    }

    /// Waits until the child serves, or ends.
    pub(crate) fn wait_ready(&self) -> Result<(), Error> {
        let mut state = self.lock();
        if !state.connection.is_ready() && state.end.is_none() {
            refuse_in_callback("wait_ready()")?;
            state = self.wait(state, None, |state| {
                !state.connection.is_ready() && state.end.is_none()
            });
        }
        match &state.end {
            Some(Err(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Waits for the end, and for the last callback to have run.
    pub(crate) fn wait_end(&self) -> Result<Exit, Error> {
        let mut state = self.lock();
        if !state.over {
            refuse_in_callback("finish()")?;
            state = self.wait(state, None, |state| !state.over);
        }
        state.end.clone().expect("what is over has ended")
    }

    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, LinkState>,
        deadline: Option<Instant>,
        condition: impl FnMut(&mut LinkState) -> bool,
    ) -> MutexGuard<'a, LinkState> {
        state.waiting += 1;
        let mut state = wait_until(&self.changed, state, deadline, condition);
        state.waiting -= 1;
        state
    }

    /// Sends what is queued, unless another thread is at it or the socket is full.
    fn transmit<'a>(&'a self, mut state: MutexGuard<'a, LinkState>) -> MutexGuard<'a, LinkState> {
        let mut wrote = false;
        while let Some(mut batch) = state.connection.writer_mut().begin(BATCH) {
            // The lock is not held over the system calls.
            drop(state);
            if batch.should_widen() {
                // It is only slower if that is refused.
                let _ = sys::widen(&*self.socket);
            }
            let sent = batch.write(|parts| sys::send(&*self.socket, parts, false));
            state = self.lock();
            state.connection.writer_mut().end(batch, sent);
            wrote = true;
        }
        if wrote {
            self.notify_of_room(&state);
        }
        state
    }

    /// Wakes those who wait for room in the queue, if there is some.
    pub(super) fn notify_of_room(&self, state: &LinkState) {
        if state.waiting > 0 && state.connection.has_room() {
            self.changed.notify_all();
        }
    }

    /// Tells the reactor if there is something for it to do.
    pub(super) fn tell_reactor(&self, state: MutexGuard<'_, LinkState>) {
        if !state.attention && state.concerns_the_reactor() {
            self.notify_reactor(state);
        }
    }

    pub(super) fn notify_reactor(&self, mut state: MutexGuard<'_, LinkState>) {
        if state.over || std::mem::replace(&mut state.attention, true) {
            return;
        }
        drop(state);
        self.reactor.attend(self.key);
    }

    // ---- for the reactor ----

    /// Queues what a worker is to do first.
    pub(super) fn start(&self, setups: &[(String, Vec<u8>)], run: wire::Run<'_>) {
        self.lock().connection.start(setups, run);
    }

    /// Writes, and looks after everything that depends on time or was asked for.
    /// `room` says that the socket takes bytes again.
    pub(super) fn attend(&self, now: Instant, room: bool) -> Actions {
        let mut state = self.lock();
        state.attention = false;
        if room {
            state.connection.writer_mut().unblock();
            state.awaits_room = false;
        }
        let mut expired = Vec::new();
        while let Some(call) = state.connection.expire(now) {
            expired.push(call);
        }
        let kill = std::mem::take(&mut state.kill);
        if !kill {
            // One that is to be killed would otherwise see the end, and may exit before.
            state = self.transmit(state);
        }
        let close = !kill && self.say_goodbye(&mut state);
        if !expired.is_empty() {
            self.notify_of_room(&state);
        }
        let at_once = state.connection.is_closed() || !state.connected;
        if state.role.look(at_once, now) && state.connected {
            self.watch(&mut state, true);
        }
        let blocked = state.connection.writer().is_blocked();
        if blocked != state.awaits_room || room {
            self.set_interest(&mut state);
        }
        state.awaits_room = blocked;
        let stop = state.stop_by.is_some_and(|by| by <= now);
        if stop {
            state.stop_by = None;
        }
        state.trim(now);
        let role = state.role.deadline();
        let calls = state.connection.deadline();
        let deadlines = [calls, state.stop_by, role, state.trim_at];
        let deadline = deadlines.into_iter().flatten().min();
        // Under this lock: a call that is made right after it compares its deadline with this one.
        state.looks_at = deadline;
        Actions {
            expired,
            done: state.connection.take_done(),
            kill,
            stop,
            close: close && state.connection.live() == 0,
            handed_off: state.role.is_handed_off(),
            ready: state.connection.is_ready(),
            broken: state.connection.writer().has_failed(),
            unanswered: state.connection.live(),
            deadline,
        }
    }

    /// Takes frames in, all that a read brought under one lock.
    pub(super) fn receive<T>(
        &self,
        frames: impl FnOnce(&mut Connection<Completion, ProgressCallback>) -> T,
    ) -> T {
        let mut state = self.lock();
        let was_ready = state.connection.is_ready();
        let result = frames(&mut state.connection);
        self.notify_of_news(&state, was_ready);
        result
    }

    /// Wakes those who wait for what may have come from the child: answers make room in the queue, and
    /// `ready` comes once.
    pub(super) fn notify_of_news(&self, state: &LinkState, was_ready: bool) {
        if state.waiting > 0 && state.connection.is_ready() != was_ready {
            self.changed.notify_all();
        }
        self.notify_of_room(state);
    }

    /// Has the reactor's poller watch the socket.
    pub(super) fn register(&self) -> io::Result<()> {
        let interest = Event::readable(poll_key(self.key, Source::Socket));
        let registration = Registration::new(&self.reactor.poller, &self.socket, interest)?;
        let mut state = self.lock();
        state.registration = Some(registration);
        state.role.set_watched(true);
        Ok(())
    }

    /// The start failed half way: the process, if there is one, is killed and reaped.
    pub(super) fn abandon(&self) {
        if let Some(child) = &self.child {
            child.abandon();
        }
    }

    /// Ends it for all who call from now on, and hands out the calls that have not ended.
    pub(super) fn end(&self, end: Result<Exit, Error>) -> Vec<(Completion, Phase)> {
        let mut state = self.lock();
        state.end = Some(end);
        if state.waiting > 0 {
            self.changed.notify_all();
        }
        state.connection.drain()
    }

    /// What was to be told of progress, to be dropped.
    pub(super) fn take_done(&self) -> Vec<ProgressCallback> {
        self.lock().connection.take_done()
    }

    /// The last callback has run.
    pub(super) fn over(&self) {
        // First: who is woken here wants to know whether the thread is about to end.
        self.reactor.link_over();
        self.lock().over = true;
        self.changed.notify_all();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().expect("nothing panics under this lock")
    }
}

fn refuse_in_callback(what: &str) -> Result<(), Error> {
    if !reactor::in_callback() {
        return Ok(());
    }
    let message = format!("{what} inside a callback would stop the reactor; call it elsewhere");
    Err(Error::new(ErrorKind::InCallback, message))
}

/// `Duration`s are added so that what overflows means never.
pub(crate) fn after(now: Instant, duration: Option<Duration>) -> Option<Instant> {
    now.checked_add(duration?)
}

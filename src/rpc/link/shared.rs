//! The link itself: the conversation with one child, under one lock, and the socket.
//!
//! Any thread may write: one that finds nobody writing takes what is queued, and sends it without
//! the lock. What the socket does not take is left to the reactor, which alone waits for room. Any
//! thread that waits may read: [`Role`](crate::rpc::state::Role) decides which.

use super::completion::Completion;
use super::reader::{Reader, Unprocessed};
use super::state::{LinkState, ProgressCallback};
use crate::codec::CodecError;
use crate::fd::{Reach, may_send};
use crate::process::Child;
use crate::rpc::reactor::{Core, Source, poll_key};
use crate::rpc::state::{AfterRelease, Connection};
use crate::rpc::stats::RpcStats;
use crate::sys::{self, CoarseTime, Interest, Origin, Registration};
use crate::unwind;
use crate::wire::Body;
use polling::Event;
use std::io::{self, PipeWriter};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How much is written at a time, at most.
const BATCH: usize = 256 << 10;

/// See the module's documentation.
pub(crate) struct Link {
    state: Mutex<LinkState>,
    /// Notified of everything that threads wait for: room in the queue, `ready`, the end.
    pub(super) changed: Condvar,
    pub(super) unprocessed: Unprocessed,
    socket: Arc<OwnedFd>,
    child: Option<Child>,
    /// Keeps a process from being killed that is no child of this one, and has adopted the reading end.
    lifeline: Mutex<Option<PipeWriter>>,
    reactor: Arc<Core>,
    /// The link's key at the reactor.
    key: usize,
    /// The process that started the child.
    origin: Origin,
}

/// Who is at the other end.
pub(crate) struct Peer {
    pub(crate) socket: OwnedFd,
    /// The process, unless there is only a stream.
    pub(crate) child: Option<Child>,
    /// The lifeline of a worker that is at the other end of a stream.
    pub(crate) lifeline: Option<PipeWriter>,
}

impl Link {
    pub(crate) fn new(
        connection: Connection<Completion, ProgressCallback>,
        reader: Box<Reader>,
        rewatch_delay: Duration,
        peer: Peer,
        reactor: Arc<Core>,
    ) -> Self {
        let Peer {
            socket,
            child,
            lifeline,
        } = peer;
        let key = reactor.new_key();
        Link {
            state: Mutex::new(LinkState::new(connection, reader, rewatch_delay)),
            changed: Condvar::new(),
            unprocessed: Unprocessed::default(),
            socket: Arc::new(socket),
            child,
            lifeline: Mutex::new(lifeline),
            reactor,
            key,
            origin: Origin::here(),
        }
    }

    /// Whether this process is a copy of the one that started the child. It must not take the lock,
    /// which another thread of the original may have held, nor touch the socket or the process.
    #[inline]
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.origin.is_elsewhere()
    }

    /// Gives up what this copy of the process shares with the original: the child is to learn of the
    /// original's end.
    pub(super) fn give_up(&self) {
        sys::give_up(self.socket());
        if let Some(child) = &self.child {
            child.give_up();
        }
        // If a thread that the copy does not have held the lock, it is dropping it.
        if let Ok(mut lifeline) = self.lifeline.try_lock() {
            *lifeline = None;
        }
    }

    /// Drops the lifeline of a process that is no child of this one.
    pub(super) fn drop_lifeline(&self) {
        *unwind::lock(&self.lifeline) = None;
    }

    /// The link's key at the reactor.
    pub(crate) fn key(&self) -> usize {
        self.key
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// The process, unless there is only a stream.
    pub(crate) fn child(&self) -> Option<&Child> {
        self.child.as_ref()
    }

    pub(crate) fn reactor(&self) -> &Arc<Core> {
        &self.reactor
    }

    /// Whether there is something to read in the socket.
    pub(super) fn is_readable(&self) -> bool {
        sys::wait_at_most(self.socket(), Interest::Readable, Duration::ZERO).unwrap_or(false)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, LinkState> {
        unwind::lock(&self.state)
    }

    /// Waits for a change while `condition` holds and `deadline` has not passed.
    pub(super) fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, LinkState>,
        deadline: Option<Instant>,
        condition: impl FnMut(&mut LinkState) -> bool,
    ) -> MutexGuard<'a, LinkState> {
        state.waiting += 1;
        let mut state = unwind::wait_until(&self.changed, state, deadline, condition);
        state.waiting -= 1;
        state
    }

    // ---- notifications ----

    /// Wakes the threads that wait for room in the queue, if there is some.
    pub(super) fn notify_of_room(&self, state: &LinkState) {
        if state.waiting > 0 && state.connection.has_room() {
            self.changed.notify_all();
        }
    }

    /// Wakes the threads that wait for what frames from the child may have brought: answers make room
    /// in the queue, and `ready` comes once.
    pub(super) fn notify_of_frames(&self, state: &LinkState, was_ready: bool) {
        if state.waiting > 0 && state.connection.is_ready() != was_ready {
            self.changed.notify_all();
        }
        self.notify_of_room(state);
    }

    /// Notifies the reactor if there is something for it to do.
    pub(super) fn notify_reactor_if_needed(&self, state: MutexGuard<'_, LinkState>) {
        if !state.attention && state.concerns_the_reactor() {
            self.notify_reactor(state);
        }
    }

    /// Has the reactor attend to this link.
    pub(super) fn notify_reactor(&self, mut state: MutexGuard<'_, LinkState>) {
        if state.over || std::mem::replace(&mut state.attention, true) {
            return;
        }
        drop(state);
        self.reactor.attend(self.key);
    }

    // ---- writing ----

    /// Whether the descriptors of a payload can be sent.
    ///
    /// # Errors
    ///
    /// Why they cannot.
    pub(crate) fn may_carry(&self, payload: &Body) -> Result<(), CodecError> {
        let count = payload.fds().len();
        // All calls of a copy are refused.
        if count == 0 || self.is_elsewhere() {
            return Ok(());
        }
        let is_far = self
            .child()
            .is_some_and(|child| child.as_remote().is_some());
        let reach = match self.lock().connection.is_plain() {
            true => Reach::Plain,
            false if is_far => Reach::Far,
            false => Reach::Near,
        };
        may_send(count, reach).map_err(CodecError::new)
    }

    /// Sends what is queued, unless another thread writes or the socket is full.
    pub(super) fn transmit<'a>(
        &'a self,
        mut state: MutexGuard<'a, LinkState>,
    ) -> MutexGuard<'a, LinkState> {
        let mut wrote = false;
        while let Some(mut batch) = state.connection.writer_mut().begin(BATCH) {
            // The lock is not held over the system calls.
            drop(state);
            if batch.should_widen() {
                // If it is refused, writing is only slower.
                let _ = sys::widen(self.socket());
            }
            let sent = batch.write(|parts| match batch.fds() {
                [] => sys::send(self.socket(), parts, false),
                fds => sys::send_with_fds(self.socket(), parts, fds, false),
            });
            state = self.lock();
            state.connection.writer_mut().end(batch, sent);
            wrote = true;
        }
        if wrote {
            let taken = state.connection.writer().outbox().taken();
            state.stamps.note(taken, coarse_time());
            self.notify_of_room(&state);
        }
        state
    }

    /// What the child is doing.
    pub(crate) fn stats(&self) -> RpcStats {
        if self.is_elsewhere() {
            return RpcStats::default();
        }
        let pid = self.child().and_then(Child::pid);
        self.lock().stats(pid, coarse_time())
    }

    /// Shuts the writing side down if the handle is closed and all is sent. Returns whether it is.
    pub(super) fn end_requests(&self, state: &mut LinkState) -> bool {
        let end = state.end_of_requests();
        if end.shut_down {
            // The thread that reads finds out if the connection is broken.
            let _ = sys::shutdown(self.socket(), Shutdown::Write);
        }
        end.all_sent
    }

    // ---- the reader's role ----

    /// Takes the reader's role, if it is free.
    pub(super) fn take_role(&self, state: &mut LinkState) -> Option<Box<Reader>> {
        if !state.connected || state.reader.is_none() || !state.role.take() {
            return None;
        }
        self.watch(state, false);
        state.reader.take()
    }

    /// Gives the reader's role back.
    pub(super) fn release(&self, mut state: MutexGuard<'_, LinkState>, reader: Box<Reader>) {
        let awaited = state.is_awaited();
        match state.role.release(awaited, Instant::now()) {
            AfterRelease::PassTo(next) => next.give(reader),
            after => {
                state.reader = Some(reader);
                match after {
                    AfterRelease::Watch => self.watch(&mut state, true),
                    AfterRelease::ScheduleCheck => {
                        if !state.connection.writer().is_blocked() {
                            // While this series of calls lasts, the poller need not see every arrival.
                            state.registration = None;
                        }
                        return self.notify_reactor(state);
                    }
                    AfterRelease::Nothing | AfterRelease::PassTo(_) => {}
                }
            }
        }
        // The answer may have been the last that a closed handle waited for.
        self.notify_reactor_if_needed(state);
    }

    /// Leaves what comes next to the reactor.
    pub(super) fn hand_off(&self, mut state: MutexGuard<'_, LinkState>, reader: Box<Reader>) {
        state.role.hand_off();
        state.reader = Some(reader);
        self.notify_reactor(state);
    }

    /// Has the reactor watch the socket, or not.
    pub(super) fn watch(&self, state: &mut LinkState, watched: bool) {
        if state.role.is_watched() == watched {
            return;
        }
        state.role.set_watched(watched);
        self.set_interest(state);
    }

    /// Registers the socket at the poller for what is waited for now.
    pub(super) fn set_interest(&self, state: &mut LinkState) {
        if let Err(error) = self.try_set_interest(state) {
            // The system has no memory for it. A child that nobody hears must not be waited for.
            state.fault = Some(format!("cannot wait for the child's messages: {error}"));
            state.attention = true;
            self.reactor.attend(self.key);
        }
    }

    /// As [`set_interest`](Link::set_interest), where the caller handles a failure.
    pub(super) fn try_set_interest(&self, state: &mut LinkState) -> io::Result<()> {
        if !state.connected {
            state.registration = None;
            return Ok(());
        }
        let readable = state.role.is_watched();
        let writable = state.connection.writer().is_blocked();
        let interest = Event::new(poll_key(self.key, Source::Socket), readable, writable);
        if let Some(registration) = &state.registration {
            return registration.modify(interest);
        }
        let registration = Registration::new(self.reactor.poller(), &self.socket, interest)?;
        state.registration = Some(registration);
        Ok(())
    }
}

/// The time by the clock that is read fastest.
fn coarse_time() -> Duration {
    let CoarseTime(seconds, nanos) = sys::coarse_clock();
    Duration::new(seconds, nanos)
}

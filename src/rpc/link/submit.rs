//! What handles do with a link, on any thread.

use super::completion::{Completion, Ended};
use super::reader::Reader;
use super::shared::Link;
use super::state::{Killing, LinkState, ProgressCallback};
use crate::error::{Error, ErrorKind, Phase, Refusal};
use crate::process::Child;
use crate::rpc::callback::{in_callback, refuse_in_callback};
use crate::rpc::state::Exit;
use crate::sys::{self, Interest};
use crate::wire::{Body, FunctionId};
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

/// How long the exit of a child that was told to exit is waited for without reading from it.
const SOON: Duration = Duration::from_millis(5);

/// How a call is made.
pub(crate) struct CallOptions<'a> {
    /// When it ends without an answer.
    pub(crate) deadline: Option<Instant>,
    /// Taken, unless the call is refused.
    pub(crate) progress: &'a mut Option<ProgressCallback>,
    /// Whether it waits for room in the queue.
    pub(crate) may_wait: bool,
    pub(crate) caller: Caller,
}

/// What the caller does once the call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// It waits for the answer. It sends the request itself, and reads the answer itself if no other
    /// thread does.
    Waits,
    /// It goes on.
    Leaves,
    /// It goes on, and holds a lock, so that no system call is made here. Without the lock it is to
    /// [settle](Link::settle) what [is left](SubmittedCall::is_unsettled).
    Holds,
}

/// A call that was made.
pub(crate) struct SubmittedCall {
    pub(crate) id: u32,
    /// The reader's role, if the caller waits and it was free.
    pub(crate) reader: Option<Box<Reader>>,
    /// Whether this is the only call, if nothing can have come for it yet.
    pub(crate) alone: Option<bool>,
    /// Whether there is something to [settle](Link::settle), if the caller holds a lock.
    pub(crate) is_unsettled: bool,
}

impl Link {
    /// Makes a call. Large parts of the request are taken, and so is the completion, unless the call
    /// is refused. Its descriptors [can be sent](Link::may_carry).
    pub(crate) fn call(
        &self,
        function: usize,
        request: &mut Body,
        options: CallOptions<'_>,
        completion: &mut Option<Completion>,
    ) -> Result<SubmittedCall, Ended> {
        let CallOptions {
            deadline,
            progress,
            may_wait,
            caller,
        } = options;
        if self.is_elsewhere() {
            return Err(Ended::Refused(Refusal::Forked));
        }
        let mut state = self.lock();
        let id = loop {
            let connection = &mut state.connection;
            match connection.call(function, request, deadline, progress, completion) {
                Ok(id) => break id,
                Err(Refusal::Full) if may_wait => {
                    state = self.wait_for_room(state, request.len(), deadline)?;
                }
                Err(refusal) => return Err(state.refused(refusal)),
            }
        };
        let mut made = SubmittedCall {
            id,
            reader: None,
            alone: None,
            is_unsettled: false,
        };
        let is_timed = deadline.is_some();
        match caller {
            Caller::Holds => made.is_unsettled = state.is_unsettled(is_timed),
            Caller::Leaves => self.settle_in(state, is_timed),
            Caller::Waits => {
                // Before the request is written: otherwise the reactor could read the answer while this
                // caller begins to wait for it on the socket.
                made.reader = self.take_role(&mut state);
                state = self.transmit(state);
                let nothing_read = made.reader.as_ref().is_some_and(|it| it.is_empty());
                made.alone = nothing_read.then(|| state.is_alone());
                self.notify_of_call(state, is_timed);
            }
        }
        Ok(made)
    }

    /// Has calls written and their answers read that were made by who [holds](Caller::Holds) a lock.
    pub(crate) fn settle(&self) {
        self.settle_in(self.lock(), true);
    }

    fn settle_in<'a>(&'a self, mut state: MutexGuard<'a, LinkState>, is_timed: bool) {
        // A caller that does not wait writes, too, once a comfortable batch has gathered: that keeps the
        // queue in the processor's cache, and the caller from running far ahead of the child.
        if state.has_batch() {
            state = self.transmit(state);
        }
        if state.role.is_unattended() {
            // Callers that read have left the socket unwatched. The reactor is to read this answer, and
            // without delay.
            self.watch(&mut state, true);
        }
        self.notify_of_call(state, is_timed);
    }

    /// Notifies the reactor of what a call can cause that concerns it.
    fn notify_of_call(&self, state: MutexGuard<'_, LinkState>, is_timed: bool) {
        if state.is_for_the_reactor(is_timed) {
            self.notify_reactor(state);
        }
    }

    /// The number of a function of the child that calls are for.
    pub(crate) fn function(&self, function: FunctionId<'_>) -> usize {
        // All calls of a copy are refused.
        if self.is_elsewhere() {
            return 0;
        }
        self.lock().connection.add_function(function)
    }

    /// Waits until there is room for a call of that length, or there will be none.
    fn wait_for_room<'a>(
        &'a self,
        state: MutexGuard<'a, LinkState>,
        len: usize,
        deadline: Option<Instant>,
    ) -> Result<MutexGuard<'a, LinkState>, Ended> {
        if in_callback() {
            return Err(Ended::Refused(Refusal::InCallback));
        }
        let state = self.wait(state, deadline, |state| state.is_full(len));
        if state.is_full(len) {
            return Err(Ended::TimedOut(Phase::Queued));
        }
        Ok(state)
    }

    /// Cancels a call whose outcome nobody waits for any more.
    pub(crate) fn cancel(&self, id: u32) {
        if !self.is_elsewhere() {
            drop(self.withdraw(|state| state.connection.cancel(id)));
        }
    }

    /// Ends a call for its caller, unless it has ended.
    pub(super) fn withdraw(
        &self,
        end: impl FnOnce(&mut LinkState) -> Option<(Completion, Phase)>,
    ) -> Option<(Completion, Phase)> {
        let mut state = self.lock();
        let ended = end(&mut state);
        self.notify_of_room(&state);
        self.notify_reactor_if_needed(state);
        ended
    }

    /// Refuses further calls. The child is told to exit when it has answered; `stop_by` bounds that.
    pub(crate) fn close(&self, stop_by: Option<Instant>) {
        if self.is_elsewhere() {
            return self.give_up();
        }
        let mut state = self.lock();
        state.connection.close();
        state.stop_by = stop_by.into_iter().chain(state.stop_by).min();
        // The child may be exiting already while the reactor is notified.
        self.end_requests(&mut state);
        self.notify_reactor(state);
    }

    /// Kills the child, whatever it does.
    pub(crate) fn kill(&self) {
        if self.is_elsewhere() {
            return;
        }
        let mut state = self.lock();
        state.killing = Killing::Wanted;
        self.notify_reactor(state);
    }

    /// Refuses what only the process can do that started the child.
    pub(crate) fn refuse_elsewhere(&self) -> Result<(), Error> {
        if self.is_elsewhere() {
            Err(Error::new(ErrorKind::Forked, Refusal::Forked.to_string()))
        } else {
            Ok(())
        }
    }

    /// Whether all calls have ended.
    pub(crate) fn is_idle(&self) -> bool {
        self.lock().connection.live() == 0
    }

    /// Waits briefly for the process to end: until then nothing else need be attended to.
    pub(crate) fn wait_for_exit(&self) {
        if let Some(end) = self.child().and_then(Child::end) {
            // If it cannot be waited for here, the reactor does.
            let _ = sys::wait_at_most(&*end, Interest::Readable, SOON);
        }
    }

    /// Whether the child serves, or has served.
    pub(crate) fn is_ready(&self) -> bool {
        !self.is_elsewhere() && self.lock().connection.is_ready()
    }

    /// Waits until the child serves, or ends.
    pub(crate) fn wait_ready(&self) -> Result<(), Error> {
        self.refuse_elsewhere()?;
        let starting = |state: &mut LinkState| !state.connection.is_ready() && state.end.is_none();
        let mut state = self.lock();
        if starting(&mut state) {
            refuse_in_callback("wait_ready()")?;
            state = self.wait(state, None, starting);
        }
        match &state.end {
            Some(Err(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// How it ended, if it has. The last callbacks may not have returned.
    pub(crate) fn try_end(&self) -> Option<Result<Exit, Error>> {
        if let Err(error) = self.refuse_elsewhere() {
            return Some(Err(error));
        }
        self.lock().end.clone()
    }

    /// Waits for the end, and for the last callback to have returned.
    pub(crate) fn wait_end(&self) -> Result<Exit, Error> {
        let mut state = self.lock();
        if !state.over {
            refuse_in_callback("finish()")?;
            state = self.wait(state, None, |state| !state.over);
        }
        state.end.clone().expect("what is over has ended")
    }
}

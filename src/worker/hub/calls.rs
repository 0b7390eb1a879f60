//! Calls: those that the main thread begins, and those that wait for a thread.

use super::on_cancel::OnCancel;
use super::shared::{Hub, PROOF};
use super::state::HubState;
use crate::codec::Input;
use crate::worker::calls::{CallLimits, Duplicate, Lane, Started};
use crate::worker::functions::Function;
use crate::worker::session::Known;

impl Hub {
    pub(in crate::worker) fn set_limits(&self, limits: CallLimits) {
        self.lock().ledger.set_limits(limits);
    }

    /// A request has come. Returns whether the main thread is to begin its call now and then to call
    /// [`returned`](Hub::returned); if not, it is to be [queued](Hub::queue).
    #[inline]
    pub(in crate::worker) fn begin(&self, lane: Lane, id: u32) -> Result<bool, Duplicate> {
        // The call before may have been answered in it, and then nothing has taken the lock.
        self.end_if_copy();
        let begins = self.main_call.begin(id) || self.begin_with_ledger(lane, id)?;
        if begins {
            self.note_begun(id);
        }
        Ok(begins)
    }

    fn begin_with_ledger(&self, lane: Lane, id: u32) -> Result<bool, Duplicate> {
        self.main_call.begin_with(&self.lock().ledger, lane, id)
    }

    /// Whether this call has begun, or this was asked, and is not answered.
    pub(in crate::worker) fn is_open(&self, known: Known) -> bool {
        match known {
            Known::Call(id) => self.main_call.is_at(id) || self.lock().ledger.is_running(id),
            Known::Ask(id) => {
                let state = self.lock();
                state.asks.as_ref().is_some_and(|asks| asks.is_open(id))
            }
        }
    }

    /// A deferred function has returned from the main thread's call, which is answered later if it has not
    /// been.
    #[inline]
    pub(in crate::worker) fn returned(&self, id: u32) {
        if self.main_call.is_at(id) {
            self.enter(Lane::Deferred, id);
        }
    }

    /// The main thread's call, whose function runs, goes into the ledger, if it is not answered: requests
    /// that come meanwhile can be [queued](Hub::queue) behind it, and it can be [cancelled](Hub::cancel).
    pub(in crate::worker) fn set_main_call_aside(&self) {
        if let Some(id) = self.main_call.unanswered() {
            self.enter(Lane::Returning, id);
        }
    }

    /// Puts the main thread's call into the ledger.
    fn enter(&self, lane: Lane, id: u32) {
        let state = &mut *self.lock();
        self.main_call
            .returned(&mut state.ledger, lane, id, state.writer.unsent());
    }

    /// A call was answered, and `unsent` bytes are now to be written. Returns what its cancellation
    /// would have set off.
    #[inline]
    pub(super) fn answered(&self, state: &mut HubState, id: u32, unsent: usize) -> Vec<OnCancel> {
        let is_awake = self.main_call.answered(&mut state.ledger, id, unsent);
        if !is_awake && state.answer_wakes_loop() {
            state.wake_loop();
        }
        if state.on_cancel.is_empty() {
            return Vec::new();
        }
        state.take_on_cancel(id)
    }

    /// Puts a request behind those that wait to be started.
    pub(in crate::worker) fn queue(
        &self,
        id: u32,
        function: Function,
        request: Input<'_>,
    ) -> Result<(), Duplicate> {
        let Function { index, lane } = function;
        let mut state = self.lock();
        state.ledger.wait(lane, id, index, request.into_small())?;
        self.main_call.queued(lane, id);
        if lane == Lane::Threaded && state.free_threads > 0 {
            self.work.notify_one();
        }
        Ok(())
    }

    /// Whether more requests may be taken.
    pub(in crate::worker) fn wants_requests(&self) -> bool {
        if self.main_call.is_open() {
            return true;
        }
        self.lock().wants_requests()
    }

    /// Takes the request for the main thread that has waited longest, if it may start, and how many others
    /// wait behind it. It counts as running.
    pub(in crate::worker) fn next_request(&self) -> Option<(Lane, Started, usize)> {
        let mut state = self.lock();
        let (lane, started) = state.ledger.next_for_main()?;
        self.note_begun(started.id);
        Some((lane, started, state.ledger.waiting_for_main()))
    }

    /// Makes room for a thread that takes requests with [`wait_for_request`](Hub::wait_for_request).
    /// Returns false if none is needed, as others are free.
    pub(in crate::worker) fn add_thread(&self) -> bool {
        let mut state = self.lock();
        let needed = state.needs_thread();
        if needed {
            state.free_threads += 1;
        }
        needed
    }

    /// The thread could not be started.
    pub(in crate::worker) fn remove_thread(&self) {
        self.lock().free_threads -= 1;
    }

    /// Takes the next request, waiting until there is one. For threads that are free.
    pub(in crate::worker) fn wait_for_request(&self) -> Started {
        let mut state = self.lock();
        loop {
            if let Some(next) = state.ledger.next(Lane::Threaded) {
                self.note_begun(next.id);
                state.free_threads -= 1;
                if state.may_resume_requests() {
                    state.wake_loop();
                }
                return next;
            }
            state = self.work.wait(state).expect(PROOF);
        }
    }

    /// The thread that took a request is free again.
    pub(in crate::worker) fn thread_is_free(&self) {
        self.lock().free_threads += 1;
    }

    /// No more requests will come, and no answers.
    pub(in crate::worker) fn end_of_requests(&self) {
        self.lock().ledger.close();
        self.end_asks();
    }
}

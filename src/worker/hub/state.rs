//! What a hub's lock guards, and what is decided from it. No I/O, no waiting.

use super::asks::OpenAsks;
use super::flusher::Flusher;
use super::on_cancel::OnCancel;
use crate::id_map::IdMap;
use crate::sys::Waker;
use crate::wire::{FULL_BATCH, Writer};
use crate::worker::calls::Ledger;
use std::sync::Arc;

/// See the module's documentation.
pub(super) struct HubState {
    pub(super) ledger: Ledger,
    pub(super) writer: Writer,
    /// How many bytes gather before a batch is written. More if there was no room for the last one.
    pub(super) batch_threshold: usize,
    /// How many threads wait for a writer.
    pub(super) waiting: usize,
    /// How many threads that take requests by themselves have none, started or not.
    pub(super) free_threads: usize,
    pub(super) flusher: Flusher,
    pub(super) on_cancel: IdMap<Vec<OnCancel>>,
    /// `None` until something is asked.
    pub(super) asks: Option<Box<dyn OpenAsks>>,
    pub(super) waker: Option<Arc<Waker>>,
    /// Whether the loop sleeps, and the waker wakes it.
    pub(super) asleep: bool,
    /// Whether the loop, when it last went to sleep, could take no more requests.
    pub(super) requests_paused: bool,
    /// Whether the last answer wakes the loop: it has slept for long, and calls have run for as long.
    /// Short calls would only disturb it.
    pub(super) wake_when_idle: bool,
    /// Whether the process exits: what is sent from now on is dropped.
    pub(super) exiting: bool,
    /// Why a write has failed.
    pub(super) write_error: Option<String>,
}

/// What a loop finds when it is about to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) struct LoopStatus {
    /// More requests may be taken.
    pub(in crate::worker) wants_requests: bool,
    /// Output waits for room in the socket.
    pub(in crate::worker) wants_room: bool,
    /// Another thread may have news: sleep where the waker is heard.
    pub(in crate::worker) wants_waker: bool,
    /// There are calls that are not answered.
    pub(in crate::worker) busy: bool,
    /// Everything is answered and written, and no more requests will come.
    pub(in crate::worker) finished: bool,
    /// The parent is gone with output unwritten.
    pub(in crate::worker) broken: bool,
}

impl Default for HubState {
    fn default() -> Self {
        HubState {
            ledger: Ledger::default(),
            writer: Writer::default(),
            batch_threshold: FULL_BATCH,
            waiting: 0,
            free_threads: 0,
            flusher: Flusher::default(),
            on_cancel: IdMap::default(),
            asks: None,
            waker: None,
            asleep: false,
            requests_paused: false,
            wake_when_idle: false,
            exiting: false,
            write_error: None,
        }
    }
}

impl HubState {
    /// The loop is about to sleep. `None` if there is something to be done first.
    pub(super) fn prepare_to_sleep(&mut self) -> Option<LoopStatus> {
        // Another thread may just have given the answer that a request has waited for.
        if self.ledger.may_start_for_main() {
            return None;
        }
        self.asleep = true;
        let unsent = self.writer.unsent();
        let wants_requests = self.wants_requests();
        let finished = self.ledger.is_finished() && unsent == 0;
        self.requests_paused = !wants_requests;
        Some(LoopStatus {
            wants_requests,
            wants_room: unsent > 0 && !self.writer.is_writing(),
            wants_waker: self.waker.is_some() || !wants_requests || self.ledger.waiting() > 0,
            busy: self.ledger.is_busy(),
            finished,
            broken: self.writer.has_failed(),
        })
    }

    /// The loop is awake.
    pub(super) fn woke_up(&mut self) {
        self.asleep = false;
        self.wake_when_idle = false;
    }

    /// Whether the answer that was just given wakes a loop that sleeps.
    pub(super) fn answer_wakes_loop(&self) -> bool {
        let may_start = self.ledger.waiting_for_main() > 0;
        may_start || self.ledger.is_finished() || (self.wake_when_idle && !self.ledger.is_busy())
    }

    /// Whether more may be read. An answer that is waited for may be behind requests, which are then kept,
    /// however many there are.
    pub(super) fn wants_requests(&self) -> bool {
        let asks = self.asks.as_ref();
        let awaits = asks.is_some_and(|asks| asks.is_any_awaited() && !self.ledger.is_closed());
        awaits || self.ledger.wants_requests(self.writer.unsent())
    }

    /// Whether a loop that paused may take requests again.
    pub(super) fn may_resume_requests(&self) -> bool {
        self.requests_paused && self.wants_requests()
    }

    /// Whether requests wait that no free thread will take.
    pub(super) fn needs_thread(&self) -> bool {
        self.ledger.waiting_for_threads() > self.free_threads
    }

    /// A thread is done writing. Returns whether that wakes a loop that sleeps.
    pub(super) fn end_writing(&mut self) -> bool {
        if self.writer.is_blocked() {
            self.batch_threshold = self.writer.unsent() + FULL_BATCH;
        }
        if self.writer.has_failed() {
            self.writer.clear();
        }
        self.requests_paused || self.ledger.is_finished()
    }

    pub(super) fn take_on_cancel(&mut self, id: u32) -> Vec<OnCancel> {
        let callbacks = self.on_cancel.remove(id).unwrap_or_default();
        self.on_cancel.trim();
        callbacks
    }

    pub(super) fn is_above_high_water(&self) -> bool {
        self.writer.unsent() > self.ledger.high_water()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Body, Framing, SmallBytes, header};
    use crate::worker::calls::CallLimits;
    use crate::worker::calls::Lane::{Deferred, Threaded};
    use std::io;

    fn state(running: usize, high_water: usize) -> HubState {
        let mut state = HubState::default();
        state.ledger.set_limits(CallLimits {
            deferred: running,
            threaded: running,
            high_water,
        });
        state
    }

    fn request() -> SmallBytes {
        SmallBytes::from(&b""[..])
    }

    /// Appends a frame of eight bytes.
    fn push(state: &mut HubState) {
        let header = header(Framing::Tagged, 1, 0);
        state.writer.outbox_mut().push(header, &mut Body::default());
    }

    fn blocked() -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    const IDLE: LoopStatus = LoopStatus {
        wants_requests: true,
        wants_room: false,
        wants_waker: false,
        busy: false,
        finished: false,
        broken: false,
    };

    #[test]
    fn idle_loop_sleeps_until_a_request_comes() {
        let mut state = state(1, 10);
        assert_eq!(state.prepare_to_sleep(), Some(IDLE));
        assert!(state.asleep && !state.requests_paused);
        state.woke_up();
        assert!(!state.asleep);
    }

    #[test]
    fn loop_does_not_sleep_while_a_request_may_start_unless_threads_take_it() {
        let mut state = state(1, 10);
        state.ledger.wait(Deferred, 1, 0, request()).unwrap();
        assert_eq!(state.prepare_to_sleep(), None);
        assert!(!state.asleep);
        state.ledger.cancel(1);
        state.ledger.wait(Threaded, 1, 0, request()).unwrap();
        let status = state.prepare_to_sleep();
        let (busy, wants_waker) = (true, true);
        assert_eq!(
            status,
            Some(LoopStatus {
                busy,
                wants_waker,
                ..IDLE
            })
        );
    }

    #[test]
    fn loop_above_high_water_pauses_requests_until_less_is_unsent() {
        let mut state = state(1, 10);
        for _ in 0..2 {
            push(&mut state);
        }
        assert!(state.is_above_high_water());
        let status = state.prepare_to_sleep().unwrap();
        assert_eq!(
            status,
            LoopStatus {
                wants_requests: false,
                wants_room: true,
                wants_waker: true,
                ..IDLE
            }
        );
        assert!(state.requests_paused && !state.may_resume_requests());
        let batch = state.writer.begin(1).unwrap();
        assert!(
            !state.prepare_to_sleep().unwrap().wants_room,
            "another thread writes"
        );
        state.writer.end(batch, Ok(16));
        assert!(state.end_writing() && state.may_resume_requests());
        state.prepare_to_sleep().unwrap();
        assert!(!state.end_writing() && !state.may_resume_requests());
    }

    #[test]
    fn last_answer_wakes_a_loop_that_has_slept_for_long() {
        let mut state = state(2, 10);
        state.ledger.start(Deferred, 1).unwrap();
        state.ledger.start(Deferred, 2).unwrap();
        state.wake_when_idle = true;
        state.ledger.answered(1);
        assert!(!state.answer_wakes_loop());
        state.ledger.answered(2);
        assert!(state.answer_wakes_loop());
        state.woke_up();
        assert!(!state.answer_wakes_loop());
    }

    #[test]
    fn answer_wakes_a_loop_if_it_makes_room_for_a_request_or_was_the_last_of_all() {
        let mut state = state(1, 10);
        state.ledger.start(Deferred, 1).unwrap();
        state.ledger.wait(Deferred, 2, 0, request()).unwrap();
        state.ledger.answered(1);
        assert!(state.answer_wakes_loop());
        state.ledger.cancel(2);
        state.ledger.wait(Threaded, 2, 0, request()).unwrap();
        assert!(!state.answer_wakes_loop());
        state.ledger.next(Threaded).unwrap();
        state.ledger.close();
        assert!(!state.answer_wakes_loop() && !state.end_writing());
        state.ledger.answered(2);
        assert!(state.answer_wakes_loop() && state.end_writing());
        assert!(state.prepare_to_sleep().unwrap().finished);
        push(&mut state);
        assert!(!state.prepare_to_sleep().unwrap().finished);
    }

    #[test]
    fn threads_are_started_for_requests_that_no_free_one_takes() {
        let mut state = state(9, 10);
        assert!(!state.needs_thread());
        state.ledger.wait(Threaded, 1, 0, request()).unwrap();
        assert!(state.needs_thread());
        state.free_threads = 1;
        assert!(!state.needs_thread());
        state.ledger.wait(Threaded, 2, 0, request()).unwrap();
        assert!(state.needs_thread());
    }

    #[test]
    fn more_gathers_for_the_next_batch_if_there_was_no_room() {
        let mut state = state(1, 10);
        push(&mut state);
        let batch = state.writer.begin(1).unwrap();
        state.writer.end(batch, blocked());
        state.end_writing();
        assert_eq!(state.batch_threshold, 8 + FULL_BATCH);
        assert!(!state.prepare_to_sleep().unwrap().broken);
    }

    #[test]
    fn what_cannot_be_written_is_given_up() {
        let mut state = state(1, 10);
        push(&mut state);
        let batch = state.writer.begin(1).unwrap();
        push(&mut state);
        state
            .writer
            .end(batch, Err(io::ErrorKind::BrokenPipe.into()));
        state.end_writing();
        assert_eq!(state.writer.unsent(), 0);
        assert!(state.prepare_to_sleep().unwrap().broken);
    }
}

//! A place for one answer, and for the thread that waits for it.

use super::completion::{Answer, AnswerFamily, BorrowedAnswer};
use super::reader::Reader;
use crate::sys::Consume;
use crate::unwind;
use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

/// Where the thread that reads puts an answer, and a caller waits for it. The caller may find the
/// reader's role there instead: then it reads itself.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    state: Mutex<SlotState>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct SlotState {
    answer: Option<Answer>,
    reader: Option<Box<Reader>>,
    /// Whether a thread waits: notifying none would still be a system call.
    awaited: bool,
}

thread_local! {
    /// This thread's slot, for calls that are waited for where they are made.
    static OWN: RefCell<Option<Arc<Slot>>> = const { RefCell::new(None) };
}

impl Slot {
    /// An empty slot: this thread's own, unless that is in use.
    pub(crate) fn own() -> Arc<Self> {
        let own = OWN.try_with(|own| match &mut *own.borrow_mut() {
            Some(slot) if Arc::strong_count(slot) == 1 => {
                slot.lock().answer = None;
                Arc::clone(slot)
            }
            own => Arc::clone(own.insert(Arc::default())),
        });
        // It is gone while the thread's other values are dropped, which may make calls.
        own.unwrap_or_default()
    }

    /// Puts the answer in, once.
    fn fill(&self, answer: Answer) {
        let mut state = self.lock();
        state.answer = Some(answer);
        self.notify(&state);
    }

    /// Gives the reader's role to the caller that waits.
    pub(super) fn give(&self, reader: Box<Reader>) {
        let mut state = self.lock();
        state.reader = Some(reader);
        self.notify(&state);
    }

    /// Takes the answer out if it is there.
    pub(crate) fn take(&self) -> Option<Answer> {
        self.lock().answer.take()
    }

    /// Takes the reader's role out, if it was given.
    pub(super) fn take_reader(&self) -> Option<Box<Reader>> {
        self.lock().reader.take()
    }

    /// Waits for the answer or the reader's role, until `deadline`, and takes what there is.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> (Option<Answer>, Option<Box<Reader>>) {
        let empty = |state: &mut SlotState| state.answer.is_none() && state.reader.is_none();
        let mut state = self.lock();
        state.awaited = true;
        state = unwind::wait_until(&self.filled, state, deadline, empty);
        state.awaited = false;
        (state.answer.take(), state.reader.take())
    }

    fn notify(&self, state: &SlotState) {
        if state.awaited {
            self.filled.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, SlotState> {
        unwind::lock(&self.state)
    }
}

/// Completes a call by filling a slot.
pub(crate) struct Fill(pub(crate) Arc<Slot>);

impl Consume<AnswerFamily> for Fill {
    fn consume(self, answer: &BorrowedAnswer<'_>) {
        self.0.fill(answer.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Decoder, Framing};
    use std::thread;

    fn answer(slot: &Slot) -> Vec<u8> {
        match slot.take() {
            Some(Answer::Reply(payload)) => payload.to_vec(),
            other => panic!("expected a reply, got {other:?}"),
        }
    }

    #[test]
    fn slot_of_a_thread_is_used_again_when_it_is_free_and_empty_then() {
        let first = Slot::own();
        let second = Slot::own();
        assert!(!Arc::ptr_eq(&first, &second), "the first one is in use");
        // That one is the thread's own now.
        second.fill(Answer::Reply(b"late"[..].into()));
        let at = Arc::as_ptr(&second);
        drop(second);
        let third = Slot::own();
        assert!(Arc::as_ptr(&third) == at && third.take().is_none());
    }

    #[test]
    fn waiting_thread_gets_the_answer_or_the_readers_role() {
        let slot = Slot::default();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| slot.wait(None));
            Fill(Arc::default()).consume(&BorrowedAnswer::Reply(b"other"));
            slot.fill(Answer::Reply(b"mine"[..].into()));
            let (answer, reader) = waiting.join().unwrap();
            assert!(matches!(answer, Some(Answer::Reply(it)) if *it == *b"mine"));
            assert!(reader.is_none());

            let waiting = scope.spawn(|| slot.wait(None));
            slot.give(Reader::new(Decoder::new(Framing::Tagged, 64, 64)));
            let (answer, reader) = waiting.join().unwrap();
            assert!(answer.is_none() && reader.is_some());
        });
        assert!(slot.take_reader().is_none(), "it was taken");
        let (answer, reader) = slot.wait(Some(Instant::now()));
        assert!(answer.is_none() && reader.is_none());
    }

    #[test]
    fn what_came_before_the_wait_is_there() {
        let slot = Slot::default();
        slot.fill(Answer::Reply(b"early"[..].into()));
        assert_eq!(answer(&slot), b"early");
        assert!(slot.take().is_none());
    }
}

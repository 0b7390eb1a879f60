//! Cancellation of calls.

use super::on_cancel::{OnCancel, run_callbacks};
use super::shared::Hub;
use crate::wire::Failure;
use crate::worker::calls::CallState;

impl Hub {
    /// The parent does not wait for the answer to a call any more.
    pub(in crate::worker) fn cancel(&'static self, id: u32) {
        let mut state = self.lock();
        match state.ledger.cancel(id) {
            CallState::Waiting => {
                drop(state);
                self.fail(id, &Failure::Cancelled);
            }
            CallState::Running => {
                let callbacks = state.take_on_cancel(id);
                let abandon_asks = state.asks.as_ref().map(|asks| asks.on_cancelled());
                drop(state);
                if let Some(abandon_asks) = abandon_asks {
                    abandon_asks(self, id);
                }
                run_callbacks(callbacks);
            }
            CallState::Gone => {}
        }
    }

    pub(in crate::worker) fn is_cancelled(&self, id: u32) -> bool {
        self.lock().ledger.is_cancelled(id)
    }

    /// Calls `callback` when the call is cancelled, immediately if it was. Drops it when the call is
    /// answered.
    pub(in crate::worker) fn on_cancel(&self, id: u32, callback: OnCancel) {
        if self.is_elsewhere() {
            return;
        }
        let mut state = self.lock();
        if state.ledger.is_cancelled(id) {
            drop(state);
            callback();
        } else if self.main_call.is_at(id) || state.ledger.is_running(id) {
            match state.on_cancel.get_mut(id) {
                Some(callbacks) => callbacks.push(callback),
                None => state.on_cancel.insert(id, vec![callback]),
            }
        }
    }
}

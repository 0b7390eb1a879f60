//! The loop's sleep: when it may, and what wakes it.

use super::shared::Hub;
use super::state::{HubState, LoopStatus};
use crate::sys::Waker;
use std::io;
use std::sync::Arc;

impl Hub {
    /// What wakes the loop, made when first asked for.
    pub(in crate::worker) fn waker(&self) -> io::Result<Arc<Waker>> {
        let mut state = self.lock();
        if let Some(waker) = &state.waker {
            return Ok(Arc::clone(waker));
        }
        let waker = Arc::new(Waker::new()?);
        state.waker = Some(Arc::clone(&waker));
        Ok(waker)
    }

    /// Prepares for sleep, unless there is something to be done now. From here on, everything that
    /// concerns the loop wakes it; what was posted before is to be checked for once more.
    pub(in crate::worker) fn prepare_to_sleep(&self) -> Option<LoopStatus> {
        self.lock().prepare_to_sleep()
    }

    /// The loop has slept for a while, and is to be woken when no call is left. Returns false if none
    /// is by now.
    pub(in crate::worker) fn wake_when_idle(&self) -> bool {
        let mut state = self.lock();
        state.wake_when_idle = state.ledger.is_busy();
        state.wake_when_idle
    }

    /// The loop is awake.
    pub(in crate::worker) fn woke_up(&self) {
        self.lock().woke_up();
    }

    /// Wakes the loop if it sleeps.
    pub(in crate::worker) fn wake_loop(&self) {
        self.lock().wake_loop();
    }
}

impl HubState {
    /// Wakes the loop if it sleeps.
    pub(super) fn wake_loop(&mut self) {
        if self.asleep
            && let Some(waker) = &self.waker
        {
            self.asleep = false;
            waker.wake();
        }
    }
}

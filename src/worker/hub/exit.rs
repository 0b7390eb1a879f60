//! What is done when the process exits.

use super::shared::Hub;
use crate::sys::{self, StaticRef};

/// The hub of this process, if it is a child. A copy of it that serves has another.
static HUB: StaticRef<Hub> = StaticRef::new();

impl Hub {
    /// The hub of this process, if it is a child.
    pub(in crate::worker) fn of_process() -> Option<&'static Hub> {
        HUB.get()
    }

    /// Makes this the hub of the process, and arranges for what is left to be written when the process
    /// exits, for whatever reason: a function may call `exit`.
    pub(in crate::worker) fn flush_at_exit(&'static self) {
        extern "C" fn flush() {
            if let Some(hub) = Hub::of_process() {
                hub.flush_and_close();
            }
        }
        if HUB.replace(self).is_none() {
            sys::at_exit(flush);
        }
    }
}

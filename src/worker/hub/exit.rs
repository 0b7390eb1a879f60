//! What is done when the process exits.

use super::shared::Hub;
use crate::sys;
use std::sync::OnceLock;

/// The hub of this process, if it is a child.
static HUB: OnceLock<&'static Hub> = OnceLock::new();

impl Hub {
    /// Arranges for what is left to be written when the process exits, for whatever reason: a function
    /// may call `exit`. To be called once in a process.
    pub(in crate::worker) fn flush_at_exit(&'static self) {
        extern "C" fn flush() {
            if let Some(hub) = HUB.get() {
                hub.flush_and_close();
            }
        }
        if HUB.set(self).is_ok() {
            sys::at_exit(flush);
        }
    }
}

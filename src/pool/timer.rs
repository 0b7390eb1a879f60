//! What is due in a pool, as a handler of its reactor.

use super::core::Core;
use crate::error::Error;
use crate::rpc::{EventHandler, Source};
use polling::Event;
use std::sync::Arc;
use std::time::Instant;

/// See the module's documentation. It has no descriptors.
pub(super) struct Timer {
    core: Arc<Core>,
    at: Option<Instant>,
    is_over: bool,
}

impl Timer {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Timer {
            core,
            at: None,
            is_over: false,
        }
    }
}

impl EventHandler for Timer {
    fn key(&self) -> usize {
        self.core.key
    }

    fn deadline(&self) -> Option<Instant> {
        self.at
    }

    fn is_over(&self) -> bool {
        self.is_over
    }

    fn ready(&mut self, _source: Source, _event: Event, now: Instant) {
        self.attend(now);
    }

    fn attend(&mut self, _now: Instant) {
        (self.at, self.is_over) = self.core.attend();
    }

    fn resume(&mut self, now: Instant) {
        self.attend(now);
    }

    fn fail(&mut self, error: Error) {
        if !self.is_over {
            self.core.fail(&error);
            self.is_over = true;
        }
    }
}

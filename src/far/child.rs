//! What is known of a child on another machine.

use super::connection::{Connection, Order};
use crate::process::{Remote, RemoteEnd};
use crate::sys;
use crate::unwind;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

/// One child, for whoever waits for it.
#[derive(Debug)]
pub(super) struct FarChild {
    pub(super) state: Arc<ChildState>,
    /// What it is behind, and its number there.
    pub(super) connection: Arc<Connection>,
    pub(super) number: u64,
}

/// What the carrier has learned of it.
#[derive(Default)]
pub(super) struct ChildState(Mutex<Known>);

#[derive(Default)]
struct Known {
    pid: Option<u32>,
    is_begun: bool,
    end: Option<RemoteEnd>,
    is_settled: bool,
    changed: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for ChildState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = unwind::lock(&self.0);
        f.debug_struct("ChildState")
            .field("pid", &known.pid)
            .field("end", &known.end)
            .finish_non_exhaustive()
    }
}

impl ChildState {
    /// The connection is there, so that it is being started.
    pub(super) fn begun(&self) {
        self.change(|known| known.is_begun = true);
    }

    /// It was started.
    pub(super) fn started(&self, pid: u32) {
        self.change(|known| known.pid = Some(pid));
    }

    /// It has ended. Only the first end counts.
    pub(super) fn ended(&self, end: RemoteEnd) {
        self.change(|known| {
            known.end.get_or_insert(end);
        });
    }

    /// Nothing more is left that was there only for it.
    pub(super) fn settled(&self) {
        self.change(|known| known.is_settled = true);
    }

    /// How it ended, once it has.
    pub(super) fn end(&self) -> Option<RemoteEnd> {
        unwind::lock(&self.0).end.clone()
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        let mut known = unwind::lock(&self.0);
        change(&mut known);
        let changed = known.changed.clone();
        drop(known);
        if let Some(changed) = changed {
            changed();
        }
    }
}

impl Remote for FarChild {
    fn pid(&self) -> Option<u32> {
        unwind::lock(&self.state.0).pid
    }

    fn signal(&self, signal: i32) -> io::Result<()> {
        if unwind::lock(&self.state.0).end.is_some() {
            return Err(sys::no_process());
        }
        let child = self.number;
        self.connection.order(Order::Signal { child, signal });
        Ok(())
    }

    fn is_begun(&self) -> bool {
        unwind::lock(&self.state.0).is_begun
    }

    fn end(&self) -> Option<RemoteEnd> {
        self.state.end()
    }

    fn is_settled(&self) -> bool {
        unwind::lock(&self.state.0).is_settled
    }

    fn watch(&self, changed: Box<dyn Fn() + Send + Sync>) {
        unwind::lock(&self.state.0).changed = Some(changed.into());
    }

    fn give_up(&self) {
        self.connection.give_up();
    }
}

impl Drop for FarChild {
    fn drop(&mut self) {
        let child = self.number;
        self.connection.order(Order::Leave { child });
    }
}

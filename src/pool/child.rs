//! What a pool is told of one child, and tells of it.

use super::core::Core;
use super::memory::Memory;
use super::scheduler::{Child, ChildId};
use crate::error::{Error, Phase};
use crate::process::{self, Noted};
use crate::rpc::{Completion, Exit, Link, Supervise};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a child of a [pool](crate::Pool) has ended, and what it was doing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ChildExit {
    /// Its process id. `None` if it could not be started, or is only a stream.
    pub pid: Option<u32>,
    /// How it has ended. An error if it was not to end.
    pub end: Result<Exit, Error>,
    /// How many calls it has answered.
    pub calls: u64,
    /// How long those calls had been with it that it had begun, and that are lost.
    pub begun: Vec<Duration>,
}

impl ChildExit {
    pub(super) fn new(
        pid: Option<u32>,
        end: Result<Exit, Error>,
        child: &Child,
        begun: usize,
        now: Instant,
    ) -> Self {
        let begun = child.sent_at.iter().take(begun);
        ChildExit {
            pid,
            end,
            calls: child.ended,
            begun: begun.map(|at| now.saturating_duration_since(*at)).collect(),
        }
    }
}

/// Told of one child, on the reactor's thread.
pub(super) struct ChildWatch {
    core: Arc<Core>,
    child: ChildId,
}

impl ChildWatch {
    pub(super) fn new(core: Arc<Core>, child: ChildId) -> Self {
        ChildWatch { core, child }
    }
}

fn pid(link: &Link) -> Option<u32> {
    link.child().and_then(process::Child::pid)
}

impl Supervise for ChildWatch {
    fn ready(&self, link: &Arc<Link>) {
        let pid = link.child().and_then(process::Child::local_pid);
        let growth = self.core.max_memory.zip(pid);
        let memory = growth.and_then(|(growth, pid)| Memory::of(pid, growth));
        self.core.ready(self.child, link, memory);
    }

    fn freed(&self, total: u64) {
        self.core.freed(self.child, total);
    }

    fn retires(&self) {
        self.core.retires(self.child);
    }

    fn lost(
        &self,
        id: u32,
        completion: Completion,
        error: &Error,
        phase: Phase,
    ) -> Option<Completion> {
        self.core.lost(self.child, id, completion, error, phase)
    }

    fn ended(&self, link: &Arc<Link>, end: &Result<Exit, Error>, begun: usize) {
        // That which it has begun may have been cancelled, and is not lost then.
        let noted = link.child().map(process::Child::noted);
        let has_begun = begun > 0 || matches!(noted, Some(Noted::LastCall(1..)));
        let end = end.clone();
        self.core
            .ended(self.child, pid(link), end, begun, has_begun);
    }
}

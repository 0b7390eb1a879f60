//! A process that this one knows only by what another tells about it.

use super::Noted;
use crate::error::Error;
use std::fmt;
use std::io;
use std::process::ExitStatus;

/// See the module's documentation.
pub(crate) trait Remote: fmt::Debug + Send + Sync {
    /// Its process id there, once that is known.
    fn pid(&self) -> Option<u32>;

    /// Has it signalled.
    fn signal(&self, number: i32) -> io::Result<()>;

    /// Whether it is being started: the connection is there.
    fn is_begun(&self) -> bool;

    /// How it ended, once it has and everything that it wrote can be read.
    fn end(&self) -> Option<RemoteEnd>;

    /// Whether nothing is left of it, nor of what was there only for it.
    fn is_settled(&self) -> bool;

    /// Gives up what this copy of the process shares with the original.
    fn give_up(&self);

    /// Calls `changed` whenever one of the above may have changed, on any thread.
    fn watch(&self, changed: Box<dyn Fn() + Send + Sync>);
}

/// How a remote process ended.
#[derive(Debug, Clone)]
pub(crate) struct RemoteEnd {
    pub(crate) ended: Ended,
    pub(crate) noted: Noted,
}

/// What is known of the end of a process.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    /// It has exited: `None` if other code took its status.
    Exited(Option<ExitStatus>),
    /// Nothing more will be heard of it, and why; or it was never started.
    Lost(Error),
}

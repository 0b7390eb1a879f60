//! What the parent knows about one child and decides about it, as state machines. Pure: no
//! descriptors, no threads, no clock.

mod asks;
mod begun;
mod calls;
mod connection;
mod ladder;
mod life;
mod role;
mod stamps;
mod switches;
mod violation;

pub(super) use asks::SERVES_NOTHING;
pub(crate) use begun::Begun;
#[cfg(any(fuzzing, test))]
pub(crate) use connection::StartRefusal;
pub(crate) use connection::{Connection, Delivery, QueueLimits};
pub(super) use ladder::Signal;
pub use ladder::StopStage;
pub use life::Exit;
pub(super) use life::{Kill, Life, StartBy, Verdict};
pub(super) use role::{AfterRelease, Role};
pub(super) use stamps::Stamps;
pub(crate) use violation::ChildViolation;

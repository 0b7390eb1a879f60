//! Replaceable children behind one call.
//!
//! ```text
//!   builder  handle  call  map     what a program holds; types and codec end here; hosts: of a file
//!        ╲     │      │   ╱
//!             core                 what all handles share, and does what is decided
//!         ╱    │    ╲   ╲
//!   starter   child  timer  stats  starts children; told of one; when something is due; a snapshot
//!              │
//!            state                 what the lock guards: children, and calls that wait or are sent
//!           ╱     ╲
//!   scheduler   waiting  records   which call goes where, who is started and stopped: pure;
//!                                  a call on its way; what is needed to make it again
//! ```
//!
//! A pool knows its children only as handles of `rpc`, and descriptions of `process`.

mod builder;
mod call;
mod child;
mod core;
mod handle;
mod hosts;
mod map;
mod memory;
mod records;
mod scheduler;
mod starter;
mod state;
mod stats;
mod timer;
mod waiting;

pub use builder::PoolBuilder;
pub use call::PoolCall;
pub use child::ChildExit;
pub use handle::Pool;
pub use hosts::{Host, Hosts};
pub use map::{Map, MapUnordered};
pub use stats::{ChildStats, PoolStats, SourceStats};

#[cfg(any(fuzzing, test))]
pub(crate) use scheduler::{Action, Child, ChildId, End, Scheduler, Sizing, Stage, Ticket, Want};

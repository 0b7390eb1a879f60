//! The parent: a handle to a child, and what is behind it.
//!
//! ```text
//!   Rpc, Call, Pending        what a program holds; types and codec end here
//!        │
//!      Link ── Connection     one lock: calls by id (Calls), output (Outbox), deadlines. Pure
//!        │
//!     Driver ── Life, StopLadder  the reactor's: reads, timers, signals, the verdict. Pure but for I/O
//!        │
//!     Reactor                 the thread, on `polling`
//! ```

mod builder;
mod call;

mod driver;
mod handle;

mod link;
mod log;
mod reactor;
mod reader;

mod slot;
mod state;

pub use builder::RpcBuilder;
pub use call::{Call, Pending};
pub use handle::Rpc;
pub use link::Exit;
pub use reactor::Reactor;
pub use state::StopStage;

#[cfg(any(fuzzing, test))]
pub(crate) use state::{ChildViolation, Connection, Delivery, QueueLimits, StartRefusal};

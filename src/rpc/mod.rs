//! The parent: a handle to a child, and what is behind it.
//!
//! ```text
//!   Rpc, Call, Pending        what a program holds; types and codec end here
//!        │
//!      Link ── Connection     one lock: calls by id (Calls), output (Outbox), deadlines. Pure
//!        │
//!     Driver ── Life, Ladder  the reactor's: reads, timers, signals, the verdict. Pure but for I/O
//!        │
//!     Reactor                 the thread, on `polling`
//! ```

mod builder;
mod call;
mod calls;
mod connection;
mod driver;
mod handle;
mod ladder;
mod life;
mod link;
mod log;
mod reactor;
mod reader;
mod role;
mod slot;

pub use builder::RpcBuilder;
pub use call::{Call, Pending};
pub use handle::Rpc;
pub use ladder::Rung;
pub use link::Exit;
pub use reactor::Reactor;

#[cfg(any(fuzzing, test))]
pub(crate) use connection::{Connection, Delivery, Limits, Refused, Violation};

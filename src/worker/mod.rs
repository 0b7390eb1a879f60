//! The child: a table of functions, and the loop that serves them. Declares and re-exports only.
//!
//! ```text
//!   builder ──▶ serve ──▶ table ──▶ returning, concurrent ──▶ server ──▶ session, request_reader
//!                           │                 │                  │
//!                           ▼                 ▼                  ▼
//!                        caller          event_loop ──────────▶ hub ──▶ calls
//! ```
//!
//! `serve` takes the connection over and runs setups; `table` knows the functions, and serves the one
//! that the parent asks for in the way of its kind.

mod builder;
mod caller;
mod calls;
mod concurrent;
mod event_loop;
mod hub;
#[cfg(feature = "log")]
mod logger;
mod panics;
mod request_reader;
mod returning;
mod returning_child;
mod serve;
mod server;
mod session;
mod table;

pub use builder::Worker;
pub use caller::{Caller, Cancellation, Parent};
pub use event_loop::{Loop, Poster, Watch};

#[cfg(any(fuzzing, test))]
pub(crate) use calls::{CallLimits, CallState, Duplicate, Ledger, MainCall};
#[cfg(any(fuzzing, test))]
pub(crate) use event_loop::Timers;
#[cfg(any(fuzzing, test))]
pub(crate) use session::{ParentViolation, Session, Step};

//! The child: a table of functions, and the loop that serves them. Declares and re-exports only.
//!
//! ```text
//!   builder ──▶ serve ──▶ table ──▶ concurrent ──▶ returning ──▶ server ──▶ session, functions
//!                           │            │             │           │
//!                           ▼            ▼             ▼           ▼
//!                        caller     event_loop    read_ahead ──▶ hub ──▶ calls
//!                           │            │             ▲
//!                           └────────────┴───▶ ask ────┘
//! ```
//!
//! `serve` takes the connection over and runs setups; `table` has the functions. Where all of them are
//! returning ones, `returning` serves them, otherwise `concurrent`.

mod ask;
mod builder;
mod caller;
mod calls;
mod concurrent;
mod event_loop;
mod functions;
mod hub;
#[cfg(feature = "log")]
mod logger;
mod panics;
mod read_ahead;
mod request_reader;
mod returning;
mod serve;
mod server;
mod session;
mod table;
mod template;

pub use builder::Worker;
pub use caller::{Caller, Cancellation, Parent};
pub use event_loop::{Loop, Poster, Watch};

#[cfg(any(fuzzing, test))]
pub(crate) use calls::{CallLimits, CallState, Duplicate, Lane, Ledger, MainCall, Started};
#[cfg(any(fuzzing, test))]
pub(crate) use event_loop::Timers;
#[cfg(any(fuzzing, test))]
pub(crate) use session::{Known, ParentViolation, Session, Step};

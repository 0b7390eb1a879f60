//! The parent: a handle to a child, and what is behind it.
//!
//! ```text
//!   builder  call  handle     what a program holds; types and codec end here; stats: a snapshot
//!      │       ╲    ╱
//!    start       ╲ ╱          starts a child, and puts the rest together; template has one copied
//!      │          │
//!    driver       │           what the reactor does for one child: reads, reports, signals
//!      │  ╲       │
//!      │   ╲─── link          the conversation with one child, under one lock
//!      │  ╱       │  ╲
//!   reactor       │   state   connection, calls, role, life, ladder: pure
//!           ╲     │
//!           callback          runs the program's code
//! ```
//!
//! The reactor's thread knows what it serves only as [`reactor::EventHandler`]s, of which the driver
//! is one.

mod ask;
mod builder;
mod call;
mod callback;
mod driver;
mod hand_over;
mod handle;
mod link;
mod log;
mod reactor;
mod start;
mod state;
mod stats;
mod template;

pub use ask::Asker;
pub use builder::RpcBuilder;
pub use call::{Call, Pending};
pub use handle::Rpc;
pub use reactor::Reactor;
pub use state::{Exit, StopStage};
pub use stats::{ChildState, RpcStats};

// What pools are built on.
pub(crate) use ask::{
    AskHandler, AskHandlers, ServeAsk, deferred as ask_deferred, returning as ask_returning,
};
pub(crate) use call::{PendingPlace, PooledCall, encode_request, progress_callback};
pub(crate) use callback::{guard, in_callback, refuse_in_callback};
pub(crate) use driver::{EventCallback, Handlers, Supervise};
pub(crate) use handle::Handle;
pub(crate) use link::{
    Answer, AnswerFamily, AnswerWait, BorrowedAnswer, CallOptions, Caller, Completion, Ended, Fill,
    Link, ProgressCallback, Slot, Then,
};
pub(crate) use log::error as log_error;
pub(crate) use reactor::{Core as ReactorCore, EventHandler, Source};
pub(crate) use start::{ChildOptions, StartOptions};
pub(crate) use stats::{plural, write_calls, write_done, write_last_error, write_state};

#[cfg(any(fuzzing, test))]
pub(crate) use state::{Begun, ChildViolation, Connection, Delivery, QueueLimits, StartRefusal};

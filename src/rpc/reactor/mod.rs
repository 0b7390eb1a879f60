//! The reactor: a thread that polls the descriptors of any number of handlers, keeps their
//! deadlines and runs their callbacks. It knows them only as [`EventHandler`]s.
//!
//! ```text
//!   handle ─▶ serve ─▶ thread ─▶ core ─▶ table ─▶ handler
//! ```

mod core;
mod handle;
mod handler;
mod serve;
mod table;
mod thread;

pub(crate) use core::Core;
pub use handle::Reactor;
pub(crate) use handler::{EventHandler, Source, poll_key};

//! The child's event loop: timers, descriptors and posts of other threads. Declares and re-exports
//! only.

mod descriptors;
mod looper;
mod mailbox;
mod timers;

pub(super) use descriptors::PollPlaces;
pub use looper::{Loop, Poster, Watch};
#[cfg(any(fuzzing, test))]
pub(crate) use timers::Timers;

//! The parent.
mod calls;
mod connection;
mod ladder;
mod outbox;
pub use ladder::Rung;

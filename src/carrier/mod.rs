//! A connection that carries the streams of many children: what both of its ends have in common.
//!
//! ```text
//!   far/ (this side)                                              relay/ (the other side)
//!   ┌──────────────────────────────┐                  ┌──────────────────────────────┐
//!   │ Rpc ── socket ─┐             │   ssh, srun, ..  │             ┌─ socket ─ child │
//!   │ Rpc ── socket ─┼─ Bridge ────┼──────────────────┼──── Bridge ─┼─ socket ─ child │
//!   │ lines of stderr┘             │   one stream     │             └─ pipe of stderr │
//!   └──────────────────────────────┘                  └──────────────────────────────┘
//! ```
//!
//! A [`Bridge`] copies between local streams and the channels of the connection, and hands the messages that
//! are about children to whoever owns it. Whose turn it is, and how much may be kept, is decided by
//! [`channels`]; which frames may come, by [`judge`]; whether the other end is still there, by [`liveness`];
//! where its bytes begin, by [`greeting`]. Those four are pure.

mod bridge;
mod channels;
mod greeting;
mod judge;
mod liveness;
mod streams;

pub(crate) use bridge::{Bridge, LinkRead, owner_key};
#[cfg(any(fuzzing, test))]
pub(crate) use channels::{CHUNK, ChannelViolation, Channels, Effect, MOST_CREDIT, WIDEST, WINDOW};
#[cfg(any(fuzzing, test))]
pub(crate) use greeting::{Greeted, Greeting, MOST_NOISE};
#[cfg(any(fuzzing, test))]
pub(crate) use judge::judge;
pub(crate) use liveness::{Due, Liveness};
pub(crate) use streams::{Direction, LocalStream};

/// The channels of a child: that of its connection, and those of its output.
pub(crate) fn channels_of(connection: u32, output: [Option<u32>; 2]) -> impl Iterator<Item = u32> {
    [Some(connection)].into_iter().chain(output).flatten()
}

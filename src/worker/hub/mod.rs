//! What all threads of a child share, under one lock: its calls and its output. The fields are private
//! to this folder. Declares and re-exports only.
//!
//! ```text
//!   cancel ──▶ asks ──▶ send ──▶ flush_thread ──▶ transmit ◀── exit
//!                        │                           │
//!                        ▼                           ▼
//!                      calls ─────────────────────▶ sleep ──▶ shared ──▶ state
//! ```
//!
//! All but `shared`, which has the lock, and `state`, which is what it guards, are methods. The decisions
//! are pure: `state`, `flusher`, `write_policy`.
//!
//! Frames are put into one outbox, whole and in the order in which they are made, and any thread may
//! write: one that finds no other writing takes what has gathered. When a thread does so depends on its
//! [`WritePolicy`]. What is to be written soon is left to a thread of its own, the flusher, which is
//! started when it is first needed. It writes what there is, and every 200 microseconds what has been
//! added since, until nothing has. So answers are sent in batches, and none waits for the call after it.

mod asks;
mod calls;
mod cancel;
mod exit;
mod flush_thread;
mod flusher;
mod on_cancel;
mod send;
mod shared;
mod sleep;
mod state;
mod transmit;
mod write_policy;

pub(super) use asks::AskEnd;
pub(crate) use shared::Hub;
pub(super) use state::LoopStatus;
pub(super) use write_policy::WritePolicy;

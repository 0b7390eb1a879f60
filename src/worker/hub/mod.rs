//! What all threads of a child share, under one lock: its calls and its output. The fields are private
//! to this folder. Declares and re-exports only.
//!
//! ```text
//!   cancel ──▶ send ──▶ flush_thread ──▶ transmit ◀── exit
//!               │                           │
//!               ▼                           ▼
//!             calls ─────────────────────▶ sleep ──▶ shared ──▶ state     (each also knows
//!                                                                          what is right of it)
//!   pure: state, flusher, write_policy
//! ```
//!
//! Frames are put into one outbox, whole and in the order in which they are made, and any thread may
//! write: one that finds nobody writing takes what has gathered. When a thread does so is its
//! [`WritePolicy`]. What is to be written soon is written by a thread for that, the flusher, which is
//! started when it is first needed: it writes what there is, and what has come since every 200
//! microseconds, until nothing has. So answers leave in batches, and none waits for the call after it.

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

pub(crate) use shared::Hub;
pub(super) use state::LoopStatus;
pub(super) use write_policy::WritePolicy;

//! What the handles of one child and its reactor share: the conversation with the child, under one
//! lock, and the socket. Its state is private to this folder.
//!
//! ```text
//!   submit  wait  attend      what handles, waiting callers and the reactor do
//!        ╲    │    ╱
//!         shared              the link: the lock, the socket, who writes, who reads
//!           │
//!         state               what the lock guards, and what is decided from it
//!        ╱     ╲
//!     slot     reader         where answers are waited for; what the reading thread owns
//!       │
//!   completion                how a call ends
//! ```

mod attend;
mod completion;
mod reader;
mod shared;
mod slot;
mod state;
mod submit;
mod wait;

pub(crate) use completion::{Answer, AnswerFamily, BorrowedAnswer, Completion, Ended, Then};
pub(crate) use reader::{Reader, input};
pub(crate) use shared::{Link, Peer};
pub(crate) use slot::{Fill, Slot};
pub(crate) use state::ProgressCallback;
pub(crate) use submit::{CallOptions, Caller, SubmittedCall};
pub(crate) use wait::AnswerWait;

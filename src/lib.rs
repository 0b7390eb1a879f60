//! Call functions in child processes.

mod codec;
mod error;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod process;
mod rpc;
mod service;
#[expect(unsafe_code, reason = "system calls, each behind a safe function")]
mod sys;
mod wire;
mod worker;

pub use codec::{Argument, Codec, CodecError, Input, Octets, Output, Strings};
pub use error::{BoxError, CallError, Error, ErrorKind, Panic, Phase, Refusal};
pub use process::{Plain, Process, Stderr};
pub use rpc::{Call, Exit, Pending, Reactor, Rpc, RpcBuilder, Rung};
pub use service::Service;
pub use worker::{Caller, Cancellation, Loop, Parent, Poster, Watch, Worker};

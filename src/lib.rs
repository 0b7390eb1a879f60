//! Call functions in child processes.
//!
//! A program starts a child, calls a function in it, and gets the reply by callback or by waiting
//! for it; the child sends events back while it works. A crash, a leak, an `abort` or hostile input
//! stays in the child, and is an error in the parent that says what happened. Threads and `poll`,
//! no async runtime, no macros, for Linux.
//!
//! # Quick start
//!
//! A program is usually its own child: it builds a table of functions and calls
//! [`Worker::run`] first in `main`. A child serves the table there and never returns; the parent
//! gets the description of a child.
//!
//! ```
//! use offspring::{BoxError, Caller, Strings, Worker};
//!
//! fn main() -> Result<(), BoxError> {
//!     let mut count = 0;
//!     let me = Worker::new()
//!         .function("double", move |request: Strings, caller: &Caller| {
//!             count += 1;
//!             caller.event(format!("call {count}"));
//!             let [n] = request.texts()?;
//!             Ok((2 * n.parse::<i64>()?).to_string())
//!         })
//!         .run(); // a child serves here, and never returns
//!
//!     let rpc = me.rpc("double").on_event(|event| eprintln!("{event}")).start()?;
//!     rpc.call("20").then(|reply| println!("{reply:?}")); // called later, on another thread
//!     assert_eq!(rpc.call("21").wait()?, ["42"]); // waits
//!
//!     let error = rpc.call("many").wait().unwrap_err(); // the child goes on
//!     assert_eq!(error.to_string(), "invalid digit found in string");
//!
//!     rpc.finish()?; // everything is answered, and the child has exited
//!     Ok(())
//! }
//! ```
//!
//! # The pieces
//!
//! In the parent:
//!
//! | type | what it is |
//! |---|---|
//! | [`Process`] | how to get a child: this program, another worker, any command, a stream |
//! | [`RpcBuilder`] | the options of a handle: callbacks, timeouts, limits |
//! | [`Rpc`] | the handle to one child; all clones are the same one |
//! | [`Call`] | a call that is being made: [`then`](Call::then), [`wait`](Call::wait) or [`start`](Call::start) it |
//! | [`Pending`] | a call that was started, to be waited for later or [cancelled](Pending::cancel) |
//! | [`Exit`] | how a child ended in good order, and which [`StopStage`] of the stop ladder it took |
//! | [`Reactor`] | a thread that serves several handles |
//! | [`Stdio`] | what becomes of a child's standard error: it can be captured line by line |
//! | [`Error`], [`CallError`] | what happened to a child; how a call ended, if not with a reply |
//!
//! In the child:
//!
//! | type | what it is |
//! |---|---|
//! | [`Worker`] | the table of functions and setups, and how they are served |
//! | [`Caller`] | the call that a function serves: it sends events and progress, and answers |
//! | [`Parent`] | the parent, apart from any call: it takes events at any time |
//! | [`Cancellation`] | whether a call was cancelled, and what to do then |
//! | [`Loop`] | timers, descriptors and other threads' work, for functions that answer later |
//! | [`Watch`] | a timer or descriptor of a loop, to be cancelled |
//! | [`Poster`] | how other threads have something run on a loop |
//!
//! In both: [`Strings`], what plain calls, replies, events and progress carry, a list of octet strings;
//! [`Service`] and [`Codec`], for calls that carry something else.
//!
//! # Three kinds of functions
//!
//! The table says of each function how it is run; the parent calls all of them alike.
//!
//! | | runs | for |
//! |---|---|---|
//! | [`function`](Worker::function) | one call at a time | anything; start with this. State needs no lock, libraries need not be thread-safe, and more children are more at once |
//! | [`threaded`](Worker::threaded) | several calls at once, each on a thread | work that computes or blocks, where memory is to be shared or a child for each call is too much |
//! | [`deferred`](Worker::deferred) | all calls at once, on one thread; each is answered later | work that mostly waits, for timers, sockets, other processes; and many tiny calls, whose answers leave in batches |
//!
//! A deferred function must return soon: while it runs nothing else does. [`Loop::offload`] takes what
//! cannot. A crash ends all calls of its child, however many run.
//!
//! # What runs where
//!
//! | code | process | thread |
//! |---|---|---|
//! | setups, functions, deferred functions, everything on their [`Loop`], [`Worker::done`] | child | the one that called [`Worker::run`]; one at a time |
//! | threaded functions | child | threads of the child, [so many](Worker::threads) |
//! | what is [offloaded](Loop::offload) | child | a thread of its own |
//! | [`Call::then`]'s callback, [`Call::on_progress`] | parent | the reactor's |
//! | [`on_event`](RpcBuilder::on_event), [`on_error`](RpcBuilder::on_error), [`on_destroy`](RpcBuilder::on_destroy), [`Stdio::lines`] | parent | the reactor's |
//! | the parent's logger, for the child's log records (feature `log`, [`Worker`]`::log`) | parent | the reactor's |
//!
//! A handle has a reactor thread of its own, unless it is told to [share](RpcBuilder::reactor) one.
//! Callbacks run one at a time, in the order in which the child made its replies, events, progress
//! reports and log records, from whichever thread or timer, and never inside the method that registers
//! them. Methods that wait return after the callbacks of everything that came before; in a callback
//! they refuse to wait, and say so at once, for nothing would be read meanwhile. A callback that panics
//! is reported by the panic hook, and the reactor goes on.
//!
//! # Errors
//!
//! Every call ends exactly once. An error that the function returned
//! ([`Failed`](CallError::Failed)), its panic ([`Panicked`](CallError::Panicked)), a [`Caller`] that it
//! dropped ([`Unanswered`](CallError::Unanswered)) and values that cannot be encoded or decoded
//! ([`Malformed`](CallError::Malformed)) are the call's own, and the child lives on. If the child is
//! lost, all its calls end with [`Lost`](CallError::Lost), with an [`Error`] that has the kind, the
//! process id, the exit status or signal, and the last lines of standard error if they are captured.
//! The [`Phase`] tells whether the call was sent: one that was not can be made again.
//!
//! The end of the child itself is told once, after all else: to `on_error` if something went wrong
//! (without that to `on_event`, without either to the log, or on standard error without the feature
//! `log`), to `on_destroy` if not. [`Rpc::finish`] returns the same.
//!
//! # Cancellation
//!
//! A [timeout](Call::timeout), [`Pending::cancel`], and dropping a [`Pending`] that was made with
//! [`cancel_on_drop`](Call::cancel_on_drop), end a call in the parent at once. If it has not been sent, it
//! never is; if it has not begun in the child, it does not begin; if it runs, it goes on, and the
//! function can [ask](Caller::is_cancelled) or [be told](Cancellation::then). What it then answers is
//! dropped. To end a function that does not listen, [kill](Rpc::kill) the child.
//!
//! # What starting a child does
//!
//! [`RpcBuilder::start`] makes a socket pair, executes the program with `posix_spawn` and returns. The
//! child gets the arguments of [`Process::arg`], not the parent's own, the parent's environment and
//! directory unless told otherwise, and no descriptors but those it needs; [`Process`] has the
//! details. It runs `main` up to [`Worker::run`], takes its connection over, runs the setups, and
//! reports. Calls can be made at once: they are sent along. A child that does not report within the
//! [start timeout](RpcBuilder::start_timeout), exits first, is no worker or has no such function ends
//! with an error that says which, and so do its calls.
//!
//! When the last handle is dropped, or [`Rpc::finish`] is called, the child answers what was called,
//! does what [`Worker::done`] says, and exits. If that takes longer than the
//! [grace](RpcBuilder::grace), it gets SIGTERM, and SIGKILL after another. If the parent is gone, an idle
//! child exits and a busy one is killed.
//!
//! # Limits
//!
//! | option | default | beyond it |
//! |---|---|---|
//! | [`max_frame`](RpcBuilder::max_frame) | 256 MiB | a request is refused, a reply fails its call |
//! | [`max_queue`](RpcBuilder::max_queue) | none | [`call`](Rpc::call) waits, [`try_call`](Rpc::try_call) is refused |
//! | [`start_timeout`](RpcBuilder::start_timeout) | 10 s | the child is killed |
//! | [`call_timeout`](RpcBuilder::call_timeout), [`Call::timeout`] | none | the call ends, the child goes on |
//! | [`grace`](RpcBuilder::grace) | 5 s | SIGTERM, then SIGKILL |
//! | [`Worker::threads`] | one for each processor | calls wait in the child |
//! | [`Worker::max_running`] | none | calls wait in the child |
//! | [`Worker::high_water`] | 1 MiB | the child reads no more requests until less is unsent or waiting |
//!
//! Nothing is allocated because the other side claims a length: buffers grow with what arrives.
//!
//! # Plain peers
//!
//! The other side need not be this library, nor written in Rust. [`Process::command`] starts any program
//! that speaks one of the two [`Plain`] modes on its standard input and output, [`Process::stream`] takes
//! a connected socket, and [`Worker::serve_plain`] is such a child. They are what Perl's
//! `AnyEvent::Fork::RPC` speaks: frames of a few bytes around octet strings. A plain child cannot report
//! a failed call: it ends.
//!
//! # In tests
//!
//! Functions can be called in children of a `#[test]`, too: see [`Worker`](Worker#in-tests).
//!
//! # Costs and hazards
//!
//! [`guide`] is about what newcomers stumble over; [`costs`] tells how many system calls, copies and allocations a call takes; [`gotchas`] what is
//! treacherous about child processes, and what is done about each.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod busy_poll;
mod codec;
mod deadlines;
mod error;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod id_map;
mod process;
mod rpc;
mod service;
#[expect(unsafe_code, reason = "system calls, each behind a safe function")]
mod sys;
mod threads;
mod wire;
mod worker;

pub use codec::{Argument, Codec, CodecError, Input, OctetString, Octets, Output, Strings};
pub use error::{BoxError, CallError, Error, ErrorKind, Panic, Phase, Refusal};
pub use process::{Process, Stdio};
pub use rpc::{Call, Exit, Pending, Reactor, Rpc, RpcBuilder, StopStage};
pub use service::Service;
pub use wire::Plain;
pub use worker::{Caller, Cancellation, Loop, Parent, Poster, Watch, Worker};

#[doc = include_str!("costs.md")]
pub mod costs {}

#[doc = include_str!("gotchas.md")]
pub mod gotchas {}

#[doc = include_str!("guide.md")]
pub mod guide {}

/// The examples in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;

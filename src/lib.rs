//! Call functions in child processes.
//!
//! A program starts a child, calls a function in it, and gets the reply by callback or by waiting
//! for it; the child sends events back while it works. A crash, a leak, an `abort` or hostile input
//! stays in the child, and becomes an error in the parent that says what happened. Threads and
//! `poll`, no async runtime, no macros, for Linux.
//!
//! # Quick start
//!
//! A program is usually its own child: it builds a table of functions and calls
//! [`Worker::run`] first thing in `main`. In a child, this serves the table and never returns; in
//! the parent it returns a description of the child to start. What both sides agree on, a function's
//! name, codec and types, is a constant; this one needs the feature `json`.
//!
//! ```
//! # #[cfg(feature = "json")] mod program {
//! use offspring::{BoxError, Json, Service, Worker};
//!
//! const LINES: Service<Json, String, usize> = Service::new("lines");
//!
//! # pub
//! fn main() -> Result<(), BoxError> {
//!     let me = Worker::new()
//!         .function(LINES, |path, caller| {
//!             caller.event(format!("reading {path}"));
//!             Ok(std::fs::read_to_string(path)?.lines().count())
//!         })
//!         .run(); // a child serves here, and never returns
//!
//!     let rpc = me.rpc(LINES).on_event(|event| eprintln!("{event}")).start()?;
//!     rpc.call("no such file").then(|reply| match reply {
//!         Ok(lines) => println!("{lines} lines"),
//!         Err(error) => println!("{error}"),
//!     });
//!     println!("{} lines", rpc.call("Cargo.toml").wait()?);
//!     rpc.finish()?; // everything is answered, and the child has exited
//!     Ok(())
//! }
//! # }
//! # #[cfg(feature = "json")]
//! # fn main() -> Result<(), offspring::BoxError> { program::main() }
//! # #[cfg(not(feature = "json"))]
//! # fn main() {}
//! ```
//!
//! Without a codec's feature, a function's name is all there is to agree on: calls carry
//! [octet strings](Strings) then.
//!
//! ```
//! use offspring::{BoxError, Worker};
//!
//! fn main() -> Result<(), BoxError> {
//!     let mut total = 0;
//!     let me = Worker::new()
//!         .function("add", move |request, _caller| {
//!             for number in request.texts::<2>()? {
//!                 total += number.parse::<i64>()?;
//!             }
//!             Ok(total.to_string())
//!         })
//!         .run();
//!     let rpc = me.rpc("add").start()?;
//!     assert_eq!(rpc.call(["40", "2"]).wait()?, ["42"]);
//!     let error = rpc.call(["many", "1"]).wait().unwrap_err(); // the child lives on
//!     assert_eq!(error.to_string(), "invalid digit found in string");
//!     assert_eq!(rpc.call(["7", "0"]).wait()?, ["49"]);
//!     Ok(())
//! }
//! ```
//!
//! # Requirements and features
//!
//! Linux 5.4 or later with `/proc` mounted, and Rust 1.88. Not macOS, not Windows. A child is a process of the
//! same user with the same rights: that isolates faults, and is not a sandbox.
//!
//! | feature | adds |
//! |---|---|
//! | `json` | the codec `Json`, by serde_json: also for workers in other languages |
//! | `cbor` | the codec `Cbor`, by cbor4ii |
//! | `compact` | the codec `Compact`, by rmp-serde, for Rust on both sides |
//! | `log` | [`Worker`]`::log`: the child's log records and panics in the parent's logger |
//!
//! None is on by default.
//!
//! # The pieces
//!
//! In the parent:
//!
//! | type | what it is |
//! |---|---|
//! | [`Process`] | how to get a child: this program, another worker, copies of a [template](Process::template), a worker [elsewhere](machines), any command, a stream |
//! | [`RpcBuilder`] | the options of a handle: callbacks, timeouts, limits |
//! | [`Rpc`] | the handle to a function of one child; clones, and handles to [other functions](Rpc::function), are of the same child |
//! | [`Call`] | a call being made: use [`then`](Call::then), [`wait`](Call::wait) or [`start`](Call::start) |
//! | [`Pending`] | a started call, to be waited for later or [cancelled](Pending::cancel) |
//! | [`Pool`], [`PoolBuilder`], [`PoolCall`] | replaceable children behind one call, its options, and a call to it |
//! | [`Map`], [`MapUnordered`] | the outcomes of a pool's calls for all items of an iterator |
//! | [`Hosts`] | machines to run the children of a pool on |
//! | [`cores()`] | how many children should compute at the same time |
//! | [`RpcStats`], [`PoolStats`], [`ChildState`] | a child, or a pool, at one moment, to be printed |
//! | [`Asker`] | what a child asks, to be answered later |
//! | [`Exit`], [`ChildExit`] | how a child ended, and which [`StopStage`] was needed; the same for a child of a pool |
//! | [`Reactor`] | a thread that serves several handles |
//! | [`Group`], [`Limit`] | a child's process group and session; how much memory, CPU time and the like it may have |
//! | [`Stdio`] | where a child's standard output and error go; they can be captured by lines |
//! | [`Plain`] | what a peer speaks that is not this library, in any language |
//! | [`Error`], [`CallError`], [`Phase`] | what happened to a child; how a call ended, if not with a reply; whether it had begun |
//!
//! In the child:
//!
//! | type | what it is |
//! |---|---|
//! | [`Worker`] | the table of functions and setups, and how they are served |
//! | [`Caller`] | the call that a function serves: sends events and progress, asks the parent, and answers |
//! | [`Parent`] | the parent, independent of any call: takes events at any time, and can be asked |
//! | [`Cancellation`] | whether a call was cancelled, and what to do then |
//! | [`Loop`] | timers, descriptors and work from other threads, for deferred functions |
//! | [`Watch`] | a timer or descriptor of a loop, to be cancelled |
//! | [`Poster`] | lets other threads run something on a loop |
//!
//! In both:
//!
//! | type | what it is |
//! |---|---|
//! | [`Service`] | a function's name, codec and types; any string is one of octet strings |
//! | `Json`, `Cbor`, `Compact` | codecs for any type that serde can serialise, with the features of these names; [`Codec`] for one of your own |
//! | [`Text`], [`Lent`] | stand for any error, and for a request that borrows |
//! | [`Fd`] | a file, socket or pipe, sent with a request, reply, event or setup |
//! | [`Strings`] | a list of octet strings: all events, and what calls carry without a codec |
//!
//! # Three kinds of functions
//!
//! The table defines how each function runs; the parent calls all of them alike.
//!
//! | | runs | for |
//! |---|---|---|
//! | returning: [`function`](Worker::function) | one call at a time | anything: start with this. State needs no lock, and libraries need not be thread-safe. To run calls in parallel, use more children, such as one for each of the [`cores()`] |
//! | [`threaded`](Worker::threaded) | several calls at the same time, each on a thread | work that computes or blocks, where calls share memory or a child for each would be too much |
//! | [`deferred`](Worker::deferred) | every call as it comes, all on one thread; each is answered later | work that mostly waits for timers, sockets or other processes; and many tiny calls, whose answers leave in batches |
//!
//! A deferred function must return soon: nothing else runs until it does. [`Loop::offload`] is for
//! work that takes longer. Functions of all kinds may be in one child, which [`Rpc::function`] tells
//! apart: see [`Worker`](Worker#many-functions). A crash ends all calls of its child, however many are running.
//!
//! # What runs where
//!
//! | code | process | thread |
//! |---|---|---|
//! | setups, functions, deferred functions, everything on their [`Loop`], [`Worker::done`] | child | the one that called [`Worker::run`]; one at a time |
//! | threaded functions | child | [a number of threads](Worker::threads) of the child |
//! | what is [offloaded](Loop::offload) | child | a thread of its own |
//! | [`Call::then`]'s callback, [`Call::on_progress`] | parent | the reactor's |
//! | [`on_ask`](RpcBuilder::on_ask), [`on_event`](RpcBuilder::on_event), [`on_error`](RpcBuilder::on_error), [`on_destroy`](RpcBuilder::on_destroy) | parent | the reactor's |
//! | [`Stdio::lines`], [`Stdio::chunks`] | parent | the reactor's; for what a command says that reaches another machine, one of its own |
//! | the parent's logger, for the child's log records (feature `log`, [`Worker`]`::log`) | parent | the reactor's |
//! | the closure of [`Process::connect`] | parent | the one that starts the child |
//!
//! Each handle has a reactor thread of its own, unless it [shares](RpcBuilder::reactor) one; a pool has one for
//! all its children, and a second one while it starts some. A connection to another machine has a thread, and its
//! command another. A child has its main thread, and the others of this table when it needs them; one that queues
//! answers also has a thread that writes them.
//!
//! Callbacks run one at a time, in the order in which the child made its replies, events, progress
//! reports and log records, from whichever thread or timer, and never inside the method that
//! registers them. Blocking methods return after the callbacks of everything that came before; in a
//! callback they fail immediately, since nothing would be read while they wait. Only
//! [`start`](RpcBuilder::start) may block there, for a template or a connection. A callback that panics is
//! reported by the panic hook, and the reactor continues.
//!
//! # Errors
//!
//! Every call ends exactly once. These errors concern one call only, and the child lives on:
//! [`Failed`](CallError::Failed), an error that the function returned, with the
//! [text of its sources](Caller::fail); [`Panicked`](CallError::Panicked), its panic;
//! [`Unanswered`](CallError::Unanswered), if it dropped its [`Caller`]; [`Malformed`](CallError::Malformed), a
//! value that cannot be encoded or decoded; [`Unserved`](CallError::Unserved), a function that the child does
//! not have; [`TimedOut`](CallError::TimedOut); and [`Refused`](CallError::Refused), if the call was never
//! queued.
//!
//! If the child is lost, all its calls end with [`Lost`](CallError::Lost) and an [`Error`] that has the kind, the
//! process id and the exit status or signal. The [`Phase`] says whether the call had begun: one that had not can be
//! [repeated](Phase::is_safe_to_repeat). A pool does that by itself. A call that it may
//! [begin again](PoolCall::repeatable) ends with [`Poison`](CallError::Poison) when it has killed two children.
//!
//! The error includes what the child wrote to standard error only if that is [captured](Stdio::capture). By
//! default the child inherits the parent's: programs check for a terminal, and write something else to a pipe.
//!
//! The end of the child itself is reported exactly once, after everything else. If it was told to end and no call
//! was lost, `on_destroy` is called, whatever its exit status is. Otherwise the error goes to `on_error`; without
//! that to `on_event`; without either to the log, or to standard error if the feature `log` is off.
//! [`Rpc::finish`] returns the same.
//!
//! # Pools
//!
//! [`Process::pool`] gives many children one handle. A call goes to a child that has room, preferably to the idle
//! one that was used last; if there is none, it waits. Children are started when all are full, and stopped when
//! they are idle. They can be [renewed](PoolBuilder::max_calls), each by a successor that is ready before. One that
//! dies costs the calls that it had begun, which end as [`CallError::Lost`]; all others go to other children.
//!
//! ```
//! # fn main() -> Result<(), offspring::BoxError> {
//! let me = offspring::Worker::new()
//!     .function("parse", |request, _caller| match &request[0] {
//!         b"bomb" => std::process::abort(),
//!         text => Ok(str::from_utf8(text)?.len().to_string()),
//!     })
//!     .run();
//! let pool = me.pool("parse").max(2).start()?;
//! let inputs = ["one", "three", "bomb", "four"];
//! for (input, outcome) in pool.map_unordered(inputs) {
//!     assert_eq!(outcome.is_err(), input == "bomb");
//! }
//! pool.finish()?;
//! # Ok(())
//! # }
//! ```
//!
//! | to | use |
//! |---|---|
//! | repeat a call that had begun when its child died | [`repeatable`](PoolCall::repeatable); one that kills two children is [poison](CallError::Poison) |
//! | have calls find what earlier ones left behind | [`key`](PoolCall::key): the same child, as long as it lives |
//! | go first | [`urgent`](PoolCall::urgent) |
//! | replace children that hang | [`kill_stuck`](PoolBuilder::kill_stuck), with timeouts |
//! | start children fast, with memory that they share | a pool of copies of a [template](Process::template) |
//! | call all children | [`everywhere`](Pool::everywhere) |
//! | see what happens | [`on_exit`](PoolBuilder::on_exit), and [`stats`](Pool::stats), which can be printed |
//!
//! # A child that asks
//!
//! A parent [serves](RpcBuilder::on_ask) what its children [ask](Caller::ask) for, under the same rules the
//! other way round: types by a [`Service`], each ask ends exactly once, with the callback's reply, error or
//! panic, or with the end of the parent or of the call for which it is asked. What is
//! [told](Caller::tell) is an event with a type.
//!
//! # Cancellation
//!
//! A [timeout](Call::timeout), [`Pending::cancel`], and dropping a [`Pending`] made with
//! [`cancel_on_drop`](Call::cancel_on_drop) end a call in the parent immediately. If it has not been
//! sent, it never is; if it has not begun in the child, it does not begin; if it is running, it
//! continues, and can [check](Caller::is_cancelled), or, if it is threaded or deferred, [be
//! notified](Cancellation::then). Its answer is then dropped. To end a function that does not
//! check, [kill](Rpc::kill) the child, or have it [killed](RpcBuilder::kill_stuck) some time after a
//! timeout.
//!
//! # What starting a child does
//!
//! [`RpcBuilder::start`] makes a socket pair, executes the program with `posix_spawn` and returns.
//! The child gets the arguments of [`Process::arg`], not the parent's own, the parent's environment
//! and directory unless told otherwise, and only the descriptors that it needs; [`Process`] has the
//! details. It runs `main` up to [`Worker::run`], takes over its connection, runs the setups, and
//! reports that it is ready. Calls can be made immediately: they are sent along. A child that is not
//! ready within the [start timeout](RpcBuilder::start_timeout), exits first, is not a worker or has
//! no such function ends with an error that says which, and so do its calls.
//!
//! A copy of a [template](Process::template) is made by fork(2) in a child that has run its setups, and
//! then starts as any other child: with its own connection, process group and output, its own setups, and an
//! end that is reported as any other. Starting one on this machine waits for the template, at most for the start
//! timeout, and fails if it cannot be copied.
//!
//! When the last handle is dropped, or [`Rpc::finish`] is called, the child answers what was called,
//! however long that takes, does what [`Worker::done`] says, and exits. If it has not exited a
//! [grace](RpcBuilder::grace) after its last answer, it gets SIGTERM, and after another grace
//! SIGKILL. If the parent is gone, an idle child exits and a busy one is killed.
//!
//! # Limits
//!
//! | option | default | beyond it |
//! |---|---|---|
//! | [`max_frame`](RpcBuilder::max_frame) | 256 MiB | a request is refused, a reply fails its call |
//! | the request of a [setup](Process::setup) | 1 MiB | the start is refused |
//! | [descriptors](Fd) in one message | 253 | a call or ask ends, a reply fails its call, a start is refused |
//! | descriptors in requests that wait in a child | 16, and those of one request | as for `high_water` |
//! | [`max_queue`](RpcBuilder::max_queue) | none | [`call`](Rpc::call) waits, [`try_call`](Rpc::try_call) is refused |
//! | [`PoolBuilder::max`] | one child per processor | calls wait in the pool |
//! | [`PoolBuilder::load`] | 2 calls in a child | calls wait in the pool |
//! | [`max_asks`](RpcBuilder::max_asks) | 1024 | the child's further asks are refused |
//! | [`start_timeout`](RpcBuilder::start_timeout) | 10 s | the child is killed |
//! | [`call_timeout`](RpcBuilder::call_timeout), [`Call::timeout`] | none | the call ends, the child lives on |
//! | [`kill_stuck`](RpcBuilder::kill_stuck) | none | the child is killed if it has not answered a call this long after its timeout |
//! | [`Process::limit`] | the parent's | the child is killed, or a system call in it fails |
//! | [`grace`](RpcBuilder::grace) | 5 s | SIGTERM, then SIGKILL |
//! | [`Worker::threads`] | one per processor | calls wait in the child |
//! | [`Worker::max_running`] | none | calls wait in the child |
//! | [`Worker::high_water`] | 1 MiB unsent or waiting | the child reads no more requests until it is less, unless it waits for an [ask](Caller::ask) |
//!
//! Nothing is allocated merely because the other side claims a length: buffers grow with what arrives. The library's own
//! messages have small limits, whatever `max_frame` is: 1 MiB for a [setup](Process::setup) with its request, and
//! 64 KiB for the others, except progress reports, asks and their answers. A frame that breaks a limit, or belongs
//! to no call, is an error as soon as its header has come.
//!
//! # Plain peers
//!
//! The other side need not be this library or written in Rust. [`Process::command`] with
//! [`plain`](Process::plain) starts any program that speaks one of the three [`Plain`] modes on its standard
//! input and output, [`Process::stream`] takes a connected socket, and [`Worker::serve_plain`] is such a child. All
//! modes are frames of a few bytes around octet strings, or around what the codec of the service
//! makes: JSON suits most languages. Two are those of Perl's `AnyEvent::Fork::RPC`, in which a failed
//! call ends the child; in [`Plain::Fallible`] it is that call's error.
//!
//! # In tests
//!
//! A `#[test]` can call functions in children, too: see [`Worker`](Worker#in-tests).
//!
//! # More
//!
//! - [`guide`]: what newcomers stumble over, from code before `run()` to static linking.
//! - [`machines`]: children on other machines, with other rights, and in containers.
//! - [`costs`]: how many system calls, copies and allocations a call takes.
//! - [`gotchas`]: hazards of child processes, and what this library does about each.

#![cfg_attr(docsrs, feature(doc_cfg))]
// They panic if standard output or error is a pipe that nobody reads.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod busy_poll;
mod carrier;
mod chain;
mod codec;
mod copies;
mod cores;
mod deadlines;
mod directory;
mod error;
mod far;
mod fd;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod id_map;
mod outcome;
mod pool;
mod process;
mod receive;
mod relay;
mod revival;
mod rpc;
mod service;
mod stderr;
#[expect(unsafe_code, reason = "system calls, each behind a safe function")]
mod sys;
mod threads;
mod unwind;
mod wire;
mod worker;

#[cfg(feature = "cbor")]
pub use codec::Cbor;
#[cfg(feature = "compact")]
pub use codec::Compact;
#[cfg(feature = "json")]
pub use codec::Json;
pub use codec::{
    Argument, Carries, Codec, CodecError, Decode, Encode, Input, OctetString, OctetStrings, Octets,
    Output, Replies, Strings,
};
pub use cores::cores;
pub use error::{BoxError, CallError, Error, ErrorKind, Panic, Phase, Refusal};
pub use fd::Fd;
pub use outcome::Outcome;
pub use pool::{
    ChildExit, ChildStats, Host, Hosts, Map, MapUnordered, Pool, PoolBuilder, PoolCall, PoolStats,
    SourceStats,
};
pub use process::{Group, Limit, Process, Stdio};
pub use rpc::{
    Asker, Call, ChildState, Exit, Pending, Reactor, Rpc, RpcBuilder, RpcStats, StopStage,
};
pub use service::{Errors, IntoService, Lend, Lent, Name, Request, Service, Signature, Text};
pub use wire::Plain;
pub use worker::{Caller, Cancellation, Loop, Parent, Poster, Watch, Worker};

#[doc = include_str!("costs.md")]
pub mod costs {}

#[doc = include_str!("gotchas.md")]
pub mod gotchas {}

#[doc = include_str!("guide.md")]
pub mod guide {}

#[doc = include_str!("machines.md")]
pub mod machines {}

/// The examples in the README, which need the feature.
#[cfg(all(doctest, feature = "json"))]
#[doc = include_str!("../README.md")]
pub struct Readme;

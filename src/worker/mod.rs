//! The child: a table of functions, and the loop that serves them.

mod caller;
mod outlet;
mod panics;
mod serve;
mod session;
mod table;

pub use caller::Caller;

use crate::codec::{Argument, Strings};
use crate::error::BoxError;
use crate::process::{Plain, Process, marker};
use crate::service::Service;
use std::fmt;
use table::Table;

/// The functions that a child serves: a program builds the same table whether it is the parent or
/// the child, and [`run`](Worker::run) tells which.
///
/// Functions need not be `Send`, and keep their state in what they capture: the parent's copy of it
/// is dropped unused.
///
/// # Examples
///
/// A program that calls itself:
///
/// ```
/// use offspring::Worker;
///
/// fn main() -> Result<(), offspring::BoxError> {
///     let mut total = 0;
///     let me = Worker::new()
///         .function("add", move |request, _caller| {
///             let [n] = request.texts()?;
///             total += n.parse::<i64>()?;
///             Ok(total.to_string())
///         })
///         .run(); // a child serves here, and never returns
///
///     let rpc = me.rpc("add").start()?;
///     assert_eq!(rpc.call("40").wait()?, ["40"]);
///     assert_eq!(rpc.call("2").wait()?, ["42"]);
///     let error = rpc.call("many").wait().unwrap_err();
///     assert_eq!(error.to_string(), "invalid digit found in string");
///     Ok(())
/// }
/// ```
///
/// # In tests
///
/// A child of a test is the test binary, started again to run that test alone, up to
/// [`run_in_test`](Worker::run_in_test). That works with `cargo test` and `cargo nextest`, on one
/// thread or many, for tests in modules and for ignored ones: the test's name is that of its thread.
///
/// ```text
/// #[test]
/// fn greets() {
///     let me = worker().run_in_test(); // the child serves here, and never returns
///     let rpc = me.rpc("greet").start().unwrap();
///     assert_eq!(rpc.call("Alice").wait().unwrap(), ["hello Alice"]);
/// }
/// ```
///
/// What stands before that line runs in the child, too. What the child prints appears at once, not
/// captured.
#[must_use = "a table of functions does nothing before run()"]
#[derive(Default)]
pub struct Worker {
    table: Table,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("setups", &self.table.setup_names())
            .field("functions", &self.table.function_names())
            .finish()
    }
}

impl Worker {
    /// A table without functions.
    pub fn new() -> Self {
        Worker::default()
    }

    /// Adds a setup: what a child runs before it serves, if its parent asks for it with
    /// [`Process::setup`], with the strings that come along. A setup that fails or panics is a start
    /// error with its message.
    ///
    /// # Panics
    ///
    /// If there is one of that name.
    pub fn setup(
        mut self,
        name: impl Into<String>,
        setup: impl FnMut(Strings) -> Result<(), BoxError> + 'static,
    ) -> Self {
        self.table.add_setup(name.into(), setup);
        self
    }

    /// Adds a function that runs one call at a time, in the order in which they were made, and whose
    /// reply is written before the next call begins. What it returns is the call's reply, or its
    /// error; a panic is an error, too. The child goes on.
    ///
    /// # Panics
    ///
    /// If there is one of that name.
    pub fn function<S, F, R>(mut self, service: S, function: F) -> Self
    where
        S: Service,
        F: FnMut(S::Request, &Caller<S>) -> Result<R, S::Error> + 'static,
        R: Argument<S::Reply, S::Codec>,
    {
        self.table.add_function(&service, function);
        self
    }

    /// In a process that was started as a child: serves, and exits when the parent has no more
    /// requests. In any other: returns at once, with the description of this very program.
    ///
    /// To be called first in `main`: what comes before it happens in every child, too. Until it is
    /// called, a child refuses to start children of its own, so a program that forgets it does not
    /// start itself for ever. The child's standard input is `/dev/null` from here on.
    ///
    /// A child exits with status 0 at the end of its requests, having dropped the functions and what
    /// they captured, and with status 1 and a message on standard error if the parent is gone with a
    /// reply unwritten or breaks the protocol.
    pub fn run(self) -> Process {
        self.run_or(Process::this_program)
    }

    /// As [`run`](Worker::run), for the first line of a `#[test]`: see [above](Worker#in-tests).
    ///
    /// # Panics
    ///
    /// If the thread has no name, and so runs no test.
    pub fn run_in_test(self) -> Process {
        self.run_or(|| {
            let thread = std::thread::current();
            let name = thread.name().expect("a test's thread has the test's name");
            Process::test(name.to_owned())
        })
    }

    /// As [`run`](Worker::run), for a program that is only ever a child: started otherwise, it says
    /// so on standard error and exits with status 2.
    pub fn serve(self) -> ! {
        let _ = self.run();
        eprintln!("this program is a worker, to be started by a program that uses `offspring`");
        std::process::exit(2)
    }

    /// Serves one function on the standard input and output in a plain mode, for parents in any
    /// language, and exits. Standard output goes to standard error meanwhile, so that a print does
    /// not get between the replies.
    ///
    /// There is no way to tell such a parent of a failed call: a function that fails or panics ends
    /// the child with status 1 and a message on standard error.
    ///
    /// # Panics
    ///
    /// If there is no function of that name.
    pub fn serve_plain(self, name: &str, plain: Plain) -> ! {
        serve::serve_plain(self.table, name, plain)
    }

    fn run_or(self, parent: impl FnOnce() -> Process) -> Process {
        match marker::unserved() {
            Some(given) => serve::serve(self.table, given),
            None => parent(),
        }
    }
}

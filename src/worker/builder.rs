//! The table of functions, as a program builds it.

use super::caller::Caller;
use super::event_loop::Loop;
use super::serve;
use super::server::Options;
use super::table::Table;
use crate::codec::Replies;
use crate::process::{Place, Process};
use crate::relay;
use crate::service::{IntoService, Signature, id_of};
use crate::stderr;
use crate::sys::{self, OtherThreads};
use crate::wire::Plain;
use std::fmt;
use std::panic::Location;

/// The table of functions that a child serves. A program builds the same table whether it is the parent
/// or the child; [`run`](Worker::run) finds out which.
///
/// Functions need not be `Send`, and keep their state in what they capture. The parent drops its copy
/// unused.
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
/// # Many functions
///
/// One child serves all functions of its table, of whatever kinds, over one connection: see
/// [`Rpc::function`](crate::Rpc::function). A library adds its own by a function over `Worker`.
///
/// ```
/// use offspring::Worker;
///
/// mod words {
///     pub fn functions(worker: offspring::Worker) -> offspring::Worker {
///         worker
///             .function("words.count", |text, _| {
///                 Ok(text.to_string().split_whitespace().count().to_string())
///             })
///             .function("words.longest", |text, _| {
///                 let text = text.to_string();
///                 let longest = text.split_whitespace().max_by_key(|word| word.len());
///                 Ok(longest.unwrap_or_default().to_owned())
///             })
///     }
/// }
///
/// # fn main() -> Result<(), offspring::BoxError> {
/// let me = words::functions(Worker::new()).function("ping", |_, _| Ok(())).run();
/// let count = me.rpc("words.count").start()?;
/// let longest = count.function("words.longest");
/// assert_eq!(count.call("a rose is a rose").wait()?, ["5"]);
/// assert_eq!(longest.call("a rose is").wait()?, ["rose"]);
/// # Ok(())
/// # }
/// ```
///
/// Returning and deferred functions, and everything on the [`Loop`], take turns on the child's main thread:
/// while a returning one runs, the others wait, timers too, however long it takes. What they have answered
/// before does not wait for it. Threads go on, and get new requests if the function [asks whether it is
/// cancelled](Caller::is_cancelled); otherwise those wait, too, as only the main thread reads.
///
/// # In tests
///
/// A child of a test is the test binary, started again to run only that test, up to
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
/// The code before that line runs in the child, too. With [`run`](Worker::run) instead, perhaps in the code
/// that is tested, the child would run the whole test binary, all the other tests included; the first of
/// them that reaches another call of `run` or `run_in_test` ends it with a start error. So code to be tested
/// should take the [`Process`] as an argument. What the child prints is not captured: it appears
/// immediately.
#[must_use = "a table of functions does nothing before run()"]
pub struct Worker {
    table: Table,
    options: Options,
}

impl Default for Worker {
    fn default() -> Self {
        Worker::new()
    }
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
        Worker {
            table: Table::default(),
            options: Options::default(),
        }
    }

    /// Adds a setup. A child runs it before it serves if the parent asks for it with
    /// [`Process::setup`], with the request given there. A setup that fails or panics is a start error
    /// with its message.
    ///
    /// # Panics
    ///
    /// If there is a setup of that name, or the name has more than 32 KiB.
    pub fn setup<S, F>(mut self, service: S, setup: F) -> Self
    where
        S: IntoService,
        F: FnMut(
                <S::Service as Signature>::Request<'_>,
            ) -> Result<(), <S::Service as Signature>::Error>
            + 'static,
    {
        self.table.add_setup(&service.into_service(), setup);
        self
    }

    /// Adds a returning function. A child runs one call of a returning function at a time, whichever of
    /// them it is for, in the order in which they were made. What the function returns is the call's reply,
    /// or its error; a panic is an error, too, and the child continues.
    ///
    /// No reply waits for another call to finish. It is written before the next call begins; if four more
    /// requests or more have come already, while the next call runs, at most a fraction of a millisecond
    /// later and together with others. If the process crashes or is killed within that time, such replies
    /// and their calls are lost; if it exits, they are not.
    ///
    /// # Panics
    ///
    /// If there is a function of that name, or the name has more than 32 KiB.
    pub fn function<S, F, R>(mut self, service: S, function: F) -> Self
    where
        S: IntoService,
        F: FnMut(
                <S::Service as Signature>::Request<'_>,
                &Caller<S::Service>,
            ) -> Result<R, <S::Service as Signature>::Error>
            + 'static,
        <S::Service as Signature>::Codec: Replies<<S::Service as Signature>::Reply, R>,
    {
        self.table.add_function(&service.into_service(), function);
        self
    }

    /// Adds a deferred function, which may answer after it has returned. Every call starts as it comes.
    /// The function gets the [`Caller`] to own, and a [`Loop`] on which to wait for timers, descriptors
    /// and other threads. Answers are sent in the order in which they are made.
    ///
    /// The parent need not know that the function is of this kind.
    ///
    /// # Panics
    ///
    /// If there is a function of that name, or the name has more than 32 KiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new()
    ///     .deferred("sleep", |request, caller, events| match request.to_string().parse() {
    ///         Ok(ms) => drop(events.after(Duration::from_millis(ms), |_| caller.reply("good morning"))),
    ///         Err(_) => caller.fail("for how many milliseconds?"),
    ///     })
    ///     .run();
    /// let rpc = me.rpc("sleep").start()?;
    /// let all: Vec<_> = (0..100).map(|_| rpc.call("20").start()).collect();
    /// for sleeper in all {
    ///     assert_eq!(sleeper.wait()?, ["good morning"]);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn deferred<S, F>(mut self, service: S, function: F) -> Self
    where
        S: IntoService,
        F: FnMut(<S::Service as Signature>::Request<'_>, Caller<S::Service>, &Loop) + 'static,
    {
        self.table.add_deferred(&service.into_service(), function);
        self
    }

    /// Adds a threaded function. It runs on [threads](Worker::threads) of the child, one call on each;
    /// more calls wait. Events and replies of different threads are never mixed up, and arrive in the
    /// order in which they are made. What the function returns is the call's reply, or its error; a
    /// panic is an error, too, and the thread continues.
    ///
    /// The parent need not know that the function is of this kind.
    ///
    /// # Panics
    ///
    /// If there is a function of that name, or the name has more than 32 KiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{thread, time::Duration};
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new()
    ///     .threaded("sleep", |request, _caller| {
    ///         thread::sleep(Duration::from_millis(request.to_string().parse()?));
    ///         Ok(request)
    ///     })
    ///     .threads(2)
    ///     .run();
    /// let rpc = me.rpc("sleep").start()?;
    /// let long = rpc.call("100").start();
    /// let short = rpc.call("0").wait()?; // on the other thread
    /// assert_eq!(short, ["0"]);
    /// assert_eq!(long.wait()?, ["100"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn threaded<S, F, R>(mut self, service: S, function: F) -> Self
    where
        S: IntoService,
        F: Fn(
                <S::Service as Signature>::Request<'_>,
                &Caller<S::Service>,
            ) -> Result<R, <S::Service as Signature>::Error>
            + Send
            + Sync
            + 'static,
        <S::Service as Signature>::Codec: Replies<<S::Service as Signature>::Reply, R>,
    {
        self.table.add_threaded(&service.into_service(), function);
        self
    }

    /// How many calls of [threaded](Worker::threaded) functions run simultaneously, on as many threads,
    /// which are started as needed. At least 1. Default: one for each processor.
    pub fn threads(mut self, threads: usize) -> Self {
        self.options.threads = Some(threads.max(1));
        self
    }

    /// How many calls of [deferred](Worker::deferred) functions may be unanswered simultaneously; more
    /// wait in the child. At least 1. Default: no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let mut begun = 0;
    /// let me = offspring::Worker::new()
    ///     .deferred("number", move |_request, caller, events| {
    ///         begun += 1; // one at a time: the calls before it are answered
    ///         let number = begun.to_string();
    ///         events.after(Duration::from_millis(1), |_| caller.reply(number));
    ///     })
    ///     .max_running(1)
    ///     .run();
    /// let rpc = me.rpc("number").start()?;
    /// let both = [rpc.call(()).start(), rpc.call(()).start()];
    /// let numbers: Vec<_> = both.into_iter().map(|call| call.wait()).collect::<Result<_, _>>()?;
    /// assert_eq!(numbers, [["1"], ["2"]]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn max_running(mut self, calls: usize) -> Self {
        self.options.max_running = calls.max(1);
        self
    }

    /// How many bytes may wait in a child with a deferred or threaded function: answers and events to be
    /// written, and requests to be started. Above that it reads no more requests until there are fewer,
    /// and a thread that sends more blocks until some are written. Default: 1 MiB.
    ///
    /// A child with returning functions only keeps the requests that it reads while one of them finds out
    /// whether it [is cancelled](Caller::is_cancelled), or [asks](Caller::ask).
    ///
    /// While the answer to an ask is awaited it reads on, however much waits: the answer may be behind
    /// that. [`RpcBuilder::max_queue`](crate::RpcBuilder::max_queue) bounds it at its source.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new()
    ///     .deferred("blob", |_request, caller, _events| caller.reply([vec![7; 100_000]]))
    ///     .high_water(64 << 10)
    ///     .run();
    /// let rpc = me.rpc("blob").start()?;
    /// let blobs: Vec<_> = (0..50).map(|_| rpc.call(()).start()).collect();
    /// for blob in blobs {
    ///     assert_eq!(blob.wait()?[0].len(), 100_000); // and the child never kept many of them
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn high_water(mut self, bytes: usize) -> Self {
        self.options.high_water = bytes;
        self
    }

    /// Calls `hook` in each copy of a [template](Process::template), before the setups that are its own. It makes
    /// anew what copies must not share, such as random generators, connections and threads. Hooks are called in
    /// the order in which they were added, and not in a child that is executed. One that panics is a start error
    /// of the copy.
    ///
    /// # Examples
    ///
    /// ```
    /// use offspring::Worker;
    /// use std::cell::Cell;
    ///
    /// fn main() -> Result<(), offspring::BoxError> {
    ///     let owner: &Cell<u32> = Box::leak(Box::default());
    ///     let me = Worker::new()
    ///         .setup("load", |_| Ok(owner.set(std::process::id())))
    ///         .after_fork(|| owner.set(std::process::id()))
    ///         .function("owner", |_request, _caller| Ok(owner.get().to_string()))
    ///         .run();
    ///     let rpc = me.setup("load", ()).template().rpc("owner").start()?;
    ///     assert_eq!(rpc.call(()).wait()?, [rpc.pid().unwrap().to_string()]);
    ///     Ok(())
    /// }
    /// ```
    pub fn after_fork(mut self, hook: impl FnMut() + 'static) -> Self {
        self.table.add_after_fork(hook);
        self
    }

    /// What a child with a [deferred](Worker::deferred) or [threaded](Worker::threaded) function does
    /// at the end of its requests, when all are answered. After that it continues as long as there is
    /// anything to wait for on the [`Loop`], and exits. The process is not killed if its parent is: it
    /// may run on for as long as it likes.
    ///
    /// The parent's [stop ladder](crate::RpcBuilder::grace) still applies: a child that is to run on
    /// while its parent lives needs a long grace.
    ///
    /// Default: it exits immediately, whatever it waits for. A child that has only returning functions has
    /// no loop, and this is not called.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new()
    ///     .deferred("echo", |request, caller, _events| caller.reply(request))
    ///     .done(|events| {
    ///         // Runs on until this has fired.
    ///         events.after(Duration::from_millis(10), |_| std::process::exit(7));
    ///     })
    ///     .run();
    /// let rpc = me.rpc("echo").start()?;
    /// assert_eq!(rpc.call("hello").wait()?, ["hello"]);
    /// let exit = rpc.finish()?;
    /// assert_eq!(exit.status().and_then(|status| status.code()), Some(7));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "on_shutdown")]
    pub fn done(mut self, done: impl FnOnce(&Loop) + 'static) -> Self {
        self.options.done = Some(Box::new(done));
        self
    }

    /// Sends a child's log records, up to this level, to its parent's logger: with their level, target,
    /// module, file and line, and the child's process id before the message. A panic is logged as an
    /// error with the target `panic`, before anything else is done about it. Records arrive in order
    /// with events and replies, those of setups before the child is ready.
    ///
    /// A child sets its logger in [`run`](Worker::run): a parent that sets one for itself must do so
    /// after that. A logger that was set before is a start error. A plain peer gets no records.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Mutex;
    /// static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
    ///
    /// struct Keep; // the parent's logger
    /// impl log::Log for Keep {
    ///     fn enabled(&self, _: &log::Metadata<'_>) -> bool {
    ///         true
    ///     }
    ///     fn log(&self, record: &log::Record<'_>) {
    ///         LINES.lock().unwrap().push(format!("{} {}", record.level(), record.args()));
    ///     }
    ///     fn flush(&self) {}
    /// }
    ///
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new()
    ///     .function("echo", |request, _caller| {
    ///         log::info!("asked for {request}");
    ///         Ok(request)
    ///     })
    ///     .log(log::LevelFilter::Info)
    ///     .run(); // the child sets its logger here
    /// log::set_logger(&Keep).map(|()| log::set_max_level(log::LevelFilter::Trace))?;
    ///
    /// let rpc = me.rpc("echo").start()?;
    /// let pid = rpc.pid().unwrap();
    /// rpc.call("tea").wait()?;
    /// assert_eq!(*LINES.lock().unwrap(), [format!("INFO [pid {pid}] asked for tea")]);
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "log")]
    pub fn log(mut self, level: log::LevelFilter) -> Self {
        self.options.log = Some(level);
        self
    }

    /// In a process that was started as a child: serves, and exits when the parent has no more
    /// requests. In any other process: returns immediately, with a description of this program.
    ///
    /// Any other process with `OFFSPRING=serve` in its environment serves a parent
    /// [elsewhere](crate::machines) on its standard input and output. With any other value of that variable it
    /// prints a message and exits with status 2. The variable is ignored in a program that has more rights than its
    /// caller (`AT_SECURE` in getauxval(3)).
    ///
    /// Call it first in `main`: the code before it runs in every child, too. Until it is called, a child
    /// refuses to start children of its own, so that a program that forgets it does not start itself
    /// for ever. The child's standard input is `/dev/null` from here on.
    ///
    /// A child exits with status 0 at the end of its requests, after it has dropped the functions and
    /// what they captured. It exits with status 1 and a message on standard error if the parent breaks
    /// the protocol, or is gone before a reply is written, or if the child lacks something to serve
    /// with: a thread, or a descriptor. Calls that it has not answered are
    /// [lost](crate::CallError::Lost) then.
    ///
    /// A child of what one call of `run` returned is served by that call, which it knows by its place in
    /// the source. If it reaches another one first, that is a start error of the kind
    /// [`Mismatch`](crate::ErrorKind::Mismatch). When a function in a child calls `run`, it gets the description of
    /// another child of this kind, served by the same call and table.
    #[track_caller]
    pub fn run(self) -> Process {
        self.run_or(
            Location::caller(),
            OtherThreads::None,
            Process::this_program,
        )
    }

    /// Same as [`run`](Worker::run), for the first line of a `#[test]`: see [above](Worker#in-tests).
    ///
    /// # Panics
    ///
    /// If the thread has no name, and therefore runs no test.
    #[track_caller]
    pub fn run_in_test(self) -> Process {
        self.run_or(Location::caller(), OtherThreads::Main, |place| {
            let thread = std::thread::current();
            let name = thread.name().expect("a test's thread has the test's name");
            Process::test(name.to_owned(), place)
        })
    }

    /// Same as [`run`](Worker::run), for a program that is only ever a child. Started otherwise, it serves a
    /// parent [elsewhere](crate::machines) if its standard input and output are pipes or sockets; if not, it
    /// prints a message on standard error and exits with status 2.
    #[track_caller]
    pub fn serve(self) -> ! {
        let me = self.run();
        if relay::may_be_wanted() && !sys::has_childs_socket() {
            relay::serve(me);
        }
        stderr::print(format_args!(
            "{}",
            if sys::has_childs_socket() {
                "this worker cannot serve: its environment was cleared"
            } else {
                "this program is a worker, to be started by a program that uses `offspring`"
            }
        ));
        std::process::exit(2)
    }

    /// Serves one function on the standard input and output in a plain mode, for parents in any
    /// language, and exits. Meanwhile the standard output is the standard error, so that a print does
    /// not get between the replies.
    ///
    /// In [`Plain::Fallible`], a function that fails or panics answers its call with that. The other modes
    /// have no such answer: there it ends the child with status 1 and a message on standard error.
    ///
    /// # Panics
    ///
    /// If there is no such function.
    pub fn serve_plain<S: IntoService>(self, service: S, plain: Plain) -> ! {
        let service = service.into_service();
        serve::serve_plain(self.table, self.options, &id_of(&service), plain)
    }

    fn run_or(
        self,
        place: Place,
        others: OtherThreads,
        parent: impl FnOnce(Place) -> Process,
    ) -> Process {
        if let Some(unserved) = sys::unserved() {
            serve::serve(self.table, self.options, unserved, place, others)
        }
        match relay::is_asked_for() {
            Ok(false) => parent(serve::place().unwrap_or(place)),
            Ok(true) => {
                drop(self);
                relay::serve(parent(place))
            }
            Err(why) => {
                stderr::print(format_args!("{why}"));
                std::process::exit(2)
            }
        }
    }
}

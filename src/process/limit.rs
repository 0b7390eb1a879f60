//! The limits of a child's resources.

use std::time::Duration;

/// How much a child may have of something. Set with [`Process::limit`](crate::Process::limit).
///
/// These are the resource limits of getrlimit(2), soft and hard: without privileges, neither the child nor
/// what it starts can raise them again. All but [`Processes`](Limit::Processes) are of each process for
/// itself: what a child starts has as much once more.
///
/// # Examples
///
/// A request that takes all memory costs its child, and is an error of its call:
///
/// ```
/// # fn main() -> Result<(), offspring::BoxError> {
/// use offspring::{Limit, Worker};
///
/// let me = Worker::new()
///     .function("inflate", |request, _caller| {
///         let mebibytes: usize = request.to_string().parse()?;
///         Ok(vec![b'x'; mebibytes << 20].len().to_string())
///     })
///     .run();
/// let limited = me.limit(Limit::Memory(256 << 20));
/// let rpc = limited.rpc("inflate").start()?;
/// assert_eq!(rpc.call("1").wait()?, ["1048576"]);
/// let error = rpc.call("100000").wait().unwrap_err().to_string();
/// assert!(error.contains("killed by SIGABRT, perhaps because of Process::limit(Limit::Memory(268435456))"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// The bytes of private memory that it can write to, touched or not: what it allocates, the stacks of
    /// its threads but the first, its variables. Not its program, nor shared memory, nor addresses that are
    /// only reserved (`PROT_NONE`). (`RLIMIT_DATA`)
    ///
    /// An allocation that fails aborts a Rust program, by SIGABRT; programs in other languages may crash,
    /// or do without. The error names this limit where it may be the cause. A call can also hang, so give
    /// it a [timeout](crate::Call::timeout): see the [gotchas](crate::gotchas#a-child-that-takes-everything).
    Memory(u64),
    /// The CPU time of all its threads together since it was started, in whole seconds: a fraction, or
    /// none, counts as one. After that it gets SIGXCPU, which ends it, and a second later SIGKILL. Where
    /// the parent's own hard limit is no greater, it gets SIGKILL at once. (`RLIMIT_CPU`)
    CpuTime(Duration),
    /// The length in bytes of files that it writes. A write beyond that raises SIGXFSZ, which ends the
    /// child. (`RLIMIT_FSIZE`)
    FileSize(u64),
    /// One more than the greatest number that a descriptor may have; what is open stays open. With fewer
    /// than six, a worker cannot open what wakes its [`Loop`](crate::Loop), and ends when it needs that: for
    /// threaded functions, timers and posts. (`RLIMIT_NOFILE`)
    OpenFiles(u64),
    /// The processes and threads of the child's user, whoever has started them: beyond it, the child
    /// cannot start any. It has no effect on a privileged child. (`RLIMIT_NPROC`)
    Processes(u64),
    /// The bytes of a core dump. With 0 there is none. (`RLIMIT_CORE`)
    Core(u64),
}

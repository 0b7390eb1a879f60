//! Children on other machines, as this side sees them: see [`carrier`](crate::carrier) for both sides.
//!
//! A [`Connection`] has a thread, the [`Carrier`](carrier::Carrier), that alone touches what is connected. Each
//! child is a [`FarChild`](child::FarChild): what is known of it, which the carrier writes and its reactor reads.
//! Others ask for something by an [`Order`](connection::Order).

mod carrier;
mod child;
mod command;
mod connection;
mod template;
mod words;

pub(crate) use template::LONGEST_TO_RELAY;

use crate::error::Error;
use crate::process::{Connector, FarStarter, Launched, Process};
use connection::Connection;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// What starts children on other machines.
#[derive(Debug)]
struct Far;

impl FarStarter for Far {
    fn launch(
        &self,
        process: &Process,
        timeout: Duration,
        grace: Duration,
    ) -> Result<Launched, Error> {
        let (connection, carrier) = Connection::new(process, Some(grace))?;
        // First: a connection that is lost at once ends this child, too.
        let launched = connection.launch(process, 0, timeout)?;
        connection.serve(process, carrier)?;
        Ok(launched)
    }

    fn template(&self, process: Process) -> Process {
        template::of(process)
    }
}

impl Process {
    /// A worker that a command reaches: on [another machine](crate::machines), with other rights, in a container.
    /// If `program` contains no slash, it is searched for in the parent's `PATH`.
    ///
    /// The command's standard input and output are to reach those of a program that has a
    /// [`Worker`](crate::Worker): one that ends in [`serve`](crate::Worker::serve), or one with
    /// [`run`](crate::Worker::run) that is started with `OFFSPRING=serve` in its environment. What is printed
    /// before that greets, by a login, say, is skipped, up to 64 KiB. Each child gets a command of its own; behind
    /// a [template](Process::template) of this there can be many.
    ///
    /// [Arguments](Process::arg), [environment](Process::env), [directory](Process::current_dir) and
    /// [group](Process::group) are the command's, everything else is the child's. What the command says on its
    /// standard error goes where the child's [standard error](Process::stderr) goes, or to this process's; its
    /// first and last lines are in the [error](crate::Error::stderr) if the connection is lost.
    /// [Descriptors](crate::Fd) cannot be sent there.
    ///
    /// With [`plain`](Process::plain), the command itself is a peer in any language, and its standard input and
    /// output are one socket. It does not support setups, and is not killed when the parent ends: it reads the end
    /// of its input, as if it could [outlive](Process::outlive_parent) the parent.
    ///
    /// # Examples
    ///
    /// ```
    /// use offspring::{Process, Worker};
    ///
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let _me = Worker::new()
    ///     .function("greet", |name, _caller| Ok(format!("hello {name}")))
    ///     .run(); // serves here, wherever it is started
    ///
    /// // In place of `ssh -T host`, which would need another machine.
    /// let far = Process::command("env")
    ///     .arg("OFFSPRING=serve")
    ///     .arg(std::env::current_exe()?);
    /// let rpc = far.rpc("greet").start()?;
    /// assert_eq!(rpc.call("Alice").wait()?, ["hello Alice"]);
    /// rpc.finish()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn command(program: impl AsRef<OsStr>) -> Self {
        Process::of_command(program.as_ref(), &Far)
    }

    /// A worker at the other end of a connection that `connect` makes, for each child, or for each
    /// [template](Process::template), behind which there can be many. `AnyEvent::Fork::Remote` calls this the
    /// create callback.
    ///
    /// `connect` may block: it is called on the thread that calls [`start`](crate::RpcBuilder::start) or
    /// [`warm`](Process::warm), for pools on a thread of the pool. If it fails, that is an error of the start.
    ///
    /// What comes first from there is skipped up to the greeting, as with a [command](Process::command). The
    /// descriptor may be a socket, or anything else that can be read and written.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use offspring::Process;
    /// use std::net::TcpStream;
    ///
    /// // There, something like inetd starts a program with its connection as standard input and output.
    /// let far = Process::connect(|| Ok(TcpStream::connect("worker.example:7000")?.into()));
    /// let rpc = far.rpc("resize").start()?;
    /// # Ok::<(), offspring::Error>(())
    /// ```
    pub fn connect(connect: impl Fn() -> io::Result<OwnedFd> + Send + Sync + 'static) -> Self {
        Process::of_connector(Connector(Arc::new(connect)), &Far)
    }
}

//! Children that are handed over to whoever has their connection.

use crate::error::{CallError, Error, ErrorKind};
use crate::fd::{Fd, Reach};
use crate::process::{Process, TemplateOrder};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// What a child is started with that is to be handed over. It serves nothing else.
const MOVE: &str = "move";

impl Process {
    /// Starts the child, waits until it has run its setups, however long they take, and returns its connection:
    /// a socket that can be passed on, as [`Fd`], and adopted anywhere on this machine with
    /// [`Process::stream`]. In Perl's `AnyEvent::Fork` these are `to_fh` and `new_from_fh`.
    ///
    /// From then on the child belongs to whoever has the socket: it lives on when this process ends, and exits
    /// when all duplicates of the socket are closed. Whoever adopts it can have it run further setups and hold it
    /// to limits, calls it, and ends it. This process reaps it, on a thread that waits for nothing else, and
    /// passes on its [output](Process::stdout) if that is captured.
    ///
    /// # Errors
    ///
    /// As [`start`](crate::RpcBuilder::start) and [`wait_ready`](crate::Rpc::wait_ready);
    /// [`Unsupported`](ErrorKind::Unsupported) for a plain peer, which can be passed on as it is, and for a child on
    /// [another machine](crate::machines).
    ///
    /// # Examples
    ///
    /// ```
    /// use offspring::{Fd, Process, Worker};
    ///
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = Worker::new()
    ///     .function("echo", |request, _caller| Ok(request))
    ///     // Another child, which adopts what it is sent, and calls it.
    ///     .function("ask it", |mut request, _caller| {
    ///         let [stream] = request.take_fds()?;
    ///         let echo = Process::stream(stream).rpc("echo").start()?;
    ///         Ok(echo.call("hello").wait()?)
    ///     })
    ///     .run();
    /// let stream = me.clone().into_stream()?;
    /// let other = me.rpc("ask it").start()?;
    /// assert_eq!(other.call(Fd::from(stream)).wait()?, ["hello"]);
    /// # other.finish()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_stream(self) -> Result<OwnedFd, Error> {
        let plain = self.plain_mode();
        let plain =
            plain.map(|_| format!("{self} cannot have Process::into_stream(): it is a plain peer"));
        let far = (self.reach() == Reach::Far).then(|| {
            format!("{self} cannot have Process::into_stream(): it is on another machine")
        });
        if let Some(message) = self.refusal().or(plain).or(far) {
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let (near, far) = UnixStream::pair().map_err(|error| {
            Error::new(ErrorKind::Spawn, format!("cannot start {self}: {error}"))
        })?;
        // Nobody stops it: that its connection ends, to this handle, is all that there is to see until it exits.
        let builder = self.huge_pages(u64::MAX).into_template().rpc(MOVE);
        let builder = builder.start_timeout(Duration::MAX).grace(Duration::MAX);
        let rpc = builder.on_error(drop).start()?;
        rpc.wait_ready()?;
        let order = TemplateOrder::Move(Fd::from(far)).encode();
        match rpc.call(order).wait() {
            Ok(_) => Ok(near.into()),
            Err(CallError::Lost(error, _)) => Err(error),
            Err(error) => {
                let message = format!("the child cannot be handed over: {error}");
                Err(Error::new(ErrorKind::Spawn, message))
            }
        }
    }
}

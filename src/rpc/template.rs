//! Templates: children that are copied instead of being executed.

use super::callback::{in_callback, refuse_in_callback};
use super::handle::Rpc;
use crate::codec::Strings;
use crate::error::{CallError, Error, ErrorKind};
use crate::fd::{Fd, Reach};
use crate::process::{
    CopyWait, FarStarter, ForkError, ForkOrder, ForkedChild, Forker, Launched, Process,
    TemplateOrder,
};
use crate::revival::Revival;
use crate::sys;
use crate::unwind;
use std::any::Any;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What a template is started with. It serves nothing else.
const FORK: &str = "fork";

impl Process {
    /// A template of this process: from here on, what is started is a copy, made by fork(2), of one live child
    /// that has run the setups so far. Copies begin with all the memory of the template, which is shared until
    /// either side writes to it. A copy of a small template is started, called and finished about 1.7 times as fast
    /// as a program that is executed.
    ///
    /// Setups, [limits](Process::limit), [standard output](Process::stdout) and
    /// [error](Process::stderr), [directory](Process::current_dir) and [group](Process::group) that come after
    /// it are those of the copies. What is not set is as in the template, where it was the parent's.
    /// [Arguments](Process::arg) and [environment](Process::env) cannot be another's: after this, they are
    /// start errors of the kind [`Unsupported`](ErrorKind::Unsupported). Copies can be templates, too.
    ///
    /// The template is started by the first copy, or [earlier](Process::warm), and exits when no description,
    /// builder or handle needs it any more. One that has died is started again, with its setups, by the next
    /// copy; if it keeps dying, starts fail with its error, and wait longer and longer before the next attempt.
    /// Copies live on when it dies, but how they end is then not known.
    ///
    /// Starting a copy waits for the template, also in a callback, at most for the
    /// [start timeout](crate::RpcBuilder::start_timeout), after which the template is killed: use
    /// [`warm`](Process::warm) to wait for setups that take longer.
    ///
    /// Of a [command](Process::command) or [connection](Process::connect) this is a template on the other machine:
    /// all that is started behind that connection is a copy, under the same rules.
    ///
    /// # Safety of copies
    ///
    /// A process with threads is not copied: they would be missing, and what they had locked would stay so.
    /// Setups of a template must not leave any running; the error names them. Output that is buffered is
    /// written before, dispositions of signals are what they were before the setups, and a copy has its own
    /// process group, connection, and lifeline. [`Worker::after_fork`](crate::Worker::after_fork) makes anew
    /// what copies must not share. What no library can find out: connections to databases, shared epoll
    /// descriptors, io_uring rings, GPU contexts. Two copies have the same state of every random generator,
    /// and the hash keys of [`RandomState`](std::hash::RandomState) on their main thread, and all have the
    /// template's address layout and stack canary: who can crash one again and again can find these out.
    ///
    /// Needs pidfds, so Linux 5.4 and a sandbox that permits them.
    ///
    /// # Compared with `AnyEvent::Fork`
    ///
    /// | there | here |
    /// |---|---|
    /// | `new`, `new_exec` | [`Worker::run`](crate::Worker::run), [`Process::exe`] |
    /// | `require`, `eval`, `send_arg` | [`setup`](Process::setup) |
    /// | `send_fh` | [`Fd`] in the request of a setup |
    /// | `fork` | `template()` |
    /// | `run` | [`rpc`](Process::rpc) |
    /// | `to_fh`, `new_from_fh` | [`into_stream`](Process::into_stream), [`Process::stream`] |
    /// | `pid` | [`Rpc::pid`](crate::Rpc::pid) |
    /// | `AnyEvent::Fork::Early`, `::Template` | [`warm`](Process::warm), at the beginning of the program |
    ///
    /// # Examples
    ///
    /// ```
    /// use offspring::Worker;
    /// use std::cell::OnceCell;
    ///
    /// fn main() -> Result<(), offspring::BoxError> {
    ///     let table: &OnceCell<Vec<u64>> = Box::leak(Box::default());
    ///     let me = Worker::new()
    ///         .setup("load", |_| {
    ///             let squares = (0..100_000).map(|n| n * n).collect(); // once
    ///             table.set(squares).map_err(|_| "it is loaded".into())
    ///         })
    ///         .function("lookup", |request, _caller| {
    ///             let [n] = request.texts()?;
    ///             let table = table.get().ok_or("nothing is loaded")?;
    ///             Ok(table[n.parse::<usize>()?].to_string())
    ///         })
    ///         .run();
    ///     let loaded = me.setup("load", ()).template();
    ///     let first = loaded.rpc("lookup").start()?;
    ///     let second = loaded.rpc("lookup").start()?;
    ///     assert_eq!(first.call("12").wait()?, ["144"]);
    ///     assert_eq!(second.call("99999").wait()?, ["9999800001"]);
    ///     Ok(())
    /// }
    /// ```
    pub fn template(self) -> Self {
        if let Some(starter) = self.starter_of_templates() {
            return starter.template(self);
        }
        Process::copy_of(Arc::new(Template {
            process: self.into_template(),
            shared: Arc::default(),
        }))
    }

    /// Starts the [template](Process::template) that children of this description are copies of, unless it is
    /// running, and waits until it has run its setups, however long they take.
    ///
    /// # Errors
    ///
    /// Why it cannot be started; [`Unsupported`](ErrorKind::Unsupported) without `template()`. In a callback,
    /// [`InCallback`](ErrorKind::InCallback), if it would have to wait.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new().function("echo", |request, _caller| Ok(request)).run();
    /// let template = me.template();
    /// template.warm()?;
    /// let rpc = template.rpc("echo").start()?; // fast
    /// # rpc.finish()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn warm(&self) -> Result<(), Error> {
        match self.forker() {
            Some(forker) if forker.reach() == Reach::Far => {
                refuse_in_callback("warm()")?;
                forker.warm()
            }
            Some(forker) => forker.warm(),
            None => {
                let message =
                    format!("{self} has no template to be started early: call template()");
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }
}

/// A description of a template, and the process, if it is there.
#[derive(Debug)]
struct Template {
    process: Process,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<TemplateState>,
    /// Notified when it is not being started any more.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct TemplateState {
    live: Option<Arc<LiveTemplate>>,
    /// Whether a thread is starting it, which may have to wait for another template.
    is_starting: bool,
    revival: Revival<Error>,
}

/// Held by the thread that starts a template.
struct Starting<'a>(&'a Shared);

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.lock().is_starting = false;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, TemplateState> {
        unwind::lock(&self.state)
    }
}

/// A template that was started.
#[derive(Debug)]
struct LiveTemplate {
    rpc: Rpc,
}

impl Forker for Template {
    fn launch(&self, copy: &Process, wait: &CopyWait) -> Result<Launched, Error> {
        copy.copy_by(|order| self.fork(order, wait))
    }

    fn label(&self) -> String {
        format!("a copy of {}", self.process.label())
    }

    fn reach(&self) -> Reach {
        Reach::Near
    }

    fn far_starter(&self) -> Option<&'static dyn FarStarter> {
        None
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn warm(&self) -> Result<(), Error> {
        let live = self.live(None)?;
        let ready = live.rpc.wait_ready();
        if let Err(error) = &ready
            && error.kind() != ErrorKind::InCallback
        {
            self.has_ended(&live, error);
        }
        ready
    }
}

impl Template {
    fn fork(&self, order: ForkOrder<Fd>, wait: &CopyWait) -> Result<ForkedChild, ForkError> {
        let CopyWait {
            timeout,
            until,
            interrupt,
        } = wait;
        let live = self.live(Some(wait)).map_err(ForkError::Other)?;
        let was_ready = live.rpc.is_ready();
        let call = live.rpc.call(TemplateOrder::Copy(order).encode());
        let outcome = match interrupt {
            // Not by a timeout of the call, of which the template's reactor would have to know.
            None if !in_callback() => call.wait_until(*until),
            // In a callback this is bounded, even if it is one of the template's own, as output may be passed to.
            _ => {
                let (sender, outcome) = mpsc::channel();
                if let Some(interrupt) = interrupt {
                    let sender = sender.clone();
                    interrupt.wait(move |error| drop(sender.send(Err(error))));
                }
                call.then(move |outcome| drop(sender.send(Ok(outcome))));
                let left = until.map_or(Duration::MAX, |at| {
                    at.saturating_duration_since(Instant::now())
                });
                let outcome = outcome.recv_timeout(left).ok().transpose();
                outcome.map_err(ForkError::Other)?
            }
        };
        match outcome {
            Some(Ok(reply)) => {
                self.lock().revival.succeeded();
                let forked = forked(reply, &live);
                forked.map_err(|why| ForkError::Other(cannot_copy(&why)))
            }
            Some(Err(CallError::Lost(error, _))) => {
                self.has_ended(&live, &error);
                Err(match was_ready {
                    true => ForkError::Died(error),
                    false => ForkError::Other(error),
                })
            }
            None => {
                let message = format!(
                    "the template has made no copy within {timeout:?} (start_timeout), and is killed"
                );
                let error = Error::new(ErrorKind::StartTimeout, message);
                live.rpc.kill();
                self.has_ended(&live, &error);
                Err(ForkError::Other(error))
            }
            Some(Err(error)) => Err(ForkError::Other(cannot_copy(&error.to_string()))),
        }
    }

    /// The template, which is started if it is not there: as a copy of another one, perhaps, for which it may have
    /// to `wait`.
    fn live(&self, wait: Option<&CopyWait>) -> Result<Arc<LiveTemplate>, Error> {
        let mut state = self.unless_starting(wait)?;
        if let Some(live) = &state.live {
            match live.rpc.try_exit() {
                None => return Ok(Arc::clone(live)),
                Some(_) => state.live = None,
            }
        }
        let now = Instant::now();
        if let Some((error, wait, failures)) = state.revival.must_wait(now) {
            let message = format!(
                "the template has failed {failures} times in a row, and is not started again for \
                 another {wait:.1?}: {error}"
            );
            return Err(Error::new(error.kind(), message));
        }
        state.is_starting = true;
        drop(state);
        let _starting = Starting(&self.shared);
        let builder = self.process.rpc(FORK).start_timeout(Duration::MAX);
        // Whoever wants a copy is told.
        let started = builder.on_error(drop).copy_wait(wait.cloned()).start();
        let mut state = self.lock();
        match started {
            Ok(rpc) => {
                let live = Arc::new(LiveTemplate { rpc });
                state.live = Some(Arc::clone(&live));
                Ok(live)
            }
            Err(error) => {
                if wait.is_none_or(|wait| wait.interrupted().is_none()) {
                    state.revival.failed(now, error.clone());
                }
                Err(error)
            }
        }
    }

    /// The state, once no other thread is starting the template.
    fn unless_starting(
        &self,
        wait: Option<&CopyWait>,
    ) -> Result<MutexGuard<'_, TemplateState>, Error> {
        let state = self.lock();
        if !state.is_starting {
            return Ok(state);
        }
        drop(state);
        if wait.is_none() {
            refuse_in_callback("warm()")?;
        }
        if let Some(interrupt) = wait.and_then(|wait| wait.interrupt.as_ref()) {
            let shared = Arc::clone(&self.shared);
            interrupt.wait(move |_| {
                // Not between a look at the interrupt and the wait for it.
                drop(shared.lock());
                shared.changed.notify_all();
            });
        }
        let interrupted = || wait.and_then(CopyWait::interrupted);
        let until = wait.and_then(|wait| wait.until);
        let state = unwind::wait_until(&self.shared.changed, self.lock(), until, |state| {
            state.is_starting && interrupted().is_none()
        });
        match wait.filter(|_| state.is_starting) {
            None => Ok(state),
            Some(wait) => Err(interrupted().unwrap_or_else(|| {
                let message = format!(
                    "the template has not been started within {:?} (start_timeout): it waits for its own",
                    wait.timeout
                );
                Error::new(ErrorKind::StartTimeout, message)
            })),
        }
    }

    /// This template has ended, or is about to.
    fn has_ended(&self, live: &Arc<LiveTemplate>, error: &Error) {
        let mut state = self.lock();
        if state.live.take_if(|it| Arc::ptr_eq(it, live)).is_some() {
            state.revival.failed(Instant::now(), error.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, TemplateState> {
        self.shared.lock()
    }
}

fn cannot_copy(why: &str) -> Error {
    Error::new(ErrorKind::Spawn, format!("cannot copy the template: {why}"))
}

/// The copy that a template has made.
fn forked(mut reply: Strings, template: &Arc<LiveTemplate>) -> Result<ForkedChild, String> {
    let fds = reply.take_fds().map_err(|error| error.to_string());
    let [pidfd, report] = fds?;
    // Its number for the template may be another's here.
    let pid = sys::pid_of(&pidfd).map_err(|error| error.to_string())?;
    let template = Arc::clone(template);
    Ok(ForkedChild {
        pid,
        pidfd,
        report,
        template,
    })
}

//! A connection to another machine, for those who use it.

use super::carrier::Carrier;
use super::child::{ChildState, FarChild};
use crate::error::Error;
use crate::process::{Child, Launched, Process, Remote};
use crate::sys::{self, Epoll};
use crate::wire::ToRelay;
use crate::{threads, unwind};
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// See the module's documentation. It ends when it is dropped and its children have ended.
#[derive(Debug)]
pub(super) struct Connection {
    inbox: Arc<Inbox>,
}

/// What the carrier shares with all others.
#[derive(Debug)]
pub(super) struct Inbox {
    state: Mutex<InboxState>,
    /// Notified when a template is there, or is not.
    changed: Condvar,
    pub(super) epoll: Arc<Epoll>,
    /// What a copy of this process is to give up.
    shared: [Weak<OwnedFd>; 2],
}

#[derive(Debug, Default)]
struct InboxState {
    orders: Vec<Order>,
    /// The last number of a child or a template.
    last: u32,
    /// Why it is not there any more.
    lost: Option<Error>,
    has_greeted: bool,
    /// Templates that are waited for, each time they are, and what has become of them.
    warming: Vec<(u32, Option<Result<(), Error>>)>,
    thread: Option<JoinHandle<()>>,
    /// Whether the thread is about to end.
    is_over: bool,
}

/// Something for the carrier to do.
#[derive(Debug)]
pub(super) enum Order {
    Open(Box<Open>),
    Signal {
        child: u64,
        signal: i32,
    },
    /// Nobody waits for a child any more.
    Leave {
        child: u64,
    },
    /// Messages for the other side.
    Send(Vec<Vec<u8>>),
    /// Nothing more is wanted.
    Close,
}

/// A child to be started.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) child: u64,
    pub(super) state: Arc<ChildState>,
    pub(super) timeout: Duration,
    pub(super) base: u32,
    /// How it is to be started.
    pub(super) process: Process,
    /// The carrier's ends of its streams.
    pub(super) socket: OwnedFd,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

impl Connection {
    /// Makes the connection. With the grace of `only_one` child, it is for that, and lives and ends with it. Nothing
    /// happens before it is [served](Connection::serve).
    pub(super) fn new(
        process: &Process,
        only_one: Option<Duration>,
    ) -> Result<(Arc<Self>, Carrier), Error> {
        let io_error = |error| process.cannot_start(&error);
        let epoll = Epoll::new().map_err(io_error)?;
        let transport = process.start_carrier()?;
        let carrier = Carrier::new(process, transport, &epoll, only_one);
        let (carrier, shared) = carrier.map_err(io_error)?;
        let inbox = Arc::new(Inbox {
            state: Mutex::default(),
            changed: Condvar::new(),
            epoll,
            shared: shared.map(|fd| Arc::downgrade(&fd)),
        });
        Ok((Arc::new(Connection { inbox }), carrier))
    }

    /// Serves it from here on, on a thread.
    pub(super) fn serve(&self, process: &Process, carrier: Carrier) -> Result<(), Error> {
        let inbox = Arc::clone(&self.inbox);
        let thread = Builder::new().name("offspring carrier".into());
        let thread = threads::start(thread, Box::new(move || carrier.run(&inbox)));
        let thread = thread.map_err(|error| process.cannot_start(&error))?;
        self.inbox.lock().thread = Some(thread);
        Ok(())
    }

    /// Starts a child: `base` is the number of its template, or 0.
    pub(super) fn launch(
        self: &Arc<Self>,
        process: &Process,
        base: u32,
        timeout: Duration,
    ) -> Result<Launched, Error> {
        let pair = || UnixStream::pair().map_err(|error| process.cannot_start(&error));
        let above_standard = |end: UnixStream| {
            sys::above_standard(end).map_err(|error| process.cannot_start(&error))
        };
        let (socket, theirs) = pair()?;
        let captured = |wanted: bool| -> Result<_, Error> {
            let (ours, theirs) = match wanted {
                true => pair()?,
                false => return Ok((None, None)),
            };
            Ok((Some(above_standard(ours)?), Some(above_standard(theirs)?)))
        };
        let (stdout, their_stdout) = captured(process.captures_stdout())?;
        let (stderr, their_stderr) = captured(process.captures_stderr())?;
        let number = u64::from(self.number());
        let state = Arc::new(ChildState::default());
        self.order(Order::Open(Box::new(Open {
            child: number,
            state: Arc::clone(&state),
            timeout,
            base,
            process: process.clone(),
            socket: above_standard(theirs)?,
            stdout: their_stdout,
            stderr: their_stderr,
        })));
        let remote: Arc<dyn Remote> = Arc::new(FarChild {
            state,
            connection: Arc::clone(self),
            number,
        });
        Ok(Launched {
            socket: above_standard(socket)?,
            child: Some(Child::remote(remote, process.settings())),
            lifeline: None,
            stdout,
            stderr,
        })
    }

    /// A number that no child or template has had.
    pub(super) fn number(&self) -> u32 {
        let mut state = self.inbox.lock();
        state.last += 1;
        state.last
    }

    /// Has the carrier do something, unless the connection is lost.
    pub(super) fn order(&self, order: Order) {
        if self.is_elsewhere() {
            return;
        }
        let mut state = self.inbox.lock();
        let order = match (&state.lost, order) {
            (Some(lost), Order::Open(open)) => {
                let lost = lost.clone();
                drop(state);
                open.state.ended(super::carrier::never_begun(&lost));
                return open.state.settled();
            }
            (Some(_), _) => return,
            (None, order) => order,
        };
        let is_first = state.orders.is_empty();
        state.orders.push(order);
        drop(state);
        if is_first {
            self.inbox.wake();
        }
    }

    /// Why it is not there any more, if it is not, and whether the other side had greeted.
    pub(super) fn lost(&self) -> Option<(Error, bool)> {
        let state = self.inbox.lock();
        Some((state.lost.clone()?, state.has_greeted))
    }

    /// Asks for a template, and waits until it is there.
    pub(super) fn warm(&self, template: u32) -> Result<(), Error> {
        self.inbox.lock().warming.push((template, None));
        let message = ToRelay::Warm { id: template }.encode();
        self.order(Order::Send(vec![message]));
        let mut outcome = None;
        let state = self.inbox.lock();
        let state = unwind::wait_until(&self.inbox.changed, state, None, |state| {
            let mut warming = state.warming.iter();
            let at = warming.position(|(id, outcome)| *id == template && outcome.is_some());
            outcome = at.and_then(|at| state.warming.swap_remove(at).1);
            outcome.is_none() && state.lost.is_none()
        });
        outcome.unwrap_or_else(|| Err(state.lost.clone().expect("that was waited for")))
    }

    /// Gives up what this copy of the process shares with the original.
    pub(super) fn give_up(&self) {
        let shared = self.inbox.shared.iter().filter_map(Weak::upgrade);
        shared.for_each(|fd| sys::give_up(&*fd));
    }

    /// Whether this process is a copy of the one that made it, which must not use it.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.inbox.epoll.is_elsewhere()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.is_elsewhere() {
            self.give_up();
            // The thread is not there. To drop its handle would detach it.
            if let Ok(mut state) = self.inbox.state.try_lock() {
                mem::forget(state.thread.take());
            }
            return;
        }
        self.order(Order::Close);
        let mut state = self.inbox.lock();
        if state.is_over {
            let thread = state.thread.take();
            drop(state);
            thread.into_iter().for_each(threads::join);
        }
    }
}

impl Inbox {
    /// What was asked for since the last time.
    pub(super) fn take(&self) -> Vec<Order> {
        mem::take(&mut self.lock().orders)
    }

    /// The connection is lost, or closed: nothing can be asked for from here on. Returns what was.
    pub(super) fn close(&self, why: Error) -> Vec<Order> {
        let mut state = self.lock();
        state.lost.get_or_insert(why);
        let orders = mem::take(&mut state.orders);
        drop(state);
        self.changed.notify_all();
        orders
    }

    pub(super) fn greeted(&self) {
        self.lock().has_greeted = true;
    }

    /// A template is there, or why it is not. Returns whether it is waited for.
    pub(super) fn warmed(&self, template: u32, outcome: Result<(), Error>) -> bool {
        let mut state = self.lock();
        let mut warming = state.warming.iter_mut();
        let waiting = warming.find(|(id, outcome)| *id == template && outcome.is_none());
        let is_waited_for = waiting.map(|(_, it)| *it = Some(outcome)).is_some();
        drop(state);
        self.changed.notify_all();
        is_waited_for
    }

    /// The thread has nothing more to do.
    pub(super) fn over(&self) {
        self.lock().is_over = true;
    }

    fn wake(&self) {
        self.epoll.notify();
    }

    fn lock(&self) -> MutexGuard<'_, InboxState> {
        unwind::lock(&self.state)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What others share with a carrier.
    pub(in crate::far) fn inbox(epoll: Arc<Epoll>, shared: &[Arc<OwnedFd>; 2]) -> Inbox {
        Inbox {
            state: Mutex::default(),
            changed: Condvar::new(),
            epoll,
            shared: shared.each_ref().map(Arc::downgrade),
        }
    }

    impl Inbox {
        /// Asks for these things at once.
        pub(in crate::far) fn push(&self, orders: impl IntoIterator<Item = Order>) {
            self.lock().orders.extend(orders);
            self.wake();
        }
    }
}

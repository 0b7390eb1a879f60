//! What a function sees of the call it serves.

use super::outlet::Outlet;
use crate::codec::Argument;
use crate::service::Service;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// The call that a function serves, and through it the parent.
///
/// # Examples
///
/// ```
/// use offspring::{Caller, Strings};
///
/// fn count_to(request: Strings, caller: &Caller) -> Result<(), offspring::BoxError> {
///     let [to] = request.texts()?;
///     for n in 1..=to.parse::<u32>()? {
///         caller.event(n.to_string());
///     }
///     Ok(())
/// }
/// # fn main() -> Result<(), offspring::BoxError> {
/// # let me = offspring::Worker::new().function("count to", count_to).run();
/// # let (send, events) = std::sync::mpsc::channel();
/// # let rpc = me.rpc("count to").on_event(move |n| drop(send.send(n))).start()?;
/// # rpc.call("3").wait()?;
/// # rpc.finish()?;
/// # assert_eq!(events.iter().map(|n| n.to_string()).collect::<String>(), "123");
/// # Ok(())
/// # }
/// ```
pub struct Caller<S: Service = &'static str> {
    outlet: Arc<Outlet>,
    service: PhantomData<fn(S)>,
}

impl<S: Service> fmt::Debug for Caller<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").finish_non_exhaustive()
    }
}

impl<S: Service> Caller<S> {
    pub(super) fn new(outlet: &Arc<Outlet>) -> Self {
        Caller {
            outlet: Arc::clone(outlet),
            service: PhantomData,
        }
    }

    /// Sends an event to the parent's [`on_event`](crate::RpcBuilder::on_event). Events and replies
    /// arrive in the order in which they are sent. If the parent is gone, nothing happens: the child
    /// is about to go, too.
    ///
    /// # Panics
    ///
    /// If the event cannot be encoded, or is longer than
    /// [`max_frame`](crate::RpcBuilder::max_frame). The call then fails with that message.
    pub fn event(&self, event: impl Argument<S::Event, S::Codec>) {
        self.outlet.event::<S>(event);
    }

    /// Waits until everything sent so far is on its way to the parent: it survives whatever this
    /// process does next. Returns whether the parent could be written to.
    pub fn flush(&self) -> bool {
        self.outlet.is_open()
    }
}

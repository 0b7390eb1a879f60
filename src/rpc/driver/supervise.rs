//! Who is told what becomes of a child, beside its callbacks.

use crate::error::{Error, Phase};
use crate::rpc::link::{Completion, Link};
use crate::rpc::state::Exit;
use std::sync::Arc;

/// Told of one child, on the reactor's thread.
pub(crate) trait Supervise: Send + Sync {
    /// The child serves.
    fn ready(&self, link: &Arc<Link>);

    /// So many of its calls have ended for the child, of all that were ever made: each has been answered, or
    /// was taken back before it was sent.
    fn freed(&self, total: u64);

    /// It wants no more calls.
    fn retires(&self);

    /// The call with this id is lost, after which no other is made. Returns its completion if it is to end.
    fn lost(
        &self,
        id: u32,
        completion: Completion,
        error: &Error,
        phase: Phase,
    ) -> Option<Completion>;

    /// It is over, and this is the last that is heard of it. So many calls had begun that are lost.
    fn ended(&self, link: &Arc<Link>, end: &Result<Exit, Error>, begun: usize);
}

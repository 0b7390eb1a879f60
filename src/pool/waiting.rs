//! A call to a pool, from when it is made until it ends, in one child or after another.

use super::scheduler::{ChildId, Ticket, Want};
use crate::error::{Error, ErrorKind, Phase};
use crate::rpc::{
    Answer, AnswerFamily, BorrowedAnswer, Completion, Ended, Link, ProgressCallback, guard,
};
use crate::sys::Consume;
use crate::unwind;
use crate::wire::Body;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// See the module's documentation.
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) want: Want,
    /// When it was made.
    pub(super) since: Instant,
    /// The number of its function, for the pool.
    pub(super) function: usize,
    pub(super) request: Body,
    pub(super) progress: Option<ProgressCallback>,
    /// The link's, while it is sent.
    pub(super) completion: Option<Completion>,
    /// Where it is, for who may cancel it.
    pub(super) place: Option<Arc<Mutex<Place>>>,
    pub(super) repeat: Repeat,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting")
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}

impl Waiting {
    /// It waits in the pool. Returns false if nobody waits for it any more.
    pub(super) fn set_place(&self) -> bool {
        let Some(place) = &self.place else {
            return true;
        };
        let mut place = unwind::lock(place);
        let wanted = !matches!(*place, Place::Cancelled);
        if wanted {
            *place = Place::Waiting(self.ticket);
        }
        wanted
    }

    /// It ends.
    pub(super) fn end(mut self, answer: Answer) {
        // Before the callback, which may panic, too: two panics would abort the process.
        if let Some(progress) = self.progress.take() {
            guard(|| drop(progress));
        }
        let answer = self.repeat.ends(answer);
        if let Some(completion) = &mut self.completion {
            completion.complete(answer);
        }
    }
}

/// Where a call is, or where it has ended.
pub(super) enum Place {
    Waiting(Ticket),
    /// In a child, with this id there.
    Sent(ChildId, Arc<Link>, u32),
    /// Nobody waits for it any more.
    Cancelled,
}

/// How often a call may be begun again, and what has become of it so far. Pure.
#[derive(Debug, Default)]
pub(super) struct Repeat {
    /// How often it may be begun again.
    allowed: u32,
    /// Whether it is for one child and no other.
    is_bound: bool,
    begun_again: u32,
    /// Whether it has begun in a child that is lost, perhaps.
    pub(super) has_begun: bool,
    /// The errors of the children that it has killed.
    killed: Vec<Error>,
}

/// What becomes of a call whose child is lost.
#[derive(Debug)]
pub(super) enum Fate {
    /// It is sent again: without others in the same child, if it may have killed this one.
    Again { alone: bool },
    /// It ends with the error of the child.
    End(Error),
    /// It has killed two children.
    Poison(Box<[Error]>),
}

/// Whether a child has ended as this process has killed it, and not of what it did in a call.
pub(super) fn was_killed(error: &Error) -> bool {
    let kind = error.kind();
    matches!(
        kind,
        ErrorKind::Killed | ErrorKind::Stopped | ErrorKind::Stuck
    )
}

/// Whether a child may have ended of what it did in a call: not if this process has killed it, or its machine is
/// out of reach.
pub(super) fn may_blame_a_call(error: &Error) -> bool {
    !was_killed(error) && error.kind() != ErrorKind::Disconnected
}

impl Repeat {
    pub(super) fn up_to(allowed: u32) -> Self {
        Repeat {
            allowed,
            ..Repeat::default()
        }
    }

    /// Whether nothing is to be known of it.
    pub(super) fn is_plain(&self) -> bool {
        self.allowed == 0 && !self.is_bound && self.killed.is_empty()
    }

    /// Of a call that is for one child only.
    pub(super) fn of_one_child() -> Self {
        Repeat {
            is_bound: true,
            ..Repeat::default()
        }
    }

    /// The child is lost with this error, which the call had got so far.
    pub(super) fn lost(&mut self, error: Error, phase: Phase) -> Fate {
        if self.is_bound {
            return Fate::End(error);
        }
        self.has_begun |= !phase.is_safe_to_repeat();
        if phase.is_safe_to_repeat() {
            // Still alone, if it was.
            let alone = !self.killed.is_empty();
            return Fate::Again { alone };
        }
        if self.allowed == 0 {
            return Fate::End(error);
        }
        if may_blame_a_call(&error) {
            self.killed.push(error.clone());
            if self.killed.len() >= 2 {
                return Fate::Poison(std::mem::take(&mut self.killed).into());
            }
        }
        if self.begun_again >= self.allowed {
            return Fate::End(error);
        }
        self.begun_again += 1;
        let alone = !self.killed.is_empty();
        Fate::Again { alone }
    }

    /// How it ends with this.
    pub(super) fn ends(&self, answer: Answer) -> Answer {
        match self.has_begun {
            true => begun_before(answer),
            false => answer,
        }
    }
}

/// An answer to a call that has begun in an earlier child: it is not unbegun in the next.
pub(super) fn begun_before(answer: Answer) -> Answer {
    match answer {
        Answer::Ended(Ended::TimedOut(_)) => Answer::Ended(Ended::TimedOut(Phase::Begun)),
        Answer::Ended(Ended::Lost(error, _)) => Answer::Ended(Ended::Lost(error, Phase::Begun)),
        answer => answer,
    }
}

/// The completion of a call that has begun in an earlier child: it is not unbegun when its link ends it.
pub(super) struct BegunBefore(pub(super) Completion);

impl Consume<AnswerFamily> for BegunBefore {
    fn consume(mut self, answer: &BorrowedAnswer<'_>) {
        match answer {
            BorrowedAnswer::Reply(_) => self.0.consume(answer),
            BorrowedAnswer::Owned(owned) => {
                let answer = owned.take().expect("a call is completed once");
                self.0.complete(begun_before(answer));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: ErrorKind) -> Error {
        Error::new(kind, "it is gone")
    }

    fn lost(repeat: &mut Repeat, kind: ErrorKind, phase: Phase) -> String {
        match repeat.lost(error(kind), phase) {
            Fate::Again { alone: false } => "again".to_owned(),
            Fate::Again { alone: true } => "alone".to_owned(),
            Fate::End(error) => format!("{:?}", error.kind()),
            Fate::Poison(errors) => format!("poison {}", errors.len()),
        }
    }

    #[test]
    fn call_that_had_not_begun_is_sent_again_however_often() {
        let mut repeat = Repeat::default();
        for _ in 0..10 {
            assert_eq!(lost(&mut repeat, ErrorKind::Died, Phase::Sent), "again");
            assert_eq!(lost(&mut repeat, ErrorKind::Killed, Phase::Queued), "again");
        }
        assert_eq!(lost(&mut repeat, ErrorKind::Died, Phase::Begun), "Died");
    }

    #[test]
    fn call_that_may_be_repeated_and_kills_two_children_is_poison() {
        let mut repeat = Repeat::up_to(5);
        assert_eq!(lost(&mut repeat, ErrorKind::Died, Phase::Begun), "alone");
        assert_eq!(lost(&mut repeat, ErrorKind::Died, Phase::Sent), "alone");
        assert_eq!(
            lost(&mut repeat, ErrorKind::Protocol, Phase::Begun),
            "poison 2"
        );
    }

    #[test]
    fn kills_by_the_pool_count_as_attempts_and_not_as_crashes() {
        let mut repeat = Repeat::up_to(2);
        assert_eq!(lost(&mut repeat, ErrorKind::Killed, Phase::Begun), "again");
        assert_eq!(lost(&mut repeat, ErrorKind::Stuck, Phase::Begun), "again");
        assert_eq!(lost(&mut repeat, ErrorKind::Killed, Phase::Begun), "Killed");
    }

    #[test]
    fn loss_of_a_machine_counts_as_an_attempt_and_not_as_a_crash() {
        let disconnected = ErrorKind::Disconnected;
        let mut repeat = Repeat::up_to(3);
        assert_eq!(lost(&mut repeat, disconnected, Phase::Begun), "again");
        assert_eq!(lost(&mut repeat, ErrorKind::Died, Phase::Begun), "alone");
        assert_eq!(lost(&mut repeat, disconnected, Phase::Begun), "alone");
        let end = lost(&mut repeat, disconnected, Phase::Begun);
        assert_eq!(end, "Disconnected");
    }
}

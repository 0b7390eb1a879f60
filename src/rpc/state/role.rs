//! Who reads from the child: the reader's role. Pure: it decides, others read.
//!
//! A caller who waits for an answer reads the socket himself, which saves the way through the reactor:
//! on one processor a call costs half. What he finds that is not an answer to somebody who waits
//! (an event, an answer for a callback) he leaves to the reactor, and the role with it, so that
//! callbacks run on the reactor's thread only, in order.
//!
//! ```text
//!             take()                          take_for_reactor()
//!   Caller ◀────────── Nobody: the reactor ──────────────────────▶ Reactor
//!      │                watches, or looks                             │
//!      │ release() ───▶ now and then (lazy)  ◀─── give_back() ────────┘
//!      │ hand_off() ──▶ Nobody, and only the reactor may take it
//!      └ release(), with another caller parked: he has the role now
//! ```
//!
//! To have the reactor watch the socket and stop watching costs two system calls for every call. So a
//! caller who gives the role back soon after he did before leaves the socket unwatched. The reactor is
//! told once, and from then on looks every so often whether that is still right: it watches again
//! when no call was made for [`Role::laziness`].
//!
//! What must hold: when nobody has the role and somebody waits, the socket is watched, or the reactor
//! has been told to look.

#[cfg(test)]
mod model;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A caller is lazy if he gives the role back within this time after the last time: the price of
/// looking, some 20 µs, is paid by the calls in between, 1.6 µs each.
const DENSE: Duration = Duration::from_micros(30);
/// The longest laziness: longer would be no different, and moments must not overflow.
const LAZIEST: Duration = Duration::from_secs(24 * 60 * 60);

/// See the module's documentation. `W` is a caller who waits.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
pub(crate) struct Role<W> {
    holder: Holder,
    /// Only the reactor may take it, and has been told to.
    handed_off: bool,
    /// Whether the reactor watches the socket.
    watched: bool,
    /// Callers who wait for their answers without having the role, in order.
    parked: VecDeque<W>,
    /// How long an unwatched socket may stay so after the last call. Zero: not at all.
    laziness: Duration,
    /// When the role was given back last.
    released: Option<Instant>,
    /// When the reactor looks next, and how many times callers had taken the role when it did last.
    look: Option<(Instant, u64)>,
    taken: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Holder {
    Nobody,
    Caller,
    Reactor,
}

/// What is to be done after the role was given back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AfterRelease<W> {
    /// This caller has it now.
    PassTo(W),
    /// The reactor is to watch the socket.
    Watch,
    /// The reactor is to be told to look now and then.
    ScheduleLook,
    /// Nothing.
    Nothing,
}

impl<W> Role<W> {
    pub(crate) fn new(laziness: Duration) -> Self {
        Role {
            holder: Holder::Nobody,
            handed_off: false,
            watched: false,
            parked: VecDeque::new(),
            laziness: laziness.min(LAZIEST),
            released: None,
            look: None,
            taken: 0,
        }
    }

    // ---- callers ----

    /// Takes the role, if it is free. Returns whether it did.
    pub(crate) fn take(&mut self) -> bool {
        let free = self.holder == Holder::Nobody && !self.handed_off;
        if free {
            self.holder = Holder::Caller;
            self.taken += 1;
        }
        free
    }

    /// A caller waits without the role.
    pub(crate) fn park(&mut self, caller: W) {
        self.parked.push_back(caller);
    }

    /// A parked caller has his answer, or waits no longer. Returns false if he is not parked: then he
    /// has been given the role, and must give it back.
    pub(crate) fn unpark(&mut self, is_it: impl Fn(&W) -> bool) -> bool {
        match self.parked.iter().position(is_it) {
            Some(at) => self.parked.remove(at).is_some(),
            None => false,
        }
    }

    /// A caller gives the role back. `outstanding` says whether answers are awaited by others than
    /// parked callers.
    pub(crate) fn release(&mut self, outstanding: bool, now: Instant) -> AfterRelease<W> {
        debug_assert_eq!(self.holder, Holder::Caller);
        if let Some(next) = self.parked.pop_front() {
            self.taken += 1;
            return AfterRelease::PassTo(next);
        }
        self.holder = Holder::Nobody;
        // Once the reactor looks anyway, calls may be as far apart as its looks: to tell it takes longer
        // than a call, and must not make the next one seem late.
        let limit = match self.look {
            Some(_) => self.laziness,
            None => DENSE.min(self.laziness),
        };
        let dense = self.released.is_some_and(|last| now < last + limit);
        self.released = Some(now);
        if outstanding || !dense {
            return AfterRelease::Watch;
        }
        if self.look.is_some() || self.watched {
            return AfterRelease::Nothing;
        }
        self.look = Some((now + self.laziness, self.taken));
        AfterRelease::ScheduleLook
    }

    /// A caller found something for the reactor, who is to be told.
    pub(crate) fn hand_off(&mut self) {
        debug_assert_eq!(self.holder, Holder::Caller);
        self.holder = Holder::Nobody;
        self.handed_off = true;
    }

    // ---- the reactor ----

    /// Takes the role, if no caller has it. Returns whether it did.
    pub(crate) fn take_for_reactor(&mut self) -> bool {
        let free = self.holder == Holder::Nobody;
        if free {
            self.holder = Holder::Reactor;
            self.handed_off = false;
        }
        free
    }

    /// The reactor has read what there was. It is to watch the socket, for all who wait.
    pub(crate) fn give_back(&mut self) {
        debug_assert_eq!(self.holder, Holder::Reactor);
        self.holder = Holder::Nobody;
    }

    /// Whether something was left to the reactor.
    pub(crate) fn is_handed_off(&self) -> bool {
        self.handed_off
    }

    /// Looks whether the socket is to be watched again. `at_once` if it must not stay unwatched.
    pub(crate) fn look(&mut self, at_once: bool, now: Instant) -> bool {
        let due = self.look.is_some_and(|(at, _)| at <= now);
        if !due && !at_once {
            return false;
        }
        let (_, taken) = self.look.take().unwrap_or((now, 0));
        if self.holder != Holder::Nobody {
            // If it is still the same caller, he may take long. He tells again when he is done.
            if due && self.taken != taken {
                self.look = Some((now + self.laziness, self.taken));
            }
            return false;
        }
        let quiet_at = self.released.map_or(now, |last| last + self.laziness);
        if at_once || quiet_at <= now {
            return true;
        }
        self.look = Some((quiet_at, self.taken));
        false
    }

    /// When to [`look`](Role::look) next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.look.map(|(at, _)| at)
    }

    /// How many callers are parked.
    #[cfg(test)]
    pub(crate) fn parked(&self) -> usize {
        self.parked.len()
    }

    // ---- both ----

    /// Whether the reactor watches the socket.
    pub(crate) fn is_watched(&self) -> bool {
        self.watched
    }

    /// Whether nobody reads the socket or watches it, and the reactor only looks now and then.
    pub(crate) fn is_unattended(&self) -> bool {
        self.holder == Holder::Nobody && !self.handed_off && !self.watched
    }

    /// Whether it should: nobody else reads it.
    pub(crate) fn set_watched(&mut self, watched: bool) {
        self.watched = watched;
        if watched {
            self.look = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAZINESS: Duration = Duration::from_micros(500);

    /// A role that is unwatched, as a caller was lazy at that time.
    fn lazy() -> (Role<u8>, Instant) {
        let (mut role, now) = (Role::new(LAZINESS), Instant::now());
        for after in [AfterRelease::Watch, AfterRelease::ScheduleLook] {
            assert!(role.take());
            role.set_watched(false);
            assert_eq!(role.release(false, now), after);
            role.set_watched(after == AfterRelease::Watch);
        }
        (role, now)
    }

    #[test]
    fn role_has_one_holder() {
        let mut role = Role::<u8>::new(LAZINESS);
        assert!(role.take());
        assert!(!role.take() && !role.take_for_reactor());
        role.release(false, Instant::now());
        assert!(role.take_for_reactor());
        assert!(!role.take() && !role.take_for_reactor());
        role.give_back();
        assert!(role.take());
    }

    #[test]
    fn what_is_handed_off_is_the_reactors_until_it_has_read() {
        let mut role = Role::<u8>::new(LAZINESS);
        assert!(role.take() && !role.is_handed_off());
        role.hand_off();
        assert!(role.is_handed_off() && !role.take());
        assert!(role.take_for_reactor() && !role.is_handed_off());
        role.give_back();
        assert!(role.take());
    }

    #[test]
    fn released_role_goes_to_the_parked_in_order() {
        let (mut role, now) = (Role::new(LAZINESS), Instant::now());
        assert!(role.take());
        (1..=3).for_each(|caller| role.park(caller));
        assert!(role.unpark(|caller| *caller == 2));
        assert_eq!(role.parked(), 2);
        assert_eq!(role.release(true, now), AfterRelease::PassTo(1));
        assert!(!role.take(), "he has it");
        assert!(!role.unpark(|caller| *caller == 1), "he is to give it back");
        assert_eq!(role.release(true, now), AfterRelease::PassTo(3));
        assert_eq!(role.release(true, now), AfterRelease::Watch);
    }

    #[test]
    fn parked_callers_stay_while_the_reactor_reads() {
        let mut role = Role::new(LAZINESS);
        assert!(role.take());
        role.park(1);
        role.hand_off();
        assert!(role.take_for_reactor());
        role.give_back();
        assert_eq!(role.parked(), 1);
        assert!(role.unpark(|caller| *caller == 1));
    }

    #[test]
    fn first_release_has_the_socket_watched_and_the_next_tells_once() {
        let (mut role, now) = lazy();
        assert_eq!(role.deadline(), Some(now + LAZINESS));
        for _ in 0..3 {
            assert!(role.take());
            assert_eq!(role.release(false, now), AfterRelease::Nothing);
        }
    }

    #[test]
    fn release_is_not_lazy_if_answers_are_awaited_or_calls_are_rare() {
        let (mut role, now) = lazy();
        assert!(role.take());
        assert_eq!(role.release(true, now), AfterRelease::Watch);
        role.set_watched(true);
        for (pause, after) in [
            (DENSE, AfterRelease::Watch),
            (DENSE - Duration::from_nanos(1), AfterRelease::ScheduleLook),
        ] {
            let before = role.released.expect("it was given back");
            assert!(role.take());
            role.set_watched(false);
            assert_eq!(role.release(false, before + pause), after);
        }

        let mut eager = Role::<u8>::new(Duration::ZERO);
        for _ in 0..3 {
            assert!(eager.take());
            assert_eq!(eager.release(false, now), AfterRelease::Watch);
        }
    }

    #[test]
    fn calls_may_be_as_far_apart_as_looks_while_the_reactor_looks() {
        let (mut role, now) = lazy();
        assert!(role.take());
        let later = now + LAZINESS - Duration::from_nanos(1);
        assert_eq!(role.release(false, later), AfterRelease::Nothing);
        assert!(role.take());
        assert_eq!(role.release(false, later + LAZINESS), AfterRelease::Watch);
    }

    #[test]
    fn look_watches_when_it_was_quiet_for_so_long() {
        let (mut role, now) = lazy();
        let almost = now + LAZINESS - Duration::from_nanos(1);
        assert!(!role.look(false, almost), "it is not time");
        assert!(role.look(false, now + LAZINESS));
        role.set_watched(true);
        assert_eq!(role.deadline(), None);
    }

    #[test]
    fn look_comes_again_while_calls_are_made() {
        let (mut role, now) = lazy();
        assert!(role.take());
        let later = now + DENSE / 2;
        assert_eq!(role.release(false, later), AfterRelease::Nothing);
        assert!(!role.look(false, now + LAZINESS));
        assert_eq!(role.deadline(), Some(later + LAZINESS));
        assert!(role.take(), "he reads now");
        let then = later + LAZINESS;
        assert!(!role.look(false, then));
        assert_eq!(role.deadline(), Some(then + LAZINESS));
    }

    #[test]
    fn socket_is_unwatched_for_no_longer_than_the_laziness_after_the_last_call() {
        let (mut role, now) = lazy();
        assert!(role.take());
        let last = now + LAZINESS - Duration::from_nanos(1);
        assert_eq!(role.release(false, last), AfterRelease::Nothing);
        assert!(!role.look(false, now + LAZINESS));
        assert!(role.look(false, last + LAZINESS));
    }

    #[test]
    fn look_ceases_while_one_caller_takes_long_and_he_tells_again() {
        let (mut role, now) = lazy();
        assert!(role.take());
        for looks in 1..=2 {
            assert!(!role.look(false, now + looks * LAZINESS));
        }
        assert_eq!(role.deadline(), None);
        assert_eq!(role.release(false, now + 3 * LAZINESS), AfterRelease::Watch);
    }

    #[test]
    fn laziness_may_be_without_end() {
        let (mut role, now) = (Role::<u8>::new(Duration::MAX), Instant::now());
        for after in [
            AfterRelease::Watch,
            AfterRelease::ScheduleLook,
            AfterRelease::Nothing,
        ] {
            assert!(role.take());
            role.set_watched(false);
            assert_eq!(role.release(false, now), after);
        }
        assert!(!role.look(false, now + Duration::from_secs(3600)));
    }

    #[test]
    fn look_at_once_watches_unless_somebody_reads() {
        let (mut role, now) = lazy();
        assert!(role.look(true, now));
        let (mut role, now) = lazy();
        assert!(role.take());
        assert!(!role.look(true, now));
    }
}

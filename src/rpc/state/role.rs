//! Which thread reads from the child: the reader's role. Pure: it decides, others read.
//!
//! A caller that waits for an answer reads the socket itself instead of having the reactor do it: on
//! one processor a call then costs half. What it finds that is not an answer to a waiting caller (an
//! event, an answer for a callback) it leaves to the reactor, together with the role, so that
//! callbacks run on the reactor's thread only, in order.
//!
//! ```text
//!             take()                          take_for_reactor()
//!   Caller ◀────────── Nobody: the reactor ──────────────────────▶ Reactor
//!      │                watches, or checks                            │
//!      │ release() ───▶ periodically         ◀─── give_back() ────────┘
//!      │ hand_off() ──▶ Nobody, and only the reactor may take it
//!      └ release(), with another caller parked: that one has the role now
//! ```
//!
//! Having the reactor watch the socket and stop again costs two system calls for every call. So a
//! caller that gives the role back soon after the last time leaves the socket unwatched. The reactor
//! is notified once, and from then on checks periodically whether that is still right: it watches
//! again when no call was made for [`Role::rewatch_delay`].
//!
//! Invariant: when nobody has the role and somebody waits, the socket is watched, or the reactor has
//! been asked to check.

#[cfg(test)]
mod model;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A caller leaves the socket unwatched if it gives the role back within this time after the last
/// time: the cost of a check, some 20 µs, is shared by the calls in between, which save 1.6 µs each.
const DENSE: Duration = Duration::from_micros(30);
/// The longest delay: a longer one would make no difference, and moments must not overflow.
const LONGEST_DELAY: Duration = Duration::from_secs(24 * 60 * 60);

/// See the module's documentation. `W` is a caller that waits.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
pub(crate) struct Role<W> {
    holder: Holder,
    /// Only the reactor may take it, and has been asked to.
    handed_off: bool,
    /// Whether the reactor watches the socket.
    watched: bool,
    /// Callers that wait for their answers without having the role, in order.
    parked: VecDeque<W>,
    /// How long after the last call an unwatched socket is watched again. Zero: it is always watched.
    rewatch_delay: Duration,
    /// When the role was given back last.
    released: Option<Instant>,
    /// When the reactor checks next, and how many times callers had taken the role at its last check.
    next_check: Option<(Instant, u64)>,
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
    /// This caller has the role now.
    PassTo(W),
    /// The reactor is to watch the socket.
    Watch,
    /// The reactor is to be asked to check periodically.
    ScheduleCheck,
    /// Nothing.
    Nothing,
}

impl<W> Role<W> {
    pub(crate) fn new(rewatch_delay: Duration) -> Self {
        Role {
            holder: Holder::Nobody,
            handed_off: false,
            watched: false,
            parked: VecDeque::new(),
            rewatch_delay: rewatch_delay.min(LONGEST_DELAY),
            released: None,
            next_check: None,
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

    /// A parked caller has its answer, or waits no longer. Returns false if it is not parked: then it
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
        // While the reactor checks anyway, calls may be as far apart as its checks: notifying it takes
        // longer than a call, and must not make the next one seem late.
        let limit = match self.next_check {
            Some(_) => self.rewatch_delay,
            None => DENSE.min(self.rewatch_delay),
        };
        let dense = self.released.is_some_and(|last| now < last + limit);
        self.released = Some(now);
        if outstanding || !dense {
            return AfterRelease::Watch;
        }
        if self.next_check.is_some() || self.watched {
            return AfterRelease::Nothing;
        }
        self.next_check = Some((now + self.rewatch_delay, self.taken));
        AfterRelease::ScheduleCheck
    }

    /// A caller found something for the reactor, which is to be notified.
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

    /// The reactor has read what there was. It is to watch the socket for all that wait.
    pub(crate) fn give_back(&mut self) {
        debug_assert_eq!(self.holder, Holder::Reactor);
        self.holder = Holder::Nobody;
    }

    /// Whether something was left to the reactor.
    pub(crate) fn is_handed_off(&self) -> bool {
        self.handed_off
    }

    /// Checks whether the socket is to be watched again. It must not stay unwatched if `immediately`.
    pub(crate) fn check(&mut self, immediately: bool, now: Instant) -> bool {
        let due = self.next_check.is_some_and(|(at, _)| at <= now);
        if !due && !immediately {
            return false;
        }
        let (_, taken) = self.next_check.take().unwrap_or((now, 0));
        if self.holder != Holder::Nobody {
            // If it is still the same caller, it may take long. It notifies the reactor again when it is done.
            if due && self.taken != taken {
                self.next_check = Some((now + self.rewatch_delay, self.taken));
            }
            return false;
        }
        let quiet_at = self.released.map_or(now, |last| last + self.rewatch_delay);
        if immediately || quiet_at <= now {
            return true;
        }
        self.next_check = Some((quiet_at, self.taken));
        false
    }

    /// When to [`check`](Role::check) next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next_check.map(|(at, _)| at)
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

    /// Whether a caller has the role.
    pub(crate) fn is_with_a_caller(&self) -> bool {
        self.holder == Holder::Caller
    }

    /// Whether nobody reads the socket or watches it, and the reactor only checks periodically.
    pub(crate) fn is_unattended(&self) -> bool {
        self.holder == Holder::Nobody && !self.handed_off && !self.watched
    }

    /// Whether the reactor watches the socket from now on.
    pub(crate) fn set_watched(&mut self, watched: bool) {
        self.watched = watched;
        if watched {
            self.next_check = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_micros(500);

    /// A role whose socket was left unwatched at that time.
    fn unwatched() -> (Role<u8>, Instant) {
        let (mut role, now) = (Role::new(DELAY), Instant::now());
        for after in [AfterRelease::Watch, AfterRelease::ScheduleCheck] {
            assert!(role.take());
            role.set_watched(false);
            assert_eq!(role.release(false, now), after);
            role.set_watched(after == AfterRelease::Watch);
        }
        (role, now)
    }

    #[test]
    fn role_has_one_holder() {
        let mut role = Role::<u8>::new(DELAY);
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
        let mut role = Role::<u8>::new(DELAY);
        assert!(role.take() && !role.is_handed_off());
        role.hand_off();
        assert!(role.is_handed_off() && !role.take());
        assert!(role.take_for_reactor() && !role.is_handed_off());
        role.give_back();
        assert!(role.take());
    }

    #[test]
    fn released_role_goes_to_the_parked_in_order() {
        let (mut role, now) = (Role::new(DELAY), Instant::now());
        assert!(role.take());
        (1..=3).for_each(|caller| role.park(caller));
        assert!(role.unpark(|caller| *caller == 2));
        assert_eq!(role.parked(), 2);
        assert_eq!(role.release(true, now), AfterRelease::PassTo(1));
        assert!(!role.take(), "the first one has it");
        assert!(
            !role.unpark(|caller| *caller == 1),
            "it has to give it back"
        );
        assert_eq!(role.release(true, now), AfterRelease::PassTo(3));
        assert_eq!(role.release(true, now), AfterRelease::Watch);
    }

    #[test]
    fn parked_callers_stay_while_the_reactor_reads() {
        let mut role = Role::new(DELAY);
        assert!(role.take());
        role.park(1);
        role.hand_off();
        assert!(role.take_for_reactor());
        role.give_back();
        assert_eq!(role.parked(), 1);
        assert!(role.unpark(|caller| *caller == 1));
    }

    #[test]
    fn first_release_has_the_socket_watched_and_the_next_schedules_a_check_once() {
        let (mut role, now) = unwatched();
        assert_eq!(role.deadline(), Some(now + DELAY));
        for _ in 0..3 {
            assert!(role.take());
            assert_eq!(role.release(false, now), AfterRelease::Nothing);
        }
    }

    #[test]
    fn socket_is_watched_if_answers_are_awaited_or_calls_are_rare() {
        let (mut role, now) = unwatched();
        assert!(role.take());
        assert_eq!(role.release(true, now), AfterRelease::Watch);
        role.set_watched(true);
        for (pause, after) in [
            (DENSE, AfterRelease::Watch),
            (DENSE - Duration::from_nanos(1), AfterRelease::ScheduleCheck),
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
    fn calls_may_be_as_far_apart_as_checks_while_the_reactor_checks() {
        let (mut role, now) = unwatched();
        assert!(role.take());
        let later = now + DELAY - Duration::from_nanos(1);
        assert_eq!(role.release(false, later), AfterRelease::Nothing);
        assert!(role.take());
        assert_eq!(role.release(false, later + DELAY), AfterRelease::Watch);
    }

    #[test]
    fn check_watches_when_no_call_was_made_for_the_delay() {
        let (mut role, now) = unwatched();
        let almost = now + DELAY - Duration::from_nanos(1);
        assert!(!role.check(false, almost), "it is not time");
        assert!(role.check(false, now + DELAY));
        role.set_watched(true);
        assert_eq!(role.deadline(), None);
    }

    #[test]
    fn check_is_repeated_while_calls_are_made() {
        let (mut role, now) = unwatched();
        assert!(role.take());
        let later = now + DENSE / 2;
        assert_eq!(role.release(false, later), AfterRelease::Nothing);
        assert!(!role.check(false, now + DELAY));
        assert_eq!(role.deadline(), Some(later + DELAY));
        assert!(role.take(), "a caller reads now");
        let then = later + DELAY;
        assert!(!role.check(false, then));
        assert_eq!(role.deadline(), Some(then + DELAY));
    }

    #[test]
    fn socket_is_unwatched_for_no_longer_than_the_delay_after_the_last_call() {
        let (mut role, now) = unwatched();
        assert!(role.take());
        let last = now + DELAY - Duration::from_nanos(1);
        assert_eq!(role.release(false, last), AfterRelease::Nothing);
        assert!(!role.check(false, now + DELAY));
        assert!(role.check(false, last + DELAY));
    }

    #[test]
    fn checks_cease_while_one_caller_takes_long_and_it_schedules_them_again() {
        let (mut role, now) = unwatched();
        assert!(role.take());
        for checks in 1..=2 {
            assert!(!role.check(false, now + checks * DELAY));
        }
        assert_eq!(role.deadline(), None);
        assert_eq!(role.release(false, now + 3 * DELAY), AfterRelease::Watch);
    }

    #[test]
    fn delay_may_be_infinite() {
        let (mut role, now) = (Role::<u8>::new(Duration::MAX), Instant::now());
        for after in [
            AfterRelease::Watch,
            AfterRelease::ScheduleCheck,
            AfterRelease::Nothing,
        ] {
            assert!(role.take());
            role.set_watched(false);
            assert_eq!(role.release(false, now), after);
        }
        assert!(!role.check(false, now + Duration::from_secs(3600)));
    }

    #[test]
    fn immediate_check_watches_unless_somebody_reads() {
        let (mut role, now) = unwatched();
        assert!(role.check(true, now));
        let (mut role, now) = unwatched();
        assert!(role.take());
        assert!(!role.check(true, now));
    }
}

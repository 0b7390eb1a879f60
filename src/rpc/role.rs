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
pub(crate) enum After<W> {
    /// This caller has it now.
    Give(W),
    /// The reactor is to watch the socket.
    Watch,
    /// The reactor is to be told to look now and then.
    Tell,
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
            laziness,
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
    pub(crate) fn unpark(&mut self, is_he: impl Fn(&W) -> bool) -> bool {
        match self.parked.iter().position(is_he) {
            Some(at) => self.parked.remove(at).is_some(),
            None => false,
        }
    }

    /// A caller gives the role back. `outstanding` says whether answers are awaited by others than
    /// parked callers.
    pub(crate) fn release(&mut self, outstanding: bool, now: Instant) -> After<W> {
        debug_assert_eq!(self.holder, Holder::Caller);
        if let Some(next) = self.parked.pop_front() {
            self.taken += 1;
            return After::Give(next);
        }
        self.holder = Holder::Nobody;
        // Once the reactor looks anyway, calls may be as far apart as its looks: to tell it takes longer
        // than a call, and must not make the next one seem late.
        let limit = match self.look {
            Some(_) => self.laziness,
            None => DENSE.min(self.laziness),
        };
        let dense = |last: Instant| now.saturating_duration_since(last) < limit;
        let dense = self.released.is_some_and(dense);
        self.released = Some(now);
        if outstanding || !dense {
            return After::Watch;
        }
        if self.look.is_some() || self.watched {
            return After::Nothing;
        }
        self.look = Some((now + self.laziness, self.taken));
        After::Tell
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
        let quiet = self
            .released
            .map(|last| now.saturating_duration_since(last));
        if at_once || quiet.is_none_or(|quiet| quiet >= self.laziness) {
            return true;
        }
        self.look = Some((now + self.laziness, self.taken));
        false
    }

    /// When to [`look`](Role::look) next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.look.map(|(at, _)| at)
    }

    /// How many callers are parked.
    pub(crate) fn parked(&self) -> usize {
        self.parked.len()
    }

    // ---- both ----

    /// Whether the reactor watches the socket.
    pub(crate) fn is_watched(&self) -> bool {
        self.watched
    }

    /// Whether it should: nobody else reads it.
    pub(crate) fn set_watched(&mut self, watched: bool) {
        self.watched = watched;
        if watched {
            self.look = None;
        }
    }
}

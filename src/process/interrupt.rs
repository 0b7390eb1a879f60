//! Ending the wait for a template from another thread.

use crate::deadlines::after;
use crate::error::Error;
use crate::unwind;
use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a start waits for the copy of a template, from when this was made.
#[derive(Debug, Clone)]
pub(crate) struct CopyWait {
    pub(crate) timeout: Duration,
    pub(crate) until: Option<Instant>,
    /// What ends it before that, if anything may.
    pub(crate) interrupt: Option<Arc<Interrupt>>,
}

impl CopyWait {
    pub(crate) fn new(timeout: Duration, interrupt: Option<Arc<Interrupt>>) -> Self {
        CopyWait {
            timeout,
            until: after(Instant::now(), timeout),
            interrupt,
        }
    }

    /// Why it was ended before its time, if it was.
    pub(crate) fn interrupted(&self) -> Option<Error> {
        self.interrupt.as_ref()?.error()
    }
}

/// Ends a wait, once, now or later.
#[derive(Default)]
pub(crate) struct Interrupt(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Idle,
    Waiting(Box<dyn FnOnce(Error) + Send>),
    Interrupted(Error),
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupt").finish_non_exhaustive()
    }
}

impl Interrupt {
    /// Ends the wait that there is, or the next one, with this error.
    pub(crate) fn interrupt(&self, error: Error) {
        let before = mem::replace(
            &mut *unwind::lock(&self.0),
            State::Interrupted(error.clone()),
        );
        if let State::Waiting(end) = before {
            end(error);
        }
    }

    /// With what it has ended a wait, or would end the next.
    fn error(&self) -> Option<Error> {
        match &*unwind::lock(&self.0) {
            State::Interrupted(error) => Some(error.clone()),
            State::Idle | State::Waiting(_) => None,
        }
    }

    /// A wait begins, which `end` ends. It is forgotten when the next one begins.
    pub(crate) fn wait(&self, end: impl FnOnce(Error) + Send + 'static) {
        let mut state = unwind::lock(&self.0);
        match &*state {
            State::Interrupted(error) => {
                let error = error.clone();
                drop(state);
                end(error);
            }
            State::Idle | State::Waiting(_) => *state = State::Waiting(Box::new(end)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::sync::mpsc;

    #[test]
    fn last_wait_is_ended_and_all_that_begin_later() {
        let interrupt = Interrupt::default();
        let (send, ends) = mpsc::channel();
        let wait = |name| {
            let send = send.clone();
            interrupt.wait(move |error| send.send((name, error.kind())).unwrap());
        };
        wait("first");
        wait("second");
        assert!(interrupt.error().is_none());
        interrupt.interrupt(Error::new(ErrorKind::Killed, "it was killed"));
        assert!(interrupt.error().is_some());
        wait("third");
        let all: Vec<_> = ends.try_iter().collect();
        assert_eq!(
            all,
            ["second", "third"].map(|name| (name, ErrorKind::Killed))
        );
    }
}

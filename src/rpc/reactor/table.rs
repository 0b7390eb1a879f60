//! The handlers that a reactor serves, and their deadlines.

use super::handler::EventHandler;
use crate::deadlines::Deadlines;
use crate::error::{Error, ErrorKind};
use crate::id_map::IdMap;
use crate::rpc::callback::guard;
use crate::unwind;
use std::time::Instant;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct HandlerTable {
    handlers: IdMap<Box<dyn EventHandler>>,
    deadlines: Deadlines,
}

impl std::fmt::Debug for HandlerTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandlerTable").finish_non_exhaustive()
    }
}

impl HandlerTable {
    /// Adds a handler.
    pub(super) fn insert(&mut self, handler: Box<dyn EventHandler>) {
        let key = handler.key() as u64;
        if let Some(deadline) = handler.deadline() {
            self.deadlines.set(key, deadline);
        }
        self.handlers.insert(key, handler);
    }

    /// Lets a handler work, if it is still there, and notes its next deadline. A handler that panics
    /// ends with an error, and the others are none the wiser.
    pub(super) fn with(&mut self, key: usize, work: impl FnOnce(&mut dyn EventHandler)) {
        let Some(handler) = self.handlers.get_mut(key as u64) else {
            return;
        };
        let before = handler.deadline();
        if unwind::catch(|| work(&mut **handler)).is_none() {
            return self.fail(key, &panicked());
        }
        let over = handler.is_over();
        let after = handler.deadline().filter(|_| !over);
        if before != after {
            match after {
                Some(after) => self.deadlines.set(key as u64, after),
                None => self.deadlines.remove(key as u64),
            }
        }
        if over {
            self.remove(key);
        }
    }

    /// Ends all handlers with this error.
    pub(super) fn fail_all(&mut self, error: &Error) {
        for key in self.keys() {
            self.fail(key, error);
        }
    }

    fn fail(&mut self, key: usize, error: &Error) {
        if let Some(handler) = self.handlers.get_mut(key as u64) {
            guard(|| handler.fail(error.clone()));
        }
        self.deadlines.remove(key as u64);
        self.remove(key);
    }

    fn remove(&mut self, key: usize) {
        let handler = self.handlers.remove(key as u64);
        guard(|| drop(handler));
        self.handlers.trim();
        self.deadlines.trim();
    }

    /// Attends to all handlers whose deadline has passed.
    pub(super) fn attend_due(&mut self, now: Instant) {
        while let Some((deadline, key)) = self.deadlines.first()
            && deadline <= now
        {
            self.with(key as usize, |handler| handler.attend(now));
        }
    }

    /// The first deadline.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| deadline)
    }

    /// The keys of all handlers.
    pub(super) fn keys(&self) -> Vec<usize> {
        self.handlers.iter().map(|(key, _)| key as usize).collect()
    }

    /// Whether there are no handlers.
    pub(super) fn is_empty(&self) -> bool {
        self.handlers.is_empty()
    }
}

/// The error of a handler that has panicked.
pub(super) fn panicked() -> Error {
    let message =
        "the reactor has panicked, which is a bug in `offspring`: see the panic's message";
    Error::new(ErrorKind::Io, message)
}

#[cfg(test)]
mod tests {
    use super::super::handler::Source;
    use super::*;
    use polling::Event;
    use std::sync::mpsc;
    use std::time::Duration;

    /// Has these deadlines one after the other, and is over after the last.
    struct Alarm {
        key: usize,
        deadlines: Vec<Instant>,
        attended: mpsc::Sender<usize>,
    }

    impl EventHandler for Alarm {
        fn key(&self) -> usize {
            self.key
        }

        fn deadline(&self) -> Option<Instant> {
            self.deadlines.first().copied()
        }

        fn is_over(&self) -> bool {
            self.deadlines.is_empty()
        }

        fn ready(&mut self, _: Source, _: Event, _: Instant) {}

        fn attend(&mut self, _: Instant) {
            self.attended.send(self.key).unwrap();
            self.deadlines.remove(0);
        }

        fn resume(&mut self, _: Instant) {}

        fn fail(&mut self, _: Error) {
            unreachable!("it does not panic")
        }
    }

    /// Panics in whatever it does, but tells that it was ended.
    struct Broken(usize, mpsc::Sender<String>);

    impl EventHandler for Broken {
        fn key(&self) -> usize {
            self.0
        }

        fn deadline(&self) -> Option<Instant> {
            None
        }

        fn is_over(&self) -> bool {
            false
        }

        fn ready(&mut self, _: Source, _: Event, _: Instant) {
            panic!("ready");
        }

        fn attend(&mut self, _: Instant) {
            panic!("attend");
        }

        fn resume(&mut self, _: Instant) {
            panic!("resume");
        }

        fn fail(&mut self, error: Error) {
            self.1.send(format!("{} {error}", self.0)).unwrap();
            panic!("fail");
        }
    }

    impl Drop for Broken {
        fn drop(&mut self) {
            panic!("drop");
        }
    }

    #[test]
    fn handler_that_panics_is_ended_and_dropped_and_the_others_stay() {
        let now = Instant::now();
        let (sender, failed) = mpsc::channel();
        let mut table = HandlerTable::default();
        for key in 1..=4 {
            table.insert(Box::new(Broken(key, sender.clone())));
        }
        table.with(2, |handler| handler.attend(now));
        assert!(
            failed
                .try_recv()
                .unwrap()
                .starts_with("2 the reactor has panicked")
        );
        let mut left = table.keys();
        left.sort_unstable();
        assert_eq!(left, [1, 3, 4]);
        table.fail_all(&Error::new(ErrorKind::Io, "all of them"));
        assert!(table.is_empty());
        drop(sender);
        let mut failed: Vec<_> = failed.iter().collect();
        failed.sort();
        assert_eq!(failed, [1, 3, 4].map(|key| format!("{key} all of them")));
    }

    #[test]
    fn handlers_are_attended_to_when_due_and_dropped_when_over() {
        let now = Instant::now();
        let at = |n: u32| now + n * Duration::from_secs(1);
        let (sender, attended) = mpsc::channel();
        let mut table = HandlerTable::default();
        for (key, deadlines) in [(1, vec![at(3), at(6)]), (2, vec![at(0), at(1), at(5)])] {
            let attended = sender.clone();
            table.insert(Box::new(Alarm {
                key,
                deadlines,
                attended,
            }));
        }
        drop(sender);
        assert_eq!((table.keys().len(), table.deadline()), (2, Some(at(0))));
        table.attend_due(at(2));
        assert_eq!(attended.try_iter().collect::<Vec<_>>(), [2, 2]);
        assert_eq!(table.deadline(), Some(at(3)));
        table.attend_due(at(5));
        assert_eq!(attended.try_iter().collect::<Vec<_>>(), [1, 2]);
        assert_eq!((table.keys(), table.deadline()), (vec![1], Some(at(6))));
        table.with(2, |_| unreachable!("it is over"));
        table.attend_due(at(6));
        assert_eq!(attended.iter().collect::<Vec<_>>(), [1]);
        assert!(table.is_empty() && table.deadline().is_none());
    }
}

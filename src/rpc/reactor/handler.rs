//! What a reactor serves.

use crate::error::Error;
use polling::Event;
use std::time::Instant;

/// Something with descriptors and a deadline. Its methods run on the reactor's thread, one at a
/// time, and must not block.
pub(crate) trait EventHandler: Send {
    /// Its key at the reactor.
    fn key(&self) -> usize;

    /// When to [`attend`](EventHandler::attend) to it, if nothing happens before.
    fn deadline(&self) -> Option<Instant>;

    /// Whether it is finished. The reactor then drops it.
    fn is_over(&self) -> bool;

    /// One of its descriptors is ready.
    fn ready(&mut self, source: Source, event: Event, now: Instant);

    /// Its deadline has passed, or another thread has asked for attention.
    fn attend(&mut self, now: Instant);

    /// Another thread serves it from now on, and may be late: what happened meanwhile is handled.
    fn resume(&mut self, now: Instant);

    /// Ends it with this error, whatever state it is in: it cannot be served any more.
    fn fail(&mut self, error: Error);
}

/// Which of a handler's descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Socket,
    Process,
    Stdout,
    Stderr,
}

const SOURCES: [Source; 4] = [
    Source::Socket,
    Source::Process,
    Source::Stdout,
    Source::Stderr,
];

/// The key under which the poller reports a descriptor of a handler.
pub(crate) fn poll_key(handler: usize, source: Source) -> usize {
    handler * SOURCES.len() + source as usize
}

/// The handler and the descriptor of a key of the poller.
pub(super) fn parse_poll_key(key: usize) -> (usize, Source) {
    (key / SOURCES.len(), SOURCES[key % SOURCES.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poll_keys_are_unique_and_parsed() {
        let mut last = 0;
        for handler in 1..100 {
            for source in SOURCES {
                let key = poll_key(handler, source);
                assert!(key > last);
                assert_eq!(parse_poll_key(key), (handler, source));
                last = key;
            }
        }
    }
}

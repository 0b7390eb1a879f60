//! What the flusher does next. Pure.

use crate::wire::Writer;

/// The thread that writes what is to be written soon.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flusher {
    #[default]
    NotStarted,
    /// It checks for output every tick.
    Running,
    /// It must be woken.
    Asleep,
}

/// What the flusher does before it pauses for a tick and decides again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlusherStep {
    /// There is nothing to write: sleep until woken, and then write.
    Sleep,
    /// Another thread writes, and takes along what is added meanwhile. That rarely takes a tick.
    Pause,
    /// It did a tick ago, too: wait until it is done, which takes as long as the parent does not read.
    WaitForWriter,
    Write,
}

impl FlusherStep {
    /// The step after this one.
    pub(super) fn next(self, writer: &Writer) -> Self {
        if writer.unsent() == 0 || writer.is_closed() {
            FlusherStep::Sleep
        } else if writer.is_writing() {
            match self {
                FlusherStep::Pause => FlusherStep::WaitForWriter,
                _ => FlusherStep::Pause,
            }
        } else {
            FlusherStep::Write
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Body, Framing, header};
    use std::io;

    fn push(writer: &mut Writer) {
        let header = header(Framing::Tagged, 1, 0);
        writer.outbox_mut().push(header, &mut Body::default());
    }

    /// The steps of a flusher that finds the writer like this tick after tick.
    fn steps(writer: &Writer) -> [FlusherStep; 3] {
        let first = FlusherStep::Write.next(writer);
        let second = first.next(writer);
        [first, second, second.next(writer)]
    }

    #[test]
    fn sleeps_when_there_is_nothing_to_write() {
        assert_eq!(steps(&Writer::default()), [FlusherStep::Sleep; 3]);
    }

    #[test]
    fn writes_what_nobody_else_does() {
        let mut writer = Writer::default();
        push(&mut writer);
        assert_eq!(steps(&writer), [FlusherStep::Write; 3]);
        let batch = writer.begin(9).unwrap();
        writer.end(batch, Err(io::ErrorKind::WouldBlock.into()));
        // The other thread did not want to wait for room.
        assert_eq!(steps(&writer), [FlusherStep::Write; 3]);
    }

    #[test]
    fn waits_for_a_thread_that_still_writes_after_a_tick() {
        let mut writer = Writer::default();
        push(&mut writer);
        let batch = writer.begin(9).unwrap();
        let (pause, wait) = (FlusherStep::Pause, FlusherStep::WaitForWriter);
        assert_eq!(steps(&writer), [pause, wait, pause]);
        push(&mut writer);
        assert_eq!(steps(&writer), [pause, wait, pause]);
        writer.end(batch, Ok(8));
        for step in [pause, wait] {
            assert_eq!(step.next(&writer), FlusherStep::Write);
        }
    }

    #[test]
    fn sleeps_when_nothing_can_be_written_any_more() {
        let mut writer = Writer::default();
        push(&mut writer);
        let batch = writer.begin(9).unwrap();
        writer.close();
        assert_eq!(steps(&writer), [FlusherStep::Sleep; 3]);
        writer.end(batch, Ok(1));
        assert_eq!(steps(&writer), [FlusherStep::Sleep; 3]);
    }
}

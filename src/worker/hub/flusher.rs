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

/// What the flusher does, before it pauses and decides again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlusherStep {
    /// There is nothing to write: sleep until woken, and then write.
    Sleep,
    /// Another thread writes, and takes along what comes meanwhile: wait until it is done, which takes
    /// as long as the parent does not read.
    WaitForWriter,
    Write,
}

impl FlusherStep {
    pub(super) fn next(writer: &Writer) -> Self {
        if writer.unsent() == 0 || writer.is_closed() {
            FlusherStep::Sleep
        } else if writer.is_writing() {
            FlusherStep::WaitForWriter
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

    #[test]
    fn sleeps_when_there_is_nothing_to_write() {
        assert_eq!(FlusherStep::next(&Writer::default()), FlusherStep::Sleep);
    }

    #[test]
    fn writes_what_nobody_else_does() {
        let mut writer = Writer::default();
        push(&mut writer);
        assert_eq!(FlusherStep::next(&writer), FlusherStep::Write);
        let batch = writer.begin(9).unwrap();
        writer.end(batch, Err(io::ErrorKind::WouldBlock.into()));
        // The other thread did not want to wait for room.
        assert_eq!(FlusherStep::next(&writer), FlusherStep::Write);
    }

    #[test]
    fn waits_for_a_thread_that_writes() {
        let mut writer = Writer::default();
        push(&mut writer);
        let batch = writer.begin(9).unwrap();
        assert_eq!(FlusherStep::next(&writer), FlusherStep::WaitForWriter);
        push(&mut writer);
        assert_eq!(FlusherStep::next(&writer), FlusherStep::WaitForWriter);
        writer.end(batch, Ok(8));
        assert_eq!(FlusherStep::next(&writer), FlusherStep::Write);
    }

    #[test]
    fn sleeps_when_nothing_can_be_written_any_more() {
        let mut writer = Writer::default();
        push(&mut writer);
        let batch = writer.begin(9).unwrap();
        writer.close();
        assert_eq!(FlusherStep::next(&writer), FlusherStep::Sleep);
        writer.end(batch, Ok(1));
        assert_eq!(FlusherStep::next(&writer), FlusherStep::Sleep);
    }
}

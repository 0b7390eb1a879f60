//! The writing end of a stream that several threads write to. Pure: it decides which thread writes
//! what, and performs no I/O.
//!
//! ```text
//!            begin()              end()
//!   Idle ────────────▶ Writing ──────────▶ Idle, blocked, failed
//!                 close(), from any of them: nothing is written any more
//! ```
//!
//! One thread writes at a time. It takes a batch under the lock that guards this, writes it without
//! the lock, and gives back what is left of it:
//!
//! ```text
//!   while let Some(batch) = lock.writer.begin(LIMIT) {
//!       unlock; let result = write(&batch); lock;
//!       lock.writer.end(batch, result);
//!   }
//! ```
//!
//! Frames that other threads append meanwhile are in the next batch of the same loop, so they need
//! not wait for their turn.

use super::{Batch, Outbox};
use crate::sys;
use std::io;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Writer {
    /// Whole frames.
    outbox: Outbox,
    /// What was taken from the outbox and is not yet written. `None` while a thread writes it.
    batch: Option<Box<Batch>>,
    /// The number of bytes in the batch, as of the last count.
    in_batch: usize,
    state: State,
    /// How often in a row it was crowded.
    crowded: u32,
    /// Whether a batch has requested that the socket be widened.
    is_wide: bool,
}

/// How often descriptors are to be sent again, of which too many are on their way, before they are lost.
const CROWDED: u32 = 500;

/// Whether batches may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The last write would have blocked.
    Blocked,
    /// Too many descriptors are on their way to other processes for those of the batch.
    Crowded,
    /// A write failed: the other side no longer reads.
    Failed,
    Closed,
}

impl Default for Writer {
    fn default() -> Self {
        Writer {
            outbox: Outbox::default(),
            batch: Some(Box::default()),
            in_batch: 0,
            state: State::Open,
            crowded: 0,
            is_wide: false,
        }
    }
}

impl Writer {
    /// The frames that no thread has taken yet.
    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// As [`outbox`](Writer::outbox), to append and withdraw frames.
    pub(crate) fn outbox_mut(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Begins to write: about `limit` bytes, or what was left of the last batch. `None` if there is
    /// nothing to write, another thread writes, or nothing may be written now.
    ///
    /// The batch must be given back to [`end`](Writer::end).
    #[inline]
    pub(crate) fn begin(&mut self, limit: usize) -> Option<Box<Batch>> {
        if self.state != State::Open {
            return None;
        }
        let batch = self.batch.as_mut()?;
        if batch.is_empty() {
            let before = self.outbox.queued();
            if before == 0 {
                return None;
            }
            self.outbox.take(limit, batch);
            self.in_batch = (before - self.outbox.queued()) as usize;
            if batch.has_large() && !self.is_wide {
                self.is_wide = true;
                batch.widen();
            }
        }
        self.batch.take()
    }

    /// Ends a write, given its result.
    #[inline]
    pub(crate) fn end(&mut self, mut batch: Box<Batch>, result: io::Result<usize>) {
        debug_assert!(self.batch.is_none(), "a batch is given back once");
        match result {
            Ok(n) => {
                if !batch.fds().is_empty() {
                    self.crowded = 0;
                }
                batch.advance(n, &mut self.outbox);
                // Zero if the rest was discarded meanwhile.
                self.in_batch = self.in_batch.saturating_sub(n);
            }
            Err(error) => self.cannot_write(&mut batch, &error),
        }
        if self.in_batch == 0 && !batch.is_empty() {
            batch.clear();
        }
        self.batch = Some(batch);
    }

    #[cold]
    fn cannot_write(&mut self, batch: &mut Batch, error: &io::Error) {
        if self.state != State::Open {
            return;
        }
        if error.kind() == io::ErrorKind::WouldBlock {
            self.state = State::Blocked;
        } else if batch.fds().is_empty() {
            self.state = State::Failed;
        } else if sys::is_crowded(error) && self.crowded < CROWDED {
            self.crowded += 1;
            self.state = State::Crowded;
        } else {
            // It may be because of the descriptors: the next write finds out.
            let errno = error.raw_os_error().unwrap_or_default();
            batch.lose_fds(errno, &mut self.outbox);
            self.crowded = 0;
        }
    }

    /// Allows writes again after the stream was blocked.
    pub(crate) fn unblock(&mut self) {
        if self.state == State::Blocked {
            self.state = State::Open;
        }
    }

    /// Allows writes again some time after too many descriptors were on their way.
    pub(crate) fn retry(&mut self) {
        if self.state == State::Crowded {
            self.state = State::Open;
        }
    }

    /// Whether too many descriptors were on their way, and [`retry`](Writer::retry) was not called since.
    pub(crate) fn is_crowded(&self) -> bool {
        self.state == State::Crowded
    }

    /// From now on, no thread begins to write.
    pub(crate) fn close(&mut self) {
        self.state = State::Closed;
    }

    /// Discards what is not written, except for a write in progress.
    pub(crate) fn clear(&mut self) {
        self.outbox.clear();
        self.in_batch = 0;
        if let Some(batch) = &mut self.batch {
            batch.clear();
        }
    }

    /// The number of unwritten bytes, including those being written.
    pub(crate) fn unsent(&self) -> usize {
        self.outbox.queued() as usize + self.in_batch
    }

    /// Whether a thread is writing.
    pub(crate) fn is_writing(&self) -> bool {
        self.batch.is_none()
    }

    /// Whether a write would have blocked, and [`unblock`](Writer::unblock) was not called since.
    pub(crate) fn is_blocked(&self) -> bool {
        self.state == State::Blocked
    }

    /// Whether a write has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.state == State::Failed
    }

    /// Whether it was [closed](Writer::close) or a write failed, so that nothing more is written.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.state, State::Failed | State::Closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ANNOUNCING, Body, Framing, header};
    use std::fs::File;

    const LIMIT: usize = 1 << 20;

    fn push(writer: &mut Writer, payload: &[u8]) {
        let header = header(Framing::Tagged, 1, payload.len() as u32);
        let mut body = Body::default();
        body.push(payload.to_vec());
        writer.outbox_mut().push(header, &mut body);
    }

    fn with_a_frame() -> Writer {
        let mut writer = Writer::default();
        push(&mut writer, b"two");
        writer
    }

    fn blocked() -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    #[test]
    fn one_thread_writes_at_a_time_and_includes_what_is_appended_meanwhile() {
        let mut writer = Writer::default();
        assert!(writer.begin(LIMIT).is_none(), "there is nothing to write");
        push(&mut writer, b"one");
        let batch = writer.begin(LIMIT).unwrap();
        assert!(writer.is_writing() && writer.unsent() == 11);
        push(&mut writer, b"other");
        assert!(writer.begin(LIMIT).is_none(), "another thread is writing");
        assert_eq!(writer.unsent(), 11 + 13);
        writer.end(batch, Ok(11));
        assert!(!writer.is_writing() && writer.unsent() == 13);
        let batch = writer.begin(LIMIT).unwrap();
        writer.end(batch, Ok(13));
        assert!(writer.begin(LIMIT).is_none() && writer.unsent() == 0);
    }

    #[test]
    fn every_split_of_the_writes_yields_the_stream_once_and_in_order() {
        let payloads = [&b"a"[..], &[1; 20_000], b"", &[2; 70_000], b"end"];
        for most in [1, 7, 8, 9, 1000, 65_536, 100_000] {
            let (mut writer, mut want, mut got) = (Writer::default(), Vec::new(), Vec::new());
            for (n, payload) in payloads.iter().enumerate() {
                push(&mut writer, payload);
                want.extend(header(Framing::Tagged, 1, payload.len() as u32).0);
                want.extend_from_slice(payload);
                // Some are appended while others are being written, or wait to be.
                for round in 0..2 * n {
                    let Some(batch) = writer.begin(1 + n) else {
                        break;
                    };
                    let next = batch.write(|parts| parts[0].to_vec());
                    let n = next.len().min(most);
                    if round % 2 == 1 {
                        writer.end(batch, blocked());
                        writer.unblock();
                        continue;
                    }
                    got.extend_from_slice(&next[..n]);
                    writer.end(batch, Ok(n));
                    assert_eq!(writer.unsent(), want.len() - got.len());
                }
            }
            while let Some(batch) = writer.begin(LIMIT) {
                let next = batch.write(|parts| parts[0].to_vec());
                let n = next.len().min(most);
                got.extend_from_slice(&next[..n]);
                writer.end(batch, Ok(n));
            }
            assert!(got == want, "{most} bytes at a time");
            assert_eq!(writer.unsent(), 0);
        }
    }

    #[test]
    fn blocked_stream_is_written_to_when_it_is_unblocked() {
        let mut writer = with_a_frame();
        let batch = writer.begin(LIMIT).unwrap();
        writer.end(batch, blocked());
        assert!(writer.is_blocked() && !writer.is_closed() && !writer.has_failed());
        assert!(writer.begin(LIMIT).is_none());
        assert_eq!(writer.unsent(), 11);
        writer.unblock();
        let batch = writer.begin(LIMIT).unwrap();
        writer.end(batch, Ok(3));
        // What is left comes before what is appended.
        push(&mut writer, b"later");
        let batch = writer.begin(LIMIT).unwrap();
        assert_eq!(batch.write(|parts| parts[0].len()), 8);
        writer.end(batch, Ok(8));
        assert_eq!(writer.unsent(), 13);
    }

    /// A frame that carries a descriptor, behind a barrier that has been written.
    fn carrying() -> Writer {
        let mut writer = Writer::default();
        let mut body = Body::default();
        body.attach(File::open("/dev/null").unwrap().into());
        writer.outbox_mut().carry(0, &body);
        let header = header(Framing::Tagged, 1, 0);
        writer.outbox_mut().push(header, &mut body);
        while writer.unsent() > ANNOUNCING + 8 {
            let batch = writer.begin(LIMIT).unwrap();
            let len = batch.write(|parts| parts.iter().map(|part| part.len()).sum());
            writer.end(batch, Ok(len));
        }
        writer
    }

    /// The error with this number, for the descriptors that come next. Returns whether they are still there.
    fn refuse(writer: &mut Writer, errno: i32) -> bool {
        let batch = writer.begin(LIMIT).unwrap();
        assert_eq!(batch.fds().len(), 1);
        writer.end(batch, Err(io::Error::from_raw_os_error(errno)));
        let crowded = writer.is_crowded();
        assert_eq!(writer.begin(LIMIT).is_none(), crowded);
        crowded
    }

    #[test]
    fn descriptors_are_sent_again_while_too_many_are_on_their_way() {
        const EBADF: i32 = 9;
        const ETOOMANYREFS: i32 = 109;
        assert!(!refuse(&mut carrying(), EBADF));

        let mut writer = carrying();
        for n in 0..=CROWDED {
            assert_eq!(refuse(&mut writer, ETOOMANYREFS), n < CROWDED);
            writer.unblock();
            assert_eq!(writer.is_crowded(), n < CROWDED);
            writer.retry();
        }

        // In a row.
        let mut writer = carrying();
        assert!(refuse(&mut writer, ETOOMANYREFS));
        writer.retry();
        let batch = writer.begin(LIMIT).unwrap();
        writer.end(batch, Ok(1));
        assert_eq!(writer.crowded, 0);
    }

    #[test]
    fn nothing_is_written_after_a_failure_and_what_is_left_still_counts() {
        let mut writer = with_a_frame();
        let batch = writer.begin(LIMIT).unwrap();
        let start = writer.outbox().end();
        push(&mut writer, b"queued");
        writer.end(batch, Err(io::ErrorKind::BrokenPipe.into()));
        assert!(writer.has_failed() && writer.is_closed() && !writer.is_blocked());
        writer.unblock();
        assert!(writer.begin(LIMIT).is_none());
        assert!(writer.outbox().is_queued(start) && writer.unsent() == 25);
        writer.clear();
        assert_eq!(writer.unsent(), 0);
    }

    #[test]
    fn closed_writer_begins_no_batch_and_lets_the_one_in_progress_end() {
        let mut writer = with_a_frame();
        let batch = writer.begin(LIMIT).unwrap();
        push(&mut writer, b"late");
        writer.close();
        assert!(writer.is_writing() && writer.is_closed() && !writer.has_failed());
        writer.end(batch, Ok(11));
        writer.unblock();
        assert!(writer.begin(LIMIT).is_none() && writer.unsent() == 12);

        // A last write that blocks or fails does not open it again.
        let mut writer = with_a_frame();
        let batch = writer.begin(LIMIT).unwrap();
        writer.close();
        writer.end(batch, blocked());
        writer.unblock();
        assert!(writer.begin(LIMIT).is_none() && writer.is_closed());
    }

    #[test]
    fn rest_of_a_batch_that_was_discarded_meanwhile_is_not_written() {
        let mut writer = with_a_frame();
        let batch = writer.begin(LIMIT).unwrap();
        push(&mut writer, b"queued");
        writer.clear();
        assert_eq!(writer.unsent(), 0);
        push(&mut writer, b"new");
        writer.end(batch, Ok(4));
        assert_eq!(writer.unsent(), 11);
        let batch = writer.begin(LIMIT).unwrap();
        assert_eq!(batch.write(|parts| parts[0][8..].to_vec()), b"new");
        writer.end(batch, Ok(11));
        assert_eq!(writer.unsent(), 0);
    }

    #[test]
    fn first_large_payload_widens_the_socket_once() {
        let mut writer = with_a_frame();
        for (payload, widens) in [(1000, false), (100_000, true), (100_000, false)] {
            push(&mut writer, &vec![0; payload]);
            let mut widened = false;
            while let Some(mut batch) = writer.begin(usize::MAX) {
                widened |= batch.should_widen();
                assert!(!batch.should_widen(), "it is requested once");
                let n = batch.write(|parts| parts.iter().map(|part| part.len()).sum());
                writer.end(batch, Ok(n));
            }
            assert_eq!(widened, widens);
        }
    }
}

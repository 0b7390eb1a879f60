//! The bytes that are to be written, in order, until a writer takes them. Pure.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::IoSlice;

/// Small frames are gathered in chunks of this size: one chunk is one comfortable write.
const CHUNK: usize = 64 << 10;
/// A payload from this size on becomes a chunk of its own and is not copied.
const OWN_CHUNK: usize = 16 << 10;

/// The header of a frame, left-aligned, and its length.
type Header = ([u8; 8], usize);

/// An output queue from which frames can be withdrawn until they are taken.
///
/// Offsets count from the start of the stream and never change; what was withdrawn leaves a hole
/// that is cut out when the chunk around it is taken.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// What is full, or a large payload.
    chunks: VecDeque<Vec<u8>>,
    /// The last chunk, to which small frames are appended.
    open: Vec<u8>,
    /// Offset of the first chunk: everything before it was taken.
    taken: u64,
    /// Offset of the end.
    end: u64,
    /// Start and length of what was withdrawn and not taken.
    holes: BinaryHeap<Reverse<(u64, u64)>>,
    /// The sum of the holes' lengths.
    withdrawn: u64,
    /// An empty chunk, for its memory.
    spare: Vec<u8>,
}

impl Outbox {
    /// Appends a frame and returns its offset. A large payload is taken, and left empty; others are
    /// copied.
    #[inline]
    pub(crate) fn push(&mut self, header: Header, payload: &mut Vec<u8>) -> u64 {
        let (header, n) = header;
        let start = self.end;
        self.end += (n + payload.len()) as u64;
        let own = payload.len() >= OWN_CHUNK;
        let copied = n + if own { 0 } else { payload.len() };
        if self.open.len() + copied > CHUNK {
            self.close();
        }
        // Of a length that the compiler knows, where it can.
        match n {
            8 => self.open.extend_from_slice(&header),
            n => self.open.extend_from_slice(&header[..n]),
        }
        if own {
            self.close();
            self.chunks.push_back(std::mem::take(payload));
        } else {
            self.open.extend_from_slice(payload);
        }
        start
    }

    /// Begins another chunk.
    fn close(&mut self) {
        let next = std::mem::take(&mut self.spare);
        let full = std::mem::replace(&mut self.open, next);
        self.chunks.push_back(full);
    }

    /// Gives the memory of a chunk back that was written.
    pub(crate) fn recycle(&mut self, mut chunk: Vec<u8>) {
        if chunk.capacity() > CHUNK {
            return;
        }
        chunk.clear();
        if self.open.capacity() == 0 {
            self.open = chunk;
        } else {
            self.spare = chunk;
        }
    }

    /// Withdraws the frame of `len` bytes at `start`. Returns whether it will never be written:
    /// false if it was taken before.
    pub(crate) fn withdraw(&mut self, start: u64, len: u64) -> bool {
        if !self.is_queued(start) {
            return false;
        }
        self.holes.push(Reverse((start, len)));
        self.withdrawn += len;
        if self.queued() == 0 {
            self.clear();
        }
        true
    }

    /// The offset that the next frame will have.
    #[inline]
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Whether not a byte of the frame at `start` was taken.
    #[inline]
    pub(crate) fn is_queued(&self, start: u64) -> bool {
        start >= self.taken
    }

    /// Bytes that are waiting to be taken.
    #[inline]
    pub(crate) fn queued(&self) -> u64 {
        self.end - self.taken - self.withdrawn
    }

    /// Takes whole chunks into `batch`, in order, until `limit` bytes are reached or nothing is left. A frame
    /// whose header is taken is taken whole or is the last.
    pub(crate) fn take(&mut self, limit: usize, batch: &mut Batch) {
        let mut bytes = 0;
        while bytes < limit {
            let mut chunk = match self.chunks.pop_front() {
                Some(chunk) => chunk,
                None if self.open.is_empty() => break,
                None => std::mem::replace(&mut self.open, std::mem::take(&mut self.spare)),
            };
            self.cut_holes(&mut chunk);
            bytes += chunk.len();
            if !chunk.is_empty() {
                batch.chunks.push_back(chunk);
            }
        }
        if self.withdrawn > 0 && self.queued() == 0 {
            self.clear();
        }
    }

    /// Forgets everything that was not taken.
    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.open.clear();
        self.holes.clear();
        self.withdrawn = 0;
        self.taken = self.end;
    }

    /// Counts the first chunk as taken and removes the holes in it.
    fn cut_holes(&mut self, chunk: &mut Vec<u8>) {
        let start = self.taken;
        self.taken += chunk.len() as u64;
        if self
            .holes
            .peek()
            .is_none_or(|Reverse((hole, _))| *hole >= self.taken)
        {
            return;
        }
        let (mut kept, mut at) = (0, start);
        while let Some(Reverse((hole, len))) = self.holes.pop() {
            if hole >= self.taken {
                self.holes.push(Reverse((hole, len)));
                break;
            }
            let end = (hole + len).min(self.taken);
            let from = (at - start) as usize;
            let before = (hole - at) as usize;
            chunk.copy_within(from..from + before, kept);
            kept += before;
            at = end;
            self.withdrawn -= end - hole;
            if hole + len > self.taken {
                // A large payload: the rest of the hole is the next chunk.
                let rest = hole + len - self.taken;
                self.holes.push(Reverse((self.taken, rest)));
            }
        }
        let from = (at - start) as usize;
        chunk.copy_within(from.., kept);
        let rest = chunk.len() - from;
        chunk.truncate(kept + rest);
    }
}

/// The most parts of one write; Linux takes 1024.
const PARTS: usize = 64;

/// What was taken to be written.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    chunks: VecDeque<Vec<u8>>,
    /// How much of the first chunk is written.
    written: usize,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Whether it has a payload that was not copied.
    pub(crate) fn has_large(&self) -> bool {
        self.chunks.iter().any(|chunk| chunk.len() > CHUNK)
    }

    /// Gives what is next to `write`, as many parts as it may take at once.
    pub(crate) fn write<T>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        if self.chunks.len() == 1 {
            // As it mostly is, and to make room for many parts would cost more than all the rest.
            return write(&[IoSlice::new(&self.chunks[0][self.written..])]);
        }
        let mut parts = [IoSlice::new(&[]); PARTS];
        let mut count = 0;
        for (part, chunk) in parts.iter_mut().zip(&self.chunks) {
            let skip = if count == 0 { self.written } else { 0 };
            *part = IoSlice::new(&chunk[skip..]);
            count += 1;
        }
        write(&parts[..count])
    }

    /// So many bytes are written. Their memory goes back to `outbox`.
    pub(crate) fn advance(&mut self, n: usize, outbox: &mut Outbox) {
        self.written += n;
        while self
            .chunks
            .front()
            .is_some_and(|chunk| chunk.len() <= self.written)
        {
            let chunk = self.chunks.pop_front().expect("looked at above");
            self.written -= chunk.len();
            outbox.recycle(chunk);
        }
    }

    /// Forgets what is not written.
    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.written = 0;
    }

    /// What is not written.
    #[cfg(any(fuzzing, test))]
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        let bytes: Vec<u8> = self.chunks.into_iter().flatten().collect();
        bytes[self.written..].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(bytes: &[u8]) -> Header {
        let mut header = [0; 8];
        header[..bytes.len()].copy_from_slice(bytes);
        (header, bytes.len())
    }

    fn all(outbox: &mut Outbox, limit: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while outbox.queued() > 0 {
            bytes.extend(taken(outbox, limit).into_bytes());
        }
        bytes
    }

    fn taken(outbox: &mut Outbox, limit: usize) -> Batch {
        let mut batch = Batch::default();
        outbox.take(limit, &mut batch);
        batch
    }

    #[test]
    fn frames_leave_in_order_and_large_ones_uncopied() {
        let mut outbox = Outbox::default();
        let mut large = vec![7; OWN_CHUNK];
        let address = large.as_ptr();
        assert_eq!(outbox.push(head(b"ab"), &mut b"c".to_vec()), 0);
        assert_eq!(outbox.push(head(b"de"), &mut large), 3);
        let end = 5 + OWN_CHUNK as u64;
        assert_eq!(outbox.push(head(b"f"), &mut vec![]), end);
        assert_eq!(outbox.queued(), end + 1);
        let batch = taken(&mut outbox, usize::MAX).chunks;
        assert_eq!(batch[0], b"abcde");
        assert_eq!(batch[1].as_ptr(), address);
        assert_eq!(batch[2], b"f");
        assert_eq!(outbox.queued(), 0);
    }

    #[test]
    fn batch_is_written_in_pieces_of_any_size() {
        let mut outbox = Outbox::default();
        for n in 0..100u8 {
            outbox.push(
                head(b"head"),
                &mut vec![n; if n % 10 == 0 { OWN_CHUNK } else { 7 }],
            );
        }
        let mut want = Outbox::default();
        std::mem::swap(&mut want, &mut outbox);
        let mut batch = taken(&mut want, usize::MAX);
        let all = Batch {
            chunks: batch.chunks.clone(),
            written: 0,
        }
        .into_bytes();
        let mut written = Vec::new();
        while !batch.is_empty() {
            let n = batch.write(|parts| {
                let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
                let n = bytes.len().min(1000);
                written.extend_from_slice(&bytes[..n]);
                n
            });
            batch.advance(n, &mut outbox);
        }
        assert!(written == all);
    }

    #[test]
    fn small_frames_share_chunks_of_bounded_size() {
        let mut outbox = Outbox::default();
        for n in 0..100_000 {
            assert_eq!(outbox.push(head(b"12345678"), &mut vec![0; 16]), n * 24);
        }
        let batch = taken(&mut outbox, usize::MAX).chunks;
        assert_eq!(batch.len(), (100_000usize * 24).div_ceil(CHUNK / 24 * 24));
    }

    /// Every subset of a few frames, withdrawn, leaves exactly the others.
    #[test]
    fn withdrawn_frames_are_never_taken() {
        let sizes = [0, 5, OWN_CHUNK, 1, OWN_CHUNK + 3, 2];
        for set in 0..1 << sizes.len() {
            let mut outbox = Outbox::default();
            let (mut want, mut frames) = (Vec::new(), Vec::new());
            for (n, size) in sizes.into_iter().enumerate() {
                let mut payload = vec![n as u8; size];
                if set >> n & 1 == 0 {
                    want.extend([b"hd", &payload[..]].concat());
                }
                frames.push((outbox.push(head(b"hd"), &mut payload), 2 + size as u64));
            }
            for (n, (start, len)) in frames.iter().enumerate().rev() {
                if set >> n & 1 == 1 {
                    assert!(outbox.withdraw(*start, *len));
                }
            }
            assert_eq!(outbox.queued(), want.len() as u64, "set {set:b}");
            assert_eq!(all(&mut outbox, 1), want, "set {set:b}");
            assert!(outbox.holes.is_empty() && outbox.withdrawn == 0);
        }
    }

    #[test]
    fn taken_frame_cannot_be_withdrawn() {
        let mut outbox = Outbox::default();
        let first = outbox.push(head(b"a"), &mut vec![]);
        taken(&mut outbox, 1);
        let second = outbox.push(head(b"b"), &mut vec![]);
        assert!(!outbox.withdraw(first, 1));
        assert!(outbox.withdraw(second, 1));
        assert_eq!(outbox.queued(), 0);
        assert_eq!(outbox.push(head(b"c"), &mut vec![]), 2);
        assert_eq!(all(&mut outbox, 1), b"c");
    }
}

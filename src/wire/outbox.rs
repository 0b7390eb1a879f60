//! The bytes that are to be written, in order, until a writer takes them. Pure.

use super::Body;
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
    /// Appends a frame and returns its offset. What is large of its payload is taken, the rest is copied.
    #[inline]
    pub(crate) fn push(&mut self, header: Header, payload: &mut Body) -> u64 {
        let (header, n) = header;
        let start = self.end;
        let Some(short) = payload.short(OWN_CHUNK - 1) else {
            self.push_large(&header[..n], payload);
            return start;
        };
        let len = n + short.len();
        self.end += len as u64;
        self.make_room(len);
        // Of a length that the compiler knows, where it can.
        match n {
            8 => self.open.extend_from_slice(&header),
            n => self.open.extend_from_slice(&header[..n]),
        }
        self.open.extend_from_slice(short);
        start
    }

    fn push_large(&mut self, header: &[u8], payload: &mut Body) {
        self.end += (header.len() + payload.len()) as u64;
        self.make_room(header.len());
        self.open.extend_from_slice(header);
        for piece in payload.pieces() {
            if piece.len() >= OWN_CHUNK {
                self.close();
                self.chunks.push_back(std::mem::take(piece));
            } else {
                self.make_room(piece.len());
                self.open.extend_from_slice(piece);
            }
        }
    }

    /// Makes the last chunk one that has room for so many bytes.
    #[inline]
    fn make_room(&mut self, room: usize) {
        if self.open.len() + room > CHUNK {
            self.close();
        }
        if self.open.len() + room > self.open.capacity() {
            self.grow(room);
        }
    }

    /// Makes room for so many bytes in the last chunk, which does not grow beyond a whole one: its memory
    /// would not be kept.
    #[cold]
    fn grow(&mut self, room: usize) {
        let (len, twice) = (self.open.len(), self.open.capacity() * 2);
        let want = (len + room).max(twice.min(CHUNK));
        self.open.reserve_exact(want - len);
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
        } else if self.spare.capacity() < chunk.capacity() {
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
        if self.chunks.is_empty() && self.withdrawn == 0 && batch.is_empty() {
            // As it mostly is. What was written last gets filled next.
            std::mem::swap(&mut self.open, &mut batch.first);
            self.taken = self.end;
            return;
        }
        let mut bytes = 0;
        while bytes < limit {
            let mut chunk = match self.chunks.pop_front() {
                Some(chunk) => chunk,
                None if self.open.is_empty() => break,
                None => std::mem::replace(&mut self.open, std::mem::take(&mut self.spare)),
            };
            self.cut_holes(&mut chunk);
            bytes += chunk.len();
            batch.push(chunk);
        }
        if self.queued() == 0 {
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
    /// What is next. Empty, it is kept for its memory.
    first: Vec<u8>,
    /// How much of that is written.
    written: usize,
    /// What follows.
    rest: VecDeque<Vec<u8>>,
}

impl Batch {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// Appends a chunk.
    fn push(&mut self, chunk: Vec<u8>) {
        if self.first.is_empty() {
            self.first = chunk;
        } else if !chunk.is_empty() {
            self.rest.push_back(chunk);
        }
    }

    /// Whether it has a payload that takes long to pass through a socket of the usual size.
    #[inline]
    pub(crate) fn has_large(&self) -> bool {
        let is_large = |chunk: &Vec<u8>| chunk.len() > CHUNK;
        is_large(&self.first) || self.rest.iter().any(is_large)
    }

    /// Gives what is next to `write`, as many parts as it may take at once.
    #[inline]
    pub(crate) fn write<T>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let first = IoSlice::new(&self.first[self.written..]);
        if self.rest.is_empty() {
            // As it mostly is, and to make room for many parts would cost more than all the rest.
            return write(&[first]);
        }
        let mut parts = [first; PARTS];
        let mut count = 1;
        for (part, chunk) in parts[1..].iter_mut().zip(&self.rest) {
            *part = IoSlice::new(chunk);
            count += 1;
        }
        write(&parts[..count])
    }

    /// So many bytes are written. Their memory is used again, or goes back to `outbox`.
    #[inline]
    pub(crate) fn advance(&mut self, n: usize, outbox: &mut Outbox) {
        self.written += n;
        if self.written < self.first.len() {
            return;
        }
        if self.rest.is_empty() && self.first.capacity() <= CHUNK {
            debug_assert_eq!(self.written, self.first.len());
            self.written = 0;
            return self.first.clear();
        }
        self.advance_chunks(outbox);
    }

    fn advance_chunks(&mut self, outbox: &mut Outbox) {
        while !self.first.is_empty() && self.first.len() <= self.written {
            self.written -= self.first.len();
            let next = self.rest.pop_front().unwrap_or_default();
            outbox.recycle(std::mem::replace(&mut self.first, next));
        }
    }

    /// Forgets what is not written.
    pub(crate) fn clear(&mut self) {
        *self = Batch::default();
    }

    /// What is not written.
    #[cfg(any(fuzzing, test))]
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.chunks().concat().split_off(self.written)
    }

    #[cfg(any(fuzzing, test))]
    fn chunks(&self) -> Vec<&[u8]> {
        let all = std::iter::once(&self.first).chain(&self.rest);
        all.map(|chunk| &chunk[..]).collect()
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
        let large = vec![7; OWN_CHUNK];
        let address = large.as_ptr();
        assert_eq!(outbox.push(head(b"ab"), &mut b"c".to_vec().into()), 0);
        assert_eq!(outbox.push(head(b"de"), &mut large.into()), 3);
        let end = 5 + OWN_CHUNK as u64;
        assert_eq!(outbox.push(head(b"f"), &mut vec![].into()), end);
        assert_eq!(outbox.queued(), end + 1);
        let batch = taken(&mut outbox, usize::MAX);
        let chunks = batch.chunks();
        assert_eq!(chunks[0], b"abcde");
        assert_eq!(chunks[1].as_ptr(), address);
        assert_eq!(chunks[2], b"f");
        assert_eq!(outbox.queued(), 0);
    }

    #[test]
    fn batch_is_written_in_pieces_of_any_size() {
        let mut outbox = Outbox::default();
        for n in 0..100u8 {
            outbox.push(
                head(b"head"),
                &mut vec![n; if n % 10 == 0 { OWN_CHUNK } else { 7 }].into(),
            );
        }
        let mut want = Outbox::default();
        std::mem::swap(&mut want, &mut outbox);
        let mut batch = taken(&mut want, usize::MAX);
        let all = batch.chunks().concat();
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
            assert_eq!(
                outbox.push(head(b"12345678"), &mut vec![0; 16].into()),
                n * 24
            );
        }
        let batch = taken(&mut outbox, usize::MAX);
        assert_eq!(
            batch.chunks().len(),
            (100_000usize * 24).div_ceil(CHUNK / 24 * 24)
        );
    }

    #[test]
    fn memory_of_whole_chunks_is_kept() {
        let mut outbox = Outbox::default();
        // Of a length that does not grow to that of a chunk by doubling.
        for _ in 0..3 * CHUNK / 25 {
            outbox.push(head(b"12345678"), &mut vec![0; 17].into());
        }
        let mut batch = taken(&mut outbox, usize::MAX);
        batch.advance(outbox.end() as usize, &mut outbox);
        assert!(batch.is_empty());
        let kept = [&outbox.open, &outbox.spare].map(Vec::capacity);
        assert_eq!(kept, [CHUNK; 2]);
    }

    /// Every subset of a few frames, withdrawn, leaves exactly the others.
    #[test]
    fn withdrawn_frames_are_never_taken() {
        let sizes = [0, 5, OWN_CHUNK, 1, OWN_CHUNK + 3, 2];
        for set in 0..1 << sizes.len() {
            let mut outbox = Outbox::default();
            let (mut want, mut frames) = (Vec::new(), Vec::new());
            for (n, size) in sizes.into_iter().enumerate() {
                let payload = vec![n as u8; size];
                if set >> n & 1 == 0 {
                    want.extend([b"hd", &payload[..]].concat());
                }
                frames.push((
                    outbox.push(head(b"hd"), &mut payload.into()),
                    2 + size as u64,
                ));
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
        let first = outbox.push(head(b"a"), &mut vec![].into());
        taken(&mut outbox, 1);
        let second = outbox.push(head(b"b"), &mut vec![].into());
        assert!(!outbox.withdraw(first, 1));
        assert!(outbox.withdraw(second, 1));
        assert_eq!(outbox.queued(), 0);
        assert_eq!(outbox.push(head(b"c"), &mut vec![].into()), 2);
        assert_eq!(all(&mut outbox, 1), b"c");
    }
}

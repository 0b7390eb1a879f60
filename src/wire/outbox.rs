//! The queue of outgoing bytes, until a writer takes them. Pure.

use super::fds::{ANNOUNCEMENT, COUNT, ERRNO, FdMessage, Unsent, digits};
use super::{Body, Framing, header};
use crate::fd::Fd;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

/// Small frames are collected in chunks of this size.
const CHUNK: usize = 64 << 10;
/// A payload of at least this size becomes a chunk of its own and is not copied.
const MIN_OWN_CHUNK: usize = 16 << 10;
/// This much is worth a write, and fits into one chunk whatever small frame came last.
pub(crate) const FULL_BATCH: usize = CHUNK - MIN_OWN_CHUNK - HEADER;
/// A buffer above this size is not reused.
pub(crate) const REUSABLE: usize = 128 << 10;
/// The most buffers on the free list.
const MAX_FREE: usize = 32;
/// A payload above this size is worth a larger socket buffer.
const LARGE: usize = 32 << 10;

/// The longest header.
const HEADER: usize = 8;
/// The header of a frame, left-aligned, and its length.
type Header = ([u8; HEADER], usize);

/// An output queue from which frames can be withdrawn until they are taken.
///
/// Offsets count from the start of the stream and never change. A withdrawn frame leaves a hole,
/// which is cut out when its chunk is taken; a chunk that is all holes is dropped immediately.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Full chunks and large payloads.
    chunks: VecDeque<Chunk>,
    /// The last chunk, to which small frames are appended.
    open: Chunk,
    /// Everything before this offset was taken or withdrawn.
    taken: u64,
    /// The offset of the end.
    end: u64,
    /// The number of bytes that are neither taken nor withdrawn.
    queued: u64,
    /// An empty chunk, kept for its memory.
    spare: Vec<u8>,
    /// The free list: empty buffers of at least the size of an own chunk. Kept while anything is
    /// queued, as more large payloads are likely to follow: memory that was returned to the system
    /// comes back page by page, each of which the system has to zero.
    free: Vec<Vec<u8>>,
    /// The id of the control frames about descriptors, if the other side expects any.
    carrier: Option<u32>,
}

/// A part of the queue.
#[derive(Debug, Default)]
struct Chunk {
    /// Offset of its first byte.
    start: u64,
    bytes: Vec<u8>,
    /// The withdrawn ranges, in order, and their total length.
    holes: Vec<Range<usize>>,
    withdrawn: usize,
    /// Whether it is one large payload.
    is_large: bool,
    /// To be sent with the first byte.
    fds: Unsent,
}

impl Chunk {
    fn new(start: u64, bytes: Vec<u8>) -> Self {
        Chunk {
            start,
            bytes,
            ..Chunk::default()
        }
    }

    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn carries(&self) -> bool {
        !self.fds.as_slice().is_empty()
    }

    /// Withdraws the part of a frame that is in this chunk.
    fn withdraw(&mut self, frame: &Range<u64>) {
        let from = frame.start.max(self.start) - self.start;
        let to = frame.end.min(self.end()) - self.start;
        let hole = from as usize..to as usize;
        self.withdrawn += hole.len();
        // Mostly at the end. Sorting them later would add several KiB of code.
        let at = self.holes.partition_point(|it| it.start < hole.start);
        self.holes.insert(at, hole);
    }

    /// Whether all of it is withdrawn.
    fn is_withdrawn(&self) -> bool {
        self.withdrawn == self.bytes.len()
    }

    /// The bytes that are not withdrawn.
    fn into_remaining(mut self) -> Vec<u8> {
        let (mut kept, mut at) = (0, 0);
        for hole in self.holes {
            self.bytes.copy_within(at..hole.start, kept);
            kept += hole.start - at;
            at = hole.end;
        }
        self.bytes.copy_within(at.., kept);
        self.bytes.truncate(kept + self.bytes.len() - at);
        self.bytes
    }
}

impl Outbox {
    /// Appends a frame and returns its offset. Moves large pieces of the payload, copies others.
    #[inline]
    pub(crate) fn push(&mut self, header: Header, payload: &mut Body) -> u64 {
        let (header, n) = header;
        let start = self.end;
        let Some(short) = payload.short(MIN_OWN_CHUNK - 1) else {
            self.push_large(&header[..n], payload);
            return start;
        };
        let len = n + short.len();
        self.make_room(len);
        // With a length known to the compiler in the common case.
        match n {
            8 => self.open.bytes.extend_from_slice(&header),
            n => self.open.bytes.extend_from_slice(&header[..n]),
        }
        self.open.bytes.extend_from_slice(short);
        self.count(len);
        start
    }

    fn push_large(&mut self, header: &[u8], payload: &mut Body) {
        let fds = payload.take_fds();
        if !fds.is_empty() {
            // A write begins here, so that the descriptors come with this frame.
            self.announce(fds);
            self.push_large(header, payload);
            return self.close();
        }
        self.append(header);
        for (n, piece) in payload.pieces().enumerate() {
            if piece.len() < MIN_OWN_CHUNK {
                self.append(piece);
                continue;
            }
            self.close();
            // The encoder will write to the first one again: it gets a free buffer in exchange, but
            // not a far larger one, as memory limits count bytes, not spare capacity.
            let fits = |it: &mut Vec<u8>| n == 0 && it.capacity() / 2 <= piece.len();
            let other = self.free.pop_if(fits).unwrap_or_default();
            let bytes = std::mem::replace(piece, other);
            let mut chunk = Chunk::new(self.end, bytes);
            chunk.is_large = chunk.bytes.len() > LARGE;
            self.count(chunk.bytes.len());
            self.chunks.push_back(chunk);
            self.open.start = self.end;
        }
    }

    /// Has the other side expect descriptors, if the frame that is to be appended next has some. `control` is
    /// the id of the control frames about them.
    pub(crate) fn carry(&mut self, control: u32, payload: &Body) {
        if let (Some(first), None) = (payload.fds().first(), self.carrier) {
            self.carrier = Some(control);
            self.append_control(control, FdMessage::Carries);
            let (count, errno) = (0, 0);
            // It may get lost.
            let barrier = vec![first.clone()];
            self.begin_carrying(control, barrier, FdMessage::Fds { count, errno });
            self.close();
        }
    }

    /// Announces the descriptors of the frame that is about to be appended, in another chunk.
    fn announce(&mut self, fds: Vec<Fd>) {
        let (count, errno) = (fds.len(), 0);
        let control = self.carrier.expect("carry() comes first");
        self.begin_carrying(control, fds, FdMessage::Fds { count, errno });
    }

    /// The barrier cannot be sent: all frames that are queued lose their descriptors, and the next one that has
    /// some needs another.
    fn lose_barrier(&mut self, errno: i32) {
        self.carrier = None;
        for chunk in self.chunks.iter_mut().filter(|it| it.carries()) {
            chunk.fds = Unsent::default();
            note_lost(&mut chunk.bytes, errno);
        }
    }

    /// Begins another chunk, to be sent with descriptors.
    fn begin_carrying(&mut self, control: u32, fds: Vec<Fd>, message: FdMessage) {
        self.close();
        self.open.fds = fds.into();
        self.append_control(control, message);
    }

    fn append_control(&mut self, control: u32, message: FdMessage) {
        let payload = message.encode();
        let (header, n) = header(Framing::Tagged, control, payload.len() as u32);
        self.append(&header[..n]);
        self.append(&payload);
    }

    fn append(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len());
        self.open.bytes.extend_from_slice(bytes);
        self.count(bytes.len());
    }

    /// Counts `len` bytes as appended.
    #[inline]
    fn count(&mut self, len: usize) {
        self.end += len as u64;
        self.queued += len as u64;
    }

    /// Makes sure that the last chunk has room for this many bytes.
    #[inline]
    fn make_room(&mut self, room: usize) {
        if self.open.bytes.len() + room > CHUNK {
            self.close();
            // The next chunk will probably fill up, too.
            if self.open.bytes.capacity() < CHUNK {
                self.open.bytes = self.free.pop().unwrap_or_default();
            }
            self.grow(CHUNK);
        }
        if self.open.bytes.len() + room > self.open.bytes.capacity() {
            self.grow(room);
        }
    }

    /// Makes room for this many bytes in the last chunk. It does not grow beyond the size of a
    /// chunk, as its memory would then not be kept.
    #[cold]
    fn grow(&mut self, room: usize) {
        let bytes = &mut self.open.bytes;
        let (len, twice) = (bytes.len(), bytes.capacity() * 2);
        let want = (len + room).max(twice.min(CHUNK));
        bytes.reserve_exact(want - len);
    }

    /// Begins another chunk. Returns the previous one.
    fn next_chunk(&mut self) -> Chunk {
        let next = Chunk::new(self.end, std::mem::take(&mut self.spare));
        std::mem::replace(&mut self.open, next)
    }

    /// Begins another chunk, unless the last one is empty.
    fn close(&mut self) {
        if !self.open.bytes.is_empty() {
            let full = self.next_chunk();
            self.chunks.push_back(full);
        }
    }

    /// Takes the memory of a written chunk back.
    pub(crate) fn recycle(&mut self, mut chunk: Vec<u8>) {
        let (room, free) = (chunk.capacity(), self.free.len());
        chunk.clear();
        if self.open.bytes.capacity() == 0 && room <= CHUNK {
            self.open.bytes = chunk;
        } else if self.spare.capacity() < room && room <= CHUNK {
            self.spare = chunk;
        } else if (MIN_OWN_CHUNK..=REUSABLE).contains(&room) && self.queued > 0 && free < MAX_FREE {
            self.free.push(chunk);
        }
    }

    /// The queued bytes of the frame at `start`: at least its header.
    pub(crate) fn frame(&self, start: u64) -> &[u8] {
        let at = self.chunks.partition_point(|it| it.end() <= start);
        let chunk = self.chunks.get(at).unwrap_or(&self.open);
        &chunk.bytes[(start - chunk.start) as usize..]
    }

    /// Withdraws the frame of `len` bytes at `start`, so that it will never be written. Returns
    /// false if it was already taken.
    pub(crate) fn withdraw(&mut self, start: u64, len: u64) -> bool {
        debug_assert!(len > 0, "a frame has a header");
        if !self.is_queued(start) {
            return false;
        }
        self.queued -= len;
        if self.queued == 0 {
            self.clear();
            return true;
        }
        let frame = start..start + len;
        let mut at = self.chunks.partition_point(|it| it.end() <= frame.start);
        while let Some(chunk) = self.chunks.get_mut(at)
            && chunk.start < frame.end
        {
            chunk.withdraw(&frame);
            match chunk.is_withdrawn() {
                true => drop(self.chunks.remove(at)),
                false => at += 1,
            }
        }
        if self.open.start < frame.end {
            self.open.withdraw(&frame);
            if self.open.is_withdrawn() {
                self.reset_open();
            }
        }
        true
    }

    /// The offset of the next frame.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Whether no byte of the frame at `start` was taken.
    pub(crate) fn is_queued(&self, start: u64) -> bool {
        start >= self.taken
    }

    /// The offset before which nothing is queued any more.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// The number of bytes that can be taken.
    pub(crate) fn queued(&self) -> u64 {
        self.queued
    }

    /// Takes whole chunks into `batch`, in order, until `limit` bytes are reached, nothing is left, or
    /// the next one is to be sent with descriptors, and so begins the next batch. A frame whose header is
    /// taken is either taken whole or is the last.
    pub(crate) fn take(&mut self, limit: usize, batch: &mut Batch) {
        if self.chunks.is_empty() && self.open.withdrawn == 0 && batch.is_empty() {
            // The common case. The buffer that was written last is filled next.
            std::mem::swap(&mut self.open.bytes, &mut batch.first);
            (self.open.start, self.taken, self.queued) = (self.end, self.end, 0);
            self.free.clear();
            return;
        }
        let mut bytes = 0;
        let carries = Chunk::carries;
        while bytes < limit && (batch.is_empty() || !self.chunks.front().is_some_and(carries)) {
            let mut chunk = match self.chunks.pop_front() {
                Some(chunk) => chunk,
                None if self.open.bytes.is_empty() => break,
                None => self.next_chunk(),
            };
            self.taken = chunk.end();
            batch.has_large |= chunk.is_large;
            if chunk.carries() {
                batch.fds = std::mem::take(&mut chunk.fds);
            }
            let left = chunk.into_remaining();
            bytes += left.len();
            self.queued -= left.len() as u64;
            batch.push(left);
        }
        if self.queued == 0 {
            self.clear();
        }
    }

    /// Discards everything that was not taken.
    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.free.clear();
        self.reset_open();
        (self.taken, self.queued) = (self.end, 0);
    }

    /// Discards the contents of the last chunk.
    fn reset_open(&mut self) {
        let mut bytes = std::mem::take(&mut self.open.bytes);
        bytes.clear();
        self.open = Chunk::new(self.end, bytes);
    }
}

/// The most parts of one write; Linux accepts 1024.
const MAX_PARTS: usize = 64;

/// Bytes that were taken to be written.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The chunk to write next. When empty, it is kept for its memory.
    first: Vec<u8>,
    /// How much of it is written.
    written: usize,
    /// The chunks after it.
    rest: VecDeque<Vec<u8>>,
    /// To be sent with the first byte.
    fds: Unsent,
    has_large: bool,
    widen: bool,
}

/// Has a chunk say why it is sent without its descriptors.
fn note_lost(chunk: &mut [u8], errno: i32) {
    chunk[ERRNO_AT].copy_from_slice(&digits(errno as usize));
}

/// Where a chunk that is sent with descriptors says how many there are.
const COUNT_AT: Range<usize> = HEADER + COUNT.start..HEADER + COUNT.end;
/// Where it says why it is sent without them.
const ERRNO_AT: Range<usize> = HEADER + ERRNO.start..HEADER + ERRNO.end;
/// The first bytes of such a chunk: the frame that announces the descriptors.
pub(crate) const ANNOUNCING: usize = HEADER + ANNOUNCEMENT;

impl Batch {
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

    /// Whether it has contained a payload that is slow to pass through a socket buffer of the
    /// default size.
    pub(super) fn has_large(&self) -> bool {
        self.has_large
    }

    /// Requests that the socket be widened before this is written.
    pub(super) fn widen(&mut self) {
        self.widen = true;
    }

    /// Whether the socket's buffer should be enlarged for large payloads before this is written.
    /// True only once.
    pub(crate) fn should_widen(&mut self) -> bool {
        std::mem::take(&mut self.widen)
    }

    /// The descriptors to be written with what comes next.
    #[inline]
    pub(crate) fn fds(&self) -> &[Fd] {
        self.fds.as_slice()
    }

    /// The descriptors cannot be sent: what comes next says so, and is written without them.
    pub(super) fn lose_fds(&mut self, errno: i32, outbox: &mut Outbox) {
        self.fds = Unsent::default();
        note_lost(&mut self.first, errno);
        if self.first[COUNT_AT] == digits(0) {
            outbox.lose_barrier(errno);
        }
    }

    /// Passes what comes next to `write`, as many parts as one write may have.
    #[inline]
    pub(crate) fn write<T>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let first = IoSlice::new(&self.first[self.written..]);
        if self.rest.is_empty() {
            // The common case. Initialising many parts would cost more than everything else.
            return write(&[first]);
        }
        let mut parts = [first; MAX_PARTS];
        let mut count = 1;
        for (part, chunk) in parts[1..].iter_mut().zip(&self.rest) {
            *part = IoSlice::new(chunk);
            count += 1;
        }
        write(&parts[..count])
    }

    /// Counts `n` bytes as written. Their memory is reused, or goes back to `outbox`.
    #[inline]
    pub(crate) fn advance(&mut self, n: usize, outbox: &mut Outbox) {
        self.written += n;
        if !self.fds().is_empty() && n > 0 {
            self.fds.sent();
        }
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

    /// Discards what is not written.
    pub(crate) fn clear(&mut self) {
        *self = Batch::default();
    }

    /// The bytes that are not written.
    #[cfg(test)]
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.chunks().concat().split_off(self.written)
    }

    #[cfg(test)]
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

    /// Small frames, more than go into a few chunks.
    const MANY: usize = 100_000;

    fn taken(outbox: &mut Outbox, limit: usize) -> Batch {
        let mut batch = Batch::default();
        outbox.take(limit, &mut batch);
        batch
    }

    #[test]
    fn frames_are_taken_in_order_and_large_ones_uncopied() {
        let mut outbox = Outbox::default();
        let large = vec![7; MIN_OWN_CHUNK];
        let address = large.as_ptr();
        assert_eq!(outbox.push(head(b"ab"), &mut b"c".to_vec().into()), 0);
        assert_eq!(outbox.push(head(b"de"), &mut large.into()), 3);
        let end = 5 + MIN_OWN_CHUNK as u64;
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
    fn large_payloads_are_distinguished_from_many_small_ones() {
        for (len, frames, want) in [(17, MANY, false), (LARGE, 9, false), (LARGE + 1, 1, true)] {
            let mut outbox = Outbox::default();
            for _ in 0..frames {
                outbox.push(head(b"head"), &mut vec![0; len].into());
            }
            assert_eq!(taken(&mut outbox, usize::MAX).has_large(), want, "{len}");
        }
    }

    #[test]
    fn batch_is_written_in_pieces_of_any_size() {
        let mut outbox = Outbox::default();
        for n in 0..100u8 {
            outbox.push(
                head(b"head"),
                &mut vec![n; if n % 10 == 0 { MIN_OWN_CHUNK } else { 7 }].into(),
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
        for n in 0..MANY {
            assert_eq!(
                outbox.push(head(b"12345678"), &mut vec![0; 16].into()),
                24 * n as u64
            );
        }
        let batch = taken(&mut outbox, usize::MAX);
        assert_eq!(batch.chunks().len(), (MANY * 24).div_ceil(CHUNK / 24 * 24));
    }

    #[test]
    fn memory_of_whole_chunks_is_kept() {
        let mut outbox = Outbox::default();
        // Their length does not reach that of a chunk by doubling.
        for _ in 0..3 * CHUNK / 25 {
            outbox.push(head(b"12345678"), &mut vec![0; 17].into());
        }
        let mut batch = taken(&mut outbox, usize::MAX);
        batch.advance(outbox.end() as usize, &mut outbox);
        assert!(batch.is_empty());
        let kept = [&outbox.open.bytes, &outbox.spare].map(Vec::capacity);
        assert_eq!(kept, [CHUNK; 2]);
    }

    #[test]
    fn large_buffers_are_reused_while_something_is_queued() {
        let mut outbox = Outbox::default();
        let large = || vec![7; CHUNK];
        for _ in 0..2 * MAX_FREE {
            outbox.push(head(b"a"), &mut large().into());
        }
        write_off(&mut outbox, MAX_FREE / 2 * CHUNK);
        // A piece of the encoder's gets a buffer in exchange, a piece that was moved in does not.
        let kept = outbox.free.len();
        let mut body = Body::from(large());
        outbox.push(head(b"b"), &mut body);
        assert_eq!(outbox.free.len(), kept - 1);
        assert_eq!((body.len(), body.end().capacity()), (0, CHUNK));
        let mut body = Body::default();
        body.push(large());
        outbox.push(head(b"c"), &mut body);
        assert_eq!(outbox.free.len(), kept - 1);
        // Their number is limited, and none is kept when nothing is queued.
        write_off(&mut outbox, (MAX_FREE + 8) * CHUNK);
        assert!(outbox.queued() > 0);
        assert_eq!(outbox.free.len(), MAX_FREE);
        write_off(&mut outbox, usize::MAX);
        assert_eq!((outbox.queued(), outbox.free.len()), (0, 0));
    }

    #[test]
    fn large_buffers_become_chunks_of_small_frames() {
        let mut outbox = Outbox::default();
        let whole = CHUNK / 25 * 25;
        let fill = |outbox: &mut Outbox| {
            for _ in 0..=4 * whole / 25 {
                outbox.push(head(b"12345678"), &mut vec![0; 17].into());
            }
        };
        fill(&mut outbox);
        write_off(&mut outbox, 4 * whole);
        assert_eq!((outbox.queued(), outbox.free.len()), (25, 3));
        fill(&mut outbox);
        assert_eq!(outbox.free.len(), 0);
        write_off(&mut outbox, 4 * whole);
        assert_eq!((outbox.queued(), outbox.free.len()), (50, 3));
        // Taking all by a swap of buffers empties the free list, too.
        write_off(&mut outbox, 1);
        assert_eq!((outbox.queued(), outbox.free.len()), (0, 0));
    }

    #[test]
    fn small_payloads_do_not_get_large_buffers() {
        let mut outbox = Outbox::default();
        for _ in 0..8 {
            outbox.push(head(b"a"), &mut vec![7; REUSABLE].into());
        }
        write_off(&mut outbox, 4 * REUSABLE);
        let kept = outbox.free.len();
        let mut body = Body::from(vec![7; MIN_OWN_CHUNK]);
        outbox.push(head(b"b"), &mut body);
        assert_eq!((outbox.free.len(), body.end().capacity()), (kept, 0));
    }

    #[test]
    fn full_batch_is_one_chunk() {
        let mut outbox = Outbox::default();
        let header = || head(b"12345678");
        for _ in 0..3 {
            let len = (FULL_BATCH - 1) / 3 - HEADER;
            outbox.push(header(), &mut vec![0; len].into());
        }
        assert_eq!(outbox.queued(), FULL_BATCH as u64 - 1);
        outbox.push(header(), &mut vec![0; MIN_OWN_CHUNK - 1].into());
        assert_eq!(taken(&mut outbox, FULL_BATCH).chunks().len(), 1);
        assert_eq!(outbox.queued(), 0);
    }

    /// Takes about `limit` bytes and counts them as written.
    fn write_off(outbox: &mut Outbox, limit: usize) {
        let mut batch = taken(outbox, limit);
        let n = batch.chunks().concat().len();
        batch.advance(n, outbox);
    }

    /// Withdrawing any subset of a few frames leaves exactly the others.
    #[test]
    fn withdrawn_frames_are_never_taken() {
        let sizes = [0, 5, MIN_OWN_CHUNK, 1, MIN_OWN_CHUNK + 3, 2];
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
            assert!(outbox.chunks.is_empty() && outbox.open.holes.is_empty());
        }
    }

    #[test]
    fn withdrawn_frames_take_no_memory() {
        for (len, frames) in [(17, MANY), (MIN_OWN_CHUNK - 1, MANY / 100), (1 << 20, 100)] {
            let mut outbox = Outbox::default();
            outbox.push(head(b"kept"), &mut vec![0; 10].into());
            for _ in 0..frames {
                let start = outbox.push(head(b"gone"), &mut vec![1; len].into());
                assert!(outbox.withdraw(start, 4 + len as u64));
            }
            assert_eq!(outbox.queued(), 14);
            let chunks = outbox.chunks.iter().chain([&outbox.open]);
            let memory = chunks.map(|it| it.bytes.capacity() + 16 * it.holes.capacity());
            let memory = memory.sum::<usize>();
            assert!(memory <= 4 * CHUNK, "{memory} for frames of {len}");
            let left = all(&mut outbox, usize::MAX);
            assert_eq!(left, [b"kept", &[0; 10][..]].concat());
        }
    }

    /// Frames of every size, in one or several pieces, are withdrawn, taken and written at random.
    #[test]
    fn frames_that_are_not_withdrawn_are_written_in_order() {
        let sizes = [
            0,
            1,
            300,
            MIN_OWN_CHUNK - 1,
            MIN_OWN_CHUNK,
            CHUNK,
            CHUNK + 1,
        ];
        let mut random = 1u64;
        let mut below = |limit: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) as usize % limit
        };
        for round in 0..100 {
            let (mut outbox, mut batch) = (Outbox::default(), Batch::default());
            let (mut frames, mut written) = (Vec::<(u64, Vec<u8>)>::new(), Vec::new());
            let mut body = Body::default();
            for _ in 0..60 {
                match below(10) {
                    0..5 => {
                        body.clear(REUSABLE);
                        for _ in 0..below(4) {
                            let bytes = vec![below(256) as u8; sizes[below(sizes.len())]];
                            match below(2) {
                                0 => body.push(bytes),
                                _ => body.end().extend(bytes),
                            }
                        }
                        let pieces: Vec<Vec<u8>> = body.pieces().map(|it| it.clone()).collect();
                        let frame = [b"head", &pieces.concat()[..]].concat();
                        frames.push((outbox.push(head(b"head"), &mut body), frame));
                    }
                    5..7 if !frames.is_empty() => {
                        let at = below(frames.len());
                        let (start, frame) = &frames[at];
                        if outbox.withdraw(*start, frame.len() as u64) {
                            frames.remove(at);
                        }
                    }
                    _ => {
                        if batch.is_empty() {
                            outbox.take([1, 1000, CHUNK, usize::MAX][below(4)], &mut batch);
                        }
                        let most = [1, 100, 20_000, usize::MAX][below(4)];
                        write(&mut outbox, &mut batch, &mut written, most);
                    }
                }
            }
            while !batch.is_empty() || outbox.queued() > 0 {
                write(&mut outbox, &mut batch, &mut written, usize::MAX);
                outbox.take(CHUNK, &mut batch);
            }
            let want: Vec<Vec<u8>> = frames.into_iter().map(|(_, frame)| frame).collect();
            assert!(written == want.concat(), "round {round}");
        }
    }

    /// Writes at most `most` bytes of a batch.
    fn write(outbox: &mut Outbox, batch: &mut Batch, written: &mut Vec<u8>, most: usize) {
        let n = batch.write(|parts| {
            let parts: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
            let bytes = parts.concat();
            let n = bytes.len().min(most);
            written.extend_from_slice(&bytes[..n]);
            n
        });
        batch.advance(n, outbox);
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

//! Frames: the header, and a decoder that accepts bytes in any split.

use super::fds::{Arrivals, Carrying, Wrong};
use crate::fd::Fd;
use std::fmt;
use std::ops::Range;

/// The shared buffer grows up to this, the most that one read from a socket returns by default.
pub(crate) const BUFFER: usize = 64 << 10;

/// Incomplete frames longer than this get a buffer of their own, which is read into directly.
pub(crate) const LARGE: usize = 16 << 10;

/// How much is read into the shared buffer together with the end of a large frame, or right after
/// it: another large frame may follow, and the part of it that lands here has to be copied.
const AFTER_LARGE: usize = 512;

/// The most that is reserved before bytes arrive, be it for a large frame or as a start size.
const RESERVE: usize = 1 << 20;

/// How much longer than `max_frame` a control frame or a failed reply may be.
pub(crate) const CONTROL_ROOM: usize = 64 << 10;
/// The longest payload that a program may allow: with what the library adds, its length is 32 bits.
pub(crate) const LONGEST_PAYLOAD: usize = u32::MAX as usize - CONTROL_ROOM;

/// What precedes a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// `id: u32 | length: u32`
    Tagged,
    /// `length: u32`; frames have the id 0. Only requests in the ordered mode use this.
    Counted,
}

impl Framing {
    /// The header's length.
    pub(crate) const fn header_len(self) -> usize {
        match self {
            Framing::Tagged => 8,
            Framing::Counted => 4,
        }
    }
}

/// The header of a frame, left-aligned, and its length.
pub(crate) fn header(framing: Framing, id: u32, payload_len: u32) -> ([u8; 8], usize) {
    let mut bytes = [0; 8];
    match framing {
        Framing::Tagged => {
            bytes[..4].copy_from_slice(&id.to_be_bytes());
            bytes[4..].copy_from_slice(&payload_len.to_be_bytes());
        }
        Framing::Counted => bytes[..4].copy_from_slice(&payload_len.to_be_bytes()),
    }
    (bytes, framing.header_len())
}

/// The id of a frame and the length of its payload, if its header is complete.
pub(crate) fn parse_header(framing: Framing, frame: &[u8]) -> Option<(u32, u32)> {
    match framing {
        Framing::Tagged => {
            let [a, b, c, d, len @ ..] = *frame.first_chunk::<8>()?;
            Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes(len)))
        }
        Framing::Counted => Some((0, u32::from_be_bytes(*frame.first_chunk::<4>()?))),
    }
}

/// The location of a decoded frame's payload.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// In the decoder's buffer, see [`Decoder::bytes`].
    At(Range<usize>),
    /// In a buffer of its own.
    Owned(Vec<u8>),
    /// The same, with descriptors.
    Carrying(Box<Carrying>),
}

/// Reasons why bytes are not frames. Offsets count from the start of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// The frame at `offset` claims more than the limit.
    TooLarge {
        offset: u64,
        id: u32,
        claimed: u32,
        limit: usize,
    },
    /// The stream ended inside the frame that starts at `offset`.
    Truncated { offset: u64, have: u64, need: u64 },
    /// Descriptors have come as they must not, with the frame at `offset` or before it.
    Fds { offset: u64, wrong: Wrong },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::TooLarge {
                offset,
                id,
                claimed,
                limit,
            } => write!(
                f,
                "the frame at offset {offset} (id {id:#x}) claims {claimed} bytes, \
                 the limit (max_frame) is {limit}"
            ),
            DecodeError::Truncated { offset, have, need } => write!(
                f,
                "the stream ended inside the frame at offset {offset}: \
                 {have} of {need} bytes arrived"
            ),
            DecodeError::Fds { offset, wrong } => write!(f, "at offset {offset}: {wrong}"),
        }
    }
}

/// A frame whose header is there, but not all of its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHead<'a> {
    /// Where the frame begins in the stream.
    pub(crate) offset: u64,
    pub(crate) id: u32,
    /// The length that the header claims for the payload.
    pub(crate) claimed: u32,
    /// The part of the payload that has come.
    pub(crate) begun: &'a [u8],
}

/// Whether a frame may come, judged by its [head](FrameHead).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    Pass,
    /// It cannot be told yet: the frame is judged again at the next attempt to take it.
    Later,
}

/// Splits bytes into frames.
///
/// Read into [`space`](Decoder::space), then take frames with [`next`](Decoder::next) until there
/// are none left. Payloads in the buffer stay where they are until the next `space`.
///
/// Whoever takes frames judges those that are not whole by their heads: what cannot be right is an
/// error before its payload has come, or memory is reserved for it. Frames that come whole are not
/// judged here, so whoever receives them applies the same rules.
///
/// No header's claim causes an allocation: the buffer doubles only when a read filled it, and a
/// large frame's own buffer grows with what has arrived.
#[derive(Debug)]
#[cfg_attr(any(fuzzing, test), derive(Clone))]
pub(crate) struct Decoder {
    framing: Framing,
    max_frame: usize,
    /// Whether frames with this id are the library's own and may be longer.
    is_control: fn(u32) -> bool,
    /// The id of the control frames that may be about descriptors.
    carrier: Option<u32>,
    arrivals: Arrivals,
    /// Whether the next frame may have to do with descriptors.
    pending: bool,
    /// How descriptors came as they must not: nothing more is decoded.
    fault: Option<DecodeError>,
    /// Received bytes; those before `start` were taken.
    buf: Vec<u8>,
    start: usize,
    /// The offset in the stream of `buf[start]`, or of the large frame.
    offset: u64,
    /// The capacity that `buf` should have.
    target: usize,
    large: Option<Large>,
    /// Whether the last frame was a large one.
    after_large: bool,
    /// The offset of the frame that has passed the check of its head.
    passed: Option<u64>,
}

/// A frame whose payload has its own buffer.
#[derive(Debug)]
#[cfg_attr(any(fuzzing, test), derive(Clone))]
struct Large {
    id: u32,
    len: usize,
    payload: Vec<u8>,
}

/// Space to read into: at most `limit` bytes may be appended to `buf`, which has spare capacity
/// for at least one; once those have arrived, more may be appended to `behind`.
pub(crate) struct Space<'a> {
    pub(crate) buf: &'a mut Vec<u8>,
    pub(crate) limit: usize,
    /// Another buffer and its limit.
    pub(crate) behind: Option<(&'a mut Vec<u8>, usize)>,
}

impl Space<'_> {
    /// How many bytes may be read.
    pub(crate) fn room(&self) -> usize {
        self.limit + self.behind.as_ref().map_or(0, |(_, limit)| *limit)
    }

    /// Copies as much of `bytes` as there is space for. Returns how much that was.
    #[cfg(any(fuzzing, test))]
    pub(crate) fn fill(&mut self, bytes: &[u8]) -> usize {
        let (first, rest) = bytes.split_at(self.limit.min(bytes.len()));
        self.buf.extend_from_slice(first);
        let Some((behind, limit)) = &mut self.behind else {
            return first.len();
        };
        let rest = &rest[..rest.len().min(*limit)];
        behind.extend_from_slice(rest);
        first.len() + rest.len()
    }
}

impl Decoder {
    /// A decoder whose buffer starts at `buflen` bytes, clamped to a sensible range.
    pub(crate) fn new(framing: Framing, buflen: usize, max_frame: usize) -> Self {
        Decoder {
            framing,
            max_frame: max_frame.min(u32::MAX as usize),
            is_control: |_| false,
            carrier: None,
            arrivals: Arrivals::default(),
            pending: false,
            fault: None,
            buf: Vec::new(),
            start: 0,
            offset: 0,
            target: buflen.clamp(64, RESERVE),
            large: None,
            after_large: false,
            passed: None,
        }
    }

    /// Lets frames of some ids be longer by [`CONTROL_ROOM`]: `max_frame` is the program's limit
    /// for its own payloads, and may be too small for the library's messages and for the fields
    /// that the library adds to a payload.
    pub(crate) fn with_control(mut self, is_control: fn(u32) -> bool) -> Self {
        self.is_control = is_control;
        self
    }

    /// Lets frames carry descriptors, about which there are control frames with this id.
    pub(crate) fn with_fds(mut self, control: u32) -> Self {
        self.carrier = Some(control);
        self
    }

    /// Whether there is to be room for descriptors when the next bytes are read.
    #[inline]
    pub(crate) fn takes_fds(&self) -> bool {
        self.arrivals.is_open()
    }

    /// Descriptors have come, with the last `n` bytes that were read.
    pub(crate) fn arrived(&mut self, fds: Vec<Fd>, truncated: bool, n: usize) {
        let large = self
            .large
            .as_ref()
            .map_or(0, |large| self.framing.header_len() + large.payload.len());
        let end = self.offset + (large + self.buf.len() - self.start) as u64;
        self.arrivals.arrived(fds, truncated, end - n as u64..end);
        self.pending = true;
    }

    /// Changes the limits from the next frame on. A larger buffer is kept.
    pub(crate) fn configure(&mut self, buflen: usize, max_frame: usize) {
        self.target = buflen.clamp(self.target, RESERVE);
        self.max_frame = max_frame.min(u32::MAX as usize);
    }

    /// The next complete frame: its id and its payload. One that is not complete is passed to `check`
    /// until that lets it pass. Control frames about descriptors are taken in here.
    #[inline]
    pub(crate) fn next<E: From<DecodeError>>(
        &mut self,
        mut check: impl FnMut(FrameHead<'_>) -> Result<Check, E>,
    ) -> Result<Option<(u32, Payload)>, E> {
        loop {
            let offset = self.offset;
            if self.pending {
                self.check_fds(offset)?;
            }
            let Some((id, payload)) = self.next_frame(&mut check)? else {
                return Ok(None);
            };
            if Some(id) == self.carrier && self.control(&payload, offset)? {
                continue;
            }
            return Ok(Some(match self.pending {
                false => (id, payload),
                true => (id, self.with_its_fds(payload)),
            }));
        }
    }

    /// A frame begins at `offset`: whether descriptors have come that it can have nothing to do with.
    #[cold]
    fn check_fds(&mut self, offset: u64) -> Result<(), DecodeError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let checked = self.arrivals.check(offset);
        checked.map_err(|wrong| self.wrong(offset, wrong))
    }

    /// Descriptors came as they must not. Those that are here are closed.
    fn wrong(&mut self, offset: u64, wrong: Wrong) -> DecodeError {
        let fault = DecodeError::Fds { offset, wrong };
        self.arrivals = Arrivals::default();
        (self.pending, self.fault) = (true, Some(fault));
        fault
    }

    /// Whether a control frame was about descriptors.
    fn control(&mut self, payload: &Payload, offset: u64) -> Result<bool, DecodeError> {
        let bytes = match payload {
            Payload::At(at) => &self.buf[at.clone()],
            Payload::Owned(bytes) => bytes,
            Payload::Carrying(_) => unreachable!("it was looked at before"),
        };
        let is_about = self.arrivals.control(bytes, offset);
        self.pending = self.arrivals.is_pending();
        is_about.map_err(|wrong| self.wrong(offset, wrong))
    }

    /// A payload with the descriptors that belong to it.
    #[cold]
    fn with_its_fds(&mut self, payload: Payload) -> Payload {
        let Some(fds) = self.arrivals.take() else {
            return payload;
        };
        self.pending = self.arrivals.is_pending();
        let bytes = match payload {
            Payload::At(at) => self.buf[at].to_vec(),
            Payload::Owned(bytes) => bytes,
            Payload::Carrying(_) => unreachable!("it gets them here"),
        };
        Payload::Carrying(Box::new(Carrying { bytes, fds }))
    }

    /// The next complete frame, whatever it is about.
    #[inline]
    fn next_frame<E: From<DecodeError>>(
        &mut self,
        check: impl FnOnce(FrameHead<'_>) -> Result<Check, E>,
    ) -> Result<Option<(u32, Payload)>, E> {
        if let Some(large) = &self.large {
            if large.payload.len() < large.len {
                return Ok(None);
            }
            let large = self.large.take().expect("checked above");
            self.after_large = true;
            self.offset += (self.framing.header_len() + large.len) as u64;
            return Ok(Some((large.id, Payload::Owned(large.payload))));
        }
        let Some((id, claimed)) = self.peek() else {
            return Ok(None);
        };
        let len = claimed as usize;
        if len > self.max_frame {
            self.check_control(id, claimed)?;
        }
        let at = self.start + self.framing.header_len();
        if self.buf.len() - at >= len {
            return Ok(Some((id, Payload::At(self.pass(at, len)))));
        }
        if self.passed != Some(self.offset) {
            let begun = &self.buf[at..];
            let offset = self.offset;
            let head = FrameHead {
                offset,
                id,
                claimed,
                begun,
            };
            if check(head)? == Check::Later {
                return Ok(None);
            }
            self.passed = Some(self.offset);
        }
        if len > LARGE {
            let mut payload = Vec::with_capacity(len.min(RESERVE));
            payload.extend_from_slice(&self.buf[at..]);
            // The bytes stay until `space`: they may be those of payloads in the buffer.
            self.start = self.buf.len();
            self.large = Some(Large { id, len, payload });
        }
        Ok(None)
    }

    /// The next frame, if it is complete and in the buffer, its id is `wanted`, it is not too large, and
    /// has to do with no descriptors: its id, and where its payload is. Anything else is left to
    /// [`next`](Decoder::next).
    #[inline]
    pub(crate) fn next_if(
        &mut self,
        wanted: impl FnOnce(u32) -> bool,
    ) -> Option<(u32, Range<usize>)> {
        let (id, len) = self.whole()?;
        if len > self.max_frame || !wanted(id) {
            return None;
        }
        let at = self.start + self.framing.header_len();
        Some((id, self.pass(at, len)))
    }

    /// Whether everything that was read has been taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.buf.len() == self.start && self.large.is_none()
    }

    /// Whether the next frame is complete and in the buffer.
    pub(crate) fn has_whole(&self) -> bool {
        self.whole().is_some()
    }

    /// Whether so many frames with `wanted` ids are complete and in the buffer, among the next twice as many.
    pub(crate) fn has_many(&self, many: usize, wanted: impl Fn(u32) -> bool) -> bool {
        let (mut at, mut count) = (self.start, 0);
        for _ in 0..2 * many {
            let Some((id, len)) = self.whole_at(at) else {
                return false;
            };
            at += self.framing.header_len() + len;
            count += usize::from(wanted(id));
            if count >= many {
                return true;
            }
        }
        false
    }

    /// Whether the next frame is complete, be it in the buffer or not. Then it is to be taken before more is read.
    pub(crate) fn has_frame(&self) -> bool {
        match &self.large {
            Some(large) => large.payload.len() == large.len,
            None => self.whole().is_some(),
        }
    }

    /// The next frame's id and length, if it is complete and in the buffer.
    fn whole(&self) -> Option<(u32, usize)> {
        self.whole_at(self.start)
    }

    /// As [`whole`](Decoder::whole), of the frame that begins here in the buffer.
    #[inline]
    fn whole_at(&self, at: usize) -> Option<(u32, usize)> {
        if self.large.is_some() || self.pending {
            return None;
        }
        let (id, len) = parse_header(self.framing, &self.buf[at..])?;
        // Not added to the length: with 32 bits, what is claimed may be all that a usize holds.
        let have = self.buf.len() - at - self.framing.header_len();
        (have >= len as usize).then_some((id, len as usize))
    }

    /// Advances past the payload at `at`.
    fn pass(&mut self, at: usize, len: usize) -> Range<usize> {
        self.start = at + len;
        self.after_large = false;
        self.offset += (self.framing.header_len() + len) as u64;
        at..at + len
    }

    /// Takes everything that was read, none of which was looked at: it is no frame, or may be none.
    pub(crate) fn take_all(&mut self) -> Vec<u8> {
        let bytes = self.buf.split_off(self.start);
        self.offset += bytes.len() as u64;
        bytes
    }

    /// Puts bytes into the buffer as if they had been read, of which nothing else is left there.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        debug_assert!(self.is_empty());
        self.buf.truncate(self.start);
        self.buf.extend_from_slice(bytes);
        self.offset -= bytes.len() as u64;
    }

    /// Puts the last frame taken back, as if it had not been taken.
    pub(crate) fn put_back(&mut self, id: u32, payload: Payload) {
        let header = self.framing.header_len();
        match payload {
            Payload::At(at) => {
                self.start = at.start - header;
                self.offset -= (header + at.len()) as u64;
            }
            Payload::Owned(payload) => {
                let len = payload.len();
                self.offset -= (header + len) as u64;
                self.large = Some(Large { id, len, payload });
            }
            Payload::Carrying(carrying) => {
                let Carrying { bytes, fds } = *carrying;
                self.put_back(id, Payload::Owned(bytes));
                self.arrivals.put_back(fds);
                self.pending = true;
            }
        }
    }

    /// The bytes of a payload.
    pub(crate) fn payload<'a>(&'a self, payload: &'a Payload) -> &'a [u8] {
        match payload {
            Payload::At(at) => self.bytes(at.clone()),
            Payload::Owned(bytes) => bytes,
            Payload::Carrying(carrying) => &carrying.bytes,
        }
    }

    /// The length of the frame with this payload.
    pub(crate) fn len_of(&self, payload: &Payload) -> u64 {
        (self.framing.header_len() + self.payload(payload).len()) as u64
    }

    /// The bytes of a payload that is in the buffer.
    pub(crate) fn bytes(&self, at: Range<usize>) -> &[u8] {
        &self.buf[at]
    }

    /// Space for the next bytes. Invalidates every [`Payload::At`].
    pub(crate) fn space(&mut self) -> Space<'_> {
        // `ref mut`, so that the borrow ends if there is none.
        if let Some(ref mut large) = self.large {
            let left = large.len - large.payload.len();
            debug_assert!(left > 0, "a whole large frame was not taken");
            if large.payload.len() == large.payload.capacity() {
                large
                    .payload
                    .reserve_exact(left.min(large.payload.len().max(RESERVE)));
            }
            let limit = left.min(large.payload.capacity() - large.payload.len());
            self.buf.clear();
            self.start = 0;
            let behind = (limit == left).then(|| {
                self.buf.reserve(AFTER_LARGE);
                (&mut self.buf, AFTER_LARGE)
            });
            return Space {
                buf: &mut large.payload,
                limit,
                behind,
            };
        }
        // A read that filled the buffer probably left more unread: make room for that.
        if self.buf.len() == self.buf.capacity() && self.buf.capacity() >= self.target {
            self.target = (self.target * 2).min(BUFFER.max(self.target));
        }
        self.buf.drain(..self.start);
        self.start = 0;
        // A longer one that is still here has not passed the check of its head.
        let frame = self.peek().map_or(0, |(_, len)| {
            self.framing.header_len() + (len as usize).min(LARGE)
        });
        let want = self.target.max(frame);
        if self.buf.capacity() < want || self.buf.len() == self.buf.capacity() {
            self.buf
                .reserve_exact(want.max(self.buf.len() + 1) - self.buf.len());
        }
        let mut limit = self.buf.capacity() - self.buf.len();
        if self.after_large && self.buf.is_empty() {
            limit = limit.min(AFTER_LARGE);
        }
        Space {
            buf: &mut self.buf,
            limit,
            behind: None,
        }
    }

    /// The offset in the stream of the first byte that [`next`](Decoder::next) has not taken.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether the stream may end here, which it may only between two frames.
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        let header = self.framing.header_len() as u64;
        let (have, need) = match &self.large {
            Some(large) => (
                header + large.payload.len() as u64,
                header + large.len as u64,
            ),
            None => {
                let have = (self.buf.len() - self.start) as u64;
                (
                    have,
                    self.peek()
                        .map_or(header, |(_, len)| header + u64::from(len)),
                )
            }
        };
        match have {
            0 => Ok(()),
            _ => Err(DecodeError::Truncated {
                offset: self.offset,
                have,
                need,
            }),
        }
    }

    /// Checks whether a frame above `max_frame` is allowed.
    #[cold]
    fn check_control(&self, id: u32, claimed: u32) -> Result<(), DecodeError> {
        let room = if (self.is_control)(id) {
            CONTROL_ROOM
        } else {
            0
        };
        let limit = self.max_frame.saturating_add(room);
        if claimed as usize <= limit {
            return Ok(());
        }
        let offset = self.offset;
        Err(DecodeError::TooLarge {
            offset,
            id,
            claimed,
            limit,
        })
    }

    /// The header of the next frame, if it is complete.
    fn peek(&self) -> Option<(u32, u32)> {
        parse_header(self.framing, &self.buf[self.start..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(framing: Framing, id: u32, payload: &[u8]) -> Vec<u8> {
        let (head, n) = header(framing, id, payload.len() as u32);
        [&head[..n], payload].concat()
    }

    /// The next frame, all of which may come.
    fn all(decoder: &mut Decoder) -> Result<Option<(u32, Payload)>, DecodeError> {
        decoder.next(|_| Ok(Check::Pass))
    }

    /// Feeds `bytes` in pieces of at most `split`, limited by the decoder's space.
    fn decode(
        decoder: &mut Decoder,
        mut bytes: &[u8],
        split: usize,
    ) -> Result<Vec<(u32, Vec<u8>)>, DecodeError> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let mut space = decoder.space();
            assert!(space.limit > 0 && space.buf.capacity() - space.buf.len() >= space.limit);
            let n = space.fill(&bytes[..split.min(bytes.len())]);
            bytes = &bytes[n..];
            // Payloads must stay valid until the next `space`, so they are checked last.
            let mut batch = Vec::new();
            while let Some(frame) = all(decoder)? {
                batch.push(frame);
            }
            let batch = batch.into_iter();
            frames.extend(batch.map(|(id, payload)| (id, decoder.payload(&payload).to_vec())));
        }
        Ok(frames)
    }

    #[test]
    fn any_split_yields_the_same_frames() {
        for framing in [Framing::Tagged, Framing::Counted] {
            let id = |id| if framing == Framing::Tagged { id } else { 0 };
            let want = vec![
                (id(1), vec![]),
                (id(0x8000_0002), b"abc".to_vec()),
                (id(3), vec![7; 200]),
                (id(4), (0..LARGE + 5).map(|n| n as u8).collect()),
                (id(5), vec![8; LARGE]),
                (id(6), b"z".to_vec()),
            ];
            let frames = want.iter().map(|(id, p)| frame(framing, *id, p));
            let stream = frames.collect::<Vec<_>>().concat();
            let splits =
                (1..40).chain([63, 64, 65, 4096, LARGE - 1, LARGE, LARGE + 1, stream.len()]);
            for split in splits {
                let mut decoder = Decoder::new(framing, 64, 1 << 20);
                assert_eq!(
                    decode(&mut decoder, &stream, split).unwrap(),
                    want,
                    "split {split}"
                );
                assert_eq!(decoder.offset(), stream.len() as u64);
                assert_eq!(decoder.finish(), Ok(()));
            }
        }
    }

    #[test]
    fn payload_stays_valid_while_a_large_frame_begins_after_it() {
        let mut decoder = Decoder::new(Framing::Tagged, 4096, usize::MAX);
        let want = vec![(1, b"small".to_vec()), (2, vec![9; 2 * LARGE])];
        let frames = want.iter().map(|(id, p)| frame(Framing::Tagged, *id, p));
        let stream: Vec<u8> = frames.flatten().collect();
        assert_eq!(decode(&mut decoder, &stream, usize::MAX), Ok(want));
    }

    #[test]
    fn claimed_length_is_not_allocated() {
        let mut decoder = Decoder::new(Framing::Tagged, 64, usize::MAX);
        let head = header(Framing::Tagged, 1, u32::MAX).0;
        assert_eq!(decode(&mut decoder, &head, 8), Ok(vec![]));
        assert!(decoder.space().buf.capacity() <= RESERVE);
    }

    /// A parent may request any start size from its child.
    #[test]
    fn start_size_is_clamped() {
        let mut decoder = Decoder::new(Framing::Tagged, usize::MAX, usize::MAX);
        assert!(decoder.space().buf.capacity() <= RESERVE);
        decoder.configure(usize::MAX, usize::MAX);
        assert!(decoder.space().buf.capacity() <= RESERVE);
    }

    #[test]
    fn frame_above_the_limit_is_refused_by_its_header() {
        let mut decoder = Decoder::new(Framing::Tagged, 64, 10);
        let stream = [
            frame(Framing::Tagged, 1, b"0123456789"),
            frame(Framing::Tagged, 2, b"0123456789a"),
        ]
        .concat();
        let error = decode(&mut decoder, &stream[..18 + 8], 5).unwrap_err();
        assert_eq!(
            error,
            DecodeError::TooLarge {
                offset: 18,
                id: 2,
                claimed: 11,
                limit: 10
            }
        );
    }

    #[test]
    fn end_inside_a_frame_is_reported() {
        let whole = frame(Framing::Tagged, 1, &vec![1; LARGE + 100]);
        for cut in [1, 7, 8, 9, 100, LARGE, whole.len() - 1] {
            let mut decoder = Decoder::new(Framing::Tagged, 64, usize::MAX);
            decode(&mut decoder, &frame(Framing::Tagged, 9, b"before"), 3).unwrap();
            assert_eq!(decode(&mut decoder, &whole[..cut], 1000), Ok(vec![]));
            let need = if cut < 8 { 8 } else { whole.len() as u64 };
            let want = DecodeError::Truncated {
                offset: 14,
                have: cut as u64,
                need,
            };
            assert_eq!(decoder.finish(), Err(want), "cut at {cut}");
        }
    }

    #[test]
    fn buffer_grows_with_traffic_and_not_with_a_large_frame() {
        let mut decoder = Decoder::new(Framing::Tagged, 512, usize::MAX);
        decode(
            &mut decoder,
            &frame(Framing::Tagged, 1, &vec![0; 10 * LARGE]),
            1 << 20,
        )
        .unwrap();
        assert!(decoder.space().buf.capacity() <= 1024);
        let many = frame(Framing::Tagged, 1, b"x").repeat(100_000);
        decode(&mut decoder, &many, usize::MAX).unwrap();
        let capacity = decoder.space().buf.capacity();
        assert!((BUFFER / 2..=BUFFER).contains(&capacity), "{capacity}");
    }

    const MANY: usize = LARGE + 100;

    /// Small and large frames, and their bytes.
    fn some_frames() -> (Vec<(u32, Vec<u8>)>, Vec<u8>) {
        let want = vec![
            (0, b"event".to_vec()),
            (1, vec![]),
            (0, vec![3; MANY]),
            (0, b"read with it".to_vec()),
            (2, b"abc".to_vec()),
            (0, vec![4; 300]),
        ];
        let frames = want.iter().map(|(id, p)| frame(Framing::Tagged, *id, p));
        let stream = frames.flatten().collect();
        (want, stream)
    }

    /// Reads `bytes` in pieces of at most `split`, calling `each` after every piece.
    fn read(bytes: &[u8], split: usize, mut each: impl FnMut(&mut Decoder)) -> Decoder {
        let mut decoder = Decoder::new(Framing::Tagged, 64, usize::MAX);
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = decoder.space().fill(&rest[..split.min(rest.len())]);
            rest = &rest[n..];
            each(&mut decoder);
        }
        decoder
    }

    const SPLITS: &[usize] = &[1, 3, 7, 8, 9, 100, 4096, LARGE, usize::MAX];

    #[test]
    fn frame_that_is_put_back_is_returned_again() {
        let (want, stream) = some_frames();
        for &split in SPLITS {
            let mut got = Vec::new();
            let decoder = read(&stream, split, |decoder| {
                let mut before = decoder.offset();
                while let Some((id, payload)) = all(decoder).unwrap() {
                    let (bytes, after) = (decoder.payload(&payload).to_vec(), decoder.offset());
                    decoder.put_back(id, payload);
                    assert_eq!(decoder.offset(), before, "split {split}");
                    assert!(decoder.finish().is_err(), "there is a frame");
                    let (again, payload) = all(decoder).unwrap().unwrap();
                    assert_eq!((again, decoder.payload(&payload)), (id, &bytes[..]));
                    assert_eq!(decoder.offset(), after);
                    got.push((id, bytes));
                    before = after;
                }
            });
            assert_eq!(got, want, "split {split}");
            assert_eq!(decoder.finish(), Ok(()));
        }
    }

    #[test]
    fn frame_with_descriptors_can_be_put_back_and_no_other_path_takes_it() {
        let fd = Fd::from(std::fs::File::open("/dev/null").unwrap());
        let mut decoder = Decoder::new(Framing::Tagged, 64, 1 << 20).with_fds(0);
        let announced = frame(Framing::Tagged, 0, b"\x03fds\x03001\x03000");
        let own = frame(Framing::Tagged, 7, b"own");
        let stream = [&announced[..], &own, &own].concat();
        decoder.space().fill(&stream);
        decoder.arrived(vec![fd.clone()], false, stream.len());
        for _ in 0..3 {
            assert!(decoder.next_if(|_| true).is_none() && !decoder.has_whole());
            let (id, payload) = all(&mut decoder).unwrap().unwrap();
            assert_eq!(decoder.payload(&payload), b"own");
            assert_eq!(decoder.len_of(&payload), own.len() as u64);
            let Payload::Carrying(carrying) = &payload else {
                panic!("it has a descriptor");
            };
            assert!(carrying.fds.all().unwrap()[0].is_clone_of(&fd));
            decoder.put_back(id, payload);
        }
        all(&mut decoder).unwrap().unwrap();
        assert_eq!(fd.clones(), 1);
        let (_, next) = all(&mut decoder).unwrap().unwrap();
        assert!(matches!(next, Payload::At(_)), "that has none");
    }

    #[test]
    fn fault_is_found_again_and_keeps_no_descriptor() {
        let fd = Fd::from(std::fs::File::open("/dev/null").unwrap());
        let mut decoder = Decoder::new(Framing::Tagged, 64, 1 << 20).with_fds(0);
        let frames = frame(Framing::Tagged, 7, b"").repeat(3);
        decoder.space().fill(&frames[..16]);
        decoder.arrived(vec![fd.clone()], false, 16);
        assert!(all(&mut decoder).unwrap().is_some());
        assert!(all(&mut decoder).unwrap().is_some());
        let (offset, wrong) = (16, Wrong::Unannounced);
        for _ in 0..2 {
            assert_eq!(all(&mut decoder), Err(DecodeError::Fds { offset, wrong }));
            decoder.space().fill(&frames[16..]);
        }
        assert_eq!(fd.clones(), 1);
    }

    #[test]
    fn next_if_takes_only_what_is_wanted_and_whole() {
        let (want, stream) = some_frames();
        for &split in SPLITS {
            let mut got = Vec::new();
            read(&stream, split, |decoder| {
                loop {
                    let offset = decoder.offset();
                    assert!(decoder.next_if(|id| id == 7).is_none());
                    assert_eq!(decoder.offset(), offset, "split {split}");
                    let next = match decoder.next_if(|id| id == 0) {
                        Some((id, at)) => Some((id, Payload::At(at))),
                        None => all(decoder).unwrap(),
                    };
                    let Some((id, payload)) = next else {
                        break;
                    };
                    got.push((id, decoder.payload(&payload).to_vec()));
                }
            });
            assert_eq!(got, want, "split {split}");
        }
    }

    #[test]
    fn next_if_leaves_an_error_to_next() {
        let stream = frame(Framing::Tagged, 0, b"0123456789a");
        let mut decoder = Decoder::new(Framing::Tagged, 64, 10);
        decoder.space().buf.extend_from_slice(&stream);
        for _ in 0..2 {
            assert!(decoder.next_if(|id| id == 0).is_none());
            assert!(all(&mut decoder).is_err());
        }
    }

    #[test]
    fn read_that_completes_a_large_frame_reads_what_follows() {
        let (want, stream) = some_frames();
        let mut got = Vec::new();
        let mut reads = 0;
        read(&stream, usize::MAX, |decoder| {
            reads += 1;
            while let Some((id, payload)) = all(decoder).unwrap() {
                got.push((id, decoder.payload(&payload).to_vec()));
            }
        });
        assert_eq!(got, want);
        assert_eq!(reads, 2, "its beginning, then everything else");
    }

    #[test]
    fn has_whole_is_true_for_complete_frames_only() {
        let whole = frame(Framing::Tagged, 1, b"payload");
        for cut in 0..=whole.len() {
            let mut decoder = Decoder::new(Framing::Tagged, 64, usize::MAX);
            decoder.space().buf.extend_from_slice(&whole[..cut]);
            assert_eq!(decoder.has_whole(), cut == whole.len(), "cut at {cut}");
        }
    }

    #[test]
    fn has_many_counts_complete_frames_that_are_wanted() {
        let [wanted, other] = [1, 0].map(|id| frame(Framing::Tagged, id, b"payload"));
        let [wanted, other] = [&wanted[..], &other];
        let has_three = |frames: &[&[u8]], cut: usize| {
            let mut decoder = Decoder::new(Framing::Tagged, 1000, usize::MAX);
            let mut bytes = frames.concat();
            bytes.truncate(bytes.len() - cut);
            decoder.space().fill(&bytes);
            decoder.has_many(3, |id| id == 1)
        };
        assert!(!has_three(&[], 0) && !has_three(&[wanted; 2], 0));
        assert!(has_three(&[wanted; 3], 0) && has_three(&[wanted; 4], 1));
        assert!(!has_three(&[wanted; 3], 1), "the third is not complete");
        assert!(has_three(&[other, wanted].repeat(3), 0));
        let late = [other, other, wanted, other, wanted, other, wanted];
        assert!(!has_three(&late, 0), "no more than six are looked at");
    }

    #[test]
    fn has_whole_is_false_for_a_large_frame() {
        let large = frame(Framing::Tagged, 1, &[1; MANY]);
        let small = frame(Framing::Tagged, 1, b"small");
        read(&[&large[..], &small].concat(), 1000, |decoder| {
            if decoder.offset() == 0 {
                assert!(!decoder.has_whole());
                all(decoder).unwrap();
            }
        });
    }

    #[test]
    fn has_frame_is_true_for_complete_frames_of_any_length() {
        for payload in [&[1; MANY][..], b"small"] {
            let whole = frame(Framing::Tagged, 1, payload);
            let (mut decoder, mut at) = (Decoder::new(Framing::Tagged, 64, usize::MAX), 0);
            while at < whole.len() {
                assert!(!decoder.has_frame(), "{at} bytes have come");
                let part = &whole[at..whole.len().min(at + 1000)];
                at += decoder.space().fill(part);
                if at < whole.len() {
                    assert!(all(&mut decoder).unwrap().is_none());
                }
            }
            assert!(decoder.has_frame());
            assert!(all(&mut decoder).unwrap().is_some());
            assert!(!decoder.has_frame());
        }
    }

    /// Of each frame that is not whole, the head is judged once, or until it may come.
    #[test]
    fn heads_are_judged_until_they_pass() {
        let (_, stream) = some_frames();
        for &split in SPLITS {
            let mut passed = Vec::new();
            read(&stream, split, |decoder| {
                loop {
                    let offset = decoder.offset();
                    let check = |head: FrameHead<'_>| {
                        let beginning = stream[offset as usize + 8..].starts_with(head.begun);
                        assert!(beginning && head.begun.len() < head.claimed as usize);
                        // It passes when something of it has come.
                        if head.begun.is_empty() {
                            return Ok(Check::Later);
                        }
                        passed.push(offset);
                        Ok::<_, DecodeError>(Check::Pass)
                    };
                    if decoder.next(check).unwrap().is_none() {
                        break;
                    }
                }
            });
            let before = passed.len();
            passed.dedup();
            assert_eq!(passed.len(), before, "judged after it had passed");
            // One large frame comes in several reads, however long they are.
            assert!(!passed.is_empty());
        }
    }

    #[test]
    fn frame_that_is_refused_is_not_reserved_for() {
        for claimed in [1, 100, LARGE + 1, 60 << 20] {
            let head = header(Framing::Tagged, 7, claimed as u32).0;
            let mut decoder = Decoder::new(Framing::Tagged, 64, usize::MAX);
            decoder.space().fill(&head[..7]);
            let refuse = |_: FrameHead<'_>| {
                let (offset, have, need) = (0, 0, 0);
                Err(DecodeError::Truncated { offset, have, need })
            };
            assert_eq!(decoder.next(refuse), Ok(None), "the header has not come");
            decoder.space().fill(&head[7..]);
            assert!(decoder.next(refuse).is_err());
            let later = |_: FrameHead<'_>| Ok::<_, DecodeError>(Check::Later);
            for _ in 0..100 {
                assert_eq!(decoder.next(later), Ok(None));
                assert!(decoder.space().fill(&[0]) == 1);
                assert!(decoder.space().buf.capacity() <= LARGE + 8);
                if decoder.has_whole() {
                    break;
                }
            }
        }
    }
}

use super::{Script, Stream, allowed};
use crate::wire::{DecodeError, Decoder, Framing, LARGE, Payload};

/// The frames of a stream, how it ended, and at which offset.
type Decoded = (Vec<(u32, Vec<u8>)>, Result<(), DecodeError>, u64);

/// The frame decoder: any split of any bytes yields the same frames and error as a naive decoder of
/// the whole stream, and memory stays within the limit. Frames may be put back and taken again, and
/// be taken by their id, at any time.
pub fn frames(data: &[u8]) {
    let mut script = Script(data);
    let framing = script.pick(&[Framing::Tagged, Framing::Counted]);
    let max_frame = script.pick(&[0, 5, 300, LARGE, 150_000, usize::MAX]);
    let buflen = script.pick(&[0, 64, 1000, 100_000, usize::MAX]);
    let stream = Stream::read(&mut script);
    let want = naive(framing, max_frame, &stream.bytes);
    assert_eq!(decode(framing, max_frame, buflen, &stream.whole()), want);
    assert_eq!(decode(framing, max_frame, buflen, &stream), want);
}

fn decode(framing: Framing, max_frame: usize, buflen: usize, stream: &Stream) -> Decoded {
    // The sizes of the pieces also choose how frames are taken.
    let mut choices = stream.pieces.iter().cycle();
    let mut decoder = Decoder::new(framing, buflen, max_frame);
    let mut frames = Vec::new();
    let result = stream.feed(
        &mut decoder,
        |arrived| allowed(buflen, max_frame, arrived),
        Decoder::space,
        |decoder| {
            while let Some((id, payload)) = next(decoder, choices.next().copied())? {
                let payload = match payload {
                    Payload::At(at) => decoder.bytes(at).to_vec(),
                    Payload::Owned(bytes) => bytes,
                };
                frames.push((id, payload));
            }
            Ok(())
        },
    );
    let end = result.and_then(|()| decoder.finish());
    (frames, end, decoder.offset())
}

/// The next frame, taken in the way that `choice` chooses.
fn next(
    decoder: &mut Decoder,
    choice: Option<usize>,
) -> Result<Option<(u32, Payload)>, DecodeError> {
    let choice = choice.unwrap_or(0);
    let offset = decoder.offset();
    if choice & 1 != 0 {
        // An unwanted frame is never returned.
        assert!(decoder.next_if(|_| false).is_none());
        let has_whole = decoder.has_whole();
        if let Some((id, at)) = decoder.next_if(|_| choice & 2 != 0) {
            assert!(has_whole && choice & 2 != 0);
            return Ok(Some((id, Payload::At(at))));
        }
        assert_eq!(decoder.offset(), offset);
    }
    for _ in 0..choice & 3 {
        let Some((id, payload)) = decoder.next()? else {
            return Ok(None);
        };
        decoder.put_back(id, payload);
        assert_eq!(decoder.offset(), offset);
    }
    decoder.next()
}

fn naive(framing: Framing, limit: usize, stream: &[u8]) -> Decoded {
    let header = framing.header_len();
    let number = |at: usize| u32::from_be_bytes(stream[at..at + 4].try_into().unwrap());
    let (mut frames, mut at) = (Vec::new(), 0);
    let end = loop {
        let (offset, have) = (at as u64, stream.len() - at);
        let truncated = |need| {
            Err(DecodeError::Truncated {
                offset,
                have: have as u64,
                need,
            })
        };
        if have == 0 {
            break Ok(());
        }
        if have < header {
            break truncated(header as u64);
        }
        let id = if header == 8 { number(at) } else { 0 };
        let claimed = number(at + header - 4);
        if claimed as usize > limit {
            break Err(DecodeError::TooLarge {
                offset,
                id,
                claimed,
                limit,
            });
        }
        if have - header < claimed as usize {
            break truncated(header as u64 + u64::from(claimed));
        }
        let need = header + claimed as usize;
        frames.push((id, stream[at + header..at + need].to_vec()));
        at += need;
    };
    (frames, end, at as u64)
}

use super::{Script, Stream, allowed};
use crate::wire::{Check, DecodeError, Decoder, FrameHead, Framing, LARGE, Payload};

/// The frames of a stream, how it ended, and at which offset.
type Decoded = (Vec<(u32, Vec<u8>)>, Result<(), End>, u64);

#[derive(Debug, PartialEq, Eq)]
enum End {
    Decode(DecodeError),
    /// By the [`Rule`], of the frame with this header.
    Refused(u32, u32),
}

impl From<DecodeError> for End {
    fn from(error: DecodeError) -> Self {
        End::Decode(error)
    }
}

/// A rule of those who take frames.
#[derive(Clone, Copy)]
struct Rule {
    /// Of so many headers one is refused, 0 for none.
    one_in: u32,
    /// How many bytes of the payload must have come for it to be applied.
    telling: usize,
}

impl Rule {
    fn check(self, id: u32, claimed: u32, begun: usize) -> Result<Check, End> {
        match self.one_in {
            0 => Ok(Check::Pass),
            _ if begun < self.telling.min(claimed as usize) => Ok(Check::Later),
            n if (id ^ claimed).is_multiple_of(n) => Err(End::Refused(id, claimed)),
            _ => Ok(Check::Pass),
        }
    }

    /// The check of a decoder.
    fn of_head(self) -> impl Fn(FrameHead<'_>) -> Result<Check, End> {
        move |head| self.check(head.id, head.claimed, head.begun.len())
    }
}

/// The frame decoder: any split of any bytes yields the same frames and error as a naive decoder of
/// the whole stream, and memory stays within the limit. Frames may be put back and taken again, and
/// be taken by their id, at any time. A frame that a rule refuses is an error as soon as the rule can
/// be applied, whether more of it has come or not.
pub fn frames(data: &[u8]) {
    let mut script = Script(data);
    let choice = script.byte();
    let framing = [Framing::Tagged, Framing::Counted][usize::from(choice % 2)];
    let rule = Rule {
        one_in: [0, 3, 1, 13][usize::from(choice / 2 % 4)],
        telling: [0, 1, 60, LARGE + 9][usize::from(choice / 8 % 4)],
    };
    let max_frame = script.pick(&[0, 5, 300, LARGE, 150_000, usize::MAX]);
    let buflen = script.pick(&[0, 64, 1000, 100_000, usize::MAX]);
    let stream = Stream::read(&mut script);
    let want = naive(framing, max_frame, rule, &stream.bytes);
    for stream in [&stream.whole(), &stream] {
        assert_eq!(decode(framing, max_frame, buflen, rule, stream), want);
    }
}

fn decode(
    framing: Framing,
    max_frame: usize,
    buflen: usize,
    rule: Rule,
    stream: &Stream,
) -> Decoded {
    // The sizes of the pieces also choose how frames are taken.
    let mut choices = stream.pieces.iter().cycle();
    let mut decoder = Decoder::new(framing, buflen, max_frame);
    let mut frames = Vec::new();
    let result = stream.feed(
        &mut decoder,
        |arrived| allowed(buflen, max_frame, arrived),
        Decoder::space,
        |decoder| {
            let mut offset = decoder.offset();
            while let Some((id, payload)) = next(decoder, rule, choices.next().copied())? {
                // Of whole frames this is not done by the decoder.
                let len = decoder.payload(&payload).len();
                if let Err(refused) = rule.check(id, len as u32, len) {
                    decoder.put_back(id, payload);
                    assert_eq!(decoder.offset(), offset);
                    return Err(refused);
                }
                offset = decoder.offset();
                frames.push((id, decoder.payload(&payload).to_vec()));
            }
            Ok(())
        },
    );
    let end = result.and_then(|()| Ok(decoder.finish()?));
    (frames, end, decoder.offset())
}

/// The next frame, taken in the way that `choice` chooses.
fn next(
    decoder: &mut Decoder,
    rule: Rule,
    choice: Option<usize>,
) -> Result<Option<(u32, Payload)>, End> {
    let choice = choice.unwrap_or(0);
    let offset = decoder.offset();
    if choice & 1 != 0 {
        // An unwanted frame is never returned.
        assert!(decoder.next_if(|_| false).is_none());
        let has_whole = decoder.has_whole();
        assert_eq!(decoder.has_many(1, |_| true), has_whole);
        assert!(has_whole || !decoder.has_many(2, |_| true));
        if let Some((id, at)) = decoder.next_if(|_| choice & 2 != 0) {
            assert!(has_whole && choice & 2 != 0);
            return Ok(Some((id, Payload::At(at))));
        }
        assert_eq!(decoder.offset(), offset);
    }
    for _ in 0..choice & 3 {
        let Some((id, payload)) = decoder.next(rule.of_head())? else {
            return Ok(None);
        };
        decoder.put_back(id, payload);
        assert_eq!(decoder.offset(), offset);
    }
    decoder.next(rule.of_head())
}

fn naive(framing: Framing, limit: usize, rule: Rule, stream: &[u8]) -> Decoded {
    let header = framing.header_len();
    let number = |at: usize| u32::from_be_bytes(stream[at..at + 4].try_into().unwrap());
    let (mut frames, mut at) = (Vec::new(), 0);
    let end = loop {
        let (offset, have) = (at as u64, stream.len() - at);
        let truncated = |need| {
            Err(End::Decode(DecodeError::Truncated {
                offset,
                have: have as u64,
                need,
            }))
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
            break Err(End::Decode(DecodeError::TooLarge {
                offset,
                id,
                claimed,
                limit,
            }));
        }
        if let Err(refused) = rule.check(id, claimed, have - header) {
            break Err(refused);
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

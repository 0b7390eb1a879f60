//! The child's side of the conversation with its parent, as a state machine. Pure: bytes in, steps
//! out.
//!
//! ```text
//!   Starting ── run ──▶ Serving          plain peers serve from the start
//!    setups              requests
//! ```
//!
//! Read into the [`decoder`](Session::decoder), then take steps with [`next`](Session::next) until there are
//! none.

use crate::codec::Input;
use crate::wire::Plain;
use crate::wire::{
    self, AskAnswer, Check, ControlError, DecodeError, Decoder, Fds, FrameHead, Framing,
    FunctionId, LONGEST_CONTROL, LONGEST_SETUP, Payload, Run, SmallBytes, ToChild,
};
use std::fmt;
use std::ops::Range;

/// See the module's documentation.
pub(crate) struct Session {
    plain: Option<Plain>,
    serving: bool,
    /// How many requests have come, in the mode in which they carry no ids.
    count: u32,
    decoder: Decoder,
    /// A control message that was too large for the decoder's buffer.
    held: Vec<u8>,
    /// Whether [many](Session::has_many) requests came together, of which some are left.
    many: bool,
}

/// What a child may know by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// A call that runs.
    Call(u32),
    /// An ask that is not answered.
    Ask(u32),
}

/// What a child is to do next.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// Become a template: copies of this process are to serve. So much memory or more is put into huge pages.
    Template { huge_pages: u64 },
    /// Take this as the lifeline.
    Lifeline(Fds),
    /// The parent is on another machine.
    Far,
    /// Apply these settings, which are still encoded.
    Settings(&'a [u8]),
    /// Run a setup.
    Setup {
        setup: FunctionId<'a>,
        request: Input<'a>,
    },
    /// Serve. The requests that come first are for this function.
    Run(Run<'a>),
    /// The requests that follow are for this function.
    Function(FunctionId<'a>),
    /// Answer a request; the reply carries the id.
    Request { id: u32, payload: Input<'a> },
    /// The parent does not wait for the answer to this request any more.
    Cancel { id: u32 },
    /// The answer to an ask, with its descriptors.
    Answer(AskAnswer<'a>, Fds),
}

/// How a parent broke the protocol, and with which frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ParentViolation {
    Decode(DecodeError),
    /// A control frame cannot be read.
    Control {
        offset: u64,
        error: ControlError,
    },
    /// A control frame is too long.
    LongControl {
        offset: u64,
        claimed: usize,
        limit: usize,
    },
    /// A request before `run`.
    TooEarly {
        offset: u64,
        id: u32,
    },
    /// A setup, or another function, after `run`.
    TooLate {
        offset: u64,
    },
    /// A request with the id of one that is not answered yet.
    Duplicate {
        id: u32,
    },
    /// The answer to an ask that was never made, or is answered.
    UnknownAsk {
        id: u32,
    },
    /// An id that requests do not have.
    Id {
        offset: u64,
        id: u32,
    },
}

impl From<DecodeError> for ParentViolation {
    fn from(error: DecodeError) -> Self {
        ParentViolation::Decode(error)
    }
}

impl fmt::Display for ParentViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParentViolation::Decode(error) => error.fmt(f),
            ParentViolation::Control { offset, error } => write!(f, "at offset {offset}: {error}"),
            ParentViolation::LongControl {
                offset,
                claimed,
                limit,
            } => write!(
                f,
                "at offset {offset}: expected a control message of at most {limit} bytes, got one \
                 of {claimed}; long data belongs into requests"
            ),
            ParentViolation::TooEarly { offset, id } => write!(
                f,
                "at offset {offset}: expected `setup` or `run` first, got a frame with id {id:#x}"
            ),
            ParentViolation::TooLate { offset } => write!(
                f,
                "at offset {offset}: expected `setup` and `run` before the first request, got one \
                 of them later"
            ),
            ParentViolation::Duplicate { id } => {
                write!(
                    f,
                    "expected a new id, got a request with id {id}, which is not answered yet"
                )
            }
            ParentViolation::UnknownAsk { id } => write!(
                f,
                "expected the answer to an ask, got one to {id}, which was never made or is answered"
            ),
            ParentViolation::Id { offset, id } => write!(
                f,
                "at offset {offset}: expected a request, got a frame with id {id:#x}"
            ),
        }
    }
}

impl Session {
    /// A session that has not begun. Its buffer starts at `buflen` bytes.
    pub(crate) fn new(plain: Option<Plain>, buflen: usize) -> Self {
        let framing = match plain {
            Some(Plain::Ordered) => Framing::Counted,
            Some(Plain::Tagged | Plain::Fallible) | None => Framing::Tagged,
        };
        let mut decoder = Decoder::new(framing, buflen, u32::MAX as usize);
        if plain.is_none() {
            decoder = decoder
                .with_control(|id| id == wire::CONTROL_TO_CHILD)
                .with_fds(wire::CONTROL_TO_CHILD);
        }
        Session {
            plain,
            serving: plain.is_some(),
            count: 0,
            decoder,
            held: Vec::new(),
            many: false,
        }
    }

    /// Where the next bytes go.
    pub(crate) fn decoder(&mut self) -> &mut Decoder {
        &mut self.decoder
    }

    /// The next request, if that is the next step, and has come whole and is not large: the fast path
    /// of [`next`](Session::next). Returns its id, and where its [bytes](Session::bytes) are until the next
    /// step or read.
    #[inline]
    pub(crate) fn request_at(&mut self) -> Option<(u32, Range<usize>)> {
        let (serving, plain) = (self.serving, self.plain);
        let (id, at) = self.decoder.next_if(|id| match plain {
            None => serving && id != wire::CONTROL_TO_CHILD && id <= wire::MAX_ID,
            Some(Plain::Tagged) => id != 0,
            Some(Plain::Fallible) => id != 0 && id <= wire::MAX_ID,
            Some(Plain::Ordered) => true,
        })?;
        let id = match plain {
            None | Some(Plain::Tagged | Plain::Fallible) => id,
            Some(Plain::Ordered) => self.counted(),
        };
        Some((id, at))
    }

    /// The payload of a request.
    pub(crate) fn bytes(&self, at: Range<usize>) -> &[u8] {
        self.decoder.bytes(at)
    }

    /// Whether there is a step that can be taken without reading, and there were so many requests to be taken, now
    /// or since [requests were taken](Session::request_at) that have come with them.
    #[inline]
    pub(crate) fn has_many(&mut self, many: usize) -> bool {
        if !self.decoder.has_whole() {
            self.many = false;
        } else if !self.many {
            let is_plain = self.plain.is_some();
            let is_request = |id| is_plain || id != wire::CONTROL_TO_CHILD;
            self.many = self.decoder.has_many(many, is_request);
        }
        self.many
    }

    /// The next step, if it has come whole. What `is_open` says of them decides early, however long they
    /// claim to be: a request must not have the id of a call that runs, and an answer must have that of an
    /// ask that is open.
    pub(crate) fn next(
        &mut self,
        is_open: impl Fn(Known) -> bool,
    ) -> Result<Option<Step<'_>>, ParentViolation> {
        // It may be as large as an answer.
        self.held = Vec::new();
        self.many = false;
        let rules = Rules {
            plain: self.plain,
            serving: self.serving,
        };
        let check = |head: FrameHead<'_>| {
            let id = head.id;
            let check = rules.check(head.offset, id, head.claimed as usize, head.begun)?;
            // Where requests have no ids, there is nothing to compare.
            if rules.is_request(id) {
                if is_open(Known::Call(id)) {
                    return Err(ParentViolation::Duplicate { id });
                }
            } else if let Some(id) = rules.answers(id, head.begun)
                && !is_open(Known::Ask(id))
            {
                return Err(ParentViolation::UnknownAsk { id });
            }
            Ok(check)
        };
        let Some((id, payload)) = self.decoder.next(check)? else {
            return Ok(None);
        };
        let offset = self.decoder.offset() - self.decoder.len_of(&payload);
        let bytes = self.decoder.payload(&payload);
        rules.check(offset, id, bytes.len(), bytes)?;
        let id = match self.plain {
            None if id == wire::CONTROL_TO_CHILD => {
                return self.control(payload, offset).map(Some);
            }
            None | Some(Plain::Tagged | Plain::Fallible) => id,
            Some(Plain::Ordered) => self.counted(),
        };
        let payload = match payload {
            Payload::At(at) => Input::from(self.decoder.bytes(at)),
            Payload::Owned(bytes) => Input::from(bytes),
            Payload::Carrying(carrying) => Input::from(SmallBytes::from(carrying)),
        };
        Ok(Some(Step::Request { id, payload }))
    }

    /// Checks whether the requests may end here: between two frames they may.
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        self.decoder.finish()
    }

    /// Requests come from now on, within the parent's limits.
    pub(crate) fn serve(&mut self, buflen: usize, max_frame: usize) {
        self.serving = true;
        self.decoder.configure(buflen, max_frame);
    }

    /// The id of a request that carries none.
    fn counted(&mut self) -> u32 {
        self.count = self.count.wrapping_add(1);
        self.count
    }

    fn control(&mut self, payload: Payload, offset: u64) -> Result<Step<'_>, ParentViolation> {
        let mut fds = Fds::default();
        let bytes = match payload {
            Payload::At(at) => self.decoder.bytes(at),
            Payload::Owned(bytes) => {
                self.held = bytes;
                &self.held
            }
            Payload::Carrying(carrying) => {
                (self.held, fds) = (carrying.bytes, carrying.fds);
                &self.held
            }
        };
        let message = ToChild::decode(bytes);
        let message = message.map_err(|error| ParentViolation::Control { offset, error })?;
        match message {
            ToChild::Template { huge_pages } if !self.serving => Ok(Step::Template { huge_pages }),
            ToChild::Lifeline if !self.serving => Ok(Step::Lifeline(fds)),
            ToChild::Far if !self.serving => Ok(Step::Far),
            ToChild::Settings(settings) if !self.serving => Ok(Step::Settings(settings)),
            ToChild::Setup { setup, request } if !self.serving => {
                let request = Input::carrying(request, fds);
                Ok(Step::Setup { setup, request })
            }
            ToChild::Run(run) if !self.serving => Ok(Step::Run(run)),
            ToChild::Template { .. }
            | ToChild::Lifeline
            | ToChild::Far
            | ToChild::Settings(_)
            | ToChild::Setup { .. }
            | ToChild::Run(_) => Err(ParentViolation::TooLate { offset }),
            ToChild::Function(_) | ToChild::Cancel { .. } | ToChild::Answer(_) if !self.serving => {
                let id = wire::CONTROL_TO_CHILD;
                Err(ParentViolation::TooEarly { offset, id })
            }
            ToChild::Function(function) => Ok(Step::Function(function)),
            ToChild::Cancel { id } => Ok(Step::Cancel { id }),
            ToChild::Answer(answer) => Ok(Step::Answer(answer, fds)),
        }
    }
}

/// Which frames may come, by their headers.
#[derive(Clone, Copy)]
struct Rules {
    plain: Option<Plain>,
    serving: bool,
}

impl Rules {
    /// Whether a frame with this id is a request that has it.
    fn is_request(self, id: u32) -> bool {
        match self.plain {
            None => id != wire::CONTROL_TO_CHILD,
            Some(Plain::Tagged | Plain::Fallible) => true,
            Some(Plain::Ordered) => false,
        }
    }

    /// The ask that a frame answers, which begins like this.
    fn answers(self, id: u32, begun: &[u8]) -> Option<u32> {
        let is_control = self.plain.is_none() && self.serving && id == wire::CONTROL_TO_CHILD;
        is_control.then(|| ToChild::answered(begun))?
    }

    /// Judges the frame at `offset` by its header and the beginning of its payload.
    fn check(
        self,
        offset: u64,
        id: u32,
        len: usize,
        begun: &[u8],
    ) -> Result<Check, ParentViolation> {
        let Rules { plain, serving } = self;
        match plain {
            None if id == wire::CONTROL_TO_CHILD => {
                let limit = if serving {
                    LONGEST_CONTROL
                } else {
                    LONGEST_SETUP
                };
                if len <= limit || serving && ToChild::answered(begun).is_some() {
                    return Ok(Check::Pass);
                }
                if serving && begun.len() < wire::TELLING {
                    return Ok(Check::Later);
                }
                Err(ParentViolation::LongControl {
                    offset,
                    claimed: len,
                    limit,
                })
            }
            None if !serving => Err(ParentViolation::TooEarly { offset, id }),
            None | Some(Plain::Fallible) if id > wire::MAX_ID => {
                Err(ParentViolation::Id { offset, id })
            }
            // The original counts up to 2^32 - 1 in the tagged mode.
            Some(Plain::Tagged | Plain::Fallible) if id == 0 => {
                Err(ParentViolation::Id { offset, id })
            }
            _ => Ok(Check::Pass),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fd::Fd;
    use crate::wire::{header, octets};

    fn frame(id: u32, payload: &[u8]) -> Vec<u8> {
        let (head, n) = header(Framing::Tagged, id, payload.len() as u32);
        [&head[..n], payload].concat()
    }

    fn run() -> Vec<u8> {
        let run = Run {
            protocol: wire::VERSION,
            function: FunctionId {
                name: "f",
                version: 0,
                codec: "c",
            },
            max_frame: 30,
            buflen: 64,
        };
        frame(wire::CONTROL_TO_CHILD, &ToChild::Run(run).encode())
    }

    /// The steps of a session whose input comes in pieces of `split` bytes.
    fn steps(
        session: &mut Session,
        mut bytes: &[u8],
        split: usize,
    ) -> Result<Vec<String>, ParentViolation> {
        let mut steps = Vec::new();
        while !bytes.is_empty() {
            let n = session
                .decoder()
                .space()
                .fill(&bytes[..split.min(bytes.len())]);
            bytes = &bytes[n..];
            loop {
                let limits = match session.next(|_| false)? {
                    None => break,
                    Some(Step::Template { huge_pages }) => {
                        steps.push(format!("template {huge_pages}"));
                        None
                    }
                    Some(Step::Far) => {
                        steps.push("far".to_owned());
                        None
                    }
                    Some(Step::Lifeline(fds)) => {
                        steps.push(format!("lifeline {}", fds.len()));
                        None
                    }
                    Some(Step::Settings(settings)) => {
                        steps.push(format!("settings {}", settings.len()));
                        None
                    }
                    Some(Step::Setup { setup, request }) => {
                        steps.push(format!("setup {} {}", setup.name, request.len()));
                        None
                    }
                    Some(Step::Run(run)) => {
                        steps.push(format!("run {}", run.function.name));
                        Some((run.buflen, run.max_frame))
                    }
                    Some(Step::Function(function)) => {
                        steps.push(format!("function {} {}", function.name, function.version));
                        None
                    }
                    Some(Step::Answer(answer, _)) => {
                        let AskAnswer { id, payload, .. } = answer;
                        steps.push(format!("answer {id} {}", payload.len()));
                        None
                    }
                    Some(Step::Cancel { id }) => {
                        steps.push(format!("cancel {id}"));
                        None
                    }
                    Some(Step::Request { id, payload }) => {
                        steps.push(format!("request {id} {}", payload.len()));
                        None
                    }
                };
                if let Some((buflen, max_frame)) = limits {
                    session.serve(buflen as usize, max_frame as usize);
                }
            }
        }
        Ok(steps)
    }

    fn all(bytes: &[u8]) -> Result<Vec<String>, ParentViolation> {
        steps(&mut Session::new(None, 64), bytes, usize::MAX)
    }

    #[test]
    fn start_and_requests_in_any_split() {
        let strings = octets::encode([vec![b'x'; 100_000]]);
        let setup = ToChild::Setup {
            setup: FunctionId {
                name: "s",
                version: 0,
                codec: "c",
            },
            request: &strings,
        };
        let other = ToChild::Function(FunctionId {
            name: "g",
            version: 3,
            codec: "c",
        });
        let template = ToChild::Template { huge_pages: 9 };
        let settings = ToChild::Settings(b"\x04nice\x011");
        let stream = [
            frame(wire::CONTROL_TO_CHILD, &template.encode()),
            frame(wire::CONTROL_TO_CHILD, &ToChild::Lifeline.encode()),
            frame(wire::CONTROL_TO_CHILD, &settings.encode()),
            frame(wire::CONTROL_TO_CHILD, &setup.encode()),
            run(),
            frame(1, b""),
            frame(wire::CONTROL_TO_CHILD, &other.encode()),
            frame(wire::MAX_ID, b"0123456789"),
            frame(wire::CONTROL_TO_CHILD, &ToChild::Cancel { id: 1 }.encode()),
        ]
        .concat();
        for split in [1, 7, 8, 9, 1000, usize::MAX] {
            let mut session = Session::new(None, 64);
            assert_eq!(
                steps(&mut session, &stream, split).unwrap(),
                [
                    "template 9",
                    "lifeline 0",
                    "settings 7",
                    "setup s 100003",
                    "run f",
                    "request 1 0",
                    "function g 3",
                    "request 2147483647 10",
                    "cancel 1"
                ]
            );
            assert_eq!(session.finish(), Ok(()));
        }
    }

    #[test]
    fn many_requests_are_many_until_none_is_left() {
        let other = frame(wire::CONTROL_TO_CHILD, &ToChild::Cancel { id: 9 }.encode());
        let mut session = Session::new(None, 4096);
        steps(&mut session, &run(), usize::MAX).unwrap();
        let mut take = |frames: &[Vec<u8>]| {
            session.decoder().space().fill(&frames.concat());
            let mut all = Vec::new();
            while session.request_at().is_some() {
                all.push(session.has_many(2));
            }
            while session.next(|_| false).unwrap().is_some() {}
            all
        };
        let request = |id| frame(id, b"");
        assert_eq!(take(&[1, 2].map(request)), [false, false]);
        assert_eq!(take(&[1, 2, 3, 4].map(request)), [true, true, true, false]);
        // What else was taken meanwhile does not count.
        let [one, two] = [1, 2].map(request);
        let mixed = [one.clone(), other.clone(), two.clone(), other.clone()];
        assert_eq!(take(&mixed), [false]);
        let many = [&[one, two][..], &mixed].concat();
        assert_eq!(take(&many), [true, true, true]);
        assert_eq!(take(&[1, 2].map(request)), [false, false]);
    }

    #[test]
    fn request_of_a_call_that_runs_is_refused_by_its_header() {
        let head = header(Framing::Tagged, 7, 9).0;
        for (plain, stream) in [
            (None, [run(), head.to_vec()].concat()),
            (Some(Plain::Tagged), head.to_vec()),
            (Some(Plain::Fallible), head.to_vec()),
            (Some(Plain::Ordered), head[4..].to_vec()),
        ] {
            let next = |running| {
                let mut session = Session::new(plain, 64);
                session.decoder().space().fill(&stream);
                if plain.is_none() {
                    assert!(matches!(session.next(|_| false), Ok(Some(Step::Run(_)))));
                    session.serve(64, 100);
                }
                session
                    .next(|known| known == Known::Call(running))
                    .map(|step| step.is_some())
            };
            let duplicate = Err(ParentViolation::Duplicate { id: 7 });
            let has_ids = plain != Some(Plain::Ordered);
            assert_eq!(next(7), if has_ids { duplicate } else { Ok(false) });
            assert_eq!(next(8), Ok(false));
        }
    }

    #[test]
    fn descriptors_are_of_the_frame_behind_their_announcement_and_that_is_what_is_judged() {
        let fd = Fd::from(std::fs::File::open("/dev/null").unwrap());
        let control = |message: ToChild<'_>| frame(wire::CONTROL_TO_CHILD, &message.encode());
        let announced = frame(wire::CONTROL_TO_CHILD, b"\x03fds\x03001\x03000");
        let mut session = Session::new(None, 4096);
        let mut next = |message: Vec<u8>| {
            let stream = [&announced[..], &message].concat();
            assert_eq!(session.decoder().space().fill(&stream), stream.len());
            session
                .decoder()
                .arrived(vec![fd.clone()], false, stream.len());
            let begins_at = session.decoder.offset() + announced.len() as u64;
            let fds = match session.next(|_| true) {
                Ok(Some(Step::Setup { mut request, .. })) => request.split_fds(),
                Ok(Some(Step::Lifeline(fds) | Step::Answer(_, fds))) => fds,
                Ok(Some(Step::Request { mut payload, .. })) => payload.split_fds(),
                Ok(Some(Step::Run(_))) => Fds::default(),
                Err(ParentViolation::Id { offset, .. }) => {
                    assert_eq!(offset, begins_at);
                    return None;
                }
                other => panic!("{other:?}"),
            };
            session.serving |= fds.len() == 0;
            Some(fds.len())
        };
        let (setup, request) = (FunctionId::octets("f"), &b"r"[..]);
        assert_eq!(next(control(ToChild::Setup { setup, request })), Some(1));
        assert_eq!(next(run()), Some(0), "it has no use for them");
        let answer = AskAnswer {
            id: 7,
            failed: false,
            payload: b"a",
        };
        assert_eq!(next(control(ToChild::Answer(answer))), Some(1));
        assert_eq!(next(frame(5, &[0; 9])), Some(1));
        assert_eq!(next(frame(0x8000_0000, b"")), None);
        assert_eq!(fd.clones(), 1);
    }

    /// In one mode it is an id as any other: the original counts that far.
    #[test]
    fn request_with_the_id_of_a_failed_reply_is_refused_by_its_header() {
        for (plain, id, valid) in [
            (Plain::Fallible, 0, false),
            (Plain::Fallible, 1, true),
            (Plain::Fallible, wire::MAX_ID, true),
            (Plain::Fallible, wire::FAILED, false),
            (Plain::Fallible, wire::FAILED | 1, false),
            (Plain::Fallible, u32::MAX, false),
            (Plain::Tagged, 0, false),
            (Plain::Tagged, wire::FAILED, true),
            (Plain::Tagged, u32::MAX, true),
        ] {
            let whole = frame(id, b"x");
            for (stream, request) in [
                (&whole[..8], vec![]),
                (&whole, vec![format!("request {id} 1")]),
            ] {
                let want = match valid {
                    true => Ok(request),
                    false => Err(ParentViolation::Id { offset: 0, id }),
                };
                let mut session = Session::new(Some(plain), 64);
                assert_eq!(steps(&mut session, stream, usize::MAX), want, "{plain:?}");
            }
            let mut session = Session::new(Some(plain), 64);
            session.decoder().space().fill(&whole);
            let request = session.request_at().map(|(id, _)| id);
            assert_eq!(request, valid.then_some(id), "{plain:?}");
        }
    }

    #[test]
    fn limit_holds_from_run_on() {
        let stream = [run(), frame(1, &[0; 31])].concat();
        assert!(matches!(
            all(&stream),
            Err(ParentViolation::Decode(DecodeError::TooLarge {
                limit: 30,
                ..
            }))
        ));
    }

    #[test]
    fn steps_out_of_order_are_refused() {
        assert_eq!(
            all(&frame(1, b"")),
            Err(ParentViolation::TooEarly { offset: 0, id: 1 })
        );
        let offset = run().len() as u64;
        assert_eq!(
            all(&[run(), run()].concat()),
            Err(ParentViolation::TooLate { offset })
        );
        let template = ToChild::Template { huge_pages: 0 };
        for late in [ToChild::Settings(b""), template] {
            let late = frame(0, &late.encode());
            assert_eq!(
                all(&[run(), late].concat()),
                Err(ParentViolation::TooLate { offset })
            );
        }
        assert_eq!(
            all(&[run(), frame(0x8000_0000, b"")].concat()),
            Err(ParentViolation::Id {
                offset,
                id: 0x8000_0000
            })
        );
        assert!(matches!(
            all(&frame(0, b"\x05dance")),
            Err(ParentViolation::Control { offset: 0, error: ControlError::Verb(verb) })
                if verb == "dance"
        ));
    }

    #[test]
    fn answer_to_an_ask_may_be_as_long_as_a_request() {
        let payload = vec![7; 1 << 17];
        let answer = ToChild::Answer(AskAnswer {
            id: 9,
            failed: false,
            payload: &payload,
        });
        let answer = frame(wire::CONTROL_TO_CHILD, &answer.encode());
        // Feeds it in pieces. Returns the first step or violation, and how much has been read by then.
        let take = |asked: bool| {
            let mut session = Session::new(None, 64);
            session.serving = true;
            session.decoder.configure(64, 1 << 18);
            let mut rest = &answer[..];
            loop {
                let is_open = |known| asked && known == Known::Ask(9);
                match session.next(is_open).map(|step| step.is_some()) {
                    Ok(false) if rest.is_empty() => panic!("the answer has come whole"),
                    Ok(false) => {
                        let piece = &rest[..rest.len().min(24)];
                        rest = &rest[session.decoder().space().fill(piece)..];
                    }
                    end => return (end, answer.len() - rest.len()),
                }
            }
        };
        assert_eq!(take(true), (Ok(true), answer.len()));
        // Nothing is asked: the beginning tells.
        let (end, read) = take(false);
        assert_eq!(end, Err(ParentViolation::UnknownAsk { id: 9 }));
        assert!(read <= 2 * wire::TELLING, "{read}");
        // It is not kept longer than the step.
        let mut session = Session::new(None, 64);
        session.serve(64, 1 << 18);
        let mut rest = &answer[..];
        while !rest.is_empty() {
            assert!(matches!(
                session.next(|known| known == Known::Ask(9)),
                Ok(None)
            ));
            rest = &rest[session.decoder().space().fill(rest)..];
        }
        assert!(matches!(session.next(|_| true), Ok(Some(Step::Answer(..)))));
        assert!(matches!(session.next(|_| true), Ok(None)));
        assert_eq!(session.held.capacity(), 0);
        // Before it serves it has asked nothing.
        let early = ParentViolation::TooEarly { offset: 0, id: 0 };
        assert_eq!(all(&frame(0, &ToChild::begin_answer(9, false))), Err(early));
    }

    /// A bad header is an error when it has come, in one piece or in several, and the same if the
    /// whole frame comes.
    #[test]
    fn frames_are_judged_by_their_headers() {
        let offset = run().len() as u64;
        let long = |offset, claimed: u32, limit| ParentViolation::LongControl {
            offset,
            claimed: claimed as usize,
            limit,
        };
        let control = wire::CONTROL_TO_CHILD;
        let (setup, serving) = (LONGEST_SETUP as u32, LONGEST_CONTROL as u32);
        let before = [
            (1, 4, ParentViolation::TooEarly { offset: 0, id: 1 }),
            (
                u32::MAX,
                u32::MAX,
                ParentViolation::TooEarly {
                    offset: 0,
                    id: u32::MAX,
                },
            ),
            (control, setup + 1, long(0, setup + 1, LONGEST_SETUP)),
            (control, u32::MAX, long(0, u32::MAX, LONGEST_SETUP)),
        ];
        let after = [
            (
                0x8000_0001,
                4,
                ParentViolation::Id {
                    offset,
                    id: 0x8000_0001,
                },
            ),
            (
                control,
                serving + 1,
                long(offset, serving + 1, LONGEST_CONTROL),
            ),
        ];
        for (start, bad) in [(vec![], &before[..]), (run(), &after)] {
            for (id, claimed, error) in bad {
                let head = header(Framing::Tagged, *id, *claimed).0;
                let mut stream = [&start[..], &head].concat();
                if *id == control && !start.is_empty() {
                    // The answer to an ask may be longer: its beginning tells.
                    stream.resize(stream.len() + wire::TELLING, 0);
                }
                for split in [1, 3, 7, 8, usize::MAX] {
                    let mut session = Session::new(None, 64);
                    let got = steps(&mut session, &stream, split);
                    assert_eq!(got.as_ref(), Err(error), "{claimed} by {split}");
                }
                if *claimed <= setup + 1 {
                    stream.resize(stream.len() + *claimed as usize, 0);
                    let mut session = Session::new(None, 1 << 20);
                    let space = session.decoder().space();
                    space.buf.extend_from_slice(&stream);
                    let got = steps(&mut session, &[0], 1);
                    assert_eq!(got.as_ref(), Err(error), "{claimed} whole");
                }
                assert!(
                    error
                        .to_string()
                        .contains(&format!("offset {}", start.len()))
                );
            }
        }
        // The longest that may come.
        let head = header(Framing::Tagged, control, setup).0;
        assert_eq!(all(&head).unwrap().len(), 0);
        let head = header(Framing::Tagged, control, serving).0;
        // `run` limits frames to 30 bytes, to which the room for control frames is added.
        assert_eq!(all(&[&run()[..], &head].concat()).unwrap(), ["run f"]);
    }

    #[test]
    fn plain_peers_begin_with_requests() {
        let mut tagged = Session::new(Some(Plain::Tagged), 64);
        let stream = [frame(1, b"a"), frame(u32::MAX, b"")].concat();
        assert_eq!(
            steps(&mut tagged, &stream, 3).unwrap(),
            ["request 1 1", "request 4294967295 0"]
        );
        assert_eq!(
            steps(&mut tagged, &frame(0, b""), 3),
            Err(ParentViolation::Id { offset: 17, id: 0 })
        );
        let mut ordered = Session::new(Some(Plain::Ordered), 64);
        assert_eq!(
            steps(&mut ordered, b"\0\0\0\x01a\0\0\0\0", 3).unwrap(),
            ["request 1 1", "request 2 0"]
        );
    }
}

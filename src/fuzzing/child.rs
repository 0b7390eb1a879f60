use super::{Script, Stream, allowed};
use crate::wire::Plain;
use crate::wire::{CONTROL_ROOM, DecodeError, Framing, MAX_ID, TELLING, ToChild, parse_header};
use crate::worker::{Known, ParentViolation, Session, Step};

/// An owned copy of a step.
#[derive(Debug, PartialEq, Eq)]
enum OwnedStep {
    Template(u64),
    Lifeline,
    Far,
    Settings(Vec<u8>),
    Setup(String, Vec<u8>),
    Run(String, u32, u32),
    Request(u32, Vec<u8>),
    Function(String),
    Cancel(u32),
    Answer(u32, Vec<u8>),
}

/// The steps of a session, how it ended, and whether it may end there.
type Observed = (
    Vec<OwnedStep>,
    Result<(), ParentViolation>,
    Result<(), DecodeError>,
);

/// The child's session, in every mode: any split of the input gives the same steps and the same
/// error, each step comes only when it is allowed, memory stays within the limit, and a header that
/// cannot be right is an error without its payload.
pub fn child(data: &[u8]) {
    let mut script = Script(data);
    let plain = script.mode();
    let buflen = script.pick(&[0, 64, 4096, 100_000]);
    let stream = Stream::read(&mut script);
    let whole = session(plain, buflen, &stream.whole(), false);
    let split = session(plain, buflen, &stream, true);
    assert_eq!((&split.0, &split.1), (&whole.0, &whole.1));
    if whole.1.is_ok() {
        // After an error, it does not matter how much more had arrived.
        assert_eq!(split.2, whole.2);
    }
    check(plain, &whole.0);
    match bad_header(plain, &stream.bytes) {
        None => assert!(!matches!(
            whole.1,
            Err(ParentViolation::LongControl { .. } | ParentViolation::Id { .. })
        )),
        Some((violation, end)) => {
            let mut stream = stream;
            let error = Err(violation);
            assert_eq!(whole.1, error);
            stream.bytes.truncate(end);
            stream.filler = stream.filler.min(end);
            assert_eq!(session(plain, buflen, &stream, true).1, error);
        }
    }
}

/// The first frame that is not allowed to have its header: the violation, and where what shows it ends,
/// the header or the beginning of the payload. `None` if something else is wrong before it.
fn bad_header(plain: Option<Plain>, stream: &[u8]) -> Option<(ParentViolation, usize)> {
    let framing = match plain {
        Some(Plain::Ordered) => Framing::Counted,
        _ => Framing::Tagged,
    };
    let mut max_frame = None::<usize>;
    let mut announced = false;
    let mut at = 0usize;
    loop {
        let (id, claimed) = parse_header(framing, stream.get(at..)?)?;
        let (offset, claimed) = (at as u64, claimed as usize);
        at += framing.header_len();
        let is_control = id == 0 && plain.is_none();
        let room = if is_control { CONTROL_ROOM } else { 0 };
        if max_frame.is_some_and(|limit| claimed > limit.saturating_add(room)) {
            return None;
        }
        let limit = match max_frame {
            None => 1 << 20,
            Some(_) => 64 << 10,
        };
        // The answer to an ask may be longer, and shows what it is by its beginning.
        let begun = &stream[at..stream.len().min(at.saturating_add(claimed.min(TELLING)))];
        let is_answer = max_frame.is_some() && ToChild::answered(begun).is_some();
        let is_later = max_frame.is_some() && begun.len() < TELLING;
        let bad = match plain {
            None if is_control && claimed > limit && (is_answer || is_later) => None,
            None if is_control && claimed > limit => Some(ParentViolation::LongControl {
                offset,
                claimed,
                limit,
            }),
            None if !is_control && max_frame.is_none() => {
                Some(ParentViolation::TooEarly { offset, id })
            }
            None if id > MAX_ID => Some(ParentViolation::Id { offset, id }),
            Some(Plain::Tagged) if id == 0 => Some(ParentViolation::Id { offset, id }),
            Some(Plain::Fallible) if !(1..=MAX_ID).contains(&id) => {
                Some(ParentViolation::Id { offset, id })
            }
            _ => None,
        };
        if let Some(bad) = bad {
            let judged = match max_frame {
                Some(_) if is_control => begun.len(),
                _ => 0,
            };
            return Some((bad, at + judged));
        }
        let payload = stream.get(at..at.checked_add(claimed)?)?;
        at += claimed;
        let was_announced = std::mem::take(&mut announced);
        if is_control && payload == b"\x07carries" {
            announced = was_announced;
            continue;
        }
        if is_control && let [3, b'f', b'd', b's', 3, count @ .., 3, c, d, e] = payload {
            // Here none come: they are lost, or the announcement is false.
            let digits = |digits: &[u8]| str::from_utf8(digits).ok()?.parse::<u8>().ok();
            let is_lost = count.len() == 3 && [*c, *d, *e] != *b"000" && !was_announced;
            if digits(count)? > 253 || !is_lost {
                return None;
            }
            announced = *count != *b"000";
            continue;
        }
        if is_control {
            match (ToChild::decode(payload).ok()?, max_frame) {
                (
                    ToChild::Template { .. }
                    | ToChild::Lifeline
                    | ToChild::Far
                    | ToChild::Settings(_)
                    | ToChild::Setup { .. },
                    None,
                )
                | (ToChild::Function(_) | ToChild::Cancel { .. } | ToChild::Answer(_), Some(_)) => {
                }
                (ToChild::Run(run), None) => max_frame = Some(run.max_frame as usize),
                _ => return None,
            }
        }
    }
}

/// With `short`, requests are taken by the shorter path where possible.
fn session(plain: Option<Plain>, buflen: usize, stream: &Stream, short: bool) -> Observed {
    let mut session = Session::new(plain, buflen);
    let mut steps = Vec::new();
    let result = stream.feed(
        &mut session,
        // There is no limit until the parent has sent one; a start size is clamped.
        |arrived| allowed(usize::MAX, usize::MAX, arrived),
        |session| session.decoder().space(),
        |session| {
            loop {
                if short && let Some((id, at)) = session.request_at() {
                    steps.push(OwnedStep::Request(id, session.bytes(at).to_vec()));
                    continue;
                }
                // Any answer may be to one that is open.
                let Some(step) = session.next(|known| matches!(known, Known::Ask(_)))? else {
                    break;
                };
                let step = match step {
                    Step::Template { huge_pages } => OwnedStep::Template(huge_pages),
                    Step::Lifeline(_) => OwnedStep::Lifeline,
                    Step::Far => OwnedStep::Far,
                    Step::Settings(settings) => OwnedStep::Settings(settings.to_vec()),
                    Step::Setup { setup, request } => {
                        OwnedStep::Setup(setup.name.into(), request.to_vec())
                    }
                    Step::Run(run) => {
                        OwnedStep::Run(run.function.name.into(), run.buflen, run.max_frame)
                    }
                    Step::Request { id, payload } => OwnedStep::Request(id, payload.to_vec()),
                    Step::Function(function) => OwnedStep::Function(function.name.into()),
                    Step::Cancel { id } => OwnedStep::Cancel(id),
                    Step::Answer(answer, _) => {
                        OwnedStep::Answer(answer.id, answer.payload.to_vec())
                    }
                };
                if let OwnedStep::Run(_, buflen, max_frame) = step {
                    session.serve(buflen as usize, max_frame as usize);
                }
                steps.push(step);
            }
            Ok(())
        },
    );
    let end = session.finish();
    (steps, result, end)
}

fn check(plain: Option<Plain>, steps: &[OwnedStep]) {
    let mut limit = plain.map(|_| u32::MAX);
    let mut count = 0;
    for step in steps {
        match step {
            OwnedStep::Template(_)
            | OwnedStep::Lifeline
            | OwnedStep::Far
            | OwnedStep::Settings(_)
            | OwnedStep::Setup(..) => {
                assert_eq!(limit, None, "too late");
            }
            OwnedStep::Run(_, _, max_frame) => assert_eq!(limit.replace(*max_frame), None),
            OwnedStep::Function(_) | OwnedStep::Cancel(_) | OwnedStep::Answer(..) => {
                assert!(plain.is_none() && limit.is_some(), "too early");
            }
            OwnedStep::Request(id, payload) => {
                let limit = limit.expect("a request before `run`");
                assert!(payload.len() <= limit as usize);
                match plain {
                    None | Some(Plain::Fallible) => assert!((1..=MAX_ID).contains(id)),
                    Some(Plain::Tagged) => assert_ne!(*id, 0),
                    Some(Plain::Ordered) => {
                        count += 1;
                        assert_eq!(*id, count);
                    }
                }
            }
        }
    }
}

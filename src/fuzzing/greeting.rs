use super::Script;
use crate::carrier::{Greeted, Greeting, MOST_NOISE};
use crate::wire::GREETING;

/// The greeting behind what a login prints: in any split of any bytes, each piece makes known what a naive
/// search of all bytes so far does.
pub fn greeting(data: &[u8]) {
    let mut script = Script(data);
    let filler = match script.byte() % 4 {
        0 => 0,
        // Just below what may come before.
        1 => MOST_NOISE - usize::from(script.byte()),
        2 => MOST_NOISE,
        _ => MOST_NOISE + 1,
    };
    let pieces: Vec<usize> = script
        .string()
        .iter()
        .map(|n| 1 + usize::from(*n))
        .collect();
    let bytes = [vec![b'.'; filler], composed(&mut script)].concat();
    let mut greeting = Greeting::default();
    let mut at = 0;
    let mut sizes = [filler].into_iter().filter(|filler| *filler > 0);
    let mut more = pieces.iter().copied().cycle();
    while at < bytes.len() {
        let size = sizes.next().or_else(|| more.next()).unwrap_or(usize::MAX);
        let piece = &bytes[at..][..size.min(bytes.len() - at)];
        at += piece.len();
        let (want, noise) = naive(&bytes[..at], filler);
        assert_eq!(greeting.push(piece), want);
        assert_eq!(greeting.noise(), noise);
        if want != Greeted::No {
            break;
        }
    }
}

/// Bytes that are often parts of a greeting.
fn composed(script: &mut Script<'_>) -> Vec<u8> {
    let (begin, end) = GREETING;
    let mut all = Vec::new();
    while !script.0.is_empty() {
        match script.byte() {
            0 => all.extend_from_slice(begin),
            1 => all.extend_from_slice(end),
            2 => all.extend_from_slice(&begin[..begin.len() - 1]),
            3 => all.extend_from_slice(&begin[..usize::from(script.byte()) % begin.len()]),
            4 => all.extend_from_slice(u32::from(script.byte()).to_string().as_bytes()),
            5 => all.extend_from_slice(b"429496729"),
            6 => all.extend_from_slice(b"\r\n"),
            other => all.push(other),
        }
    }
    all
}

/// What these bytes are, and what of them is not the greeting, which does not begin in the filler.
fn naive(bytes: &[u8], filler: usize) -> (Greeted, &[u8]) {
    let (begin, end) = GREETING;
    let mark = &begin[..begin.len() - 1];
    let begins = |at: &usize| {
        let rest = &bytes[*at..];
        rest.starts_with(mark) || mark.starts_with(rest)
    };
    let at = (filler..=bytes.len())
        .find(begins)
        .expect("nothing begins everything");
    if at > MOST_NOISE {
        return (Greeted::TooMuch, bytes);
    }
    let mut rest = bytes[at..].iter().copied();
    let mut version = String::new();
    // What is expected next: the mark with its line break, digits, the end.
    let wrong = (Greeted::Terminal, bytes);
    for want in begin {
        match rest.next() {
            None => return (Greeted::No, bytes),
            Some(byte) if byte != *want => return wrong,
            Some(_) => {}
        }
    }
    while version.len() < 10
        && let Some(digit) = rest.clone().next().filter(u8::is_ascii_digit)
    {
        version.push(digit.into());
        rest.next();
    }
    for want in end {
        match rest.next() {
            None => return (Greeted::No, bytes),
            Some(byte) if byte != *want => return wrong,
            Some(_) => {}
        }
    }
    match version.parse() {
        Ok(version) => {
            let rest = rest.collect();
            (Greeted::With { version, rest }, &bytes[..at])
        }
        Err(_) => wrong,
    }
}

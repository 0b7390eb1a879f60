//! The greeting of a far end, which comes behind whatever a login prints. Pure.

use crate::wire::GREETING;
use memchr::memmem;

/// How much may come before the greeting.
pub(crate) const MOST_NOISE: usize = 64 << 10;
/// The longest version.
const DIGITS: usize = 10;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Greeting {
    bytes: Vec<u8>,
    /// Where the greeting has begun, or can begin: in what precedes that, it is not.
    searched: usize,
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Greeted {
    /// No greeting yet.
    No,
    /// The far end has greeted, with this version of the messages. These bytes came behind that.
    With { version: u32, rest: Vec<u8> },
    /// A terminal has changed the greeting.
    Terminal,
    /// Too much has come before it.
    TooMuch,
}

impl Greeting {
    /// Looks at more bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Greeted {
        let (begin, end) = GREETING;
        self.bytes.extend_from_slice(bytes);
        // But for its line break, which a terminal changes.
        let mark = &begin[..begin.len() - 1];
        let Some(at) = memmem::find(&self.bytes[self.searched..], mark) else {
            let is_at_end = |n: &usize| self.bytes.ends_with(&mark[..*n]);
            let begun = (1..mark.len()).rev().find(is_at_end).unwrap_or(0);
            self.searched = self.bytes.len() - begun;
            return match self.searched > MOST_NOISE {
                true => Greeted::TooMuch,
                false => Greeted::No,
            };
        };
        let at = self.searched + at;
        if at > MOST_NOISE {
            return Greeted::TooMuch;
        }
        let after = &self.bytes[at + mark.len()..];
        let Some(number) = after.strip_prefix(b"\n") else {
            return match after {
                [] => self.found(at),
                _ => Greeted::Terminal,
            };
        };
        let digits = number.iter().take_while(|byte| byte.is_ascii_digit());
        let digits = digits.take(DIGITS).count();
        let (version, behind) = number.split_at(digits);
        if let Some(rest) = behind.strip_prefix(end) {
            let version = str::from_utf8(version).ok().and_then(|it| it.parse().ok());
            let Some(version) = version else {
                return Greeted::Terminal;
            };
            let rest = rest.to_vec();
            self.bytes.truncate(at);
            return Greeted::With { version, rest };
        }
        match behind.len() < end.len() && end.starts_with(behind) {
            true => self.found(at),
            false => Greeted::Terminal,
        }
    }

    /// The greeting begins here, and more is to come.
    fn found(&mut self, at: usize) -> Greeted {
        self.searched = at;
        Greeted::No
    }

    /// What came before the greeting.
    pub(crate) fn noise(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(version: &str) -> Vec<u8> {
        [GREETING.0, version.as_bytes(), GREETING.1].concat()
    }

    /// What the last piece makes known. All before it make nothing known.
    fn outcome(bytes: &[u8], piece: usize) -> (Greeting, Greeted) {
        let mut greeting = Greeting::default();
        let mut pieces = bytes.chunks(piece).peekable();
        while let Some(piece) = pieces.next() {
            let greeted = greeting.push(piece);
            if greeted != Greeted::No {
                assert!(
                    pieces.peek().is_none() || matches!(greeted, Greeted::With { .. }),
                    "{greeted:?}"
                );
                return (greeting, greeted);
            }
        }
        (greeting, Greeted::No)
    }

    #[test]
    fn greeting_is_found_behind_noise_in_any_split() {
        for noise in [
            &b""[..],
            b"Welcome!\n",
            b"\0offspring rela",
            b"\0\0off\0offspring relax\0",
        ] {
            let all = [noise, &greeting("1")[..]].concat();
            for piece in 1..=all.len() {
                let (found, greeted) = outcome(&all, piece);
                let rest = Vec::new();
                assert_eq!(greeted, Greeted::With { version: 1, rest }, "{piece}");
                assert_eq!(found.noise(), noise);
            }
        }
        let (_, greeted) = outcome(&[&greeting("4294967295")[..], b"more"].concat(), 100);
        let rest = b"more".to_vec();
        let version = u32::MAX;
        assert_eq!(greeted, Greeted::With { version, rest });
    }

    #[test]
    fn line_breaks_that_a_terminal_has_changed_are_noticed() {
        let changed = |text: Vec<u8>| {
            let text = String::from_utf8_lossy(&text).replace('\n', "\r\n");
            text.into_bytes()
        };
        let whole = changed(greeting("1"));
        assert_eq!(outcome(&whole, 1000).1, Greeted::Terminal);
        for wrong in ["", "x", "42949672960", "12345678901", "1 "] {
            assert_eq!(
                outcome(&greeting(wrong), 1000).1,
                Greeted::Terminal,
                "{wrong}"
            );
        }
    }

    #[test]
    fn endless_noise_is_given_up() {
        for piece in [1000, 4096, 1 << 20] {
            let (found, greeted) = outcome(&vec![b'x'; MOST_NOISE + 1], piece);
            assert_eq!(greeted, Greeted::TooMuch);
            assert_eq!(found.noise().len(), MOST_NOISE + 1);
        }
        assert_eq!(outcome(&[b'x'; MOST_NOISE], 4096).1, Greeted::No);
        let late = [&[b'x'; MOST_NOISE + 1][..], &greeting("1")].concat();
        assert_eq!(outcome(&late, 1 << 20).1, Greeted::TooMuch);
        // Only what precedes it counts, and not what of it has come.
        let last = [&[b'x'; MOST_NOISE][..], &greeting("1")].concat();
        for piece in [1 << 20, 4096, MOST_NOISE + 7, 1] {
            let (_, greeted) = outcome(&last, piece);
            assert!(matches!(greeted, Greeted::With { .. }), "{greeted:?}");
        }
    }
}

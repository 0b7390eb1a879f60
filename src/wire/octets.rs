//! Octet strings in a payload: each preceded by its length as a BER compressed integer (base 128,
//! most significant digit first, the high bit set on all digits but the last), as written by
//! Perl's `pack "(w/a*)*"`.

use std::fmt;

/// Appends one string.
pub(crate) fn push(out: &mut Vec<u8>, string: &[u8]) {
    match string.len() {
        // Nearly all lengths have one digit.
        len @ ..0x80 => out.push(len as u8),
        len => push_len(out, len),
    }
    out.extend_from_slice(string);
}

/// Appends the length of the string that will follow.
pub(crate) fn push_len(out: &mut Vec<u8>, len: usize) {
    // 64 bits are ten digits of seven bits. A usize may have too few to be shifted so far.
    let len = len as u64;
    let digits = (1..10).take_while(|digit| len >> (7 * digit) != 0).count();
    for digit in (1..=digits).rev() {
        out.push((len >> (7 * digit)) as u8 | 0x80);
    }
    out.push(len as u8 & 0x7f);
}

/// All strings as one payload.
#[cfg(any(fuzzing, test))]
pub(crate) fn encode<S: AsRef<[u8]>>(strings: impl IntoIterator<Item = S>) -> Vec<u8> {
    let mut out = Vec::new();
    strings
        .into_iter()
        .for_each(|string| push(&mut out, string.as_ref()));
    out
}

/// Reasons why a payload is not a list of octet strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OctetsError {
    /// The payload ends inside the length that starts at this offset.
    CutLength { at: usize },
    /// The length that starts at this offset does not fit into 64 bits.
    HugeLength { at: usize },
    /// The string whose length starts at this offset is longer than the rest of the payload.
    CutString { at: usize, len: u64, left: usize },
}

impl fmt::Display for OctetsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OctetsError::CutLength { at } => {
                write!(f, "octet strings end inside a length at offset {at}")
            }
            OctetsError::HugeLength { at } => {
                write!(
                    f,
                    "octet strings have a length above 64 bits at offset {at}"
                )
            }
            OctetsError::CutString { at, len, left } => write!(
                f,
                "octet string at offset {at} claims {len} bytes, but {left} are left"
            ),
        }
    }
}

impl std::error::Error for OctetsError {}

/// The strings of a payload, in order. Ends after the first error.
#[derive(Debug, Clone)]
pub(crate) struct OctetsIter<'a> {
    payload: &'a [u8],
    at: usize,
}

/// Iterates over the strings of `payload`.
#[inline]
pub(crate) fn iter(payload: &[u8]) -> OctetsIter<'_> {
    OctetsIter { payload, at: 0 }
}

impl OctetsIter<'_> {
    /// The offset of the next string in the payload.
    pub(crate) fn offset(&self) -> usize {
        self.at
    }
}

impl<'a> Iterator for OctetsIter<'a> {
    type Item = Result<&'a [u8], OctetsError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // Nearly all lengths have one digit.
        if let Some(&len @ ..0x80) = self.payload.get(self.at) {
            let start = self.at + 1;
            if let Some(string) = self.payload.get(start..start + usize::from(len)) {
                self.at = start + string.len();
                return Some(Ok(string));
            }
        }
        self.next_of_any_length()
    }
}

impl<'a> OctetsIter<'a> {
    fn next_of_any_length(&mut self) -> Option<Result<&'a [u8], OctetsError>> {
        let at = self.at;
        if at == self.payload.len() {
            return None;
        }
        self.at = self.payload.len();
        let mut len = 0u64;
        let mut digits = self.payload[at..].iter();
        loop {
            let Some(&digit) = digits.next() else {
                return Some(Err(OctetsError::CutLength { at }));
            };
            if len >> 57 != 0 {
                return Some(Err(OctetsError::HugeLength { at }));
            }
            len = len << 7 | u64::from(digit & 0x7f);
            if digit & 0x80 == 0 {
                break;
            }
        }
        let rest = digits.as_slice();
        match usize::try_from(len).ok().and_then(|len| rest.get(..len)) {
            Some(string) => {
                self.at = self.payload.len() - rest.len() + string.len();
                Some(Ok(string))
            }
            None => Some(Err(OctetsError::CutString {
                at,
                len,
                left: rest.len(),
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output of `perl -e 'print pack "(w/a*)*", ...'`.
    #[test]
    fn writes_what_perl_packs() {
        assert_eq!(encode(["ab", "", "c"]), b"\x02ab\x00\x01c");
        let mut long = vec![0x81, 0x00];
        long.extend([b'x'; 128]);
        assert_eq!(encode([[b'x'; 128]]), long);
        assert_eq!(&encode([vec![0; 16384]])[..3], [0x81, 0x80, 0x00]);
        assert_eq!(&encode([vec![0; 16383]])[..2], [0xff, 0x7f]);
    }

    #[test]
    fn lengths_of_every_size_round_trip() {
        for bits in 0..22 {
            for len in [(1usize << bits) - 1, 1 << bits, (1 << bits) + 1] {
                let bytes = encode([vec![7; len], vec![]]);
                let back: Vec<_> = iter(&bytes).map(|s| s.unwrap().len()).collect();
                assert_eq!(back, [len, 0]);
            }
        }
        let mut bytes = Vec::new();
        push_len(&mut bytes, usize::MAX);
        let len = usize::MAX as u64;
        assert_eq!(
            iter(&bytes).next(),
            Some(Err(OctetsError::CutString {
                at: 0,
                len,
                left: 0
            }))
        );
    }

    #[test]
    fn leading_zero_digits_are_read_as_perl_does() {
        assert_eq!(iter(b"\x80\x80\x01a").collect::<Vec<_>>(), [Ok(&b"a"[..])]);
    }

    #[test]
    fn bad_lengths_are_reported_once() {
        let one = |bytes| {
            let all: Vec<_> = iter(bytes).collect();
            *all.last().unwrap()
        };
        assert_eq!(one(b"\x01a\x81"), Err(OctetsError::CutLength { at: 2 }));
        assert_eq!(
            one(b"\x05abc"),
            Err(OctetsError::CutString {
                at: 0,
                len: 5,
                left: 3
            })
        );
        assert_eq!(one(&[0xff; 11]), Err(OctetsError::HugeLength { at: 0 }));
        assert_eq!(
            one(b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
            Err(OctetsError::CutString {
                at: 0,
                len: u64::MAX,
                left: 0
            })
        );
    }
}

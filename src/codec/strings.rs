//! The value that the default codec carries.

use super::{CodecError, Input};
use crate::wire::{SmallBytes, octets};
use std::fmt;
use std::ops::Index;

/// A list of octet strings: what a plain call sends, what it gets back, and what an event carries.
///
/// Kept the way it travels, one string behind the other, so that taking it in copies nothing and a
/// short list allocates nothing. Access by index goes through the strings before it; lists are
/// meant to be short. Strings are any bytes: [`texts`](Strings::texts) is for those that should
/// be UTF-8.
///
/// # Examples
///
/// ```
/// use offspring::Strings;
///
/// let request: Strings = ["rmdir", "/tmp/x"].into_iter().collect();
/// assert_eq!(request.len(), 2);
/// assert_eq!(&request[0], b"rmdir");
/// assert_eq!(request.to_string(), "rmdir /tmp/x");
///
/// let ["rmdir", path] = request.texts()? else { panic!("another verb") };
/// assert_eq!(path, "/tmp/x");
/// # Ok::<(), offspring::CodecError>(())
/// ```
#[derive(Clone)]
pub struct Strings {
    /// Valid octet strings: checked by `decode`, made by `push`.
    encoded: SmallBytes,
}

impl Strings {
    /// No strings.
    #[must_use]
    pub fn new() -> Self {
        Strings {
            encoded: SmallBytes::from(&[][..]),
        }
    }

    /// Takes the payload of a frame as it is, once it is known to be a list of octet strings.
    #[inline(always)]
    pub(crate) fn decode(input: Input<'_>) -> Result<Self, CodecError> {
        for string in octets::iter(&input) {
            string.map_err(CodecError::new)?;
        }
        Ok(Strings {
            encoded: input.into_small(),
        })
    }

    /// Appends the payload of a frame.
    #[inline]
    pub(crate) fn encode_to(&self, out: &mut Vec<u8>) {
        self.encoded.append_to(out);
    }

    /// Whether it is worth giving the payload away instead of copying it.
    pub(crate) fn is_long(&self) -> bool {
        matches!(self.encoded, SmallBytes::Heap(_))
    }

    /// The payload of a frame, given away.
    pub(crate) fn into_encoded(self) -> Vec<u8> {
        self.encoded.into_vec()
    }

    /// How many strings there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is no string at all. A list of one empty string is not empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }

    /// The strings in order.
    #[must_use]
    #[inline]
    pub fn iter(&self) -> StringsIter<'_> {
        StringsIter(octets::iter(&self.encoded))
    }

    /// The string at `index`, if there are that many.
    #[must_use]
    #[inline]
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.iter().nth(index)
    }

    /// All the strings, if there are exactly `N`.
    ///
    /// # Errors
    ///
    /// If there are more or fewer; the error tells both numbers.
    pub fn array<const N: usize>(&self) -> Result<[&[u8]; N], CodecError> {
        let len = self.len();
        if len != N {
            return Err(CodecError::new(format!("expected {N} strings, got {len}")));
        }
        let mut strings = self.iter();
        Ok(std::array::from_fn(|_| {
            strings.next().expect("counted above")
        }))
    }

    /// All the strings as text, if there are exactly `N` and all are UTF-8.
    ///
    /// # Errors
    ///
    /// If there are more or fewer, or one is not UTF-8; the error tells which.
    pub fn texts<const N: usize>(&self) -> Result<[&str; N], CodecError> {
        let strings = self.array::<N>()?;
        let mut texts = [""; N];
        for (n, (text, string)) in texts.iter_mut().zip(strings).enumerate() {
            *text = str::from_utf8(string)
                .map_err(|error| CodecError::new(format!("string {n} is not UTF-8: {error}")))?;
        }
        Ok(texts)
    }

    /// Appends a string.
    pub fn push(&mut self, string: impl AsRef<[u8]>) {
        let mut bytes = std::mem::take(self).encoded.into_vec();
        octets::push(&mut bytes, string.as_ref());
        self.encoded = bytes.into();
    }
}

impl Default for Strings {
    fn default() -> Self {
        Strings::new()
    }
}

impl Index<usize> for Strings {
    type Output = [u8];

    /// The string at `index`.
    ///
    /// # Panics
    ///
    /// If there are not that many.
    fn index(&self, index: usize) -> &[u8] {
        match self.get(index) {
            Some(string) => string,
            None => panic!("string {index} of {} was asked for", self.len()),
        }
    }
}

/// The strings of a [`Strings`], in order.
#[derive(Debug, Clone)]
pub struct StringsIter<'a>(octets::OctetsIter<'a>);

impl<'a> Iterator for StringsIter<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        Some(
            self.0
                .next()?
                .expect("Strings are checked when they are made"),
        )
    }
}

impl<'a> IntoIterator for &'a Strings {
    type Item = &'a [u8];
    type IntoIter = StringsIter<'a>;

    fn into_iter(self) -> StringsIter<'a> {
        self.iter()
    }
}

impl<A: AsRef<[u8]>> Extend<A> for Strings {
    fn extend<I: IntoIterator<Item = A>>(&mut self, strings: I) {
        let mut bytes = std::mem::take(self).encoded.into_vec();
        strings
            .into_iter()
            .for_each(|string| octets::push(&mut bytes, string.as_ref()));
        self.encoded = bytes.into();
    }
}

impl<A: AsRef<[u8]>> FromIterator<A> for Strings {
    fn from_iter<I: IntoIterator<Item = A>>(strings: I) -> Self {
        let mut all = Strings::new();
        all.extend(strings);
        all
    }
}

/// Equal if the strings are, however their lengths were written.
impl PartialEq for Strings {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other)
    }
}

impl Eq for Strings {}

impl<A: AsRef<[u8]>, const N: usize> PartialEq<[A; N]> for Strings {
    fn eq(&self, other: &[A; N]) -> bool {
        self.iter().eq(other.iter().map(AsRef::as_ref))
    }
}

impl<A: AsRef<[u8]>> PartialEq<Vec<A>> for Strings {
    fn eq(&self, other: &Vec<A>) -> bool {
        self.iter().eq(other.iter().map(AsRef::as_ref))
    }
}

/// The strings with spaces between them; what is not UTF-8 is replaced.
impl fmt::Display for Strings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, string) in self.iter().enumerate() {
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}{}", String::from_utf8_lossy(string))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Strings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = self
            .iter()
            .map(|string| format!("\"{}\"", string.escape_ascii()));
        f.write_str("[")?;
        for (n, string) in quoted.enumerate() {
            write!(f, "{}{string}", if n == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_empty_string_is_not_no_string() {
        let mut strings = Strings::new();
        assert!(strings.is_empty());
        strings.push("");
        assert!(!strings.is_empty());
        assert_eq!(strings, [""]);
        assert_ne!(strings, Strings::new());
    }

    #[test]
    fn wrong_numbers_and_encodings_are_named() {
        let strings: Strings = [&b"a"[..], b"\xff"].into_iter().collect();
        assert_eq!(
            strings.texts::<1>().unwrap_err().to_string(),
            "expected 1 strings, got 2"
        );
        let error = strings.texts::<2>().unwrap_err().to_string();
        assert!(error.starts_with("string 1 is not UTF-8"), "{error}");
        assert_eq!(format!("{strings:?}"), r#"["a", "\xff"]"#);
    }

    #[test]
    fn length_written_with_leading_zeros_is_equal() {
        let strings = Strings::decode(Input::from(&b"\x80\x01a"[..])).unwrap();
        assert_eq!(strings, ["a"]);
        assert_eq!(strings, ["a"].into_iter().collect::<Strings>());
    }
}

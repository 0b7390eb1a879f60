//! The value type of the default codec.

use super::{CodecError, Input};
use crate::fd::Fd;
use crate::wire::{Fds, SmallBytes, octets};
use std::fmt;
use std::ops::Index;
use std::os::fd::OwnedFd;

/// A list of octet strings: the request and reply of a plain call, and the contents of an event. It may have
/// [descriptors](Fd) with it.
///
/// Stored in its encoded form, so that decoding a large list copies nothing and a short list needs
/// no allocation. Access by index walks over the preceding strings; lists are meant to be short.
/// Strings may be any bytes; [`texts`](Strings::texts) is for those that should be UTF-8.
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
    /// Valid octet strings: checked by `decode`, written by `push`.
    encoded: SmallBytes,
}

impl Strings {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Strings {
            encoded: SmallBytes::from(&[][..]),
        }
    }

    /// Checks that the payload of a frame is a list of octet strings, and stores it as it is.
    #[inline(always)]
    pub(crate) fn decode(input: Input<'_>) -> Result<Self, CodecError> {
        for string in octets::iter(&input) {
            string.map_err(CodecError::new)?;
        }
        Ok(Strings {
            encoded: input.into_small(),
        })
    }

    /// The payload of a frame.
    pub(crate) fn encoded(&self) -> &SmallBytes {
        &self.encoded
    }

    /// The payload of a frame, by value.
    pub(crate) fn into_encoded(self) -> SmallBytes {
        self.encoded
    }

    /// The number of strings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there are no strings. A list of one empty string is not empty.
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
    /// If there are more or fewer; the error states both numbers.
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
    /// If there are more or fewer, or one is not UTF-8; the error states which.
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
        self.extend([string]);
    }

    /// This list with one descriptor more, which is none of its strings.
    ///
    /// # Examples
    ///
    /// ```
    /// use offspring::Strings;
    /// use std::fs::File;
    ///
    /// let request: Strings = ["count the lines of", "this"].into_iter().collect();
    /// let mut request = request.with_fd(File::open("Cargo.toml")?);
    /// assert_eq!(request.len(), 2);
    /// let [file] = request.take_fds()?;
    /// # let _ = file;
    /// # Ok::<(), offspring::BoxError>(())
    /// ```
    #[must_use]
    pub fn with_fd(mut self, fd: impl Into<Fd>) -> Self {
        self.encoded.make_fds().push(fd.into());
        self
    }

    /// Takes all the descriptors, if there are exactly `N`. There are none any more then.
    ///
    /// # Errors
    ///
    /// If there are more or fewer; the error states both numbers, and they stay here. If some have not arrived,
    /// as this process has too many open files, or is not allowed to have them; or as one that is shared with a
    /// clone of these strings cannot be duplicated.
    pub fn take_fds<const N: usize>(&mut self) -> Result<[OwnedFd; N], CodecError> {
        let Some(fds) = self.encoded.fds_mut() else {
            return all(Vec::new());
        };
        match fds.len() {
            len if len == N => all(fds.take().map_err(CodecError::new)?),
            len => Err(wrong_number(N, len)),
        }
    }

    /// How many descriptors were sent with it and not taken.
    #[must_use]
    pub fn fd_count(&self) -> usize {
        self.encoded.fd_count()
    }

    /// Takes all the descriptors, however many there are.
    ///
    /// # Errors
    ///
    /// If some have not arrived, as for [`take_fds`](Strings::take_fds).
    pub fn take_all_fds(&mut self) -> Result<Vec<Fd>, CodecError> {
        let fds = self.encoded.fds_mut();
        fds.map_or(Ok(Vec::new()), Fds::take)
            .map_err(CodecError::new)
    }
}

/// All these descriptors, if they are `N`.
fn all<const N: usize>(fds: Vec<Fd>) -> Result<[OwnedFd; N], CodecError> {
    let owned = fds.into_iter().map(Fd::into_owned);
    let owned: Vec<OwnedFd> = owned
        .collect::<Result<_, _>>()
        .map_err(|error| CodecError::new(format!("a descriptor cannot be duplicated: {error}")))?;
    owned
        .try_into()
        .map_err(|owned: Vec<_>| wrong_number(N, owned.len()))
}

fn wrong_number(want: usize, len: usize) -> CodecError {
    CodecError::new(format!(
        "wrong number of descriptors: expected {want}, got {len}"
    ))
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
    /// If `index` is out of range.
    fn index(&self, index: usize) -> &[u8] {
        match self.get(index) {
            Some(string) => string,
            None => panic!("index {index} out of range for {} strings", self.len()),
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
        Some(self.0.next()?.expect("checked on construction"))
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
        let mut bytes = match &mut self.encoded {
            SmallBytes::Carrying(carrying) => std::mem::take(&mut carrying.bytes),
            encoded => std::mem::replace(encoded, Vec::new().into()).into_vec(),
        };
        strings
            .into_iter()
            .for_each(|string| octets::push(&mut bytes, string.as_ref()));
        match &mut self.encoded {
            SmallBytes::Carrying(carrying) => carrying.bytes = bytes,
            encoded => *encoded = bytes.into(),
        }
    }
}

impl<A: AsRef<[u8]>> FromIterator<A> for Strings {
    fn from_iter<I: IntoIterator<Item = A>>(strings: I) -> Self {
        let mut all = Strings::new();
        all.extend(strings);
        all
    }
}

/// Lists are equal if their strings are, however their lengths are encoded, and whatever descriptors they have.
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

/// The strings, separated by spaces; invalid UTF-8 is replaced.
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
        f.write_str("]")?;
        match self.encoded.fds() {
            Some(fds) if fds.len() > 0 => write!(f, " + {} fd", fds.len()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_of_one_empty_string_is_not_empty() {
        let mut strings = Strings::new();
        assert!(strings.is_empty());
        strings.push("");
        assert!(!strings.is_empty());
        assert_eq!(strings, [""]);
        assert_ne!(strings, Strings::new());
    }

    #[test]
    fn errors_state_the_numbers_and_the_invalid_string() {
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
    fn lists_with_differently_encoded_lengths_are_equal() {
        let strings = Strings::decode(Input::from(&b"\x80\x01a"[..])).unwrap();
        assert_eq!(strings, ["a"]);
        assert_eq!(strings, ["a"].into_iter().collect::<Strings>());
    }
}

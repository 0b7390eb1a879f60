//! Encoding of requests, replies, errors and events. No I/O.
//!
//! Below the codec a payload is opaque: the connection does not inspect it, nor copy it more than
//! necessary. A [`Codec`] is a type without values, named by a [`Service`].
//!
//! [`Service`]: crate::Service

mod argument;
#[cfg(feature = "cbor")]
mod cbor;
#[cfg(feature = "compact")]
mod compact;
#[cfg(any(feature = "json", feature = "cbor", feature = "compact"))]
mod descriptors;
#[cfg(feature = "json")]
mod json;
mod octets;
mod scratch;
mod strings;

pub use argument::{Argument, OctetString, OctetStrings, Replies};
#[cfg(feature = "cbor")]
pub use cbor::Cbor;
#[cfg(feature = "compact")]
pub use compact::Compact;
#[cfg(feature = "json")]
pub use json::Json;
pub use octets::Octets;
pub(crate) use scratch::Scratch;
pub use strings::Strings;

use crate::BoxError;
use crate::fd::Fd;
use crate::wire::{Body, Carrying, Fds, SmallBytes};
use std::fmt;
use std::io;
use std::ops::Deref;

/// A way to write values as bytes and to read them back: a type without values, which [encodes](Encode)
/// and [decodes](Decode) the types of a [`Service`](crate::Service).
///
/// # Examples
///
/// ```
/// use offspring::{Codec, CodecError, Decode, Encode, Input, Output};
///
/// /// Numbers as eight bytes, big endian.
/// enum BigEndian {}
///
/// impl Codec for BigEndian {
///     const NAME: &'static str = "big endian";
/// }
///
/// impl Encode<u64> for BigEndian {
///     fn encode(value: &u64, output: &mut Output) -> Result<(), CodecError> {
///         output.extend(&value.to_be_bytes());
///         Ok(())
///     }
/// }
///
/// impl Decode<'_, u64> for BigEndian {
///     fn decode(input: &mut Input<'_>) -> Result<u64, CodecError> {
///         let bytes = input[..].try_into();
///         bytes.map(u64::from_be_bytes).map_err(|_| CodecError::new("a number has eight bytes"))
///     }
/// }
///
/// let mut output = Output::default();
/// BigEndian::encode(&258, &mut output)?;
/// let bytes = output.into_vec();
/// assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 1, 2]);
/// assert_eq!(BigEndian::decode(&mut Input::from(bytes))?, 258);
/// # Ok::<(), CodecError>(())
/// ```
pub trait Codec {
    /// The codec's name, which must be the same in both processes.
    const NAME: &'static str;
}

/// How a [`Codec`] writes a `T`.
#[diagnostic::on_unimplemented(message = "the codec `{Self}` cannot carry `{T}`")]
pub trait Encode<T>: Codec {
    /// Appends `value` to `output`.
    ///
    /// # Errors
    ///
    /// If the value cannot be encoded. Its call fails, and the value is not sent.
    fn encode(value: &T, output: &mut Output) -> Result<(), CodecError>;

    /// Same as [`encode`](Encode::encode), but takes ownership: a value that consists mostly of
    /// bytes can [move](Output::push) them instead of copying them. Default: calls `encode`.
    ///
    /// # Errors
    ///
    /// Same as `encode`.
    fn encode_owned(value: T, output: &mut Output) -> Result<(), CodecError> {
        Self::encode(&value, output)
    }
}

/// How a [`Codec`] reads a `T`, which may borrow from the bytes.
#[diagnostic::on_unimplemented(message = "the codec `{Self}` cannot carry `{T}`")]
pub trait Decode<'a, T>: Codec {
    /// Decodes a value, which must take up the whole input. The bytes come from another process: any may
    /// come, and those that are no value are an error.
    ///
    /// # Errors
    ///
    /// If the bytes are not a valid encoding. Their call fails.
    fn decode(input: &'a mut Input<'_>) -> Result<T, CodecError>;
}

/// [`Encode`] and [`Decode`]: what a codec has to do for each type of a service.
#[diagnostic::on_unimplemented(message = "the codec `{Self}` cannot carry `{T}`")]
pub trait Carries<'a, T>: Encode<T> + Decode<'a, T> {}

impl<'a, T, C: Encode<T> + Decode<'a, T>> Carries<'a, T> for C {}

/// Why a value could not be encoded or decoded.
#[derive(Debug)]
pub struct CodecError(BoxError);

impl CodecError {
    /// An error with this cause, which may be a string.
    pub fn new(cause: impl Into<BoxError>) -> Self {
        CodecError(cause.into())
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for CodecError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// The error of a deserialiser that has stopped before so many bytes: there must be none after the value.
#[cfg(any(feature = "cbor", feature = "compact"))]
fn stopped(message: &str, len: usize, left: usize) -> CodecError {
    let read = len - left;
    CodecError::new(format!("{message}, after {read} of {len} bytes"))
}

/// The buffer a [`Codec`] writes to. Also an [`io::Write`] that never fails, for serialisers that
/// need one.
#[derive(Debug, Default)]
pub struct Output {
    body: Body,
}

impl Output {
    /// Appends bytes.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        self.vec().extend_from_slice(bytes);
    }

    /// Appends bytes by value. Long ones, if they are part of a request, reply or event, are not
    /// copied: they are written to the socket directly.
    pub fn push(&mut self, bytes: Vec<u8>) {
        self.body.push(bytes);
    }

    /// Sends a descriptor along, and returns its index among those of this message. The [input](Input::take_fds)
    /// on the other side has them in the same order.
    pub fn attach(&mut self, fd: impl Into<Fd>) -> usize {
        let index = self.body.fds().len();
        self.body.attach(fd.into());
        index
    }

    /// Takes the descriptors that were attached so far: for a codec that has another one write the bytes.
    #[must_use]
    pub fn take_fds(&mut self) -> Vec<Fd> {
        self.body.take_fds()
    }

    /// The number of bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The written bytes, without descriptors.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.body.into_vec()
    }

    /// The last piece, for code that appends in place.
    pub(crate) fn vec(&mut self) -> &mut Vec<u8> {
        self.body.end()
    }

    /// The pieces, to be queued for writing.
    pub(crate) fn body(&mut self) -> &mut Body {
        &mut self.body
    }
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The bytes a [`Codec`] decodes, borrowed or owned.
#[derive(Debug)]
pub struct Input<'a>(Repr<'a>);

#[derive(Debug)]
enum Repr<'a> {
    Borrowed(&'a [u8]),
    Owned(SmallBytes),
}

impl Input<'_> {
    /// Takes the bytes as a `Vec`, copied only if they are borrowed or few. Large payloads are moved.
    #[must_use]
    pub fn take_vec(&mut self) -> Vec<u8> {
        match &mut self.0 {
            // Its descriptors stay.
            Repr::Owned(SmallBytes::Carrying(carrying)) => std::mem::take(&mut carrying.bytes),
            _ => self.take().into_small().into_vec(),
        }
    }

    /// This input with descriptors: for a codec that has another one read the bytes.
    #[must_use]
    pub fn with_fds(self, fds: Vec<Fd>) -> Self {
        let mut bytes = self.into_small();
        *bytes.make_fds() = fds.into();
        Input(Repr::Owned(bytes))
    }

    /// The descriptors that were [sent along](Output::attach), once, in order. What is left of them is closed
    /// with the input.
    ///
    /// # Errors
    ///
    /// If some have not arrived: this process has too many open files, or is not allowed to have them; or they
    /// could not be sent.
    pub fn take_fds(&mut self) -> Result<Vec<Fd>, CodecError> {
        match &mut self.0 {
            Repr::Borrowed(_) => Ok(Vec::new()),
            Repr::Owned(bytes) => {
                let fds = bytes.fds_mut();
                fds.map_or(Ok(Vec::new()), Fds::take)
                    .map_err(CodecError::new)
            }
        }
    }

    /// The descriptors, or why there are none, and leaves none.
    pub(crate) fn split_fds(&mut self) -> Fds {
        match &mut self.0 {
            Repr::Borrowed(_) => Fds::default(),
            Repr::Owned(bytes) => bytes.fds_mut().map(std::mem::take).unwrap_or_default(),
        }
    }

    /// The bytes, and leaves none.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> Self {
        Input(std::mem::replace(&mut self.0, Repr::Borrowed(&[])))
    }

    #[inline(always)]
    pub(crate) fn into_small(self) -> SmallBytes {
        match self.0 {
            Repr::Borrowed(bytes) => bytes.into(),
            Repr::Owned(bytes) => bytes,
        }
    }
}

impl<'a> Input<'a> {
    /// Bytes, with the descriptors that came with them.
    pub(crate) fn carrying(bytes: &'a [u8], fds: Fds) -> Self {
        if fds.len() == 0 {
            return Input::from(bytes);
        }
        let bytes = bytes.to_vec();
        Input::from(SmallBytes::from(Box::new(Carrying { bytes, fds })))
    }
}

impl Deref for Input<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Borrowed(bytes) => bytes,
            Repr::Owned(bytes) => bytes,
        }
    }
}

impl<'a> From<&'a [u8]> for Input<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Input(Repr::Borrowed(bytes))
    }
}

impl From<Vec<u8>> for Input<'static> {
    fn from(bytes: Vec<u8>) -> Self {
        Input(Repr::Owned(bytes.into()))
    }
}

impl From<SmallBytes> for Input<'static> {
    fn from(bytes: SmallBytes) -> Self {
        Input(Repr::Owned(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::{Input, Output};
    use crate::fd::Fd;

    #[test]
    fn descriptors_stay_when_the_bytes_are_taken() {
        let fd = Fd::from(std::fs::File::open("/dev/null").unwrap());
        let mut output = Output::default();
        assert_eq!((output.attach(fd.clone()), output.attach(fd)), (0, 1));
        let fds = output.take_fds();
        assert!(fds.len() == 2 && output.take_fds().is_empty());
        let mut input = Input::from(&b"bytes"[..]).with_fds(fds);
        assert_eq!(input.take_vec(), b"bytes");
        assert_eq!(input.take_fds().unwrap().len(), 2);
        assert!(input.take_fds().unwrap().is_empty() && input.take_vec().is_empty());
    }

    #[test]
    fn output_is_empty_until_something_is_written() {
        let mut output = Output::default();
        assert!(output.is_empty());
        output.extend(b"");
        output.push(Vec::new());
        assert!(output.is_empty());
        output.push(vec![7]);
        assert!(!output.is_empty() && output.len() == 1);
    }
}

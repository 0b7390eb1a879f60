//! Values that can be passed as the argument of a call, reply, event or progress report.

use super::{CodecError, Encode, Octets, Output, Strings};
use crate::fd::Fd;
use crate::wire::octets;
use std::borrow::Cow;
use std::sync::Arc;

/// A value that can be sent as a `T` by the codec `C`: a `T` or a `&T`, and for a `String` a `&str`, too.
/// For [octet strings](Strings) it is also anything that is [`OctetStrings`].
///
/// # Examples
///
/// ```
/// use offspring::{Argument, Octets, Output, Strings};
///
/// fn encoded(argument: impl Argument<Strings, Octets>) -> Vec<u8> {
///     let mut output = Output::default();
///     argument.encode_to(&mut output).expect("octet strings can always be encoded");
///     output.into_vec()
/// }
///
/// assert_eq!(encoded(["a", "b"]), b"\x01a\x01b");
/// assert_eq!(encoded(["a", "b"].into_iter().collect::<Strings>()), b"\x01a\x01b");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent as `{T}`",
    label = "the service takes `{T}`, or a reference to one"
)]
pub trait Argument<T, C> {
    /// Appends the encoded value to `output`.
    ///
    /// # Errors
    ///
    /// Same as [`Encode::encode`].
    fn encode_to(self, output: &mut Output) -> Result<(), CodecError>;
}

impl<T, C: Encode<T>> Argument<T, C> for T {
    fn encode_to(self, output: &mut Output) -> Result<(), CodecError> {
        C::encode_owned(self, output)
    }
}

impl<T, C: Encode<T>> Argument<T, C> for &T {
    fn encode_to(self, output: &mut Output) -> Result<(), CodecError> {
        C::encode(self, output)
    }
}

impl<C: Encode<String>> Argument<String, C> for &str {
    fn encode_to(self, output: &mut Output) -> Result<(), CodecError> {
        C::encode_owned(self.to_owned(), output)
    }
}

impl<A: OctetStrings> Argument<Strings, Octets> for A {
    fn encode_to(self, output: &mut Output) -> Result<(), CodecError> {
        self.push_all(output);
        Ok(())
    }
}

/// What a function may return for a reply `T`: with any codec a `T`, and for [octet strings](Strings)
/// whatever is [`OctetStrings`].
///
/// The codec implements it and not what is returned, so that the type of `text.parse()?` or
/// `iterator.collect()` is known.
#[diagnostic::on_unimplemented(message = "a function of this service returns `{T}`, not `{R}`")]
pub trait Replies<T, R> {
    /// Appends what a function has returned to `output`.
    ///
    /// # Errors
    ///
    /// Same as [`Encode::encode`].
    fn encode_reply(reply: R, output: &mut Output) -> Result<(), CodecError>;
}

impl<T, C: Encode<T>> Replies<T, T> for C {
    #[inline]
    fn encode_reply(reply: T, output: &mut Output) -> Result<(), CodecError> {
        C::encode_owned(reply, output)
    }
}

impl<A: OctetStrings> Replies<Strings, A> for Octets {
    fn encode_reply(reply: A, output: &mut Output) -> Result<(), CodecError> {
        reply.push_all(output);
        Ok(())
    }
}

/// What can be sent as octet strings, made of [`OctetString`]s:
///
/// | value | is sent as |
/// |---|---|
/// | `()` | no string |
/// | `"text"`, `String`, `&String` | one string |
/// | `["rmdir", path]`, `[bytes]`, `&[..]`, `Vec` | one string per element |
/// | `("rmdir", path, &bytes[..])` | one string per element, up to six of different types |
/// | [`Fd`], or one among the elements | no string, but a descriptor |
///
/// The strings of any iterator are collected as [`Strings`], which can be sent wherever this can.
///
/// # Examples
///
/// ```
/// use offspring::{OctetStrings, Output};
///
/// fn encoded(strings: impl OctetStrings) -> Vec<u8> {
///     let mut output = Output::default();
///     strings.push_all(&mut output);
///     output.into_vec()
/// }
///
/// assert_eq!(encoded(()), b"");
/// assert_eq!(encoded("ab"), b"\x02ab");
/// assert_eq!(encoded(("a", vec![0u8])), b"\x01a\x01\0");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent as octet strings",
    note = "those are: `()`, text, an array, slice or `Vec` of bytes or text, a tuple of those, or \
            `Strings` collected from an iterator, and `Fd`; one byte string is `[bytes]`"
)]
pub trait OctetStrings {
    /// Appends the strings, each preceded by its length.
    fn push_all(self, output: &mut Output);
}

/// A value that is sent as one octet string: bytes or text, owned or borrowed, or a reference to
/// anything that is `AsRef<[u8]>`.
///
/// A long `Vec<u8>` or `String` that is passed by value in a request, reply or event is not copied:
/// it is written to the socket directly.
///
/// # Examples
///
/// ```
/// use offspring::{OctetString, Output};
///
/// let mut output = Output::default();
/// "read".push_to(&mut output);
/// vec![0; 1 << 20].push_to(&mut output);
/// assert_eq!(output.len(), 5 + 3 + (1 << 20));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an octet string",
    note = "octet strings are: `&str`, `String`, `Vec<u8>`, `[u8; N]`, `Cow`, `Box` and `Arc` of \
            `[u8]`, and a reference to anything that is `AsRef<[u8]>`"
)]
pub trait OctetString {
    /// Appends the string, preceded by its length.
    fn push_to(self, output: &mut Output);
}

impl<T: AsRef<[u8]> + ?Sized> OctetString for &T {
    fn push_to(self, output: &mut Output) {
        octets::push(output.vec(), self.as_ref());
    }
}

/// A descriptor, which is sent beside the strings.
impl OctetString for Fd {
    fn push_to(self, output: &mut Output) {
        output.attach(self);
    }
}

impl OctetString for &Fd {
    fn push_to(self, output: &mut Output) {
        output.attach(self.clone());
    }
}

impl OctetString for Vec<u8> {
    fn push_to(self, output: &mut Output) {
        octets::push_len(output.vec(), self.len());
        output.push(self);
    }
}

impl OctetString for String {
    fn push_to(self, output: &mut Output) {
        self.into_bytes().push_to(output);
    }
}

impl OctetString for Cow<'_, [u8]> {
    fn push_to(self, output: &mut Output) {
        match self {
            Cow::Borrowed(bytes) => bytes.push_to(output),
            Cow::Owned(bytes) => bytes.push_to(output),
        }
    }
}

impl OctetString for Box<[u8]> {
    fn push_to(self, output: &mut Output) {
        self.into_vec().push_to(output);
    }
}

impl OctetString for Arc<[u8]> {
    fn push_to(self, output: &mut Output) {
        (*self).push_to(output);
    }
}

impl<const N: usize> OctetString for [u8; N] {
    fn push_to(self, output: &mut Output) {
        (&self).push_to(output);
    }
}

/// Implements [`OctetStrings`] for lists.
macro_rules! lists {
    ($([$($generics:tt)*] $type:ty, $self:ident => $strings:expr;)*) => {$(
        impl<$($generics)*> OctetStrings for $type {
            fn push_all($self, output: &mut Output) {
                for string in $strings {
                    string.push_to(output);
                }
            }
        }
    )*};
}

lists! {
    [] (), self => [[0; 0]; 0];
    [] &str, self => [self];
    [] String, self => [self];
    [] &String, self => [self];
    [] Fd, self => [self];
    [] &Fd, self => [self];
    [A: OctetString, const N: usize] [A; N], self => self;
    [A: AsRef<[u8]>, const N: usize] &[A; N], self => self;
    [A: AsRef<[u8]>] &[A], self => self;
    [A: OctetString] Vec<A>, self => self;
    [A: AsRef<[u8]>] &Vec<A>, self => self;
}

/// Implements [`OctetStrings`] for tuples.
macro_rules! tuples {
    ($(($($name:ident $n:tt),+))*) => {$(
        impl<$($name: OctetString),+> OctetStrings for ($($name,)+) {
            fn push_all(self, output: &mut Output) {
                $(self.$n.push_to(output);)+
            }
        }
    )*};
}

tuples! {
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(argument: impl Argument<Strings, Octets>) -> Output {
        let mut output = Output::default();
        argument.encode_to(&mut output).unwrap();
        output
    }

    #[test]
    fn every_type_of_octet_string_is_encoded_as_one_string() {
        let (bytes, text) = (b"ab".to_vec(), "ab".to_owned());
        let borrowed: Cow<'_, [u8]> = Cow::Borrowed(&bytes);
        let owned: Cow<'_, [u8]> = Cow::Owned(bytes.clone());
        let boxed = bytes.clone().into_boxed_slice();
        let shared: Arc<[u8]> = bytes.clone().into();
        let list = encoded((&shared[..], borrowed, owned, boxed, &text, *b"ab"));
        assert_eq!(list.into_vec(), b"\x02ab".repeat(6));
        let list = encoded((shared, &bytes, &&bytes[..], bytes.clone(), text, "ab"));
        assert_eq!(list.into_vec(), b"\x02ab".repeat(6));
        assert_eq!(encoded((bytes,)).into_vec(), b"\x02ab");
    }

    #[test]
    fn long_bytes_passed_by_value_are_not_copied() {
        let long = || vec![7; 100_000];
        let all = [vec![], long(), vec![1; 3], long(), vec![]];
        let at = [1, 3].map(|n: usize| all[n].as_ptr());
        let want = octets::encode(&all);
        let mut output = encoded(all);
        let is_there = |at| output.body().pieces().any(|piece| piece.as_ptr() == at);
        assert!(at.map(is_there) == [true; 2]);
        assert!(output.into_vec() == want);
    }
}

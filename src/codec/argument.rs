//! What may be passed where a value is sent.

use super::{Codec, CodecError, Octets, Output, Strings};
use crate::wire::octets;

/// A value that can be sent as a `T` by the codec `C`: a `T`, a `&T`, and for octet strings
/// whatever is made of things that are `AsRef<[u8]>`.
///
/// | for [`Strings`] | is |
/// |---|---|
/// | `()` | no string |
/// | `"text"`, `String`, `&String` | one string |
/// | `["rmdir", path]`, `[bytes]`, `&[..]`, `Vec` | one string an element |
/// | `("rmdir", path, &bytes[..])` | strings of different types, up to six |
/// | `strings.into_iter().collect::<Strings>()` | anything else |
///
/// # Examples
///
/// ```
/// use offspring::{Argument, Octets, Output, Strings};
///
/// fn encoded(argument: impl Argument<Strings, Octets>) -> Vec<u8> {
///     let mut output = Output::default();
///     argument.encode_to(&mut output).expect("octet strings can always be encoded");
///     output.as_bytes().to_vec()
/// }
///
/// assert_eq!(encoded(()), b"");
/// assert_eq!(encoded("ab"), b"\x02ab");
/// assert_eq!(encoded(["a", "b"]), b"\x01a\x01b");
/// assert_eq!(encoded(("a", vec![0u8])), b"\x01a\x01\0");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent as `{T}`",
    note = "octet strings are: `()`, text, an array, slice or `Vec` of `AsRef<[u8]>`, a tuple of \
            those, or `Strings` collected from an iterator; one byte string is `[bytes]`"
)]
pub trait Argument<T, C> {
    /// Appends the value as the codec writes it.
    ///
    /// # Errors
    ///
    /// Those of [`Codec::encode`].
    fn encode_to(self, output: &mut Output) -> Result<(), CodecError>;
}

impl<T, C: Codec<T>> Argument<T, C> for T {
    fn encode_to(self, output: &mut Output) -> Result<(), CodecError> {
        C::encode_owned(self, output)
    }
}

impl<T, C: Codec<T>> Argument<T, C> for &T {
    fn encode_to(self, output: &mut Output) -> Result<(), CodecError> {
        C::encode(self, output)
    }
}

/// Implements it for octet strings; `$strings` go out in this order.
macro_rules! strings {
    ($([$($generics:tt)*] $type:ty, $self:ident => $strings:expr;)*) => {$(
        impl<$($generics)*> Argument<Strings, Octets> for $type {
            fn encode_to($self, output: &mut Output) -> Result<(), CodecError> {
                for string in $strings {
                    octets::push(output.vec(), string.as_ref());
                }
                Ok(())
            }
        }
    )*};
}

strings! {
    [] (), self => [[0; 0]; 0];
    [] &str, self => [self];
    [] String, self => [self];
    [] &String, self => [self];
    [A: AsRef<[u8]>, const N: usize] [A; N], self => self;
    [A: AsRef<[u8]>, const N: usize] &[A; N], self => self;
    [A: AsRef<[u8]>] &[A], self => self;
    [A: AsRef<[u8]>] Vec<A>, self => self;
    [A: AsRef<[u8]>] &Vec<A>, self => self;
    [A: AsRef<[u8]>] (A,), self => [self.0];
    [A: AsRef<[u8]>, B: AsRef<[u8]>] (A, B), self => [self.0.as_ref(), self.1.as_ref()];
    [A: AsRef<[u8]>, B: AsRef<[u8]>, C: AsRef<[u8]>] (A, B, C), self =>
        [self.0.as_ref(), self.1.as_ref(), self.2.as_ref()];
    [A: AsRef<[u8]>, B: AsRef<[u8]>, C: AsRef<[u8]>, D: AsRef<[u8]>] (A, B, C, D), self =>
        [self.0.as_ref(), self.1.as_ref(), self.2.as_ref(), self.3.as_ref()];
    [A: AsRef<[u8]>, B: AsRef<[u8]>, C: AsRef<[u8]>, D: AsRef<[u8]>, E: AsRef<[u8]>]
        (A, B, C, D, E), self =>
        [self.0.as_ref(), self.1.as_ref(), self.2.as_ref(), self.3.as_ref(), self.4.as_ref()];
    [A: AsRef<[u8]>, B: AsRef<[u8]>, C: AsRef<[u8]>, D: AsRef<[u8]>, E: AsRef<[u8]>, F: AsRef<[u8]>]
        (A, B, C, D, E, F), self =>
        [self.0.as_ref(), self.1.as_ref(), self.2.as_ref(), self.3.as_ref(), self.4.as_ref(), self.5.as_ref()];
}

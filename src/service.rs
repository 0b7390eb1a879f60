//! What both sides agree on: a function's name, codec and types.

use crate::chain::chain;
use crate::codec::{Carries, Codec, CodecError, Input, Octets, Output, Strings};
use crate::error::BoxError;
use crate::wire::FunctionId;
use std::borrow::Cow;
use std::fmt::{self, Debug, Display};
use std::marker::PhantomData;
use std::sync::Arc;

/// A function's name, codec and types: what both sides agree on, as a constant that both use.
///
/// | | is | default |
/// |---|---|---|
/// | `C` | the codec of everything below | |
/// | `Q` | the request; [`Lent`] if it borrows | |
/// | `R` | the reply, if the function succeeds | |
/// | `E` | the error, if it fails; any error with [`Text`] | [`Text`] |
/// | `P` | what a function reports about a call while it runs | `String` |
///
/// A child whose function has another [version](Service::version) or codec than the parent's service is
/// not called. Whether it has the same types nobody can check: change the version with them.
///
/// Wherever a service is asked for, any string will do: a service of [octet strings](Strings).
///
/// # Examples
///
/// With `Json`, of the feature `json`, and types that serde knows, this is all there is to say:
///
/// ```
/// # #[cfg(feature = "json")] {
/// use offspring::{Json, Service};
///
/// const LINES: Service<Json, String, usize> = Service::new("lines");
/// # let _ = LINES;
/// # }
/// ```
///
/// The same with a codec of your own, which [`Codec`] shows:
///
/// ```
/// use offspring::{Service, Worker};
/// # use offspring::{Codec, CodecError, Decode, Encode, Input, Output};
/// # #[derive(Debug)]
/// # enum BigEndian {}
/// # impl Codec for BigEndian {
/// #     const NAME: &'static str = "big endian";
/// # }
/// # impl Encode<u64> for BigEndian {
/// #     fn encode(value: &u64, output: &mut Output) -> Result<(), CodecError> {
/// #         Ok(output.extend(&value.to_be_bytes()))
/// #     }
/// # }
/// # impl Decode<'_, u64> for BigEndian {
/// #     fn decode(input: &mut Input<'_>) -> Result<u64, CodecError> {
/// #         input[..].try_into().map(u64::from_be_bytes).map_err(CodecError::new)
/// #     }
/// # }
///
/// const SQUARE: Service<BigEndian, u64, u64, u64> = Service::new("square");
///
/// fn main() -> Result<(), offspring::BoxError> {
///     let me = Worker::new().function(SQUARE, |n, _caller| n.checked_mul(n).ok_or(n)).run();
///     let rpc = me.rpc(SQUARE).start()?;
///     assert_eq!(rpc.call(12).wait()?, 144);
///     assert_eq!(rpc.call(1 << 40).wait().unwrap_err().to_string(), "1099511627776");
///     Ok(())
/// }
/// ```
pub struct Service<C, Q: ?Sized, R, E = Text, P = String> {
    name: &'static str,
    version: u32,
    types: Types<C, Q, R, E, P>,
}

/// Owns none of them, and can be sent and shared whatever they are.
type Types<C, Q, R, E, P> = PhantomData<fn(&Q) -> (C, R, E, P)>;

impl<C, Q, R, E, P> Service<C, Q, R, E, P>
where
    Q: Request + ?Sized,
    C: for<'a> Carries<'a, Q::Of<'a>> + for<'a> Carries<'a, R>,
    E: Errors<C>,
{
    /// The service of this name.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Service {
            name,
            version: 0,
            types: PhantomData,
        }
    }

    /// The same service with this version of its types. A child that has another one is not called.
    /// Default: 0.
    #[must_use]
    pub const fn version(self, version: u32) -> Self {
        Service {
            name: self.name,
            version,
            types: PhantomData,
        }
    }
}

impl<C, Q: ?Sized, R, E, P> Clone for Service<C, Q, R, E, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C, Q: ?Sized, R, E, P> Copy for Service<C, Q, R, E, P> {}

impl<C, Q: ?Sized, R, E, P> Debug for Service<C, Q, R, E, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish()
    }
}

/// The types of a service, for code that is generic over services: all of them are a [`Service`] or a
/// [`Name`]. Sealed.
pub trait Signature: sealed::Sealed + Clone + Send + Sync + 'static {
    /// Encodes and decodes all the types below.
    type Codec: for<'a> Carries<'a, Self::Request<'a>> + for<'a> Carries<'a, Self::Reply>;
    /// The argument of a call.
    type Request<'a>;
    /// The result of a call if the function succeeds.
    type Reply: Send + 'static;
    /// The result of a call if the function fails.
    type Error: Display + Debug + Send + 'static;
    /// How that is sent.
    type Errors: Errors<Self::Codec, Error = Self::Error>;
    /// What a function sends about a call while it runs.
    type Progress: Send + 'static;

    /// The function's name in the table. For a plain peer, used only in messages.
    fn name(&self) -> &str;

    /// The version of the types.
    fn version(&self) -> u32;

    /// Whether requests borrow.
    #[doc(hidden)]
    const BORROWS: bool;

    /// Decodes a request that does not borrow. Octet strings are faster to decode by value than by their
    /// codec, which takes a reference.
    #[doc(hidden)]
    fn decode_request<'a>(input: Input<'_>) -> Result<Self::Request<'a>, CodecError>;

    /// Decodes a reply.
    #[doc(hidden)]
    fn decode_reply(input: Input<'_>) -> Result<Self::Reply, CodecError>;
}

impl<C, Q, R, E, P> Signature for Service<C, Q, R, E, P>
where
    C: for<'a> Carries<'a, Q::Of<'a>> + for<'a> Carries<'a, R> + 'static,
    Q: Request + ?Sized + 'static,
    R: Send + 'static,
    E: Errors<C> + 'static,
    P: Send + 'static,
{
    type Codec = C;
    type Request<'a> = Q::Of<'a>;
    type Reply = R;
    type Error = E::Error;
    type Errors = E;
    type Progress = P;

    fn name(&self) -> &str {
        self.name
    }

    fn version(&self) -> u32 {
        self.version
    }

    const BORROWS: bool = Q::BORROWS;

    fn decode_request<'a>(mut input: Input<'_>) -> Result<Self::Request<'a>, CodecError> {
        C::decode(&mut input).map(Q::outlive)
    }

    fn decode_reply(mut input: Input<'_>) -> Result<R, CodecError> {
        C::decode(&mut input)
    }
}

/// The service that a string is: [octet strings](Strings) in and out, and any error, as text.
///
/// # Examples
///
/// A name may be made while the program runs.
///
/// ```
/// # fn main() -> Result<(), offspring::BoxError> {
/// let mut worker = offspring::Worker::new();
/// for base in [2, 10] {
///     worker = worker.function(format!("to base {base}"), move |request, _caller| {
///         let n: u32 = request.to_string().parse()?;
///         Ok(if base == 2 { format!("{n:b}") } else { n.to_string() })
///     });
/// }
/// let me = worker.run();
/// let base = 2;
/// let rpc = me.rpc(format!("to base {base}")).start()?;
/// assert_eq!(rpc.call("5").wait()?, ["101"]);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "StringService")]
#[derive(Debug, Clone)]
pub struct Name(Arc<str>);

impl Signature for Name {
    type Codec = Octets;
    type Request<'a> = Strings;
    type Reply = Strings;
    type Error = BoxError;
    type Errors = Text;
    type Progress = Strings;

    fn name(&self) -> &str {
        &self.0
    }

    fn version(&self) -> u32 {
        0
    }

    const BORROWS: bool = false;

    #[inline(always)]
    fn decode_request<'a>(input: Input<'_>) -> Result<Self::Request<'a>, CodecError> {
        Strings::decode(input)
    }

    #[inline(always)]
    fn decode_reply(input: Input<'_>) -> Result<Strings, CodecError> {
        Strings::decode(input)
    }
}

mod sealed {
    pub trait Sealed {}
    impl<C, Q: ?Sized, R, E, P> Sealed for super::Service<C, Q, R, E, P> {}
    impl Sealed for super::Name {}
}

/// What the other side is told of a service.
pub(crate) fn id_of<S: Signature>(service: &S) -> FunctionId<'_> {
    FunctionId {
        name: service.name(),
        version: service.version(),
        codec: S::Codec::NAME,
    }
}

/// What may stand where a service is asked for: a [`Service`], or a string of whatever type.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no service",
    note = "a service is a string, or a `Service<Codec, Request, Reply>` whose codec carries its types"
)]
pub trait IntoService {
    /// The service that it is.
    type Service: Signature;

    /// The service.
    fn into_service(self) -> Self::Service;
}

impl<C, Q: ?Sized, R, E, P> IntoService for Service<C, Q, R, E, P>
where
    Self: Signature,
{
    type Service = Self;

    fn into_service(self) -> Self {
        self
    }
}

/// Implements [`IntoService`] for strings.
macro_rules! strings {
    ($($type:ty),*) => {$(
        impl IntoService for $type {
            type Service = Name;

            fn into_service(self) -> Name {
                Name(self.into())
            }
        }
    )*};
}

strings!(&str, String, Box<str>, Arc<str>, Cow<'_, str>);

impl IntoService for &String {
    type Service = Name;

    fn into_service(self) -> Name {
        Name(self.as_str().into())
    }
}

impl IntoService for Name {
    type Service = Name;

    fn into_service(self) -> Name {
        self
    }
}

/// What may stand for a request's type in a [`Service`]: any type that borrows nothing, or [`Lent`].
pub trait Request {
    /// The request itself, which may borrow for this lifetime.
    type Of<'a>;

    /// Whether it borrows.
    #[doc(hidden)]
    const BORROWS: bool;

    /// A request that does not borrow, as one for another lifetime.
    #[doc(hidden)]
    fn outlive<'a, 'b>(request: Self::Of<'a>) -> Self::Of<'b>;
}

impl<T: Send + 'static> Request for T {
    type Of<'a> = T;

    const BORROWS: bool = false;

    fn outlive<'a, 'b>(request: Self::Of<'a>) -> Self::Of<'b> {
        request
    }
}

impl<F: Lend + ?Sized> Request for Lent<F> {
    type Of<'a> = F::Of<'a>;

    const BORROWS: bool = true;

    fn outlive<'a, 'b>(_: Self::Of<'a>) -> Self::Of<'b> {
        unreachable!("it borrows")
    }
}

/// Stands for a request that borrows, in a [`Service`]: `Lent<Job<'static>>` for a `Job<'_>`. The parent
/// passes what borrows from its own data, and the function gets what borrows from the bytes that came.
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "json")] {
/// use offspring::{Json, Lend, Lent, Service, Worker};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Line<'a> {
///     number: usize,
///     text: &'a str,
/// }
///
/// impl Lend for Line<'static> {
///     type Of<'a> = Line<'a>;
/// }
///
/// const WORDS: Service<Json, Lent<Line<'static>>, usize> = Service::new("words");
///
/// fn main() -> Result<(), offspring::BoxError> {
///     let me = Worker::new().function(WORDS, |line, _| Ok(line.text.split(' ').count())).run();
///     let rpc = me.rpc(WORDS).start()?;
///     let text = String::from("a rose is a rose");
///     assert_eq!(rpc.call(Line { number: 1, text: &text }).wait()?, 5);
///     Ok(())
/// }
/// # main().unwrap() }
/// ```
pub struct Lent<F: ?Sized> {
    types: PhantomData<F>,
    /// Not sized, so that it is no request by itself: those are.
    _unsized: [()],
}

/// A type that borrows, as [`Lent`] needs it: implemented for `T<'static>`, it names `T<'a>`.
pub trait Lend: 'static {
    /// The same type for another lifetime.
    type Of<'a>;
}

/// How the errors of a [`Service`] are sent: a type that its codec carries as it is, and [`Text`] as text,
/// whatever the codec.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a service with the codec `{C}`",
    note = "an error type is `Display`, `Debug`, `Send`, and something that the codec can carry; `Text` is \
            any error, as text"
)]
pub trait Errors<C> {
    /// What functions return and callers get.
    type Error: Display + Debug + Send + 'static;

    /// The error as text, with that of its sources.
    fn message(error: &Self::Error) -> String;

    /// Appends the error to `output`.
    ///
    /// # Errors
    ///
    /// As [`Encode::encode`](crate::Encode::encode).
    fn encode(error: &Self::Error, output: &mut Output) -> Result<(), CodecError>;

    /// Decodes the error.
    ///
    /// # Errors
    ///
    /// As [`Decode::decode`](crate::Decode::decode).
    fn decode(input: &mut Input<'_>) -> Result<Self::Error, CodecError>;
}

/// Stands for any error, as the error of a [`Service`]: functions return a [`BoxError`], to which `?`
/// converts, and callers get one with the same text, which includes that of its sources.
#[derive(Debug)]
pub enum Text {}

impl<C> Errors<C> for Text {
    type Error = BoxError;

    fn message(error: &BoxError) -> String {
        chain(&**error)
    }

    fn encode(error: &BoxError, output: &mut Output) -> Result<(), CodecError> {
        output.extend(chain(&**error).as_bytes());
        Ok(())
    }

    fn decode(input: &mut Input<'_>) -> Result<BoxError, CodecError> {
        Ok(String::from_utf8_lossy(input).into())
    }
}

impl<C, E> Errors<C> for E
where
    C: for<'a> Carries<'a, E>,
    E: Display + Debug + Send + 'static,
{
    type Error = E;

    fn message(error: &E) -> String {
        // How `anyhow` and others show sources.
        format!("{error:#}")
    }

    fn encode(error: &E, output: &mut Output) -> Result<(), CodecError> {
        C::encode(error, output)
    }

    fn decode(input: &mut Input<'_>) -> Result<E, CodecError> {
        C::decode(input)
    }
}

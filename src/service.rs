//! The types of a function.

use crate::codec::{Codec, Octets, Strings};
use crate::error::BoxError;
use std::fmt::{Debug, Display};

/// A function's name, types and codec, known to both sides.
///
/// A string, as in `process.rpc("resize")`, is a service of octet strings. For other types,
/// implement this for a unit struct and use it instead of the name on both sides: [`Rpc`] and
/// [`Caller`] then accept and return those types.
///
/// [`Rpc`]: crate::Rpc
/// [`Caller`]: crate::Caller
///
/// # Examples
///
/// A service of numbers, with its own codec; see [`Codec`] for how to write one.
///
/// ```
/// use offspring::{Codec, CodecError, Input, Output, Service};
/// # enum BigEndian {}
/// # impl Codec<u64> for BigEndian {
/// #     const NAME: &'static str = "big endian";
/// #     fn encode(value: &u64, output: &mut Output) -> Result<(), CodecError> {
/// #         Ok(output.extend(&value.to_be_bytes()))
/// #     }
/// #     fn decode(input: Input<'_>) -> Result<u64, CodecError> {
/// #         input[..].try_into().map(u64::from_be_bytes).map_err(CodecError::new)
/// #     }
/// # }
///
/// #[derive(Clone, Copy)]
/// struct Square;
///
/// impl Service for Square {
///     type Codec = BigEndian;
///     type Request = u64;
///     type Reply = u64;
///     type Error = u64;
///     type Event = u64;
///     type Progress = u64;
///
///     fn name(&self) -> &str {
///         "square"
///     }
/// }
///
/// fn main() -> Result<(), offspring::BoxError> {
///     let me = offspring::Worker::new()
///         .function(Square, |n: u64, _caller| n.checked_mul(n).ok_or(n))
///         .run();
///     let rpc = me.rpc(Square).start()?;
///     assert_eq!(rpc.call(12).wait()?, 144);
///     Ok(())
/// }
/// ```
pub trait Service: Clone + Send + Sync + 'static {
    /// Encodes and decodes all the types below.
    type Codec: Codec<Self::Request>
        + Codec<Self::Reply>
        + Codec<Self::Error>
        + Codec<Self::Event>
        + Codec<Self::Progress>;
    /// The argument of a call.
    type Request: Send + 'static;
    /// The result of a call if the function succeeds.
    type Reply: Send + 'static;
    /// The result of a call if the function fails.
    type Error: Display + Debug + Send + 'static;
    /// What the child sends as an event, at any time.
    type Event: Send + 'static;
    /// What a function sends about a call while it runs.
    type Progress: Send + 'static;

    /// The function's name in the child's table. For a plain peer, used only in messages.
    fn name(&self) -> &str;

    /// The version of the types. A child with another version refuses to start. Default: 0.
    fn version(&self) -> u32 {
        0
    }

    /// The event that reports an error to the `on_event` handler of a handle without `on_error`, or
    /// a panic on a child's [`Loop`](crate::Loop) that belongs to no call.
    ///
    /// Default: none. The handle's error then goes to the log, or to standard error if the feature
    /// `log` is off, and the panic is reported by the child's panic hook only.
    fn error_event(&self, message: &str) -> Option<Self::Event> {
        let _ = message;
        None
    }
}

/// A function of octet strings: any string is its name, also one that is made while the program runs. Its
/// error event is `["error", message]`.
///
/// # Examples
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
impl<T: AsRef<str> + Clone + Send + Sync + 'static> Service for T {
    type Codec = Octets;
    type Request = Strings;
    type Reply = Strings;
    type Error = BoxError;
    type Event = Strings;
    type Progress = Strings;

    fn name(&self) -> &str {
        self.as_ref()
    }

    fn error_event(&self, message: &str) -> Option<Strings> {
        Some(["error", message].into_iter().collect())
    }
}

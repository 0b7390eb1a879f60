//! MessagePack.

use super::{Codec, CodecError, Decode, Encode, Input, Output, descriptors};
use rmp_serde::decode::{Error, ReadRefReader};
use rmp_serde::{Deserializer, encode};
use serde::{Deserialize, Serialize};

/// How deep values may be nested, in the deserialiser's count.
const DEPTH: usize = 256;

/// The codec for any type that serde can serialise, between programs in Rust, as MessagePack without the names
/// of fields; with the feature `compact`, by `rmp-serde`.
///
/// It is the smallest. Both sides must be built with the same types: fields are told apart by their order,
/// so what is not the same on both sides may be taken for something else. Change the service's
/// [version](crate::Service::version) with its types, and the start of a child that has others fails.
///
/// Values may be nested 256 levels deep. Bytes after the value are an error.
///
/// # Examples
///
/// ```
/// use offspring::{Compact, Decode, Encode, Input, Output};
///
/// let thumbnail = ("a.png".to_owned(), Some(80), vec![1.5]);
/// let mut output = Output::default();
/// Compact::encode(&thumbnail, &mut output)?;
/// assert_eq!(output.len(), 18);
/// let bytes = output.into_vec();
/// let decoded: (String, Option<u32>, Vec<f64>) = Compact::decode(&mut Input::from(bytes))?;
/// assert_eq!(decoded, thumbnail);
/// # Ok::<(), offspring::CodecError>(())
/// ```
#[derive(Debug)]
pub enum Compact {}

impl Codec for Compact {
    const NAME: &'static str = "messagepack";
}

impl<T: Serialize> Encode<T> for Compact {
    fn encode(value: &T, output: &mut Output) -> Result<(), CodecError> {
        let encode = |output: &mut Output| encode::write(output, value);
        descriptors::encode(output, encode).map_err(CodecError::new)
    }
}

impl<'a, T: Deserialize<'a>> Decode<'a, T> for Compact {
    fn decode(input: &'a mut Input<'_>) -> Result<T, CodecError> {
        descriptors::decode(input, decode)
    }
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CodecError> {
    let mut deserializer = Deserializer::from_read_ref(bytes);
    deserializer.set_max_depth(DEPTH);
    let error = match T::deserialize(&mut deserializer) {
        Ok(value) if is_at_end(&mut deserializer) => return Ok(value),
        Ok(_) => "the value ends".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(locate::<T>(bytes, error))
}

/// Whether nothing follows the value.
fn is_at_end(deserializer: &mut Deserializer<ReadRefReader<'_, [u8]>>) -> bool {
    // Of a type that refuses whatever has elements without a look at them: that one of these is missing
    // would be the same error.
    let next = <()>::deserialize(deserializer);
    matches!(next, Err(Error::InvalidMarkerRead(_)))
}

/// The error of a deserialiser, with the place where it stopped. The one that values can borrow from does
/// not tell: another, which is slower and which they cannot borrow from, does, if it stops with the same.
#[cold]
fn locate<'a, T: Deserialize<'a>>(input: &[u8], error: String) -> CodecError {
    let mut deserializer = Deserializer::new(input);
    deserializer.set_max_depth(DEPTH);
    let stopped = T::deserialize(&mut deserializer);
    if stopped.is_err_and(|other| other.to_string() != error) {
        return CodecError::new(error);
    }
    let left = deserializer.get_ref().len();
    super::stopped(&error, input.len(), left)
}

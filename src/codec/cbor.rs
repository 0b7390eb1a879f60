//! CBOR.

use super::{Codec, CodecError, Decode, Encode, Input, Output, descriptors};
use cbor4ii::core::dec::Read;
use cbor4ii::core::utils::SliceReader;
use cbor4ii::serde::{DecodeError, Deserializer, to_writer};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;

/// The codec for any type that serde can serialise, as CBOR (RFC 8949); with the feature `cbor`, by `cbor4ii`.
///
/// Many languages can read it, and it has all that such types may have: maps with any keys, and bytes. The
/// names of fields are sent, so fields may be added that have a default.
///
/// Values may be nested 256 levels deep. Bytes after the value are an error.
///
/// # Examples
///
/// ```
/// use offspring::{Cbor, Decode, Encode, Input, Output};
/// use std::collections::BTreeMap;
///
/// let sizes = BTreeMap::from([(1, 10), (2, 20)]);
/// let mut output = Output::default();
/// Cbor::encode(&sizes, &mut output)?;
/// let cbor = output.into_vec();
/// assert_eq!(cbor, [0xa2, 1, 10, 2, 20]);
/// let decoded: BTreeMap<u32, u32> = Cbor::decode(&mut Input::from(cbor))?;
/// assert_eq!(decoded, sizes);
///
/// let mut long = Input::from(&[1, 2, 3][..]);
/// let error = Cbor::decode(&mut long).map(|n: u8| n).unwrap_err();
/// assert_eq!(error.to_string(), "the value ends, after 1 of 3 bytes");
/// # Ok::<(), offspring::CodecError>(())
/// ```
#[derive(Debug)]
pub enum Cbor {}

impl Codec for Cbor {
    const NAME: &'static str = "cbor";
}

impl<T: Serialize> Encode<T> for Cbor {
    fn encode(value: &T, output: &mut Output) -> Result<(), CodecError> {
        let encode = |output: &mut Output| to_writer(output, value);
        descriptors::encode(output, encode).map_err(CodecError::new)
    }
}

impl<'a, T: Deserialize<'a>> Decode<'a, T> for Cbor {
    fn decode(input: &'a mut Input<'_>) -> Result<T, CodecError> {
        descriptors::decode(input, decode)
    }
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CodecError> {
    let mut deserializer = Deserializer::new(SliceReader::new(bytes));
    let result = T::deserialize(&mut deserializer);
    let mut reader = deserializer.into_inner();
    let left = match reader.fill(usize::MAX) {
        Ok(rest) => rest.as_ref().len(),
        Err(never) => match never {},
    };
    match result {
        Ok(value) if left == 0 => Ok(value),
        Ok(_) => Err(super::stopped("the value ends", bytes.len(), left)),
        Err(error) => Err(super::stopped(&text(error), bytes.len(), left)),
    }
}

/// What is wrong, in words where it is common: `Display` writes what `Debug` does.
fn text(error: DecodeError<Infallible>) -> String {
    use cbor4ii::core::error::DecodeError as Core;
    match error {
        DecodeError::Custom(text) => text.into(),
        DecodeError::Core(Core::Eof { name, .. }) => format!("the input ends inside {name}"),
        DecodeError::Core(Core::Mismatch { name, found }) => {
            format!("expected {name}, found the byte {found:#04x}")
        }
        DecodeError::Core(Core::RequireUtf8 { .. }) => "a string is not UTF-8".to_owned(),
        DecodeError::Core(Core::DepthOverflow { .. }) => "nested too deeply".to_owned(),
        DecodeError::Core(error) => error.to_string(),
    }
}

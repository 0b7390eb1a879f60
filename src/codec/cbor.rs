//! CBOR.

use super::{Codec, CodecError, Input, Output};
use cbor4ii::core::dec::Read;
use cbor4ii::core::utils::SliceReader;
use cbor4ii::serde::{DecodeError, Deserializer, to_writer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::convert::Infallible;

/// The codec of any type of serde's, as CBOR (RFC 8949); with the feature `cbor`, by `cbor4ii`.
///
/// Many languages can read it, and it has all that serde's types have: maps with any keys, and bytes. The
/// names of fields are sent, so fields may be added that have a default.
///
/// Values may be nested 256 levels deep. Bytes after the value are an error.
///
/// # Examples
///
/// ```
/// use offspring::{Cbor, Codec, Input, Output};
/// use std::collections::BTreeMap;
///
/// let sizes = BTreeMap::from([(1, 10), (2, 20)]);
/// let mut output = Output::default();
/// Cbor::encode(&sizes, &mut output)?;
/// let cbor = output.into_vec();
/// assert_eq!(cbor, [0xa2, 1, 10, 2, 20]);
/// assert_eq!(<Cbor as Codec<BTreeMap<u32, u32>>>::decode(Input::from(cbor))?, sizes);
///
/// let error = <Cbor as Codec<u8>>::decode(Input::from(&[1, 2, 3][..])).unwrap_err();
/// assert_eq!(error.to_string(), "the value ends, after 1 of 3 bytes");
/// # Ok::<(), offspring::CodecError>(())
/// ```
#[derive(Debug)]
pub enum Cbor {}

impl<T: Serialize + DeserializeOwned> Codec<T> for Cbor {
    const NAME: &'static str = "cbor";

    fn encode(value: &T, output: &mut Output) -> Result<(), CodecError> {
        to_writer(output, value).map_err(CodecError::new)
    }

    fn decode(input: Input<'_>) -> Result<T, CodecError> {
        let mut deserializer = Deserializer::new(SliceReader::new(&input));
        let result = T::deserialize(&mut deserializer);
        let mut reader = deserializer.into_inner();
        let left = match reader.fill(usize::MAX) {
            Ok(rest) => rest.as_ref().len(),
            Err(never) => match never {},
        };
        super::used_up(result.map_err(text), &input, left)
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

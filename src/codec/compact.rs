//! MessagePack.

use super::{Codec, CodecError, Input, Output};
use rmp_serde::{Deserializer, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How deep values may be nested, in the deserialiser's count.
const DEPTH: usize = 256;

/// The codec of any type of serde's between programs in Rust, as MessagePack without the names of fields;
/// with the feature `compact`, by `rmp-serde`.
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
/// use offspring::{Codec, Compact, Input, Output};
///
/// let thumbnail = ("a.png".to_owned(), Some(80), vec![1.5]);
/// let mut output = Output::default();
/// Compact::encode(&thumbnail, &mut output)?;
/// assert_eq!(output.len(), 18);
/// let bytes = output.into_vec();
/// type Thumbnail = (String, Option<u32>, Vec<f64>);
/// assert_eq!(<Compact as Codec<Thumbnail>>::decode(Input::from(bytes))?, thumbnail);
/// # Ok::<(), offspring::CodecError>(())
/// ```
#[derive(Debug)]
pub enum Compact {}

impl<T: Serialize + DeserializeOwned> Codec<T> for Compact {
    const NAME: &'static str = "messagepack";

    fn encode(value: &T, output: &mut Output) -> Result<(), CodecError> {
        encode::write(output, value).map_err(CodecError::new)
    }

    fn decode(input: Input<'_>) -> Result<T, CodecError> {
        let mut deserializer = Deserializer::new(&input[..]);
        deserializer.set_max_depth(DEPTH);
        let result = T::deserialize(&mut deserializer);
        let left = deserializer.get_ref().len();
        super::used_up(result.map_err(|error| error.to_string()), &input, left)
    }
}

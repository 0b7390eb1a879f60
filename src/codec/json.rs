//! JSON.

use super::{Codec, CodecError, Decode, Encode, Input, Output, descriptors};
use serde::{Deserialize, Serialize};

/// The codec for any type that serde can serialise, as JSON; with the feature `json`, by `serde_json`.
///
/// Every language can read it, and so can people: it is the one for workers that are not written in Rust.
/// It is the largest and slowest. Keys of maps must be strings or numbers, and bytes are best sent in
/// another codec, as each becomes a number in digits.
///
/// Values may be nested 128 levels deep. Bytes after the value are an error.
///
/// # Examples
///
/// ```
/// use offspring::{Decode, Encode, Input, Json, Output};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct Job {
///     path: String,
///     width: u32,
/// }
///
/// let job = Job { path: "a.png".into(), width: 80 };
/// let mut output = Output::default();
/// Json::encode(&job, &mut output)?;
/// let json = output.into_vec();
/// assert_eq!(json, br#"{"path":"a.png","width":80}"#);
/// let decoded: Job = Json::decode(&mut Input::from(json))?;
/// assert_eq!(decoded, job);
///
/// let mut wrong = Input::from(&b"{\"path\":7}"[..]);
/// let error = Json::decode(&mut wrong).map(|job: Job| job).unwrap_err();
/// assert_eq!(error.to_string(), "invalid type: integer `7`, expected a string at line 1 column 9");
/// # Ok::<(), offspring::CodecError>(())
/// ```
#[derive(Debug)]
pub enum Json {}

impl Codec for Json {
    const NAME: &'static str = "json";
}

impl<T: Serialize> Encode<T> for Json {
    fn encode(value: &T, output: &mut Output) -> Result<(), CodecError> {
        let encode = |output: &mut Output| serde_json::to_writer(output, value);
        descriptors::encode(output, encode).map_err(CodecError::new)
    }
}

impl<'a, T: Deserialize<'a>> Decode<'a, T> for Json {
    fn decode(input: &'a mut Input<'_>) -> Result<T, CodecError> {
        let decode = |bytes| serde_json::from_slice(bytes).map_err(CodecError::new);
        descriptors::decode(input, decode)
    }
}

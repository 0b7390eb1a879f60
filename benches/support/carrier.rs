//! Two ways to send opaque bytes: as one octet string, and by a codec that copies them through.

use offspring::{Argument, BoxError, Codec, CodecError, Input, Octets, Output, Service, Strings};

/// A service whose requests, replies and events are nothing but bytes.
pub(crate) trait Carrier:
    Service<
        Request = <Self as Carrier>::Data,
        Reply = <Self as Carrier>::Data,
        Event = <Self as Carrier>::Data,
        Error = BoxError,
    >
{
    type Data: Send + 'static;

    fn named(name: &'static str) -> Self;
    fn wrap(bytes: &[u8]) -> impl Argument<Self::Data, Self::Codec>;
    fn bytes(data: &Self::Data) -> &[u8];
}

/// What a program does that has no codec of its own.
impl Carrier for &'static str {
    type Data = Strings;

    fn named(name: &'static str) -> Self {
        name
    }

    fn wrap(bytes: &[u8]) -> impl Argument<Strings, Octets> {
        [bytes]
    }

    fn bytes(strings: &Strings) -> &[u8] {
        &strings[0]
    }
}

/// A service of bytes without any structure.
#[derive(Clone, Copy)]
pub(crate) struct Bytes(&'static str);

impl Service for Bytes {
    type Codec = Verbatim;
    type Request = Vec<u8>;
    type Reply = Vec<u8>;
    type Error = BoxError;
    type Event = Vec<u8>;
    type Progress = Vec<u8>;

    fn name(&self) -> &str {
        self.0
    }
}

/// The codec of [`Bytes`].
pub(crate) enum Verbatim {}

impl Codec<Vec<u8>> for Verbatim {
    const NAME: &'static str = "verbatim";

    fn encode(value: &Vec<u8>, output: &mut Output) -> Result<(), CodecError> {
        output.extend(value);
        Ok(())
    }

    fn decode(input: Input<'_>) -> Result<Vec<u8>, CodecError> {
        Ok(input.into_vec())
    }
}

impl Codec<BoxError> for Verbatim {
    const NAME: &'static str = "verbatim";

    fn encode(value: &BoxError, output: &mut Output) -> Result<(), CodecError> {
        output.extend(value.to_string().as_bytes());
        Ok(())
    }

    fn decode(input: Input<'_>) -> Result<BoxError, CodecError> {
        Ok(String::from_utf8_lossy(&input).into())
    }
}

/// Borrowed bytes, so that a request need not be a `Vec` first.
struct Slice<'a>(&'a [u8]);

impl Argument<Vec<u8>, Verbatim> for Slice<'_> {
    fn encode_to(self, output: &mut Output) -> Result<(), CodecError> {
        output.extend(self.0);
        Ok(())
    }
}

impl Carrier for Bytes {
    type Data = Vec<u8>;

    fn named(name: &'static str) -> Self {
        Bytes(name)
    }

    fn wrap(bytes: &[u8]) -> impl Argument<Vec<u8>, Verbatim> {
        Slice(bytes)
    }

    fn bytes(bytes: &Vec<u8>) -> &[u8] {
        bytes
    }
}

//! The default codec.

use super::{Codec, CodecError, Decode, Encode, Input, Output, Strings};

/// The codec of octet strings, in the default encoding of `AnyEvent::Fork::RPC`: Perl's
/// `pack "(w/a*)*"`.
#[derive(Debug)]
pub enum Octets {}

impl Codec for Octets {
    const NAME: &'static str = "octets";
}

impl Encode<Strings> for Octets {
    #[inline]
    fn encode(value: &Strings, output: &mut Output) -> Result<(), CodecError> {
        value.attach_to(output)?;
        value.encode_to(output.vec());
        Ok(())
    }

    #[inline]
    fn encode_owned(value: Strings, output: &mut Output) -> Result<(), CodecError> {
        value.attach_to(output)?;
        if value.is_long() {
            output.push(value.into_encoded());
        } else {
            value.encode_to(output.vec());
        }
        Ok(())
    }
}

impl Decode<'_, Strings> for Octets {
    #[inline(always)]
    fn decode(input: &mut Input<'_>) -> Result<Strings, CodecError> {
        Strings::decode(input.take())
    }
}

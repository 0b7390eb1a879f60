//! The default codec.

use super::{Codec, CodecError, Input, Output, Strings};
use crate::BoxError;
use crate::chain::chain;

/// The codec of octet strings, in the default encoding of `AnyEvent::Fork::RPC`: Perl's
/// `pack "(w/a*)*"`. An error is sent as its text.
#[derive(Debug)]
pub enum Octets {}

impl Codec<Strings> for Octets {
    const NAME: &'static str = "octets";

    #[inline]
    fn encode(value: &Strings, output: &mut Output) -> Result<(), CodecError> {
        value.encode_to(output.vec());
        Ok(())
    }

    #[inline]
    fn encode_owned(value: Strings, output: &mut Output) -> Result<(), CodecError> {
        if value.is_long() {
            output.push(value.into_encoded());
        } else {
            value.encode_to(output.vec());
        }
        Ok(())
    }

    #[inline(always)]
    fn decode(input: Input<'_>) -> Result<Strings, CodecError> {
        Strings::decode(input)
    }
}

impl Codec<BoxError> for Octets {
    const NAME: &'static str = "octets";

    fn encode(value: &BoxError, output: &mut Output) -> Result<(), CodecError> {
        output.extend(chain(&**value).as_bytes());
        Ok(())
    }

    fn decode(input: Input<'_>) -> Result<BoxError, CodecError> {
        Ok(String::from_utf8_lossy(&input).into())
    }
}

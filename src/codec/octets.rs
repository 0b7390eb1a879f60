//! The default codec.

use super::{Codec, CodecError, Decode, Encode, Input, Output, Strings};
use crate::wire::{Fds, SmallBytes};
use std::mem;

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
        match value.encoded() {
            SmallBytes::Carrying(carrying) => attach(&carrying.fds, output)?,
            SmallBytes::Inline { .. } | SmallBytes::Heap(_) => {}
        }
        value.encoded().append_to(output.vec());
        Ok(())
    }

    #[inline]
    fn encode_owned(value: Strings, output: &mut Output) -> Result<(), CodecError> {
        match value.encoded() {
            // By reference: to move it costs more than to copy what is in it.
            inline @ SmallBytes::Inline { .. } => {
                inline.append_to(output.vec());
                // It has nothing to be freed, which the compiler does not see.
                mem::forget(value);
            }
            SmallBytes::Heap(_) => output.push(value.into_encoded().into_vec()),
            SmallBytes::Carrying(carrying) => {
                attach(&carrying.fds, output)?;
                output.push(value.into_encoded().into_vec());
            }
        }
        Ok(())
    }
}

/// Sends clones of descriptors along.
#[cold]
fn attach(fds: &Fds, output: &mut Output) -> Result<(), CodecError> {
    for fd in fds.all().map_err(CodecError::new)? {
        output.attach(fd.clone());
    }
    Ok(())
}

impl Decode<'_, Strings> for Octets {
    #[inline(always)]
    fn decode(input: &mut Input<'_>) -> Result<Strings, CodecError> {
        Strings::decode(input.take())
    }
}

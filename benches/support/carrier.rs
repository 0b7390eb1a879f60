//! Two ways to send opaque bytes: as one octet string, and with a codec that passes them unchanged.

use crate::payload::{self, Large};
use offspring::{
    Argument, BoxError, Codec, CodecError, Decode, Encode, Input, IntoService, Name, Octets,
    Output, Rpc, Service, Signature, Strings,
};
use std::sync::Mutex;

/// Buffers to reuse.
pub(crate) type Pool = Mutex<Vec<Vec<u8>>>;

/// A service whose requests and replies are plain bytes.
pub(crate) trait Carrier:
    Signature<Reply = <Self as Carrier>::Data, Error = BoxError>
    + for<'a> Signature<Request<'a> = <Self as Carrier>::Data>
    + IntoService<Service = Self>
{
    type Data: Send + 'static;

    fn named(name: &'static str) -> Self;
    fn wrap(bytes: &[u8]) -> impl Argument<Self::Data, Self::Codec>;
    fn bytes(data: &Self::Data) -> &[u8];
    /// A large payload in a new buffer, or in one that a reply left in `pool`.
    fn large(payload: &mut Large, i: u32, pool: &Pool) -> impl Argument<Self::Data, Self::Codec>;
    /// Puts the buffer of a reply into the pool, to be reused for a request.
    fn reuse(data: Self::Data, pool: &Pool);
    /// Echoes a large payload, and returns one for the next call, without a copy where possible.
    fn echo(rpc: &Rpc<Self>, payload: Vec<u8>, check: impl FnOnce(&[u8])) -> Vec<u8>;
}

/// The default codec.
impl Carrier for Name {
    type Data = Strings;

    fn named(name: &'static str) -> Self {
        name.into_service()
    }

    fn wrap(bytes: &[u8]) -> impl Argument<Strings, Octets> {
        [bytes]
    }

    fn bytes(strings: &Strings) -> &[u8] {
        &strings[0]
    }

    fn large(payload: &mut Large, i: u32, _: &Pool) -> impl Argument<Strings, Octets> {
        [payload.stamp(i)]
    }

    fn reuse(_: Strings, _: &Pool) {}

    fn echo(rpc: &Rpc<Self>, payload: Vec<u8>, check: impl FnOnce(&[u8])) -> Vec<u8> {
        check(&rpc.call([&payload]).wait().expect("an echo")[0]);
        payload
    }
}

/// A service of unstructured bytes.
pub(crate) type Bytes = Service<Verbatim, Vec<u8>, Vec<u8>>;

/// The codec of [`Bytes`].
pub(crate) enum Verbatim {}

impl Codec for Verbatim {
    const NAME: &'static str = "verbatim";
}

impl Encode<Vec<u8>> for Verbatim {
    fn encode(value: &Vec<u8>, output: &mut Output) -> Result<(), CodecError> {
        output.extend(value);
        Ok(())
    }

    fn encode_owned(value: Vec<u8>, output: &mut Output) -> Result<(), CodecError> {
        output.push(value);
        Ok(())
    }
}

impl Decode<'_, Vec<u8>> for Verbatim {
    fn decode(input: &mut Input<'_>) -> Result<Vec<u8>, CodecError> {
        Ok(input.take_vec())
    }
}

/// Borrowed bytes, so that a request need not be a `Vec`.
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
        Service::new(name)
    }

    fn wrap(bytes: &[u8]) -> impl Argument<Vec<u8>, Verbatim> {
        Slice(bytes)
    }

    fn bytes(bytes: &Vec<u8>) -> &[u8] {
        bytes
    }

    fn large(payload: &mut Large, i: u32, pool: &Pool) -> impl Argument<Vec<u8>, Verbatim> {
        let left = pool.lock().expect("nothing panics under this lock").pop();
        let mut bytes = left.unwrap_or_else(|| payload.stamp(i).to_vec());
        payload::stamp(&mut bytes, i);
        bytes
    }

    fn reuse(bytes: Vec<u8>, pool: &Pool) {
        pool.lock()
            .expect("nothing panics under this lock")
            .push(bytes);
    }

    fn echo(rpc: &Rpc<Self>, payload: Vec<u8>, check: impl FnOnce(&[u8])) -> Vec<u8> {
        let reply = rpc.call(payload).wait().expect("an echo");
        check(&reply);
        reply
    }
}

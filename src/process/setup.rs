//! A setup that a child is to run before it serves.

use crate::chain::chain;
use crate::codec::{Argument, Codec, Output};
use crate::service::Signature;
use crate::wire::{FunctionId, ToChild};

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    name: String,
    version: u32,
    codec: &'static str,
    /// The encoded request, or why it cannot be encoded.
    request: Result<Vec<u8>, String>,
}

impl Setup {
    pub(super) fn new<'r, S: Signature>(
        service: &S,
        request: impl Argument<S::Request<'r>, S::Codec>,
    ) -> Self {
        let mut output = Output::default();
        let encoded = request.encode_to(&mut output);
        Setup {
            name: service.name().to_owned(),
            version: service.version(),
            codec: S::Codec::NAME,
            request: encoded
                .map(|()| output.into_vec())
                .map_err(|error| chain(&error)),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The encoded request, or why it cannot be encoded.
    pub(crate) fn encoded(&self) -> Result<&[u8], &str> {
        match &self.request {
            Ok(request) => Ok(request),
            Err(error) => Err(error),
        }
    }

    /// The message that asks for it.
    pub(crate) fn message(&self) -> ToChild<'_> {
        let setup = FunctionId {
            name: &self.name,
            version: self.version,
            codec: self.codec,
        };
        // What cannot be encoded is refused before.
        let request = self.encoded().unwrap_or_default();
        ToChild::Setup { setup, request }
    }
}

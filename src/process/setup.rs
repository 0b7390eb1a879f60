//! A setup that a child is to run before it serves.

use crate::chain::chain;
use crate::codec::{Argument, Output};
use crate::error::{Error, ErrorKind};
use crate::service::{Signature, id_of};
use crate::wire::{LONGEST_SETUP, ToChild, truncate};

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    name: String,
    /// The message that asks for it, or why its request cannot be encoded.
    message: Result<Vec<u8>, String>,
}

impl Setup {
    pub(super) fn new<'r, S: Signature>(
        service: &S,
        request: impl Argument<S::Request<'r>, S::Codec>,
    ) -> Self {
        let mut output = Output::default();
        let encoded = request.encode_to(&mut output);
        let message = || {
            let (setup, request) = (id_of(service), &output.into_vec()[..]);
            ToChild::Setup { setup, request }.encode()
        };
        Setup {
            name: service.name().to_owned(),
            message: encoded.map(|()| message()).map_err(|error| chain(&error)),
        }
    }

    /// The message that asks for it.
    ///
    /// # Errors
    ///
    /// Why a child cannot be asked for it.
    pub(crate) fn message(&self) -> Result<&[u8], Error> {
        let why = match &self.message {
            Ok(message) if message.len() <= LONGEST_SETUP => return Ok(message),
            Ok(_) => {
                "has more than a mebibyte; pass what is long in a call or in a file".to_owned()
            }
            Err(error) => format!("cannot be encoded: {error}"),
        };
        let name = truncate(&self.name, 100);
        let message = format!("the request of the setup `{name}` {why}");
        Err(Error::new(ErrorKind::Setup, message))
    }
}

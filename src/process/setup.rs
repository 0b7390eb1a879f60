//! A setup that a child is to run before it serves.

use crate::chain::chain;
use crate::codec::{Argument, Output};
use crate::error::{Error, ErrorKind};
use crate::fd::{Fd, Reach, may_send};
use crate::service::{Signature, id_of};
use crate::wire::{Body, LONGEST_SETUP, ToChild, truncate};

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    name: String,
    /// The message that asks for it, or why its request cannot be encoded.
    message: Result<Vec<u8>, String>,
    fds: Vec<Fd>,
}

impl Setup {
    pub(super) fn new<'r, S: Signature>(
        service: &S,
        request: impl Argument<S::Request<'r>, S::Codec>,
    ) -> Self {
        let mut output = Output::default();
        let encoded = request.encode_to(&mut output);
        let fds = output.body().take_fds();
        let message = || {
            let (setup, request) = (id_of(service), &output.into_vec()[..]);
            ToChild::Setup { setup, request }.encode()
        };
        Setup {
            name: service.name().to_owned(),
            message: encoded.map(|()| message()).map_err(|error| chain(&error)),
            fds,
        }
    }

    /// The message that asks for it.
    ///
    /// # Errors
    ///
    /// Why a child cannot be asked for it.
    pub(crate) fn message(&self, to: Reach) -> Result<Body, Error> {
        let why = match (&self.message, may_send(self.fds.len(), to)) {
            (Ok(message), Ok(())) if message.len() <= LONGEST_SETUP => {
                let mut body = Body::from(message.clone());
                self.fds.iter().for_each(|fd| body.attach(fd.clone()));
                return Ok(body);
            }
            (Ok(_), Ok(())) => {
                "has more than a mebibyte; pass what is long in a call or in a file".to_owned()
            }
            (Ok(_), Err(error)) => format!("cannot be sent: {error}"),
            (Err(error), _) => format!("cannot be encoded: {error}"),
        };
        let name = truncate(&self.name, 100);
        let message = format!("the request of the setup `{name}` {why}");
        Err(Error::new(ErrorKind::Setup, message))
    }
}

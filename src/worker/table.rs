//! The functions and setups of a child, below the codec.

use super::caller::Caller;
use super::outlet::{Frame, Outlet, failed, malformed};
use super::panics;
use crate::codec::{Argument, Codec, Input, Strings};
use crate::error::BoxError;
use crate::service::Service;
use crate::wire::{self, Failure, Run};
use std::collections::BTreeMap;
use std::sync::Arc;

type Setup = Box<dyn FnMut(Strings) -> Result<(), BoxError>>;
type Function = Box<dyn FnMut(Input<'_>, &Arc<Outlet>, &mut Frame) -> Result<(), Failure>>;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Table {
    setups: BTreeMap<String, Setup>,
    functions: BTreeMap<String, Entry>,
}

/// One function.
pub(super) struct Entry {
    version: u32,
    codec: &'static str,
    function: Function,
}

/// Why a child will not serve: a kind of [`wire::ToParent::Refused`], and a message.
pub(super) type Refused = (&'static str, String);

impl Table {
    pub(super) fn add_setup(
        &mut self,
        name: String,
        setup: impl FnMut(Strings) -> Result<(), BoxError> + 'static,
    ) {
        let before = self.setups.insert(name.clone(), Box::new(setup));
        assert!(before.is_none(), "two setups have the name `{name}`");
    }

    pub(super) fn add_function<S, F, R>(&mut self, service: &S, mut function: F)
    where
        S: Service,
        F: FnMut(S::Request, &Caller<S>) -> Result<R, S::Error> + 'static,
        R: Argument<S::Reply, S::Codec>,
    {
        let name = service.name().to_owned();
        let entry = Entry {
            version: service.version(),
            codec: <S::Codec as Codec<S::Request>>::NAME,
            function: Box::new(move |payload, outlet, frame| {
                let request =
                    S::Codec::decode(payload).map_err(|e| malformed("the request", &e))?;
                let reply = function(request, &Caller::new(outlet)).map_err(|e| failed::<S>(&e))?;
                let encoded = reply.encode_to(&mut frame.output);
                encoded.map_err(|e| malformed("the reply", &e))
            }),
        };
        let before = self.functions.insert(name.clone(), entry);
        assert!(before.is_none(), "two functions have the name `{name}`");
    }

    pub(super) fn setup_names(&self) -> Vec<&String> {
        self.setups.keys().collect()
    }

    pub(super) fn function_names(&self) -> Vec<&String> {
        self.functions.keys().collect()
    }

    /// Runs a setup with octet strings as they travel.
    pub(super) fn set_up(&mut self, name: &str, strings: &[u8]) -> Result<(), Refused> {
        let refused = |message| (wire::REFUSED_SETUP, message);
        let Some(setup) = self.setups.get_mut(name) else {
            let names = list(self.setups.keys());
            return Err(refused(format!("no setup `{name}`; there are: {names}")));
        };
        let strings = Strings::decode(Input::from(strings))
            .map_err(|error| refused(format!("setup `{name}`: {error}")))?;
        match panics::catch(|| setup(strings).map_err(|error| error.to_string())) {
            Ok(result) => result.map_err(|error| refused(format!("setup `{name}`: {error}"))),
            Err(panic) => Err(refused(format!("setup `{name}` {}", describe(&panic)))),
        }
    }

    /// The function that a parent asks for.
    pub(super) fn function(&mut self, run: &Run<'_>) -> Result<&mut Entry, Refused> {
        if run.protocol != wire::VERSION {
            let message = format!(
                "the child speaks version {} of the protocol, the parent version {}",
                wire::VERSION,
                run.protocol
            );
            return Err((wire::REFUSED_VERSION, message));
        }
        let name = run.name;
        let names = list(self.functions.keys());
        let Some(entry) = self.functions.get_mut(name) else {
            let message = format!("no function `{name}`; there are: {names}");
            return Err((wire::REFUSED_FUNCTION, message));
        };
        if (entry.version, entry.codec) != (run.version, run.codec) {
            let message = format!(
                "function `{name}` has version {} and codec `{}` in the child, version {} and codec \
                 `{}` in the parent",
                entry.version, entry.codec, run.version, run.codec
            );
            return Err((wire::REFUSED_MISMATCH, message));
        }
        Ok(entry)
    }

    /// The function of that name, whatever its codec.
    pub(super) fn plain_function(&mut self, name: &str) -> &mut Entry {
        let names = list(self.functions.keys());
        match self.functions.get_mut(name) {
            Some(entry) => entry,
            None => panic!("no function `{name}` to serve; there are: {names}"),
        }
    }
}

impl Entry {
    /// Calls the function, whose reply goes into `frame`.
    pub(super) fn call(
        &mut self,
        payload: Input<'_>,
        outlet: &Arc<Outlet>,
        frame: &mut Frame,
    ) -> Result<(), Failure> {
        panics::catch(|| (self.function)(payload, outlet, frame))?
    }
}

/// A failure for people to read.
pub(super) fn describe(failure: &Failure) -> String {
    match failure {
        Failure::Error { message, .. } => format!("failed: {message}"),
        Failure::Panic { message, location } => format!("panicked at {location}: {message}"),
        Failure::Malformed { message } => format!("got or gave something malformed: {message}"),
    }
}

fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() {
        return "none".to_owned();
    }
    names.join(", ")
}

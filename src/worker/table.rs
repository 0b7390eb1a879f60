//! The functions and setups of a child, below the codec.

use super::caller::Caller;
use super::calls::Lane;
use super::concurrent::{self, DeferredFn, ThreadedFn};
use super::event_loop::Loop;
use super::functions::Functions;
use super::panics;
use super::returning::{self, ReturningFn};
use super::server::{Options, Server, Stop};
use crate::chain::chain;
use crate::codec::{Decode, Input, Replies};
use crate::directory::{Directory, OF_CHILD};
use crate::service::{Errors, Signature, id_of};
use crate::unwind;
use crate::wire::{self, FunctionId};
use std::mem;
use std::sync::Arc;

/// See the module's documentation.
pub(super) struct Table {
    setups: Directory<Setup>,
    functions: Directory<Lane>,
    /// In the order of `functions`.
    bodies: Bodies,
    /// In a program that has no function of some kind, nothing refers to what serves that kind, and the
    /// linker leaves it out.
    serve: Serve,
    /// Called in each copy of a template, in order.
    after_fork: Vec<Box<dyn FnMut()>>,
}

/// Decodes a request, and runs a setup with it: returns its error as text.
type Setup = Box<dyn FnMut(Input<'_>) -> Result<(), String>>;

/// Functions, by their indices.
pub(super) type Bodies = Vec<Body>;

/// A function: decodes a request, and answers it.
pub(super) enum Body {
    Returning(Box<ReturningFn>),
    Deferred(Box<DeferredFn>),
    Threaded(Arc<ThreadedFn>),
}

impl Body {
    fn lane(&self) -> Lane {
        match self {
            Body::Returning(_) => Lane::Returning,
            Body::Deferred(_) => Lane::Deferred,
            Body::Threaded(_) => Lane::Threaded,
        }
    }

    pub(super) fn threaded(&self) -> Option<Arc<ThreadedFn>> {
        match self {
            Body::Threaded(function) => Some(Arc::clone(function)),
            Body::Returning(_) | Body::Deferred(_) => None,
        }
    }
}

/// Answers requests until they end.
type Serve = fn(Server, &mut Bodies, Options) -> Result<(), Stop>;

/// Why a child will not serve: the kind and message of a [`wire::ToParent::Refused`].
pub(super) type StartFailure = (&'static str, String);

impl Default for Table {
    fn default() -> Self {
        Table {
            setups: Directory::new("setup", OF_CHILD),
            functions: Directory::new("function", OF_CHILD),
            bodies: Vec::new(),
            serve: |_, _, _| unreachable!("there is no function to be asked for"),
            after_fork: Vec::new(),
        }
    }
}

impl Table {
    pub(super) fn add_setup<S, F>(&mut self, service: &S, mut setup: F)
    where
        S: Signature,
        F: FnMut(S::Request<'_>) -> Result<(), S::Error> + 'static,
    {
        let run = move |mut request: Input<'_>| {
            let request = S::Codec::decode(&mut request).map_err(|error| chain(&error))?;
            setup(request).map_err(|error| S::Errors::message(&error))
        };
        self.setups.add(id_of(service), Box::new(run));
    }

    pub(super) fn add_after_fork(&mut self, hook: impl FnMut() + 'static) {
        self.after_fork.push(Box::new(hook));
    }

    pub(super) fn add_function<S, F, R>(&mut self, service: &S, mut function: F)
    where
        S: Signature,
        F: FnMut(S::Request<'_>, &Caller<S>) -> Result<R, S::Error> + 'static,
        S::Codec: Replies<S::Reply, R>,
    {
        let function: Box<ReturningFn> = Box::new(move |mut incoming, id| {
            let caller = Caller::<S>::new(incoming.hub(), id);
            let mut own;
            let request = if S::BORROWS {
                // The buffer that it was read into may be read into while the function runs.
                own = incoming.take_payload();
                S::Codec::decode(&mut own)
            } else {
                S::decode_request(incoming.payload())
            };
            match request {
                Ok(request) => {
                    let result = incoming.run(|| function(request, &caller));
                    caller.answer_returned(result);
                }
                Err(error) => caller.reject_request(&error),
            }
        });
        self.add(service, Body::Returning(function));
        if self.bodies.len() == 1 {
            self.serve = returning::answer;
        }
    }

    pub(super) fn add_deferred<S, F>(&mut self, service: &S, mut function: F)
    where
        S: Signature,
        F: FnMut(S::Request<'_>, Caller<S>, &Loop) + 'static,
    {
        let function: Box<DeferredFn> = Box::new(move |payload, hub, id, events| {
            let caller = Caller::<S>::new(hub, id);
            let mut own;
            let request = if S::BORROWS {
                own = payload;
                S::Codec::decode(&mut own)
            } else {
                S::decode_request(payload)
            };
            match request {
                Ok(request) => function(request, caller, events),
                Err(error) => caller.reject_request(&error),
            }
        });
        self.add(service, Body::Deferred(function));
        self.serve = concurrent::answer;
    }

    pub(super) fn add_threaded<S, F, R>(&mut self, service: &S, function: F)
    where
        S: Signature,
        F: Fn(S::Request<'_>, &Caller<S>) -> Result<R, S::Error> + Send + Sync + 'static,
        S::Codec: Replies<S::Reply, R>,
    {
        let function: Arc<ThreadedFn> = Arc::new(move |request, hub, id| {
            Caller::<S>::new(hub, id).answer_with(request, &function);
        });
        self.add(service, Body::Threaded(function));
        self.serve = concurrent::answer;
    }

    fn add<S: Signature>(&mut self, service: &S, body: Body) {
        let at = self.functions.add(id_of(service), body.lane());
        self.bodies.insert(at, body);
    }

    pub(super) fn setup_names(&self) -> Vec<&str> {
        self.setups.names().collect()
    }

    pub(super) fn function_names(&self) -> Vec<&str> {
        self.functions.names().collect()
    }

    /// Drops the functions and setups with what they captured. The panic hook shows a panic of a
    /// destructor; the others run nevertheless.
    pub(super) fn clear(self) {
        for body in self.bodies {
            let _ = unwind::catch(|| drop(body));
        }
        for setup in self.setups.into_values() {
            let _ = unwind::catch(|| drop(setup));
        }
        for hook in self.after_fork {
            let _ = unwind::catch(|| drop(hook));
        }
    }

    /// Runs a setup, with its request still encoded.
    pub(super) fn set_up(
        &mut self,
        setup: &FunctionId<'_>,
        request: Input<'_>,
    ) -> Result<(), StartFailure> {
        let name = setup.name;
        let refused = |message| (wire::REFUSED_SETUP, message);
        let at = self.setups.find(setup);
        let at = at.map_err(|lack| lack.refusal(wire::REFUSED_SETUP))?;
        let run = self.setups.get_mut(at);
        match panics::catch(|| run(request)) {
            Ok(result) => result.map_err(|error| refused(format!("setup `{name}`: {error}"))),
            Err(panic) => Err(refused(format!("setup `{name}` {panic}"))),
        }
    }

    /// This process is a new copy of a template: calls the hooks.
    pub(super) fn after_fork(&mut self) -> Result<(), StartFailure> {
        for hook in &mut self.after_fork {
            let refused = |panic| (wire::REFUSED_SETUP, format!("Worker::after_fork() {panic}"));
            panics::catch(hook).map_err(refused)?;
        }
        Ok(())
    }

    /// Which functions there are. To be called once, before requests are [answered](Table::answer).
    pub(super) fn take_functions(&mut self) -> Functions {
        Functions::new(mem::replace(
            &mut self.functions,
            Directory::new("function", OF_CHILD),
        ))
    }

    /// Answers requests until they end.
    pub(super) fn answer(&mut self, server: Server, options: Options) -> Result<(), Stop> {
        let hub = server.hub;
        let result = (self.serve)(server, &mut self.bodies, options);
        // Threads of the program's own may wait for answers.
        hub.end_of_requests();
        result
    }
}

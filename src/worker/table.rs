//! The functions and setups of a child, below the codec.

use super::caller::Caller;
use super::concurrent::{self, DeferredFn, Function, OnPanic, ThreadedFn};
use super::event_loop::Loop;
use super::panics;
use super::returning::{self, ReturningFn};
use super::server::{Options, Server, Stop};
use crate::chain::chain;
use crate::codec::{Argument, Codec, Input, Strings};
use crate::error::BoxError;
use crate::service::Service;
use crate::unwind;
use crate::wire::{self, Run};
use std::num::NonZero;
use std::sync::Arc;
use std::thread;

/// Answers requests with one function, until they end.
type Serve = Box<dyn FnMut(Server, Options) -> Result<(), Stop>>;

type Setup = Box<dyn FnMut(Strings) -> Result<(), BoxError>>;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Table {
    /// Both are sorted by name.
    setups: Vec<(String, Setup)>,
    functions: Vec<(String, FunctionEntry)>,
}

/// One function.
pub(super) struct FunctionEntry {
    version: u32,
    codec: &'static str,
    /// In a program that has no function of some kind, nothing refers to what serves that kind, and
    /// the linker leaves it out.
    serve: Serve,
}

/// Why a child will not serve: the kind and message of a [`wire::ToParent::Refused`].
pub(super) type StartFailure = (&'static str, String);

impl Table {
    pub(super) fn add_setup(
        &mut self,
        name: String,
        setup: impl FnMut(Strings) -> Result<(), BoxError> + 'static,
    ) {
        match find(&self.setups, &name) {
            Ok(_) => panic!("two setups have the name `{name}`"),
            Err(at) => self.setups.insert(at, (name, Box::new(setup))),
        }
    }

    pub(super) fn add_function<S, F, R>(&mut self, service: S, mut function: F)
    where
        S: Service,
        F: FnMut(S::Request, &Caller<S>) -> Result<R, S::Error> + 'static,
        R: Argument<S::Reply, S::Codec>,
    {
        let mut function: Box<ReturningFn> = Box::new(move |mut incoming, id| {
            let caller = Caller::<S>::new(incoming.hub(), id);
            match S::Codec::decode(incoming.input()) {
                Ok(request) => {
                    let result = incoming.run(|| function(request, &caller));
                    caller.answer(result);
                }
                Err(error) => caller.reject_request(&error),
            }
        });
        let serve = move |server: Server, options: Options| {
            returning::answer(server, &mut *function, options.high_water)
        };
        self.add(service, Box::new(serve));
    }

    pub(super) fn add_deferred<S, F>(&mut self, service: S, mut function: F)
    where
        S: Service,
        F: FnMut(S::Request, Caller<S>, &Loop) + 'static,
    {
        let mut function: Box<DeferredFn> = Box::new(move |request, hub, id, events| {
            let caller = Caller::<S>::new(hub, id);
            match S::Codec::decode(request) {
                Ok(request) => function(request, caller, events),
                Err(error) => caller.reject_request(&error),
            }
        });
        let on_panic = report_panic(service.clone());
        let serve = move |server: Server, options: Options| {
            let running = options.max_running;
            let function = Function::Deferred(&mut *function);
            concurrent::answer(server, function, &on_panic, options, running)
        };
        self.add(service, Box::new(serve));
    }

    pub(super) fn add_threaded<S, F, R>(&mut self, service: S, function: F)
    where
        S: Service,
        F: Fn(S::Request, &Caller<S>) -> Result<R, S::Error> + Send + Sync + 'static,
        R: Argument<S::Reply, S::Codec>,
    {
        let function: Arc<ThreadedFn> = Arc::new(move |request, hub, id| {
            Caller::<S>::new(hub, id).answer_with(request, &function);
        });
        let on_panic = report_panic(service.clone());
        let serve = move |server: Server, options: Options| {
            let all = || thread::available_parallelism().map_or(1, NonZero::get);
            let threads = options.threads.unwrap_or_else(all);
            let function = Function::Threaded(&function);
            concurrent::answer(server, function, &on_panic, options, threads)
        };
        self.add(service, Box::new(serve));
    }

    fn add<S: Service>(&mut self, service: S, serve: Serve) {
        let entry = FunctionEntry {
            version: service.version(),
            codec: <S::Codec as Codec<S::Request>>::NAME,
            serve,
        };
        self.add_entry(service.name(), entry);
    }

    fn add_entry(&mut self, name: &str, entry: FunctionEntry) {
        match find(&self.functions, name) {
            Ok(_) => panic!("two functions have the name `{name}`"),
            Err(at) => self.functions.insert(at, (name.to_owned(), entry)),
        }
    }

    pub(super) fn setup_names(&self) -> Vec<&String> {
        names(&self.setups).collect()
    }

    pub(super) fn function_names(&self) -> Vec<&String> {
        names(&self.functions).collect()
    }

    /// Drops the functions and setups with what they captured. The panic hook shows a panic of a
    /// destructor; the others run nevertheless.
    pub(super) fn clear(self) {
        for (_, entry) in self.functions {
            let _ = unwind::catch(|| drop(entry));
        }
        for (_, setup) in self.setups {
            let _ = unwind::catch(|| drop(setup));
        }
    }

    /// Runs a setup, with its octet strings still encoded.
    pub(super) fn set_up(&mut self, name: &str, strings: &[u8]) -> Result<(), StartFailure> {
        let refused = |message| (wire::REFUSED_SETUP, message);
        let Ok(at) = find(&self.setups, name) else {
            let names = list(&self.setups);
            return Err(refused(format!("no setup `{name}`; there are: {names}")));
        };
        let setup = &mut self.setups[at].1;
        let strings = Strings::decode(Input::from(strings))
            .map_err(|error| refused(format!("setup `{name}`: {}", chain(&error))))?;
        match panics::catch(|| setup(strings).map_err(|error| chain(&*error))) {
            Ok(result) => result.map_err(|error| refused(format!("setup `{name}`: {error}"))),
            Err(panic) => Err(refused(format!("setup `{name}` {panic}"))),
        }
    }

    /// The function that a parent asks for.
    pub(super) fn function(&mut self, run: &Run<'_>) -> Result<&mut FunctionEntry, StartFailure> {
        if run.protocol != wire::VERSION {
            let message = format!(
                "the child speaks version {} of the protocol, the parent version {}",
                wire::VERSION,
                run.protocol
            );
            return Err((wire::REFUSED_VERSION, message));
        }
        let name = run.name;
        let Ok(at) = find(&self.functions, name) else {
            let names = list(&self.functions);
            let message = format!("no function `{name}`; there are: {names}");
            return Err((wire::REFUSED_FUNCTION, message));
        };
        let entry = &mut self.functions[at].1;
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
    pub(super) fn plain_function(&mut self, name: &str) -> &mut FunctionEntry {
        match find(&self.functions, name) {
            Ok(at) => &mut self.functions[at].1,
            Err(_) => {
                let names = list(&self.functions);
                panic!("no function `{name}` to serve; there are: {names}")
            }
        }
    }
}

impl FunctionEntry {
    /// Answers requests with this function, until they end.
    pub(super) fn serve(&mut self, server: Server, options: Options) -> Result<(), Stop> {
        (self.serve)(server, options)
    }
}

/// Reports a panic that belongs to no call to the parent.
fn report_panic<S: Service>(service: S) -> Arc<OnPanic> {
    Arc::new(move |hub, panic| {
        // The hook shows a panic of this, as it did the first one.
        let _ = panics::catch(|| {
            if let Some(event) = service.error_event(&format!("a callback {panic}")) {
                hub.event::<S>(event);
            }
        });
    })
}

/// The index of a name, or the one to insert it at.
fn find<T>(all: &[(String, T)], name: &str) -> Result<usize, usize> {
    all.binary_search_by(|(other, _)| other.as_str().cmp(name))
}

fn names<T>(all: &[(String, T)]) -> impl Iterator<Item = &String> {
    all.iter().map(|(name, _)| name)
}

fn list<T>(all: &[(String, T)]) -> String {
    let mut list = String::new();
    for name in names(all) {
        let comma = if list.is_empty() { "" } else { ", " };
        list = list + comma + "`" + name + "`";
    }
    if list.is_empty() {
        return "none".to_owned();
    }
    list
}

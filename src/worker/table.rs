//! The functions and setups of a child, below the codec.

use super::caller::Caller;
use super::concurrent::{self, DeferredFn, Function, ThreadedFn};
use super::event_loop::Loop;
use super::panics;
use super::returning::{self, ReturningFn};
use super::server::{Options, Server, Stop};
use crate::chain::chain;
use crate::codec::{Codec, Decode, Input, Replies};
use crate::service::{Errors, Signature};
use crate::unwind;
use crate::wire::{self, FunctionId};
use std::num::NonZero;
use std::sync::Arc;
use std::thread;

/// Answers requests with one function, until they end.
type Serve = Box<dyn FnMut(Server, Options) -> Result<(), Stop>>;

/// Decodes a request, and runs a setup with it: returns its error as text.
type Setup = Box<dyn FnMut(Input<'_>) -> Result<(), String>>;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Table {
    setups: Names<SetupEntry>,
    functions: Names<FunctionEntry>,
}

/// Sorted by name.
type Names<T> = Vec<(String, T)>;

struct SetupEntry {
    version: u32,
    codec: &'static str,
    run: Setup,
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
    pub(super) fn add_setup<S, F>(&mut self, service: &S, mut setup: F)
    where
        S: Signature,
        F: FnMut(S::Request<'_>) -> Result<(), S::Error> + 'static,
    {
        let run = Box::new(move |mut request: Input<'_>| {
            let request = S::Codec::decode(&mut request).map_err(|error| chain(&error))?;
            setup(request).map_err(|error| S::Errors::message(&error))
        });
        let entry = SetupEntry {
            version: service.version(),
            codec: S::Codec::NAME,
            run,
        };
        add("setups", &mut self.setups, service.name(), entry);
    }

    pub(super) fn add_function<S, F, R>(&mut self, service: &S, mut function: F)
    where
        S: Signature,
        F: FnMut(S::Request<'_>, &Caller<S>) -> Result<R, S::Error> + 'static,
        S::Codec: Replies<S::Reply, R>,
    {
        let mut function: Box<ReturningFn> = Box::new(move |mut incoming, id| {
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
        let serve = move |server: Server, options: Options| {
            returning::answer(server, &mut *function, options.high_water)
        };
        self.add(service, Box::new(serve));
    }

    pub(super) fn add_deferred<S, F>(&mut self, service: &S, mut function: F)
    where
        S: Signature,
        F: FnMut(S::Request<'_>, Caller<S>, &Loop) + 'static,
    {
        let mut function: Box<DeferredFn> = Box::new(move |payload, hub, id, events| {
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
        let serve = move |server: Server, options: Options| {
            let running = options.max_running;
            let function = Function::Deferred(&mut *function);
            concurrent::answer(server, function, options, running)
        };
        self.add(service, Box::new(serve));
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
        let serve = move |server: Server, options: Options| {
            let all = || thread::available_parallelism().map_or(1, NonZero::get);
            let threads = options.threads.unwrap_or_else(all);
            let function = Function::Threaded(&function);
            concurrent::answer(server, function, options, threads)
        };
        self.add(service, Box::new(serve));
    }

    fn add<S: Signature>(&mut self, service: &S, serve: Serve) {
        let entry = FunctionEntry {
            version: service.version(),
            codec: S::Codec::NAME,
            serve,
        };
        add("functions", &mut self.functions, service.name(), entry);
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

    /// Runs a setup, with its request still encoded.
    pub(super) fn set_up(
        &mut self,
        setup: &FunctionId<'_>,
        request: &[u8],
    ) -> Result<(), StartFailure> {
        let name = setup.name;
        let refused = |message| (wire::REFUSED_SETUP, message);
        let entry = get(&mut self.setups, name)
            .map_err(|names| refused(format!("no setup `{name}`; there are: {names}")))?;
        let has = (entry.version, entry.codec);
        check("setup", setup, has).map_err(|message| (wire::REFUSED_MISMATCH, message))?;
        match panics::catch(|| (entry.run)(Input::from(request))) {
            Ok(result) => result.map_err(|error| refused(format!("setup `{name}`: {error}"))),
            Err(panic) => Err(refused(format!("setup `{name}` {panic}"))),
        }
    }

    /// The function that a parent asks for.
    pub(super) fn function(
        &mut self,
        function: &FunctionId<'_>,
    ) -> Result<&mut FunctionEntry, StartFailure> {
        let name = function.name;
        let entry = get(&mut self.functions, name).map_err(|names| {
            let message = format!("no function `{name}`; there are: {names}");
            (wire::REFUSED_FUNCTION, message)
        })?;
        let has = (entry.version, entry.codec);
        check("function", function, has).map_err(|message| (wire::REFUSED_MISMATCH, message))?;
        Ok(entry)
    }
}

impl FunctionEntry {
    /// Answers requests with this function, until they end.
    pub(super) fn serve(&mut self, server: Server, options: Options) -> Result<(), Stop> {
        (self.serve)(server, options)
    }
}

/// Checks that what the child has is what the parent asks for.
fn check(what: &str, wanted: &FunctionId<'_>, has: (u32, &str)) -> Result<(), String> {
    if has == (wanted.version, wanted.codec) {
        return Ok(());
    }
    let FunctionId {
        name,
        version,
        codec,
    } = wanted;
    let (child_version, child_codec) = has;
    Err(format!(
        "{what} `{name}` has version {child_version} and codec `{child_codec}` in the child, version \
         {version} and codec `{codec}` in the parent"
    ))
}

/// Adds an entry. Panics if there is one of that name.
fn add<T>(what: &str, all: &mut Names<T>, name: &str, entry: T) {
    match find(all, name) {
        Ok(_) => panic!("two {what} have the name `{name}`"),
        Err(at) => all.insert(at, (name.to_owned(), entry)),
    }
}

/// The entry of that name, or a list of those there are.
fn get<'a, T>(all: &'a mut Names<T>, name: &str) -> Result<&'a mut T, String> {
    match find(all, name) {
        Ok(at) => Ok(&mut all[at].1),
        Err(_) => Err(list(all)),
    }
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

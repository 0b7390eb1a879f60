//! Takes over a child's connection, runs setups, serves, and exits.

use super::functions::Functions;
use super::hub::Hub;
use super::request_reader::RequestReader;
use super::server::{Options, Server, Stop};
use super::session::Step;
use super::table::{StartFailure, Table};
use super::template::{Served, Template};
use crate::fd::Fd;
use crate::process::{Place, apply_settings};
use crate::stderr;
use crate::sys::{
    self, ABOVE_STANDARD, Dispositions, ExtraFd, Inherited, Lifeline, OtherThreads, SharedNote,
    Unserved,
};
use crate::wire::{self, FunctionId, LONGEST_PAYLOAD, Plain, Run, ToParent};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

/// Where this process serves, if it is a child.
static SERVING: OnceLock<Place> = OnceLock::new();

/// Where in the source this process serves as a child, and where a child of its own that runs
/// `main` as it did would be served: no other call of `run` can be reached.
pub(super) fn place() -> Option<Place> {
    SERVING.get().copied()
}

/// Serves the parent that started this process, and exits.
pub(super) fn serve(
    mut table: Table,
    options: Options,
    unserved: Unserved,
    place: Place,
    others: OtherThreads,
) -> ! {
    let other = unserved
        .place()
        .filter(|wanted| *wanted != place.to_string());
    let other = other.map(|wanted| elsewhere(wanted, place));
    let Some(inherited) = unserved.claim() else {
        // Another thread serves, and ends the process.
        loop {
            std::thread::park();
        }
    };
    let _ = SERVING.set(place);
    sys::accept_stop_signals();
    let functions = table.take_functions();
    let connect = || take_over(inherited?, functions);
    let result = connect().map_err(Stop::connection);
    let result = result.and_then(|(mut server, lack)| {
        if let Some(message) = other {
            return Err(refuse(server.hub, (wire::REFUSED_MISMATCH, message)));
        }
        if let Some(lack) = lack {
            return Err(refuse(server.hub, (wire::REFUSED_SETUP, lack)));
        }
        if options.done.is_some() {
            server.requests.outlive_parent();
        }
        start(server, &mut table, options, others)
    });
    table.clear();
    exit(result)
}

/// The message of a child whose parent wants another table.
fn elsewhere(wanted: &str, place: Place) -> String {
    format!(
        "the child was to be served at {wanted}, but came to {place} first; each child is served by \
         the call of Worker::run() that described it. In a test, call run_in_test() instead of \
         run(), or the child runs all the tests"
    )
}

/// The message of a child that cannot serve without what the program has closed.
fn closed(missing: ExtraFd) -> String {
    format!(
        "the child closed descriptor {}, which it had inherited and does not own, before \
         Worker::run(); call run() first in main(), or close only what was opened there",
        missing.number()
    )
}

/// The message of a child that would not notice the end of its parent while it is busy.
pub(super) fn without_lifeline(error: &io::Error) -> String {
    format!(
        "the child cannot arrange to be killed when its parent is gone (F_SETSIG: {error}); where the \
         system refuses that, use Process::outlive_parent()"
    )
}

/// Serves a plain peer on the standard input and output, and exits.
pub(super) fn serve_plain(
    mut table: Table,
    options: Options,
    function: &FunctionId<'_>,
    plain: Plain,
) -> ! {
    let mut functions = table.take_functions();
    if let Err((_, lack)) = functions.select(function) {
        panic!("{lack}");
    }
    let connect = || -> io::Result<Server> {
        let input = sys::duplicate_above(sys::standard(0), ABOVE_STANDARD)?;
        let output = sys::duplicate_above(sys::standard(1), ABOVE_STANDARD)?;
        sys::replace(0, null()?)?;
        // A stray print must not get between the frames.
        sys::replace(1, sys::standard(2))?;
        let requests = RequestReader::new(input, None)?;
        Ok(Server::new(Some(plain), requests, output, None, functions))
    };
    let server = connect().map_err(Stop::connection);
    let hub = server.as_ref().ok().map(|server| server.hub);
    let result = server.and_then(|server| table.answer(server, options));
    table.clear();
    if let Some(hub) = hub {
        // Calls that are dropped from here on do not end the process once more.
        hub.flush_and_close();
    }
    exit(result)
}

fn exit(result: Result<(), Stop>) -> ! {
    std::process::exit(match result {
        Ok(()) => 0,
        Err(Stop::Refused) => 1,
        Err(Stop::Error(message)) => {
            stderr::print(format_args!("offspring child: {message}"));
            1
        }
    })
}

/// Makes the standard descriptors what a program expects, and the connection private. Returns what it
/// cannot serve without, too.
fn take_over(inherited: Inherited, functions: Functions) -> io::Result<(Server, Option<String>)> {
    sys::replace(0, null()?)?;
    if let Some(stdout) = inherited.stdout {
        sys::replace(1, stdout)?;
    }
    let mut lack = inherited.missing.map(closed);
    let lifeline = inherited.lifeline.and_then(|pipe| {
        let lifeline = Lifeline::new(pipe);
        lifeline
            .map_err(|error| lack = Some(without_lifeline(&error)))
            .ok()
    });
    if let Some(name) = std::env::args_os().next() {
        let name = Path::new(&name)
            .file_name()
            .map_or(&b""[..], OsStr::as_bytes);
        if let Ok(name) = CString::new(name) {
            sys::rename_process(&name);
        }
    }
    // A child that has not signed has begun nothing, as far as its parent knows: without it, none serves.
    // A parent that gave it none assumes the worst.
    let note = inherited.note.as_ref();
    let note = note.map(|fd| SharedNote::sign(fd, inherited.namespace));
    let note = note.transpose()?;
    let socket = inherited.socket;
    let requests = RequestReader::new(socket.try_clone()?, lifeline)?;
    let server = Server::new(None, requests, socket, note, functions);
    Ok((server, lack))
}

fn null() -> io::Result<File> {
    File::open("/dev/null")
        .map_err(|error| io::Error::new(error.kind(), format!("/dev/null: {error}")))
}

/// Runs setups until the parent wants requests to be served, and serves them. In a template, which is to be
/// forked from then on, only its copies return from that, and begin anew with another parent's connection.
fn start(
    mut server: Server,
    table: &mut Table,
    options: Options,
    others: OtherThreads,
) -> Result<(), Stop> {
    #[cfg(feature = "log")]
    if let Some(level) = options.log
        && super::logger::install(level).is_err()
    {
        let message = "Worker::log() found a logger in the child; set it after run()".to_owned();
        return Err(refuse(server.hub, (wire::REFUSED_SETUP, message)));
    }
    if !server.requests.arm_lifeline().map_err(Stop::connection)? {
        return Ok(());
    }
    let mut template = None;
    let mut is_new_copy = false;
    loop {
        match server.session.next(|_| false).map_err(Stop::protocol)? {
            None => {
                if !server.read()? {
                    return Ok(());
                }
            }
            Some(Step::Template { huge_pages }) => {
                template = Some((Dispositions::now(), huge_pages));
            }
            Some(Step::Lifeline(mut fds)) => {
                let hub = server.hub;
                let lifeline = fds.take().and_then(|fds| adopt(&mut server.requests, fds));
                lifeline.map_err(|lack| refuse(hub, (wire::REFUSED_SETUP, lack)))?;
                if !server.requests.arm_lifeline().map_err(Stop::connection)? {
                    return Ok(());
                }
            }
            Some(Step::Far) => server.hub.set_far(),
            Some(Step::Settings(settings)) => {
                let applied = apply_settings(settings, None);
                applied.map_err(|error| {
                    refuse(server.hub, (wire::REFUSED_SETTINGS, error.to_string()))
                })?;
            }
            Some(Step::Setup { setup, request }) => {
                let hub = server.hub;
                if mem::take(&mut is_new_copy) {
                    table.after_fork().map_err(|refused| refuse(hub, refused))?;
                }
                let result = table.set_up(&setup, request);
                result.map_err(|refused| refuse(hub, refused))?;
            }
            Some(Step::Run(run)) => {
                let buflen = run.buflen as usize;
                let max_frame = (run.max_frame as usize).min(LONGEST_PAYLOAD);
                let hub = server.hub;
                check_version(&run).map_err(|refused| refuse(hub, refused))?;
                if mem::take(&mut is_new_copy) {
                    table.after_fork().map_err(|refused| refuse(hub, refused))?;
                }
                if let Some((_, huge_pages)) = template {
                    // Where that is not possible, copies are only made more slowly.
                    let _ = sys::use_huge_pages(huge_pages);
                } else {
                    let selected = server.functions.select(&run.function);
                    selected.map_err(|refused| refuse(hub, refused))?;
                }
                server.session.serve(buflen, max_frame);
                hub.set_max_frame(max_frame);
                let protocol = wire::VERSION;
                hub.control(&ToParent::Ready { protocol });
                if !hub.flush() {
                    // A parent that does not hear it knows that nothing has begun.
                    return Err(Stop::cannot_write(hub));
                }
                let Some((dispositions, _)) = template.take() else {
                    return table.answer(server, options);
                };
                match Template::new(server, dispositions, others).serve()? {
                    Served::Ended => return Ok(()),
                    Served::Moved(moved) => server = *moved,
                    Served::Copy(copy, lack) => {
                        if let Some(lack) = lack {
                            return Err(refuse(copy.hub, (wire::REFUSED_SETTINGS, lack)));
                        }
                        (server, is_new_copy) = (*copy, true);
                        if !server.requests.arm_lifeline().map_err(Stop::connection)? {
                            return Ok(());
                        }
                    }
                }
            }
            Some(
                Step::Request { .. } | Step::Function(_) | Step::Cancel { .. } | Step::Answer(..),
            ) => {
                unreachable!("the session refuses these before `run`")
            }
        }
    }
}

/// Takes a lifeline from whoever has adopted this process. The error is a message for him.
fn adopt(requests: &mut RequestReader, fds: Vec<Fd>) -> Result<(), String> {
    let pipe = fds.into_iter().next().ok_or("there is no lifeline")?;
    let pipe = pipe.into_owned().map_err(|error| error.to_string())?;
    let lifeline = Lifeline::new(pipe).map_err(|error| without_lifeline(&error))?;
    let set = requests.set_lifeline(lifeline);
    set.map_err(|error| error.to_string())
}

/// Whether the parent speaks the same protocol.
fn check_version(run: &Run<'_>) -> Result<(), StartFailure> {
    if run.protocol == wire::VERSION {
        return Ok(());
    }
    let message = format!(
        "the child speaks version {} of the protocol, the parent version {}",
        wire::VERSION,
        run.protocol
    );
    Err((wire::REFUSED_VERSION, message))
}

fn refuse(hub: &'static Hub, (kind, message): (&str, String)) -> Stop {
    // The parent takes no longer control message.
    let message = wire::truncate(&message, wire::LONGEST_TEXT);
    hub.control(&ToParent::Refused { kind, message });
    Stop::Refused
}

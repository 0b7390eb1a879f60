//! Takes over a child's connection, prepares, serves the requested function, and exits.

use super::hub::Hub;
use super::request_reader::RequestReader;
use super::server::{Options, Server, Stop};
use super::session::Step;
use super::table::{FunctionEntry, StartFailure, Table};
use crate::process::marker::{self, Inherited};
use crate::stderr;
use crate::sys::{self, Lifeline};
use crate::wire::Plain;
use crate::wire::{self, ToParent};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// No descriptor of a child's own is below this.
const STANDARD: i32 = 3;

/// Serves the parent that started this process, and exits.
pub(super) fn serve(mut table: Table, options: Options, inherited: Inherited) -> ! {
    let connect = || {
        let (input, lifeline) = take_over(inherited)?;
        let mut requests = RequestReader::new(input.try_clone()?, lifeline)?;
        if options.done.is_some() {
            requests.outlive_parent();
        }
        Ok(Server::new(None, requests, input))
    };
    let result = connect().map_err(Stop::connection);
    let result = result.and_then(|server| start(server, &mut table, options));
    exit(table, result)
}

/// Serves a plain peer on the standard input and output, and exits.
pub(super) fn serve_plain(mut table: Table, options: Options, name: &str, plain: Plain) -> ! {
    let entry = table.plain_function(name);
    let connect = || -> io::Result<Server> {
        let input = sys::duplicate_above(sys::standard(0), STANDARD)?;
        let output = sys::duplicate_above(sys::standard(1), STANDARD)?;
        sys::replace(0, null()?)?;
        // A stray print must not get between the frames.
        sys::replace(1, sys::standard(2))?;
        Ok(Server::new(
            Some(plain),
            RequestReader::new(input, None)?,
            output,
        ))
    };
    let result = connect().map_err(Stop::connection);
    let result = result.and_then(|server| answer(server, entry, options));
    exit(table, result)
}

/// Drops what the functions captured, and exits.
fn exit(table: Table, result: Result<(), Stop>) -> ! {
    table.clear();
    std::process::exit(match result {
        Ok(()) => 0,
        Err(Stop::Refused) => 1,
        Err(Stop::Error(message)) => {
            stderr::print(format_args!("offspring child: {message}"));
            1
        }
    })
}

/// Makes the standard descriptors what a program expects, and the connection private.
fn take_over(inherited: Inherited) -> io::Result<(OwnedFd, Option<Lifeline>)> {
    let socket = sys::duplicate_above(sys::standard(0), STANDARD)?;
    sys::replace(0, null()?)?;
    let take = |number| {
        let missing = || io::Error::new(ErrorKind::NotFound, "an inherited descriptor is closed");
        sys::take_inherited(number).ok_or_else(missing)
    };
    if inherited.stdout {
        sys::replace(1, take(marker::STDOUT)?)?;
    }
    let mut lifeline = None;
    if inherited.lifeline {
        lifeline = Some(Lifeline::new(take(marker::LIFELINE)?)?);
    }
    if let Some(name) = std::env::args_os().next() {
        let name = Path::new(&name)
            .file_name()
            .map_or(&b""[..], OsStr::as_bytes);
        if let Ok(name) = CString::new(name) {
            sys::rename_process(&name);
        }
    }
    Ok((socket, lifeline))
}

fn null() -> io::Result<File> {
    File::open("/dev/null")
        .map_err(|error| io::Error::new(error.kind(), format!("/dev/null: {error}")))
}

/// Runs setups until the parent names the function to serve, and serves it.
fn start(mut server: Server, table: &mut Table, options: Options) -> Result<(), Stop> {
    #[cfg(feature = "log")]
    if let Some(level) = options.log
        && super::logger::install(server.hub, level).is_err()
    {
        let message = "Worker::log() found a logger in the child; set it after run()".to_owned();
        return Err(refuse(server.hub, (wire::REFUSED_SETUP, message)));
    }
    if !server.requests.arm_lifeline().map_err(Stop::connection)? {
        return Ok(());
    }
    loop {
        match server.session.next().map_err(Stop::protocol)? {
            None => {
                if !server.read()? {
                    return Ok(());
                }
            }
            Some(Step::Setup { name, strings }) => {
                let result = table.set_up(name, strings);
                result.map_err(|refused| refuse(server.hub, refused))?;
            }
            Some(Step::Run(run)) => {
                let (buflen, max_frame) = (run.buflen as usize, run.max_frame as usize);
                let result = table.function(&run);
                let entry = result.map_err(|refused| refuse(server.hub, refused))?;
                server.session.serve(buflen, max_frame);
                server.hub.set_max_frame(max_frame);
                let protocol = wire::VERSION;
                server.hub.control(&ToParent::Ready { protocol });
                return answer(server, entry, options);
            }
            Some(Step::Request { .. } | Step::Cancel { .. }) => {
                unreachable!("the session refuses these before `run`")
            }
        }
    }
}

/// Answers requests until they end.
fn answer(server: Server, entry: &mut FunctionEntry, options: Options) -> Result<(), Stop> {
    entry.serve(server, options)
}

fn refuse(hub: &'static Hub, (kind, message): StartFailure) -> Stop {
    // The parent takes no longer control message.
    let message = wire::truncate(&message, wire::LONGEST_TEXT);
    hub.control(&ToParent::Refused { kind, message });
    Stop::Refused
}

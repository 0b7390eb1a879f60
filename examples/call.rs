//! Calls any plain child from the command line.
//!
//! ```text
//! call [--tagged|--ordered|--fallible] [--repeat N] [--timeout SECONDS] COMMAND [ARG...] -- STRING...
//! ```
//!
//! Starts the command, makes the call `N` times without waiting in between, and prints each reply
//! as a line: its strings, separated by tabs. Events go to standard error. Exits with status 1 on
//! any error, 2 on wrong usage.

use offspring::{BoxError, CallError, Error, Pending, Plain, Process, Strings};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage: call [--tagged|--ordered|--fallible] [--repeat N] [--timeout SECONDS] \
                     COMMAND [ARG...] -- STRING...";

/// The most calls outstanding, however often the call is repeated.
const IN_FLIGHT: usize = 1000;

struct Options {
    plain: Plain,
    repeat: usize,
    timeout: Option<Duration>,
    command: Vec<OsString>,
    strings: Vec<OsString>,
}

fn parse(mut args: VecDeque<OsString>) -> Result<Options, BoxError> {
    let mut options = Options {
        plain: Plain::Tagged,
        repeat: 1,
        timeout: None,
        command: Vec::new(),
        strings: Vec::new(),
    };
    while let Some(first) = args.pop_front() {
        let option = match first.to_str() {
            Some(option) if option.starts_with("--") && option != "--" => option,
            _ => {
                args.push_front(first);
                break;
            }
        };
        let mut value = || {
            let value = args.pop_front().ok_or(format!("{option} needs a value"))?;
            let text = value.into_string();
            text.map_err(|value| format!("{option}: {value:?} is not UTF-8"))
        };
        match option {
            "--tagged" => options.plain = Plain::Tagged,
            "--ordered" => options.plain = Plain::Ordered,
            "--fallible" => options.plain = Plain::Fallible,
            "--repeat" => {
                options.repeat = value()?.parse().map_err(|e| format!("--repeat: {e}"))?
            }
            "--timeout" => {
                let seconds = value()?.parse().map_err(|e| format!("--timeout: {e}"))?;
                let timeout = Duration::try_from_secs_f64(seconds);
                options.timeout = Some(timeout.map_err(|e| format!("--timeout: {e}"))?);
            }
            _ => return Err(format!("unknown option {option}").into()),
        }
    }
    let end = args.iter().position(|arg| arg == "--");
    let end = end.ok_or("the command must end with --")?;
    options.command = args.drain(..end).collect();
    options.strings = args.drain(..).skip(1).collect();
    if options.command.is_empty() {
        return Err("no command given".into());
    }
    Ok(options)
}

/// The strings on one line; unprintable ones are escaped.
fn line(strings: &Strings) -> String {
    let printable = |string| match str::from_utf8(string) {
        Ok(text) if !text.contains(|c: char| c.is_control() || c == '\\') => text.to_owned(),
        _ => string.escape_ascii().to_string(),
    };
    strings.iter().map(printable).collect::<Vec<_>>().join("\t")
}

fn run(options: &Options) -> Result<(), BoxError> {
    let [program, args @ ..] = &options.command[..] else {
        unreachable!("parse() requires a command");
    };
    let mut rpc = Process::command(program)
        .plain(options.plain)
        .args(args)
        .rpc("call")
        .on_event(|event| eprintln!("event: {}", line(&event)))
        .on_error(drop); // the calls and finish() return it, too
    if let Some(timeout) = options.timeout {
        rpc = rpc.call_timeout(timeout);
    }
    let rpc = rpc.start()?;
    let strings: Vec<&[u8]> = options.strings.iter().map(|s| s.as_bytes()).collect();
    let mut pending = VecDeque::new();
    let print = |call: Pending| -> Result<(), BoxError> {
        let reply = call.wait().map_err(|error| match error {
            CallError::Lost(error, _) => BoxError::from(error),
            error => error.into(),
        })?;
        Ok(writeln!(io::stdout(), "{}", line(&reply))?)
    };
    for _ in 0..options.repeat {
        if pending.len() == IN_FLIGHT {
            pending.pop_front().map_or(Ok(()), print)?;
        }
        pending.push_back(rpc.call(&strings).start());
    }
    pending.into_iter().try_for_each(print)?;
    let exit = rpc.finish()?;
    match exit.status() {
        Some(status) if !status.success() => {
            Err(format!("after its last reply, the command ended with {status}").into())
        }
        _ => Ok(()),
    }
}

fn main() -> ExitCode {
    let options = match parse(std::env::args_os().skip(1).collect()) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("call: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let start = error.downcast_ref::<Error>();
            let kind = start.map_or(String::new(), |error| format!("{:?}: ", error.kind()));
            eprintln!("call: {kind}{error}");
            ExitCode::FAILURE
        }
    }
}

//! A plain child on its standard input and output, for testing clients in any language.
//!
//! ```text
//! echo [--tagged|--ordered|--fallible]
//! ```
//!
//! The first string of a request is the verb:
//!
//! | request | reply |
//! |---|---|
//! | `echo STRING...` | the strings |
//! | `event STRING...` | the number of strings, after one event with the strings |
//! | `events N` | `N`, after the events `1` to `N` |
//! | `sleep MS` | nothing, after `MS` milliseconds |
//! | `blob N` | `N` bytes, counting from 0x00 to 0xff repeatedly |
//! | `pid` | the child's process id |
//! | `fail MESSAGE`, `panic MESSAGE` | with `--fallible` a failed one, else none: the child ends with that message |
//! | `exit CODE`, `abort` | none |

use offspring::{BoxError, Caller, Plain, Strings, Worker};
use std::process;
use std::time::Duration;

fn serve(request: Strings, caller: &Caller) -> Result<Strings, BoxError> {
    let rest = || request.iter().skip(1).collect::<Strings>();
    let text = || Ok::<_, BoxError>(String::from_utf8(rest().array::<1>()?[0].to_vec())?);
    let one = |text: String| [text].into_iter().collect::<Strings>();
    match request.get(0).unwrap_or_default() {
        b"echo" => Ok(rest()),
        b"event" => {
            caller.event(rest());
            Ok(one(rest().len().to_string()))
        }
        b"events" => {
            let n: u64 = text()?.parse()?;
            (1..=n).for_each(|n| caller.event(n.to_string()));
            Ok(one(n.to_string()))
        }
        b"sleep" => {
            std::thread::sleep(Duration::from_millis(text()?.parse()?));
            Ok(Strings::new())
        }
        b"blob" => {
            let blob: Vec<u8> = (0..text()?.parse()?).map(|n: usize| n as u8).collect();
            Ok([blob].into_iter().collect())
        }
        b"pid" => Ok(one(process::id().to_string())),
        b"fail" => Err(text()?.into()),
        b"panic" => panic!("{}", text()?),
        b"exit" => process::exit(text()?.parse()?),
        b"abort" => process::abort(),
        other => Err(format!("unknown verb `{}`", other.escape_ascii()).into()),
    }
}

fn main() {
    let plain = match std::env::args().nth(1).as_deref() {
        None | Some("--tagged") => Plain::Tagged,
        Some("--ordered") => Plain::Ordered,
        Some("--fallible") => Plain::Fallible,
        Some(other) => {
            eprintln!("echo: unknown argument `{other}`");
            eprintln!("usage: echo [--tagged|--ordered|--fallible]");
            process::exit(2);
        }
    };
    Worker::new()
        .function("echo", serve)
        .serve_plain("echo", plain)
}

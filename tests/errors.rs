//! What errors say.

mod common;

use common::{bounded, lost};
use offspring::{BoxError, CallError, ErrorKind, Plain, Process, Stdio, Worker};
use std::os::unix::net::UnixStream;
use std::{fmt, io};

/// An error whose text does not include its source.
#[derive(Debug)]
struct Context(&'static str, BoxError);

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Context {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.1)
    }
}

fn unreadable() -> BoxError {
    let denied = io::Error::other(Context("cannot open `x.conf`", "permission denied".into()));
    Context("cannot read the configuration", denied.into()).into()
}

const UNREADABLE: &str = "cannot read the configuration: cannot open `x.conf`: permission denied";

#[test]
fn sources_of_an_error_arrive() {
    let me = Worker::new()
        .function("function", |_, _| Err::<(), _>(unreadable()))
        .threaded("threaded", |_, _| Err::<(), _>(unreadable()))
        .deferred("deferred", |_, caller, _| caller.fail(unreadable()))
        .setup("setup", |_| Err(unreadable()))
        .run_in_test();
    bounded(move || {
        for function in ["function", "threaded", "deferred"] {
            let rpc = me.rpc(function).start().unwrap();
            let Err(CallError::Failed(error)) = rpc.call(()).wait() else {
                panic!("{function} fails");
            };
            assert_eq!(error.to_string(), UNREADABLE);
            rpc.finish().unwrap();
        }
        let process = me.clone().setup("setup", ()).stderr(Stdio::null());
        let rpc = process.rpc("function").on_error(drop).start().unwrap();
        let error = rpc.wait_ready().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Setup);
        assert!(error.to_string().contains(UNREADABLE), "{error}");
    });
}

#[test]
fn panic_message_is_found_under_a_long_backtrace() {
    let me = Worker::new()
        .function("die", |_, _| -> Result<(), BoxError> {
            (0..100).for_each(|n| eprintln!("log {n}"));
            eprintln!("thread 'main' panicked at src/main.rs:1:1:\nthe reason");
            (0..100).for_each(|n| eprintln!("  {n}: frame"));
            std::process::exit(3)
        })
        .run_in_test();
    bounded(move || {
        let process = me.stderr(Stdio::capture());
        let rpc = process.rpc("die").on_error(drop).start().unwrap();
        let outcome = rpc.call(()).wait();
        let text = outcome.as_ref().unwrap_err().to_string();
        let error = lost(outcome);
        assert!(error.stderr().contains("\nthe reason\n"), "{error}");
        assert!(error.stderr().ends_with("\n  99: frame\n"), "{error}");
        // How far the call got stands before all these lines.
        let (phase, lines) = (
            text.find("; the call had begun, or may have"),
            text.find("panicked"),
        );
        assert!(phase.is_some() && phase < lines, "{text}");
    });
}

#[test]
fn states_of_a_progress_bar_are_lines() {
    bounded(|| {
        let (send, lines) = std::sync::mpsc::channel();
        // Nothing more is written before the first state has been seen.
        let script = r#"printf '\r 1 %%\r' >&2; head -c 9 >/dev/null; printf ' 2 %%\r\n' >&2"#;
        let rpc = Process::command("sh")
            .plain(Plain::Tagged)
            .args(["-c", script])
            .stderr(Stdio::lines(move |_, line| {
                send.send(line.to_owned()).unwrap()
            }))
            .rpc("bar")
            .on_error(drop)
            .start()
            .unwrap();
        assert_eq!(lines.recv().unwrap(), " 1 %");
        assert_eq!(lost(rpc.call("x").wait()).stderr(), " 1 %\n 2 %\n");
        assert_eq!(lines.iter().collect::<Vec<_>>(), [" 2 %"]);
    });
}

#[test]
fn option_that_a_child_cannot_have_is_an_error_that_names_it() {
    bounded(|| {
        let refused = |process: Process, option: &str| {
            let error = process.rpc("any").start().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains(option), "{error}");
        };
        let command = Process::command("cat").plain(Plain::Tagged);
        refused(command.clone().setup("drop privileges", ()), "setup()");
        refused(command.clone().stdout(Stdio::null()), "stdout()");
        refused(command.stdout(Stdio::capture()), "stdout()");
        let (near, _far) = UnixStream::pair().unwrap();
        let stream = Process::stream(near).plain(Plain::Ordered);
        let changed = || stream.clone();
        refused(changed().arg("-v"), "arg()");
        refused(changed().args(["-v"]), "arg()");
        refused(changed().env("A", "b"), "env()");
        refused(changed().env_remove("A"), "env()");
        refused(changed().env_clear(), "env()");
        refused(changed().current_dir("/"), "current_dir()");
        refused(changed().stdout(Stdio::capture()), "stdout()");
        refused(changed().stderr(Stdio::capture()), "stderr()");
        refused(changed().stderr(Stdio::null()), "stderr()");
        refused(changed().outlive_parent(), "outlive_parent()");
        refused(changed().setup("drop privileges", ()), "setup()");
        // It was not used up, and these are the defaults.
        let rpc = stream.stderr(Stdio::inherit()).rpc("any").start().unwrap();
        rpc.kill();
    });
}

//! The workers in other languages, in `examples/workers`.

mod common;

use common::{bounded, logged};
use offspring::{CallError, Plain, Process, Rpc, Signature, Stdio};
use std::fmt::Debug;
use std::process::Command;

/// The command that runs a worker, if this machine can. `.ci/run` installs all but Node.
fn worker(program: &str, file: &str) -> Option<Process> {
    let found = Command::new(program).arg("--version").output();
    if found.is_err() {
        let is_needed = program != "node" && std::env::var_os("CI").is_some();
        assert!(!is_needed, "{program} is missing");
        println!("skipped: {program} is missing");
        return None;
    }
    let path = format!("{}/examples/workers/{file}", env!("CARGO_MANIFEST_DIR"));
    let process = Process::command(program).plain(Plain::Fallible).arg(path);
    Some(process.stderr(Stdio::capture()))
}

/// The text of a function's error.
fn failed<T: Debug>(outcome: Result<T, CallError>) -> String {
    match outcome {
        Err(CallError::Failed(error)) => error.to_string(),
        other => panic!("the function should fail, but the call ended with {other:?}"),
    }
}

/// It answers all that it got, and exits.
fn finish<S: Signature>(rpc: Rpc<S>) {
    let status = rpc.finish().unwrap().status().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn perl() {
    let Some(perl) = worker("perl", "worker.pl") else {
        return;
    };
    bounded(move || {
        let (builder, log) = logged(perl.rpc("perl"));
        let rpc = builder.start().unwrap();
        let every_byte: Vec<u8> = (0..=255).collect();
        let large = vec![b'x'; 3 << 20];
        let reply = rpc.call([&b"sort"[..], &large, b"", &every_byte]).wait();
        assert_eq!(reply.unwrap(), [&b""[..], &every_byte, &large]);
        for _ in 0..3 {
            assert_eq!(rpc.call(["divide", "1", "4"]).wait().unwrap(), ["0.25"]);
            let error = failed(rpc.call(["divide", "1", "0"]).wait());
            assert!(error.starts_with("Illegal division by zero at "), "{error}");
        }
        let error = failed(rpc.call("no such").wait());
        assert_eq!(error, "there is no function `no such`");
        let call = rpc.call(["sort", "b", "a"]).start();
        finish(rpc);
        assert_eq!(call.wait().unwrap(), ["a", "b"]);
        assert_eq!(log.end(), "destroy");
    });
}

#[test]
fn shell() {
    let Some(sh) = worker("sh", "worker.sh") else {
        return;
    };
    bounded(move || {
        let rpc = sh.rpc("sh").start().unwrap();
        let large = "x".repeat(300);
        for text in ["b", "", " \t* $HOME \\ '\"\n\nx", "a\u{e9}b", &large] {
            let reply = rpc.call(["upper", text]).wait().unwrap();
            assert_eq!(reply, [text.to_ascii_uppercase()]);
        }
        let error = failed(rpc.call(["lines", "/no/such"]).wait());
        assert!(error.contains("/no/such"), "{error}");
        let error = failed(rpc.call(["no such", &large]).wait());
        assert_eq!(error, "there is no function `no such`");
        let call = rpc.call(["upper", "on"]).start();
        finish(rpc);
        assert_eq!(call.wait().unwrap(), ["ON"]);
    });
}

#[cfg(feature = "json")]
mod json {
    use super::{bounded, failed, finish, worker};
    use offspring::{CallError, Json, Service};
    use std::collections::BTreeMap;

    #[test]
    fn python() {
        const SUMMARY: Service<Json, Vec<f64>, BTreeMap<String, f64>> = Service::new("summary");
        const WORDS: Service<Json, String, Vec<String>> = Service::new("words");
        let Some(python) = worker("python3", "worker.py") else {
            return;
        };
        bounded(move || {
            let rpc = python.clone().arg("summary").rpc(SUMMARY).start().unwrap();
            for n in 1..4 {
                let summary = rpc.call(vec![1.0, 2.0, 3.0 * f64::from(n)]).wait().unwrap();
                assert_eq!(
                    (summary["mean"], summary["median"]),
                    (1.0 + f64::from(n), 2.0)
                );
                let error = failed(rpc.call(vec![]).wait());
                let lines: Vec<_> = error.lines().collect();
                let message = "StatisticsError: mean requires at least one data point";
                assert_eq!(lines[0], message, "{error}");
                assert_eq!(lines[1], "Traceback (most recent call last):", "{error}");
                assert!(error.contains("worker.py\", line "), "{error}");
                assert!(error.ends_with(message), "{error}");
            }
            let call = rpc.call(vec![4.0]).start();
            finish(rpc);
            assert_eq!(call.wait().unwrap()["mean"], 4.0);

            let rpc = python.clone().arg("words").rpc(WORDS).start().unwrap();
            let words = format!("{} b a\u{e9} b", "x".repeat(3 << 20));
            let reply = rpc.call(&words).wait().unwrap();
            assert_eq!(reply[..2], ["a\u{e9}", "b"]);
            assert_eq!(reply[2].len(), 3 << 20);
            finish(rpc);
        });
    }

    /// An error type of the program's needs what the worker does not send.
    #[test]
    fn exception_is_not_lost_to_a_service_with_errors_of_its_own() {
        const WORDS: Service<Json, u8, (), u8> = Service::new("words");
        let Some(python) = worker("python3", "worker.py") else {
            return;
        };
        bounded(move || {
            let rpc = python.arg("words").rpc(WORDS).start().unwrap();
            match rpc.call(7).wait() {
                Err(CallError::Malformed(error)) => {
                    let text = error.to_string();
                    let start =
                        "the error (AttributeError: 'int' object has no attribute 'split'\n";
                    assert!(text.starts_with(start), "{text}");
                }
                other => panic!("{other:?}"),
            }
            finish(rpc);
        });
    }

    #[test]
    fn node() {
        const HOST: Service<Json, String, String> = Service::new("host");
        const SLEEP: Service<Json, u32, u32> = Service::new("sleep");
        let Some(node) = worker("node", "worker.js") else {
            return;
        };
        bounded(move || {
            let rpc = node.clone().arg("host").rpc(HOST).start().unwrap();
            for _ in 0..3 {
                let host = rpc.call("https://example.org/x").wait().unwrap();
                assert_eq!(host, "example.org");
                let error = failed(rpc.call("x").wait());
                assert!(error.starts_with("TypeError: Invalid URL\n"), "{error}");
                assert!(error.contains("worker.js:"), "{error}");
            }
            // Frames that fill the buffers it reads into, and larger ones.
            for len in [65_526, 131_062, 3 << 20] {
                let host = format!("https://{}", "x".repeat(len - 8));
                let calls = [0; 3].map(|_| rpc.call(&host).start());
                for call in calls {
                    assert_eq!(call.wait().unwrap().len(), len - 8);
                }
            }
            finish(rpc);

            let rpc = node.clone().arg("sleep").rpc(SLEEP).start().unwrap();
            let slow = rpc.call(300).start();
            assert_eq!(rpc.call(1).wait().unwrap(), 1);
            finish(rpc);
            assert_eq!(slow.wait().unwrap(), 300);
        });
    }
}

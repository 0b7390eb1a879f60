//! Functions in Python, with typed requests and replies. Their exceptions are errors of the calls, with
//! the traceback, and the worker lives on. It is `examples/workers/worker.py`.
//!
//! ```text
//! cargo run --features json --example python
//! ```

use offspring::{BoxError, CallError, Json, Plain, Process, Service};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Summary {
    mean: f64,
    median: f64,
}

const SUMMARY: Service<Json, Vec<f64>, Summary> = Service::new("summary");
const WORDS: Service<Json, String, Vec<String>> = Service::new("words");

const WORKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/workers/worker.py");

fn main() -> Result<(), BoxError> {
    let python = Process::command("python3")
        .plain(Plain::Fallible)
        .arg(WORKER);

    let summary = python.clone().arg("summary").rpc(SUMMARY).start()?;
    println!("{:?}", summary.call(vec![1.0, 2.0, 6.0]).wait()?);
    match summary.call(vec![]).wait() {
        Err(CallError::Failed(exception)) => println!("{exception}"),
        other => println!("there should be an exception, not {other:?}"),
    }
    println!("{:?}", summary.call(vec![4.0]).wait()?);

    let words = python.arg("words").rpc(WORDS).start()?;
    println!("{:?}", words.call("to be or not to be").wait()?);

    for exit in [summary.finish()?, words.finish()?] {
        assert!(exit.status().is_some_and(|status| status.success()));
    }
    Ok(())
}

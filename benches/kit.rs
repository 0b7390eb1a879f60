//! A program for the comparison kit, called as `CMD WORKLOAD N`: does the work and prints one line
//! of JSON. See `benches/README.md`.
//!
//! ```text
//! kit [returning|deferred] [octets|bytes] [shared] [unbounded] WORKLOAD N
//! ```

#[path = "support/carrier.rs"]
mod carrier;
#[path = "support/laps.rs"]
mod laps;
#[path = "support/payload.rs"]
mod payload;
#[path = "support/pools.rs"]
mod pools;
#[path = "support/work.rs"]
mod work;

use laps::Measured;
use offspring::{BoxError, Process};
use std::io::Write;
use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;
use work::{KIB64, MIB, Variant};

const USAGE: &str = "usage: kit [returning|deferred] [octets|bytes] [shared] [unbounded] WORKLOAD N; workloads: \
    pingpong threads pipeline bulk1m bulk64k events spawn child children child-callbacks \
    children-callbacks rss idle echo-LENGTH-IN_FLIGHT";

fn main() -> ExitCode {
    let me = work::worker();
    // Wrong replies are detected in callbacks, where a panic alone does not end the program.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        process::exit(101);
    }));

    // Cargo adds this argument.
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| arg != "--bench")
        .collect();
    let result = match &args[..] {
        [] => try_all(&me),
        args => run(&me, args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kit: {error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Runs a little of each workload, to check that they work.
fn try_all(me: &Process) -> Result<(), BoxError> {
    for workload in [
        "pingpong",
        "threads",
        "pipeline",
        "bulk1m",
        "bulk64k",
        "events",
        "spawn",
        "pool-pingpong",
        "pool-pipeline-2",
        "pool-burn-2",
        "pool-start",
        "pool-start-copies",
        "pool-after-kill",
    ] {
        for shape in ["returning", "deferred"] {
            for codec in ["octets", "bytes"] {
                run(me, &[shape, codec, workload, "20"])?;
            }
        }
    }
    run(me, &["idle", "0"])
}

fn run(me: &Process, args: &[impl AsRef<str>]) -> Result<(), BoxError> {
    let [variants @ .., workload, n] = args else {
        return Err("workload and number are missing".into());
    };
    let (workload, n) = (workload.as_ref(), n.as_ref().parse()?);
    let mut variant = Variant::default();
    let mut peer = "offspring".to_owned();
    for word in variants.iter().map(AsRef::as_ref) {
        match word {
            "returning" | "octets" => continue,
            "deferred" => variant.deferred = true,
            "bytes" => variant.bytes = true,
            "shared" => variant.shared = true,
            "unbounded" => variant.unbounded = true,
            other => return Err(format!("unknown variant {other}").into()),
        }
        peer = format!("{peer}-{word}");
    }
    let line = match workload {
        "rss" | "idle" => {
            work::idle(me, variant, |child| hold(&peer, workload, n, child));
            return Ok(());
        }
        _ => line(&peer, workload, &work::measure(me, variant, workload, n)?),
    };
    println!("{line}");
    Ok(())
}

/// Prints the ids of the idle processes, and waits for `n` seconds: they are measured from outside.
fn hold(peer: &str, workload: &str, n: u32, child: u32) {
    let parent = process::id();
    println!(
        r#"{{"peer":"{peer}","workload":"{workload}","n":{n},"parent":{parent},"children":[{child}]}}"#
    );
    std::io::stdout().flush().expect("the output is read");
    thread::sleep(Duration::from_secs(n.into()));
}

fn line(peer: &str, workload: &str, measured: &Measured) -> String {
    let mib = |len| measured.rate() * len as f64 / MIB as f64;
    let (unit, value) = match workload {
        "pingpong" => ("us", measured.quantile(0.5).unwrap_or_default()),
        _ if workload == "threads" || workload.starts_with("child") => ("us", measured.mean()),
        "bulk1m" => ("MiB/s", mib(MIB)),
        "bulk64k" => ("MiB/s", mib(KIB64)),
        _ if workload.starts_with("echo-") => ("us", measured.mean()),
        "events" => ("events/s", measured.rate()),
        "spawn" => ("processes/s", measured.rate()),
        _ => ("calls/s", measured.rate()),
    };
    let (n, seconds) = (measured.n, measured.took.as_secs_f64());
    let mean = measured.mean();
    let p99 = match measured.quantile(0.99) {
        Some(p99) => format!(r#","p99":{p99:.3}"#),
        None => String::new(),
    };
    format!(
        r#"{{"peer":"{peer}","workload":"{workload}","n":{n},"seconds":{seconds:.6},"unit":"{unit}","unit_value":{value:.3},"mean":{mean:.3}{p99}}}"#
    )
}

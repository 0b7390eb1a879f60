//! Children that share a large table: one child loads it, and is copied.
//!
//! ```text
//! cargo run --release --example template [MIB]
//! ```

use offspring::{BoxError, Process, Rpc, Worker};
use std::cell::OnceCell;
use std::fs;
use std::time::{Duration, Instant};

const COPIES: usize = 8;
const STARTS: usize = 21;

fn main() -> Result<(), BoxError> {
    let table: &OnceCell<Vec<u64>> = Box::leak(Box::default());
    let me = Worker::new()
        .setup("load", |mib| {
            let [mib] = mib.texts()?;
            let numbers = (mib.parse::<u64>()? << 20) / 8;
            let load = || (0..numbers).map(|n| n.wrapping_mul(n)).collect();
            table.get_or_init(load);
            Ok(())
        })
        .function("lookup", |request, _caller| {
            let [n] = request.texts()?;
            let table = table.get().ok_or("the table is not loaded")?;
            Ok(table[n.parse::<usize>()? % table.len()].to_string())
        })
        .function("echo", |request, _caller| Ok(request))
        .run();

    let mib = std::env::args().nth(1).unwrap_or("256".to_owned());
    let mib: u64 = mib.parse().map_err(|_| "usage: template [MIB]")?;
    let loaded = me.clone().setup("load", mib.to_string()).template();
    loaded.warm()?;

    let copies: Result<Vec<Rpc>, _> = (0..COPIES).map(|_| loaded.rpc("lookup").start()).collect();
    let (mut own, mut mapped) = (0, 0);
    for (rpc, n) in copies?.iter().zip(1..) {
        rpc.call((n * 1000).to_string()).wait()?;
        let pid = rpc.pid().ok_or("a copy is a process")?;
        let memory = Memory::of(pid)?;
        println!(
            "copy {pid}: Pss {} KiB, private {} KiB",
            memory.pss, memory.private
        );
        own += memory.private;
        mapped += memory.rss;
    }

    let fork = median_start(&loaded)?;
    let exec = median_start(&me)?;
    let shared = 100.0 * (1.0 - own as f64 / mapped as f64);
    println!(
        "fork {} us, exec {} us, shared {shared:.1} %",
        fork.as_micros(),
        exec.as_micros()
    );
    Ok(())
}

/// How long it takes to start a child, call it, and let it exit.
fn median_start(process: &Process) -> Result<Duration, BoxError> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let start = Instant::now();
        let rpc = process.rpc("echo").start()?;
        rpc.call("hello").wait()?;
        rpc.finish()?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[STARTS / 2])
}

/// What a process has in memory, in KiB.
struct Memory {
    rss: u64,
    /// What it shares is divided by the number of those that do.
    pss: u64,
    private: u64,
}

impl Memory {
    fn of(pid: u32) -> Result<Self, BoxError> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            number.ok_or_else(|| format!("there is no {name} of {pid}"))
        };
        Ok(Memory {
            rss: field("Rss:")?,
            pss: field("Pss:")?,
            private: field("Private_Clean:")? + field("Private_Dirty:")?,
        })
    }
}

//! Compares the library with a bare socket pair that does the same work: figures of both and their
//! ratio, from one run. See `benches/README.md`.
//!
//! Each measurement runs in its own process (of this program), and each round makes all of them
//! once: ratios are taken within a round, so that what slows a whole round down cancels out.

#[path = "support/builds.rs"]
mod builds;
#[path = "support/carrier.rs"]
mod carrier;
#[path = "support/idleness.rs"]
mod idleness;
#[path = "support/laps.rs"]
mod laps;
#[path = "support/outstanding.rs"]
mod outstanding;
#[path = "support/payload.rs"]
mod payload;
#[path = "support/pools.rs"]
mod pools;
#[path = "support/raw.rs"]
mod raw;
#[path = "support/rows.rs"]
mod rows;
#[path = "support/strace.rs"]
mod strace;
#[expect(unsafe_code, reason = "system calls that std has no functions for")]
#[path = "support/sys.rs"]
mod sys;
#[path = "support/table.rs"]
mod table;
#[path = "support/work.rs"]
mod work;

use offspring::{BoxError, Process};
use rows::{ROWS, Row, Run, Side};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{self, Command, ExitCode, Stdio};
use table::Table;

const USAGE: &str = "usage: ratios [--rounds N] [--rows ROW,...] [--all] [--quick] [--list]\n\
    or: ratios raw WORKLOAD N";

/// The first argument of a measuring process.
const MEASURE: &str = "measure";

/// The default number of rounds.
const ROUNDS: usize = 3;

/// The output of [`MEASURE`]: names and values.
type Values = HashMap<String, f64>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == raw::CHILD) {
        raw::child(&args[1]);
        return ExitCode::SUCCESS;
    }
    let me = work::worker();
    let result = match &args[..] {
        [first, rest @ ..] if first == MEASURE => measure(&me, rest),
        [first, workload, n] if first == "raw" => raw_line(workload, n),
        _ => compare(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ratios: {error}");
            ExitCode::from(2)
        }
    }
}

// ---- one measurement ----

fn measure(me: &Process, args: &[String]) -> Result<(), BoxError> {
    // Wrong replies are detected in callbacks, where a panic alone does not end the program.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        process::exit(101);
    }));

    let run = Run::from_args(args)?;
    sys::raise_descriptor_limit();
    if run.one_cpu {
        sys::confine_to_one_cpu();
    }
    let value = |name, value: f64| println!("{name} {value}");
    match run.workload {
        "memory" => idle(me, run.side, |child| {
            value("private", idleness::private_memory(child));
        }),
        "idle" => idle(me, run.side, |child| {
            value("wake-ups", idleness::wake_ups(child));
        }),
        "hold" => idle(me, run.side, |child| {
            println!("{} {child}", process::id());
            // Until the process that started this has finished.
            let _ = std::io::stdin().read(&mut [0]);
        }),
        "outstanding" => value("bytes", outstanding::bytes_per_call(me, run.n)),
        "syscalls" => {
            for (process, counts) in ["parent", "child"].into_iter().zip(syscalls(run)?) {
                value(process, counts.values().sum::<i64>() as f64);
                let all: Vec<String> = counts
                    .iter()
                    .map(|(name, n)| format!("{name} {n}"))
                    .collect();
                println!(
                    "# {} for {} calls, {process}: {}",
                    run.side,
                    run.n,
                    all.join(", ")
                );
            }
        }
        "traced idle" => value("syscalls", traced_idle(run.side)?.into()),
        "size" => {
            let [program, empty] = builds::sizes()?;
            value("size", program - empty);
            println!(
                "# a program that calls itself: {program:.0} KiB, an empty one {empty:.0} KiB"
            );
        }
        "build" => value("seconds", builds::seconds()?),
        workload => {
            let measured = match run.side.variant() {
                Some(variant) => work::measure(me, variant, workload, run.n)?,
                None => raw::measure(run.side == Side::RawLargeBuffer, workload, run.n)?,
            };
            let rate = measured.rate();
            value("median", measured.quantile(0.5).unwrap_or_default());
            value("mean", measured.mean());
            value("rate", rate);
            value(
                "cpu",
                sys::cpu_time().as_secs_f64() * 1e6 / f64::from(measured.n),
            );
        }
    }
    Ok(())
}

fn idle(me: &Process, side: Side, then: impl FnOnce(u32)) {
    match side.variant() {
        Some(variant) => work::idle(me, variant, then),
        None => raw::idle(then),
    }
}

/// The system calls of parent and child for pipelined calls, without those of start and end.
fn syscalls(run: Run) -> Result<[strace::Counts; 2], BoxError> {
    let count = |n| {
        let this = std::env::current_exe()?;
        let run = Run {
            workload: "pipeline",
            n,
            ..run
        };
        let args = run.to_args();
        let this = this
            .to_str()
            .ok_or("the path of this program is not UTF-8")?;
        let mut command = vec![this, MEASURE];
        command.extend(args.iter().map(String::as_str));
        Ok::<_, BoxError>(strace::count(&command)?)
    };
    let ([parent, child], [parent_1, child_1]) = (count(run.n)?, count(1)?);
    Ok([
        strace::difference(&parent, &parent_1),
        strace::difference(&child, &child_1),
    ])
}

fn traced_idle(side: Side) -> Result<u32, BoxError> {
    let run = Run {
        side,
        workload: "hold",
        n: 1,
        one_cpu: false,
    };
    let mut holder = Command::new(std::env::current_exe()?)
        .arg(MEASURE)
        .args(run.to_args())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let stdout = holder.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut line)?;
    let (parent, child) = line.trim().split_once(' ').ok_or("no process ids")?;
    let calls = strace::watch([parent.parse()?, child.parse()?])?;
    drop(holder.stdin.take());
    holder.wait()?;
    Ok(calls)
}

/// Runs the bare socket pair as a program of the comparison kit.
fn raw_line(workload: &str, n: &str) -> Result<(), BoxError> {
    let measured = raw::measure(false, workload, n.parse()?)?;
    let (n, seconds, mean) = (measured.n, measured.took.as_secs_f64(), measured.mean());
    println!(
        r#"{{"peer":"raw","workload":"{workload}","n":{n},"seconds":{seconds:.6},"unit":"us","unit_value":{mean:.3}}}"#
    );
    Ok(())
}

// ---- all measurements ----

struct Options {
    rounds: usize,
    rows: Vec<&'static Row>,
    /// The factor by which each measurement is shortened.
    divisor: u32,
}

fn parse(args: &[String]) -> Result<Option<Options>, BoxError> {
    let mut options = Options {
        rounds: ROUNDS,
        rows: ROWS.iter().filter(|row| !row.slow).collect(),
        divisor: 1,
    };
    // `cargo bench` adds `--bench`. `cargo test` does not, and only needs to know whether it works.
    let is_bench = args.iter().any(|arg| arg == "--bench");
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    args.retain(|arg| *arg != "--bench");
    if args.is_empty() && !is_bench {
        args.push("--quick");
    }
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg {
            "--rounds" => options.rounds = value()?.parse()?,
            "--rows" => {
                let find = |key| {
                    let row = ROWS.iter().find(|row| row.key == key);
                    row.ok_or(format!("unknown row {key}; see --list"))
                };
                options.rows = value()?.split(',').map(find).collect::<Result<_, _>>()?;
            }
            "--all" => options.rows = ROWS.iter().collect(),
            "--quick" => {
                options.rounds = 1;
                options.divisor = 100;
                options.rows.retain(|row| !row.once);
            }
            "--list" => {
                for row in ROWS {
                    println!("{:14}{}", row.key, row.title);
                }
                return Ok(None);
            }
            other => return Err(format!("unknown argument {other}\n{USAGE}").into()),
        }
    }
    Ok(Some(options))
}

fn compare(args: &[String]) -> Result<(), BoxError> {
    let Some(mut options) = parse(args)? else {
        return Ok(());
    };
    if !strace::is_available() && options.rows.iter().any(|row| row.needs_strace()) {
        eprintln!("note: strace cannot be used; skipping the rows that need it");
        options.rows.retain(|row| !row.needs_strace());
    }
    let mut rounds: Vec<HashMap<Run, Values>> = Vec::new();
    let mut notes = Vec::new();
    for round in 0..options.rounds {
        let rows = options.rows.iter().filter(|row| round == 0 || !row.once);
        let mut runs: Vec<Run> = Vec::new();
        for run in rows
            .flat_map(|row| [Some(row.ours), row.baseline])
            .flatten()
        {
            if !runs.contains(&run) {
                runs.push(run);
            }
        }
        // Measurements are affected by those before them: alternate the order.
        if round % 2 == 1 {
            runs.reverse();
        }
        let mut all = HashMap::new();
        for run in runs {
            let values = run_alone(run, options.divisor, &mut notes);
            all.insert(run, values.map_err(|error| format!("{run:?}: {error}"))?);
        }
        rounds.push(all);
    }
    let mut table = Table::new();
    for row in options.rows {
        table.row(row, &rounds);
    }
    println!("rounds: {}; {}", options.rounds, machine());
    println!();
    print!("{table}");
    for note in notes {
        println!("{note}");
    }
    Ok(())
}

/// Measures in a separate process.
fn run_alone(run: Run, divisor: u32, notes: &mut Vec<String>) -> Result<Values, BoxError> {
    let shortened = Run {
        n: (run.n / divisor).max(1),
        ..run
    };
    let output = Command::new(std::env::current_exe()?)
        .arg(MEASURE)
        .args(shortened.to_args())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(output.status.to_string().into());
    }
    let mut values = Values::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        match line.strip_prefix("# ") {
            Some(note) => notes.push(note.to_owned()),
            None => {
                let (name, value) = line.split_once(' ').ok_or("a line has no value")?;
                values.insert(name.to_owned(), value.parse()?);
            }
        }
    }
    Ok(values)
}

fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cpus} CPUs, Linux {}", kernel.trim())
}

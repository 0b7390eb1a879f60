//! What a connection to another machine costs: calls through an ssh to this machine, beside bytes that a
//! program sends back through another. Prints medians and their ratio; see `benches/README.md`.
//!
//! ```text
//! cargo bench --bench far
//! ```

#[path = "../tests/common/mod.rs"]
mod common;

use common::far::Sshd;
use offspring::{BoxError, Process, Rpc, Worker};
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// What has this program send back what it gets, as the raw side.
const RAW: &str = "raw";
const ROUNDS: usize = 9;
const CALLS: usize = 500;
const MIB: usize = 1 << 20;

fn main() -> Result<(), BoxError> {
    if std::env::args().nth(1).is_some_and(|arg| arg == RAW) {
        return send_back();
    }
    let _me = Worker::new()
        .function("echo", |request, _caller| Ok(request))
        .function("blob", |request, _caller| {
            let len: usize = request.to_string().parse()?;
            Ok([vec![7; len]])
        })
        .run();
    let Some(sshd) = Sshd::start() else {
        return Ok(());
    };
    let (server, words) = (common::children(), sshd.command());
    let exe = std::env::current_exe()?;
    let far = Process::command(&words[0])
        .args(&words[1..])
        .arg(format!("OFFSPRING=serve exec {}", exe.display()));
    let many = far.clone().template();
    let rpc = many.rpc("echo").start()?;
    rpc.wait_ready()?;
    let mut raw = Raw::start(&words, &format!("exec {} {RAW}", exe.display()))?;

    let blob = vec![7; MIB];
    let mut rows = [const { Vec::new() }; 4];
    let mut waits = Vec::new();
    for _ in 0..ROUNDS {
        let raw_call = median(CALLS, || raw.round(&[7]))?;
        let call = median(CALLS, || called(&rpc))?;
        let raw_mib = median(20, || raw.round(&blob))?;
        let mib = median(20, || {
            let reply = rpc.call([&blob]).wait()?;
            assert_eq!(reply[0].len(), MIB);
            Ok(())
        })?;
        for (row, pair) in rows.iter_mut().zip([(raw_call, call), (raw_mib, mib)]) {
            row.push(pair);
        }
        waits.push(longest_wait(&many, &rpc)?);

        let start = Instant::now();
        let hundred: Vec<Rpc> = (0..100)
            .map(|_| many.rpc("echo").start())
            .collect::<Result<_, _>>()?;
        hundred.iter().try_for_each(Rpc::wait_ready)?;
        let one_more = start.elapsed() / 100;
        let each = median(CALLS / 5, || called(&hundred[50]))?;
        rows[3].push((call, each));
        hundred
            .into_iter()
            .try_for_each(|rpc| rpc.finish().map(drop))?;

        let start = Instant::now();
        let alone = far.rpc("echo").start()?;
        alone.wait_ready()?;
        rows[2].push((start.elapsed(), one_more));
        alone.finish()?;
    }
    let names = [
        "a call, beside a byte through the same server",
        "an echo of 1 MiB, beside the same bytes",
        "a further child behind a connection, beside an ssh of its own",
        "a call with 100 children there, beside one with none",
    ];
    for (name, pairs) in names.into_iter().zip(&mut rows) {
        let ratio = |pair: &(Duration, Duration)| pair.1.as_secs_f64() / pair.0.as_secs_f64();
        pairs.sort_by(|one, other| ratio(one).total_cmp(&ratio(other)));
        let pair = pairs[pairs.len() / 2];
        println!(
            "{name}: {:.1?} to {:.1?}, x{:.3}",
            pair.1,
            pair.0,
            ratio(&pair)
        );
    }
    waits.sort();
    println!(
        "a small call beside a reply of 100 MiB waits at most {:.1?} (median of {ROUNDS}; of all {:.1?})",
        waits[waits.len() / 2],
        waits[waits.len() - 1]
    );
    rpc.finish()?;
    drop((many, raw));
    // The server goes last.
    common::eventually("all connections are closed", || {
        common::children() == server
    });
    Ok(())
}

fn called(rpc: &Rpc) -> Result<(), BoxError> {
    let reply = rpc.call("x").wait()?;
    assert_eq!(reply, ["x"]);
    Ok(())
}

fn median(
    times: usize,
    mut round: impl FnMut() -> Result<(), BoxError>,
) -> Result<Duration, BoxError> {
    let mut all = Vec::with_capacity(times);
    for _ in 0..times {
        let start = Instant::now();
        round()?;
        all.push(start.elapsed());
    }
    all.sort();
    Ok(all[times / 2])
}

/// The longest that a small call takes while another child sends a long reply.
fn longest_wait(many: &Process, rpc: &Rpc) -> Result<Duration, BoxError> {
    let other = many.rpc("blob").start()?;
    other.wait_ready()?;
    let mut reply = other.call((100 * MIB).to_string()).start();
    let mut longest = Duration::ZERO;
    while reply.try_wait().transpose()?.is_none() {
        let start = Instant::now();
        called(rpc)?;
        longest = longest.max(start.elapsed());
    }
    other.finish()?;
    Ok(longest)
}

/// A program that sends back what it gets, through ssh.
struct Raw {
    program: Child,
    to: ChildStdin,
    from: ChildStdout,
    got: Vec<u8>,
}

impl Raw {
    fn start(words: &[String], line: &str) -> Result<Self, BoxError> {
        let mut program = Command::new(&words[0])
            .args(&words[1..])
            .arg(line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = program.stdin.take().ok_or("it has no input")?;
        let from = program.stdout.take().ok_or("it has no output")?;
        let got = vec![0; MIB];
        let mut raw = Raw {
            program,
            to,
            from,
            got,
        };
        raw.round(b"?")?;
        Ok(raw)
    }

    /// More than the pipes in between hold can be on its way: it is written on another thread.
    fn round(&mut self, bytes: &[u8]) -> Result<(), BoxError> {
        let Raw { to, from, got, .. } = self;
        let got = &mut got[..bytes.len()];
        if bytes.len() == 1 {
            to.write_all(bytes)?;
            from.read_exact(got)?;
            return Ok(());
        }
        std::thread::scope(|scope| -> Result<(), BoxError> {
            let writes = scope.spawn(|| to.write_all(bytes));
            from.read_exact(got)?;
            Ok(writes.join().map_err(|_| "the writer has panicked")??)
        })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn send_back() -> Result<(), BoxError> {
    let (mut from, mut to) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut bytes = vec![0; 64 << 10];
    loop {
        let n = from.read(&mut bytes)?;
        if n == 0 {
            return Ok(());
        }
        to.write_all(&bytes[..n])?;
        to.flush()?;
    }
}

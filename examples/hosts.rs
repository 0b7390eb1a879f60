//! A batch of jobs on the hosts of a file, each behind one connection.
//!
//! ```text
//! cargo run --example hosts -- FILE
//! cargo run --example hosts -- FILE -- podman exec -i {host} env OFFSPRING=serve /worker
//! ```
//!
//! In the file, each line is `[N/]user@host`, with `#` for comments. In the command, `{host}` is the host.
//! Without one, it is ssh, and this program is expected there by the same path.

use offspring::{BoxError, Host, Hosts, Process, Worker};
use std::process::ExitCode;
use std::{env, fs};

/// How many numbers are looked at in a job, and how many jobs there are.
const NUMBERS: u64 = 20_000;
const JOBS: u64 = 100;

fn main() -> Result<ExitCode, BoxError> {
    let _me = Worker::new()
        .function("primes", |request, _caller| {
            let [from] = request.texts()?;
            let from: u64 = from.parse()?;
            let primes = (from..from + NUMBERS).filter(|n| is_prime(*n)).count();
            Ok(primes.to_string())
        })
        .run();

    let mut args = env::args().skip(1);
    let Some(file) = args.next() else {
        eprintln!("usage: hosts FILE [-- COMMAND..]");
        return Ok(ExitCode::from(2));
    };
    let command: Vec<String> = args.skip(1).collect();
    let exe = env::current_exe()?;
    let exe = Host::quote(exe.to_str().ok_or("this program has an odd path")?);
    let reach = move |host: &Host| match &command[..] {
        [] => Process::command("ssh")
            .args(["-T", "-oBatchMode=yes", "--", &host.name])
            .arg(format!("OFFSPRING=serve exec {exe}")),
        [program, args @ ..] => {
            let with_host = |word: &String| word.replace("{host}", &host.name);
            Process::command(with_host(program)).args(args.iter().map(with_host))
        }
    };

    let pool = Hosts::read(&file)?.pool("primes", reach).start()?;
    let mut found = 0;
    let jobs = (0..JOBS).map(|job| (job * NUMBERS).to_string());
    for (from, primes) in pool.map_unordered(jobs) {
        match primes {
            Ok(primes) => found += primes.texts::<1>()?[0].parse::<u64>()?,
            Err(error) => eprintln!("{from}: {error}"),
        }
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    println!(
        "{found} primes below {}, says {}",
        JOBS * NUMBERS,
        host.trim()
    );
    for source in pool.stats().sources {
        println!("{source}");
    }
    pool.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn is_prime(n: u64) -> bool {
    n > 1
        && (2..)
            .take_while(|d| d * d <= n)
            .all(|d| !n.is_multiple_of(d))
}

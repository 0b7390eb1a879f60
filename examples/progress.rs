//! Several simultaneous calls that report progress: as bars on a terminal, otherwise as lines.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use offspring::{BoxError, Caller, Strings, Worker};
use std::io::IsTerminal;
use std::thread;
use std::time::Duration;

/// Runs in the child: counts the primes below a number, in twenty steps.
fn primes(request: Strings, caller: &Caller) -> Result<String, BoxError> {
    let [below] = request.texts()?;
    let below: u32 = below.parse()?;
    let is_prime = |n: u32| {
        n > 1
            && (2..)
                .take_while(|d| d * d <= n)
                .all(|d| !n.is_multiple_of(d))
    };
    let mut count = 0;
    for step in 0..20 {
        count += (below / 20 * step..below / 20 * (step + 1))
            .filter(|n| is_prime(*n))
            .count();
        caller.progress(((step + 1) * 5).to_string());
        if caller.is_cancelled() {
            return Err("cancelled".into());
        }
        // Slow enough to watch.
        thread::sleep(Duration::from_millis(20));
    }
    Ok(count.to_string())
}

fn main() -> Result<(), BoxError> {
    let me = Worker::new().threaded("primes", primes).threads(3).run();

    let rpc = me.rpc("primes").start()?;
    let bars = MultiProgress::new();
    let style = ProgressStyle::with_template("{prefix:>9} {bar:40} {percent:>3}% {msg}")?;
    let show_lines = !std::io::stderr().is_terminal(); // bars go to standard error
    let mut calls = Vec::new();
    for below in [20_000u32, 40_000, 60_000, 80_000] {
        let bar = bars.add(ProgressBar::new(100)).with_style(style.clone());
        bar.set_prefix(below.to_string());
        let on_progress = {
            let bar = bar.clone();
            move |percent: Strings| {
                let percent = percent.to_string().parse().unwrap_or(0);
                bar.set_position(percent);
                if show_lines && percent % 50 == 0 {
                    println!("primes below {below}: {percent}%");
                }
            }
        };
        let call = rpc.call(below.to_string()).on_progress(on_progress).start();
        calls.push((below, bar, call));
    }
    for (below, bar, call) in calls {
        let count = call.wait()?;
        bar.finish_with_message(format!("{count} primes"));
        if show_lines {
            println!("primes below {below}: {count}");
        }
    }
    rpc.finish()?;
    Ok(())
}

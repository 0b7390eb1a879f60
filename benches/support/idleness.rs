//! What idle processes cost.

use std::fs;
use std::path::Path;
use std::process;
use std::thread;
use std::time::Duration;

/// Until all is quiet.
const SETTLE: Duration = Duration::from_millis(400);

/// For how long it is watched.
const WATCH: Duration = Duration::from_secs(2);

/// KiB of memory that the child has for itself.
pub(crate) fn private_memory(child: u32) -> f64 {
    thread::sleep(SETTLE);
    let all = fs::read_to_string(format!("/proc/{child}/smaps_rollup")).expect("Linux 4.14");
    all.lines()
        .filter(|line| line.starts_with("Private_"))
        .map(number)
        .sum()
}

/// How often a thread of the child, or of this process apart from the one that calls this, went to
/// sleep within two seconds: what runs must stop running, so this is how often one ran.
pub(crate) fn wake_ups(child: u32) -> f64 {
    thread::sleep(SETTLE);
    let before = switches(child);
    thread::sleep(WATCH);
    switches(child) - before
}

fn switches(child: u32) -> f64 {
    let me = process::id();
    let this_thread = fs::read_link("/proc/thread-self").expect("Linux 3.17");
    let this_thread = Path::new("/proc").join(this_thread);
    [me, child]
        .into_iter()
        .flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).expect("it has not ended"))
        .map(|task| task.expect("it has not ended").path())
        .filter(|task| *task != this_thread)
        .map(|task| {
            let status = fs::read_to_string(task.join("status")).unwrap_or_default();
            status
                .lines()
                .filter(|line| line.contains("ctxt_switches:"))
                .map(number)
                .sum::<f64>()
        })
        .sum()
}

/// The number in `name: number unit`.
fn number(line: &str) -> f64 {
    line.split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .expect("a line with a number")
}

//! The costs of idle processes.

use std::fs;
use std::path::Path;
use std::process;
use std::thread;
use std::time::Duration;

/// How long to wait until all processes are idle.
const SETTLE: Duration = Duration::from_millis(400);

/// How long to watch them.
const WATCH: Duration = Duration::from_secs(2);

/// The child's private memory in KiB.
pub(crate) fn private_memory(child: u32) -> f64 {
    thread::sleep(SETTLE);
    let all = fs::read_to_string(format!("/proc/{child}/smaps_rollup")).expect("Linux 4.14");
    all.lines()
        .filter(|line| line.starts_with("Private_"))
        .map(number)
        .sum()
}

/// How often a thread of the child, or of this process except the calling thread, went to sleep
/// within two seconds. A thread that woke up goes to sleep again, so this counts wake-ups.
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
        .flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).expect("it is running"))
        .map(|task| task.expect("it is running").path())
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

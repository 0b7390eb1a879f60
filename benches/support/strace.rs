//! System calls, counted by `strace`.

use crate::sys;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

/// The number of calls of each system call.
pub(crate) type Counts = BTreeMap<String, i64>;

/// Whether `strace` is installed and may trace.
pub(crate) fn is_available() -> bool {
    let mut command = Command::new("strace");
    command.args(["-o", "/dev/null", "true"]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Runs a command, and returns the system calls of its process and those of its children.
///
/// # Errors
///
/// If it cannot be run, or fails.
pub(crate) fn count(command: &[&str]) -> Result<[Counts; 2], String> {
    let trace = Trace::new();
    let output = trace.strace().args(command).output();
    let output = output.map_err(|error| format!("strace: {error}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("strace {}: {stderr}", command.join(" ")));
    }
    Ok(by_process(&trace.text()))
}

/// The number of system calls that these processes make within two seconds.
///
/// # Errors
///
/// If they cannot be traced.
pub(crate) fn watch(pids: [u32; 2]) -> Result<u32, String> {
    let trace = Trace::new();
    let mut strace = trace.strace();
    strace.arg("-ttt");
    for pid in pids {
        strace.arg("-p").arg(pid.to_string());
    }
    let mut strace = strace.spawn().map_err(|error| format!("strace: {error}"))?;
    // Attaching makes a process restart the call that it is blocked in.
    thread::sleep(Duration::from_millis(500));
    let start = SystemTime::now();
    thread::sleep(Duration::from_secs(2));
    let watched = start..SystemTime::now();
    sys::interrupt(strace.id());
    strace.wait().map_err(|error| format!("strace: {error}"))?;
    let text = trace.text();
    // Attaching also leaves a line for every process: without one, it was not traced.
    for pid in pids.map(|pid| format!("{pid} ")) {
        if !text.lines().any(|line| line.starts_with(&pid)) {
            return Err(format!("strace did not trace process {pid}"));
        }
    }
    let within = |line: &&str| {
        let seconds = line
            .split_whitespace()
            .nth(1)
            .and_then(|time| time.parse().ok());
        seconds.is_some_and(|seconds| {
            watched.contains(&(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)))
        })
    };
    Ok(text.lines().filter(within).count() as u32)
}

/// A file for a trace, removed when dropped.
struct Trace(PathBuf);

impl Trace {
    fn new() -> Self {
        let name = format!("offspring-strace-{}", std::process::id());
        Trace(std::env::temp_dir().join(name))
    }

    fn strace(&self) -> Command {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o"]).arg(&self.0);
        command.stdin(Stdio::null());
        command
    }

    fn text(&self) -> String {
        let text = fs::read(&self.0).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // What cannot be removed stays.
        let _ = fs::remove_file(&self.0);
    }
}

/// Splits a trace by process: the threads of the first process, and all others.
fn by_process(trace: &str) -> [Counts; 2] {
    // Each line begins with a thread id. A call that is interrupted by another thread's line
    // ends in `<unfinished ...>`, and has a second line with its result.
    let lines: Vec<(&str, &str, bool)> = trace
        .lines()
        .filter_map(|line| {
            let (thread, event) = line.split_once(' ')?;
            let event = event.trim_start();
            let resumed = event.strip_prefix("<... ");
            Some((thread, resumed.unwrap_or(event), resumed.is_none()))
        })
        .collect();

    // The creator of each thread, and whether both belong to the same process. A thread's first
    // calls may precede the result of the call that created it.
    let mut created_by: HashMap<&str, (&str, bool)> = HashMap::new();
    let mut same_process: HashMap<&str, bool> = HashMap::new();
    for (thread, event, begins) in &lines {
        if !matches!(name(event), "clone" | "clone3" | "fork" | "vfork") {
            continue;
        }
        if *begins {
            same_process.insert(thread, event.contains("CLONE_THREAD"));
        }
        if let Some((_, created)) = event.rsplit_once(" = ") {
            created_by.insert(created.trim(), (thread, same_process[thread]));
        }
    }

    let mut counts = [Counts::new(), Counts::new()];
    for (thread, event, begins) in lines {
        let mut at = thread;
        let mut of_child = false;
        while let Some((creator, same_process)) = created_by.get(at) {
            of_child |= !same_process;
            at = creator;
        }
        if begins && !name(event).is_empty() {
            let counts = &mut counts[usize::from(of_child)];
            *counts.entry(name(event).to_owned()).or_default() += 1;
        }
    }
    counts
}

/// The name of the system call at the start of a line.
fn name(event: &str) -> &str {
    let end = event.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    &event[..end.unwrap_or(0)]
}

/// The counts by which one run exceeds another, without zeros.
pub(crate) fn difference(more: &Counts, less: &Counts) -> Counts {
    more.iter()
        .map(|(name, count)| (name.clone(), count - less.get(name).unwrap_or(&0)))
        .filter(|(_, count)| *count != 0)
        .collect()
}

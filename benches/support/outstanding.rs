//! The memory that an unanswered call needs.

use crate::payload::{check_small, small};
use crate::sys;
use offspring::Process;
use std::fs;
use std::sync::mpsc;

/// Makes `n` calls to a stopped child, and returns the growth of this process's memory in bytes per
/// call. Then lets the child answer them.
pub(crate) fn bytes_per_call(me: &Process, n: u32) -> f64 {
    let rpc = me.rpc("echo").start().expect("this program can be started");
    let child = rpc.pid().expect("the child is a process");
    rpc.call([small(0)]).wait().expect("an echo");
    sys::stop(child);
    let (done, last) = mpsc::channel();
    let before = anonymous_memory();
    for i in 0..n - 1 {
        rpc.call([small(i)])
            .then(move |reply| check_small(i, &reply.expect("an echo")[0]));
    }
    rpc.call([small(n - 1)])
        .then(move |reply| done.send(reply).expect("the receiver exists"));
    let after = anonymous_memory();
    sys::resume(child);
    let reply = last.recv().expect("every call ends").expect("an echo");
    check_small(n - 1, &reply[0]);
    rpc.finish().expect("the child exits cleanly");
    (after - before) / f64::from(n)
}

/// The private memory of this process in bytes.
fn anonymous_memory() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<f64>().ok())
        .expect("a number of KiB")
        * 1024.0
}

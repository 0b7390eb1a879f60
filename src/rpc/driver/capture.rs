//! A child's standard output or error, while it is captured.

use crate::process::{Lines, OutputCallback, Tail};
use crate::rpc::callback::guard;
use crate::sys::{self, ReadMode, Registration};
use std::io::ErrorKind;

/// How many bytes are read at a time.
const READ: usize = 4 << 10;

/// How often it is read once the process has ended: 1 MiB, which is as much as a pipe holds. What
/// comes after that is not from the child, and may never end.
pub(super) const LAST_READS: usize = (1 << 20) / READ;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Capture {
    pid: u32,
    /// While it is open.
    pipe: Option<Registration>,
    lines: Lines,
    callback: Option<OutputCallback>,
    tail: Tail,
}

impl Capture {
    /// Captures what comes from a pipe that does not block.
    pub(super) fn new(
        pid: Option<u32>,
        pipe: Registration,
        callback: Option<OutputCallback>,
    ) -> Self {
        Capture {
            pid: pid.unwrap_or(0),
            pipe: Some(pipe),
            callback,
            ..Capture::default()
        }
    }

    /// Whose output it is, if that is known now.
    pub(super) fn learn_pid(&mut self, pid: Option<u32>) {
        self.pid = pid.unwrap_or(self.pid);
    }

    /// Reads at most so many times, and hands out what has come, or whole lines of it.
    pub(super) fn read(&mut self, reads: usize) {
        let mut buf = Vec::with_capacity(READ);
        for _ in 0..reads {
            let Some(pipe) = &self.pipe else {
                return;
            };
            buf.clear();
            match sys::receive(&**pipe.fd(), (&mut buf, READ), None, ReadMode::Any) {
                Ok(n) if n > 0 => {
                    let (pid, tail, callback) = (self.pid, &mut self.tail, &self.callback);
                    if let Some(OutputCallback::Chunks(callback)) = callback {
                        guard(|| callback(pid, &buf));
                    }
                    self.lines
                        .push(&buf, |line| hand_out(tail, callback, pid, line));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => return self.close(),
            }
        }
    }

    /// Nothing more is read. A line without an end is one, too.
    pub(super) fn close(&mut self) {
        if self.pipe.take().is_some() {
            let (pid, tail, callback) = (self.pid, &mut self.tail, &self.callback);
            self.lines
                .finish(|line| hand_out(tail, callback, pid, line));
            let callback = self.callback.take();
            guard(|| drop(callback));
        }
    }

    /// The first and last lines.
    pub(super) fn tail(&self) -> String {
        self.tail.text()
    }
}

fn hand_out(tail: &mut Tail, callback: &Option<OutputCallback>, pid: u32, line: &str) {
    tail.push(line);
    if let Some(OutputCallback::Lines(callback)) = callback {
        guard(|| callback(pid, line));
    }
}

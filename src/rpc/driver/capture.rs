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
    /// While it is open.
    pipe: Option<Registration>,
    lines: Lines,
    callback: Option<OutputCallback>,
    tail: Tail,
}

impl Capture {
    /// Captures what comes from a pipe that does not block.
    pub(super) fn new(pipe: Registration, callback: Option<OutputCallback>) -> Self {
        Capture {
            pipe: Some(pipe),
            callback,
            ..Capture::default()
        }
    }

    /// Reads at most so many times, and hands out what has come, or whole lines of it, as that of this process.
    pub(super) fn read(&mut self, reads: usize, pid: u32) {
        let mut buf = Vec::with_capacity(READ);
        for _ in 0..reads {
            let Some(pipe) = &self.pipe else {
                return;
            };
            buf.clear();
            match sys::receive(&**pipe.fd(), (&mut buf, READ), None, ReadMode::Any) {
                Ok(n) if n > 0 => {
                    let (tail, callback) = (&mut self.tail, &self.callback);
                    if let Some(OutputCallback::Chunks(callback)) = callback {
                        guard(|| callback(pid, &buf));
                    }
                    self.lines
                        .push(&buf, |line| hand_out(tail, callback, pid, line));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => return self.close(pid),
            }
        }
    }

    /// Nothing more is read. A line without an end is one, too.
    pub(super) fn close(&mut self, pid: u32) {
        if self.pipe.take().is_some() {
            let (tail, callback) = (&mut self.tail, &self.callback);
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

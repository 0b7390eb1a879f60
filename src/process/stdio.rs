//! Where a child's standard error goes.

use std::fmt;
use std::sync::Arc;

/// A longer line is split.
const LONGEST_LINE: usize = 8 << 10;
/// How many lines are kept for errors, and how many bytes in total.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: usize = 8 << 10;

/// Called with the child's process id and a line without its line break.
pub(crate) type StderrCallback = Arc<dyn Fn(u32, &str) + Send + Sync>;

/// Where a child's standard error goes.
///
/// If it is captured, [`Error::stderr`](crate::Error::stderr) has the last 20 lines, at most 8 KiB.
///
/// # Examples
///
/// ```
/// use offspring::{Plain, Process, Stdio};
/// use std::sync::mpsc;
///
/// let (send, lines) = mpsc::channel();
/// let rpc = Process::command(Plain::Tagged, "sh")
///     .args(["-c", "echo hello >&2; cat >/dev/null"])
///     .stderr(Stdio::lines(move |_pid, line| send.send(line.to_owned()).unwrap()))
///     .rpc("shell")
///     .start()?;
/// assert_eq!(lines.recv()?, "hello");
/// rpc.finish()?;
/// # Ok::<(), offspring::BoxError>(())
/// ```
#[derive(Clone, Default)]
pub struct Stdio(pub(super) StdioKind);

#[derive(Clone, Default)]
pub(super) enum StdioKind {
    #[default]
    Inherit,
    Null,
    Capture(Option<StderrCallback>),
}

impl Stdio {
    /// The child inherits the parent's standard error. The default. Errors do not contain it.
    #[must_use]
    pub fn inherit() -> Self {
        Stdio(StdioKind::Inherit)
    }

    /// Discards it.
    #[must_use]
    pub fn null() -> Self {
        Stdio(StdioKind::Null)
    }

    /// Captures it: it is shown nowhere, but its last lines are kept for errors.
    #[must_use]
    pub fn capture() -> Self {
        Stdio(StdioKind::Capture(None))
    }

    /// Captures it, and calls `callback` with the child's process id and each line; the last lines
    /// are also kept for errors. Invalid UTF-8 is replaced, and a line above 8 KiB is split. The
    /// callback runs on the reactor's thread.
    #[must_use]
    pub fn lines(callback: impl Fn(u32, &str) + Send + Sync + 'static) -> Self {
        Stdio(StdioKind::Capture(Some(Arc::new(callback))))
    }

    pub(super) fn callback(&self) -> Option<StderrCallback> {
        match &self.0 {
            StdioKind::Capture(callback) => callback.clone(),
            StdioKind::Inherit | StdioKind::Null => None,
        }
    }
}

impl fmt::Debug for Stdio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            StdioKind::Inherit => "Stdio::inherit()",
            StdioKind::Null => "Stdio::null()",
            StdioKind::Capture(None) => "Stdio::capture()",
            StdioKind::Capture(Some(_)) => "Stdio::lines(..)",
        })
    }
}

/// Splits bytes into lines, in whatever pieces they arrive.
#[derive(Default)]
pub(crate) struct Lines {
    /// The beginning of an incomplete line.
    partial: Vec<u8>,
}

impl Lines {
    /// Calls `line` with every line that `bytes` complete.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&str)) {
        while !bytes.is_empty() {
            let room = LONGEST_LINE - self.partial.len();
            let end = memchr::memchr(b'\n', &bytes[..room.min(bytes.len())]);
            let taken = end.unwrap_or(room.min(bytes.len()));
            self.partial.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken + usize::from(end.is_some())..];
            if end.is_some() || self.partial.len() == LONGEST_LINE {
                self.finish_line(&mut line);
            }
        }
    }

    /// Calls `line` with what came after the last line break, if anything.
    pub(crate) fn finish(&mut self, mut line: impl FnMut(&str)) {
        if !self.partial.is_empty() {
            self.finish_line(&mut line);
        }
    }

    fn finish_line(&mut self, line: &mut impl FnMut(&str)) {
        line(&String::from_utf8_lossy(&self.partial));
        self.partial.clear();
    }
}

/// The last lines of a child's standard error.
#[derive(Default)]
pub(crate) struct Tail {
    /// The oldest first.
    lines: Vec<String>,
    bytes: usize,
}

impl Tail {
    pub(crate) fn push(&mut self, line: &str) {
        self.lines.push(line.to_owned());
        self.bytes += line.len();
        while self.lines.len() > TAIL_LINES || (self.bytes > TAIL_BYTES && self.lines.len() > 1) {
            let gone = self.lines.remove(0);
            self.bytes -= gone.len();
        }
    }

    /// The lines, each with a line break.
    pub(crate) fn text(&self) -> String {
        let mut text = String::with_capacity(self.bytes + self.lines.len());
        for line in &self.lines {
            text += line;
            text += "\n";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_yields_the_same_lines() {
        let text = format!("one\n\nthree {}\nfour\u{e9} no end", "x".repeat(100));
        let want: Vec<String> = text.split('\n').map(str::to_owned).collect();
        for split in 1..=text.len() {
            let (mut lines, mut got) = (Lines::default(), Vec::new());
            for piece in text.as_bytes().chunks(split) {
                lines.push(piece, |line| got.push(line.to_owned()));
            }
            lines.finish(|line| got.push(line.to_owned()));
            assert_eq!(got, want, "split {split}");
        }
    }

    #[test]
    fn endless_line_is_split() {
        let (mut lines, mut got) = (Lines::default(), Vec::new());
        lines.push(&[b'x'; 3 * LONGEST_LINE + 1], |line| got.push(line.len()));
        lines.finish(|line| got.push(line.len()));
        assert_eq!(got, [LONGEST_LINE, LONGEST_LINE, LONGEST_LINE, 1]);
    }

    #[test]
    fn tail_keeps_the_last_lines() {
        let mut tail = Tail::default();
        (0..100).for_each(|n| tail.push(&n.to_string()));
        assert_eq!(tail.text().lines().next(), Some("80"));
        tail.push(&"x".repeat(2 * TAIL_BYTES));
        assert_eq!(tail.text().len(), 2 * TAIL_BYTES + 1);
        tail.push("last");
        assert_eq!(tail.text(), "last\n");
    }
}

//! What becomes of a child's standard error.

use std::fmt;
use std::sync::Arc;

/// A longer line is cut into several.
const LONGEST_LINE: usize = 8 << 10;
/// How many lines are kept for errors, and how many bytes of them.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: usize = 8 << 10;

/// Called with the child's process id and a line without its end.
pub(crate) type StderrCallback = Arc<dyn Fn(u32, &str) + Send + Sync>;

/// What becomes of a child's standard error.
///
/// Where it is captured, [`Error::stderr`](crate::Error::stderr) has the last 20 lines, at most
/// 8 KiB.
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
    /// It goes where the parent's goes. The default. Errors know nothing of it.
    #[must_use]
    pub fn inherit() -> Self {
        Stdio(StdioKind::Inherit)
    }

    /// It goes nowhere.
    #[must_use]
    pub fn null() -> Self {
        Stdio(StdioKind::Null)
    }

    /// It is captured: shown nowhere, the last lines kept for errors.
    #[must_use]
    pub fn capture() -> Self {
        Stdio(StdioKind::Capture(None))
    }

    /// It is captured, and each line given to `callback` with the child's process id; the last
    /// lines are kept for errors. What is not UTF-8 is replaced, and a line above 8 KiB cut into
    /// several. Called on the reactor's thread.
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

/// Cuts bytes into lines, however they come.
#[derive(Default)]
pub(crate) struct Lines {
    /// The start of a line whose end has not come.
    begun: Vec<u8>,
}

impl Lines {
    /// Gives every line that `bytes` end to `line`.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&str)) {
        while !bytes.is_empty() {
            let room = LONGEST_LINE - self.begun.len();
            let end = memchr::memchr(b'\n', &bytes[..room.min(bytes.len())]);
            let taken = end.unwrap_or(room.min(bytes.len()));
            self.begun.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken + usize::from(end.is_some())..];
            if end.is_some() || self.begun.len() == LONGEST_LINE {
                self.finish_line(&mut line);
            }
        }
    }

    /// Gives what came after the last end of a line to `line`.
    pub(crate) fn finish(&mut self, mut line: impl FnMut(&str)) {
        if !self.begun.is_empty() {
            self.finish_line(&mut line);
        }
    }

    fn finish_line(&mut self, line: &mut impl FnMut(&str)) {
        line(&String::from_utf8_lossy(&self.begun));
        self.begun.clear();
    }
}

/// The last lines.
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

    /// The lines, each with its end.
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
    fn endless_line_is_cut() {
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

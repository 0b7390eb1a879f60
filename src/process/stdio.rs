//! Where a child's standard output and error go.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// A longer line is split.
const LONGEST_LINE: usize = 8 << 10;
/// How many of the first and of the last lines are kept for errors, and how many bytes of each.
const KEPT_LINES: usize = 10;
const KEPT_BYTES: usize = 4 << 10;
/// The first lines start over if a panic begins with no more than this many left.
const PANIC_LINES: usize = 3;

/// Called with a child's process id and a piece of its output.
type PieceCallback<T> = Arc<dyn Fn(u32, &T) + Send + Sync>;

/// What captured output is passed to, with the child's process id.
#[derive(Clone)]
pub(crate) enum OutputCallback {
    /// Lines, without their line breaks.
    Lines(PieceCallback<str>),
    /// Whatever a read returns.
    Chunks(PieceCallback<[u8]>),
}

/// Where a child's [standard output](crate::Process::stdout) or
/// [standard error](crate::Process::stderr) goes.
///
/// If standard error is captured, [`Error::stderr`](crate::Error::stderr) has the first 10 and the last
/// 10 lines, at most 4 KiB of each. By default it is inherited, and errors do not contain it: it would
/// have to be a pipe, and programs that check for a terminal would write something else, or later.
///
/// # Examples
///
/// ```
/// use offspring::{Plain, Process, Stdio};
/// use std::sync::mpsc;
///
/// let (send, lines) = mpsc::channel();
/// let rpc = Process::command("sh").plain(Plain::Tagged)
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
    Capture(Option<OutputCallback>),
}

impl Stdio {
    /// The child inherits the parent's. The default. Errors do not contain it.
    #[must_use]
    pub fn inherit() -> Self {
        Stdio(StdioKind::Inherit)
    }

    /// Discards it.
    #[must_use]
    pub fn null() -> Self {
        Stdio(StdioKind::Null)
    }

    /// Captures it: it is shown nowhere, but standard error's first and last lines are kept for
    /// errors. The first are those from the last panic on, so that its message is not lost under a
    /// backtrace.
    #[must_use]
    pub fn capture() -> Self {
        Stdio(StdioKind::Capture(None))
    }

    /// Captures it, and calls `callback` with the child's process id and each line; standard error's
    /// first and last lines are also kept for errors. A line ends with `\n`, `\r\n`, or `\r`, as the
    /// states of a progress bar do. Invalid UTF-8 is replaced, and a line above 8 KiB is split.
    ///
    /// The callback runs on the reactor's thread. What a [command](crate::Process::command) that reaches
    /// another machine says itself is passed to it on a thread of its own, perhaps at the same time.
    #[must_use]
    pub fn lines(callback: impl Fn(u32, &str) + Send + Sync + 'static) -> Self {
        Stdio(StdioKind::Capture(Some(OutputCallback::Lines(Arc::new(
            callback,
        )))))
    }

    /// Captures it, and calls `callback` with the child's process id and whatever has been written,
    /// immediately and as it is: a piece may end anywhere. Otherwise as [`lines`](Stdio::lines).
    ///
    /// # Examples
    ///
    /// A progress bar goes on where it belongs, other output elsewhere:
    ///
    /// ```
    /// use offspring::{Stdio, Worker};
    /// use std::io::Write;
    /// use std::sync::{Arc, Mutex};
    ///
    /// fn main() -> Result<(), offspring::BoxError> {
    ///     let me = Worker::new()
    ///         .function("download", |_request, _caller| {
    ///             (0..=100).step_by(50).for_each(|n| eprint!("\r{n:3} %"));
    ///             println!("downloaded");
    ///             Ok(())
    ///         })
    ///         .run();
    ///
    ///     let (bar, log) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    ///     let (to_bar, to_log) = (Arc::clone(&bar), Arc::clone(&log));
    ///     let rpc = me
    ///         .stderr(Stdio::chunks(move |_pid, bytes| to_bar.lock().unwrap().extend(bytes)))
    ///         .stdout(Stdio::lines(move |_pid, line| to_log.lock().unwrap().push(line.to_owned())))
    ///         .rpc("download")
    ///         .start()?;
    ///     rpc.call(()).wait()?;
    ///     rpc.finish()?;
    ///     std::io::stderr().write_all(&bar.lock().unwrap())?;
    ///     assert_eq!(*bar.lock().unwrap(), b"\r  0 %\r 50 %\r100 %");
    ///     assert_eq!(*log.lock().unwrap(), ["downloaded"]);
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn chunks(callback: impl Fn(u32, &[u8]) + Send + Sync + 'static) -> Self {
        Stdio(StdioKind::Capture(Some(OutputCallback::Chunks(Arc::new(
            callback,
        )))))
    }

    pub(super) fn is_inherit(&self) -> bool {
        matches!(self.0, StdioKind::Inherit)
    }

    pub(super) fn is_capture(&self) -> bool {
        matches!(self.0, StdioKind::Capture(_))
    }

    pub(super) fn callback(&self) -> Option<OutputCallback> {
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
            StdioKind::Capture(Some(OutputCallback::Lines(_))) => "Stdio::lines(..)",
            StdioKind::Capture(Some(OutputCallback::Chunks(_))) => "Stdio::chunks(..)",
        })
    }
}

/// Splits bytes into lines, in whatever pieces they arrive. A line ends with `\n`, `\r\n`, or `\r`, as a
/// progress bar's does; nothing between two `\r` is not a line.
#[derive(Default)]
pub(crate) struct Lines {
    /// The beginning of an incomplete line.
    partial: Vec<u8>,
    /// Whether the last line ended with `\r`, so that `\n` is a part of that.
    after_return: bool,
}

impl Lines {
    /// Calls `line` with every line that `bytes` complete.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&str)) {
        while !bytes.is_empty() {
            let room = LONGEST_LINE - self.partial.len();
            let end = memchr::memchr2(b'\n', b'\r', &bytes[..room.min(bytes.len())]);
            let taken = end.unwrap_or(room.min(bytes.len()));
            self.partial.extend_from_slice(&bytes[..taken]);
            if taken > 0 {
                self.after_return = false;
            }
            let is_line = match end.map(|end| bytes[end]) {
                Some(b'\n') => !std::mem::take(&mut self.after_return),
                Some(_) => {
                    self.after_return |= !self.partial.is_empty();
                    !self.partial.is_empty()
                }
                None => self.partial.len() == LONGEST_LINE,
            };
            bytes = &bytes[taken + usize::from(end.is_some())..];
            if is_line {
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

/// The first and last lines of a child's standard error. The first are those since the last panic, if
/// there was one: its message comes first, and a backtrace of any length after it.
#[derive(Default)]
pub(crate) struct Tail {
    /// How many lines came before the first.
    before: usize,
    first: Kept,
    /// How many lines came between the first and the last.
    between: usize,
    /// Empty as long as there is room among the first.
    last: Kept,
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    pub(crate) fn push(&mut self, line: &str) {
        if self.first.lines.len() + PANIC_LINES > KEPT_LINES && is_panic(line) {
            let kept = self.first.lines.len() + self.last.lines.len();
            *self = Tail {
                before: self.before + kept + self.between,
                ..Tail::default()
            };
        }
        if self.last.lines.is_empty() && self.first.has_room(line) {
            return self.first.push(line);
        }
        while !self.last.has_room(line) {
            self.last.drop_first();
            self.between += 1;
        }
        self.last.push(line);
    }

    /// The lines, each with a line break. Control characters are escaped.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (left_out, kept) in [(self.before, &self.first), (self.between, &self.last)] {
            if left_out > 0 {
                text += &format!("[{left_out} lines left out]\n");
            }
            for line in &kept.lines {
                text += &escape(line);
                text += "\n";
            }
        }
        text
    }
}

/// What a child or another machine says must not command the terminal on which it is shown.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' | '\n' => escaped.push(c),
            c if c.is_control() => escaped.extend(c.escape_default()),
            c => escaped.push(c),
        }
    }
    escaped
}

impl Kept {
    /// Whether a line can be added. One always can.
    fn has_room(&self, line: &str) -> bool {
        let (lines, bytes) = (self.lines.len(), self.bytes);
        lines == 0 || (lines < KEPT_LINES && bytes + line.len() <= KEPT_BYTES)
    }

    fn push(&mut self, line: &str) {
        self.lines.push_back(line.to_owned());
        self.bytes += line.len();
    }

    fn drop_first(&mut self) {
        let gone = self.lines.pop_front();
        self.bytes -= gone.map_or(0, |line| line.len());
    }
}

/// Whether a line is what Rust's panic hook begins with.
fn is_panic(line: &str) -> bool {
    line.starts_with("thread '") && line.contains(" panicked at ")
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
    fn control_characters_are_shown_and_not_obeyed() {
        let mut tail = Tail::default();
        tail.push("a\tb\u{e9}");
        tail.push("\u{1b}[2J\u{9b}\0");
        assert_eq!(tail.text(), "a\tb\u{e9}\n\\u{1b}[2J\\u{9b}\\u{0}\n");
    }

    #[test]
    fn endless_line_is_split() {
        let (mut lines, mut got) = (Lines::default(), Vec::new());
        lines.push(&[b'x'; 3 * LONGEST_LINE + 1], |line| got.push(line.len()));
        lines.finish(|line| got.push(line.len()));
        assert_eq!(got, [LONGEST_LINE, LONGEST_LINE, LONGEST_LINE, 1]);
    }

    fn lines(pieces: &[&str]) -> Vec<String> {
        let (mut lines, mut got) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.push(piece.as_bytes(), |line| got.push(line.to_owned()));
        }
        lines.finish(|line| got.push(line.to_owned()));
        got
    }

    #[test]
    fn carriage_returns_end_lines() {
        let text = "\r 1 %\r 2 %\rdone\r\n\r\nnext\n\nodd\r\r\nend\r";
        let want = [" 1 %", " 2 %", "done", "", "next", "", "odd", "end"];
        assert_eq!(lines(&[text]), want);
        for at in 1..text.len() {
            let (one, two) = text.split_at(at);
            assert_eq!(lines(&[one, two]), want, "split at {at}");
        }
        assert_eq!(lines(&["a\r", "", "\n", "\n"]), ["a", ""]);
    }

    fn tail(lines: impl IntoIterator<Item = String>) -> Vec<String> {
        let mut tail = Tail::default();
        lines.into_iter().for_each(|line| tail.push(&line));
        tail.text().lines().map(str::to_owned).collect()
    }

    #[test]
    fn tail_keeps_the_first_and_last_lines() {
        let numbers = |n: usize| (0..n).map(|n| n.to_string());
        assert_eq!(tail(numbers(20)), numbers(20).collect::<Vec<_>>());
        let kept = tail(numbers(100));
        let (first, last) = (numbers(10), numbers(100).skip(90));
        let between = ["[80 lines left out]".to_owned()];
        assert_eq!(kept, first.chain(between).chain(last).collect::<Vec<_>>());
    }

    #[test]
    fn tail_is_bounded_in_bytes() {
        let long = || "x".repeat(KEPT_BYTES);
        let kept = tail([long() + "y", "a".to_owned(), long(), "last".to_owned()]);
        assert_eq!(kept, [&*(long() + "y"), "[2 lines left out]", "last"]);
    }

    #[test]
    fn tail_keeps_the_message_of_a_panic_under_its_backtrace() {
        let log = (0..30).map(|n| format!("log {n}"));
        let panic = ["thread 'main' (1) panicked at src/x.rs:1:1:", "no!"].map(str::to_owned);
        let trace = (0..50).map(|n| format!("  {n}: frame"));
        let kept = tail(log.chain(panic).chain(trace));
        let want = [
            "[30 lines left out]",
            "thread 'main' (1) panicked at src/x.rs:1:1:",
            "no!",
        ];
        assert_eq!(kept[..3], want);
        assert_eq!(kept.last(), Some(&"  49: frame".to_owned()));
        assert_eq!(kept.len(), 1 + 10 + 1 + 10);
    }
}

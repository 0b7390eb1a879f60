//! Messages on standard error.

use std::fmt;
use std::io::{self, Write};

/// Writes a line. If nobody can read it any more, it is lost, where the macros of the standard library
/// would panic.
pub(crate) fn print(line: fmt::Arguments<'_>) {
    // In one piece, as other processes may write to the same file.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

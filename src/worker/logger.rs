//! A child's logger, which sends records to the parent.

use super::hub::Hub;
use crate::wire::{LogRecord, ToParent};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::panic;

/// Longer names and messages are truncated: a record must fit into a control frame,
/// however low `max_frame` is.
const LONGEST_NAME: usize = 4 << 10;
const LONGEST_MESSAGE: usize = 32 << 10;

struct Logger {
    hub: &'static Hub,
}

/// Sends this process's log records to the parent from now on, and a record of each panic before
/// anything else is done about it.
///
/// # Errors
///
/// If the process has a logger already.
pub(super) fn install(hub: &'static Hub, level: LevelFilter) -> Result<(), log::SetLoggerError> {
    let logger = Logger { hub };
    log::set_boxed_logger(Box::new(logger))?;
    log::set_max_level(level);
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        log::error!(target: "panic", "{info}");
        // The process may be about to abort.
        log::logger().flush();
        previous(info);
    }));
    Ok(())
}

impl Log for Logger {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let message = record.args().to_string();
        self.hub.control(&ToParent::Log(LogRecord {
            level: record.level() as u32,
            target: truncate(record.target(), LONGEST_NAME),
            module: truncate(record.module_path().unwrap_or_default(), LONGEST_NAME),
            file: truncate(record.file().unwrap_or_default(), LONGEST_NAME),
            line: record.line().unwrap_or(0),
            message: truncate(&message, LONGEST_MESSAGE),
        }));
        if record.level() == Level::Error {
            // It may be the last thing that this process does.
            self.hub.flush();
        }
    }

    fn flush(&self) {
        self.hub.flush();
    }
}

/// Truncates a text to at most `len` bytes.
fn truncate(text: &str, len: usize) -> &str {
    let fits = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=len.min(text.len())).rev().find(fits);
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::truncate;

    #[test]
    fn truncation_keeps_characters_whole() {
        assert_eq!(truncate("abc", 3), "abc");
        assert_eq!(truncate("abc", 2), "ab");
        assert_eq!(truncate("a\u{e9}b", 2), "a");
        assert_eq!(truncate("\u{e9}", 1), "");
    }
}

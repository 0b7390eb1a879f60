//! A child's logger, which sends records to the parent.

use super::hub::Hub;
use crate::wire::{LogRecord, ToParent};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::panic;

/// Longer names and messages are cut: a record must fit into what a control frame may always have.
const LONGEST_NAME: usize = 4 << 10;
const LONGEST_MESSAGE: usize = 32 << 10;

struct Logger {
    hub: &'static Hub,
}

/// Sends this process's log records to the parent from now on, and tells of panics before anything
/// else is done about them.
///
/// # Errors
///
/// If the process has a logger.
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
            target: cut(record.target(), LONGEST_NAME),
            module: cut(record.module_path().unwrap_or_default(), LONGEST_NAME),
            file: cut(record.file().unwrap_or_default(), LONGEST_NAME),
            line: record.line().unwrap_or(0),
            message: cut(&message, LONGEST_MESSAGE),
        }));
        if record.level() == Level::Error {
            // It may be the last word.
            self.hub.flush();
        }
    }

    fn flush(&self) {
        self.hub.flush();
    }
}

/// At most so many bytes of a text.
fn cut(text: &str, room: usize) -> &str {
    let fits = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=room.min(text.len())).rev().find(fits);
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn cut_keeps_characters_whole() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abc", 2), "ab");
        assert_eq!(cut("a\u{e9}b", 2), "a");
        assert_eq!(cut("\u{e9}", 1), "");
    }
}

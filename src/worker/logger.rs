//! A child's logger, which sends records to the parent.

use super::hub::Hub;
use crate::wire::{LONGEST_TEXT, LogRecord, ToParent, truncate};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::panic;

/// Longer names are truncated, as are messages: a record must fit into a control frame.
const LONGEST_NAME: usize = 4 << 10;

struct Logger;

/// Sends this process's log records to the parent from now on, and a record of each panic before
/// anything else is done about it.
///
/// # Errors
///
/// If the process has a logger already.
pub(super) fn install(level: LevelFilter) -> Result<(), log::SetLoggerError> {
    log::set_logger(&Logger)?;
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
        let Some(hub) = Hub::of_process() else {
            return;
        };
        let message = record.args().to_string();
        hub.control(&ToParent::Log(LogRecord {
            level: record.level() as u32,
            target: truncate(record.target(), LONGEST_NAME),
            module: truncate(record.module_path().unwrap_or_default(), LONGEST_NAME),
            file: truncate(record.file().unwrap_or_default(), LONGEST_NAME),
            line: record.line().unwrap_or(0),
            message: truncate(&message, LONGEST_TEXT),
        }));
        if record.level() == Level::Error {
            // It may be the last thing that this process does.
            hub.flush();
        }
    }

    fn flush(&self) {
        if let Some(hub) = Hub::of_process() {
            hub.flush();
        }
    }
}

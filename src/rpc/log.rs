//! What goes to the program's log, or to standard error if it has none.

use std::fmt::Display;

/// Reports an error that the program handles in no other way.
#[cfg(feature = "log")]
pub(crate) fn error(error: impl Display) {
    log::error!(target: "offspring", "{error}");
}

/// Reports an error that the program handles in no other way.
#[cfg(not(feature = "log"))]
pub(crate) fn error(error: impl Display) {
    crate::stderr::print(format_args!("offspring: {error}"));
}

/// Passes a child's log record to this program's logger, as if it had been made here.
#[cfg(feature = "log")]
pub(super) fn emit(payload: &[u8], pid: u32) {
    use crate::wire::ToParent;

    let Ok(ToParent::Log(record)) = ToParent::decode(payload) else {
        unreachable!("the connection has read it before");
    };
    let level = log::Level::iter().nth(record.level.saturating_sub(1) as usize);
    let level = level.unwrap_or(log::Level::Trace);
    let metadata = log::Metadata::builder();
    let metadata = { metadata }.level(level).target(record.target).build();
    if level > log::max_level() || !log::logger().enabled(&metadata) {
        return;
    }
    let known = |text: &str| !text.is_empty();
    super::callback::guard(|| {
        log::logger().log(
            &log::Record::builder()
                .metadata(metadata)
                .module_path(Some(record.module).filter(|text| known(text)))
                .file(Some(record.file).filter(|text| known(text)))
                .line((record.line > 0).then_some(record.line))
                .args(format_args!("[pid {pid}] {}", record.message))
                .build(),
        );
    });
}

/// Drops a child's log record: the child has a feature that this program lacks.
#[cfg(not(feature = "log"))]
pub(super) fn emit(_payload: &[u8], _pid: u32) {}

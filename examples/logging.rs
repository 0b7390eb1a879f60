//! A child's log records and panics go to the parent's logger: the fourth example of
//! `AnyEvent::Fork::RPC`.
//!
//! ```text
//! cargo run --features log --example logging
//! ```

use log::{LevelFilter, Log, Metadata, Record, info, warn};
use offspring::{BoxError, Worker};

/// The parent's logger.
struct Print;

impl Log for Print {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = record.line().unwrap_or(0);
        println!(
            "{} {}:{line}: {}",
            record.level(),
            record.target(),
            record.args()
        );
    }

    fn flush(&self) {}
}

fn main() -> Result<(), BoxError> {
    let me = Worker::new()
        .setup("open", |name| {
            info!("opening {name}");
            Ok(())
        })
        .function("divide", |request, _caller| {
            let [a, b] = request.texts()?;
            let (a, b): (i64, i64) = (a.parse()?, b.parse()?);
            let quotient = a / b;
            if quotient * b != a {
                warn!("{a} / {b} has a remainder");
            }
            Ok(quotient.to_string())
        })
        .log(LevelFilter::Info)
        .run(); // the child sets its logger here

    log::set_boxed_logger(Box::new(Print)).map(|()| log::set_max_level(LevelFilter::Trace))?;
    let rpc = me.setup("open", "the numbers").rpc("divide").start()?;
    println!("7 / 2 = {}", rpc.call(["7", "2"]).wait()?);
    let error = rpc.call(["7", "0"]).wait().unwrap_err();
    println!("7 / 0: {error}");
    rpc.finish()?;
    Ok(())
}

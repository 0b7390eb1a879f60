//! A host and its plugin, another program, which asks its host for settings and pages, and logs by it.
//!
//! ```text
//! cargo build --examples --features json   # the plugin, too: examples/workers/markdown.rs
//! cargo run --example plugin --features json
//! ```

#[path = "workers/api.rs"]
mod api;

use api::{LOG, PAGE, RENDER, SETTING};
use offspring::{BoxError, Process};
use std::collections::HashMap;

fn main() -> Result<(), BoxError> {
    let plugin = std::env::current_exe()?.with_file_name("markdown");
    if !plugin.exists() {
        return Err("build the plugin first: cargo build --examples --features json".into());
    }
    let plugin = Process::exe(plugin);

    let settings = HashMap::from([("width".to_owned(), 32)]);
    let pages = HashMap::from([
        (
            "index",
            "# A rose\nA rose is a rose is a rose, as everybody knows by now.\n@by",
        ),
        ("by", "Gertrude Stein"),
        ("broken", "@missing"),
    ]);
    let rpc = plugin
        .rpc(RENDER)
        .on_ask(SETTING, move |name| {
            Ok(*settings.get(&name).ok_or("no such setting")?)
        })
        .on_ask(PAGE, move |name| match pages.get(&*name) {
            Some(page) => Ok((*page).to_owned()),
            None => Err(format!("there is no page `{name}`").into()),
        })
        .on_ask(LOG, |(level, text)| {
            println!("log {level}: {text}");
            Ok(())
        })
        .start()?;
    println!("{}", rpc.call("index").wait()?);
    // An error of the host's goes through the plugin, and comes back.
    println!("{}", rpc.call("broken").wait().unwrap_err());
    rpc.finish()?;

    // A plugin that was built for another version of the agreement, or speaks another codec, does not start.
    for error in [
        plugin
            .rpc(RENDER.version(2))
            .on_error(drop)
            .start()?
            .wait_ready(),
        plugin.rpc("render").on_error(drop).start()?.wait_ready(),
    ] {
        let error = error.unwrap_err();
        println!("{:?}: {error}", error.kind());
    }
    Ok(())
}

//! A plugin for `plugin.rs`: renders pages as text.

#[path = "api.rs"]
mod api;

use api::{LOG, PAGE, RENDER, SETTING};
use offspring::{BoxError, Caller, Service, Worker};

type Render = Service<offspring::Json, String, String>;

/// Headings in capitals, `@name` lines replaced by that page, all of it as wide as the host wants it.
fn render(page: String, caller: &Caller<Render>) -> Result<String, BoxError> {
    caller.tell(LOG, (3, format!("rendering {page}")));
    let width = caller.ask(SETTING, "width")? as usize;
    let mut lines = Vec::new();
    for line in caller.ask(PAGE, page)?.lines() {
        if let Some(heading) = line.strip_prefix("# ") {
            lines.push(format!("{:^width$}", heading.to_uppercase()));
        } else if let Some(name) = line.strip_prefix('@') {
            lines.push(render(name.to_owned(), caller)?);
        } else {
            wrap(line, width, &mut lines);
        }
    }
    Ok(lines.join("\n"))
}

fn wrap(line: &str, width: usize, lines: &mut Vec<String>) {
    let mut current = String::new();
    for word in line.split_whitespace() {
        if !current.is_empty() && current.len() + word.len() >= width {
            lines.push(std::mem::take(&mut current));
        }
        if !current.is_empty() {
            current.push(' ');
        }
        current.push_str(word);
    }
    lines.push(current);
}

fn main() {
    Worker::new().function(RENDER, render).serve()
}

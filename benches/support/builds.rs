//! The library's build time, and what it adds to the size of a program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const EMPTY: &str = "fn main() {}\n";

const CALLS_ITSELF: &str = r#"
fn main() -> Result<(), offspring::BoxError> {
    let me = offspring::Worker::new()
        .function("echo", |request, _caller| Ok(request))
        .run();
    let rpc = me.rpc("echo").start()?;
    println!("{}", rpc.call("hello").wait()?);
    rpc.finish()?;
    Ok(())
}
"#;

/// The package that this bench belongs to.
const LIBRARY: &str = env!("CARGO_MANIFEST_DIR");

/// The sizes in KiB of a program that calls itself, and of one that does nothing, both stripped and
/// optimised for size.
///
/// # Errors
///
/// If they cannot be built.
pub(crate) fn sizes() -> Result<[f64; 2], String> {
    let dir = TempDir::new("sizes")?;
    let calls = format!("offspring = {{ path = {LIBRARY:?} }}");
    let size = |name, main, dependency| {
        let root = dir.0.join(name);
        let manifest = format!(
            "[package]\nname = \"{name}\"\nedition = \"2024\"\n[workspace]\n\
             [dependencies]\n{dependency}\n[profile.release]\n\
             opt-level = \"z\"\nlto = true\ncodegen-units = 1\nstrip = true\n"
        );
        write(&root.join("Cargo.toml"), &manifest)?;
        write(&root.join("src/main.rs"), main)?;
        build(&root, &dir.0.join("target"))?;
        let program = fs::metadata(dir.0.join("target/release").join(name));
        let program = program.map_err(|error| format!("{name}: {error}"))?;
        Ok::<f64, String>(program.len() as f64 / 1024.0)
    };
    Ok([
        size("calls-itself", CALLS_ITSELF, &calls[..])?,
        size("empty", EMPTY, "")?,
    ])
}

/// The seconds that a clean release build of the library and its dependencies takes.
///
/// # Errors
///
/// If it fails.
pub(crate) fn seconds() -> Result<f64, String> {
    let dir = TempDir::new("build")?;
    let start = Instant::now();
    build(Path::new(LIBRARY), &dir.0)?;
    Ok(start.elapsed().as_secs_f64())
}

fn build(root: &Path, target: &Path) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--quiet"])
        .current_dir(root)
        .env("CARGO_TARGET_DIR", target)
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    path.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(path, text))
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// A temporary directory, removed with its contents.
struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Result<Self, String> {
        let name = format!("offspring-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(TempDir(path))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What cannot be removed stays.
        let _ = fs::remove_dir_all(&self.0);
    }
}

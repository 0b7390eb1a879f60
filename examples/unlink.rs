//! Removes files and directories in a child process: the first example of `AnyEvent::Fork::RPC`, and
//! example 1a, the same with a function that could answer later.
//!
//! ```text
//! cargo run --example unlink                          # makes a small tree, and removes most of it
//! cargo run --example unlink -- PATH...               # removes these paths
//! cargo run --example unlink -- --deferred [PATH...]  # either, with a deferred function
//! ```
//!
//! Exits with status 1 if anything could not be removed.

use offspring::{BoxError, Caller, Strings, Worker};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, fs};

/// Runs in the child, and reports every third request.
fn remove(request: Strings, caller: &Caller, count: &mut u32) -> Result<(), BoxError> {
    *count += 1;
    if count.is_multiple_of(3) {
        caller.event(count.to_string());
    }
    let [verb, path] = request.array()?;
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    match verb {
        b"rmdir" => Ok(fs::remove_dir(path)?),
        b"unlink" => Ok(fs::remove_file(path)?),
        other => Err(format!("illegal command `{}`", other.escape_ascii()).into()),
    }
}

fn main() -> Result<ExitCode, BoxError> {
    let mut count = 0; // of which each function has its own
    let me = Worker::new()
        .function("remove", move |request, caller: &Caller| {
            remove(request, caller, &mut count)
        })
        .deferred("remove, deferred", move |request, caller: Caller, _| {
            let result = remove(request, &caller, &mut count);
            caller.answer(result); // could be later, from anywhere
        })
        .run(); // the child serves here, and never returns

    let mut function = "remove";
    let mut args = env::args_os().skip(1).peekable();
    if args.next_if(|arg| arg == "--deferred").is_some() {
        function = "remove, deferred";
    }
    let mut paths: Vec<PathBuf> = args.map(PathBuf::from).collect();
    let tree = paths.is_empty().then(Tree::make).transpose()?;
    if let Some(tree) = &tree {
        println!("removing a small tree, but for what is missing and what is not empty:");
        paths = tree.paths();
    }

    let failed = Arc::new(AtomicBool::new(false));
    let rpc = me
        .rpc(function)
        .on_event(|count| eprintln!("{count} requests handled"))
        .start()?;
    for path in paths {
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|what| what.is_dir());
        let verb = if is_dir { "rmdir" } else { "unlink" };
        let failed = Arc::clone(&failed);
        rpc.call((verb, path.as_os_str().as_bytes()))
            .then(move |reply| match reply {
                Ok(_) => println!("{}: removed", path.display()),
                Err(error) => {
                    println!("{}: {error}", path.display());
                    failed.store(true, Ordering::Relaxed);
                }
            });
    }
    rpc.finish()?; // all answered, the child has exited
    let failed = tree.is_none() && failed.load(Ordering::Relaxed); // two of the tree are to fail
    Ok(ExitCode::from(u8::from(failed)))
}

/// Something to remove: files, directories, a missing path, and a directory that is not empty.
struct Tree(PathBuf);

impl Tree {
    fn make() -> Result<Self, BoxError> {
        let root = env::temp_dir().join(format!("offspring-unlink-{}", std::process::id()));
        for dir in ["empty", "full"] {
            fs::create_dir_all(root.join(dir))?;
        }
        for file in ["one", "two", "full/kept"] {
            fs::write(root.join(file), "to be removed\n")?;
        }
        Ok(Tree(root))
    }

    fn paths(&self) -> Vec<PathBuf> {
        ["one", "two", "missing", "empty", "full"]
            .map(|name| self.0.join(name))
            .to_vec()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Removes the rest in the parent.
        let _ = fs::remove_dir_all(&self.0);
    }
}

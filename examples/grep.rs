//! Searches the files of a directory in a pool of children, and says at the end how long that takes there, and how
//! long on threads.
//!
//! ```text
//! cargo run --release --example grep PATTERN DIR
//! ```
//!
//! Symbolic links are not followed, and binary files are left out. Exits with status 1 if nothing matches or
//! something goes wrong, and with 2 if it is used wrongly.

use memchr::memmem::Finder;
use memchr::{memchr, memchr_iter, memrchr};
use offspring::{BoxError, Process, Strings, Worker};
use std::cell::OnceCell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write, stderr, stdout};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};
use std::{env, thread};

/// How many files a call is for.
const BATCH: usize = 64;

/// A binary file has a zero in this many bytes at its start.
const HEAD: u64 = 8 << 10;

/// What was found in some files.
#[derive(Default)]
struct Found {
    /// Lines that match, as they are shown.
    lines: Vec<u8>,
    /// Files that cannot be read, and why.
    errors: Vec<u8>,
    files: u64,
    bytes: u64,
    matches: u64,
}

fn main() -> Result<ExitCode, BoxError> {
    let pattern: &OnceCell<Vec<u8>> = Box::leak(Box::default());
    let me = Worker::new()
        .setup("pattern", |request| {
            let [bytes] = request.array()?;
            let set = pattern.set(bytes.to_vec());
            set.map_err(|_| "there is one".into())
        })
        .function("search", |paths, _caller| {
            let found = search(pattern.get().ok_or("there is no pattern")?, &paths);
            let numbers = [found.files, found.bytes, found.matches].map(|n| n.to_string());
            let [files, bytes, matches] = numbers;
            Ok((found.lines, found.errors, files, bytes, matches))
        })
        .run();

    let args: Vec<_> = env::args_os().skip(1).collect();
    let [pattern, dir] = &args[..] else {
        eprintln!("usage: grep PATTERN DIR");
        return Ok(ExitCode::from(2));
    };
    let pattern = pattern.as_bytes();
    let me = me.setup("pattern", [pattern]);
    let mut paths = Vec::new();
    walk(Path::new(dir), &mut paths);
    let batches = paths.chunks(BATCH).map(|paths| {
        let paths = paths.iter().map(|path| path.as_os_str().as_bytes());
        paths.collect()
    });
    let batches: Vec<Strings> = batches.collect();

    let (mut files, mut bytes, mut matches) = (0, 0, 0);
    in_children(&me, &batches, |found| {
        files += found.files;
        bytes += found.bytes;
        matches += found.matches;
        stderr().write_all(&found.errors)?;
        stdout().write_all(&found.lines)
    })?;
    // Now the files are in memory. The shortest times are those that other programs have disturbed least.
    let (mut processes, mut threads) = (f64::MAX, f64::MAX);
    for _ in 0..3 {
        processes = processes.min(millis(|| in_children(&me, &batches, |_| Ok(())))?);
        threads = threads.min(millis(|| on_threads(pattern, &batches, |_| Ok(())))?);
    }
    println!(
        "{files} files, {} MiB, {matches} matches: processes {processes:.1} ms, threads {threads:.1} ms (x{:.2})",
        bytes >> 20,
        processes / threads
    );
    Ok(ExitCode::from(u8::from(matches == 0)))
}

/// Searches in children.
fn in_children(
    me: &Process,
    batches: &[Strings],
    mut then: impl FnMut(Found) -> io::Result<()>,
) -> Result<(), BoxError> {
    let pool = me
        .pool("search")
        .max(offspring::cores().get())
        .grow_after(Duration::ZERO)
        .start()?;
    for (_, reply) in pool.map_unordered(batches) {
        let reply = reply?;
        let [lines, errors, files, bytes, matches] = reply.array()?;
        let number = |text| -> Result<u64, BoxError> { Ok(str::from_utf8(text)?.parse()?) };
        then(Found {
            lines: lines.to_vec(),
            errors: errors.to_vec(),
            files: number(files)?,
            bytes: number(bytes)?,
            matches: number(matches)?,
        })?;
    }
    Ok(pool.finish()?)
}

/// The same on threads.
fn on_threads(
    pattern: &[u8],
    batches: &[Strings],
    mut then: impl FnMut(Found) -> io::Result<()>,
) -> Result<(), BoxError> {
    let left = Mutex::new(batches.iter());
    let next = || left.lock().unwrap().next();
    thread::scope(|scope| {
        let (sender, all) = mpsc::channel();
        for _ in 0..offspring::cores().get() {
            let sender = sender.clone();
            scope.spawn(move || {
                while let Some(batch) = next() {
                    // If nobody takes it, something has gone wrong there.
                    let _ = sender.send(search(pattern, batch));
                }
            });
        }
        drop(sender);
        all.into_iter().try_for_each(|found| Ok(then(found)?))
    })
}

/// How long it takes.
fn millis(run: impl FnOnce() -> Result<(), BoxError>) -> Result<f64, BoxError> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}

/// Finds all files below a directory.
fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    let mut list = || {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                walk(&entry.path(), files);
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
        io::Result::Ok(())
    };
    if let Err(error) = list() {
        eprintln!("{}: {error}", dir.display());
    }
}

/// Searches these files.
fn search(pattern: &[u8], paths: &Strings) -> Found {
    let finder = Finder::new(pattern);
    let (mut found, mut text) = (Found::default(), Vec::new());
    for path in paths {
        match read(path, &mut text) {
            Ok(true) => found.search(path, &text, &finder),
            Ok(false) => {}
            Err(error) => {
                let why = format!(": {error}\n");
                found.errors.extend([path, why.as_bytes()].concat());
            }
        }
    }
    found
}

/// Reads a file, unless it is binary.
fn read(path: &[u8], text: &mut Vec<u8>) -> io::Result<bool> {
    let file = File::open(OsStr::from_bytes(path))?;
    text.clear();
    (&file).take(HEAD).read_to_end(text)?;
    if memchr(0, text).is_some() {
        return Ok(false);
    }
    (&file).read_to_end(text)?;
    Ok(true)
}

impl Found {
    /// Searches the text of a file.
    fn search(&mut self, path: &[u8], text: &[u8], finder: &Finder<'_>) {
        self.files += 1;
        self.bytes += text.len() as u64;
        // The line that is searched next, and where it begins.
        let (mut number, mut begin) = (1, 0);
        while begin < text.len()
            && let Some(at) = finder.find(&text[begin..])
        {
            let at = begin + at;
            let start = memrchr(b'\n', &text[begin..at]).map_or(begin, |n| begin + n + 1);
            let end = memchr(b'\n', &text[at..]).map_or(text.len(), |n| at + n);
            number += memchr_iter(b'\n', &text[begin..start]).count();
            self.matches += 1;
            self.lines.extend_from_slice(path);
            self.lines.extend(format!(":{number}: ").as_bytes());
            self.lines.extend_from_slice(&text[start..end]);
            self.lines.push(b'\n');
            (number, begin) = (number + 1, end + 1);
        }
    }
}

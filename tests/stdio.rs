//! Where a child's standard output and error go.

mod common;

use common::{Log, bounded, descriptors, eventually, script};
use offspring::{BoxError, Process, Stdio, Worker};
use std::io::Write;
use std::sync::{Arc, Mutex};

/// A worker that prints its request on standard output, and `error` on standard error.
fn printer() -> Worker {
    Worker::new()
        .function("print", |text, _| {
            print!("{text}");
            std::io::stdout().flush()?;
            eprintln!("error");
            Ok(())
        })
        .function("print and exit", |text, _| -> Result<(), BoxError> {
            widen_stdout();
            eprintln!("begins");
            // Not flushed: the exit does that.
            print!("{text}");
            std::process::exit(3)
        })
}

/// Makes room for 1 MiB in the pipe.
#[expect(unsafe_code, reason = "the standard library cannot")]
fn widen_stdout() {
    // SAFETY: takes no pointers.
    assert!(unsafe { libc::fcntl(1, libc::F_SETPIPE_SZ, 1 << 20) } >= 1 << 20);
}

fn lines(log: &Log) -> Stdio {
    let log = log.clone();
    Stdio::lines(move |pid, line| log.add(format!("{pid} {line}")))
}

#[test]
fn standard_output_is_passed_on_by_lines_apart_from_standard_error() {
    let me = printer().run_in_test();
    bounded(move || {
        let (out, err) = (Log::default(), Log::default());
        let process = me.stdout(lines(&out)).stderr(lines(&err));
        let rpc = process.rpc("print").start().unwrap();
        let pid = rpc.pid().unwrap();
        rpc.call("one\ntwo").wait().unwrap();
        eventually("the line arrives", || {
            out.last() == Some(format!("{pid} one"))
        });
        rpc.call("\nlast").wait().unwrap();
        rpc.finish().unwrap();
        let want = |all: &[&str]| {
            all.iter()
                .map(|line| format!("{pid} {line}"))
                .collect::<Vec<_>>()
        };
        // Nothing of what the test harness prints in the child is among it.
        assert_eq!(out.lines(), want(&["one", "two", "last"]));
        assert_eq!(err.lines(), want(&["error", "error"]));
    });
}

#[test]
fn output_arrives_before_the_death() {
    let me = printer().run_in_test();
    bounded(move || {
        let log = Log::default();
        let errors = log.clone();
        // The reactor finds everything at once: far more than it reads at a time, and the exit.
        let until_exit = Stdio::lines(|pid, _| {
            eventually("it has exited", || {
                common::state(pid).as_deref() == Some("Z")
            });
        });
        let process = me.stdout(lines(&log)).stderr(until_exit);
        let rpc = process.rpc("print and exit");
        let rpc = rpc
            .on_error(move |error| errors.add(error.stderr().trim_end()))
            .start()
            .unwrap();
        let pid = rpc.pid().unwrap();
        let many: String = (0..100_000).map(|n| format!("{n}\n")).collect();
        let error = rpc.call(&many).wait().unwrap_err();
        assert!(
            error.to_string().contains("exited with status 3"),
            "{error}"
        );
        rpc.finish().unwrap_err();
        let mut want: Vec<_> = many.lines().map(|line| format!("{pid} {line}")).collect();
        // Standard output is not in errors.
        want.push("begins".to_owned());
        assert_eq!(log.lines(), want);
    });
}

#[test]
fn chunks_are_passed_on_as_they_are_written() {
    let me = printer().run_in_test();
    bounded(move || {
        let (out, err) = (
            Arc::new(Mutex::new(Vec::new())),
            Arc::new(Mutex::new(Vec::new())),
        );
        let chunks = |to: &Arc<Mutex<Vec<u8>>>| {
            let to = Arc::clone(to);
            Stdio::chunks(move |_, bytes| to.lock().unwrap().extend(bytes))
        };
        let process = me.stdout(chunks(&out)).stderr(chunks(&err));
        let rpc = process.rpc("print").start().unwrap();
        for part in ["\r 1 %", "\r 2 %\u{20ac}"] {
            rpc.call(part).wait().unwrap();
            // No line has ended.
            eventually("it arrives", || {
                out.lock().unwrap().ends_with(part.as_bytes())
            });
        }
        rpc.finish().unwrap();
        assert_eq!(*out.lock().unwrap(), "\r 1 %\r 2 %\u{20ac}".as_bytes());
        assert_eq!(*err.lock().unwrap(), b"error\nerror\n");
    });
}

#[test]
fn standard_output_can_be_discarded_or_captured_for_nothing() {
    let me = printer().run_in_test();
    bounded(move || {
        for (stdout, want) in [(Stdio::null(), "/dev/null"), (Stdio::capture(), "pipe:")] {
            let process = me.clone().stdout(stdout).stderr(Stdio::null());
            let rpc = process.rpc("print").start().unwrap();
            // More than a pipe holds.
            rpc.call("x".repeat(1 << 20)).wait().unwrap();
            let all = descriptors(rpc.pid().unwrap());
            assert!(all[1].1.starts_with(want), "{all:?}");
            let others: Vec<_> = all.iter().filter(|(number, _)| *number > 2).collect();
            // The connection twice and the lifeline.
            assert_eq!(others.len(), 3, "{all:?}");
            rpc.finish().unwrap();
        }
    });
}

#[test]
fn another_program_has_the_same() {
    bounded(|| {
        let log = Log::default();
        let process: Process = script("echo hello; ready; exec cat >/dev/null");
        let rpc = process.stdout(lines(&log)).rpc("any").start().unwrap();
        let pid = rpc.pid().unwrap();
        rpc.finish().unwrap();
        assert_eq!(log.lines(), [format!("{pid} hello")]);
    });
}

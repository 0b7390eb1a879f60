//! Workers behind further commands: a queue of jobs, sandboxes, another user.

mod common;

use common::far::Slurm;
use common::{Gate, bounded, eventually, is_gone, signal, worker};
use offspring::{CallError, ErrorKind, Phase, Pool, Process};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// This test as a worker, as a command line.
fn command_line() -> Vec<String> {
    let exe = std::env::current_exe().unwrap();
    let name = thread::current().name().unwrap().to_owned();
    let words = ["env", "OFFSPRING=serve", exe.to_str().unwrap(), &*name];
    let options = ["--exact", "--nocapture"];
    words
        .into_iter()
        .chain(options)
        .map(str::to_owned)
        .collect()
}

fn behind(words: &[String]) -> Process {
    Process::command(&words[0])
        .args(&words[1..])
        .args(command_line())
}

#[test]
fn jobs_of_slurm_are_called_and_one_that_is_cancelled_is_told() {
    let _me = worker().run_in_test();
    let Some(slurm) = Slurm::start() else { return };
    let far = behind(&slurm.command()).patience(Duration::from_secs(60));
    bounded(move || {
        let rpc = far.rpc("do").start().unwrap();
        assert_eq!(rpc.call(["echo", "a"]).wait().unwrap(), ["a"]);
        rpc.finish().unwrap();

        let (exits, ended) = mpsc::channel();
        let pool = Pool::builder("do")
            .also(far.clone(), 3)
            .on_exit(move |exit| drop(exits.send(exit.end.clone())))
            .idle(3)
            .start()
            .unwrap();
        for n in 0..30 {
            let n = n.to_string();
            assert_eq!(pool.call(["echo", &n]).wait().unwrap(), [n]);
        }
        let gate = Gate::new();
        let held = pool.call(["gate", gate.name()]).start();
        let inside = gate.entered();
        slurm.scancel();
        let Err(CallError::Lost(error, Phase::Begun)) = held.wait() else {
            panic!("it had begun");
        };
        let kinds = [ErrorKind::Disconnected, ErrorKind::Died];
        assert!(kinds.contains(&error.kind()), "{error}");
        drop(inside);
        ended.recv().unwrap().unwrap_err();
        // The others are cancelled one after the other, perhaps in the middle of it.
        let on = pool.call(["echo", "on"]).repeatable(9).wait();
        assert_eq!(on.unwrap(), ["on"]);
        pool.finish().unwrap();
    });
}

/// Whether such a command can start a program here.
fn works(words: &[&str]) -> bool {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg("true");
    let status = command.stderr(Stdio::null()).status();
    let works = status.is_ok_and(|status| status.success());
    if !works {
        println!("skipped: `{}` does not work here", words.join(" "));
    }
    works
}

#[test]
fn sandboxes_and_other_users_are_only_other_commands() {
    let _me = worker().run_in_test();
    let line = command_line();
    bounded(move || {
        for words in [
            &[
                "bwrap",
                "--dev-bind",
                "/",
                "/",
                "--unshare-pid",
                "--proc",
                "/proc",
            ][..],
            &["unshare", "--pid", "--fork", "--mount-proc"],
            &["sudo", "-n"],
            &["setpriv", "--no-new-privs"],
            &["nice", "-n", "3"],
        ] {
            if !works(words) {
                continue;
            }
            let far = Process::command(words[0]).args(&words[1..]).args(&line);
            let template = far.clone().template();
            for process in [&far, &template] {
                let rpc = process.rpc("do").on_error(drop).start().unwrap();
                assert_eq!(rpc.call(["echo", "a"]).wait().unwrap(), ["a"]);
                // In its own namespace, it may have the same number as another process here.
                assert_eq!(rpc.pid(), Some(common::pid(&rpc)), "{words:?}");
                let error = rpc.call("abort").wait().unwrap_err();
                let CallError::Lost(error, Phase::Begun) = error else {
                    panic!("{words:?}: {error}");
                };
                assert_eq!(error.kind(), ErrorKind::Died, "{words:?}");
            }
        }
    });
}

#[test]
fn sandbox_that_is_killed_ends_its_children() {
    let _me = worker().run_in_test();
    let line = command_line();
    let words = ["unshare", "--pid", "--fork", "--kill-child"];
    if !works(&words) {
        return;
    }
    bounded(move || {
        let far = Process::command(words[0]).args(&words[1..]).args(&line);
        let rpc = far.rpc("do").on_error(drop).start().unwrap();
        rpc.wait_ready().unwrap();
        let gate = Gate::new();
        let held = rpc.call(["gate", gate.name()]).start();
        let mut inside = gate.entered();
        let sandbox = common::children()
            .into_iter()
            .find(|child| {
                std::fs::read_to_string(format!("/proc/{child}/comm"))
                    .is_ok_and(|name| name.trim() == "unshare")
            })
            .unwrap();
        signal(sandbox, "KILL");
        let lost = held.wait().unwrap_err();
        assert!(
            matches!(&lost, CallError::Lost(error, Phase::Begun)
            if error.kind() == ErrorKind::Disconnected),
            "{lost}"
        );
        eventually("it has ended", || is_gone(sandbox) && !inside.is_waiting());
    });
}

/// What a program with more rights than its caller does is not for the caller's environment to say.
#[test]
fn word_is_ignored_in_a_program_with_more_rights_than_its_caller() {
    const VARIABLE: &str = "OFFSPRING_TEST_NOT_SERVED";
    let _me = worker().run_in_test();
    if std::env::var_os(VARIABLE).is_some() {
        println!("not served");
        return;
    }
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !is_root || !works(&["setpriv", "--reuid", "65534", "--clear-groups"]) {
        println!("skipped: only root can give a program rights");
        return;
    }
    let name = thread::current().name().unwrap().to_owned();
    bounded(move || {
        let dir = std::env::temp_dir().join(format!("offspring-rights-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let program = dir.join("test");
        std::fs::copy("/proc/self/exe", &program).unwrap();
        let run = |mode| {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&program, permissions).unwrap();
            let output = Command::new("setpriv")
                .args(["--reuid", "65534", "--clear-groups"])
                .arg(&program)
                .args([&*name, "--exact", "--nocapture"])
                .env("OFFSPRING", "serve")
                .env(VARIABLE, "1")
                .current_dir("/")
                .output()
                .unwrap();
            String::from_utf8_lossy(&output.stdout).contains("not served")
        };
        let (without, with) = (run(0o755), run(0o4755));
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(!without, "it is to serve");
        assert!(with, "it is not to serve");
    });
}

//! The servers, networks and clusters that other tests run workers on: plain programs get there and
//! back, and what is to fail fails.

mod common;

use common::far::{Network, Slurm, Sshd};
use common::{bounded, eventually, is_gone};
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Longer than an answer takes that is not held up, but how long does not matter.
const SHORT: Duration = Duration::from_millis(300);

/// Sends bytes to a program that should send them back.
struct Echo {
    program: Child,
    stdin: ChildStdin,
    answers: Receiver<u8>,
}

impl Echo {
    fn new(prefix: &[String]) -> Self {
        let mut program = program(prefix, &["cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = program.stdin.take().unwrap();
        let mut stdout = program.stdout.take().unwrap();
        let (send, answers) = mpsc::channel();
        thread::spawn(move || {
            let mut byte = [0];
            while stdout.read(&mut byte).is_ok_and(|n| n > 0) && send.send(byte[0]).is_ok() {}
        });
        Echo {
            program,
            stdin,
            answers,
        }
    }

    fn send(&mut self, byte: u8) {
        self.stdin.write_all(&[byte]).unwrap();
    }

    fn receive(&self) -> u8 {
        self.answers.recv_timeout(common::FOREVER).unwrap()
    }

    fn is_silent(&self) -> bool {
        self.answers.recv_timeout(SHORT) == Err(RecvTimeoutError::Timeout)
    }

    fn finish(mut self) -> Option<i32> {
        drop(self.stdin);
        self.program.wait().unwrap().code()
    }
}

fn program(prefix: &[String], program: &[&str]) -> Command {
    let mut command = Command::new(&prefix[0]);
    command.args(&prefix[1..]).args(program);
    command
}

fn output(prefix: &[String], words: &[&str]) -> Output {
    program(prefix, words).output().unwrap()
}

/// Exit status and standard error of what should not succeed.
fn refusal(prefix: &[String]) -> (Option<i32>, String) {
    let output = output(prefix, &["true"]);
    let text = String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text.trim().to_owned())
}

#[test]
fn ssh_connects_refuses_and_freezes() {
    bounded(|| {
        let Some(server) = Sshd::start() else { return };
        let mut echo = Echo::new(&server.command());
        echo.send(1);
        assert_eq!(echo.receive(), 1);
        assert_eq!(server.sessions().len(), 1);
        assert!(!server.commands().is_empty());

        server.stop();
        echo.send(2);
        assert!(echo.is_silent());
        server.cont();
        assert_eq!(echo.receive(), 2);
        assert_eq!(echo.finish(), Some(0));
        eventually("the session has ended", || server.sessions().is_empty());

        let (status, text) = refusal(&server.denied_command());
        assert_eq!(status, Some(255));
        assert!(text.ends_with("Permission denied (publickey)."), "{text}");
        let (status, text) = refusal(&server.unverified_command());
        assert_eq!(status, Some(255));
        assert!(text.ends_with("Host key verification failed."), "{text}");

        let plain = output(&server.command(), &["test -t 0"]);
        assert_eq!(plain.status.code(), Some(1));
        let terminal = output(&server.terminal_command(), &["test -t 0"]);
        assert_eq!(terminal.status.code(), Some(0), "{terminal:?}");
    });
}

#[test]
fn server_that_is_dropped_leaves_nothing() {
    bounded(|| {
        let Some(server) = Sshd::start() else { return };
        let mut echo = Echo::new(&server.command());
        echo.send(1);
        assert_eq!(echo.receive(), 1);
        // Its connection ends before it does.
        let orphan = output(&server.command(), &["setsid sleep 1000 >&- 2>&- <&- &"]);
        assert!(orphan.status.success(), "{orphan:?}");
        let mut all = server.commands();
        assert!(all.len() >= 2, "{all:?}");
        all.extend(server.sessions());
        all.push(server.pid());
        server.stop();
        drop(server);
        assert_eq!(echo.finish(), Some(255));
        assert!(all.into_iter().all(is_gone));
    });
}

#[test]
fn hosts_of_a_network_come_and_go() {
    bounded(|| {
        let Some(network) = Network::start(2) else {
            return;
        };
        let mut echoes = [0, 1].map(|i| Echo::new(&network.host(i).command()));
        for echo in &mut echoes {
            echo.send(1);
            assert_eq!(echo.receive(), 1);
        }
        network.link(0, false);
        echoes.iter_mut().for_each(|echo| echo.send(2));
        assert_eq!(echoes[1].receive(), 2);
        assert!(echoes[0].is_silent());
        network.link(0, true);
        assert_eq!(echoes[0].receive(), 2);
        assert_eq!(echoes.map(Echo::finish), [Some(0); 2]);
    });
}

#[test]
fn slurm_runs_and_cancels() {
    bounded(|| {
        let Some(slurm) = Slurm::start() else { return };
        let mut echo = Echo::new(&slurm.command());
        echo.send(1);
        assert_eq!(echo.receive(), 1);
        assert_eq!(echo.finish(), Some(0));

        let mut echo = Echo::new(&slurm.command());
        echo.send(2);
        assert_eq!(echo.receive(), 2);
        slurm.scancel();
        assert_ne!(echo.program.wait().unwrap().code(), Some(0));
    });
}

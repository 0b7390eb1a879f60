//! Children on the other side of a real ssh, to a server on this machine.

mod common;

use common::far::Sshd;
use common::{Gate, bounded, error_of, eventually, is_gone, pid, worker};
use offspring::{CallError, ErrorKind, Phase, Process};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// This test as a worker, on the other side of a command.
fn behind(words: &[String]) -> Process {
    let exe = std::env::current_exe().unwrap();
    let name = thread::current().name().unwrap().to_owned();
    let before = "echo 'Last login: yesterday'; echo 'You have mail' >&2;";
    let run = format!(
        "{before} OFFSPRING=serve exec {} {name} --exact --nocapture",
        exe.display()
    );
    Process::command(&words[0]).args(&words[1..]).arg(run)
}

#[test]
fn worker_behind_ssh_is_called_and_ends() {
    let _me = worker().run_in_test();
    let Some(sshd) = Sshd::start() else { return };
    let far = behind(&sshd.command());
    bounded(move || {
        let (send, events) = mpsc::channel();
        let builder = far.rpc("do");
        let rpc = builder
            .on_event(move |event| send.send(event).unwrap())
            .start()
            .unwrap();
        assert_eq!(rpc.call(["echo", "a"]).wait().unwrap(), ["a"]);
        rpc.call(["event", "x"]).wait().unwrap();
        assert_eq!(events.recv().unwrap(), ["x"]);
        assert_eq!(rpc.pid(), Some(pid(&rpc)));
        rpc.finish().unwrap();
        eventually("nothing is left there", || {
            sshd.commands().into_iter().all(is_gone) && sshd.sessions().is_empty()
        });
    });
}

#[test]
fn refused_login_is_shown_in_the_words_of_ssh() {
    let Some(sshd) = Sshd::start() else { return };
    let denied = behind(&sshd.denied_command());
    let unverified = behind(&sshd.unverified_command());
    bounded(move || {
        for (far, said) in [
            (denied, "Permission denied (publickey)."),
            (unverified, "Host key verification failed."),
        ] {
            let error = error_of(&far);
            assert_eq!(error.kind(), ErrorKind::Exited);
            let message = error.to_string();
            assert!(message.contains("exited with status 255"), "{message}");
            assert!(error.stderr().contains(said), "{message}");
        }
        let words = sshd.command();
        let missing = Process::command(&words[0])
            .args(&words[1..])
            .arg("/no/such/worker");
        let error = error_of(&missing);
        assert!(error.stderr().contains("/no/such/worker"), "{error}");
        assert!(error.to_string().contains("exited with status 127"));
    });
}

#[test]
fn terminal_is_named() {
    let _me = worker().run_in_test();
    let Some(sshd) = Sshd::start() else { return };
    let far = behind(&sshd.terminal_command());
    bounded(move || {
        let error = error_of(&far);
        assert_eq!(error.kind(), ErrorKind::NotWorker);
        let message = error.to_string();
        assert!(
            message.contains("there is a terminal in between"),
            "{message}"
        );
        eventually("nothing is left there", || {
            sshd.commands().into_iter().all(is_gone)
        });
    });
}

#[test]
fn large_transfers_both_ways_beside_small_calls() {
    const LEN: usize = 100 << 20;
    let _me = worker().run_in_test();
    let Some(sshd) = Sshd::start() else { return };
    let far = behind(&sshd.command());
    bounded(move || {
        let template = far.template();
        let [large, small] = [(); 2].map(|()| template.rpc("do").start().unwrap());
        small.wait_ready().unwrap();
        let blob = vec![7; LEN];
        for request in [&["size".as_bytes(), &blob], &[b"blob", b"104857600"]] {
            let mut call = large.call(request).start();
            let mut rounds = 0;
            let reply = loop {
                if let Some(reply) = call.try_wait() {
                    break reply.unwrap();
                }
                assert_eq!(small.call(["echo", "x"]).wait().unwrap(), ["x"]);
                rounds += 1;
            };
            assert!(reply == [LEN.to_string()] || reply[0] == blob[..]);
            // If each had waited for the other, there would be one.
            assert!(rounds > 10, "{rounds}");
        }
    });
}

#[test]
fn hundred_children_are_behind_one_session() {
    let _me = worker().run_in_test();
    let Some(sshd) = Sshd::start() else { return };
    let far = behind(&sshd.command());
    bounded(move || {
        let template = far.template();
        let all: Vec<_> = (0..100)
            .map(|_| template.rpc("do").start().unwrap())
            .collect();
        let calls: Vec<_> = all.iter().map(|rpc| rpc.call(["pid"]).start()).collect();
        let mut pids: Vec<_> = calls
            .into_iter()
            .map(|call| call.wait().unwrap()[0].to_vec())
            .collect();
        pids.sort_unstable();
        pids.dedup();
        assert_eq!(pids.len(), 100);
        let sessions = sshd.sessions();
        let one = template.rpc("do").start().unwrap();
        one.wait_ready().unwrap();
        assert_eq!(sshd.sessions(), sessions);
        for rpc in all {
            rpc.finish().unwrap();
        }
        one.finish().unwrap();
        drop(template);
        eventually("nothing is left there", || {
            sshd.commands().into_iter().all(is_gone) && sshd.sessions().is_empty()
        });
    });
}

/// What ends a connection, and is done to the processes of its server.
#[test]
fn connection_that_ends_in_mid_call_is_told() {
    let _me = worker().run_in_test();
    let Some(sshd) = Sshd::start() else { return };
    let far = behind(&sshd.command());
    bounded(move || {
        let template = far.template();
        let kill_session = || {
            for session in sshd.sessions() {
                common::signal(session, "KILL");
            }
        };
        // The oldest of what runs there: all others are its children.
        let kill_relay = || {
            let relays = sshd.commands();
            let is_relay = |pid: &u32| !common::children_of(*pid).is_empty();
            let relay = relays.into_iter().find(is_relay).unwrap();
            common::signal(relay, "KILL");
        };
        for (what, end) in [
            ("session", &kill_session as &dyn Fn()),
            ("relay", &kill_relay),
        ] {
            let rpc = template.rpc("do").on_error(drop).start().unwrap();
            let gate = Gate::new();
            let child = common::pid(&rpc);
            let held = rpc.call(["gate", gate.name()]).start();
            let _inside = gate.entered();
            end();
            let Err(CallError::Lost(error, Phase::Begun)) = held.wait() else {
                panic!("{what}: it had begun");
            };
            assert_eq!(error.kind(), ErrorKind::Disconnected, "{what}: {error}");
            eventually("the child has ended", || is_gone(child));
        }
    });
}

#[test]
fn frozen_server_is_noticed() {
    let _me = worker().run_in_test();
    let Some(sshd) = Sshd::start() else { return };
    let far = behind(&sshd.command()).ping(Duration::from_millis(100), Duration::from_secs(1));
    bounded(move || {
        let rpc = far.rpc("do").on_error(drop).start().unwrap();
        rpc.wait_ready().unwrap();
        sshd.stop();
        let Err(CallError::Lost(error, _)) = rpc.call("echo").wait() else {
            panic!("nothing answers it");
        };
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        assert!(error.to_string().contains("a ping was not answered"));
        sshd.cont();
        eventually("nothing is left there", || {
            sshd.commands().into_iter().all(is_gone)
        });
    });
}

#[test]
fn template_that_is_killed_there_is_started_again() {
    let _me = worker().run_in_test();
    let Some(sshd) = Sshd::start() else { return };
    let far = behind(&sshd.command());
    bounded(move || {
        let second = far.template().template();
        let start = || second.rpc("do").on_error(drop).start().unwrap();
        let copy = start();
        let pid = common::pid(&copy);
        let is_its_parent = |parent: &u32| common::children_of(*parent).contains(&pid);
        let template = sshd.commands().into_iter().find(is_its_parent).unwrap();
        common::signal(template, "KILL");
        eventually("it has ended", || is_gone(template));
        assert_eq!(copy.call(["echo", "on"]).wait().unwrap(), ["on"]);
        let other = start();
        assert_eq!(other.call(["echo", "again"]).wait().unwrap(), ["again"]);
    });
}

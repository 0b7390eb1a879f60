//! Pools over several hosts, whose links are cut: network namespaces of this machine, with a real ssh.

mod common;

use common::far::Network;
use common::{alone, bounded, children, eventually, is_gone, worker};
use offspring::{CallError, ChildState, ErrorKind, Host, Hosts, Phase, Process};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// This test as a worker, in a shell.
fn shell() -> String {
    let exe = std::env::current_exe().unwrap();
    let name = thread::current().name().unwrap().to_owned();
    format!(
        "OFFSPRING=serve exec {} {name} --exact --nocapture",
        exe.display()
    )
}

#[test]
fn batch_goes_on_while_links_are_cut_and_restored() {
    let _me = worker().run_in_test();
    let Some(network) = Network::start(3) else {
        return;
    };
    let shell = shell();
    bounded(move || {
        let hosts = Hosts::parse("2/0\n2/1\n2/2").unwrap();
        let reach = |host: &Host| {
            let words = network.host(host.name.parse().unwrap()).command();
            Process::command(&words[0])
                .args(&words[1..])
                .args(["-oConnectTimeout=2", &shell])
                .ping(Duration::from_millis(100), Duration::from_millis(500))
        };
        let begun = Mutex::new(HashMap::<usize, usize>::new());
        let begun: &'static _ = Box::leak(Box::new(begun));
        let pool = hosts
            .pool("do", reach)
            .on_event(|_, number| {
                let number = number.to_string().parse().unwrap();
                *begun.lock().unwrap().entry(number).or_default() += 1;
            })
            .on_exit(|_| {})
            // So that each host is needed.
            .idle(6)
            .start()
            .unwrap();
        let (over, done) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            let callers: Vec<_> = (0..6)
                .map(|caller| {
                    let (pool, over, done) = (&pool, &over, &done);
                    scope.spawn(move || {
                        let mut lost = Vec::new();
                        for n in 0.. {
                            if over.load(Ordering::Relaxed) {
                                return (n, lost);
                            }
                            let number = n * 6 + caller;
                            match pool.call(["event", &number.to_string()]).wait() {
                                Ok(_) => drop(done.fetch_add(1, Ordering::Relaxed)),
                                Err(CallError::Lost(error, Phase::Begun))
                                    if error.kind() == ErrorKind::Disconnected =>
                                {
                                    lost.push(number);
                                }
                                Err(error) => panic!("{number}: {error}"),
                            }
                        }
                        unreachable!("it is told when it is over")
                    })
                })
                .collect();
            let more = || {
                let before = done.load(Ordering::Relaxed);
                eventually("work goes on", || {
                    done.load(Ordering::Relaxed) > before + 100
                });
            };
            let serving = |host: usize| {
                let children = pool.stats().children;
                children.iter().any(|child| {
                    child.source == host
                        && matches!(child.state, ChildState::Idle | ChildState::Busy)
                })
            };
            let is_lost = |host: usize| pool.stats().sources[host].last_error.is_some();
            eventually("all hosts serve", || (0..3).all(serving));
            more();
            for host in [1, 2] {
                network.link(host, false);
                eventually("it is noticed", || is_lost(host) && !serving(host));
                more();
                network.link(host, true);
                eventually("it serves again", || serving(host));
            }
            over.store(true, Ordering::Relaxed);
            let mut made = 0;
            for caller in callers {
                let (n, lost) = caller.join().unwrap();
                made += n;
                let begun = begun.lock().unwrap();
                assert!(
                    lost.iter()
                        .all(|number| begun.get(number).copied() <= Some(1))
                );
            }
            assert!(begun.lock().unwrap().values().all(|times| *times == 1));
            assert!(done.load(Ordering::Relaxed) <= made);
        });
        pool.finish().unwrap();
        eventually("nothing is left there", || {
            (0..3).all(|host| network.host(host).commands().into_iter().all(is_gone))
        });
    });
}

#[test]
fn statistics_have_a_line_for_each_host() {
    let _me = worker().run_in_test();
    let shell = shell();
    alone(move || {
        let hosts = Hosts::parse("2/one\ntwo\nthree").unwrap();
        let reach = |host: &Host| match &*host.name {
            "three" => Process::command("sh").args(["-c", "echo no entry >&2; exit 7"]),
            _ => Process::command("sh").args(["-c", &shell]),
        };
        let pool = hosts
            .pool("do", reach)
            .idle(4)
            .on_exit(|_| {})
            .start()
            .unwrap();
        for n in 0..20 {
            let n = n.to_string();
            assert_eq!(pool.call(["echo", &n]).wait().unwrap(), [n]);
        }
        eventually("all is tried", || {
            let stats = pool.stats();
            stats.sources[2].failures > 0 && stats.children.len() >= 3
        });
        let stats = pool.stats();
        let labels: Vec<_> = stats.sources.iter().map(|it| &*it.label).collect();
        assert_eq!(labels, ["one", "two", "three"]);
        assert_eq!(stats.sources.iter().map(|it| it.calls).sum::<u64>(), 20);
        let error = stats.sources[2].last_error.as_ref().unwrap();
        assert_eq!(error.stderr(), "no entry\n");
        let text = stats.to_string();
        let three = text
            .lines()
            .find(|line| line.starts_with("three: "))
            .unwrap();
        // It may just be tried again, or be known to have to wait for that.
        for part in [
            " of 1 child, ",
            " failed, last: the connection ",
            "through three is lost: it ended before a worker greeted (exited with status 7)",
        ] {
            assert!(three.contains(part), "{three}");
        }
        pool.finish().unwrap();
        eventually("no command is left", || children().is_empty());
    });
}

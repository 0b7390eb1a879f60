//! Nothing is left: no process, no descriptor, no thread.

mod common;

use common::{Gate, alone, children, descriptors, eventually, logged, reactors, script, worker};
use offspring::{Plain, Process, Reactor, Stdio};
use std::os::unix::net::UnixStream;
use std::time::Duration;

fn open() -> usize {
    descriptors(std::process::id()).len()
}

#[test]
fn nothing_is_left_however_it_ends() {
    let me = worker().run_in_test();
    alone(move || {
        let short = Duration::from_millis(20);
        let me = me.stderr(Stdio::capture());
        let start = |process: &Process| {
            let builder = process.rpc("do").grace(short).start_timeout(short * 100);
            logged(builder).0.start()
        };
        let ways: &[(&str, &dyn Fn())] = &[
            ("finished", &|| {
                let rpc = start(&me).unwrap();
                rpc.call("echo").wait().unwrap();
                rpc.finish().unwrap();
            }),
            ("finished while it starts", &|| {
                drop(start(&me).unwrap().finish());
            }),
            ("killed", &|| {
                let rpc = start(&me).unwrap();
                rpc.call("echo").wait().unwrap();
                rpc.kill();
                rpc.finish().unwrap();
            }),
            ("died", &|| {
                let rpc = start(&me).unwrap();
                rpc.call(["exit", "3"]).wait().unwrap_err();
                rpc.finish().unwrap_err();
            }),
            ("stopped", &|| {
                let (rpc, gate) = (start(&me).unwrap(), Gate::new());
                let call = rpc.call(["gate", gate.name()]).start();
                let _inside = gate.entered();
                rpc.finish_timeout(short).unwrap_err();
                call.wait().unwrap_err();
            }),
            ("missing", &|| {
                start(&Process::exe("/nowhere/to/be/found")).unwrap_err();
            }),
            ("no worker", &|| {
                let rpc = start(&Process::exe("/bin/true")).unwrap();
                rpc.finish().unwrap_err();
            }),
            ("hostile", &|| {
                let junk = script("ready; send 'junk, junk, junk'; exec sleep 1000");
                start(&junk).unwrap().finish().unwrap_err();
            }),
            ("a command", &|| {
                let rpc = start(&Process::command(Plain::Ordered, "cat")).unwrap();
                rpc.finish().unwrap();
            }),
            ("a stream", &|| {
                let (near, far) = UnixStream::pair().unwrap();
                let rpc = start(&Process::stream(Plain::Tagged, near)).unwrap();
                drop(far);
                drop(rpc.finish());
            }),
            ("a stream that is no use", &|| {
                let file = std::fs::File::open("/dev/null").unwrap();
                start(&Process::stream(Plain::Tagged, file)).unwrap_err();
            }),
        ];
        // Whatever is opened once and for all is opened now.
        ways[0].1();
        let before = open();
        for (what, way) in ways {
            for _ in 0..3 {
                way();
                assert_eq!(children(), [], "{what}: a process is left");
                assert_eq!(reactors(), 0, "{what}: a thread is left");
                assert_eq!(open(), before, "{what}: a descriptor is left");
            }
        }

        // Those that are dropped end by themselves.
        for request in [&["echo"][..], &["exit", "3"]] {
            let (builder, log) = logged(me.rpc("do"));
            let rpc = builder.start().unwrap();
            rpc.call(request).then(|_| {});
            drop(rpc);
            log.end();
            assert_eq!(children(), []);
            eventually("the thread ends", || reactors() == 0);
            eventually("all is closed", || open() == before);
        }
    });
}

#[test]
fn shared_reactor_has_one_thread_and_ends_with_the_last() {
    let me = worker().run_in_test();
    alone(move || {
        let before = open();
        let reactor = Reactor::new().unwrap();
        assert_eq!(reactors(), 0, "there is nothing to do yet");
        let start = || me.rpc("do").reactor(&reactor).start().unwrap();
        let handles: Vec<_> = (0..10).map(|_| start()).collect();
        for rpc in &handles {
            rpc.call("echo").wait().unwrap();
        }
        assert_eq!(reactors(), 1);
        drop(reactor);
        assert_eq!(reactors(), 1);
        for rpc in handles {
            rpc.finish().unwrap();
        }
        eventually("the thread ends", || reactors() == 0);
        eventually("all is closed", || open() == before);
        assert_eq!(children(), []);
    });
}

#[test]
fn handles_of_their_own_reactors_have_a_thread_each() {
    let me = worker().run_in_test();
    alone(move || {
        let handles: Vec<_> = (0..5).map(|_| me.rpc("do").start().unwrap()).collect();
        for rpc in &handles {
            rpc.call("echo").wait().unwrap();
        }
        // A thread has its name when it has run for the first time.
        eventually("five threads", || reactors() == 5);
        let mut left = 5;
        for rpc in handles {
            rpc.finish().unwrap();
            left -= 1;
            assert_eq!(reactors(), left, "it is gone when finish() returns");
        }
    });
}

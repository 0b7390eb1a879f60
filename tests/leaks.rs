//! Nothing is leaked: no process, no descriptor, no thread.

mod common;

use common::{
    Gate, alone, children, descriptors, eventually, logged, reactors, script, threads, worker,
};
use offspring::{Plain, Process, Reactor, Stdio};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

fn open() -> usize {
    descriptors(std::process::id()).len()
}

#[test]
fn nothing_is_leaked_however_it_ends() {
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
            ("not a worker", &|| {
                let rpc = start(&Process::exe("/bin/true")).unwrap();
                rpc.finish().unwrap_err();
            }),
            ("hostile", &|| {
                let junk = script("ready; send 'junk, junk, junk'; exec sleep 1000");
                start(&junk).unwrap().finish().unwrap_err();
            }),
            ("a command", &|| {
                let rpc = start(&Process::command("cat").plain(Plain::Ordered)).unwrap();
                rpc.finish().unwrap();
            }),
            ("a stream", &|| {
                let (near, far) = UnixStream::pair().unwrap();
                let rpc = start(&Process::stream(near).plain(Plain::Tagged)).unwrap();
                drop(far);
                drop(rpc.finish());
            }),
            ("not a stream socket", &|| {
                let file = std::fs::File::open("/dev/null").unwrap();
                start(&Process::stream(file).plain(Plain::Tagged)).unwrap_err();
            }),
        ];
        // Everything that is opened only once is opened now.
        ways[0].1();
        let before = open();
        for (what, way) in ways {
            for _ in 0..3 {
                way();
                assert_eq!(children(), [0u32; 0], "{what}: a process is left");
                assert_eq!(reactors(), 0, "{what}: a thread is left");
                assert_eq!(open(), before, "{what}: a descriptor is left");
            }
        }

        // Dropped handles end by themselves.
        for request in [&["echo"][..], &["exit", "3"]] {
            let (builder, log) = logged(me.rpc("do"));
            let rpc = builder.start().unwrap();
            rpc.call(request).then(|_| {});
            drop(rpc);
            log.end();
            assert_eq!(children(), [0u32; 0]);
            eventually("the thread ends", || reactors() == 0);
            eventually("all is closed", || open() == before);
        }
    });
}

#[test]
fn shared_reactor_has_one_thread_and_ends_with_its_last_handle() {
    let me = worker().run_in_test();
    alone(move || {
        let before = open();
        let reactor = Reactor::new().unwrap();
        assert_eq!(reactors(), 0, "it has nothing to do yet");
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
        assert_eq!(children(), [0u32; 0]);
    });
}

#[test]
fn each_handle_with_its_own_reactor_has_a_thread() {
    let me = worker().run_in_test();
    alone(move || {
        let handles: Vec<_> = (0..5).map(|_| me.rpc("do").start().unwrap()).collect();
        for rpc in &handles {
            rpc.call("echo").wait().unwrap();
        }
        // A thread gets its name when it first runs.
        eventually("five threads", || reactors() == 5);
        let mut left = 5;
        for rpc in handles {
            rpc.finish().unwrap();
            left -= 1;
            assert_eq!(reactors(), left, "it is gone when finish() returns");
        }
    });
}

/// Holds the exit of a child, at a gate.
#[derive(Default)]
struct Held(Option<String>);

impl Held {
    fn until(&mut self, gate: String) {
        self.0 = Some(gate);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(gate) = self.0.take() {
            Gate::enter(&gate);
        }
    }
}

/// Whether the thread of this name waits for the descriptors of a reactor.
fn polls(name: &str) -> bool {
    let calls = [libc::SYS_epoll_pwait2, libc::SYS_epoll_pwait];
    // Not every architecture has it.
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    let calls = [&calls[..], &[libc::SYS_epoll_wait]].concat();
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    fs::read_dir("/proc/self/task").unwrap().any(|thread| {
        let dir = thread.unwrap().path();
        let call = read(dir.join("syscall"));
        let number = call.split(' ').next().and_then(|word| word.parse().ok());
        read(dir.join("comm")).trim() == name && number.is_some_and(|call| calls.contains(&call))
    })
}

/// The thread that finishes serves it, and nothing else is started for that.
#[test]
fn child_that_takes_long_to_exit_is_waited_for_by_the_poller() {
    let mut held = Held::default();
    let me = worker()
        .function("hold", move |request, _| {
            held.until(request.to_string());
            Ok(())
        })
        .run_in_test();
    alone(move || {
        let gate = Gate::new();
        let rpc = me.rpc("hold").start().unwrap();
        rpc.call(gate.name()).wait().unwrap();
        let finisher = thread::Builder::new().name("finisher".to_owned());
        let finisher = finisher.spawn(move || rpc.finish()).unwrap();
        let exiting = gate.entered();
        eventually("the reactor's thread has handed over", || reactors() == 0);
        eventually("it waits for the exit", || polls("finisher"));
        assert_eq!(threads("offspring reap"), 0);
        exiting.open();
        finisher.join().unwrap().unwrap();
        assert_eq!(threads("offspring reap"), 0);
    });
}

//! What happens in time counts, however late the parent is let run.

mod common;

use common::{Gate, alone, bounded, logged};
use offspring::{CallError, Process, Reactor, Rpc, StopStage, Worker};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Time enough for a busy machine to get everything under way.
const TIMEOUT: Duration = Duration::from_secs(3);

/// For the child: reports to the gate of that name that it waits until its parent is stopped, and does.
fn await_a_stopped_parent(gate: &str) {
    Gate::announce(gate);
    let parent = std::os::unix::process::parent_id();
    common::eventually("the parent is stopped", || {
        common::state(parent).as_deref() == Some("T")
    });
}

fn waiting() -> Worker {
    struct AtExit(String);
    impl Drop for AtExit {
        fn drop(&mut self) {
            Gate::enter(&self.0);
        }
    }
    let mut at_exit = Vec::new();
    Worker::new()
        .setup("enter", |gate| {
            Gate::enter(&gate.to_string());
            Ok(())
        })
        .function("event", |_request, caller| {
            caller.event("hold");
            Ok(())
        })
        .function("enter", |gate, _caller| {
            if !gate.to_string().is_empty() {
                Gate::enter(&gate.to_string());
            }
            Ok(())
        })
        .function("enter at exit", move |gate, _caller| {
            at_exit.push(AtExit(gate.to_string()));
            Ok(())
        })
        .threaded("reply to a stopped parent", |gate, _caller| {
            await_a_stopped_parent(&gate.to_string());
            Ok("in time")
        })
        .threads(4)
}

/// Something that stops this process when asked to, and continues it when any timeout of these tests
/// has passed.
struct Stopper(Child);

impl Stopper {
    fn new() -> Self {
        let pid = std::process::id();
        let passed = TIMEOUT.as_secs() + 1;
        let script = format!("read go; kill -STOP {pid}; sleep {passed}; kill -CONT {pid}");
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", &script]).stdin(Stdio::piped());
        Stopper(shell.spawn().unwrap())
    }

    fn stop(mut self) {
        let mut input = self.0.stdin.take().unwrap();
        input.write_all(b"go\n").unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

#[test]
fn replies_that_came_while_the_parent_was_stopped_are_no_timeouts() {
    let me = waiting().run_in_test();
    alone(move || {
        let (gate, stopper) = (Gate::new(), Stopper::new());
        let rpc = me.rpc("reply to a stopped parent").start().unwrap();
        rpc.wait_ready().unwrap();
        let (sender, replies) = mpsc::channel();
        let call = rpc.call(gate.name()).timeout(TIMEOUT);
        call.then(move |reply| drop(sender.send(reply)));
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let (rpc, gate) = (rpc.clone(), gate.name().to_owned());
                thread::spawn(move || rpc.call(gate).timeout(TIMEOUT).wait())
            })
            .collect();
        (0..4).for_each(|_| drop(gate.entered()));
        stopper.stop();
        for thread in waiting {
            assert_eq!(thread.join().unwrap().unwrap(), ["in time"]);
        }
        assert_eq!(replies.recv().unwrap().unwrap(), ["in time"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn child_that_answered_while_the_parent_was_stopped_is_not_stuck() {
    let me = waiting().run_in_test();
    alone(move || {
        let (gate, stopper) = (Gate::new(), Stopper::new());
        let rpc = me.rpc("reply to a stopped parent").kill_stuck(TIMEOUT);
        let rpc = rpc.start().unwrap();
        rpc.wait_ready().unwrap();
        let call = rpc.call(gate.name()).timeout(TIMEOUT).start();
        drop(gate.entered());
        assert!(matches!(call.wait(), Err(CallError::TimedOut(_))));
        stopper.stop();
        rpc.function("enter").call("").wait().unwrap();
        rpc.finish().unwrap();
    });
}

/// A shared reactor whose thread is held in a callback.
struct BusyReactor {
    reactor: Reactor,
    rpc: Rpc,
    begun: mpsc::Receiver<()>,
    release: mpsc::Sender<()>,
}

impl BusyReactor {
    fn new(me: &Process) -> Self {
        let reactor = Reactor::new().unwrap();
        let (begin, begun) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let callback = move |_| {
            begin.send(()).unwrap();
            released.recv().unwrap();
        };
        let rpc = me.rpc("event").on_event(callback).reactor(&reactor);
        BusyReactor {
            reactor,
            rpc: rpc.start().unwrap(),
            begun,
            release,
        }
    }

    /// Holds the thread while something happens, and until any timeout of these tests has passed.
    fn hold(&self, meanwhile: impl FnOnce()) {
        self.rpc.call(()).then(drop);
        self.begun.recv().unwrap();
        meanwhile();
        thread::sleep(TIMEOUT);
        self.release.send(()).unwrap();
    }
}

#[test]
fn answered_calls_do_not_time_out_behind_a_slow_callback() {
    let me = waiting().run_in_test();
    bounded(move || {
        let (busy, gate) = (BusyReactor::new(&me), Gate::new());
        let rpc = me.rpc("enter").reactor(&busy.reactor).start().unwrap();
        rpc.wait_ready().unwrap();
        let (sender, replies) = mpsc::channel();
        for n in 0..40 {
            let sender = sender.clone();
            let name = if n == 0 { gate.name() } else { "" };
            let call = rpc.call(name).timeout(TIMEOUT);
            call.then(move |reply| drop(sender.send(reply)));
        }
        drop(sender);
        let entered = gate.entered();
        busy.hold(|| {
            entered.open();
            common::await_sleep(rpc.pid().unwrap());
        });
        let replies: Vec<_> = replies.iter().collect();
        assert_eq!(replies.len(), 40);
        for reply in replies {
            reply.unwrap();
        }
    });
}

#[test]
fn child_that_gets_ready_behind_a_slow_callback_is_ready() {
    let me = waiting().run_in_test();
    bounded(move || {
        let (busy, gate) = (BusyReactor::new(&me), Gate::new());
        let starting = me.setup("enter", gate.name()).rpc("enter");
        let starting = starting.reactor(&busy.reactor).start_timeout(TIMEOUT);
        let rpc = starting.start().unwrap();
        let entered = gate.entered();
        busy.hold(|| {
            entered.open();
            common::await_sleep(rpc.pid().unwrap());
        });
        rpc.wait_ready().unwrap();
    });
}

#[test]
fn exit_behind_a_slow_callback_is_a_clean_one() {
    let me = waiting().run_in_test();
    bounded(move || {
        let (busy, gate) = (BusyReactor::new(&me), Gate::new());
        let (builder, log) = logged(me.rpc("enter at exit").grace(TIMEOUT));
        let rpc = builder.reactor(&busy.reactor).start().unwrap();
        rpc.call(gate.name()).wait().unwrap();
        let pid = rpc.pid().unwrap();
        let finishing = thread::spawn(move || rpc.finish());
        let entered = gate.entered();
        busy.hold(|| {
            entered.open();
            common::eventually("the child exits", || {
                common::state(pid).as_deref() == Some("Z")
            });
        });
        let exit = finishing.join().unwrap().unwrap();
        assert_eq!(exit.stage(), StopStage::Closed);
        assert_eq!(log.end(), "destroy");
    });
}

//! Progress reports of calls while they run.

mod common;

use common::{Log, bounded, eventually};
use offspring::{CallError, Caller, Strings, Worker};
use std::collections::BTreeMap;
use std::time::Duration;

/// `hold NAME`, `report NAME WHAT`, `answer NAME`; the latter two are answered `ok`.
fn holder() -> Worker {
    let mut held: BTreeMap<String, Caller> = BTreeMap::new();
    Worker::new().deferred("do", move |request, caller, _| {
        let text = |at: usize| str::from_utf8(&request[at]).unwrap().to_owned();
        match text(0).as_str() {
            "hold" => drop(held.insert(text(1), caller)),
            "report" => {
                held[&text(1)].progress(text(2));
                caller.reply("ok");
            }
            "answer" => {
                held.remove(&text(1)).unwrap().reply("answer");
                caller.reply("ok");
            }
            verb => panic!("no `{verb}`"),
        }
    })
}

#[test]
fn progress_goes_to_its_call_in_order_and_ends_with_it() {
    let me = holder().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        let log = Log::default();
        for name in ["a", "b"] {
            let (progress, reply) = (log.clone(), log.clone());
            rpc.call(["hold", name])
                .on_progress(move |what| progress.add(format!("{name} {what}")))
                .then(move |outcome| reply.add(format!("{name} {}", outcome.unwrap())));
        }
        // This one has no `on_progress`.
        let ignored = rpc.call(["hold", "ignored"]).start();
        for (name, what) in [
            ("a", "1"),
            ("b", "1"),
            ("ignored", "1"),
            ("a", "2"),
            ("b", ""),
        ] {
            rpc.call(["report", name, what]).wait().unwrap();
        }
        rpc.call(["answer", "a"]).wait().unwrap();
        rpc.call(["report", "b", "3"]).wait().unwrap();
        rpc.call(["answer", "b"]).wait().unwrap();
        rpc.call(["answer", "ignored"]).wait().unwrap();
        assert_eq!(ignored.wait().unwrap(), ["answer"]);
        let want = ["a 1", "b 1", "a 2", "b ", "a answer", "b 3", "b answer"];
        assert_eq!(log.lines(), want);
        rpc.finish().unwrap();
    });
}

#[test]
fn progress_is_not_reported_after_the_outcome() {
    let me = holder().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        let log = Log::default();
        common::time_out(|| {
            let progress = log.clone();
            rpc.call(["hold", "timed out"])
                .on_progress(move |what| progress.add(what.to_string()))
        });
        let progress = log.clone();
        let cancelled = rpc
            .call(["hold", "cancelled"])
            .on_progress(move |what| progress.add(what.to_string()))
            .start();
        rpc.call(["report", "cancelled", "before"]).wait().unwrap();
        cancelled.cancel();
        for _ in 0..10 {
            rpc.call(["report", "timed out", "late"]).wait().unwrap();
            rpc.call(["report", "cancelled", "late"]).wait().unwrap();
        }
        for name in ["timed out", "cancelled"] {
            rpc.call(["answer", name]).wait().unwrap();
        }
        assert_eq!(log.lines(), ["before"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn callback_that_panics_is_not_called_again_and_affects_nothing_else() {
    let me = holder().run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        let log = Log::default();
        let progress = log.clone();
        let panics = rpc
            .call(["hold", "panics"])
            .on_progress(move |what| {
                progress.add(format!("panics {what}"));
                panic!("a callback panics");
            })
            .start();
        let progress = log.clone();
        let other = rpc
            .call(["hold", "other"])
            .on_progress(move |what| progress.add(format!("other {what}")))
            .start();
        for what in ["1", "2"] {
            rpc.call(["report", "panics", what]).wait().unwrap();
            rpc.call(["report", "other", what]).wait().unwrap();
        }
        for (name, call) in [("panics", panics), ("other", other)] {
            rpc.call(["answer", name]).wait().unwrap();
            assert_eq!(call.wait().unwrap(), ["answer"]);
        }
        assert_eq!(log.lines(), ["panics 1", "other 1", "other 2"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn every_kind_of_function_has_progress() {
    let me = Worker::new()
        .function("one", |_, caller| {
            (0..1000).for_each(|n| caller.progress(n.to_string()));
            Ok("done")
        })
        .threaded("many", |_, caller| {
            (0..1000).for_each(|n| caller.progress(n.to_string()));
            Ok("done")
        })
        .threads(3)
        .run_in_test();
    bounded(move || {
        for function in ["one", "many"] {
            let rpc = me.rpc(function).start().unwrap();
            let logs: [Log; 5] = Default::default();
            for log in &logs {
                let (progress, reply) = (log.clone(), log.clone());
                rpc.call(())
                    .on_progress(move |what| progress.add(what.to_string()))
                    .then(move |outcome| reply.add(outcome.unwrap().to_string()));
            }
            rpc.finish().unwrap();
            for log in logs {
                let lines = log.lines();
                assert_eq!(lines.last().unwrap(), "done");
                assert!(
                    lines[..1000]
                        .iter()
                        .eq((0..1000).map(|n| n.to_string()).collect::<Vec<_>>().iter())
                );
                assert_eq!(lines.len(), 1001);
            }
        }
    });
}

#[test]
fn progress_that_is_too_long_fails_its_call() {
    let me = Worker::new()
        .threaded("large", |_, caller| {
            caller.progress([[0; 2000]]);
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("large").max_frame(1000).start().unwrap();
        let Err(CallError::Panicked(panic)) = rpc.call(()).wait() else {
            panic!("the function sends progress that is too long");
        };
        assert!(panic.message().contains("max_frame"), "{panic}");
        assert!(panic.location().contains("progress.rs:"), "{panic}");
        rpc.finish().unwrap();
    });
}

#[test]
fn progress_arrives_while_the_call_runs() {
    let me = Worker::new()
        .threaded("gate", |request, caller| {
            caller.progress("at the gate");
            common::Gate::enter(request.texts::<1>()?[0]);
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("gate").start().unwrap();
        let (gate, log) = (common::Gate::new(), Log::default());
        let progress = log.clone();
        let call = rpc
            .call(gate.name())
            .on_progress(move |what| progress.add(what.to_string()))
            .start();
        eventually("progress", || log.lines() == ["at the gate"]);
        gate.entered().open();
        call.wait().unwrap();
    });
}

/// Makes a call when it is dropped.
struct CallsWhenDropped(offspring::Rpc, Log);

impl Drop for CallsWhenDropped {
    fn drop(&mut self) {
        let log = self.1.clone();
        let call = self.0.call("again");
        call.then(move |outcome| log.add(format!("dropped, {}", outcome.is_ok())));
    }
}

#[test]
fn captures_of_a_callback_may_call_when_they_are_dropped() {
    let me = Worker::new()
        .function("do", |request: Strings, _: &Caller| match &request[0] {
            b"exit" => std::process::exit(3),
            _ => Ok(request),
        })
        .run_in_test();
    bounded(move || {
        let start = || me.rpc("do").max_frame(100_000).start().unwrap();
        let rpc = start();
        let log = Log::default();
        let callback = || {
            let held = CallsWhenDropped(rpc.clone(), log.clone());
            move |_: Strings| drop(held.1.lines())
        };
        let dropped = |n: usize| eventually("dropped", || log.lines().len() == n);
        rpc.call("hello").on_progress(callback()).wait().unwrap();
        dropped(1);
        rpc.call("hello").on_progress(callback()).then(|_| {});
        dropped(2);
        let call = rpc.call("hello").on_progress(callback()).start();
        call.cancel();
        dropped(3);
        let call = rpc.call("hello").on_progress(callback());
        drop(call.timeout(Duration::ZERO).wait());
        dropped(4);
        let call = rpc.call([vec![0; 200_000]]).on_progress(callback());
        call.wait().unwrap_err();
        dropped(5);
        let lines = log.lines();
        assert!(
            lines.iter().all(|line| line == "dropped, true"),
            "{lines:?}"
        );
        rpc.call("exit").on_progress(callback()).wait().unwrap_err();
        eventually("dropped", || log.last().unwrap() == "dropped, false");

        // The callback holds the last handle.
        let rpc = start();
        let held = rpc.clone();
        let call = rpc
            .call("hello")
            .on_progress(move |_| assert!(held.pid().is_some()));
        let call = call.start();
        drop(rpc);
        call.wait().unwrap();
    });
}

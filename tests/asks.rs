//! The child asks its parent, and tells it things.

mod common;

use common::{Gate, Log, alone, bounded, eventually, logged, lost, obey, script};
use offspring::{
    Asker, BoxError, CallError, Caller, ErrorKind, Loop, Phase, Process, Refusal, Rpc, RpcBuilder,
    Stdio, Strings, Worker,
};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

/// What an ask ended with, as text.
fn told(outcome: Result<Strings, CallError>) -> String {
    match outcome {
        Ok(reply) => format!("ok {reply}"),
        Err(CallError::Failed(error)) => format!("failed {error}"),
        Err(CallError::Panicked(panic)) => format!("panicked {}", panic.message()),
        Err(CallError::Unanswered) => "unanswered".to_owned(),
        Err(CallError::Unserved(error)) => format!("unserved {:?} {error}", error.kind()),
        Err(CallError::Refused(refusal)) => format!("refused {refusal:?}"),
        Err(CallError::Lost(error, phase)) => format!("lost {:?} {phase:?}", error.kind()),
        Err(CallError::TimedOut(phase)) => format!("timed out {phase:?}"),
        Err(CallError::Cancelled(phase)) => format!("cancelled {phase:?}"),
        Err(error) => format!("else {error}"),
    }
}

/// Asks for the first string with the rest. With the verb `tell` in front, it tells it.
fn ask(request: Strings, caller: &Caller) -> Result<String, BoxError> {
    let service = str::from_utf8(&request[0])?;
    let rest: Strings = request.iter().skip(1).collect();
    match service {
        "tell" => {
            let rest: Strings = rest.iter().skip(1).collect();
            caller.tell(str::from_utf8(&request[1])?, rest);
            Ok("told".to_owned())
        }
        "impatient" => Ok(told(caller.ask_timeout(
            "never",
            rest,
            Duration::from_millis(20),
        ))),
        service => Ok(told(caller.ask(service, rest))),
    }
}

fn ask_later(request: Strings, caller: Caller, events: &Loop) {
    let rest: Strings = request.iter().skip(1).collect();
    match &request[0] {
        // Not on the loop, which would stop.
        b"blocking" => {
            let outcome = caller.ask("echo", ());
            caller.reply(told(outcome));
        }
        service => {
            let service = String::from_utf8_lossy(service).into_owned();
            events.ask(service, rest, |outcome, _| caller.reply(told(outcome)));
        }
    }
}

fn worker() -> Worker {
    Worker::new()
        .function("do", obey)
        .function("ask", ask)
        .threaded("ask on threads", ask)
        .deferred("ask later", ask_later)
        .threads(4)
}

/// One that has only returning functions, which are served by their own loop.
fn returning() -> Worker {
    Worker::new().function("do", obey).function("ask", ask)
}

/// A parent that serves a few things.
fn serving(me: &Process) -> RpcBuilder {
    let mut count = 0;
    me.clone()
        .stderr(Stdio::null())
        .rpc("do")
        .on_error(drop)
        .on_ask("echo", Ok)
        .on_ask("count", move |_| {
            count += 1;
            Ok(count.to_string())
        })
        .on_ask("fail", |why| Err::<(), _>(why.to_string().into()))
        .on_ask("panic", |why| -> Result<(), BoxError> { panic!("{why}") })
        .on_ask_deferred("drop", |_, asker| drop(asker))
        .on_ask_deferred("panic later", |_, _asker| panic!("later"))
        .on_ask_deferred("thread", |request, asker| {
            thread::spawn(move || asker.reply(request));
        })
}

#[test]
fn functions_of_all_kinds_ask_and_every_way_of_answering_arrives() {
    let all = std::env::var("OFFSPRING_TEST_KINDS").is_ok();
    let me = if all { worker() } else { returning() }.run_in_test();
    bounded(move || {
        let check = |rpc: &Rpc, name: &str| {
            let ask = rpc.function(name);
            for (request, wanted) in [
                (&["echo", "a", "b"][..], "ok a b"),
                (&["fail", "no luck"], "failed no luck"),
                (&["panic", "boom"], "panicked boom"),
                (&["drop"], "unanswered"),
                (&["panic later"], "panicked it panicked before it answered"),
                (&["thread", "x"], "ok x"),
            ] {
                let reply = ask.call(request).wait().unwrap();
                assert_eq!(reply, [wanted], "{name}");
            }
            let reply = ask.call("nothing").wait().unwrap().to_string();
            assert!(reply.starts_with("unserved NoFunction no service `nothing`; there are: "));
        };
        let rpc = serving(&me).start().unwrap();
        check(&rpc, "ask");
        rpc.finish().unwrap();
        let rpc = serving(&me.clone().env("OFFSPRING_TEST_KINDS", "all"))
            .start()
            .unwrap();
        for name in ["ask", "ask on threads", "ask later"] {
            check(&rpc, name);
        }
        let blocking = rpc.function("ask later").call("blocking").wait().unwrap();
        assert_eq!(blocking, ["refused InCallback"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn many_ask_at_the_same_time_and_large_things_go_both_ways() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = serving(&me).start().unwrap();
        let asks = ["ask", "ask on threads", "ask later"].map(|name| rpc.function(name));
        let calls: Vec<_> = (0..600)
            .map(|n| {
                let service = ["echo", "thread"][n % 2];
                let call = asks[n % 3].call([service, &n.to_string()]).start();
                (n, call)
            })
            .collect();
        for (n, call) in calls {
            assert_eq!(call.wait().unwrap(), [format!("ok {n}")]);
        }
        let long = "x".repeat(3 << 20);
        for ask in &asks {
            let reply = ask.call(["echo", &long]).wait().unwrap();
            assert_eq!(reply[0].len(), 3 + long.len());
        }
        rpc.finish().unwrap();
    });
}

/// What comes while a function waits for an answer is kept, and cancelled calls do not begin.
#[test]
fn requests_that_come_while_a_returning_function_asks_are_answered_after_it() {
    let all = std::env::var("OFFSPRING_TEST_KINDS").is_ok();
    let me = if all { worker() } else { returning() }
        .high_water(0)
        .run_in_test();
    bounded(move || {
        for me in [me.clone(), me.env("OFFSPRING_TEST_KINDS", "all")] {
            let (send, askers) = mpsc::channel();
            let rpc = serving(&me)
                .on_ask_deferred("later", move |_, asker| send.send(asker).unwrap())
                .start()
                .unwrap();
            let ask = rpc.function("ask");
            for round in 0..20 {
                let asking = ask.call("later").start();
                let asker = askers.recv().unwrap();
                let block = vec![7; 100_000];
                let behind: Vec<_> = (0..20)
                    .map(|_| rpc.call([&b"size"[..], &block]).start())
                    .collect();
                let again = ask.call(["echo", "behind"]).start();
                rpc.call(["exit", "7"]).start().cancel();
                assert!(!asker.is_cancelled());
                asker.reply(round.to_string());
                assert_eq!(asking.wait().unwrap(), [format!("ok {round}")]);
                for call in behind {
                    assert_eq!(call.wait().unwrap(), ["100000"]);
                }
                assert_eq!(again.wait().unwrap(), ["ok behind"]);
            }
            rpc.finish().unwrap();
        }
    });
}

/// A builder whose asks for `never` are sent here, and never answered.
fn with_never(me: &Process) -> (RpcBuilder, mpsc::Receiver<Asker>) {
    let (send, askers) = mpsc::channel();
    let never = move |_, asker| drop(send.send(asker));
    (serving(me).on_ask_deferred("never", never), askers)
}

#[test]
fn cancelled_call_ends_what_was_asked_for_it() {
    let me = worker()
        .function("report", |request, caller| {
            caller.event(ask(request, caller)?);
            Ok(())
        })
        .threaded("report on threads", |request, caller| {
            caller.event(ask(request, caller)?);
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        let (send, events) = mpsc::channel();
        let (builder, askers) = with_never(&me);
        let rpc = builder.on_event(move |event| send.send(event).unwrap());
        let rpc = rpc.start().unwrap();
        for name in ["report", "report on threads"] {
            let report = rpc.function(name);
            let call = report.call("never").start();
            let asker = askers.recv().unwrap();
            call.cancel();
            assert_eq!(events.recv().unwrap(), ["cancelled Begun"]);
            eventually("the asker knows", || asker.is_cancelled());
            // Too late, and no harm.
            asker.reply("late");
            // A timeout is a cancellation. On a busy machine it may pass before the function begins.
            let mut timeout = Duration::from_millis(20);
            loop {
                timeout *= 2;
                let outcome = report.call("never").timeout(timeout).wait();
                let timed_out = matches!(outcome, Err(CallError::TimedOut(_)));
                assert!(timed_out, "{outcome:?}");
                if askers.recv_timeout(timeout).is_ok() {
                    break;
                }
            }
            assert_eq!(events.recv().unwrap(), ["cancelled Begun"]);
            report.call(["echo", "on"]).wait().unwrap();
            let other = events.iter().find(|event| *event != ["cancelled Begun"]);
            assert_eq!(other.unwrap(), ["ok on"]);
        }
        rpc.finish().unwrap();
    });
}

#[test]
fn impatient_ask_ends_by_itself_and_its_answer_is_dropped() {
    let me = worker().run_in_test();
    bounded(move || {
        let (builder, askers) = with_never(&me);
        let rpc = builder.start().unwrap();
        for name in ["ask", "ask on threads"] {
            let ask = rpc.function(name);
            for _ in 0..5 {
                assert_eq!(ask.call("impatient").wait().unwrap(), ["timed out Begun"]);
                let asker = askers.recv().unwrap();
                eventually("the asker knows", || asker.is_cancelled());
                asker.reply("late");
            }
            assert_eq!(ask.call(["echo", "on"]).wait().unwrap(), ["ok on"]);
        }
        rpc.finish().unwrap();
    });
}

#[test]
fn asks_beyond_the_limit_are_refused_and_the_others_go_on() {
    let me = worker().run_in_test();
    bounded(move || {
        let (builder, askers) = with_never(&me);
        let rpc = builder.max_asks(3).start().unwrap();
        let later = rpc.function("ask later");
        let mut calls: Vec<_> = (0..10).map(|_| later.call("never").start()).collect();
        let three: Vec<_> = (0..3).map(|_| askers.recv().unwrap()).collect();
        for call in calls.split_off(3) {
            assert_eq!(call.wait().unwrap(), ["refused Full"]);
        }
        assert!(calls.iter_mut().all(|call| call.try_wait().is_none()));
        for asker in three {
            asker.reply("at last");
        }
        for call in calls {
            assert_eq!(call.wait().unwrap(), ["ok at last"]);
        }
        // There is room again once the answers are sent, which the child has read.
        assert_eq!(later.call(["echo", "on"]).wait().unwrap(), ["ok on"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn end_of_the_child_or_of_the_parents_interest_ends_asks() {
    let me = worker()
        .threaded("ask after it", |request, caller| {
            let parent = caller.parent().clone();
            let log = request.to_string();
            thread::spawn(move || {
                let outcome = told(parent.ask("never", ()));
                std::fs::write(log, outcome).unwrap();
            });
            Ok(())
        })
        .done(|events| {
            // Runs on until the thread has written.
            events.after(Duration::from_millis(200), |_| {});
        })
        .run_in_test();
    bounded(move || {
        // The parent wants no more calls: no answer can come.
        let log = std::env::temp_dir().join(format!("offspring-asks-{}", std::process::id()));
        let (builder, askers) = with_never(&me);
        let rpc = builder.start().unwrap();
        let after = rpc.function("ask after it");
        after.call(log.to_str().unwrap()).wait().unwrap();
        let asker = askers.recv().unwrap();
        drop(after);
        rpc.finish().unwrap();
        let outcome = std::fs::read_to_string(&log).unwrap();
        std::fs::remove_file(&log).unwrap();
        assert_eq!(outcome, "lost Died Begun");
        assert!(asker.is_cancelled(), "nobody waits");
        asker.reply("to nobody");
        // The child dies.
        let (builder, askers) = with_never(&me);
        let rpc = builder.start().unwrap();
        let call = rpc.function("ask").call("never").start();
        let asker = askers.recv().unwrap();
        assert_eq!(asker.pid(), rpc.pid());
        rpc.kill();
        assert_eq!(lost(call.wait()).kind(), ErrorKind::Killed);
        eventually("the asker knows", || asker.is_cancelled());
        drop(asker);
        rpc.finish().unwrap_err();
    });
}

/// A callback must not wait, whatever for: nothing would be read.
#[test]
fn callback_that_waits_for_the_child_which_asks_is_refused() {
    let me = worker().run_in_test();
    bounded(move || {
        let itself: Arc<Mutex<Option<Rpc>>> = Arc::default();
        let rpc_in_callback = Arc::clone(&itself);
        let rpc = serving(&me)
            .on_ask("call back", move |_| {
                let rpc = rpc_in_callback.lock().unwrap().clone().unwrap();
                match rpc.call("pid").wait() {
                    Err(CallError::Refused(Refusal::InCallback)) => Ok("it is refused"),
                    other => Err(format!("{other:?}").into()),
                }
            })
            .start()
            .unwrap();
        *itself.lock().unwrap() = Some(rpc.clone());
        let reply = rpc.function("ask").call("call back").wait().unwrap();
        assert_eq!(reply, ["ok it is refused"]);
        itself.lock().unwrap().take();
        rpc.finish().unwrap();
    });
}

#[test]
fn what_is_told_arrives_in_order_with_everything_else() {
    let me = Worker::new()
        .function("mix", |_, caller| {
            for n in 0..100 {
                caller.event(format!("event {n}"));
                caller.tell("note", format!("note {n}"));
                caller.progress(format!("progress {n}"));
                caller.ask("note", format!("ask {n}"))?;
            }
            Ok("reply")
        })
        .run_in_test();
    bounded(move || {
        let log = Log::default();
        let (one, two, three) = (log.clone(), log.clone(), log.clone());
        let rpc = me
            .rpc("mix")
            .on_event(move |event| one.add(event.to_string()))
            .on_ask("note", move |note| {
                two.add(note.to_string());
                Ok(())
            })
            .start()
            .unwrap();
        let call = rpc
            .call(())
            .on_progress(move |it| three.add(it.to_string()));
        assert_eq!(call.wait().unwrap(), ["reply"]);
        let want = (0..100)
            .flat_map(|n| ["event", "note", "progress", "ask"].map(|what| format!("{what} {n}")));
        assert!(log.lines().into_iter().eq(want));
        rpc.finish().unwrap();
    });
}

#[test]
fn what_is_told_and_nobody_serves_is_dropped() {
    let me = worker().run_in_test();
    alone(move || {
        let rpc = serving(&me).start().unwrap();
        let ask = rpc.function("ask");
        for _ in 0..3 {
            assert_eq!(ask.call(["tell", "nobody", "x"]).wait().unwrap(), ["told"]);
            // Its error goes to the log: see `logging.rs`.
            assert_eq!(ask.call(["tell", "fail", "x"]).wait().unwrap(), ["told"]);
            assert_eq!(ask.call(["tell", "drop", "x"]).wait().unwrap(), ["told"]);
        }
        assert_eq!(ask.call(["echo", "on"]).wait().unwrap(), ["ok on"]);
        rpc.finish().unwrap();
    });
}

/// Waits for its threads when it is dropped.
#[derive(Default)]
struct Joined(Vec<thread::JoinHandle<()>>);

impl Drop for Joined {
    fn drop(&mut self) {
        for thread in self.0.drain(..) {
            thread.join().unwrap();
        }
    }
}

#[test]
fn thread_of_the_programs_own_asks_until_the_requests_end() {
    // In a child with returning functions only, and in one with others.
    let all = std::env::var("OFFSPRING_TEST_KINDS").is_ok();
    let mut joined = Joined::default();
    let me = if all { worker() } else { returning() }
        .function("ask on a thread", move |_, caller| {
            let parent = caller.parent().clone();
            joined
                .0
                .push(thread::spawn(move || match parent.ask("never", ()) {
                    Err(CallError::Lost(_, Phase::Begun)) => {}
                    other => panic!("{other:?}"),
                }));
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        for me in [me.clone(), me.env("OFFSPRING_TEST_KINDS", "all")] {
            let (builder, askers) = with_never(&me);
            let rpc = builder.grace(Duration::MAX).start().unwrap();
            rpc.function("ask on a thread").call(()).wait().unwrap();
            let _asker = askers.recv().unwrap();
            let exit = rpc.finish().unwrap();
            assert!(exit.status().unwrap().success(), "{exit:?}");
        }
    });
}

#[test]
fn child_that_asks_with_the_id_of_an_open_ask_is_ended() {
    bounded(|| {
        let ask =
            "send '\\0200\\0\\0\\0\\0\\0\\0\\0027\\0003ask\\00017\\0007service\\00010\\0006octets'";
        let child = script(&format!("ready; {ask}; {ask}; exec cat >/dev/null"));
        let (builder, log) = logged(child.rpc("any"));
        let (send, askers) = mpsc::channel();
        let rpc = builder
            .on_ask_deferred("service", move |_, asker| send.send(asker).unwrap())
            .start()
            .unwrap();
        let error = lost(rpc.call("hello").wait());
        assert_eq!(error.kind(), ErrorKind::Protocol);
        let text = error.to_string();
        assert!(
            text.contains("an ask with id 0x7, which is not answered yet"),
            "{text}"
        );
        assert_eq!(log.end(), "error: Protocol");
        // The first has come, and its answer goes nowhere.
        let [asker] = askers
            .try_iter()
            .collect::<Vec<Asker>>()
            .try_into()
            .unwrap();
        assert!(asker.is_cancelled());
        asker.reply("late");
    });
}

#[cfg(feature = "json")]
#[test]
fn asks_have_types_and_other_versions_are_refused() {
    use offspring::{Json, Service};
    const SETTING: Service<Json, String, u32, u8> = Service::new("setting").version(2);
    let me = Worker::new()
        .function("ask", |name, caller| {
            let name = name.to_string();
            let one = match caller.ask(SETTING, &name) {
                Ok(value) => value.to_string(),
                Err(CallError::Failed(code)) => format!("code {code}"),
                Err(error) => error.to_string(),
            };
            let old = caller
                .ask(SETTING.version(1), name)
                .unwrap_err()
                .to_string();
            Ok([one, old])
        })
        .run_in_test();
    bounded(move || {
        let rpc = me
            .rpc("ask")
            .on_ask(
                SETTING,
                |name| if name == "width" { Ok(80) } else { Err(7) },
            )
            .start()
            .unwrap();
        for (name, want) in [("width", "80"), ("height", "code 7")] {
            let reply = rpc.call(name).wait().unwrap();
            let [value, old] = reply.texts().unwrap();
            assert_eq!(value, want);
            let text = "version 2 and codec `json` in the parent, version 1";
            assert!(old.contains(text), "{old}");
        }
    });
}

#[test]
fn too_long_a_request_or_answer_is_an_error_of_the_ask() {
    let me = Worker::new()
        .function("ask", |request, caller| {
            let len: usize = request.to_string().parse()?;
            Ok(told(caller.ask("repeat", ["x".repeat(len)])))
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("ask").max_frame(1000).on_ask("repeat", |request| {
            let text = request.to_string();
            Ok([text.clone(), text])
        });
        let rpc = rpc.start().unwrap();
        for (len, wanted) in [
            ("10", "ok xxxxxxxxxx xxxxxxxxxx"),
            ("2000", "refused TooLarge { len: 2002, limit: 1000 }"),
            (
                "900",
                "else malformed: the answer has 1804 bytes, above the limit (max_frame) of 1000",
            ),
        ] {
            assert_eq!(rpc.call(len).wait().unwrap(), [wanted]);
        }
        rpc.finish().unwrap();
    });
}

/// The parent may need a call of the child to answer.
#[test]
fn threaded_calls_begin_while_a_returning_function_asks_or_checks() {
    let me = worker()
        .threaded("do on threads", obey)
        .function("until cancelled", |_, caller| {
            caller.event("begun");
            while !caller.is_cancelled() {
                thread::yield_now();
            }
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        let itself: Arc<Mutex<Option<Rpc>>> = Arc::default();
        let (to_call, (send, events)) = (Arc::clone(&itself), mpsc::channel());
        let rpc = serving(&me)
            .on_event(move |event| send.send(event).unwrap())
            .on_ask_deferred("what the threads say", move |request, asker| {
                let rpc = to_call.lock().unwrap().clone().unwrap();
                thread::spawn(move || {
                    // The first is at a gate all the time, and so needs another thread.
                    let threads = rpc.function("do on threads");
                    let said = threads.call(["echo", &request.to_string()]).wait();
                    asker.answer(said);
                });
            })
            .start()
            .unwrap();
        *itself.lock().unwrap() = Some(rpc.clone());
        let (gate, threads) = (Gate::new(), rpc.function("do on threads"));
        for wanted in ["none is there", "one is busy"] {
            let reply = rpc
                .function("ask")
                .call(["what the threads say", wanted])
                .wait();
            assert_eq!(reply.unwrap(), [format!("ok {wanted}")]);
            let _ = threads.call(["gate", gate.name()]).start();
            std::mem::forget(gate.entered());
        }
        let checking = rpc.function("until cancelled").call(()).start();
        assert_eq!(events.recv().unwrap(), ["begun"]);
        let reply = threads.call(["echo", "another"]).wait().unwrap();
        assert_eq!(reply, ["another"]);
        checking.cancel();
        itself.lock().unwrap().take();
        rpc.kill();
    });
}

#[test]
fn impatient_ask_ends_in_a_child_that_may_outlive_its_parent() {
    let me = returning()
        .function("impatient", |_, caller| {
            // Longer than a read that ends by itself.
            Ok(told(caller.ask_timeout(
                "never",
                (),
                Duration::from_millis(120),
            )))
        })
        .run_in_test();
    bounded(move || {
        for me in [me.clone(), me.outlive_parent()] {
            let (builder, _askers) = with_never(&me);
            let rpc = builder.start().unwrap();
            let reply = rpc.function("impatient").call(()).wait().unwrap();
            assert_eq!(reply, ["timed out Begun"]);
            rpc.finish().unwrap();
        }
    });
}

#[test]
fn impatient_ask_does_not_wait_for_room_to_write() {
    let me = worker()
        .threaded("long", |request, caller| {
            let [done, inside] = request.texts()?;
            Gate::enter(inside);
            let long = "x".repeat(8 << 20);
            let outcome = caller.ask_timeout("echo", &long, Duration::from_millis(20));
            assert_eq!(told(outcome), "timed out Begun");
            Gate::announce(done);
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        let (busy, done, inside) = (Gate::new(), Gate::new(), Gate::new());
        let name = busy.name().to_owned();
        let rpc = serving(&me).on_ask("block", move |_| {
            // As a callback must not do: nothing is read meanwhile.
            Gate::enter(&name);
            Ok(())
        });
        let rpc = rpc.start().unwrap();
        let long = rpc
            .function("long")
            .call([done.name(), inside.name()])
            .start();
        let at_gate = inside.entered();
        let blocked = rpc.function("ask on threads").call("block").start();
        let busy = busy.entered();
        at_gate.open();
        drop(done.entered());
        busy.open();
        blocked.wait().unwrap();
        long.wait().unwrap();
        rpc.finish().unwrap();
    });
}

#[test]
fn names_of_any_length_are_errors_of_their_asks_only() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = serving(&me).max_frame(1 << 20).start().unwrap();
        for len in [1000, 32_768, 32_769, 100_000] {
            let name = "x".repeat(len);
            for ask in ["ask", "ask on threads", "ask later"] {
                let reply = rpc.function(ask).call([&name]).wait().unwrap().to_string();
                assert!(
                    reply.starts_with("unserved NoFunction no service `xxx"),
                    "{reply}"
                );
            }
            rpc.function("ask")
                .call(["tell", &name, "x"])
                .wait()
                .unwrap();
        }
        rpc.finish().unwrap();
    });
}

/// A loop reads nothing while a callback runs: it is not to be taken for one that never reads.
#[test]
fn loop_may_ask_as_much_as_it_likes() {
    let me = Worker::new()
        .deferred("ask", |_, caller, events| {
            use std::cell::RefCell;
            use std::rc::Rc;
            const ASKS: usize = 200_000;
            let ended = Rc::new(RefCell::new((0, 0, Some(caller))));
            for _ in 0..ASKS {
                let ended = Rc::clone(&ended);
                events.ask("echo", "x", move |outcome, _| {
                    let (answered, refused, caller) = &mut *ended.borrow_mut();
                    match outcome {
                        Ok(_) => *answered += 1,
                        Err(CallError::Refused(Refusal::Full)) => *refused += 1,
                        Err(error) => panic!("{error}"),
                    }
                    if *answered + *refused == ASKS {
                        let few = [answered, refused].iter().any(|n| **n == 0);
                        caller.take().unwrap().reply(format!("{few}"));
                    }
                });
            }
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("ask").on_ask("echo", Ok).start().unwrap();
        for _ in 0..2 {
            assert_eq!(rpc.call(()).wait().unwrap(), ["false"], "some of each");
        }
        rpc.finish().unwrap();
    });
}

#[test]
fn error_that_cannot_be_shown_is_a_panic_with_its_message() {
    #[derive(Debug)]
    struct Unspeakable;
    impl std::fmt::Display for Unspeakable {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("words fail")
        }
    }
    impl std::error::Error for Unspeakable {}
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = serving(&me).on_ask("unspeakable", |_| Err::<(), _>(Unspeakable.into()));
        let rpc = rpc.start().unwrap();
        let reply = rpc.function("ask").call("unspeakable").wait().unwrap();
        assert_eq!(reply, ["panicked words fail"]);
        rpc.finish().unwrap();
    });
}

/// Storm: asks, cancellations and kills, in which every call ends once.
#[test]
fn asks_and_kills_leave_nothing_behind() {
    let me = worker().run_in_test();
    alone(move || {
        for round in 0..30 {
            let (builder, askers) = with_never(&me);
            let rpc = builder.start().unwrap();
            let asks = ["ask", "ask on threads", "ask later"].map(|name| rpc.function(name));
            let (send, ended) = mpsc::channel();
            for n in 0..60 {
                let service = ["echo", "never", "thread"][n / 3 % 3];
                let send = send.clone();
                let call = asks[n % 3].call([service, "x"]);
                let call = call.timeout(Duration::from_millis(5 + n as u64 % 7));
                call.then(move |outcome| send.send((n, outcome.is_ok())).unwrap());
            }
            drop(send);
            if round % 2 == 0 {
                rpc.kill();
            }
            let mut all: Vec<_> = ended.iter().map(|(n, _)| n).collect();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..60));
            drop(askers);
            drop(asks);
            let _ = rpc.finish();
        }
        eventually("no thread is left", || common::reactors() == 0);
    });
}

#[test]
fn child_that_was_told_to_end_ends_though_it_asks() {
    let me = worker().run_in_test();
    bounded(move || {
        let (builder, askers) = with_never(&me);
        let rpc = builder.start().unwrap();
        let call = rpc.function("ask on threads").call("never").start();
        let asker = askers.recv().unwrap();
        let error = rpc.finish_timeout(Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stopped);
        let outcome = call.wait();
        assert!(
            matches!(outcome, Err(CallError::Lost(_, Phase::Begun))),
            "{outcome:?}"
        );
        drop(asker);
    });
}

//! A child's log records go to its parent's logger.

#![cfg(feature = "log")]

mod common;

use common::{Gate, Log as Lines, bounded, eventually, lost, obey};
use log::{Level, LevelFilter, Log, Metadata, Record, debug, error, info, trace, warn};
use offspring::{CallError, Caller, Loop, Process, Rpc, Stdio, Strings, Worker};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

/// A record as the parent's logger received it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Got {
    level: Level,
    target: String,
    module: Option<String>,
    file: Option<String>,
    line: Option<u32>,
    message: String,
}

/// The parent's logger. All tests in a process share it; each selects its own children.
#[derive(Default)]
struct Logger {
    got: Mutex<Vec<Got>>,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() != "of no interest"
    }

    fn log(&self, record: &Record<'_>) {
        let got = Got {
            level: record.level(),
            target: record.target().to_owned(),
            module: record.module_path().map(str::to_owned),
            file: record.file().map(str::to_owned),
            line: record.line(),
            message: record.args().to_string(),
        };
        ORDER.with_borrow(|order| {
            if let Some(order) = order {
                order.add(format!("log: {}", got.message));
            }
        });
        self.got.lock().unwrap().push(got);
    }

    fn flush(&self) {}
}

thread_local! {
    /// A second destination for records that arrive on this thread, which is a reactor's.
    static ORDER: std::cell::RefCell<Option<Lines>> = const { std::cell::RefCell::new(None) };
}

/// Sets the parent's logger. To be called after `run_in_test`, where the child sets its own.
fn logger() -> &'static Logger {
    LOGGER.get_or_init(Logger::default);
    let logger = LOGGER.get().unwrap();
    if log::set_logger(logger).is_ok() {
        log::set_max_level(LevelFilter::Trace);
    }
    logger
}

impl Logger {
    /// The records of a child, without the prefix that names it.
    fn of(&self, pid: u32) -> Vec<Got> {
        let prefix = format!("[pid {pid}] ");
        let got = self.got.lock().unwrap();
        let of_it = got.iter().filter_map(|got| {
            let message = got.message.strip_prefix(&prefix)?.to_owned();
            Some(Got {
                message,
                ..got.clone()
            })
        });
        of_it.collect()
    }

    fn messages(&self, pid: u32) -> Vec<String> {
        self.of(pid).into_iter().map(|got| got.message).collect()
    }
}

fn worker() -> Worker {
    Worker::new()
        .setup("speak", |strings| {
            info!("setting up {strings}");
            thread::spawn(|| info!("from a setup's thread"))
                .join()
                .unwrap();
            Ok(())
        })
        .setup("fail", |_| {
            warn!("about to fail");
            Err("no luck".into())
        })
        .function("do", |request: Strings, caller: &Caller| {
            match &request[0] {
                b"levels" => {
                    error!("e");
                    warn!("w");
                    info!("i");
                    debug!("d");
                    trace!("t");
                    Ok(Strings::new())
                }
                b"log" => {
                    info!("{}", request.texts::<2>()?[1]);
                    Ok(Strings::new())
                }
                b"mix" => {
                    caller.event("one");
                    info!("two");
                    caller.progress("three");
                    info!("four");
                    caller.event("five");
                    Ok(["six"].into_iter().collect())
                }
                b"targets" => {
                    info!(target: "of no interest", "not to be seen");
                    info!(target: "elsewhere", "to be seen");
                    Ok(Strings::new())
                }
                b"tell" => {
                    caller.tell(request.texts::<2>()?[1], "x");
                    Ok(Strings::new())
                }
                b"long" => {
                    info!("{}", "\u{e9}".repeat(1 << 20));
                    Ok(Strings::new())
                }
                b"log and abort" => {
                    error!("all is lost");
                    std::process::abort()
                }
                b"panic and abort" => panic_twice(),
                _ => obey(request, caller),
            }
        })
        .log(LevelFilter::Debug)
}

fn panic_twice() -> ! {
    struct Twice;
    impl Drop for Twice {
        fn drop(&mut self) {
            panic!("panic in a destructor");
        }
    }
    let _twice = Twice;
    panic!("the first panic");
}

fn start(me: &Process) -> (Rpc, u32) {
    let rpc = me.rpc("do").on_error(drop).start().unwrap();
    let pid = rpc.pid().unwrap();
    (rpc, pid)
}

#[test]
fn records_keep_all_their_fields() {
    let me = worker().run_in_test();
    let logger = logger();
    bounded(move || {
        let (rpc, pid) = start(&me);
        rpc.call(["log", "hello"]).wait().unwrap();
        let got = logger.of(pid);
        assert_eq!(got.len(), 1, "{got:?}");
        assert_eq!(got[0].message, "hello");
        assert_eq!(got[0].level, Level::Info);
        assert_eq!(got[0].target, "logging");
        assert_eq!(got[0].module.as_deref(), Some("logging"));
        assert_eq!(got[0].file.as_deref(), Some(file!()));
        assert!(got[0].line.is_some());
        rpc.finish().unwrap();
    });
}

#[test]
fn worker_sets_the_level() {
    let me = worker().run_in_test();
    let logger = logger();
    bounded(move || {
        let (rpc, pid) = start(&me);
        rpc.call("levels").wait().unwrap();
        let got = logger.of(pid);
        let levels: Vec<_> = got
            .iter()
            .map(|got| (got.level, got.message.as_str()))
            .collect();
        let want = [
            (Level::Error, "e"),
            (Level::Warn, "w"),
            (Level::Info, "i"),
            (Level::Debug, "d"),
        ];
        assert_eq!(levels, want);
        rpc.finish().unwrap();
    });
}

#[test]
fn parents_logger_filters_records() {
    let me = worker().run_in_test();
    let logger = logger();
    bounded(move || {
        let (rpc, pid) = start(&me);
        rpc.call("targets").wait().unwrap();
        assert_eq!(logger.messages(pid), ["to be seen"]);
        assert_eq!(logger.of(pid)[0].target, "elsewhere");
        rpc.finish().unwrap();
    });
}

#[test]
fn records_of_setups_come_before_the_child_is_ready() {
    let me = worker().run_in_test();
    let logger = logger();
    bounded(move || {
        let me = me.setup("speak", ["a", "b"]);
        let (rpc, pid) = start(&me);
        rpc.call(["log", "ready"]).wait().unwrap();
        let want = ["setting up a b", "from a setup's thread", "ready"];
        assert_eq!(logger.messages(pid), want);
        rpc.finish().unwrap();

        // A child that fails to start logs, too.
        let (rpc, pid) = start(&me.setup("fail", ()));
        let error = rpc.wait_ready().unwrap_err();
        assert!(error.to_string().contains("no luck"), "{error}");
        assert_eq!(logger.messages(pid)[2..], ["about to fail"]);
    });
}

/// The error of a callback that nobody waits for, and once that there is no such callback.
#[test]
fn what_a_child_tells_in_vain_is_a_record() {
    let me = worker().run_in_test();
    let logger = logger();
    bounded(move || {
        let rpc = me.rpc("do");
        let rpc = rpc.on_ask("in vain", |_| Err::<(), _>("no luck".into()));
        let rpc = rpc.start().unwrap();
        let pid = rpc.pid().unwrap();
        for name in ["in vain", "to nobody", "in vain", "to nobody"] {
            rpc.call(["tell", name]).wait().unwrap();
        }
        rpc.finish().unwrap();
        let own = |part: &str| {
            let got = logger.got.lock().unwrap();
            let messages = got.iter().map(|got| got.message.clone());
            messages
                .filter(|message| message.contains(part))
                .collect::<Vec<_>>()
        };
        assert_eq!(own("what a child told `in vain` failed: no luck").len(), 2);
        let dropped = own(&format!("(pid {pid})"));
        let want = "dropped what the child tells: no service `to nobody`; there are: `in vain`; only the \
                    first is reported";
        assert_eq!(dropped, [format!("{want} (pid {pid})")]);
    });
}

#[test]
fn records_come_in_order_with_everything_else() {
    let me = worker().run_in_test();
    logger();
    bounded(move || {
        let log = Lines::default();
        let events = log.clone();
        let rpc = me.rpc("do").on_event(move |event| {
            // From the first event on, records on this thread are added to the same log.
            ORDER.replace(Some(events.clone()));
            events.add(format!("event: {event}"));
        });
        let rpc = rpc.start().unwrap();
        let pid = rpc.pid().unwrap();
        let (progress, reply) = (log.clone(), log.clone());
        rpc.call("mix")
            .on_progress(move |what| progress.add(format!("progress: {what}")))
            .then(move |outcome| reply.add(format!("reply: {}", outcome.unwrap())));
        rpc.finish().unwrap();
        let want = [
            "event: one".to_owned(),
            format!("log: [pid {pid}] two"),
            "progress: three".to_owned(),
            format!("log: [pid {pid}] four"),
            "event: five".to_owned(),
            "reply: six".to_owned(),
        ];
        assert_eq!(log.lines(), want);
    });
}

fn everywhere(_: Strings, caller: Caller, events: &Loop) {
    info!("function");
    let poster = events.poster();
    events.after(Duration::ZERO, move |events| {
        info!("timer");
        events.offload(
            || info!("offload"),
            move |(), _| {
                thread::spawn(move || {
                    info!("thread");
                    poster.post(|_| {
                        info!("post");
                        caller.reply(());
                    });
                });
            },
        );
    });
}

#[test]
fn records_come_from_everywhere_in_a_child() {
    let me = Worker::new()
        .deferred("deferred", everywhere)
        .threaded("threaded", |request: Strings, _: &Caller| {
            for n in 0..50 {
                info!("{request} {n}");
            }
            Ok(())
        })
        .threads(4)
        .log(LevelFilter::Info)
        .run_in_test();
    let logger = logger();
    bounded(move || {
        let rpc = me.rpc("deferred").start().unwrap();
        rpc.call(()).wait().unwrap();
        let want = ["function", "timer", "offload", "thread", "post"];
        assert_eq!(logger.messages(rpc.pid().unwrap()), want);
        rpc.finish().unwrap();

        let rpc = me.rpc("threaded").start().unwrap();
        let pid = rpc.pid().unwrap();
        let calls: Vec<_> = (0..20).map(|n| rpc.call(n.to_string()).start()).collect();
        for call in calls {
            call.wait().unwrap();
        }
        let messages = logger.messages(pid);
        assert_eq!(messages.len(), 20 * 50);
        for n in 0..20 {
            let prefix = format!("{n} ");
            let its = messages.iter().filter_map(|m| m.strip_prefix(&prefix));
            assert!(its.eq((0..50).map(|n| n.to_string())), "{n}");
        }
        rpc.finish().unwrap();
    });
}

/// Each record is sent to the parent of the process that made it.
#[test]
fn records_of_copies_are_theirs() {
    let me = worker().run_in_test();
    let logger = logger();
    bounded(move || {
        let template = me.setup("speak", ["before"]).template();
        let copy = |text: &str| {
            let copy = template.clone().setup("speak", [text]);
            copy.rpc("do").start().unwrap()
        };
        for (rpc, text) in [(copy("one"), "one"), (copy("other"), "other")] {
            rpc.call(["log", text]).wait().unwrap();
            let want = [&format!("setting up {text}"), "from a setup's thread", text];
            assert_eq!(logger.messages(rpc.pid().unwrap()), want);
            rpc.finish().unwrap();
        }
        let all = logger.got.lock().unwrap();
        let before = |got: &&Got| got.message.ends_with("setting up before");
        assert_eq!(all.iter().filter(before).count(), 1);
    });
}

#[test]
fn panic_is_a_record_and_the_calls_error() {
    let me = worker()
        .deferred("later", |request: Strings, caller: Caller, events| {
            let owned = (request == ["owned"]).then_some(caller);
            events.after(Duration::ZERO, move |_| {
                let _owned = owned;
                panic!("in a timer");
            });
        })
        .run_in_test();
    let logger = logger();
    bounded(move || {
        let (rpc, pid) = start(&me);
        let outcome = rpc.call(["panic", "dear me"]).wait();
        let Err(CallError::Panicked(panic)) = outcome else {
            panic!("it should have panicked: {outcome:?}");
        };
        let got = logger.of(pid);
        assert_eq!(got.len(), 1, "{got:?}");
        let place = (got[0].level, got[0].target.as_str());
        assert_eq!(place, (Level::Error, "panic"));
        for part in ["dear me", panic.location()] {
            assert!(got[0].message.contains(part), "{got:?}");
        }
        rpc.finish().unwrap();

        let log = Lines::default();
        let events = log.clone();
        let rpc = me.rpc("later").on_event(move |event| {
            events.add(event.to_string());
        });
        let rpc = rpc.start().unwrap();
        let pid = rpc.pid().unwrap();
        assert!(rpc.call("owned").wait().is_err());
        assert_eq!(logger.of(pid).len(), 1);
        // The call was dropped before the panic, which then belongs to no call.
        assert!(rpc.call("not owned").wait().is_err());
        eventually("the event", || log.lines().len() == 1);
        assert_eq!(logger.of(pid).len(), 2);
        rpc.finish().unwrap();
    });
}

#[test]
fn records_before_a_crash_arrive() {
    let me = worker()
        .deferred("deferred", |_, _, _| panic_twice())
        .threaded("threaded", |_, _| -> Result<(), _> { panic_twice() })
        .run_in_test();
    let logger = logger();
    bounded(move || {
        let me = me.stderr(Stdio::null());
        let (rpc, pid) = start(&me);
        lost(rpc.call("log and abort").wait());
        assert_eq!(logger.messages(pid), ["all is lost"]);

        for function in ["do", "deferred", "threaded"] {
            let rpc = me.rpc(function).on_error(drop).start().unwrap();
            lost(rpc.call("panic and abort").wait());
            let messages = logger.messages(rpc.pid().unwrap());
            assert!(messages[0].contains("the first panic"), "{messages:?}");
            assert!(messages[1].contains("in a destructor"), "{messages:?}");
        }
    });
}

#[test]
fn long_record_is_truncated() {
    let me = worker().run_in_test();
    let logger = logger();
    bounded(move || {
        // Even far above the parent's limit for everything else.
        let rpc = me.rpc("do").max_frame(100).start().unwrap();
        rpc.call("long").wait().unwrap();
        let messages = logger.messages(rpc.pid().unwrap());
        assert_eq!(messages.len(), 1);
        assert!(messages[0].len() > 1000 && messages[0].len() < 1 << 20);
        assert!(messages[0].chars().all(|c| c == '\u{e9}'));
        rpc.finish().unwrap();
    });
}

#[test]
fn thread_that_outlives_its_call_still_logs() {
    let me = worker()
        .function("leave", |request: Strings, _: &Caller| {
            thread::spawn(move || {
                Gate::enter(request.texts::<1>().unwrap()[0]);
                info!("still here");
            });
            Ok(())
        })
        .run_in_test();
    let logger = logger();
    bounded(move || {
        let rpc = me.rpc("leave").start().unwrap();
        let gate = Gate::new();
        rpc.call(gate.name()).wait().unwrap();
        gate.entered().open();
        let pid = rpc.pid().unwrap();
        eventually("the record", || logger.messages(pid) == ["still here"]);
        rpc.finish().unwrap();
    });
}

#[test]
fn logger_that_was_set_before_is_a_start_error() {
    let me = {
        // The child executes this, too.
        logger();
        worker().run_in_test()
    };
    bounded(move || {
        let (rpc, _) = start(&me);
        let error = rpc.wait_ready().unwrap_err();
        assert_eq!(error.kind(), offspring::ErrorKind::Setup);
        assert!(error.to_string().contains("after run()"), "{error}");
    });
}

#[test]
fn error_without_any_handler_goes_to_the_log() {
    let me = worker().run_in_test();
    let logger = logger();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        let error = lost(rpc.call(["exit", "7"]).wait());
        let again = rpc.finish().unwrap_err();
        assert_eq!(error.to_string(), again.to_string());
        let got = logger.got.lock().unwrap();
        let record = got.iter().find(|got| got.message == error.to_string());
        let record = record.expect("it is in the log");
        assert_eq!(record.level, Level::Error);
        assert_eq!(record.target, "offspring");
    });
}

#[test]
fn first_event_without_a_handler_goes_to_the_log_and_all_are_dropped() {
    let me = worker().run_in_test();
    let logger = logger();
    bounded(move || {
        let (rpc, pid) = start(&me);
        for event in ["one", "two"] {
            rpc.call(["event", event]).wait().unwrap();
        }
        rpc.finish().unwrap();
        let got = logger.got.lock().unwrap();
        let of_it = |got: &&Got| got.message.ends_with(&format!("(pid {pid})"));
        let records: Vec<_> = got.iter().filter(of_it).collect();
        let [record] = records[..] else {
            panic!("one is reported: {records:?}");
        };
        assert!(record.message.contains("no on_event(): one;"), "{record:?}");
        assert_eq!((record.level, &*record.target), (Level::Error, "offspring"));
    });
}

#[test]
fn pools_children_that_fail_to_start_are_logged_unless_the_program_is_told() {
    let _ = worker().run_in_test();
    let logger = logger();
    let count = |path: &str| {
        let got = logger.got.lock().unwrap();
        let of_it = got.iter().filter(|got| got.message.contains(path));
        let levels = of_it.map(|got| (got.target.as_str(), got.level));
        levels
            .filter(|it| *it == ("offspring", Level::Error))
            .count()
    };
    bounded(move || {
        let call = |path: &str, is_told: bool| {
            let pool = Process::exe(path).pool("do");
            let pool = match is_told {
                true => pool.on_exit(|_| ()),
                false => pool,
            };
            let pool = pool.start().unwrap();
            let outcome: Result<Strings, _> = pool.call("x").wait();
            assert!(matches!(outcome, Err(CallError::Lost(..))));
            let started = pool.stats().started;
            pool.finish().unwrap();
            started as usize
        };
        let started = call("/no/such/program/1", false);
        assert_eq!(count("/no/such/program/1"), started);
        call("/no/such/program/2", true);
        assert_eq!(count("/no/such/program/2"), 0);
    });
}

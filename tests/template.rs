//! Copies of a template: what they share, what is their own, and how they end.

#![expect(
    unsafe_code,
    reason = "signals, threads and copies of the program's own"
)]

mod common;

use common::{
    Gate, Random, Storm, alone, await_sleep, bounded, children, children_of, descriptors,
    eventually, group, is_gone, lost, obey, session, signal, stop, unprivileged,
};
use offspring::{
    BoxError, CallError, Error, ErrorKind, Fd, Group, Limit, Process, Rpc, Stdio, Strings, Worker,
};
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

/// What setups and hooks have done in this process, by the ids of the processes that did it.
static DONE: Mutex<Vec<(String, u32)>> = Mutex::new(Vec::new());

fn done(what: impl Into<String>) {
    DONE.lock().unwrap().push((what.into(), std::process::id()));
}

fn worker() -> Worker {
    Worker::new()
        .setup("note", |request| {
            done(request.to_string());
            Ok(())
        })
        .setup("exit", |_| std::process::exit(7))
        .setup("fail", |request| Err(request.to_string().into()))
        .setup("print", |request| {
            print!("{request}");
            Ok(())
        })
        .setup("thread", |request| {
            let name = request.to_string();
            let thread = thread::Builder::new().name(name.clone()).spawn(move || {
                if name != "joined" {
                    loop {
                        thread::park();
                    }
                }
            });
            let thread = thread?;
            if request == ["joined"] {
                thread.join().unwrap();
            }
            Ok(())
        })
        .setup("signals", |_| {
            // SAFETY: to ignore a signal is valid.
            unsafe { libc::signal(libc::SIGUSR1, libc::SIG_IGN) };
            // SAFETY: so is the default.
            unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
            // SAFETY: all-zero is an empty set.
            let mut set = unsafe { std::mem::zeroed() };
            // SAFETY: the set is initialised.
            unsafe { libc::sigaddset(&raw mut set, libc::SIGTERM) };
            // SAFETY: the set is initialised; the old one is not wanted.
            unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
            Ok(())
        })
        .setup("descriptor", |mut request| {
            let [file] = request.take_fds()?;
            std::mem::forget(file);
            Ok(())
        })
        .after_fork(|| done("first hook"))
        .after_fork(|| done("second hook"))
        .function("do", obey)
        .function("done", |_, _| {
            let done = DONE.lock().unwrap();
            let me = std::process::id();
            let where_done = |pid| if pid == me { "here" } else { "before" };
            let lines = done
                .iter()
                .map(|(what, pid)| format!("{what} {}", where_done(*pid)));
            Ok(lines.collect::<Strings>())
        })
        .function("parent", |_, _| {
            Ok(std::os::unix::process::parent_id().to_string())
        })
        .function("status", |request, _| {
            let [field] = request.texts()?;
            let status = fs::read_to_string("/proc/thread-self/status")?;
            let mut lines = status.lines().filter_map(|line| line.split_once(':'));
            let field = lines
                .find(|(name, _)| *name == field)
                .ok_or("no such field")?;
            Ok(field.1.trim().to_owned())
        })
        .function("directory", |_, _| {
            Ok(std::env::current_dir()?.display().to_string())
        })
        .function("descriptors", |_, _| {
            let all = descriptors(std::process::id()).into_iter();
            Ok(all.map(|(_, file)| file).collect::<Strings>())
        })
        .function("print", |request, _| {
            println!("{request}");
            Ok(())
        })
        .function("exit", |_, caller| -> Result<(), BoxError> {
            caller.event("it exits");
            std::process::exit(9)
        })
        .threaded("gate", |request, _| {
            Gate::enter(request.texts::<1>()?[0]);
            Ok(())
        })
        .deferred("later", |_, caller, events| {
            events.after(Duration::ZERO, |_| caller.reply("later"));
        })
}

fn pid_of_template(rpc: &Rpc) -> u32 {
    rpc.function("parent")
        .call(())
        .wait()
        .unwrap()
        .to_string()
        .parse()
        .unwrap()
}

fn finished(rpc: Rpc) {
    let status = rpc.finish().unwrap().status();
    assert!(status.is_some_and(|status| status.success()));
}

fn start(process: &Process, function: &'static str) -> Rpc {
    process.rpc(function).on_error(drop).start().unwrap()
}

#[test]
fn copies_share_what_was_set_up_before_and_have_their_own_setups_after_the_hooks() {
    let me = worker().run_in_test();
    alone(move || {
        let template = me.setup("note", "shared").template();
        let plain = start(&template, "done");
        let with_own = template.clone().setup("note", "own").setup("note", "more");
        let own = start(&with_own, "done");
        let hooks = ["shared before", "first hook here", "second hook here"];
        assert_eq!(plain.call(()).wait().unwrap(), hooks);
        let all = [&hooks[..], &["own here", "more here"]].concat();
        assert_eq!(own.call(()).wait().unwrap(), all);
        let parent = pid_of_template(&plain);
        assert_eq!(pid_of_template(&own), parent);
        assert_eq!(children_of(std::process::id()), [parent]);
        let copies = [&plain, &own].map(|rpc| rpc.pid().unwrap());
        assert_ne!(copies[0], copies[1]);
        for pid in copies {
            assert_eq!(group(pid), Some(pid), "its group is its own");
        }
        for rpc in [plain, own] {
            assert!(rpc.finish().unwrap().status().unwrap().success());
        }
        eventually("copies are reaped", || children_of(parent).is_empty());
        drop((template, with_own));
        eventually("nobody needs the template", || is_gone(parent));
    });
}

#[test]
fn copies_serve_functions_of_all_kinds_and_flush_when_they_exit() {
    let me = worker().run_in_test();
    bounded(move || {
        let template = me.template();
        let rpc = start(&template, "do");
        assert_eq!(rpc.call(["echo", "a"]).wait().unwrap(), ["a"]);
        assert_eq!(rpc.function("later").call(()).wait().unwrap(), ["later"]);
        let gate = Gate::new();
        let waiting = rpc.function("gate").call(gate.name()).start();
        gate.entered().open();
        waiting.wait().unwrap();
        let (sender, events) = mpsc::channel();
        let on_event = move |event: Strings| sender.send(event.to_string()).unwrap();
        let exits = template
            .rpc("exit")
            .on_event(on_event)
            .on_error(drop)
            .start()
            .unwrap();
        let error = lost(exits.call(()).wait());
        assert_eq!(
            error.status().and_then(|status| status.code()),
            Some(9),
            "{error}"
        );
        assert_eq!(events.recv().unwrap(), "it exits");
        rpc.finish().unwrap();
    });
}

#[test]
fn template_of_a_template_shares_the_setups_of_both() {
    let me = worker().run_in_test();
    bounded(move || {
        let first = me.setup("note", "first").template();
        let second = first.clone().setup("note", "second").template();
        let rpc = start(&second, "done");
        let done = rpc
            .call(())
            .wait()
            .unwrap()
            .iter()
            .map(String::from_utf8_lossy)
            .collect::<Vec<_>>()
            .join(", ");
        assert_eq!(
            done,
            "first before, first hook before, second hook before, second before, \
             first hook here, second hook here"
        );
        let inner = pid_of_template(&rpc);
        let outer: u32 = common::status_field(inner, "PPid").parse().unwrap();
        assert_eq!(children_of(outer), [inner]);
        drop((first, second));
        rpc.finish().unwrap();
        eventually("both are gone", || is_gone(inner) && is_gone(outer));
    });
}

#[test]
fn copies_have_limits_output_directory_and_groups_of_their_own() {
    let me = worker().run_in_test();
    bounded(move || {
        let template = me.template();
        let copy = |process: Process, function| start(&process, function);
        let limited = copy(template.clone().limit(Limit::OpenFiles(77)).nice(3), "do");
        limited.wait_ready().unwrap();
        let limits = fs::read_to_string(format!("/proc/{}/limits", limited.pid().unwrap()));
        let limits = limits.unwrap();
        let files = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap();
        assert!(files.contains(" 77 "), "{files}");

        let there = copy(template.clone().current_dir("/proc"), "directory");
        assert_eq!(there.call(()).wait().unwrap(), ["/proc"]);
        let nowhere = template
            .clone()
            .current_dir("/no/such")
            .rpc("do")
            .on_error(drop);
        let error = lost(nowhere.start().unwrap().call("x").wait());
        assert_eq!(error.kind(), ErrorKind::Spawn);
        assert!(
            error
                .to_string()
                .contains("Process::current_dir(/no/such): No such file"),
            "{error}"
        );

        let (sender, lines) = mpsc::channel();
        let on_line = move |pid, line: &str| sender.send((pid, line.to_owned())).unwrap();
        let printing = copy(template.clone().stdout(Stdio::lines(on_line)), "print");
        printing.call("its own line").wait().unwrap();
        assert_eq!(
            lines.recv().unwrap(),
            (printing.pid().unwrap(), "its own line".to_owned())
        );
        let dies = template
            .clone()
            .stderr(Stdio::capture())
            .rpc("do")
            .on_error(drop)
            .start()
            .unwrap();
        let error = lost(dies.call("abort").wait());
        assert_eq!(
            error.status().and_then(|status| status.signal()),
            Some(6),
            "{error}"
        );

        let parents = copy(template.clone().group(Group::Parents), "do");
        parents.wait_ready().unwrap();
        let here = group(std::process::id());
        assert_eq!(group(parents.pid().unwrap()), here);
        let alone = copy(template.group(Group::Session), "do");
        alone.wait_ready().unwrap();
        assert_eq!(session(alone.pid().unwrap()), alone.pid());
        for rpc in [limited, there, printing, parents, alone] {
            rpc.finish().unwrap();
        }
    });
}

#[test]
fn what_a_copy_cannot_have_is_named() {
    let me = worker().run_in_test();
    bounded(move || {
        let template = me.clone().template();
        for (process, option) in [
            (template.clone().arg("x"), "Process::arg()"),
            (template.clone().env("A", "b"), "Process::env()"),
        ] {
            let error = process.rpc("do").start().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            let want = format!(
                "a copy of the template cannot have {option}: it has those of its template, where \
                 they are to be set before template()"
            );
            assert_eq!(error.to_string(), want);
        }
        assert_eq!(me.warm().unwrap_err().kind(), ErrorKind::Unsupported);
        let plain = Process::command("cat")
            .plain(offspring::Plain::Tagged)
            .template();
        let error = plain.warm().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    });
}

#[test]
fn exit_status_of_a_copy_is_that_of_any_child() {
    let me = worker().run_in_test();
    alone(move || {
        let template = me.template();
        template.warm().unwrap();
        let rpc = start(&template, "do");
        let parent = pid_of_template(&rpc);
        let before = (
            descriptors(std::process::id()).len(),
            descriptors(parent).len(),
        );
        for _ in 0..20 {
            let exits = start(&template, "do");
            let error = lost(exits.call(["exit", "3"]).wait());
            assert_eq!(
                (error.kind(), error.status().unwrap().code()),
                (ErrorKind::Died, Some(3))
            );
            let killed = start(&template, "do");
            let gate = Gate::new();
            let call = killed.call(["gate", gate.name()]).start();
            let _entered = gate.entered();
            signal(killed.pid().unwrap(), "KILL");
            let outcome = call.wait();
            let phase = outcome.as_ref().unwrap_err().phase();
            assert_eq!(phase, Some(offspring::Phase::Begun));
            let error = lost(outcome);
            assert_eq!(error.status().unwrap().signal(), Some(9), "{error}");
            let stopped = start(&template, "do");
            stopped.kill();
            assert_eq!(
                stopped.finish().unwrap().status().unwrap().signal(),
                Some(9)
            );
            drop((exits, killed));
        }
        let here = || descriptors(std::process::id()).len();
        eventually("nothing is left here", || here() <= before.0);
        eventually("nothing is left there", || {
            children_of(parent) == [rpc.pid().unwrap()] && descriptors(parent).len() <= before.1
        });
        rpc.finish().unwrap();
    });
}

#[test]
fn copies_live_on_when_their_template_dies_and_the_next_one_has_another() {
    let me = worker().run_in_test();
    bounded(move || {
        let template = me.setup("note", "shared").template();
        let (first, second) = (start(&template, "done"), start(&template, "done"));
        let parent = pid_of_template(&first);
        signal(parent, "KILL");
        eventually("it is gone", || is_gone(parent));
        let third = start(&template, "done");
        for rpc in [&first, &second, &third] {
            let done = rpc.call(()).wait().unwrap();
            assert_eq!(
                done,
                ["shared before", "first hook here", "second hook here"]
            );
        }
        assert_ne!(pid_of_template(&third), parent);
        assert_eq!(first.finish().unwrap().status(), None, "nobody can know");
        let pid = second.pid().unwrap();
        second.kill();
        assert_eq!(second.finish().unwrap().status(), None);
        eventually("it is gone", || is_gone(pid));
        assert!(third.finish().unwrap().status().unwrap().success());
    });
}

#[test]
fn stuck_template_is_noticed_killed_and_started_again() {
    let me = worker().run_in_test();
    bounded(move || {
        let template = me.template();
        let first = start(&template, "do");
        let parent = pid_of_template(&first);
        stop(parent);
        let short = Duration::from_millis(50);
        let error = template.rpc("do").start_timeout(short).start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StartTimeout);
        let want = "the template has made no copy within 50ms (start_timeout), and is killed";
        assert_eq!(error.to_string(), want);
        eventually("it is gone", || is_gone(parent));
        let second = start(&template, "do");
        assert_eq!(second.call("echo").wait().unwrap(), Strings::new());
        assert_eq!(first.call("echo").wait().unwrap(), Strings::new());
        second.finish().unwrap();
    });
}

#[test]
fn stuck_template_of_a_template_is_noticed_too() {
    let me = worker().run_in_test();
    bounded(move || {
        let outer = me.template();
        let inner = outer.clone().template();
        let first = start(&outer, "do");
        stop(pid_of_template(&first));
        let short = Duration::from_millis(50);
        let error = inner.rpc("do").start_timeout(short).start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StartTimeout, "{error}");
        let second = start(&inner, "do");
        assert_eq!(second.call("echo").wait().unwrap(), Strings::new());
    });
}

#[test]
fn wait_for_a_template_that_another_thread_starts_is_bounded() {
    let me = worker().run_in_test();
    // Returns whether it was the other thread that started it. If not, the stuck template was killed.
    let was_started_there = move || {
        let outer = me.clone().template();
        let inner = outer.clone().template();
        let parent = pid_of_template(&start(&outer, "do"));
        stop(parent);
        let (ready, is_ready) = mpsc::channel();
        let warming = {
            let inner = inner.clone();
            thread::spawn(move || {
                ready.send(()).unwrap();
                inner.warm()
            })
        };
        is_ready.recv().unwrap();
        let short = Duration::from_millis(50);
        let error = inner.rpc("do").start_timeout(short).start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StartTimeout, "{error}");
        if !error.to_string().contains("it waits for its own") {
            drop(warming.join());
            return false;
        }
        signal(parent, "CONT");
        warming.join().unwrap().unwrap();
        let rpc = start(&inner, "do");
        assert_eq!(rpc.call("echo").wait().unwrap(), Strings::new());
        true
    };
    bounded(move || eventually("another thread starts it", &was_started_there));
}

#[test]
fn template_that_keeps_failing_says_why_and_is_left_alone_for_a_while() {
    let me = worker().run_in_test();
    bounded(move || {
        let failing = me.clone().setup("fail", "no such table").template();
        let fails = || failing.rpc("do").start().unwrap_err();
        for _ in 0..2 {
            let error = fails();
            assert_eq!(error.kind(), ErrorKind::Setup);
            assert!(
                error.to_string().contains("setup `fail`: no such table"),
                "{error}"
            );
        }
        let error = fails();
        assert_eq!(error.kind(), ErrorKind::Setup);
        let text = error.to_string();
        assert!(
            text.starts_with("the template has failed 2 times in a row, and is not started"),
            "{text}"
        );
        assert!(text.contains("setup `fail`: no such table"), "{text}");
        eventually("it is tried again", || {
            !fails().to_string().contains("2 times in a row")
        });

        let exits = me.setup("exit", ()).template();
        for _ in 0..2 {
            let error = exits.warm().unwrap_err();
            let code = error.status().and_then(|status| status.code());
            assert_eq!(code, Some(7), "{error}");
        }
        let text = exits.warm().unwrap_err().to_string();
        assert!(text.contains("2 times in a row"), "{text}");
    });
}

#[test]
fn template_with_threads_is_not_copied() {
    let me = worker().run_in_test();
    bounded(move || {
        let threads = me
            .clone()
            .setup("thread", "left over")
            .setup("thread", "another");
        let threads = threads.template();
        let error = threads.rpc("do").start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Spawn);
        let text = error.to_string();
        let want =
            "cannot copy the template: it has other threads, which a copy would be without: ";
        let names = text.strip_prefix(want).expect(&text);
        assert!(
            names.contains("`left over`") && names.contains("`another`"),
            "{names}"
        );
        let joined = me.setup("thread", "joined").template();
        start(&joined, "do").finish().unwrap();
    });
}

#[test]
fn copy_has_signals_as_before_the_setups_and_only_descriptors_of_setups() {
    let me = worker().run_in_test();
    bounded(move || {
        let file = Fd::from(File::open("/proc/uptime").unwrap());
        let plain = start(&me, "status");
        let template = me
            .setup("signals", ())
            .setup("descriptor", &file)
            .template();
        let others: Vec<_> = (0..3).map(|_| start(&template, "do")).collect();
        let rpc = start(&template, "status");
        for field in ["SigBlk", "SigIgn", "SigCgt"] {
            let copys = rpc.call(field).wait().unwrap();
            assert_eq!(
                copys,
                [plain.call(field).wait().unwrap().to_string()],
                "{field}"
            );
        }
        let kinds = |rpc: &Rpc| {
            let open = rpc.function("descriptors").call(()).wait().unwrap();
            let kinds = open
                .iter()
                .map(|file| String::from_utf8_lossy(file).into_owned());
            let mut kinds: Vec<String> = kinds
                .map(|file| file.replace(char::is_numeric, ""))
                .collect();
            kinds.sort();
            kinds
        };
        let mut want = kinds(&plain);
        // What was the template's connection leads nowhere now.
        want.extend(["/dev/null", "/proc/uptime"].map(str::to_owned));
        want.sort();
        assert_eq!(kinds(&rpc), want);
        others.into_iter().for_each(finished);
        rpc.finish().unwrap();
    });
}

#[test]
fn what_a_setup_has_printed_is_written_once() {
    let me = worker().run_in_test();
    bounded(move || {
        let (sender, output) = mpsc::channel();
        let on_output = move |_, bytes: &[u8]| sender.send(bytes.to_vec()).unwrap();
        let template = me
            .setup("print", "no line break")
            .stdout(Stdio::chunks(on_output))
            .template();
        let copies: Vec<_> = (0..3).map(|_| start(&template, "do")).collect();
        copies.into_iter().for_each(finished);
        drop(template);
        let all: Vec<u8> = output.iter().flatten().collect();
        let text = String::from_utf8_lossy(&all);
        assert_eq!(text.matches("no line break").count(), 1, "{text}");
    });
}

#[test]
fn system_without_room_fails_the_copy_only() {
    let me = worker().run_in_test();
    bounded(move || {
        let template = me.limit(Limit::OpenFiles(24)).template();
        let mut copies = Vec::new();
        let error = loop {
            match template.rpc("do").on_error(drop).start() {
                Ok(rpc) => copies.push(rpc),
                Err(error) => break error,
            }
            assert!(copies.len() < 24);
        };
        assert_eq!(error.kind(), ErrorKind::Spawn);
        assert!(
            error.to_string().starts_with("cannot copy the template: "),
            "{error}"
        );
        copies.pop().unwrap().finish().unwrap();
        let started = || template.rpc("do").on_error(drop).start();
        eventually("there is room again", || started().is_ok());
        for rpc in copies {
            assert_eq!(rpc.call("echo").wait().unwrap(), Strings::new());
            rpc.finish().unwrap();
        }
    });
}

/// Root may have any number of processes.
#[test]
fn template_that_may_start_no_more_processes_says_so() {
    let me = worker().run_in_test();
    unprivileged(move || {
        let template = me.limit(Limit::Processes(1)).template();
        template.warm().unwrap();
        for _ in 0..2 {
            let error = template.rpc("do").start().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Spawn);
            let text = error.to_string();
            let (what, why) = ("cannot copy the template: ", "(RLIMIT_NPROC)");
            assert!(text.starts_with(what) && text.contains(why), "{text}");
        }
    });
}

#[test]
fn copies_are_started_by_many_threads_and_in_callbacks() {
    let me = worker().run_in_test();
    bounded(move || {
        let template = me.template();
        let started = || {
            let rpc = start(&template, "do");
            assert_eq!(rpc.call(["echo", "x"]).wait().unwrap(), ["x"]);
            rpc
        };
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..5).for_each(|_| finished(started())));
            }
        });
        let (sender, replies) = mpsc::channel();
        let first = started();
        let again = template.clone();
        first.call("echo").then(move |_| {
            let rpc = start(&again, "do");
            rpc.call(["echo", "y"])
                .then(move |reply| sender.send(reply.unwrap()).unwrap());
            // In the background.
            drop(rpc);
        });
        assert_eq!(replies.recv().unwrap(), ["y"]);
        first.finish().unwrap();
    });
}

/// A process that starts a template with copies, tells of them, and waits.
#[test]
fn busy_copies_die_with_a_parent_that_is_killed() {
    let me = worker()
        .function("middle", |request, _| -> Result<(), BoxError> {
            let [loops, waits, idle] = request.texts()?;
            let template = worker().run_in_test().template();
            let rpcs: Vec<_> = (0..3).map(|_| start(&template, "do")).collect();
            let looping = rpcs[0].call(["spin", loops]).start();
            let waiting = rpcs[1].call(["gate", waits]).start();
            let idling = rpcs[2].call(["gate", idle]).start();
            idling.wait()?;
            drop((looping, waiting));
            loop {
                thread::park();
            }
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("middle").on_error(drop).start().unwrap();
        let gates = [Gate::new(), Gate::new(), Gate::new()];
        let names = [0, 1, 2].map(|n: usize| gates[n].name());
        let call = rpc.call(names).start();
        let [loops, waits, idle] = &gates;
        drop(loops.entered());
        let _waiting = waits.entered();
        idle.entered().open();
        let middle = rpc.pid().unwrap();
        let template = children_of(middle);
        let copies = children_of(template[0]);
        assert_eq!((template.len(), copies.len()), (1, 3));
        copies[2..].iter().for_each(|pid| await_sleep(*pid));
        signal(middle, "KILL");
        lost(call.wait());
        for pid in copies.into_iter().chain(template) {
            eventually("it is gone", || is_gone(pid));
        }
    });
}

/// Copies that live and die in all ways, of templates that do, too.
#[test]
fn storm_of_copies_leaves_nothing_behind() {
    let me = worker().run_in_test();
    alone(move || {
        let template = me.clone().setup("note", "shared").template();
        let mut random = Random::new();
        let storm = Storm::new(&me, "do");
        let (mut rounds, mut answered, mut lost, mut refused) = (0, 0, 0, 0);
        let mut parents = Vec::new();
        while storm.continues(rounds) || answered == 0 {
            rounds += 1;
            let copies: Vec<_> = (0..1 + random.below(6))
                .filter_map(|_| match template.rpc("do").on_error(drop).start() {
                    Ok(rpc) => Some(rpc),
                    Err(error) => {
                        assert!(is_killed(&error), "{error}");
                        refused += 1;
                        None
                    }
                })
                .collect();
            for rpc in copies {
                let calls: Vec<_> = (0..random.below(5))
                    .map(|_| rpc.call(["echo", "x"]).start())
                    .collect();
                match random.below(10) {
                    0..3 => signal(
                        rpc.pid().unwrap(),
                        ["KILL", "SEGV", "TERM"][random.below(3)],
                    ),
                    3 => rpc.kill(),
                    4 => drop(rpc.call(["exit", "3"]).start()),
                    5 => {
                        if let Ok(parent) = rpc.function("parent").call(()).wait() {
                            let parent = parent.to_string().parse().unwrap();
                            // Whoever has lost its parent has another one.
                            if children_of(std::process::id()).contains(&parent) {
                                parents.push(parent);
                                // It may just have been reaped.
                                // SAFETY: takes no pointers.
                                unsafe { libc::kill(parent as i32, libc::SIGKILL) };
                            }
                        }
                    }
                    _ => {}
                }
                for call in calls {
                    match call.wait() {
                        Ok(reply) => {
                            assert_eq!(reply, ["x"]);
                            answered += 1;
                        }
                        Err(error) => {
                            assert!(matches!(error, CallError::Lost(..)), "{error}");
                            lost += 1;
                        }
                    }
                }
                drop(rpc.finish());
            }
        }
        println!(
            "{rounds} rounds: {answered} calls answered, {lost} lost, {refused} copies refused"
        );
        drop(template);
        storm.assert_nothing_left();
        eventually("no child is left", || {
            children_of(std::process::id()).is_empty()
        });
        parents
            .into_iter()
            .for_each(|pid| eventually("it is gone", || is_gone(pid)));
    });
}

/// Whether a template was killed before it could make a copy.
fn is_killed(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Died | ErrorKind::Exited)
}

#[test]
fn children_of_a_pool_are_copies_and_its_template_ends_with_it() {
    let me = worker().run_in_test();
    alone(move || {
        let pool = me.template().pool("parent").max(3).idle(3).start().unwrap();
        for call in pool.everywhere(()) {
            call.wait().unwrap();
        }
        pool.finish().unwrap();
        eventually("the template is gone", || children().is_empty());
    });
}

//! Descriptors in calls: they arrive with what they belong to, in order, and nothing of them is left.

#![expect(
    unsafe_code,
    reason = "limits, and what closes a descriptor that has an owner"
)]

mod common;

use common::{
    Entered, Gate, alone, bounded, descriptors, eventually, lost, obey, signal, stop, unprivileged,
};
use offspring::{
    BoxError, CallError, Caller, ErrorKind, Fd, Limit, Plain, Process, Reactor, Refusal, Strings,
    Worker,
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::fs::{self, File};
use std::io::{self, IoSlice, PipeReader, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

/// The reading end of a pipe that has this text in it, and nothing else.
fn holding(text: &str) -> PipeReader {
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(text.as_bytes()).unwrap();
    reader
}

fn read(fd: OwnedFd) -> String {
    io::read_to_string(File::from(fd)).unwrap()
}

fn null() -> File {
    File::open("/dev/null").unwrap()
}

/// How many descriptors this process has open.
fn open() -> usize {
    descriptors(std::process::id()).len()
}

/// What a pipe holds of a text, which may be more than it takes.
fn start(text: &str) -> &str {
    &text[..text.len().min(1000)]
}

/// Replies with the texts in what it is sent, and with a pipe that holds the start of that.
fn texts(mut request: Strings, _: &Caller) -> Result<(String, Fd), BoxError> {
    let all = request.take_all_fds()?.into_iter();
    let all: Result<Vec<_>, _> = all.map(|fd| fd.into_owned().map(read)).collect();
    let text = format!("{request}: {}", all?.join(" "));
    let pipe = holding(start(&text));
    Ok((text, pipe.into()))
}

/// A worker with functions of all kinds.
fn worker() -> Worker {
    Worker::new()
        .function("texts", texts)
        .threaded("threaded texts", texts)
        .deferred("deferred texts", |request, caller, events| {
            events.after(Duration::ZERO, move |_| {
                let result = texts(request, &caller);
                caller.answer(result);
            });
        })
        .function("do", obey)
        .function("open", |_, _| Ok(open().to_string()))
        .threaded("gate", |request, _| {
            Gate::enter(request.texts::<1>()?[0]);
            Ok(())
        })
}

fn is_there(mut reply: Strings, text: &str) {
    let [pipe] = reply.take_fds().unwrap();
    assert_eq!((&*reply.to_string(), &*read(pipe)), (text, text));
}

#[test]
fn descriptors_arrive_in_requests_and_replies_of_all_kinds_of_functions() {
    let me = worker().run_in_test();
    bounded(move || {
        for name in ["texts", "threaded texts", "deferred texts"] {
            let rpc = me.rpc(name).start().unwrap();
            let (one, two) = (Fd::from(holding("one")), Fd::from(holding("two")));
            is_there(rpc.call(("a", one, two)).wait().unwrap(), "a: one two");
            is_there(rpc.call("b").wait().unwrap(), "b: ");
            let strings: Strings = ["c"].into_iter().collect();
            let strings = strings.with_fd(holding("three"));
            is_there(rpc.call(&strings).wait().unwrap(), "c: three");
            is_there(
                rpc.call(Fd::from(holding("four"))).wait().unwrap(),
                ": four",
            );
            let (sender, replies) = mpsc::channel();
            rpc.call(("d", &Fd::from(holding("five"))))
                .then(move |reply| sender.send(reply.unwrap()).unwrap());
            is_there(replies.recv().unwrap(), "d: five");
            rpc.finish().unwrap();
        }
    });
}

#[test]
fn descriptors_arrive_in_setups_events_progress_asks_and_answers() {
    static SET_UP: Mutex<String> = Mutex::new(String::new());
    let me = Worker::new()
        .setup("first", |mut request| {
            let [one, two] = request.take_fds()?;
            *SET_UP.lock().unwrap() = format!("{request} {}{}", read(one), read(two));
            Ok(())
        })
        .function("all", |_, caller| {
            caller.event(("event", Fd::from(holding("e"))));
            caller.progress(("progress", Fd::from(holding("p"))));
            caller.tell("told", ("told", Fd::from(holding("t"))));
            let mut answer = caller.ask("asked", ("asked", Fd::from(holding("a"))))?;
            let [text] = answer.take_fds()?;
            Ok(format!(
                "{}, {answer} {}",
                SET_UP.lock().unwrap(),
                read(text)
            ))
        })
        .run_in_test();
    bounded(move || {
        let (sender, log) = mpsc::channel();
        let note = |sender: &mpsc::Sender<String>| {
            let sender = sender.clone();
            move |mut strings: Strings| {
                let [text] = strings.take_fds().unwrap();
                sender.send(format!("{strings} {}", read(text))).unwrap();
            }
        };
        let (event, told, asked) = (note(&sender), note(&sender), note(&sender));
        let set_up = (
            Fd::from(holding("1")),
            "set up with",
            Fd::from(holding("2")),
        );
        let rpc = me
            .setup("first", set_up)
            .rpc("all")
            .on_event(event)
            .on_ask("told", move |request| {
                told(request);
                Ok(())
            })
            .on_ask("asked", move |request| {
                asked(request);
                Ok(("answered", Fd::from(holding("A"))))
            })
            .start()
            .unwrap();
        let call = rpc.call(()).on_progress(note(&sender));
        assert_eq!(call.wait().unwrap(), ["set up with 12, answered A"]);
        rpc.finish().unwrap();
        drop(sender);
        let log: Vec<String> = log.iter().collect();
        assert_eq!(log, ["event e", "progress p", "told t", "asked a"]);
    });
}

/// The first ones are announced while other frames are on their way, which may be read with them.
#[test]
fn descriptors_stay_in_step_with_many_calls_of_all_sizes() {
    let me = worker().run_in_test();
    bounded(move || {
        for round in 0..10 {
            let functions = ["texts", "threaded texts", "deferred texts"];
            let first = me.rpc(functions[round % 3]).start().unwrap();
            let others = functions.map(|name| first.function(name));
            let calls: Vec<_> = (0..300)
                .map(|n| {
                    let size = [0, 1, 30, 5_000, 20_000, 70_000][n % 6];
                    let words = (n.to_string(), vec![b'x'; size]);
                    let text = holding(&format!("of {n}"));
                    let rpc = &others[n % 7 % 3];
                    match n % 5 {
                        _ if n < round => rpc.call(words).start(),
                        0 | 3 => rpc.call(words).start(),
                        _ => rpc.call((words.0, words.1, Fd::from(text))).start(),
                    }
                })
                .collect();
            for (n, call) in calls.into_iter().enumerate() {
                let size = [0, 1, 30, 5_000, 20_000, 70_000][n % 6];
                let text = match n % 5 {
                    _ if n < round => String::new(),
                    0 | 3 => String::new(),
                    _ => format!("of {n}"),
                };
                let want = format!("{n} {}: {text}", "x".repeat(size));
                let mut reply = call.wait().unwrap();
                assert!(reply == [&want], "{n}");
                let [pipe] = reply.take_fds().unwrap();
                assert!(read(pipe) == start(&want), "{n}");
            }
            first.finish().unwrap();
        }
    });
}

#[test]
fn descriptor_is_shared_and_can_be_sent_again() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc("texts").start().unwrap();
        let mut file = tempfile("shared text");
        let fd = Fd::from(file.try_clone().unwrap());
        for _ in 0..3 {
            // The position is that of the one open file.
            file.rewind().unwrap();
            is_there(rpc.call(("f", &fd, &fd)).wait().unwrap(), "f: shared text ");
        }
        let owned = fd.clone().into_owned().unwrap();
        assert_ne!(
            owned.as_raw_fd(),
            fd.as_fd().as_raw_fd(),
            "there is another clone"
        );
        let number = fd.as_fd().as_raw_fd();
        assert_eq!(fd.into_owned().unwrap().as_raw_fd(), number);
    });
}

/// A file without a name, which holds this text.
fn tempfile(text: &str) -> File {
    let path = std::env::temp_dir().join(format!("offspring-fds-{}", std::process::id()));
    let mut options = File::options();
    let mut file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    fs::remove_file(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn malformed<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> String {
    match outcome {
        Err(CallError::Malformed(error)) => error.to_string(),
        other => panic!("expected a malformed call, got {other:?}"),
    }
}

fn failed<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> String {
    match outcome {
        Err(CallError::Failed(error)) => error.to_string(),
        other => panic!("expected a failed call, got {other:?}"),
    }
}

#[test]
fn wrong_numbers_of_descriptors_are_errors_of_their_calls() {
    let me = worker()
        .function("too many", |_, _| {
            let many: Vec<Fd> = (0..254).map(|_| null().into()).collect();
            Ok(many)
        })
        .function("one", |mut request, _| {
            let [_one] = request.take_fds()?;
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("texts").start().unwrap();
        let nulls = |n| (0..n).map(|_| Fd::from(null())).collect::<Vec<_>>();
        let mut most = rpc.call(nulls(253)).wait().unwrap();
        assert_eq!(most.take_all_fds().unwrap().len(), 1);
        let why = "254 descriptors are too many for one message, which takes 253";
        assert_eq!(malformed(rpc.call(nulls(254)).wait()), why);
        let error = malformed(rpc.function("too many").call(()).wait());
        assert_eq!(error, format!("the reply: {why}"));

        let one = rpc.function("one");
        assert_eq!(
            failed(one.call("x").wait()),
            "wrong number of descriptors: expected 1, got 0"
        );
        assert_eq!(
            failed(one.call(nulls(2)).wait()),
            "wrong number of descriptors: expected 1, got 2"
        );
        one.call(nulls(1)).wait().unwrap();

        let error = me
            .clone()
            .setup("any", nulls(254))
            .rpc("texts")
            .start()
            .unwrap_err();
        let setup = "the request of the setup `any` cannot be sent: ";
        assert_eq!(error.to_string(), setup.to_owned() + why);
        rpc.finish().unwrap();
    });
}

#[test]
fn plain_peers_get_no_descriptors() {
    bounded(|| {
        let (near, mut far) = UnixStream::pair().unwrap();
        let rpc = Process::stream(near)
            .plain(Plain::Tagged)
            .rpc("peer")
            .start()
            .unwrap();
        let error = malformed(rpc.call(Fd::from(null())).wait());
        assert_eq!(error, "descriptors cannot be sent to a plain peer");
        // It closes when it has read all of its input, and not before.
        let peer = thread::spawn(move || far.read_to_end(&mut Vec::new()));
        rpc.finish().unwrap();
        assert_eq!(peer.join().unwrap().unwrap(), 0);
    });
}

#[test]
fn receiver_without_room_for_descriptors_fails_only_their_calls() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.limit(Limit::OpenFiles(20)).rpc("texts").start().unwrap();
        let calls: Vec<_> = [1, 30, 0, 2, 100]
            .into_iter()
            .map(|n| {
                rpc.call(
                    (0..n)
                        .map(|n| holding(&n.to_string()).into())
                        .collect::<Vec<Fd>>(),
                )
            })
            .map(offspring::Call::start)
            .collect();
        let mut calls = calls.into_iter().map(offspring::Pending::wait);
        is_there(calls.next().unwrap().unwrap(), ": 0");
        let error = failed(calls.next().unwrap());
        let (came, why) = error.split_once(" of 30 descriptors came: ").expect(&error);
        assert!(came.parse::<u32>().unwrap() < 20);
        assert_eq!(
            why,
            "the receiver has too many open files, or may not have them"
        );
        is_there(calls.next().unwrap().unwrap(), ": ");
        is_there(calls.next().unwrap().unwrap(), ": 0 1");
        assert!(failed(calls.next().unwrap()).contains(" of 100 descriptors came: "));
        rpc.finish().unwrap();
    });
}

/// Limits how many descriptors this process may have open, and returns how many it might before.
fn limit_open_files(to: libc::rlim_t) -> libc::rlim_t {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: points to a limit.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    let before = std::mem::replace(&mut limit.rlim_cur, to);
    // SAFETY: as above.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!((got, set), (0, 0));
    before
}

#[test]
fn caller_without_room_for_descriptors_gets_the_rest_of_the_reply() {
    let me = worker().run_in_test();
    alone(move || {
        let rpc = me.rpc("texts").start().unwrap();
        is_there(rpc.call("first").wait().unwrap(), "first: ");
        let last = null();
        let before = limit_open_files(last.as_raw_fd() as libc::rlim_t + 1);
        drop(rpc.call("x").wait().unwrap());
        let held: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        let mut reply = rpc.call("second").wait().unwrap();
        drop(held);
        limit_open_files(before);
        assert_eq!(reply, ["second: "]);
        let error = reply.take_fds::<1>().unwrap_err().to_string();
        assert!(error.starts_with("0 of 1 descriptors came: "), "{error}");
        let error = malformed(rpc.call(&reply).wait());
        assert!(
            error.starts_with("0 of 1 descriptors came: "),
            "they cannot be sent on: {error}"
        );
        is_there(rpc.call("third").wait().unwrap(), "third: ");
        rpc.finish().unwrap();
    });
}

/// Runs `body` with a descriptor that was closed behind the back of its owner.
fn with_closed(body: impl FnOnce(&Fd)) {
    let null = null();
    // Nobody else gets such a number.
    let at_least = 500;
    // SAFETY: takes no pointers.
    let number = unsafe { libc::fcntl(null.as_raw_fd(), libc::F_DUPFD_CLOEXEC, at_least) };
    assert!(number >= at_least);
    // SAFETY: it was just opened, and is opened again before its owner closes it.
    let fd = Fd::from(unsafe { OwnedFd::from_raw_fd(number) });
    // SAFETY: as above.
    assert_eq!(unsafe { libc::close(number) }, 0);
    body(&fd);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::dup2(null.as_raw_fd(), number) }, number);
}

#[test]
fn closed_descriptor_fails_only_its_call() {
    let me = worker().run_in_test();
    alone(move || {
        let closed = "0 of 2 descriptors came: they cannot be sent: Bad file descriptor";
        for first in [true, false] {
            let rpc = me.rpc("texts").start().unwrap();
            if !first {
                is_there(
                    rpc.call(Fd::from(holding("before"))).wait().unwrap(),
                    ": before",
                );
            }
            let other = Fd::from(holding("lost"));
            let (before, after) = (Fd::from(holding("x")), Fd::from(holding("after")));
            with_closed(|fd| {
                let before = rpc.call(&before).start();
                let call = rpc.call(("a", fd, &other)).start();
                let after = rpc.call(("b", &after)).start();
                is_there(before.wait().unwrap(), ": x");
                let error = failed(call.wait());
                assert!(error.starts_with(closed), "{error}");
                is_there(after.wait().unwrap(), "b: after");
            });
            rpc.finish().unwrap();
        }
    });
}

/// Whatever becomes of a call, nobody keeps a descriptor of it.
#[test]
fn no_descriptor_is_left_however_a_call_ends() {
    let me = worker()
        .function("ignore", |_, _| Ok("ignored"))
        .function("panic", |_request, _| -> Result<(), _> {
            panic!("at once")
        })
        .function("too long", |_, _| Ok(([0_u8; 200], Fd::from(null()))))
        .function("event", |_, caller| {
            caller.event(("nobody takes it", Fd::from(null())));
            Ok(())
        })
        .function("ask", |mut request, caller| {
            let [fd] = request.take_fds()?;
            let error = caller.ask("nothing", Fd::from(fd)).unwrap_err();
            Ok(error.to_string())
        })
        .run_in_test();
    alone(move || {
        let rpc = me.rpc("ignore").max_frame(150).start().unwrap();
        let in_child = rpc.function("open");
        let count_there = || -> usize {
            let open = in_child.call(()).wait().unwrap().to_string();
            open.parse().unwrap()
        };
        let fd = Fd::from(null());
        let ways: &[(&str, &dyn Fn())] = &[
            ("ignored", &|| drop(rpc.call(&fd).wait().unwrap())),
            ("not taken from the reply", &|| {
                drop(rpc.function("texts").call("x").wait().unwrap())
            }),
            ("dropped", &|| drop(rpc.function("texts").call("x").start())),
            ("panicked", &|| {
                drop(rpc.function("panic").call(&fd).wait().unwrap_err())
            }),
            ("unserved", &|| {
                drop(rpc.function("none").call(&fd).wait().unwrap_err())
            }),
            ("too large", &|| {
                drop(rpc.call((vec![0; 200], &fd)).wait().unwrap_err())
            }),
            ("reply too long", &|| {
                drop(malformed(rpc.function("too long").call(()).wait()))
            }),
            ("event", &|| {
                drop(rpc.function("event").call(()).wait().unwrap())
            }),
            ("unserved ask", &|| {
                drop(rpc.function("ask").call(&fd).wait().unwrap())
            }),
            ("timed out", &|| {
                let texts = rpc.function("texts");
                drop(texts.call("x").timeout(Duration::ZERO).wait());
            }),
            ("cancelled in the queue", &|| {
                stop(rpc.pid().unwrap());
                let calls: Vec<_> = (0..50).map(|_| rpc.call(&fd).start()).collect();
                calls.into_iter().for_each(offspring::Pending::cancel);
                signal(rpc.pid().unwrap(), "CONT");
            }),
            ("cancelled while it waits in the child", &|| {
                let (gate, gated) = (Gate::new(), rpc.function("gate"));
                let first = gated.call(gate.name()).start();
                let entered = gate.entered();
                let others: Vec<_> = (0..9)
                    .map(|_| rpc.function("threaded texts").call(&fd).start())
                    .collect();
                others.into_iter().for_each(offspring::Pending::cancel);
                Entered::open(entered);
                first.wait().unwrap();
            }),
            ("refused", &|| {
                // Calls that were cancelled count until the child has answered them.
                let rpc = me.rpc("ignore").max_queue(100, usize::MAX);
                let rpc = rpc.start().unwrap();
                rpc.wait_ready().unwrap();
                stop(rpc.pid().unwrap());
                let calls: Vec<_> = (0..100).map(|_| rpc.call(&fd).start()).collect();
                let refused = rpc.try_call(&fd).wait().unwrap_err();
                assert!(matches!(refused, CallError::Refused(Refusal::Full)));
                signal(rpc.pid().unwrap(), "CONT");
                calls
                    .into_iter()
                    .for_each(|call| drop(call.wait().unwrap()));
                rpc.finish().unwrap();
            }),
            ("died", &|| {
                let rpc = me.rpc("do").on_error(drop).start().unwrap();
                let texts = rpc.function("texts");
                rpc.wait_ready().unwrap();
                stop(rpc.pid().unwrap());
                let calls: Vec<_> = (0..50).map(|_| texts.call(&fd).start()).collect();
                signal(rpc.pid().unwrap(), "KILL");
                calls.into_iter().for_each(|call| drop(lost(call.wait())));
                rpc.finish().unwrap_err();
            }),
        ];
        // Some things are opened once.
        ways.iter().for_each(|(_, end)| end());
        let (here, there) = (open(), count_there());
        for (way, end) in ways.iter().chain(ways) {
            end();
            eventually(&format!("nothing is left here: {way}"), || open() <= here);
            let is_left = || count_there() > there;
            eventually(&format!("nothing is left there: {way}"), || !is_left());
        }
        rpc.finish().unwrap();
    });
}

/// Otherwise a child that takes requests ahead would have no room for more.
#[test]
fn requests_that_wait_in_a_child_hold_few_descriptors() {
    let me = Worker::new()
        .threads(1)
        .threaded("open", |mut request, _| {
            let [_fd] = request.take_fds()?;
            Ok(open().to_string())
        })
        .threaded("gate", |request, _| {
            Gate::enter(request.texts::<1>()?[0]);
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.limit(Limit::OpenFiles(200)).rpc("gate").start().unwrap();
        let gate = Gate::new();
        let first = rpc.call(gate.name()).start();
        let entered = gate.entered();
        let fd = Fd::from(null());
        let open = rpc.function("open");
        let calls: Vec<_> = (0..1000).map(|_| open.call(&fd).start()).collect();
        entered.open();
        first.wait().unwrap();
        for call in calls {
            call.wait().unwrap();
        }
        rpc.finish().unwrap();
    });
}

/// Sends bytes with descriptors on the connection of this process to its parent.
fn send_raw(bytes: &[u8], fds: &[File]) {
    let all = descriptors(std::process::id());
    let is_socket = |(_, file): &(u32, String)| file.starts_with("socket:");
    let (number, _) = all.into_iter().find(is_socket).unwrap();
    // SAFETY: it is open until the process exits.
    let socket = unsafe { BorrowedFd::borrow_raw(number as i32) };
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(9))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)));
    let parts = [IoSlice::new(bytes)];
    let sent = sendmsg(socket, &parts, &mut control, SendFlags::empty());
    assert_eq!(sent.unwrap(), bytes.len());
}

#[test]
fn descriptors_that_come_as_they_must_not_are_closed_and_a_violation() {
    let me = worker()
        .function("attack", |request, _| {
            let control = |payload: &[u8]| {
                let len = payload.len() as u32;
                [
                    &0x8000_0000_u32.to_be_bytes()[..],
                    &len.to_be_bytes(),
                    payload,
                ]
                .concat()
            };
            let nulls = |n| (0..n).map(|_| null()).collect::<Vec<_>>();
            let announce = |n: u32| control(format!("\x03fds\x03{n:03}\x03000").as_bytes());
            let event = [0; 8];
            send_raw(&control(b"\x07carries"), &[]);
            // Or the first descriptors may be lost, as nobody has made room for them.
            send_raw(&announce(0), &nulls(1));
            match request.texts::<1>()? {
                ["unannounced"] => send_raw(&event, &nulls(2)),
                ["missing"] => send_raw(&announce(2), &[]),
                ["surplus"] => send_raw(&announce(2), &nulls(3)),
                ["twice"] => send_raw(&[announce(1), announce(1)].concat(), &nulls(1)),
                ["unreadable"] => send_raw(&control(b"\x03fds\x03two\x03000"), &nulls(2)),
                ["cut"] => {
                    for byte in &announce(2)[..3] {
                        send_raw(&[*byte], &nulls(1));
                    }
                }
                ["short"] => send_raw(&[&announce(5)[..], &event].concat(), &nulls(2)),
                _ => {}
            }
            Ok(())
        })
        .run_in_test();
    alone(move || {
        for (attack, why) in [
            (
                "unannounced",
                "descriptors came that no frame has announced",
            ),
            (
                "missing",
                "2 descriptors are announced that have not come with it",
            ),
            ("surplus", "2 descriptors are announced, and 3 came"),
            ("twice", "descriptors are announced twice for one frame"),
            (
                "unreadable",
                "the announcement of descriptors cannot be read",
            ),
            ("cut", "descriptors came that no frame has announced"),
        ] {
            let rpc = me.rpc("attack").on_error(drop).start().unwrap();
            rpc.wait_ready().unwrap();
            let before = open();
            let error = lost(rpc.call(attack).wait());
            assert_eq!(error.kind(), ErrorKind::Protocol, "{attack}");
            let text = error.to_string();
            assert!(text.contains(why), "{attack}: {text}");
            assert!(open() <= before, "{attack}");
            rpc.finish().unwrap_err();
        }
        let (sender, events) = mpsc::channel();
        let on_event = move |event| sender.send(event).unwrap();
        let rpc = me.rpc("attack").on_event(on_event).start().unwrap();
        rpc.call("short").wait().unwrap();
        let error = events.recv().unwrap().take_fds::<5>().unwrap_err();
        assert!(
            error.to_string().starts_with("2 of 5 descriptors came: "),
            "{error}"
        );
        rpc.finish().unwrap();
    });
}

/// Frames that the decoder keeps for itself count in the offset of what comes after them.
#[test]
fn violation_behind_an_announcement_is_found_at_its_offset() {
    let me = Worker::new()
        .function("attack", |_, _| {
            let frame = |id: u32, payload: &[u8]| {
                let len = payload.len() as u32;
                [&id.to_be_bytes()[..], &len.to_be_bytes(), payload].concat()
            };
            const CONTROL: u32 = 0x8000_0000;
            let frames = [
                frame(CONTROL, b"\x07carries"),
                frame(1, b""),
                frame(CONTROL, b"\x03fds\x03001\x03009"),
                frame(77, b""),
            ];
            send_raw(&frames.concat(), &[]);
            Ok(())
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("attack").on_error(drop).start().unwrap();
        rpc.wait_ready().unwrap();
        rpc.call(()).then(|reply| drop(reply.unwrap()));
        let error = rpc.finish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        // That it is ready took 16 bytes, and what comes next 16, 8 and 20.
        assert!(error.to_string().contains("at offset 60"), "{error}");
    });
}

/// The kernel lets only so many of a user be on their way as the sender may have open.
#[test]
fn descriptors_wait_while_too_many_are_on_their_way() {
    let me = Worker::new()
        .function("count", |mut request, _| {
            Ok(request.take_all_fds()?.len().to_string())
        })
        .run_in_test();
    unprivileged(move || {
        limit_open_files(1024);
        let fd = Fd::from(null());
        let children: Vec<_> = (0..8).map(|_| me.rpc("count").start().unwrap()).collect();
        for rpc in &children {
            rpc.wait_ready().unwrap();
            stop(rpc.pid().unwrap());
        }
        let calls: Vec<_> = (0..2080)
            .map(|n| {
                let count = if n < 2000 { 1 } else { 100 };
                let call = children[n % 8].call(vec![fd.clone(); count]).start();
                (count, call)
            })
            .collect();
        children
            .iter()
            .for_each(|rpc| signal(rpc.pid().unwrap(), "CONT"));
        for (count, call) in calls {
            assert_eq!(call.wait().unwrap(), [count.to_string()]);
        }
    });
}

/// A socket whose last close waits so many seconds, as its peer does not read; and the peer.
fn lingering(seconds: i32) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: seconds,
    };
    let (level, option, value) = (
        libc::SOL_SOCKET,
        libc::SO_LINGER,
        (&raw const linger).cast(),
    );
    // SAFETY: points to a linger of this size.
    let set = unsafe { libc::setsockopt(stream.as_raw_fd(), level, option, value, 8) };
    assert_eq!(set, 0);
    stream.set_nonblocking(true).unwrap();
    while (&stream).write(&[0; 1 << 20]).is_ok() {}
    (stream, peer)
}

/// Otherwise a child could stop its parent's reactor.
#[test]
fn descriptor_that_nobody_takes_is_closed_at_once() {
    static PEERS: Mutex<Vec<TcpStream>> = Mutex::new(Vec::new());
    const LINGER: i32 = 10_000;
    let me = Worker::new()
        .function("linger", |_, caller| {
            for _ in 0..3 {
                let (stream, peer) = lingering(LINGER);
                PEERS.lock().unwrap().push(peer);
                caller.event(Fd::from(stream));
            }
            let (stream, peer) = lingering(LINGER);
            PEERS.lock().unwrap().push(peer);
            Ok(Fd::from(stream))
        })
        .function("do", obey)
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("linger").on_event(drop).start().unwrap();
        // The first message with descriptors has one sent ahead, which the kernel closes.
        drop(rpc.call(Fd::from(null())).wait().unwrap());
        // One that was never sent.
        stop(rpc.pid().unwrap());
        let full: Vec<_> = (0..20)
            .map(|_| {
                rpc.function("do")
                    .call(vec![&b"size"[..], &[0; 100_000]])
                    .start()
            })
            .collect();
        let (stream, _peer) = lingering(LINGER);
        rpc.call(Fd::from(stream)).start().cancel();
        signal(rpc.pid().unwrap(), "CONT");
        full.into_iter().for_each(|call| drop(call.wait().unwrap()));
        rpc.finish().unwrap();
    });
}

/// Each message with descriptors ends a read, and a socket holds hundreds of them.
#[test]
fn answer_that_came_in_time_counts_behind_many_descriptors() {
    let me = Worker::new()
        .function("events", |request, caller| {
            let fd = Fd::from(null());
            let [n, gate] = request.texts()?;
            (0..n.parse()?).for_each(|_| caller.event(&fd));
            caller.flush();
            Gate::announce(gate);
            Ok("done")
        })
        .run_in_test();
    bounded(move || {
        // Its reactor does not read while it is in a callback.
        let reactor = Reactor::new().unwrap();
        let (sender, blocked) = mpsc::channel::<()>();
        let (entered, is_blocked) = mpsc::channel();
        let blocker = me.rpc("events").reactor(&reactor).start().unwrap();
        let rpc = me
            .rpc("events")
            .reactor(&reactor)
            .on_event(drop)
            .start()
            .unwrap();
        rpc.wait_ready().unwrap();
        let gates = [Gate::new(), Gate::new()];
        blocker.call(["0", gates[0].name()]).then(move |_| {
            entered.send(()).unwrap();
            blocked.recv().unwrap_err();
        });
        is_blocked.recv().unwrap();
        let (done, outcome) = mpsc::channel();
        let timeout = Duration::from_millis(500);
        let call = rpc.call(["150", gates[1].name()]).timeout(timeout);
        call.then(move |reply| done.send(reply).unwrap());
        // A caller that waits writes what is queued.
        drop(rpc.function("none").call(()).timeout(Duration::ZERO).wait());
        drop(gates[1].entered());
        thread::sleep(timeout);
        drop(sender);
        assert_eq!(outcome.recv().unwrap().unwrap(), ["done"]);
    });
}

#[test]
fn asks_carry_descriptors_or_say_why_not() {
    let me = Worker::new()
        .function("ask", |request, caller| {
            let [count] = request.texts()?;
            let many = vec![Fd::from(null()); count.parse()?];
            let mut answer = caller.ask("count", many)?;
            Ok(format!("{answer} {}", answer.take_all_fds()?.len()))
        })
        .run_in_test();
    bounded(move || {
        let on_ask = |request: Strings| {
            let count = request.fd_count();
            let answer: Strings = [count.to_string()].into_iter().collect();
            // Of one it makes too many.
            let count = if count == 1 { 254 } else { count };
            Ok((0..count).fold(answer, |answer, _| answer.with_fd(null())))
        };
        let rpc = me.rpc("ask").on_ask("count", on_ask).start().unwrap();
        assert_eq!(rpc.call("253").wait().unwrap(), ["253 253"]);
        let why = "254 descriptors are too many for one message, which takes 253";
        assert_eq!(failed(rpc.call("254").wait()), format!("malformed: {why}"));
        let error = failed(rpc.call("1").wait());
        assert_eq!(error, format!("malformed: the answer: {why}"));
        rpc.finish().unwrap();
    });
}

/// They would be what the child prints.
#[test]
fn descriptors_get_no_numbers_of_standard_ones() {
    let me = Worker::new()
        .function("close", |mut request, _| {
            for number in 0..3 {
                // SAFETY: they have no owner.
                unsafe { libc::close(number) };
            }
            let [fd] = request.take_fds()?;
            drop(fd);
            Ok(())
        })
        .function("numbers", |mut request, _| {
            let all = request.take_all_fds()?.into_iter();
            let numbers = all.map(|fd| fd.as_fd().as_raw_fd().to_string());
            Ok(numbers.collect::<Strings>())
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("close").start().unwrap();
        let fd = Fd::from(null());
        rpc.call(&fd).wait().unwrap();
        let numbers = rpc.function("numbers").call(vec![fd; 5]).wait().unwrap();
        let numbers: Vec<i32> = numbers
            .iter()
            .map(|number| String::from_utf8_lossy(number).parse().unwrap())
            .collect();
        assert!(
            numbers.len() == 5 && numbers.iter().all(|number| *number > 2),
            "{numbers:?}"
        );
        rpc.finish().unwrap();
    });
}

/// What a child sends does not keep its parent from opening anything.
#[test]
fn some_numbers_are_kept_from_what_others_send() {
    let me = Worker::new()
        .function("many", |_, _| Ok(vec![Fd::from(null()); 253]))
        .run_in_test();
    alone(move || {
        limit_open_files(400);
        let rpc = me.rpc("many").start().unwrap();
        let mut replies: Vec<_> = (0..3).map(|_| rpc.call(()).wait().unwrap()).collect();
        assert_eq!(replies[0].take_all_fds().unwrap().len(), 253);
        assert!(replies[2].take_all_fds().is_err());
        let open: Vec<_> = (0..40).map(|_| null()).collect();
        drop((open, replies));
        assert_eq!(rpc.call(()).wait().unwrap().fd_count(), 253);
        rpc.finish().unwrap();
    });
}

//! The child in the plain modes, byte for byte what `AnyEvent::Fork::RPC` 2.0 reads and writes, and in
//! the one of them that has failed replies.
//!
//! Has no test harness, which would print to standard output before the child can take it over. The
//! program is the child if its first argument says so; otherwise it is the single test.

mod common;

use common::{Gate, bounded, logged, lost};
use offspring::{CallError, Caller, ErrorKind, Loop, Plain, Process, Stdio, Strings, Worker};
use std::cell::RefCell;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{self, Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

const CHILD: &str = "--plain-child";

/// How many ticks the thread that writes what is not urgent has to let pass.
const TICKS: u64 = 2000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [CHILD, mode] => child(plain(mode), "do"),
        [CHILD, mode, kind] => child(plain(mode), kind),
        _ => drop(named()),
    }
    // Options that cargo-nextest passes to a program without a harness.
    let has = |wanted: &str| args.iter().any(|arg| arg == wanted);
    if has("--list") {
        if !has("--ignored") {
            println!("plain_child: test");
        }
        return;
    }
    let filters: Vec<_> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let mut passed = 0;
    for (name, check) in CHECKS {
        let is_asked =
            |filter: &&String| filter.as_str() == "plain_child" || name.contains(filter.as_str());
        if filters.is_empty() || filters.iter().any(is_asked) {
            bounded(check);
            println!("{name}: ok");
            passed += 1;
        }
    }
    println!("{passed} passed, 0 failed");
}

const CHECKS: &[(&str, fn())] = &[
    ("bytes_are_those_of_the_original", bytes),
    ("prints_do_not_corrupt_the_stream", prints),
    ("plain_peer_is_not_asked_and_told_nothing", asks),
    ("failures_end_the_child_with_a_message", failures),
    (
        "failures_end_a_child_whose_standard_error_nobody_reads",
        unread_failures,
    ),
    (
        "broken_requests_end_the_child_with_a_message",
        broken_requests,
    ),
    (
        "request_of_a_call_that_runs_is_refused_by_its_header",
        duplicate_header,
    ),
    ("child_exits_when_its_parent_is_gone", parent_gone),
    ("child_whose_output_nobody_reads_exits", unread_output),
    ("flusher_waits_for_a_writer_that_is_blocked", blocked_writer),
    ("parent_and_child_work_together", both),
    ("later_answers_arrive_in_order", later_answers),
    ("later_failures_end_the_child", later_failures),
    ("threads_answer_plain_requests", threads),
    (
        "child_that_answers_later_exits_without_a_parent",
        later_parent_gone,
    ),
    ("parent_works_with_every_kind_of_function", both_later),
    (
        "failures_are_replies_and_the_child_lives_on",
        failed_replies,
    ),
    ("failures_of_every_kind_of_function_arrive", both_failing),
    ("child_has_the_name_of_its_parent", name),
];

/// Not a plain child: one that is served on the process's first thread, as only a program without a
/// harness can.
fn named() -> Process {
    Worker::new()
        .function("name", |_, _| Ok(fs::read_to_string("/proc/self/comm")?))
        .run()
}

/// It is executed through `/proc/self/exe`.
fn name() {
    let rpc = named().rpc("name").start().unwrap();
    let name = rpc.call(()).wait().unwrap();
    // The rest of the file's name does not fit.
    assert!(name.to_string().starts_with("plain_child-"), "{name}");
    rpc.finish().unwrap();
}

const MODES: [&str; 3] = ["tagged", "ordered", "fallible"];

fn plain(mode: &str) -> Plain {
    match mode {
        "tagged" => Plain::Tagged,
        "ordered" => Plain::Ordered,
        "fallible" => Plain::Fallible,
        _ => panic!("there is no mode `{mode}`"),
    }
}

fn child(plain: Plain, function: &str) -> ! {
    Worker::new()
        .deferred("deferred", later)
        .threaded("threaded", |request: Strings, caller: &Caller| {
            caller.progress("plain peers have none");
            common::obey(request, caller)
        })
        .threads(4)
        .function("do", |request, caller| match &request[0] {
            b"print" => {
                println!("a stray print");
                let mut line = String::new();
                let n = std::io::stdin().read_line(&mut line)?;
                Ok([n.to_string()].into_iter().collect())
            }
            b"ask" => {
                caller.tell("anything", "plain peers are told nothing");
                caller.retire();
                let asked = caller.ask("anything", ()).unwrap_err();
                Ok([asked.to_string()].into_iter().collect())
            }
            b"blocked writer" => {
                block_another_thread(caller);
                // The second is not urgent.
                caller.event("1");
                caller.event("2");
                (0..TICKS).for_each(|_| thread::sleep(Duration::from_micros(200)));
                Gate::announce(str::from_utf8(&request[1])?);
                Ok(Strings::new())
            }
            _ => common::obey(request, caller),
        })
        .serve_plain(function, plain)
}

/// Has a thread send more events than a socket takes, and waits until it blocks.
fn block_another_thread(caller: &Caller) {
    let (parent, sent) = (caller.parent().clone(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&sent);
    thread::spawn(move || {
        for _ in 0..1000 {
            parent.event("x".repeat(1000));
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let sent = || sent.load(Ordering::Relaxed);
    let mut before = 0;
    while before == 0 || before != sent() {
        before = sent();
        thread::sleep(Duration::from_millis(20));
    }
}

thread_local! {
    static HELD: RefCell<Vec<(Strings, Caller)>> = RefCell::default();
}

/// `after MICROSECONDS VERB ..`, `hold VERB ..` until the next `after` is done, `thread VERB ..`,
/// or a verb that is done immediately.
fn later(request: Strings, caller: Caller, events: &Loop) {
    fn end(request: Strings, caller: Caller, skip: usize) {
        caller.progress("plain peers have none");
        let result = common::obey(request.iter().skip(skip).collect(), &caller);
        caller.answer(result);
    }
    match &request[0] {
        b"after" => {
            let time = str::from_utf8(&request[1]).unwrap().parse().unwrap();
            events.after(Duration::from_micros(time), |_| {
                end(request, caller, 2);
                for (request, caller) in HELD.take() {
                    end(request, caller, 1);
                }
            });
        }
        b"hold" => HELD.with_borrow_mut(|held| held.push((request, caller))),
        b"thread" => drop(thread::spawn(|| end(request, caller, 1))),
        b"drop" => {}
        _ => end(request, caller, 0),
    }
}

fn me(mode: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([CHILD, mode]);
    command
}

/// The output of a child that reads this whole input.
fn run(mode: &str, input: &[u8]) -> Output {
    run_command(&mut me(mode), input)
}

fn spawn(command: &mut Command) -> process::Child {
    let command = command.stdin(process::Stdio::piped());
    let command = command.stdout(process::Stdio::piped());
    command.stderr(process::Stdio::piped()).spawn().unwrap()
}

fn run_command(command: &mut Command, input: &[u8]) -> Output {
    let mut child = spawn(command);
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // The child may stop reading before the end.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// Encodes octet strings below 128 bytes.
fn strings(strings: &[&str]) -> Vec<u8> {
    let all = strings
        .iter()
        .flat_map(|string| [&[string.len() as u8], string.as_bytes()].concat());
    all.collect()
}

fn request(mode: &str, id: u32, list: &[&str]) -> Vec<u8> {
    let payload = strings(list);
    let len = (payload.len() as u32).to_be_bytes();
    match mode {
        "ordered" => [&len[..], &payload].concat(),
        _ => [&id.to_be_bytes()[..], &len, &payload].concat(),
    }
}

fn reply(id: u32, list: &[&str]) -> Vec<u8> {
    request("tagged", id, list)
}

fn bytes() {
    for (mode, ids) in [
        ("tagged", [7, u32::MAX, 7]),
        ("ordered", [1, 1, 1]),
        ("fallible", [7, 0x7fff_ffff, 7]),
    ] {
        let input = [
            request(mode, ids[0], &["echo", "a", "", "b"]),
            request(mode, ids[1], &["events", "2"]),
            request(mode, ids[2], &["echo"]),
        ];
        let output = run(mode, &input.concat());
        let want = [
            reply(ids[0], &["a", "", "b"]),
            reply(0, &["0"]),
            reply(0, &["1"]),
            reply(ids[1], &["2"]),
            reply(ids[2], &[]),
        ];
        assert_eq!(output.stdout, want.concat(), "{mode}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(output.status.success());
        // No requests at all is valid, too.
        let output = run(mode, b"");
        assert_eq!((output.stdout, output.status.code()), (vec![], Some(0)));
    }
}

fn prints() {
    for mode in MODES {
        let input = [
            request(mode, 1, &["print"]),
            request(mode, 1, &["echo", "on"]),
        ];
        let output = run(mode, &input.concat());
        // Standard input is /dev/null, so the child cannot read requests from it.
        let want = [reply(1, &["0"]), reply(1, &["on"])].concat();
        assert_eq!(output.stdout, want);
        assert_eq!(output.stderr, b"a stray print\n");
    }
}

fn asks() {
    for mode in MODES {
        let output = run(mode, &request(mode, 1, &["ask"]));
        let text = "a plain peer serves nothing that can be asked for";
        assert_eq!(output.stdout, reply(1, &[text]), "{mode}");
    }
}

fn failures() {
    for mode in ["tagged", "ordered"] {
        for (verb, parts) in [
            ("fail", &["failed: no luck"][..]),
            ("panic", &["panicked at", "common/mod.rs", "no luck"]),
        ] {
            let input = [
                request(mode, 1, &["echo", "before"]),
                request(mode, 2, &[verb, "no luck"]),
                request(mode, 3, &["echo", "after"]),
            ];
            let output = run(mode, &input.concat());
            assert_eq!(output.stdout, reply(1, &["before"]));
            assert_eq!(output.status.code(), Some(1));
            let text = String::from_utf8_lossy(&output.stderr);
            for part in parts {
                assert!(text.contains(part), "no `{part}` in: {text}");
            }
        }
    }
}

fn unread_failures() {
    for mode in ["tagged", "ordered"] {
        for (kind, verb) in [("do", "fail"), ("threaded", "panic"), ("deferred", "fail")] {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let mut child = me(mode)
                .arg(kind)
                .stdin(process::Stdio::piped())
                .stdout(process::Stdio::null())
                .stderr(writer)
                .spawn()
                .unwrap();
            // Its input does not end.
            let mut stdin = child.stdin.take().unwrap();
            stdin
                .write_all(&request(mode, 1, &[verb, "no luck"]))
                .unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(1), "{mode} {kind}");
        }
    }
}

fn broken_requests() {
    let cut = [&[0, 0, 0, 1, 0, 0, 0, 2][..], &[5, b'x']].concat();
    for (mode, input, part) in [
        (
            "tagged",
            b"\0\0\0\x01\0\0\0\x09\x04e".to_vec(),
            "10 of 17 bytes",
        ),
        ("ordered", b"\0\0\0\x09\x04e".to_vec(), "6 of 13 bytes"),
        (
            "tagged",
            b"\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
            "8 of 4294967303",
        ),
        ("tagged", request("tagged", 0, &["echo"]), "id 0x0"),
        ("fallible", request("tagged", 0, &["echo"]), "id 0x0"),
        (
            "fallible",
            request("tagged", 0x8000_0001, &["echo"]),
            "expected a request, got a frame with id 0x80000001",
        ),
        ("tagged", cut.clone(), "malformed"),
        ("ordered", cut[4..].to_vec(), "malformed"),
    ] {
        let output = run(mode, &input);
        assert_eq!(output.stdout, b"", "{mode} {input:?}");
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
}

/// 200 MiB are claimed, and do not come.
fn duplicate_header() {
    for mode in ["tagged", "fallible"] {
        let mut child = spawn(me(mode).arg("deferred"));
        let mut stdin = child.stdin.take().unwrap();
        let first = request("tagged", 1, &["hold", "echo", "first"]);
        // It drops the call that it holds at its exit.
        let again = [first, b"\0\0\0\x01\x0c\x80\0\0".to_vec()].concat();
        stdin.write_all(&again).unwrap();
        // Its input does not end.
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.stdout, output.status.code()),
            (vec![], Some(1)),
            "{text} {}",
            output.status
        );
        assert!(
            text.contains("request with id 1, which is not answered yet"),
            "{text}"
        );
    }
}

fn parent_gone() {
    for mode in MODES {
        needs_a_parent(mode, &mut me(mode));
    }
}

fn later_parent_gone() {
    for mode in MODES {
        for kind in ["deferred", "threaded"] {
            needs_a_parent(mode, me(mode).arg(kind));
        }
    }
}

fn needs_a_parent(mode: &str, command: &mut Command) {
    let (near, far) = UnixStream::pair().unwrap();
    let mut near = near;
    let mut child = command
        .stdin(std::os::fd::OwnedFd::from(far.try_clone().unwrap()))
        .stdout(std::os::fd::OwnedFd::from(far))
        .stderr(process::Stdio::piped())
        .spawn()
        .unwrap();
    near.write_all(&request(mode, 1, &["echo", "on"])).unwrap();
    let mut answer = [0; 11];
    near.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..], reply(1, &["on"]));
    // More than the socket takes: it is writing, or about to, when the parent goes away.
    near.write_all(&request(mode, 2, &["blob", "10000000"]))
        .unwrap();
    near.read_exact(&mut answer).unwrap();
    drop(near);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let mut text = String::new();
    child.stderr.unwrap().read_to_string(&mut text).unwrap();
    assert!(text.contains("cannot write to the parent"), "{text}");
}

/// Its input does not end, and nothing but the write on another thread fails.
fn unread_output() {
    for mode in MODES {
        for kind in ["do", "deferred", "threaded"] {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let mut child = me(mode)
                .arg(kind)
                .stdin(process::Stdio::piped())
                .stdout(writer)
                .stderr(process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(&request(mode, 1, &["echo", "on"])).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(1), "{mode} {kind}");
            let mut text = String::new();
            child.stderr.unwrap().read_to_string(&mut text).unwrap();
            assert!(text.contains("cannot write to the parent"), "{text}");
        }
    }
}

/// The thread that writes what is not urgent has nothing to do while another one writes.
fn blocked_writer() {
    let gate = Gate::new();
    let (mut near, far) = UnixStream::pair().unwrap();
    let mut child = me("tagged")
        .stdin(OwnedFd::from(far.try_clone().unwrap()))
        .stdout(OwnedFd::from(far))
        .spawn()
        .unwrap();
    let request = request("tagged", 1, &["blocked writer", gate.name()]);
    near.write_all(&request).unwrap();
    // Nothing is read meanwhile.
    drop(gate.entered());
    let switches = voluntary_switches(child.id(), "offspring flush");
    assert!(
        switches < TICKS / 20,
        "{switches} context switches in {TICKS} ticks"
    );

    near.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    near.read_to_end(&mut got).unwrap();
    // The rest of the other thread's events may be lost to the end of the child, but only whole ones.
    let mut frames = Vec::new();
    let mut rest = &got[..];
    while let Some((header, behind)) = rest.split_first_chunk::<8>() {
        let len = u32::from_be_bytes(*header.last_chunk().unwrap()) as usize;
        frames.push([header, &behind[..len]].concat());
        rest = &behind[len..];
    }
    assert!(rest.is_empty());
    frames.retain(|frame| frame.len() < 1000);
    assert_eq!(frames, [reply(0, &["1"]), reply(0, &["2"]), reply(1, &[])]);
    assert!(child.wait().unwrap().success());
}

/// How often a thread of this name has gone to sleep.
fn voluntary_switches(pid: u32, name: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut tasks = tasks.map(|task| task.unwrap().path());
    let task = tasks
        .find(|task| fs::read_to_string(task.join("comm")).unwrap().trim() == name)
        .expect("there is such a thread");
    let status = fs::read_to_string(task.join("status")).unwrap();
    let field = "voluntary_ctxt_switches:";
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap().trim().parse().unwrap()
}

fn both() {
    for mode in MODES {
        let me = Process::command(std::env::current_exe().unwrap()).plain(plain(mode));
        let me = me.args([CHILD, mode]).stderr(Stdio::capture());
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        let calls: Vec<_> = (0..1000)
            .map(|n| rpc.call(["echo", &n.to_string()]).start())
            .collect();
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(call.wait().unwrap(), [n.to_string()]);
        }
        let large = rpc.call([b"echo".to_vec(), vec![7; 3 << 20]]).wait();
        assert_eq!(large.unwrap()[0].len(), 3 << 20);
        rpc.call(["events", "3"]).wait().unwrap();
        assert_eq!(log.lines(), ["event: 0", "event: 1", "event: 2"]);
        assert!(rpc.finish().unwrap().status().unwrap().success());
        assert_eq!(log.end(), "destroy");

        if mode == "fallible" {
            continue;
        }
        let rpc = me.rpc("do").on_error(drop).start().unwrap();
        let error = lost(rpc.call(["fail", "no luck"]).wait());
        assert_eq!(error.kind(), ErrorKind::Died);
        assert_eq!(error.status().and_then(|status| status.code()), Some(1));
        assert!(error.to_string().contains("no luck"), "{error}");
    }
}

fn later_answers() {
    let requests = |mode, first| {
        let all = [
            request(mode, 1, first),
            request(mode, 2, &["after", "1000", "events", "1"]),
            request(mode, 3, &["echo", "third"]),
        ];
        all.concat()
    };
    // The third is answered immediately, the others later. None is lost at the end.
    let input = requests("tagged", &["hold", "echo", "first"]);
    let output = run_command(me("tagged").arg("deferred"), &input);
    let want = [
        reply(3, &["third"]),
        reply(0, &["0"]),
        reply(2, &["1"]),
        reply(1, &["first"]),
    ];
    assert_eq!(output.stdout, want.concat());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
    // In the ordered mode one runs at a time, whatever the kind of function.
    let input = requests("ordered", &["after", "1000", "echo", "first"]);
    let output = run_command(me("ordered").arg("deferred"), &input);
    let want = [
        reply(1, &["first"]),
        reply(0, &["0"]),
        reply(1, &["1"]),
        reply(1, &["third"]),
    ];
    assert_eq!(output.stdout, want.concat());
    assert!(output.status.success());
    for kind in ["deferred", "threaded"] {
        for mode in ["tagged", "ordered"] {
            let output = run_command(me(mode).arg(kind), b"");
            assert_eq!((output.stdout, output.status.code()), (vec![], Some(0)));
        }
    }
}

fn later_failures() {
    for mode in ["tagged", "ordered"] {
        for (list, part) in [
            (&["after", "0", "fail", "no luck"][..], "failed: no luck"),
            (&["after", "0", "panic", "no luck"], "panicked at"),
            (&["thread", "fail", "no luck"], "failed: no luck"),
            (&["drop"], "without an answer"),
        ] {
            let input = [
                request(mode, 1, &["echo", "before"]),
                request(mode, 2, list),
            ];
            let output = run_command(me(mode).arg("deferred"), &input.concat());
            assert_eq!(output.stdout, reply(1, &["before"]), "{mode} {list:?}");
            assert_eq!(output.status.code(), Some(1), "{mode} {list:?}");
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(text.contains(part), "no `{part}` in: {text}");
        }
    }
}

fn threads() {
    let numbers: Vec<String> = (1..=50).map(|n| n.to_string()).collect();
    for mode in MODES {
        let requests = numbers
            .iter()
            .flat_map(|n| request(mode, n.parse().unwrap(), &["echo", n]));
        let output = run_command(me(mode).arg("threaded"), &requests.collect::<Vec<_>>());
        assert!(output.status.success());
        let mut replies: Vec<&[u8]> = Vec::new();
        let mut rest = &output.stdout[..];
        while !rest.is_empty() {
            let (one, more) = rest.split_at(8 + usize::from(rest[7]));
            (rest, _) = (more, replies.push(one));
        }
        let id = |n: &str| match mode {
            "ordered" => 1,
            _ => n.parse().unwrap(),
        };
        let want: Vec<_> = numbers.iter().map(|n| reply(id(n), &[n])).collect();
        if mode != "ordered" {
            replies.sort_unstable();
        }
        assert_eq!(replies, want, "{mode}");
    }
}

fn both_later() {
    for mode in MODES {
        for kind in ["deferred", "threaded"] {
            let me = Process::command(std::env::current_exe().unwrap()).plain(plain(mode));
            let (builder, log) = logged(me.args([CHILD, mode, kind]).rpc("do"));
            let rpc = builder.start().unwrap();
            let calls: Vec<_> = (0..500)
                .map(|n| {
                    let call = rpc.call(["echo", &n.to_string()]);
                    call.on_progress(|_| panic!("a plain peer has none"))
                        .start()
                })
                .collect();
            for (n, call) in calls.into_iter().enumerate() {
                assert_eq!(call.wait().unwrap(), [n.to_string()]);
            }
            assert!(rpc.finish().unwrap().status().unwrap().success());
            assert_eq!(log.end(), "destroy");
        }
    }
}

fn failed_replies() {
    let failed = |id: u32, list: &[&str]| reply(id | 0x8000_0000, list);
    let input = [
        request("fallible", 1, &["echo", "before"]),
        request("fallible", 2, &["fail", "no luck"]),
        // A string of five bytes that does not come.
        b"\0\0\0\x03\0\0\0\x01\x05".to_vec(),
        request("fallible", 0x7fff_ffff, &["fail", ""]),
        request("fallible", 5, &["echo", "after"]),
    ];
    let cut = "the request: octet string at offset 0 claims 5 bytes, but 0 are left";
    let want = [
        reply(1, &["before"]),
        failed(2, &["error", "no luck"]),
        failed(3, &["malformed", cut]),
        failed(0x7fff_ffff, &["error", ""]),
        reply(5, &["after"]),
    ];
    for kind in ["do", "deferred"] {
        let output = run_command(me("fallible").arg(kind), &input.concat());
        assert_eq!(output.stdout, want.concat(), "{kind}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(output.status.success());
    }
    let drop = request("fallible", 1, &["drop"]);
    let output = run_command(me("fallible").arg("deferred"), &drop);
    let want = failed(1, &["unanswered", "dropped without an answer"]);
    assert_eq!(output.stdout, want);
    assert!(output.status.success());
}

fn both_failing() {
    for kind in ["do", "deferred", "threaded"] {
        let me = Process::command(std::env::current_exe().unwrap()).plain(Plain::Fallible);
        let me = me.args([CHILD, "fallible", kind]).stderr(Stdio::capture());
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        let pid = rpc.call("pid").wait().unwrap();
        for _ in 0..100 {
            let calls = ["fail", "panic", "echo"].map(|verb| rpc.call([verb, "no luck"]).start());
            let [fail, panic, echo] = calls.map(|call| call.wait());
            match fail {
                Err(CallError::Failed(error)) => assert_eq!(error.to_string(), "no luck"),
                other => panic!("{kind}: {other:?}"),
            }
            match panic {
                Err(CallError::Panicked(panic)) => {
                    assert_eq!(panic.message(), "no luck");
                    assert!(panic.location().contains("common/mod.rs:"), "{panic}");
                }
                other => panic!("{kind}: {other:?}"),
            }
            assert_eq!(echo.unwrap(), ["no luck"]);
        }
        assert_eq!(rpc.call("pid").wait().unwrap(), pid, "it lives on");
        assert!(rpc.finish().unwrap().status().unwrap().success());
        assert_eq!(log.end(), "destroy");
    }
}

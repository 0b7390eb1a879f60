//! What the kernel holds a child to: limits, and the like.

mod common;

use common::{FOREVER, Gate, alone, bounded, children, lost, obey, status_field, unprivileged};
use offspring::{BoxError, Error, ErrorKind, Limit, Plain, Process, Rpc, Stdio, Worker};
use std::fs;
use std::hint::black_box;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A worker that tells of itself, and one setup that does.
fn worker() -> Worker {
    Worker::new()
        .setup("open nothing", |_| match fs::File::open("/dev/null") {
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        })
        .function("do", obey)
        .function("open", |_, _| -> Result<(), BoxError> {
            let _files: Vec<_> = (0..100)
                .map(|_| fs::File::open("/dev/null"))
                .collect::<Result<_, _>>()?;
            Ok(())
        })
        .function("write", |request, _| {
            let [path, len] = request.texts()?;
            Ok(fs::write(path, vec![b'x'; len.parse()?])?)
        })
        .function("allocate", |request, _| {
            let mebibytes: usize = request.texts::<1>()?[0].parse()?;
            Ok(black_box(vec![1_u8; mebibytes << 20]).len().to_string())
        })
        .function("spin", |_, _| -> Result<(), BoxError> {
            let start = Instant::now();
            while start.elapsed() < 2 * FOREVER {}
            Ok(())
        })
}

/// The soft and hard limit in a line of `/proc/PID/limits`.
fn limits(pid: u32, name: &str) -> [String; 2] {
    let all = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = all.lines().find_map(|line| line.strip_prefix(name));
    let mut words = line.unwrap().split_whitespace().map(str::to_owned);
    [(); 2].map(|()| words.next().unwrap())
}

/// A CPU that this process may run on.
fn own_cpu() -> usize {
    let list = status_field(std::process::id(), "Cpus_allowed_list");
    let first = list.split([',', '-']).next().unwrap();
    first.parse().unwrap()
}

/// Fewer processes than this one may have: whether it may have more depends on who runs it.
fn fewer_processes() -> u64 {
    let [_, hard] = limits(std::process::id(), "Max processes");
    hard.parse().unwrap_or(1 << 20) - 1
}

/// The nice values and the CPUs of the threads of a process.
fn of_threads(pid: u32) -> Vec<[String; 2]> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_thread = |dir: PathBuf| {
        let stat = fs::read_to_string(dir.join("stat")).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let status = fs::read_to_string(dir.join("status")).unwrap();
        let cpus = |line: &str| Some(line.strip_prefix("Cpus_allowed_list:")?.trim().to_owned());
        let nice = fields.split_whitespace().nth(16).unwrap().to_owned();
        [nice, status.lines().find_map(cpus).unwrap()]
    };
    threads
        .map(|thread| of_thread(thread.unwrap().path()))
        .collect()
}

/// With all settings that a plain command can have.
fn held(process: Process) -> Process {
    process
        .limit(Limit::Memory(1 << 30))
        .limit(Limit::OpenFiles(9999))
        .limit(Limit::CpuTime(Duration::from_millis(999_500)))
        .limit(Limit::FileSize(1 << 20))
        .limit(Limit::Processes(fewer_processes()))
        .limit(Limit::Core(0))
        // The last one counts.
        .limit(Limit::OpenFiles(99))
        .nice(3)
        .nice(19)
        .oom_score_adj(1000)
        .cpus([own_cpu()])
}

fn assert_held(pid: u32) {
    for (name, values) in [
        ("Max data size", ["1073741824"; 2]),
        ("Max open files", ["99"; 2]),
        ("Max cpu time", ["1000", "1001"]),
        ("Max file size", ["1048576"; 2]),
        ("Max processes", [&*fewer_processes().to_string(); 2]),
        ("Max core file size", ["0"; 2]),
    ] {
        assert_eq!(limits(pid, name), values, "{name}");
    }
    let adjustment = fs::read_to_string(format!("/proc/{pid}/oom_score_adj"));
    assert_eq!(adjustment.unwrap().trim(), "1000");
    // The function runs on another thread than that of the harness.
    for values in of_threads(pid) {
        assert_eq!(values, ["19".to_owned(), own_cpu().to_string()]);
    }
}

#[test]
fn worker_is_held_to_all_of_them() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = held(me).umask(0o027).rpc("do").start().unwrap();
        rpc.wait_ready().unwrap();
        assert_held(rpc.pid().unwrap());
        assert_eq!(status_field(rpc.pid().unwrap(), "Umask"), "0027");
        rpc.finish().unwrap();
    });
}

/// What needs a descriptor is applied before there is none.
#[test]
fn order_in_which_they_are_set_does_not_matter() {
    let me = worker().run_in_test();
    bounded(move || {
        let me = me.limit(Limit::OpenFiles(3)).oom_score_adj(1000).nice(19);
        let rpc = me.cpus([own_cpu()]).rpc("do").start().unwrap();
        assert_eq!(rpc.call(["echo", "x"]).wait().unwrap(), ["x"]);
        let values = of_threads(rpc.pid().unwrap());
        assert!(values.len() > 1 && values.iter().all(|[nice, _]| nice == "19"));
    });
}

#[test]
fn cores_are_those_that_the_child_may_run_on() {
    let me = Worker::new()
        .function("cores", |_, _| Ok(offspring::cores().to_string()))
        .run_in_test();
    bounded(move || {
        let rpc = me.cpus([own_cpu()]).rpc("cores").start().unwrap();
        assert_eq!(rpc.call(()).wait().unwrap(), ["1"]);
    });
}

#[test]
fn command_is_held_to_them_from_its_start() {
    bounded(|| {
        // A peer that answers nothing.
        let rpc = held(Process::command("cat").plain(Plain::Tagged)).rpc("peer");
        let rpc = rpc.start().unwrap();
        assert_held(rpc.pid().unwrap());
        rpc.finish().unwrap();
    });
}

#[test]
fn other_children_are_not_held() {
    let me = worker().run_in_test();
    bounded(move || {
        let before = me.clone();
        let held = held(me);
        let free = before.rpc("do").start().unwrap();
        free.wait_ready().unwrap();
        assert_eq!(
            limits(free.pid().unwrap(), "Max open files"),
            limits(std::process::id(), "Max open files")
        );
        drop(held);
    });
}

#[test]
fn setups_run_within_the_limits() {
    let me = worker().run_in_test();
    bounded(move || {
        let me = me.limit(Limit::OpenFiles(3)).setup("open nothing", ());
        let error = me.rpc("do").start().unwrap().wait_ready().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Setup);
        let text = error.to_string();
        let setup = text.contains("setup `open nothing`: ");
        assert!(setup && text.contains("(os error 24)"), "{text}");
    });
}

#[test]
fn limit_that_a_function_can_be_told_of_is_its_error() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.limit(Limit::OpenFiles(64)).rpc("open").start().unwrap();
        let error = rpc.call(()).wait().unwrap_err().to_string();
        assert!(error.contains("(os error 24)"), "{error}");
        assert_eq!(
            rpc.function("do").call(["echo", "x"]).wait().unwrap(),
            ["x"]
        );
    });
}

/// The error of a call that its child does not survive.
fn killed(rpc: &Rpc, request: &[&str], signal: i32) -> String {
    let error: Error = lost(rpc.call(request).wait());
    assert_eq!(error.status().unwrap().signal(), Some(signal), "{error}");
    error.to_string()
}

#[test]
fn child_that_a_limit_kills_says_which() {
    let me = worker().run_in_test();
    bounded(move || {
        let me = me.limit(Limit::Core(0)).stderr(Stdio::capture());
        let time = Limit::CpuTime(Duration::from_secs(1));
        let rpc = me.clone().limit(time).rpc("spin").start().unwrap();
        let text = killed(&rpc, &[], 24);
        let want = "killed by SIGXCPU, perhaps because of Process::limit(Limit::CpuTime(1s)) (pid ";
        assert!(text.contains(want), "{text}");

        let path = std::env::temp_dir().join(format!("offspring-settings-{}", std::process::id()));
        let file = path.to_str().unwrap();
        let limit = Limit::FileSize(1000);
        let rpc = me.clone().limit(limit).rpc("write").start().unwrap();
        rpc.call([file, "1000"]).wait().unwrap();
        let text = killed(&rpc, &[file, "1001"], 25);
        assert_eq!(fs::metadata(&path).unwrap().len(), 1000);
        fs::remove_file(&path).unwrap();
        let want =
            "killed by SIGXFSZ, perhaps because of Process::limit(Limit::FileSize(1000)) (pid ";
        assert!(text.contains(want), "{text}");

        let limit = Limit::Memory(256 << 20);
        let rpc = me.clone().limit(limit).rpc("allocate").start().unwrap();
        assert_eq!(rpc.call("1").wait().unwrap(), ["1048576"]);
        let text = killed(&rpc, &["1024"], 6);
        let want =
            "killed by SIGABRT, perhaps because of Process::limit(Limit::Memory(268435456)) (pid ";
        assert!(text.contains(want), "{text}");
        assert!(
            text.contains("memory allocation of 1073741824 bytes failed"),
            "{text}"
        );
    });
}

#[test]
fn child_that_is_killed_by_something_else_blames_no_limit() {
    let me = worker().run_in_test();
    bounded(move || {
        let me = held(me).stderr(Stdio::capture());
        for (verb, number) in [("TERM", 15), ("HUP", 1)] {
            let rpc = me.rpc("do").start().unwrap();
            let text = killed(&rpc, &["signal", verb], number);
            assert!(!text.contains("because"), "{text}");
        }
        let rpc = me.rpc("do").start().unwrap();
        let text = lost(rpc.call(["exit", "6"]).wait()).to_string();
        assert!(!text.contains("because"), "{text}");
        // The signal is one that a limit may send, but it was sent here.
        let rpc = me.rpc("do").start().unwrap();
        rpc.wait_ready().unwrap();
        let call = rpc.call(["spin", Gate::new().name()]).start();
        rpc.kill();
        let text = lost(call.wait()).to_string();
        assert!(
            text.contains("SIGKILL") && !text.contains("because"),
            "{text}"
        );
    });
}

/// The command ignores the signal, and the kernel kills it a second later.
#[test]
fn command_that_goes_on_beyond_its_cpu_time_is_killed() {
    bounded(|| {
        let time = Limit::CpuTime(Duration::from_secs(1));
        let spin = "trap '' XCPU; n=0; while [ $n -lt 100000000 ]; do n=$((n+1)); done";
        let sh = Process::command("sh")
            .plain(Plain::Tagged)
            .args(["-c", spin]);
        let rpc = sh.limit(time).rpc("peer").start().unwrap();
        let text = killed(&rpc, &[], 9);
        let want = "killed by SIGKILL, perhaps because of Process::limit(Limit::CpuTime(1s)) (pid ";
        assert!(text.contains(want), "{text}");
    });
}

type Change = fn(Process) -> Process;

#[test]
fn setting_that_cannot_be_is_a_start_error_that_names_it() {
    let me = worker().run_in_test();
    alone(move || {
        let cases: [(Change, &str); 8] = [
            (|me| me.nice(20), "Process::nice(20): it is not in -20..=19"),
            (
                |me| me.oom_score_adj(-1001),
                "Process::oom_score_adj(-1001): it is not in -1000..=1000",
            ),
            (|me| me.cpus([]), "Process::cpus([]): no CPU is given"),
            (
                |me| me.cpus([own_cpu(), 65_536]),
                "65536]): there is no CPU 65536",
            ),
            (
                |me| me.cpus([65_535]),
                "Process::cpus([65535]): there is no CPU 65535 that it may run on",
            ),
            (
                |me| me.cpus([own_cpu(), 65_534]),
                "65534]): there is no CPU 65534 that it may run on",
            ),
            // More than any kernel has.
            (
                |me| me.limit(Limit::OpenFiles(u64::MAX)),
                "Process::limit(Limit::OpenFiles(18446744073709551615)): Operation not permitted \
                 (os error 1); the hard limit is ",
            ),
            (
                |me| me.umask(0o1000),
                "Process::umask(0o1000): it is above 0o777",
            ),
        ];
        for (change, want) in cases {
            // The parent finds a part of them, and the child the others.
            let start = change(me.clone()).rpc("do").start();
            let error = start.and_then(|rpc| rpc.wait_ready()).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Spawn, "{text}");
            assert!(text.contains(want), "no `{want}` in: {text}");
            if want.contains("umask") {
                continue;
            }
            let command = change(Process::command("cat").plain(Plain::Tagged));
            let error = command.rpc("peer").start().unwrap_err();
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Spawn, "{text}");
            assert!(text.starts_with("cannot start `cat`: Process::"), "{text}");
            assert!(text.contains(want), "no `{want}` in: {text}");
        }
        common::eventually("nothing is left", || children().is_empty());
    });
}

#[test]
fn what_a_kind_of_child_cannot_have_is_an_error() {
    bounded(|| {
        let stream = || Process::stream(UnixStream::pair().unwrap().0).plain(Plain::Tagged);
        for (process, option) in [
            (stream().limit(Limit::Core(0)), "limit()"),
            (stream().nice(1), "nice()"),
            (stream().umask(0), "umask()"),
            (stream().oom_score_adj(1), "oom_score_adj()"),
            (stream().cpus([0]), "cpus()"),
            (
                Process::command("cat").plain(Plain::Tagged).umask(0),
                "umask()",
            ),
        ] {
            let error = process.rpc("peer").start().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            let text = error.to_string();
            assert!(text.contains(&format!("Process::{option}: ")), "{text}");
        }
    });
}

/// It is started, whatever the command has done meanwhile: what exits is taken for root's.
#[test]
fn command_that_ends_at_once_can_be_held() {
    unprivileged(|| {
        for _ in 0..300 {
            let rpc = held(Process::command("true").plain(Plain::Tagged)).rpc("peer");
            // It may have ended before it is told to.
            let _ = rpc.start().unwrap().finish();
        }
    });
}

/// Then the system reaps it as soon as it ends.
#[test]
fn command_that_nobody_reaps_can_be_held() {
    alone(|| {
        ignore_sigchld();
        for _ in 0..100 {
            let rpc = held(Process::command("true").plain(Plain::Tagged)).rpc("peer");
            let _ = rpc.start().unwrap().finish();
        }
    });
}

#[expect(unsafe_code, reason = "there is nothing safe for it")]
fn ignore_sigchld() {
    // SAFETY: a disposition of the system's own.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    assert_ne!(before, libc::SIG_ERR);
}

#[test]
fn command_that_cannot_be_held_is_killed_with_what_it_has_started() {
    alone(|| {
        let sh = Process::command("sh").plain(Plain::Tagged);
        let sh = sh.args(["-c", "sleep 1000 & sleep 1000 & wait"]);
        for _ in 0..20 {
            let start = sh.clone().cpus([own_cpu(), 65_534]).rpc("peer").start();
            assert_eq!(start.unwrap_err().kind(), ErrorKind::Spawn);
        }
        common::eventually("nothing is left", || sleepers() == 0);
    });
}

/// How many processes of this session sleep for a thousand seconds.
fn sleepers() -> usize {
    let own = common::session(std::process::id());
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| common::session(*pid) == own)
        .filter_map(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok())
        .filter(|line| line == b"sleep\x001000\0")
        .count()
}

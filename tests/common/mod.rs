//! Shared by all test files: a worker that executes commands, bounds against hangs, and functions
//! that inspect processes from outside.

#![allow(dead_code, reason = "each test file uses a part of this")]
#![expect(unreachable_pub, reason = "each test file is a crate")]

pub mod far;

use offspring::{
    BoxError, Call, CallError, Caller, Error, ErrorKind, Loop, Phase, PoolBuilder, Process, Rpc,
    RpcBuilder, Strings, Watch, Worker,
};
use std::fs;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Nothing takes this long, however busy the machine is: what does is hung.
pub const FOREVER: Duration = Duration::from_secs(60);

/// How long storms last.
fn storm_duration() -> Duration {
    let seconds = std::env::var("OFFSPRING_STORM_SECONDS").unwrap_or("1".into());
    Duration::from_secs(seconds.parse().expect("a number of seconds"))
}

/// Runs a test's body on its own thread. If it hangs, the test fails.
pub fn bounded(body: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        let _done = done;
        body();
    });
    // Nothing is ever sent; the channel closes when the body has returned or panicked. A condition
    // that never becomes true is reported by the body, before this limit.
    let limit = FOREVER + storm_duration() + Duration::from_secs(10);
    if wait.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
        panic!("the test hangs: not done after {limit:?}");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a test's body in a process without other tests, where descriptors, threads and children
/// can be counted and signal dispositions can be changed.
pub fn alone(body: impl FnOnce() + Send + 'static) {
    run_alone(body, |_| {});
}

/// As [`alone`], without the privileges of root, if the tests are run by it.
pub fn unprivileged(body: impl FnOnce() + Send + 'static) {
    const NOBODY: u32 = 65_534;
    run_alone(body, |command| {
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            command.uid(NOBODY).gid(NOBODY);
        }
    });
}

fn run_alone(body: impl FnOnce() + Send + 'static, change: impl FnOnce(&mut Command)) {
    const VARIABLE: &str = "OFFSPRING_TEST_ALONE";
    let name = thread::current()
        .name()
        .expect("a test's thread is named after it")
        .to_owned();
    if std::env::var(VARIABLE).is_ok_and(|alone| alone == name) {
        return bounded(body);
    }
    let mut command = Command::new("/proc/self/exe");
    command.args([&name, "--exact", "--nocapture", "--include-ignored"]);
    change(command.env(VARIABLE, &name));
    let status = command.status().unwrap();
    assert!(status.success(), "run alone, the test ended with {status}");
}

/// How long a test continues with its rounds of random operations, and which descriptors were open
/// before them.
pub struct Storm {
    descriptors: usize,
    start: Instant,
    duration: Duration,
}

impl Storm {
    /// Starts and finishes one child, so that everything that is opened only once is open, and
    /// starts the clock: for one second, or for `OFFSPRING_STORM_SECONDS`.
    pub fn new(me: &Process, function: &'static str) -> Self {
        me.rpc(function).start().unwrap().finish().unwrap();
        Storm {
            descriptors: descriptors(std::process::id()).len(),
            start: Instant::now(),
            duration: storm_duration(),
        }
    }

    /// Whether there should be another round. There is always a first one.
    pub fn continues(&self, rounds: usize) -> bool {
        rounds == 0 || self.start.elapsed() < self.duration
    }

    /// Waits until there are no more threads and descriptors than before.
    pub fn assert_nothing_left(&self) {
        eventually("no thread is left", || reactors() == 0);
        let open = || descriptors(std::process::id()).len();
        eventually("no descriptor is left", || open() == self.descriptors);
    }
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < FOREVER, "never became true: {what}");
        // Only to leave the processor to what is waited for.
        thread::sleep(Duration::from_millis(1));
    }
}

/// The worker of most tests: its function `do` executes the command in the first string.
pub fn worker() -> Worker {
    Worker::new().function("do", obey)
}

/// What is behind a shell that does something, and then becomes a relay of this test.
pub fn behind_shell(before: &str) -> Process {
    relay_of_shell(&format!("{before}; exec \"$@\""))
}

/// What is behind a shell script that starts a relay of this test: `"$@"`.
pub fn relay_of_shell(script: &str) -> Process {
    let exe = std::env::current_exe().unwrap();
    let name = thread::current().name().unwrap().to_owned();
    Process::command("sh")
        .args(["-c", script])
        .arg("sh")
        .arg(exe)
        .args([&*name, "--exact", "--nocapture", "--include-ignored"])
        .env("OFFSPRING", "serve")
}

/// The function `do`.
pub fn obey(request: Strings, caller: &Caller) -> Result<Strings, BoxError> {
    let rest = || request.iter().skip(1).collect::<Strings>();
    let one = |text: String| Ok([text].into_iter().collect::<Strings>());
    let text = || -> Result<String, BoxError> { Ok(rest().texts::<1>()?[0].to_owned()) };
    match &request[0] {
        b"echo" => Ok(rest()),
        b"size" => one(rest()[0].len().to_string()),
        b"blob" => Ok([vec![7; text()?.parse()?]].into_iter().collect()),
        b"event" => {
            caller.event(rest());
            Ok(Strings::new())
        }
        b"events" => {
            let n: usize = text()?.parse()?;
            (0..n).for_each(|n| caller.event(n.to_string()));
            one(n.to_string())
        }
        // This many events of 1 MiB.
        b"flood" => {
            let block = [vec![7; 1 << 20]];
            (0..text()?.parse()?).for_each(|_: usize| caller.event(&block));
            Ok(Strings::new())
        }
        b"fail" => Err(text()?.into()),
        b"panic" => panic!("{}", text()?),
        b"exit" => std::process::exit(text()?.parse()?),
        b"abort" => std::process::abort(),
        b"segv" => segv(),
        b"signal" => {
            signal(std::process::id(), &text()?);
            // Only reached if the signal is not fatal.
            Ok(Strings::new())
        }
        b"stderr" => {
            eprintln!("{}", text()?);
            Ok(Strings::new())
        }
        b"stderr and exit" => {
            eprintln!("{}", text()?);
            std::process::exit(3)
        }
        b"events and exit" => {
            let n: usize = text()?.parse()?;
            (0..n).for_each(|n| caller.event(n.to_string()));
            std::process::exit(3)
        }
        b"gate" => {
            Gate::enter(str::from_utf8(&request[1])?);
            Ok(Strings::new())
        }
        b"gate and panic" => {
            Gate::enter(&text()?);
            panic!("after the gate");
        }
        b"spin" => {
            Gate::announce(&text()?);
            // Longer than any test, but it ends even if nothing kills it.
            let start = Instant::now();
            while start.elapsed() < 2 * FOREVER {}
            std::process::exit(4)
        }
        b"pid" => one(std::process::id().to_string()),
        other => Err(format!("unknown verb `{}`", other.escape_ascii()).into()),
    }
}

/// The error of a child that does not get ready.
pub fn error_of(process: &Process) -> Error {
    let rpc = process.rpc("do").on_error(drop).start().unwrap();
    let Err(CallError::Lost(error, phase)) = rpc.call("echo").wait() else {
        panic!("it does not answer");
    };
    // What was sent may have begun.
    let has_greeted = matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Disconnected);
    assert!(has_greeted || phase != Phase::Begun, "{error}");
    error
}

/// The process id of a child, where it runs, as it says itself. It serves [`worker`]'s function.
pub fn pid(rpc: &Rpc) -> u32 {
    let pid = rpc.call("pid").wait().unwrap();
    pid.to_string().parse().unwrap()
}

#[expect(unsafe_code, reason = "nothing safe crashes")]
pub fn segv() -> ! {
    let nowhere = std::ptr::without_provenance_mut::<u8>(8);
    // SAFETY: it is not sound. The test needs the signal.
    unsafe { nowhere.write_volatile(1) };
    unreachable!("nothing is mapped there")
}

/// Holds a function in a child until the test lets it continue.
pub struct Gate {
    name: String,
    listener: UnixListener,
}

impl Gate {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("offspring-test-{}-{count}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        Gate { name, listener }
    }

    /// The name that a function needs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until a function is at the gate.
    pub fn entered(&self) -> Entered {
        Entered(self.listener.accept().unwrap().0)
    }

    /// Makes ten calls that wait at the gate, of which a child runs three simultaneously: each
    /// that leaves makes room for another, and three wait to the end. Returns their replies.
    pub fn pass_in_threes(&self, rpc: &Rpc) -> Vec<Strings> {
        let calls: Vec<_> = (0..10).map(|_| rpc.call(self.name()).start()).collect();
        let mut inside: Vec<_> = (0..3).map(|_| self.entered()).collect();
        for _ in 3..10 {
            inside.remove(0).open();
            inside.push(self.entered());
        }
        assert!(inside.iter_mut().all(|one| one.is_waiting()));
        drop(inside);
        let replies = calls.into_iter().map(|call| call.wait().unwrap());
        replies.collect()
    }

    /// For the child: waits at the gate until it opens. Echoes the test's probes meanwhile.
    pub fn enter(name: &str) {
        let mut stream = Gate::connect(name);
        let mut probe = [0];
        while stream.read(&mut probe).is_ok_and(|n| n > 0) {
            stream.write_all(&probe).unwrap();
        }
    }

    /// For the child: waits at the gate while its loop continues. `then` is called when it opens.
    pub fn enter_on(events: &Loop, name: &str, then: impl FnOnce(&Loop) + 'static) -> Watch {
        let stream = Gate::connect(name);
        events.readable(stream, then, |stream, then, events| {
            let mut probe = [0];
            if stream.read(&mut probe).is_ok_and(|n| n > 0) {
                stream.write_all(&probe).unwrap();
                return Some(then);
            }
            then(events);
            None
        })
    }

    /// For the child: reports that it got here, and continues.
    pub fn announce(name: &str) {
        drop(Gate::connect(name));
    }

    fn connect(name: &str) -> UnixStream {
        let address = SocketAddr::from_abstract_name(name).unwrap();
        UnixStream::connect_addr(&address).unwrap()
    }
}

/// A function that waits at the gate. The gate opens when this is dropped.
pub struct Entered(UnixStream);

impl Entered {
    /// Whether the function is still waiting there.
    pub fn is_waiting(&mut self) -> bool {
        let mut answer = [0];
        self.0.write_all(b"?").is_ok() && self.0.read(&mut answer).is_ok_and(|n| n > 0)
    }

    /// Lets it continue.
    pub fn open(self) {}
}

/// Sends a signal to a process: `STOP`, `CONT`, `KILL`.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("sh")
        .args(["-c", r#"kill -s "$1" "$2""#, "kill", name, &pid.to_string()])
        .status()
        .unwrap();
    // A process that signals itself may not get this far.
    assert!(status.success(), "kill -s {name} {pid}: {status}");
}

/// Stops a process, and waits until none of its threads runs.
pub fn stop(pid: u32) {
    signal(pid, "STOP");
    eventually("all threads are stopped", || all_threads(pid, "T"));
}

/// Whether all threads of a process are in this state: `S` is sleeping.
pub fn all_threads(pid: u32, state: &str) -> bool {
    let mut tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks.all(|task| {
        let stat = fs::read_to_string(task.path().join("stat"));
        stat.is_ok_and(|stat| stat.contains(&format!(") {state} ")))
    })
}

/// Waits until all threads of a process are blocked.
pub fn await_sleep(pid: u32) {
    eventually("all threads sleep", || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        tasks.flatten().all(|task| {
            fs::read_to_string(task.path().join("stat")).is_ok_and(|stat| stat.contains(") S "))
        })
    });
}

/// Whether a process is gone, or a zombie that is not our child.
pub fn is_gone(pid: u32) -> bool {
    stat(pid).is_none_or(|fields| fields[0] == "Z" && fields[1] != std::process::id().to_string())
}

/// The state of a process as one letter, if the process exists.
pub fn state(pid: u32) -> Option<String> {
    Some(stat(pid)?[0].clone())
}

/// The name of a process's program, if the process exists.
pub fn comm(pid: u32) -> Option<String> {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(comm.trim_end().to_owned())
}

/// The process group of a process.
pub fn group(pid: u32) -> Option<u32> {
    stat(pid)?[2].parse().ok()
}

/// The session of a process.
pub fn session(pid: u32) -> Option<u32> {
    stat(pid)?[3].parse().ok()
}

/// The fields of `/proc/PID/stat` after the name: state, parent, group, and so on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

/// A child that is a shell script instead of a worker. In it, `ready` sends a worker's first
/// message, and `send OCTAL-ESCAPES` writes to the parent.
pub fn script(text: &str) -> Process {
    Process::exe("/bin/sh").args(["-c", &script_text(text)])
}

/// The text of a [`script`] for a shell.
pub fn script_text(text: &str) -> String {
    let prelude = r#"send() { printf '%b' "$1" >&0; }
        ready() { send '\0200\0000\0000\0000\0000\0000\0000\0010\0005ready\00011'; }
    "#;
    format!("{prelude}{text}")
}

/// The children of this process, including zombies.
pub fn children() -> Vec<u32> {
    children_of(std::process::id())
}

/// The children of a process, including zombies.
pub fn children_of(parent: u32) -> Vec<u32> {
    let parent = parent.to_string();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| stat(*pid).is_some_and(|fields| fields[1] == parent))
        .collect()
}

/// The descriptors of a process: their numbers and targets.
pub fn descriptors(pid: u32) -> Vec<(u32, String)> {
    let mut all: Vec<(u32, String)> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            // The one that the directory was read with is closed by now.
            let what = fs::read_link(&path).ok()?;
            let number = path.file_name()?.to_str()?.parse().ok()?;
            Some((number, what.to_str()?.to_owned()))
        })
        .collect();
    all.retain(|(_, what)| !(what.starts_with("/proc/") && what.ends_with("/fd")));
    all.sort_unstable();
    all
}

/// The number of reactor threads of this process.
pub fn reactors() -> usize {
    threads("offspring")
}

/// How many threads of this process have this name.
pub fn threads(name: &str) -> usize {
    fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|other| other.trim_end() == name)
        .count()
}

/// A field of `/proc/PID/status`.
pub fn status_field(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.expect("every process has it").trim().to_owned()
}

/// Lines that callbacks added, in order.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn add(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub fn last(&self) -> Option<String> {
        self.lines().pop()
    }

    /// Waits for the handle's final callback, and checks that it ran once and after all others.
    pub fn end(&self) -> String {
        let is_end = |line: &String| line == "destroy" || line.starts_with("error: ");
        eventually("on_error or on_destroy", || self.lines().iter().any(is_end));
        let lines = self.lines();
        let ends = lines.iter().filter(|line| is_end(line)).count();
        assert_eq!(ends, 1, "{lines:?}");
        let end = lines.last().cloned().unwrap();
        assert!(is_end(&end), "it was not the last: {lines:?}");
        end
    }
}

/// Logs everything that a handle reports: `event: ..`, `error: Kind`, `destroy`.
pub fn logged(builder: RpcBuilder) -> (RpcBuilder, Log) {
    let log = Log::default();
    let (events, errors, destroyed) = (log.clone(), log.clone(), log.clone());
    let builder = builder
        .on_event(move |event| events.add(format!("event: {event}")))
        .on_error(move |error| errors.add(format!("error: {:?}", error.kind())))
        .on_destroy(move || destroyed.add("destroy"));
    (builder, log)
}

/// Makes a call that is not answered, so that it times out after it was sent.
pub fn time_out<'a>(mut call: impl FnMut() -> Call<'a>) {
    loop {
        match call().timeout(Duration::from_millis(20)).wait() {
            Err(CallError::TimedOut(Phase::Begun)) => return,
            // This process was too busy to send it in time.
            Err(CallError::TimedOut(Phase::Queued)) => {}
            other => panic!("the call should time out, but ended with {other:?}"),
        }
    }
}

/// The error that a call was lost with.
pub fn lost<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> Error {
    match outcome {
        Err(CallError::Lost(error, _)) => error,
        other => panic!("the call should be lost, but ended with {other:?}"),
    }
}

/// The kind of error that a call was lost with.
pub fn lost_kind<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> ErrorKind {
    lost(outcome).kind()
}

/// Pseudo-random numbers. The seed is printed, and can be set.
pub struct Random(u64);

impl Random {
    pub fn new() -> Self {
        let seed = match std::env::var("OFFSPRING_TEST_SEED") {
            Ok(seed) => seed.parse().expect("the seed is a number"),
            Err(_) => {
                let epoch = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
                epoch.as_nanos() as u64
            }
        };
        println!("OFFSPRING_TEST_SEED={seed}");
        Random(seed | 1)
    }

    /// An independent generator, for another thread.
    pub fn fork(&mut self) -> Random {
        Random((self.below(usize::MAX) as u64) << 1 | 1)
    }

    /// A number below `limit`: xorshift64*.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        number as usize % limit
    }

    /// Any options of a pool, but for what it consists of.
    pub fn options(&mut self, builder: PoolBuilder) -> PoolBuilder {
        let mut millis = |below: usize| Duration::from_millis(self.below(below) as u64);
        let (grow, shrink, age) = (millis(3), millis(5), millis(200));
        let mut builder = builder
            .load(1 + self.below(4))
            .idle(self.below(3))
            .grow_after(grow);
        if self.below(2) == 0 {
            builder = builder.shrink_after(shrink);
        }
        if self.below(3) == 0 {
            builder = builder.max_calls(1 + self.below(20) as u64);
        }
        if self.below(3) == 0 {
            builder = builder.max_age(age);
        }
        if self.below(4) == 0 {
            builder = builder.max_queue(10, 1000);
        }
        builder
    }
}

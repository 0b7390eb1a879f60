//! Jobs for a pool whose children crash, hang, leak memory, and are killed from outside. Each job ends with an
//! answer or with an error that says why, and none that must not be repeated is begun twice.
//!
//! ```text
//! cargo run --example pool [SECONDS]
//! ```
//!
//! Shows what the pool is doing, and at the end how the jobs have ended. Exits with status 1 if any was lost,
//! as it had no outcome or one that does not explain it, or doubled, as it was begun or ended too often.

use offspring::{
    BoxError, CallError, Error, Fd, Limit, Outcome, Phase, Pool, PoolStats, Stdio, Worker,
};
use rustix::process::{Pid, Signal, getpid, kill_process};
use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{IsTerminal, Read, Seek, Write, stdout};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, hint, mem, process, thread};

/// When a job that hangs is given up.
const TIMEOUT: Duration = Duration::from_millis(300);
/// How long after that its child is killed.
const STUCK: Duration = Duration::from_millis(200);
/// No other job takes this long, unless the pool has forgotten it.
const FOREVER: Duration = Duration::from_secs(30);

/// When a child has leaked this many bytes of memory, it is replaced.
const LEAKED: u64 = 20 << 20;
/// The most bytes that a child can have.
const MEMORY: u64 = 256 << 20;

/// The status of a child that exits in a job.
const EXITS_WITH: i32 = 7;

#[derive(Debug, Clone, Copy)]
struct Job {
    number: u64,
    kind: Kind,
    /// Whether it may be begun again, once.
    is_repeatable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Work,
    Leak,
    Abort,
    Exit,
    Segfault,
    TakeAll,
    Hang,
}

impl Job {
    fn new(number: u64) -> Self {
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let kind = match mixed % 200 {
            0 | 1 => Kind::Abort,
            2 | 3 => Kind::Exit,
            4 | 5 => Kind::Segfault,
            6 => Kind::TakeAll,
            7 => Kind::Hang,
            8..40 => Kind::Leak,
            _ => Kind::Work,
        };
        Job {
            number,
            kind,
            // One that hangs would do so again.
            is_repeatable: kind != Kind::Hang && (mixed / 200).is_multiple_of(2),
        }
    }

    /// Runs in a child.
    fn run(self) -> u64 {
        match self.kind {
            Kind::Work => {}
            Kind::Leak => mem::forget(vec![1_u8; 8 << 20]),
            Kind::Abort => process::abort(),
            Kind::Exit => process::exit(EXITS_WITH),
            // Rust's handler, which looks for stack overflows, takes the first.
            Kind::Segfault => loop {
                let _ = kill_process(getpid(), Signal::SEGV);
            },
            Kind::TakeAll => {
                let mut all = Vec::new();
                loop {
                    all.push(vec![1_u8; 16 << 20]);
                }
            }
            Kind::Hang => loop {
                thread::park();
            },
        }
        (1..=self.summands()).map(hint::black_box).sum()
    }

    fn summands(self) -> u64 {
        self.number % 100 * 1000
    }

    fn answer(self) -> u64 {
        self.summands() * (self.summands() + 1) / 2
    }
}

fn main() -> Result<ExitCode, BoxError> {
    let begun: &OnceCell<File> = Box::leak(Box::default());
    let me = Worker::new()
        .setup("begun", |mut request| {
            let [file] = request.take_fds()?;
            begun.set(file.into()).map_err(|_| "there is one".into())
        })
        .function("job", |number, _caller| {
            let mut begun = begun.get().ok_or("there is no file")?;
            begun.write_all(format!("{number}\n").as_bytes())?;
            let job = Job::new(number.to_string().parse()?);
            Ok(job.run().to_string())
        })
        .run();

    let seconds = env::args().nth(1).unwrap_or("10".to_owned());
    let seconds = seconds.parse().map_err(|_| "usage: pool [SECONDS]")?;
    let time = Duration::from_secs(seconds);

    // Children note there which jobs they begin: that does not depend on what the pool says.
    let mut begun = nameless_file()?;
    let pool = me
        .setup("begun", Fd::from(begun.try_clone()?))
        .limit(Limit::Memory(MEMORY))
        .stderr(Stdio::null())
        .env_remove("RUST_BACKTRACE") // to look for symbols takes seconds
        .pool("job")
        .max(4)
        .grow_after(Duration::ZERO)
        .kill_stuck(STUCK)
        .max_memory(LEAKED)
        .max_queue(50, 1 << 20)
        .call_timeout(FOREVER)
        .on_exit(|_| {}) // the jobs tell
        .start()?;

    let tally = Arc::new(Mutex::new(Tally::default()));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| watch(&pool, &tally, &over));
        let start = Instant::now();
        for number in 0.. {
            if start.elapsed() >= time {
                break;
            }
            call(&pool, Job::new(number), &tally);
        }
        if let Err(error) = pool.clone().finish_timeout(FOREVER) {
            eprintln!("{error}");
        }
        over.store(true, Ordering::Relaxed);
    });

    let mut log = String::new();
    begun.rewind()?;
    begun.read_to_string(&mut log)?;
    let [jobs, answered, failed, lost, doubled] = tally.lock().unwrap().count(&log)?;
    println!(
        "jobs {jobs}, answered {answered}, failed as told {failed}, lost {lost}, doubled {doubled}, \
         children started {}",
        pool.stats().started
    );
    Ok(ExitCode::from(u8::from(lost + doubled > 0)))
}

/// Waits if there are too many calls already.
fn call(pool: &Pool, job: Job, tally: &Arc<Mutex<Tally>>) {
    tally.lock().unwrap().ends.push(End::Open);
    let tally = Arc::clone(tally);
    let mut call = pool.call(job.number.to_string());
    if job.is_repeatable {
        call = call.repeatable(1);
    }
    if job.kind == Kind::Hang {
        call = call.timeout(TIMEOUT);
    }
    call.then(move |outcome| tally.lock().unwrap().end(job, outcome));
}

/// Shows what the pool is doing, and kills children, until all is over.
fn watch(pool: &Pool, tally: &Mutex<Tally>, over: &AtomicBool) {
    let is_terminal = stdout().is_terminal();
    let pause = Duration::from_millis(if is_terminal { 200 } else { 1000 });
    let mut shown = Instant::now();
    while !over.load(Ordering::Relaxed) {
        let stats = pool.stats();
        if shown.elapsed() >= pause {
            shown = Instant::now();
            let clear = if is_terminal { "\x1b[H\x1b[J" } else { "" };
            println!("{clear}{stats}");
        }
        if random(5) == 0 {
            kill_any(&stats, tally);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Kills one of the children, as an administrator or the kernel might. Not one that has answered nothing yet: if
/// such die, the pool takes them for starts that fail, and waits before the next one.
fn kill_any(stats: &PoolStats, tally: &Mutex<Tally>) {
    let children = stats.children.iter().filter(|child| child.calls > 0);
    let pids: Vec<u32> = children.filter_map(|child| child.pid).collect();
    if !pids.is_empty() {
        tally.lock().unwrap().kill(pids[random(pids.len())]);
    }
}

/// How a job has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Answered,
    /// With an error that was to be expected. Whether it may have begun.
    Failed(bool),
    Unexplained,
}

#[derive(Default)]
struct Tally {
    /// By the numbers of the jobs.
    ends: Vec<End>,
    /// How many jobs have ended twice.
    ended_twice: u64,
    /// The children that were killed from here.
    killed: HashSet<u32>,
    /// The children that have died of a job that was to crash.
    crashed: HashSet<u32>,
    /// Jobs that were not to crash, with the children that have died of others.
    bystanders: Vec<(u64, u32)>,
}

impl Tally {
    fn kill(&mut self, pid: u32) {
        self.killed.insert(pid);
        if let Some(pid) = Pid::from_raw(pid as i32) {
            // It may have died by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    fn end(&mut self, job: Job, outcome: Outcome) {
        let end = match &outcome {
            Ok(answer) if *answer == [job.answer().to_string()] => End::Answered,
            Err(error) if self.may_fail_by(job, error) => {
                let phase = error.phase();
                End::Failed(!phase.is_some_and(Phase::is_safe_to_repeat))
            }
            other => {
                eprintln!("{job:?}: {other:?}");
                End::Unexplained
            }
        };
        let before = mem::replace(&mut self.ends[job.number as usize], end);
        self.ended_twice += u64::from(before != End::Open);
    }

    /// Whether this is how such a job may fail.
    fn may_fail_by(&mut self, job: Job, error: &CallError) -> bool {
        match error {
            CallError::TimedOut(_) => job.kind == Kind::Hang,
            CallError::Lost(error, Phase::Begun) => {
                !job.is_repeatable && self.explains_death(job, error)
            }
            CallError::Poison(errors) => {
                let explained = errors.iter().all(|error| self.explains_death(job, error));
                job.is_repeatable && errors.len() == 2 && explained
            }
            _ => false,
        }
    }

    /// Whether it is known what the child died of; of another job, that turns out at the end.
    fn explains_death(&mut self, job: Job, error: &Error) -> bool {
        let (Some(status), Some(pid)) = (error.status(), error.pid()) else {
            return false;
        };
        let died_by = |signal: Signal| status.signal() == Some(signal.as_raw());
        if died_by(Signal::KILL) && self.killed.contains(&pid) {
            return true;
        }
        let crashed = match job.kind {
            Kind::Work | Kind::Leak | Kind::Hang => {
                self.bystanders.push((job.number, pid));
                return true;
            }
            // Memory that cannot be had aborts a Rust program.
            Kind::Abort | Kind::TakeAll => died_by(Signal::ABORT),
            Kind::Exit => status.code() == Some(EXITS_WITH),
            Kind::Segfault => died_by(Signal::SEGV),
        };
        if crashed {
            self.crashed.insert(pid);
        }
        crashed
    }

    /// How many jobs there were, and how many were answered, failed as told, lost and doubled. The log has a
    /// line with a job's number for each time that it was begun.
    fn count(&mut self, log: &str) -> Result<[u64; 5], BoxError> {
        let mut begun: HashMap<u64, u32> = HashMap::new();
        for line in log.lines() {
            *begun.entry(line.parse()?).or_default() += 1;
        }
        for (number, pid) in &self.bystanders {
            // It was done, and before its answer was sent, the next job in the same child has crashed.
            if !self.crashed.contains(pid) || !begun.contains_key(number) {
                eprintln!("job {number} was not to crash, nor was another in child {pid}");
                self.ends[*number as usize] = End::Unexplained;
            }
        }
        let [mut answered, mut failed, mut lost, mut doubled] = [0, 0, 0, self.ended_twice];
        for (number, end) in (0..).zip(&self.ends) {
            let begun = begun.remove(&number).unwrap_or(0);
            let job = Job::new(number);
            let allowed = 1 + u32::from(job.is_repeatable);
            match end {
                End::Answered if begun > 0 => answered += 1,
                End::Failed(true) => failed += 1,
                End::Failed(false) if begun == 0 => failed += 1,
                _ => {
                    eprintln!("lost: {job:?}, begun {begun} times: {end:?}");
                    lost += 1;
                }
            }
            if begun > allowed {
                eprintln!("doubled: {job:?}, begun {begun} times: {end:?}");
                doubled += 1;
            }
        }
        Ok([self.ends.len() as u64, answered, failed, lost, doubled])
    }
}

/// A file for children to append to.
fn nameless_file() -> Result<File, BoxError> {
    let path = env::temp_dir().join(format!("offspring-pool-{}", process::id()));
    let mut options = File::options();
    let file = options
        .read(true)
        .append(true)
        .create_new(true)
        .open(&path)?;
    fs::remove_file(path)?;
    Ok(file)
}

/// A number below this one, different each time.
fn random(below: usize) -> usize {
    (RandomState::new().hash_one(below) % below as u64) as usize
}

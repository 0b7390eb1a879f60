//! The thread that reads from children, writes what callers leave to it, keeps time and runs all
//! callbacks.

use super::driver::Driver;
use crate::deadlines::Deadlines;
use crate::id_map::IdMap;
use crate::threads;
use polling::{Event, Events, Poller};
use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// A thread that serves any number of handles, instead of one thread for each.
///
/// All callbacks of its handles run on it, one at a time: a slow one delays the others. The thread
/// is started when first needed and ends when the last clone of this is dropped and the last
/// child served by it has ended.
///
/// # Examples
///
/// ```
/// use offspring::{Reactor, Worker};
///
/// # fn main() -> Result<(), offspring::BoxError> {
/// let me = Worker::new().function("echo", |request, _| Ok(request)).run();
/// let reactor = Reactor::new()?;
/// let start = || me.rpc("echo").reactor(&reactor).start();
/// let (one, two) = (start()?, start()?);
/// assert_eq!(one.call("hello").wait()?, ["hello"]);
/// assert_eq!(two.call("there").wait()?, ["there"]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Reactor {
    keep: Arc<Keep>,
}

/// Keeps the thread from ending while it has nothing to do.
#[derive(Debug)]
struct Keep(Arc<Core>);

impl Reactor {
    /// A reactor without children, and without a thread yet.
    ///
    /// # Errors
    ///
    /// If there are no descriptors left.
    pub fn new() -> io::Result<Self> {
        let core = Core::new(false)?;
        core.lock().keep = true;
        Ok(Reactor {
            keep: Arc::new(Keep(core)),
        })
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.keep.0
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        self.0.lock().keep = false;
        self.0.wake();
    }
}

/// What a reactor's thread and everybody else share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(super) poller: Arc<Poller>,
    inbox: Mutex<Inbox>,
    /// Whether it serves one link only, and its thread ends with that.
    is_own: bool,
}

/// What the thread is to do next.
#[derive(Debug, Default)]
struct Inbox {
    jobs: Vec<Job>,
    /// Links that want to be looked at.
    attention: Vec<usize>,
    next_key: usize,
    /// How many links have not ended.
    links: usize,
    /// Whether the thread will look here again before it sleeps.
    awake: bool,
    /// Whether there is a thread, and it has not decided to end.
    running: bool,
    /// Whether the thread stays without links.
    keep: bool,
    /// Whether another thread is to go on with the work.
    hand_over: bool,
    thread: Option<JoinHandle<()>>,
    /// What the thread has left to another when it ended.
    rest: Option<ReactorThread>,
}

enum Job {
    Add(Box<Driver>),
    Run(Box<dyn FnOnce() + Send>),
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Job::Add(_) => "Add",
            Job::Run(_) => "Run",
        })
    }
}

/// What became readable or writable: each link has three descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Socket,
    Process,
    Stdio,
}

/// Keys of the poller: a link's, and which of its descriptors.
pub(super) fn poll_key(link: usize, source: Source) -> usize {
    link * 4 + source as usize
}

thread_local! {
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// As long as it is there, this thread is a reactor's.
struct InCallback;

impl InCallback {
    fn enter() -> Self {
        IN_CALLBACK.set(true);
        InCallback
    }
}

impl Drop for InCallback {
    fn drop(&mut self) {
        IN_CALLBACK.set(false);
    }
}

/// Whether this is a reactor's thread, which must not block.
pub(crate) fn in_callback() -> bool {
    IN_CALLBACK.get()
}

/// Runs the program's code. A panic is reported by the panic hook, and goes no further.
pub(super) fn guard(callback: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(callback));
}

impl Core {
    /// A reactor of one link's own, or one that others may share.
    pub(super) fn new(is_own: bool) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Core {
            poller: Arc::new(Poller::new()?),
            inbox: Mutex::default(),
            is_own,
        }))
    }

    /// A key that no other link has.
    pub(super) fn new_key(&self) -> usize {
        let mut inbox = self.lock();
        inbox.next_key += 1;
        inbox.next_key
    }

    /// Serves a child from now on.
    pub(super) fn add(self: &Arc<Self>, driver: Driver) -> io::Result<()> {
        // Before the thread can know of it: it may end at once.
        self.lock().links += 1;
        self.submit(Job::Add(Box::new(driver)))
            .map_err(|(error, _)| {
                self.lock().links -= 1;
                error
            })
    }

    /// A link has ended; its last callback has run.
    pub(super) fn link_over(&self) {
        self.lock().links -= 1;
    }

    /// Runs a callback on the thread, and here if there can be no thread.
    pub(crate) fn run(self: &Arc<Self>, callback: impl FnOnce() + Send + 'static) {
        if let Err((_, Job::Run(callback))) = self.submit(Job::Run(Box::new(callback))) {
            guard(callback);
        }
    }

    /// Looks at a link.
    pub(super) fn attend(&self, key: usize) {
        let mut inbox = self.lock();
        inbox.attention.push(key);
        self.wake_from(inbox);
    }

    /// Waits until the thread has ended, if it is about to.
    pub(crate) fn join(&self) {
        let mut inbox = self.lock();
        if inbox.keep || inbox.links > 0 || in_callback() {
            return;
        }
        let thread = inbox.thread.take();
        drop(inbox);
        if let Some(thread) = thread {
            // It only ends by a panic if there is a bug, which was reported.
            let _ = thread.join();
        }
    }

    /// Has the thread leave its work to the calling one, and end, if it serves one link only.
    /// `meanwhile` is done until then.
    ///
    /// Whoever waits for that link's end, and for nothing else, is told of it by the system: the way
    /// over another thread, and that thread's end, take as long as the child's.
    pub(super) fn take_over(&self, meanwhile: impl FnOnce()) -> Option<ReactorThread> {
        let mut inbox = self.lock();
        if !self.is_own || in_callback() {
            return None;
        }
        let thread = inbox.thread.take()?;
        inbox.hand_over = true;
        self.wake_from(inbox);
        meanwhile();
        // It only ends by a panic if there is a bug, which was reported.
        let _ = thread.join();
        // It has none to leave if the link has ended.
        self.lock().rest.take()
    }

    fn submit(self: &Arc<Self>, job: Job) -> Result<(), (io::Error, Job)> {
        let mut inbox = self.lock();
        if !inbox.running {
            let core = Arc::clone(self);
            let thread = thread::Builder::new().name("offspring".into());
            let work = move || {
                let rest = ReactorThread::new(Arc::clone(&core)).run();
                if rest.is_some() {
                    core.lock().rest = rest;
                }
            };
            match threads::start(thread, Box::new(work)) {
                Ok(thread) => inbox.thread = Some(thread),
                Err(error) => return Err((error, job)),
            }
            inbox.running = true;
            inbox.awake = true;
            inbox.hand_over = false;
        }
        inbox.jobs.push(job);
        self.wake_from(inbox);
        Ok(())
    }

    fn wake(&self) {
        self.wake_from(self.lock());
    }

    fn wake_from(&self, mut inbox: MutexGuard<'_, Inbox>) {
        if inbox.running && !std::mem::replace(&mut inbox.awake, true) {
            drop(inbox);
            // It only fails if the eventfd is gone, and it lives as long as `self`.
            let _ = self.poller.notify();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().expect("nothing panics under this lock")
    }
}

/// The thread's own.
pub(super) struct ReactorThread {
    core: Arc<Core>,
    drivers: IdMap<Box<Driver>>,
    /// When which driver wants to be looked at.
    deadlines: Deadlines,
}

impl std::fmt::Debug for ReactorThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReactorThread").finish_non_exhaustive()
    }
}

impl ReactorThread {
    fn new(core: Arc<Core>) -> Self {
        ReactorThread {
            core,
            drivers: IdMap::default(),
            deadlines: Deadlines::default(),
        }
    }

    /// Goes on with another thread's work, until the link has ended.
    pub(super) fn run_here(mut self) {
        let _inside = InCallback::enter();
        let keys: Vec<u64> = self.drivers.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.with(key as usize, |driver| driver.process_ended(Instant::now()));
        }
        let rest = self.run();
        debug_assert!(rest.is_none(), "there is no thread to be asked for it");
    }

    /// Works until there are no links, or until another thread is to go on: returns what that needs.
    fn run(mut self) -> Option<Self> {
        // To its end: what callbacks leave to be dropped with the thread must not block it either.
        IN_CALLBACK.set(true);
        let mut events = Events::new();
        loop {
            while self.do_what_is_asked() {}
            let now = Instant::now();
            while let Some((deadline, key)) = self.deadlines.first() {
                if deadline > now {
                    break;
                }
                self.with(key as usize, |driver| driver.attend(now, false));
            }
            let mut inbox = self.core.lock();
            if !inbox.jobs.is_empty() || !inbox.attention.is_empty() {
                continue;
            }
            if self.drivers.is_empty() && !inbox.keep {
                inbox.running = false;
                return None;
            }
            if std::mem::take(&mut inbox.hand_over) {
                drop(inbox);
                return Some(self);
            }
            inbox.awake = false;
            drop(inbox);
            let deadline = self.deadlines.first().map(|(deadline, _)| deadline);
            events.clear();
            let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if let Err(error) = self.core.poller.wait(&mut events, timeout) {
                panic!("a poller with open descriptors can be waited for: {error}");
            }
            self.core.lock().awake = true;
            for event in events.iter() {
                self.happened(event);
            }
        }
    }

    /// Does what came into the inbox. Returns whether there was something.
    fn do_what_is_asked(&mut self) -> bool {
        let mut inbox = self.core.lock();
        let jobs = std::mem::take(&mut inbox.jobs);
        let attention = std::mem::take(&mut inbox.attention);
        drop(inbox);
        let asked = !jobs.is_empty() || !attention.is_empty();
        let now = Instant::now();
        for job in jobs {
            match job {
                Job::Run(callback) => guard(callback),
                Job::Add(driver) => {
                    let key = driver.key();
                    self.drivers.insert(key as u64, driver);
                    self.with(key, |driver| driver.attend(now, false));
                }
            }
        }
        for key in attention {
            self.with(key, |driver| driver.attend(now, false));
        }
        asked
    }

    fn happened(&mut self, event: Event) {
        let now = Instant::now();
        self.with(event.key / 4, |driver| match event.key % 4 {
            0 => driver.socket_ready(event, now),
            1 => driver.process_ended(now),
            _ => driver.stderr_ready(now),
        });
    }

    /// Lets a driver work, if it is still there, and takes note of what it wants next.
    fn with(&mut self, key: usize, work: impl FnOnce(&mut Driver)) {
        let Some(driver) = self.drivers.get_mut(key as u64) else {
            return;
        };
        let before = driver.deadline();
        work(driver);
        let over = driver.is_over();
        let after = driver.deadline().filter(|_| !over);
        if before != after {
            match after {
                Some(after) => self.deadlines.set(key as u64, after),
                None => self.deadlines.remove(key as u64),
            }
        }
        if over {
            self.drivers.remove(key as u64);
            self.drivers.trim();
            self.deadlines.trim();
        }
    }
}

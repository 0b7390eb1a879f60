//! Threads that start processes: for each template one, which makes one copy after the other.

use crate::error::Error;
use crate::process::{CopyWait, Launched, Process};
use crate::sys::Epoll;
use crate::{threads, unwind};
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::Builder;
use std::time::Duration;

/// A thread that starts processes. It ends when this is dropped and it has done what it was given.
pub(super) struct Starter(Arc<Jobs>);

/// What a thread is given.
#[derive(Default)]
struct Jobs {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    has_ended: bool,
}

/// What has become of it, for the relay.
#[derive(Clone)]
pub(super) struct Outcomes {
    list: Arc<Mutex<Vec<(u32, Outcome)>>>,
    epoll: Arc<Epoll>,
}

/// Something to start.
pub(super) enum Job {
    Start {
        channel: u32,
        process: Process,
        timeout: Duration,
    },
    Warm {
        id: u32,
        process: Process,
    },
}

/// What has become of something that another thread does.
pub(super) enum Outcome {
    Started(Result<Box<Launched>, Error>),
    Warmed(Result<(), Error>),
    /// A child has ended that cannot be polled.
    Ended,
}

impl Outcomes {
    pub(super) fn new(epoll: &Arc<Epoll>) -> Self {
        Outcomes {
            list: Arc::default(),
            epoll: Arc::clone(epoll),
        }
    }

    /// Reports one, and wakes the relay.
    pub(super) fn add(&self, number: u32, outcome: Outcome) {
        unwind::lock(&self.list).push((number, outcome));
        self.epoll.notify();
    }

    pub(super) fn take(&self) -> Vec<(u32, Outcome)> {
        mem::take(&mut unwind::lock(&self.list))
    }
}

impl Job {
    fn run(self) -> (u32, Outcome) {
        match self {
            Job::Start {
                channel,
                process,
                timeout,
            } => {
                let launched = process.launch(&CopyWait::new(timeout, None));
                (channel, Outcome::Started(launched.map(Box::new)))
            }
            Job::Warm { id, process } => (id, Outcome::Warmed(process.warm())),
        }
    }

    /// It cannot be done.
    pub(super) fn fail(self, error: Error) -> (u32, Outcome) {
        match self {
            Job::Start { channel, .. } => (channel, Outcome::Started(Err(error))),
            Job::Warm { id, .. } => (id, Outcome::Warmed(Err(error))),
        }
    }
}

impl Starter {
    /// Starts the thread, which reports what has become of its jobs.
    pub(super) fn start(outcomes: &Outcomes) -> io::Result<Self> {
        let jobs = Arc::new(Jobs::default());
        let (given, outcomes) = (Arc::clone(&jobs), outcomes.clone());
        let thread = Builder::new().name("offspring start".into());
        threads::start(
            thread,
            Box::new(move || {
                while let Some(job) = given.next() {
                    let (number, outcome) = job.run();
                    outcomes.add(number, outcome);
                }
            }),
        )?;
        Ok(Starter(jobs))
    }

    pub(super) fn hand_over(&self, job: Job) {
        unwind::lock(&self.0.queue).jobs.push_back(job);
        self.0.changed.notify_one();
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        unwind::lock(&self.0.queue).has_ended = true;
        self.0.changed.notify_one();
    }
}

impl Jobs {
    /// Waits for something to do. `None` if there is nothing more.
    fn next(&self) -> Option<Job> {
        let queue = unwind::lock(&self.queue);
        let is_idle = |queue: &mut Queue| queue.jobs.is_empty() && !queue.has_ended;
        let mut queue = unwind::wait_until(&self.changed, queue, None, is_idle);
        queue.jobs.pop_front()
    }
}

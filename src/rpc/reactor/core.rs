//! What a reactor's thread shares with all others.

use super::handler::EventHandler;
use super::table::HandlerTable;
use crate::rpc::callback::in_callback;
use crate::sys::SharedPoller;
use crate::{threads, unwind};
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Core {
    poller: Arc<SharedPoller>,
    inbox: Mutex<Inbox>,
    /// Whether it serves one handler only, and its thread ends with that.
    pub(super) is_own: bool,
}

/// What the thread is asked to do, and whether there is one.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    jobs: Vec<Job>,
    /// Handlers that are to be attended to.
    attention: Vec<usize>,
    last_key: usize,
    /// How many handlers have not ended.
    pub(super) handlers: usize,
    /// Whether the thread checks the inbox again before it sleeps.
    awake: bool,
    /// Whether there is a thread, and it has not decided to end.
    running: bool,
    /// Whether the thread stays without handlers.
    pub(super) keep: bool,
    /// Whether the thread is to leave its work to another and end.
    hand_over: bool,
    thread: Option<JoinHandle<()>>,
    /// The work that the thread has left to another.
    pub(super) left: Option<HandlerTable>,
}

/// Something for the thread to do.
pub(super) enum Job {
    /// Serve this handler.
    Add(Box<dyn EventHandler>),
    /// Run this callback.
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

/// What the thread does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextStep {
    /// Something came in.
    Work,
    /// Wait for descriptors. From here on it has to be woken.
    Sleep,
    /// Leave the work to the thread that asked for it.
    HandOver,
    /// There is nothing to serve.
    End,
}

impl Inbox {
    /// What the thread does next; `idle` says that it has no handlers.
    pub(super) fn next_step(&mut self, idle: bool) -> NextStep {
        if !self.jobs.is_empty() || !self.attention.is_empty() {
            NextStep::Work
        } else if idle && !self.keep {
            self.running = false;
            NextStep::End
        } else if std::mem::take(&mut self.hand_over) {
            NextStep::HandOver
        } else {
            self.awake = false;
            NextStep::Sleep
        }
    }

    /// The thread cannot serve, and ends, unless something came in.
    pub(super) fn give_up(&mut self) -> bool {
        let gives_up = self.jobs.is_empty() && self.attention.is_empty();
        self.running &= !gives_up;
        gives_up
    }

    /// What came in since the last time.
    pub(super) fn take(&mut self) -> (Vec<Job>, Vec<usize>) {
        let attention = std::mem::take(&mut self.attention);
        (std::mem::take(&mut self.jobs), attention)
    }

    /// Whether a thread has to be started before a job is done.
    pub(super) fn needs_thread(&self) -> bool {
        !self.running
    }

    /// A thread was started.
    pub(super) fn started(&mut self, thread: JoinHandle<()>) {
        self.thread = Some(thread);
        (self.running, self.awake, self.hand_over) = (true, true, false);
    }

    /// The thread woke up.
    pub(super) fn woke_up(&mut self) {
        self.awake = true;
    }

    /// Adds a job.
    pub(super) fn push(&mut self, job: Job) {
        self.jobs.push(job);
    }

    /// Asks the thread to leave its work to the caller and to end. `None` if there is no thread, or
    /// it was asked before.
    pub(super) fn ask_to_hand_over(&mut self) -> Option<JoinHandle<()>> {
        let thread = self.thread.take()?;
        self.hand_over = true;
        Some(thread)
    }

    /// Whether the thread sleeps and has to be woken for what just came in. True once for each
    /// sleep.
    fn needs_wake_up(&mut self) -> bool {
        self.running && !std::mem::replace(&mut self.awake, true)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if self.is_elsewhere() {
            let inbox = unwind::get_mut(&mut self.inbox);
            // To drop the handle would detach a thread that is not there.
            mem::forget(inbox.thread.take());
        }
    }
}

impl Core {
    /// A reactor of one handler's own, or one that several may share.
    pub(crate) fn new(is_own: bool) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Core {
            poller: Arc::new(SharedPoller::new()?),
            inbox: Mutex::default(),
            is_own,
        }))
    }

    /// The poller, for handlers to register their descriptors with.
    pub(crate) fn poller(&self) -> &Arc<SharedPoller> {
        &self.poller
    }

    /// Whether this process is a copy of the one that made it. Its thread is not there, and its locks
    /// may be held for ever.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.poller.is_elsewhere()
    }

    /// A key that no other handler has.
    pub(crate) fn new_key(&self) -> usize {
        let mut inbox = self.lock();
        inbox.last_key += 1;
        inbox.last_key
    }

    /// A handler has ended; its last callback has returned.
    pub(crate) fn handler_over(&self) {
        self.lock().handlers -= 1;
    }

    /// Has a handler attended to.
    pub(crate) fn attend(&self, key: usize) {
        let mut inbox = self.lock();
        inbox.attention.push(key);
        self.wake(inbox);
    }

    /// Waits until the thread has ended, if it is about to.
    pub(crate) fn join(&self) {
        let mut inbox = self.lock();
        if inbox.keep || inbox.handlers > 0 || in_callback() {
            return;
        }
        let thread = inbox.thread.take();
        drop(inbox);
        if let Some(thread) = thread {
            threads::join(thread);
        }
    }

    /// Wakes the thread, if it sleeps.
    pub(super) fn wake(&self, mut inbox: MutexGuard<'_, Inbox>) {
        if inbox.needs_wake_up() {
            drop(inbox);
            // It fails only if the eventfd is closed, which lives as long as `self`.
            let _ = self.poller.notify();
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inbox> {
        unwind::lock(&self.inbox)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running() -> Inbox {
        let mut inbox = Inbox::default();
        assert!(inbox.needs_thread());
        inbox.started(std::thread::spawn(|| {}));
        assert!(!inbox.needs_thread());
        inbox
    }

    #[test]
    fn sleeping_thread_is_woken_once() {
        let mut inbox = running();
        assert!(!inbox.needs_wake_up(), "it checks before it sleeps");
        assert_eq!(inbox.next_step(false), NextStep::Sleep);
        assert!(inbox.needs_wake_up());
        assert!(!inbox.needs_wake_up(), "it is being woken");
        inbox.woke_up();
        assert!(!inbox.needs_wake_up());
    }

    #[test]
    fn thread_that_wakes_by_itself_need_not_be_woken() {
        let mut inbox = running();
        assert_eq!(inbox.next_step(false), NextStep::Sleep);
        inbox.woke_up();
        assert!(!inbox.needs_wake_up());
    }

    #[test]
    fn thread_neither_sleeps_nor_ends_while_something_came_in() {
        let mut inbox = running();
        inbox.push(Job::Run(Box::new(|| {})));
        assert_eq!(inbox.next_step(true), NextStep::Work);
        assert_eq!(inbox.take().0.len(), 1);
        inbox.attention.push(7);
        assert_eq!(inbox.next_step(true), NextStep::Work);
        assert_eq!(inbox.take().1, [7]);
        assert_eq!(inbox.next_step(true), NextStep::End);
        assert!(inbox.needs_thread() && !inbox.needs_wake_up());
    }

    #[test]
    fn thread_that_is_kept_sleeps_without_handlers() {
        let mut inbox = running();
        inbox.keep = true;
        assert_eq!(inbox.next_step(true), NextStep::Sleep);
        inbox.keep = false;
        assert!(inbox.needs_wake_up());
        assert_eq!(inbox.next_step(true), NextStep::End);
    }

    #[test]
    fn thread_gives_up_only_when_nothing_came_in() {
        let mut inbox = running();
        inbox.keep = true;
        inbox.push(Job::Run(Box::new(|| {})));
        assert!(!inbox.give_up() && !inbox.needs_thread());
        inbox.take();
        inbox.attention.push(7);
        assert!(!inbox.give_up());
        inbox.take();
        assert!(inbox.give_up() && inbox.needs_thread());
    }

    #[test]
    fn work_is_handed_over_once_and_after_what_came_in() {
        let mut inbox = running();
        assert!(inbox.ask_to_hand_over().is_some());
        assert!(inbox.ask_to_hand_over().is_none(), "another has asked");
        inbox.attention.push(7);
        assert_eq!(inbox.next_step(false), NextStep::Work);
        inbox.take();
        assert_eq!(inbox.next_step(false), NextStep::HandOver);
        assert_eq!(inbox.next_step(false), NextStep::Sleep);

        // The next thread is not asked because the one before was.
        inbox.started(std::thread::spawn(|| {}));
        assert!(inbox.ask_to_hand_over().is_some());
        assert_eq!(inbox.next_step(true), NextStep::End);
        inbox.started(std::thread::spawn(|| {}));
        assert_eq!(inbox.next_step(false), NextStep::Sleep);
    }
}

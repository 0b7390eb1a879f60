//! What all threads of a child share: its calls, and its [output](super::output), under one lock.

use super::calls::MainCall;
use super::calls::{CallLimits, CallState, Duplicate, Ledger};
use super::looper::Post;
use super::output::Flusher;
use super::panics;
use crate::codec::{CodecError, Input};
use crate::id_map::IdMap;
use crate::sys::{self, Waker};
use crate::wire::Plain;
use crate::wire::{FULL_BATCH, Failure, SmallBytes, Writer};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};

/// What a call's cancellation sets off.
pub(super) type OnCancel = Box<dyn FnOnce() + Send>;

/// Drops what cancellations of a call would have set off that was answered. The program's code may run:
/// not under the lock.
#[inline]
pub(super) fn drop_unneeded(callbacks: Vec<OnCancel>) {
    #[cold]
    fn drop_guarded(callbacks: Vec<OnCancel>) {
        for callback in callbacks {
            // A panic is shown by the hook, and belongs to no call: this one is answered.
            let _ = panics::catch(|| drop(callback));
        }
    }
    if !callbacks.is_empty() {
        drop_guarded(callbacks);
    }
}

/// See the module's documentation.
pub(crate) struct Hub {
    state: Mutex<HubState>,
    /// The call that the main thread is at.
    turn: MainCall,
    /// Notified when output was written.
    pub(super) changed: Condvar,
    /// Notified when a request waits for a thread.
    work: Condvar,
    /// Notified when the flusher is to get up.
    pub(super) flusher: Condvar,
    pub(super) fd: OwnedFd,
    pub(super) is_socket: bool,
    pub(super) plain: Option<Plain>,
    /// The longest payload that the parent takes.
    max_frame: AtomicUsize,
}

pub(super) struct HubState {
    pub(super) ledger: Ledger,
    pub(super) writer: Writer,
    /// How many bytes are to gather before a batch is written. More if there was no room just now.
    pub(super) next_batch: usize,
    /// How many threads wait for `changed`.
    pub(super) waiting: usize,
    pub(super) threads: Threads,
    pub(super) flusher: Flusher,
    on_cancel: IdMap<Vec<OnCancel>>,
    waker: Option<Arc<Waker>>,
    /// Whether the loop sleeps, and can be woken by the bell.
    asleep: bool,
    /// Whether it does so because it may take no more requests.
    pub(super) slept_full: bool,
    /// Whether it is to be woken by the last answer: it has slept for long, and calls have run for as
    /// long. For short ones it would only be disturbed.
    slept_long: bool,
    posts: Vec<Post>,
}

/// Those that take requests by themselves.
#[derive(Default)]
pub(super) struct Threads {
    pub(super) any: bool,
    /// How many have no request, started or not.
    free: usize,
}

/// The hub of this process, if it is a child.
static HUB: OnceLock<&'static Hub> = OnceLock::new();

/// What a loop finds when it wants to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LoopStatus {
    /// More requests are welcome.
    pub(super) wants_requests: bool,
    /// Output waits for room in the socket.
    pub(super) wants_room: bool,
    /// Another thread may have something to tell: sleep where the bell is heard.
    pub(super) wants_waker: bool,
    /// There are calls that are not answered.
    pub(super) busy: bool,
    /// All is answered and written, and no more requests will come.
    pub(super) finished: bool,
    /// The parent is gone with output unwritten.
    pub(super) broken: bool,
}

impl Hub {
    pub(super) fn new(fd: OwnedFd, plain: Option<Plain>) -> Self {
        Hub {
            state: Mutex::new(HubState {
                ledger: Ledger::default(),
                writer: Writer::default(),
                next_batch: FULL_BATCH,
                waiting: 0,
                threads: Threads::default(),
                flusher: Flusher::default(),
                on_cancel: IdMap::default(),
                waker: None,
                asleep: false,
                slept_full: false,
                slept_long: false,
                posts: Vec::new(),
            }),
            turn: MainCall::default(),
            changed: Condvar::new(),
            work: Condvar::new(),
            flusher: Condvar::new(),
            is_socket: sys::is_stream_socket(fd.as_fd()),
            fd,
            plain,
            max_frame: AtomicUsize::new(u32::MAX as usize),
        }
    }

    pub(super) fn set_max_frame(&self, max_frame: usize) {
        // ORDERING: set before functions run; threads they start see it by being started.
        self.max_frame.store(max_frame, Ordering::Relaxed);
    }

    /// Writes what is left to be written when the process exits, whoever ends it: a function may call
    /// `exit`. To be called once in a process.
    pub(super) fn flush_at_exit(&'static self) {
        extern "C" fn flush() {
            if let Some(hub) = HUB.get() {
                hub.flush();
            }
        }
        if HUB.set(self).is_ok() {
            sys::at_exit(flush);
        }
    }

    pub(super) fn max_frame(&self) -> usize {
        // ORDERING: see `set_max_frame`.
        self.max_frame.load(Ordering::Relaxed)
    }

    pub(super) fn set_limits(&self, limits: CallLimits) {
        self.lock().ledger.set_limits(limits);
    }

    pub(super) fn output(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    // ---- calls ----

    /// A request has come. Returns whether the main thread is to begin its call, and then to say
    /// [`leave`](Hub::leave); if not, it is to be [queued](Hub::queue).
    #[inline(always)]
    pub(super) fn begin(&self, id: u32) -> Result<bool, Duplicate> {
        match self.turn.begin(id) {
            true => Ok(true),
            false => self.begin_by_ledger(id),
        }
    }

    fn begin_by_ledger(&self, id: u32) -> Result<bool, Duplicate> {
        self.turn.begin_by(&self.lock().ledger, id)
    }

    /// The main thread is done with a call, which others will answer if it is not answered.
    #[inline(always)]
    pub(super) fn leave(&self, id: u32) {
        if self.turn.is_at(id) {
            self.leave_to_others(id);
        }
    }

    fn leave_to_others(&self, id: u32) {
        let state = &mut *self.lock();
        self.turn
            .leave(&mut state.ledger, id, state.writer.unsent());
    }

    /// A call was answered, and so many bytes are now to be written. Returns what its cancellation
    /// would have set off.
    #[inline]
    pub(super) fn answered(&self, state: &mut HubState, id: u32, unsent: usize) -> Vec<OnCancel> {
        let is_awake = self.turn.answered(&mut state.ledger, id, unsent);
        if !is_awake && state.concerns_the_loop() {
            self.wake_loop(state);
        }
        if state.on_cancel.is_empty() {
            return Vec::new();
        }
        state.take_on_cancel(id)
    }

    /// Takes a request in, which waits to be taken.
    pub(super) fn queue(&self, id: u32, request: Input<'_>) -> Result<(), Duplicate> {
        let mut state = self.lock();
        state.ledger.wait(id, request.into_small())?;
        self.turn.wait(id);
        if state.threads.free > 0 {
            self.work.notify_one();
        }
        Ok(())
    }

    /// Whether more requests are welcome.
    #[inline]
    pub(super) fn wants_requests(&self) -> bool {
        if self.turn.is_open() {
            return true;
        }
        let state = self.lock();
        state.ledger.wants_requests(state.writer.unsent())
    }

    /// The next request that waits, if it may start: it counts as running. The last part says whether
    /// others wait behind it.
    pub(super) fn next(&self) -> Option<(u32, SmallBytes, bool)> {
        let mut state = self.lock();
        let (id, request) = state.ledger.next()?;
        Some((id, request, state.ledger.waiting() > 0))
    }

    /// A thread is about to be started that takes requests with [`take`](Hub::take). Returns false
    /// if it is not needed, as others are free.
    pub(super) fn add_thread(&self) -> bool {
        let mut state = self.lock();
        let needed = state.ledger.waiting() > state.threads.free;
        if needed {
            state.threads.any = true;
            state.threads.free += 1;
        }
        needed
    }

    /// The thread could not be started.
    pub(super) fn remove_thread(&self) {
        self.lock().threads.free -= 1;
    }

    /// Takes the next request, waiting until there is one. For threads that are free.
    pub(super) fn take(&self) -> (u32, SmallBytes) {
        let mut state = self.lock();
        loop {
            if let Some(next) = state.ledger.next() {
                state.threads.free -= 1;
                let unsent = state.writer.unsent();
                if state.slept_full && state.ledger.wants_requests(unsent) {
                    self.wake_loop(&mut state);
                }
                return next;
            }
            let proof = "nothing panics under this lock";
            state = self.work.wait(state).expect(proof);
        }
    }

    /// The thread that took a request is free again.
    pub(super) fn thread_is_free(&self) {
        self.lock().threads.free += 1;
    }

    /// Nobody waits for the answer to a call any more. Runs what was to be done then.
    pub(super) fn cancel(&'static self, id: u32) {
        let mut state = self.lock();
        match state.ledger.cancel(id) {
            CallState::Waiting => {
                drop(state);
                self.fail(id, &Failure::Cancelled);
            }
            CallState::Running => {
                let on_cancel = state.take_on_cancel(id);
                drop(state);
                for callback in on_cancel {
                    // A panic is shown by the hook, and belongs to no call: this one was told.
                    let _ = panics::catch(callback);
                }
            }
            CallState::Gone => {}
        }
    }

    pub(super) fn is_cancelled(&self, id: u32) -> bool {
        self.lock().ledger.is_cancelled(id)
    }

    /// Has `callback` called when the call is cancelled; at once if it was. Dropped when it is
    /// answered.
    pub(super) fn on_cancel(&self, id: u32, callback: OnCancel) {
        let mut state = self.lock();
        if state.ledger.is_cancelled(id) {
            drop(state);
            callback();
        } else if self.turn.is_at(id) || state.ledger.is_running(id) {
            match state.on_cancel.get_mut(id) {
                Some(callbacks) => callbacks.push(callback),
                None => state.on_cancel.insert(id, vec![callback]),
            }
        }
    }

    /// No more requests will come.
    pub(super) fn close(&self) {
        self.lock().ledger.close();
    }

    // ---- the loop ----

    /// Has a callback run on the loop.
    pub(super) fn post(&self, post: Post) {
        let mut state = self.lock();
        state.posts.push(post);
        self.wake_loop(&mut state);
    }

    /// What was posted since the last time.
    pub(super) fn take_posts(&self) -> Vec<Post> {
        std::mem::take(&mut self.lock().posts)
    }

    /// The bell, made when first asked for.
    pub(super) fn waker(&self) -> io::Result<Arc<Waker>> {
        let mut state = self.lock();
        if let Some(waker) = &state.waker {
            return Ok(Arc::clone(waker));
        }
        let waker = Arc::new(Waker::new()?);
        state.waker = Some(Arc::clone(&waker));
        Ok(waker)
    }

    /// Prepares for sleep, if there is nothing to be done by now. The bell is rung from here on for
    /// everything that concerns the loop.
    pub(super) fn prepare_to_sleep(&self) -> Option<LoopStatus> {
        let mut state = self.lock();
        // Another thread may just have given the answer that a request has waited for.
        let may_start = !state.threads.any && state.ledger.may_start();
        if !state.posts.is_empty() || may_start {
            return None;
        }
        state.asleep = true;
        let unsent = state.writer.unsent();
        let wants_requests = state.ledger.wants_requests(unsent);
        let finished = state.ledger.is_finished() && unsent == 0;
        state.slept_full = !wants_requests;
        Some(LoopStatus {
            wants_requests,
            wants_room: unsent > 0 && !state.writer.is_writing(),
            wants_waker: state.waker.is_some() || !wants_requests || state.ledger.waiting() > 0,
            busy: state.ledger.is_busy(),
            finished,
            broken: state.writer.has_failed(),
        })
    }

    /// The loop has slept for a while, and goes on. Returns false if there is no call any more that
    /// could wake it.
    pub(super) fn keep_sleeping(&self) -> bool {
        let mut state = self.lock();
        state.slept_long = state.ledger.is_busy();
        state.slept_long
    }

    /// The loop is up again.
    pub(super) fn woke_up(&self) {
        let mut state = self.lock();
        state.asleep = false;
        state.slept_long = false;
    }

    pub(super) fn wake_loop(&self, state: &mut HubState) {
        if state.asleep
            && let Some(waker) = &state.waker
        {
            state.asleep = false;
            waker.wake();
        }
    }

    pub(super) fn wait<'a>(&self, mut state: MutexGuard<'a, HubState>) -> MutexGuard<'a, HubState> {
        state.waiting += 1;
        let proof = "nothing panics under this lock";
        let mut state = self.changed.wait(state).expect(proof);
        state.waiting -= 1;
        state
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HubState> {
        self.state.lock().expect("nothing panics under this lock")
    }
}

impl HubState {
    /// Whether an answer that was just given is news to a loop that sleeps.
    fn concerns_the_loop(&self) -> bool {
        let may_start = self.ledger.waiting() > 0 && !self.threads.any;
        may_start || self.ledger.is_finished() || (self.slept_long && !self.ledger.is_busy())
    }

    fn take_on_cancel(&mut self, id: u32) -> Vec<OnCancel> {
        let callbacks = self.on_cancel.remove(id).unwrap_or_default();
        self.on_cancel.trim();
        callbacks
    }

    pub(super) fn is_above_high_water(&self) -> bool {
        self.writer.unsent() > self.ledger.high_water()
    }
}

/// What a codec has to say of a value, as a failure.
pub(super) fn malformed(what: &str, error: &CodecError) -> Failure {
    let message = format!("{what}: {error}");
    Failure::Malformed { message }
}

/// A failure for people to read.
pub(super) fn describe(failure: &Failure) -> String {
    match failure {
        Failure::Error { message, .. } => format!("failed: {message}"),
        Failure::Panic { message, location } => format!("panicked at {location}: {message}"),
        Failure::Malformed { message } => format!("got or gave something malformed: {message}"),
        Failure::Unanswered => "dropped a call without an answer".to_owned(),
        Failure::Cancelled => "was cancelled".to_owned(),
    }
}

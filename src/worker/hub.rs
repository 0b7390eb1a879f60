//! What all threads of a child share: its calls and its output, under one lock.
//!
//! Frames are put into one buffer, whole and in the order in which they are made, and any thread may
//! write: whoever finds nobody writing takes what has gathered. When a thread does is its [`Pace`].
//! What is left to be written soon is written by a thread for that, the flusher, which is started
//! when it is first needed: it writes what there is at once, and what has come since every
//! [`TICK`], until nothing has. So answers leave in batches, and none waits for the call after it.

use super::ledger::{Duplicate, Ledger, Limits, Was};
use super::looper::Post;
use crate::codec::{Argument, CodecError, Input, Output, scratch};
use crate::process::Plain;
use crate::service::Service;
use crate::sys::{self, Bell, Interest};
use crate::wire::{self, Batch, CONTROL_ROOM, Failure, Framing, Outbox, SmallBytes, ToParent};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::Duration;

/// A batch is written when it has become this large.
const BATCH: usize = 64 << 10;

/// What a call's cancellation sets off.
pub(super) type OnCancel = Box<dyn FnOnce() + Send>;

/// See the module's documentation.
pub(crate) struct Hub {
    state: Mutex<State>,
    /// Notified when output was written.
    changed: Condvar,
    /// Notified when a request waits for a thread.
    work: Condvar,
    /// Notified when the flusher is to get up.
    flusher: Condvar,
    fd: OwnedFd,
    is_socket: bool,
    plain: Option<Plain>,
    /// The longest payload that the parent takes.
    max_frame: AtomicUsize,
}

struct State {
    ledger: Ledger,
    out: Out,
    /// How many threads wait for `changed`.
    waiting: usize,
    threads: Threads,
    flusher: Flusher,
    on_cancel: BTreeMap<u32, Vec<OnCancel>>,
    bell: Option<Arc<Bell>>,
    /// Whether the loop sleeps, and can be woken by the bell.
    asleep: bool,
    /// Whether it does so because it may take no more requests.
    slept_full: bool,
    posts: Vec<Post>,
}

/// What the thread does that writes what is to be written soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flusher {
    None,
    Ticking,
    Asleep,
}

/// The flusher does next to nothing on its stack.
const FLUSHER_STACK: usize = 32 << 10;

/// Those that take requests by themselves.
#[derive(Default)]
struct Threads {
    any: bool,
    /// How many have no request, started or not.
    free: usize,
}

/// What became of a request.
pub(super) struct Arrived<'a> {
    /// The request, if it is to start at once.
    pub(super) start: Option<Input<'a>>,
    /// Whether no more should be taken.
    pub(super) full: bool,
}

#[derive(Default)]
struct Out {
    /// Whole frames.
    outbox: Outbox,
    /// What is being written. Comes before what is in the outbox.
    batch: Batch,
    /// How many bytes there are of all that is not written.
    unsent: usize,
    /// Whether the socket was made to take large payloads at once.
    is_wide: bool,
    /// How many bytes are to gather before a batch is written. More if there was no room just now.
    next_batch: usize,
    /// Whether a thread is at it.
    busy: bool,
    /// Whether the parent cannot be written to any more.
    broken: bool,
}

/// How long the flusher lets output gather.
const TICK: Duration = Duration::from_micros(200);

/// When what a thread sends is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    answers: When,
    events: When,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// By the thread itself, at once.
    Now,
    /// At once, but what comes next from this thread is written soon: it may be one of many.
    NowOnce,
    /// By the flusher.
    Soon,
    /// By the thread itself, before it waits for anything.
    Later,
}

impl Pace {
    /// What a thread does that says nothing.
    const NOW: Pace = Pace {
        answers: When::Now,
        events: When::Now,
    };
    /// One call, after which this thread waits for others.
    pub(super) const LAST_CALL: Pace = Pace {
        answers: When::Now,
        events: When::NowOnce,
    };
    /// One call, after which this thread begins the next one.
    pub(super) const CALL: Pace = Pace {
        answers: When::Soon,
        events: When::Soon,
    };
    /// A batch of calls, none of which takes long.
    pub(super) const BATCH: Pace = Pace {
        answers: When::Later,
        events: When::Later,
    };

    /// This thread's pace from now on.
    pub(super) fn set(self) {
        PACE.set(self);
    }
}

/// The hub of this process, if it is a child.
static HUB: OnceLock<&'static Hub> = OnceLock::new();

thread_local! {
    static PACE: Cell<Pace> = const { Cell::new(Pace::NOW) };
}

/// What a loop finds when it wants to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rest {
    /// More requests are welcome.
    pub(super) wants_requests: bool,
    /// Output waits for room in the socket.
    pub(super) wants_room: bool,
    /// Another thread may have something to tell: sleep where the bell is heard.
    pub(super) wants_bell: bool,
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
            state: Mutex::new(State {
                ledger: Ledger::default(),
                out: Out {
                    next_batch: BATCH,
                    ..Out::default()
                },
                waiting: 0,
                threads: Threads::default(),
                flusher: Flusher::None,
                on_cancel: BTreeMap::new(),
                bell: None,
                asleep: false,
                slept_full: false,
                posts: Vec::new(),
            }),
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

    fn max_frame(&self) -> usize {
        // ORDERING: see `set_max_frame`.
        self.max_frame.load(Ordering::Relaxed)
    }

    pub(super) fn set_limits(&self, limits: Limits) {
        self.lock().ledger.set_limits(limits);
    }

    pub(super) fn output(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    // ---- calls ----

    /// Takes a request in, which starts at once or waits.
    #[inline]
    pub(super) fn arrive<'a>(&self, id: u32, request: Input<'a>) -> Result<Arrived<'a>, Duplicate> {
        let mut state = self.lock();
        let mut start = Some(request);
        if !state.ledger.start(id)?
            && let Some(request) = start.take()
        {
            state.ledger.wait(id, request.into_small())?;
        }
        let full = !state.ledger.wants_requests(state.out.unsent);
        Ok(Arrived { start, full })
    }

    /// Takes a request in, which waits to be taken.
    pub(super) fn queue(&self, id: u32, request: Input<'_>) -> Result<(), Duplicate> {
        let mut state = self.lock();
        state.ledger.wait(id, request.into_small())?;
        if state.threads.free > 0 {
            self.work.notify_one();
        }
        Ok(())
    }

    /// Whether more requests are welcome.
    pub(super) fn wants_requests(&self) -> bool {
        let state = self.lock();
        state.ledger.wants_requests(state.out.unsent)
    }

    /// Whether requests wait to be started.
    pub(super) fn has_waiting(&self) -> bool {
        self.lock().ledger.waiting() > 0
    }

    /// The next request that waits, if it may start: it counts as running.
    pub(super) fn next(&self) -> Option<(u32, SmallBytes)> {
        self.lock().ledger.next()
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
                let unsent = state.out.unsent;
                if state.slept_full && state.ledger.wants_requests(unsent) {
                    self.ring(&mut state);
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
            Was::Waiting => {
                drop(state);
                self.fail(id, &Failure::Cancelled);
            }
            Was::Running => {
                let on_cancel = state.on_cancel.remove(&id).unwrap_or_default();
                drop(state);
                for callback in on_cancel {
                    // A panic is shown by the hook, and belongs to no call: this one was told.
                    let _ = super::panics::catch(callback);
                }
            }
            Was::Gone => {}
        }
    }

    pub(super) fn is_cancelled(&self, id: u32) -> bool {
        self.lock().ledger.is_cancelled(id)
    }

    /// Has `callback` called when the call is cancelled; at once if it was. Dropped when it is
    /// answered.
    pub(super) fn on_cancel(&self, id: u32, callback: OnCancel) {
        let mut state = self.lock();
        if !state.ledger.is_cancelled(id) {
            state.on_cancel.entry(id).or_default().push(callback);
            return;
        }
        drop(state);
        callback();
    }

    /// No more requests will come.
    pub(super) fn close(&self) {
        self.lock().ledger.close();
    }

    // ---- answers ----

    /// Answers a call: `fill` writes the reply's payload.
    ///
    /// # Errors
    ///
    /// If `fill` fails, or the reply is longer than the parent takes. The call is not answered.
    pub(super) fn reply(
        &'static self,
        id: u32,
        fill: impl FnOnce(&mut Output) -> Result<(), CodecError>,
    ) -> Result<(), Failure> {
        let wire_id = match self.plain {
            Some(Plain::Ordered) => wire::ORDERED_REPLY,
            Some(Plain::Tagged) | None => id,
        };
        self.frame("the reply", wire_id, Some(id), fill)
    }

    /// Answers a call that failed. In plain mode there is no such answer: the process ends, with what
    /// it made before written.
    pub(super) fn fail(&'static self, id: u32, failure: &Failure) {
        if self.plain.is_some() {
            self.flush();
            eprintln!("offspring child: the function {}", describe(failure));
            std::process::exit(1);
        }
        let mut payload = failure.encode();
        if payload.len() > self.max_frame().saturating_add(CONTROL_ROOM) {
            let message = "the error is longer than the limit (max_frame)".to_owned();
            payload = Failure::Malformed { message }.encode();
        }
        self.send(id | wire::FAILED, &mut payload, Some(id));
    }

    /// Sends an event.
    ///
    /// # Panics
    ///
    /// If it cannot be encoded, or is longer than the parent takes: the function that sends it has a
    /// bug, and its call is to fail.
    #[track_caller]
    pub(super) fn event<S: Service>(&'static self, event: impl Argument<S::Event, S::Codec>) {
        let sent = self.frame("an event", wire::EVENT, None, |output| {
            event.encode_to(output)
        });
        if let Err(Failure::Malformed { message }) = sent {
            panic!("{message}");
        }
    }

    /// Sends progress of a call. Plain peers have none.
    ///
    /// # Panics
    ///
    /// As [`event`](Hub::event).
    #[track_caller]
    pub(super) fn progress<S: Service>(
        &'static self,
        id: u32,
        progress: impl Argument<S::Progress, S::Codec>,
    ) {
        let mut output = Output::default();
        if let Err(error) = progress.encode_to(&mut output) {
            panic!("a progress report cannot be encoded: {error}");
        }
        let payload = &output.into_vec();
        let limit = self.max_frame();
        if payload.len() > limit {
            let len = payload.len();
            panic!("a progress report has {len} bytes, above the limit (max_frame) of {limit}");
        }
        self.control(&ToParent::Progress { id, payload });
    }

    /// Sends a control message, unless the parent knows none.
    pub(super) fn control(&'static self, message: &ToParent<'_>) {
        if self.plain.is_none() {
            self.send(wire::CONTROL_TO_PARENT, &mut message.encode(), None);
        }
    }

    // ---- output ----

    /// Whether the parent cannot be written to any more.
    pub(super) fn is_broken(&self) -> bool {
        self.lock().out.broken
    }

    /// Waits until everything sent so far is written. Returns whether it could be.
    pub(super) fn flush(&self) -> bool {
        let mut state = self.transmit(self.lock(), true);
        while state.out.unsent > 0 && !state.out.broken {
            state = self.wait(state);
        }
        !state.out.broken
    }

    /// Writes what has gathered, as far as there is room.
    pub(super) fn write_batch(&self) {
        let state = self.lock();
        if state.out.unsent > 0 {
            drop(self.transmit(state, false));
        }
    }

    /// Makes a frame whose payload `fill` writes, and sends it.
    fn frame(
        &'static self,
        what: &str,
        id: u32,
        answers: Option<u32>,
        fill: impl FnOnce(&mut Output) -> Result<(), CodecError>,
    ) -> Result<(), Failure> {
        let mut output = Output::into_buffer(scratch::take());
        fill(&mut output).map_err(|error| malformed(what, &error))?;
        let mut payload = output.into_vec();
        let (len, limit) = (payload.len(), self.max_frame());
        if len > limit {
            let message = format!("{what} has {len} bytes, above the limit (max_frame) of {limit}");
            return Err(Failure::Malformed { message });
        }
        self.send(id, &mut payload, answers);
        scratch::give_back(payload);
        Ok(())
    }

    /// Sends a frame, which may answer a call. A large payload is taken, and left empty.
    fn send(&'static self, id: u32, payload: &mut Vec<u8>, answers: Option<u32>) {
        let len = u32::try_from(payload.len()).expect("it was held against max_frame");
        let (header, n) = wire::header(Framing::Tagged, id, len);
        let pace = PACE.get();
        let when = match answers {
            Some(_) => pace.answers,
            None => pace.events,
        };
        if when == When::NowOnce {
            let events = When::Soon;
            PACE.set(Pace { events, ..pace });
        }
        let mut state = self.lock();
        while state.is_above_high_water() && state.out.busy {
            state = self.wait(state);
        }
        if let Some(id) = answers {
            state.answered(id);
            let to_start = state.ledger.waiting() > 0 && !state.threads.any;
            if to_start || !state.ledger.is_busy() {
                self.ring(&mut state);
            }
        }
        let out = &mut state.out;
        if out.broken {
            return;
        }
        out.unsent += n + payload.len();
        out.outbox.push(&header[..n], payload);
        let full = state.out.unsent >= state.out.next_batch;
        // Who sends faster than the parent reads waits for it, the loop too, but that only then.
        let wait = when != When::Later || state.is_above_high_water();
        match when {
            When::Soon if !full => self.flush_soon(state),
            When::Later if !full && !wait => {}
            _ => drop(self.transmit(state, wait)),
        }
    }

    /// Leaves what has gathered to the flusher.
    fn flush_soon(&'static self, mut state: MutexGuard<'_, State>) {
        match state.flusher {
            Flusher::Ticking => {}
            Flusher::Asleep => {
                state.flusher = Flusher::Ticking;
                self.flusher.notify_one();
            }
            Flusher::None => {
                let thread = thread::Builder::new().name("offspring flush".into());
                match thread
                    .stack_size(FLUSHER_STACK)
                    .spawn(|| self.run_flusher())
                {
                    Ok(_) => state.flusher = Flusher::Ticking,
                    // What cannot be done soon is done now.
                    Err(_) => drop(self.transmit(state, true)),
                }
            }
        }
    }

    fn run_flusher(&self) {
        let mut state = self.lock();
        loop {
            if state.out.unsent == 0 || state.out.broken {
                state.flusher = Flusher::Asleep;
                let proof = "nothing panics under this lock";
                let asleep = |state: &mut State| state.flusher == Flusher::Asleep;
                state = self.flusher.wait_while(state, asleep).expect(proof);
            }
            drop(self.transmit(state, true));
            thread::sleep(TICK);
            state = self.lock();
        }
    }

    /// Writes what there is, unless another thread is at it, which then takes it along. With `wait`
    /// until all is written, otherwise as far as there is room.
    fn transmit<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        wait: bool,
    ) -> MutexGuard<'a, State> {
        if state.out.busy {
            return state;
        }
        state.out.busy = true;
        state.out.next_batch = BATCH;
        while !state.out.broken {
            let out = &mut state.out;
            if out.batch.is_empty() {
                out.outbox.take(BATCH, &mut out.batch);
            }
            if out.batch.is_empty() {
                break;
            }
            if out.batch.has_large() && self.is_socket && !std::mem::replace(&mut out.is_wide, true)
            {
                // It is only slower if that is refused.
                let _ = sys::widen(&self.fd);
            }
            // Nobody else touches what is being written: `busy` says so.
            let mut batch = std::mem::take(&mut out.batch);
            drop(state);
            let result = batch.write(|parts| self.write(parts, wait));
            state = self.lock();
            let out = &mut state.out;
            match result {
                Ok(n) => {
                    batch.advance(n, &mut out.outbox);
                    out.batch = batch;
                    out.unsent -= n;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    out.batch = batch;
                    out.next_batch = out.unsent + BATCH;
                    break;
                }
                Err(_) => {
                    out.broken = true;
                    out.outbox.clear();
                    out.unsent = 0;
                }
            }
        }
        state.out.busy = false;
        if state.waiting > 0 {
            self.changed.notify_all();
        }
        self.ring(&mut state);
        state
    }

    fn write(&self, parts: &[IoSlice<'_>], wait: bool) -> io::Result<usize> {
        loop {
            let result = if self.is_socket {
                sys::send(&self.fd, parts)
            } else {
                sys::write(&self.fd, &parts[0])
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && wait => {
                    sys::wait_for(&self.fd, Interest::Writable)?;
                }
                result => return result,
            }
        }
    }

    // ---- the loop ----

    /// Has a callback run on the loop.
    pub(super) fn post(&self, post: Post) {
        let mut state = self.lock();
        state.posts.push(post);
        self.ring(&mut state);
    }

    /// What was posted since the last time.
    pub(super) fn take_posts(&self) -> Vec<Post> {
        std::mem::take(&mut self.lock().posts)
    }

    /// The bell, made when first asked for.
    pub(super) fn bell(&self) -> io::Result<Arc<Bell>> {
        let mut state = self.lock();
        if let Some(bell) = &state.bell {
            return Ok(Arc::clone(bell));
        }
        let bell = Arc::new(Bell::new()?);
        state.bell = Some(Arc::clone(&bell));
        Ok(bell)
    }

    /// Prepares for sleep, if nothing was posted meanwhile. The bell is rung from here on for
    /// everything that concerns the loop.
    pub(super) fn lie_down(&self) -> Option<Rest> {
        let mut state = self.lock();
        if !state.posts.is_empty() {
            return None;
        }
        state.asleep = true;
        let unsent = state.out.unsent;
        let wants_requests = state.ledger.wants_requests(unsent);
        let finished = state.ledger.is_finished() && unsent == 0;
        state.slept_full = !wants_requests;
        Some(Rest {
            wants_requests,
            wants_room: unsent > 0 && !state.out.busy,
            wants_bell: state.bell.is_some() || !wants_requests || state.ledger.waiting() > 0,
            busy: state.ledger.is_busy(),
            finished,
            broken: state.out.broken,
        })
    }

    /// The loop is up again.
    pub(super) fn get_up(&self) {
        self.lock().asleep = false;
    }

    fn ring(&self, state: &mut State) {
        if state.asleep
            && let Some(bell) = &state.bell
        {
            state.asleep = false;
            bell.ring();
        }
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let proof = "nothing panics under this lock";
        let mut state = self.changed.wait(state).expect(proof);
        state.waiting -= 1;
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }
}

impl State {
    #[inline]
    fn answered(&mut self, id: u32) {
        self.ledger.answered(id);
        if !self.on_cancel.is_empty() {
            self.on_cancel.remove(&id);
        }
    }

    fn is_above_high_water(&self) -> bool {
        self.out.unsent > self.ledger.high_water()
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

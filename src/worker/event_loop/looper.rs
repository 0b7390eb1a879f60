//! The event loop of deferred functions: timers, descriptors and work from other threads.

use super::descriptors::{Descriptor, Descriptors, PollPlaces};
use super::mailbox::Mailbox;
use super::timers::Timers;
use crate::codec::{Argument, Output};
use crate::id_map::IdMap;
use crate::outcome::Outcome;
use crate::service::{IntoService, Signature, id_of};
use crate::sys::{Interest, PollSet};
use crate::threads;
use crate::unwind;
use crate::wire::Failure;
use crate::worker::ask;
use crate::worker::hub::{AskEnd, Hub};
use crate::worker::panics;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// What is to be done on the loop.
enum Post {
    /// Run a callback.
    Run(Box<dyn FnOnce(&Loop) + Send>),
    /// Pass on what an offloaded function returned, or its panic.
    Offloaded(u64, Result<Box<dyn Any + Send>, Failure>),
    /// Pass on how an ask has ended.
    Asked(u64, AskEnd),
    /// Drop a watch that was cancelled.
    Cancelled(u64),
}

/// How a loop is reached from other threads.
struct LoopHandle {
    hub: &'static Hub,
    posts: Mailbox<Post>,
}

impl LoopHandle {
    /// A handle that is shared until the process exits: references need not be counted.
    fn leak(hub: &'static Hub, posts: Mailbox<Post>) -> &'static Self {
        // A process has one loop, except in tests. Leak checkers find its handle here when it is gone.
        static HANDLE: OnceLock<&LoopHandle> = OnceLock::new();
        let handle = Box::leak(Box::new(LoopHandle { hub, posts }));
        let _ = HANDLE.set(handle);
        handle
    }

    fn post(&self, post: Post) {
        if self.hub.is_elsewhere() {
            // The loop is the original's, and a lock of it may be held for ever here.
            return;
        }
        self.posts.push(post);
        self.hub.wake_loop();
    }
}

type Callback = Box<dyn FnMut(&Loop) -> Repeat>;
type OffloadCallback = Box<dyn FnOnce(Box<dyn Any + Send>, &Loop)>;
type AskCallback = Box<dyn FnOnce(AskEnd, &Loop)>;

/// Whether a watch that has fired stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Again,
    Never,
}

struct Timer {
    interval: Duration,
    callback: Callback,
}

/// The child's event loop, passed to every [deferred](crate::Worker::deferred) function and to every
/// callback that is registered on it.
///
/// Everything runs on the child's main thread, one callback at a time. A callback may take as long as
/// it needs, but nothing else runs meanwhile. Callbacks own what they need: a [`Caller`], a socket, a
/// counter. A callback that panics is dropped, and the calls that it owned fail with the panic; if it
/// owned none, the parent gets the strings `error` and the panic as an event. Everything else continues.
///
/// [`Caller`]: crate::Caller
///
/// # Examples
///
/// ```
/// use offspring::{Caller, Loop, Strings};
/// use std::time::Duration;
///
/// fn count_up(request: Strings, caller: Caller, events: &Loop) {
///     let Ok(count) = request.to_string().parse::<u32>() else {
///         return caller.fail("not a number");
///     };
///     let mut n = 0;
///     // The caller is handed from tick to tick.
///     events.every(Duration::from_millis(1), caller, move |caller, _| {
///         n += 1;
///         caller.event(format!("count {n} of {count}"));
///         if n < count {
///             return Some(caller);
///         }
///         caller.reply(());
///         None
///     });
/// }
/// # fn main() -> Result<(), offspring::BoxError> {
/// # let me = offspring::Worker::new().deferred("count", count_up).run();
/// # let (send, events) = std::sync::mpsc::channel();
/// # let rpc = me.rpc("count").on_event(move |n| drop(send.send(n))).start()?;
/// # rpc.call("3").wait()?;
/// # assert!(rpc.call("x").wait().is_err());
/// # rpc.finish()?;
/// # assert_eq!(events.iter().last().unwrap(), ["count 3 of 3"]);
/// # Ok(())
/// # }
/// ```
pub struct Loop {
    /// There until the process exits, so that watches and posters need not count references.
    handle: &'static LoopHandle,
    /// Ids of watches and offloads.
    last_id: Cell<u64>,
    timers: RefCell<Timers<Timer>>,
    descriptors: RefCell<Descriptors<Callback>>,
    offloaded: RefCell<IdMap<OffloadCallback>>,
    asked: RefCell<IdMap<AskCallback>>,
}

impl fmt::Debug for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loop").finish_non_exhaustive()
    }
}

impl Loop {
    pub(in crate::worker) fn new(hub: &'static Hub) -> Self {
        let posts = Mailbox::default();
        Loop {
            handle: LoopHandle::leak(hub, posts),
            last_id: Cell::new(0),
            timers: RefCell::default(),
            descriptors: RefCell::default(),
            offloaded: RefCell::default(),
            asked: RefCell::default(),
        }
    }

    /// Calls `callback` once, after `delay`. A delay that overflows the clock means never.
    pub fn after(&self, delay: Duration, callback: impl FnOnce(&Loop) + 'static) -> Watch {
        let mut once = Some(callback);
        self.add_timer(delay, move |this| {
            if let Some(callback) = once.take() {
                callback(this);
            }
            Repeat::Never
        })
    }

    /// Calls `callback` every `interval`, first with `keep` and then with what it returned the last
    /// time; `None` ends it. Missed ticks are skipped. An interval of zero means as often as possible,
    /// with everything else in between.
    pub fn every<K: 'static>(
        &self,
        interval: Duration,
        keep: K,
        mut callback: impl FnMut(K, &Loop) -> Option<K> + 'static,
    ) -> Watch {
        let mut kept = Some(keep);
        self.add_timer(interval, move |this| {
            kept = kept.take().and_then(|keep| callback(keep, this));
            Repeat::when(kept.is_some())
        })
    }

    /// Calls `callback` whenever the descriptor is readable, at its end, or has an error: first with
    /// `keep` and then with what it returned the last time. `None` ends it, and drops the descriptor.
    /// It is called again if it leaves something unread. A read that blocks stops the whole loop: make
    /// the descriptor non-blocking, or read once per call of `callback`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::os::unix::net::UnixStream;
    ///
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new()
    ///     .deferred("listen", |_request, caller, events| {
    ///         let (near, mut far) = UnixStream::pair().expect("there are descriptors");
    ///         let heard = (caller, String::new());
    ///         events.readable(near, heard, |stream, (caller, mut text), _| {
    ///             let mut buf = [0; 3];
    ///             match stream.read(&mut buf) {
    ///                 Ok(0) => caller.reply(text), // the end: `None` drops the stream
    ///                 Err(error) => caller.fail(error),
    ///                 Ok(n) => {
    ///                     text += &String::from_utf8_lossy(&buf[..n]);
    ///                     return Some((caller, text));
    ///                 }
    ///             }
    ///             None
    ///         });
    ///         far.write_all(b"hello").expect("it has room");
    ///     })
    ///     .run();
    /// assert_eq!(me.rpc("listen").start()?.call(()).wait()?, ["hello"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn readable<F: AsFd + 'static, K: 'static>(
        &self,
        fd: F,
        keep: K,
        callback: impl FnMut(&mut F, K, &Loop) -> Option<K> + 'static,
    ) -> Watch {
        self.add_descriptor(fd, Interest::Readable, keep, callback)
    }

    /// Same as [`readable`](Loop::readable), for when the descriptor is writable.
    pub fn writable<F: AsFd + 'static, K: 'static>(
        &self,
        fd: F,
        keep: K,
        callback: impl FnMut(&mut F, K, &Loop) -> Option<K> + 'static,
    ) -> Watch {
        self.add_descriptor(fd, Interest::Writable, keep, callback)
    }

    /// Runs `work` on a thread of its own, and then `then` on the loop, with what `work` returned. If
    /// `work` panics, `then` is dropped, and the calls that it owns fail with the panic.
    ///
    /// # Panics
    ///
    /// If the system has no thread or descriptor left.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new()
    ///     .deferred("lines", |request, caller, events| {
    ///         let path = request.to_string();
    ///         let read = move || std::fs::read_to_string(path); // may take long
    ///         events.offload(read, |text, _| {
    ///             let lines = |text: String| text.lines().count().to_string();
    ///             caller.answer(text.map(lines));
    ///         });
    ///     })
    ///     .run();
    /// assert_eq!(me.rpc("lines").start()?.call("/proc/self/comm").wait()?, ["1"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(T, &Loop) + 'static,
    ) {
        if self.handle.hub.is_elsewhere() {
            return;
        }
        let poster = self.poster();
        let id = self.new_id();
        let then: OffloadCallback = Box::new(move |value, this| {
            let value = value.downcast().expect("`work` boxed a `T`");
            then(*value, this);
        });
        let thread = thread::Builder::new().name("offspring offload".into());
        let work = move || {
            let result = panics::catch(work).map(|value| Box::new(value) as Box<dyn Any + Send>);
            poster.handle.post(Post::Offloaded(id, result));
        };
        if let Err(error) = threads::start(thread, Box::new(work)) {
            panic!("cannot start a thread: {error}");
        }
        self.offloaded.borrow_mut().insert(id, then);
    }

    /// Asks the parent for what it [serves](crate::RpcBuilder::on_ask), and calls `then` with its answer, on
    /// the loop, exactly once, and never inside this method. Unlike [`Caller::ask`](crate::Caller::ask) it
    /// belongs to no call, and has no timeout.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), offspring::BoxError> {
    /// let me = offspring::Worker::new()
    ///     .deferred("wait", |_request, caller, events| {
    ///         events.ask("delay", (), |delay, events| match delay {
    ///             Ok(ms) => {
    ///                 let ms = ms.to_string().parse().unwrap_or(0);
    ///                 events.after(Duration::from_millis(ms), |_| caller.reply("now"));
    ///             }
    ///             Err(error) => caller.fail(error),
    ///         });
    ///     })
    ///     .run();
    /// let rpc = me.rpc("wait").on_ask("delay", |_| Ok("2")).start()?;
    /// assert_eq!(rpc.call(()).wait()?, ["now"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn ask<'r, S: IntoService>(
        &self,
        service: S,
        request: impl Argument<<S::Service as Signature>::Request<'r>, <S::Service as Signature>::Codec>,
        then: impl FnOnce(Outcome<S::Service>, &Loop) + 'static,
    ) {
        let (hub, handle) = (self.handle.hub, self.handle);
        if hub.is_elsewhere() {
            return;
        }
        let service = service.into_service();
        let mut output = Output::default();
        let encoded = request.encode_to(&mut output);
        let id = self.new_id();
        let then = move |end, this: &Loop| then(ask::decode::<S::Service>(end), this);
        self.asked.borrow_mut().insert(id, Box::new(then));
        let waiter = Box::new(move |end| handle.post(Post::Asked(id, end)));
        let asked = match encoded {
            Ok(()) => hub
                .ask(None, id_of(&service), output.body(), waiter)
                .map(drop),
            Err(error) => Err(AskEnd::Malformed(error)),
        };
        if let Err(end) = asked {
            handle.post(Post::Asked(id, end));
        }
    }

    /// Returns a handle with which other threads run callbacks on the loop.
    ///
    /// # Panics
    ///
    /// If the system has no descriptor left.
    #[must_use]
    pub fn poster(&self) -> Poster {
        let hub = self.handle.hub;
        if !hub.is_elsewhere()
            && let Err(error) = hub.waker()
        {
            panic!("cannot make a descriptor to wake the loop with: {error}");
        }
        Poster {
            handle: self.handle,
        }
    }

    // ---- for the child that runs it ----

    /// Whether other threads have posted something since [`run_posts`](Loop::run_posts).
    pub(in crate::worker) fn has_posts(&self) -> bool {
        !self.handle.posts.is_empty()
    }

    /// Does what was posted: before every callback, so that a cancelled watch does not fire.
    pub(in crate::worker) fn run_posts(&self) {
        for post in self.handle.posts.take() {
            match post {
                Post::Run(callback) => self.run_guarded(|this| callback(this)),
                Post::Cancelled(id) => {
                    let timer = self.timers.borrow_mut().remove(id);
                    let descriptor = self.descriptors.borrow_mut().remove(id);
                    self.run_guarded(|_| drop((timer, descriptor)));
                }
                Post::Asked(id, end) => {
                    let mut asked = self.asked.borrow_mut();
                    let then = asked.remove(id);
                    let then = then.expect("inserted by `ask`, taken once");
                    asked.trim();
                    drop(asked);
                    self.run_guarded(|this| then(end, this));
                }
                Post::Offloaded(id, result) => {
                    let mut offloaded = self.offloaded.borrow_mut();
                    let then = offloaded.remove(id);
                    let then = then.expect("inserted by `offload`, taken once");
                    offloaded.trim();
                    drop(offloaded);
                    match result {
                        Ok(value) => self.run_guarded(|this| then(value, this)),
                        Err(panic) => {
                            if !panics::drop_after_panic(then, &panic) {
                                self.report(&panic);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Runs a callback once. If it panics, what it captured is dropped.
    pub(in crate::worker) fn run_guarded(&self, callback: impl FnOnce(&Loop)) {
        if let Err(panic) = panics::catch_with_calls_once(|| callback(self)) {
            self.report(&panic);
        }
    }

    /// Fires the timers that are due.
    pub(in crate::worker) fn fire_timers(&self, now: Instant) {
        loop {
            self.run_posts();
            let Some((id, due, timer)) = self.timers.borrow_mut().expire(now) else {
                return;
            };
            let interval = timer.interval;
            if let Some(callback) = self.fire(timer.callback) {
                let timer = Timer { interval, callback };
                let now = Instant::now();
                self.timers
                    .borrow_mut()
                    .repeat(id, due, now, interval, timer);
            }
        }
    }

    /// Adds the descriptors to a set.
    pub(in crate::worker) fn add_to(&self, set: &mut PollSet, places: &mut PollPlaces) {
        self.descriptors.borrow().add_to(set, places);
    }

    /// Fires the descriptors that are ready.
    pub(in crate::worker) fn fire_ready(&self, set: &PollSet, places: &PollPlaces) {
        for &(id, place) in places.iter().filter(|(_, place)| set.is_ready(*place)) {
            self.run_posts();
            let Some(descriptor) = self.descriptors.borrow_mut().remove(id) else {
                continue;
            };
            let Some(callback) = self.fire(descriptor.callback) else {
                continue;
            };
            // Closed by somebody other than its owner, it would be ready for ever.
            if set.is_closed(place) {
                self.run_guarded(|_| drop(callback));
                continue;
            }
            let descriptor = Descriptor {
                callback,
                ..descriptor
            };
            self.descriptors.borrow_mut().insert(id, descriptor);
        }
    }

    /// Drops everything that is left. The panic hook shows a panic of a destructor.
    pub(in crate::worker) fn clear(&self) {
        let timers = self.timers.take().into_values();
        let watches = self.descriptors.take().into_values();
        let callbacks = timers.map(|timer| timer.callback);
        for callback in callbacks.chain(watches.map(|descriptor| descriptor.callback)) {
            let _ = unwind::catch(|| drop(callback));
        }
        for then in self.offloaded.take().into_values() {
            let _ = unwind::catch(|| drop(then));
        }
        for then in self.asked.take().into_values() {
            let _ = unwind::catch(|| drop(then));
        }
        for post in self.handle.posts.take() {
            let _ = unwind::catch(|| drop(post));
        }
    }

    /// When the next timer is due.
    pub(in crate::worker) fn deadline(&self) -> Option<Instant> {
        self.timers.borrow().deadline()
    }

    /// Whether there are no timers, descriptors or offloaded functions to wait for.
    pub(in crate::worker) fn is_idle(&self) -> bool {
        self.timers.borrow().is_empty()
            && self.descriptors.borrow().is_empty()
            && self.offloaded.borrow().is_empty()
    }

    /// Runs a callback. Returns it if it is to run again.
    fn fire(&self, callback: Callback) -> Option<Callback> {
        let mut next = Repeat::Never;
        match panics::catch_with_calls(callback, |callback| next = callback(self)) {
            Ok(callback) => {
                let again = next == Repeat::Again;
                let callback = callback?;
                if again {
                    return Some(callback);
                }
                // Dropped where a panic of its destructor is caught.
                self.run_guarded(|_| drop(callback));
                None
            }
            Err(panic) => {
                self.report(&panic);
                None
            }
        }
    }

    /// Reports the panic of a callback that owned no call to the parent.
    fn report(&self, panic: &Failure) {
        let message = format!("a callback {panic}");
        self.handle.hub.event(["error", &message]);
    }

    fn add_timer(
        &self,
        interval: Duration,
        callback: impl FnMut(&Loop) -> Repeat + 'static,
    ) -> Watch {
        let (id, callback) = (self.new_id(), Box::new(callback));
        let timer = Timer { interval, callback };
        let now = Instant::now();
        self.timers.borrow_mut().set(id, now, interval, timer);
        self.watch(id)
    }

    fn add_descriptor<F: AsFd + 'static, K: 'static>(
        &self,
        mut fd: F,
        interest: Interest,
        keep: K,
        mut callback: impl FnMut(&mut F, K, &Loop) -> Option<K> + 'static,
    ) -> Watch {
        let number = fd.as_fd().as_raw_fd();
        let mut kept = Some(keep);
        let callback = Box::new(move |this: &Loop| {
            kept = kept.take().and_then(|keep| callback(&mut fd, keep, this));
            Repeat::when(kept.is_some())
        });
        let descriptor = Descriptor {
            fd: number,
            interest,
            callback: callback as Callback,
        };
        let id = self.new_id();
        self.descriptors.borrow_mut().insert(id, descriptor);
        self.watch(id)
    }

    fn watch(&self, id: u64) -> Watch {
        Watch {
            handle: self.handle,
            id,
        }
    }

    fn new_id(&self) -> u64 {
        self.last_id.set(self.last_id.get() + 1);
        self.last_id.get()
    }
}

impl Repeat {
    fn when(again: bool) -> Self {
        if again { Repeat::Again } else { Repeat::Never }
    }
}

/// A timer or descriptor that a [`Loop`] watches. Any thread may hold it; dropping it does nothing.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// # fn main() -> Result<(), offspring::BoxError> {
/// let me = offspring::Worker::new()
///     .deferred("either", |_request, caller, events| {
///         let slow = events.after(Duration::from_secs(3600), |_| unreachable!("it is cancelled"));
///         events.after(Duration::from_millis(1), move |_| {
///             slow.cancel();
///             caller.reply("the other");
///         });
///     })
///     .run();
/// assert_eq!(me.rpc("either").start()?.call(()).wait()?, ["the other"]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Watch {
    handle: &'static LoopHandle,
    id: u64,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("id", &self.id).finish()
    }
}

impl Watch {
    /// Ends it, and drops what its callback owns. Called on the loop's own thread, it takes effect
    /// immediately; called on another, it may still fire until the loop takes note of it. Does nothing
    /// if it has ended.
    pub fn cancel(&self) {
        self.handle.post(Post::Cancelled(self.id));
    }
}

/// A handle with which other threads run callbacks on a child's [`Loop`]; see [`Loop::poster`].
///
/// # Examples
///
/// ```
/// use std::{thread, time::Duration};
///
/// # fn main() -> Result<(), offspring::BoxError> {
/// let me = offspring::Worker::new()
///     .deferred("think", |_request, caller, events| {
///         let poster = events.poster();
///         thread::spawn(move || {
///             let answer = (6 * 7).to_string(); // off the loop
///             poster.post(move |events| {
///                 // On it again, where timers can be set.
///                 events.after(Duration::from_millis(1), |_| caller.reply(answer));
///             });
///         });
///     })
///     .run();
/// assert_eq!(me.rpc("think").start()?.call(()).wait()?, ["42"]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Poster {
    handle: &'static LoopHandle,
}

impl fmt::Debug for Poster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poster").finish_non_exhaustive()
    }
}

impl Poster {
    /// Queues `callback` to run on the loop. Callbacks run in the order in which they are posted.
    pub fn post(&self, callback: impl FnOnce(&Loop) + Send + 'static) {
        self.handle.post(Post::Run(Box::new(callback)));
    }
}

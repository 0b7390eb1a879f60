//! What functions that answer later live by: timers, descriptors and work from other threads.

use super::hub::Hub;
use super::panics;
use super::timers::Timers;
use crate::id_map::IdMap;
use crate::sys::{Interest, PollSet};
use crate::threads;
use crate::wire::Failure;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

/// What another thread has to say to the loop.
pub(super) enum Post {
    /// A callback to be run.
    Run(Box<dyn FnOnce(&Loop) + Send>),
    /// What an offloaded function returned, or its panic.
    Offloaded(u64, Result<Box<dyn Any + Send>, Failure>),
    /// A watch that was cancelled.
    Cancelled(u64),
}

type Callback = Box<dyn FnMut(&Loop) -> Repeat>;
type OffloadCallback = Box<dyn FnOnce(Box<dyn Any + Send>, &Loop)>;

/// What becomes of a watch that has fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Again,
    Never,
}

struct Timer {
    interval: Duration,
    callback: Callback,
}

/// A descriptor that is watched. The callback owns it, so it stays open.
struct Descriptor {
    fd: RawFd,
    interest: Interest,
    callback: Callback,
}

/// Where the descriptors of a loop are in a [`PollSet`].
pub(super) type PollPlaces = Vec<(u64, usize)>;

/// The child's loop: what a function that answers later is given beside the call, and every callback
/// that it registers.
///
/// Everything runs on the child's main thread, one callback at a time, each for as long as it likes,
/// though nothing else happens meanwhile. What callbacks need they own: a [`Caller`], a socket, a
/// counter. A callback that panics is gone, and the calls that it owned fail with the panic, if it
/// owned none, the parent gets [`Service::error_event`] with it; everything else goes on.
///
/// [`Caller`]: crate::Caller
/// [`Service::error_event`]: crate::Service::error_event
///
/// # Examples
///
/// ```
/// use offspring::{Caller, Loop, Strings};
/// use std::time::Duration;
///
/// fn count_up(request: Strings, caller: Caller, events: &Loop) {
///     let Ok(count) = request.to_string().parse::<u32>() else {
///         return caller.fail("not a number".into());
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
    hub: &'static Hub,
    /// Ids of watches and offloads.
    last_id: Cell<u64>,
    timers: RefCell<Timers<Timer>>,
    /// By id. All of them are gone through before every sleep, so a list will do.
    descriptors: RefCell<Vec<(u64, Descriptor)>>,
    offloaded: RefCell<IdMap<OffloadCallback>>,
    on_panic: Box<dyn Fn(&Failure)>,
}

impl fmt::Debug for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loop").finish_non_exhaustive()
    }
}

impl Loop {
    /// `on_panic` is told of panics in callbacks that owned no call.
    pub(super) fn new(hub: &'static Hub, on_panic: Box<dyn Fn(&Failure)>) -> Self {
        Loop {
            hub,
            last_id: Cell::new(0),
            timers: RefCell::default(),
            descriptors: RefCell::default(),
            offloaded: RefCell::default(),
            on_panic,
        }
    }

    /// Calls `callback` once, after this time. A time that overflows the clock is never.
    pub fn after(&self, delay: Duration, callback: impl FnOnce(&Loop) + 'static) -> Watch {
        let mut once = Some(callback);
        self.add_timer(delay, move |this| {
            if let Some(callback) = once.take() {
                callback(this);
            }
            Repeat::Never
        })
    }

    /// Calls `callback` again and again, every so often, as long as it returns what it is to be given
    /// the next time; `None` ends it. A beat that is missed is skipped. An interval of zero is as
    /// often as possible, with everything else in between.
    pub fn every<K: 'static>(
        &self,
        interval: Duration,
        keep: K,
        mut callback: impl FnMut(K, &Loop) -> Option<K> + 'static,
    ) -> Watch {
        let mut kept = Some(keep);
        self.add_timer(interval, move |this| {
            kept = kept.take().and_then(|keep| callback(keep, this));
            next(kept.is_some())
        })
    }

    /// Calls `callback` whenever the descriptor can be read, or has an end or an error to tell, as
    /// long as it returns what it is to be given the next time; `None` ends it, and drops the
    /// descriptor. It is called again if it leaves something unread. A read that would block stops
    /// the whole loop: make the descriptor non-blocking, or read once for each time.
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
    ///                 Err(error) => caller.fail(error.into()),
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

    /// As [`readable`](Loop::readable), for room to write.
    pub fn writable<F: AsFd + 'static, K: 'static>(
        &self,
        fd: F,
        keep: K,
        callback: impl FnMut(&mut F, K, &Loop) -> Option<K> + 'static,
    ) -> Watch {
        self.add_descriptor(fd, Interest::Writable, keep, callback)
    }

    /// Runs `work` on a thread of its own, and then `then` here, with what it returned. If `work`
    /// panics, `then` is dropped, and the calls that it owns fail with the panic.
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
    ///             caller.answer(text.map(lines).map_err(Into::into));
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
        let poster = self.poster();
        let id = self.new_id();
        let then: OffloadCallback = Box::new(move |value, this| {
            let value = value.downcast().expect("it was boxed as what it is");
            then(*value, this);
        });
        let thread = thread::Builder::new().name("offspring offload".into());
        let work = move || {
            let result = panics::catch(work).map(|value| Box::new(value) as Box<dyn Any + Send>);
            poster.hub.post(Post::Offloaded(id, result));
        };
        if let Err(error) = threads::start(thread, Box::new(work)) {
            panic!("cannot start a thread: {error}");
        }
        self.offloaded.borrow_mut().insert(id, then);
    }

    /// A way for other threads to have something run here.
    ///
    /// # Panics
    ///
    /// If the system has no descriptor left.
    #[must_use]
    pub fn poster(&self) -> Poster {
        if let Err(error) = self.hub.waker() {
            panic!("cannot make a descriptor to be woken by: {error}");
        }
        Poster { hub: self.hub }
    }

    // ---- for the child that runs it ----

    /// Does what was posted: before every callback, so that what was cancelled does not fire.
    pub(super) fn settle(&self) {
        for post in self.hub.take_posts() {
            match post {
                Post::Run(callback) => self.guard_once(|this| callback(this)),
                Post::Cancelled(id) => {
                    let timer = self.timers.borrow_mut().remove(id);
                    let descriptor = self.take_descriptor(id);
                    self.guard_once(|_| drop((timer, descriptor)));
                }
                Post::Offloaded(id, result) => {
                    let mut offloaded = self.offloaded.borrow_mut();
                    let then = offloaded.remove(id);
                    let then = then.expect("it was put there, and is taken once");
                    offloaded.trim();
                    drop(offloaded);
                    match result {
                        Ok(value) => self.guard_once(|this| then(value, this)),
                        Err(panic) => {
                            if !panics::drop_blaming(then, &panic) {
                                (self.on_panic)(&panic);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Runs a callback that happens once. What it captured is dropped by its panic.
    pub(super) fn guard_once(&self, callback: impl FnOnce(&Loop)) {
        if let Err(panic) = panics::catch_blaming_once(|| callback(self)) {
            (self.on_panic)(&panic);
        }
    }

    /// Fires the timers that are due.
    pub(super) fn fire_timers(&self, now: Instant) {
        loop {
            self.settle();
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

    /// Adds the descriptors to what is waited for.
    pub(super) fn add_to(&self, set: &mut PollSet, places: &mut PollPlaces) {
        places.clear();
        for (id, descriptor) in &*self.descriptors.borrow() {
            places.push((*id, set.add(descriptor.fd, descriptor.interest)));
        }
    }

    /// Fires the descriptors that are ready.
    pub(super) fn fire_ready(&self, set: &PollSet, places: &PollPlaces) {
        for &(id, place) in places.iter().filter(|(_, place)| set.is_ready(*place)) {
            self.settle();
            let Some(descriptor) = self.take_descriptor(id) else {
                continue;
            };
            let Descriptor {
                fd,
                interest,
                callback,
            } = descriptor;
            let Some(callback) = self.fire(callback) else {
                continue;
            };
            // Somebody closed it under its owner. It would be ready for ever.
            if set.is_closed(place) {
                self.guard_once(|_| drop(callback));
                continue;
            }
            let descriptor = Descriptor {
                fd,
                interest,
                callback,
            };
            self.put_descriptor(id, descriptor);
        }
    }

    /// When the next timer is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.borrow().deadline()
    }

    /// Whether there is nothing that could ever happen by itself.
    pub(super) fn is_idle(&self) -> bool {
        self.timers.borrow().is_empty()
            && self.descriptors.borrow().is_empty()
            && self.offloaded.borrow().is_empty()
    }

    /// Runs a callback. Returns it if it is to be run again.
    fn fire(&self, callback: Callback) -> Option<Callback> {
        let mut next = Repeat::Never;
        match panics::catch_blaming(callback, |callback| next = callback(self)) {
            Ok(callback) => {
                let again = next == Repeat::Again;
                let callback = callback?;
                if again {
                    return Some(callback);
                }
                // Dropped where a panic of it is caught.
                self.guard_once(|_| drop(callback));
                None
            }
            Err(panic) => {
                (self.on_panic)(&panic);
                None
            }
        }
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
            next(kept.is_some())
        });
        let descriptor = Descriptor {
            fd: number,
            interest,
            callback,
        };
        let id = self.new_id();
        self.put_descriptor(id, descriptor);
        self.watch(id)
    }

    fn put_descriptor(&self, id: u64, descriptor: Descriptor) {
        let mut all = self.descriptors.borrow_mut();
        let at = all.partition_point(|(other, _)| *other < id);
        all.insert(at, (id, descriptor));
    }

    fn take_descriptor(&self, id: u64) -> Option<Descriptor> {
        let mut all = self.descriptors.borrow_mut();
        let at = all.binary_search_by_key(&id, |(other, _)| *other).ok()?;
        Some(all.remove(at).1)
    }

    fn watch(&self, id: u64) -> Watch {
        Watch { hub: self.hub, id }
    }

    fn new_id(&self) -> u64 {
        self.last_id.set(self.last_id.get() + 1);
        self.last_id.get()
    }
}

fn next(again: bool) -> Repeat {
    if again { Repeat::Again } else { Repeat::Never }
}

/// A timer or descriptor that a [`Loop`] watches. Any thread may have it; dropping it does nothing.
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
    hub: &'static Hub,
    id: u64,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("id", &self.id).finish()
    }
}

impl Watch {
    /// Ends it, and drops what its callback owns. From the loop's own thread, it does not fire any
    /// more; from others, not after the loop hears of it. Does nothing if it has ended.
    pub fn cancel(&self) {
        self.hub.post(Post::Cancelled(self.id));
    }
}

/// A way for other threads to have something run on a child's [`Loop`]: what [`Loop::poster`] gives.
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
    hub: &'static Hub,
}

impl fmt::Debug for Poster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poster").finish_non_exhaustive()
    }
}

impl Poster {
    /// Has `callback` run on the loop soon, in the order in which callbacks are posted.
    pub fn post(&self, callback: impl FnOnce(&Loop) + Send + 'static) {
        self.hub.post(Post::Run(Box::new(callback)));
    }
}

//! Posts for a loop, in order.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// A queue that any thread appends to and one thread empties. It wakes nobody. For a post never to be
/// left behind while the loop sleeps, with a flag `asleep` under a lock that both use:
///
/// ```text
///   poster: push(); lock; if asleep, wake the loop; unlock
///   loop:   lock; asleep = true; unlock; if is_empty(), sleep
/// ```
///
/// One of the two takes the lock first. If it is the loop, the poster finds `asleep` set and wakes
/// it. If it is the poster, what it pushed before is visible to the loop after, which does not sleep.
#[derive(Debug)]
pub(super) struct Mailbox<T> {
    posts: Mutex<Vec<T>>,
    /// Whether there are any: an empty mailbox is checked several times for each small call, and the
    /// lock is not taken for that.
    is_empty: AtomicBool,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Mailbox {
            posts: Mutex::default(),
            is_empty: AtomicBool::new(true),
        }
    }
}

impl<T> Mailbox<T> {
    pub(super) fn push(&self, post: T) {
        let mut posts = self.posts.lock().expect(PROOF);
        posts.push(post);
        // ORDERING: only a hint here, changed under `posts`; the lock around `asleep` orders it for
        // the loop.
        self.is_empty.store(false, Ordering::Relaxed);
    }

    /// Takes everything that was pushed since the last time.
    pub(super) fn take(&self) -> Vec<T> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut posts = self.posts.lock().expect(PROOF);
        // ORDERING: as in `push`.
        self.is_empty.store(true, Ordering::Relaxed);
        std::mem::take(&mut *posts)
    }

    pub(super) fn is_empty(&self) -> bool {
        // ORDERING: as in `push`. A post that is missed is found before the loop sleeps, if not now.
        self.is_empty.load(Ordering::Relaxed)
    }
}

const PROOF: &str = "nothing panics under this lock";

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Condvar, mpsc};
    use std::thread;
    use std::time::Duration;

    /// No wait takes that long, but for one that nothing ends.
    const FOREVER: Duration = Duration::from_secs(20);

    #[test]
    fn posts_are_taken_once_and_in_order() {
        let mailbox = Mailbox::default();
        assert!(mailbox.is_empty() && mailbox.take().is_empty());
        mailbox.push(1);
        mailbox.push(2);
        assert!(!mailbox.is_empty());
        assert_eq!(mailbox.take(), [1, 2]);
        assert!(mailbox.is_empty() && mailbox.take().is_empty());
    }

    /// The protocol of the type's documentation. Each post is taken before the next one is made, so
    /// that no other makes up for a lost wake-up.
    #[test]
    fn post_wakes_a_loop_that_sleeps() {
        const POSTS: usize = 20_000;
        let (mailbox, asleep, woken) = (Mailbox::default(), Mutex::new(false), Condvar::new());
        let (taken, next) = mpsc::sync_channel(1);
        thread::scope(|scope| {
            let (mailbox, asleep, woken) = (&mailbox, &asleep, &woken);
            scope.spawn(move || {
                for n in 0..POSTS {
                    mailbox.push(n);
                    if std::mem::take(&mut *asleep.lock().unwrap()) {
                        woken.notify_one();
                    }
                    next.recv().unwrap();
                }
            });
            // Dropped by a panic, which ends the other thread.
            let (mut count, taken) = (0, taken);
            while count < POSTS {
                for n in mailbox.take() {
                    assert_eq!(n, count);
                    count += 1;
                    taken.send(()).unwrap();
                }
                *asleep.lock().unwrap() = true;
                if mailbox.is_empty() && count < POSTS {
                    let asleep = asleep.lock().unwrap();
                    let wait = woken.wait_timeout_while(asleep, FOREVER, |asleep| *asleep);
                    assert!(!wait.unwrap().1.timed_out(), "post {count} woke nobody");
                }
            }
        });
    }
}

//! What a command that carries a connection says on its standard error.

use crate::process::{Lines, OutputCallback, Tail};
use crate::sys::{self, Interest, PollSet, ReadMode, Waker};
use crate::{threads, unwind};
use std::io::{self, PipeReader, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// How many bytes are read at a time.
const READ: usize = 4 << 10;
/// How often it is read once the command has ended: 1 MiB, which is as much as a pipe holds. What comes after
/// that is not from the command, and may never end.
const LAST_READS: usize = (1 << 20) / READ;
/// How long whoever the words are passed on to is waited for, once the command has ended.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// Where the words go, beside the errors.
pub(super) enum To {
    Nobody,
    /// This process's standard error.
    Here,
    Callback(OutputCallback),
}

/// Keeps the first and last lines for errors, and passes on all of them. It has a thread, as whoever they are
/// passed on to may block.
pub(super) struct Words {
    heard: Arc<Heard>,
    stop: Arc<Waker>,
    thread: JoinHandle<()>,
}

/// What was heard so far.
#[derive(Default)]
struct Heard {
    state: Mutex<HeardState>,
    /// Notified when that is all.
    changed: Condvar,
}

#[derive(Default)]
struct HeardState {
    tail: Tail,
    is_all: bool,
}

impl Words {
    pub(super) fn listen(pipe: PipeReader, pid: u32, to: To) -> io::Result<Self> {
        let heard = Arc::new(Heard::default());
        let stop = Arc::new(Waker::new()?);
        let reader = Reader {
            pipe,
            pid,
            to,
            lines: Lines::default(),
            heard: Arc::clone(&heard),
        };
        let stopped = Arc::clone(&stop);
        let thread = Builder::new().name("offspring words".into());
        let thread = threads::start(thread, Box::new(move || reader.run(&stopped)))?;
        Ok(Words {
            heard,
            stop,
            thread,
        })
    }

    /// The command has ended: what it has said is read, and nothing that others say who have its standard
    /// error, too. A callback that does not return is left to itself: it may wait for what waits for this.
    pub(super) fn end(self) -> String {
        self.stop.wake();
        let (heard, by) = (unwind::lock(&self.heard.state), Instant::now() + LAST_WAIT);
        let heard = unwind::wait_until(&self.heard.changed, heard, Some(by), |it| !it.is_all);
        let (said, is_all) = (heard.tail.text(), heard.is_all);
        drop(heard);
        if is_all {
            threads::join(self.thread);
        }
        said
    }

    /// What was said so far.
    pub(super) fn so_far(&self) -> String {
        unwind::lock(&self.heard.state).tail.text()
    }
}

struct Reader {
    pipe: PipeReader,
    pid: u32,
    to: To,
    lines: Lines,
    heard: Arc<Heard>,
}

impl Reader {
    fn run(mut self, stop: &Waker) {
        // This process's standard error may be such a pipe.
        sys::block_sigpipe();
        let mut bytes = Vec::with_capacity(READ);
        let mut set = PollSet::default();
        let mut reads_left = LAST_READS;
        while reads_left > 0 {
            set.clear();
            let stopped = set.add(stop.as_fd().as_raw_fd(), Interest::Readable);
            let pipe = set.add(self.pipe.as_raw_fd(), Interest::Readable);
            if set.wait(None).is_err() || (set.is_ready(stopped) && !set.is_ready(pipe)) {
                break;
            }
            if !set.is_ready(pipe) {
                continue;
            }
            reads_left -= usize::from(set.is_ready(stopped));
            bytes.clear();
            match sys::receive(&self.pipe, (&mut bytes, READ), None, ReadMode::Any) {
                Ok(1..) => self.take(&bytes),
                Ok(0) | Err(_) => break,
            }
        }
        let Reader {
            pid,
            to,
            mut lines,
            heard,
            ..
        } = self;
        lines.finish(|line| say(&heard, &to, pid, line));
        unwind::lock(&heard.state).is_all = true;
        heard.changed.notify_all();
    }

    fn take(&mut self, bytes: &[u8]) {
        match &self.to {
            To::Nobody | To::Callback(OutputCallback::Lines(_)) => {}
            // Nobody hears what cannot be written there.
            To::Here => drop(io::stderr().write_all(bytes)),
            To::Callback(OutputCallback::Chunks(callback)) => {
                let _ = unwind::catch(|| callback(self.pid, bytes));
            }
        }
        let Reader {
            pid,
            to,
            lines,
            heard,
            ..
        } = self;
        lines.push(bytes, |line| say(heard, to, *pid, line));
    }
}

fn say(heard: &Heard, to: &To, pid: u32, line: &str) {
    unwind::lock(&heard.state).tail.push(line);
    if let To::Callback(OutputCallback::Lines(callback)) = to {
        let _ = unwind::catch(|| callback(pid, line));
    }
}

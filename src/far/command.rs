//! The process that carries a connection, and its end.

use crate::process::{Child, Ended};
use crate::sys::{self, Interest};
use crate::threads;
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

/// How long a command may take to end before it gets SIGTERM, and then the same time again before it gets
/// SIGKILL: at most, if it is for a child with a shorter grace.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// How often a command is looked at of whose end nothing tells.
const LOOK: Duration = Duration::from_millis(5);

/// See the module's documentation. It is killed if this is dropped before it was [ended](Command::end).
pub(super) struct Command(Option<Child>);

impl Command {
    pub(super) fn new(child: Child) -> Self {
        Command(Some(child))
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.0.as_ref().and_then(Child::pid)
    }

    /// Waits for its end, and ends it if it takes too long.
    pub(super) fn end(mut self, grace: Duration) {
        for signal in [None, Some(sys::SIGTERM), Some(sys::SIGKILL)] {
            if let (Some(signal), Some(child)) = (signal, &self.0) {
                // It may have become another user's.
                let _ = child.signal(signal);
            }
            // How soon it ends then depends on how busy the machine is.
            let wait = match signal {
                Some(sys::SIGKILL) => grace.max(GRACE),
                _ => grace,
            };
            if self.reap(wait).is_some() {
                return;
            }
        }
        if let Some(child) = self.0.take() {
            // Without a thread, it is left a zombie when it ends.
            let _ = threads::start_reaper(Box::new(move || {
                child.wait_for_exit();
                child.reap();
            }));
        }
    }

    /// Waits for its end, at most so long. Returns its status once it has ended, if that is known.
    pub(super) fn reap(&mut self, wait: Duration) -> Option<Option<ExitStatus>> {
        let child = self.0.as_ref()?;
        let by = Instant::now() + wait;
        if let Some(end) = child.end() {
            // If it cannot be waited for, it may have ended.
            let _ = sys::wait_at_most(&*end, Interest::Readable, wait);
        }
        let status = loop {
            match child.reap() {
                Some(Ended::Exited(status)) => break status,
                // Nothing has told of its end, or it is traced.
                _ if Instant::now() < by => thread::sleep(LOOK),
                _ => return None,
            }
        };
        self.0 = None;
        Some(status)
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        if let Some(child) = &self.0 {
            child.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::SharedNote;
    use std::io::Read;
    use std::process::{Command as Program, Stdio};
    use std::sync::Arc;

    #[test]
    #[cfg_attr(miri, ignore = "Miri starts no processes")]
    fn command_that_is_killed_is_waited_for_whatever_its_grace_is() {
        let mut started = Program::new("sh")
            .args(["-c", "trap '' TERM; echo; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        started.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let note: Option<SharedNote> = None;
        let child = Child::new(started.id(), false, None, note, Arc::default());
        Command::new(child.unwrap()).end(Duration::ZERO);
        let error = started.wait().unwrap_err();
        assert!(sys::is_no_child(&error), "it was reaped");
    }
}

//! A child process, from its start until it is reaped.

use super::Settings;
use super::remote::{Ended, Remote};
use crate::sys::{self, Interest, ProcessHandle, SharedNote};
use crate::threads;
use std::any::Any;
use std::io::{PipeWriter, Result};
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// A child process. It should be reaped before it is dropped.
#[derive(Debug)]
pub(crate) struct Child {
    pid: u32,
    /// Whether its process group is its own, to be signalled with it.
    leads_group: bool,
    /// `None` if it had ended and was reaped by other code before this could be opened.
    handle: Option<ProcessHandle>,
    /// Keeps the process from being killed: see [`sys::Lifeline`].
    lifeline: Mutex<Option<PipeWriter>>,
    /// Where it notes which calls it has begun, if it can.
    note: Option<SharedNote>,
    /// What it is held to.
    settings: Arc<Settings>,
    /// What it was forked from, which reaps it.
    template: Option<Arc<dyn Any + Send + Sync>>,
    /// If it is on the other side of a connection: nothing of the above then.
    remote: Option<Arc<dyn Remote>>,
    /// Whether it was reaped. Locked while it is signalled, so that its pid cannot be reused
    /// meanwhile.
    reaped: Mutex<bool>,
}

/// A process that was forked from a template.
pub(crate) struct ForkedChild {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    /// Where its end is reported.
    pub(crate) report: OwnedFd,
    /// Keeps the template, which reports it.
    pub(crate) template: Arc<dyn Any + Send + Sync>,
}

/// What a child has noted for its parent, which can be read after its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noted {
    /// It does not serve, or is a program that notes nothing.
    Nothing,
    /// The id of the call that it has begun last, or 0 if it has begun none.
    LastCall(u32),
    /// There is nothing to note it in, or another process does.
    Unknown,
}

impl Child {
    /// Takes ownership of a process that was just started.
    pub(crate) fn new(
        pid: u32,
        leads_group: bool,
        lifeline: Option<PipeWriter>,
        note: Option<SharedNote>,
        settings: Arc<Settings>,
    ) -> Result<Self> {
        let handle = match ProcessHandle::open(pid) {
            Ok(handle) => Some(handle),
            // The process and its status are gone: the program ignores SIGCHLD.
            Err(error) if sys::is_no_process(&error) => None,
            Err(error) => {
                abandon(pid);
                return Err(error);
            }
        };
        Ok(Child {
            pid,
            leads_group,
            handle,
            lifeline: Mutex::new(lifeline),
            note,
            settings,
            template: None,
            remote: None,
            reaped: Mutex::new(false),
        })
    }

    /// A child of another process, which is kept there as long as this one needs it.
    pub(super) fn forked(
        forked: ForkedChild,
        leads_group: bool,
        lifeline: Option<PipeWriter>,
        note: Option<SharedNote>,
        settings: Arc<Settings>,
    ) -> Self {
        let ForkedChild {
            pid,
            pidfd,
            report,
            template,
        } = forked;
        Child {
            pid,
            leads_group,
            handle: Some(ProcessHandle::of_other(pid, pidfd, report)),
            lifeline: Mutex::new(lifeline),
            note,
            settings,
            template: Some(template),
            remote: None,
            reaped: Mutex::new(false),
        }
    }

    /// A process on the other side of a connection.
    pub(crate) fn remote(remote: Arc<dyn Remote>, settings: Arc<Settings>) -> Self {
        Child {
            pid: 0,
            leads_group: false,
            handle: None,
            lifeline: Mutex::default(),
            note: None,
            settings,
            template: None,
            remote: Some(remote),
            reaped: Mutex::new(false),
        }
    }

    /// Its process id, where it runs. That of a remote one may not be known yet.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.remote {
            Some(remote) => remote.pid(),
            None => Some(self.pid),
        }
    }

    /// Its process id, if it runs on this machine.
    pub(crate) fn local_pid(&self) -> Option<u32> {
        self.remote.is_none().then_some(self.pid)
    }

    /// The process, if it is on the other side of a connection.
    pub(crate) fn as_remote(&self) -> Option<&dyn Remote> {
        self.remote.as_deref()
    }

    /// Whether the process may still be running.
    pub(crate) fn is_there(&self) -> bool {
        self.handle.is_some() || self.remote.is_some()
    }

    /// A descriptor that becomes readable when the process can be [reaped](Child::reap), or if another one is
    /// to be waited for. Without one, [`wait_for_exit`](Child::wait_for_exit) tells.
    pub(crate) fn end(&self) -> Option<Arc<OwnedFd>> {
        self.handle.as_ref()?.end()
    }

    /// Whether it is the child of another process.
    pub(crate) fn is_anothers(&self) -> bool {
        self.template.is_some() || self.remote.is_some()
    }

    /// Signals the process, and its group if that is its own. Does nothing once the process has ended.
    ///
    /// # Errors
    ///
    /// If the process may not be signalled: it is another user's by now.
    pub(crate) fn signal(&self, number: i32) -> Result<()> {
        let reaped = self.lock();
        if let (false, Some(remote)) = (*reaped, &self.remote) {
            return remote.signal(number);
        }
        if let (false, Some(handle)) = (*reaped, &self.handle) {
            return match handle.signal(number, self.leads_group) {
                // Other code has reaped it, which is noticed as any other end is.
                Err(error) if sys::is_no_process(&error) => Ok(()),
                result => result,
            };
        }
        Ok(())
    }

    /// Waits until the process can be reaped: one that is traced has ended before. Not under the lock:
    /// until then it can be signalled.
    pub(crate) fn wait_for_exit(&self) {
        if let Some(handle) = &self.handle {
            // If its status was taken by other code, it has ended.
            let _ = handle.wait_for_exit();
        }
    }

    /// As [`signal`](Child::signal), and reports what went wrong. Once it is reaped there is no such
    /// process.
    pub(crate) fn try_signal(&self, number: i32) -> Result<()> {
        let reaped = self.lock();
        if let (false, Some(remote)) = (*reaped, &self.remote) {
            return remote.signal(number);
        }
        match &self.handle {
            Some(handle) if !*reaped => handle.signal(number, self.leads_group),
            _ => Err(sys::no_process()),
        }
    }

    /// Takes the exit status once the process has ended: `None` if it has not.
    pub(crate) fn reap(&self) -> Option<Ended> {
        let mut reaped = self.lock();
        if let Some(remote) = &self.remote {
            let end = remote.end()?;
            *reaped = true;
            return Some(end.ended);
        }
        let status = match &self.handle {
            Some(handle) => match handle.reap() {
                Ok(None) => return None,
                Ok(status) => status,
                // Other code has reaped it.
                Err(error) if sys::is_no_child(&error) => None,
                // It is not known to have ended.
                Err(_) => return None,
            },
            None => None,
        };
        *reaped = true;
        if let Some(handle) = &self.handle {
            handle.let_go();
        }
        *self
            .lifeline
            .lock()
            .expect("nothing panics under this lock") = None;
        Some(Ended::Exited(status))
    }

    /// Kills the process, and its group if that is its own, and waits for its end, which is imminent.
    /// Returns whether it could: a process that has become another user's lives on, and is reaped when
    /// it ends.
    pub(crate) fn abandon(&self) -> bool {
        let mut reaped = self.lock();
        if let Some(remote) = &self.remote {
            // Without a connection it is gone, or will be.
            let _ = remote.signal(sys::SIGKILL);
            *reaped = true;
        }
        if let (false, true, Some(handle)) = (*reaped, self.is_anothers(), &self.handle) {
            // If it is another user's by now, it ends when its connection does.
            let _ = handle.signal(sys::SIGKILL, self.leads_group);
            handle.let_go();
            *reaped = true;
        }
        *reaped = *reaped || abandon(self.pid);
        *reaped
    }

    /// Whether it has ended, or does within a moment: what exits is root's for some of the kernel.
    pub(crate) fn is_ending(&self) -> bool {
        const MOMENT: Duration = Duration::from_millis(100);
        if let Some(end) = self.end() {
            // If it cannot be waited for, it counts as running.
            let _ = sys::wait_at_most(&*end, Interest::Readable, MOMENT);
        }
        self.handle.as_ref().is_none_or(ProcessHandle::has_ended)
    }

    /// What it has noted by now.
    pub(crate) fn noted(&self) -> Noted {
        if let Some(remote) = &self.remote {
            return remote.end().map_or(Noted::Unknown, |end| end.noted);
        }
        let Some(note) = &self.note else {
            return Noted::Unknown;
        };
        match note.author() {
            0 => Noted::Nothing,
            author if author == self.pid => Noted::LastCall(note.load()),
            // This process has started another, which may live on.
            _ => Noted::Unknown,
        }
    }

    /// Which of its limits may have ended it, as an addition to its status.
    pub(crate) fn cause_of(&self, status: ExitStatus) -> Option<String> {
        self.settings.cause_of(status)
    }

    /// Gives up what this copy of the process that started it shares with that one.
    pub(crate) fn give_up(&self) {
        if let Some(remote) = &self.remote {
            remote.give_up();
        }
        if let Some(handle) = &self.handle {
            handle.give_up();
        }
        // If a thread that the copy does not have held the lock, it is dropping it.
        if let Ok(mut lifeline) = self.lifeline.try_lock() {
            *lifeline = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.reaped.lock().expect("nothing panics under this lock")
    }
}

/// See [`Child::abandon`].
fn abandon(pid: u32) -> bool {
    let killed = sys::kill_and_reap(pid).is_ok();
    if !killed {
        // Its connection is closed, so that it ends some day. Without a thread, it is left a zombie then.
        let _ = threads::start_reaper(Box::new(move || sys::reap(pid)));
    }
    killed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// What a shell has started may live on when the shell has ended.
    #[test]
    #[cfg_attr(miri, ignore = "Miri starts no processes")]
    fn note_counts_if_the_child_itself_has_signed_it() {
        let started = || Command::new("true").spawn().unwrap().id();
        let child = |pid, note| Child::new(pid, false, None, note, Arc::default()).unwrap();
        let silent = child(started(), None);
        assert_eq!(silent.noted(), Noted::Unknown);

        let (note, fd) = SharedNote::new().unwrap();
        let other = child(started(), Some(note));
        assert_eq!(other.noted(), Noted::Nothing);
        let signed = SharedNote::sign(&fd, None).unwrap();
        signed.store(7);
        assert_eq!(other.noted(), Noted::Unknown);

        let (note, fd) = SharedNote::new().unwrap();
        let mut own = child(started(), Some(note));
        // As if this process were the child.
        let pid = std::mem::replace(&mut own.pid, std::process::id());
        let signed = SharedNote::sign(&fd, None).unwrap();
        assert_eq!(own.noted(), Noted::LastCall(0));
        signed.store(7);
        assert_eq!(own.noted(), Noted::LastCall(7));
        own.pid = pid;
        assert!([silent, other, own].iter().all(Child::abandon));
    }
}

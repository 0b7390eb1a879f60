//! Writing: one thread at a time, without the lock.

use super::shared::Hub;
use super::state::HubState;
use crate::fd::Fd;
use crate::stderr;
use crate::sys::{self, Interest};
use crate::wire::FULL_BATCH;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::sync::MutexGuard;
use std::thread;
use std::time::Duration;

/// How soon descriptors are sent again of which too many were on their way. That is rare, and does not last
/// long: nothing else is done meanwhile.
const CROWDED: Duration = Duration::from_millis(2);

impl Hub {
    /// Whether a write to the parent has failed.
    pub(in crate::worker) fn is_broken(&self) -> bool {
        self.lock().writer.has_failed()
    }

    /// Waits until everything sent so far is written. Returns whether it was: not if the parent is
    /// gone, or nothing is written any more.
    pub(in crate::worker) fn flush(&self) -> bool {
        if self.is_elsewhere() {
            return false;
        }
        !self.lock_flushed().writer.is_closed()
    }

    /// As [`flush`](Hub::flush). What is sent from now on is dropped, and no thread begins to write.
    pub(in crate::worker) fn flush_and_close(&self) {
        if self.is_elsewhere() {
            return;
        }
        // Otherwise there may be no end to what other threads send.
        self.lock().exiting = true;
        // Under the lock: the process may end in the middle of what another thread would write.
        self.lock_flushed().writer.close();
    }

    /// Why replies could not be written.
    pub(in crate::worker) fn write_error(&self) -> String {
        self.lock().write_error.clone().unwrap_or_default()
    }

    /// Writes what has gathered, as far as there is room.
    pub(in crate::worker) fn write_batch(&self) {
        let state = self.lock();
        if state.writer.unsent() > 0 {
            drop(self.transmit(state, false));
        }
    }

    /// The lock, with nothing left to write, or the writer closed.
    fn lock_flushed(&self) -> MutexGuard<'_, HubState> {
        let mut state = self.transmit(self.lock(), true);
        while state.writer.unsent() > 0 && !state.writer.is_closed() {
            // The thread that writes may leave the rest: the loop does if there is no room.
            state = self.wait(state);
            state = self.transmit(state, true);
        }
        state
    }

    /// Writes what there is, unless another thread does, which then takes it along. With `wait`
    /// until everything is written, otherwise as far as there is room.
    pub(super) fn transmit<'a>(
        &'a self,
        mut state: MutexGuard<'a, HubState>,
        wait: bool,
    ) -> MutexGuard<'a, HubState> {
        if state.writer.is_writing() {
            return state;
        }
        // There may be room again: the write finds out.
        state.writer.unblock();
        state.batch_threshold = FULL_BATCH;
        let mut failure = None;
        while let Some(mut batch) = state.writer.begin(FULL_BATCH) {
            drop(state);
            if batch.should_widen() && self.is_socket {
                // It is only slower if that is refused.
                let _ = sys::widen(&self.fd);
            }
            let result = batch.write(|parts| self.write(parts, batch.fds(), wait));
            // With descriptors it may be because of these, and is written again without them.
            if let Err(error) = &result
                && error.kind() != io::ErrorKind::WouldBlock
                && batch.fds().is_empty()
            {
                failure = Some(error.to_string());
            }
            state = self.lock();
            state.writer.end(batch, result);
            if state.writer.is_crowded() {
                drop(state);
                thread::sleep(CROWDED);
                state = self.lock();
                state.writer.retry();
            }
        }
        let wakes_loop = state.end_writing();
        if state.waiting > 0 {
            self.written.notify_all();
        }
        if wakes_loop {
            state.wake_loop();
        }
        match failure {
            None => state,
            Some(error) => self.cannot_write(state, error),
        }
    }

    /// A write has failed: no call can be answered any more, so the process is to exit. The main thread
    /// exits when it finds out, but it may be reading requests, which may never come or end.
    #[cold]
    fn cannot_write<'a>(
        &'a self,
        mut state: MutexGuard<'a, HubState>,
        error: String,
    ) -> MutexGuard<'a, HubState> {
        let reads = !state.exiting && !state.ledger.is_closed();
        state.write_error = Some(error);
        if !reads || thread::current().id() == self.main_thread {
            return state;
        }
        drop(state);
        // That ends its read. What is not a socket has no such function, and a socket that the program
        // has closed cannot be reached.
        if !self.is_socket || sys::shutdown(&self.fd, Shutdown::Both).is_err() {
            let error = self.write_error();
            stderr::print(format_args!(
                "offspring child: cannot write to the parent: {error}"
            ));
            std::process::exit(1);
        }
        self.lock()
    }

    fn write(&self, parts: &[IoSlice<'_>], fds: &[Fd], wait: bool) -> io::Result<usize> {
        loop {
            let result = if !fds.is_empty() {
                sys::send_with_fds(&self.fd, parts, fds, wait)
            } else if self.is_socket {
                sys::send(&self.fd, parts, wait)
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
}

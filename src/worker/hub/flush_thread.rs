//! The flusher's thread.

use super::flusher::{Flusher, FlusherStep};
use super::shared::{Hub, PROOF};
use super::state::HubState;
use crate::threads;
use crate::worker::panics;
use std::sync::MutexGuard;
use std::thread;
use std::time::Duration;

/// How long the flusher lets output gather.
const TICK: Duration = Duration::from_micros(200);

/// The flusher does next to nothing on its stack.
const STACK: usize = 32 << 10;

impl Hub {
    /// Leaves what has gathered, if anything has, to the flusher.
    pub(in crate::worker) fn leave_to_flusher(&'static self) {
        let state = self.lock();
        if state.writer.unsent() > 0 {
            self.flush_soon(state);
        }
    }

    /// Leaves what has gathered to the flusher.
    pub(super) fn flush_soon(&'static self, mut state: MutexGuard<'_, HubState>) {
        match state.flusher {
            Flusher::Running => {}
            Flusher::Asleep => {
                state.flusher = Flusher::Running;
                self.flusher.notify_one();
            }
            Flusher::NotStarted => {
                let thread = thread::Builder::new().name("offspring flush".into());
                let thread = thread.stack_size(STACK);
                match threads::start(thread, Box::new(|| self.run_flusher())) {
                    Ok(_) => state.flusher = Flusher::Running,
                    // What cannot be written soon is written now.
                    Err(_) => drop(self.transmit(state, true)),
                }
            }
        }
    }

    fn run_flusher(&self) {
        let _vital = panics::Vital;
        let mut step = FlusherStep::Sleep;
        loop {
            let mut state = self.lock();
            step = step.next(&state.writer);
            match step {
                FlusherStep::Sleep => {
                    state.flusher = Flusher::Asleep;
                    let asleep = |state: &mut HubState| state.flusher == Flusher::Asleep;
                    let state = self.flusher.wait_while(state, asleep).expect(PROOF);
                    drop(self.transmit(state, true));
                }
                FlusherStep::Pause => drop(state),
                FlusherStep::WaitForWriter => drop(self.wait(state)),
                FlusherStep::Write => drop(self.transmit(state, true)),
            }
            thread::sleep(TICK);
        }
    }
}

//! How much memory a child has.

use std::fs;
use std::time::{Duration, Instant};

/// It is looked at no more often.
const INTERVAL: Duration = Duration::from_millis(100);

/// What a child has grown by since it was ready, in bytes: copies of a template begin with what they share.
#[derive(Debug)]
pub(super) struct Memory {
    look: Look,
    looked_at: Instant,
}

/// What is to be looked at, without a lock: it is a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pid: u32,
    limit: u64,
}

impl Memory {
    /// Of a child that has just got ready, and is to have no more than `growth` more.
    pub(super) fn of(pid: u32, growth: u64) -> Option<Self> {
        let limit = resident(pid)?.saturating_add(growth);
        Some(Memory {
            look: Look { pid, limit },
            looked_at: Instant::now(),
        })
    }

    /// Whether it is to be looked at: it was not just before.
    pub(super) fn look(&mut self, now: Instant) -> Option<Look> {
        if now.saturating_duration_since(self.looked_at) < INTERVAL {
            return None;
        }
        self.looked_at = now;
        Some(self.look)
    }
}

impl Look {
    /// Whether the child has too much.
    pub(super) fn is_exceeded(self) -> bool {
        resident(self.pid).is_some_and(|bytes| bytes > self.limit)
    }
}

/// The resident memory of a process, in bytes.
fn resident(pid: u32) -> Option<u64> {
    parse(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// What proc_pid_status(5) says of it.
fn parse(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t   9 kB\nVmRSS:\t    1234 kB\nThreads:\t1\n";
        assert_eq!(parse(status), Some(1234 << 10));
        for none in ["", "VmRSS:", "VmRSS: x kB", "VmRSS: 5"] {
            assert_eq!(parse(none), None, "{none}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no such files")]
    fn process_that_grows_is_noticed_when_it_is_time_to_look() {
        let mut memory = Memory::of(std::process::id(), 16 << 20).unwrap();
        assert!(
            memory.look(Instant::now()).is_none(),
            "it was looked at just now"
        );
        let later = Instant::now() + 2 * INTERVAL;
        let look = memory.look(later).unwrap();
        assert!(!look.is_exceeded());
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        assert!(look.is_exceeded());
        assert!(memory.look(later).is_none());
        drop(block);
    }
}

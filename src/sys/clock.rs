//! A clock that is very cheap to read.

/// A time of the coarse clock: seconds and nanoseconds, whose types depend on the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CoarseTime(pub(crate) u64, pub(crate) u32);

/// The time of the system's last tick, which changes every few milliseconds: see
/// `CLOCK_MONOTONIC_COARSE` in clock_gettime(2). Read without a system call.
pub(crate) fn coarse_clock() -> CoarseTime {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: points to a timespec. The clock exists since Linux 2.6.32; without it, the time stays
    // zero.
    let _ = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    CoarseTime(time.tv_sec as u64, time.tv_nsec as u32)
}

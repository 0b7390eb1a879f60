//! A clock that costs next to nothing.

/// A time of the coarse clock.
pub(crate) type CoarseTime = (libc::time_t, libc::c_long);

/// A number that changes every few milliseconds: the time of the system's last tick, see
/// `CLOCK_MONOTONIC_COARSE` in clock_gettime(2). Answered without a system call.
pub(crate) fn coarse_clock() -> CoarseTime {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: points to a timespec. The clock is there since Linux 2.6.32; without it, time stands
    // still.
    let _ = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    (time.tv_sec, time.tv_nsec)
}

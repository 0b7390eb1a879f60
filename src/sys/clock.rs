//! A clock that is very cheap to read.

/// A time of the coarse clock.
pub(crate) type CoarseTime = (libc::time_t, libc::c_long);

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
    (time.tv_sec, time.tv_nsec)
}

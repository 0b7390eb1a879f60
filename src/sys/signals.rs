//! Names of signals, and those that are blocked.

use std::mem::MaybeUninit;
use std::ptr;

/// What a terminal stops processes with. A child is executed with these blocked.
const STOP_SIGNALS: [libc::c_int; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// [`STOP_SIGNALS`] as a set.
pub(super) fn stop_signals() -> libc::sigset_t {
    set_of(&STOP_SIGNALS)
}

fn set_of(numbers: &[libc::c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: initialises what it points to.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: it has just been initialised.
    let mut set = unsafe { set.assume_init() };
    for number in numbers {
        // SAFETY: the set is initialised. The numbers are those of signals, so it cannot fail.
        let _ = unsafe { libc::sigaddset(&raw mut set, *number) };
    }
    set
}

/// Undoes the blocking of the signals that a terminal stops processes with. Those that are pending
/// were meant for the parent, and are discarded. From here on, SIGTTIN and SIGTTOU are ignored: a
/// process that uses the terminal in the background gets errors, instead of being stopped with
/// nobody to continue it. A handler that the program has set stays.
pub(crate) fn accept_stop_signals() {
    for number in STOP_SIGNALS {
        // SAFETY: all-zero is a valid sigaction: no flags, an empty mask.
        let mut ignore: libc::sigaction = unsafe { std::mem::zeroed() };
        ignore.sa_sigaction = libc::SIG_IGN;
        let mut before = MaybeUninit::uninit();
        // To ignore a signal discards it if it is pending.
        // SAFETY: the pointers are to a sigaction, and to room for one.
        if unsafe { libc::sigaction(number, &raw const ignore, before.as_mut_ptr()) } == -1 {
            continue;
        }
        // SAFETY: the call has succeeded, so it has filled this.
        let before = unsafe { before.assume_init() };
        let is_default = before.sa_sigaction == libc::SIG_DFL;
        if number == libc::SIGTSTP || !is_default {
            // SAFETY: what was valid before is valid now.
            let _ = unsafe { libc::sigaction(number, &raw const before, ptr::null_mut()) };
        }
    }
    let set = stop_signals();
    // SAFETY: the set is initialised; the old one is not wanted.
    let _ = unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) };
}

/// Blocks SIGPIPE for this thread, which alone gets it for what it writes: the program may not ignore it.
pub(crate) fn block_sigpipe() {
    let set = set_of(&[libc::SIGPIPE]);
    // SAFETY: the set is initialised; the old one is not wanted.
    let _ = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
}

/// The name of a signal, such as `SIGSEGV`, or `signal 40` for one without a name.
pub(crate) fn signal_name(number: i32) -> String {
    let name = match number {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGSTKFLT => "SIGSTKFLT",
        libc::SIGVTALRM => "SIGVTALRM",
        libc::SIGPROF => "SIGPROF",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGIO => "SIGIO",
        libc::SIGPWR => "SIGPWR",
        libc::SIGSYS => "SIGSYS",
        _ => return format!("signal {number}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_end_a_process_have_names() {
        let names = [
            (libc::SIGHUP, "SIGHUP"),
            (libc::SIGINT, "SIGINT"),
            (libc::SIGQUIT, "SIGQUIT"),
            (libc::SIGILL, "SIGILL"),
            (libc::SIGTRAP, "SIGTRAP"),
            (libc::SIGABRT, "SIGABRT"),
            (libc::SIGBUS, "SIGBUS"),
            (libc::SIGFPE, "SIGFPE"),
            (libc::SIGKILL, "SIGKILL"),
            (libc::SIGUSR1, "SIGUSR1"),
            (libc::SIGSEGV, "SIGSEGV"),
            (libc::SIGUSR2, "SIGUSR2"),
            (libc::SIGPIPE, "SIGPIPE"),
            (libc::SIGALRM, "SIGALRM"),
            (libc::SIGTERM, "SIGTERM"),
            (libc::SIGSTKFLT, "SIGSTKFLT"),
            (libc::SIGXCPU, "SIGXCPU"),
            (libc::SIGXFSZ, "SIGXFSZ"),
            (libc::SIGVTALRM, "SIGVTALRM"),
            (libc::SIGPROF, "SIGPROF"),
            (libc::SIGIO, "SIGIO"),
            (libc::SIGPWR, "SIGPWR"),
            (libc::SIGSYS, "SIGSYS"),
        ];
        for (number, name) in names {
            assert_eq!(signal_name(number), name);
        }
        assert_eq!(signal_name(40), "signal 40");
    }
}

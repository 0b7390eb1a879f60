//! System calls that `std` has no functions for.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

/// Confines this process, and the children it starts from now on, to one of its CPUs.
pub(crate) fn confine_to_one_cpu() {
    // SAFETY: a CPU set is an array of integers, for which 0 is a value.
    let mut all: libc::cpu_set_t = unsafe { mem::zeroed() };
    let size = size_of_val(&all);
    // SAFETY: `all` has this size, and the kernel does not write more.
    check(unsafe { libc::sched_getaffinity(0, size, &mut all) });
    // SAFETY: as above.
    let mut one: libc::cpu_set_t = unsafe { mem::zeroed() };
    let first = (0..8 * size)
        // SAFETY: `cpu` is a bit within the set.
        .find(|cpu| unsafe { libc::CPU_ISSET(*cpu, &all) })
        .expect("this runs on some CPU");
    // SAFETY: `first` is a bit within the set.
    unsafe { libc::CPU_SET(first, &mut one) };
    // SAFETY: `one` has this size, and is only read.
    check(unsafe { libc::sched_setaffinity(0, size, &one) });
}

/// Requests a send buffer of this size.
pub(crate) fn set_send_buffer(socket: &impl AsRawFd, bytes: usize) {
    let bytes = bytes as libc::c_int;
    // SAFETY: the option's value is the integer that is pointed to, and is only read.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUF,
            (&raw const bytes).cast(),
            size_of_val(&bytes) as libc::socklen_t,
        )
    });
}

/// Sends bytes and a descriptor.
pub(crate) fn send_with(socket: &impl AsFd, bytes: &[u8], descriptor: &impl AsFd) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let sent = sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::empty(),
    );
    assert_eq!(sent.expect("the other side reads"), bytes.len());
}

/// Reads what has come, and closes the descriptor that has come along. Returns 0 at the end.
pub(crate) fn receive_with(socket: &impl AsFd, buffer: &mut [u8]) -> usize {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC);
    received.expect("the other side writes").bytes
}

/// Reads a byte and the descriptor that has come along. `None` at the end.
pub(crate) fn receive_descriptor(socket: &impl AsFd, byte: &mut [u8; 1]) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(byte)];
    let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC);
    received.expect("the other side writes");
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    })
}

/// Copies this process, which has one thread, and whose copies need not be reaped. Returns whether this is
/// the copy.
pub(crate) fn fork() -> bool {
    // SAFETY: to ignore a signal is valid.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    // SAFETY: there is no other thread whose work could be half done in the copy.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "{}", io::Error::last_os_error());
    pid == 0
}

/// Raises this process's limit of descriptors to the maximum.
pub(crate) fn raise_descriptor_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid buffer for the result.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) });
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is only read.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) });
}

/// The CPU time of this process and of the children it has waited for.
pub(crate) fn cpu_time() -> Duration {
    [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN]
        .into_iter()
        .map(|target| {
            // SAFETY: the structure is made of integers, for which 0 is a value.
            let mut usage: libc::rusage = unsafe { mem::zeroed() };
            // SAFETY: `usage` is a valid buffer for the result.
            check(unsafe { libc::getrusage(target, &mut usage) });
            duration(usage.ru_utime) + duration(usage.ru_stime)
        })
        .sum()
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
}

/// Stops a child.
pub(crate) fn stop(child: u32) {
    signal(child, libc::SIGSTOP);
}

/// Resumes a stopped child.
pub(crate) fn resume(child: u32) {
    signal(child, libc::SIGCONT);
}

/// Ends a tracer cleanly.
pub(crate) fn interrupt(child: u32) {
    signal(child, libc::SIGINT);
}

fn signal(child: u32, signal: libc::c_int) {
    // SAFETY: `kill` touches no memory.
    check(unsafe { libc::kill(child as libc::pid_t, signal) });
}

fn check(result: libc::c_int) {
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

//! The same workloads over a bare socket pair: what the machine can do without a library.
//!
//! Straight-line code with blocking reads and writes. Frames are an 8-byte header (length and
//! number) and a payload; both sides encode, decode and check each one, and transfer them in
//! batches of 64 KiB where the workload allows it. No queue, no callbacks, no errors except panics.

use crate::laps::Measured;
use crate::payload::{self, Large, SMALL, check_small, small};
use crate::sys;
use crate::work::{CHILDREN, KIB64, MIB};
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::net::Shutdown;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{self, Child, Command, Stdio};
use std::sync::{Condvar, Mutex};
use std::thread;

const HEADER: usize = 8;

/// The size that is best for large payloads. The system may grant less.
const LARGE_SEND_BUFFER: usize = 4 << 20;

/// The first argument of a child.
pub(crate) const CHILD: &str = "raw-child";

/// The child of [`start`]; its second argument selects what it does.
pub(crate) fn child(what: &str) {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned();
    let peer = Peer::new(stdin.expect("descriptors are available").into());
    match what {
        "events" => send_events(peer),
        "descriptor" => take_descriptors(peer),
        "template" => template(peer),
        _ => echo(peer),
    }
}

/// Runs `n` operations of the workload of this name.
///
/// # Errors
///
/// If there is no such workload.
pub(crate) fn measure(large_buffer: bool, workload: &str, n: u32) -> Result<Measured, String> {
    let start = |what| start(what, large_buffer);
    Ok(match workload {
        "pingpong" => {
            let (mut peer, child) = start("echo");
            let mut out = Vec::new();
            let measured = Measured::each(n, |i| call(&mut peer, &mut out, i));
            finish(peer, child);
            measured
        }
        "descriptor" => {
            let (mut peer, child) = start("descriptor");
            let (mut out, file) = (Vec::new(), File::open("/dev/null").expect("it is there"));
            let measured = Measured::each(n, |i| {
                out.clear();
                push(&mut out, i, &small(i));
                sys::send_with(&peer.socket, &out, &file);
                let frame = peer.receive(i);
                check_small(i, &peer.buffer[frame]);
            });
            finish(peer, child);
            measured
        }
        "pipeline" => {
            let (peer, child) = start("echo");
            let write = |to: &UnixStream| {
                let mut out = Vec::with_capacity(KIB64);
                (0..n).for_each(|i| push_small(&mut out, i, to));
                send(to, &out);
            };
            pipelined(peer, child, n, write, check_small)
        }
        "bulk1m" => in_turn(start("echo"), MIB, n),
        "bulk64k" => {
            let (peer, child) = start("echo");
            let mut large = Large::new(KIB64, n);
            let check = large.clone();
            let write = |to: &UnixStream| {
                (0..n).for_each(|i| send_large(to, i, large.stamp(i)));
            };
            pipelined(peer, child, n, write, |i, reply| check.check(i, reply))
        }
        "events" => {
            let (mut peer, child) = start("events");
            let mut out = Vec::new();
            push(&mut out, 0, &0u32.to_le_bytes());
            send(&peer.socket, &out);
            peer.receive(0);
            let measured = Measured::all(n, || {
                out.clear();
                push(&mut out, n, &n.to_le_bytes());
                send(&peer.socket, &out);
                for i in 0..n {
                    let frame = peer.receive(i);
                    check_small(i, &peer.buffer[frame]);
                }
            });
            peer.receive(n);
            finish(peer, child);
            measured
        }
        "spawn" => {
            let once = |i| {
                let (mut peer, child) = start("echo");
                call(&mut peer, &mut Vec::new(), i);
                finish(peer, child);
            };
            (0..5).for_each(once);
            Measured::all(n, || (0..n).for_each(once))
        }
        "fork" => {
            let (template, child) = start("template");
            let once = |i| {
                let (near, far) = UnixStream::pair().expect("descriptors are available");
                sys::send_with(&template.socket, b"x", &far);
                drop(far);
                let mut peer = Peer::new(near);
                call(&mut peer, &mut Vec::new(), i);
                let _ = peer.socket.shutdown(Shutdown::Write);
                assert!(!peer.fill(), "it exits");
            };
            (0..5).for_each(once);
            let measured = Measured::all(n, || (0..n).for_each(once));
            finish(template, child);
            measured
        }
        "child" => one_of_many(1, n),
        "children" => one_of_many(CHILDREN, n),
        other => match payload::echo(other) {
            Some((len, 1)) => in_turn(start("echo"), len, n),
            Some((len, in_flight)) => windowed(start("echo"), len, in_flight, n),
            None => return Err(format!("no workload {other} for a bare socket pair")),
        },
    })
}

/// Runs `then` with the process id of a child that has answered a call and is idle.
pub(crate) fn idle(then: impl FnOnce(u32)) {
    let (mut peer, child) = start("echo", false);
    call(&mut peer, &mut Vec::new(), 0);
    then(child.id());
    finish(peer, child);
}

/// One large payload at a time.
fn in_turn((mut peer, child): (Peer, Child), len: usize, n: u32) -> Measured {
    call(&mut peer, &mut Vec::new(), 0);
    let mut large = Large::new(len, n);
    let measured = Measured::all(n, || {
        for i in 0..n {
            send_large(&peer.socket, i, large.stamp(i));
            let frame = peer.receive(i);
            large.check(i, &peer.buffer[frame]);
        }
    });
    finish(peer, child);
    measured
}

/// One call to each of the children in turn, until there are `n`.
fn one_of_many(children: usize, n: u32) -> Measured {
    let mut all: Vec<(Peer, Child)> = (0..children).map(|_| start("echo", false)).collect();
    let mut out = Vec::new();
    for ((peer, _), i) in all.iter_mut().zip(0..) {
        call(peer, &mut out, i);
    }
    let measured = Measured::all(n, || {
        for i in 0..n {
            let (peer, _) = &mut all[i as usize % children];
            call(peer, &mut out, i);
        }
    });
    all.into_iter()
        .for_each(|(peer, child)| finish(peer, child));
    measured
}

/// A thread writes, this one reads, with at most `in_flight` calls outstanding.
fn windowed((mut peer, child): (Peer, Child), len: usize, in_flight: u32, n: u32) -> Measured {
    call(&mut peer, &mut Vec::new(), 0);
    let to = peer.socket.try_clone().expect("descriptors are available");
    let (room, freed) = (Mutex::new(in_flight), Condvar::new());
    let mut large = Large::new(len, n);
    let check = large.clone();
    let batch = (KIB64 / (HEADER + len)).max(1) as u32;
    let write = || {
        let mut out = Vec::with_capacity(KIB64);
        let mut next = 0;
        while next < n {
            let room = room.lock().expect("nothing panics under this lock");
            let full = |room: &mut u32| *room == 0;
            let mut room = freed.wait_while(room, full).expect("as above");
            let count = batch.min(*room).min(n - next);
            *room -= count;
            drop(room);
            out.clear();
            (next..next + count).for_each(|i| push(&mut out, i, large.stamp(i)));
            send(&to, &out);
            next += count;
        }
    };
    let measured = Measured::all(n, || {
        thread::scope(|scope| {
            scope.spawn(write);
            let mut expected = 0;
            while expected < n {
                assert!(peer.fill(), "the child is gone");
                let before = expected;
                while let Some((i, frame)) = peer.next() {
                    assert_eq!(i, expected, "another frame");
                    check.check(i, &peer.buffer[frame]);
                    expected += 1;
                }
                *room.lock().expect("as above") += expected - before;
                freed.notify_one();
            }
        });
    });
    finish(peer, child);
    measured
}

/// A thread writes, this one reads.
fn pipelined(
    mut peer: Peer,
    child: Child,
    n: u32,
    write: impl FnOnce(&UnixStream) + Send,
    check: impl Fn(u32, &[u8]),
) -> Measured {
    call(&mut peer, &mut Vec::new(), 0);
    let to = peer.socket.try_clone().expect("descriptors are available");
    let measured = Measured::all(n, || {
        thread::scope(|scope| {
            scope.spawn(|| write(&to));
            for i in 0..n {
                let frame = peer.receive(i);
                check(i, &peer.buffer[frame]);
            }
        });
    });
    finish(peer, child);
    measured
}

/// Starts this program as a child with a socket as its standard input.
fn start(what: &str, large_buffer: bool) -> (Peer, Child) {
    let (ours, theirs) = UnixStream::pair().expect("descriptors are available");
    if large_buffer {
        sys::set_send_buffer(&ours, LARGE_SEND_BUFFER);
        sys::set_send_buffer(&theirs, LARGE_SEND_BUFFER);
    }
    let child = Command::new("/proc/self/exe")
        .args([CHILD, what])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .expect("this program can be started");
    (Peer::new(ours), child)
}

fn finish(peer: Peer, mut child: Child) {
    let _ = peer.socket.shutdown(Shutdown::Both);
    drop(peer);
    let status = child.wait().expect("nothing else waits for it");
    assert!(status.success(), "the child: {status}");
}

/// A blocking call of 16 bytes.
fn call(peer: &mut Peer, out: &mut Vec<u8>, i: u32) {
    out.clear();
    push(out, i, &small(i));
    send(&peer.socket, out);
    let frame = peer.receive(i);
    check_small(i, &peer.buffer[frame]);
}

/// Answers each frame with its payload: all frames of one read in one write.
fn echo(mut peer: Peer) {
    let mut out = Vec::new();
    while peer.fill() {
        while let Some((i, frame)) = peer.next() {
            if frame.len() < KIB64 / 2 {
                push(&mut out, i, &peer.buffer[frame]);
                continue;
            }
            // Sent without a copy.
            send(&peer.socket, &out);
            out.clear();
            send_large(&peer.socket, i, &peer.buffer[frame]);
        }
        send(&peer.socket, &out);
        out.clear();
    }
}

/// Answers each frame with its payload, and closes the descriptor that comes with it.
fn take_descriptors(peer: Peer) {
    let mut buffer = vec![0; KIB64];
    loop {
        match sys::receive_with(&peer.socket, &mut buffer) {
            0 => return,
            n => send(&peer.socket, &buffer[..n]),
        }
    }
}

/// Copies this process for each socket that comes: the copy echoes there.
fn template(peer: Peer) {
    let mut byte = [0];
    while let Some(socket) = sys::receive_descriptor(&peer.socket, &mut byte) {
        if sys::fork() {
            drop(peer);
            echo(Peer::new(socket.into()));
            process::exit(0);
        }
    }
}

/// Answers each frame, whose payload is a number, after that many small frames.
fn send_events(mut peer: Peer) {
    while peer.fill() {
        while let Some((i, frame)) = peer.next() {
            let count = peer.buffer[frame.clone()].try_into();
            let mut out = Vec::with_capacity(KIB64);
            for event in 0..u32::from_le_bytes(count.expect("a number of 32 bits")) {
                push_small(&mut out, event, &peer.socket);
            }
            push(&mut out, i, &peer.buffer[frame]);
            send(&peer.socket, &out);
        }
    }
}

/// Adds a small frame to a batch, which is sent when it is full.
fn push_small(out: &mut Vec<u8>, i: u32, to: &UnixStream) {
    if out.len() + HEADER + SMALL > KIB64 {
        send(to, out);
        out.clear();
    }
    push(out, i, &small(i));
}

fn push(out: &mut Vec<u8>, i: u32, payload: &[u8]) {
    out.extend_from_slice(&header(i, payload));
    out.extend_from_slice(payload);
}

fn header(i: u32, payload: &[u8]) -> [u8; HEADER] {
    let len = payload.len() as u32;
    (u64::from(len) << 32 | u64::from(i)).to_be_bytes()
}

fn send(mut to: &UnixStream, bytes: &[u8]) {
    to.write_all(bytes).expect("the other side reads");
}

/// Sends header and payload together, without copying the payload.
fn send_large(mut to: &UnixStream, i: u32, payload: &[u8]) {
    let header = header(i, payload);
    let parts = [IoSlice::new(&header), IoSlice::new(payload)];
    let sent = to.write_vectored(&parts).expect("the other side reads");
    assert!(sent >= HEADER, "a header always fits");
    send(to, &payload[sent - HEADER..]);
}

/// The other side, and the data read from it.
struct Peer {
    socket: UnixStream,
    buffer: Vec<u8>,
    /// The part of the buffer that was read but not decoded.
    unread: Range<usize>,
}

impl Peer {
    fn new(socket: UnixStream) -> Self {
        Peer {
            socket,
            buffer: vec![0; KIB64],
            unread: 0..0,
        }
    }

    /// Waits for the frame with this number, and returns where its payload is.
    fn receive(&mut self, expected: u32) -> Range<usize> {
        loop {
            if let Some((i, frame)) = self.next() {
                assert_eq!(i, expected, "another frame");
                return frame;
            }
            assert!(self.fill(), "the child is gone");
        }
    }

    /// The next frame, if it is complete: its number, and where its payload is.
    fn next(&mut self) -> Option<(u32, Range<usize>)> {
        let (i, len) = self.peek()?;
        let start = self.unread.start + HEADER;
        if self.unread.end < start + len {
            return None;
        }
        self.unread.start = start + len;
        Some((i, start..start + len))
    }

    /// The number and length of the next frame, if its header is complete.
    fn peek(&self) -> Option<(u32, usize)> {
        let header = self.buffer[self.unread.clone()].first_chunk::<HEADER>()?;
        let header = u64::from_be_bytes(*header);
        Some((header as u32, (header >> 32) as usize))
    }

    /// One read, with room for the rest of the next frame. Returns false at the end.
    fn fill(&mut self) -> bool {
        self.buffer.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        if let Some((_, len)) = self.peek()
            && self.buffer.len() < HEADER + len
        {
            self.buffer.resize(HEADER + len, 0);
        }
        let read = self.socket.read(&mut self.buffer[self.unread.end..]);
        let read = read.expect("the other side has read everything");
        self.unread.end += read;
        read > 0
    }
}

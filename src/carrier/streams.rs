//! The local ends of channels: sockets and pipes, and what waits to be written to them or to the connection.

use super::channels::{ChannelViolation, Channels, Effect};
use crate::id_map::IdMap;
use crate::sys::{self, Epoll, ReadMode, Ready, Watched};
use crate::wire::{CARRIER_CONTROL, Flow, Framing, header};
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Above so many bytes that the connection has not taken, no more are read for it: what is urgent does not
/// wait behind more.
const ENOUGH: usize = 64 << 10;
/// The longest header.
const HEADER: usize = Framing::Tagged.header_len();

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Streams {
    epoll: Arc<Epoll>,
    pub(super) channels: Channels,
    locals: IdMap<Local>,
    /// Channels for which what is waited for may have changed.
    touched: Vec<u32>,
    /// Frames for the connection, and how much of them it has taken.
    out: Vec<u8>,
    written: usize,
}

/// Which way bytes go between a local stream and its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Both,
    /// Only out of the local stream.
    Out,
    /// Only into it.
    In,
}

/// A local stream that is to be connected with a channel.
#[derive(Debug)]
pub(crate) struct LocalStream {
    pub(crate) fd: OwnedFd,
    pub(crate) is_socket: bool,
}

#[derive(Debug)]
struct Local {
    direction: Direction,
    /// `None` as long as it is not there.
    stream: Option<Stream>,
    /// What has come for it that it has not taken, and how much of that is done with.
    backlog: Vec<u8>,
    done: usize,
    /// Whether nothing comes for it after that.
    ends: bool,
    /// How much is left to be read, if nothing counts that comes after that.
    left: Option<usize>,
}

#[derive(Debug)]
struct Stream {
    watched: Watched,
    is_socket: bool,
}

impl Local {
    fn has_backlog(&self) -> bool {
        self.done < self.backlog.len()
    }
}

impl Streams {
    pub(super) fn new(epoll: &Arc<Epoll>) -> Self {
        Streams {
            epoll: Arc::clone(epoll),
            channels: Channels::default(),
            locals: IdMap::default(),
            touched: Vec::new(),
            out: Vec::new(),
            written: 0,
        }
    }

    // ---- local streams ----

    /// A channel was opened. Its local stream may come later.
    pub(super) fn add(&mut self, channel: u32, direction: Direction) {
        let local = Local {
            direction,
            stream: None,
            backlog: Vec::new(),
            done: 0,
            ends: false,
            left: None,
        };
        self.locals.insert(channel, local);
    }

    /// The other end knows a channel: it can be told if nothing is sent there.
    pub(super) fn announced(&mut self, channel: u32) {
        let local = self.locals.get(channel);
        if local.is_some_and(|local| local.direction == Direction::In) {
            self.end(channel);
        }
    }

    /// The local stream of a channel is there. It is closed if it is not wanted any more.
    pub(super) fn attach(&mut self, channel: u32, stream: LocalStream, key: u64) -> io::Result<()> {
        let Some(local) = self.locals.get_mut(channel) else {
            return Ok(());
        };
        let LocalStream { fd, is_socket } = stream;
        sys::set_nonblocking(&fd)?;
        let watched = Watched::new(&self.epoll, &Arc::new(fd), key, Ready::NOTHING)?;
        local.stream = Some(Stream { watched, is_socket });
        self.drain(channel);
        Ok(())
    }

    /// There is none, or it is closed, and nothing will be heard of it.
    pub(super) fn abandon(&mut self, channel: u32) {
        self.shut(channel);
        self.end(channel);
        if let Some(local) = self.locals.get_mut(channel) {
            local.stream = None;
        }
        self.remove_if_done(channel);
    }

    /// What can be read from a local stream now is all, although others may have its other end, and write on.
    pub(super) fn complete(&mut self, channel: u32) {
        if let Some(local) = self.locals.get_mut(channel)
            && let Some(stream) = &local.stream
        {
            local.left = Some(sys::unread(&**stream.watched.fd()));
            self.offer(channel);
        }
    }

    /// Whether everything that comes for a local stream has been written to it.
    pub(super) fn is_delivered(&self, channel: u32) -> bool {
        let Some(local) = self.locals.get(channel) else {
            return true;
        };
        local.ends && !local.has_backlog()
    }

    /// A local stream is ready for something.
    pub(super) fn ready(&mut self, channel: u32) {
        self.offer(channel);
        self.drain(channel);
        self.touched.push(channel);
    }

    fn offer(&mut self, channel: u32) {
        let is_there = |local: &Local| local.stream.is_some() && local.direction != Direction::In;
        if self.locals.get(channel).is_some_and(is_there) {
            self.channels.offer(channel);
            self.touched.push(channel);
        }
    }

    /// Has the poller watch for what is waited for now.
    pub(super) fn watch(&mut self) -> io::Result<()> {
        let touched = std::mem::take(&mut self.touched);
        for &channel in &touched {
            let Some(local) = self.locals.get_mut(channel) else {
                continue;
            };
            let writable = local.has_backlog();
            let readable = local.direction != Direction::In
                && !self.channels.has_ended(channel)
                && !self.channels.is_offered(channel);
            let Some(stream) = &mut local.stream else {
                continue;
            };
            stream.watched.want(Ready { readable, writable })?;
        }
        self.touched = touched;
        self.touched.clear();
        Ok(())
    }

    // ---- from the connection ----

    /// Data has come on a channel.
    pub(super) fn data(&mut self, channel: u32, bytes: &[u8]) -> Result<(), ChannelViolation> {
        if !self.channels.data(channel, bytes.len())? {
            return Ok(());
        }
        self.put(channel, bytes);
        Ok(())
    }

    /// Writes to a local stream, or keeps what that does not take.
    fn put(&mut self, channel: u32, bytes: &[u8]) {
        let Some(local) = self.locals.get_mut(channel) else {
            return;
        };
        let written = match &local.stream {
            Some(stream) if !local.has_backlog() => stream.write(bytes),
            _ => Ok(0),
        };
        match written {
            Ok(n) => {
                if n < bytes.len() {
                    if !local.has_backlog() {
                        local.backlog.clear();
                        local.done = 0;
                    }
                    local.backlog.extend_from_slice(&bytes[n..]);
                    self.touched.push(channel);
                }
                self.taken(channel, n);
            }
            Err(_) => self.shut(channel),
        }
    }

    /// Writes what was kept for a local stream, as far as that takes it.
    fn drain(&mut self, channel: u32) {
        let Some(local) = self.locals.get_mut(channel) else {
            return;
        };
        let Some(stream) = &local.stream else {
            return;
        };
        if local.has_backlog() {
            match stream.write(&local.backlog[local.done..]) {
                Ok(n) => {
                    local.done += n;
                    if !local.has_backlog() {
                        (local.backlog, local.done) = (Vec::new(), 0);
                    } else if local.done > local.backlog.len() / 2 {
                        local.backlog.drain(..local.done);
                        local.done = 0;
                    }
                    self.taken(channel, n);
                }
                Err(_) => self.shut(channel),
            }
        }
        self.touched.push(channel);
        self.end_local(channel);
    }

    fn taken(&mut self, channel: u32, bytes: usize) {
        if let Some(bytes) = self.channels.taken(channel, bytes) {
            self.push_flow(Flow::Credit { channel, bytes });
        }
    }

    /// Nothing can be written to a local stream, or it wants nothing.
    fn shut(&mut self, channel: u32) {
        if let Some(local) = self.locals.get_mut(channel) {
            (local.backlog, local.done, local.ends) = (Vec::new(), 0, true);
        }
        if self.channels.shut(channel) {
            self.push_flow(Flow::Shut { channel });
        }
    }

    /// A message about the flow of a channel has come.
    pub(super) fn flow(&mut self, flow: Flow) -> Result<(), ChannelViolation> {
        let (Flow::Credit { channel, .. } | Flow::Eof { channel } | Flow::Shut { channel }) = flow
        else {
            return Ok(());
        };
        match self.channels.flow(flow)? {
            Effect::Nothing => {}
            Effect::Resumed => self.touched.push(channel),
            Effect::Eof => {
                if let Some(local) = self.locals.get_mut(channel) {
                    local.ends = true;
                }
                self.end_local(channel);
            }
            Effect::Unwanted => self.end(channel),
        }
        Ok(())
    }

    /// The connection is lost: nothing more comes.
    pub(super) fn disconnect(&mut self) {
        let all: Vec<u32> = self
            .locals
            .iter()
            .map(|(channel, _)| channel as u32)
            .collect();
        for channel in all {
            if let Some(local) = self.locals.get_mut(channel) {
                local.ends = true;
            }
            self.end(channel);
            self.end_local(channel);
        }
    }

    /// Ends a local stream, if nothing more comes for it.
    fn end_local(&mut self, channel: u32) {
        if let Some(local) = self.locals.get(channel)
            && local.ends
            && !local.has_backlog()
            && local.direction != Direction::Out
            && let Some(stream) = &local.stream
        {
            // It may have been closed.
            let _ = sys::shutdown(stream.watched.fd(), Shutdown::Write);
        }
        self.remove_if_done(channel);
    }

    fn remove_if_done(&mut self, channel: u32) {
        let is_done = |local: &Local| !local.has_backlog();
        if self.channels.is_gone(channel) && self.locals.get(channel).is_some_and(is_done) {
            self.locals.remove(channel);
        }
    }

    // ---- to the connection ----

    /// Queues a control frame.
    pub(super) fn push_control(&mut self, payload: &[u8]) {
        let (header, len) = header(Framing::Tagged, CARRIER_CONTROL, payload.len() as u32);
        self.out.extend_from_slice(&header[..len]);
        self.out.extend_from_slice(payload);
    }

    pub(super) fn push_raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(super) fn push_flow(&mut self, flow: Flow) {
        self.push_control(&flow.encode());
    }

    /// What the connection has not taken.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.out[self.written..]
    }

    /// Whether more may be queued that can wait.
    pub(super) fn has_room(&self) -> bool {
        self.unsent().len() < ENOUGH
    }

    /// The connection has taken some more.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        } else if self.written > ENOUGH {
            self.out.drain(..self.written);
            self.written = 0;
        }
    }

    /// Reads from local streams in turns, until enough waits for the connection.
    pub(super) fn fill(&mut self) {
        while self.has_room()
            && let Some((channel, room)) = self.channels.next_turn()
        {
            let read = self.read(channel, room);
            let local = self.locals.get(channel);
            let is_complete = local.is_some_and(|local| local.left.is_some());
            match read {
                // Nobody reports more of one that is complete.
                Ok(Some(n)) => self.channels.sent(channel, n, n == room || is_complete),
                Ok(None) => self.channels.sent(channel, 0, false),
                // The other end may have closed it with something unread.
                Err(_) => {
                    self.channels.sent(channel, 0, false);
                    self.end(channel);
                }
            }
            self.touched.push(channel);
        }
    }

    /// Reads once from a local stream, into a frame. `None` if there is nothing; an error is its end.
    fn read(&mut self, channel: u32, room: usize) -> io::Result<Option<usize>> {
        let Some(local) = self.locals.get_mut(channel) else {
            return Ok(None);
        };
        let Some(stream) = &local.stream else {
            return Ok(None);
        };
        let room = room.min(local.left.unwrap_or(usize::MAX));
        if room == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let begin = self.out.len();
        self.out.reserve(HEADER + room);
        self.out.extend_from_slice(&[0; HEADER]);
        let mode = match stream.is_socket {
            true => ReadMode::SocketNow,
            false => ReadMode::Any,
        };
        let read = sys::receive(&**stream.watched.fd(), (&mut self.out, room), None, mode);
        match read {
            Ok(n @ 1..) => {
                if let Some(left) = &mut local.left {
                    *left -= n;
                }
                let (header, _) = header(Framing::Tagged, channel, n as u32);
                self.out[begin..begin + HEADER].copy_from_slice(&header);
                Ok(Some(n))
            }
            other => {
                self.out.truncate(begin);
                match other {
                    Err(error) if error.kind() == ErrorKind::WouldBlock && local.left.is_none() => {
                        Ok(None)
                    }
                    Err(error) => Err(error),
                    Ok(_) => Err(ErrorKind::UnexpectedEof.into()),
                }
            }
        }
    }

    /// Nothing more comes out of a local stream.
    fn end(&mut self, channel: u32) {
        if self.channels.end(channel) {
            self.push_flow(Flow::Eof { channel });
        }
        self.remove_if_done(channel);
    }
}

impl Stream {
    /// Writes what is taken at once.
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        // All that something comes for are sockets.
        match sys::send(&**self.watched.fd(), &[IoSlice::new(bytes)], false) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::channels::{CHUNK, WINDOW};
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    /// Streams with one channel, which is connected with a socket, and the other end of that.
    fn connected() -> (Streams, u32, UnixStream) {
        let mut streams = Streams::new(&Epoll::new().unwrap());
        let channel = streams.channels.open_next().unwrap();
        streams.add(channel, Direction::Both);
        let (near, far) = UnixStream::pair().unwrap();
        let (fd, is_socket) = (near.into(), true);
        let attached = streams.attach(channel, LocalStream { fd, is_socket }, 2);
        attached.unwrap();
        (streams, channel, far)
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not support these sockets")]
    fn reader_that_never_catches_up_is_kept_no_more_than_is_granted() {
        let (mut streams, channel, mut reader) = connected();
        let chunk = vec![7; CHUNK];
        let backlog = |streams: &Streams| {
            let local = streams.locals.get(channel).unwrap();
            (local.has_backlog(), local.backlog.len())
        };
        while backlog(&streams).1 < WINDOW / 4 {
            streams.data(channel, &chunk).unwrap();
        }
        let mut got = vec![0; CHUNK];
        for _ in 0..1000 {
            reader.read_exact(&mut got).unwrap();
            streams.ready(channel);
            streams.data(channel, &chunk).unwrap();
            let (has_backlog, len) = backlog(&streams);
            assert!(has_backlog && len <= 2 * WINDOW, "{len}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not support these sockets")]
    fn stream_that_is_abandoned_is_closed_whatever_the_other_end_says() {
        let (mut streams, channel, mut peer) = connected();
        streams.abandon(channel);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        let error = peer.write(b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        // The other end has not heard of that.
        streams.data(channel, b"more").unwrap();
        streams.watch().unwrap();
        assert!(streams.is_delivered(channel));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not support these sockets")]
    fn stream_that_is_complete_ends_though_others_write_on() {
        let (mut streams, channel, mut writer) = connected();
        writer.write_all(b"last").unwrap();
        streams.ready(channel);
        streams.complete(channel);
        writer.write_all(b"more").unwrap();
        streams.fill();
        assert!(streams.channels.has_ended(channel));
        let has = |what| streams.unsent().windows(4).any(|bytes| bytes == what);
        assert!(has(b"last") && !has(b"more"));
    }
}

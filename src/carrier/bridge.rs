//! What one end does: copies between local streams and the connection.

use super::channels::CHUNK;
use super::greeting::{Greeted, Greeting};
use super::judge::judge;
use super::streams::{Direction, LocalStream, Streams};
use crate::sys::{self, Epoll, ReadMode, Ready, Watched};
use crate::wire::{CARRIER_CONTROL, DecodeError, Decoder, Flow, FrameHead, Framing};
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The keys of the poller's events: both directions of the connection, and two for each channel.
const INPUT: u64 = 0;
const OUTPUT: u64 = 1;
const FIRST_CHANNEL: u64 = 2;

/// The initial size of the read buffer.
const BUFLEN: usize = 16 << 10;
/// How often the connection is read before local streams have their turn.
const READS: usize = 4;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Bridge {
    epoll: Arc<Epoll>,
    /// The connection, until it is lost.
    link: Option<Link>,
    /// Why nothing can be written any more.
    write_error: Option<io::Error>,
    /// Until the far end has greeted.
    greeting: Option<Greeting>,
    decoder: Decoder,
    /// The longest control frame that may come.
    longest_control: usize,
    is_readable: bool,
    /// Whether a ping has not been answered.
    owes_pong: bool,
    streams: Streams,
}

/// The ends of a connection.
#[derive(Debug)]
struct Link {
    input: Watched,
    output: Watched,
    /// Whether they are sockets. What is not does not block.
    is_socket: [bool; 2],
}

/// What a read of the connection has brought.
#[derive(Debug)]
pub(crate) enum LinkRead {
    Nothing,
    Something,
    /// The other end has greeted, with this version of the messages.
    Greeted(u32),
    /// It has greeted, but a terminal has changed that.
    Terminal,
    /// It has not greeted, and said too much else.
    TooMuchNoise,
    End(Option<io::Error>),
}

impl Bridge {
    /// An end of a connection. With `greeting`, the other end greets before it speaks, and nothing is written
    /// until then.
    pub(crate) fn new(
        epoll: &Arc<Epoll>,
        input: OwnedFd,
        output: OwnedFd,
        greeting: bool,
        longest_control: usize,
    ) -> io::Result<Self> {
        let is_socket = [&input, &output].map(|fd| sys::is_stream_socket(fd.as_fd()));
        for (fd, is_socket) in [&input, &output].into_iter().zip(is_socket) {
            if !is_socket {
                sys::set_nonblocking(fd)?;
            }
        }
        let watch = |fd, key, wanted| Watched::new(epoll, &Arc::new(fd), key, wanted);
        Ok(Bridge {
            epoll: Arc::clone(epoll),
            link: Some(Link {
                input: watch(input, INPUT, Ready::READABLE)?,
                output: watch(output, OUTPUT, Ready::NOTHING)?,
                is_socket,
            }),
            write_error: None,
            greeting: greeting.then(Greeting::default),
            decoder: Decoder::new(Framing::Tagged, BUFLEN, longest_control.max(CHUNK)),
            longest_control,
            is_readable: false,
            owes_pong: false,
            streams: Streams::new(epoll),
        })
    }

    /// Waits until something can be done, at most until `deadline`. Passes the channels for which something
    /// has happened that the owner has [registered](owner_key) to `others`.
    pub(crate) fn wait(
        &mut self,
        deadline: Option<Instant>,
        mut others: impl FnMut(u32),
    ) -> io::Result<()> {
        self.streams.watch()?;
        let writable = !self.streams.unsent().is_empty() && self.may_write();
        if let Some(link) = &mut self.link {
            let readable = false;
            link.output.want(Ready { readable, writable })?;
        }
        let timeout = match self.is_readable {
            true => Some(Duration::ZERO),
            false => deadline.map(|at| at.saturating_duration_since(Instant::now())),
        };
        let Bridge {
            epoll,
            streams,
            is_readable,
            write_error,
            ..
        } = self;
        epoll.wait(timeout, |key, _| match key {
            INPUT => *is_readable = true,
            OUTPUT if writable => {}
            // That is reported unasked.
            OUTPUT if write_error.is_some() => {}
            OUTPUT => {
                *write_error = Some(ErrorKind::BrokenPipe.into());
                *is_readable = true;
            }
            of_channel => {
                let channel = ((of_channel - FIRST_CHANNEL) / 2) as u32;
                match of_channel % 2 {
                    0 => streams.ready(channel),
                    _ => others(channel),
                }
            }
        })
    }

    /// Reads what has come on the connection, if something may have. What that means is to be asked for by
    /// [`next_message`](Bridge::next_message).
    pub(crate) fn read(&mut self) -> LinkRead {
        let mut read = LinkRead::Nothing;
        for _ in 0..READS {
            if !self.is_readable {
                break;
            }
            read = match self.read_once() {
                Ok(0) => return self.end(None),
                Ok(_) => LinkRead::Something,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_readable = false;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return self.end(None),
                Err(error) => return self.end(Some(error)),
            };
            if let Some(greeted) = self.look_for_greeting() {
                return greeted;
            }
            if self.decoder.has_frame() {
                break;
            }
        }
        read
    }

    fn end(&mut self, error: Option<io::Error>) -> LinkRead {
        self.is_readable = false;
        LinkRead::End(error)
    }

    fn read_once(&mut self) -> io::Result<usize> {
        let space = self.decoder.space();
        let room = space.room();
        let to = (space.buf, space.limit);
        let Some(link) = &self.link else {
            return Ok(0);
        };
        let mode = match link.is_socket[0] {
            true => ReadMode::SocketNow,
            false => ReadMode::Any,
        };
        let n = sys::receive(&**link.input.fd(), to, space.behind, mode)?;
        // If that was all, the poller reports what comes next.
        self.is_readable = n == room;
        Ok(n)
    }

    /// Looks at what was read for the greeting.
    fn look_for_greeting(&mut self) -> Option<LinkRead> {
        let greeting = self.greeting.as_mut()?;
        let bytes = self.decoder.take_all();
        match greeting.push(&bytes) {
            Greeted::No => None,
            Greeted::With { version, rest } => {
                self.greeting = None;
                self.decoder.put(&rest);
                Some(LinkRead::Greeted(version))
            }
            Greeted::Terminal => Some(LinkRead::Terminal),
            Greeted::TooMuch => Some(LinkRead::TooMuchNoise),
        }
    }

    /// What has come before the greeting, if that has not.
    pub(crate) fn noise(&self) -> Option<&[u8]> {
        self.greeting.as_ref().map(Greeting::noise)
    }

    /// The next message that is not about the flow of bytes. What precedes it is done with.
    ///
    /// # Errors
    ///
    /// How the other end has broken the rules.
    pub(crate) fn next_message(&mut self) -> Result<Option<Vec<u8>>, String> {
        if self.greeting.is_some() {
            return Ok(None);
        }
        let longest_control = self.longest_control;
        let judge = |id, claimed| judge(id, claimed, longest_control);
        loop {
            let next = self
                .decoder
                .next(|head: FrameHead<'_>| judge(head.id, head.claimed as usize).map_err(Broken));
            let Some((id, payload)) = next.map_err(|Broken(why)| why)? else {
                return Ok(None);
            };
            let bytes = self.decoder.payload(&payload);
            judge(id, bytes.len())?;
            if id != CARRIER_CONTROL {
                let taken = self.streams.data(id, bytes);
                taken.map_err(|violation| violation.to_string())?;
                continue;
            }
            match Flow::decode(bytes).map_err(|error| error.to_string())? {
                None => return Ok(Some(bytes.to_vec())),
                Some(Flow::Ping) => self.owes_pong = true,
                Some(flow) => {
                    let done = self.streams.flow(flow);
                    done.map_err(|violation| violation.to_string())?;
                }
            }
        }
    }

    /// Whether the last bytes that came are a part of a frame.
    pub(crate) fn is_cut(&self) -> bool {
        self.greeting.is_none() && !self.decoder.is_empty()
    }

    /// Writes what can be written.
    pub(crate) fn flush(&mut self) {
        while self.may_write() {
            // One answers all pings that have come while there was no room.
            if self.owes_pong && self.streams.has_room() {
                self.owes_pong = false;
                self.streams.push_flow(Flow::Pong);
            }
            self.streams.fill();
            let unsent = self.streams.unsent();
            if unsent.is_empty() {
                break;
            }
            let Some(link) = &self.link else { return };
            let output = &**link.output.fd();
            let written = match link.is_socket[1] {
                true => sys::send(output, &[IoSlice::new(unsent)], false),
                false => sys::write(output, unsent),
            };
            match written {
                Ok(n) => self.streams.sent(n),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // That the connection has ended is found when it is read.
                Err(error) => {
                    self.write_error = Some(error);
                    // What came before that is read, and its end, if that is it.
                    self.is_readable = true;
                }
            }
        }
    }

    /// Why nothing can be written any more.
    pub(crate) fn write_error(&self) -> Option<&io::Error> {
        self.write_error.as_ref()
    }

    fn may_write(&self) -> bool {
        self.link.is_some() && self.greeting.is_none() && self.write_error.is_none()
    }

    /// Whether something may have come on the connection that was not read.
    pub(crate) fn may_have_more(&self) -> bool {
        self.is_readable
    }

    /// The descriptors of the connection.
    pub(crate) fn link(&self) -> [Arc<OwnedFd>; 2] {
        let link = self.link.as_ref().expect("it is not lost");
        [&link.input, &link.output].map(|end| Arc::clone(end.fd()))
    }

    /// The connection is lost. What has come is still written to local streams, and then they end.
    pub(crate) fn disconnect(&mut self) {
        self.link = None;
        self.is_readable = false;
        self.streams.disconnect();
    }

    // ---- channels ----

    /// Opens a channel, whose number this end chooses, and [tells](Bridge::announced) the other. `None` when
    /// there are no more numbers.
    pub(crate) fn open_next(&mut self, direction: Direction) -> Option<u32> {
        let channel = self.streams.channels.open_next()?;
        self.streams.add(channel, direction);
        Some(channel)
    }

    /// Opens a channel to which the other end has given this number.
    pub(crate) fn open(&mut self, channel: u32, direction: Direction) -> Result<(), String> {
        let opened = self.streams.channels.open(channel);
        opened.map_err(|violation| violation.to_string())?;
        self.streams.add(channel, direction);
        Ok(())
    }

    /// Whether a channel was ever opened.
    pub(crate) fn was_opened(&self, channel: u32) -> bool {
        self.streams.channels.was_opened(channel)
    }

    /// A message that opens a channel at the other end was queued.
    pub(crate) fn announced(&mut self, channel: u32) {
        self.streams.announced(channel);
    }

    /// Connects a channel with a local stream.
    pub(crate) fn attach(&mut self, channel: u32, stream: LocalStream) -> io::Result<()> {
        self.streams.attach(channel, stream, key(channel))
    }

    /// A channel has no local stream, and gets none.
    pub(crate) fn abandon(&mut self, channel: u32) {
        self.streams.abandon(channel);
    }

    /// What can be read from the local stream of a channel now is all that it ever has.
    pub(crate) fn complete(&mut self, channel: u32) {
        self.streams.complete(channel);
    }

    /// Whether everything was sent that comes out of the local stream of a channel.
    pub(crate) fn has_ended(&self, channel: u32) -> bool {
        self.streams.channels.has_ended(channel)
    }

    /// Whether everything that comes for the local stream of a channel was written to it.
    pub(crate) fn is_delivered(&self, channel: u32) -> bool {
        self.streams.is_delivered(channel)
    }

    /// Queues what precedes all frames.
    pub(crate) fn greet(&mut self, greeting: &[u8]) {
        self.streams.push_raw(greeting);
    }

    /// Queues a message.
    pub(crate) fn send(&mut self, message: &[u8]) {
        self.streams.push_control(message);
    }

    pub(crate) fn ping(&mut self) {
        self.streams.push_flow(Flow::Ping);
    }
}

/// How the other end has broken the rules.
struct Broken(String);

impl From<DecodeError> for Broken {
    fn from(error: DecodeError) -> Self {
        Broken(error.to_string())
    }
}

/// The key of a channel's local stream.
fn key(channel: u32) -> u64 {
    FIRST_CHANNEL + 2 * u64::from(channel)
}

/// The key under which the owner can register something else that is about a channel.
pub(crate) fn owner_key(channel: u32) -> u64 {
    key(channel) + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::far::LONGEST_TO_RELAY;
    use crate::wire::ToRelay;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    const LONGEST: usize = 1 << 10;

    /// An end of a connection, and the other one.
    fn connected() -> (Bridge, UnixStream) {
        connected_for(LONGEST)
    }

    fn connected_for(longest: usize) -> (Bridge, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        let epoll = Epoll::new().unwrap();
        let output = near.try_clone().unwrap().into();
        let bridge = Bridge::new(&epoll, near.into(), output, false, longest);
        (bridge.unwrap(), far)
    }

    /// A long message is read to its end, and what has come with that is read when the message was taken.
    #[test]
    #[cfg_attr(miri, ignore = "Miri does not support epoll on these sockets")]
    fn long_messages_may_come_with_others_in_any_split() {
        let mut streams = Streams::new(&Epoll::new().unwrap());
        let message = |byte| ToRelay::Prepare(&[byte; 40 << 10]).encode();
        let (first, second) = (message(1), message(2));
        streams.push_control(&first);
        let whole = streams.unsent().len();
        (0..100).for_each(|_| streams.push_flow(Flow::Pong));
        streams.push_control(&second);
        let bytes = streams.unsent();
        for cut in [
            1000,
            whole - 1,
            whole,
            whole + 511,
            whole + 512,
            whole + 513,
        ] {
            let (mut bridge, mut far) = connected_for(LONGEST_TO_RELAY);
            let mut got = Vec::new();
            let mut turn = |bridge: &mut Bridge| {
                bridge.wait(None, drop).unwrap();
                assert!(!matches!(bridge.read(), LinkRead::End(_)));
                while let Some(message) = bridge.next_message().unwrap() {
                    got.push(message);
                }
                got.len()
            };
            far.write_all(&bytes[..cut]).unwrap();
            turn(&mut bridge);
            far.write_all(&bytes[cut..]).unwrap();
            while turn(&mut bridge) < 2 {}
            assert!(got == [&first[..], &second], "cut at {cut}");
        }
    }

    fn turn(bridge: &mut Bridge) {
        bridge.wait(None, drop).unwrap();
        bridge.read();
        assert_eq!(bridge.next_message().unwrap(), None);
        bridge.flush();
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not support epoll on these sockets")]
    fn pings_of_an_end_that_reads_nothing_fill_no_memory() {
        let (mut bridge, mut far) = connected();
        let (mut ping, mut pong) = (Streams::new(&bridge.epoll), Streams::new(&bridge.epoll));
        ping.push_flow(Flow::Ping);
        pong.push_flow(Flow::Pong);
        let pings = ping.unsent().repeat(1000);
        for _ in 0..1000 {
            far.write_all(&pings).unwrap();
            turn(&mut bridge);
            let unsent = bridge.streams.unsent().len();
            assert!(unsent <= 128 << 10, "{unsent}");
        }
        // They are answered when it reads again.
        let mut got = vec![0; pong.unsent().len()];
        far.read_exact(&mut got).unwrap();
        assert_eq!(got, pong.unsent());
    }
}

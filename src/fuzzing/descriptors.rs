use super::Script;
use crate::fd::Fd;
use crate::wire::{
    ANNOUNCING, Body, Check, DecodeError, Decoder, Framing, Payload, Writer, header,
};
use std::collections::VecDeque;
use std::fs::File;
use std::io;

/// The id of control frames.
const CONTROL: u32 = 0;

/// `EBADF` and `ETOOMANYREFS`.
const BAD: i32 = 9;
const CROWDED: i32 = 109;

/// Descriptors in step with frames: whatever is written and withdrawn, in whatever parts it is sent and
/// read, and whichever descriptors cannot be sent, each frame has its own, or is told that it has none. A
/// reader that makes no room for descriptors before it is told of them misses none. What comes from a
/// sender that does otherwise is an error, and nothing of it is kept.
pub fn descriptors(data: &[u8]) {
    let mut script = Script(data);
    let mut model = DescriptorModel {
        writer: Writer::default(),
        socket: Socket::default(),
        decoder: Decoder::new(Framing::Tagged, script.pick(&[0, 64, 1000]), 1 << 20)
            .with_fds(CONTROL),
        expected: VecDeque::new(),
        all: (0..8)
            .map(|_| Fd::from(File::open("/dev/null").unwrap()))
            .collect(),
        last: 0,
    };
    while !script.0.is_empty() {
        match script.byte() % 8 {
            0..3 => {
                let fds = usize::from(script.byte() % 4) * usize::from(script.byte() % 2);
                let size = script.pick(&[0, 1, 20, 300, 16 << 10, 20_000, 70_000]);
                model.push(fds, size);
            }
            3 => model.withdraw(script.byte().into()),
            4 | 5 => model.write(
                script.pick(&[1, 5, 20, 29, 1000, usize::MAX]),
                script.byte(),
            ),
            6 => model.read(script.pick(&[1, 7, 20, 100, 5000, usize::MAX])),
            _ => {
                model.attack(&mut script);
                break;
            }
        }
    }
    model.finish();
}

/// A frame that was written and has not come.
struct Expected {
    id: u32,
    start: u64,
    size: usize,
    fds: Vec<Fd>,
    lost: bool,
}

struct DescriptorModel {
    writer: Writer,
    socket: Socket,
    decoder: Decoder,
    expected: VecDeque<Expected>,
    all: Vec<Fd>,
    last: u32,
}

/// What the kernel does: a read ends with a message with descriptors, which come with its first byte.
#[derive(Default)]
struct Socket {
    messages: VecDeque<(VecDeque<u8>, Vec<Fd>)>,
}

impl Socket {
    fn send(&mut self, bytes: &[u8], fds: &[Fd]) {
        self.messages
            .push_back((bytes.iter().copied().collect(), fds.to_vec()));
    }

    fn read(&mut self, room: usize) -> (Vec<u8>, Vec<Fd>) {
        let (mut read, mut fds) = (Vec::new(), Vec::new());
        while read.len() < room
            && fds.is_empty()
            && let Some((bytes, with)) = self.messages.front_mut()
        {
            let n = bytes.len().min(room - read.len());
            read.extend(bytes.drain(..n));
            fds = std::mem::take(with);
            if bytes.is_empty() {
                self.messages.pop_front();
            }
        }
        (read, fds)
    }
}

fn payload(id: u32, size: usize) -> Vec<u8> {
    vec![id as u8; size]
}

impl DescriptorModel {
    fn push(&mut self, fds: usize, size: usize) {
        self.last += 1;
        let id = self.last;
        let fds: Vec<Fd> = (0..fds)
            .map(|n| self.all[(id as usize + n) % 8].clone())
            .collect();
        let outbox = self.writer.outbox_mut();
        let mut body = Body::default();
        let bytes = payload(id, size);
        let (head, tail) = bytes.split_at(size / 3);
        body.push(head.to_vec());
        fds.iter().for_each(|fd| body.attach(fd.clone()));
        body.push(tail.to_vec());
        outbox.carry(CONTROL, &body);
        let start = outbox.push(header(Framing::Tagged, id, size as u32), &mut body);
        assert!(body.fds().is_empty());
        self.expected.push_back(Expected {
            id,
            start,
            size,
            fds,
            lost: false,
        });
    }

    fn withdraw(&mut self, which: usize) {
        let outbox = self.writer.outbox_mut();
        let queued = self
            .expected
            .iter()
            .position(|it| outbox.is_queued(it.start));
        let Some(at) = queued.map(|first| first + which % 4) else {
            return;
        };
        if let Some(frame) = self.expected.get(at) {
            let announcing = if frame.fds.is_empty() { 0 } else { ANNOUNCING };
            let len = announcing + 8 + frame.size;
            assert!(outbox.withdraw(frame.start, len as u64));
            self.expected.remove(at);
        }
    }

    fn write(&mut self, most: usize, how: u8) {
        let Some(batch) = self.writer.begin(1000) else {
            return;
        };
        let fds = batch.fds().to_vec();
        let bytes = batch.write(|parts| {
            let parts: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
            parts.concat()
        });
        // An announcement of none.
        let is_barrier = !fds.is_empty() && &bytes[13..16] == b"000";
        let result = match how % 8 {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            1 if !fds.is_empty() => Err(io::Error::from_raw_os_error(BAD)),
            2 if !fds.is_empty() => Err(io::Error::from_raw_os_error(CROWDED)),
            _ => {
                let n = bytes.len().min(most);
                self.socket.send(&bytes[..n], &fds);
                Ok(n)
            }
        };
        let refused = result
            .as_ref()
            .is_err_and(|error| error.raw_os_error().is_some());
        self.writer.end(batch, result);
        if refused && !self.writer.is_crowded() {
            self.lose(is_barrier);
        }
        self.writer.unblock();
        self.writer.retry();
        assert!(!self.writer.has_failed());
    }

    /// These cannot be sent.
    fn lose(&mut self, is_barrier: bool) {
        let outbox = self.writer.outbox();
        if is_barrier {
            let queued = |it: &&mut Expected| outbox.is_queued(it.start);
            self.expected
                .iter_mut()
                .filter(queued)
                .for_each(|it| it.lost = true);
            return;
        }
        // The last that was taken.
        let mut taken = self.expected.iter_mut().rev();
        let frame = taken.find(|it| !it.fds.is_empty() && !outbox.is_queued(it.start));
        frame.expect("one was taken with them").lost = true;
    }

    fn read(&mut self, room: usize) {
        let takes_fds = self.decoder.takes_fds();
        let mut space = self.decoder.space();
        let (bytes, fds) = self.socket.read(room.min(space.room()));
        assert_eq!(space.fill(&bytes), bytes.len());
        // Without room they are lost.
        if takes_fds && !fds.is_empty() {
            self.decoder.arrived(fds, false, bytes.len());
        }
        while let Some((id, payload)) = next(&mut self.decoder).expect("nothing is wrong") {
            self.came(id, payload);
        }
    }

    fn came(&mut self, id: u32, came: Payload) {
        let expected = self.expected.pop_front().expect("something was written");
        assert_eq!(id, expected.id);
        assert!(self.decoder.payload(&came) == payload(id, expected.size));
        match came {
            Payload::Carrying(carrying) => {
                assert_eq!(carrying.fds.len(), expected.fds.len());
                match carrying.fds.all() {
                    Ok(fds) => {
                        let mut pairs = fds.iter().zip(&expected.fds);
                        assert!(!expected.lost && pairs.all(|(fd, want)| fd.is_clone_of(want)));
                    }
                    Err(_) => assert!(expected.lost),
                }
            }
            Payload::At(_) | Payload::Owned(_) => assert!(expected.fds.is_empty()),
        }
    }

    /// Bytes and descriptors from somebody else.
    fn attack(&mut self, script: &mut Script<'_>) {
        self.forget();
        while !script.0.is_empty() {
            let (fds, n) = (usize::from(script.byte() % 4), script.byte());
            let bytes = match script.byte() % 4 {
                0 => script.bytes(n.into()).to_vec(),
                1 => frame(b"\x07carries".to_vec()),
                2 => frame(format!("\x03fds\x03{:03}\x03{:03}", n % 5, n / 5 % 2).into_bytes()),
                _ => frame(vec![b'x'; n.into()]),
            };
            let mut bytes = &bytes[..];
            while !bytes.is_empty() {
                let taken = self.decoder.space().fill(bytes);
                bytes = &bytes[taken..];
                let fds = self.all[..fds].to_vec();
                if !fds.is_empty() && self.decoder.takes_fds() {
                    self.decoder.arrived(fds, n % 2 == 0, taken);
                }
                loop {
                    match next(&mut self.decoder) {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => return,
                    }
                }
                // Two sets and those of the next frame, at most.
                let kept = self.all.iter().map(Fd::clones).max();
                assert!(kept.is_some_and(|kept| kept <= 1 + 3));
            }
        }
    }

    /// Nothing more is expected.
    fn forget(&mut self) {
        self.expected.clear();
        self.writer = Writer::default();
        self.socket = Socket::default();
    }

    fn finish(mut self) {
        while self.writer.unsent() > 0 {
            self.write(usize::MAX, 7);
        }
        while !self.socket.messages.is_empty() {
            self.read(usize::MAX);
        }
        assert!(self.expected.is_empty());
        drop((self.writer, self.decoder));
        assert!(self.all.iter().all(|fd| fd.clones() == 1), "some are kept");
    }
}

fn frame(payload: Vec<u8>) -> Vec<u8> {
    let (header, n) = header(Framing::Tagged, CONTROL, payload.len() as u32);
    [&header[..n], &payload].concat()
}

fn next(decoder: &mut Decoder) -> Result<Option<(u32, Payload)>, DecodeError> {
    decoder.next(|_| Ok(Check::Pass))
}

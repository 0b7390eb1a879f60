use super::{Script, Stream, allowed};
use crate::carrier::{
    CHUNK, ChannelViolation, Channels, Effect, MOST_CREDIT, WIDEST, WINDOW, channels_of, judge,
};
use crate::wire::{
    CARRIER_CONTROL, DecodeError, Decoder, Flow, FrameHead, Framing, LONGEST_CONTROL, MAX_ID,
    ToRelay,
};
use std::collections::{BTreeMap, VecDeque};

/// The channels of a connection, compared with a model that keeps plain numbers.
///
/// Between two honest ends: whatever is done, the bytes of each stream arrive in order and completely unless
/// it is shut, no end finds fault with the other, and channels are gone when both directions have ended. At
/// an end whose other end is hostile: whatever comes, it is judged as by the model. At both: what is kept of
/// one stream is never more than the widest window, and while a channel waits for its turn, each other has at
/// most one.
pub fn channels(data: &[u8]) {
    let mut script = Script(data);
    match script.byte() % 4 {
        0 | 1 => honest(script),
        2 => hostile(script),
        _ => frames(script),
    }
}

// ---- one end, and its model ----

/// One end of a connection. What its channels say is compared with the model.
#[derive(Default)]
struct End {
    channels: Channels,
    /// Channels that are not gone.
    lines: BTreeMap<u32, Line>,
    last: u32,
}

/// A channel.
struct Line {
    // What is sent.
    credit: usize,
    offered: bool,
    ended: bool,
    /// Who has had a turn since this has waited for one.
    passed: Vec<u32>,
    // What comes.
    room: usize,
    kept: usize,
    eof: bool,
    shut: bool,
}

impl Line {
    fn waits(&self) -> bool {
        self.offered && self.credit > 0 && !self.ended
    }
}

impl End {
    fn open_next(&mut self) -> Option<u32> {
        let want = self.last + 1;
        let got = self.channels.open_next();
        assert_eq!(got, (want <= MAX_ID).then_some(want));
        self.insert(got?);
        got
    }

    fn open(&mut self, channel: u32) -> Result<(), ChannelViolation> {
        let is_new = channel > self.last && channel <= MAX_ID;
        let got = self.channels.open(channel);
        assert_eq!(got.is_ok(), is_new);
        if is_new {
            self.insert(channel);
        }
        got
    }

    fn insert(&mut self, channel: u32) {
        self.last = channel;
        let line = Line {
            credit: WINDOW,
            offered: false,
            ended: false,
            passed: Vec::new(),
            room: WINDOW,
            kept: 0,
            eof: false,
            shut: false,
        };
        self.lines.insert(channel, line);
    }

    fn offer(&mut self, channel: u32) {
        self.channels.offer(channel);
        if let Some(line) = self.lines.get_mut(&channel) {
            line.offered = true;
        }
    }

    /// Takes a turn, and sends as much of `most` bytes as it may. Returns how many that were of which channel.
    fn turn(&mut self, mut most: impl FnMut(u32) -> usize) -> Option<(u32, usize)> {
        let got = self.channels.next_turn();
        let somebody_waits = self.lines.values().any(Line::waits);
        assert_eq!(got.is_some(), somebody_waits);
        let (channel, room) = got?;
        for (other, line) in &mut self.lines {
            if *other != channel && line.waits() {
                assert!(!line.passed.contains(&channel), "{other} waits too long");
                line.passed.push(channel);
            }
        }
        let line = self.lines.get_mut(&channel).expect("it is there");
        assert!(line.waits());
        assert_eq!(room, line.credit.min(CHUNK));
        line.passed.clear();
        let bytes = room.min(most(channel));
        line.credit -= bytes;
        line.offered = bytes == room;
        self.channels.sent(channel, bytes, line.offered);
        Some((channel, bytes))
    }

    fn end(&mut self, channel: u32) -> bool {
        let line = self.lines.get_mut(&channel);
        let is_news = line.is_some_and(|line| {
            line.passed.clear();
            !std::mem::replace(&mut line.ended, true)
        });
        assert_eq!(self.channels.end(channel), is_news);
        self.forget_if_gone(channel);
        is_news
    }

    fn data(&mut self, channel: u32, bytes: usize) -> Result<bool, ChannelViolation> {
        let want = match self.lines.get_mut(&channel) {
            None if channel == 0 || channel > self.last => {
                Err(ChannelViolation::Unknown { channel })
            }
            None => Err(ChannelViolation::Ended { channel }),
            Some(line) if line.eof => Err(ChannelViolation::Ended { channel }),
            Some(line) if bytes > line.room => Err(ChannelViolation::Overrun {
                channel,
                by: bytes - line.room,
            }),
            Some(line) => {
                line.room -= bytes;
                if !line.shut {
                    line.kept += bytes;
                }
                Ok(!line.shut)
            }
        };
        assert_eq!(self.channels.data(channel, bytes), want);
        want
    }

    fn kept(&self, channel: u32) -> usize {
        self.lines.get(&channel).map_or(0, |line| line.kept)
    }

    /// Takes some of what is kept. Returns how much credit is to be granted.
    fn take(&mut self, channel: u32, bytes: usize) -> Option<usize> {
        let grant = self.channels.taken(channel, bytes);
        let Some(line) = self.lines.get_mut(&channel) else {
            assert_eq!(grant, None, "it is gone");
            return None;
        };
        line.kept -= bytes;
        line.room += grant.unwrap_or(0);
        match line.eof || line.shut {
            true => assert_eq!(grant, None, "nothing more comes"),
            false => assert!(line.room + line.kept > WINDOW / 2, "credit is held back"),
        }
        grant
    }

    fn shut(&mut self, channel: u32) -> bool {
        let line = self.lines.get_mut(&channel);
        let is_news = line.is_some_and(|line| {
            line.kept = 0;
            !std::mem::replace(&mut line.shut, true) && !line.eof
        });
        assert_eq!(self.channels.shut(channel), is_news);
        is_news
    }

    fn flow(&mut self, flow: Flow) -> Result<Effect, ChannelViolation> {
        let want = self.effect(flow);
        assert_eq!(self.channels.flow(flow), want);
        if let Flow::Eof { channel } = flow {
            self.forget_if_gone(channel);
        }
        want
    }

    fn effect(&mut self, flow: Flow) -> Result<Effect, ChannelViolation> {
        let channel = match flow {
            Flow::Ping | Flow::Pong => return Ok(Effect::Nothing),
            Flow::Credit { channel, .. } | Flow::Eof { channel } | Flow::Shut { channel } => {
                channel
            }
        };
        if channel == 0 || channel > self.last {
            return Err(ChannelViolation::Unknown { channel });
        }
        match (self.lines.get_mut(&channel), flow) {
            (Some(line), Flow::Credit { bytes, .. }) => {
                let credit = line.credit as u128 + bytes as u128;
                if credit > MOST_CREDIT as u128 {
                    return Err(ChannelViolation::Credit { channel });
                }
                line.credit += bytes;
                Ok(Effect::Resumed)
            }
            (Some(line), Flow::Eof { .. }) if !line.eof => {
                line.eof = true;
                Ok(Effect::Eof)
            }
            (_, Flow::Eof { .. }) => Err(ChannelViolation::Ended { channel }),
            (Some(_), _) => Ok(Effect::Unwanted),
            (None, _) => Ok(Effect::Nothing),
        }
    }

    fn forget_if_gone(&mut self, channel: u32) {
        let line = self.lines.get(&channel);
        if line.is_some_and(|line| line.ended && line.eof) {
            self.lines.remove(&channel);
        }
    }

    fn check(&self) {
        for (channel, line) in &self.lines {
            assert!(!self.channels.is_gone(*channel));
            assert_eq!(self.channels.has_ended(*channel), line.ended);
            assert_eq!(self.channels.is_offered(*channel), line.offered);
            assert!(
                line.shut || line.room + line.kept <= WIDEST,
                "too much may be kept"
            );
        }
        for channel in [0, self.last.wrapping_sub(1), self.last, self.last + 1] {
            let is_there = self.lines.contains_key(&channel);
            assert_eq!(self.channels.is_gone(channel), !is_there);
            assert!(is_there || self.channels.has_ended(channel));
            assert!(is_there || !self.channels.is_offered(channel));
        }
        let kept: usize = self.lines.values().map(|line| line.kept).sum();
        assert_eq!(self.channels.kept(), kept);
        assert_eq!(self.channels.is_empty(), self.lines.is_empty());
    }
}

// ---- two honest ends ----

/// The most channels of one run.
const MOST_CHANNELS: usize = 6;
/// The most bytes of one run.
const MOST_BYTES: usize = 40 << 20;

fn honest(mut script: Script<'_>) {
    let mut pair = Pair {
        ends: Default::default(),
        links: Default::default(),
        full: script.pick(&[1, 64 << 10, CHUNK, 3 * CHUNK + 1, 4 * WIDEST]),
        streams: Vec::new(),
        left: MOST_BYTES,
    };
    pair.open();
    while !script.0.is_empty() {
        let (operation, which) = (script.byte(), script.byte());
        let from = usize::from(which % 2);
        let channel = 1 + u32::from(which / 2) % pair.streams.len() as u32;
        match operation % 12 {
            0 => pair.open(),
            1..=3 => {
                let unit = script.pick(&[CHUNK, 1, 100, 16 * CHUNK, WIDEST]);
                pair.supply(from, channel, unit * usize::from(script.byte() % 32));
            }
            4 => {
                let most = script.pick(&[usize::MAX, 0, 1, CHUNK - 1]);
                for _ in 0..=script.byte() % 32 {
                    pair.turn(from, most);
                }
            }
            5 => {
                for _ in 0..=script.byte() % 32 {
                    pair.deliver(from);
                }
            }
            6 => {
                let part = usize::from(script.byte());
                let kept = pair.ends[from].kept(channel);
                pair.take(from, channel, kept * part / 255);
            }
            7 => {
                let bytes = script.byte().into();
                pair.take(from, channel, bytes);
            }
            8 => pair.end(from, channel),
            9 => pair.shut(from, channel),
            // As two that are always there at once.
            10 => {
                for _ in 0..=script.byte() % 16 {
                    pair.round();
                }
            }
            // A local stream is ready, and may have nothing.
            _ => pair.supply(from, channel, 0),
        }
        pair.ends.iter().for_each(End::check);
    }
    pair.finish();
}

/// Two ends, and what is between them.
struct Pair {
    ends: [End; 2],
    links: [Link; 2],
    /// No more data is sent while a link has so many bytes.
    full: usize,
    /// Of each channel, what each end sends.
    streams: Vec<[Sent; 2]>,
    /// How many more bytes there may be to send.
    left: usize,
}

/// One direction of the connection.
#[derive(Default)]
struct Link {
    items: VecDeque<Item>,
    bytes: usize,
}

enum Item {
    Open(u32),
    /// So many bytes of a stream, and which of it.
    Data {
        channel: u32,
        at: usize,
        bytes: usize,
    },
    Flow(Flow),
}

/// One direction of a channel.
#[derive(Default)]
struct Sent {
    /// What waits to be sent.
    supply: usize,
    sent: usize,
    arrived: usize,
    taken: usize,
    /// Whether it need not arrive as a whole.
    shut: bool,
}

impl Pair {
    fn open(&mut self) {
        if self.streams.len() < MOST_CHANNELS {
            let channel = self.ends[0].open_next().expect("there are numbers");
            self.links[0].items.push_back(Item::Open(channel));
            self.streams.push(Default::default());
        }
    }

    fn stream(&mut self, from: usize, channel: u32) -> &mut Sent {
        &mut self.streams[channel as usize - 1][from]
    }

    fn push_flow(&mut self, from: usize, flow: Flow) {
        self.links[from].items.push_back(Item::Flow(flow));
    }

    /// There is more to send, at an end that knows the channel and has not ended it.
    fn supply(&mut self, from: usize, channel: u32, bytes: usize) {
        let line = self.ends[from].lines.get(&channel);
        if line.is_some_and(|line| !line.ended) {
            let bytes = bytes.min(self.left);
            self.left -= bytes;
            self.stream(from, channel).supply += bytes;
        }
        self.ends[from].offer(channel);
    }

    /// Whether there was a turn.
    fn turn(&mut self, from: usize, most: usize) -> bool {
        if self.links[from].bytes >= self.full {
            return false;
        }
        let streams = &self.streams;
        let supply = |channel: u32| streams[channel as usize - 1][from].supply.min(most);
        let Some((channel, bytes)) = self.ends[from].turn(supply) else {
            return false;
        };
        let stream = self.stream(from, channel);
        let at = stream.sent;
        stream.supply -= bytes;
        stream.sent += bytes;
        if bytes > 0 {
            self.links[from].bytes += bytes;
            let data = Item::Data { channel, at, bytes };
            self.links[from].items.push_back(data);
        }
        true
    }

    /// Whether there was something.
    fn deliver(&mut self, from: usize) -> bool {
        let Some(item) = self.links[from].items.pop_front() else {
            return false;
        };
        let to = 1 - from;
        match item {
            Item::Open(channel) => self.ends[to].open(channel).expect("it is new"),
            Item::Data { channel, at, bytes } => {
                self.links[from].bytes -= bytes;
                let stream = self.stream(from, channel);
                assert_eq!(stream.arrived, at, "bytes arrive in order");
                stream.arrived += bytes;
                let is_wanted = self.ends[to].data(channel, bytes).expect("it may come");
                assert_eq!(is_wanted, !self.stream(from, channel).shut);
            }
            Item::Flow(flow) => {
                let effect = self.ends[to].flow(flow).expect("it may come");
                if let (Flow::Eof { channel }, Effect::Eof) = (flow, effect) {
                    let stream = self.stream(from, channel);
                    assert_eq!(stream.arrived, stream.sent, "the end comes last");
                }
                if let (Flow::Shut { channel }, Effect::Unwanted) = (flow, effect) {
                    self.end(to, channel);
                }
            }
        }
        true
    }

    fn take(&mut self, to: usize, channel: u32, most: usize) {
        let bytes = most.min(self.ends[to].kept(channel));
        if let Some(grant) = self.ends[to].take(channel, bytes) {
            let bytes = grant;
            self.push_flow(to, Flow::Credit { channel, bytes });
        }
        // What has come before both directions have ended is still there.
        let is_gone = !self.ends[to].lines.contains_key(&channel);
        let stream = self.stream(1 - to, channel);
        stream.taken += match is_gone && !stream.shut {
            true => most.min(stream.arrived - stream.taken),
            false => bytes,
        };
    }

    fn end(&mut self, from: usize, channel: u32) {
        if self.ends[from].end(channel) {
            self.stream(from, channel).supply = 0;
            self.push_flow(from, Flow::Eof { channel });
        }
    }

    fn shut(&mut self, to: usize, channel: u32) {
        let is_known = channel <= self.ends[to].last;
        if self.ends[to].shut(channel) {
            self.push_flow(to, Flow::Shut { channel });
        }
        if is_known {
            self.stream(1 - to, channel).shut = true;
        }
    }

    /// Sends, delivers and takes everything that can be now. Returns whether that was something.
    fn round(&mut self) -> bool {
        let mut is_news = false;
        for from in [0, 1] {
            while self.turn(from, usize::MAX) {
                is_news = true;
            }
            while self.deliver(from) {
                is_news = true;
            }
            for channel in 1..=self.streams.len() as u32 {
                self.take(1 - from, channel, usize::MAX);
            }
        }
        is_news
    }

    /// Everything arrives that was to be sent, and then all channels end.
    fn finish(mut self) {
        loop {
            for channel in 1..=self.streams.len() as u32 {
                for from in [0, 1] {
                    if self.stream(from, channel).supply > 0 {
                        self.supply(from, channel, 0);
                    }
                }
            }
            if !self.round() {
                break;
            }
            self.ends.iter().for_each(End::check);
        }
        for stream in self.streams.iter().flatten() {
            assert_eq!(stream.supply, 0, "what is offered is sent");
            assert_eq!(stream.arrived, stream.sent, "what is sent arrives");
            assert!(
                stream.shut || stream.taken == stream.sent,
                "all can be taken"
            );
        }
        for channel in 1..=self.streams.len() as u32 {
            [0, 1].into_iter().for_each(|from| self.end(from, channel));
        }
        while self.round() {}
        for end in &mut self.ends {
            end.check();
            assert!(end.channels.is_empty());
            assert_eq!(end.turn(|_| 0), None);
        }
    }
}

// ---- a hostile end ----

fn hostile(mut script: Script<'_>) {
    let mut end = End::default();
    while !script.0.is_empty() {
        let operation = script.byte();
        let channel = script.pick(&[1, 2, 3, 4, 0, 5, 9, MAX_ID, MAX_ID + 1, u32::MAX]);
        // What the other end does may be a violation, which changes nothing.
        let _ = match operation % 12 {
            0 => end.open(channel),
            2 => end.data(channel, bytes(&mut script)).map(|_| ()),
            3 => {
                let bytes = bytes(&mut script);
                end.flow(Flow::Credit { channel, bytes }).map(|_| ())
            }
            4 => end.flow(Flow::Eof { channel }).map(|_| ()),
            5 => end.flow(Flow::Shut { channel }).map(|effect| {
                if effect == Effect::Unwanted {
                    end.end(channel);
                }
            }),
            6 => end.flow(script.pick(&[Flow::Ping, Flow::Pong])).map(|_| ()),
            operation => {
                act(&mut end, &mut script, operation, channel);
                Ok(())
            }
        };
        end.check();
    }
}

/// Does something at this end.
fn act(end: &mut End, script: &mut Script<'_>, operation: u8, channel: u32) {
    match operation {
        1 => {
            end.open_next();
        }
        7 => end.offer(channel),
        8 => {
            let most = bytes(script);
            for _ in 0..=script.byte() % 32 {
                end.turn(|_| most);
            }
        }
        9 => {
            let bytes = bytes(script).min(end.kept(channel));
            end.take(channel, bytes);
        }
        10 => {
            end.end(channel);
        }
        _ => {
            end.shut(channel);
        }
    }
}

/// A number of bytes, be it senseless.
fn bytes(script: &mut Script<'_>) -> usize {
    let unit = script.pick(&[1, CHUNK, WINDOW / 2, WINDOW, WIDEST, usize::MAX / 255]);
    unit * usize::from(script.byte())
}

/// Any bytes as frames: in any split they have the same effects, up to the same violation, and memory is
/// bounded.
fn frames(mut script: Script<'_>) {
    let longest_control = script.pick(&[100, LONGEST_CONTROL]);
    let taken = script.pick(&[usize::MAX, 0, 1]);
    let stream = Stream::read(&mut script);
    let want = hear(&stream.whole(), longest_control, taken);
    assert_eq!(hear(&stream, longest_control, taken), want);
}

/// Why nothing more is heard.
#[derive(Debug, PartialEq, Eq)]
struct Broken(String);

impl From<DecodeError> for Broken {
    fn from(error: DecodeError) -> Self {
        Broken(error.to_string())
    }
}

/// What a stream says: the answers to it, and why it was not heard to its end. Of what comes on a channel, at
/// most `most` bytes are taken at a time.
fn hear(stream: &Stream, longest_control: usize, most: usize) -> (Vec<Flow>, Result<(), Broken>) {
    let limit = longest_control.max(CHUNK);
    let mut decoder = Decoder::new(Framing::Tagged, CHUNK, limit);
    let mut end = End::default();
    let mut answers = Vec::new();
    let judge = |id, claimed| judge(id, claimed, longest_control).map_err(Broken);
    let heard = stream.feed(
        &mut decoder,
        |arrived| allowed(CHUNK, limit, arrived),
        Decoder::space,
        |decoder| {
            let next = |head: FrameHead<'_>| judge(head.id, head.claimed as usize);
            while let Some((id, payload)) = decoder.next(next)? {
                let payload = decoder.payload(&payload);
                judge(id, payload.len())?;
                end.hear(id, payload, most, &mut answers)?;
                end.check();
            }
            Ok(())
        },
    );
    (answers, heard)
}

impl End {
    /// Follows a frame, as a relay does.
    fn hear(
        &mut self,
        id: u32,
        payload: &[u8],
        most: usize,
        answers: &mut Vec<Flow>,
    ) -> Result<(), Broken> {
        let broken = |violation: ChannelViolation| Broken(violation.to_string());
        if id != CARRIER_CONTROL {
            if self.data(id, payload.len()).map_err(broken)? {
                let bytes = most.min(self.kept(id));
                let grant = self.take(id, bytes);
                answers.extend(grant.map(|bytes| Flow::Credit { channel: id, bytes }));
            }
            return Ok(());
        }
        let decoded = Flow::decode(payload);
        match decoded.map_err(|error| Broken(error.to_string()))? {
            Some(Flow::Ping) => answers.push(Flow::Pong),
            Some(flow @ Flow::Shut { channel }) => {
                if self.flow(flow).map_err(broken)? == Effect::Unwanted && self.end(channel) {
                    answers.push(Flow::Eof { channel });
                }
            }
            Some(flow) => {
                self.flow(flow).map_err(broken)?;
            }
            None => {
                let order = ToRelay::decode(payload);
                let order = order.map_err(|error| Broken(error.to_string()))?;
                if let ToRelay::Open { channel, order, .. } = order {
                    let output = [order.stdout.channel(), order.stderr.channel()];
                    for channel in channels_of(channel, output) {
                        self.open(channel).map_err(broken)?;
                    }
                }
            }
        }
        Ok(())
    }
}

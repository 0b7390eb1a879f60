//! Which bytes of which channel may be sent and received over one connection that carries many. Pure; the
//! same at both ends.
//!
//! A channel is two streams, one in each direction. A stream's sender has credit: so many bytes it may send
//! before the receiver grants more, which it does when some of them were taken by whoever they are for. So a
//! receiver always reads on, what it must keep is bounded, and a channel that nobody reads from delays no
//! other. Those that have something to send take turns, one frame each.
//!
//! The window, which is the credit that is out, begins small, and doubles with each grant as long as everything
//! is taken at once: then what limits the stream may be the connection's delay, but not its reader. It is granted
//! in small parts however wide it is, so that a sender on a slow connection hears something.

use crate::id_map::IdMap;
use crate::wire::{Flow, MAX_ID};
use std::collections::VecDeque;
use std::fmt;

/// The most bytes of a channel in one frame.
pub(crate) const CHUNK: usize = 16 << 10;
/// The first window, of which a half is granted at a time.
pub(crate) const WINDOW: usize = 256 << 10;
/// The widest window, which is the most that is kept of one stream.
pub(crate) const WIDEST: usize = 4 << 20;
/// More credit than any receiver has a reason to grant.
pub(crate) const MOST_CREDIT: usize = 4 * WIDEST;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    open: IdMap<Channel>,
    /// Channels that have something to send, and credit for it, in the order of their turns.
    turns: VecDeque<u32>,
    /// The greatest number that any channel has had.
    last: u32,
}

#[derive(Debug)]
struct Channel {
    outgoing: Outgoing,
    incoming: Incoming,
}

#[derive(Debug)]
struct Outgoing {
    ended: bool,
    credit: usize,
    /// Whether there is something to send.
    offered: bool,
}

#[derive(Debug)]
struct Incoming {
    ended: bool,
    /// Whether it is wanted.
    wanted: bool,
    /// How many more bytes the other end may send.
    credit: usize,
    window: usize,
    /// How many bytes have come that were not taken.
    kept: usize,
    /// How many were taken for which no credit was granted yet.
    taken: usize,
}

impl Channel {
    fn may_take_turns(&self) -> bool {
        self.outgoing.offered && self.outgoing.credit > 0 && !self.outgoing.ended
    }
}

/// How the other end has broken the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChannelViolation {
    /// A channel was never opened.
    Unknown { channel: u32 },
    /// A new channel has a number that is not above all before it, or is no id.
    Number { channel: u32 },
    /// Data has come after the end of its stream.
    Ended { channel: u32 },
    /// More data has come than was granted.
    Overrun { channel: u32, by: usize },
    /// More was granted than makes sense.
    Credit { channel: u32 },
}

impl fmt::Display for ChannelViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChannelViolation::Unknown { channel } => {
                write!(f, "channel {channel} was never opened")
            }
            ChannelViolation::Number { channel } => {
                write!(f, "no new channel can have the number {channel}")
            }
            ChannelViolation::Ended { channel } => {
                write!(f, "data came on channel {channel} after its end")
            }
            ChannelViolation::Overrun { channel, by } => {
                write!(
                    f,
                    "{by} bytes more came on channel {channel} than were granted"
                )
            }
            ChannelViolation::Credit { channel } => {
                write!(f, "senseless credit was granted for channel {channel}")
            }
        }
    }
}

/// What a message about the flow of a channel asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Nothing,
    /// There may be something to send again.
    Resumed,
    /// The incoming stream has ended.
    Eof,
    /// What would be sent is not wanted: the outgoing stream is to be [ended](Channels::end).
    Unwanted,
}

impl Channels {
    /// Opens the next channel, at the end that numbers them. `None` when there are no more numbers.
    pub(crate) fn open_next(&mut self) -> Option<u32> {
        let channel = self.last + 1;
        if channel > MAX_ID {
            return None;
        }
        self.insert(channel);
        Some(channel)
    }

    /// Opens a channel to which the other end has given this number.
    pub(crate) fn open(&mut self, channel: u32) -> Result<(), ChannelViolation> {
        if channel <= self.last || channel > MAX_ID {
            return Err(ChannelViolation::Number { channel });
        }
        self.insert(channel);
        Ok(())
    }

    fn insert(&mut self, channel: u32) {
        self.last = channel;
        let outgoing = Outgoing {
            ended: false,
            credit: WINDOW,
            offered: false,
        };
        let incoming = Incoming {
            ended: false,
            wanted: true,
            credit: WINDOW,
            window: WINDOW,
            kept: 0,
            taken: 0,
        };
        self.open.insert(channel, Channel { outgoing, incoming });
    }

    /// Whether a channel was ever opened.
    pub(crate) fn was_opened(&self, channel: u32) -> bool {
        (1..=self.last).contains(&channel)
    }

    /// Whether a channel has ended in both directions, or was never opened.
    pub(crate) fn is_gone(&self, channel: u32) -> bool {
        !self.open.contains(channel)
    }

    /// Whether nothing more is sent on a channel.
    pub(crate) fn has_ended(&self, channel: u32) -> bool {
        self.open.get(channel).is_none_or(|it| it.outgoing.ended)
    }

    // ---- sending ----

    /// There is something to send on a channel.
    pub(crate) fn offer(&mut self, channel: u32) {
        if let Some(it) = self.open.get_mut(channel)
            && !it.outgoing.offered
        {
            it.outgoing.offered = true;
            if it.may_take_turns() {
                self.turns.push_back(channel);
            }
        }
    }

    /// Whether there is known to be something to send on a channel.
    pub(crate) fn is_offered(&self, channel: u32) -> bool {
        self.open.get(channel).is_some_and(|it| it.outgoing.offered)
    }

    /// Whose turn it is, and how many bytes it may send. The caller says how that [went](Channels::sent).
    pub(crate) fn next_turn(&mut self) -> Option<(u32, usize)> {
        loop {
            let channel = self.turns.pop_front()?;
            // It may have ended since.
            if let Some(it) = self.open.get(channel)
                && it.may_take_turns()
            {
                return Some((channel, it.outgoing.credit.min(CHUNK)));
            }
        }
    }

    /// A channel has used its turn. `more` says whether it may have something for another.
    pub(crate) fn sent(&mut self, channel: u32, bytes: usize, more: bool) {
        let Some(it) = self.open.get_mut(channel) else {
            return;
        };
        it.outgoing.credit -= bytes;
        it.outgoing.offered = more;
        if it.may_take_turns() {
            self.turns.push_back(channel);
        }
    }

    /// Nothing more is sent on a channel. Returns whether the other end is to be told, which it was not before.
    pub(crate) fn end(&mut self, channel: u32) -> bool {
        let Some(it) = self.open.get_mut(channel) else {
            return false;
        };
        let is_news = !std::mem::replace(&mut it.outgoing.ended, true);
        self.remove_if_gone(channel);
        is_news
    }

    // ---- receiving ----

    /// Data has come. Returns whether it is wanted: then it is to be [taken](Channels::taken).
    pub(crate) fn data(&mut self, channel: u32, bytes: usize) -> Result<bool, ChannelViolation> {
        let last = self.last;
        let Some(it) = self.open.get_mut(channel) else {
            return Err(match channel > last || channel == 0 {
                true => ChannelViolation::Unknown { channel },
                false => ChannelViolation::Ended { channel },
            });
        };
        let incoming = &mut it.incoming;
        if incoming.ended {
            return Err(ChannelViolation::Ended { channel });
        }
        let Some(left) = incoming.credit.checked_sub(bytes) else {
            let by = bytes - incoming.credit;
            return Err(ChannelViolation::Overrun { channel, by });
        };
        incoming.credit = left;
        if incoming.wanted {
            incoming.kept += bytes;
        }
        Ok(incoming.wanted)
    }

    /// Whoever the data is for has taken some. Returns how much credit is to be granted.
    pub(crate) fn taken(&mut self, channel: u32, bytes: usize) -> Option<usize> {
        let incoming = &mut self.open.get_mut(channel)?.incoming;
        incoming.kept -= bytes.min(incoming.kept);
        incoming.taken += bytes;
        if incoming.ended || !incoming.wanted || incoming.taken < WINDOW / 2 {
            return None;
        }
        let mut grant = incoming.taken;
        if incoming.kept == 0 && incoming.window < WIDEST {
            grant += incoming.window;
            incoming.window *= 2;
        }
        incoming.taken = 0;
        incoming.credit += grant;
        Some(grant)
    }

    /// What comes on a channel is not wanted any more. Returns whether the other end is to be told.
    pub(crate) fn shut(&mut self, channel: u32) -> bool {
        let Some(it) = self.open.get_mut(channel) else {
            return false;
        };
        let incoming = &mut it.incoming;
        incoming.kept = 0;
        std::mem::replace(&mut incoming.wanted, false) && !incoming.ended
    }

    /// A message about the flow of a channel has come.
    pub(crate) fn flow(&mut self, flow: Flow) -> Result<Effect, ChannelViolation> {
        let (Flow::Credit { channel, .. } | Flow::Eof { channel } | Flow::Shut { channel }) = flow
        else {
            return Ok(Effect::Nothing);
        };
        if channel == 0 || channel > self.last {
            return Err(ChannelViolation::Unknown { channel });
        }
        let Some(it) = self.open.get_mut(channel) else {
            return match flow {
                Flow::Eof { .. } => Err(ChannelViolation::Ended { channel }),
                // It has crossed the end of what it is about.
                _ => Ok(Effect::Nothing),
            };
        };
        match flow {
            Flow::Credit { bytes, .. } => {
                let credit = it.outgoing.credit.checked_add(bytes);
                let credit = credit.filter(|credit| *credit <= MOST_CREDIT);
                let credit = credit.ok_or(ChannelViolation::Credit { channel })?;
                let had_none = std::mem::replace(&mut it.outgoing.credit, credit) == 0;
                if had_none && it.may_take_turns() {
                    self.turns.push_back(channel);
                }
                Ok(Effect::Resumed)
            }
            Flow::Eof { .. } => {
                if std::mem::replace(&mut it.incoming.ended, true) {
                    return Err(ChannelViolation::Ended { channel });
                }
                self.remove_if_gone(channel);
                Ok(Effect::Eof)
            }
            _ => Ok(Effect::Unwanted),
        }
    }

    fn remove_if_gone(&mut self, channel: u32) {
        let gone = |it: &Channel| it.outgoing.ended && it.incoming.ended;
        if self.open.get(channel).is_some_and(gone) {
            self.open.remove(channel);
        }
    }

    /// How many bytes that have come are to be kept.
    #[cfg(any(fuzzing, test))]
    pub(crate) fn kept(&self) -> usize {
        self.open.iter().map(|(_, it)| it.incoming.kept).sum()
    }

    #[cfg(any(fuzzing, test))]
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(channels: u32) -> Channels {
        let mut all = Channels::default();
        for channel in 1..=channels {
            assert_eq!(all.open_next(), Some(channel));
        }
        all
    }

    fn credit(channel: u32, bytes: usize) -> Flow {
        Flow::Credit { channel, bytes }
    }

    /// Sends on whichever channel's turn it is, until none has one.
    fn turns(channels: &mut Channels, most: usize) -> Vec<u32> {
        let mut turns = Vec::new();
        while turns.len() < most
            && let Some((channel, room)) = channels.next_turn()
        {
            channels.sent(channel, room, true);
            turns.push(channel);
        }
        turns
    }

    #[test]
    fn channels_take_turns() {
        let mut channels = with(3);
        channels.offer(1);
        assert_eq!(turns(&mut channels, 3), [1, 1, 1]);
        channels.offer(3);
        channels.offer(2);
        channels.offer(2);
        assert_eq!(turns(&mut channels, 6), [1, 3, 2, 1, 3, 2]);
    }

    #[test]
    fn channel_sends_what_it_has_credit_for() {
        let mut channels = with(2);
        channels.offer(1);
        assert_eq!(turns(&mut channels, 1000).len(), WINDOW / CHUNK);
        assert!(channels.is_offered(1));
        assert_eq!(channels.flow(credit(1, 5)), Ok(Effect::Resumed));
        assert_eq!(channels.next_turn(), Some((1, 5)));
        channels.sent(1, 5, true);
        assert_eq!(channels.next_turn(), None);
        channels.flow(credit(1, 1)).unwrap();
        channels.flow(credit(1, 1)).unwrap();
        assert_eq!(channels.next_turn(), Some((1, 2)));
        channels.sent(1, 2, false);
        assert_eq!(channels.flow(credit(1, 1)), Ok(Effect::Resumed));
        assert_eq!(channels.next_turn(), None, "it has nothing to send");
    }

    #[test]
    fn credit_is_granted_when_some_is_taken_and_the_window_grows_unless_the_reader_is_slow() {
        let mut channels = with(1);
        let half = WINDOW / 2;
        // Its reader is slow.
        assert_eq!(channels.data(1, WINDOW), Ok(true));
        assert_eq!(channels.taken(1, half - 1), None);
        assert_eq!(channels.taken(1, 1), Some(half));
        assert_eq!(channels.data(1, half), Ok(true));
        assert_eq!(channels.kept(), WINDOW);
        let one_more = ChannelViolation::Overrun { channel: 1, by: 1 };
        assert_eq!(channels.data(1, 1), Err(one_more));
        // Everything is taken.
        assert_eq!(channels.taken(1, WINDOW), Some(2 * WINDOW));
        // And from here on at once, as it comes: the sender never sees the end of its credit.
        let mut window = 2 * WINDOW;
        while window < WIDEST {
            assert_eq!(channels.data(1, half), Ok(true));
            assert_eq!(channels.taken(1, half), Some(half + window));
            window *= 2;
        }
        assert_eq!(channels.data(1, half), Ok(true));
        assert_eq!(channels.taken(1, half), Some(half));
        assert_eq!(channels.data(1, WIDEST), Ok(true));
        assert_eq!(channels.data(1, 1), Err(one_more));
    }

    #[test]
    fn what_nobody_wants_is_counted_and_not_kept() {
        let mut channels = with(1);
        channels.data(1, 10).unwrap();
        assert!(channels.shut(1) && !channels.shut(1));
        assert_eq!(channels.kept(), 0);
        assert_eq!(channels.data(1, WINDOW - 10), Ok(false));
        assert_eq!(channels.taken(1, WINDOW), None);
        let by = 1;
        assert_eq!(
            channels.data(1, 1),
            Err(ChannelViolation::Overrun { channel: 1, by })
        );
    }

    #[test]
    fn channel_is_gone_when_both_directions_have_ended() {
        for first in [true, false] {
            let mut channels = with(1);
            channels.offer(1);
            let eof = Flow::Eof { channel: 1 };
            if first {
                assert!(channels.end(1) && !channels.end(1));
                assert!(!channels.is_gone(1) && channels.has_ended(1));
                assert_eq!(channels.data(1, 1), Ok(true), "the other goes on");
                assert_eq!(channels.flow(eof), Ok(Effect::Eof));
            } else {
                assert_eq!(channels.flow(eof), Ok(Effect::Eof));
                assert_eq!(
                    channels.data(1, 1),
                    Err(ChannelViolation::Ended { channel: 1 })
                );
                assert!(!channels.shut(1), "there is nothing to shut");
                assert_eq!(
                    channels.next_turn(),
                    Some((1, CHUNK)),
                    "the other direction goes on"
                );
                assert!(channels.end(1));
            }
            assert!(channels.is_gone(1) && channels.has_ended(1) && channels.is_empty());
            assert_eq!(channels.next_turn(), None);
            // These may have crossed the end.
            assert_eq!(channels.flow(credit(1, 1)), Ok(Effect::Nothing));
            assert_eq!(
                channels.flow(Flow::Shut { channel: 1 }),
                Ok(Effect::Nothing)
            );
            assert!(!channels.end(1) && !channels.shut(1));
            // And these not.
            let ended = ChannelViolation::Ended { channel: 1 };
            assert_eq!(channels.flow(eof), Err(ended));
            assert_eq!(channels.data(1, 0), Err(ended));
        }
    }

    #[test]
    fn violations_are_found() {
        let mut channels = with(1);
        let unknown = ChannelViolation::Unknown { channel: 2 };
        assert_eq!(channels.data(2, 0), Err(unknown));
        assert_eq!(channels.flow(credit(2, 1)), Err(unknown));
        assert_eq!(channels.flow(Flow::Eof { channel: 2 }), Err(unknown));
        assert_eq!(channels.flow(Flow::Shut { channel: 2 }), Err(unknown));
        let none = ChannelViolation::Unknown { channel: 0 };
        assert_eq!(channels.data(0, 0), Err(none));
        assert_eq!(channels.flow(credit(0, 1)), Err(none));
        let reused = |channel| Err(ChannelViolation::Number { channel });
        assert_eq!(channels.open(1), reused(1));
        assert_eq!(channels.open(0), reused(0));
        assert_eq!(channels.open(7), Ok(()));
        assert_eq!(channels.open(3), reused(3), "it was left out");
        assert_eq!(
            channels.data(7, WINDOW + 2),
            Err(ChannelViolation::Overrun { channel: 7, by: 2 })
        );
        let senseless = Err(ChannelViolation::Credit { channel: 7 });
        assert_eq!(channels.flow(credit(7, usize::MAX)), senseless);
        assert_eq!(channels.flow(credit(7, MOST_CREDIT)), senseless);
        assert_eq!(
            channels.flow(credit(7, MOST_CREDIT - WINDOW)),
            Ok(Effect::Resumed)
        );
        let eof = Flow::Eof { channel: 7 };
        assert_eq!(channels.flow(eof), Ok(Effect::Eof));
        assert_eq!(
            channels.flow(eof),
            Err(ChannelViolation::Ended { channel: 7 })
        );
        assert_eq!(
            channels.flow(Flow::Shut { channel: 7 }),
            Ok(Effect::Unwanted)
        );
        assert_eq!(channels.flow(Flow::Ping), Ok(Effect::Nothing));
    }

    #[test]
    fn numbers_end() {
        let mut channels = Channels::default();
        let channel = MAX_ID + 1;
        assert_eq!(
            channels.open(channel),
            Err(ChannelViolation::Number { channel })
        );
        channels.open(MAX_ID).unwrap();
        assert_eq!(channels.open_next(), None);
    }
}

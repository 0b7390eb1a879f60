//! Descriptors in step with frames. Pure.
//!
//! Descriptors arrive beside the bytes, as sets: one with each message that was sent with some, when the
//! first byte of that message is read. A read ends with such a message at the latest, so that it brings one
//! set at most, and that belongs to what was read last. So that each set is known to belong to which frame,
//! a message with descriptors begins with a control frame that announces them, `fds`, and the next frame is
//! theirs.
//!
//! Who reads without room for descriptors loses them, and room makes every read slower. So the first ones are
//! preceded by a notice, `carries`, and that by a barrier: an announcement of none, with one descriptor that
//! may get lost. No read goes beyond a message with descriptors, whether there is room for them or not, and
//! each that reaches the barrier has the notice. Whoever reads looks for it before he reads again.

use super::octets;
use crate::fd::Fd;
use crate::sys::MOST_FDS;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;

/// How many sets may be there that are not announced: one whose announcement has not come whole, and the one
/// that the read has brought which completes that.
const MOST_UNCLAIMED: usize = 2;

/// The descriptors of a frame.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fds {
    fds: Vec<Fd>,
    lost: Option<Lost>,
}

/// Why a frame is without some of its descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lost {
    sent: usize,
    arrived: usize,
    /// Why they could not be sent.
    errno: Option<i32>,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lost { sent, arrived, .. } = self;
        write!(f, "{arrived} of {sent} descriptors came: ")?;
        match self.errno {
            Some(errno) => {
                let error = io::Error::from_raw_os_error(errno);
                write!(f, "they cannot be sent: {error}")
            }
            None => f.write_str("the receiver has too many open files, or may not have them"),
        }
    }
}

impl Fds {
    fn lost(lost: Lost) -> Self {
        Fds {
            fds: Vec::new(),
            lost: Some(lost),
        }
    }

    /// Takes all of them.
    ///
    /// # Errors
    ///
    /// Why some have not arrived.
    pub(crate) fn take(&mut self) -> Result<Vec<Fd>, String> {
        self.all()?;
        Ok(std::mem::take(&mut self.fds))
    }

    /// A clone of one of them.
    ///
    /// # Errors
    ///
    /// That there is none, or why it has not arrived.
    #[cfg(any(feature = "json", feature = "cbor", feature = "compact"))]
    pub(crate) fn get(&self, index: usize) -> Result<Fd, String> {
        let fd = self.all()?.get(index).cloned();
        fd.ok_or_else(|| format!("there is no descriptor {index}: {} came", self.fds.len()))
    }

    pub(crate) fn push(&mut self, fd: Fd) {
        self.fds.push(fd);
    }

    /// How many were sent.
    pub(crate) fn len(&self) -> usize {
        self.lost.map_or(self.fds.len(), |lost| lost.sent)
    }

    /// All of them.
    ///
    /// # Errors
    ///
    /// Why some have not arrived.
    pub(crate) fn all(&self) -> Result<&[Fd], String> {
        match &self.lost {
            None => Ok(&self.fds),
            Some(lost) => Err(lost.to_string()),
        }
    }
}

impl Drop for Fds {
    fn drop(&mut self) {
        self.fds.drain(..).for_each(Fd::discard);
    }
}

impl From<Vec<Fd>> for Fds {
    fn from(fds: Vec<Fd>) -> Self {
        Fds { fds, lost: None }
    }
}

/// The same descriptors, and not only such as refer to the same files.
impl PartialEq for Fds {
    fn eq(&self, other: &Self) -> bool {
        let clones = || self.fds.iter().zip(&other.fds);
        self.lost == other.lost
            && self.fds.len() == other.fds.len()
            && clones().all(|(one, other)| one.is_clone_of(other))
    }
}

impl Eq for Fds {}

/// Descriptors that are to be sent.
#[derive(Debug, Default)]
pub(super) struct Unsent(Vec<Fd>);

impl Unsent {
    pub(super) fn as_slice(&self) -> &[Fd] {
        &self.0
    }

    /// They have been sent.
    pub(super) fn sent(&mut self) {
        self.0.clear();
    }
}

impl From<Vec<Fd>> for Unsent {
    fn from(fds: Vec<Fd>) -> Self {
        Unsent(fds)
    }
}

/// Those that are not sent.
impl Drop for Unsent {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Fd::discard);
    }
}

/// A payload with descriptors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Carrying {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fds: Fds,
}

/// A control message about descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FdMessage {
    /// Some may come from now on.
    Carries,
    /// So many come with this message, or none, for this reason, and belong to the next frame. None are a
    /// barrier, which has one to be dropped.
    Fds { count: usize, errno: i32 },
}

const CARRIES: &[u8] = b"\x07carries";
const FDS: &[u8] = b"\x03fds";
/// The length of an announcement.
pub(super) const ANNOUNCEMENT: usize = 12;
/// Where it has the number of descriptors, and why there are none.
pub(super) const COUNT: Range<usize> = 5..8;
pub(super) const ERRNO: Range<usize> = 9..12;

impl FdMessage {
    /// The payload of the control frame.
    pub(super) fn encode(self) -> Vec<u8> {
        match self {
            FdMessage::Carries => CARRIES.to_vec(),
            FdMessage::Fds { count, errno } => {
                let mut message = FDS.to_vec();
                for number in [count, errno as usize] {
                    octets::push(&mut message, &digits(number));
                }
                message
            }
        }
    }

    /// Reads the payload of a control frame. `None` if it is about something else.
    fn decode(payload: &[u8]) -> Option<Result<Self, Wrong>> {
        if payload == CARRIES {
            return Some(Ok(FdMessage::Carries));
        }
        if !payload.starts_with(FDS) {
            return None;
        }
        let number = |range: Range<usize>| {
            let mut digits = payload[range.clone()]
                .iter()
                .map(|digit| digit.wrapping_sub(b'0'));
            let number = digits.try_fold(0, |number, digit| {
                (digit < 10).then_some(10 * number + i32::from(digit))
            })?;
            (payload[range.start - 1] == 3).then_some(number)
        };
        let numbers = || {
            if payload.len() != ANNOUNCEMENT {
                return None;
            }
            let (count, errno) = (number(COUNT)? as usize, number(ERRNO)?);
            (count <= MOST_FDS).then_some(FdMessage::Fds { count, errno })
        };
        Some(numbers().ok_or(Wrong::Unreadable))
    }
}

/// Three digits, so that one number can take the place of another.
pub(super) fn digits(number: usize) -> [u8; 3] {
    [100, 10, 1].map(|unit| b'0' + (number / unit % 10) as u8)
}

/// How descriptors came as they must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// Nothing has announced them.
    Unannounced,
    /// So many are announced, and not there.
    Missing(usize),
    /// More than were announced.
    Surplus { announced: usize, came: usize },
    /// Two announcements for one frame.
    Twice,
    /// The announcement is none.
    Unreadable,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Unannounced => f.write_str("descriptors came that no frame has announced"),
            Wrong::Missing(count) => {
                write!(
                    f,
                    "{count} descriptors are announced that have not come with it"
                )
            }
            Wrong::Surplus { announced, came } => {
                write!(f, "{announced} descriptors are announced, and {came} came")
            }
            Wrong::Twice => f.write_str("descriptors are announced twice for one frame"),
            Wrong::Unreadable => f.write_str("the announcement of descriptors cannot be read"),
        }
    }
}

/// The descriptors that have come, until the frames are there that they belong to.
#[derive(Debug, Default)]
#[cfg_attr(any(fuzzing, test), derive(Clone))]
pub(super) struct Arrivals {
    /// Whether any may come.
    is_open: bool,
    /// Those that are not announced, in order.
    unclaimed: VecDeque<Arrival>,
    /// Those of the next frame.
    announced: Option<Fds>,
}

/// A set of descriptors.
#[derive(Debug)]
#[cfg_attr(any(fuzzing, test), derive(Clone))]
struct Arrival {
    fds: Fds,
    /// Whether not all have come.
    truncated: bool,
    /// What was read with it. Its announcement begins there.
    read: Range<u64>,
}

impl Arrivals {
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// A set has come with these bytes of the stream.
    pub(super) fn arrived(&mut self, fds: Vec<Fd>, truncated: bool, read: Range<u64>) {
        self.unclaimed.push_back(Arrival {
            fds: fds.into(),
            truncated,
            read,
        });
    }

    /// Whether the next frame may have to do with descriptors.
    pub(super) fn is_pending(&self) -> bool {
        self.announced.is_some() || !self.unclaimed.is_empty()
    }

    /// A frame begins at `offset`.
    pub(super) fn check(&self, offset: u64) -> Result<(), Wrong> {
        let passed = |set: &Arrival| set.read.end <= offset;
        match self.unclaimed.front().is_some_and(passed) || self.unclaimed.len() > MOST_UNCLAIMED {
            true => Err(Wrong::Unannounced),
            false => Ok(()),
        }
    }

    /// A control frame has come whole, which begins at `offset`. Returns whether it was about descriptors.
    pub(super) fn control(&mut self, payload: &[u8], offset: u64) -> Result<bool, Wrong> {
        match FdMessage::decode(payload).transpose()? {
            None => return Ok(false),
            Some(FdMessage::Carries) => self.is_open = true,
            Some(FdMessage::Fds { count, errno }) => self.announce(count, errno, offset)?,
        }
        Ok(true)
    }

    fn announce(&mut self, count: usize, errno: i32, offset: u64) -> Result<(), Wrong> {
        if self.announced.is_some() {
            return Err(Wrong::Twice);
        }
        let came_here = |set: &Arrival| errno == 0 && set.read.contains(&offset);
        let set = match self.unclaimed.front().is_some_and(came_here) {
            true => self.unclaimed.pop_front(),
            false => None,
        };
        if count == 0 {
            // A barrier. Its descriptor may be lost.
            return Ok(());
        }
        let lost = |arrived, errno| Lost {
            sent: count,
            arrived,
            errno,
        };
        let fds = match set {
            None if errno == 0 => return Err(Wrong::Missing(count)),
            None => Fds::lost(lost(0, Some(errno))),
            Some(set) if set.fds.len() > count => {
                let (announced, came) = (count, set.fds.len());
                return Err(Wrong::Surplus { announced, came });
            }
            Some(set) if set.truncated || set.fds.len() < count => {
                Fds::lost(lost(set.fds.len().min(count - 1), None))
            }
            Some(set) => set.fds,
        };
        self.announced = Some(fds);
        Ok(())
    }

    /// Those of the frame that has come.
    pub(super) fn take(&mut self) -> Option<Fds> {
        self.announced.take()
    }

    /// The frame of these is put back.
    pub(super) fn put_back(&mut self, fds: Fds) {
        self.announced = Some(fds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::slice;

    fn nulls(count: usize) -> Vec<Fd> {
        let null = Fd::from(File::open("/dev/null").unwrap());
        vec![null; count]
    }

    fn announce(arrivals: &mut Arrivals, count: usize, errno: i32, at: u64) -> Result<bool, Wrong> {
        arrivals.control(&FdMessage::Fds { count, errno }.encode(), at)
    }

    #[test]
    fn messages_round_trip_and_others_are_told_apart() {
        for message in [
            FdMessage::Carries,
            FdMessage::Fds { count: 0, errno: 0 },
            FdMessage::Fds {
                count: 253,
                errno: 109,
            },
        ] {
            assert_eq!(FdMessage::decode(&message.encode()), Some(Ok(message)));
        }
        for other in [
            &b""[..],
            b"\x06cancel\x011",
            b"\x04fds2",
            b"\x07carries\x01x",
        ] {
            assert_eq!(FdMessage::decode(other), None);
        }
        let good = FdMessage::Fds { count: 1, errno: 2 }.encode();
        assert_eq!(good.len(), ANNOUNCEMENT);
        for (at, byte) in [
            (4, 2),
            (5, b'3'),
            (6, b'+'),
            (7, b'/'),
            (8, 4),
            (10, b':'),
            (11, b' '),
        ] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(
                FdMessage::decode(&bad),
                Some(Err(Wrong::Unreadable)),
                "{at}"
            );
        }
        for cut in 4..good.len() {
            assert_eq!(
                FdMessage::decode(&good[..cut]),
                Some(Err(Wrong::Unreadable))
            );
        }
        let long = [&good[..], b"\0"].concat();
        assert_eq!(FdMessage::decode(&long), Some(Err(Wrong::Unreadable)));
    }

    #[test]
    fn sets_belong_to_the_announcements_that_begin_in_the_reads_that_brought_them() {
        let mut arrivals = Arrivals::default();
        assert_eq!(arrivals.control(b"\x07carries", 0), Ok(true));
        assert!(arrivals.is_open() && !arrivals.is_pending());
        arrivals.arrived(nulls(1), false, 10..31);
        // The read that completes the announcement brings the next set.
        arrivals.arrived(nulls(2), false, 31..60);
        assert!(arrivals.is_pending());
        assert_eq!(arrivals.check(10), Ok(()));
        assert_eq!(announce(&mut arrivals, 1, 0, 30), Ok(true));
        assert_eq!(arrivals.take().unwrap().all().unwrap().len(), 1);
        assert_eq!(announce(&mut arrivals, 2, 0, 31), Ok(true));
        assert_eq!(arrivals.take().unwrap().len(), 2);
        assert!(!arrivals.is_pending() && arrivals.take().is_none());
    }

    #[test]
    fn barrier_may_have_lost_its_descriptor() {
        let mut arrivals = Arrivals::default();
        assert_eq!(announce(&mut arrivals, 0, 0, 5), Ok(true));
        arrivals.arrived(nulls(1), false, 25..45);
        assert_eq!(announce(&mut arrivals, 0, 0, 25), Ok(true));
        assert!(!arrivals.is_pending());
        // It could not be sent, so that this is another's.
        arrivals.arrived(nulls(1), false, 45..90);
        assert_eq!(announce(&mut arrivals, 0, 9, 45), Ok(true));
        assert_eq!(announce(&mut arrivals, 1, 0, 65), Ok(true));
        assert_eq!(arrivals.take().unwrap().len(), 1);
    }

    #[test]
    fn what_is_lost_is_told_where_it_is_taken() {
        let mut arrivals = Arrivals::default();
        arrivals.arrived(nulls(2), true, 0..50);
        assert_eq!(announce(&mut arrivals, 3, 0, 0), Ok(true));
        let mut fds = arrivals.take().unwrap();
        let why =
            "2 of 3 descriptors came: the receiver has too many open files, or may not have them";
        assert_eq!(fds.take().unwrap_err(), why);
        assert_eq!(fds.all().unwrap_err(), why);
        assert_eq!(
            (fds.len(), fds.fds.len()),
            (3, 0),
            "those that came are closed"
        );
        arrivals.arrived(nulls(2), true, 50..90);
        assert_eq!(announce(&mut arrivals, 2, 0, 50), Ok(true));
        let why = "1 of 2 descriptors came: ";
        assert!(
            arrivals
                .take()
                .unwrap()
                .take()
                .unwrap_err()
                .starts_with(why)
        );
        assert_eq!(announce(&mut arrivals, 2, 9, 90), Ok(true));
        let why = "0 of 2 descriptors came: they cannot be sent: Bad file descriptor";
        assert!(
            arrivals
                .take()
                .unwrap()
                .take()
                .unwrap_err()
                .starts_with(why)
        );
    }

    #[test]
    fn what_must_not_come_is_told() {
        let with = |reads: &[Range<u64>]| {
            let mut arrivals = Arrivals::default();
            let all = reads.iter().cloned();
            all.for_each(|read| arrivals.arrived(nulls(2), false, read));
            arrivals
        };
        let one = 10..20;
        assert_eq!(with(slice::from_ref(&one)).check(19), Ok(()));
        assert_eq!(
            with(slice::from_ref(&one)).check(20),
            Err(Wrong::Unannounced)
        );
        let two = [one.clone(), 20..21];
        assert_eq!(with(&two).check(10), Ok(()));
        let three = [one.clone(), 20..21, 21..22];
        assert_eq!(with(&three).check(10), Err(Wrong::Unannounced));
        for at in [9, 20] {
            let missing = announce(&mut with(slice::from_ref(&one)), 2, 0, at);
            assert_eq!(missing, Err(Wrong::Missing(2)));
        }
        let (announced, came) = (1, 2);
        assert_eq!(
            announce(&mut with(slice::from_ref(&one)), 1, 0, 10),
            Err(Wrong::Surplus { announced, came })
        );
        let mut arrivals = with(&[one]);
        assert_eq!(announce(&mut arrivals, 2, 0, 10), Ok(true));
        assert_eq!(announce(&mut arrivals, 2, 0, 10), Err(Wrong::Twice));
        assert_eq!(announce(&mut arrivals, 0, 0, 10), Err(Wrong::Twice));
    }
}

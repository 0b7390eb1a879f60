//! A byte string that is stored inline, without an allocation, if it is short, and may have descriptors.

use super::fds::{Carrying, Fds};
use std::fmt;
use std::ops::Deref;

/// Enough for typical small replies (a few numbers, a short text); makes the type 32 bytes.
const INLINE: usize = 30;

/// An owned byte string; short ones are stored inline. It may have descriptors.
#[derive(Clone)]
pub(crate) enum SmallBytes {
    /// The first `len` of `bytes`.
    Inline { len: u8, bytes: [u8; INLINE] },
    /// Longer than [`INLINE`], or passed as a `Vec`.
    Heap(Vec<u8>),
    /// With descriptors.
    Carrying(Box<Carrying>),
}

impl SmallBytes {
    /// The bytes; copied only if they are inline.
    pub(crate) fn into_vec(self) -> Vec<u8> {
        match self {
            SmallBytes::Inline { len, bytes } => bytes[..usize::from(len)].to_vec(),
            SmallBytes::Heap(bytes) => bytes,
            SmallBytes::Carrying(carrying) => carrying.bytes,
        }
    }

    /// How many descriptors it has.
    pub(crate) fn fd_count(&self) -> usize {
        self.fds().map_or(0, Fds::len)
    }

    /// The descriptors.
    pub(crate) fn fds(&self) -> Option<&Fds> {
        match self {
            SmallBytes::Carrying(carrying) => Some(&carrying.fds),
            SmallBytes::Inline { .. } | SmallBytes::Heap(_) => None,
        }
    }

    /// The descriptors, if there are any.
    pub(crate) fn fds_mut(&mut self) -> Option<&mut Fds> {
        match self {
            SmallBytes::Carrying(carrying) => Some(&mut carrying.fds),
            SmallBytes::Inline { .. } | SmallBytes::Heap(_) => None,
        }
    }

    /// The descriptors, of which there may be none so far.
    pub(crate) fn make_fds(&mut self) -> &mut Fds {
        if self.fds().is_none() {
            let bytes = std::mem::replace(self, SmallBytes::Heap(Vec::new())).into_vec();
            let fds = Fds::default();
            *self = SmallBytes::Carrying(Box::new(Carrying { bytes, fds }));
        }
        self.fds_mut().expect("just made")
    }

    /// Appends the bytes.
    #[inline]
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        match self {
            SmallBytes::Inline { len, bytes } => {
                // Loads match the stores: others would be store-forwarding stalls, which last
                // until the stores have reached the cache.
                let end = out.len() + usize::from(*len);
                out.reserve(INLINE);
                out.extend_from_slice(&bytes[..4]);
                out.extend_from_slice(&bytes[4..6]);
                out.extend_from_slice(&bytes[6..14]);
                out.extend_from_slice(&bytes[14..22]);
                out.extend_from_slice(&bytes[22..]);
                out.truncate(end);
            }
            SmallBytes::Heap(_) | SmallBytes::Carrying(_) => out.extend_from_slice(self),
        }
    }
}

impl From<&[u8]> for SmallBytes {
    #[inline(always)]
    fn from(from: &[u8]) -> Self {
        if from.len() > INLINE {
            return SmallBytes::Heap(from.to_vec());
        }
        // Built from the words that a move of this type uses, too, which stay in registers until
        // the final place is known: to write pieces and then move the whole is a store-forwarding
        // stall each time.
        let mut bytes = [0; INLINE];
        bytes[..6].copy_from_slice(&word(from, 0).to_le_bytes()[..6]);
        bytes[6..14].copy_from_slice(&word(from, 6).to_le_bytes());
        bytes[14..22].copy_from_slice(&word(from, 14).to_le_bytes());
        bytes[22..].copy_from_slice(&word(from, 22).to_le_bytes());
        SmallBytes::Inline {
            len: from.len() as u8,
            bytes,
        }
    }
}

/// The eight bytes from `start` on, padded with zeros.
#[inline(always)]
fn word(from: &[u8], start: usize) -> u64 {
    let len = from.len();
    if len <= start {
        return 0;
    }
    if let Some(word) = from[start..].first_chunk() {
        return u64::from_le_bytes(*word);
    }
    // The last eight bytes include them.
    if let Some(word) = from.last_chunk() {
        return u64::from_le_bytes(*word) >> (8 * (start + 8 - len));
    }
    let few = match (from.first_chunk(), from.last_chunk()) {
        (Some(first), Some(last)) => {
            let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
            u64::from(first) | u64::from(last) << (8 * (len - 4))
        }
        _ => {
            let byte = |at: usize| u64::from(from[at]) << (8 * at);
            byte(0) | byte(len / 2) | byte(len - 1)
        }
    };
    few >> (8 * start)
}

impl From<Box<Carrying>> for SmallBytes {
    fn from(from: Box<Carrying>) -> Self {
        SmallBytes::Carrying(from)
    }
}

impl From<Vec<u8>> for SmallBytes {
    fn from(from: Vec<u8>) -> Self {
        SmallBytes::Heap(from)
    }
}

impl Deref for SmallBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            SmallBytes::Inline { len, bytes } => &bytes[..usize::from(*len)],
            SmallBytes::Heap(bytes) => bytes,
            SmallBytes::Carrying(carrying) => &carrying.bytes,
        }
    }
}

impl PartialEq for SmallBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for SmallBytes {}

impl fmt::Debug for SmallBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_bytes_round_trip() {
        for len in (0..=INLINE + 1).chain([1000]) {
            let bytes: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let small = SmallBytes::from(&bytes[..]);
            assert_eq!(matches!(small, SmallBytes::Inline { .. }), len <= INLINE);
            assert_eq!(*small, *bytes);
            let mut out = b"before".to_vec();
            small.append_to(&mut out);
            assert_eq!(out, [b"before", &bytes[..]].concat());
            assert_eq!(small.into_vec(), bytes);
        }
        assert_eq!(size_of::<SmallBytes>(), 32);
    }
}

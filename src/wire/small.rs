//! Bytes that need no allocation while they are few.

use std::fmt;
use std::ops::Deref;

/// Fits the kit of small replies (a few numbers, a short text) and makes the type 32 bytes.
const INLINE: usize = 30;

/// An owned byte string; short ones live inside.
#[derive(Clone)]
pub(crate) enum SmallBytes {
    /// The first `len` of `bytes`.
    Inline { len: u8, bytes: [u8; INLINE] },
    /// Longer than [`INLINE`], or handed over as a `Vec`.
    Heap(Vec<u8>),
}

impl SmallBytes {
    /// The bytes, with a copy only if they live inside.
    pub(crate) fn into_vec(self) -> Vec<u8> {
        match self {
            SmallBytes::Inline { len, bytes } => bytes[..usize::from(len)].to_vec(),
            SmallBytes::Heap(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for SmallBytes {
    #[inline]
    fn from(from: &[u8]) -> Self {
        if from.len() > INLINE {
            return SmallBytes::Heap(from.to_vec());
        }
        let mut bytes = [0; INLINE];
        copy_few(&mut bytes, from);
        SmallBytes::Inline {
            len: from.len() as u8,
            bytes,
        }
    }
}

/// Copies bytes by halves that may overlap: of a length that the compiler knows, they need no call.
#[inline]
fn copy_few(to: &mut [u8; INLINE], from: &[u8]) {
    #[inline]
    fn halves<const N: usize>(to: &mut [u8], from: &[u8]) {
        let end = from.len() - N;
        to[..N].copy_from_slice(&from[..N]);
        to[end..end + N].copy_from_slice(&from[end..]);
    }
    match from.len() {
        0 => {}
        1 => to[0] = from[0],
        2..4 => halves::<2>(to, from),
        4..8 => halves::<4>(to, from),
        8..16 => halves::<8>(to, from),
        _ => halves::<16>(to, from),
    }
}

impl From<Vec<u8>> for SmallBytes {
    fn from(from: Vec<u8>) -> Self {
        SmallBytes::Heap(from)
    }
}

impl Deref for SmallBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            SmallBytes::Inline { len, bytes } => &bytes[..usize::from(*len)],
            SmallBytes::Heap(bytes) => bytes,
        }
    }
}

impl fmt::Debug for SmallBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_bytes_return() {
        for len in (0..=INLINE + 1).chain([1000]) {
            let bytes: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let small = SmallBytes::from(&bytes[..]);
            assert_eq!(matches!(small, SmallBytes::Inline { .. }), len <= INLINE);
            assert_eq!(*small, *bytes);
            assert_eq!(small.into_vec(), bytes);
        }
        assert_eq!(size_of::<SmallBytes>(), 32);
    }
}

//! Payloads, and checks of their echoes.

/// The length of a small payload.
pub(crate) const SMALL: usize = 16;

/// The small payload number `i`: the number, its complement, and a text.
pub(crate) fn small(i: u32) -> [u8; SMALL] {
    let mut payload = *b"\0\0\0\0\0\0\0\0offsprng";
    payload[..4].copy_from_slice(&i.to_le_bytes());
    payload[4..8].copy_from_slice(&(!i).to_le_bytes());
    payload
}

/// Compares all bytes.
pub(crate) fn check_small(i: u32, reply: &[u8]) {
    assert!(reply == small(i), "reply {i} differs: {reply:?}");
}

/// A large payload: a pattern, with its number at both ends.
#[derive(Clone)]
pub(crate) struct Large {
    bytes: Vec<u8>,
    /// The number of payloads that are sent.
    count: u32,
}

impl Large {
    pub(crate) fn new(len: usize, count: u32) -> Self {
        Large {
            bytes: (0..len).map(|n| (n * 31 + 7) as u8).collect(),
            count,
        }
    }

    /// The payload number `i`.
    pub(crate) fn stamp(&mut self, i: u32) -> &[u8] {
        stamp(&mut self.bytes, i);
        &self.bytes
    }

    /// Compares the length and both ends, and all bytes of the first and the last payload:
    /// comparing everything would be a large part of what is measured.
    pub(crate) fn check(&self, i: u32, reply: &[u8]) {
        let end = self.bytes.len() - 4;
        assert_eq!(reply.len(), self.bytes.len(), "reply {i}: wrong length");
        assert_eq!(reply[..4], i.to_le_bytes(), "reply {i}: wrong start");
        assert_eq!(reply[end..], i.to_le_bytes(), "reply {i}: wrong end");
        if i == 0 || i + 1 == self.count {
            assert!(
                reply[4..end] == self.bytes[4..end],
                "reply {i}: wrong middle"
            );
        }
    }
}

/// Turns a payload into number `i`.
pub(crate) fn stamp(payload: &mut [u8], i: u32) {
    let end = payload.len() - 4;
    payload[..4].copy_from_slice(&i.to_le_bytes());
    payload[end..].copy_from_slice(&i.to_le_bytes());
}

/// The length and the calls in flight of a workload `echo-LENGTH-IN_FLIGHT`.
pub(crate) fn echo(workload: &str) -> Option<(usize, u32)> {
    let (len, in_flight) = workload.strip_prefix("echo-")?.split_once('-')?;
    Some((len.parse().ok()?, in_flight.parse().ok()?))
}

//! The payload of an outgoing frame. Pure.

use crate::fd::Fd;

/// Shorter payloads are copied: that costs less than another buffer.
const MIN_UNCOPIED: usize = 16 << 10;

/// Bytes in pieces, so that a long piece need not be copied to follow a short one, and descriptors.
#[derive(Debug, Default, Clone)]
pub(crate) struct Body {
    head: Vec<u8>,
    /// Mostly there is none.
    rest: Option<Box<Rest>>,
}

/// What few payloads have.
#[derive(Debug, Default, Clone)]
struct Rest {
    /// The pieces after the head.
    pieces: Vec<Piece>,
    fds: Vec<Fd>,
}

/// A piece whose buffer was moved in.
#[derive(Debug, Clone)]
struct Piece {
    long: Vec<u8>,
    /// Bytes written after it.
    after: Vec<u8>,
}

impl Body {
    /// The total number of bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        match &self.rest {
            None => self.head.len(),
            Some(rest) => {
                let pieces = rest.pieces.iter();
                let pieces = pieces.map(|it| it.long.len() + it.after.len());
                self.head.len() + pieces.sum::<usize>()
            }
        }
    }

    /// All bytes, if they are in one piece of at most `len`, and have no descriptors with them.
    #[inline]
    pub(crate) fn short(&self, len: usize) -> Option<&[u8]> {
        (self.rest.is_none() && self.head.len() <= len).then_some(&self.head)
    }

    /// The descriptors.
    #[inline]
    pub(crate) fn fds(&self) -> &[Fd] {
        match &self.rest {
            None => &[],
            Some(rest) => &rest.fds,
        }
    }

    /// Adds a descriptor.
    pub(crate) fn attach(&mut self, fd: Fd) {
        self.rest.get_or_insert_default().fds.push(fd);
    }

    /// Takes the descriptors out.
    pub(crate) fn take_fds(&mut self) -> Vec<Fd> {
        let rest = self.rest.as_mut();
        rest.map_or_else(Vec::new, |rest| std::mem::take(&mut rest.fds))
    }

    /// This payload behind `head`. Long pieces and descriptors are moved.
    pub(crate) fn behind(&mut self, head: Vec<u8>) -> Body {
        let mut body = Body::from(head);
        self.take_fds().into_iter().for_each(|fd| body.attach(fd));
        for piece in self.pieces() {
            match piece.len() >= MIN_UNCOPIED {
                true => body.push(std::mem::take(piece)),
                // The buffer may be used again.
                false => body.end().extend_from_slice(piece),
            }
        }
        body
    }

    /// The last piece, to append to.
    pub(crate) fn end(&mut self) -> &mut Vec<u8> {
        match self.rest.as_mut().and_then(|rest| rest.pieces.last_mut()) {
            None => &mut self.head,
            Some(piece) => &mut piece.after,
        }
    }

    /// Appends bytes by value: without a copy if there are many.
    pub(crate) fn push(&mut self, mut bytes: Vec<u8>) {
        if bytes.len() >= MIN_UNCOPIED {
            // Memory limits count bytes, not spare capacity.
            if bytes.capacity() / 2 > bytes.len() {
                bytes.shrink_to_fit();
            }
            let rest = self.rest.get_or_insert_default();
            rest.pieces.push(Piece {
                long: bytes,
                after: Vec::new(),
            });
        } else {
            self.end().extend_from_slice(&bytes);
        }
    }

    /// Discards the bytes and descriptors. Keeps the buffer of the first piece if its capacity is at most `memory`.
    #[inline]
    pub(crate) fn clear(&mut self, memory: usize) {
        match self.rest.is_none() && self.head.capacity() <= memory {
            true => self.head.clear(),
            false => self.clear_pieces(memory),
        }
    }

    fn clear_pieces(&mut self, memory: usize) {
        let head = std::mem::take(&mut self.head);
        if head.capacity() <= memory {
            self.head = head;
            self.head.clear();
        }
        self.rest = None;
    }

    /// All pieces, in order.
    pub(crate) fn pieces(&mut self) -> impl Iterator<Item = &mut Vec<u8>> {
        let rest = self.rest.iter_mut();
        let pieces = rest.flat_map(|rest| rest.pieces.iter_mut());
        let pieces = pieces.flat_map(|it| [&mut it.long, &mut it.after]);
        std::iter::once(&mut self.head).chain(pieces)
    }

    /// All bytes in one piece, without descriptors.
    pub(crate) fn into_vec(mut self) -> Vec<u8> {
        let mut pieces = self.pieces().filter(|piece| !piece.is_empty());
        let mut all = pieces.next().map(std::mem::take).unwrap_or_default();
        pieces.for_each(|piece| all.append(piece));
        all
    }
}

impl From<Vec<u8>> for Body {
    fn from(head: Vec<u8>) -> Self {
        Body { head, rest: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_bytes_are_not_copied_and_all_stay_in_order() {
        let lens = [0, 1, MIN_UNCOPIED - 1, MIN_UNCOPIED, MIN_UNCOPIED + 1];
        let all = (0..lens.len().pow(3)).map(|n| [n, n / 5, n / 25].map(|n| lens[n % 5]));
        for [first, second, third] in all {
            let (first, second, third) = (vec![1; first], vec![2; second], vec![3; third]);
            let want = [&first[..], b"and", &second, &third, b"end"].concat();
            let given = [&second, &third].map(|it| (it.len() >= MIN_UNCOPIED, it.as_ptr()));
            let mut body = Body::from(first);
            body.end().extend_from_slice(b"and");
            body.push(second);
            body.push(third);
            body.end().extend_from_slice(b"end");
            for (_, at) in given.into_iter().filter(|(is_long, _)| *is_long) {
                assert!(body.pieces().any(|piece| piece.as_ptr() == at));
            }
            assert_eq!(body.len(), want.len());
            assert!(body.into_vec() == want);
        }
    }

    #[test]
    fn short_payload_behind_a_head_leaves_its_buffer() {
        let mut payload = Body::from(Vec::with_capacity(500));
        payload.end().extend_from_slice(b"short");
        payload.push(vec![7; MIN_UNCOPIED]);
        let behind = payload.behind(b"head, ".to_vec());
        let want = [&b"head, short"[..], &[7; MIN_UNCOPIED]].concat();
        assert!(behind.into_vec() == want);
        assert_eq!(payload.head.capacity(), 500);
    }

    #[test]
    fn spare_capacity_is_not_moved_along() {
        let mut bytes = Vec::with_capacity(1 << 20);
        bytes.resize(MIN_UNCOPIED, 1);
        let mut body = Body::default();
        body.push(bytes);
        let capacity: usize = body.pieces().map(|piece| piece.capacity()).sum();
        assert!(capacity < 2 * MIN_UNCOPIED, "{capacity}");
    }

    #[test]
    fn large_buffers_are_not_kept() {
        for (len, memory, kept) in [(10, 100, 100), (101, 100, 0)] {
            let mut body = Body::from(Vec::with_capacity(len.max(kept)));
            body.end().resize(len, 1);
            body.push(vec![0; MIN_UNCOPIED]);
            body.clear(memory);
            assert_eq!(body.len(), 0);
            assert_eq!(body.head.capacity(), kept);
        }
    }
}

//! The modes that peers in other languages speak. Pure.

/// A mode without control frames, so that the other side can be a program in any language.
///
/// All integers are 32 bits, big endian. A payload is a list of octet strings, each preceded by its
/// length as a BER compressed integer (base 128, most significant digit first, the high bit set on
/// all digits but the last), unless the [`Service`](crate::Service) has another codec. This is the
/// protocol of Perl's `AnyEvent::Fork::RPC` 2.0.
///
/// Plain modes have no way to report a failed call: a function that fails ends the child.
///
/// See [`Process::stream`](crate::Process::stream) for an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Plain {
    /// Requests and replies are `id | length | payload`, replies in any order; events have the id
    /// 0. Perl's asynchronous backend.
    Tagged,
    /// Requests are `length | payload`. Replies are `id | length | payload` with the id 1, in the
    /// order of the requests; events have the same form with the id 0. Perl's synchronous backend.
    Ordered,
}

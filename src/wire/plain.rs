//! The modes that peers in other languages speak. Pure.

/// A mode without control frames, so that the other side can be a program in any language.
///
/// | mode | a request | its reply | a failed reply | an event |
/// |---|---|---|---|---|
/// | `Tagged` | `id, length, payload` | `id, length, payload` | none: the child exits | `0, length, payload` |
/// | `Fallible` | `id, length, payload` | `id, length, payload` | `id + 0x8000_0000, length, failure` | `0, length, payload` |
/// | `Ordered` | `length, payload` | `1, length, payload` | none: the child exits | `0, length, payload` |
///
/// All integers are 32 bits, big endian; the length is that of what follows it. A payload is what the
/// codec of the [`Service`](crate::Service) makes of a value: with `Json`, nothing but the JSON.
/// Without a codec it is a list of octet strings, each preceded by its length as a BER compressed
/// integer (base 128, most significant digit first, the high bit set on all digits but the last).
/// An event is such a list whatever the codec. When the requests end, the child answers those that it
/// has, and exits.
///
/// `Tagged` and `Ordered` are the protocol of Perl's `AnyEvent::Fork::RPC` 2.0.
///
/// # Examples
///
/// Workers in Python, Perl, JavaScript and shell, of about 40 to 50 lines each, are in
/// `examples/workers`; [`Process::stream`](crate::Process::stream) shows the bytes.
///
/// A failed reply, whose strings are `error` and `no luck`:
///
/// ```
/// use offspring::{CallError, Plain, Process};
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
///
/// let (near, mut far) = UnixStream::pair()?;
/// let rpc = Process::stream(near).plain(Plain::Fallible).rpc("peer").start()?;
/// let call = rpc.call("ping").start();
///
/// let mut request = [0; 13];
/// far.read_exact(&mut request)?;
/// assert_eq!(&request, b"\0\0\0\x01\0\0\0\x05\x04ping");
/// far.write_all(b"\x80\0\0\x01\0\0\0\x0e\x05error\x07no luck")?;
///
/// let Err(CallError::Failed(error)) = call.wait() else {
///     panic!("it has failed");
/// };
/// assert_eq!(error.to_string(), "no luck");
/// # Ok::<(), offspring::BoxError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Plain {
    /// Replies have the id of their request, and come in any order. Perl's asynchronous backend.
    ///
    /// No call fails on its own: a function that fails ends the child.
    Tagged,
    /// Replies come in the order of the requests, which have no ids. Perl's synchronous backend.
    ///
    /// No call fails on its own: a function that fails ends the child.
    Ordered,
    /// As [`Tagged`](Plain::Tagged), but a function that fails answers its call with a failed reply,
    /// and the child lives on. The mode for workers that need not work with Perl's module.
    ///
    /// Ids of requests are below `0x8000_0000`: that bit is set in the id of a failed reply. Its payload
    /// is a list of octet strings, whatever the codec. The first is what has happened:
    ///
    /// | strings | the [`CallError`](crate::CallError) |
    /// |---|---|
    /// | `error`, message | `Failed`: the function returned an error, or threw one |
    /// | `error`, message, the error | the same, with the error as the codec of the service has it |
    /// | `panic`, message, location | `Panicked`: the function has a bug, there |
    /// | `malformed`, message | `Malformed`: the request or the reply was not what it should be |
    /// | `unanswered` or `cancelled`, message | `Unanswered`: the function has ended without an answer |
    /// | `unserved`, message, `function` | `Unserved`: there is no such function, and the call did nothing |
    ///
    /// The error of a service is [`Text`](crate::Text) unless it says otherwise: for that, the message is
    /// the error, of any length and with any number of lines. A service with an error type of its own
    /// needs the third string. Where that is missing, or cannot be decoded, the call is `Malformed`, with
    /// the message; so is one with a failed reply that is none of the above. The other calls go on.
    Fallible,
}

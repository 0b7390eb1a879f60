//! A service with its own types and codec.

mod common;

use common::{bounded, lost};
use offspring::{
    CallError, Caller, Codec, CodecError, Decode, Encode, ErrorKind, Input, Output, Service, Stdio,
    Worker,
};
use std::fmt;

/// The request: a list of numbers. Some are special to the codec.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Numbers(Vec<u32>);

/// The reply.
#[derive(Debug, PartialEq, Eq)]
struct Sum(u64);

/// The error.
#[derive(Debug, PartialEq, Eq)]
enum Bad {
    Empty,
    Special(u32),
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bad::Empty => f.write_str("there is nothing to add"),
            Bad::Special(n) => write!(f, "{n} is special"),
        }
    }
}

/// The progress report.
#[derive(Debug, PartialEq, Eq)]
struct Note(u32);

/// Fails to encode.
const UNENCODABLE: u32 = 1001;
/// Fails to decode.
const UNDECODABLE: u32 = 1002;
/// Panics when it is encoded.
const PANICS_ENCODED: u32 = 1003;
/// Panics when it is decoded.
const PANICS_DECODED: u32 = 1004;

/// An error of the codec, with a source.
#[derive(Debug)]
struct Undecodable(fmt::Error);

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("undecodable")
    }
}

impl std::error::Error for Undecodable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Encodes numbers as four bytes, little endian.
enum Little {}

fn encode_number(number: u32, output: &mut Output) -> Result<(), CodecError> {
    match number {
        UNENCODABLE => Err(CodecError::new("unencodable")),
        PANICS_ENCODED => panic!("the encoder panics"),
        _ => {
            output.extend(&number.to_le_bytes());
            Ok(())
        }
    }
}

fn decode_number(bytes: &[u8]) -> Result<u32, CodecError> {
    let bytes = bytes.try_into().map_err(|_| CodecError::new("cut"))?;
    match u32::from_le_bytes(bytes) {
        UNDECODABLE => Err(CodecError::new(Undecodable(fmt::Error))),
        PANICS_DECODED => panic!("the decoder panics"),
        number => Ok(number),
    }
}

impl Codec for Little {
    const NAME: &'static str = "little";
}

impl Encode<Numbers> for Little {
    fn encode(value: &Numbers, output: &mut Output) -> Result<(), CodecError> {
        value
            .0
            .iter()
            .try_for_each(|number| encode_number(*number, output))
    }
}

impl Decode<'_, Numbers> for Little {
    fn decode(input: &mut Input<'_>) -> Result<Numbers, CodecError> {
        input
            .chunks(4)
            .map(decode_number)
            .collect::<Result<_, _>>()
            .map(Numbers)
    }
}

impl Encode<Sum> for Little {
    fn encode(value: &Sum, output: &mut Output) -> Result<(), CodecError> {
        encode_number(value.0 as u32, output)
    }
}

impl Decode<'_, Sum> for Little {
    fn decode(input: &mut Input<'_>) -> Result<Sum, CodecError> {
        Ok(Sum(decode_number(input)?.into()))
    }
}

impl Encode<Bad> for Little {
    fn encode(value: &Bad, output: &mut Output) -> Result<(), CodecError> {
        match value {
            Bad::Empty => Ok(()),
            Bad::Special(number) => encode_number(*number, output),
        }
    }
}

impl Decode<'_, Bad> for Little {
    fn decode(input: &mut Input<'_>) -> Result<Bad, CodecError> {
        match input.is_empty() {
            true => Ok(Bad::Empty),
            false => Ok(Bad::Special(decode_number(input)?)),
        }
    }
}

impl Encode<Note> for Little {
    fn encode(value: &Note, output: &mut Output) -> Result<(), CodecError> {
        encode_number(value.0, output)
    }
}

impl Decode<'_, Note> for Little {
    fn decode(input: &mut Input<'_>) -> Result<Note, CodecError> {
        Ok(Note(decode_number(input)?))
    }
}

const ADD: Service<Little, Numbers, Sum, Bad, Note> = Service::new("add").version(3);

/// Adds. Of two numbers, the second is the destination of the first: 0 the reply, 1 the error, 2 a progress
/// report.
fn add(
    request: Numbers,
    caller: &Caller<Service<Little, Numbers, Sum, Bad, Note>>,
) -> Result<Sum, Bad> {
    match request.0[..] {
        [] => Err(Bad::Empty),
        [number, 0] => Ok(Sum(unspecial(number).into())),
        [number, 1] => Err(Bad::Special(unspecial(number))),
        [number, 2] => {
            caller.progress(Note(unspecial(number)));
            Ok(Sum(0))
        }
        _ => Ok(Sum(request.0.iter().map(|n| u64::from(*n)).sum())),
    }
}

/// To survive the request's encoding, special numbers are sent with 2000 added.
fn unspecial(number: u32) -> u32 {
    if number > 3000 { number - 2000 } else { number }
}

fn worker() -> Worker {
    Worker::new().function(ADD, add)
}

fn call(numbers: &[u32]) -> Numbers {
    Numbers(numbers.to_vec())
}

fn malformed<T: fmt::Debug>(outcome: Result<T, CallError<Bad>>) -> String {
    match outcome {
        Err(CallError::Malformed(error)) => error.to_string(),
        other => panic!("it should be malformed, but is {other:?}"),
    }
}

#[test]
fn values_of_all_types_are_sent_both_ways() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc(ADD).start().unwrap();
        assert_eq!(rpc.call(call(&[1, 2, 3])).wait().unwrap(), Sum(6));
        // A request can be passed by reference.
        let request = call(&[4, 5, 6]);
        assert_eq!(rpc.call(&request).wait().unwrap(), Sum(15));
        assert_eq!(request, call(&[4, 5, 6]));
        let Err(CallError::Failed(Bad::Empty)) = rpc.call(call(&[])).wait() else {
            panic!("the function should have failed");
        };
        let Err(CallError::Failed(Bad::Special(7))) = rpc.call(call(&[7, 1])).wait() else {
            panic!("the function should have failed with its argument");
        };
        let (send, notes) = std::sync::mpsc::channel();
        let noted = rpc
            .call(call(&[9, 2]))
            .on_progress(move |note| send.send(note).unwrap());
        noted.wait().unwrap();
        assert_eq!(notes.iter().collect::<Vec<_>>(), [Note(9)]);
        rpc.finish().unwrap();
    });
}

#[test]
fn failing_codec_fails_the_call_only() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc(ADD).start().unwrap();
        // It fails in the parent, and the request is never sent.
        let text = malformed(rpc.call(call(&[UNENCODABLE])).wait());
        assert_eq!(text, "unencodable");
        let (send, receive) = std::sync::mpsc::channel();
        rpc.call(call(&[UNENCODABLE]))
            .then(move |outcome| send.send(malformed(outcome)).unwrap());
        assert_eq!(receive.recv().unwrap(), "unencodable");
        let request = format!("the request: undecodable: {}", fmt::Error);
        let error = format!("the error (1002 is special): undecodable: {}", fmt::Error);
        for (request, want) in [
            (vec![UNDECODABLE], &*request),
            (vec![2000 + UNENCODABLE, 0], "the reply: unencodable"),
            (
                vec![2000 + UNENCODABLE, 1],
                "the error (1001 is special): unencodable",
            ),
            // These fail in the parent.
            (vec![2000 + UNDECODABLE, 0], "undecodable"),
            (vec![2000 + UNDECODABLE, 1], &error),
        ] {
            let text = malformed(rpc.call(call(&request)).wait());
            assert_eq!(text, want, "{request:?}");
        }
        assert_eq!(rpc.call(call(&[1, 2, 3])).wait().unwrap(), Sum(6));
        rpc.finish().unwrap();
    });
}

#[test]
fn panicking_codec_fails_the_call_only() {
    let me = worker().run_in_test();
    bounded(move || {
        let me = me.stderr(Stdio::null());
        let rpc = me.rpc(ADD).start().unwrap();
        for (request, want) in [
            (vec![PANICS_DECODED], "the decoder panics"),
            (vec![2000 + PANICS_ENCODED, 0], "the encoder panics"),
            (vec![2000 + PANICS_ENCODED, 1], "the encoder panics"),
        ] {
            let outcome = rpc.call(call(&request)).wait();
            let Err(CallError::Panicked(panic)) = outcome else {
                panic!("{request:?} panics in the child: {outcome:?}");
            };
            assert_eq!(panic.message(), want);
            assert!(panic.location().contains("typed.rs:"), "{panic}");
        }
        for request in [[2000 + PANICS_DECODED, 0], [2000 + PANICS_DECODED, 1]] {
            let text = malformed(rpc.call(call(&request)).wait());
            assert_eq!(text, "the codec panicked");
            let (send, receive) = std::sync::mpsc::channel();
            rpc.call(call(&request))
                .then(move |outcome| send.send(malformed(outcome)).unwrap());
            assert_eq!(receive.recv().unwrap(), "the codec panicked");
        }
        assert_eq!(rpc.call(call(&[1, 2, 3])).wait().unwrap(), Sum(6));
        rpc.finish().unwrap();
    });
}

#[test]
fn progress_that_cannot_be_encoded_fails_its_call() {
    let me = worker().run_in_test();
    bounded(move || {
        let me = me.stderr(Stdio::null());
        let rpc = me.rpc(ADD).start().unwrap();
        let outcome = rpc.call(call(&[2000 + UNENCODABLE, 2])).wait();
        let Err(CallError::Panicked(panic)) = outcome else {
            panic!("the report cannot be encoded: {outcome:?}");
        };
        assert!(panic.message().contains("unencodable"), "{panic}");
        assert_eq!(rpc.call(call(&[1, 2, 3])).wait().unwrap(), Sum(6));
        rpc.finish().unwrap();
    });
}

#[test]
fn progress_that_cannot_be_decoded_is_dropped() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc(ADD).start().unwrap();
        for number in [UNDECODABLE, PANICS_DECODED] {
            let call = rpc.call(call(&[2000 + number, 2]));
            let call = call.on_progress(|note| panic!("{note:?} was decoded"));
            assert_eq!(call.wait().unwrap(), Sum(0));
        }
        rpc.finish().unwrap();
    });
}

#[test]
fn other_version_or_codec_of_a_service_is_refused() {
    let me = worker().run_in_test();
    bounded(move || {
        let rpc = me.rpc(ADD.version(4)).on_error(drop).start().unwrap();
        let Err(CallError::Lost(error, _)) = rpc.call(call(&[1])).wait() else {
            panic!("the child has another version");
        };
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        let text = error.to_string();
        for part in ["`add`", "version 3", "version 4", "`little`"] {
            assert!(text.contains(part), "no `{part}` in: {text}");
        }
        // The same name as a service of octet strings.
        let rpc = me.rpc("add").on_error(drop).start().unwrap();
        let error = lost(rpc.call("x").wait());
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.to_string().contains("`octets`"), "{error}");
    });
}

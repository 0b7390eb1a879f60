//! The codecs of serde's types: what they take, and what they make of bytes that are no such value.

#![cfg(all(feature = "json", feature = "cbor", feature = "compact"))]

mod common;

use common::bounded;
use offspring::{
    CallError, Carries, Cbor, Compact, Encode, ErrorKind, Fd, Input, Json, Output, Process,
    Service, Worker,
};
use serde::{Deserialize, Serialize};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::File;
use std::io::{Read, Seek};

/// Counts the largest allocation of each thread.
struct Counting;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator")]
// SAFETY: it is the system's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(layout.size())));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Everything that serde's types have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Value {
    Nothing,
    Flag(bool),
    Number(i64),
    Real(f64),
    Text(String),
    Maybe(Option<Box<Value>>),
    List(Vec<Value>),
    Map(BTreeMap<String, Value>),
    Pair(u8, char),
    Fields { name: String, sizes: Vec<u16> },
}

fn values() -> Vec<Value> {
    use Value::{Fields, Flag, List, Map, Maybe, Nothing, Number, Pair, Real, Text};
    let all = vec![
        Nothing,
        Flag(true),
        Number(i64::MIN),
        Number(-1),
        Number(i64::MAX),
        Real(0.1),
        Real(-1e300),
        Text(String::new()),
        Text("\u{0}\"\\\u{10ffff}".repeat(100)),
        Maybe(None),
        Maybe(Some(Box::new(Nothing))),
        List(Vec::new()),
        Map(BTreeMap::from([
            (String::new(), Flag(false)),
            ("key".into(), List(vec![Nothing, Number(7)])),
        ])),
        Pair(255, '\u{e9}'),
        Fields {
            name: "name".into(),
            sizes: vec![0, 1, u16::MAX],
        },
    ];
    let mut more = all.clone();
    more.push(List(all));
    more
}

fn encode<C: Encode<T>, T>(value: &T) -> Vec<u8> {
    let mut output = Output::default();
    C::encode(value, &mut output).unwrap();
    output.into_vec()
}

fn decode<C: for<'a> Carries<'a, T>, T>(bytes: &[u8]) -> Result<T, String> {
    C::decode(&mut Input::from(bytes)).map_err(|error| error.to_string())
}

fn takes_all_types<C: for<'a> Carries<'a, Value>>() {
    for value in values() {
        let bytes = encode::<C, _>(&value);
        assert_eq!(decode::<C, Value>(&bytes).as_ref(), Ok(&value));
        for len in 0..bytes.len() {
            let cut = decode::<C, Value>(&bytes[..len]);
            assert!(cut.is_err(), "{len} of {} bytes: {cut:?}", bytes.len());
        }
        // The beginnings of other values, whole or not, among them. JSON may have blanks behind.
        let one = (0..=u8::MAX).filter(|byte| !byte.is_ascii_whitespace());
        let few = [b" x".to_vec(), vec![0x92, 0x91], bytes.clone()];
        for more in one.map(|byte| vec![byte]).chain(few) {
            let longer = decode::<C, Value>(&[&bytes[..], &more].concat());
            assert!(longer.is_err(), "and {more:?}: {longer:?}");
        }
    }
}

#[test]
fn all_types_are_taken_and_neither_less_nor_more_than_one_value() {
    takes_all_types::<Json>();
    takes_all_types::<Cbor>();
    takes_all_types::<Compact>();
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Nested(Vec<Nested>);

fn nested(depth: usize) -> Nested {
    (0..depth).fold(Nested(Vec::new()), |inner, _| Nested(vec![inner]))
}

/// As far as the stack of a thread reaches easily, and not further.
fn is_limited_in_depth<C: for<'a> Carries<'a, Nested>>(deep: &[u8], text: &str) {
    let few = nested(50);
    assert_eq!(decode::<C, Nested>(&encode::<C, _>(&few)), Ok(few));
    let error = decode::<C, Nested>(deep).unwrap_err();
    assert!(error.contains(text), "{error}");
}

#[test]
fn depth_is_limited() {
    bounded(|| {
        is_limited_in_depth::<Json>(&b"[".repeat(100_000), "recursion limit exceeded at line 1");
        is_limited_in_depth::<Cbor>(&[0x81].repeat(100_000), "nested too deeply");
        is_limited_in_depth::<Compact>(&[0x91].repeat(100_000), "depth limit exceeded");
    });
}

/// Lists, maps, strings and bytes of almost 4 GiB, of which nothing comes.
fn allocates_little<C>(claims: &[&[u8]])
where
    C: for<'a> Carries<'a, Vec<u64>>
        + for<'a> Carries<'a, String>
        + for<'a> Carries<'a, BTreeMap<u8, u8>>
        + for<'a> Carries<'a, Value>,
{
    for claim in claims {
        LARGEST.set(0);
        assert!(decode::<C, Vec<u64>>(claim).is_err());
        assert!(decode::<C, String>(claim).is_err());
        assert!(decode::<C, BTreeMap<u8, u8>>(claim).is_err());
        assert!(decode::<C, Value>(claim).is_err());
        let largest = LARGEST.get();
        assert!(largest <= 1 << 20, "{claim:x?}: {largest} bytes");
    }
}

#[test]
fn nothing_is_allocated_for_a_claimed_length() {
    let claim = |kind: u8| [&[kind][..], &[0xff, 0xff, 0xff, 0xf0], b"abc"].concat();
    let claims = |kinds: &[u8]| kinds.iter().map(|kind| claim(*kind)).collect::<Vec<_>>();
    let cbor = claims(&[0x9a, 0xba, 0x7a, 0x5a]);
    allocates_little::<Cbor>(&cbor.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let compact = claims(&[0xdd, 0xdf, 0xdb, 0xc6, 0xc9]);
    allocates_little::<Compact>(&compact.iter().map(Vec::as_slice).collect::<Vec<_>>());
}

#[test]
fn errors_say_where() {
    type Pairs = Vec<(u8, String)>;
    let pairs: Pairs = vec![(1, "one".into()), (2, "two".into())];
    let mut json = encode::<Json, _>(&pairs);
    assert_eq!(json, br#"[[1,"one"],[2,"two"]]"#);
    json[12] = b'x';
    let error = decode::<Json, Pairs>(&json).unwrap_err();
    assert_eq!(error, "expected value at line 1 column 13");
    let mut cbor = encode::<Cbor, _>(&pairs);
    cbor[8] = 0xff;
    let error = decode::<Cbor, Pairs>(&cbor).unwrap_err();
    assert_eq!(
        error,
        "expected u8, found the byte 0xff, after 9 of 13 bytes"
    );
    let mut compact = encode::<Compact, _>(&pairs);
    compact[8] = 0xc1;
    let error = decode::<Compact, Pairs>(&compact).unwrap_err();
    assert!(error.ends_with(", after 9 of 13 bytes"), "{error}");
    for error in [
        decode::<Cbor, String>(b"\x62\xc3\x28").unwrap_err(),
        decode::<Compact, String>(b"\xa2\xc3\x28").unwrap_err(),
        decode::<Json, String>(b"\"\xc3\x28\"").unwrap_err(),
    ] {
        let lower = error.to_lowercase();
        assert!(
            ["utf-8", "unicode"].iter().any(|it| lower.contains(it)),
            "{error}"
        );
    }
}

/// Keys that are no strings are for the other codecs.
#[test]
fn map_that_json_has_no_keys_for_is_an_error() {
    let map = BTreeMap::from([((1, 2), 3)]);
    type Map = BTreeMap<(u8, u8), u8>;
    let error = Json::encode(&map, &mut Output::default()).unwrap_err();
    assert_eq!(error.to_string(), "key must be a string");
    let cbor = decode::<Cbor, Map>(&encode::<Cbor, Map>(&map));
    assert_eq!(cbor.as_ref(), Ok(&map));
    let compact = decode::<Compact, Map>(&encode::<Compact, Map>(&map));
    assert_eq!(compact.as_ref(), Ok(&map));
}

/// A function whose request and reply are `T`s.
type Echo<C, T> = Service<C, T, T, String>;

/// Whose (de)serialiser panics, or fails, if it is told to.
#[derive(Debug, PartialEq)]
struct Touchy(String);

impl Serialize for Touchy {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &*self.0 {
            "panic in encode" => panic!("cannot be written"),
            "fail in encode" => Err(serde::ser::Error::custom("will not be written")),
            text => text.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Touchy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match &*String::deserialize(deserializer)? {
            "panic in decode" => panic!("cannot be read"),
            "fail in decode" => Err(serde::de::Error::custom("will not be read")),
            text => Ok(Touchy(text.to_owned())),
        }
    }
}

fn echo<C, T>(worker: Worker, name: &'static str) -> Worker
where
    C: for<'a> Carries<'a, T> + for<'a> Carries<'a, String> + 'static,
    T: Send + 'static,
{
    worker.function(Echo::<C, T>::new(name), |value, _| Ok(value))
}

fn ends_with_its_call<C>(me: &Process, name: &'static str)
where
    C: for<'a> Carries<'a, Touchy> + for<'a> Carries<'a, String> + 'static,
{
    let rpc = me.rpc(Echo::<C, Touchy>::new(name)).start().unwrap();
    for (text, wanted) in [
        ("panic in encode", "the codec panicked"),
        ("fail in encode", "will not be written"),
        ("fail in decode", "will not be read"),
        ("panic in decode", "cannot be read"),
    ] {
        let error = rpc.call(Touchy(text.into())).wait().unwrap_err();
        assert!(
            error.to_string().contains(wanted),
            "{name}, {text}: {error}"
        );
        let is_named = matches!(error, CallError::Malformed(_) | CallError::Panicked(_));
        assert!(is_named, "{name}, {text}: {error:?}");
        let good = Touchy("good".into());
        assert_eq!(rpc.call(&good).wait().unwrap(), good, "the child lives on");
    }
    rpc.finish().unwrap();
}

#[test]
fn value_that_fails_or_panics_ends_its_call_only() {
    let worker = echo::<Json, Touchy>(Worker::new(), "json");
    let worker = echo::<Cbor, Touchy>(worker, "cbor");
    let me = echo::<Compact, Touchy>(worker, "compact").run_in_test();
    bounded(move || {
        ends_with_its_call::<Json>(&me, "json");
        ends_with_its_call::<Cbor>(&me, "cbor");
        ends_with_its_call::<Compact>(&me, "compact");
    });
}

fn there_and_back<C>(me: &Process, name: &'static str)
where
    C: for<'a> Carries<'a, Value> + for<'a> Carries<'a, String> + 'static,
{
    let rpc = me.rpc(Echo::<C, Value>::new(name)).start().unwrap();
    for value in values() {
        assert_eq!(rpc.call(&value).wait().unwrap(), value);
    }
    rpc.finish().unwrap();
}

#[test]
fn values_travel_and_another_codec_is_a_start_error() {
    let worker = echo::<Json, Value>(Worker::new(), "json");
    let worker = echo::<Cbor, Value>(worker, "cbor");
    let me = echo::<Compact, Value>(worker, "compact").run_in_test();
    bounded(move || {
        there_and_back::<Json>(&me, "json");
        there_and_back::<Cbor>(&me, "cbor");
        there_and_back::<Compact>(&me, "compact");
        let rpc = me.rpc(Echo::<Cbor, Value>::new("json")).on_error(drop);
        let error = rpc.start().unwrap().wait_ready().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        let text = error.to_string();
        assert!(text.contains("json") && text.contains("cbor"), "{text}");
    });
}

/// A block of a file, which both sides have open.
#[derive(Debug, Serialize, Deserialize)]
struct Block {
    files: Vec<Fd>,
    spare: Option<Fd>,
    width: usize,
}

/// An error that tries to take a descriptor along.
#[derive(Debug, Serialize, Deserialize)]
struct Unsent(Fd);

impl std::fmt::Display for Unsent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it is empty")
    }
}

#[test]
fn descriptors_are_values_in_requests_and_replies_and_not_in_errors() {
    fn service<C>() -> Service<C, Block, (String, Block), Unsent>
    where
        C: for<'a> Carries<'a, Block> + for<'a> Carries<'a, (String, Block)> + 'static,
        C: for<'a> Carries<'a, Unsent> + for<'a> Carries<'a, String>,
    {
        Service::new(C::NAME)
    }
    fn serve<C>(worker: Worker) -> Worker
    where
        C: for<'a> Carries<'a, Block> + for<'a> Carries<'a, (String, Block)> + 'static,
        C: for<'a> Carries<'a, Unsent> + for<'a> Carries<'a, String>,
    {
        worker.function(service::<C>(), |block, _| {
            let Some(last) = block.files.last() else {
                return Err(Unsent(block.spare.expect("there is another")));
            };
            let mut file = File::from(last.clone().into_owned().unwrap());
            let mut bytes = vec![0; block.width];
            file.read_exact(&mut bytes).unwrap();
            Ok((String::from_utf8(bytes).unwrap(), block))
        })
    }
    fn check<C>(process: &Process)
    where
        C: for<'a> Carries<'a, Block> + for<'a> Carries<'a, (String, Block)> + 'static,
        C: for<'a> Carries<'a, Unsent> + for<'a> Carries<'a, String>,
    {
        let rpc = process.rpc(service::<C>()).start().unwrap();
        let open = |path: &str| Fd::from(File::open(path).unwrap());
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let (null, file) = (open("/dev/null"), open(manifest));
        let block = |files| Block {
            files,
            spare: Some(null.clone()),
            width: 9,
        };
        let (text, back) = rpc.call(block(vec![null.clone(), file])).wait().unwrap();
        assert_eq!((&*text, back.files.len()), ("[package]", 2));
        // Those of the reply are others, of the same open file.
        let [_, last] = back.files.try_into().unwrap();
        let mut rest = File::from(last.into_owned().unwrap());
        assert_eq!(rest.stream_position().unwrap(), 9);
        match rpc.call(block(vec![])).wait() {
            Err(CallError::Malformed(error)) => assert_eq!(
                error.to_string(),
                "the error (it is empty): an error takes no descriptors along"
            ),
            other => panic!("{other:?}"),
        }
        rpc.finish().unwrap();
    }
    let worker = serve::<Json>(Worker::new());
    let me = serve::<Compact>(serve::<Cbor>(worker)).run_in_test();
    bounded(move || {
        check::<Json>(&me);
        check::<Cbor>(&me);
        check::<Compact>(&me);
    });
}

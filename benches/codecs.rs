//! What a codec costs: blocking calls that echo the same values, with each codec in turn. Prints one row a
//! value, with the bytes of the request and the time of a whole call, as a multiple of octet strings'. See
//! `benches/README.md`.

use offspring::{
    BoxError, Carries, Cbor, Compact, Encode, Json, Octets, Output, Process, Rpc, Service, Strings,
    Worker,
};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Debug};
use std::time::{Duration, Instant};

/// A small struct.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Job {
    path: String,
    width: u32,
    height: u32,
    quality: f64,
    title: Option<String>,
}

/// Bytes as codecs have them that know bytes. A plain `Vec<u8>` is a list of numbers.
#[derive(Debug, Clone, PartialEq)]
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
            // JSON has no bytes.
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> Result<Vec<u8>, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = list.next_element()? {
                    bytes.push(byte);
                }
                Ok(bytes)
            }
        }
        deserializer.deserialize_byte_buf(Visitor).map(Bytes)
    }
}

fn job() -> Job {
    Job {
        path: "photos/2026/roses.png".into(),
        width: 320,
        height: 200,
        quality: 0.85,
        title: Some("A rose is a rose".into()),
    }
}

/// A hundred paths.
fn list() -> Vec<String> {
    let path = |n| format!("photos/2026/roses-{n:03}.png");
    (0..100).map(path).collect()
}

fn bytes() -> Bytes {
    Bytes((0..1u32 << 20).map(|n| (n >> 3) as u8).collect())
}

/// The same as octet strings: how they are told apart is for the program to say.
fn strings(values: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Strings {
    values.into_iter().collect()
}

fn job_as_strings() -> Strings {
    let Job { path, title, .. } = job();
    let title = title.unwrap_or_default();
    strings([&*path, "320", "200", "0.85", &*title])
}

type Echo<C, T> = Service<C, T, T>;

fn echo<C, T>(worker: Worker, name: &'static str) -> Worker
where
    C: for<'a> Carries<'a, T> + 'static,
    T: Send + 'static,
{
    worker.function(Echo::<C, T>::new(name), |value, _| Ok(value))
}

/// Adds the echo of a type in all codecs of serde's.
macro_rules! echoes {
    ($worker:expr, $($type:ty, [$json:literal, $cbor:literal, $compact:literal];)*) => {{
        let worker = $worker;
        $(
            let worker = echo::<Json, $type>(worker, $json);
            let worker = echo::<Cbor, $type>(worker, $cbor);
            let worker = echo::<Compact, $type>(worker, $compact);
        )*
        worker
    }};
}

/// A call that is timed, and how long its request is.
struct Candidate {
    codec: &'static str,
    len: usize,
    call: Box<dyn Fn()>,
    /// Microseconds a call, in each round.
    times: Vec<f64>,
}

fn candidate<C, T>(rpc: &Rpc, name: &'static str, codec: &'static str, value: T) -> Candidate
where
    C: for<'a> Carries<'a, T> + Encode<T> + 'static,
    T: Clone + Debug + PartialEq + Send + 'static,
{
    let mut output = Output::default();
    C::encode(&value, &mut output).expect("it can be encoded");
    let rpc = rpc.function(Echo::<C, T>::new(name));
    let reply = rpc.call(&value).wait().expect("an echo");
    assert!(reply == value, "{codec} changes {name}");
    Candidate {
        codec,
        len: output.len(),
        call: Box::new(move || drop(rpc.call(&value).wait().expect("an echo"))),
        times: Vec::new(),
    }
}

fn octets(rpc: &Rpc, value: Strings) -> Candidate {
    let mut output = Output::default();
    Octets::encode(&value, &mut output).expect("it can be encoded");
    let rpc = rpc.clone();
    Candidate {
        codec: "octets",
        len: output.len(),
        call: Box::new(move || drop(rpc.call(&value).wait().expect("an echo"))),
        times: Vec::new(),
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Calls each for `time`, in turn, so often, and prints the medians.
fn measure(what: &str, mut all: Vec<Candidate>, rounds: usize, time: Duration) {
    for _ in 0..rounds {
        for candidate in &mut all {
            let (start, mut calls) = (Instant::now(), 0u32);
            while calls == 0 || start.elapsed() < time {
                (0..10).for_each(|_| (candidate.call)());
                calls += 10;
            }
            let micros = start.elapsed().as_secs_f64() * 1e6;
            candidate.times.push(micros / f64::from(calls));
        }
    }
    let base = median(&mut all[0].times);
    for candidate in &mut all {
        let (Candidate { codec, len, .. }, time) =
            (&*candidate, median(&mut candidate.times.clone()));
        println!(
            "{what:20} {codec:8} {len:>8} B {time:>9.1} us  x{:.2}",
            time / base
        );
    }
}

fn main() -> Result<(), BoxError> {
    let worker = Worker::new().function("octets", |strings, _| Ok(strings));
    let me: Process = echoes!(worker,
        Job, ["json job", "cbor job", "compact job"];
        Vec<String>, ["json list", "cbor list", "compact list"];
        Bytes, ["json bytes", "cbor bytes", "compact bytes"];
    )
    .run();
    // Cargo adds this argument. Without it, as a test, one round will do.
    let is_bench = std::env::args().any(|arg| arg == "--bench");
    let (rounds, time) = match is_bench {
        true => (9, Duration::from_millis(200)),
        false => (1, Duration::ZERO),
    };
    let rpc = me.rpc("octets").start()?;
    measure(
        "a small struct",
        vec![
            octets(&rpc, job_as_strings()),
            candidate::<Json, _>(&rpc, "json job", "json", job()),
            candidate::<Cbor, _>(&rpc, "cbor job", "cbor", job()),
            candidate::<Compact, _>(&rpc, "compact job", "compact", job()),
        ],
        rounds,
        time,
    );
    measure(
        "a list of strings",
        vec![
            octets(&rpc, strings(list())),
            candidate::<Json, _>(&rpc, "json list", "json", list()),
            candidate::<Cbor, _>(&rpc, "cbor list", "cbor", list()),
            candidate::<Compact, _>(&rpc, "compact list", "compact", list()),
        ],
        rounds,
        time,
    );
    measure(
        "1 MiB of bytes",
        vec![
            octets(&rpc, strings([bytes().0])),
            candidate::<Json, _>(&rpc, "json bytes", "json", bytes()),
            candidate::<Cbor, _>(&rpc, "cbor bytes", "cbor", bytes()),
            candidate::<Compact, _>(&rpc, "compact bytes", "compact", bytes()),
        ],
        rounds,
        time,
    );
    rpc.finish()?;
    Ok(())
}

//! Services in one line: what functions may take and return, on both sides, with each codec.

#![cfg(all(feature = "json", feature = "cbor", feature = "compact"))]

mod common;

use common::bounded;
use offspring::{
    CallError, Cbor, Compact, ErrorKind, Json, Lend, Lent, Service, Signature, Stdio, Worker,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::mpsc;
use std::thread;

const PARSE: Service<Json, String, i64> = Service::new("parse");
const COUNT: Service<Json, String, BTreeMap<String, u32>> = Service::new("count");
const SUM: Service<Json, Vec<u32>, u32> = Service::new("sum");
const READ: Service<Json, String, String> = Service::new("read");

/// What a function returns is of the service's type, so that it need not be named.
#[test]
fn types_of_what_functions_return_are_inferred_and_any_error_is_taken() {
    let me = Worker::new()
        .function(PARSE, |text, _| Ok(text.parse()?))
        .function(COUNT, |text, _| {
            Ok(text.split(' ').map(|word| (word.to_owned(), 1)).collect())
        })
        .threaded(SUM, |numbers, _| Ok(numbers.iter().sum()))
        .function(READ, |name, _| match &*name {
            "text" => Err("no such thing")?,
            "anyhow" => Err(anyhow::anyhow!("inner").context("outer"))?,
            path => Ok(std::fs::read_to_string(path)?),
        })
        .run_in_test();
    bounded(move || {
        let parse = me.rpc(PARSE).start().unwrap();
        assert_eq!(parse.call("-7").wait().unwrap(), -7);
        assert_eq!(parse.call(String::from("7")).wait().unwrap(), 7);
        let error = parse.call("x").wait().unwrap_err();
        assert_eq!(error.to_string(), "invalid digit found in string");
        let count = me.rpc(COUNT).start().unwrap().call("a b").wait().unwrap();
        assert_eq!(count, BTreeMap::from([("a".into(), 1), ("b".into(), 1)]));
        let numbers = vec![1, 2, 3];
        assert_eq!(
            me.rpc(SUM).start().unwrap().call(&numbers).wait().unwrap(),
            6
        );
        let read = me.rpc(READ).start().unwrap();
        for (name, wanted) in [
            ("text", "no such thing"),
            ("anyhow", "outer: inner"),
            ("/does/not/exist", "No such file or directory (os error 2)"),
        ] {
            let Err(CallError::Failed(error)) = read.call(name).wait() else {
                panic!("{name} is an error");
            };
            assert_eq!(error.to_string(), wanted);
        }
    });
}

/// A request that borrows all it can.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Job<'a> {
    #[serde(borrow)]
    words: Vec<&'a str>,
    text: &'a str,
}

impl Lend for Job<'static> {
    type Of<'a> = Job<'a>;
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Bad {
    Unwanted { word: String },
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bad::Unwanted { word } = self;
        write!(f, "`{word}` is not wanted")
    }
}

type Find<C> = Service<C, Lent<Job<'static>>, usize, Bad, (u8, String)>;

/// Where the words are in the text, counted by their lengths. A word that is not there is an error.
fn find(job: &Job<'_>, mut progress: impl FnMut((u8, String))) -> Result<usize, Bad> {
    let mut len = 0;
    for (n, word) in job.words.iter().enumerate() {
        progress((n as u8, (*word).to_owned()));
        if !job.text.contains(word) {
            let word = (*word).to_owned();
            return Err(Bad::Unwanted { word });
        }
        len += word.len();
    }
    Ok(len)
}

/// The same function in all three kinds.
fn with_find<C>(worker: Worker, names: [&'static str; 3]) -> Worker
where
    Find<C>: Signature<Codec = C, Reply = usize, Error = Bad, Progress = (u8, String)>
        + for<'a> Signature<Request<'a> = Job<'a>>,
    C: offspring::Encode<usize> + offspring::Encode<(u8, String)>,
    C: for<'a> offspring::Carries<'a, Job<'a>> + for<'a> offspring::Carries<'a, usize>,
    C: for<'a> offspring::Carries<'a, Bad> + 'static,
{
    let [returning, threaded, deferred] = names.map(Find::<C>::new);
    worker
        .function(returning, |job, caller| {
            find(&job, |report| caller.progress(report))
        })
        .threaded(threaded, |job, caller| {
            find(&job, |report| caller.progress(report))
        })
        .deferred(deferred, |job, caller, _| {
            let result = find(&job, |report| caller.progress(report));
            caller.answer(result);
        })
}

const FIND: [[&str; 3]; 3] = [
    ["json", "json on threads", "json later"],
    ["cbor", "cbor on threads", "cbor later"],
    ["compact", "compact on threads", "compact later"],
];

#[test]
fn requests_may_borrow_and_errors_and_progress_have_types_of_their_own() {
    let worker = with_find::<Json>(Worker::new(), FIND[0]);
    let worker = with_find::<Cbor>(worker, FIND[1]);
    let me = with_find::<Compact>(worker, FIND[2]).run_in_test();
    macro_rules! check {
        ($codec:ty, $names:expr) => {
            for name in $names {
                let rpc = me.rpc(Find::<$codec>::new(name)).start().unwrap();
                // Borrowed from something that is gone when the call is answered.
                let mut text = String::from("a rose is a rose");
                let (send, progress) = mpsc::channel();
                let words = vec!["rose", "is"];
                let call = rpc.call(Job { words, text: &text });
                let call = call.on_progress(move |report| send.send(report).unwrap());
                text = String::from("gone");
                assert_eq!(call.wait().unwrap(), 6, "{name}");
                let reports: Vec<_> = progress.iter().collect();
                assert_eq!(reports, [(0, "rose".into()), (1, "is".into())]);
                let words = vec!["tulip"];
                let outcome = rpc.call(Job { words, text: &text }).wait();
                let Err(CallError::Failed(Bad::Unwanted { word })) = outcome else {
                    panic!("{name}: {outcome:?}");
                };
                assert_eq!(word, "tulip");
                rpc.finish().unwrap();
            }
        };
    }
    bounded(move || {
        check!(Json, FIND[0]);
        check!(Cbor, FIND[1]);
        check!(Compact, FIND[2]);
    });
}

const KEEP: Service<Json, Lent<Job<'static>>, String> = Service::new("keep");

/// The buffer that a request was read into is read into again while its function runs.
#[test]
fn borrowed_request_stays_as_it_is_while_its_function_has_more_read() {
    let me = Worker::new()
        .function(KEEP, |job, caller| {
            caller.event("begun");
            while job.text == "wait" && !caller.is_cancelled() {
                thread::yield_now();
            }
            caller.event(job.words.join(" "));
            Ok(job.text.to_owned())
        })
        .run_in_test();
    bounded(move || {
        let (send, events) = mpsc::channel();
        let rpc = me
            .rpc(KEEP)
            .on_event(move |event| send.send(event).unwrap());
        let rpc = rpc.start().unwrap();
        rpc.wait_ready().unwrap();
        let words = vec!["these", "are", "still", "there"];
        let text = "wait";
        let first = rpc.call(Job { words, text }).start();
        assert_eq!(events.recv().unwrap(), ["begun"]);
        // As long, and different.
        let others: Vec<_> = (0..20)
            .map(|_| {
                let words = vec!["xxxxx", "xxx", "xxxxx", "xxxxx"];
                rpc.call(Job {
                    words,
                    text: "xxxx",
                })
                .start()
            })
            .collect();
        first.cancel();
        assert_eq!(events.recv().unwrap(), ["these are still there"]);
        for other in others {
            assert_eq!(other.wait().unwrap(), "xxxx");
        }
    });
}

const LIMIT: Service<Compact, (u32, String), ()> = Service::new("limit");
const STRICT: Service<Cbor, u32, (), Bad> = Service::new("strict").version(2);
const GET: Service<Json, (), u32> = Service::new("get");

#[test]
fn setups_are_services_too() {
    use std::cell::Cell;
    use std::rc::Rc;
    let limit = Rc::new(Cell::new(0));
    let set = Rc::clone(&limit);
    let me = Worker::new()
        .setup(LIMIT, move |(number, unit)| {
            set.set(number * u32::try_from(unit.len())?);
            Ok(())
        })
        .setup(STRICT, |number| match number {
            7 => Ok(()),
            _ => Err(Bad::Unwanted {
                word: number.to_string(),
            }),
        })
        .function(GET, move |(), _| Ok(limit.get()))
        .run_in_test();
    bounded(move || {
        let both = me.clone().setup(LIMIT, (7, "six".into())).setup(STRICT, 7);
        assert_eq!(both.rpc(GET).start().unwrap().call(()).wait().unwrap(), 21);
        let error = |me: offspring::Process| {
            let rpc = me.stderr(Stdio::null()).rpc(GET).on_error(drop);
            match rpc.start() {
                Ok(rpc) => rpc.wait_ready().unwrap_err(),
                Err(error) => error,
            }
        };
        let failed = error(me.clone().setup(STRICT, 8));
        assert_eq!(failed.kind(), ErrorKind::Setup);
        assert!(
            failed
                .to_string()
                .contains("setup `strict`: `8` is not wanted"),
            "{failed}"
        );
        let other = error(me.clone().setup(STRICT.version(3), 7));
        assert_eq!(other.kind(), ErrorKind::Mismatch);
        let text = "setup `strict` has version 2 and codec `cbor` in the child, version 3";
        assert!(other.to_string().contains(text), "{other}");
        // Octet strings, as a name is a service of them.
        let other = error(me.clone().setup("limit", "7"));
        assert_eq!(other.kind(), ErrorKind::Mismatch);
        const KEYS: Service<Json, BTreeMap<(u8, u8), u8>, ()> = Service::new("keys");
        let unencodable = error(me.clone().setup(KEYS, BTreeMap::from([((1, 2), 3)])));
        assert_eq!(unencodable.kind(), ErrorKind::Setup);
        let text = "the request of the setup `keys` cannot be encoded: key must be a string";
        assert!(unencodable.to_string().contains(text), "{unencodable}");
    });
}

/// One thing of both sides: a service is data, and goes anywhere.
#[test]
fn services_are_copied_and_sent_whatever_their_types_are() {
    fn goes_anywhere<T: Copy + Send + Sync + fmt::Debug + 'static>(_: T) {}
    goes_anywhere(Find::<Json>::new("find"));
    assert_eq!(
        format!("{STRICT:?}"),
        "Service { name: \"strict\", version: 2 }"
    );
}

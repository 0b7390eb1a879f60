//! Peers that violate the protocol: a clear error, all calls ended, nothing allocated for them.

mod common;

use common::{bounded, logged, lost, script};
use offspring::{CallError, Error, ErrorKind, Plain, Process, Rpc};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// A handle to a peer that the test impersonates.
fn peer(plain: Plain) -> (Rpc, UnixStream, common::Log) {
    let (near, far) = UnixStream::pair().unwrap();
    let (builder, log) = logged(Process::stream(near).plain(plain).rpc("peer"));
    (builder.start().unwrap(), far, log)
}

fn frame(id: u32, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u32;
    [&id.to_be_bytes()[..], &len.to_be_bytes(), payload].concat()
}

/// Calls a peer twice, which then writes these bytes, and returns the resulting error.
fn error_of(plain: Plain, bytes: &[u8]) -> Error {
    let (rpc, mut far, log) = peer(plain);
    let calls = [rpc.call("one").start(), rpc.call("two").start()];
    // Requests that were not sent cannot be answered.
    let mut requests = vec![
        0;
        match plain {
            Plain::Ordered => 16,
            _ => 24,
        }
    ];
    far.read_exact(&mut requests).unwrap();
    far.write_all(bytes).unwrap();
    drop(far);
    let mut last = None;
    for call in calls {
        match call.wait() {
            Ok(reply) => assert_eq!(reply, ["ok"]),
            outcome => last = Some(lost(outcome)),
        }
    }
    let error = rpc.finish().unwrap_err();
    if let Some(last) = last {
        assert_eq!(last.to_string(), error.to_string());
    }
    assert_eq!(log.end(), format!("error: {:?}", error.kind()));
    error
}

#[test]
fn violations_are_reported_with_offset_and_expectation() {
    bounded(|| {
        let ok = frame(1, b"\x02ok");
        let also = frame(2, b"\x02ok");
        for (plain, bytes, parts) in [
            (
                Plain::Tagged,
                [&ok[..], &frame(7, b"")].concat(),
                &[
                    "offset 11",
                    "expected a reply to an outstanding call",
                    "0x7",
                ][..],
            ),
            (
                Plain::Tagged,
                [&ok[..], &ok].concat(),
                &["offset 11", "never made or is answered", "0x1"],
            ),
            (
                Plain::Tagged,
                frame(0x8000_0001, b"\x05error\x02no"),
                &[
                    "offset 0",
                    "call 0x1",
                    "0x80000001",
                    "only `Plain::Fallible`",
                ],
            ),
            (
                Plain::Tagged,
                frame(0x8000_0007, b"\x05error\x02no"),
                &["offset 0", "outstanding call", "0x80000007"],
            ),
            (
                Plain::Fallible,
                frame(0x8000_0007, b"\x05error\x02no"),
                &["offset 0", "outstanding call", "0x80000007"],
            ),
            (
                Plain::Fallible,
                frame(0x8000_0000, b"\x05ready\x011"),
                &["offset 0", "outstanding call", "0x80000000"],
            ),
            (
                Plain::Fallible,
                [&ok[..], &frame(0x8000_0001, b"\x05error\x02no")].concat(),
                &["offset 11", "never made or is answered", "0x80000001"],
            ),
            (
                Plain::Tagged,
                b"HTTP/1.1 400 Bad Request\r\n".to_vec(),
                &["offset 0", "limit (max_frame) is 268435456"],
            ),
            (
                Plain::Tagged,
                frame(1, b"\x02ok")[..9].to_vec(),
                &["ended inside the frame at offset 0", "9 of 11 bytes"],
            ),
            (
                Plain::Tagged,
                [&ok[..], &[0, 0, 0]].concat(),
                &["ended inside the frame at offset 11", "3 of 8 bytes"],
            ),
            (
                Plain::Tagged,
                [&1_u32.to_be_bytes()[..], &[0xff; 4]].concat(),
                &["offset 0", "claims 4294967295 bytes", "268435456"],
            ),
            (
                Plain::Ordered,
                frame(2, b"\x02ok"),
                &["offset 0", "expected id 1", "0x2"],
            ),
            (
                Plain::Ordered,
                [&ok[..], &ok, &ok].concat(),
                &["offset 22", "no call is outstanding"],
            ),
            (
                Plain::Tagged,
                frame(0, b"\x05cut"),
                &["an event from the child is malformed"],
            ),
        ] {
            let error = error_of(plain, &bytes);
            assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
            let text = error.to_string();
            for part in parts {
                assert!(text.contains(part), "no `{part}` in: {text}");
            }
        }
        // These are not violations: the connection ends between two frames.
        assert_eq!(error_of(Plain::Tagged, &ok).kind(), ErrorKind::Died);
        let (rpc, mut far, log) = peer(Plain::Tagged);
        let calls = [rpc.call("one").start(), rpc.call("two").start()];
        far.read_exact(&mut [0; 24]).unwrap();
        far.write_all(&[also, ok].concat()).unwrap();
        for call in calls {
            assert_eq!(call.wait().unwrap(), ["ok"]);
        }
        drop(rpc);
        drop(far);
        assert_eq!(log.end(), "destroy");
    });
}

#[test]
fn reply_to_a_call_that_was_not_sent_is_a_violation() {
    bounded(|| {
        let (near, mut far) = UnixStream::pair().unwrap();
        let rpc = Process::stream(near).plain(Plain::Tagged).rpc("peer");
        let rpc = rpc.on_error(drop).max_queue(usize::MAX, 1).start().unwrap();
        // More than the socket takes, and a call behind it, whose id can be guessed.
        let large = rpc.call([vec![0; 16 << 20]]).start();
        let behind = rpc.call("two").start();
        far.write_all(&frame(2, b"\x02ok")).unwrap();
        let error = lost(behind.wait());
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        lost(large.wait());
    });
}

/// A frame of which only the header comes.
fn head(id: u32, claimed: u32) -> Vec<u8> {
    [id.to_be_bytes(), claimed.to_be_bytes()].concat()
}

#[test]
fn header_that_cannot_be_right_is_an_error_before_its_payload() {
    bounded(|| {
        let ok = frame(1, b"\x02ok");
        for (plain, bytes, parts) in [
            (Plain::Tagged, head(7, 60 << 20), ["offset 0", "id 0x7"]),
            (
                Plain::Tagged,
                [&ok[..], &head(1, 60 << 20)].concat(),
                ["offset 11", "is answered"],
            ),
            (
                Plain::Tagged,
                [&ok[..], &head(0x8000_0002, 60 << 20)].concat(),
                ["offset 11", "only `Plain::Fallible`"],
            ),
            (
                Plain::Ordered,
                head(2, 60 << 20),
                ["offset 0", "expected id 1"],
            ),
            (
                Plain::Ordered,
                [&ok[..], &ok, &head(1, 1)].concat(),
                ["offset 22", "no call is outstanding"],
            ),
        ] {
            // Read by the reactor, by a caller that waits, and by either in pieces.
            for waits in [false, true] {
                let (rpc, mut far, log) = peer(plain);
                let calls = [rpc.call("one").start(), rpc.call("two").start()];
                let requests = if plain == Plain::Tagged { 24 } else { 16 };
                far.read_exact(&mut vec![0; requests]).unwrap();
                let (first, last) = bytes.split_at(bytes.len() - 3);
                let reader = waits.then(|| {
                    let [one, two] = calls;
                    std::thread::spawn(move || drop((one.wait(), two.wait())))
                });
                far.write_all(first).unwrap();
                far.write_all(last).unwrap();
                // The other end stays open, and sends nothing more.
                assert_eq!(log.end(), "error: Protocol");
                let text = rpc.finish().unwrap_err().to_string();
                for part in parts {
                    assert!(text.contains(part), "no `{part}` in: {text}");
                }
                if let Some(reader) = reader {
                    reader.join().unwrap();
                }
            }
        }
    });
}

#[test]
fn header_of_a_worker_is_judged_before_its_payload() {
    bounded(|| {
        // 200 MiB are claimed, and do not come.
        for (text, kind, part) in [
            (
                "send '\\0\\0\\0\\007\\014\\0200\\0\\0'",
                ErrorKind::NotWorker,
                "0x7",
            ),
            (
                "send '\\0200\\0\\0\\0\\014\\0200\\0\\0'",
                ErrorKind::Protocol,
                "at most 65536 bytes",
            ),
            (
                "ready; send '\\0200\\0\\0\\007\\014\\0200\\0\\0'",
                ErrorKind::Protocol,
                "id 0x7",
            ),
            (
                "ready; send '\\0200\\0\\0\\0\\014\\0200\\0\\0\\005dance'; \
                 send 'sixty bytes and more, so that it shows what kind of message it is'",
                ErrorKind::Protocol,
                "only progress reports and asks may be longer",
            ),
            (
                "ready; send '\\0200\\0\\0\\0\\014\\0200\\0\\0\\010progress\\0019'; \
                 send 'sixty bytes and more, so that it shows what kind of message it is'",
                ErrorKind::Protocol,
                "expected progress of an outstanding call, got a report for id 0x9",
            ),
        ] {
            let text = format!("{text}; exec cat >/dev/null");
            let (builder, log) = logged(script(&text).rpc("any"));
            let rpc = builder
                .start_timeout(std::time::Duration::MAX)
                .start()
                .unwrap();
            let error = lost(rpc.call("hello").wait());
            assert_eq!(error.kind(), kind, "{text}: {error}");
            assert!(error.to_string().contains(part), "{text}: {error}");
            assert_eq!(log.end(), format!("error: {kind:?}"));
        }
    });
}

#[test]
fn reply_that_does_not_decode_fails_its_call_only() {
    bounded(|| {
        let (rpc, mut far, _log) = peer(Plain::Tagged);
        let calls = [rpc.call("one").start(), rpc.call("two").start()];
        far.read_exact(&mut [0; 24]).unwrap();
        far.write_all(&[frame(1, b"\x05cut"), frame(2, b"\x02ok")].concat())
            .unwrap();
        let [one, two] = calls.map(offspring::Pending::wait);
        assert!(matches!(one, Err(CallError::Malformed(_))), "{one:?}");
        assert_eq!(two.unwrap(), ["ok"]);
    });
}

#[test]
fn reply_above_the_limit_of_the_handle_is_a_violation() {
    bounded(|| {
        let (near, mut far) = UnixStream::pair().unwrap();
        let rpc = Process::stream(near).plain(Plain::Tagged).rpc("peer");
        let rpc = rpc.on_error(drop).max_frame(10).start().unwrap();
        let one = rpc.call("one").start();
        let two = rpc.call("two").start();
        far.read_exact(&mut [0; 24]).unwrap();
        far.write_all(&frame(1, b"\x09123456789")).unwrap();
        assert_eq!(one.wait().unwrap(), ["123456789"]);
        far.write_all(&frame(2, b"\x0a1234567890")).unwrap();
        let error = lost(two.wait());
        assert_eq!(error.kind(), ErrorKind::Protocol);
        let text = error.to_string();
        for part in ["offset 18", "claims 11 bytes", "limit (max_frame) is 10"] {
            assert!(text.contains(part), "no `{part}` in: {text}");
        }
    });
}

#[test]
fn claimed_length_is_not_allocated() {
    bounded(|| {
        let peak = || {
            let peak = common::status_field(std::process::id(), "VmPeak");
            let kibibytes: u64 = peak.trim_end_matches(" kB").parse().unwrap();
            kibibytes << 10
        };
        let before = peak();
        for _ in 0..3 {
            let (near, mut far) = UnixStream::pair().unwrap();
            let rpc = Process::stream(near).plain(Plain::Tagged).rpc("peer");
            let rpc = rpc.on_error(drop).max_frame(usize::MAX).start().unwrap();
            let call = rpc.call("one").start();
            far.read_exact(&mut [0; 12]).unwrap();
            let head = frame(1, b"")[..4].to_vec();
            // As much as `max_frame` can be.
            let claimed = [0xff, 0xfe, 0xff, 0xff];
            far.write_all(&[&head[..], &claimed, &[0; 100_000]].concat())
                .unwrap();
            drop(far);
            let text = lost(call.wait()).to_string();
            assert!(
                text.contains("100008 of 4294901767 bytes arrived"),
                "{text}"
            );
        }
        // Other tests in this process, and thread stacks, need some.
        let grown = peak() - before;
        assert!(
            grown < 2 << 30,
            "12 GiB were claimed, {grown} bytes allocated"
        );
    });
}

#[test]
fn endless_event_is_not_buffered_beyond_the_limit() {
    bounded(|| {
        // It writes as long as its output is read.
        let yes = Process::command("yes").plain(Plain::Tagged);
        let (builder, log) = logged(yes.rpc("any"));
        let rpc = builder.start().unwrap();
        let error = lost(rpc.call("hello").wait());
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        assert_eq!(log.end(), "error: Protocol");
    });
}

#[test]
fn worker_that_violates_the_protocol_is_killed() {
    bounded(|| {
        for (text, part) in [
            ("ready; ready; exec cat >/dev/null", "only once"),
            (
                "ready; send '\\0\\0\\0\\007\\0\\0\\0\\0'; exec cat >/dev/null",
                "outstanding call",
            ),
            // An unknown control message.
            (
                "ready; send '\\0200\\0\\0\\0\\0\\0\\0\\006\\005dance'; exec cat >/dev/null",
                "dance",
            ),
            (
                "ready; send '\\0200\\0\\0\\0\\0\\0\\0\\014\\010progress\\0019\\0'; \
                 exec cat >/dev/null",
                "expected progress of an outstanding call, got a report for id 0x9",
            ),
            ("ready; send '\\0\\0\\0'", "ended inside the frame"),
        ] {
            let (builder, log) = logged(script(text).rpc("any"));
            let rpc = builder.start().unwrap();
            let error = lost(rpc.call("hello").wait());
            assert_eq!(error.kind(), ErrorKind::Protocol, "{text}: {error}");
            assert!(error.to_string().contains(part), "{text}: {error}");
            assert!(error.status().is_some(), "it is reaped");
            assert_eq!(log.end(), "error: Protocol");
        }
    });
}

#[test]
fn failed_reply_of_an_unknown_kind_fails_its_call_only() {
    bounded(|| {
        // The reply is to a call that was made: all of its request is read first.
        let text = "ready; until [ \"$(head -c 1)\" = '~' ]; do :; done; \
             send '\\0200\\0\\0\\001\\0\\0\\0\\011\\005dance\\002no'; exec cat >/dev/null";
        let rpc = script(text).rpc("any").start().unwrap();
        let outcome = rpc.call("~").wait();
        let Err(CallError::Malformed(error)) = outcome else {
            panic!("the kind is unknown: {outcome:?}");
        };
        assert!(error.to_string().contains("dance"), "{error}");
        rpc.finish().unwrap();
    });
}

#[test]
fn bytes_that_arrive_one_by_one_are_decoded() {
    bounded(|| {
        let (rpc, mut far, log) = peer(Plain::Tagged);
        let call = rpc.call("one").start();
        far.read_exact(&mut [0; 12]).unwrap();
        let stream = [frame(0, b"\x01e"), frame(1, b"\x02ok")].concat();
        for byte in stream {
            far.write_all(&[byte]).unwrap();
            std::thread::yield_now();
        }
        assert_eq!(call.wait().unwrap(), ["ok"]);
        assert_eq!(log.lines(), ["event: e"]);
    });
}

#[test]
fn random_bytes_end_every_call_once() {
    bounded(|| {
        let reactor = offspring::Reactor::new().unwrap();
        let mut random = common::Random::new();
        for _ in 0..300 {
            let (near, mut far) = UnixStream::pair().unwrap();
            let process = Process::stream(near).plain(Plain::Tagged);
            let (builder, log) = logged(process.rpc("peer").reactor(&reactor).max_frame(1 << 20));
            let rpc = builder.start().unwrap();
            let calls: Vec<_> = (0..5).map(|_| rpc.call("x").start()).collect();
            let mut bytes = Vec::new();
            for _ in 0..random.below(20) {
                // Mostly frames, with ids and lengths that are nearly valid.
                let payload = vec![random.below(4) as u8; random.below(6)];
                bytes.extend(frame(random.below(7) as u32, &payload));
                if random.below(10) == 0 {
                    bytes.push(random.below(256) as u8);
                }
            }
            // The other end may have hung up already.
            let _ = far.write_all(&bytes);
            drop(far);
            drop(rpc);
            for call in calls {
                let _ = call.wait();
            }
            log.end();
        }
    });
}

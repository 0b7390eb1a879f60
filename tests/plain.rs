//! The parent in the plain modes, byte for byte what `AnyEvent::Fork::RPC` 2.0 writes and reads, and in
//! the one of them that has failed replies. `tests/plain_child.rs` tests the child.

mod common;

use common::{bounded, logged, lost};
use offspring::{CallError, ErrorKind, Plain, Process, Stdio, Strings};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// The bytes that a parent writes for three calls, and reads.
#[test]
fn bytes_are_those_of_the_original() {
    bounded(|| {
        // pack "NN/a*", $id, pack "(w/a*)*", @_ with the async backend,
        let tagged = [
            b"\0\0\0\x01\0\0\0\x06\x02ab\0\x01\xff".to_vec(),
            b"\0\0\0\x02\0\0\0\0".to_vec(),
            [b"\0\0\0\x03\0\0\0\x82\x81\0".to_vec(), vec![b'x'; 128]].concat(),
        ]
        .concat();
        // pack "N/a*", pack "(w/a*)*", @_ with the sync backend.
        let ordered = [
            b"\0\0\0\x06\x02ab\0\x01\xff".to_vec(),
            b"\0\0\0\0".to_vec(),
            [b"\0\0\0\x82\x81\0".to_vec(), vec![b'x'; 128]].concat(),
        ]
        .concat();
        for (plain, want, ids) in [
            (Plain::Tagged, tagged.clone(), [2, 3, 1]),
            (Plain::Fallible, tagged, [2, 3, 1]),
            (Plain::Ordered, ordered, [1, 1, 1]),
        ] {
            let (near, mut far) = UnixStream::pair().unwrap();
            let (builder, log) = logged(Process::stream(near).plain(plain).rpc("peer"));
            let rpc = builder.start().unwrap();
            let calls = [
                rpc.call([&b"ab"[..], b"", b"\xff"]).start(),
                rpc.call(()).start(),
                rpc.call([[b'x'; 128]]).start(),
            ];
            let mut got = vec![0; want.len()];
            far.read_exact(&mut got).unwrap();
            assert_eq!(got, want, "{plain:?}");

            // Replies and an event, in the order of `ids`.
            for (n, id) in ids.into_iter().enumerate() {
                let reply = [&[0, 0, 0, id, 0, 0, 0, 2, 1], &[b'0' + n as u8][..]].concat();
                far.write_all(&reply).unwrap();
                far.write_all(b"\0\0\0\0\0\0\0\x03\x01e\0").unwrap();
            }
            let replies = calls.map(|call| call.wait().unwrap().to_string());
            match plain {
                Plain::Ordered => assert_eq!(replies, ["0", "1", "2"]),
                _ => assert_eq!(replies, ["2", "0", "1"]),
            }
            // After the last request, the parent shuts its writing side down.
            drop(rpc);
            assert_eq!(far.read_to_end(&mut got).unwrap(), 0);
            drop(far);
            assert_eq!(log.end(), "destroy");
            assert_eq!(
                log.lines(),
                ["event: e ", "event: e ", "event: e ", "destroy"]
            );
        }
    });
}

/// Well made or not, they end their call and no other.
#[test]
fn failed_replies_are_the_errors_of_their_calls() {
    bounded(|| {
        let (near, mut far) = UnixStream::pair().unwrap();
        let (builder, log) = logged(Process::stream(near).plain(Plain::Fallible).rpc("peer"));
        let rpc = builder.start().unwrap();
        let spared = rpc.call("x").start();
        far.read_exact(&mut [0; 10]).unwrap();
        for (id, (payload, want)) in (2..).zip([
            (&b"\x05error\x07no luck"[..], "Failed: no luck"),
            (b"\x05error\x02no\x04luck", "Failed: luck"),
            (b"\x05error\0", "Failed: "),
            (b"\x05error\x01\xff", "Failed: \u{fffd}"),
            (b"\x05panic\x03bug\x03w:7", "panicked at w:7: bug"),
            (b"\x09malformed\x03odd", "malformed: odd"),
            (
                b"\x0aunanswered\0",
                "the function dropped the call unanswered",
            ),
            (
                b"\x09cancelled\0",
                "the function dropped the call unanswered",
            ),
            (b"\x08unserved\x07no such\x08function", "no such"),
            (
                b"\x04full\x02no",
                "unreadable: only asks are refused with `full`",
            ),
            (b"", "unreadable: message without a kind"),
            (b"\x05error", "unreadable: message without a message"),
            (b"\x05panic\0", "unreadable: message without a location"),
            (
                b"\x03odd\x01x",
                r#"unreadable: unknown kind of failure "odd": x"#,
            ),
            (b"\x01\xff\0", "unreadable: message with an invalid kind"),
            (
                b"no",
                "unreadable: octet string at offset 0 claims 110 bytes, but 1 are left",
            ),
            (
                &[0xff; 10],
                "unreadable: octet strings have a length above 64 bits at offset 0",
            ),
        ]) {
            let call = rpc.call("x").start();
            far.read_exact(&mut [0; 10]).unwrap();
            let head = [0x80, 0, 0, id, 0, 0, 0, payload.len() as u8];
            far.write_all(&[&head, payload].concat()).unwrap();
            let got = match call.wait().unwrap_err() {
                CallError::Failed(error) => format!("Failed: {error}"),
                other => other.to_string(),
            };
            let unreadable = "malformed: the failed reply cannot be read";
            let got = got.replace(unreadable, "unreadable");
            assert_eq!(got, want, "{id}");
        }
        far.write_all(b"\0\0\0\x01\0\0\0\x03\x02on").unwrap();
        assert_eq!(spared.wait().unwrap(), ["on"]);
        drop(rpc);
        drop(far);
        assert_eq!(log.end(), "destroy");
    });
}

/// The error may be somewhat longer than a reply, as a worker's.
#[test]
fn failed_reply_of_a_call_that_timed_out_is_dropped_and_a_long_one_arrives() {
    bounded(|| {
        let (near, mut far) = UnixStream::pair().unwrap();
        let rpc = Process::stream(near)
            .plain(Plain::Fallible)
            .rpc("peer")
            .max_frame(10);
        let rpc = rpc.start().unwrap();
        let short = std::time::Duration::from_millis(20);
        assert!(rpc.call("one").timeout(short).wait().is_err());
        let two = rpc.call("two").start();
        // The first may not have been sent.
        let mut head = [0; 12];
        far.read_exact(&mut head).unwrap();
        if head[3] == 1 {
            far.write_all(b"\x80\0\0\x01\0\0\0\x08\x05error\x01a")
                .unwrap();
            far.read_exact(&mut head).unwrap();
        }
        let message = [b'x'; 100];
        let failed = [&b"\x80\0\0\x02\0\0\0\x6b\x05error\x64"[..], &message].concat();
        far.write_all(&failed).unwrap();
        let error = two.wait().unwrap_err();
        assert!(
            matches!(&error, CallError::Failed(error) if error.to_string().as_bytes() == message),
            "{error}"
        );
        drop(rpc);
    });
}

#[test]
fn ordered_call_that_timed_out_keeps_its_place_in_the_order() {
    bounded(|| {
        let (near, mut far) = UnixStream::pair().unwrap();
        let rpc = Process::stream(near).plain(Plain::Ordered).rpc("peer");
        let rpc = rpc.start().unwrap();
        let short = std::time::Duration::from_millis(20);
        assert!(rpc.call("one").timeout(short).wait().is_err());
        let two = rpc.call("two").start();
        far.read_exact(&mut [0; 16]).unwrap();
        far.write_all(b"\0\0\0\x01\0\0\0\x02\x01a\0\0\0\x01\0\0\0\x02\x01b")
            .unwrap();
        assert_eq!(two.wait().unwrap(), ["b"]);
    });
}

/// A worker written only from the original's manual. Its first argument is the mode.
const PERL: &str = r##"
    use strict;
    my $tagged = shift eq "tagged";
    binmode STDIN; binmode STDOUT; $| = 1;
    sub get { my $r = ""; while (length $r < $_[0]) { sysread STDIN, $r, $_[0] - length $r, length $r or exit } $r }
    sub put { my $w = pack "NN/a*", shift, pack "(w/a*)*", @_; syswrite STDOUT, $w }
    while () {
        my $id = $tagged ? unpack "N", get 4 : 1;
        my $len = unpack "N", get 4;
        my @args = unpack "(w/a*)*", get $len;
        my $verb = shift @args;
        if ($verb eq "echo") { put $id, @args }
        elsif ($verb eq "reverse") { put $id, reverse @args }
        elsif ($verb eq "events") { put 0, "event", $_ for 1 .. $args[0]; put $id }
        elsif ($verb eq "die") { die "$args[0]\n" }
    }
"##;

#[test]
fn worker_in_another_language_is_called() {
    let found = std::process::Command::new("perl").arg("-v").output();
    if found.is_err() {
        assert!(std::env::var_os("CI").is_none(), "perl is missing");
        println!("skipped: perl is missing");
        return;
    }
    bounded(|| {
        for (plain, mode) in [(Plain::Tagged, "tagged"), (Plain::Ordered, "ordered")] {
            let perl = Process::command("perl")
                .plain(plain)
                .args(["-e", PERL, mode]);
            let (builder, log) = logged(perl.clone().stderr(Stdio::capture()).rpc("perl"));
            let rpc = builder.start().unwrap();
            rpc.wait_ready().unwrap();
            let every_byte: Vec<u8> = (0..=255).collect();
            let sizes = [0, 1, 127, 128, 16_383, 16_384, 300_000];
            let mut request: Strings = ["reverse"].into_iter().collect();
            request.extend(sizes.map(|size| vec![b'x'; size]));
            request.push(&every_byte);
            let reply = rpc.call(request).wait().unwrap();
            assert_eq!(&reply[0], &every_byte);
            let lengths: Vec<usize> = reply.iter().skip(1).map(<[u8]>::len).collect();
            assert!(lengths.iter().eq(sizes.iter().rev()), "{lengths:?}");

            let calls: Vec<_> = (0..100)
                .map(|n| rpc.call(["echo", &n.to_string()]).start())
                .collect();
            for (n, call) in calls.into_iter().enumerate() {
                assert_eq!(call.wait().unwrap(), [n.to_string()]);
            }
            assert!(rpc.call(["events", "2"]).wait().unwrap().is_empty());
            assert_eq!(log.lines(), ["event: event 1", "event: event 2"]);

            let error = lost(rpc.call(["die", "of boredom"]).wait());
            assert_eq!(error.kind(), ErrorKind::Died);
            assert_eq!(error.stderr(), "of boredom\n");
            assert_eq!(error.status().map(|status| status.success()), Some(false));
            assert_eq!(log.end(), "error: Died");

            let rpc = perl.rpc("perl").start().unwrap();
            assert_eq!(rpc.call(["echo", "on"]).wait().unwrap(), ["on"]);
            assert!(rpc.finish().unwrap().status().unwrap().success());
        }
    });
}

use super::Script;
use crate::wire::{
    AskAnswer, Asked, ControlError, Failure, FarGroup, FarNote, Flow, FromRelay, FunctionId,
    Outlet, Run, StartOrder, ToChild, ToParent, ToRelay, octets,
};
use std::ffi::OsStr;
use std::fmt::Debug;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Control messages, those of connections that carry many children, and failed replies: any bytes are decoded or refused, and both decoded messages
/// and ones constructed from the bytes survive a round trip.
pub fn control(data: &[u8]) {
    if let Ok(message) = checked(ToChild::decode(data)) {
        assert_eq!(ToChild::decode(&message.encode()), Ok(message));
    }
    if let Ok(message) = checked(ToParent::decode(data)) {
        assert_eq!(ToParent::decode(&message.encode()), Ok(message));
    }
    if let Ok(failure) = checked(Failure::decode(data)) {
        assert_eq!(Failure::decode(&failure.encode()), Ok(failure));
    }
    match checked(Flow::decode(data)) {
        Ok(Some(flow)) => assert_eq!(Flow::decode(&flow.encode()), Ok(Some(flow))),
        Ok(None) => {
            if let Ok(message) = checked(ToRelay::decode(data)) {
                assert_eq!(ToRelay::decode(&message.encode()), Ok(message));
            }
            if let Ok(message) = checked(FromRelay::decode(data)) {
                assert_eq!(FromRelay::decode(&message.encode()), Ok(message));
            }
        }
        Err(_) => {}
    }
    carried(Script(data));

    let mut script = Script(data);
    let mut text = || String::from_utf8_lossy(script.string()).into_owned();
    let (one, two) = (text(), text());
    let mut number = || u32::from_be_bytes(std::array::from_fn(|_| script.byte()));
    let strings = octets::encode([&one, &two]);
    for message in [
        ToChild::Template { huge_pages: 9 },
        ToChild::Lifeline,
        ToChild::Far,
        ToChild::Settings(&strings),
        ToChild::Setup {
            setup: FunctionId {
                name: &one,
                version: number(),
                codec: &two,
            },
            request: &strings,
        },
        ToChild::Run(Run {
            protocol: number(),
            function: FunctionId {
                name: &one,
                version: number(),
                codec: &two,
            },
            max_frame: number(),
            buflen: number(),
        }),
        ToChild::Function(FunctionId {
            name: &two,
            version: number(),
            codec: &one,
        }),
        ToChild::Cancel { id: number() },
        ToChild::Answer(AskAnswer {
            id: number(),
            failed: number() % 2 == 0,
            payload: two.as_bytes(),
        }),
    ] {
        assert_eq!(ToChild::decode(&message.encode()), Ok(message));
    }
    for message in [
        ToParent::Ready { protocol: number() },
        ToParent::Refused {
            kind: &one,
            message: &two,
        },
        ToParent::Progress {
            id: number(),
            payload: two.as_bytes(),
        },
        ToParent::Ask {
            id: number(),
            asked: Asked {
                service: FunctionId {
                    name: &two,
                    version: number(),
                    codec: &one,
                },
                request: one.as_bytes(),
            },
        },
        ToParent::Tell(Asked {
            service: FunctionId {
                name: &one,
                version: number(),
                codec: &two,
            },
            request: two.as_bytes(),
        }),
        ToParent::Forget { id: number() },
        ToParent::Retire,
    ] {
        assert_eq!(ToParent::decode(&message.encode()), Ok(message));
    }
    for failure in [
        Failure::Error {
            message: one.clone(),
            encoded: script.0.to_vec(),
        },
        Failure::Panic {
            message: one.clone(),
            location: two.clone(),
        },
        Failure::Malformed {
            message: one.clone(),
        },
        Failure::Unserved {
            message: one,
            kind: two,
        },
        Failure::Full,
        Failure::Unanswered,
        Failure::Cancelled,
    ] {
        assert_eq!(Failure::decode(&failure.encode()), Ok(failure));
    }
}

/// Messages of a connection that carries many children, made of anything.
fn carried(mut script: Script<'_>) {
    let mut text = || String::from_utf8_lossy(script.string()).into_owned();
    let (one, two) = (text(), text());
    let dir = Path::new(OsStr::from_bytes(script.string()));
    let has_dir = script.byte().is_multiple_of(2);
    let outlet = |script: &mut Script<'_>| {
        let channel = u32::from_be_bytes(std::array::from_fn(|_| script.byte()));
        script.pick(&[Outlet::Inherit, Outlet::Null, Outlet::Channel(channel)])
    };
    let order = StartOrder {
        base: u32::from(script.byte()),
        stdout: outlet(&mut script),
        stderr: outlet(&mut script),
        group: script.pick(&[FarGroup::Own, FarGroup::Relays, FarGroup::Session]),
        outlives: script.byte().is_multiple_of(2),
        dir: has_dir.then_some(dir),
    };
    let mut number = || u32::from_be_bytes(std::array::from_fn(|_| script.byte()));
    let (channel, id) = (number(), number());
    let bytes = id as usize;
    for flow in [
        Flow::Credit { channel, bytes },
        Flow::Eof { channel },
        Flow::Shut { channel },
        Flow::Ping,
        Flow::Pong,
    ] {
        assert_eq!(Flow::decode(&flow.encode()), Ok(Some(flow)));
    }
    let (long, signed) = (u64::from(number()) << 32, number().cast_signed());
    for message in [
        ToRelay::Prepare(one.as_bytes()),
        ToRelay::Template {
            id,
            huge_pages: long,
            order: order.clone(),
        },
        ToRelay::Warm { id },
        ToRelay::Forget { id },
        ToRelay::Open {
            channel,
            timeout: long,
            order,
        },
        ToRelay::Signal {
            channel,
            number: signed,
        },
    ] {
        let encoded = message.encode();
        assert_eq!(Flow::decode(&encoded), Ok(None));
        assert_eq!(ToRelay::decode(&encoded), Ok(message));
    }
    let exited = |status, noted| FromRelay::Exited {
        channel,
        status,
        noted,
    };
    for message in [
        FromRelay::Opened { channel, pid: id },
        FromRelay::Refused {
            channel,
            kind: &one,
            message: &two,
        },
        exited(Some(signed), FarNote::Nothing),
        exited(None, FarNote::LastCall(id)),
        exited(None, FarNote::Unknown),
        FromRelay::Warmed { id, refused: None },
        FromRelay::Warmed {
            id,
            refused: Some((&one, &two)),
        },
    ] {
        let encoded = message.encode();
        assert_eq!(Flow::decode(&encoded), Ok(None));
        assert_eq!(FromRelay::decode(&encoded), Ok(message));
    }
}

/// Returns the result, and checks that an error can be displayed.
fn checked<T: Debug>(result: Result<T, ControlError>) -> Result<T, ControlError> {
    result.inspect_err(|error| assert!(!error.to_string().is_empty()))
}

use super::Script;
use crate::wire::{
    AskAnswer, Asked, ControlError, Failure, FunctionId, Run, ToChild, ToParent, octets,
};
use std::fmt::Debug;

/// Control messages and failed replies: any bytes are decoded or refused, and both decoded messages
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

/// Returns the result, and checks that an error can be displayed.
fn checked<T: Debug>(result: Result<T, ControlError>) -> Result<T, ControlError> {
    result.inspect_err(|error| assert!(!error.to_string().is_empty()))
}

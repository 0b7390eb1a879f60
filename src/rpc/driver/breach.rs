//! How a child broke the protocol, as an error. Pure.

use crate::error::ErrorKind;
use crate::rpc::state::ChildViolation;
use crate::wire::DecodeError;

/// Why bytes are not frames, or not frames that a child may send.
pub(super) enum Breach {
    Decode(DecodeError),
    /// With the offset of the frame in the stream.
    Violation(ChildViolation, u64),
}

impl Breach {
    /// A violation by the frame at this offset.
    pub(super) fn new(violation: ChildViolation, offset: u64) -> Self {
        match violation {
            ChildViolation::Decode(error) => Breach::Decode(error),
            violation => Breach::Violation(violation, offset),
        }
    }

    /// The kind of error and its message. What comes from a child that has not been ready is taken for
    /// another program's output, unless it is at least a control frame.
    pub(super) fn describe(self, ready: bool) -> (ErrorKind, String) {
        use ChildViolation::{Control, LongControl};
        let is_control = matches!(self, Breach::Violation(Control(_) | LongControl { .. }, _));
        let is_worker = ready || is_control;
        let what = match self {
            Breach::Decode(error) => format!(": {error}"),
            Breach::Violation(violation, offset) => format!(" at offset {offset}: {violation}"),
        };
        if is_worker {
            let message = format!("the child broke the protocol{what}");
            return (ErrorKind::Protocol, message);
        }
        let message = format!(
            "the program is not an offspring worker, or writes to its standard input before it \
             serves{what}"
        );
        (ErrorKind::NotWorker, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ControlError;

    #[test]
    fn what_is_no_protocol_before_ready_is_another_programs() {
        let decode = || {
            Breach::Decode(DecodeError::Truncated {
                offset: 3,
                have: 1,
                need: 8,
            })
        };
        let not_ready = || Breach::Violation(ChildViolation::NotReady { id: 5 }, 7);
        let control =
            || Breach::Violation(ChildViolation::Control(ControlError::Missing("verb")), 7);
        for (breach, ready, kind) in [
            (decode(), false, ErrorKind::NotWorker),
            (decode(), true, ErrorKind::Protocol),
            (not_ready(), false, ErrorKind::NotWorker),
            (not_ready(), true, ErrorKind::Protocol),
            (control(), false, ErrorKind::Protocol),
            (control(), true, ErrorKind::Protocol),
        ] {
            assert_eq!(breach.describe(ready).0, kind);
        }
        let (_, message) = not_ready().describe(true);
        assert!(
            message.contains("at offset 7: expected a `ready` control frame first"),
            "{message}"
        );
    }
}

//! The reasons that a child gives for what it does not serve. Pure.

use crate::error::ErrorKind;
use crate::wire;

/// The kind of error that the child itself gave as the reason why it does not serve.
pub(in crate::rpc) fn refusal_kind(kind: &str) -> ErrorKind {
    match kind {
        wire::REFUSED_SETUP => ErrorKind::Setup,
        wire::REFUSED_FUNCTION => ErrorKind::NoFunction,
        wire::REFUSED_MISMATCH => ErrorKind::Mismatch,
        wire::REFUSED_VERSION => ErrorKind::Version,
        _ => ErrorKind::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_the_child_are_kinds_of_errors() {
        for (word, kind) in [
            ("setup", ErrorKind::Setup),
            ("function", ErrorKind::NoFunction),
            ("mismatch", ErrorKind::Mismatch),
            ("version", ErrorKind::Version),
            ("another", ErrorKind::Protocol),
        ] {
            assert_eq!(refusal_kind(word), kind);
        }
    }
}

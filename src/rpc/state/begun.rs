//! Which calls a child had begun that has ended. Pure.

use crate::process::Noted;
use crate::wire;

/// Which of the calls that were sent have begun, as far as is known. They begin in the order in which they
/// were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    /// None of them.
    None,
    /// The call with this id, and those that were made before.
    UpTo(u32),
    /// Perhaps all of them.
    Unknown,
}

impl From<Noted> for Begun {
    fn from(noted: Noted) -> Self {
        match noted {
            Noted::Nothing | Noted::LastCall(0) => Begun::None,
            Noted::LastCall(id @ ..=wire::MAX_ID) => Begun::UpTo(id),
            // What is not an id is not from a worker that keeps to the rules.
            Noted::LastCall(_) | Noted::Unknown => Begun::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_that_is_no_id_tells_nothing() {
        for (noted, begun) in [
            (Noted::Nothing, Begun::None),
            (Noted::Unknown, Begun::Unknown),
            (Noted::LastCall(0), Begun::None),
            (Noted::LastCall(1), Begun::UpTo(1)),
            (Noted::LastCall(wire::MAX_ID), Begun::UpTo(wire::MAX_ID)),
            (Noted::LastCall(wire::MAX_ID + 1), Begun::Unknown),
            (Noted::LastCall(u32::MAX), Begun::Unknown),
        ] {
            assert_eq!(Begun::from(noted), begun);
        }
    }
}

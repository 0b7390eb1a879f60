//! Which calls a child had begun that has ended. Pure.

use crate::process::Noted;

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
            Noted::LastCall(id) => Begun::UpTo(id),
            Noted::Unknown => Begun::Unknown,
        }
    }
}

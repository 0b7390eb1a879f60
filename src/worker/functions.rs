//! The functions of a child, and which of them the requests are for that come now. Pure.

use super::calls::Lane;
use super::table::StartFailure;
use crate::directory::Directory;
use crate::wire::{self, Failure, FunctionId};

/// A function of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Function {
    /// Its place in the table.
    pub(super) index: u32,
    pub(super) lane: Lane,
}

/// The functions of a child, one of which the requests are for that come now.
#[derive(Debug)]
pub(super) struct Functions {
    directory: Directory<Lane>,
    /// That one, or how those requests fail.
    current: Result<Function, Failure>,
}

impl Functions {
    /// No request comes before a function is [selected](Functions::select).
    pub(super) fn new(directory: Directory<Lane>) -> Self {
        Functions {
            directory,
            current: Err(Failure::Unanswered),
        }
    }

    /// The requests that follow are for this function. If there is none, they fail; returns why.
    pub(super) fn select(&mut self, wanted: &FunctionId<'_>) -> Result<(), StartFailure> {
        match self.directory.find(wanted) {
            Ok(index) => {
                self.current = Ok(Function {
                    index: index as u32,
                    lane: *self.directory.get(index),
                });
                Ok(())
            }
            Err(lack) => {
                let (kind, message) = lack.refusal(wire::REFUSED_FUNCTION);
                self.current = Err(Failure::Unserved {
                    message: message.clone(),
                    kind: kind.to_owned(),
                });
                Err((kind, message))
            }
        }
    }

    /// The function that requests are for, or how they fail.
    pub(super) fn current(&self) -> Result<Function, &Failure> {
        self.current.as_ref().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::OF_CHILD;

    #[test]
    fn requests_are_for_the_function_selected_last_or_fail() {
        let mut directory = Directory::new("function", OF_CHILD);
        directory.add(FunctionId::octets("later"), Lane::Deferred);
        directory.add(FunctionId::octets("now"), Lane::Returning);
        let mut functions = Functions::new(directory);
        assert!(functions.current().is_err());
        functions.select(&FunctionId::octets("now")).unwrap();
        let lane = Lane::Returning;
        assert_eq!(functions.current(), Ok(Function { index: 1, lane }));
        for (wanted, reason, part) in [
            (
                FunctionId::octets("no"),
                "function",
                "no function `no`; there are: `later`, `now`",
            ),
            (
                FunctionId {
                    version: 3,
                    ..FunctionId::octets("now")
                },
                "mismatch",
                "version 0 and codec `octets` in the child, version 3 and codec `octets`",
            ),
            (
                FunctionId {
                    codec: "json",
                    ..FunctionId::octets("now")
                },
                "mismatch",
                "codec `json` in the parent",
            ),
        ] {
            functions.select(&wanted).unwrap_err();
            let Err(Failure::Unserved { message, kind }) = functions.current() else {
                panic!("there is none");
            };
            assert!(kind == reason && message.contains(part), "{message}");
        }
        functions.select(&FunctionId::octets("later")).unwrap();
        assert!(functions.current().is_ok());
    }
}

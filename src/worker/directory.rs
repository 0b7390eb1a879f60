//! What a child has under which names, and which of its functions the requests are for that come now. Pure.

use super::calls::Lane;
use crate::codec::Codec;
use crate::service::Signature;
use crate::wire::{self, Failure, FunctionId, truncate};

/// The longest name. A parent that asks for a longer one is told that there is none.
const LONGEST_NAME: usize = wire::LONGEST_TEXT;
/// How much of a name that is not there is shown.
const SHOWN: usize = 200;

/// Functions or setups, by name.
#[derive(Debug)]
pub(super) struct Directory<T> {
    /// What they are.
    what: &'static str,
    /// Sorted by name.
    entries: Vec<Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    name: String,
    version: u32,
    codec: &'static str,
    value: T,
}

/// Why a child does not have what its parent asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// There is none of that name.
    Missing(String),
    /// It has another version or codec.
    Mismatch(String),
}

impl<T> Directory<T> {
    pub(super) fn new(what: &'static str) -> Self {
        let entries = Vec::new();
        Directory { what, entries }
    }

    /// Adds something, and returns its index, by which those behind it have moved.
    ///
    /// # Panics
    ///
    /// If there is one of that name, or the name is too long.
    pub(super) fn add<S: Signature>(&mut self, service: &S, value: T) -> usize {
        let (what, name) = (self.what, service.name());
        assert!(
            name.len() <= LONGEST_NAME,
            "the name of a {what} has {} bytes; {LONGEST_NAME} are the most",
            name.len()
        );
        let Err(at) = self.place(name) else {
            panic!("two {what}s have the name `{name}`");
        };
        let entry = Entry {
            name: name.to_owned(),
            version: service.version(),
            codec: S::Codec::NAME,
            value,
        };
        self.entries.insert(at, entry);
        at
    }

    /// The index of what is asked for.
    pub(super) fn find(&self, wanted: &FunctionId<'_>) -> Result<usize, Lack> {
        let FunctionId {
            name,
            version,
            codec,
        } = *wanted;
        let what = self.what;
        let shown = truncate(name, SHOWN);
        let Ok(at) = self.place(name) else {
            let names = self.list();
            let message = format!("no {what} `{shown}`; there are: {names}");
            return Err(Lack::Missing(message));
        };
        let entry = &self.entries[at];
        if (entry.version, entry.codec) == (version, codec) {
            return Ok(at);
        }
        Err(Lack::Mismatch(format!(
            "{what} `{shown}` has version {} and codec `{}` in the child, version {version} and codec \
             `{codec}` in the parent",
            entry.version, entry.codec
        )))
    }

    pub(super) fn get(&self, index: usize) -> &T {
        &self.entries[index].value
    }

    pub(super) fn get_mut(&mut self, index: usize) -> &mut T {
        &mut self.entries[index].value
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| &*entry.name)
    }

    pub(super) fn into_values(self) -> impl Iterator<Item = T> {
        self.entries.into_iter().map(|entry| entry.value)
    }

    /// The index of a name, or the one to insert it at.
    fn place(&self, name: &str) -> Result<usize, usize> {
        self.entries
            .binary_search_by(|entry| entry.name.as_str().cmp(name))
    }

    fn list(&self) -> String {
        let names: Vec<_> = self.names().map(|name| format!("`{name}`")).collect();
        match &*names {
            [] => "none".to_owned(),
            names => names.join(", "),
        }
    }
}

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
    pub(super) fn select(&mut self, wanted: &FunctionId<'_>) -> Result<(), &Failure> {
        self.current = match self.directory.find(wanted) {
            Ok(index) => Ok(Function {
                index: index as u32,
                lane: *self.directory.get(index),
            }),
            Err(lack) => {
                let (kind, message) = lack.refusal(wire::REFUSED_FUNCTION);
                let kind = kind.to_owned();
                Err(Failure::Unserved { message, kind })
            }
        };
        self.current.as_ref().map(drop)
    }

    /// The function that requests are for, or how they fail.
    pub(super) fn current(&self) -> Result<Function, &Failure> {
        self.current.as_ref().copied()
    }
}

impl Lack {
    /// Its kind, as a parent is told, and its message; `missing` is the kind if there is none of that name.
    pub(super) fn refusal(self, missing: &'static str) -> (&'static str, String) {
        match self {
            Lack::Missing(message) => (missing, message),
            Lack::Mismatch(message) => (wire::REFUSED_MISMATCH, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{IntoService, Name};

    fn name(name: &str) -> Name {
        name.into_service()
    }

    fn wanted(name: &str) -> FunctionId<'_> {
        FunctionId {
            name,
            version: 0,
            codec: "octets",
        }
    }

    #[test]
    fn functions_are_found_wherever_they_were_added() {
        let mut directory = Directory::new("function");
        for (n, text) in ["m", "a", "z", "b"].into_iter().enumerate() {
            directory.add(&name(text), n);
        }
        assert!(directory.names().eq(["a", "b", "m", "z"]));
        for (n, text) in ["m", "a", "z", "b"].into_iter().enumerate() {
            let at = directory.find(&wanted(text)).unwrap();
            assert_eq!(*directory.get(at), n);
        }
    }

    #[test]
    fn requests_are_for_the_function_selected_last_or_fail() {
        let mut directory = Directory::new("function");
        directory.add(&name("later"), Lane::Deferred);
        directory.add(&name("now"), Lane::Returning);
        let mut functions = Functions::new(directory);
        assert!(functions.current().is_err());
        functions.select(&wanted("now")).unwrap();
        let lane = Lane::Returning;
        assert_eq!(functions.current(), Ok(Function { index: 1, lane }));
        for (wanted, reason, part) in [
            (
                wanted("no"),
                "function",
                "no function `no`; there are: `later`, `now`",
            ),
            (
                FunctionId {
                    version: 3,
                    ..wanted("now")
                },
                "mismatch",
                "version 0 and codec `octets` in the child, version 3 and codec `octets`",
            ),
            (
                FunctionId {
                    codec: "json",
                    ..wanted("now")
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
        functions.select(&wanted("later")).unwrap();
        assert!(functions.current().is_ok());
    }

    #[test]
    fn empty_directory_says_so_and_long_names_are_not_shown_whole() {
        let directory = Directory::<()>::new("setup");
        let Err(Lack::Missing(message)) = directory.find(&wanted(&"x".repeat(10_000))) else {
            panic!("there is none");
        };
        assert!(message.ends_with("; there are: none") && message.len() < 300);
    }

    #[test]
    #[should_panic(expected = "two setups have the name `s`")]
    fn name_is_given_once() {
        let mut directory = Directory::new("setup");
        directory.add(&name("s"), ());
        directory.add(&name("s"), ());
    }

    #[test]
    #[should_panic(expected = "the name of a function has 32769 bytes; 32768 are the most")]
    fn names_have_a_limit() {
        Directory::new("function").add(&name(&"x".repeat(LONGEST_NAME + 1)), ());
    }
}

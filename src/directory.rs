//! What one side serves under which names, as the other side asks for it. Pure.

use crate::wire::{self, FunctionId, truncate};

/// The longest name. Who asks for a longer one is told that there is none.
const LONGEST_NAME: usize = wire::LONGEST_TEXT;
/// How much of the names that are there is listed.
const LISTED: usize = 1000;
/// How much of a name that is not there is shown.
const SHOWN: usize = 200;

/// Functions, setups, or what a parent serves, by name.
#[derive(Debug)]
pub(crate) struct Directory<T> {
    names: Names,
    /// In the order of the names.
    values: Vec<T>,
}

/// The names, apart from what they name, so that a program has one search for all types.
#[derive(Debug)]
struct Names {
    /// What they name.
    what: &'static str,
    sides: Sides,
    /// Sorted by name.
    entries: Vec<Entry>,
}

/// Who has something, and who asks for it.
pub(crate) type Sides = [&'static str; 2];

/// What a child has.
pub(crate) const OF_CHILD: Sides = ["child", "parent"];
/// What a parent has.
pub(crate) const OF_PARENT: Sides = ["parent", "child"];

#[derive(Debug)]
struct Entry {
    name: String,
    version: u32,
    codec: String,
}

/// Why one side does not have what the other asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// There is none of that name.
    Missing(String),
    /// It has another version or codec.
    Mismatch(String),
}

impl<T> Directory<T> {
    pub(crate) fn new(what: &'static str, sides: Sides) -> Self {
        let entries = Vec::new();
        Directory {
            names: Names {
                what,
                sides,
                entries,
            },
            values: Vec::new(),
        }
    }

    /// Adds something, and returns its index, by which those behind it have moved.
    ///
    /// # Panics
    ///
    /// If there is one of that name, or the name is too long.
    pub(crate) fn add(&mut self, id: FunctionId<'_>, value: T) -> usize {
        let at = self.names.add(id);
        self.values.insert(at, value);
        at
    }

    /// The index of what is asked for.
    pub(crate) fn find(&self, wanted: &FunctionId<'_>) -> Result<usize, Lack> {
        self.names.find(wanted)
    }

    pub(crate) fn get(&self, index: usize) -> &T {
        &self.values[index]
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> &mut T {
        &mut self.values[index]
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.entries.iter().map(|entry| &*entry.name)
    }

    pub(crate) fn into_values(self) -> impl Iterator<Item = T> {
        self.values.into_iter()
    }
}

impl Names {
    fn add(&mut self, id: FunctionId<'_>) -> usize {
        let (what, name) = (self.what, id.name);
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
            version: id.version,
            codec: id.codec.to_owned(),
        };
        self.entries.insert(at, entry);
        at
    }

    fn find(&self, wanted: &FunctionId<'_>) -> Result<usize, Lack> {
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
        if (entry.version, &*entry.codec) == (version, codec) {
            return Ok(at);
        }
        let [here, there] = self.sides;
        Err(Lack::Mismatch(format!(
            "{what} `{shown}` has version {} and codec `{}` in the {here}, version {version} and codec \
             `{codec}` in the {there}",
            entry.version, entry.codec
        )))
    }

    /// The index of a name, or the one to insert it at.
    fn place(&self, name: &str) -> Result<usize, usize> {
        self.entries
            .binary_search_by(|entry| entry.name.as_str().cmp(name))
    }

    fn list(&self) -> String {
        let mut list = String::new();
        for (n, entry) in self.entries.iter().enumerate() {
            if list.len() > LISTED {
                return format!("{list} and {} more", self.entries.len() - n);
            }
            let comma = if list.is_empty() { "" } else { ", " };
            list = list + comma + "`" + truncate(&entry.name, SHOWN) + "`";
        }
        if list.is_empty() {
            return "none".to_owned();
        }
        list
    }
}

impl Lack {
    /// Its kind, as the other side is told, and its message; `missing` is the kind if there is none of that
    /// name.
    pub(crate) fn refusal(self, missing: &'static str) -> (&'static str, String) {
        match self {
            Lack::Missing(message) => (missing, message),
            Lack::Mismatch(message) => (wire::REFUSED_MISMATCH, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_wherever_they_were_added() {
        let mut directory = Directory::new("function", OF_CHILD);
        for (n, text) in ["m", "a", "z", "b"].into_iter().enumerate() {
            directory.add(FunctionId::octets(text), n);
        }
        assert!(directory.names().eq(["a", "b", "m", "z"]));
        for (n, text) in ["m", "a", "z", "b"].into_iter().enumerate() {
            let at = directory.find(&FunctionId::octets(text)).unwrap();
            assert_eq!(*directory.get(at), n);
        }
    }

    #[test]
    fn empty_directory_says_so_and_long_names_are_not_shown_whole() {
        let directory = Directory::<()>::new("setup", OF_CHILD);
        let Err(Lack::Missing(message)) = directory.find(&FunctionId::octets(&"x".repeat(10_000)))
        else {
            panic!("there is none");
        };
        assert!(message.ends_with("; there are: none") && message.len() < 300);
    }

    #[test]
    #[should_panic(expected = "two setups have the name `s`")]
    fn name_is_given_once() {
        let mut directory = Directory::new("setup", OF_CHILD);
        directory.add(FunctionId::octets("s"), ());
        directory.add(FunctionId::octets("s"), ());
    }

    #[test]
    #[should_panic(expected = "the name of a function has 32769 bytes; 32768 are the most")]
    fn names_have_a_limit() {
        Directory::new("function", OF_CHILD)
            .add(FunctionId::octets(&"x".repeat(LONGEST_NAME + 1)), ());
    }
}

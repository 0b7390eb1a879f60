//! The text of an error with its sources, as it travels to the parent.

use std::error::Error;
use std::fmt::{self, Write};

/// How many sources are included, and how many bytes of them: an error may be its own source.
const SOURCES: usize = 16;
const BYTES: usize = 8 << 10;

/// The error's own text, then its sources, separated by colons as in `{error:#}` of `anyhow`.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut limited = Limited {
        room: BYTES,
        text: &mut text,
    };
    let mut next = error.source();
    for _ in 0..SOURCES {
        let Some(source) = next else {
            return text;
        };
        if write!(limited, ": {source}").is_err() {
            break;
        }
        next = source.source();
    }
    if next.is_some() {
        text += " ..";
    }
    text
}

/// Text that takes so many more bytes.
struct Limited<'a> {
    room: usize,
    text: &'a mut String,
}

impl Write for Limited<'_> {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let mut taken = more.len().min(self.room);
        while !more.is_char_boundary(taken) {
            taken -= 1;
        }
        self.text.push_str(&more[..taken]);
        self.room -= taken;
        if taken < more.len() {
            return Err(fmt::Error);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error whose source is the next of these, or itself for ever.
    #[derive(Debug)]
    struct Layer(String, Option<Box<Layer>>, bool);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            match &self.1 {
                Some(source) => Some(&**source),
                None => self.2.then_some(self),
            }
        }
    }

    fn layer(text: &str, source: Option<Layer>) -> Layer {
        Layer(text.to_owned(), source.map(Box::new), false)
    }

    #[test]
    fn sources_follow_the_error() {
        let error = layer("one", Some(layer("two", Some(layer("three", None)))));
        assert_eq!(chain(&error), "one: two: three");
        assert_eq!(chain(&layer("alone", None)), "alone");
    }

    #[test]
    fn error_that_is_its_own_source_ends() {
        let text = chain(&Layer("again".to_owned(), None, true));
        assert_eq!(text.matches("again").count(), 1 + SOURCES);
        assert!(text.ends_with(": again .."));
    }

    #[test]
    fn long_sources_are_cut_between_characters_and_the_error_is_not() {
        let own = "x".repeat(2 * BYTES);
        let error = layer(&own, Some(layer(&"\u{20ac}".repeat(BYTES), None)));
        let text = chain(&error);
        assert!(text.starts_with(&own) && text.ends_with("\u{20ac} .."));
        assert!(text.len() <= own.len() + BYTES + " ..".len());
    }
}

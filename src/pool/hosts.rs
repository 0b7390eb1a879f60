//! Hosts of a file, and pools of children on them.

use super::builder::PoolBuilder;
use crate::process::Process;
use crate::service::IntoService;
use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;

/// Machines to run children on: a list, as GNU parallel's `--sshloginfile` has it.
///
/// Each line is `[N/]user@host`: a name as ssh takes it, and how many children may run there at a time, which is
/// one if it is not said. What comes after `#`, at the beginning of a line or after a blank, is a comment.
///
/// # Examples
///
/// ```
/// use offspring::Hosts;
///
/// let hosts = Hosts::parse("# the big ones\n16/worker@big.example\n\nsmall.example\n")?;
/// let all: Vec<_> = hosts.iter().map(|host| (&*host.name, host.slots)).collect();
/// assert_eq!(all, [("worker@big.example", 16), ("small.example", 1)]);
///
/// let error = Hosts::parse("good.example\n-oProxyCommand=reboot\n").unwrap_err();
/// assert_eq!(error.to_string(), "line 2: the name `-oProxyCommand=reboot` begins with `-`, like an option");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts(Vec<Host>);

/// One of several [`Hosts`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Host {
    /// What ssh is told. It does not begin with `-`, which would be an option, and has neither blanks and control
    /// characters, nor what is special to a shell.
    pub name: String,
    /// How many children may run there at a time.
    pub slots: usize,
}

impl Hosts {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// If it cannot be read; [`InvalidData`](ErrorKind::InvalidData) if it is malformed. Both name the file, and
    /// the latter the line.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let about = |error: Error| {
            let message = format!("{}: {error}", path.display());
            Error::new(error.kind(), message)
        };
        let text = fs::read_to_string(path).map_err(about)?;
        Hosts::parse(&text).map_err(about)
    }

    /// Reads the text of such a file.
    ///
    /// # Errors
    ///
    /// [`InvalidData`](ErrorKind::InvalidData), with the line, if a name is none that a command can be trusted with,
    /// the number of slots is none, or there is a host twice, or none at all.
    pub fn parse(text: &str) -> Result<Self> {
        let mut hosts: Vec<(usize, Host)> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = without_comment(line).trim();
            if line.is_empty() {
                continue;
            }
            let invalid = |why: String| invalid(format!("line {number}: {why}"));
            let host = Host::parse(line).map_err(invalid)?;
            if let Some((first, _)) = hosts.iter().find(|(_, other)| other.name == host.name) {
                let why = format!("`{}` is in line {first}, too", host.name);
                return Err(invalid(why));
            }
            hosts.push((number, host));
        }
        match hosts.is_empty() {
            true => Err(invalid("there are no hosts".to_owned())),
            false => Ok(Hosts(hosts.into_iter().map(|(_, host)| host).collect())),
        }
    }

    /// A pool of children on all of these hosts, at most as many on each as it has slots. `command` returns what
    /// reaches a worker on a host: one connection is made to each, and all its children are behind that, so that
    /// an ssh server's limits on sessions and logins do not matter.
    ///
    /// The children of a host are copies of a [template](Process::template) there, which has run the setups of
    /// `command`: these must leave no threads behind, and what copies must not share is made anew by
    /// [`Worker::after_fork`](crate::Worker::after_fork).
    ///
    /// Hosts fail on their own: while one cannot be reached, it is tried again at longer and longer intervals, and
    /// what it was to do goes to others. Calls that had begun on a host that is lost end as
    /// [lost](crate::CallError::Lost), with an error of the kind [`Disconnected`](crate::ErrorKind::Disconnected),
    /// unless they may be [repeated](crate::PoolCall::repeatable); it is not taken for their fault. In
    /// [`Pool::stats`](crate::Pool::stats), there is a line for each.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use offspring::{Host, Hosts, Process};
    ///
    /// let hosts = Hosts::read("hosts")?;
    /// let ssh = |host: &Host| {
    ///     Process::command("ssh").args(["-T", "-oBatchMode=yes", "--", &host.name, "my-worker"])
    /// };
    /// let pool = hosts.pool("resize", ssh).load(1).start()?;
    /// for (path, size) in pool.map_unordered(["a.png", "b.png"]) {
    ///     println!("{path} {}", size?);
    /// }
    /// println!("{}", pool.stats());
    /// # Ok::<(), offspring::BoxError>(())
    /// ```
    pub fn pool<S: IntoService>(
        &self,
        service: S,
        command: impl Fn(&Host) -> Process,
    ) -> PoolBuilder<S::Service> {
        let builder = PoolBuilder::new(service.into_service());
        self.iter().fold(builder, |builder, host| {
            let process = command(host).labelled(&host.name).template();
            builder.also(process, host.slots)
        })
    }

    /// The hosts, in the order of their lines.
    pub fn iter(&self) -> std::slice::Iter<'_, Host> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Hosts {
    type Item = &'a Host;
    type IntoIter = std::slice::Iter<'a, Host>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Host {
    /// A text as one word for a shell: what ssh is told to execute, the other side's shell reads.
    ///
    /// # Examples
    ///
    /// ```
    /// use offspring::Host;
    ///
    /// assert_eq!(Host::quote("/opt/my worker"), "'/opt/my worker'");
    /// assert_eq!(Host::quote("it's"), r"'it'\''s'");
    /// ```
    #[must_use]
    pub fn quote(text: &str) -> String {
        format!("'{}'", text.replace('\'', r"'\''"))
    }

    /// Reads what is in a line. The error says what is wrong.
    fn parse(line: &str) -> std::result::Result<Self, String> {
        let number = line.split_once('/').filter(|(number, _)| {
            let mut bytes = number.bytes();
            !number.is_empty() && bytes.all(|byte| byte.is_ascii_digit())
        });
        let (slots, name) = match number {
            None => (1, line),
            Some((slots, name)) => {
                let slots = slots.parse().ok().filter(|slots| *slots > 0);
                let why = || format!("`{line}` does not begin with a sensible number of slots");
                (slots.ok_or_else(why)?, name)
            }
        };
        let shown = name.escape_debug();
        if name.is_empty() {
            return Err(format!("`{line}` has no name"));
        }
        let host = name.rsplit_once('@').map_or(name, |(_, host)| host);
        if name.starts_with('-') || host.starts_with('-') {
            return Err(format!(
                "the name `{shown}` begins with `-`, like an option"
            ));
        }
        if let Some(bad) = name.chars().find(|c| is_bad(*c)) {
            return Err(format!("the name `{shown}` has a {bad:?}"));
        }
        Ok(Host {
            name: name.to_owned(),
            slots,
        })
    }
}

/// What separates words, or means something to a shell.
fn is_bad(c: char) -> bool {
    c.is_whitespace() || c.is_control() || "\"'`\\$&|;<>(){}*?!#~^".contains(c)
}

fn without_comment(line: &str) -> &str {
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        if c == '#' && before.is_whitespace() {
            return &line[..at];
        }
        before = c;
    }
    line
}

fn invalid(why: String) -> Error {
    Error::new(ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<(String, usize)> {
        let hosts = Hosts::parse(text).unwrap();
        let all = hosts
            .into_iter()
            .map(|host| (host.name.clone(), host.slots));
        all.collect()
    }

    fn error(text: &str) -> String {
        Hosts::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn lines_are_hosts_with_slots_and_comments() {
        let text = "#8/no\n  8/a  # eight\r\n\n# nothing\nb@c#d.example\n/\tx\n";
        assert_eq!(error(text), "line 5: the name `b@c#d.example` has a '#'");
        let text = "#8/no\n  8/a  # eight\r\n\n\t# nothing\nb@[::1]:22\n007/ns/pod=1\nü";
        let want = [("a", 8), ("b@[::1]:22", 1), ("ns/pod=1", 7), ("ü", 1)];
        assert_eq!(
            all(text),
            want.map(|(name, slots)| (name.to_owned(), slots))
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, want) in [
            ("", "there are no hosts"),
            ("# a\n", "there are no hosts"),
            (
                "a\n0/b",
                "line 2: `0/b` does not begin with a sensible number of slots",
            ),
            (
                "99999999999999999999999/b",
                "line 1: `99999999999999999999999/b` does not begin with a sensible number of slots",
            ),
            ("8/", "line 1: `8/` has no name"),
            ("a b", "line 1: the name `a b` has a ' '"),
            ("2/a\u{7}", "line 1: the name `a\\u{7}` has a '\\u{7}'"),
            ("a;reboot", "line 1: the name `a;reboot` has a ';'"),
            ("$(x)", "line 1: the name `$(x)` has a '$'"),
            (
                "8/-x",
                "line 1: the name `-x` begins with `-`, like an option",
            ),
            (
                "u@-x",
                "line 1: the name `u@-x` begins with `-`, like an option",
            ),
            ("a\n\n2/a", "line 3: `a` is in line 1, too"),
        ] {
            assert_eq!(error(text), want, "{text}");
        }
        let missing = Hosts::read("/no/such/file").unwrap_err();
        assert!(missing.to_string().starts_with("/no/such/file: "));
    }
}

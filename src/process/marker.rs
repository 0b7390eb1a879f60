//! How a process knows that it was started as a child.

use crate::sys;
use std::io::Result;
use std::os::fd::AsFd;

/// The environment variable that says so. Its value begins with the inode of the socket on
/// descriptor 0: a process that inherited the variable from a child, but not that socket, is no child. So the
/// variable need never be removed, which would race with other threads.
pub(crate) const VARIABLE: &str = "OFFSPRING_CHILD";

/// The descriptor of the lifeline's reading end, in children that have one.
pub(crate) const LIFELINE: i32 = 3;

/// The descriptor of the parent's standard output, in children that start with another one.
pub(crate) const STDOUT: i32 = 4;

/// No child gets a descriptor from this number on.
pub(crate) const LIMIT: i32 = 5;

/// What a child was given apart from its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inherited {
    /// The descriptor [`LIFELINE`].
    pub(crate) lifeline: bool,
    /// The descriptor [`STDOUT`].
    pub(crate) stdout: bool,
}

impl Inherited {
    /// The variable's value for a child with this end of the connection.
    pub(crate) fn marker(self, socket: impl AsFd) -> Result<String> {
        let lifeline = if self.lifeline { " lifeline" } else { "" };
        let stdout = if self.stdout { " stdout" } else { "" };
        Ok(format!("{}{lifeline}{stdout}", sys::inode(socket.as_fd())?))
    }
}

/// What this process was given, if it was started as a child and has not taken its connection yet.
pub(crate) fn unserved() -> Option<Inherited> {
    let value = std::env::var(VARIABLE).ok()?;
    let mut words = value.split(' ');
    let inode = sys::inode(sys::standard(0)).ok()?.to_string();
    if words.next()? != inode {
        return None;
    }
    let mut given = Inherited {
        lifeline: false,
        stdout: false,
    };
    for word in words {
        match word {
            "lifeline" => given.lifeline = true,
            "stdout" => given.stdout = true,
            _ => {}
        }
    }
    Some(given)
}

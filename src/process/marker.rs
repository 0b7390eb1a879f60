//! How a process detects that it was started as a child.

use crate::sys;
use std::io::Result;
use std::os::fd::AsFd;

/// The environment variable that marks a child. Its value begins with the inode of the socket on
/// descriptor 0: a process that inherited the variable from a child, but not that socket, is not a
/// child. So the variable need not be removed, which would race with other threads.
pub(crate) const VARIABLE: &str = "OFFSPRING_CHILD";

/// The descriptor of the lifeline's reading end, in children that have one.
pub(crate) const LIFELINE: i32 = 3;

/// The descriptor of what is to be the standard output, in children whose descriptor 1 is another file.
pub(crate) const STDOUT: i32 = 4;

/// No child gets a descriptor of this number or above.
pub(crate) const LIMIT: i32 = 5;

/// The descriptors that a child inherits in addition to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inherited {
    /// Whether it has the descriptor [`LIFELINE`].
    pub(crate) lifeline: bool,
    /// Whether it has the descriptor [`STDOUT`].
    pub(crate) stdout: bool,
}

impl Inherited {
    /// The variable's value for a child that has this end of the connection.
    pub(crate) fn marker(self, socket: impl AsFd) -> Result<String> {
        let lifeline = if self.lifeline { " lifeline" } else { "" };
        let stdout = if self.stdout { " stdout" } else { "" };
        Ok(format!("{}{lifeline}{stdout}", sys::inode(socket.as_fd())?))
    }
}

/// What this process inherited, if it was started as a child and has not taken its connection yet.
pub(crate) fn unserved() -> Option<Inherited> {
    let value = std::env::var(VARIABLE).ok()?;
    let mut words = value.split(' ');
    let inode = sys::inode(sys::standard(0)).ok()?.to_string();
    if words.next()? != inode {
        return None;
    }
    let mut inherited = Inherited {
        lifeline: false,
        stdout: false,
    };
    for word in words {
        match word {
            "lifeline" => inherited.lifeline = true,
            "stdout" => inherited.stdout = true,
            _ => {}
        }
    }
    Some(inherited)
}

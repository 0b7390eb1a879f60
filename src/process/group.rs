//! Which process group a child is in.

use crate::sys::Leads;

/// Which process group and session a child is in, and so what it has to do with the parent's
/// terminal. Set with [`Process::group`](crate::Process::group).
///
/// A terminal sends its signals, those of Ctrl-C, Ctrl-Z and of closing it, to one process group,
/// the one in the foreground, and expects only that group to read from it.
///
/// # Examples
///
/// ```
/// use offspring::{Group, Worker};
///
/// fn main() -> Result<(), offspring::BoxError> {
///     let me = Worker::new()
///         .function("terminal", |_request, _caller| {
///             Ok(std::fs::File::open("/dev/tty").is_ok().to_string())
///         })
///         .run();
///     let rpc = me.group(Group::Session).rpc("terminal").start()?;
///     assert_eq!(rpc.call(()).wait()?, ["false"]);
///     rpc.finish()?;
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Group {
    /// A group of its own in the parent's session. The default. The terminal's signals reach only
    /// the parent, which decides what to do. A child that reads from the terminal gets the error
    /// `EIO`; it can write to it and change its settings. [`Rpc::kill`](crate::Rpc::kill) and the
    /// stop ladder signal the whole group, so also what the child has started.
    #[default]
    Own,
    /// The parent's group. If that is in the foreground, the child can read from the terminal, to
    /// ask for a password, say; and Ctrl-C ends it together with the parent. Only the child itself
    /// is ever signalled, since the group is not its own.
    Parents,
    /// A session of its own, and in it a group of its own: it has no terminal, `/dev/tty` cannot be
    /// opened, and a program that would ask there uses other means or fails. The whole group is
    /// signalled. Needs glibc 2.26.
    Session,
}

impl Group {
    /// What the child leads.
    pub(super) fn leads(self) -> Leads {
        match self {
            Group::Own => Leads::Group,
            Group::Parents => Leads::Nothing,
            Group::Session => Leads::Session,
        }
    }
}

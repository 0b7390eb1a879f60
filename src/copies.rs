//! Copies of this process that the program's code makes by fork(2).

use crate::sys::{self, Origin};

/// Runs code of the program's. A copy of this process that it makes, and that returns, ends here.
#[inline]
pub(crate) fn run<T>(code: impl FnOnce() -> T) -> T {
    // What runs the program's code, a handle's link or a child's hub, has asked to notice copies.
    let origin = Origin::current();
    let value = code();
    end_if_copy(origin);
    value
}

/// Ends this process if it is a copy that was made since `origin` was taken, by code of the program's
/// that has now returned. Only the original may continue: the copy would write to the same sockets, read
/// from them, and run the same callbacks again.
#[inline]
pub(crate) fn end_if_copy(origin: Origin) {
    if origin.is_elsewhere() {
        end();
    }
}

#[cold]
fn end() -> ! {
    let message = "offspring: a process that was forked in a function or callback has returned from \
                   it, and is ended here; it must execute a program, or end with _exit\n";
    // Not by the standard library, whose lock another thread of the original may have held.
    let _ = sys::write(sys::standard(2), message.as_bytes());
    sys::exit_immediately(1)
}

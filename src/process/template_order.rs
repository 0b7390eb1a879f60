//! What a template is asked for. Pure.

use crate::codec::{CodecError, Strings};
use crate::fd::Fd;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The request that moves a template to another connection.
const MOVE: &str = "move";

/// See the module's documentation.
#[derive(Debug)]
pub(crate) enum TemplateOrder<F> {
    /// To make a copy.
    Copy(ForkOrder<F>),
    /// To go on with this connection, whoever has the other end of it, as a process that has run its setups.
    Move(F),
}

impl TemplateOrder<Fd> {
    /// The request.
    pub(crate) fn encode(self) -> Strings {
        match self {
            TemplateOrder::Copy(order) => order.encode(),
            TemplateOrder::Move(socket) => Strings::from_iter([MOVE]).with_fd(socket),
        }
    }
}

impl TemplateOrder<OwnedFd> {
    /// Reads the request.
    pub(crate) fn decode(mut request: Strings) -> Result<Self, CodecError> {
        if request == [MOVE] {
            let [socket] = request.take_fds()?;
            return Ok(TemplateOrder::Move(socket));
        }
        ForkOrder::decode(request).map(TemplateOrder::Copy)
    }
}

/// What a template is told about a copy of it.
#[derive(Debug)]
pub(crate) struct ForkOrder<F> {
    /// The copy's end of its connection.
    pub(crate) socket: F,
    /// As those that an executed child inherits.
    pub(crate) lifeline: Option<F>,
    pub(crate) note: Option<F>,
    /// What takes the place of the template's.
    pub(crate) stdout: Option<F>,
    pub(crate) stderr: Option<F>,
    pub(crate) group: CopyGroup,
    pub(crate) dir: Option<PathBuf>,
    /// The parent's namespace of process ids.
    pub(crate) namespace: u64,
}

/// Which process group a copy is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyGroup {
    Own,
    /// That of another process.
    Join(u32),
    /// Its own, in a session of its own.
    Session,
}

impl ForkOrder<Fd> {
    /// The request for a copy.
    fn encode(self) -> Strings {
        let mut request = Strings::new();
        for (name, fd) in [
            ("socket", Some(self.socket)),
            ("lifeline", self.lifeline),
            ("note", self.note),
            ("stdout", self.stdout),
            ("stderr", self.stderr),
        ] {
            if let Some(fd) = fd {
                request = request.with_fd(fd);
                request.push(name);
            }
        }
        match self.group {
            CopyGroup::Own => {}
            CopyGroup::Join(group) => request.push(format!("group={group}")),
            CopyGroup::Session => request.push("session"),
        }
        if let Some(dir) = self.dir {
            request.push([b"dir=", dir.as_os_str().as_bytes()].concat());
        }
        request.push(format!("namespace={}", self.namespace));
        request
    }
}

impl ForkOrder<OwnedFd> {
    /// Reads the request for a copy.
    fn decode(mut request: Strings) -> Result<Self, CodecError> {
        let mut fds = request.take_all_fds()?.into_iter();
        let [mut socket, mut lifeline, mut note, mut stdout, mut stderr] = [const { None }; 5];
        let (mut group, mut dir, mut namespace) = (CopyGroup::Own, None, 0);
        for word in &request {
            let invalid = || CodecError::new(format!("unexpected `{}`", word.escape_ascii()));
            let at = word.iter().position(|byte| *byte == b'=');
            let (name, value) = word.split_at(at.unwrap_or(word.len()));
            let value = value.get(1..).unwrap_or_default();
            let number = || str::from_utf8(value).ok()?.parse::<u64>().ok();
            let place = match name {
                b"socket" => &mut socket,
                b"lifeline" => &mut lifeline,
                b"note" => &mut note,
                b"stdout" => &mut stdout,
                b"stderr" => &mut stderr,
                b"group" => {
                    let number = number().and_then(|group| group.try_into().ok());
                    group = CopyGroup::Join(number.ok_or_else(invalid)?);
                    continue;
                }
                b"session" => {
                    group = CopyGroup::Session;
                    continue;
                }
                b"dir" => {
                    dir = Some(OsStr::from_bytes(value).into());
                    continue;
                }
                b"namespace" => {
                    namespace = number().ok_or_else(invalid)?;
                    continue;
                }
                _ => return Err(invalid()),
            };
            let fd = fds.next().ok_or_else(invalid)?;
            *place = Some(fd.into_owned().map_err(CodecError::new)?);
        }
        let missing = || CodecError::new("there is no connection for the copy");
        Ok(ForkOrder {
            socket: socket.ok_or_else(missing)?,
            lifeline,
            note,
            stdout,
            stderr,
            group,
            dir,
            namespace,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    fn null() -> Fd {
        Fd::from(File::open("/dev/null").unwrap())
    }

    #[test]
    fn order_arrives_as_it_was_given() {
        for (group, all) in [
            (CopyGroup::Own, true),
            (CopyGroup::Join(77), false),
            (CopyGroup::Session, true),
        ] {
            let fd = || all.then(null);
            let order = ForkOrder {
                socket: null(),
                lifeline: fd(),
                note: None,
                stdout: fd(),
                stderr: fd(),
                group,
                dir: all.then(|| OsStr::from_bytes(b"/a=\xff").into()),
                namespace: 9,
            };
            let read = ForkOrder::decode(order.encode()).unwrap();
            assert!(read.socket.as_raw_fd() > 2 && read.note.is_none());
            for fd in [&read.lifeline, &read.stdout, &read.stderr] {
                assert_eq!(fd.is_some(), all);
            }
            assert_eq!((read.group, read.namespace), (group, 9));
            let dir = read
                .dir
                .map(|dir| dir.into_os_string().into_encoded_bytes());
            assert_eq!(dir, all.then(|| b"/a=\xff".to_vec()));
        }
    }

    #[test]
    fn nonsense_is_no_order() {
        let of = |words: &[&str], fds: usize| {
            let words: Strings = words.iter().collect();
            let order = (0..fds).fold(words, |words, _| words.with_fd(null()));
            ForkOrder::decode(order).unwrap_err().to_string()
        };
        assert_eq!(of(&[], 0), "there is no connection for the copy");
        assert_eq!(of(&["socket"], 0), "unexpected `socket`");
        assert_eq!(of(&["socket", "more"], 1), "unexpected `more`");
        assert_eq!(of(&["group=x"], 0), "unexpected `group=x`");
        assert_eq!(
            of(&["group=4294967296"], 0),
            "unexpected `group=4294967296`"
        );
        assert_eq!(of(&["namespace"], 0), "unexpected `namespace`");
    }
}

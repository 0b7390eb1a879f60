//! Messages between the two ends of a connection that carries the streams of many children: control frames
//! of octet strings, the first of which is the verb. Frames of data have the number of their channel as id.

use super::control::{ControlError, Fields, Message};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What the far end's greeting begins with, and ends with; the version of these messages is in between. A
/// terminal would change its line breaks.
pub(crate) const GREETING: (&[u8], &[u8]) = (b"\0offspring relay\n", b"\n\xff");
/// The version of the messages. Both ends must have the same.
pub(crate) const CARRIER_VERSION: u32 = 1;

/// The id of a control frame, in both directions.
pub(crate) const CARRIER_CONTROL: u32 = 0;

/// Messages about the flow of bytes, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// So many more bytes may be sent on this channel.
    Credit {
        channel: u32,
        bytes: usize,
    },
    /// Nothing more is sent on this channel.
    Eof {
        channel: u32,
    },
    /// Nothing more is wanted on this channel.
    Shut {
        channel: u32,
    },
    /// The other end is to say that it is there.
    Ping,
    Pong,
}

impl Flow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let message = match self {
            Flow::Credit { channel, bytes } => Message::new("credit").number(channel).number(bytes),
            Flow::Eof { channel } => Message::new("eof").number(channel),
            Flow::Shut { channel } => Message::new("shut").number(channel),
            Flow::Ping => Message::new("ping"),
            Flow::Pong => Message::new("pong"),
        };
        message.0
    }

    /// Reads a message, if it is one of these.
    pub(crate) fn decode(payload: &[u8]) -> Result<Option<Self>, ControlError> {
        let mut fields = Fields::new(payload);
        let flow = match fields.text("verb")? {
            "credit" => Flow::Credit {
                channel: fields.number(CHANNEL)?,
                bytes: fields.number("number of bytes")?,
            },
            "eof" => Flow::Eof {
                channel: fields.number(CHANNEL)?,
            },
            "shut" => Flow::Shut {
                channel: fields.number(CHANNEL)?,
            },
            "ping" => Flow::Ping,
            "pong" => Flow::Pong,
            _ => return Ok(None),
        };
        Ok(Some(flow))
    }
}

/// Messages to the far end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ToRelay<'a> {
    /// A message that the next template is to be sent before it is copied.
    Prepare(&'a [u8]),
    /// Describes a template, with the messages so far. It is started by its first copy.
    Template {
        id: u32,
        huge_pages: u64,
        order: StartOrder<'a>,
    },
    /// Start a template, and say when it is there.
    Warm { id: u32 },
    /// A template is not wanted any more.
    Forget { id: u32 },
    /// Start a child, which is called by the number of the channel of its connection.
    Open {
        channel: u32,
        /// How long a template may take to make it, in milliseconds.
        timeout: u64,
        order: StartOrder<'a>,
    },
    /// Send a signal to a child.
    Signal { channel: u32, number: i32 },
}

/// How a process is started there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StartOrder<'a> {
    /// The template that it is a copy of; 0 is to execute the program.
    pub(crate) base: u32,
    pub(crate) stdout: Outlet,
    pub(crate) stderr: Outlet,
    pub(crate) group: FarGroup,
    /// Whether it finishes its work when the connection ends.
    pub(crate) outlives: bool,
    pub(crate) dir: Option<&'a Path>,
}

/// Where a far process's output goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Outlet {
    #[default]
    Inherit,
    Null,
    /// To this channel.
    Channel(u32),
}

/// Which process group a far process is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FarGroup {
    Own,
    Relays,
    Session,
}

impl<'a> StartOrder<'a> {
    fn encode(&self, message: Message) -> Message {
        let message = message.number(self.base);
        let message = self.stderr.encode(self.stdout.encode(message));
        let message = message.text(match self.group {
            FarGroup::Own => "own",
            FarGroup::Relays => "relays",
            FarGroup::Session => "session",
        });
        let message = message.text(if self.outlives { "outlives" } else { "dies" });
        match self.dir {
            Some(dir) => message.bytes(dir.as_os_str().as_bytes()),
            None => message,
        }
    }

    /// Reads what is left of a message.
    fn decode(mut fields: Fields<'a>) -> Result<Self, ControlError> {
        Ok(StartOrder {
            base: fields.number(TEMPLATE)?,
            stdout: Outlet::decode(&mut fields)?,
            stderr: Outlet::decode(&mut fields)?,
            group: match fields.text("group")? {
                "own" => FarGroup::Own,
                "relays" => FarGroup::Relays,
                "session" => FarGroup::Session,
                _ => return Err(ControlError::Invalid("group")),
            },
            outlives: match fields.text("end")? {
                "outlives" => true,
                "dies" => false,
                _ => return Err(ControlError::Invalid("end")),
            },
            dir: match fields.next()? {
                Some(dir) => Some(Path::new(OsStr::from_bytes(dir))),
                None => None,
            },
        })
    }
}

impl Outlet {
    fn encode(self, message: Message) -> Message {
        match self {
            Outlet::Inherit => message.text("inherit"),
            Outlet::Null => message.text("null"),
            Outlet::Channel(channel) => message.number(channel),
        }
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, ControlError> {
        Ok(match fields.text(CHANNEL)? {
            "inherit" => Outlet::Inherit,
            "null" => Outlet::Null,
            number => {
                let number = number.parse();
                Outlet::Channel(number.map_err(|_| ControlError::Invalid(CHANNEL))?)
            }
        })
    }

    /// The channel, if it has one.
    pub(crate) fn channel(self) -> Option<u32> {
        match self {
            Outlet::Channel(channel) => Some(channel),
            Outlet::Inherit | Outlet::Null => None,
        }
    }
}

/// The names of fields in errors.
const CHANNEL: &str = "channel";
const TEMPLATE: &str = "number of a template";

impl<'a> ToRelay<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let message = match self {
            ToRelay::Prepare(message) => return Message::new("prepare").raw(message),
            ToRelay::Template {
                id,
                huge_pages,
                order,
            } => order.encode(Message::new("template").number(id).number(huge_pages)),
            ToRelay::Warm { id } => Message::new("warm").number(id),
            ToRelay::Forget { id } => Message::new("forget").number(id),
            ToRelay::Open {
                channel,
                timeout,
                order,
            } => order.encode(Message::new("open").number(channel).number(timeout)),
            ToRelay::Signal { channel, number } => {
                Message::new("signal").number(channel).number(number)
            }
        };
        message.0
    }

    /// Reads a message that is no [`Flow`].
    pub(crate) fn decode(payload: &'a [u8]) -> Result<Self, ControlError> {
        let mut fields = Fields::new(payload);
        Ok(match fields.text("verb")? {
            "prepare" => ToRelay::Prepare(fields.rest(payload)),
            "template" => ToRelay::Template {
                id: fields.number(TEMPLATE)?,
                huge_pages: fields.number("size")?,
                order: StartOrder::decode(fields)?,
            },
            "warm" => ToRelay::Warm {
                id: fields.number(TEMPLATE)?,
            },
            "forget" => ToRelay::Forget {
                id: fields.number(TEMPLATE)?,
            },
            "open" => ToRelay::Open {
                channel: fields.number(CHANNEL)?,
                timeout: fields.number("timeout")?,
                order: StartOrder::decode(fields)?,
            },
            "signal" => ToRelay::Signal {
                channel: fields.number(CHANNEL)?,
                number: fields.number("signal")?,
            },
            verb => return Err(ControlError::Verb(verb.to_owned())),
        })
    }
}

/// Messages from the far end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FromRelay<'a> {
    /// A child was started.
    Opened { channel: u32, pid: u32 },
    /// A child could not be started, and why: the name of a kind of error, and its text.
    Refused {
        channel: u32,
        kind: &'a str,
        message: &'a str,
    },
    /// A child has ended, and everything that it has written was sent.
    Exited {
        channel: u32,
        /// As wait(2) has it, if it is known.
        status: Option<i32>,
        noted: FarNote,
    },
    /// A template is there, or why it is not.
    Warmed {
        id: u32,
        refused: Option<(&'a str, &'a str)>,
    },
}

/// What a far child has noted of the calls that it has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FarNote {
    Nothing,
    LastCall(u32),
    Unknown,
}

impl<'a> FromRelay<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let message = match self {
            FromRelay::Opened { channel, pid } => {
                Message::new("opened").number(channel).number(pid)
            }
            FromRelay::Refused {
                channel,
                kind,
                message,
            } => Message::new("refused")
                .number(channel)
                .text(kind)
                .text(message),
            FromRelay::Exited {
                channel,
                status,
                noted,
            } => {
                let message = Message::new("exited").number(channel);
                let message = match status {
                    Some(status) => message.number(status),
                    None => message.text("unknown"),
                };
                match noted {
                    FarNote::Nothing => message.text("nothing"),
                    FarNote::LastCall(id) => message.number(id),
                    FarNote::Unknown => message.text("unknown"),
                }
            }
            FromRelay::Warmed { id, refused } => {
                let message = Message::new("warmed").number(id);
                match refused {
                    Some((kind, text)) => message.text(kind).text(text),
                    None => message,
                }
            }
        };
        message.0
    }

    /// Reads a message that is no [`Flow`].
    pub(crate) fn decode(payload: &'a [u8]) -> Result<Self, ControlError> {
        let mut fields = Fields::new(payload);
        Ok(match fields.text("verb")? {
            "opened" => FromRelay::Opened {
                channel: fields.number(CHANNEL)?,
                pid: fields.number("process id")?,
            },
            "refused" => FromRelay::Refused {
                channel: fields.number(CHANNEL)?,
                kind: fields.text("kind")?,
                message: fields.text("message")?,
            },
            "exited" => FromRelay::Exited {
                channel: fields.number(CHANNEL)?,
                status: match fields.text("status")? {
                    "unknown" => None,
                    status => {
                        let status = status.parse();
                        Some(status.map_err(|_| ControlError::Invalid("status"))?)
                    }
                },
                noted: match fields.text("note")? {
                    "nothing" => FarNote::Nothing,
                    "unknown" => FarNote::Unknown,
                    id => {
                        let id = id.parse();
                        FarNote::LastCall(id.map_err(|_| ControlError::Invalid("note"))?)
                    }
                },
            },
            "warmed" => FromRelay::Warmed {
                id: fields.number(TEMPLATE)?,
                refused: match fields.next()? {
                    Some(kind) => {
                        let kind = str::from_utf8(kind);
                        let kind = kind.map_err(|_| ControlError::Invalid("kind"))?;
                        Some((kind, fields.text("message")?))
                    }
                    None => None,
                },
            },
            verb => return Err(ControlError::Verb(verb.to_owned())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order<'a>() -> StartOrder<'a> {
        StartOrder {
            base: 3,
            stdout: Outlet::Inherit,
            stderr: Outlet::Channel(u32::MAX),
            group: FarGroup::Own,
            outlives: false,
            dir: None,
        }
    }

    #[test]
    fn messages_round_trip() {
        for flow in [
            Flow::Credit {
                channel: 7,
                bytes: 9,
            },
            Flow::Eof { channel: 1 },
            Flow::Shut { channel: u32::MAX },
            Flow::Ping,
            Flow::Pong,
        ] {
            assert_eq!(Flow::decode(&flow.encode()), Ok(Some(flow)));
        }
        let other = StartOrder {
            base: 0,
            stdout: Outlet::Null,
            group: FarGroup::Session,
            outlives: true,
            dir: Some(Path::new("/tmp")),
            ..order()
        };
        let third = StartOrder {
            group: FarGroup::Relays,
            dir: Some(Path::new(OsStr::from_bytes(b"\xff"))),
            ..order()
        };
        for message in [
            ToRelay::Prepare(b"\x05setup\xff"),
            ToRelay::Template {
                id: 2,
                huge_pages: u64::MAX,
                order: order(),
            },
            ToRelay::Warm { id: 2 },
            ToRelay::Forget { id: 2 },
            ToRelay::Open {
                channel: 5,
                timeout: 1,
                order: other,
            },
            ToRelay::Open {
                channel: 6,
                timeout: 0,
                order: third,
            },
            ToRelay::Signal {
                channel: 5,
                number: 9,
            },
        ] {
            let encoded = message.encode();
            assert_eq!(Flow::decode(&encoded), Ok(None));
            assert_eq!(ToRelay::decode(&encoded), Ok(message));
        }
        let exited = |status, noted| FromRelay::Exited {
            channel: 4,
            status,
            noted,
        };
        for message in [
            FromRelay::Opened {
                channel: 4,
                pid: 77,
            },
            FromRelay::Refused {
                channel: 4,
                kind: "spawn",
                message: "no",
            },
            exited(Some(-1), FarNote::Nothing),
            exited(Some(256), FarNote::LastCall(0)),
            exited(None, FarNote::Unknown),
            FromRelay::Warmed {
                id: 1,
                refused: None,
            },
            FromRelay::Warmed {
                id: 1,
                refused: Some(("setup", "it is cold")),
            },
        ] {
            let encoded = message.encode();
            assert_eq!(Flow::decode(&encoded), Ok(None));
            assert_eq!(FromRelay::decode(&encoded), Ok(message));
        }
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let strings = |strings: &[&str]| super::super::octets::encode(strings);
        let relay = |words: &[&str]| ToRelay::decode(&strings(words)).unwrap_err().to_string();
        let near = |words: &[&str]| FromRelay::decode(&strings(words)).unwrap_err().to_string();
        assert_eq!(relay(&["fly"]), "unknown control verb \"fly\"");
        assert_eq!(near(&["open"]), "unknown control verb \"open\"");
        assert_eq!(relay(&[]), "message without a verb");
        assert_eq!(relay(&["signal", "x"]), "message with an invalid channel");
        assert_eq!(
            relay(&["open", "1", "1", "0", "null", "null", "x"]),
            "message with an invalid group"
        );
        assert_eq!(
            relay(&["open", "1", "1", "0", "null", "null", "own", "x"]),
            "message with an invalid end"
        );
        assert_eq!(
            relay(&["open", "1", "1", "0", "up"]),
            "message with an invalid channel"
        );
        assert_eq!(
            near(&["exited", "1", "x"]),
            "message with an invalid status"
        );
        assert_eq!(
            near(&["exited", "1", "0", "x"]),
            "message with an invalid note"
        );
        assert_eq!(near(&["warmed", "1", "x"]), "message without a message");
        let flow = Flow::decode(&strings(&["credit", "1"])).unwrap_err();
        assert_eq!(flow.to_string(), "message without a number of bytes");
    }
}

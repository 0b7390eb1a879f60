//! Control messages: octet strings, the first of which is the verb.

use super::octets::{self, OctetsError};
use std::fmt;
use std::str::FromStr;

/// The version of the control messages. Both sides must have the same.
pub(crate) const VERSION: u32 = 1;

/// The longest control message, but for progress reports, asks and their answers, and what precedes
/// [`ToParent::Ready`] and [`ToChild::Run`]: none of the others carries anything of the program's that is
/// long.
pub(crate) const LONGEST_CONTROL: usize = 64 << 10;
/// The longest message to a child before it serves: a setup with its request.
pub(crate) const LONGEST_SETUP: usize = 1 << 20;
/// How much of a text a control message carries.
pub(crate) const LONGEST_TEXT: usize = 32 << 10;
/// A control message that begins like this shows what it is, and which call or ask it is about.
pub(crate) const TELLING: usize = 64;

/// Truncates a text to at most `len` bytes.
pub(crate) fn truncate(text: &str, len: usize) -> &str {
    let fits = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=len.min(text.len())).rev().find(fits);
    &text[..end.unwrap_or(0)]
}

/// Why a child refuses to serve: a setup failed, or none has that name.
pub(crate) const REFUSED_SETUP: &str = "setup";
/// ... there is no function of that name.
pub(crate) const REFUSED_FUNCTION: &str = "function";
/// ... the function has another codec, or another version.
pub(crate) const REFUSED_MISMATCH: &str = "mismatch";
/// ... the child speaks another version of the protocol.
pub(crate) const REFUSED_VERSION: &str = "version";
/// ... one of its settings cannot be applied.
pub(crate) const REFUSED_SETTINGS: &str = "settings";

/// Messages from a parent to its child, other than requests.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ToChild<'a> {
    /// What is asked for from here on is to be shared by copies of the process. They are made by requests
    /// that come after `run`, whatever function that names.
    Template {
        /// How much memory is put into huge pages, if it is so much or more.
        huge_pages: u64,
    },
    /// The process that adopts this connection is alive as long as the pipe does not hang up whose reading end
    /// comes with this.
    Lifeline,
    /// The parent is on another machine, where no descriptors can be sent.
    Far,
    /// Apply these settings to the process: three octet strings for each.
    Settings(&'a [u8]),
    /// Run a setup with this request, which its codec has encoded.
    Setup {
        setup: FunctionId<'a>,
        request: &'a [u8],
    },
    /// Serve. The requests that come first are for the function that it names.
    Run(Run<'a>),
    /// The requests that follow are for another function.
    Function(FunctionId<'a>),
    /// The answer to this request is no longer wanted.
    Cancel { id: u32 },
    /// The answer to an ask.
    Answer(AskAnswer<'a>),
}

/// The answer to an ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AskAnswer<'a> {
    /// The ask's.
    pub(crate) id: u32,
    /// Whether the payload is a [`Failure`]. Otherwise the service's codec has encoded it.
    pub(crate) failed: bool,
    pub(crate) payload: &'a [u8],
}

/// What a function or setup must be, in the table of the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FunctionId<'a> {
    pub(crate) name: &'a str,
    /// The version of its types.
    pub(crate) version: u32,
    /// The name of the codec of its payloads.
    pub(crate) codec: &'a str,
}

impl<'a> FunctionId<'a> {
    fn decode(fields: &mut Fields<'a>) -> Result<Self, ControlError> {
        Ok(FunctionId {
            name: fields.text("function name")?,
            version: fields.number("service version")?,
            codec: fields.text("codec")?,
        })
    }

    /// A function of octet strings.
    #[cfg(test)]
    pub(crate) fn octets(name: &'a str) -> Self {
        FunctionId {
            name,
            version: 0,
            codec: "octets",
        }
    }
}

/// Which function a child should serve, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run<'a> {
    /// The parent's [`VERSION`].
    pub(crate) protocol: u32,
    pub(crate) function: FunctionId<'a>,
    /// The longest payload either side may send.
    pub(crate) max_frame: u32,
    /// The initial size of the child's read buffer.
    pub(crate) buflen: u32,
}

impl<'a> ToChild<'a> {
    /// The payload of the control frame.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            ToChild::Template { huge_pages } => Message::new("template").number(huge_pages).0,
            ToChild::Lifeline => Message::new("lifeline").0,
            ToChild::Far => Message::new("far").0,
            ToChild::Settings(settings) => Message::new("settings").raw(settings),
            ToChild::Setup { setup, request } => Message::new("setup").function(setup).raw(request),
            ToChild::Run(run) => {
                Message::new("run")
                    .number(run.protocol)
                    .function(&run.function)
                    .number(run.max_frame)
                    .number(run.buflen)
                    .0
            }
            ToChild::Function(function) => Message::new("function").function(function).0,
            ToChild::Cancel { id } => Message::new("cancel").number(id).0,
            ToChild::Answer(answer) => {
                let begun = ToChild::begin_answer(answer.id, answer.failed);
                Message(begun).raw(answer.payload)
            }
        }
    }

    /// What precedes the payload of an answer.
    pub(crate) fn begin_answer(id: u32, failed: bool) -> Vec<u8> {
        let kind = if failed { "failed" } else { "reply" };
        Message::new("answer").number(id).text(kind).0
    }

    /// The ask that a message answers which begins like this. `None` if it is no answer.
    pub(crate) fn answered(begun: &[u8]) -> Option<u32> {
        let mut fields = Fields(octets::iter(&begun[..begun.len().min(TELLING)]));
        let verb = fields.text("verb").ok()?;
        (verb == "answer").then(|| fields.number(ASK).ok())?
    }

    /// Reads the payload of a control frame.
    pub(crate) fn decode(payload: &'a [u8]) -> Result<Self, ControlError> {
        let mut fields = Fields::new(payload);
        match fields.text("verb")? {
            "template" => Ok(ToChild::Template {
                huge_pages: fields.number("size")?,
            }),
            "lifeline" => Ok(ToChild::Lifeline),
            "far" => Ok(ToChild::Far),
            "settings" => Ok(ToChild::Settings(fields.rest(payload))),
            "setup" => {
                let setup = FunctionId::decode(&mut fields)?;
                let request = fields.rest(payload);
                Ok(ToChild::Setup { setup, request })
            }
            "run" => Ok(ToChild::Run(Run {
                protocol: fields.number("protocol version")?,
                function: FunctionId::decode(&mut fields)?,
                max_frame: fields.number("max_frame")?,
                buflen: fields.number("buflen")?,
            })),
            "function" => Ok(ToChild::Function(FunctionId::decode(&mut fields)?)),
            "cancel" => Ok(ToChild::Cancel {
                id: fields.number("call id")?,
            }),
            "answer" => {
                let id = fields.number(ASK)?;
                let failed = match fields.text("kind")? {
                    "reply" => false,
                    "failed" => true,
                    _ => return Err(ControlError::Invalid("kind")),
                };
                let payload = fields.rest(payload);
                Ok(ToChild::Answer(AskAnswer {
                    id,
                    failed,
                    payload,
                }))
            }
            verb => Err(ControlError::Verb(verb.to_owned())),
        }
    }
}

/// Messages from a child to its parent, other than replies and events.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ToParent<'a> {
    /// All setups ran, and requests are served. Precedes everything else.
    Ready { protocol: u32 },
    /// The child refuses to serve, and why. Sent instead of `Ready`.
    Refused { kind: &'a str, message: &'a str },
    /// The progress of a call, encoded by its service's codec.
    Progress { id: u32, payload: &'a [u8] },
    /// Asks for what the parent serves, with an id of the child's.
    Ask { id: u32, asked: Asked<'a> },
    /// The same, without an answer.
    Tell(Asked<'a>),
    /// The child waits no longer for the answer to an ask, which it gets nevertheless.
    Forget { id: u32 },
    /// The child wishes to be sent no further calls. It may be repeated.
    Retire,
    /// A log record. May also precede `Ready`.
    #[cfg(feature = "log")]
    Log(LogRecord<'a>),
    /// A log record, from a child built with the feature `log`.
    #[cfg(not(feature = "log"))]
    Log,
}

/// What a child asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked<'a> {
    pub(crate) service: FunctionId<'a>,
    /// Encoded by the service's codec.
    pub(crate) request: &'a [u8],
}

impl<'a> Asked<'a> {
    /// Reads what is left of a payload.
    fn decode(mut fields: Fields<'a>, payload: &'a [u8]) -> Result<Self, ControlError> {
        Ok(Asked {
            service: FunctionId::decode(&mut fields)?,
            request: fields.rest(payload),
        })
    }
}

/// What a control message is that may be long, by its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LongToParent {
    /// Progress of the call with this id.
    Progress(u32),
    /// An ask with this id.
    Ask(u32),
    Tell,
}

/// The parts of a log record that are sent.
#[cfg(feature = "log")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogRecord<'a> {
    /// As the `log` crate numbers them: 1 is an error, 5 a trace.
    pub(crate) level: u32,
    pub(crate) target: &'a str,
    pub(crate) module: &'a str,
    pub(crate) file: &'a str,
    /// 0 if unknown.
    pub(crate) line: u32,
    pub(crate) message: &'a str,
}

impl<'a> ToParent<'a> {
    /// The payload of the control frame.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            ToParent::Ready { protocol } => Message::new("ready").number(protocol).0,
            ToParent::Refused { kind, message } => {
                Message::new("refused").text(kind).text(message).0
            }
            ToParent::Progress { id, payload } => {
                Message(ToParent::begin_progress(*id, payload.len())).raw(payload)
            }
            ToParent::Ask { id, asked } => {
                Message(ToParent::begin_ask(Some(*id), asked.service)).raw(asked.request)
            }
            ToParent::Tell(asked) => {
                Message(ToParent::begin_ask(None, asked.service)).raw(asked.request)
            }
            ToParent::Forget { id } => Message::new("forget").number(id).0,
            ToParent::Retire => Message::new("retire").0,
            #[cfg(feature = "log")]
            ToParent::Log(record) => {
                Message::new("log")
                    .number(record.level)
                    .text(record.target)
                    .text(record.module)
                    .text(record.file)
                    .number(record.line)
                    .text(record.message)
                    .0
            }
            #[cfg(not(feature = "log"))]
            ToParent::Log => Message::new("log").0,
        }
    }

    /// What precedes the request of an ask, or of a tell, which has no id.
    pub(crate) fn begin_ask(id: Option<u32>, service: FunctionId<'_>) -> Vec<u8> {
        let message = match id {
            Some(id) => Message::new("ask").number(id),
            None => Message::new("tell"),
        };
        message.function(&service).0
    }

    /// The beginning of a [`Progress`](ToParent::Progress) message, for a payload of `len` bytes.
    pub(crate) fn begin_progress(id: u32, len: usize) -> Vec<u8> {
        let mut message = Message::new("progress").number(id).0;
        octets::push_len(&mut message, len);
        message
    }

    /// What a message is that begins like this, if it may be long.
    pub(crate) fn long(begun: &[u8]) -> Option<LongToParent> {
        let mut fields = Fields(octets::iter(&begun[..begun.len().min(TELLING)]));
        match fields.text("verb").ok()? {
            "progress" => fields.number("call id").ok().map(LongToParent::Progress),
            "ask" => fields.number(ASK).ok().map(LongToParent::Ask),
            "tell" => Some(LongToParent::Tell),
            _ => None,
        }
    }

    /// Reads the payload of a control frame.
    pub(crate) fn decode(payload: &'a [u8]) -> Result<Self, ControlError> {
        let mut fields = Fields::new(payload);
        match fields.text("verb")? {
            "ready" => Ok(ToParent::Ready {
                protocol: fields.number("protocol version")?,
            }),
            "refused" => Ok(ToParent::Refused {
                kind: fields.text("kind")?,
                message: fields.text("message")?,
            }),
            "progress" => Ok(ToParent::Progress {
                id: fields.number("call id")?,
                payload: fields.bytes("progress")?,
            }),
            "ask" => Ok(ToParent::Ask {
                id: fields.number(ASK)?,
                asked: Asked::decode(fields, payload)?,
            }),
            "tell" => Ok(ToParent::Tell(Asked::decode(fields, payload)?)),
            "forget" => Ok(ToParent::Forget {
                id: fields.number(ASK)?,
            }),
            "retire" => Ok(ToParent::Retire),
            #[cfg(feature = "log")]
            "log" => Ok(ToParent::Log(LogRecord {
                level: fields.number("level")?,
                target: fields.text("target")?,
                module: fields.text("module")?,
                file: fields.text("file")?,
                line: fields.number("line")?,
                message: fields.text("message")?,
            })),
            #[cfg(not(feature = "log"))]
            "log" => Ok(ToParent::Log),
            verb => Err(ControlError::Verb(verb.to_owned())),
        }
    }
}

/// The payload of a failed reply: `kind, message[, detail]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The function returned an error: its text, and the error as the codec encodes it.
    Error { message: String, encoded: Vec<u8> },
    /// The function panicked: the message and location.
    Panic { message: String, location: String },
    /// The request could not be decoded, or the answer could not be encoded.
    Malformed { message: String },
    /// There is no such function: why, and a [`REFUSED_FUNCTION`] or the like.
    Unserved { message: String, kind: String },
    /// More asks are unanswered than the parent allows.
    Full,
    /// The function dropped the call without answering it.
    Unanswered,
    /// The call was cancelled before it started.
    Cancelled,
}

impl Failure {
    /// The failure of a value that could not be encoded or decoded.
    pub(crate) fn malformed(what: &str, error: &impl fmt::Display) -> Self {
        let message = format!("{what}: {error}");
        Failure::Malformed { message }
    }

    /// The payload of the frame.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            // Octet strings send an error as its text: no need to send that twice.
            Failure::Error { message, encoded } if message.as_bytes() == &encoded[..] => {
                Message::new("error").text(message).0
            }
            Failure::Error { message, encoded } => {
                Message::new("error").text(message).bytes(encoded).0
            }
            Failure::Panic { message, location } => {
                Message::new("panic").text(message).text(location).0
            }
            Failure::Malformed { message } => Message::new("malformed").text(message).0,
            Failure::Unserved { message, kind } => {
                Message::new("unserved").text(message).text(kind).0
            }
            Failure::Full => Message::new("full").text("too many asks are unanswered").0,
            Failure::Unanswered => {
                Message::new("unanswered")
                    .text("dropped without an answer")
                    .0
            }
            Failure::Cancelled => {
                Message::new("cancelled")
                    .text("cancelled before it started")
                    .0
            }
        }
    }

    /// Reads the payload of a failed reply.
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, ControlError> {
        let mut fields = Fields::new(payload);
        let kind = fields.text("kind")?;
        let message = fields.lossy("message")?;
        match kind {
            "error" => {
                let encoded = match fields.next()? {
                    Some(encoded) => encoded.to_vec(),
                    None => message.clone().into_bytes(),
                };
                Ok(Failure::Error { message, encoded })
            }
            "panic" => Ok(Failure::Panic {
                message,
                location: fields.lossy("location")?,
            }),
            "malformed" => Ok(Failure::Malformed { message }),
            "unserved" => Ok(Failure::Unserved {
                message,
                kind: fields.lossy("reason")?,
            }),
            "full" => Ok(Failure::Full),
            "unanswered" => Ok(Failure::Unanswered),
            "cancelled" => Ok(Failure::Cancelled),
            kind => Err(ControlError::Kind {
                kind: kind.to_owned(),
                message,
            }),
        }
    }
}

/// What the function did: `failed: message`.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Error { message, .. } => write!(f, "failed: {message}"),
            Failure::Panic { message, location } => write!(f, "panicked at {location}: {message}"),
            Failure::Malformed { message } => {
                write!(f, "got or returned malformed data: {message}")
            }
            Failure::Unserved { message, .. } => write!(f, "is not served: {message}"),
            Failure::Full => f.write_str("was refused, as too many asks are unanswered"),
            Failure::Unanswered => f.write_str("dropped a call without an answer"),
            Failure::Cancelled => f.write_str("was cancelled"),
        }
    }
}

/// Why a control message or a failed reply could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ControlError {
    /// The payload is not a list of octet strings.
    Octets(OctetsError),
    /// Unknown verb.
    Verb(String),
    /// Unknown kind of failed reply.
    Kind { kind: String, message: String },
    /// A field is missing.
    Missing(&'static str),
    /// A field has an invalid value.
    Invalid(&'static str),
}

impl From<OctetsError> for ControlError {
    fn from(error: OctetsError) -> Self {
        ControlError::Octets(error)
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlError::Octets(error) => error.fmt(f),
            ControlError::Verb(verb) => write!(f, "unknown control verb {verb:?}"),
            ControlError::Kind { kind, message } => {
                write!(f, "unknown kind of failure {kind:?}: {message}")
            }
            ControlError::Missing(field) => write!(f, "message without a {field}"),
            ControlError::Invalid(field) => write!(f, "message with an invalid {field}"),
        }
    }
}

/// A message that is being written, string by string.
pub(super) struct Message(pub(super) Vec<u8>);

impl Message {
    pub(super) fn new(verb: &str) -> Self {
        Message(Vec::new()).text(verb)
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        octets::push(&mut self.0, bytes);
        self
    }

    pub(super) fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    pub(super) fn number(self, number: impl fmt::Display) -> Self {
        self.text(&number.to_string())
    }

    fn function(self, function: &FunctionId<'_>) -> Self {
        let FunctionId {
            name,
            version,
            codec,
        } = *function;
        // Nobody has anything of a longer name, which may not fit into the message; nor of this one.
        let message = match name.len() > LONGEST_TEXT {
            true => self.text(&(truncate(name, LONGEST_TEXT).to_owned() + " (and more)")),
            false => self.text(name),
        };
        message.number(version).text(codec)
    }

    /// The message with a payload behind it, which is no string of it.
    pub(super) fn raw(mut self, payload: &[u8]) -> Vec<u8> {
        self.0.extend_from_slice(payload);
        self.0
    }
}

/// The name of the field that has the id of an ask.
const ASK: &str = "number of the ask";

/// The strings of a message, taken one by one; each is named for error messages.
pub(super) struct Fields<'a>(octets::OctetsIter<'a>);

impl<'a> Fields<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Fields(octets::iter(payload))
    }

    pub(super) fn bytes(&mut self, name: &'static str) -> Result<&'a [u8], ControlError> {
        self.next()?.ok_or(ControlError::Missing(name))
    }

    /// The next string, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<&'a [u8]>, ControlError> {
        Ok(self.0.next().transpose()?)
    }

    pub(super) fn text(&mut self, name: &'static str) -> Result<&'a str, ControlError> {
        str::from_utf8(self.bytes(name)?).map_err(|_| ControlError::Invalid(name))
    }

    fn lossy(&mut self, name: &'static str) -> Result<String, ControlError> {
        Ok(String::from_utf8_lossy(self.bytes(name)?).into_owned())
    }

    pub(super) fn number<N: FromStr>(&mut self, name: &'static str) -> Result<N, ControlError> {
        self.text(name)?
            .parse()
            .map_err(|_| ControlError::Invalid(name))
    }

    /// The untaken part of `payload`, still encoded.
    pub(super) fn rest(&self, payload: &'a [u8]) -> &'a [u8] {
        &payload[self.0.offset()..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip() {
        let run = Run {
            protocol: 1,
            function: FunctionId {
                name: "f",
                version: 7,
                codec: "octets",
            },
            max_frame: 9,
            buflen: 10,
        };
        let asked = Asked {
            service: run.function,
            request: b"\xff",
        };
        for message in [
            ToChild::Settings(b"\x04nice\x011"),
            ToChild::Settings(b""),
            ToChild::Lifeline,
            ToChild::Far,
            ToChild::Template { huge_pages: 0 },
            ToChild::Template {
                huge_pages: u64::MAX,
            },
            ToChild::Setup {
                setup: run.function,
                request: b"\xff",
            },
            ToChild::Run(run),
            ToChild::Function(run.function),
            ToChild::Cancel { id: 7 },
            ToChild::Answer(AskAnswer {
                id: 8,
                failed: false,
                payload: b"\xff",
            }),
            ToChild::Answer(AskAnswer {
                id: u32::MAX,
                failed: true,
                payload: b"",
            }),
        ] {
            assert_eq!(ToChild::decode(&message.encode()), Ok(message));
        }
        for message in [
            ToParent::Ready { protocol: 1 },
            ToParent::Refused {
                kind: "k",
                message: "m",
            },
            ToParent::Progress {
                id: 7,
                payload: b"\xff",
            },
            ToParent::Ask { id: 7, asked },
            ToParent::Tell(asked),
            ToParent::Forget { id: 7 },
            ToParent::Retire,
        ] {
            assert_eq!(ToParent::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn run_fits_into_the_limit_of_what_comes_before_ready() {
        let name = "x".repeat(LONGEST_SETUP);
        let run = ToChild::Run(Run {
            protocol: u32::MAX,
            function: FunctionId {
                name: &name,
                version: u32::MAX,
                codec: "codec",
            },
            max_frame: u32::MAX,
            buflen: u32::MAX,
        });
        assert!(run.encode().len() <= LONGEST_SETUP);
    }

    #[test]
    fn beginning_of_a_long_message_tells_what_it_is() {
        let report = |id| {
            ToParent::Progress {
                id,
                payload: &[7; 300],
            }
            .encode()
        };
        for id in [0, 7, u32::MAX] {
            let progress = Some(LongToParent::Progress(id));
            assert_eq!(ToParent::long(&report(id)), progress);
            assert_eq!(ToParent::long(&report(id)[..TELLING]), progress);
            let service = FunctionId {
                name: "a service with a long name, which is cut off, and does not matter",
                version: 1,
                codec: "c",
            };
            let ask = ToParent::begin_ask(Some(id), service);
            assert_eq!(ToParent::long(&ask[..TELLING]), Some(LongToParent::Ask(id)));
            let tell = ToParent::begin_ask(None, service);
            assert_eq!(ToParent::long(&tell[..TELLING]), Some(LongToParent::Tell));
            let answer = ToChild::begin_answer(id, false);
            assert_eq!(ToChild::answered(&answer), Some(id));
            assert_eq!(ToChild::answered(&ToChild::Cancel { id }.encode()), None);
        }
        for other in [
            ToParent::Ready { protocol: 1 }.encode(),
            octets::encode(["progress"]),
            octets::encode(["progress", "x"]),
            octets::encode(["progress", &"0".repeat(TELLING)]),
            octets::encode(["dance", "7"]),
            b"\x08progress\x01"[..].to_vec(),
            vec![],
        ] {
            assert_eq!(ToParent::long(&other), None, "{other:?}");
        }
    }

    #[test]
    fn truncation_keeps_characters_whole() {
        assert_eq!(truncate("abc", 3), "abc");
        assert_eq!(truncate("abc", 2), "ab");
        assert_eq!(truncate("a\u{e9}b", 2), "a");
        assert_eq!(truncate("\u{e9}", 1), "");
    }

    #[test]
    fn failures_round_trip() {
        let text = |s: &str| s.to_owned();
        for failure in [
            Failure::Error {
                message: text("m"),
                encoded: b"m".to_vec(),
            },
            Failure::Error {
                message: text("m"),
                encoded: vec![],
            },
            Failure::Error {
                message: text("m"),
                encoded: vec![0xff],
            },
            Failure::Panic {
                message: text("m"),
                location: text("f.rs:1:2"),
            },
            Failure::Malformed { message: text("m") },
            Failure::Unserved {
                message: text("m"),
                kind: text("function"),
            },
            Failure::Full,
            Failure::Unanswered,
            Failure::Cancelled,
        ] {
            assert_eq!(Failure::decode(&failure.encode()), Ok(failure));
        }
    }

    #[test]
    fn failures_say_what_the_function_did() {
        let text = |s: &str| s.to_owned();
        let panic = Failure::Panic {
            message: text("m"),
            location: text("f.rs:1:2"),
        };
        assert_eq!(panic.to_string(), "panicked at f.rs:1:2: m");
        let malformed = Failure::malformed("the reply", &"too odd");
        assert_eq!(
            malformed.to_string(),
            "got or returned malformed data: the reply: too odd"
        );
    }

    #[test]
    fn bad_messages_name_what_is_wrong() {
        let strings = |strings: &[&str]| octets::encode(strings);
        assert_eq!(ToChild::decode(b""), Err(ControlError::Missing("verb")));
        assert_eq!(
            ToChild::decode(&strings(&["dance"])),
            Err(ControlError::Verb("dance".into()))
        );
        assert_eq!(
            ToChild::decode(b"\x05setup\x02a"),
            Err(ControlError::Octets(OctetsError::CutString {
                at: 6,
                len: 2,
                left: 1
            }))
        );
        assert_eq!(
            ToChild::decode(b"\x05setup\x01a\x02a"),
            Err(ControlError::Octets(OctetsError::CutString {
                at: 8,
                len: 2,
                left: 1
            }))
        );
        assert_eq!(
            ToChild::decode(&strings(&["run", "x"])),
            Err(ControlError::Invalid("protocol version"))
        );
        assert_eq!(
            ToParent::decode(&strings(&["refused", "x"])),
            Err(ControlError::Missing("message"))
        );
        assert_eq!(
            Failure::decode(&strings(&["error"])),
            Err(ControlError::Missing("message"))
        );
        let odd = Failure::decode(&strings(&["odd", "m"])).unwrap_err();
        assert_eq!(odd.to_string(), r#"unknown kind of failure "odd": m"#);
    }
}

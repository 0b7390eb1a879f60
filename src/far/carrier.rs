//! The thread that serves a connection to another machine: what becomes of the connection, its command, and
//! the children behind it.
//!
//! ```text
//!   Waiting ── it has greeted ──▶ Open ── closed, and all children have ended ──▶ the command is waited for
//!      └── no greeting ─────────────┴──── it ends, is silent, breaks the rules ──▶ all children are lost
//! ```

use super::child::ChildState;
use super::command::{Command, GRACE};
use super::connection::{Inbox, Open, Order};
use super::words::{To, Words};
use crate::carrier::{Bridge, Direction, Due, LinkRead, Liveness, LocalStream, channels_of};
use crate::deadlines::after;
use crate::error::{Error, ErrorKind, describe_status};
use crate::id_map::IdMap;
use crate::process::{Ended, Noted, Process, RemoteEnd, Transport, escape};
use crate::sys::{self, Epoll};
use crate::unwind;
use crate::wire::{CARRIER_VERSION, FarNote, FromRelay, LONGEST_CONTROL, ToRelay};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the exit of a command is waited for, for its status, once its output has ended.
const EXIT_WAIT: Duration = Duration::from_millis(500);
/// How long a command may take to end at most if the connection is lost, or was not awaited.
const SHORT_GRACE: Duration = Duration::from_secs(1);
/// How long more is waited for from a connection that takes nothing more.
const LAST_WAIT: Duration = Duration::from_secs(1);
/// How much of what came before a greeting is shown, from its beginning and from its end.
const SHOWN_NOISE: usize = 200;

/// See the module's documentation.
pub(super) struct Carrier {
    bridge: Bridge,
    /// What it is called in messages.
    name: String,
    command: Option<(Command, Words)>,
    /// Until it has greeted: when it is given up, and how long it was waited for.
    patience: Option<(Option<Instant>, Duration)>,
    liveness: Liveness,
    /// Whether it is known that nothing can be sent any more.
    is_mute: bool,
    children: IdMap<Behind>,
    /// The numbers of children, by their channels.
    by_channel: IdMap<u64>,
    /// Whether it is for one child, and ends with that.
    only_one: bool,
    /// How long the command may take to end.
    grace: Duration,
    /// Whether nothing more is wanted.
    closing: bool,
    /// Whether its only child was killed while it was still being made.
    hurried: bool,
    /// What was asked for, and is yet to be done.
    unfollowed: VecDeque<Order>,
    /// The child that has ended, whose connection has not.
    unsettled: Option<Arc<ChildState>>,
}

/// A child behind the connection.
struct Behind {
    state: Arc<ChildState>,
    /// The channel of its connection.
    channel: u32,
    /// The channels of its output.
    output: [Option<u32>; 2],
    /// Whether the other side has said that it was started.
    is_started: bool,
    /// How it has ended, which is told when everything that came before was delivered.
    end: Option<RemoteEnd>,
}

/// Why a connection is lost.
struct Lost {
    kind: ErrorKind,
    why: String,
    /// Whether the command is expected to end by itself.
    ends: bool,
}

impl Lost {
    fn new(kind: ErrorKind, why: impl Into<String>) -> Self {
        Lost {
            kind,
            why: why.into(),
            ends: false,
        }
    }

    fn protocol(why: &dyn std::fmt::Display) -> Self {
        Lost::new(
            ErrorKind::Protocol,
            format!("the other side broke the protocol: {why}"),
        )
    }
}

/// The end of a child that was never started.
pub(super) fn never_begun(why: &Error) -> RemoteEnd {
    RemoteEnd {
        ended: Ended::Lost(why.clone()),
        noted: Noted::LastCall(0),
    }
}

impl Carrier {
    /// Takes over a connection: for one child, if there is that one's grace. Returns what a copy of this process is
    /// to give up, too.
    pub(super) fn new(
        process: &Process,
        transport: Transport,
        epoll: &Arc<Epoll>,
        only_one: Option<Duration>,
    ) -> io::Result<(Self, [Arc<OwnedFd>; 2])> {
        let Transport {
            input,
            output,
            command,
        } = transport;
        let command = command.map(|it| (Command::new(it.child), it.stderr));
        let bridge = Bridge::new(epoll, input, output, true, LONGEST_CONTROL)?;
        let shared = bridge.link();
        let command = match command {
            None => None,
            Some((command, stderr)) => {
                let to = match process.stderr_callback() {
                    Some(callback) => To::Callback(callback),
                    None if process.inherits_stderr() => To::Here,
                    None => To::Nobody,
                };
                let pid = command.pid().unwrap_or(0);
                let words = Words::listen(stderr, pid, to)?;
                Some((command, words))
            }
        };
        let now = Instant::now();
        let patience = process.patience_or_default();
        let (ping, dead) = process.ping_or_default();
        let carrier = Carrier {
            bridge,
            name: process.label(),
            command,
            patience: Some((after(now, patience), patience)),
            liveness: Liveness::new(ping, dead, now),
            is_mute: false,
            children: IdMap::default(),
            by_channel: IdMap::default(),
            only_one: only_one.is_some(),
            grace: only_one.map_or(GRACE, |grace| grace.min(GRACE)),
            closing: false,
            hurried: false,
            unfollowed: VecDeque::new(),
            unsettled: None,
        };
        Ok((carrier, shared))
    }

    /// Serves the connection until it is lost, or not needed any more.
    pub(super) fn run(mut self, inbox: &Inbox) {
        // A command may be gone.
        sys::block_sigpipe();
        let unsettled = match unwind::catch(|| self.serve(inbox)) {
            Some(Ok(())) => self.finish(inbox),
            Some(Err(lost)) => self.lose(inbox, lost),
            None => self.give_up(inbox),
        };
        // In this order: who has waited for the child may drop the connection, which joins this thread then.
        inbox.over();
        if let Some(child) = unsettled {
            child.settled();
        }
    }

    /// Serves the connection until nothing more is wanted.
    fn serve(&mut self, inbox: &Inbox) -> Result<(), Lost> {
        while !(self.closing && self.children.is_empty()) {
            self.turn(inbox)?;
        }
        Ok(())
    }

    fn turn(&mut self, inbox: &Inbox) -> Result<(), Lost> {
        let deadline = match self.patience {
            Some((by, _)) => by,
            None => self.liveness.deadline(),
        };
        let io_error = |error: io::Error| Lost::new(ErrorKind::Io, format!("cannot wait: {error}"));
        self.bridge.wait(deadline, drop).map_err(io_error)?;
        self.unfollowed.extend(inbox.take());
        while let Some(order) = self.unfollowed.pop_front() {
            self.follow(order)?;
        }
        let read = self.bridge.read();
        let now = Instant::now();
        if let LinkRead::Something | LinkRead::Greeted(_) = read {
            self.liveness.heard(now);
        }
        if let LinkRead::Greeted(version) = read {
            self.greeted(version)?;
            inbox.greeted();
        }
        while let Some(message) = self
            .bridge
            .next_message()
            .map_err(|why| Lost::protocol(&why))?
        {
            self.message(inbox, &message)?;
        }
        self.tell_ends();
        match read {
            LinkRead::Nothing | LinkRead::Something | LinkRead::Greeted(_) => {}
            LinkRead::Terminal => {
                return Err(Lost::new(
                    ErrorKind::NotWorker,
                    "there is a terminal in between, which changes what is sent: let there be none, as with `ssh -T`",
                ));
            }
            LinkRead::TooMuchNoise => {
                let why = "it has printed 64 KiB and not greeted: is its program a worker?";
                return Err(Lost::new(ErrorKind::NotWorker, why));
            }
            LinkRead::End(error) => return Err(self.ended(error)),
        }
        if !self.bridge.may_have_more() {
            self.judge(now)?;
        }
        self.bridge.flush();
        if self.patience.is_none() && self.bridge.write_error().is_some() && !self.is_mute {
            // What is on its way may still come, but nothing can be asked.
            self.is_mute = true;
            self.liveness = Liveness::new(LAST_WAIT, LAST_WAIT, now);
        }
        Ok(())
    }

    /// What is due, now that what has come was read.
    fn judge(&mut self, now: Instant) -> Result<(), Lost> {
        if let Some((by, patience)) = self.patience {
            return match by.is_some_and(|by| by <= now) {
                true => Err(Lost::new(
                    ErrorKind::StartTimeout,
                    format!("no worker has greeted within {patience:?} (patience)"),
                )),
                false => Ok(()),
            };
        }
        match (self.liveness.due(now), self.bridge.write_error()) {
            (Due::Nothing, _) => Ok(()),
            (Due::Ping, _) => {
                self.bridge.ping();
                Ok(())
            }
            (Due::Dead, None) => Err(Lost::new(
                ErrorKind::Disconnected,
                "nothing comes from the other side any more, and a ping was not answered",
            )),
            (Due::Dead, Some(error)) => Err(Lost::new(
                ErrorKind::Disconnected,
                format!("the other side takes nothing more: {error}"),
            )),
        }
    }

    /// The connection has ended.
    fn ended(&self, error: Option<io::Error>) -> Lost {
        let (kind, what) = match self.patience {
            Some(_) => (ErrorKind::Exited, "it ended before a worker greeted"),
            None => (ErrorKind::Disconnected, "it ended"),
        };
        let why = match error {
            Some(error) => format!("{what}: {error}"),
            None if self.bridge.is_cut() => format!("{what} in the middle of a message"),
            None => what.to_owned(),
        };
        Lost {
            ends: true,
            ..Lost::new(kind, why)
        }
    }

    fn greeted(&mut self, version: u32) -> Result<(), Lost> {
        if version != CARRIER_VERSION {
            let why = format!(
                "the other side speaks version {version} of the connection's protocol, and this one \
                 version {CARRIER_VERSION}"
            );
            return Err(Lost::new(ErrorKind::Version, why));
        }
        self.patience = None;
        for (_, child) in self.children.iter() {
            child.state.begun();
        }
        Ok(())
    }

    // ---- what is asked for ----

    fn follow(&mut self, order: Order) -> Result<(), Lost> {
        match order {
            Order::Open(open) => {
                let state = Arc::clone(&open.state);
                if let Err(lost) = self.open(*open) {
                    // Nothing of it was sent.
                    state.ended(never_begun(&Error::new(lost.kind, &*lost.why)));
                    self.settle(state);
                    return Err(lost);
                }
            }
            Order::Signal { child, signal } => self.signal(child, signal),
            Order::Leave { child } => {
                if let Some(behind) = self.children.get(child) {
                    if behind.end.is_none() {
                        self.signal(child, sys::SIGKILL);
                    }
                    self.abandon(child);
                    self.take_out(child);
                }
            }
            Order::Send(messages) => messages.iter().for_each(|it| self.bridge.send(it)),
            Order::Close => self.closing = true,
        }
        Ok(())
    }

    fn open(&mut self, open: Open) -> Result<(), Lost> {
        let Open {
            child,
            state,
            timeout,
            base,
            process,
            socket,
            stdout,
            stderr,
        } = open;
        let bridge = &mut self.bridge;
        let mut next = |direction| {
            let channel = bridge.open_next(direction);
            channel.ok_or_else(|| Lost::new(ErrorKind::Io, "it has no more channels"))
        };
        let channel = next(Direction::Both)?;
        let output = [
            stdout.is_some().then(|| next(Direction::In)).transpose()?,
            stderr.is_some().then(|| next(Direction::In)).transpose()?,
        ];
        let order = process.start_order(base, output);
        let timeout = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let message = ToRelay::Open {
            channel,
            timeout,
            order,
        };
        bridge.send(&message.encode());
        let mut ends = vec![(channel, socket)];
        ends.extend(output[0].zip(stdout));
        ends.extend(output[1].zip(stderr));
        let mut end = None;
        for (channel, fd) in ends {
            bridge.announced(channel);
            let is_socket = true;
            if let Err(error) = bridge.attach(channel, LocalStream { fd, is_socket }) {
                let why = format!("cannot wait for what the child is sent: {error}");
                end = Some(never_begun(&Error::new(ErrorKind::Io, why)));
            }
        }
        if self.patience.is_none() {
            state.begun();
        }
        self.by_channel.insert(channel, child);
        let is_unreachable = end.is_some();
        self.children.insert(
            child,
            Behind {
                state,
                channel,
                output,
                is_started: false,
                end,
            },
        );
        if is_unreachable {
            self.signal(child, sys::SIGKILL);
            self.abandon(child);
        }
        Ok(())
    }

    /// Nothing more is brought to a child, nor taken from it.
    fn abandon(&mut self, child: u64) {
        if let Some(behind) = self.children.get(child) {
            for channel in channels_of(behind.channel, behind.output) {
                self.bridge.abandon(channel);
            }
        }
    }

    fn signal(&mut self, child: u64, number: i32) {
        let Some(behind) = self.children.get_mut(child) else {
            return;
        };
        let channel = behind.channel;
        // What is not there need not be waited for, nor what it is behind.
        if self.patience.is_some() && number == sys::SIGKILL {
            self.hurried = self.only_one;
            let noted = Noted::LastCall(0);
            let ended = Ended::Exited(None);
            behind.end.get_or_insert(RemoteEnd { ended, noted });
            self.abandon(child);
        }
        self.bridge
            .send(&ToRelay::Signal { channel, number }.encode());
    }

    // ---- what comes from the other side ----

    fn message(&mut self, inbox: &Inbox, message: &[u8]) -> Result<(), Lost> {
        let message = FromRelay::decode(message).map_err(|error| Lost::protocol(&error))?;
        match message {
            FromRelay::Opened { channel, pid } => {
                if let Some(behind) = self.behind(channel)? {
                    if std::mem::replace(&mut behind.is_started, true) {
                        let why = format!("the child on channel {channel} was started twice");
                        return Err(Lost::protocol(&why));
                    }
                    behind.state.started(pid);
                }
            }
            FromRelay::Refused {
                channel,
                kind,
                message,
            } => {
                let message = format!("on the other side of {}: {}", self.name, escape(message));
                let why = Error::new(ErrorKind::from_word(kind), message);
                if let Some(behind) = self.behind(channel)? {
                    behind.end.get_or_insert(never_begun(&why));
                    let output = behind.output;
                    channels_of(channel, output).for_each(|it| self.bridge.abandon(it));
                }
            }
            FromRelay::Exited {
                channel,
                status,
                noted,
            } => {
                let noted = match noted {
                    FarNote::Nothing => Noted::Nothing,
                    FarNote::LastCall(id) => Noted::LastCall(id),
                    FarNote::Unknown => Noted::Unknown,
                };
                let ended = Ended::Exited(status.map(ExitStatus::from_raw));
                let end = RemoteEnd { ended, noted };
                if let Some(behind) = self.behind(channel)? {
                    behind.end.get_or_insert(end);
                }
            }
            FromRelay::Warmed { id, refused } => {
                let outcome = match refused {
                    None => Ok(()),
                    Some((kind, message)) => {
                        let message =
                            format!("on the other side of {}: {}", self.name, escape(message));
                        Err(Error::new(ErrorKind::from_word(kind), message))
                    }
                };
                if !inbox.warmed(id, outcome) {
                    let why = format!("template {id} was not waited for");
                    return Err(Lost::protocol(&why));
                }
            }
        }
        Ok(())
    }

    /// The child whose channel the other side means. `None` if it has ended for this side, of which the other
    /// has not heard.
    fn behind(&mut self, channel: u32) -> Result<Option<&mut Behind>, Lost> {
        if !self.bridge.was_opened(channel) {
            let why = format!("channel {channel} is no child's");
            return Err(Lost::protocol(&why));
        }
        let child = self.by_channel.get(channel).copied();
        Ok(child.and_then(|child| self.children.get_mut(child)))
    }

    /// Tells of children that have ended, and whose output was delivered.
    fn tell_ends(&mut self) {
        let ended: Vec<u64> = self
            .children
            .iter()
            .filter(|(_, child)| child.is_told(&self.bridge))
            .map(|(number, _)| number)
            .collect();
        for number in ended {
            self.take_out(number);
        }
    }

    fn take_out(&mut self, number: u64) {
        let Some(behind) = self.children.remove(number) else {
            return;
        };
        self.by_channel.remove(behind.channel);
        if let Some(end) = behind.end {
            behind.state.ended(end);
        }
        self.closing |= self.only_one;
        self.settle(behind.state);
    }

    /// A child has ended. If the connection is there only for that, the end of it is left.
    fn settle(&mut self, child: Arc<ChildState>) {
        match self.only_one {
            true => self.unsettled = Some(child),
            false => child.settled(),
        }
    }

    // ---- the end ----

    /// All is done: the other side is told by the end of its input.
    /// Returns the child that has still to be told that nothing is left.
    fn finish(self, inbox: &Inbox) -> Option<Arc<ChildState>> {
        // Whoever it was for may still have asked for something: that has ended.
        drop(inbox.close(Error::new(ErrorKind::Disconnected, "it is closed")));
        let grace = match self.hurried {
            true => self.grace.min(SHORT_GRACE),
            false => self.grace,
        };
        let Carrier {
            mut bridge,
            command,
            unsettled,
            ..
        } = self;
        // It may still have to signal a child.
        bridge.flush();
        drop(bridge);
        if let Some((command, words)) = command {
            command.end(grace);
            words.end();
        }
        unsettled
    }

    /// The connection is lost, and with it all its children. Returns what [`finish`](Carrier::finish) does.
    fn lose(mut self, inbox: &Inbox, lost: Lost) -> Option<Arc<ChildState>> {
        let has_greeted = self.patience.is_none();
        let noise = self
            .bridge
            .noise()
            .map(shown)
            .filter(|noise| !noise.is_empty());
        // Before local streams end: those at their other ends want to know why.
        let error = self.error(&lost, noise.as_deref());
        self.bridge.disconnect();
        self.refuse(inbox, &error);
        for number in self
            .children
            .iter()
            .map(|(number, _)| number)
            .collect::<Vec<_>>()
        {
            let behind = self.children.get_mut(number).expect("it is there");
            behind.end.get_or_insert_with(|| RemoteEnd {
                ended: Ended::Lost(error.clone()),
                noted: match has_greeted {
                    true => Noted::Unknown,
                    false => Noted::LastCall(0),
                },
            });
        }
        // What has come from them is still delivered, however long that takes.
        loop {
            self.tell_ends();
            if self.children.is_empty() || self.bridge.wait(None, drop).is_err() {
                break;
            }
        }
        // Those to which nothing can be delivered any more.
        let left = self.children.iter().map(|(number, _)| number);
        for number in left.collect::<Vec<_>>() {
            self.take_out(number);
        }
        if let Some((command, words)) = self.command.take() {
            command.end(self.grace.min(SHORT_GRACE));
            words.end();
        }
        self.unsettled.take()
    }

    /// This thread has panicked: nothing is known of what there is, but nobody waits for ever. Returns what
    /// [`finish`](Carrier::finish) does.
    fn give_up(mut self, inbox: &Inbox) -> Option<Arc<ChildState>> {
        let message = format!(
            "the connection through {} is given up: its thread has panicked, see the panic's message",
            self.name
        );
        let error = Error::new(ErrorKind::Io, message);
        self.refuse(inbox, &error);
        let states = self.children.iter();
        let states: Vec<_> = states.map(|(_, it)| Arc::clone(&it.state)).collect();
        for state in states {
            let (ended, noted) = (Ended::Lost(error.clone()), Noted::Unknown);
            state.ended(RemoteEnd { ended, noted });
            self.settle(state);
        }
        self.unsettled.take()
    }

    /// What was asked for is not done, and nothing can be asked for any more.
    fn refuse(&mut self, inbox: &Inbox, error: &Error) {
        let unfollowed = std::mem::take(&mut self.unfollowed);
        for order in unfollowed.into_iter().chain(inbox.close(error.clone())) {
            if let Order::Open(open) = order {
                open.state.ended(never_begun(error));
                self.settle(open.state);
            }
        }
    }

    /// The error with which all children end.
    fn error(&mut self, lost: &Lost, noise: Option<&str>) -> Error {
        let name = &self.name;
        let mut text = format!("the connection through {name} is lost: {}", lost.why);
        let mut said = String::new();
        if let Some((mut command, words)) = self.command.take() {
            let wait = lost.ends.then_some(EXIT_WAIT);
            if let Some(status) = command.reap(wait.unwrap_or_default()) {
                let status = status.map(|it| format!(" ({})", describe_status(it)));
                text += &status.unwrap_or_default();
                said = words.end();
            } else {
                said = words.so_far();
                self.command = Some((command, words));
            }
        }
        if let Some(noise) = noise {
            text += &format!("; before that, it printed \"{noise}\"");
        }
        Error::new(lost.kind, text).with_process(None, None, None, said)
    }
}

impl Behind {
    /// Whether it can be told that it has ended.
    fn is_told(&self, bridge: &Bridge) -> bool {
        self.end.is_some()
            && channels_of(self.channel, self.output).all(|channel| bridge.is_delivered(channel))
    }
}

/// What came before a greeting, for an error.
fn shown(noise: &[u8]) -> String {
    match noise.len() > 2 * SHOWN_NOISE {
        false => noise.escape_ascii().to_string(),
        true => {
            let (first, last) = (&noise[..SHOWN_NOISE], &noise[noise.len() - SHOWN_NOISE..]);
            format!("{} [..] {}", first.escape_ascii(), last.escape_ascii())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::connection::tests::inbox;
    use super::*;
    use std::fs::File;
    use std::os::unix::net::UnixStream;

    /// A carrier whose other end has not greeted, that end, and what asks it for something.
    fn carrier() -> (Carrier, UnixStream, Inbox) {
        carrier_for(None)
    }

    fn carrier_for(only_one: Option<Duration>) -> (Carrier, UnixStream, Inbox) {
        let (near, far) = UnixStream::pair().unwrap();
        let output = near.try_clone().unwrap().into();
        let (input, command) = (near.into(), None);
        let transport = Transport {
            input,
            output,
            command,
        };
        let process = Process::connect(|| unreachable!("it is connected"));
        let epoll = Epoll::new().unwrap();
        let (carrier, shared) = Carrier::new(&process, transport, &epoll, only_one).unwrap();
        (carrier, far, inbox(epoll, &shared))
    }

    fn open(child: u64, socket: OwnedFd) -> (Order, Arc<ChildState>) {
        open_with(child, socket, Process::command("true"))
    }

    fn open_with(child: u64, socket: OwnedFd, process: Process) -> (Order, Arc<ChildState>) {
        let state = Arc::new(ChildState::default());
        let open = Open {
            child,
            state: Arc::clone(&state),
            timeout: Duration::ZERO,
            base: 0,
            process,
            socket,
            stdout: None,
            stderr: None,
        };
        (Order::Open(Box::new(open)), state)
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not support these sockets")]
    fn child_that_cannot_be_connected_ends_alone() {
        let (mut carrier, far, inbox) = carrier();
        // It cannot be polled.
        let null = File::open("/dev/null").unwrap();
        let (first, first_state) = open(1, null.into());
        let (second, second_state) = open(2, UnixStream::pair().unwrap().0.into());
        inbox.push([first, second]);
        assert!(carrier.turn(&inbox).is_ok());
        let is_lost = |state: &ChildState, noted| {
            let end = state.end().unwrap();
            assert!(matches!(end.ended, Ended::Lost(_)));
            assert_eq!(end.noted, noted);
        };
        is_lost(&first_state, Noted::LastCall(0));
        assert!(second_state.end().is_none());
        drop(far);
        carrier.run(&inbox);
        is_lost(&second_state, Noted::LastCall(0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not support these sockets")]
    fn all_children_end_if_the_thread_panics() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("this is no fault of the library's");
            }
        }
        let (carrier, _far, inbox) = carrier();
        let socket = || UnixStream::pair().unwrap().0.into();
        let bomb = Bomb;
        let process =
            Process::connect(move || unreachable!("it is connected: {}", size_of_val(&bomb)));
        let orders = [
            open(1, socket()),
            open_with(2, socket(), process),
            open(3, socket()),
        ];
        let (orders, states): (Vec<_>, Vec<_>) = orders.into_iter().unzip();
        inbox.push(orders);
        carrier.run(&inbox);
        for state in states {
            let Ended::Lost(error) = state.end().unwrap().ended else {
                panic!("it is lost");
            };
            assert!(
                error.to_string().contains("its thread has panicked"),
                "{error}"
            );
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not support these sockets")]
    fn command_has_the_grace_of_its_only_child_to_end() {
        let short = Duration::from_millis(20);
        for (of_child, grace) in [
            (None, GRACE),
            (Some(short), short),
            (Some(Duration::MAX), GRACE),
        ] {
            assert_eq!(carrier_for(of_child).0.grace, grace);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri does not support these sockets")]
    fn what_is_asked_for_too_late_is_not_done() {
        let (carrier, _far, inbox) = carrier();
        let (child, signal) = (1, sys::SIGTERM);
        inbox.push([Order::Signal { child, signal }]);
        carrier.finish(&inbox);
        assert!(inbox.take().is_empty());
    }
}

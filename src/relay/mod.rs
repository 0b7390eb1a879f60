//! The far end of a connection that carries many children: a process that never runs code of the program's,
//! so that it answers whatever its children do. See [`carrier`](crate::carrier) for both ends.
//!
//! It starts children as any parent does, by executing its own program or as copies of templates that are its
//! children, on threads, since that may take a while. It holds their lifelines: they end when it does.

mod starter;

use crate::carrier::{
    Bridge, Direction, Due, LinkRead, Liveness, LocalStream, channels_of, owner_key,
};
use crate::error::{Error, ErrorKind};
use crate::far::LONGEST_TO_RELAY;
use crate::id_map::IdMap;
use crate::process::{Child, Ended, Launched, Noted, Process};
use crate::sys::{self, Epoll, Ready, Watched};
use crate::wire::{
    CARRIER_VERSION, FarNote, FromRelay, GREETING, LONGEST_TEXT, StartOrder, ToRelay, truncate,
};
use crate::{stderr, threads};
use starter::{Job, Outcome, Outcomes, Starter};
use std::env;
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What asks a program to serve another machine, if this is its value.
const WORD: &str = "OFFSPRING";
const SERVE: &str = "serve";

/// How long the near end may be silent before it is pinged, and after which the children are ended.
const PING: Duration = Duration::from_secs(300);
const DEAD: Duration = Duration::from_secs(600);

/// Whether this process was asked to be a relay by its environment.
///
/// # Errors
///
/// What is wrong with the word that asks.
pub(crate) fn is_asked_for() -> Result<bool, String> {
    match env::var_os(WORD) {
        // It may be of somebody with fewer rights.
        _ if sys::is_secure_execution() => Ok(false),
        None => Ok(false),
        Some(word) if word == SERVE => Ok(true),
        Some(word) => Err(format!(
            "the environment variable {WORD} can only be `{SERVE}`, and is {word:?}"
        )),
    }
}

/// Whether somebody who starts this process by a command may be at the other end of its standard input.
pub(crate) fn may_be_wanted() -> bool {
    sys::is_pipe_or_socket(sys::standard(0)) && sys::is_pipe_or_socket(sys::standard(1))
}

/// Serves the near end on the standard input and output, and exits. Children execute `program`.
pub(crate) fn serve(program: Process) -> ! {
    let status = match Relay::take_over(program) {
        Ok(mut relay) => match relay.run() {
            Ok(()) => 0,
            Err(why) => complain(&why),
        },
        Err(error) => complain(&error.to_string()),
    };
    // The children end with it.
    sys::exit_immediately(status)
}

fn complain(why: &str) -> i32 {
    stderr::print(format_args!("offspring relay: {why}"));
    1
}

/// See the module's documentation.
struct Relay {
    epoll: Arc<Epoll>,
    bridge: Bridge,
    liveness: Liveness,
    /// How processes are started, by the number of what they are copies of; 0 is the program.
    sources: IdMap<Source>,
    /// Messages for the next template.
    prepared: Vec<Vec<u8>>,
    children: IdMap<FarSide>,
    outcomes: Outcomes,
}

/// How processes are started.
struct Source {
    process: Process,
    starter: Option<Starter>,
}

/// A child, by the channel of its connection.
struct FarSide {
    output: [Option<u32>; 2],
    child: Option<Arc<Child>>,
    /// What tells of its end.
    end: Option<Watched>,
    /// A signal that has come before it was there.
    signal: Option<i32>,
    ended: Option<(Option<i32>, FarNote)>,
}

impl Relay {
    /// Takes over the standard input and output, and greets.
    fn take_over(program: Process) -> io::Result<Self> {
        let input = sys::own_end(0)?;
        let output = sys::own_end(1)?;
        sys::replace(0, File::open("/dev/null")?)?;
        // A stray print must not get between the frames.
        sys::replace(1, sys::standard(2))?;
        let (begin, end) = GREETING;
        let greeting = [begin, CARRIER_VERSION.to_string().as_bytes(), end].concat();
        let epoll = Epoll::new()?;
        let outcomes = Outcomes::new(&epoll);
        let mut bridge = Bridge::new(&epoll, input, output, false, LONGEST_TO_RELAY)?;
        bridge.greet(&greeting);
        let mut sources = IdMap::default();
        let process = program.with_own_args().env_remove(WORD);
        let starter = None;
        sources.insert(0u32, Source { process, starter });
        Ok(Relay {
            epoll,
            bridge,
            liveness: Liveness::new(PING, DEAD, Instant::now()),
            sources,
            prepared: Vec::new(),
            children: IdMap::default(),
            outcomes,
        })
    }

    /// Serves until the near end is gone.
    fn run(&mut self) -> Result<(), String> {
        loop {
            let mut happened = Vec::new();
            let waited = self
                .bridge
                .wait(self.liveness.deadline(), |channel| happened.push(channel));
            waited.map_err(|error| format!("cannot wait: {error}"))?;
            for channel in happened {
                self.may_have_ended(channel);
            }
            for (number, outcome) in self.outcomes.take() {
                self.took_place(number, outcome);
            }
            let read = self.bridge.read();
            let now = Instant::now();
            if let LinkRead::Something = read {
                self.liveness.heard(now);
            }
            while let Some(message) = self.bridge.next_message().map_err(broken)? {
                self.follow(&message)?;
            }
            self.tell_ends();
            if let LinkRead::End(error) = read {
                return match error {
                    None => Ok(()),
                    Some(error) => Err(format!("cannot read from the other side: {error}")),
                };
            }
            if !self.bridge.may_have_more() {
                match self.liveness.due(now) {
                    Due::Nothing => {}
                    Due::Ping => self.bridge.ping(),
                    Due::Dead => return Err(format!("nothing has come for {DEAD:?}")),
                }
            }
            self.bridge.flush();
            // Nobody hears of the children any more. What was asked for before that is done.
            if let Some(error) = self.bridge.write_error()
                && !self.bridge.may_have_more()
            {
                return match error.kind() {
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Ok(()),
                    _ => Err(format!("cannot write to the other side: {error}")),
                };
            }
        }
    }

    // ---- what is asked for ----

    fn follow(&mut self, message: &[u8]) -> Result<(), String> {
        let message = ToRelay::decode(message).map_err(|error| broken(error.to_string()))?;
        match message {
            ToRelay::Prepare(message) => self.prepared.push(message.to_owned()),
            ToRelay::Template {
                id,
                huge_pages,
                order,
            } => self.describe(id, huge_pages, &order)?,
            ToRelay::Warm { id } => {
                let process = self.source(id)?.process.clone();
                self.hand_over(id, Job::Warm { id, process });
            }
            ToRelay::Forget { id } => drop(self.sources.remove(id)),
            ToRelay::Open {
                channel,
                timeout,
                order,
            } => self.open(channel, timeout, &order)?,
            ToRelay::Signal { channel, number } => self.signal(channel, number),
        }
        Ok(())
    }

    fn source(&self, number: u32) -> Result<&Source, String> {
        let source = self.sources.get(number);
        source.ok_or_else(|| broken(format!("there is no template {number}")))
    }

    fn describe(&mut self, id: u32, huge_pages: u64, order: &StartOrder<'_>) -> Result<(), String> {
        let process = self.source(order.base)?.process.as_ordered(order);
        let prepared = std::mem::take(&mut self.prepared);
        let process = process
            .prepared_by(prepared)
            .huge_pages(huge_pages)
            .template();
        let starter = None;
        if self.sources.contains(id) {
            return Err(broken(format!("there is a template {id}")));
        }
        self.sources.insert(id, Source { process, starter });
        Ok(())
    }

    fn open(&mut self, channel: u32, timeout: u64, order: &StartOrder<'_>) -> Result<(), String> {
        let process = self.source(order.base)?.process.as_ordered(order);
        let output = [order.stdout.channel(), order.stderr.channel()];
        self.bridge.open(channel, Direction::Both).map_err(broken)?;
        for channel in output.into_iter().flatten() {
            self.bridge.open(channel, Direction::Out).map_err(broken)?;
        }
        let side = FarSide {
            output,
            child: None,
            end: None,
            signal: None,
            ended: None,
        };
        self.children.insert(channel, side);
        let timeout = Duration::from_millis(timeout);
        let job = Job::Start {
            channel,
            process,
            timeout,
        };
        self.hand_over(order.base, job);
        Ok(())
    }

    /// Has a thread do what may take a while: one for each template, each of which makes one copy at a time.
    fn hand_over(&mut self, source: u32, job: Job) {
        let Some(source) = self.sources.get_mut(source) else {
            return;
        };
        if source.starter.is_none() {
            match Starter::start(&self.outcomes) {
                Ok(starter) => source.starter = Some(starter),
                Err(error) => {
                    let message = format!("cannot start a thread: {error}");
                    let (number, outcome) = job.fail(Error::new(ErrorKind::Spawn, message));
                    return self.took_place(number, outcome);
                }
            }
        }
        if let Some(starter) = &source.starter {
            starter.hand_over(job);
        }
    }

    fn signal(&mut self, channel: u32, number: i32) {
        let Some(side) = self.children.get_mut(channel) else {
            return;
        };
        match &side.child {
            // It may have ended, or become another user's.
            Some(child) => drop(child.try_signal(number)),
            // What is being started for it may take its time, and is killed when it is there.
            None if number == sys::SIGKILL => {
                let message = FromRelay::Exited {
                    channel,
                    status: None,
                    noted: FarNote::LastCall(0),
                };
                self.bridge.send(&message.encode());
                self.give_up(channel);
            }
            None => side.signal = Some(number),
        }
    }

    // ---- what happens here ----

    fn took_place(&mut self, number: u32, outcome: Outcome) {
        match outcome {
            Outcome::Started(Ok(launched)) => self.started(number, *launched),
            Outcome::Started(Err(error)) => self.refuse(number, &error),
            Outcome::Ended => self.may_have_ended(number),
            Outcome::Warmed(result) => {
                let error = result
                    .err()
                    .map(|error| (error.kind().word(), error.to_string()));
                let refused = error.as_ref();
                let refused = refused.map(|(kind, text)| (*kind, truncate(text, LONGEST_TEXT)));
                let id = number;
                self.bridge
                    .send(&FromRelay::Warmed { id, refused }.encode());
            }
        }
    }

    fn started(&mut self, channel: u32, launched: Launched) {
        let Launched {
            socket,
            child,
            stdout,
            stderr,
            ..
        } = launched;
        let Some(child) = child.map(Arc::new) else {
            return;
        };
        let Some(side) = self.children.get_mut(channel) else {
            let given_up = Arc::clone(&child);
            // It may hang in the kernel.
            let reaper = threads::start_reaper(Box::new(move || {
                given_up.abandon();
            }));
            if reaper.is_err() {
                child.abandon();
            }
            return;
        };
        let pid = child.pid().unwrap_or(0);
        side.child = Some(Arc::clone(&child));
        if let Some(number) = side.signal {
            // As above.
            let _ = child.try_signal(number);
        }
        let output = side.output;
        self.bridge
            .send(&FromRelay::Opened { channel, pid }.encode());
        let mut streams = vec![(channel, socket, true)];
        for (channel, fd) in output.into_iter().zip([stdout, stderr]) {
            streams.extend(channel.zip(fd).map(|(channel, fd)| (channel, fd, false)));
        }
        for (channel, fd, is_socket) in streams {
            if self
                .bridge
                .attach(channel, LocalStream { fd, is_socket })
                .is_err()
            {
                // Without it, it is not heard: it ends as its connection does.
                self.bridge.abandon(channel);
            }
        }
        self.watch(channel, &child);
    }

    /// Waits for the end of a child.
    fn watch(&mut self, channel: u32, child: &Arc<Child>) {
        let Some(side) = self.children.get_mut(channel) else {
            return;
        };
        let watched = child.end().and_then(|end| {
            let key = owner_key(channel);
            Watched::new(&self.epoll, &end, key, Ready::READABLE).ok()
        });
        match watched {
            Some(watched) => side.end = Some(watched),
            None => self.watch_by_thread(channel, child),
        }
    }

    fn watch_by_thread(&mut self, channel: u32, child: &Arc<Child>) {
        let (child, outcomes) = (Arc::clone(child), self.outcomes.clone());
        let watched = threads::start_reaper(Box::new(move || {
            child.wait_for_exit();
            outcomes.add(channel, Outcome::Ended);
        }));
        // Without a thread, its end is known when the connection to it ends.
        drop(watched);
    }

    /// What tells of the end of a child is there.
    fn may_have_ended(&mut self, channel: u32) {
        let Some(side) = self.children.get_mut(channel) else {
            return;
        };
        let Some(child) = side.child.clone().filter(|_| side.ended.is_none()) else {
            return;
        };
        let had = side.end.take();
        let Some(Ended::Exited(status)) = child.reap() else {
            // It is traced, or its template is gone: then something else tells.
            return match had {
                Some(_) if child.is_anothers() => self.watch(channel, &child),
                _ => self.watch_by_thread(channel, &child),
            };
        };
        let noted = match child.noted() {
            Noted::Nothing => FarNote::Nothing,
            Noted::LastCall(id) => FarNote::LastCall(id),
            Noted::Unknown => FarNote::Unknown,
        };
        side.ended = Some((status.map(ExitStatusExt::into_raw), noted));
        for channel in channels_of(channel, side.output) {
            self.bridge.complete(channel);
        }
    }

    /// Tells of children that have ended, and whose output was sent.
    fn tell_ends(&mut self) {
        self.bridge.flush();
        let bridge = &self.bridge;
        let is_sent = |channel: &u32| bridge.has_ended(*channel);
        let told: Vec<u32> = self
            .children
            .iter()
            .filter(|(channel, side)| {
                let mut channels = channels_of(*channel as u32, side.output);
                side.ended.is_some() && channels.all(|channel| is_sent(&channel))
            })
            .map(|(channel, _)| channel as u32)
            .collect();
        for channel in told {
            if let Some(FarSide {
                ended: Some((status, noted)),
                ..
            }) = self.children.remove(channel)
            {
                let message = FromRelay::Exited {
                    channel,
                    status,
                    noted,
                };
                self.bridge.send(&message.encode());
            }
        }
    }

    fn refuse(&mut self, channel: u32, error: &Error) {
        if !self.children.contains(channel) {
            return;
        }
        let text = error.to_string();
        let message = FromRelay::Refused {
            channel,
            kind: error.kind().word(),
            message: truncate(&text, LONGEST_TEXT),
        };
        self.bridge.send(&message.encode());
        self.give_up(channel);
    }

    /// There is no such child, and there will be none.
    fn give_up(&mut self, channel: u32) {
        if let Some(side) = self.children.remove(channel) {
            for channel in channels_of(channel, side.output) {
                self.bridge.abandon(channel);
            }
        }
    }
}

fn broken(why: String) -> String {
    format!("the other side broke the protocol: {why}")
}

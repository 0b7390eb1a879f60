//! What a link's lock guards, and what is decided from it. No I/O and no clock: the link does what
//! is decided here.

use super::completion::{Answer, Completion, Ended};
use super::reader::{Reader, input};
use super::slot::{Fill, Slot};
use crate::codec::Input;
use crate::error::{Error, Phase, Refusal};
use crate::rpc::state::{Connection, Delivery, Exit, Kill, Role, Stamps};
use crate::rpc::stats::{ChildState, RpcStats};
use crate::sys::Registration;
use crate::wire::{Decoder, FULL_BATCH};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How soon descriptors are sent again of which too many were on their way.
const RETRY: Duration = Duration::from_millis(2);

/// How long the room that many calls took is kept after they are gone.
const CALM: Duration = Duration::from_millis(100);

/// Called with the payload of each progress report of a call, by the reactor only.
pub(crate) type ProgressCallback = Arc<Mutex<dyn FnMut(Input<'_>) + Send>>;

/// See the module's documentation.
pub(super) struct LinkState {
    pub(super) connection: Connection<Completion, ProgressCallback>,
    /// Which thread reads.
    pub(super) role: Role<Arc<Slot>>,
    /// What to read with, while no thread does.
    pub(super) reader: Option<Box<Reader>>,
    /// Whether more may come from the child.
    pub(super) connected: bool,
    /// The socket at the reactor's poller, while the reactor waits for it.
    pub(super) registration: Option<Registration>,
    /// Whether the reactor waits for room in the socket.
    pub(super) awaits_room: bool,
    /// When what was written.
    pub(super) stamps: Stamps,
    /// When it is to write again, if too many descriptors were on their way.
    retry_at: Option<Instant>,
    /// How many threads wait for a change.
    pub(super) waiting: usize,
    /// Whether the reactor was asked to attend to this link, and has not yet.
    pub(super) attention: bool,
    /// When the reactor attends to it without being asked.
    attends_at: Option<Instant>,
    /// When it gives back the room that calls have left, unless they need it again by then.
    trim_at: Option<Instant>,
    /// Whether the child is to be killed, or was.
    pub(super) killing: Killing,
    /// Why the child cannot be served any more, if so.
    pub(super) fault: Option<String>,
    /// When all is to be over.
    pub(super) stop_by: Option<Instant>,
    /// Whether the writing side was shut down.
    shut_down: bool,
    /// Why calls are refused from now on: it ended.
    pub(super) end: Option<Result<Exit, Error>>,
    /// Whether the last callback has returned.
    pub(super) over: bool,
}

/// How far the killing of a child is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Killing {
    No,
    /// The program wants it.
    Wanted,
    /// The reactor knows that it is to be killed, and has not sent the signal yet.
    Known,
    /// It has.
    Sent,
}

/// What the reactor is to do about a link.
pub(crate) struct Actions {
    /// Calls whose timeout has passed.
    pub(crate) expired: Vec<(Completion, Phase)>,
    /// Progress callbacks of calls that have ended, to be dropped.
    pub(crate) done: Vec<ProgressCallback>,
    /// Whether the child is to be killed, and why.
    pub(crate) kill: Option<Kill>,
    /// Why the child cannot be served any more, if so.
    pub(crate) fault: Option<String>,
    /// Whether it has taken too long.
    pub(crate) stop: bool,
    /// Whether the child should exit now: all is sent and answered.
    pub(crate) close: bool,
    /// Whether a caller has left something to be read.
    pub(crate) handed_off: bool,
    /// Whether the child serves.
    pub(crate) ready: bool,
    /// Whether the child reads no more.
    pub(crate) broken: bool,
    /// How many calls have not ended.
    pub(crate) unanswered: usize,
    /// When to come again.
    pub(crate) deadline: Option<Instant>,
}

impl Actions {
    /// These actions, and then others.
    pub(crate) fn and_then(mut self, mut more: Actions) -> Actions {
        self.expired.append(&mut more.expired);
        self.done.append(&mut more.done);
        Actions {
            expired: self.expired,
            done: self.done,
            kill: self.kill.or(more.kill),
            fault: self.fault.or(more.fault),
            stop: self.stop || more.stop,
            ..more
        }
    }
}

/// What is to be done about the end of the requests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct EndOfRequests {
    /// Whether the handle is closed, and all is sent.
    pub(super) all_sent: bool,
    /// Whether the writing side is to be shut down. True once.
    pub(super) shut_down: bool,
}

impl LinkState {
    pub(super) fn new(
        connection: Connection<Completion, ProgressCallback>,
        reader: Box<Reader>,
        rewatch_delay: Duration,
    ) -> Self {
        LinkState {
            connection,
            role: Role::new(rewatch_delay),
            reader: Some(reader),
            connected: true,
            registration: None,
            awaits_room: false,
            stamps: Stamps::default(),
            retry_at: None,
            waiting: 0,
            attention: false,
            attends_at: None,
            trim_at: None,
            killing: Killing::No,
            fault: None,
            stop_by: None,
            shut_down: false,
            end: None,
            over: false,
        }
    }

    /// What the child is doing, by the clock of the [stamps](LinkState::stamps).
    pub(super) fn stats(&mut self, pid: Option<u32>, now: Duration) -> RpcStats {
        let is_killed = self.killing != Killing::No;
        let connection = &mut self.connection;
        let oldest = connection.oldest_at();
        let oldest = oldest.and_then(|at| self.stamps.written_at(at));
        let in_flight = connection.outstanding();
        RpcStats {
            pid,
            state: match &self.end {
                Some(_) => ChildState::Ended,
                None if connection.is_closed() || is_killed || !self.connected => {
                    ChildState::Leaving
                }
                None if !connection.is_ready() => ChildState::Starting,
                None if in_flight == 0 => ChildState::Idle,
                None => ChildState::Busy,
            },
            calls: connection.freed(),
            in_flight,
            oldest: oldest.map(|at| now.saturating_sub(at)),
            queued_bytes: connection.writer().unsent(),
            sent_bytes: self.stamps.written(),
            last_error: self
                .end
                .as_ref()
                .and_then(|end| end.as_ref().err().cloned()),
        }
    }

    // ---- calls ----

    /// Whether a call of that length would have to wait.
    pub(super) fn is_full(&self, len: usize) -> bool {
        self.connection.admit(len) == Err(Refusal::Full)
    }

    /// How a call ends that is refused.
    pub(super) fn refused(&self, refusal: Refusal) -> Ended {
        match &self.end {
            Some(Err(error)) => Ended::Lost(error.clone(), Phase::Queued),
            Some(Ok(_)) | None => Ended::Refused(refusal),
        }
    }

    /// Whether one call only is outstanding, and nothing is left to be sent.
    pub(super) fn is_alone(&self) -> bool {
        self.connection.live() == 1 && self.connection.writer().unsent() == 0
    }

    /// Whether a release of the reader's role leaves somebody waiting who does not read.
    pub(super) fn is_awaited(&self) -> bool {
        self.connection.live() > 0 || self.connection.is_closed() || self.stop_by.is_some()
    }

    /// Takes the answers in the buffer that are for callers that wait: the one to the call `mine` is
    /// returned. The other result is whether that was all; if not, what is next stays in the buffer.
    pub(super) fn take_answers(
        &mut self,
        decoder: &mut Decoder,
        mine: u32,
    ) -> (Option<Answer>, bool) {
        let mut answer = None;
        loop {
            let next = decoder.next(|head| self.connection.check(head));
            let (id, payload) = match next {
                Ok(Some(frame)) => frame,
                Ok(None) => return (answer, true),
                // The reactor finds the same, and reports it.
                Err(_) => return (answer, false),
            };
            let starting = !self.connection.is_ready();
            let awaited = self.connection.answers(id);
            let awaited = awaited.and_then(|(call, completion)| {
                let fills_slot = completion.downcast_ref::<Fill>().is_some();
                fills_slot.then_some(call)
            });
            if awaited.is_none() && !starting {
                decoder.put_back(id, payload);
                return (answer, false);
            }
            let (mut completion, failed) =
                match self.connection.receive(id, decoder.payload(&payload)) {
                    Ok(Delivery::Reply(completion)) => (completion, false),
                    Ok(Delivery::Failed(completion)) => (completion, true),
                    Ok(Delivery::Ready) => continue,
                    // For the reactor. Receiving it has changed nothing.
                    _ => {
                        decoder.put_back(id, payload);
                        return (answer, false);
                    }
                };
            let payload = input(decoder, payload).into_small();
            let received = if failed {
                Answer::Failed(payload)
            } else {
                Answer::Reply(payload)
            };
            if awaited == Some(mine) {
                answer = Some(received);
            } else {
                completion.complete(received);
            }
        }
    }

    // ---- when the reactor is needed ----

    /// Whether there is something for the reactor to do.
    pub(super) fn concerns_the_reactor(&self) -> bool {
        // A plain child is told early that nothing more comes, and must exit after its last answer.
        let answers_left = self.shut_down && self.connection.live() > 0;
        let closing = self.connection.is_closed() && !answers_left;
        let roomy = self.trim_at.is_none() && self.connection.is_roomy();
        let asked = closing || roomy || self.connection.has_done();
        asked || self.is_due() || self.has_unattended_output()
    }

    /// Whether a call expires, or the child is stuck, before the reactor attends to the link by itself.
    pub(super) fn is_due(&self) -> bool {
        match (self.connection.deadline(), self.attends_at) {
            (Some(due), Some(attends_at)) => due < attends_at,
            (due, None) => due.is_some(),
            (None, Some(_)) => false,
        }
    }

    /// Whether a call expires, or the child is stuck or to be stopped, by this time.
    pub(super) fn is_due_at(&self, now: Instant) -> bool {
        let deadlines = [self.connection.deadline(), self.stop_by];
        deadlines.into_iter().flatten().any(|at| at <= now)
    }

    /// As [`concerns_the_reactor`](LinkState::concerns_the_reactor), of what a call can cause.
    pub(super) fn is_for_the_reactor(&self, is_timed: bool) -> bool {
        // While the request was sent, others may have closed the handle and waited for that.
        let is_due = is_timed && self.is_due();
        is_due || self.connection.is_closed() || self.has_unattended_output()
    }

    /// Whether calls that nobody waits for are to be written, or the reactor is to read or be notified.
    pub(super) fn is_unsettled(&self, is_timed: bool) -> bool {
        let is_news = !self.attention && self.is_for_the_reactor(is_timed);
        is_news || self.has_batch() || self.role.is_unattended()
    }

    /// Whether so much is queued that it should be written at once.
    pub(super) fn has_batch(&self) -> bool {
        self.connection.queued() >= FULL_BATCH as u64
    }

    /// Whether there is something to write, and nobody writes or waits for room.
    pub(super) fn has_unattended_output(&self) -> bool {
        let writer = self.connection.writer();
        let awaited = self.awaits_room || self.retry_at.is_some();
        let attended = writer.is_writing() || writer.is_closed() || awaited;
        !attended && writer.unsent() > 0
    }

    // ---- what the reactor does ----

    /// The reactor attends to the link; `room` says that the socket takes bytes again. Returns the
    /// calls whose timeout has passed, and whether and why the child is to be killed.
    pub(super) fn begin_attend(
        &mut self,
        now: Instant,
        judge_at: Option<Instant>,
        room: bool,
    ) -> (Vec<(Completion, Phase)>, Option<Kill>) {
        self.attention = false;
        if room {
            self.connection.writer_mut().unblock();
            self.awaits_room = false;
        }
        if self.retry_at.take_if(|at| *at <= now).is_some() {
            self.connection.writer_mut().retry();
        }
        let mut expired = Vec::new();
        while let Some(now) = judge_at
            && let Some(call) = self.connection.expire(now)
        {
            expired.push(call);
        }
        let wanted = (self.killing == Killing::Wanted).then_some(Kill::Wanted);
        let stuck = self.connection.take_stuck().map(Kill::Stuck);
        let kill = wanted.or(stuck);
        if kill.is_some() {
            self.killing = Killing::Known;
        }
        (expired, kill)
    }

    /// Whether the child is to be killed, and was not yet. It must not see the end of the requests before, as it
    /// might exit then.
    pub(super) fn is_to_be_killed(&self) -> bool {
        matches!(self.killing, Killing::Wanted | Killing::Known)
    }

    /// The signal was sent that kills the child.
    pub(super) fn killed(&mut self) {
        // The reactor has yet to hear that the program wants it, too.
        if self.killing != Killing::Wanted {
            self.killing = Killing::Sent;
        }
    }

    /// What is to be done about the end of the requests. A writing side that is to be shut down
    /// counts as shut down from here on.
    pub(super) fn end_of_requests(&mut self) -> EndOfRequests {
        if self.is_to_be_killed() {
            return EndOfRequests::default();
        }
        let connection = &mut self.connection;
        let sent = connection.writer().unsent() == 0;
        let all_sent = connection.is_closed() && (sent || self.shut_down);
        // As long as there are calls, a worker may have to be told that they are cancelled.
        let says_no_more = connection.live() == 0 || connection.is_plain();
        let shut_down = all_sent && says_no_more && !self.shut_down;
        if shut_down {
            self.shut_down = true;
            connection.writer_mut().close();
        }
        EndOfRequests {
            all_sent,
            shut_down,
        }
    }

    /// Whether the reactor is to watch the socket again.
    pub(super) fn should_watch(&mut self, now: Instant) -> bool {
        let immediately = self.connection.is_closed() || !self.connected;
        self.role.check(immediately, now) && self.connected
    }

    /// Whether the socket's registration is out of date as to whether there is output waiting for
    /// room; `room` says that it just reported some. Then it is to be set.
    pub(super) fn update_room(&mut self, room: bool) -> bool {
        let blocked = self.connection.writer().is_blocked();
        std::mem::replace(&mut self.awaits_room, blocked) != blocked || room
    }

    /// The reactor has attended to the link: what it is to do.
    pub(super) fn end_attend(
        &mut self,
        now: Instant,
        judge_at: Option<Instant>,
        expired: Vec<(Completion, Phase)>,
        kill: Option<Kill>,
        all_sent: bool,
    ) -> Actions {
        let is_due = |by: &mut Instant| judge_at.is_some_and(|now| *by <= now);
        let stop = self.stop_by.take_if(is_due).is_some();
        self.trim(now);
        let role = self.role.deadline();
        let calls = self.connection.deadline();
        if self.connection.writer().is_crowded() {
            self.retry_at.get_or_insert(now + RETRY);
        }
        let deadlines = [calls, self.stop_by, role, self.trim_at, self.retry_at];
        let deadline = deadlines.into_iter().flatten().min();
        // Under this lock: a call that is made right after it compares its deadline with this one.
        self.attends_at = deadline;
        Actions {
            expired,
            done: self.connection.take_done(),
            kill,
            fault: self.fault.take(),
            stop,
            close: all_sent && self.connection.live() == 0,
            handed_off: self.role.is_handed_off(),
            ready: self.connection.is_ready(),
            broken: self.connection.writer().has_failed(),
            unanswered: self.connection.live(),
            deadline,
        }
    }

    /// Gives room back that was not needed a while ago, and is not now.
    fn trim(&mut self, now: Instant) {
        if !self.connection.is_roomy() {
            self.trim_at = None;
        } else if *self.trim_at.get_or_insert(now + CALM) <= now {
            self.connection.trim();
            self.trim_at = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::rpc::link::completion::Then;
    use crate::rpc::state::{QueueLimits, StopStage};
    use crate::service::Name;
    use crate::wire::{self, Framing, FunctionId, Plain, Run, ToParent, header};
    use std::io;
    use std::sync::mpsc;

    const LIMITS: QueueLimits = QueueLimits {
        max_frame: 1 << 20,
        calls: 10_000,
        bytes: usize::MAX,
        asks: Some(2),
        stuck_after: None,
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn decoder() -> Decoder {
        Decoder::new(Framing::Tagged, 64, 1 << 20)
    }

    fn new(plain: Option<Plain>) -> LinkState {
        let connection = Connection::new(plain, LIMITS);
        LinkState::new(connection, Reader::new(decoder()), Duration::ZERO)
    }

    /// A worker that serves.
    fn serving() -> LinkState {
        let mut state = new(None);
        state.connection.start(
            vec![],
            Run {
                protocol: wire::VERSION,
                function: FunctionId::octets("f"),
                max_frame: 1,
                buflen: 1,
            },
        );
        send(&mut state);
        let ready = ToParent::Ready {
            protocol: wire::VERSION,
        };
        let ready = ready.encode();
        let received = state.connection.receive(wire::CONTROL_TO_PARENT, &ready);
        assert!(matches!(received, Ok(Delivery::Ready)));
        state
    }

    fn call(state: &mut LinkState, deadline: Option<Instant>, slot: &Arc<Slot>) -> u32 {
        let mut completion = Some(Completion::new(Fill(Arc::clone(slot))));
        let mut request = b"request".to_vec().into();
        let call = state
            .connection
            .call(0, &mut request, deadline, &mut None, &mut completion);
        call.expect("there is room")
    }

    /// Writes all there is, or has the write fail so.
    fn write(state: &mut LinkState, error: Option<io::ErrorKind>) {
        let writer = state.connection.writer_mut();
        while let Some(batch) = writer.begin(usize::MAX) {
            let n = batch.write(|parts| parts.iter().map(|part| part.len()).sum());
            writer.end(batch, error.map_or(Ok(n), |error| Err(error.into())));
        }
    }

    fn send(state: &mut LinkState) {
        write(state, None);
    }

    fn attend(state: &mut LinkState, now: Instant) -> Actions {
        let (expired, kill) = state.begin_attend(now, Some(now), false);
        let all_sent = state.end_of_requests().all_sent;
        state.end_attend(now, Some(now), expired, kill, all_sent)
    }

    fn frame(id: u32, payload: &[u8]) -> Vec<u8> {
        let header = header(Framing::Tagged, id, payload.len() as u32).0;
        [&header[..], payload].concat()
    }

    fn reply(slot: &Slot) -> Option<Vec<u8>> {
        match slot.take() {
            Some(Answer::Reply(payload)) => Some(payload.to_vec()),
            None => None,
            other => panic!("expected a reply, got {other:?}"),
        }
    }

    #[test]
    fn output_is_unattended_unless_somebody_writes_or_waits_for_room() {
        let (mut state, slot) = (serving(), Arc::default());
        assert!(!state.has_unattended_output(), "there is none");
        call(&mut state, None, &slot);
        assert!(state.has_unattended_output() && state.concerns_the_reactor());
        let batch = state.connection.writer_mut().begin(usize::MAX).unwrap();
        assert!(!state.has_unattended_output(), "somebody writes");
        let blocked = Err(io::ErrorKind::WouldBlock.into());
        state.connection.writer_mut().end(batch, blocked);
        assert!(
            state.has_unattended_output(),
            "the reactor does not know yet"
        );
        assert!(state.update_room(false) && !state.update_room(false));
        assert!(!state.has_unattended_output(), "the reactor waits for room");
        state.begin_attend(Instant::now(), None, true);
        assert!(state.has_unattended_output(), "there is room");
        assert!(state.update_room(true), "one event was used up");
        write(&mut state, Some(io::ErrorKind::BrokenPipe));
        assert!(!state.has_unattended_output(), "nobody can write");
        assert!(attend(&mut state, Instant::now()).broken);
    }

    #[test]
    fn calls_are_settled_once_by_their_callers_and_then_by_the_reactor() {
        let (mut state, slot, now) = (serving(), Arc::default(), Instant::now());
        state.role.set_watched(true);
        assert!(!state.is_unsettled(true), "there are none");
        call(&mut state, None, &slot);
        assert!(state.is_unsettled(false), "the reactor is to write");
        state.attention = true;
        assert!(!state.is_unsettled(false), "it knows");
        attend(&mut state, now);
        send(&mut state);
        call(&mut state, Some(now + SECOND), &slot);
        send(&mut state);
        assert!(state.is_unsettled(true), "the reactor is to end it in time");
        assert!(!state.is_unsettled(false), "it is not for this call");
        attend(&mut state, now);
        state.role.set_watched(false);
        assert!(state.is_unsettled(false), "nobody reads the answer");
        state.role.set_watched(true);
        state.attention = true;
        while !state.has_batch() {
            assert!(!state.is_unsettled(true));
            call(&mut state, None, &slot);
        }
        assert!(state.is_unsettled(false), "the caller is to write so much");
        state.attention = false;
        send(&mut state);
        assert!(!state.is_unsettled(false));
        state.connection.close();
        assert!(state.is_unsettled(false), "the reactor is to end the child");
    }

    #[test]
    fn reactor_is_needed_for_a_deadline_that_comes_before_it_attends() {
        let (mut state, slot, now) = (serving(), Arc::default(), Instant::now());
        assert!(!state.is_due());
        let first = call(&mut state, Some(now + 5 * SECOND), &slot);
        send(&mut state);
        assert!(state.is_due() && state.concerns_the_reactor());
        assert_eq!(attend(&mut state, now).deadline, Some(now + 5 * SECOND));
        call(&mut state, Some(now + 6 * SECOND), &slot);
        send(&mut state);
        assert!(!state.is_due() && !state.concerns_the_reactor());
        call(&mut state, Some(now + 4 * SECOND), &slot);
        assert!(state.is_due());
        let actions = attend(&mut state, now + 5 * SECOND);
        let phases: Vec<_> = actions.expired.iter().map(|(_, phase)| *phase).collect();
        assert_eq!(phases, [Phase::Queued, Phase::Begun]);
        assert_eq!(actions.deadline, Some(now + 6 * SECOND));
        assert!(state.connection.cancel(first).is_none(), "it has ended");
    }

    #[test]
    fn stop_and_kill_are_asked_for_once() {
        let (mut state, now) = (serving(), Instant::now());
        state.stop_by = Some(now + SECOND);
        state.killing = Killing::Wanted;
        let actions = attend(&mut state, now);
        assert!(actions.kill == Some(Kill::Wanted) && !actions.stop);
        assert_eq!(actions.deadline, Some(now + SECOND));
        let actions = attend(&mut state, now + SECOND);
        assert!(actions.kill.is_none() && actions.stop);
        assert!(!attend(&mut state, now + SECOND).stop);
        let both = Actions {
            kill: Some(Kill::Wanted),
            stop: true,
            ..attend(&mut state, now)
        };
        let both = both.and_then(attend(&mut state, now));
        assert!(both.kill.is_some() && both.stop, "neither is lost");
    }

    #[test]
    fn child_does_not_see_the_end_of_requests_before_it_is_killed() {
        let (mut state, now) = (serving(), Instant::now());
        state.connection.close();
        state.killing = Killing::Wanted;
        assert_eq!(state.end_of_requests(), EndOfRequests::default());
        assert_eq!(attend(&mut state, now).kill, Some(Kill::Wanted));
        assert_eq!(state.end_of_requests(), EndOfRequests::default());
        assert_eq!(state.stats(None, Duration::ZERO).state, ChildState::Leaving);
        state.killing = Killing::Wanted;
        state.killed();
        assert_eq!(attend(&mut state, now).kill, Some(Kill::Wanted), "again");
        state.killed();
        assert!(state.end_of_requests().shut_down);
        let mut state = serving();
        state.killed();
        assert_eq!(state.stats(None, Duration::ZERO).state, ChildState::Leaving);
    }

    #[test]
    fn child_is_killed_that_is_stuck_when_all_is_read() {
        let (mut state, slot, now) = (serving(), Arc::default(), Instant::now());
        state.connection = Connection::new(
            Some(Plain::Tagged),
            QueueLimits {
                stuck_after: Some(SECOND),
                ..LIMITS
            },
        );
        let id = call(&mut state, Some(now), &slot);
        send(&mut state);
        state.connection.time_out(id, now).unwrap();
        // The reactor does not know yet.
        assert!(state.is_due() && state.concerns_the_reactor());
        assert_eq!(attend(&mut state, now).deadline, Some(now + SECOND));
        assert!(!state.is_due() && state.is_due_at(now + SECOND));
        let (_, kill) = state.begin_attend(now + SECOND, None, false);
        assert_eq!(kill, None, "the answer may be among what is unread");
        assert!(state.is_due_at(now + SECOND));
        let actions = attend(&mut state, now + SECOND);
        assert_eq!(
            (actions.kill, actions.deadline),
            (Some(Kill::Stuck(SECOND)), None)
        );
        assert_eq!(attend(&mut state, now + 2 * SECOND).kill, None, "once");
    }

    #[test]
    fn nothing_is_due_while_something_is_unread() {
        let (mut state, slot, now) = (serving(), Arc::default(), Instant::now());
        call(&mut state, Some(now), &slot);
        state.stop_by = Some(now);
        assert!(state.is_due_at(now) && !state.is_due_at(now - SECOND));
        let (expired, kill) = state.begin_attend(now, None, false);
        let actions = state.end_attend(now, None, expired, kill, false);
        assert!(actions.expired.is_empty() && !actions.stop);
        assert_eq!(actions.deadline, Some(now));
        let actions = attend(&mut state, now);
        assert!(actions.expired.len() == 1 && actions.stop);
        assert!(!state.is_due_at(now));
    }

    #[test]
    fn requests_of_a_worker_end_when_all_are_sent_and_answered() {
        let (mut state, slot) = (serving(), Arc::default());
        let id = call(&mut state, None, &slot);
        let not_yet = EndOfRequests {
            all_sent: false,
            shut_down: false,
        };
        assert_eq!(state.end_of_requests(), not_yet, "it is not closed");
        state.connection.close();
        assert_eq!(state.end_of_requests(), not_yet, "it is not sent");
        send(&mut state);
        let end = state.end_of_requests();
        assert!(end.all_sent && !end.shut_down, "it may be cancelled yet");
        assert!(!attend(&mut state, Instant::now()).close);
        state.connection.receive(id, b"").unwrap();
        assert!(state.end_of_requests().shut_down);
        assert!(!state.end_of_requests().shut_down, "once");
        assert!(attend(&mut state, Instant::now()).close);
        assert!(state.connection.writer().is_closed());
    }

    #[test]
    fn requests_of_a_plain_peer_end_when_all_are_sent() {
        let (mut state, slot) = (new(Some(Plain::Tagged)), Arc::default());
        let id = call(&mut state, None, &slot);
        state.connection.close();
        send(&mut state);
        let end = state.end_of_requests();
        assert!(end.all_sent && end.shut_down);
        assert!(!state.concerns_the_reactor(), "the answer is awaited");
        assert!(!attend(&mut state, Instant::now()).close);
        state.connection.receive(id, b"").unwrap();
        assert!(state.concerns_the_reactor(), "the peer must exit now");
        assert!(attend(&mut state, Instant::now()).close);
    }

    #[test]
    fn room_of_many_calls_is_given_back_when_it_was_not_needed_for_a_while() {
        let (mut state, slot, now) = (serving(), Arc::default(), Instant::now());
        let many = if cfg!(miri) { 2000 } else { 9000 };
        let ids: Vec<_> = (0..many).map(|_| call(&mut state, None, &slot)).collect();
        send(&mut state);
        for id in ids {
            state.connection.receive(id, b"").unwrap();
        }
        assert!(state.connection.is_roomy() && state.concerns_the_reactor());
        assert_eq!(attend(&mut state, now).deadline, Some(now + CALM));
        assert!(!state.concerns_the_reactor(), "it knows");
        attend(&mut state, now + CALM / 2);
        assert!(state.connection.is_roomy(), "not yet");
        assert_eq!(attend(&mut state, now + CALM).deadline, None);
        assert!(!state.connection.is_roomy());
    }

    #[test]
    fn calls_after_the_end_are_told_why() {
        let mut state = serving();
        let refused = |state: &LinkState| state.refused(Refusal::Closed);
        assert!(matches!(refused(&state), Ended::Refused(Refusal::Closed)));
        state.end = Some(Ok(Exit::new(None, StopStage::Closed)));
        assert!(matches!(refused(&state), Ended::Refused(Refusal::Closed)));
        state.end = Some(Err(Error::new(ErrorKind::Died, "it died")));
        let Ended::Lost(error, Phase::Queued) = refused(&state) else {
            panic!("the child is lost, and the call was not sent");
        };
        assert_eq!(error.kind(), ErrorKind::Died);
    }

    /// However the bytes come, the answers of callers that wait are taken, up to the first frame that
    /// is the reactor's to handle, which stays in the buffer.
    #[test]
    fn answers_are_taken_up_to_what_is_the_reactors() {
        let (sender, _called) = mpsc::channel::<()>();
        let bytes = [
            frame(1, b"one"),
            frame(3, b"three"),
            frame(2, b"two"),
            frame(wire::EVENT, b"event"),
            frame(4, b"four"),
        ];
        let events_at = bytes[..3].concat().len();
        let bytes = bytes.concat();
        let step = if cfg!(miri) { 7 } else { 1 };
        for split in (0..=bytes.len()).step_by(step) {
            let mut state = serving();
            let slots: [Arc<Slot>; 4] = Default::default();
            let ids: Vec<_> = slots.iter().map(|it| call(&mut state, None, it)).collect();
            assert_eq!(ids, [1, 2, 3, 4]);
            send(&mut state);
            let (mut decoder, mut mine) = (decoder(), None);
            for part in [&bytes[..split], &bytes[split..]] {
                let mut part = part;
                while !part.is_empty() {
                    let n = decoder.space().fill(part);
                    part = &part[n..];
                    let (answer, all) = state.take_answers(&mut decoder, 2);
                    mine = answer.or(mine);
                    if !all {
                        break;
                    }
                }
            }
            assert!(
                matches!(mine, Some(Answer::Reply(it)) if *it == *b"two"),
                "split {split}"
            );
            let [one, two, three, four] = slots.map(|slot| reply(&slot));
            assert_eq!(
                (one.as_deref(), three.as_deref()),
                (Some(&b"one"[..]), Some(&b"three"[..]))
            );
            assert_eq!((two, four), (None, None));
            assert_eq!(decoder.offset(), events_at as u64);
        }
        // So it is with the answer to a callback, and with bytes that are not frames.
        let mut state = serving();
        let callback = Then::<Name, _>::new(move |_| drop(sender));
        let mut completion = Some(Completion::new(callback));
        let mut request = b"request".to_vec().into();
        let id = state
            .connection
            .call(0, &mut request, None, &mut None, &mut completion)
            .unwrap();
        send(&mut state);
        let too_long = [&[0, 0, 0, 1][..], &[0xff; 4]].concat();
        for bytes in [frame(id, b""), too_long, frame(7, b"")] {
            let mut decoder = decoder();
            decoder.space().fill(&bytes);
            let (answer, all) = state.take_answers(&mut decoder, 2);
            assert!(answer.is_none() && !all && decoder.offset() == 0);
        }
        assert_eq!(state.connection.live(), 1);
    }

    #[test]
    fn ready_is_taken_on_the_way_to_an_answer() {
        let (mut state, slot) = (new(None), Arc::default());
        let id = call(&mut state, None, &slot);
        send(&mut state);
        let ready = ToParent::Ready {
            protocol: wire::VERSION,
        };
        let bytes = [
            frame(wire::CONTROL_TO_PARENT, &ready.encode()),
            frame(id, b"reply"),
        ];
        let mut decoder = decoder();
        decoder.space().fill(&bytes.concat());
        let (answer, all) = state.take_answers(&mut decoder, id);
        assert!(matches!(answer, Some(Answer::Reply(it)) if *it == *b"reply"));
        assert!(all && state.connection.is_ready());
    }
}

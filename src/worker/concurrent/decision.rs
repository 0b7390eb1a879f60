//! What the loop does when it finds nothing to do. Pure.

use crate::worker::hub::LoopStatus;

/// The loop's own status, apart from that of its calls and its output.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalStatus {
    /// Whether requests have not ended.
    pub(super) reading: bool,
    /// Whether the session may have requests that were not taken.
    pub(super) backlog: bool,
    /// Whether it has a waker.
    pub(super) has_waker: bool,
    /// Whether it has no timers, descriptors or offloaded functions.
    pub(super) idle: bool,
    pub(super) done: DoneState,
}

/// What a child does at the end of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DoneState {
    /// It exits: there is no `done`.
    None,
    /// It calls `done`.
    Pending,
    /// It has called `done`, and continues until it is idle.
    Called,
}

/// What a loop does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Stop: replies cannot be written.
    ParentGone,
    /// Stop: everything is done.
    Finished,
    CallDone,
    TakeRequests,
    /// Make a waker, and decide again: it may have been needed meanwhile.
    MakeWaker,
    Sleep(SleepMode),
}

/// How a loop sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SleepMode {
    /// In a read, until a request comes.
    Read,
    /// In a read, but not for long: calls are unanswered.
    ReadBriefly,
    /// In a poll.
    Poll { requests: bool, room: bool },
}

impl LocalStatus {
    pub(super) fn decide(self, status: LoopStatus) -> Decision {
        let runs_on = self.done == DoneState::Called;
        if status.broken && !runs_on {
            return Decision::ParentGone;
        }
        if runs_on && self.idle {
            return Decision::Finished;
        }
        match self.done {
            DoneState::None if status.finished => return Decision::Finished,
            DoneState::Pending if status.finished => return Decision::CallDone,
            _ => {}
        }
        if status.wants_requests && self.backlog {
            return Decision::TakeRequests;
        }
        let wants_waker = status.wants_waker || !self.idle;
        if wants_waker && !self.has_waker {
            return Decision::MakeWaker;
        }
        let requests = status.wants_requests && self.reading;
        Decision::Sleep(if !requests || status.wants_room || wants_waker {
            SleepMode::Poll {
                requests,
                room: status.wants_room,
            }
        } else if status.busy {
            SleepMode::ReadBriefly
        } else {
            SleepMode::Read
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: LoopStatus = LoopStatus {
        wants_requests: true,
        wants_room: false,
        wants_waker: false,
        busy: false,
        finished: false,
        broken: false,
    };

    const SERVING: LocalStatus = LocalStatus {
        reading: true,
        backlog: false,
        has_waker: false,
        idle: true,
        done: DoneState::None,
    };

    const POLL: Decision = Decision::Sleep(SleepMode::Poll {
        requests: true,
        room: false,
    });

    #[test]
    fn with_nothing_but_requests_to_wait_for_it_sleeps_in_a_read() {
        assert_eq!(SERVING.decide(QUIET), Decision::Sleep(SleepMode::Read));
        let busy = LoopStatus {
            busy: true,
            ..QUIET
        };
        assert_eq!(
            SERVING.decide(busy),
            Decision::Sleep(SleepMode::ReadBriefly)
        );
    }

    #[test]
    fn with_more_to_wait_for_it_makes_a_waker_and_polls() {
        let timer = LocalStatus {
            idle: false,
            ..SERVING
        };
        let others = LoopStatus {
            wants_waker: true,
            ..QUIET
        };
        for (state, status) in [(timer, QUIET), (SERVING, others)] {
            assert_eq!(state.decide(status), Decision::MakeWaker);
            let state = LocalStatus {
                has_waker: true,
                ..state
            };
            assert_eq!(state.decide(status), POLL);
        }
    }

    #[test]
    fn waits_for_room_and_for_requests_only_as_long_as_it_wants_them() {
        let no_room = LoopStatus {
            wants_room: true,
            ..QUIET
        };
        let (requests, room) = (true, true);
        assert_eq!(
            SERVING.decide(no_room),
            Decision::Sleep(SleepMode::Poll { requests, room })
        );
        let state = LocalStatus {
            has_waker: true,
            ..SERVING
        };
        let paused = LoopStatus {
            wants_requests: false,
            wants_waker: true,
            ..QUIET
        };
        let ended = LocalStatus {
            reading: false,
            ..state
        };
        for (state, status) in [(state, paused), (ended, QUIET)] {
            let (requests, room) = (false, false);
            assert_eq!(
                state.decide(status),
                Decision::Sleep(SleepMode::Poll { requests, room })
            );
        }
    }

    #[test]
    fn requests_that_were_read_are_taken_when_there_is_room() {
        let state = LocalStatus {
            backlog: true,
            has_waker: true,
            ..SERVING
        };
        assert_eq!(state.decide(QUIET), Decision::TakeRequests);
        let paused = LoopStatus {
            wants_requests: false,
            wants_waker: true,
            ..QUIET
        };
        assert!(matches!(state.decide(paused), Decision::Sleep(_)));
    }

    #[test]
    fn end_of_the_calls_is_the_end_or_calls_done_and_runs_on_until_it_is_idle() {
        let finished = LoopStatus {
            finished: true,
            wants_requests: false,
            ..QUIET
        };
        for idle in [true, false] {
            let state = |done| LocalStatus {
                idle,
                done,
                reading: false,
                has_waker: true,
                ..SERVING
            };
            // Timers do not keep a child that has nothing to answer.
            assert_eq!(state(DoneState::None).decide(finished), Decision::Finished);
            let serving = state(DoneState::Pending);
            assert_eq!(serving.decide(finished), Decision::CallDone);
            let decision = state(DoneState::Called).decide(finished);
            assert_eq!(decision == Decision::Finished, idle, "{decision:?}");
        }
    }

    #[test]
    fn child_does_not_outlive_its_parent_unless_it_runs_on() {
        let broken = LoopStatus {
            broken: true,
            ..QUIET
        };
        let state = |done| LocalStatus {
            done,
            idle: false,
            has_waker: true,
            ..SERVING
        };
        for done in [DoneState::None, DoneState::Pending] {
            assert_eq!(state(done).decide(broken), Decision::ParentGone);
        }
        assert_eq!(state(DoneState::Called).decide(broken), POLL);
    }
}

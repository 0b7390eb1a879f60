//! When what a thread sends is written. Pure, but for the policy that each thread has.

use std::cell::Cell;

/// When what a thread sends is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum WritePolicy {
    /// By a thread that has not set a policy: immediately.
    Now,
    /// In a call after which the thread waits for more, or has few others to begin: immediately.
    LastCall,
    /// The same, after an event was sent: further events soon, as there may be many.
    LastCallWithEvents,
    /// In a call with many others behind it: soon.
    Call,
    /// In a batch of calls, none of which takes long: later.
    Batch,
    /// Not by sending it, which waits for nothing: the thread sees to it afterwards.
    Apart,
}

/// Who writes a frame, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// The thread itself, immediately.
    Now,
    /// The flusher.
    Soon,
    /// The thread itself, before it waits for anything.
    Later,
    /// The thread itself or the flusher, afterwards.
    Apart,
}

/// What a thread does after it has appended a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterSend {
    /// Write, as far as there is room, or with `wait` everything.
    Write { wait: bool },
    /// Leave it to the flusher.
    FlushSoon,
    /// Continue.
    Nothing,
}

thread_local! {
    static POLICY: Cell<WritePolicy> = const { Cell::new(WritePolicy::Now) };
}

impl WritePolicy {
    /// Sets this thread's policy.
    pub(in crate::worker) fn set(self) {
        POLICY.set(self);
    }

    /// This thread's policy.
    pub(super) fn current() -> Self {
        POLICY.get()
    }

    /// How urgent a frame is, which is an answer or something else.
    pub(super) fn urgency(self, is_answer: bool) -> Urgency {
        match self {
            WritePolicy::Now | WritePolicy::LastCall => Urgency::Now,
            WritePolicy::LastCallWithEvents if is_answer => Urgency::Now,
            WritePolicy::LastCallWithEvents | WritePolicy::Call => Urgency::Soon,
            WritePolicy::Batch => Urgency::Later,
            WritePolicy::Apart => Urgency::Apart,
        }
    }

    /// The policy for the frames after this one.
    pub(super) fn after(self, is_answer: bool) -> Self {
        match self {
            WritePolicy::LastCall if !is_answer => WritePolicy::LastCallWithEvents,
            policy => policy,
        }
    }
}

impl Urgency {
    /// `is_batch`: enough has gathered to be worth a write. Above high water, every thread waits for
    /// the parent to read, the loop only then.
    pub(super) fn after_send(self, is_batch: bool, is_above_high_water: bool) -> AfterSend {
        match self {
            Urgency::Soon if !is_batch => AfterSend::FlushSoon,
            Urgency::Later if !is_batch && !is_above_high_water => AfterSend::Nothing,
            Urgency::Later => AfterSend::Write {
                wait: is_above_high_water,
            },
            Urgency::Apart => AfterSend::Nothing,
            Urgency::Now | Urgency::Soon => AfterSend::Write { wait: true },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_written_before_the_thread_waits() {
        for (policy, urgency) in [
            (WritePolicy::Now, Urgency::Now),
            (WritePolicy::LastCall, Urgency::Now),
            (WritePolicy::LastCallWithEvents, Urgency::Now),
            (WritePolicy::Call, Urgency::Soon),
            (WritePolicy::Batch, Urgency::Later),
            (WritePolicy::Apart, Urgency::Apart),
        ] {
            assert_eq!(policy.urgency(true), urgency);
            assert_eq!(policy.after(true), policy);
        }
    }

    #[test]
    fn first_event_of_a_last_call_is_written_immediately_and_the_next_soon() {
        let policy = WritePolicy::LastCall;
        assert_eq!(policy.urgency(false), Urgency::Now);
        let policy = policy.after(false);
        assert_eq!(policy, WritePolicy::LastCallWithEvents);
        assert_eq!(policy.urgency(false), Urgency::Soon);
        assert_eq!(policy.after(false), policy);
        for policy in [WritePolicy::Now, WritePolicy::Call, WritePolicy::Batch] {
            assert_eq!(policy.after(false), policy);
            assert_eq!(policy.urgency(false), policy.urgency(true));
        }
    }

    #[test]
    fn policy_is_the_threads_own() {
        assert_eq!(WritePolicy::current(), WritePolicy::Now);
        WritePolicy::Batch.set();
        let other = std::thread::spawn(WritePolicy::current).join().unwrap();
        assert_eq!(
            (WritePolicy::current(), other),
            (WritePolicy::Batch, WritePolicy::Now)
        );
    }

    #[test]
    fn urgent_frames_are_written_and_others_gather() {
        let write = |wait| AfterSend::Write { wait };
        for above in [false, true] {
            for batch in [false, true] {
                assert_eq!(Urgency::Now.after_send(batch, above), write(true));
            }
            assert_eq!(
                Urgency::Soon.after_send(false, above),
                AfterSend::FlushSoon,
                "the flusher waits, not the thread"
            );
            assert_eq!(Urgency::Soon.after_send(true, above), write(true));
        }
        assert_eq!(Urgency::Later.after_send(false, false), AfterSend::Nothing);
        assert_eq!(Urgency::Later.after_send(true, false), write(false));
        for batch in [false, true] {
            assert_eq!(Urgency::Later.after_send(batch, true), write(true));
        }
    }
}

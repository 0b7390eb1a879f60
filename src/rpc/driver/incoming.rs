//! What comes from the child: it is read, looked up, and handed out in order.

use super::Driver;
use super::breach::Breach;
use crate::chain::chain;
use crate::codec::{Input, Strings};
use crate::copies;
use crate::error::ErrorKind;
use crate::outcome::refusal_kind;
use crate::rpc::callback::guard;
use crate::rpc::link::{Answer, BorrowedAnswer, Completion, ProgressCallback, Reader, input};
use crate::rpc::log;
use crate::rpc::state::{ChildViolation, Delivery};
use crate::wire::{self, Check, Decoder, FrameHead, Payload, ToParent};
use std::io;
use std::time::Instant;

/// How many frames are looked up under one lock.
const FRAMES: usize = 4096;

impl Driver {
    /// Reads what has come, at most `reads` times, and no further than `bytes`, unless a caller reads.
    pub(super) fn read(&mut self, reads: usize, mut bytes: usize, now: Instant) {
        if !self.life.is_connected() {
            return;
        }
        let Some(mut reader) = self.link.take_reader() else {
            return;
        };
        // What a caller has read and left.
        self.deliver(reader.decoder(), now);
        for _ in 0..reads {
            if !self.life.is_connected() {
                break;
            }
            match self.read_once(&mut reader, now) {
                Some(n) if n < bytes => bytes -= n,
                _ => break,
            }
        }
        self.link.give_reader_back(reader);
    }

    /// Reads once, and delivers it. Returns how much that was, if there may be more.
    fn read_once(&mut self, reader: &mut Reader, now: Instant) -> Option<usize> {
        let takes_fds = reader.decoder().takes_fds();
        match reader.receive_now(self.link.socket()) {
            Ok((n @ 1.., more)) => {
                self.deliver(reader.decoder(), now);
                // A read also ends with a message whose descriptors were not expected yet.
                let more = more || reader.decoder().takes_fds() != takes_fds;
                // If that was all, the poller reports what comes next; after the exit there is no
                // poller any more.
                return (more || self.process.is_none()).then_some(n);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The child may have closed with requests unread: a reset.
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => {
                self.life.disconnected(Some(error), now);
            }
            Ok(_) | Err(_) => self.stream_ended(reader.decoder(), now),
        }
        None
    }

    fn stream_ended(&mut self, decoder: &Decoder, now: Instant) {
        match decoder.finish() {
            Ok(()) => self.life.disconnected(None, now),
            Err(error) => {
                let (kind, message) = Breach::Decode(error).describe(self.life.is_ready());
                self.life.cut(kind, message, now);
            }
        }
    }

    /// Delivers the frames that are in the buffer, in order: runs of events, for which nothing needs to
    /// be looked up, and runs of everything else, looked up under one lock and then handed out.
    fn deliver(&mut self, decoder: &mut Decoder, now: Instant) {
        loop {
            let offset = decoder.offset();
            let next = self.gather(decoder);
            let looked_up = self.look_up(decoder, matches!(next, Ok(Some(_))));
            // Before the callbacks: the child can do the next call meanwhile.
            self.report();
            self.hand_out_batch(decoder, now);
            match (looked_up, next) {
                (Err(breach), _) => return self.breached(breach, now),
                (Ok(()), Err(violation)) => {
                    return self.breached(Breach::new(violation, decoder.offset()), now);
                }
                (Ok(()), Ok(Some(event))) => self.hand_out_events(decoder, event, now),
                (Ok(()), Ok(None)) if decoder.offset() == offset => return,
                (Ok(()), Ok(None)) => {}
            }
        }
    }

    /// Takes frames out of the buffer, up to the next event, which is returned. Control frames, which have
    /// an event's id but for one bit, may be the decoder's own.
    fn gather(&mut self, decoder: &mut Decoder) -> Result<Option<Payload>, ChildViolation> {
        let Driver {
            link,
            frames,
            frames_at,
            life,
            ..
        } = self;
        frames.clear();
        *frames_at = decoder.offset();
        while frames.len() < FRAMES {
            if let Some((id, at)) = decoder.next_if(|id| id & wire::MAX_ID != 0) {
                frames.push((id, Payload::At(at)));
                continue;
            }
            let check = |head: FrameHead<'_>| match head.id {
                // What may come depends on these, which are to be looked up before.
                _ if !frames.is_empty() => Ok(Check::Later),
                wire::EVENT if life.is_ready() => Ok(Check::Pass),
                _ => link.check(head),
            };
            let offset = decoder.offset();
            let Some((id, payload)) = decoder.next(check)? else {
                break;
            };
            // Others may have been before it, which were the decoder's own.
            let begins_at = decoder.offset() - decoder.len_of(&payload);
            match id {
                wire::EVENT => return Ok(Some(payload)),
                _ if frames.is_empty() => *frames_at = begins_at,
                _ if begins_at == offset => {}
                _ => {
                    decoder.put_back(id, payload);
                    break;
                }
            }
            frames.push((id, payload));
        }
        Ok(None)
    }

    /// Looks up what the frames are that were gathered; `event` says that an event follows them.
    fn look_up(&mut self, decoder: &Decoder, event: bool) -> Result<(), Breach> {
        let Driver {
            link,
            frames,
            frames_at,
            completions,
            others,
            life,
            ..
        } = self;
        if frames.is_empty() && life.is_ready() {
            return Ok(());
        }
        completions.resize_with(frames.len(), || None);
        let mut good = 0;
        let result = link.receive(|connection| {
            let mut result = Ok(());
            for ((id, payload), completion) in frames.iter().zip(completions) {
                match connection.receive_into(*id, decoder.payload(payload), completion) {
                    Ok(None) => {}
                    Ok(Some(other)) => others.push(other),
                    Err(violation) => {
                        result = Err(violation);
                        break;
                    }
                }
                good += 1;
            }
            if result.is_ok() && event && !connection.is_ready() {
                result = connection.receive(wire::EVENT, &[]).map(drop);
            }
            if connection.is_ready() {
                // A caller may have read that.
                life.ready();
            }
            result
        });
        result.map_err(|violation| {
            let before = frames[..good].iter();
            let before = before.map(|(_, payload)| decoder.len_of(payload));
            Breach::Violation(violation, *frames_at + before.sum::<u64>())
        })
    }

    /// Hands out what was looked up.
    fn hand_out_batch(&mut self, decoder: &Decoder, now: Instant) {
        let mut frames = std::mem::take(&mut self.frames);
        let mut completions = std::mem::take(&mut self.completions);
        let mut others = std::mem::take(&mut self.others).into_iter();
        let mut left = frames.iter_mut().zip(&mut completions);
        // A panic ends one of them only: the others need no guard of their own.
        while left.len() > 0 {
            guard(|| {
                for ((_, payload), completion) in left.by_ref() {
                    match (completion, payload) {
                        (Some(completion), Payload::At(at)) => {
                            completion.consume(&BorrowedAnswer::Reply(decoder.bytes(at.clone())));
                        }
                        (Some(completion), Payload::Owned(bytes)) => {
                            completion.complete(Answer::Reply(std::mem::take(bytes).into()));
                        }
                        (Some(completion), payload @ Payload::Carrying(_)) => {
                            let payload = std::mem::replace(payload, Payload::At(0..0));
                            let payload = input(decoder, payload).into_small();
                            completion.complete(Answer::Reply(payload));
                        }
                        (None, payload) => {
                            let payload = std::mem::replace(payload, Payload::At(0..0));
                            if let Some(other) = others.next() {
                                self.hand_out(other, decoder, payload, now);
                            }
                        }
                    }
                }
            });
        }
        frames.clear();
        completions.clear();
        (self.frames, self.completions) = (frames, completions);
    }

    fn hand_out(
        &mut self,
        delivery: Delivery<Completion, ProgressCallback>,
        decoder: &Decoder,
        payload: Payload,
        now: Instant,
    ) {
        let mut input = input(decoder, payload);
        match delivery {
            Delivery::Reply(mut call) => call.complete(Answer::Reply(input.into_small())),
            Delivery::Failed(mut call) => call.complete(Answer::Failed(input.into_small())),
            Delivery::Progress(progress) => {
                let fds = input.split_fds();
                // A callback that has panicked is poisoned, and not called again.
                if let Ok(ToParent::Progress { payload, .. }) = ToParent::decode(&input)
                    && let Ok(mut progress) = progress.lock()
                {
                    // Other callbacks may follow under the same guard.
                    copies::run(|| progress(Input::carrying(payload, fds)));
                }
            }
            Delivery::Asked => {
                let handlers = self.handlers.as_mut().expect("present until the end");
                handlers.ask(&self.link, input);
            }
            Delivery::Log => log::emit(&input, self.pid().unwrap_or(0)),
            // Retiring is for a pool to act on, which has other children.
            Delivery::Late => {}
            Delivery::Retires => {
                let handlers = self.handlers.as_ref().expect("present until the end");
                if let Some(supervisor) = &handlers.supervisor {
                    supervisor.retires();
                }
            }
            Delivery::Ready => self.life.ready(),
            Delivery::Refused(refused) => {
                let kind = refusal_kind(&refused.kind);
                self.life.refused(kind, refused.message, now);
            }
            Delivery::Event => unreachable!("events of a child that is ready are not looked up"),
        }
    }

    /// Hands out an event, and those that follow it in the buffer.
    fn hand_out_events(&mut self, decoder: &mut Decoder, first: Payload, now: Instant) {
        let pid = self.pid();
        let Driver { handlers, life, .. } = self;
        let handlers = handlers.as_mut().expect("present until the end");
        let mut next = Some(first);
        let mut malformed = None;
        while next.is_some() && malformed.is_none() {
            guard(|| {
                while let Some(payload) = next.take() {
                    // Before the callback, which may panic.
                    let following = decoder.next_if(|id| id == wire::EVENT);
                    next = following.map(|(_, at)| Payload::At(at));
                    match Strings::decode(input(decoder, payload)) {
                        Ok(event) => handlers.event(event, pid),
                        Err(error) => return malformed = Some(error),
                    }
                }
            });
        }
        if let Some(error) = malformed {
            let message = format!("an event from the child is malformed: {}", chain(&error));
            life.fail(ErrorKind::Protocol, message, now);
        }
    }

    fn breached(&mut self, breach: Breach, now: Instant) {
        let (kind, message) = breach.describe(self.life.is_ready());
        self.life.fail(kind, message, now);
    }
}

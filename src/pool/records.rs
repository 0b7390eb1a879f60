//! What is needed to make the calls of a child again when it is lost.
//!
//! The reactor, which ends calls, does not touch these: memory that two threads write in turn costs more than
//! all the rest of a call. Whoever makes the next calls removes those of calls that have ended.

use super::scheduler::{Ticket, Want};
use super::waiting::{Place, Repeat, Waiting};
use crate::codec::Input;
use crate::rpc::Completion;
use crate::wire::{Body, SmallBytes};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

/// Of a longer request, a copy is kept that takes an allocation.
const SHORT: usize = 16 << 10;
/// So many records of calls that have ended may be left,
const FEW: usize = 64;
/// unless their requests have so many bytes.
const FEW_BYTES: usize = 1 << 20;

type WeakProgress = Weak<Mutex<dyn FnMut(Input<'_>) + Send>>;

/// See the module's documentation. In the order in which the calls were sent.
#[derive(Default)]
pub(super) struct Records {
    all: VecDeque<Record>,
    /// How many bytes their requests have.
    bytes: usize,
}

/// A call that was sent.
pub(super) struct Record {
    /// The call's id at the link.
    id: u32,
    function: usize,
    ticket: Ticket,
    want: Want,
    since: Instant,
    request: Kept,
    /// Mostly there is none.
    rest: Option<Box<Rest>>,
}

/// What few calls have.
struct Rest {
    /// The link's: its owner may wait until it is dropped when the call has ended.
    progress: Option<WeakProgress>,
    place: Option<Arc<Mutex<Place>>>,
    repeat: Repeat,
}

/// A request that may be needed again.
pub(super) enum Kept {
    Short(SmallBytes),
    Long(Body),
}

impl Kept {
    pub(super) fn new(request: &Body) -> Self {
        match request.short(SHORT) {
            Some(bytes) => Kept::Short(bytes.into()),
            None => Kept::Long(request.clone()),
        }
    }

    pub(super) fn into_body(self) -> Body {
        match self {
            Kept::Short(bytes) => Body::from(bytes.into_vec()),
            Kept::Long(body) => body,
        }
    }
}

impl Record {
    /// A call that is sent with this id. Its completion is the link's.
    pub(super) fn new(id: u32, request: Kept, waiting: Waiting) -> Self {
        let Waiting {
            ticket,
            want,
            since,
            function,
            progress,
            place,
            repeat,
            ..
        } = waiting;
        let is_plain = progress.is_none() && place.is_none() && repeat.is_plain();
        let progress = progress.map(|progress| Arc::downgrade(&progress));
        let rest = (!is_plain).then(|| {
            Box::new(Rest {
                progress,
                place,
                repeat,
            })
        });
        Record {
            id,
            function,
            ticket,
            want,
            since,
            request,
            rest,
        }
    }

    /// The call, which is to be made again.
    pub(super) fn into_waiting(self, completion: Completion) -> Waiting {
        let rest = self.rest.map(|rest| *rest);
        let (progress, place, repeat) = rest.map_or_else(Default::default, |rest| {
            (rest.progress, rest.place, rest.repeat)
        });
        Waiting {
            ticket: self.ticket,
            want: self.want,
            since: self.since,
            function: self.function,
            request: self.request.into_body(),
            progress: progress.and_then(|progress| progress.upgrade()),
            completion: Some(completion),
            place,
            repeat,
        }
    }
}

impl Records {
    pub(super) fn push(&mut self, record: Record) {
        self.bytes += record.want.bytes;
        self.all.push_back(record);
    }

    /// Takes the record of a call that is lost, and drops those before it, which are not: calls are lost in
    /// their order.
    pub(super) fn take(&mut self, id: u32) -> Option<Record> {
        let at = self.all.iter().position(|record| record.id == id)?;
        let record = self.all.drain(..=at).next_back()?;
        self.bytes = self.all.iter().map(|record| record.want.bytes).sum();
        Some(record)
    }

    /// Whether there are many of calls that have ended, if so many have not.
    pub(super) fn is_crowded(&self, in_flight: usize) -> bool {
        let ended = self.all.len().saturating_sub(in_flight);
        ended > in_flight + FEW || ended > 0 && self.bytes > FEW_BYTES
    }

    /// Removes those of calls that have ended.
    pub(super) fn sweep(&mut self, is_outstanding: &mut dyn FnMut(u32) -> bool) {
        let bytes = &mut self.bytes;
        self.all.retain(|record| {
            let stays = is_outstanding(record.id);
            if !stays {
                *bytes -= record.want.bytes;
            }
            stays
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

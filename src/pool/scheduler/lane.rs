//! Calls that wait, in the order in which they were made.

use super::{Ticket, Want};
use std::collections::VecDeque;
use std::time::Instant;

/// A call that waits, or has waited.
#[derive(Debug)]
pub(crate) struct Entry<C> {
    pub(crate) ticket: Ticket,
    pub(crate) want: Want,
    /// Since when.
    pub(crate) since: Instant,
    pub(crate) call: C,
}

/// Which of two calls goes first: the smaller one, if there is a child for it.
pub(super) type Turn = (bool, Ticket);

impl<C> Entry<C> {
    pub(super) fn turn(&self) -> Turn {
        (!self.want.urgent, self.ticket)
    }
}

/// Calls for the same children, the urgent ones before the others. A call that comes back takes its old place:
/// it is the oldest.
#[derive(Debug)]
pub(super) struct Lane<C> {
    urgent: Line<C>,
    others: Line<C>,
}

/// Entries by their tickets. Those that were taken out of the middle leave gaps, which are closed once they
/// outnumber the others; the first is never one.
#[derive(Debug)]
struct Line<C> {
    entries: VecDeque<(Ticket, Option<Entry<C>>)>,
    live: usize,
}

/// This many gaps are always allowed.
const FEW: usize = 64;

impl<C> Default for Lane<C> {
    fn default() -> Self {
        Lane {
            urgent: Line::default(),
            others: Line::default(),
        }
    }
}

impl<C> Default for Line<C> {
    fn default() -> Self {
        Line {
            entries: VecDeque::new(),
            live: 0,
        }
    }
}

impl<C> Lane<C> {
    pub(super) fn insert(&mut self, entry: Entry<C>) {
        let line = match entry.want.urgent {
            true => &mut self.urgent,
            false => &mut self.others,
        };
        line.insert(entry);
    }

    /// The one whose turn it is.
    pub(super) fn first(&self) -> Option<&Entry<C>> {
        self.urgent.first().or_else(|| self.others.first())
    }

    pub(super) fn take_first(&mut self) -> Option<Entry<C>> {
        let first = self.urgent.take_first();
        first.or_else(|| self.others.take_first())
    }

    /// Takes this one out, if it is there.
    pub(super) fn take(&mut self, ticket: Ticket) -> Option<Entry<C>> {
        let taken = self.urgent.take(ticket);
        taken.or_else(|| self.others.take(ticket))
    }

    pub(super) fn len(&self) -> usize {
        self.urgent.live + self.others.live
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Since when the one waits that waits longest.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let firsts = [self.urgent.first(), self.others.first()];
        firsts.into_iter().flatten().map(|entry| entry.since).min()
    }
}

impl<C> Line<C> {
    fn insert(&mut self, entry: Entry<C>) {
        self.live += 1;
        let ticket = entry.ticket;
        let new = (ticket, Some(entry));
        match self.entries.back() {
            Some((last, _)) if *last > ticket => match self.find(ticket) {
                // The gap that it has left.
                Ok(at) => self.entries[at] = new,
                Err(at) => self.entries.insert(at, new),
            },
            _ => self.entries.push_back(new),
        }
    }

    fn first(&self) -> Option<&Entry<C>> {
        self.entries.front()?.1.as_ref()
    }

    fn take_first(&mut self) -> Option<Entry<C>> {
        let (_, entry) = self.entries.pop_front()?;
        self.live -= 1;
        self.close_gaps();
        entry
    }

    fn take(&mut self, ticket: Ticket) -> Option<Entry<C>> {
        let at = self.find(ticket).ok()?;
        let entry = self.entries[at].1.take()?;
        self.live -= 1;
        self.close_gaps();
        Some(entry)
    }

    fn close_gaps(&mut self) {
        if self.entries.len() > 2 * self.live + FEW {
            self.entries.retain(|(_, entry)| entry.is_some());
        }
        while let Some((_, None)) = self.entries.front() {
            self.entries.pop_front();
        }
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
    }

    fn find(&self, ticket: Ticket) -> Result<usize, usize> {
        self.entries
            .binary_search_by_key(&ticket, |(ticket, _)| *ticket)
    }
}

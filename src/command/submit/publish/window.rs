//! Jobs between their source and the checkpoint: published in the order they come, confirmed in any, counted without a gap.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::command::submit::source::Item;

/// Publishes under way at once, and their bytes: the server's confirmations are not waited for one by one.
const UNCONFIRMED: (u64, usize) = (1024, 16 * 1024 * 1024);

/// Jobs tried again at once.
const MOST: usize = 256;

/// How long before a job is tried again that was not taken.
const AGAIN: Duration = Duration::from_millis(500);

/// Jobs between their source and the checkpoint, by their number.
pub(super) struct Window {
    /// Not taken, to be tried again, the first of them first.
    waiting: BTreeMap<u64, Item>,
    /// Confirmed, with others before them that are not.
    ahead: BTreeMap<u64, Confirmed>,
    /// The next to come.
    next: u64,
    /// The first that is not confirmed.
    first: u64,
    /// Of their payloads.
    bytes: usize,
    /// How many of those that wait are tried at once: one where none was taken, more as they are.
    burst: usize,
    /// When they are.
    again: Instant,
    /// When the first was not taken, since one was.
    refused: Option<Instant>,
    /// Whether any was ever taken.
    taken: bool,
}

/// A job that is stored.
pub(super) struct Confirmed {
    /// The hash of its message id.
    pub(super) hash: u64,
    bytes: usize,
    pub(super) duplicate: bool,
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            waiting: BTreeMap::new(),
            ahead: BTreeMap::new(),
            next: 0,
            first: 0,
            bytes: 0,
            burst: 1,
            again: Instant::now(),
            refused: None,
            taken: false,
        }
    }

    /// Whether jobs are to be tried again.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When they are.
    pub(super) const fn again(&self) -> Instant {
        self.again
    }

    /// Since when none was taken, which is now if it was not asked before.
    pub(super) fn refused_since(&mut self) -> Instant {
        *self.refused.get_or_insert_with(Instant::now)
    }

    /// Whether any was ever taken.
    pub(super) const fn was_taken(&self) -> bool {
        self.taken
    }

    /// For a new job: not while others are to be tried again, which come before it.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.is_empty() && self.next - self.first < UNCONFIRMED.0 && self.bytes < UNCONFIRMED.1
    }

    pub(super) fn enter(&mut self, job: &Item) -> u64 {
        self.bytes += job.payload.len();
        self.next += 1;
        self.next - 1
    }

    pub(super) fn confirmed(&mut self, number: u64, job: &Item, duplicate: bool) {
        (self.taken, self.refused) = (true, None);
        self.burst = (2 * self.burst).min(MOST);
        self.ahead.insert(number, Confirmed { hash: job.hash(), bytes: job.payload.len(), duplicate });
    }

    pub(super) fn refused(&mut self, number: u64, job: Item) {
        self.burst = 1;
        self.again = Instant::now() + AGAIN;
        self.waiting.insert(number, job);
    }

    /// The jobs to try again now.
    pub(super) fn retry(&mut self) -> Vec<(u64, Item)> {
        self.again = Instant::now();
        (0..self.burst).map_while(|_| self.waiting.pop_first()).collect()
    }

    /// The next job that is confirmed, as all before it are.
    pub(super) fn leave(&mut self) -> Option<Confirmed> {
        let confirmed = self.ahead.remove(&self.first)?;
        self.first += 1;
        self.bytes -= confirmed.bytes;
        Some(confirmed)
    }
}

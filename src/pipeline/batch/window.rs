//! The batching rule, without a clock: from the time and the state of a model's queue it makes a [`Decision`].
//!
//! | device | flushes |
//! |---|---|
//! | idle | a full batch; one whose oldest row has waited for the window; any, when nothing else is on its way |
//! | prefetching | a full batch, so that it is ready the moment the device is |
//! | busy | nothing |
//!
//! While the device is busy, closing a partial batch gains nothing: rows that arrive meanwhile still join it.
//!
//! Interactive rows go first. Where both priorities wait, bulk gets one slot in four, over time. An interactive row waits for
//! other interactive rows alone: while the device is idle, it never waits for a bulk one.
//!
//! A quarantined row is a batch of its own, which is full from the start. Such rows wait apart from the others, so that they
//! split no batch; they overtake neither an older bulk row whose batch may leave nor one that has waited for the window. While
//! interactive rows wait, they get one batch in four.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::priority::{Priority, Weighted};
use crate::telemetry::labels::Flush;

/// Capacity of a model's devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// A device is idle.
    Idle,
    /// All run a batch, and one can take the next in advance.
    Prefetch,
    /// All hold as many batches as they can.
    Busy,
}

/// Rows on their way to a queue, by priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// Interactive rows.
    pub interactive: usize,
    /// Bulk rows.
    pub bulk: usize,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Take a batch, for this reason.
    Flush(Flush),
    /// Take a quarantined row.
    FlushQuarantined,
    /// Ask again at this time, or earlier if anything changes.
    Until(Instant),
    /// Ask again when something changes.
    Wait,
}

/// The ready rows of a queue, each priority in order of arrival.
#[derive(Debug)]
pub struct Window<T> {
    length: Duration,
    limit: usize,
    interactive: VecDeque<(Instant, T)>,
    bulk: VecDeque<(Instant, T)>,
    /// Quarantined rows, which are bulk.
    quarantined: VecDeque<(Instant, T)>,
    weighted: Weighted,
    /// The same for whole batches, while quarantined and interactive rows wait.
    weighted_batches: Weighted,
}

impl<T> Window<T> {
    /// Batches of at most `limit` rows, none waiting longer than `length` for company.
    #[must_use]
    pub fn new(length: Duration, limit: usize) -> Self {
        let [interactive, bulk, quarantined] = [const { VecDeque::new() }; 3];
        let [weighted, weighted_batches] = [Weighted::default(), Weighted::default()];
        Self { length, limit: limit.max(1), interactive, bulk, quarantined, weighted, weighted_batches }
    }

    /// From now on, batches of at most `limit` rows.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
    }

    /// Adds a row of this priority that arrived at `now`.
    pub fn push(&mut self, now: Instant, priority: Priority, row: T) {
        let rows = match priority {
            Priority::Interactive => &mut self.interactive,
            Priority::Bulk => &mut self.bulk,
        };
        rows.push_back((now, row));
    }

    /// Adds a bulk row that arrived at `now` and runs in a batch of its own.
    pub fn push_quarantined(&mut self, now: Instant, row: T) {
        self.quarantined.push_back((now, row));
    }

    /// Whether no row waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.interactive.is_empty() && self.bulk.is_empty() && self.quarantined.is_empty()
    }

    /// When the oldest row arrived that shares its batch.
    fn oldest(&self) -> Option<Instant> {
        let fronts = [self.interactive.front(), self.bulk.front()];
        fronts.into_iter().flatten().map(|(arrived, _)| *arrived).min()
    }

    /// What to do at `now`, with devices of this capacity and so many rows on their way to this queue.
    #[must_use]
    pub fn decide(&self, now: Instant, capacity: Capacity, arrivals: Arrivals) -> Decision {
        if capacity == Capacity::Busy {
            return Decision::Wait;
        }
        let shared = self.decide_shared(now, capacity, arrivals);
        if self.is_turn_of_quarantined(now, shared) { Decision::FlushQuarantined } else { shared }
    }

    /// Returns `true` if a quarantined row leaves now, where `shared` is to be done with the others.
    fn is_turn_of_quarantined(&self, now: Instant, shared: Decision) -> bool {
        let Some((arrived, _)) = self.quarantined.front() else { return false };
        let flushes = matches!(shared, Decision::Flush(_));
        if !self.interactive.is_empty() {
            return flushes && self.weighted_batches.upcoming() == Priority::Bulk;
        }
        let Some((oldest, _)) = self.bulk.front() else { return true };
        arrived < oldest || !flushes && now < *oldest + self.length
    }

    /// What to do with the rows that share batches, while a device has capacity.
    fn decide_shared(&self, now: Instant, capacity: Capacity, arrivals: Arrivals) -> Decision {
        let Some(oldest) = self.oldest() else { return Decision::Wait };
        if self.interactive.len() + self.bulk.len() >= self.limit {
            return Decision::Flush(Flush::Full);
        }
        if capacity == Capacity::Prefetch {
            return Decision::Wait;
        }
        let deadline = oldest + self.length;
        let awaited = if self.interactive.is_empty() { arrivals.bulk } else { 0 } + arrivals.interactive;
        if awaited == 0 {
            Decision::Flush(Flush::Idle)
        } else if now >= deadline {
            Decision::Flush(Flush::Window)
        } else {
            Decision::Until(deadline)
        }
    }

    /// The next batch: at most the limit, with the time each row arrived. No quarantined row is in it.
    pub fn take(&mut self) -> Vec<(Instant, T)> {
        self.count_batch();
        (0..self.limit).map_while(|_| self.next()).collect()
    }

    /// The next quarantined row, with the time it arrived.
    pub fn take_alone(&mut self) -> Option<(Instant, T)> {
        self.count_batch();
        self.quarantined.pop_front()
    }

    /// Gives away a batch where interactive and quarantined rows wait for it.
    fn count_batch(&mut self) {
        if !self.interactive.is_empty() && !self.quarantined.is_empty() {
            self.weighted_batches.next_slot();
        }
    }

    fn next(&mut self) -> Option<(Instant, T)> {
        if self.interactive.is_empty() || self.bulk.is_empty() {
            return self.interactive.pop_front().or_else(|| self.bulk.pop_front());
        }
        match self.weighted.next_slot() {
            Priority::Interactive => self.interactive.pop_front(),
            Priority::Bulk => self.bulk.pop_front(),
        }
    }
}

#[cfg(test)]
mod tests;

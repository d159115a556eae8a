//! Batching rule, without a clock: makes a [`Decision`] from the time and the state of a model's queue.
//!
//! | device | flushes |
//! |---|---|
//! | idle | a full batch; one whose oldest row has waited for the window; any, if nothing else is on its way |
//! | prefetching | a full batch, so that it is ready as soon as the device is |
//! | busy | nothing |
//!
//! While the device is busy, closing a partial batch gains nothing, because later rows can still join it.
//!
//! Interactive rows go first. While both priorities wait, bulk gets one slot in four, over time. An interactive row waits
//! only for other interactive rows: while the device is idle, it never waits for a bulk one.
//!
//! A quarantined row is a batch of its own, which is full from the start. Quarantined rows wait apart from the others, so
//! that they split no batch. They overtake neither an older bulk row whose batch may leave nor one that has waited for the
//! window. While interactive rows wait, quarantined rows get one batch in four.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::priority::{Priority, Weighted};
use crate::telemetry::labels::Flush;

/// Capacity of a model's devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// A device is idle.
    Idle,
    /// All devices run a batch, and one can prefetch the next.
    Prefetch,
    /// All devices hold as many batches as they can.
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

/// Next step of the batcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Take a batch, for this reason.
    Flush(Flush),
    /// Take a quarantined row.
    FlushQuarantined,
    /// Decide again at this time, or earlier if anything changes.
    Until(Instant),
    /// Decide again when anything changes.
    Wait,
}

/// Ready rows of a queue, in order of arrival within each priority.
#[derive(Debug)]
pub struct Window<T> {
    length: Duration,
    limit: usize,
    interactive: VecDeque<(Instant, T)>,
    bulk: VecDeque<(Instant, T)>,
    /// Quarantined rows, which are bulk.
    quarantined: VecDeque<(Instant, T)>,
    weighted: Weighted,
    /// Weights of whole batches, while quarantined and interactive rows wait.
    weighted_batches: Weighted,
}

impl<T> Window<T> {
    /// Creates a window for batches of at most `limit` rows, none of which waits longer than `length` for others.
    #[must_use]
    pub fn new(length: Duration, limit: usize) -> Self {
        let [interactive, bulk, quarantined] = [const { VecDeque::new() }; 3];
        let [weighted, weighted_batches] = [Weighted::default(), Weighted::default()];
        Self { length, limit: limit.max(1), interactive, bulk, quarantined, weighted, weighted_batches }
    }

    /// Sets the maximum number of rows of later batches.
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

    /// Returns `true` if no row waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.interactive.is_empty() && self.bulk.is_empty() && self.quarantined.is_empty()
    }

    /// Arrival of the oldest row that shares its batch.
    fn oldest(&self) -> Option<Instant> {
        let fronts = [self.interactive.front(), self.bulk.front()];
        fronts.into_iter().flatten().map(|(arrived, _)| *arrived).min()
    }

    /// Decides at `now`, from the devices' capacity and the number of rows on their way to this queue.
    #[must_use]
    pub fn decide(&self, now: Instant, capacity: Capacity, arrivals: Arrivals) -> Decision {
        if capacity == Capacity::Busy {
            return Decision::Wait;
        }
        let shared = self.decide_shared(now, capacity, arrivals);
        if self.is_turn_of_quarantined(now, shared) { Decision::FlushQuarantined } else { shared }
    }

    /// Returns `true` if a quarantined row leaves now, given the decision `shared` on the others.
    fn is_turn_of_quarantined(&self, now: Instant, shared: Decision) -> bool {
        let Some((arrived, _)) = self.quarantined.front() else { return false };
        let flushes = matches!(shared, Decision::Flush(_));
        if !self.interactive.is_empty() {
            return flushes && self.weighted_batches.upcoming() == Priority::Bulk;
        }
        let Some((oldest, _)) = self.bulk.front() else { return true };
        arrived < oldest || !flushes && now < *oldest + self.length
    }

    /// Decides about the rows that share batches, while a device has capacity.
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

    /// Takes the next batch of at most `limit` rows, with their arrival times. It contains no quarantined row.
    pub fn take(&mut self) -> Vec<(Instant, T)> {
        self.count_batch();
        (0..self.limit).map_while(|_| self.next()).collect()
    }

    /// Takes the next quarantined row, with its arrival time.
    pub fn take_alone(&mut self) -> Option<(Instant, T)> {
        self.count_batch();
        self.quarantined.pop_front()
    }

    /// Counts a batch for the weights if interactive and quarantined rows wait.
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

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

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::priority::{Priority, Weighted};
use crate::telemetry::labels::Flush;

/// What a model's devices can take.
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
    weighted: Weighted,
}

impl<T> Window<T> {
    /// Batches of at most `limit` rows, none waiting longer than `length` for company.
    #[must_use]
    pub fn new(length: Duration, limit: usize) -> Self {
        let (interactive, bulk) = (VecDeque::new(), VecDeque::new());
        Self { length, limit: limit.max(1), interactive, bulk, weighted: Weighted::default() }
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

    fn len(&self) -> usize {
        self.interactive.len() + self.bulk.len()
    }

    /// Whether no row waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What to do at `now`, with devices of this capacity and so many rows on their way to this queue.
    #[must_use]
    pub fn decide(&self, now: Instant, capacity: Capacity, arrivals: Arrivals) -> Decision {
        let fronts = [self.interactive.front(), self.bulk.front()];
        let Some(oldest) = fronts.into_iter().flatten().map(|(arrived, _)| *arrived).min() else {
            return Decision::Wait;
        };
        if capacity == Capacity::Busy {
            return Decision::Wait;
        }
        if self.len() >= self.limit {
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

    /// The next batch: at most the limit, with the time each row arrived.
    pub fn take(&mut self) -> Vec<(Instant, T)> {
        (0..self.limit).map_while(|_| self.next()).collect()
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_millis(25);
    const NONE: Arrivals = Arrivals { interactive: 0, bulk: 0 };
    const BULK: Arrivals = Arrivals { interactive: 0, bulk: 5 };
    const BOTH: Arrivals = Arrivals { interactive: 1, bulk: 4 };

    /// What happens to a queue: time passes, a row arrives, the number on its way changes, the capacity changes.
    #[derive(Clone, Debug)]
    enum Event {
        Pass(u64),
        Arrive(Priority),
        Arrivals(Arrivals),
        Capacity(Capacity),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            1 => (0u64..40).prop_map(Event::Pass),
            2 => prop_oneof![Just(Priority::Interactive), Just(Priority::Bulk)].prop_map(Event::Arrive),
            1 => (0usize..3, 0usize..3).prop_map(|(interactive, bulk)| Event::Arrivals(Arrivals { interactive, bulk })),
            1 => prop_oneof![Just(Capacity::Idle), Just(Capacity::Prefetch), Just(Capacity::Busy)].prop_map(Event::Capacity),
        ]
    }

    proptest! {
        /// Never over the limit, never older than the window while the device is idle, each priority in order, interactive
        /// first, bulk with its share, nothing lost.
        #[test]
        fn the_laws_of_the_window(events in proptest::collection::vec(event(), 0..200), limit in 1usize..9) {
            let mut window = Window::new(WINDOW, limit);
            let (mut now, mut capacity, mut arrivals) = (Instant::now(), Capacity::Idle, BULK);
            let (mut arrived, mut left) = (Vec::new(), Vec::new());
            for event in events {
                match event {
                    Event::Pass(ms) => now += Duration::from_millis(ms),
                    Event::Arrive(priority) => {
                        let row = (priority, arrived.len());
                        window.push(now, priority, row);
                        arrived.push(row);
                    }
                    Event::Arrivals(now) => arrivals = now,
                    Event::Capacity(now) => capacity = now,
                }
                // The shell around the rule asks until there is nothing to do now.
                loop {
                    let alone = arrivals.interactive == 0 && (arrivals.bulk == 0 || !window.interactive.is_empty());
                    match window.decide(now, capacity, arrivals) {
                        Decision::Flush(reason) => {
                            let both = window.interactive.len().min(window.bulk.len());
                            let batch = window.take();
                            let bulk = batch.iter().filter(|(_, (priority, _))| *priority == Priority::Bulk).count();
                            if both >= limit {
                                prop_assert!((limit / 4..=limit.div_ceil(4)).contains(&bulk));
                            }
                            prop_assert!(capacity != Capacity::Busy);
                            prop_assert!(!batch.is_empty() && batch.len() <= limit);
                            prop_assert_eq!(reason == Flush::Full, batch.len() == limit);
                            prop_assert!(reason != Flush::Idle || alone);
                            prop_assert!(reason == Flush::Full || capacity == Capacity::Idle);
                            left.extend(batch.into_iter().map(|(_, row)| row));
                        }
                        Decision::Until(time) => {
                            prop_assert!(time > now && time <= now + WINDOW && !alone);
                            break;
                        }
                        Decision::Wait => {
                            prop_assert!(window.is_empty() || capacity != Capacity::Idle);
                            break;
                        }
                    }
                }
            }
            left.extend(std::iter::from_fn(|| (!window.is_empty()).then(|| window.take())).flatten().map(|(_, row)| row));
            for priority in [Priority::Interactive, Priority::Bulk] {
                let of = |rows: &[(Priority, usize)]| -> Vec<_> {
                    rows.iter().copied().filter(|(its, _)| *its == priority).collect()
                };
                prop_assert_eq!(of(&left), of(&arrived));
            }
        }
    }

    #[test]
    fn batches_have_the_size_they_may_have_from_now_on() {
        let now = Instant::now();
        let mut window = Window::new(WINDOW, 1);
        window.set_limit(3);
        for row in 0..4 {
            window.push(now, Priority::Bulk, row);
        }
        assert_eq!(window.take(), [(now, 0), (now, 1), (now, 2)]);
        window.set_limit(0);
        assert_eq!(window.take().len(), 1, "a batch has a row at least");
    }

    #[test]
    fn the_window_is_that_of_the_oldest_row_of_either_priority() {
        let began = Instant::now();
        let later = began + WINDOW / 2;
        let (interactive, bulk) = (Priority::Interactive, Priority::Bulk);
        for (first, second) in [(interactive, bulk), (bulk, interactive)] {
            let mut window = Window::new(WINDOW, 8);
            window.push(began, first, ());
            window.push(later, second, ());
            assert_eq!(window.decide(later, Capacity::Idle, BOTH), Decision::Until(began + WINDOW));
        }
    }

    #[test]
    fn a_lone_row_leaves_at_once_when_nothing_else_is_coming() {
        let now = Instant::now();
        let mut window = Window::new(WINDOW, 8);
        window.push(now, Priority::Bulk, ());
        assert_eq!(window.decide(now, Capacity::Idle, NONE), Decision::Flush(Flush::Idle));
    }

    #[test]
    fn an_interactive_row_waits_for_interactive_rows_alone() {
        let now = Instant::now();
        let mut window = Window::new(WINDOW, 8);
        window.push(now, Priority::Bulk, ());
        window.push(now, Priority::Interactive, ());
        assert_eq!(window.decide(now, Capacity::Idle, BOTH), Decision::Until(now + WINDOW));
        assert_eq!(
            window.decide(now, Capacity::Prefetch, BULK),
            Decision::Wait,
            "more may join while the device is busy"
        );
        assert_eq!(window.decide(now, Capacity::Idle, BULK), Decision::Flush(Flush::Idle));
    }

    #[test]
    fn a_full_batch_leaves_at_once_and_ahead_of_a_busy_device() {
        let now = Instant::now();
        let mut window = Window::new(WINDOW, 2);
        window.push(now, Priority::Bulk, ());
        assert_eq!(window.decide(now, Capacity::Prefetch, BULK), Decision::Wait);
        window.push(now, Priority::Bulk, ());
        assert_eq!(window.decide(now, Capacity::Prefetch, BULK), Decision::Flush(Flush::Full));
        assert_eq!(window.decide(now, Capacity::Busy, BULK), Decision::Wait);
    }

    #[test]
    fn a_row_with_company_on_its_way_waits_for_the_window_and_no_longer() {
        let now = Instant::now();
        let mut window = Window::new(WINDOW, 8);
        window.push(now, Priority::Bulk, ());
        assert_eq!(window.decide(now, Capacity::Idle, BULK), Decision::Until(now + WINDOW));
        assert_eq!(window.decide(now + WINDOW, Capacity::Idle, BULK), Decision::Flush(Flush::Window));
    }

    #[test]
    fn in_batches_of_one_every_fourth_is_bulk() {
        let now = Instant::now();
        let mut window = Window::new(WINDOW, 1);
        for _ in 0..8 {
            window.push(now, Priority::Interactive, 'i');
            window.push(now, Priority::Bulk, 'b');
        }
        let order: String = (0..8).flat_map(|_| window.take()).map(|(_, row)| row).collect();
        assert_eq!(order, "iiibiiib");
    }
}

//! When a lane's ready rows become a batch, as a rule without a clock: it is told the time and the state of the lane and
//! answers with a [`Decision`].
//!
//! | the lane's device | flushes |
//! |---|---|
//! | idle | a full batch; what has waited out the window; anything, when nothing else is on its way |
//! | busy, nothing assembled ahead | a full batch, so that it is ready the moment the device is |
//! | busy, one batch ahead | nothing |
//!
//! While the device is busy a partial batch would only be frozen early: rows that arrive meanwhile still join it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Why a batch was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// It has as many rows as a batch may have.
    Full,
    /// Its oldest row has waited for the window.
    Window,
    /// Nothing else is on its way.
    Idle,
    /// The worker stops.
    Drain,
}

impl Flush {
    /// As metrics name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Window => "window",
            Self::Idle => "idle",
            Self::Drain => "drain",
        }
    }
}

/// What the lane's device can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It runs nothing.
    Now,
    /// It runs one batch, and none is assembled ahead.
    Ahead,
    /// It runs one batch, and the next is assembled.
    None,
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

/// The ready rows of a lane, in order of arrival.
#[derive(Debug)]
pub struct Window<T> {
    length: Duration,
    limit: usize,
    rows: VecDeque<(Instant, T)>,
}

impl<T> Window<T> {
    /// Batches of at most `limit` rows, none waiting longer than `length` for company.
    #[must_use]
    pub fn new(length: Duration, limit: usize) -> Self {
        Self { length, limit: limit.max(1), rows: VecDeque::new() }
    }

    /// From now on, batches of at most `limit` rows.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
    }

    /// Adds a row that arrived at `now`.
    pub fn push(&mut self, now: Instant, row: T) {
        self.rows.push_back((now, row));
    }

    /// Whether a whole batch waits.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.rows.len() >= self.limit
    }

    /// Whether no row waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What to do at `now`, when the device has this much room and `coming` more rows are on their way to this lane.
    #[must_use]
    pub fn decide(&self, now: Instant, room: Room, coming: usize) -> Decision {
        let Some((oldest, _)) = self.rows.front() else { return Decision::Wait };
        if room == Room::None {
            return Decision::Wait;
        }
        if self.rows.len() >= self.limit {
            return Decision::Flush(Flush::Full);
        }
        if room == Room::Ahead {
            return Decision::Wait;
        }
        let deadline = *oldest + self.length;
        if coming == 0 {
            Decision::Flush(Flush::Idle)
        } else if now >= deadline {
            Decision::Flush(Flush::Window)
        } else {
            Decision::Until(deadline)
        }
    }

    /// The next batch: the oldest rows, at most the limit, with the time each arrived.
    pub fn take(&mut self) -> Vec<(Instant, T)> {
        let count = self.rows.len().min(self.limit);
        self.rows.drain(..count).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_millis(25);

    /// What happens to a lane: time passes, a row arrives, the number on its way changes, the device's room changes.
    #[derive(Clone, Debug)]
    enum Event {
        Pass(u64),
        Arrive,
        Coming(usize),
        Room(Room),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0u64..40).prop_map(Event::Pass),
            Just(Event::Arrive),
            Just(Event::Arrive),
            (0usize..3).prop_map(Event::Coming),
            prop_oneof![Just(Room::Now), Just(Room::Ahead), Just(Room::None)].prop_map(Event::Room),
        ]
    }

    proptest! {
        /// Never over the limit, never older than the window while the device is idle, in order, nothing lost.
        #[test]
        fn the_laws_of_the_window(events in proptest::collection::vec(event(), 0..200), limit in 1usize..9) {
            let mut window = Window::new(WINDOW, limit);
            let (mut now, mut room, mut coming) = (Instant::now(), Room::Now, 1);
            let (mut arrived, mut left) = (0u32, Vec::new());
            for event in events {
                match event {
                    Event::Pass(ms) => now += Duration::from_millis(ms),
                    Event::Arrive => { window.push(now, arrived); arrived += 1; }
                    Event::Coming(count) => coming = count,
                    Event::Room(other) => room = other,
                }
                // The shell around the rule asks until there is nothing to do now.
                loop {
                    match window.decide(now, room, coming) {
                        Decision::Flush(reason) => {
                            let batch = window.take();
                            prop_assert!(room != Room::None);
                            prop_assert!(!batch.is_empty() && batch.len() <= limit);
                            prop_assert_eq!(reason == Flush::Full, batch.len() == limit);
                            prop_assert!(reason != Flush::Idle || coming == 0);
                            prop_assert!(reason == Flush::Full || room == Room::Now);
                            left.extend(batch.into_iter().map(|(_, row)| row));
                        }
                        Decision::Until(time) => {
                            prop_assert!(time > now && time <= now + WINDOW);
                            break;
                        }
                        Decision::Wait => {
                            prop_assert!(window.is_empty() || room != Room::Now);
                            break;
                        }
                    }
                }
            }
            left.extend(std::iter::from_fn(|| (!window.is_empty()).then(|| window.take())).flatten().map(|(_, row)| row));
            prop_assert_eq!(left, (0..arrived).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_lone_row_leaves_at_once_when_nothing_else_is_coming() {
        let now = Instant::now();
        let mut window = Window::new(WINDOW, 8);
        window.push(now, ());
        assert_eq!(window.decide(now, Room::Now, 0), Decision::Flush(Flush::Idle));
    }

    #[test]
    fn a_full_batch_leaves_at_once_and_ahead_of_a_busy_device() {
        let now = Instant::now();
        let mut window = Window::new(WINDOW, 2);
        window.push(now, ());
        assert_eq!(window.decide(now, Room::Ahead, 5), Decision::Wait);
        window.push(now, ());
        assert_eq!(window.decide(now, Room::Ahead, 5), Decision::Flush(Flush::Full));
        assert_eq!(window.decide(now, Room::None, 5), Decision::Wait);
    }

    #[test]
    fn a_row_with_company_on_its_way_waits_for_the_window_and_no_longer() {
        let now = Instant::now();
        let mut window = Window::new(WINDOW, 8);
        window.push(now, ());
        assert_eq!(window.decide(now, Room::Now, 1), Decision::Until(now + WINDOW));
        assert_eq!(window.decide(now + WINDOW, Room::Now, 1), Decision::Flush(Flush::Window));
    }
}

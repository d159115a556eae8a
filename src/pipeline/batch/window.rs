//! When a lane's ready rows become a batch, as a rule without a clock: it is told the time and the state of the lane and
//! answers with a [`Decision`].
//!
//! | the lane's device | flushes |
//! |---|---|
//! | idle | a full batch; what has waited out the window; anything, when nothing else is on its way |
//! | busy, wants one ahead | a full batch, so that it is ready the moment the device is |
//! | busy | nothing |
//!
//! While the device is busy a partial batch would only be frozen early: rows that arrive meanwhile still join it.
//!
//! Rows that somebody waits for go first. Where others wait as well, these get a quarter of the places, over time. For such a
//! row only others of its kind count as on their way: while the device is idle, nobody waits for rows that nobody waits for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::pipeline::turns::Turns;

/// Why a batch was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// It has as many rows as a batch may have.
    Full,
    /// Its oldest row has waited for the window.
    Window,
    /// Nothing is on its way that it should wait for.
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
    /// It runs one batch, and wants the next to be ready.
    Ahead,
    /// It runs all it can hold.
    None,
}

/// Rows that are on their way to the lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coming {
    /// Of either kind.
    pub all: usize,
    /// Those that somebody waits for.
    pub urgent: usize,
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

/// The ready rows of a lane, each kind in order of arrival.
#[derive(Debug)]
pub struct Window<T> {
    length: Duration,
    limit: usize,
    urgent: VecDeque<(Instant, T)>,
    others: VecDeque<(Instant, T)>,
    turns: Turns,
}

impl<T> Window<T> {
    /// Batches of at most `limit` rows, none waiting longer than `length` for company.
    #[must_use]
    pub fn new(length: Duration, limit: usize) -> Self {
        Self { length, limit: limit.max(1), urgent: VecDeque::new(), others: VecDeque::new(), turns: Turns::default() }
    }

    /// From now on, batches of at most `limit` rows.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
    }

    /// Adds a row that arrived at `now`; an `urgent` one goes before those that are not.
    pub fn push(&mut self, now: Instant, urgent: bool, row: T) {
        let rows = if urgent { &mut self.urgent } else { &mut self.others };
        rows.push_back((now, row));
    }

    fn len(&self) -> usize {
        self.urgent.len() + self.others.len()
    }

    /// Whether no row waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What to do at `now`, when the device has this much room and such rows are on their way to this lane.
    #[must_use]
    pub fn decide(&self, now: Instant, room: Room, coming: Coming) -> Decision {
        let fronts = [self.urgent.front(), self.others.front()];
        let Some(oldest) = fronts.into_iter().flatten().map(|(arrived, _)| *arrived).min() else {
            return Decision::Wait;
        };
        if room == Room::None {
            return Decision::Wait;
        }
        if self.len() >= self.limit {
            return Decision::Flush(Flush::Full);
        }
        if room == Room::Ahead {
            return Decision::Wait;
        }
        let deadline = oldest + self.length;
        if coming.all == 0 || (coming.urgent == 0 && !self.urgent.is_empty()) {
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
        if self.urgent.is_empty() || self.others.is_empty() {
            return self.urgent.pop_front().or_else(|| self.others.pop_front());
        }
        if self.turns.next_is_for_others() { self.others.pop_front() } else { self.urgent.pop_front() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_millis(25);
    const NOTHING: Coming = Coming { all: 0, urgent: 0 };
    const BULK: Coming = Coming { all: 5, urgent: 0 };
    const BOTH: Coming = Coming { all: 5, urgent: 1 };

    /// What happens to a lane: time passes, a row arrives, the number on its way changes, the device's room changes.
    #[derive(Clone, Debug)]
    enum Event {
        Pass(u64),
        Arrive(bool),
        Coming(Coming),
        Room(Room),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0u64..40).prop_map(Event::Pass),
            any::<bool>().prop_map(Event::Arrive),
            any::<bool>().prop_map(Event::Arrive),
            (0usize..3, 0usize..3).prop_map(|(urgent, others)| Event::Coming(Coming { all: urgent + others, urgent })),
            prop_oneof![Just(Room::Now), Just(Room::Ahead), Just(Room::None)].prop_map(Event::Room),
        ]
    }

    proptest! {
        /// Never over the limit, never older than the window while the device is idle, each kind in order, the urgent
        /// first and the others not forgotten, nothing lost.
        #[test]
        fn the_laws_of_the_window(events in proptest::collection::vec(event(), 0..200), limit in 1usize..9) {
            let mut window = Window::new(WINDOW, limit);
            let (mut now, mut room, mut coming) = (Instant::now(), Room::Now, BULK);
            let (mut arrived, mut left) = (Vec::new(), Vec::new());
            for event in events {
                match event {
                    Event::Pass(ms) => now += Duration::from_millis(ms),
                    Event::Arrive(urgent) => {
                        let row = (urgent, arrived.len());
                        window.push(now, urgent, row);
                        arrived.push(row);
                    }
                    Event::Coming(others) => coming = others,
                    Event::Room(other) => room = other,
                }
                // The shell around the rule asks until there is nothing to do now.
                loop {
                    let alone = coming.all == 0 || (coming.urgent == 0 && !window.urgent.is_empty());
                    match window.decide(now, room, coming) {
                        Decision::Flush(reason) => {
                            let both = window.urgent.len().min(window.others.len());
                            let batch = window.take();
                            let others = batch.iter().filter(|(_, (urgent, _))| !urgent).count();
                            if both >= limit {
                                prop_assert!((limit / 4..=limit.div_ceil(4)).contains(&others));
                            }
                            prop_assert!(room != Room::None);
                            prop_assert!(!batch.is_empty() && batch.len() <= limit);
                            prop_assert_eq!(reason == Flush::Full, batch.len() == limit);
                            prop_assert!(reason != Flush::Idle || alone);
                            prop_assert!(reason == Flush::Full || room == Room::Now);
                            left.extend(batch.into_iter().map(|(_, row)| row));
                        }
                        Decision::Until(time) => {
                            prop_assert!(time > now && time <= now + WINDOW && !alone);
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
            for kind in [true, false] {
                let of_kind = |rows: &[(bool, usize)]| rows.iter().copied().filter(|(urgent, _)| *urgent == kind).collect::<Vec<_>>();
                prop_assert_eq!(of_kind(&left), of_kind(&arrived));
            }
        }
    }

    #[test]
    fn batches_have_the_size_they_may_have_from_now_on() {
        let now = Instant::now();
        let mut window = Window::new(WINDOW, 1);
        window.set_limit(3);
        for row in 0..4 {
            window.push(now, false, row);
        }
        assert_eq!(window.take(), [(now, 0), (now, 1), (now, 2)]);
        window.set_limit(0);
        assert_eq!(window.take().len(), 1, "a batch has a row at least");
    }

    #[test]
    fn the_window_is_that_of_the_oldest_row_of_either_kind() {
        let began = Instant::now();
        let later = began + WINDOW / 2;
        for urgent_first in [true, false] {
            let mut window = Window::new(WINDOW, 8);
            window.push(began, urgent_first, ());
            window.push(later, !urgent_first, ());
            assert_eq!(window.decide(later, Room::Now, BOTH), Decision::Until(began + WINDOW));
        }
    }

    #[test]
    fn a_lone_row_leaves_at_once_when_nothing_else_is_coming() {
        let now = Instant::now();
        let mut window = Window::new(WINDOW, 8);
        window.push(now, false, ());
        assert_eq!(window.decide(now, Room::Now, NOTHING), Decision::Flush(Flush::Idle));
    }

    #[test]
    fn a_row_somebody_waits_for_waits_for_others_of_its_kind_alone() {
        let now = Instant::now();
        let mut window = Window::new(WINDOW, 8);
        window.push(now, false, ());
        window.push(now, true, ());
        assert_eq!(window.decide(now, Room::Now, BOTH), Decision::Until(now + WINDOW));
        assert_eq!(window.decide(now, Room::Ahead, BULK), Decision::Wait, "more may join while the device is busy");
        assert_eq!(window.decide(now, Room::Now, BULK), Decision::Flush(Flush::Idle));
    }

    #[test]
    fn a_full_batch_leaves_at_once_and_ahead_of_a_busy_device() {
        let now = Instant::now();
        let mut window = Window::new(WINDOW, 2);
        window.push(now, false, ());
        assert_eq!(window.decide(now, Room::Ahead, BULK), Decision::Wait);
        window.push(now, false, ());
        assert_eq!(window.decide(now, Room::Ahead, BULK), Decision::Flush(Flush::Full));
        assert_eq!(window.decide(now, Room::None, BULK), Decision::Wait);
    }

    #[test]
    fn a_row_with_company_on_its_way_waits_for_the_window_and_no_longer() {
        let now = Instant::now();
        let mut window = Window::new(WINDOW, 8);
        window.push(now, false, ());
        assert_eq!(window.decide(now, Room::Now, BULK), Decision::Until(now + WINDOW));
        assert_eq!(window.decide(now + WINDOW, Room::Now, BULK), Decision::Flush(Flush::Window));
    }

    #[test]
    fn with_one_place_a_batch_every_fourth_is_for_those_nobody_waits_for() {
        let now = Instant::now();
        let mut window = Window::new(WINDOW, 1);
        for _ in 0..8 {
            window.push(now, true, 'u');
            window.push(now, false, 'o');
        }
        let order: String = (0..8).flat_map(|_| window.take()).map(|(_, row)| row).collect();
        assert_eq!(order, "uuuouuuo");
    }
}

use proptest::prelude::*;

use super::*;

const WINDOW: Duration = Duration::from_millis(25);
const NONE: Arrivals = Arrivals { interactive: 0, bulk: 0 };
const BULK: Arrivals = Arrivals { interactive: 0, bulk: 5 };
const BOTH: Arrivals = Arrivals { interactive: 1, bulk: 4 };

/// Event of a queue: time passes, a row arrives, the number on its way changes, the capacity changes.
#[derive(Clone, Debug)]
enum Event {
    Pass(u64),
    Arrive(Priority),
    ArriveAlone,
    Arrivals(Arrivals),
    Capacity(Capacity),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => (0u64..40).prop_map(Event::Pass),
        2 => prop_oneof![Just(Priority::Interactive), Just(Priority::Bulk)].prop_map(Event::Arrive),
        1 => Just(Event::ArriveAlone),
        1 => (0usize..3, 0usize..3).prop_map(|(interactive, bulk)| Event::Arrivals(Arrivals { interactive, bulk })),
        1 => prop_oneof![Just(Capacity::Idle), Just(Capacity::Prefetch), Just(Capacity::Busy)].prop_map(Event::Capacity),
    ]
}

proptest! {
    /// No batch exceeds the limit or, while the device is idle, the window. Each priority keeps its order, interactive rows
    /// go first, bulk gets its share. A quarantined row never shares its batch and leaves once the device is idle. No row is
    /// lost.
    #[test]
    fn the_laws_of_the_window(events in proptest::collection::vec(event(), 0..200), limit in 1usize..9) {
        let mut window = Window::new(WINDOW, limit);
        let (mut now, mut capacity, mut arrivals) = (Instant::now(), Capacity::Idle, BULK);
        let (mut arrived, mut left) = (Vec::new(), Vec::new());
        let (mut arrived_alone, mut left_alone) = (0, 0);
        for event in events {
            match event {
                Event::Pass(ms) => now += Duration::from_millis(ms),
                Event::Arrive(priority) => {
                    let row = (priority, arrived.len());
                    window.push(now, priority, row);
                    arrived.push(row);
                }
                Event::ArriveAlone => {
                    window.push_quarantined(now, (Priority::Bulk, arrived_alone));
                    arrived_alone += 1;
                }
                Event::Arrivals(now) => arrivals = now,
                Event::Capacity(now) => capacity = now,
            }
            // The shell decides again until nothing is left to do now.
            loop {
                let none_awaited =
                    arrivals.interactive == 0 && (arrivals.bulk == 0 || !window.interactive.is_empty());
                match window.decide(now, capacity, arrivals) {
                    Decision::Flush(reason) => {
                        let both = window.interactive.len().min(window.bulk.len());
                        let overtaken = window.quarantined.front().map(|(arrived, _)| *arrived);
                        let only_bulk = window.interactive.is_empty();
                        let batch = window.take();
                        if only_bulk {
                            prop_assert!(overtaken.is_none_or(|arrived| batch[0].0 <= arrived));
                        }
                        let bulk = batch.iter().filter(|(_, (priority, _))| *priority == Priority::Bulk).count();
                        if both >= limit {
                            prop_assert!((limit / 4..=limit.div_ceil(4)).contains(&bulk));
                        }
                        prop_assert!(capacity != Capacity::Busy);
                        prop_assert!(!batch.is_empty() && batch.len() <= limit);
                        prop_assert_eq!(reason == Flush::Full, batch.len() == limit);
                        prop_assert!(reason != Flush::Idle || none_awaited);
                        prop_assert!(reason == Flush::Full || capacity == Capacity::Idle);
                        left.extend(batch.into_iter().map(|(_, row)| row));
                    }
                    Decision::FlushQuarantined => {
                        prop_assert!(capacity != Capacity::Busy);
                        let (arrived, (_, number)) = window.take_alone().expect("it was decided on");
                        prop_assert_eq!(number, left_alone, "in order");
                        left_alone += 1;
                        if let Some((oldest, _)) = window.bulk.front() {
                            prop_assert!(arrived <= *oldest || now < *oldest + WINDOW || !window.interactive.is_empty());
                        }
                    }
                    Decision::Until(time) => {
                        prop_assert!(time > now && time <= now + WINDOW && !none_awaited);
                        prop_assert!(window.quarantined.is_empty() || !window.interactive.is_empty());
                        break;
                    }
                    Decision::Wait => {
                        prop_assert!(window.is_empty() || capacity != Capacity::Idle);
                        break;
                    }
                }
            }
        }
        left_alone += std::iter::from_fn(|| window.take_alone()).count();
        prop_assert_eq!(left_alone, arrived_alone);
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
    assert_eq!(window.decide(now, Capacity::Prefetch, BULK), Decision::Wait, "more may join while the device is busy");
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
fn a_quarantined_row_leaves_as_soon_as_a_device_takes_it_and_splits_no_batch() {
    let now = Instant::now();
    let mut window = Window::new(WINDOW, 8);
    window.push(now, Priority::Bulk, 'b');
    window.push_quarantined(now, 'q');
    window.push(now, Priority::Bulk, 'b');
    assert_eq!(window.decide(now, Capacity::Busy, BULK), Decision::Wait);
    for capacity in [Capacity::Idle, Capacity::Prefetch] {
        assert_eq!(window.decide(now, capacity, BULK), Decision::FlushQuarantined);
    }
    let late = now + WINDOW;
    assert_eq!(window.decide(late, Capacity::Prefetch, BULK), Decision::Wait, "it overtakes none that waited enough");
    assert_eq!(window.decide(late, Capacity::Idle, BULK), Decision::Flush(Flush::Window));
    assert_eq!(window.take(), [(now, 'b'), (now, 'b')]);
    assert_eq!(window.decide(late, Capacity::Idle, BULK), Decision::FlushQuarantined);
    assert_eq!(window.take_alone(), Some((now, 'q')));
    assert!(window.is_empty());
}

#[test]
fn every_fourth_batch_is_of_a_quarantined_row_while_interactive_ones_wait() {
    let now = Instant::now();
    let mut window = Window::new(WINDOW, 2);
    for _ in 0..16 {
        window.push(now, Priority::Interactive, ());
        window.push_quarantined(now, ());
    }
    let mut order = String::new();
    for _ in 0..8 {
        order.push(match window.decide(now, Capacity::Idle, NONE) {
            Decision::FlushQuarantined => window.take_alone().map_or('-', |_| 'q'),
            _ => {
                if window.take().len() == 2 {
                    'i'
                } else {
                    '-'
                }
            }
        });
    }
    assert_eq!(order, "iiiqiiiq");
    window.interactive.truncate(1);
    assert_eq!(
        window.decide(now, Capacity::Idle, BOTH),
        Decision::Until(now + WINDOW),
        "not before an interactive row"
    );
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

//! Watchdog of runs that never come back: their threads cannot be ended, but the process can.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::time::MissedTickBehavior;

use super::Runtime;
use super::onnx::REMEDIES;
use crate::failure::Failure;

/// A runtime whose runs are watched.
pub(super) struct Watched {
    runtime: Box<dyn Runtime>,
    pulse: Arc<Pulse>,
}

/// State of a runtime, for its watchdog.
#[derive(Debug)]
pub(super) struct Pulse {
    device: Arc<str>,
    /// How long a run may take.
    deadline: Duration,
    /// When the run in progress began.
    since: Mutex<Option<Instant>>,
}

impl Watched {
    pub(super) fn new(runtime: Box<dyn Runtime>, device: Arc<str>, deadline: Duration) -> (Self, Arc<Pulse>) {
        let pulse = Arc::new(Pulse { device, deadline, since: Mutex::default() });
        (Self { runtime, pulse: Arc::clone(&pulse) }, pulse)
    }
}

impl Runtime for Watched {
    fn run(&mut self, rows: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure> {
        let _running = Running::new(&self.pulse);
        self.runtime.run(rows)
    }

    fn lost(&self) -> Option<&str> {
        self.runtime.lost()
    }
}

/// Until dropped, also by a panic.
struct Running<'a>(&'a Pulse);

impl<'a> Running<'a> {
    fn new(pulse: &'a Pulse) -> Self {
        *pulse.since() = Some(Instant::now());
        Self(pulse)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        *self.0.since() = None;
    }
}

impl Pulse {
    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock()
    }

    /// When the run began that takes too long at this time, if one does.
    fn overdue(&self, now: Instant) -> Option<Instant> {
        let since = (*self.since())?;
        (now.checked_duration_since(since)? > self.deadline).then_some(since)
    }

    fn report(&self, took: Duration) -> String {
        let (device, seconds, allowed) = (&self.device, took.as_secs(), self.deadline.as_secs());
        format!(
            "the device {device} hangs: a batch has been running for {seconds} s, where {allowed} s are more than it ever \
             takes; see {REMEDIES}"
        )
    }
}

/// Looks at all of them until one hangs; what there is to say of it. For ever where there is none to look at.
pub(super) async fn watch(pulses: Vec<Arc<Pulse>>) -> String {
    let Some(shortest) = pulses.iter().map(|pulse| pulse.deadline).min() else { return std::future::pending().await };
    // Often enough that a deadline is kept to within a tenth.
    let mut ticks = tokio::time::interval((shortest / 10).max(Duration::from_millis(1)));
    // Those that were missed are not made up for: a run needs the time between two to end.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut suspects = vec![None; pulses.len()];
    loop {
        ticks.tick().await;
        if let Some(hung) = look(&pulses, &mut suspects, Instant::now()) {
            return hung;
        }
    }
}

/// What hangs: a run that is overdue now and was when it was last looked at. A process that was stopped for a while finds
/// every run overdue, and healthy ones end in a moment.
fn look(pulses: &[Arc<Pulse>], suspects: &mut [Option<Instant>], now: Instant) -> Option<String> {
    pulses.iter().zip(suspects).find_map(|(pulse, suspect)| {
        let overdue = pulse.overdue(now);
        let before = std::mem::replace(suspect, overdue);
        overdue.filter(|_| overdue == before).map(|since| pulse.report(now.duration_since(since)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_is_found_overdue_gets_until_the_next_look() {
        let (began, minute) = (Instant::now(), Duration::from_mins(1));
        let pulse = Arc::new(Pulse { device: "cuda:7".into(), deadline: minute, since: Mutex::new(Some(began)) });
        let (pulses, mut suspects) = ([Arc::clone(&pulse)], [None]);
        let mut hangs = |now| look(&pulses, &mut suspects, now);
        assert_eq!(hangs(began + minute), None);
        assert_eq!(hangs(began + 2 * minute), None, "the process may have been stopped meanwhile");
        *pulse.since() = Some(began + minute / 2);
        assert_eq!(hangs(began + 3 * minute), None, "another run");
        let report = hangs(began + 4 * minute).expect("it does not end");
        assert!(report.contains("cuda:7 hangs") && report.contains("210 s"), "{report}");
    }
}

//! Watchdog of runs that never return: their threads cannot be ended, but the process can.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::time::MissedTickBehavior;

use super::Runtime;
use super::onnx::REMEDIES;
use crate::failure::Failure;

/// Runtime whose runs are watched.
pub(super) struct Watched {
    runtime: Box<dyn Runtime>,
    pulse: Arc<Pulse>,
}

/// State of a runtime, for its watchdog.
#[derive(Debug)]
pub(super) struct Pulse {
    device: Arc<str>,
    /// Time limit of a run.
    deadline: Duration,
    /// Start of the run in progress.
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

/// Marks a run as in progress, until dropped, also by a panic.
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

    /// Start of the run in progress, if it exceeds its deadline at `now`.
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

/// Watches the runtimes until one hangs, and returns the reason. Never completes without a runtime to watch.
pub(super) async fn watch(pulses: Vec<Arc<Pulse>>) -> String {
    let Some(shortest) = pulses.iter().map(|pulse| pulse.deadline).min() else { return std::future::pending().await };
    // Often enough to detect an exceeded deadline within a tenth of it.
    let mut ticks = tokio::time::interval((shortest / 10).max(Duration::from_millis(1)));
    // Missed ticks are not made up for, because a run needs the time between two ticks to end.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut suspects = vec![None; pulses.len()];
    loop {
        ticks.tick().await;
        if let Some(hung) = look(&pulses, &mut suspects, Instant::now()) {
            return hung;
        }
    }
}

/// Report of a run that is overdue now and was at the last check. A process that was suspended finds every run overdue, and
/// healthy ones end in a moment.
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

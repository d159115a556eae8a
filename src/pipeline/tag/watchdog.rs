//! A run that never comes back is seen from outside: its thread can't be ended, but the process can.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Runtime;
use crate::failure::Failure;

/// A runtime whose runs are watched.
pub(super) struct Watched {
    runtime: Box<dyn Runtime>,
    pulse: Arc<Pulse>,
}

/// What is seen of a runtime.
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
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong at this time, if anything.
    fn hung(&self, now: Instant) -> Option<String> {
        let took = now.checked_duration_since((*self.since())?)?;
        (took > self.deadline).then(|| {
            let (device, seconds, allowed) = (&self.device, took.as_secs(), self.deadline.as_secs());
            format!(
                "the device {device} hangs: a batch has been running for {seconds} s, where {allowed} s are more than it \
                 ever takes. See `nvidia-smi` and the kernel's log (NVRM: Xid); the worker must be started again"
            )
        })
    }
}

/// Looks at all of them until one hangs; what there is to say of it. For ever where there is none to look at.
pub(super) async fn watch(pulses: Vec<Arc<Pulse>>) -> String {
    let Some(shortest) = pulses.iter().map(|pulse| pulse.deadline).min() else { return std::future::pending().await };
    // Often enough that a deadline is kept to within a tenth.
    let mut ticks = tokio::time::interval((shortest / 10).max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        let now = Instant::now();
        if let Some(hung) = pulses.iter().find_map(|pulse| pulse.hung(now)) {
            return hung;
        }
    }
}

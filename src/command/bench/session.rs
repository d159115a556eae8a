//! The model alone: batches of prepared rows, one after the other in every session.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::advice::Split;
use super::spread::Spread;
use crate::failure::{Code, Failure};
use crate::machine::{self, gpu};
use crate::pipeline::tag::Runner;

/// Minimum runs of each size, however long they take.
const LEAST: usize = 3;

/// Measurement of one batch size.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Measured {
    /// Number of concurrent sessions, and threads of each on a processor.
    #[serde(flatten)]
    pub(super) split: Split,
    /// Images per batch.
    pub(super) batch: usize,
    /// Images a second; `None` if a batch of this size exceeds the device's memory.
    pub(super) rate: Option<f64>,
    /// Time per batch.
    pub(super) seconds: Option<Spread>,
    /// Resident bytes of the process afterwards.
    pub(super) resident: Option<u64>,
    /// Bytes of the GPU's memory in use afterwards, by all processes.
    pub(super) device_memory: Option<u64>,
}

/// Measures batches of one size over the rows repeatedly for `time`. All runners run concurrently for the rate and the time
/// of a batch; of runners that share a GPU, one alone is timed.
///
/// # Errors
/// If the runtime fails for another reason than memory.
pub(super) fn measure(
    runners: &mut [Runner],
    rows: &[Box<[u8]>],
    (split, batch): (Split, usize),
    time: Duration,
) -> Result<Measured, Failure> {
    let device = runners.first().map(|runner| Arc::clone(&runner.device)).unwrap_or_default();
    // The first run of a size includes the runtime's allocations.
    match beside(runners, |runner| repeat(runner, rows, batch, 1, Duration::ZERO)) {
        Ok(_) => {}
        Err(failure) if failure.code == Code::OutOfMemory => {
            return Ok(Measured::new((split, batch), &device, None));
        }
        Err(failure) => return Err(failure),
    }
    let began = Instant::now();
    let mut runs = beside(runners, |runner| repeat(runner, rows, batch, LEAST, time))?;
    let took = began.elapsed();
    #[expect(clippy::cast_precision_loss, reason = "a few thousand images")]
    let rate = (runs.len() * batch) as f64 / took.as_secs_f64();
    if split.sessions < runners.len() {
        runs = repeat(&mut runners[0], rows, batch, LEAST, time)?;
    }
    Ok(Measured::new((split, batch), &device, Some((rate, Spread::of(runs)))))
}

/// Runs all runners concurrently and collects their times.
fn beside(
    runners: &mut [Runner],
    run: impl Fn(&mut Runner) -> Result<Vec<Duration>, Failure> + Sync,
) -> Result<Vec<Duration>, Failure> {
    let runs: Vec<_> = std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = runners.iter_mut().map(|runner| scope.spawn(move || run(runner))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    let runs: Vec<Vec<Duration>> = runs.into_iter().collect::<Result<_, _>>()?;
    Ok(runs.concat())
}

/// Runs batches for `time`, at least `least` of them. Returns the time of each.
fn repeat(
    runner: &mut Runner,
    rows: &[Box<[u8]>],
    batch: usize,
    least: usize,
    time: Duration,
) -> Result<Vec<Duration>, Failure> {
    let mut next = rows.iter().map(|row| &**row).cycle();
    let (began, mut runs) = (Instant::now(), Vec::new());
    while runs.len() < least || began.elapsed() < time {
        let rows: Vec<&[u8]> = next.by_ref().take(batch).collect();
        let began = Instant::now();
        runner.runtime.run(&rows)?;
        runs.push(began.elapsed());
    }
    Ok(runs)
}

impl Measured {
    fn new((split, batch): (Split, usize), device: &str, figures: Option<(f64, Spread)>) -> Self {
        let (rate, seconds) = figures.unzip();
        let used = gpu::memory(device).map(|memory| memory.used);
        Self { split, batch, rate, seconds, resident: machine::resident_memory(), device_memory: used }
    }
}

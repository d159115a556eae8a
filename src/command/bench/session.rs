//! The model alone: batches of rows that are ready, in every session one after the other.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::advice::Split;
use super::spread::Spread;
use crate::failure::{Code, Failure};
use crate::machine::{self, gpu};
use crate::pipeline::tag::Runner;

/// Runs of each size at least, however long they take.
const LEAST: usize = 3;

/// What batches of one size came to.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Measured {
    /// Sessions beside each other, and threads of each, where that is the processor's.
    #[serde(flatten)]
    pub(super) split: Split,
    /// Images of a batch.
    pub(super) batch: usize,
    /// Images a second; `None` where a batch of this size does not fit the device's memory.
    pub(super) rate: Option<f64>,
    /// Of a batch.
    pub(super) seconds: Option<Spread>,
    /// Bytes the process has resident afterwards.
    pub(super) resident: Option<u64>,
    /// Bytes of the GPU's memory that are taken afterwards, by whomever.
    pub(super) device_memory: Option<u64>,
}

/// Measures batches of this size over the rows, again and again, for so long: by all runners beside each other for the rate,
/// and for the time of a batch; of runners that share a GPU one alone is timed.
///
/// # Errors
/// Where the runtime fails for another reason than memory.
pub(super) fn measure(
    runners: &mut [Runner],
    rows: &[Box<[u8]>],
    (split, batch): (Split, usize),
    time: Duration,
) -> Result<Measured, Failure> {
    let device = runners.first().map(|runner| Arc::clone(&runner.device)).unwrap_or_default();
    // The first run of a size pays for what the runtime allocates for it.
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

/// What every runner makes of it, all at once.
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

/// Runs batches for so long, and at least so many; how long each took.
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

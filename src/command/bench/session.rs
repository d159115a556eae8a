//! The model alone: batches of rows that are ready, one after the other.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::advice::Split;
use super::spread::Spread;
use crate::failure::{Code, Failure};
use crate::memory;
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

/// Measures batches of this size over the rows, again and again, for so long: by all that take turns on the device for the
/// rate, and by one of them alone for the time of a batch.
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
    for runner in &mut *runners {
        match repeat(runner, rows, batch, 1, Duration::ZERO) {
            Ok(_) => {}
            Err(failure) if failure.code == Code::OutOfMemory => {
                return Ok(Measured::new((split, batch), &device, None));
            }
            Err(failure) => return Err(failure),
        }
    }
    let began = Instant::now();
    let alone = repeat(&mut runners[0], rows, batch, LEAST, time)?;
    let (runs, took) = match runners {
        [_] => (alone.len(), began.elapsed()),
        turns => {
            let began = Instant::now();
            let runs = std::thread::scope(|scope| {
                let spawn = |runner| scope.spawn(move || repeat(runner, rows, batch, LEAST, time));
                let threads: Vec<_> = turns.iter_mut().map(spawn).collect();
                let ended =
                    threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
                ended.map(|runs| runs.map(|runs| runs.len())).sum::<Result<usize, Failure>>()
            })?;
            (runs, began.elapsed())
        }
    };
    #[expect(clippy::cast_precision_loss, reason = "a few thousand images")]
    let rate = (runs * batch) as f64 / took.as_secs_f64();
    Ok(Measured::new((split, batch), &device, Some((rate, Spread::of(alone)))))
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
        let used = memory::device::memory(device).map(|memory| memory.used);
        Self { split, batch, rate, seconds, resident: memory::resident(), device_memory: used }
    }
}

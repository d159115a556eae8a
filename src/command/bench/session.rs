//! The model alone: batches of rows that are ready, one after the other.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::spread::Spread;
use crate::failure::{Code, Failure};
use crate::memory;
use crate::pipeline::tag::Runtime;

/// Runs of each size at least, however long they take.
const LEAST: usize = 3;

/// What batches of one size came to.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Measured {
    /// Images of a batch.
    pub(super) batch: usize,
    /// Images a second; `None` where a batch of this size does not fit the device's memory.
    pub(super) rate: Option<f64>,
    /// Of a batch.
    pub(super) seconds: Option<Spread>,
    /// Bytes the process has resident afterwards.
    pub(super) resident: Option<u64>,
}

/// Measures batches of this size over the rows, again and again, for so long.
///
/// # Errors
/// Where the runtime fails for another reason than memory.
pub(super) fn measure(
    runtime: &mut dyn Runtime,
    rows: &[Box<[u8]>],
    batch: usize,
    time: Duration,
) -> Result<Measured, Failure> {
    let mut next = rows.iter().map(|row| &**row).cycle();
    let mut run = || {
        let rows: Vec<&[u8]> = next.by_ref().take(batch).collect();
        let began = Instant::now();
        runtime.run(&rows).map(|_| began.elapsed())
    };
    // The first run of a size pays for what the runtime allocates for it.
    match run() {
        Ok(_) => {}
        Err(failure) if failure.code == Code::OutOfMemory => {
            return Ok(Measured { batch, rate: None, seconds: None, resident: memory::resident() });
        }
        Err(failure) => return Err(failure),
    }
    let began = Instant::now();
    let mut runs = Vec::new();
    while runs.len() < LEAST || began.elapsed() < time {
        runs.push(run()?);
    }
    #[expect(clippy::cast_precision_loss, reason = "a few thousand images")]
    let rate = (runs.len() * batch) as f64 / began.elapsed().as_secs_f64();
    Ok(Measured { batch, rate: Some(rate), seconds: Some(Spread::of(runs)), resident: memory::resident() })
}

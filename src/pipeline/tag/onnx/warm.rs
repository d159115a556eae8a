//! The first runs of a session: they find how many images fit, pay for what is done once, and say how fast it is.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ort::session::Session;

use super::bound::Turn;
use super::{proof, tensor};
use crate::failure::Code;
use crate::pipeline::batch::limit;
use crate::pipeline::decode::fit::CHANNELS;
use crate::pipeline::tag::Runtime;
use crate::pipeline::tag::device::Device;

/// How many times as long as at the warm-up a run on a device may take before the device counts as hung, and the least that
/// is. A GPU that others use too, or that is too hot, is slower by some times; one that hangs never comes back.
const HUNG: (u32, Duration) = (30, Duration::from_mins(1));

/// What came of the first runs.
#[derive(Clone, Debug)]
pub(super) struct Warmth {
    /// Images that ran at once.
    pub(super) fits: usize,
    /// What is odd about their scores.
    pub(super) oddity: Option<&'static str>,
    /// How long the fastest run of so many took.
    probe: Duration,
    /// Nodes by provider, where that was looked at.
    nodes: Option<String>,
}

impl Warmth {
    /// How long a run may take before the device counts as hung. The CPU does not hang, it is only busy.
    pub(super) fn deadline(&self, device: Device) -> Option<Duration> {
        device.number().map(|_| (self.probe * HUNG.0).max(HUNG.1))
    }

    /// Looks at what the session says it ran on.
    ///
    /// # Errors
    /// Where it is not the device, or that can't be seen.
    pub(super) fn prove(&mut self, session: &Mutex<Session>, device: Device) -> Result<(), String> {
        let ended = session.lock().unwrap_or_else(PoisonError::into_inner).end_profiling();
        let file = ended.map_err(|error| error.to_string())?;
        self.nodes = Some(proof::prove(file.as_ref(), device)?);
        Ok(())
    }

    pub(super) fn log(&self, model: &str, device: Device) {
        let (fits, probe) = (self.fits, self.probe.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "batches are small")]
        let rate = (fits as f64 / probe * 10.0).round() / 10.0;
        tracing::info!(model, %device, batch = fits, seconds = probe, images_per_second = rate, nodes = self.nodes, "probed");
    }
}

/// Runs the turns of a device: every size a batch may have, the largest first, and then all of them once more to see how
/// fast they are now.
///
/// # Errors
/// What the runtime says.
pub(super) fn turns(turns: &mut [Turn], side: u32, batch: usize) -> Result<Warmth, String> {
    let mut warmth: Option<Warmth> = None;
    for turn in turns {
        // All turns of a session take what fitted the first.
        let most = warmth.as_ref().map_or(batch, |warmth| warmth.fits);
        let first = up(turn, side, &[most])?;
        let sizes: Vec<usize> = limit::sizes(batch).into_iter().filter(|size| *size <= first.fits).rev().collect();
        let then = up(turn, side, &sizes)?;
        warmth = Some(match warmth {
            Some(before) => Warmth { fits: before.fits.min(then.fits), probe: before.probe.min(then.probe), ..before },
            None => Warmth { oddity: first.oddity, ..then },
        });
    }
    warmth.ok_or_else(|| "no turn".into())
}

/// Runs blank images in batches of these sizes one after the other, or of as many as fit. What is told is of the last.
///
/// # Errors
/// What the runtime says.
pub(super) fn up(runtime: &mut dyn Runtime, side: u32, sizes: &[usize]) -> Result<Warmth, String> {
    let row = vec![255; side as usize * side as usize * CHANNELS];
    let mut last = Warmth { fits: 1, oddity: None, probe: Duration::MAX, nodes: None };
    for &size in sizes {
        last = fitting(runtime, &row, size)?;
    }
    Ok(last)
}

fn fitting(runtime: &mut dyn Runtime, row: &[u8], batch: usize) -> Result<Warmth, String> {
    let began = Instant::now();
    match runtime.run(&vec![row; batch]) {
        Ok(scores) => {
            let oddity = scores.first().and_then(|scores| tensor::oddity(scores));
            Ok(Warmth { fits: batch, oddity, probe: began.elapsed(), nodes: None })
        }
        Err(failure) if failure.code == Code::OutOfMemory && batch > 1 => {
            tracing::warn!(batch, "the device's memory does not hold a batch of this size; trying half of it");
            fitting(runtime, row, batch / 2)
        }
        Err(failure) => Err(failure.message),
    }
}

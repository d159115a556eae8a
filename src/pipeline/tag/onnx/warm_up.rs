//! First runs of a session: they find the number of images that fit, pay for one-time work, and measure the speed.

use std::time::{Duration, Instant};

use ort::session::Session;
use parking_lot::Mutex;

use super::pipelined::PipelinedRuntime;
use super::{placement, tensor};
use crate::failure::Code;
use crate::model::frame::CHANNELS;
use crate::pipeline::batch::limit;
use crate::pipeline::stage::panic_message;
use crate::pipeline::tag::device::Device;
use crate::pipeline::tag::runtime::Runtime;

/// Factor on the time of the warm-up after which a run on a device counts as hung, and minimum of that time. A GPU that
/// others use too, or that is too hot, is a few times slower; one that hangs never comes back.
const HUNG: (u32, Duration) = (30, Duration::from_mins(1));

/// Runs of each runtime beside those of the others: enough for them to overlap.
const OVERLAPPING: usize = 3;

/// Report of the first runs.
#[derive(Clone, Debug)]
pub(super) struct WarmUp {
    /// Number of images that ran at once.
    pub(super) fits: usize,
    /// Suspicion about their scores.
    pub(super) suspicion: Option<&'static str>,
    /// Time of the fastest run of so many images.
    probe: Duration,
    /// Nodes by provider, if checked.
    nodes: Option<String>,
}

impl WarmUp {
    /// Time after which a run counts as hung. The CPU has none: it does not hang, it is only busy.
    pub(super) fn deadline(&self, device: Device) -> Option<Duration> {
        device.number().map(|_| (self.probe * HUNG.0).max(HUNG.1))
    }

    /// Checks that the session ran on the device.
    ///
    /// # Errors
    /// If it did not, or that can't be seen.
    pub(super) fn check_placement(&mut self, session: &Mutex<Session>, device: Device) -> Result<(), String> {
        let ended = session.lock().end_profiling();
        let file = ended.map_err(|error| error.to_string())?;
        self.nodes = Some(placement::check(file.as_ref(), device)?);
        Ok(())
    }

    pub(super) fn log(&self, model: &str, device: Device) {
        let (fits, probe) = (self.fits, self.probe.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "batches are small")]
        let rate = (fits as f64 / probe * 10.0).round() / 10.0;
        tracing::info!(model, %device, batch = fits, seconds = probe, images_per_second = rate, nodes = self.nodes, "probed");
    }
}

/// Runs the runtimes of a device: the largest batch first, then every size of batch, timed, and then all runtimes at once.
///
/// # Errors
/// If a run fails, with the runtime's message.
pub(super) fn pipelined(runtimes: &mut [PipelinedRuntime], side: u32, batch: usize) -> Result<WarmUp, String> {
    let mut warm_up: Option<WarmUp> = None;
    for runtime in &mut *runtimes {
        // All runtimes of a session run the size that fitted the first.
        let most = warm_up.as_ref().map_or(batch, |warm_up| warm_up.fits);
        let first = run(runtime, side, &[most])?;
        let sizes: Vec<usize> = limit::sizes(batch).into_iter().filter(|size| *size <= first.fits).rev().collect();
        let then = run(runtime, side, &sizes)?;
        warm_up = Some(match warm_up {
            Some(before) => WarmUp { fits: before.fits.min(then.fits), probe: before.probe.min(then.probe), ..before },
            None => WarmUp { suspicion: first.suspicion, ..then },
        });
    }
    let warm_up = warm_up.ok_or("no runtime")?;
    let fits = together(runtimes, side, warm_up.fits)?;
    Ok(WarmUp { fits, ..warm_up })
}

/// Number of images that fit if all runtimes run at once, as they will: the copy of one is on the device beside the run of
/// another.
fn together<T: Runtime>(runtimes: &mut [T], side: u32, batch: usize) -> Result<usize, String> {
    let fitted: Vec<Result<WarmUp, String>> = std::thread::scope(|scope| {
        let running = runtimes.iter_mut().map(|runtime| scope.spawn(move || run(runtime, side, &[batch; OVERLAPPING])));
        // Starts all before the first is joined.
        let running: Vec<_> = running.collect();
        let ended = running.into_iter().map(std::thread::ScopedJoinHandle::join);
        ended.map(|ended| ended.unwrap_or_else(|panic| Err(panic_message(&*panic).to_owned()))).collect()
    });
    let fitted: Vec<WarmUp> = fitted.into_iter().collect::<Result<_, _>>()?;
    Ok(fitted.iter().map(|warm_up| warm_up.fits).min().unwrap_or(batch))
}

/// Runs blank images in batches of these sizes one after the other, or of as many as fit. Returns the report of the last.
///
/// # Errors
/// If a run fails, with the runtime's message.
pub(super) fn run(runtime: &mut dyn Runtime, side: u32, sizes: &[usize]) -> Result<WarmUp, String> {
    let row = vec![255; side as usize * side as usize * CHANNELS];
    let mut last = WarmUp { fits: 1, suspicion: None, probe: Duration::MAX, nodes: None };
    let mut most = usize::MAX;
    for &size in sizes {
        last = fitting(runtime, &row, size.min(most))?;
        if last.fits < size {
            most = last.fits;
        }
    }
    Ok(last)
}

fn fitting(runtime: &mut dyn Runtime, row: &[u8], batch: usize) -> Result<WarmUp, String> {
    let began = Instant::now();
    match runtime.run(&vec![row; batch]) {
        Ok(scores) => {
            let suspicion = scores.first().and_then(|scores| tensor::suspicion(scores));
            Ok(WarmUp { fits: batch, suspicion, probe: began.elapsed(), nodes: None })
        }
        Err(failure) if failure.code == Code::OutOfMemory && batch > 1 => {
            tracing::warn!(batch, "the device's memory does not hold a batch of this size; trying half of it");
            fitting(runtime, row, batch / 2)
        }
        Err(failure) => Err(failure.message),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::failure::Failure;

    /// Runtime with memory for two images beside the other runtimes. The first two runs are sure to overlap.
    struct Crowded<'a> {
        barrier: &'a Barrier,
        runs: usize,
    }

    impl Runtime for Crowded<'_> {
        fn run(&mut self, rows: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure> {
            self.runs += 1;
            if self.runs == 1 {
                self.barrier.wait();
            }
            if rows.len() > 2 {
                return Err(Failure::new(Code::OutOfMemory, "another runtime has it"));
            }
            Ok(rows.iter().map(|_| vec![0.5]).collect())
        }
    }

    #[test]
    fn what_fits_one_runtime_alone_is_halved_where_runtimes_overlap() {
        let barrier = Barrier::new(2);
        let mut runtimes = [(); 2].map(|()| Crowded { barrier: &barrier, runs: 0 });
        assert_eq!(together(&mut runtimes, 2, 8), Ok(2));
        // 8, 4 and 2 to find the size, and two more.
        assert_eq!(runtimes.map(|runtime| runtime.runs), [5, 5]);
    }
}

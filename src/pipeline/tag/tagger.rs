//! The thread that owns one of a model's runtimes: batch in, every row's outcome out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;
use tracing::Span;

use super::dispatch::DeviceQueue;
use super::health::InferenceHealth;
use super::onnx;
use super::runtime::Runtime;
use super::split::{Fit, run_or_split};
use crate::backoff::Backoff;
use crate::delivery::Delivery;
use crate::failure::{Code, Failure};
use crate::model::frame::CHANNELS;
use crate::pipeline::handoff::{Batch, Finished, Row, Scored, Trial, Work};
use crate::pipeline::loaded::LoadedModel;
use crate::pipeline::queue_state::QueueState;
use crate::pipeline::stage::{Ended, panicked};
use crate::telemetry::labels::Stage;
use crate::telemetry::metrics;

/// How long a device whose memory others have taken is left alone before the next try: at first, and at most.
const FULL: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));

/// Batches in a row without a single image tagged after which the worker, not the images, must be at fault.
const SICK: u32 = 3;

/// Blank images that a thread runs on a device before its first batch, one after the other. The first makes what the thread
/// has there for itself, such as cuBLAS's handle, which takes memory that others may have taken by the time a batch comes;
/// the second runs as batches do, with its copy apart. On the CPU a thread has nothing for itself.
pub(super) const SETTLING: usize = 2;

/// The thread that owns one of a model's runtimes.
pub(super) struct Tagger {
    pub(super) model: Arc<LoadedModel>,
    pub(super) device: Arc<str>,
    pub(super) runtime: Box<dyn Runtime>,
    /// `true` if an image's scores were checked for what a wrong manifest makes of them.
    pub(super) checked: bool,
    pub(super) queue: Arc<DeviceQueue>,
    pub(super) state: Arc<QueueState>,
    pub(super) publish: Sender<Finished>,
    pub(super) health: InferenceHealth,
}

impl Tagger {
    /// On a thread of its own; how that ends.
    pub(super) fn start(self, name: String) -> Result<oneshot::Receiver<Result<(), Ended>>, Ended> {
        let (done, ended) = oneshot::channel();
        let spawned = std::thread::Builder::new().name(name).spawn(move || done.send(self.work_off()));
        spawned.map_err(|error| Ended::Broken(format!("can't start its thread: {error}")))?;
        Ok(ended)
    }

    fn work_off(mut self) -> Result<(), Ended> {
        let ended = self.work();
        if self.runtime.lost().is_some() {
            // To free what a lost device holds throws in C++, which would end the process with the jobs still in hand.
            std::mem::forget(self.runtime);
        }
        ended
    }

    fn work(&mut self) -> Result<(), Ended> {
        if &*self.device != "cpu" {
            self.settle()?;
        }
        let mut failed_in_a_row = 0;
        loop {
            let batch = match self.queue.next() {
                Some(Work::Batch(batch)) => batch,
                Some(Work::Trial(trial)) => {
                    self.try_out(trial);
                    self.queue.done();
                    continue;
                }
                None => return Ok(()),
            };
            let Some(batch) = self.still_wanted(batch) else { continue };
            // A job that comes again may be what fails.
            let fresh = batch.rows.iter().any(|row| row.context.delivery.attempt() == 1);
            let (tagged, fine) = self.tag(batch);
            self.not_lost()?;
            self.health.set(fine);
            match tagged {
                0 if fresh || !fine => failed_in_a_row += 1,
                0 => {}
                _ => failed_in_a_row = 0,
            }
            if failed_in_a_row == SICK {
                return Err(Ended::Broken(format!(
                    "{SICK} batches in a row failed without one image tagged; the log says how"
                )));
            }
        }
    }

    /// See [`SETTLING`]. Nothing is waited for: there may be no batch to come, and one that fails sees to that itself.
    fn settle(&mut self) -> Result<(), Ended> {
        for _ in 0..SETTLING {
            let run = self.blank();
            self.not_lost()?;
            if let Err(failure) = run {
                if failure.code != Code::ShuttingDown {
                    tracing::warn!(device = &*self.device, error = %failure, "a thread can't run on its device yet; its first batch tries again");
                }
                break;
            }
        }
        Ok(())
    }

    fn not_lost(&self) -> Result<(), Ended> {
        let Some(reason) = self.runtime.lost() else { return Ok(()) };
        self.health.set(false);
        Err(Ended::Broken(format!("the device {} is lost: {reason}", self.device)))
    }

    /// The batch without the rows that nobody waits for any more, where others are left.
    pub(super) fn still_wanted(&self, batch: Batch) -> Option<Batch> {
        let mut rows = Vec::with_capacity(batch.rows.len());
        for row in batch.rows {
            match row.context.still_wanted() {
                Ok(()) => rows.push(row),
                Err(failure) => self.fail(row.context.delivery, failure),
            }
        }
        if rows.is_empty() {
            self.batch_done();
            return None;
        }
        Some(Batch { rows })
    }

    fn batch_done(&self) {
        // In this order: what is told here makes room for a batch, which is dispatched by what is in hand.
        self.queue.done();
        self.state.batch_done();
    }

    fn fail(&self, delivery: Delivery, failure: Failure) {
        metrics::failed(Stage::Tag, failure.code);
        // Refused only where the publish stage is gone: the delivery inside hands its job back.
        drop(self.publish.blocking_send(Finished::failed(delivery, failure)));
    }

    /// Runs one batch and passes on every row's outcome; how many were tagged, and whether the runtime works.
    fn tag(&mut self, batch: Batch) -> (usize, bool) {
        let began = Instant::now();
        let rows: Vec<&[u8]> = batch.rows.iter().map(|row| &*row.input.bytes).collect();
        let spans: Vec<Span> = batch.rows.iter().map(|row| row.context.delivery.span()).collect();
        let outcomes = self.run(&rows, &spans);
        let infer = began.elapsed();
        // A runtime that fails at anything is no evidence against the images.
        let fine = outcomes.iter().any(Result::is_ok) || self.scores_a_blank();
        self.batch_done();
        let size = rows.len();
        let mut tagged = 0;
        for (Row { mut context, ready, .. }, outcome) in batch.rows.into_iter().zip(outcomes) {
            context.seconds.wait = metrics::stage_seconds("wait", began.duration_since(ready));
            context.seconds.infer = metrics::stage_seconds("infer", infer);
            match outcome.and_then(numbers) {
                Ok(scores) => {
                    tagged += 1;
                    self.check_output(&scores);
                    let model = Arc::clone(&self.model);
                    let device = Arc::clone(&self.device);
                    let finished = Finished::Tagged(Box::new(Scored { context, model, device, scores, batch: size }));
                    drop(self.publish.blocking_send(finished));
                }
                // A device that is lost in the batch of a quarantined job is evidence against that job.
                Err(failure) if context.is_quarantined() && self.runtime.lost().is_some() => {
                    self.fail(context.delivery, Failure::new(Code::InferenceFailed, failure.message));
                }
                Err(failure) if !fine && !context.is_quarantined() => {
                    self.fail(context.delivery, failure.without_attempt());
                }
                Err(failure) => self.fail(context.delivery, failure),
            }
        }
        (tagged, fine)
    }

    /// Every row's outcome. Where not even one image fits the device, other programs have taken its memory: the rows wait until
    /// they give it back, since the jobs are not at fault.
    fn run(&mut self, rows: &[&[u8]], spans: &[Span]) -> Vec<Result<Vec<f32>, Failure>> {
        loop {
            let mut outcomes = Vec::with_capacity(rows.len());
            let fit = run_or_split(&mut *self.runtime, rows, spans, &mut outcomes);
            self.adapt_limit(fit);
            let full =
                |outcome: &Result<_, Failure>| outcome.as_ref().is_err_and(|failure| failure.code == Code::OutOfMemory);
            if !outcomes.iter().all(full) || !self.wait_for_memory() {
                return outcomes;
            }
        }
    }

    /// Waits until an image fits the device; whether that was worth waiting for: it did not fit at first, and does now.
    fn wait_for_memory(&mut self) -> bool {
        let mut tries = 0;
        loop {
            match self.blank() {
                Ok(_) => return tries > 0,
                Err(failure) if failure.code == Code::OutOfMemory => {
                    if tries == 0 {
                        self.health.set(false);
                        tracing::warn!(device = &*self.device, error = %failure, "not one image fits the device's memory: waiting for others to give it back");
                    }
                }
                Err(_) => return false,
            }
            tries += 1;
            std::thread::sleep(FULL.after(tries));
        }
    }

    /// Adapts the size of batches to what the device's memory holds.
    fn adapt_limit(&self, fit: Fit) {
        let name = &*self.model.id.name;
        let changed = self.state.adapt_limit(|limit| match fit {
            Fit::Whole(rows) => limit.fitted(rows),
            Fit::TooLarge(rows) => limit.too_large(rows),
            Fit::Unknown => {}
        });
        if matches!(fit, Fit::TooLarge(_)) {
            metrics::out_of_memory(name);
        }
        if let Some(limit) = changed {
            tracing::warn!(model = name, limit, "batches have another size from now on: the device's memory decides");
            metrics::batch_limit(name, limit);
        }
    }

    /// Warns, once, of scores that a wrong manifest makes.
    fn check_output(&mut self, scores: &[f32]) {
        if !std::mem::replace(&mut self.checked, true)
            && let Some(suspicion) = onnx::tensor::suspicion(scores)
        {
            tracing::warn!(model = self.model.id.name, "{suspicion}");
        }
    }

    /// Runs blank images and says how long that took; nothing is learnt from it.
    fn try_out(&mut self, Trial { rows, answer }: Trial) {
        let side = self.model.frame.side as usize;
        let blank = vec![255; side * side * CHANNELS];
        let (rows, began) = (vec![blank.as_slice(); rows], Instant::now());
        let run = catch_unwind(AssertUnwindSafe(|| self.runtime.run(&rows)));
        let run = run.unwrap_or_else(|panic| Err(panicked(Code::InferenceFailed, "running a trial", &*panic)));
        // Whoever asked may be gone.
        let _ = answer.send(run.map(|_| began.elapsed()));
    }

    /// Whether the runtime can score a blank image: if not, it is at fault and not the images.
    fn scores_a_blank(&mut self) -> bool {
        self.blank().is_ok()
    }

    fn blank(&mut self) -> Result<Vec<Vec<f32>>, Failure> {
        let side = self.model.frame.side as usize;
        let run = catch_unwind(AssertUnwindSafe(|| self.runtime.run(&[&vec![255; side * side * CHANNELS]])));
        run.unwrap_or_else(|panic| Err(panicked(Code::InferenceFailed, "running a blank image", &*panic)))
    }
}

/// The scores, if all of them are numbers.
pub(super) fn numbers(scores: Vec<f32>) -> Result<Vec<f32>, Failure> {
    // JSON has no infinity either.
    if !scores.iter().all(|score| score.is_finite()) {
        return Err(Failure::new(Code::InferenceFailed, "the model gave scores that are not numbers"));
    }
    Ok(scores)
}

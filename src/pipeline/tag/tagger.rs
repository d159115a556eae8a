//! Thread that owns one of a model's runtimes: receives batches and sends every row's outcome.

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

/// First and longest delay between attempts while other programs occupy the device's memory.
const FULL: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));

/// Consecutive batches without a tagged image after which the worker counts as faulty, not the images.
const SICK: u32 = 3;

/// Number of blank images that a thread runs on a device before its first batch, one after the other. The first allocates
/// the thread's own resources there, such as cuBLAS's handle, before others take the memory. The second runs as batches do,
/// with its copy apart. On the CPU, a thread has no resources of its own.
pub(super) const SETTLING: usize = 2;

/// Thread that owns one of a model's runtimes.
pub(super) struct Tagger {
    pub(super) model: Arc<LoadedModel>,
    pub(super) device: Arc<str>,
    pub(super) runtime: Box<dyn Runtime>,
    /// `true` once an image's scores were checked for signs of a wrong manifest.
    pub(super) checked: bool,
    pub(super) queue: Arc<DeviceQueue>,
    pub(super) state: Arc<QueueState>,
    pub(super) publish: Sender<Finished>,
    pub(super) health: InferenceHealth,
}

impl Tagger {
    /// Starts the thread. The receiver returns its end.
    pub(super) fn start(self, name: String) -> Result<oneshot::Receiver<Result<(), Ended>>, Ended> {
        let (done, ended) = oneshot::channel();
        let spawned = std::thread::Builder::new().name(name).spawn(move || done.send(self.work_off()));
        spawned.map_err(|error| Ended::Broken(format!("can't start its thread: {error}")))?;
        Ok(ended)
    }

    fn work_off(mut self) -> Result<(), Ended> {
        let ended = self.work();
        if self.runtime.lost().is_some() {
            // Freeing resources of a lost device throws in C++, which would end the process with jobs still in flight.
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
            // A redelivered job may be the cause itself.
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

    /// Runs [`SETTLING`] blank images. Does not wait for memory: there may be no batch, and a batch that fails waits itself.
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

    /// Removes the rows whose clients no longer wait. Returns `None` if no row is left.
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
        // In this order: the state's change admits another batch, and its dispatch depends on the outstanding work.
        self.queue.done();
        self.state.batch_done();
    }

    fn fail(&self, delivery: Delivery, failure: Failure) {
        metrics::failed(Stage::Tag, failure.code);
        // Fails only if the publish stage is gone: the delivery inside hands its job back.
        drop(self.publish.blocking_send(Finished::failed(delivery, failure)));
    }

    /// Runs one batch and sends every row's outcome. Returns the number of tagged rows, and `true` if the runtime works.
    fn tag(&mut self, batch: Batch) -> (usize, bool) {
        let began = Instant::now();
        let rows: Vec<&[u8]> = batch.rows.iter().map(|row| &*row.input.bytes).collect();
        let spans: Vec<Span> = batch.rows.iter().map(|row| row.context.delivery.span()).collect();
        let outcomes = self.run(&rows, &spans);
        let infer = began.elapsed();
        // A runtime that fails on everything is no evidence against the images.
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
                // A device lost in the batch of a quarantined job is evidence against that job.
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

    /// Runs rows and returns every row's outcome. If not even one image fits the device, other programs occupy its memory:
    /// the rows wait until it is free, because the jobs are not the cause.
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

    /// Waits until an image fits the device. Returns `true` if one did not fit at first and does now.
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

    /// Adapts the batch limit to the device's memory.
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

    /// Warns, once, of scores that suggest a wrong manifest.
    fn check_output(&mut self, scores: &[f32]) {
        if !std::mem::replace(&mut self.checked, true)
            && let Some(suspicion) = onnx::tensor::suspicion(scores)
        {
            tracing::warn!(model = self.model.id.name, "{suspicion}");
        }
    }

    /// Runs blank images and sends the time of the run. Does not adapt the limit.
    fn try_out(&mut self, Trial { rows, answer }: Trial) {
        let side = self.model.frame.side as usize;
        let blank = vec![255; side * side * CHANNELS];
        let (rows, began) = (vec![blank.as_slice(); rows], Instant::now());
        let run = catch_unwind(AssertUnwindSafe(|| self.runtime.run(&rows)));
        let run = run.unwrap_or_else(|panic| Err(panicked(Code::InferenceFailed, "running a trial", &*panic)));
        // The requester may be gone.
        let _ = answer.send(run.map(|_| began.elapsed()));
    }

    /// Returns `true` if the runtime can score a blank image; otherwise the runtime is at fault, not the images.
    fn scores_a_blank(&mut self) -> bool {
        self.blank().is_ok()
    }

    fn blank(&mut self) -> Result<Vec<Vec<f32>>, Failure> {
        let side = self.model.frame.side as usize;
        let run = catch_unwind(AssertUnwindSafe(|| self.runtime.run(&[&vec![255; side * side * CHANNELS]])));
        run.unwrap_or_else(|panic| Err(panicked(Code::InferenceFailed, "running a blank image", &*panic)))
    }
}

/// Returns the scores if all of them are numbers.
pub(super) fn numbers(scores: Vec<f32>) -> Result<Vec<f32>, Failure> {
    // JSON has no infinity either.
    if !scores.iter().all(|score| score.is_finite()) {
        return Err(Failure::new(Code::InferenceFailed, "the model gave scores that are not numbers"));
    }
    Ok(scores)
}

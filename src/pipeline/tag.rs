//! **tag**: [`Batch`]es become scores, on the thread that owns the model. A batch that fails as a whole is split until the
//! culprit stands alone. Fails with `out_of_memory` or `inference_failed`.

pub(crate) mod device;
pub(crate) mod library;
pub mod onnx;
mod share;
pub(crate) mod sizes;
mod split;
mod watchdog;
pub(crate) mod work;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::sync::oneshot;

use super::batch::traffic::Traffic;
use super::batch::{Batch, Row};
use super::decode::fit::{CHANNELS, Frame};
use super::publish::{Finished, Scored};
use super::{Ended, panicked};
use crate::backoff::Backoff;
use crate::delivery::Delivery;
use crate::failure::{Code, Failure};
use crate::model::labels::Labels;
use crate::model::threshold::Thresholds;
use crate::tags::ModelId;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::{self, Stage};
use onnx::interface::Interface;
use share::{Dealer, Queue};
use split::{Fit, run_or_split};
use watchdog::Watched;
use work::{Trial, Work};

/// How long a device whose memory others have taken is left alone before the next try: at first, and at most.
const FULL: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));

/// Batches in a row without a single image tagged after which the worker, not the images, must be at fault.
const SICK: u32 = 3;

/// What is known of a loaded model.
#[derive(Debug)]
pub(crate) struct Model {
    /// As answers name it.
    pub(crate) id: ModelId,
    /// The square it looks at.
    pub(crate) frame: Frame,
    /// What its graph takes and gives.
    pub(crate) interface: Interface,
    /// What its output means.
    pub(crate) labels: Labels,
    /// What counts as a tag where the job says nothing else: the operator's, else the model's own.
    pub(crate) thresholds: Thresholds,
    /// What it runs on; a session each.
    pub(crate) devices: Vec<String>,
}

impl Model {
    /// What it runs on, as it is shown.
    #[must_use]
    pub(crate) fn device(&self) -> String {
        self.devices.join(",")
    }

    /// Whether a device of its wants a batch to be ready when it is done with one, to copy it meanwhile. The CPU has nothing
    /// to copy, and a batch that is closed later is one that an urgent row can still join.
    #[must_use]
    pub(crate) fn wants_batches_ahead(&self) -> bool {
        self.devices.iter().any(|device| device != "cpu")
    }
}

/// Something that scores rows: a model's session. It has one owner, and blocks.
pub(crate) trait Runtime: Send {
    /// Scores of each row, one per label.
    ///
    /// # Errors
    /// Where the batch as a whole failed; smaller ones may not.
    fn run(&mut self, rows: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure>;

    /// Why nothing runs on its device any more, once that is so. Its jobs failed with `shutting_down`, for they are the next
    /// worker's.
    fn lost(&self) -> Option<&str> {
        None
    }
}

/// A runtime, and the thread of its own that it gets.
pub(crate) struct Runner {
    /// What it runs on.
    pub(crate) device: Arc<str>,
    /// See above.
    pub(crate) runtime: Box<dyn Runtime>,
    /// How long a run may take before the device counts as hung; any time where nothing is said.
    pub(crate) deadline: Option<Duration>,
}

/// Ends the run in progress, and every later one, with `shutting_down`: a process must not exit under a running model.
pub(crate) type Stopper = Arc<dyn Fn() + Send + Sync>;

/// A model with its session.
pub(crate) struct Loaded {
    /// What is known of it.
    pub(crate) model: Arc<Model>,
    /// Its runtimes: one for the CPU, some that take turns for every other device.
    pub(crate) runners: Vec<Runner>,
    /// Images that ran at once when it was loaded.
    pub(crate) fits: usize,
    /// What is odd about its scores, and has been said.
    pub(crate) oddity: Option<&'static str>,
    /// Stops the sessions.
    pub(crate) stop: Stopper,
}

/// Tags until `work` closes.
///
/// # Errors
/// Where the thread can't be started, or batch after batch failed.
pub(crate) async fn run(
    loaded: Loaded,
    work: Receiver<Work>,
    traffic: Arc<Traffic>,
    publish: Sender<Finished>,
    health: Health,
) -> Result<(), Ended> {
    let Loaded { model, runners, oddity, .. } = loaded;
    let (mut threads, mut pulses, mut dealer) = (FuturesUnordered::new(), Vec::new(), Dealer::default());
    for (number, Runner { device, runtime, deadline }) in runners.into_iter().enumerate() {
        let runtime = match deadline {
            Some(deadline) => {
                let (watched, pulse) = Watched::new(runtime, Arc::clone(&device), deadline);
                pulses.push(pulse);
                Box::new(watched)
            }
            None => runtime,
        };
        let name = format!("tag-{}-{device}-{number}", model.id.name);
        let (model, traffic, queue) = (Arc::clone(&model), Arc::clone(&traffic), dealer.queue(&device));
        let (publish, health) = (publish.clone(), health.clone());
        let tagger = Tagger { model, device, runtime, looked: oddity.is_some(), queue, traffic, publish, health };
        threads.push(tagger.start(name)?);
    }
    drop(publish);
    let (hung, dealing) = (watchdog::watch(pulses), dealer.deal(work));
    tokio::pin!(hung, dealing);
    let mut dealt = false;
    loop {
        tokio::select! {
            () = &mut dealing, if !dealt => dealt = true,
            ended = threads.next() => match ended {
                Some(ended) => ended.unwrap_or_else(|_| Err(Ended::Broken("its thread died".into())))?,
                None => return Ok(()),
            },
            reason = &mut hung => {
                health.set_inference(false);
                return Err(Ended::Broken(reason));
            }
        }
    }
}

/// The thread that owns one of a model's sessions.
struct Tagger {
    model: Arc<Model>,
    device: Arc<str>,
    runtime: Box<dyn Runtime>,
    /// Whether an image's scores were looked at for what a wrong manifest looks like.
    looked: bool,
    queue: Arc<Queue>,
    traffic: Arc<Traffic>,
    publish: Sender<Finished>,
    health: Health,
}

impl Tagger {
    /// On a thread of its own; how that ends.
    fn start(self, name: String) -> Result<oneshot::Receiver<Result<(), Ended>>, Ended> {
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
            let fresh = batch.rows.iter().any(|row| row.flight.delivery.attempt() == 1);
            let tagged = self.tag(batch);
            if let Some(reason) = self.runtime.lost() {
                self.health.set_inference(false);
                return Err(Ended::Broken(format!("the device {} is lost: {reason}", self.device)));
            }
            let fine = tagged > 0 || self.scores_a_blank();
            self.health.set_inference(fine);
            match (tagged, fresh) {
                (0, true) => failed_in_a_row += 1,
                (0, false) => {}
                _ => failed_in_a_row = 0,
            }
            if failed_in_a_row == SICK {
                return Err(Ended::Broken(format!(
                    "{SICK} batches in a row failed without one image tagged; the log says how"
                )));
            }
        }
    }

    /// The batch without the rows that nobody waits for any more, where others are left.
    fn still_wanted(&self, batch: Batch) -> Option<Batch> {
        let mut rows = Vec::with_capacity(batch.rows.len());
        for row in batch.rows {
            match row.flight.still_wanted() {
                Ok(()) => rows.push(row),
                Err(failure) => self.fail(row.flight.delivery, failure),
            }
        }
        if rows.is_empty() {
            self.batch_done();
            return None;
        }
        Some(Batch { rows })
    }

    fn batch_done(&self) {
        // In this order: what is told here makes room for a batch, which is dealt by what is in hand.
        self.queue.done();
        self.traffic.batch_done();
    }

    fn fail(&self, delivery: Delivery, failure: Failure) {
        metrics::failed(Stage::Tag, failure.code);
        // Refused only where the publish stage is gone: the delivery inside hands its job back.
        drop(self.publish.blocking_send(Finished::failed(delivery, failure)));
    }

    /// Runs one batch and passes on every row's outcome; how many were tagged.
    fn tag(&mut self, batch: Batch) -> usize {
        let began = Instant::now();
        let rows: Vec<&[u8]> = batch.rows.iter().map(|row| &*row.input.bytes).collect();
        let outcomes = self.run(&rows);
        let infer = began.elapsed();
        self.batch_done();
        let size = rows.len();
        let mut tagged = 0;
        for (Row { mut flight, ready, .. }, outcome) in batch.rows.into_iter().zip(outcomes) {
            flight.seconds.wait = metrics::stage_seconds("wait", began.duration_since(ready));
            flight.seconds.infer = metrics::stage_seconds("infer", infer);
            match outcome.and_then(numbers) {
                Ok(scores) => {
                    tagged += 1;
                    self.look(&scores);
                    let model = Arc::clone(&self.model);
                    let device = Arc::clone(&self.device);
                    let finished = Finished::Tagged(Box::new(Scored { flight, model, device, scores, batch: size }));
                    drop(self.publish.blocking_send(finished));
                }
                Err(failure) => self.fail(flight.delivery, failure),
            }
        }
        tagged
    }

    /// Every row's outcome. Where not even one image fits the device, others have taken its memory: that is waited out with
    /// the rows in hand, as an outage of storage is, for the jobs can't help it.
    fn run(&mut self, rows: &[&[u8]]) -> Vec<Result<Vec<f32>, Failure>> {
        loop {
            let mut outcomes = Vec::with_capacity(rows.len());
            let fit = run_or_split(&mut *self.runtime, rows, &mut outcomes);
            self.learn(fit);
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
                        self.health.set_inference(false);
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
    fn learn(&self, fit: Fit) {
        let name = &*self.model.id.name;
        let changed = self.traffic.learn(|limit| match fit {
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
    fn look(&mut self, scores: &[f32]) {
        if !std::mem::replace(&mut self.looked, true)
            && let Some(oddity) = onnx::tensor::oddity(scores)
        {
            tracing::warn!(model = self.model.id.name, "{oddity}");
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
fn numbers(scores: Vec<f32>) -> Result<Vec<f32>, Failure> {
    // JSON has no infinity either.
    if !scores.iter().all(|score| score.is_finite()) {
        return Err(Failure::new(Code::InferenceFailed, "the model gave scores that are not numbers"));
    }
    Ok(scores)
}

#[cfg(test)]
pub(crate) mod tests;

//! **tag**: [`Batch`]es become scores, on the thread that owns the model. A batch that fails as a whole is split until the
//! culprit stands alone. Fails with `out_of_memory` or `inference_failed`.

pub mod device;
pub mod labels;
pub mod library;
pub mod onnx;
pub mod threshold;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::{Receiver, Sender};

use super::batch::{Batch, Row, Traffic, Trial, Work};
use super::decode::fit::{CHANNELS, Frame};
use super::publish::{Finished, Scored};
use super::{Ended, panicked};
use crate::delivery::Delivery;
use crate::failure::{Code, Failure};
use crate::tags::ModelId;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::{self, Stage};
use labels::Labels;
use onnx::interface::Interface;
use threshold::Thresholds;

/// Batches in a row without a single image tagged after which the worker, not the images, must be at fault.
const SICK: u32 = 3;

/// What is known of a loaded model.
#[derive(Debug)]
pub struct Model {
    /// As answers name it.
    pub id: ModelId,
    /// The square it looks at.
    pub frame: Frame,
    /// What its graph takes and gives.
    pub interface: Interface,
    /// What its output means.
    pub labels: Labels,
    /// What counts as a tag where the job says nothing else: the operator's, else the model's own.
    pub thresholds: Thresholds,
    /// What it runs on.
    pub device: String,
}

impl Model {
    /// Whether its device wants a batch to be ready when it is done with one, to copy it meanwhile. The CPU has nothing
    /// to copy, and a batch that is closed later is one that an urgent row can still join.
    #[must_use]
    pub fn wants_batches_ahead(&self) -> bool {
        self.device != "cpu"
    }
}

/// Something that scores rows: a model's session. It has one owner, and blocks.
pub trait Runtime: Send {
    /// Scores of each row, one per label.
    ///
    /// # Errors
    /// Where the batch as a whole failed; smaller ones may not.
    fn run(&mut self, rows: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure>;
}

/// Ends the run in progress, and every later one, with `shutting_down`: a process must not exit under a running model.
pub type Stopper = Arc<dyn Fn() + Send + Sync>;

/// A model with its session.
pub struct Loaded {
    /// What is known of it.
    pub model: Arc<Model>,
    /// Its session.
    pub runtime: Box<dyn Runtime>,
    /// Images that ran at once when it was loaded.
    pub fits: usize,
    /// What is odd about its scores, and has been said.
    pub oddity: Option<&'static str>,
    /// Stops the session.
    pub stop: Stopper,
}

/// Tags until `work` closes.
///
/// # Errors
/// Where the thread can't be started, or batch after batch failed.
pub async fn run(
    loaded: Loaded,
    work: Receiver<Work>,
    traffic: Arc<Traffic>,
    publish: Sender<Finished>,
    health: Health,
) -> Result<(), Ended> {
    let (done, ended) = tokio::sync::oneshot::channel();
    let name = format!("tag-{}", loaded.model.id.name);
    let Loaded { model, runtime, oddity, .. } = loaded;
    let tagger = Tagger { model, runtime, looked: oddity.is_some(), traffic, publish, health };
    std::thread::Builder::new()
        .name(name)
        .spawn(move || done.send(tagger.work(work)))
        .map_err(|error| Ended::Broken(format!("can't start its thread: {error}")))?;
    ended.await.unwrap_or_else(|_| Err(Ended::Broken("its thread died".into())))
}

/// The thread that owns a model's session.
struct Tagger {
    model: Arc<Model>,
    runtime: Box<dyn Runtime>,
    /// Whether an image's scores were looked at for what a wrong manifest looks like.
    looked: bool,
    traffic: Arc<Traffic>,
    publish: Sender<Finished>,
    health: Health,
}

impl Tagger {
    fn work(mut self, mut work: Receiver<Work>) -> Result<(), Ended> {
        let mut failed_in_a_row = 0;
        while let Some(next) = work.blocking_recv() {
            let batch = match next {
                Work::Batch(batch) => batch,
                Work::Trial(trial) => {
                    self.try_out(trial);
                    continue;
                }
            };
            let Some(batch) = self.still_wanted(batch) else { continue };
            // A job that comes again may be what fails.
            let fresh = batch.rows.iter().any(|row| row.flight.delivery.attempt() == 1);
            let tagged = self.tag(batch);
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
        Ok(())
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
            self.traffic.batch_done();
            return None;
        }
        Some(Batch { rows })
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
        let mut outcomes = Vec::with_capacity(rows.len());
        let fit = run_or_split(&mut *self.runtime, &rows, &mut outcomes);
        self.learn(fit);
        let infer = metrics::stage_seconds("infer", began.elapsed());
        self.traffic.batch_done();
        let size = rows.len();
        let mut tagged = 0;
        for (Row { mut flight, ready, .. }, outcome) in batch.rows.into_iter().zip(outcomes) {
            flight.seconds.wait = metrics::stage_seconds("wait", began.duration_since(ready));
            flight.seconds.infer = infer;
            match outcome.and_then(numbers) {
                Ok(scores) => {
                    tagged += 1;
                    self.look(&scores);
                    let model = Arc::clone(&self.model);
                    let row = Scored { flight, model, scores, batch: size };
                    drop(self.publish.blocking_send(Finished::Tagged(Box::new(row))));
                }
                Err(failure) => self.fail(flight.delivery, failure),
            }
        }
        tagged
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
        let side = self.model.frame.side as usize;
        self.runtime.run(&[&vec![255; side * side * CHANNELS]]).is_ok()
    }
}

/// The scores, if all of them are numbers.
fn numbers(scores: Vec<f32>) -> Result<Vec<f32>, Failure> {
    if scores.iter().any(|score| score.is_nan()) {
        return Err(Failure::new(Code::InferenceFailed, "the model gave scores that are not numbers"));
    }
    Ok(scores)
}

/// What a batch says of the device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// So many rows ran at once.
    Whole(usize),
    /// So many did not fit; no fewer did not either.
    TooLarge(usize),
    /// It failed for another reason.
    Unknown,
}

/// Runs the rows together, or in halves where that fails, so that a bad one fails alone.
fn run_or_split(runtime: &mut dyn Runtime, rows: &[&[u8]], outcomes: &mut Vec<Result<Vec<f32>, Failure>>) -> Fit {
    let run = catch_unwind(AssertUnwindSafe(|| runtime.run(rows)));
    let failure = match run.unwrap_or_else(|panic| Err(panicked(Code::InferenceFailed, "running a batch", &*panic))) {
        Ok(scores) => {
            outcomes.extend(scores.into_iter().map(Ok));
            return Fit::Whole(rows.len());
        }
        Err(failure) => failure,
    };
    let here = if failure.code == Code::OutOfMemory { Fit::TooLarge(rows.len()) } else { Fit::Unknown };
    if rows.len() == 1 || failure.code == Code::ShuttingDown {
        outcomes.extend(rows.iter().map(|_| Err(failure.clone())));
        return here;
    }
    tracing::warn!(code = %failure.code, error = %failure, rows = rows.len(), "a batch failed; it is split");
    let (left, right) = rows.split_at(rows.len() / 2);
    let halves = [run_or_split(runtime, left, outcomes), run_or_split(runtime, right, outcomes)];
    let too_large = halves.into_iter().chain([here]).filter_map(|fit| match fit {
        Fit::TooLarge(rows) => Some(rows),
        Fit::Whole(_) | Fit::Unknown => None,
    });
    too_large.min().map_or(Fit::Unknown, Fit::TooLarge)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::manifest::Layout;
    use crate::pipeline::decode::fit::{self, Filter};

    /// A model of two by two pixels and no labels.
    pub(crate) fn model() -> Model {
        Model {
            id: ModelId { name: "m".into(), sha256: String::new() },
            frame: Frame { side: 2, fit: fit::Fit::Stretch, filter: Filter::Bicubic },
            interface: Interface {
                input: "input".into(),
                layout: Layout::Nhwc,
                side: 2,
                batch: None,
                output: "output".into(),
            },
            labels: Labels::new(vec![]),
            thresholds: Thresholds::default(),
            device: "cpu".into(),
        }
    }

    /// Scores a row by its first byte; fails or panics for any batch that holds a row of 13 or 99.
    struct Faulty;

    impl Runtime for Faulty {
        fn run(&mut self, rows: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure> {
            assert!(rows.iter().all(|row| row[0] != 99), "a row of 99");
            if rows.iter().any(|row| row[0] == 13) {
                return Err(Failure::new(Code::InferenceFailed, "a row of 13"));
            }
            Ok(rows.iter().map(|row| vec![f32::from(row[0])]).collect())
        }
    }

    #[test]
    fn one_bad_row_fails_alone_and_the_others_keep_their_place() {
        let bytes = [[1], [2], [13], [4], [99], [6], [7], [8]];
        let rows: Vec<&[u8]> = bytes.iter().map(<[u8; 1]>::as_slice).collect();
        let mut outcomes = Vec::new();
        assert_eq!(run_or_split(&mut Faulty, &rows, &mut outcomes), Fit::Unknown);
        let outcomes: Vec<_> = outcomes.into_iter().map(|outcome| outcome.map_err(|failure| failure.code)).collect();
        let ok = |score: f32| Ok(vec![score]);
        let failed = || Err(Code::InferenceFailed);
        assert_eq!(outcomes, [ok(1.0), ok(2.0), failed(), ok(4.0), failed(), ok(6.0), ok(7.0), ok(8.0)]);
    }

    /// Has memory for three rows.
    struct Small;

    impl Runtime for Small {
        fn run(&mut self, rows: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure> {
            if rows.len() > 3 {
                return Err(Failure::new(Code::OutOfMemory, "more than three rows"));
            }
            Ok(rows.iter().map(|row| vec![f32::from(row[0])]).collect())
        }
    }

    #[test]
    fn a_batch_that_does_not_fit_is_split_until_it_does() {
        let rows: [&[u8]; 8] = [&[0]; 8];
        let mut outcomes = Vec::new();
        assert_eq!(run_or_split(&mut Small, &rows, &mut outcomes), Fit::TooLarge(4));
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 8, "nobody loses anything");
        assert_eq!(run_or_split(&mut Small, &rows[..2], &mut outcomes), Fit::Whole(2));
    }
}

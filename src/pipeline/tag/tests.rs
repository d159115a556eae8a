//! Faults of devices, simulated by runtimes.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::onnx::interface::Interface;
use super::tagger::{SETTLING, numbers};
use super::*;
use crate::delivery::answers::Answers;
use crate::delivery::{Answer, Delivery, Reply};
use crate::failure::{Code, Failure};
use crate::job::Job;
use crate::memory::Budget;
use crate::model::frame::{Filter, Fit, Frame};
use crate::model::labels::Labels;
use crate::model::manifest::Layout;
use crate::model::threshold::Thresholds;
use crate::pipeline::batch::limit::Limit;
use crate::pipeline::context::JobContext;
use crate::pipeline::handoff::{Batch, Input, Row};
use crate::pipeline::loaded::LoadedModel;
use crate::tags::{ModelId, Seconds};
use crate::telemetry::labels::{Outcome, Source};

/// A model of two by two pixels and no labels.
pub(crate) fn model() -> LoadedModel {
    LoadedModel {
        id: ModelId { name: "m".into(), sha256: String::new() },
        frame: Frame { side: 2, fit: Fit::Stretch, filter: Filter::Bicubic },
        labels: Labels::new(vec![]),
        thresholds: Thresholds::default(),
        devices: vec!["cpu".into()],
    }
}

/// State of a queue on one device that does not prefetch.
fn state() -> Arc<QueueState> {
    Arc::new(QueueState::new(Limit::new(8, 8), 1, false))
}

/// Runtime with memory for three rows.
pub(super) struct Small;

impl Runtime for Small {
    fn run(&mut self, rows: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure> {
        if rows.len() > 3 {
            return Err(Failure::new(Code::OutOfMemory, "more than three rows"));
        }
        Ok(rows.iter().map(|row| vec![f32::from(row[0])]).collect())
    }
}

/// Client that still waits, or not.
struct Caller(bool);

impl Reply for Caller {
    fn answer(self: Box<Self>, _: String, _: Answer) -> BoxFuture<'static, Outcome> {
        Box::pin(async { Outcome::Rejected })
    }

    fn is_wanted(&self) -> bool {
        self.0
    }
}

async fn row(wanted: bool) -> Row {
    let job = Job::parse(br#"{"image":"a"}"#).expect("a job");
    let delivery = Delivery::new(wanted.to_string(), Source::Nats, 1, Box::new(Caller(wanted)), Answers::new());
    let context = JobContext { job, image: "a".into(), seconds: Seconds::default(), delivery };
    let room = Budget::new(1 << 20).decoded.reserve(1).await.expect("room");
    Row { context, input: Input::new(Box::new([7]), room), ready: Instant::now() }
}

#[tokio::test]
async fn rows_that_nobody_waits_for_do_not_run() {
    let (publish, mut finished) = mpsc::channel(8);
    let (state, health) = (state(), InferenceHealth::default());
    let tagger = Tagger {
        model: Arc::new(model()),
        device: "cpu".into(),
        runtime: Box::new(Small),
        checked: true,
        queue: Dispatcher::default().queue(&"cpu".into()),
        state,
        publish,
        health,
    };
    let (mixed, unwanted) = (vec![row(false).await, row(true).await], vec![row(false).await]);
    let looking = tokio::task::spawn_blocking(move || {
        let left = tagger.still_wanted(Batch { rows: mixed }).expect("one of them is wanted");
        (left, tagger.still_wanted(Batch { rows: unwanted }).is_none())
    });
    let (left, nothing) = looking.await.expect("no panic");
    assert!(left.rows.len() == 1 && left.rows[0].context.delivery.id == "true" && nothing);
    for _ in 0..2 {
        let Some(Finished::Failed(failed)) = finished.recv().await else { panic!("no failure") };
        assert_eq!((failed.0.id.as_str(), failed.1.code), ("false", Code::Overloaded));
    }
}

/// Records the answer to the source.
struct Told(std::sync::mpsc::Sender<String>);

impl Reply for Told {
    fn answer(self: Box<Self>, _: String, answer: Answer) -> BoxFuture<'static, Outcome> {
        let told = match answer {
            Answer::Tagged(result) => format!("tagged on {}", result.device),
            Answer::Failed(failure) => failure.code.to_string(),
        };
        let _ = self.0.send(told);
        Box::pin(async { Outcome::Retried })
    }
}

/// End of a queue with one runtime after one batch of `rows` rows, the answers, and the health.
async fn ended(
    runtime: impl Runtime + 'static,
    deadline: Option<Duration>,
    rows: usize,
) -> (Result<(), Ended>, Vec<String>, bool) {
    let runner = Runner { device: "cuda:7".into(), runtime: Box::new(runtime), deadline };
    let interface =
        Interface { input: "input".into(), layout: Layout::Nhwc, side: 2, batch: None, output: "output".into() };
    let loaded = Loaded {
        model: Arc::new(model()),
        interface,
        runners: vec![runner],
        fits: 8,
        suspicion: None,
        stop: Arc::new(|| {}),
    };
    let (work, batches) = mpsc::channel(1);
    let (publish, finished) = mpsc::channel(8);
    let (told, answers) = std::sync::mpsc::channel();
    let health = InferenceHealth::default();
    let caption = crate::pipeline::publish::caption::Settings::default();
    let settings = crate::pipeline::publish::Settings { worker: "w".into(), caption };
    let publishing = tokio::spawn(crate::pipeline::publish::run(settings, finished, Arc::default()));
    let mut batch = Vec::new();
    for _ in 0..rows {
        let mut row = row(true).await;
        row.context.delivery =
            Delivery::new("1".into(), Source::Stream, 1, Box::new(Told(told.clone())), Answers::new());
        batch.push(row);
    }
    drop(told);
    if rows > 0 {
        assert!(work.send(Work::Batch(Batch { rows: batch })).await.is_ok());
    }
    drop(work);
    let ended = run(loaded, batches, state(), publish, health.clone()).await;
    if ended.is_ok() {
        publishing.await.expect("no panic").expect("it ends with its input");
    }
    (ended, answers.try_iter().collect(), scores(&health))
}

fn scores(health: &InferenceHealth) -> bool {
    let told = Cell::new(None);
    // The future is pending while the models exist.
    assert!(health.follow(|fine| told.set(Some(fine))).now_or_never().is_none());
    told.get().expect("it tells how it is")
}

fn reason(ended: Result<(), Ended>) -> String {
    match ended {
        Err(Ended::Broken(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

/// Runtime that never returns.
struct Hung;

impl Runtime for Hung {
    fn run(&mut self, _: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure> {
        loop {
            std::thread::park();
        }
    }
}

/// Runtime that delegates to another one after the blank images at its thread's start.
struct Settled<R>(R, usize);

impl<R: Runtime> Runtime for Settled<R> {
    fn run(&mut self, rows: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure> {
        if self.1 < SETTLING {
            self.1 += 1;
            return Ok(rows.iter().map(|_| vec![]).collect());
        }
        self.0.run(rows)
    }

    fn lost(&self) -> Option<&str> {
        self.0.lost()
    }
}

#[tokio::test]
async fn a_device_that_hangs_ends_the_stage_with_its_thread_still_in_it() {
    let (ended, answers, scores) = ended(Settled(Hung, 0), Some(Duration::from_millis(50)), 2).await;
    let reason = reason(ended);
    assert!(reason.contains("cuda:7 hangs"), "{reason}");
    assert!(answers.is_empty(), "the jobs are still held, for the worker to hand back");
    assert!(!scores);
}

/// Runtime that is lost in its first run.
struct Lost {
    reason: Option<String>,
    freed: Arc<AtomicBool>,
}

impl Runtime for Lost {
    fn run(&mut self, _: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure> {
        assert!(self.reason.is_none(), "nothing is tried on a lost device");
        self.reason = Some("CUDA failure 719".into());
        Err(Failure::new(Code::ShuttingDown, "the device is lost"))
    }

    fn lost(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

impl Drop for Lost {
    fn drop(&mut self) {
        self.freed.store(true, Ordering::Release);
    }
}

#[tokio::test]
async fn a_device_that_is_lost_ends_the_worker_and_costs_its_jobs_nothing() {
    // Lost before the first batch, and during it.
    for settled in [0, SETTLING] {
        let freed = Arc::new(AtomicBool::new(false));
        let lost = Lost { reason: None, freed: Arc::clone(&freed) };
        let (ended, answers, scores) = ended(Settled(lost, SETTLING - settled), Some(Duration::from_mins(1)), 4).await;
        let reason = reason(ended);
        assert!(reason.contains("cuda:7 is lost: CUDA failure 719"), "{reason}");
        assert!(!scores && !answers.iter().any(|answer| answer.contains("tagged")), "{answers:?}");
        assert!(!freed.load(Ordering::Acquire), "nothing of a lost device is freed");
    }
}

/// Runtime without memory for its first runs; sends the row count of each.
struct Full(u32, std::sync::mpsc::Sender<usize>);

impl Runtime for Full {
    fn run(&mut self, rows: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure> {
        let _ = self.1.send(rows.len());
        if self.0 > 0 {
            self.0 -= 1;
            return Err(Failure::new(Code::OutOfMemory, "another process has it"));
        }
        Ok(rows.iter().map(|_| vec![]).collect())
    }
}

#[tokio::test]
async fn memory_that_others_take_is_waited_for_with_the_jobs_in_hand() {
    let (told, runs) = std::sync::mpsc::channel();
    let (ended, answers, scores) = ended(Settled(Full(4, told), 0), None, 2).await;
    assert!(ended.is_ok(), "{ended:?}");
    assert_eq!(answers, ["tagged on cuda:7"; 2]);
    assert!(scores, "it is well again");
    // The batch of two, its halves, a blank image until it fits, and the batch again.
    let runs: Vec<usize> = runs.try_iter().collect();
    assert_eq!(runs, [2, 1, 1, 1, 1, 2]);
}

#[tokio::test]
async fn a_thread_runs_on_its_device_before_its_first_batch_and_waits_there_for_nothing() {
    for (without_memory, batch, expected) in [(0, 2, &[1, 1, 2][..]), (1, 2, &[1, 2]), (u32::MAX, 0, &[1])] {
        let (told, runs) = std::sync::mpsc::channel();
        let (ended, answers, _) = ended(Full(without_memory, told), None, batch).await;
        assert!(ended.is_ok() && answers.len() == batch, "{ended:?}");
        assert_eq!(runs.try_iter().collect::<Vec<_>>(), expected);
    }
}

/// Runtime that panics on every batch.
struct Panics;

impl Runtime for Panics {
    fn run(&mut self, _: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure> {
        panic!("a bug of the runtime");
    }
}

#[tokio::test]
async fn a_runtime_that_panics_over_a_blank_image_too_leaves_its_thread_alive() {
    let (ended, told, scores) = ended(Panics, None, 1).await;
    assert!(ended.is_ok() && !scores, "{ended:?}");
    assert_eq!(told, ["inference_failed"]);
}

#[test]
fn scores_that_json_has_no_numbers_for_are_a_failure() {
    for score in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(numbers(vec![0.5, score]).expect_err("no number").code, Code::InferenceFailed);
    }
    assert!(numbers(vec![0.0, 1.0]).is_ok());
}

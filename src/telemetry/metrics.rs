//! Every metric: its name, its meaning, the values of its labels, and the one function that records it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use metrics::{Gauge, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::failure::Code;
use crate::machine;
use crate::machine::gpu;
use crate::tags::ModelId;
use crate::telemetry::labels::{Flush, Outcome, Source, Stage};

const JOBS: &str = "tagmill_jobs_total";
const IMAGES_TAGGED: &str = "tagmill_images_tagged_total";
const FAILURES: &str = "tagmill_failures_total";
const DEAD_LETTERS: &str = "tagmill_dead_letters_total";
const JOB_SECONDS: &str = "tagmill_job_seconds";
const STAGE_SECONDS: &str = "tagmill_stage_seconds";
const BACKPRESSURE: &str = "tagmill_backpressure_seconds_total";
const BATCH_SIZE: &str = "tagmill_batch_size";
const BATCHES: &str = "tagmill_batches_total";
const INFLIGHT: &str = "tagmill_inflight_jobs";
const BACKLOG: &str = "tagmill_backlog_jobs";
const OLDEST_JOB: &str = "tagmill_oldest_job_seconds";
const REDELIVERIES: &str = "tagmill_redeliveries_total";
const WAITING_ANSWERS: &str = "tagmill_waiting_answers";
const LOG_LINES_DROPPED: &str = "tagmill_log_lines_dropped_total";
const READY: &str = "tagmill_ready";
const NATS_CONNECTED: &str = "tagmill_nats_connected";
const BATCH_LIMIT: &str = "tagmill_batch_limit";
const OUT_OF_MEMORY: &str = "tagmill_out_of_memory_total";
const MEMORY_BUDGET: &str = "tagmill_memory_budget_bytes";
const MEMORY_RESERVED: &str = "tagmill_memory_reserved_bytes";
const MEMORY_LIMIT: &str = "tagmill_memory_limit_bytes";
const DEVICE_MEMORY_USED: &str = "tagmill_device_memory_used_bytes";
const DEVICE_MEMORY_TOTAL: &str = "tagmill_device_memory_total_bytes";
const DEVICE_UTILIZATION: &str = "tagmill_device_utilization_ratio";
const MODEL_INFO: &str = "tagmill_model_info";
const BUILD_INFO: &str = "tagmill_build_info";

/// From the tenth of a millisecond of a tiny model to minutes of waiting.
const SECONDS: [f64; 18] =
    [0.0001, 0.0003, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0];
const BATCH_SIZES: [f64; 10] = [1.0, 2.0, 4.0, 6.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// `true` if the gauges of the backlog are current. Without, they are not rendered: an old backlog looks like a current one.
static IS_BACKLOG_KNOWN: AtomicBool = AtomicBool::new(false);

/// Collected metrics, for Prometheus to scrape.
#[derive(Clone)]
pub(crate) struct Collected(PrometheusHandle);

impl Collected {
    /// Renders them in the text format.
    #[must_use]
    pub(crate) fn render(&self) -> String {
        metrics_process::Collector::default().collect();
        // The `metrics` crate's counters are integers. This one counts fractions of a second, so it is stored as a gauge
        // that only grows and rendered as a counter.
        let (gauge, counter) = (format!("# TYPE {BACKPRESSURE} gauge"), format!("# TYPE {BACKPRESSURE} counter"));
        let text = self.0.render().replace(&gauge, &counter);
        if IS_BACKLOG_KNOWN.load(Ordering::Relaxed) {
            return text;
        }
        let is_backlog = |line: &&str| line.starts_with(BACKLOG) || line.starts_with(OLDEST_JOB);
        text.split_inclusive('\n').filter(|line| !is_backlog(line)).collect()
    }

    /// Merges recorded values into the histograms. Otherwise they use memory until the next scrape.
    pub(crate) fn fold(&self) {
        self.0.run_upkeep();
    }
}

/// Starts collection.
///
/// # Errors
/// If the process already collects metrics.
pub(crate) fn start() -> Result<Collected, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full(BATCH_SIZE.into()), &BATCH_SIZES)?
        .install_recorder()?;
    describe();
    for source in Source::ALL {
        for outcome in Outcome::ALL {
            counter!(JOBS, "source" => source.as_str(), "outcome" => outcome.as_str()).absolute(0);
        }
    }
    for code in Code::ALL {
        counter!(DEAD_LETTERS, "code" => code.as_str()).absolute(0);
    }
    // Series that alerts watch exist from the start: Prometheus sees no increase in a series that begins above zero.
    for (stage, code) in [
        (Stage::Fetch, Code::StorageUnavailable),
        (Stage::Fetch, Code::StorageDenied),
        (Stage::Tag, Code::InferenceFailed),
        (Stage::Tag, Code::OutOfMemory),
    ] {
        counter!(FAILURES, "stage" => stage.as_str(), "code" => code.as_str()).absolute(0);
    }
    counter!(REDELIVERIES).absolute(0);
    memory_limit(machine::available_memory());
    gauge!(INFLIGHT).set(0.0);
    waiting_answers(0);
    log_lines_dropped(0);
    gauge!(READY).set(0.0);
    gauge!(NATS_CONNECTED).set(0.0);
    Ok(Collected(handle))
}

fn describe() {
    describe_counter!(JOBS, "Jobs answered, by source and outcome (tagged, rejected, retried).");
    describe_counter!(IMAGES_TAGGED, "Images whose result was confirmed, by model.");
    describe_counter!(FAILURES, "Failures, by the stage that noticed and the code.");
    describe_counter!(DEAD_LETTERS, "Dead letters written, by code.");
    describe_histogram!(JOB_SECONDS, Unit::Seconds, "From accepted to answered, by source.");
    describe_histogram!(
        STAGE_SECONDS,
        Unit::Seconds,
        "Time jobs spend per stage: queue (before acceptance), fetch, decode, wait (for a batch), infer (its whole batch), publish. With the backpressure they come to the job seconds."
    );
    describe_gauge!(
        BACKPRESSURE,
        Unit::Seconds,
        "Time jobs waited for room in the stage after this one; after accept also to come in at all, and for their model to be loaded."
    );
    describe_histogram!(BATCH_SIZE, Unit::Count, "Images per batch, by model.");
    describe_counter!(BATCHES, "Batches, by model and why they were closed (full, window, idle, drain).");
    describe_gauge!(BATCH_LIMIT, Unit::Count, "Images a batch may have now, by model.");
    describe_counter!(OUT_OF_MEMORY, "Batches that did not fit the device's memory, by model.");
    describe_gauge!(MEMORY_BUDGET, Unit::Bytes, "Bytes that images in flight may take, encoded and decoded.");
    describe_gauge!(MEMORY_RESERVED, Unit::Bytes, "Bytes of the budget that are reserved; requests have room besides.");
    describe_gauge!(
        MEMORY_LIMIT,
        Unit::Bytes,
        "Bytes of memory this process may have: its container's limit, else the machine's."
    );
    describe_gauge!(DEVICE_MEMORY_USED, Unit::Bytes, "Bytes of the GPU's memory that are taken, by whomever.");
    describe_gauge!(DEVICE_MEMORY_TOTAL, Unit::Bytes, "Bytes of memory the GPU has.");
    describe_gauge!(DEVICE_UTILIZATION, "The share of the last moments, 0 to 1, in which something ran on the GPU.");
    describe_gauge!(INFLIGHT, "Jobs accepted and not yet answered.");
    describe_gauge!(
        BACKLOG,
        "Jobs in the stream not yet delivered to any worker (the fleet's: take the max over workers)."
    );
    describe_gauge!(
        OLDEST_JOB,
        Unit::Seconds,
        "Age of the oldest job not yet answered (the fleet's: take the max over workers)."
    );
    describe_counter!(REDELIVERIES, "Jobs that came with an earlier delivery.");
    describe_gauge!(
        WAITING_ANSWERS,
        "Results and dead letters that a stream has not taken, and that are published again."
    );
    describe_counter!(LOG_LINES_DROPPED, "Lines of the log that were dropped because nobody read it.");
    describe_gauge!(READY, "1 where this worker should get work, else 0.");
    describe_gauge!(NATS_CONNECTED, "1 while NATS is connected, else 0.");
    describe_gauge!(MODEL_INFO, "1, with the model, its hash and what it really runs on.");
    describe_gauge!(BUILD_INFO, "1, with the versions of tagmill and ONNX Runtime.");
    metrics_process::Collector::default().describe();
}

/// Records an accepted job.
pub(crate) fn job_accepted() {
    gauge!(INFLIGHT).increment(1.0);
}

/// Records the end of a job, whatever its outcome.
pub(crate) fn job_left() {
    gauge!(INFLIGHT).decrement(1.0);
}

/// Records the answer to a job, `age` after it was accepted.
pub(crate) fn job_answered(source: Source, outcome: Outcome, age: Duration) {
    counter!(JOBS, "source" => source.as_str(), "outcome" => outcome.as_str()).increment(1);
    histogram!(JOB_SECONDS, "source" => source.as_str()).record(age);
}

/// Records a confirmed result of an image.
pub(crate) fn image_tagged(model: &str) {
    counter!(IMAGES_TAGGED, "model" => model.to_owned()).increment(1);
}

/// Records a job that failed in a stage.
pub(crate) fn failed(stage: Stage, code: Code) {
    counter!(FAILURES, "stage" => stage.as_str(), "code" => code.as_str()).increment(1);
}

/// Records a dead letter.
pub(crate) fn dead_letter(code: Code) {
    counter!(DEAD_LETTERS, "code" => code.as_str()).increment(1);
}

/// Records the time a job spent in `stage` (queue, fetch, decode, wait, infer, publish). Returns it in seconds.
pub(crate) fn stage_seconds(stage: &'static str, spent: Duration) -> f64 {
    histogram!(STAGE_SECONDS, "stage" => stage).record(spent);
    spent.as_secs_f64()
}

/// Counts the time until the guard is dropped as backpressure of the next stage.
#[must_use]
pub(crate) fn backpressure(stage: Stage) -> Backpressure {
    Backpressure { stage, since: Instant::now() }
}

/// Guard of [`backpressure`].
#[derive(Debug)]
pub(crate) struct Backpressure {
    stage: Stage,
    since: Instant,
}

impl Drop for Backpressure {
    fn drop(&mut self) {
        waited(self.stage, self.since.elapsed());
    }
}

/// Records the time a job waited for capacity in the stage after `stage`, or for acceptance.
pub(crate) fn waited(stage: Stage, spent: Duration) {
    gauge!(BACKPRESSURE, "stage" => stage.as_str()).increment(spent.as_secs_f64());
}

/// Records a closed batch of `size` rows.
pub(crate) fn batch(model: &str, flush: Flush, size: usize) {
    counter!(BATCHES, "model" => model.to_owned(), "flush" => flush.as_str()).increment(1);
    #[expect(clippy::cast_precision_loss, reason = "batches are small")]
    histogram!(BATCH_SIZE, "model" => model.to_owned()).record(size as f64);
}

/// Records the maximum number of images per batch.
#[expect(clippy::cast_precision_loss, reason = "batches are small")]
pub(crate) fn batch_limit(model: &str, limit: usize) {
    gauge!(BATCH_LIMIT, "model" => model.to_owned()).set(limit as f64);
}

/// Records a batch that exceeded the device's memory.
pub(crate) fn out_of_memory(model: &str) {
    counter!(OUT_OF_MEMORY, "model" => model.to_owned()).increment(1);
}

/// Records the memory budget of images in flight.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(crate) fn memory_budget(bytes: u64) {
    gauge!(MEMORY_BUDGET).set(bytes as f64);
    gauge!(MEMORY_RESERVED).increment(0.0);
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn memory_limit(bytes: u64) {
    gauge!(MEMORY_LIMIT).set(bytes as f64);
}

/// Records memory reserved for an image.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(crate) fn memory_reserved(bytes: u64) {
    gauge!(MEMORY_RESERVED).increment(bytes as f64);
}

/// Records memory returned by an image.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(crate) fn memory_returned(bytes: u64) {
    gauge!(MEMORY_RESERVED).decrement(bytes as f64);
}

/// Records the memory and utilization of a GPU.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(crate) fn device(device: &str, memory: Option<gpu::Memory>, utilization: Option<f64>) {
    if let Some(memory) = memory {
        gauge!(DEVICE_MEMORY_USED, "device" => device.to_owned()).set(memory.used as f64);
        gauge!(DEVICE_MEMORY_TOTAL, "device" => device.to_owned()).set(memory.total as f64);
    }
    if let Some(utilization) = utilization {
        gauge!(DEVICE_UTILIZATION, "device" => device.to_owned()).set(utilization);
    }
}

/// Records a delivery of a job that was delivered before.
pub(crate) fn redelivered() {
    counter!(REDELIVERIES).increment(1);
}

/// Records the backlog of the stream.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(crate) fn backlog(jobs: u64, oldest: Duration) {
    IS_BACKLOG_KNOWN.store(true, Ordering::Relaxed);
    gauge!(BACKLOG).set(jobs as f64);
    gauge!(OLDEST_JOB).set(oldest.as_secs_f64());
}

/// Records the number of results and dead letters that wait to be stored.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(crate) fn waiting_answers(count: usize) {
    gauge!(WAITING_ANSWERS).set(count as f64);
}

/// Records the number of log lines dropped since the start.
pub(crate) fn log_lines_dropped(count: u64) {
    counter!(LOG_LINES_DROPPED).absolute(count);
}

/// Records the readiness of this worker.
pub(crate) fn ready(ready: bool) {
    gauge!(READY).set(f64::from(u8::from(ready)));
}

/// Records the state of the NATS connection. The backlog is unknown while it is down.
pub(crate) fn nats_connected(connected: bool) {
    if !connected {
        IS_BACKLOG_KNOWN.store(false, Ordering::Relaxed);
    }
    gauge!(NATS_CONNECTED).set(f64::from(u8::from(connected)));
}

/// Records a loaded model. During a replacement, both models are loaded.
pub(crate) fn model_loaded(id: &ModelId, devices: &[String]) {
    counter!(OUT_OF_MEMORY, "model" => id.name.clone()).increment(0);
    model_info(id, devices).for_each(|gauge| gauge.increment(1.0));
}

/// Records an unloaded model.
pub(crate) fn model_unloaded(id: &ModelId, devices: &[String]) {
    model_info(id, devices).for_each(|gauge| gauge.decrement(1.0));
}

/// Gauges of a model, one for each device.
fn model_info(id: &ModelId, devices: &[String]) -> impl Iterator<Item = Gauge> {
    // Several sessions on one device count once.
    let once = devices.iter().enumerate().filter(|(n, device)| !devices[..*n].contains(device));
    once.map(|(_, device)| {
        gauge!(MODEL_INFO, "model" => id.name.clone(), "sha256" => id.sha256.clone(), "device" => device.clone())
    })
}

/// Records the versions of tagmill and ONNX Runtime.
pub(crate) fn running(onnxruntime: &str) {
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "onnxruntime" => onnxruntime.to_owned()).set(1.0);
}

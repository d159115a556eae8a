//! `tagmill bench`: speed of a model on this machine with the user's images, part by part and as a whole, and the flags that
//! follow from it.

mod advice;
mod decoding;
mod parts;
mod report;
mod session;
mod spread;
mod whole;

use std::time::Duration;

use super::Failed;
use super::bar::Bar;
use super::images::Sources;
use super::samples::Samples;
use super::select::Selection;
use crate::cli::bench::BenchArgs;
use crate::cli::tag::CaptionArgs;
use crate::pipeline::tag::device::Device;
use crate::settings;
use crate::telemetry::say;
use parts::Bench;
use report::Report;

pub(super) async fn run(args: BenchArgs) -> Result<(), Failed> {
    let BenchArgs { sources, mut batch_sizes, time, json, select, mut tagging, log: _ } = args;
    for size in &batch_sizes {
        settings::at_least_one("batch-sizes", *size)?;
    }
    settings::more_than_nothing("time", time.is_zero())?;
    batch_sizes.sort_unstable();
    batch_sizes.dedup();
    let settings = settings::Local::new(&tagging, CaptionArgs::default(), None)?;
    let sources = Sources::open(&sources, &tagging.stores, Selection::new(&select)).map_err(Failed::settings)?;
    let catalog = settings.pipeline.pool.repository.catalog(&settings.pipeline.pool.aliases).await?;
    let files = catalog.choose(settings.model.as_deref())?.clone();
    let steps = Steps::new();
    steps.begin("reading the images".to_owned());
    let Samples { images, encoded } = Samples::read(&sources, settings.pipeline.fetch.max_image_bytes).await?;

    steps.begin("loading the model".to_owned());
    let names = images.iter().map(|image| image.name.clone()).collect();
    let bench = Bench { files, settings, names, encoded, batch_sizes, time, steps: steps.clone() };
    let parts = tokio::task::spawn_blocking(move || bench.parts()).await.map_err(Failed::running)??;
    parts.unreadable.iter().for_each(|image| steps.say(image));
    let mut whole = Vec::new();
    let split = parts.split()?;
    if parts.is_on_cpu() {
        tagging.devices = vec![Device::Cpu; split.sessions];
        tagging.infer_threads = Some(split.threads);
    }
    for batch in parts.fitting(split) {
        steps.begin(format!("everything together, in batches of {batch}"));
        tagging.batch_size = batch;
        let mut together = settings::Local::new(&tagging, CaptionArgs::default(), None)?;
        together.pipeline.pool.onnx.batch = parts.prepared(batch, &together.pipeline.pool.onnx.devices);
        let time = time.max(Duration::from_secs(1));
        whole.push(whole::measure(&together, catalog.clone(), sources.stores().to_vec(), &images, time).await?);
    }
    steps.end();
    let advice = parts.advice(split, &whole);
    let report = Report {
        model: parts.model,
        device: parts.device,
        images: images.len(),
        unreadable: parts.unreadable.len(),
        session: parts.session,
        decoding: parts.decoding,
        whole,
        advice,
    };
    report.show(json).map_err(Failed::running)
}

/// Display of the step under way: one line that changes on a terminal, else a line for each step.
#[derive(Clone)]
struct Steps(Bar);

impl Steps {
    fn new() -> Self {
        Self(Bar::new("{spinner} {elapsed} {msg}", ""))
    }

    fn begin(&self, step: String) {
        if self.0.is_hidden() {
            say(&step);
        }
        self.0.set_message(step);
    }

    fn say(&self, text: &str) {
        self.0.suspend(|| say(text));
    }

    fn end(&self) {
        self.0.clear();
    }
}

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

use bytes::Bytes;

use super::Failed;
use super::bar::Bar;
use super::images::{Found, Sources};
use super::select::Selection;
use crate::cli::bench::BenchArgs;
use crate::cli::tag::CaptionArgs;
use crate::memory::Budget;
use crate::pipeline::tag::device::Device;
use crate::settings;
use crate::source::local::Image;
use crate::store::location::Location;
use crate::store::{Store, file};
use crate::telemetry::say;
use parts::Bench;
use report::Report;

/// Maximum number of images to use, and of their bytes in memory.
const MOST: (usize, u64) = (256, 512 << 20);

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
    let (images, encoded) = images(&sources, &settings).await?;

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

/// Images to measure with, and their bytes.
async fn images(sources: &Sources, settings: &settings::Local) -> Result<(Vec<Image>, Vec<Bytes>), Failed> {
    let stores = sources.stores();
    let limit = settings.pipeline.fetch.max_image_bytes;
    let mut found = sources.found(Found::Image);
    let (mut images, mut encoded, mut total) = (Vec::new(), Vec::new(), 0);
    while let Some(found) = found.recv().await {
        let image = match found {
            Found::Image(image) => image,
            Found::Skipped => continue,
            Found::Broken { name, failure } => {
                return Err(Failed::running(anyhow::anyhow!("{name}: {failure}")));
            }
        };
        let bytes = read(&image, stores, limit).await.map_err(Failed::running)?;
        total += bytes.len() as u64;
        images.push(image);
        encoded.push(bytes);
        if images.len() == MOST.0 || total >= MOST.1 {
            break;
        }
    }
    sources.selection().passed().summary().into_iter().for_each(say);
    if images.is_empty() {
        return Err(Failed::running(anyhow::anyhow!("there is no image to measure with in what was named")));
    }
    Ok((images, encoded))
}

async fn read(image: &Image, stores: &[Store], limit: u64) -> Result<Bytes, crate::failure::Failure> {
    let room = Budget::new(4 * limit).encoded;
    match &image.path {
        Some(path) => file::read(path.clone(), limit, &room).await.map(|read| read.bytes),
        None => match Location::find(&mut image.name.clone(), stores)? {
            Location::Stored { store, path } => store.read(&path, limit, &room).await.map(|read| read.bytes),
            Location::Inline(uri) => uri.decode(limit),
            other => unreachable!("{other:?} is no object"),
        },
    }
}

/// Display of the current step: one line that changes on a terminal, otherwise a line for each step.
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

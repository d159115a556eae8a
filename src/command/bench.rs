//! `tagmill bench`: what this machine does with a model and images of the user's, part by part and together, and which flags
//! follow from it.

mod advice;
mod decoding;
mod report;
mod session;
mod spread;
mod whole;

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};

use super::Failed;
use super::images::{Found, Sources};
use crate::cli::bench::BenchArgs;
use crate::cli::tag::CaptionArgs;
use crate::door::local::Image;
use crate::memory::Budget;
use crate::model::ModelFiles;
use crate::pipeline::tag::Loaded;
use crate::pipeline::tag::device::Device;
use crate::pipeline::tag::onnx;
use crate::settings;
use crate::store::location::Location;
use crate::store::{Store, file};
use advice::{Rates, Split};
use report::{Advice, Report};

/// Images that are used, and bytes of them that are kept in memory.
const MOST: (usize, u64) = (256, 512 << 20);

pub(super) async fn run(args: BenchArgs) -> Result<(), Failed> {
    let BenchArgs { sources, mut batch_sizes, time, json, mut tagging, log: _ } = args;
    for size in &batch_sizes {
        settings::at_least_one("batch-sizes", *size)?;
    }
    batch_sizes.sort_unstable();
    batch_sizes.dedup();
    let settings = settings::Local::new(&tagging, CaptionArgs::default())?;
    let sources = Sources::open(&sources, &tagging.stores).map_err(Failed::settings)?;
    let catalog = settings.lanes.source.catalog(&settings.lanes.aliases).await?;
    let files = catalog.choose(settings.model.as_deref())?.clone();
    let progress = progress();
    progress.set_message("reading the images");
    let (images, encoded) = images(&sources, &settings).await?;

    progress.set_message("loading the model");
    let parts = {
        let (settings, progress) = (settings.clone(), progress.clone());
        let measuring = move || Parts::measure(&files, &settings, &encoded, &batch_sizes, time, &progress);
        tokio::task::spawn_blocking(measuring).await.map_err(Failed::running)??
    };
    let mut whole = Vec::new();
    let split = parts.split()?;
    if parts.device == "cpu" {
        tagging.devices = vec![Device::Cpu; split.sessions];
        tagging.infer_threads = Some(split.threads);
    }
    for batch in parts.fitting(split) {
        progress.set_message(format!("everything together, in batches of {batch}"));
        tagging.batch_size = batch;
        let mut together = settings::Local::new(&tagging, CaptionArgs::default())?;
        together.lanes.onnx.batch = parts.prepared(batch, &together.lanes.onnx.devices);
        let time = time.max(Duration::from_secs(1));
        whole.push(whole::measure(&together, catalog.clone(), sources.stores(), &images, time).await?);
    }
    progress.finish_and_clear();
    let advice = parts.advice(split, &whole);
    let report = Report {
        model: parts.model,
        device: parts.device,
        images: images.len(),
        unreadable: parts.unreadable,
        session: parts.session,
        decoding: parts.decoding,
        whole,
        advice,
    };
    report.show(json).map_err(Failed::running)
}

/// The model and the decoders, each alone.
struct Parts {
    model: String,
    device: String,
    unreadable: usize,
    session: Vec<session::Measured>,
    /// On one thread, and on all.
    decoding: Vec<decoding::Measured>,
    cores: usize,
    /// Rows of the batch that the model was loaded for.
    loaded_for: usize,
}

impl Parts {
    fn measure(
        files: &ModelFiles,
        settings: &settings::Local,
        encoded: &[Bytes],
        batch_sizes: &[usize],
        time: Duration,
        progress: &ProgressBar,
    ) -> Result<Self, Failed> {
        // On the CPU the warm-up runs the smallest size: the others are what is measured. A GPU is prepared for all sizes it
        // will be given, and TensorRT builds for them.
        let gpu = settings.lanes.onnx.devices.iter().any(|device| *device != Device::Cpu);
        let largest = batch_sizes.last().copied().unwrap_or(1);
        let loaded_for = if gpu { largest } else { batch_sizes[0] };
        let mut onnx = onnx::Settings { batch: loaded_for, ..settings.lanes.onnx.clone() };
        let picture = &settings.pipeline.decode.picture;
        let alone = |onnx: &onnx::Settings, split: Split| {
            let Loaded { model, mut runners, .. } = onnx::load(files, onnx)?;
            // The figures are of one device; `together` uses all of them.
            let Some(device) = runners.first().map(|runner| Arc::clone(&runner.device)) else {
                return Err(Failed::settings(files.unusable("no device")));
            };
            runners.retain(|runner| runner.device == device);
            let (rows, unreadable) = decoding::rows(encoded, picture, model.frame);
            if rows.is_empty() {
                return Err(Failed::running(anyhow::anyhow!(
                    "not one of the images can be read; `tagmill tag` says why"
                )));
            }
            let mut session = Vec::new();
            for &batch in batch_sizes {
                progress.set_message(format!("the model alone, {split}, in batches of {batch}"));
                let measured = session::measure(&mut runners, &rows, (split, batch), time).map_err(Failed::running)?;
                let fits = measured.rate.is_some();
                session.push(measured);
                if !fits {
                    break;
                }
            }
            Ok((model, session, unreadable))
        };
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let given = Split { sessions: onnx.devices.len(), threads: onnx.threads };
        let (model, mut session, unreadable) = alone(&onnx, given)?;
        let apart = Split::apart(cores);
        if model.devices == ["cpu"] && given.threads == cores && apart.sessions > 1 {
            onnx.devices = vec![Device::Cpu; apart.sessions];
            onnx.threads = apart.threads;
            session.extend(alone(&onnx, apart)?.1);
        }
        let mut threads = vec![1, settings.pipeline.decode.threads];
        threads.dedup();
        let decoding = threads.into_iter().map(|threads| {
            progress.set_message(format!("decoding alone, on {threads} threads"));
            decoding::measure(encoded, picture, model.frame, threads, time)
        });
        let decoding = decoding.collect();
        Ok(Self {
            model: model.id.name.clone(),
            device: model.device(),
            unreadable,
            session,
            decoding,
            cores,
            loaded_for,
        })
    }

    /// How the processor is best shared out.
    fn split(&self) -> Result<Split, Failed> {
        let fitting = self.session.iter().filter_map(|measured| Some((measured.split, measured.rate?)));
        advice::split(fitting).ok_or_else(|| Failed::running(anyhow::anyhow!("no batch size fits the device's memory")))
    }

    /// The batch sizes that fit the device's memory, in order.
    fn fitting(&self, split: Split) -> Vec<usize> {
        let fitting = self.session.iter().filter(|measured| measured.split == split && measured.rate.is_some());
        fitting.map(|measured| measured.batch).collect()
    }

    /// The batch to load the model for where it is to run so many images at once: TensorRT has engines for the largest, and
    /// would build others.
    fn prepared(&self, batch: usize, devices: &[Device]) -> usize {
        let tensorrt = devices.iter().any(|device| matches!(device, Device::TensorRt(_)));
        if tensorrt { self.loaded_for } else { batch }
    }

    fn advice(&self, split: Split, whole: &[whole::Measured]) -> Advice {
        let rates: Vec<(usize, f64)> = whole.iter().map(|measured| (measured.batch, measured.rate)).collect();
        let (batch, whole) = advice::batch_size(&rates).expect("at least one size was measured");
        let session = self.session.iter().find(|measured| (measured.split, measured.batch) == (split, batch));
        let model = session.and_then(|measured| measured.rate).unwrap_or_default();
        let run = session.and_then(|measured| measured.seconds).map_or(0.0, |seconds| seconds.p50);
        let alone = |measured: Option<&decoding::Measured>| measured.map_or(0.0, |measured| measured.rate);
        let (one, all) = (alone(self.decoding.first()), alone(self.decoding.last()));
        let shared = !self.device.contains("cuda") && !self.device.contains("tensorrt");
        Advice {
            bound: Rates { model, decoding: all, whole, shared }.bound(),
            batch_size: batch,
            window: advice::window(batch, whole, run),
            decode_threads: advice::decode_threads(one, model, shared, self.cores),
            sessions: split.sessions,
            infer_threads: shared.then_some(split.threads),
        }
    }
}

/// The images to measure with, and what is in them.
async fn images(sources: &Sources, settings: &settings::Local) -> Result<(Vec<Image>, Vec<Bytes>), Failed> {
    let stores = sources.stores();
    let limit = settings.pipeline.fetch.max_image_bytes;
    let mut found = sources.found(|_| false);
    let (mut images, mut encoded, mut total) = (Vec::new(), Vec::new(), 0);
    while let Some(found) = found.recv().await {
        let image = match found {
            Found::Image(image) => image,
            Found::Skipped => continue,
            Found::Broken { name, failure } => {
                return Err(Failed::running(anyhow::anyhow!("{name}: {failure}")));
            }
        };
        let bytes = read(&image, &stores, limit).await.map_err(Failed::running)?;
        total += bytes.len() as u64;
        images.push(image);
        encoded.push(bytes);
        if images.len() == MOST.0 || total >= MOST.1 {
            break;
        }
    }
    if images.is_empty() {
        return Err(Failed::running(anyhow::anyhow!("there is no image to measure with in what was named")));
    }
    Ok((images, encoded))
}

async fn read(image: &Image, stores: &[Store], limit: u64) -> Result<Bytes, crate::failure::Failure> {
    let room = Budget::new(4 * limit).encoded;
    match &image.path {
        Some(path) => file::read(path.clone(), limit, &room).await.map(|(bytes, _)| bytes),
        None => match Location::find(&mut image.name.clone(), stores)? {
            Location::Stored { store, path } => store.read(&path, limit, &room).await.map(|read| read.bytes),
            Location::Inline(uri) => uri.decode(limit),
            other => unreachable!("{other:?} is no object"),
        },
    }
}

/// What a person sees meanwhile; nothing where there is no terminal.
fn progress() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.set_style(
        ProgressStyle::with_template("{spinner} {elapsed} {msg}").unwrap_or(ProgressStyle::default_spinner()),
    );
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

//! `tagmill models optimize`: writes a faster model, and keeps it if it gives the same tags.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use serde::Serialize;

use super::agreement::{Agreement, Gate};
use crate::atomic;
use crate::cli::models::ModelsOptimizeArgs;
use crate::cli::select::SelectArgs;
use crate::command::Failed;
use crate::command::images::Sources;
use crate::command::samples::{self, Samples};
use crate::command::select::Selection;
use crate::model::ModelFiles;
use crate::model::catalog::{Catalog, NoModel};
use crate::model::manifest::{self, Manifest};
use crate::model::repository::Repository;
use crate::model::threshold::Thresholds;
use crate::optimize::{self, Precision, Rewritten};
use crate::pipeline::decode::picture;
use crate::pipeline::loaded::LoadedModel;
use crate::pipeline::tag::{Loaded, library, onnx};
use crate::settings;
use crate::telemetry::say;
use crate::terminal::{self, Lines};

/// The report's file, beside the model.
const REPORT: &str = "optimized.json";

/// Limits of the images that are compared with.
const MAX_BYTES: u64 = 64 << 20;
const MAX_PIXELS: u64 = 100_000_000;

/// Outcome, as it is kept beside the model.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    optimized_from: String,
    precision: Precision,
    device: String,
    onnxruntime: String,
    /// Nodes of the graph, before and after.
    nodes: [usize; 2],
    /// Bytes of the ONNX file, before and after.
    bytes: [u64; 2],
    casts: usize,
    fusions: Vec<Fusion>,
    /// Operators before the first convolution that its weights took over.
    preprocessing_removed: Vec<String>,
    /// The reason why others are still there.
    preprocessing_left: Option<&'static str>,
    /// Images per second, before and after, of the runs that were compared.
    images_per_second: [f64; 2],
    batch_size: usize,
    gate: Gate,
    agreement: Agreement,
    /// Nodes after, by operator.
    operators: BTreeMap<String, usize>,
}

/// Places of one kind.
#[derive(Debug, Serialize)]
struct Fusion {
    what: &'static str,
    found: usize,
    fused: usize,
    /// Those left, by reason.
    left: BTreeMap<&'static str, usize>,
}

pub(super) async fn run(args: ModelsOptimizeArgs) -> Result<(), Failed> {
    let batch = settings::at_least_one("batch-size", args.batch_size)?;
    let Repository::Folder(folder) = settings::models(&args.models, None)? else {
        return Err(Failed::settings(anyhow!(
            "cannot optimize a model of a bucket (--models): pull it into a folder first"
        )));
    };
    let files = chosen(&folder, args.model.as_str())?;
    let name = args
        .name
        .as_ref()
        .map_or_else(|| format!("{}-{}", files.name, args.precision.as_str()), |name| name.as_str().to_owned());
    let target = folder.join(&name);
    if target.exists() {
        return Err(Failed::settings(anyhow!(
            "cannot write {}: it is there already; remove it, or choose another name (--as)",
            target.display()
        )));
    }
    let sources = Sources::open(&args.images, &[], Selection::new(&SelectArgs::default())).map_err(Failed::settings)?;
    let samples = Samples::read(&sources, MAX_BYTES).await?;
    let onnx = onnx::Settings {
        devices: vec![args.device],
        threads: std::thread::available_parallelism().map_or(1, NonZero::get),
        batch,
        thresholds: Thresholds::default(),
        device_memory: None,
        engines: settings::engines(None),
    };
    let gate = Gate::of(args.precision, args.tolerance, args.agreement);
    let task = Task { files, target, precision: args.precision, onnx, gate, samples };
    let report = tokio::task::spawn_blocking(move || task.run()).await.map_err(Failed::running)??;
    let written = if args.json {
        json(&report).and_then(|text| terminal::exact().write_all(text.as_bytes()))
    } else {
        let mut text = Vec::new();
        let mut lines = Lines::open();
        table(&report, &mut text)
            .and_then(|()| String::from_utf8_lossy(&text).lines().try_for_each(|line| lines.line(line)))
    };
    written.context("standard output can't be written").map_err(Failed::Running)?;
    if let Some(reason) = report.agreement.refused(gate) {
        return Err(Failed::running(anyhow!("{name} is not kept: {reason}")));
    }
    Ok(())
}

fn chosen(folder: &Path, name: &str) -> Result<ModelFiles, Failed> {
    let catalog = Catalog::read(folder, &[])?;
    match catalog.get(name) {
        Some(Ok(files)) => Ok(files.clone()),
        Some(Err(broken)) => Err(NoModel::Broken(broken.clone()).into()),
        None => Err(NoModel::Unknown { name: name.to_owned(), known: catalog.names() }.into()),
    }
}

struct Task {
    files: ModelFiles,
    target: PathBuf,
    precision: Precision,
    onnx: onnx::Settings,
    gate: Gate,
    samples: Samples,
}

impl Task {
    /// Makes the model in a hidden folder, compares, and gives it its name if it is as good.
    fn run(&self) -> Result<Report, Failed> {
        let failed = |error: io::Error| Failed::running(anyhow!("cannot write {}: {error}", self.target.display()));
        let work = atomic::folder_beside(&self.target, ".optimize-").map_err(failed)?;
        let source = self.files.id()?.sha256;
        say(format_args!("rewriting the graph of {}", self.files.name));
        let onnx = work.path().join(self.files.onnx.file_name().unwrap_or_default());
        let rewritten = optimize::rewrite(&self.files, self.precision, &onnx).map_err(Failed::running)?;
        self.describe(work.path(), &source).map_err(failed)?;
        let copy =
            ModelFiles::open(work.path()).ok_or_else(|| Failed::running(anyhow!("the new model is no model")))??;
        let (old, before) = self.scores(&self.files)?;
        let (new, after) = self.scores(&copy)?;
        let agreement = Agreement::of(&old.model, &before.scores, &after.scores, self.gate.tolerance);
        let report = self.report(rewritten, (source, new), (before.rate, after.rate), &copy, agreement)?;
        if report.agreement.refused(self.gate).is_none() {
            json(&report).and_then(|text| fs::write(work.path().join(REPORT), text)).map_err(failed)?;
            let kept = work.keep();
            fs::rename(&kept, &self.target).map_err(failed)?;
        }
        Ok(report)
    }

    /// Labels and manifest of the new model.
    fn describe(&self, folder: &Path, source: &str) -> io::Result<()> {
        let labels = &self.files.labels;
        fs::copy(labels, folder.join(labels.file_name().unwrap_or_default()))?;
        let own = self.files.onnx.with_file_name(manifest::FILE);
        let text = if own.is_file() { fs::read_to_string(own)? } else { String::new() };
        let derived = Manifest::derived(&text, self.precision == Precision::Fp16, source).map_err(io::Error::other)?;
        fs::write(folder.join(manifest::FILE), derived)
    }

    /// Scores of a model for every image.
    fn scores(&self, files: &ModelFiles) -> Result<(Model, Scored), Failed> {
        say(format_args!(
            "tagging {} images with {}",
            self.samples.encoded.len(),
            if files.name == self.files.name { &files.name } else { "the new model" }
        ));
        let Loaded { model, mut runners, fits, .. } = onnx::load(files, &self.onnx)?;
        let settings = picture::Settings { max_pixels: MAX_PIXELS, ignore_orientation: false };
        let (rows, broken) = samples::rows(&self.samples.encoded, &settings, model.frame);
        if rows.is_empty() {
            let reason = broken.first().map(|(_, failure)| failure.to_string()).unwrap_or_default();
            return Err(Failed::running(anyhow!("not one of the images can be read: {reason}")));
        }
        let runner = runners.first_mut().ok_or_else(|| Failed::settings(files.unusable("no device")))?;
        let (began, mut scores) = (Instant::now(), Vec::with_capacity(rows.len()));
        for rows in rows.chunks(self.onnx.batch.min(fits).max(1)) {
            let rows: Vec<&[u8]> = rows.iter().map(|row| &**row).collect();
            scores.extend(runner.runtime.run(&rows).map_err(Failed::running)?);
        }
        #[expect(clippy::cast_precision_loss, reason = "a few hundred images")]
        let rate = scores.len() as f64 / began.elapsed().as_secs_f64();
        let device = model.device();
        Ok((Model { model, device }, Scored { scores, rate }))
    }

    fn report(
        &self,
        rewritten: Rewritten,
        (optimized_from, new): (String, Model),
        rates: (f64, f64),
        copy: &ModelFiles,
        agreement: Agreement,
    ) -> Result<Report, Failed> {
        let bytes = |files: &ModelFiles| fs::metadata(&files.onnx).map_or(0, |metadata| metadata.len());
        let fusion = |(what, tally): (&'static str, optimize::Tally)| Fusion {
            what,
            found: tally.found(),
            fused: tally.fused,
            left: tally.left,
        };
        Ok(Report {
            model: self.target.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            optimized_from,
            precision: self.precision,
            device: new.device,
            onnxruntime: library::load().map_err(Failed::running)?.version.clone(),
            nodes: rewritten.nodes,
            bytes: [bytes(&self.files), bytes(copy)],
            casts: rewritten.casts,
            fusions: rewritten.fused.into_iter().map(fusion).collect(),
            preprocessing_left: rewritten.preprocessing.as_ref().err().copied(),
            preprocessing_removed: rewritten.preprocessing.unwrap_or_default(),
            images_per_second: rates.into(),
            batch_size: self.onnx.batch,
            gate: self.gate,
            agreement,
            operators: rewritten.operators,
        })
    }
}

struct Model {
    model: Arc<LoadedModel>,
    device: String,
}

struct Scored {
    scores: Vec<Vec<f32>>,
    rate: f64,
}

fn json(report: &Report) -> io::Result<String> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}

/// The report for people.
fn table(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let Report { nodes: [before, after], bytes, fusions, agreement, .. } = report;
    writeln!(out, "{:<38}  {before} to {after}", "nodes")?;
    for Fusion { what, found, fused, left } in fusions.iter().filter(|fusion| fusion.found > 0) {
        writeln!(out, "{what:<38}  {fused} of {found}")?;
        for (reason, count) in left {
            writeln!(out, "  left {count}: {reason}")?;
        }
    }
    match report.preprocessing_left {
        None if report.preprocessing_removed.is_empty() => {}
        None => writeln!(out, "{:<38}  {}", "preprocessing removed", report.preprocessing_removed.join(", "))?,
        Some(reason) => writeln!(out, "{:<38}  {reason}", "preprocessing left")?,
    }
    writeln!(out, "{:<38}  {}", "casts", report.casts)?;
    let [old, new] = bytes.map(bytesize::ByteSize);
    writeln!(out, "{:<38}  {old} to {new}", "size")?;
    let [old, new] = report.images_per_second;
    let runs = format!("images/s on {}, batches of {}", report.device, report.batch_size);
    writeln!(out, "{runs:<38}  {old:.1} to {new:.1}")?;
    let Agreement { images, largest_difference, mean_difference, tags, equal_tags, equal_tags_off_thresholds, .. } =
        agreement;
    writeln!(out, "{:<38}  {images}", "images compared")?;
    writeln!(out, "{:<38}  {largest_difference:.5}, mean {mean_difference:.7}", "largest difference of a score")?;
    let (equal, off) = (100.0 * equal_tags, 100.0 * equal_tags_off_thresholds);
    writeln!(out, "{:<38}  {equal:.2} % of {tags}; {off:.2} % but for those at a threshold", "equal tags")
}

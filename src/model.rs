//! Model folders: what `--models` holds.
//!
//! * [`catalog`]: which models there are, and by which names.
//! * [`repository`]: where they come from: a folder, or a bucket that is copied into one.
//! * [`manifest`]: what a model says of itself, in `tagmill.toml`.
//! * [`frame`]: the square that it takes.
//! * [`label_file`]: what its labels are called.
//! * [`labels`]: which of them are tags, by their scores and [`threshold`]s.
//! * [`hub`]: downloads one.

pub(crate) mod catalog;
pub mod category;
pub mod frame;
pub(crate) mod hub;
pub(crate) mod label_file;
pub mod labels;
pub mod manifest;
pub(crate) mod repository;
pub mod threshold;

use std::ffi::OsString;
use std::fmt;
use std::fs::{DirEntry, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::tags::ModelId;
use labels::Labels;
use manifest::{Format, Manifest};

/// The label files a model may come with, where its manifest names none.
const LABEL_FILES: [&str; 4] = ["selected_tags.csv", "tag_mapping.json", "tags.txt", "top_tags.txt"];

/// The files of one model.
#[derive(Clone, Debug)]
pub(crate) struct ModelFiles {
    /// The folder's name, which is the model's.
    pub(crate) name: String,
    /// The graph and its weights.
    pub(crate) onnx: PathBuf,
    /// What its output means.
    pub(crate) labels: PathBuf,
    /// What it says of itself.
    pub(crate) manifest: Manifest,
    /// Tells whether the files have changed.
    pub(crate) stamp: Stamp,
    /// A lock that keeps the files from being removed, where other processes might.
    _in_use: Option<Arc<File>>,
}

/// Names, sizes and times of the files in a model's folder: the graph may keep its weights beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(Vec<(OsString, u64, Option<SystemTime>)>);

/// Why a model can't be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the model `{name}` can't be used: {reason}")]
pub(crate) struct Unusable {
    /// The model.
    pub(crate) name: String,
    /// Why.
    pub(crate) reason: String,
}

impl ModelFiles {
    /// The model in this folder; `None` where the folder holds none.
    ///
    /// # Errors
    /// Where it holds one that can't be used: its manifest is wrong, or names files that are not there.
    #[must_use]
    pub(crate) fn open(folder: &Path) -> Option<Result<Self, Unusable>> {
        let name = folder.file_name()?.to_str()?.to_owned();
        let toml = folder.join(manifest::FILE);
        let described = toml.is_file();
        let found = |manifest: Manifest| {
            let onnx = find(folder, manifest.files.onnx.as_deref(), "model.onnx", |file| has_extension(file, "onnx"))?;
            let is_label_file = |file: &str| LABEL_FILES.contains(&file);
            let labels = find(folder, manifest.files.labels.as_deref(), LABEL_FILES[0], is_label_file)?;
            let stamp = Stamp::of(folder);
            Ok(Self { name: name.clone(), onnx, labels, manifest, stamp, _in_use: None })
        };
        let read = if described { read_manifest(&toml) } else { Ok(Manifest::default()) };
        let opened = read.and_then(found).map_err(|reason| Unusable { name: name.clone(), reason });
        // A folder with other things in it is no broken model.
        (described || holds_graph(folder)).then_some(opened)
    }

    /// The same files, kept from being removed by this lock.
    #[must_use]
    fn kept_by(self, in_use: Arc<File>) -> Self {
        Self { _in_use: Some(in_use), ..self }
    }

    /// Whether its folder is as it was when it was opened.
    #[must_use]
    pub(crate) fn are_unchanged(&self) -> bool {
        self.onnx.parent().is_some_and(|folder| self.stamp.holds(folder))
    }

    /// An error about this model.
    pub(crate) fn unusable(&self, reason: impl fmt::Display) -> Unusable {
        Unusable { name: self.name.clone(), reason: reason.to_string() }
    }

    /// Its labels.
    ///
    /// # Errors
    /// Where the label file can't be read.
    pub(crate) fn labels(&self) -> Result<Labels, Unusable> {
        let about = |error: &dyn fmt::Display| self.unusable(format_args!("{}: {error}", self.labels.display()));
        let file = std::fs::read(&self.labels).map_err(|error| about(&error))?;
        let by_extension = || match self.labels.extension().and_then(|extension| extension.to_str()) {
            Some("csv") => Format::Csv,
            Some("json") => Format::Json,
            _ => Format::Lines,
        };
        let rules = &self.manifest.labels;
        let format = rules.format.unwrap_or_else(by_extension);
        label_file::read(&file, format, rules).map(Labels::new).map_err(|error| about(&error))
    }

    /// How answers name it.
    ///
    /// # Errors
    /// Where the ONNX file can't be read.
    pub(crate) fn id(&self) -> Result<ModelId, Unusable> {
        let mut hash = Sha256::new();
        File::open(&self.onnx)
            .and_then(|mut file| io::copy(&mut file, &mut io::BufWriter::with_capacity(1 << 20, HashWriter(&mut hash))))
            .map_err(|error| self.unusable(format_args!("{}: {error}", self.onnx.display())))?;
        Ok(ModelId { name: self.name.clone(), sha256: hex::encode(hash.finalize()) })
    }

    /// Tells one version of its graph and weights from another; such as a folder may be called.
    ///
    /// # Errors
    /// Where the ONNX file can't be read.
    pub(crate) fn fingerprint(&self) -> Result<String, Unusable> {
        // Weights may lie beside the graph: what is known of those files without reading gigabytes of them must do.
        let beside = self.stamp.0.iter().filter(|(name, ..)| {
            let name = name.to_string_lossy();
            name.ends_with("data") || name.ends_with(".bin")
        });
        let mut hash = Sha256::new();
        hash.update(self.id()?.sha256);
        beside.for_each(|file| hash.update(format!("{file:?}")));
        Ok(hex::encode(hash.finalize())[..16].to_owned())
    }
}

impl Stamp {
    fn of(folder: &Path) -> Self {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let stamp = |entry: DirEntry| {
            let metadata = entry.metadata().ok();
            let size = metadata.as_ref().map_or(0, Metadata::len);
            (entry.file_name(), size, metadata.and_then(|metadata| metadata.modified().ok()))
        };
        let mut files: Vec<_> = entries.map(stamp).collect();
        files.sort();
        Self(files)
    }

    /// Whether the folder is as it was.
    #[must_use]
    pub(crate) fn holds(&self, folder: &Path) -> bool {
        *self == Self::of(folder)
    }
}

fn read_manifest(path: &Path) -> Result<Manifest, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
    text.and_then(|text| Manifest::parse(&text)).map_err(|error| format!("{}: {error}", path.display()))
}

/// The file `named` by the manifest, else the `usual` one, else the only one that `fits`.
fn find(folder: &Path, named: Option<&str>, usual: &str, fits: impl Fn(&str) -> bool) -> Result<PathBuf, String> {
    if let Some(named) = named {
        let plain = Path::new(named).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        let path = folder.join(named);
        return if plain && path.is_file() { Ok(path) } else { Err(format!("it has no file `{named}`")) };
    }
    let path = folder.join(usual);
    if path.is_file() {
        return Ok(path);
    }
    let entries = std::fs::read_dir(folder).map_err(|error| error.to_string())?;
    let files = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let fitting: Vec<String> = files.filter(|name| fits(name) && folder.join(name).is_file()).collect();
    match fitting.as_slice() {
        [only] => Ok(folder.join(only)),
        [] => Err(format!("it has no `{usual}`; name another under [files] in tagmill.toml")),
        several => Err(format!("it has {}; name one under [files] in tagmill.toml", several.join(" and "))),
    }
}

fn holds_graph(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).any(|name| has_extension(&name, "onnx"))
}

fn has_extension(file: &str, extension: &str) -> bool {
    Path::new(file).extension().is_some_and(|found| found == extension)
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

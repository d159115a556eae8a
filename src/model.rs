//! Model folders: the contents of `--models`.
//!
//! * [`catalog`]: the models in the folder and their names.
//! * [`repository`]: the source of models: a folder, or a bucket that is copied into one.
//! * [`manifest`]: a model's settings, from `tagmill.toml`.
//! * [`frame`]: the square that is the model's input.
//! * [`label_file`]: the names of its labels.
//! * [`labels`]: selection of tags by their scores and [`threshold`]s.
//! * [`hub`]: download of a model.

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

/// Names of label files that are found without a manifest.
const LABEL_FILES: [&str; 4] = ["selected_tags.csv", "tag_mapping.json", "tags.txt", "top_tags.txt"];

/// The files of one model.
#[derive(Clone, Debug)]
pub(crate) struct ModelFiles {
    /// Name of the folder and of the model.
    pub(crate) name: String,
    /// Graph and weights.
    pub(crate) onnx: PathBuf,
    /// Label file, which names the columns of the output.
    pub(crate) labels: PathBuf,
    /// Manifest, or its defaults.
    pub(crate) manifest: Manifest,
    /// State of the files, to detect changes.
    pub(crate) stamp: Stamp,
    /// Lock that keeps other processes from removing the files, if any.
    _in_use: Option<Arc<File>>,
}

/// Names, sizes and times of all files in a model's folder, because weights may be in files of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(Vec<(OsString, u64, Option<SystemTime>)>);

/// Reason that makes a model unusable.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the model `{name}` can't be used: {reason}")]
pub(crate) struct Unusable {
    /// Name of the model.
    pub(crate) name: String,
    /// The cause.
    pub(crate) reason: String,
}

impl ModelFiles {
    /// Opens the model in this folder; `None` if the folder contains none.
    ///
    /// # Errors
    /// If the folder contains an unusable model: its manifest is wrong, or a file is missing.
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
        // A folder of other files is not a broken model.
        (described || holds_graph(folder)).then_some(opened)
    }

    /// The same files with a lock that prevents their removal.
    #[must_use]
    fn kept_by(self, in_use: Arc<File>) -> Self {
        Self { _in_use: Some(in_use), ..self }
    }

    /// Returns `true` if the folder has not changed since it was opened.
    #[must_use]
    pub(crate) fn are_unchanged(&self) -> bool {
        self.onnx.parent().is_some_and(|folder| self.stamp.holds(folder))
    }

    /// Error about this model.
    pub(crate) fn unusable(&self, reason: impl fmt::Display) -> Unusable {
        Unusable { name: self.name.clone(), reason: reason.to_string() }
    }

    /// Reads the labels.
    ///
    /// # Errors
    /// If the label file can't be read.
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

    /// Identity of the model in answers.
    ///
    /// # Errors
    /// If the ONNX file can't be read.
    pub(crate) fn id(&self) -> Result<ModelId, Unusable> {
        let mut hash = Sha256::new();
        File::open(&self.onnx)
            .and_then(|mut file| io::copy(&mut file, &mut io::BufWriter::with_capacity(1 << 20, HashWriter(&mut hash))))
            .map_err(|error| self.unusable(format_args!("{}: {error}", self.onnx.display())))?;
        Ok(ModelId { name: self.name.clone(), sha256: hex::encode(hash.finalize()) })
    }

    /// Hash that identifies a version of the graph and its weights, valid as a folder's name.
    ///
    /// # Errors
    /// If the ONNX file can't be read.
    pub(crate) fn fingerprint(&self) -> Result<String, Unusable> {
        // Weights beside the graph may be gigabytes, so their name, size and time stand for the content.
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

    /// Returns `true` if the folder has not changed.
    #[must_use]
    pub(crate) fn holds(&self, folder: &Path) -> bool {
        *self == Self::of(folder)
    }
}

fn read_manifest(path: &Path) -> Result<Manifest, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
    text.and_then(|text| Manifest::parse(&text)).map_err(|error| format!("{}: {error}", path.display()))
}

/// Finds a file: the one `named` by the manifest, else the `usual` one, else the only one that `fits`.
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

//! Model folders: what `--models` holds.

pub mod hub;

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::pipeline::tag::labels::Labels;
use crate::tags::ModelId;

/// The files of one model.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    /// The folder's name, which is the model's.
    pub name: String,
    /// The graph and its weights.
    pub onnx: PathBuf,
    /// What its output means.
    pub labels: PathBuf,
}

/// Why a model can't be used.
#[derive(Debug, thiserror::Error)]
#[error("the model `{name}` can't be used: {reason}")]
pub struct Unusable {
    name: String,
    reason: String,
}

/// Why no model can be chosen.
#[derive(Debug, thiserror::Error)]
pub enum NoModel {
    /// The folder is missing or can't be read.
    #[error("the models folder `{}` can't be read (--models): {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing in it is a model.
    #[error("no model in `{}` (--models): a model is a folder in it with model.onnx and selected_tags.csv", .0.display())]
    Empty(PathBuf),
    /// Several, and none was named.
    #[error("there are several models ({0}); name one with --model")]
    Ambiguous(String),
    /// None of that name.
    #[error("no model `{name}` (--model); there are: {known}")]
    Unknown {
        /// As asked for.
        name: String,
        /// Those there are.
        known: String,
    },
}

impl ModelFiles {
    /// An error about this model.
    pub(crate) fn unusable(&self, reason: impl fmt::Display) -> Unusable {
        Unusable { name: self.name.clone(), reason: reason.to_string() }
    }

    /// Its labels.
    ///
    /// # Errors
    /// Where the label file can't be read.
    pub fn labels(&self) -> Result<Labels, Unusable> {
        let about = |error: &dyn fmt::Display| self.unusable(format_args!("{}: {error}", self.labels.display()));
        let file = File::open(&self.labels).map_err(|error| about(&error))?;
        Labels::read(io::BufReader::new(file)).map_err(|error| about(&error))
    }

    /// How answers name it.
    ///
    /// # Errors
    /// Where the ONNX file can't be read.
    pub fn id(&self) -> Result<ModelId, Unusable> {
        let mut hash = Sha256::new();
        File::open(&self.onnx)
            .and_then(|mut file| io::copy(&mut file, &mut io::BufWriter::with_capacity(1 << 20, HashWriter(&mut hash))))
            .map_err(|error| self.unusable(format_args!("{}: {error}", self.onnx.display())))?;
        Ok(ModelId { name: self.name.clone(), sha256: hex(&hash.finalize()) })
    }
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

/// Finds the model to use: the one named, else the only one there is.
///
/// # Errors
/// Where there is none, or no way to choose.
pub fn choose(folder: &Path, name: Option<&str>) -> Result<ModelFiles, NoModel> {
    let mut models = find(folder).map_err(|source| NoModel::Folder { path: folder.to_owned(), source })?;
    let names = || models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, models.len()) {
        (_, 0) => Err(NoModel::Empty(folder.to_owned())),
        (None, 1) => Ok(models.swap_remove(0)),
        (None, _) => Err(NoModel::Ambiguous(names())),
        (Some(name), _) => {
            let found = models.iter().find(|model| model.name == name).cloned();
            found.ok_or_else(|| NoModel::Unknown { name: name.to_owned(), known: names() })
        }
    }
}

/// Every subfolder with an ONNX file and a label file, by name.
fn find(folder: &Path) -> io::Result<Vec<ModelFiles>> {
    let mut models = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let (onnx, labels) = (path.join("model.onnx"), path.join("selected_tags.csv"));
        let name = path.file_name().and_then(|name| name.to_str());
        if let (Some(name), true, true) = (name, onnx.is_file(), labels.is_file()) {
            models.push(ModelFiles { name: name.to_owned(), onnx, labels });
        }
    }
    models.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(models)
}

/// Bytes in hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

//! Where TensorRT keeps what it built of a model, and for which batches it builds it.
//!
//! Building takes minutes; with the folder kept, the next start takes seconds. TensorRT's provider tells engines apart by the
//! graph, not by its weights, so every version of a model has a folder of its own.

use std::path::{Path, PathBuf};

use ort::ep;

use super::interface::Interface;
use super::prepend;
use crate::model::ModelFiles;
use crate::model::frame::CHANNELS;
use crate::model::manifest::Precision;

/// What TensorRT is told of a model.
#[derive(Clone, Debug)]
pub(super) struct Engines {
    /// `None` where there is no place to keep them.
    folder: Option<PathBuf>,
    /// Shapes of the rows: of one image, and of the largest batch.
    least: String,
    most: String,
    half: bool,
}

impl Engines {
    /// For batches of up to so many images.
    ///
    /// # Errors
    /// Where the model's files can't be read.
    pub(super) fn new(
        files: &ModelFiles,
        cache: Option<&Path>,
        interface: &Interface,
        batch: usize,
    ) -> Result<Self, crate::model::Unusable> {
        let precision = files.manifest.precision;
        let name = format!("{}-{}-{batch}", files.fingerprint()?, precision.as_str());
        let side = interface.side;
        let shape = |batch: usize| format!("{}:{batch}x{side}x{side}x{CHANNELS}", prepend::INPUT);
        let (least, most) = match interface.batch {
            Some(fixed) => (fixed, fixed),
            None => (1, batch),
        };
        Ok(Self {
            folder: cache.map(|cache| cache.join(name)),
            least: shape(least),
            most: shape(most),
            half: precision == Precision::Fp16,
        })
    }

    /// The folder they are kept in, made where it is missing.
    ///
    /// # Errors
    /// Where it can't be made.
    pub(super) fn folder(&self) -> std::io::Result<Option<&Path>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        std::fs::create_dir_all(folder)?;
        Ok(Some(folder))
    }

    /// Whether some were built before.
    pub(super) fn are_there(&self) -> bool {
        let entries = self.folder.as_ref().and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten();
        entries.flatten().any(|entry| entry.path().extension().is_some_and(|extension| extension == "engine"))
    }

    pub(super) fn settings(&self, tensorrt: ep::TensorRT) -> ep::TensorRT {
        let tensorrt = tensorrt
            .with_fp16(self.half)
            .with_profile_min_shapes(&self.least)
            .with_profile_opt_shapes(&self.most)
            .with_profile_max_shapes(&self.most);
        match &self.folder {
            Some(folder) => tensorrt
                .with_engine_cache(true)
                .with_engine_cache_path(folder.display())
                .with_timing_cache(true)
                .with_timing_cache_path(folder.display()),
            None => tensorrt,
        }
    }
}

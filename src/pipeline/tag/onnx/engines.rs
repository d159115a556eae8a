//! Folder of the engines that TensorRT builds for a model, and the batches that it builds them for.
//!
//! Building takes minutes; with the folder kept, the next start takes seconds. TensorRT's provider distinguishes engines by
//! the graph, not by its weights, so every version of a model has a folder of its own. One process at a time builds or
//! reads the engines of a folder, because the provider writes them in place.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ort::ep;

use super::interface::Interface;
use super::prepend;
use crate::model::ModelFiles;
use crate::model::frame::CHANNELS;
use crate::model::manifest::Precision;

/// TensorRT's settings for a model. While this lives no other process uses the folder.
#[derive(Debug)]
pub(super) struct Engines {
    /// `None` if there is no place to keep engines.
    folder: Option<PathBuf>,
    lock: Option<File>,
    /// Shapes of the rows: of one image, and of the largest batch.
    least: String,
    most: String,
    half: bool,
}

impl Engines {
    /// Creates the settings for batches of up to `batch` images.
    ///
    /// # Errors
    /// If the model's files can't be read.
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
            lock: None,
            least: shape(least),
            most: shape(most),
            half: precision == Precision::Fp16,
        })
    }

    /// Returns the folder of the engines, created if missing, once no other process builds there. Blocks.
    ///
    /// # Errors
    /// If it can't be created or locked.
    pub(super) fn locked_folder(&mut self) -> std::io::Result<Option<&Path>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        std::fs::create_dir_all(folder)?;
        let lock = File::options().create(true).truncate(false).write(true).open(folder.join(".lock"))?;
        match lock.lock() {
            Ok(()) => self.lock = Some(lock),
            // A file system without locks: nothing keeps processes apart.
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            Err(error) => return Err(error),
        }
        Ok(Some(folder))
    }

    /// Returns `true` if engines were built before.
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

#[cfg(test)]
mod tests {
    use std::fs::TryLockError;

    use super::*;

    #[test]
    fn a_folder_is_of_one_process_until_its_session_is_open() {
        let cache = tempfile::tempdir().expect("a folder");
        let folder = cache.path().join("model");
        let shape = String::new;
        let mut engines =
            Engines { folder: Some(folder.clone()), lock: None, least: shape(), most: shape(), half: false };
        assert_eq!(engines.locked_folder().expect("it can be made"), Some(&*folder));
        let others = File::open(folder.join(".lock")).expect("it is there");
        assert!(matches!(others.try_lock(), Err(TryLockError::WouldBlock)));
        drop(engines);
        others.try_lock().expect("it is free");
    }
}

//! Source of models: a folder, or a bucket that is copied into one.

mod mirror;

use std::path::PathBuf;

use tokio::task::spawn_blocking;

use super::catalog::{Alias, Catalog, NoModel};
use crate::failure::{Code, Failure};
use crate::store::bucket::Bucket;

/// Source of models.
#[derive(Clone, Debug)]
pub(crate) enum Repository {
    /// A folder.
    Folder(PathBuf),
    /// A bucket or a part of it, and the folder for its copy.
    Bucket {
        /// Bucket to copy.
        bucket: Bucket,
        /// Folder to copy to. Any number of processes may share it.
        cache: PathBuf,
    },
}

impl Repository {
    /// Reads the current models.
    ///
    /// # Errors
    /// If the folder or bucket can't be read or contains no model, or an alias names two models.
    pub(crate) async fn catalog(&self, aliases: &[Alias]) -> Result<Catalog, NoModel> {
        let aliases = aliases.to_vec();
        // Blocking reads, because folders may be on a network.
        let read = match self {
            Self::Folder(folder) => {
                let folder = folder.clone();
                spawn_blocking(move || Catalog::read(&folder, &aliases))
            }
            Self::Bucket { bucket, cache } => {
                let (versions, cache) = (mirror::copy(bucket, cache).await?, cache.clone());
                spawn_blocking(move || Catalog::of_versions(&cache, versions, &aliases))
            }
        };
        read.await.unwrap_or_else(|error| Err(Failure::new(Code::StorageUnavailable, error.to_string()).into()))
    }
}

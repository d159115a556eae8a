//! Where models come from: a folder, or a bucket that is copied into one.

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
    /// A bucket, or a part of it, and the folder its copy is kept in.
    Bucket {
        /// Object to copy.
        bucket: Bucket,
        /// Where to. Any number of processes may share it.
        cache: PathBuf,
    },
}

impl Repository {
    /// The models there are now.
    ///
    /// # Errors
    /// If the folder or bucket can't be read, holds no model, or an alias means two things.
    pub(crate) async fn catalog(&self, aliases: &[Alias]) -> Result<Catalog, NoModel> {
        let aliases = aliases.to_vec();
        // Folders may be on a network.
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

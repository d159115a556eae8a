//! Where models come from: a folder, or a bucket that is copied into one.

use std::path::{Path, PathBuf};

use super::catalog::{Alias, Catalog, NoModel};
use crate::failure::{Code, Failure};
use crate::store::Store;
use crate::store::list::Listed;

/// Where models come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder.
    Folder(PathBuf),
    /// A bucket, or a part of it, and the folder its copy is kept in.
    Bucket {
        /// What is copied.
        store: Store,
        /// Where to.
        cache: PathBuf,
    },
}

impl Source {
    /// The models there are now.
    ///
    /// # Errors
    /// Where the folder or bucket can't be read, holds no model, or an alias means two things.
    pub async fn catalog(&self, aliases: &[Alias]) -> Result<Catalog, NoModel> {
        let folder = match self {
            Self::Folder(folder) => folder,
            Self::Bucket { store, cache } => {
                copy(store, cache).await?;
                cache
            }
        };
        Catalog::read(folder, aliases)
    }
}

/// Makes `cache` hold what the store holds; what it already has is not read again.
async fn copy(store: &Store, cache: &Path) -> Result<(), Failure> {
    let listed = store.list().await?;
    if listed.is_empty() {
        return Err(Failure::new(Code::ImageNotFound, format!("{store} holds no models")));
    }
    for object in &listed {
        let Some(file) = inside(cache, &object.name) else { continue };
        if !is_copy(&file, object).await {
            tracing::info!(model_file = object.name, bytes = object.size, from = %store, "copying");
            fetch(store, object, &file).await?;
        }
    }
    prune(cache, &listed).await.map_err(|error| not_written(cache, &error))
}

/// A file of a model's folder in the cache; what lies elsewhere in the bucket is no model's.
fn inside(cache: &Path, name: &str) -> Option<PathBuf> {
    let (folder, file) = name.split_once('/')?;
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['/', '\\']);
    (plain(folder) && plain(file)).then(|| cache.join(folder).join(file))
}

/// Where the version of a copy is written down.
fn version_of(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.version"))
}

async fn is_copy(file: &Path, object: &Listed) -> bool {
    let size = tokio::fs::metadata(file).await.map(|metadata| metadata.len()).ok();
    let version = tokio::fs::read_to_string(version_of(file)).await.ok();
    size == Some(object.size) && version.as_deref() == Some(object.version.as_str())
}

/// Under its own name only when whole, so that a worker never sees half a file.
async fn fetch(store: &Store, object: &Listed, file: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| not_written(file, &error);
    let folder = file.parent().unwrap_or(file);
    tokio::fs::create_dir_all(folder).await.map_err(failed)?;
    let part = folder.join(format!(".{}-{:08x}.part", std::process::id(), rand::random::<u32>()));
    let copied = store.copy_to(&object.path, &part).await;
    let size = tokio::fs::metadata(&part).await.map(|metadata| metadata.len()).unwrap_or_default();
    let whole = copied.and_then(|()| {
        let short = || format!("{} has {size} of {} bytes", object.path, object.size);
        if size == object.size { Ok(()) } else { Err(Failure::new(Code::StorageUnavailable, short())) }
    });
    if let Err(failure) = whole {
        let _ = tokio::fs::remove_file(&part).await;
        return Err(failure);
    }
    tokio::fs::rename(&part, file).await.map_err(failed)?;
    tokio::fs::write(version_of(file), &object.version).await.map_err(failed)
}

/// Removes the models that are not in the bucket any more.
async fn prune(cache: &Path, listed: &[Listed]) -> std::io::Result<()> {
    let mut folders = tokio::fs::read_dir(cache).await?;
    while let Some(folder) = folders.next_entry().await? {
        let name = folder.file_name().to_string_lossy().into_owned();
        let kept =
            listed.iter().any(|object| object.name.strip_prefix(&name).is_some_and(|rest| rest.starts_with('/')));
        if !kept && folder.file_type().await?.is_dir() {
            tokio::fs::remove_dir_all(folder.path()).await?;
        }
    }
    Ok(())
}

fn not_written(file: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Code::StorageUnavailable, format!("{} can't be written (--models-cache): {error}", file.display()))
}

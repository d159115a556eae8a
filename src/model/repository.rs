//! Where models come from: a folder, or a bucket that is copied into one.
//!
//! A model is copied as a whole beside the one it replaces and takes its place when all of it is there, so that no worker
//! sees the graph of one version with the labels of another.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use tokio::task::spawn_blocking;

use super::catalog::{Alias, Catalog, NoModel};
use crate::atomic;
use crate::failure::{Code, Failure};
use crate::store::bucket::Bucket;
use crate::store::bucket::list::Listed;

/// What the files of a model are called: graphs, their weights, labels and manifests.
const FILES: [&str; 7] = ["onnx", "onnx_data", "data", "csv", "json", "txt", "toml"];

/// The file that keeps the versions of a copy.
const VERSIONS: &str = ".versions.json";

/// Where models come from.
#[derive(Clone, Debug)]
pub(crate) enum Repository {
    /// A folder.
    Folder(PathBuf),
    /// A bucket, or a part of it, and the folder its copy is kept in.
    Bucket {
        /// What is copied.
        bucket: Bucket,
        /// Where to.
        cache: PathBuf,
    },
}

impl Repository {
    /// The models there are now.
    ///
    /// # Errors
    /// Where the folder or bucket can't be read, holds no model, or an alias means two things.
    pub(crate) async fn catalog(&self, aliases: &[Alias]) -> Result<Catalog, NoModel> {
        let folder = match self {
            Self::Folder(folder) => folder,
            Self::Bucket { bucket, cache } => {
                copy(bucket, cache).await?;
                cache
            }
        };
        Catalog::read(folder, aliases)
    }
}

/// The files of one model, by name.
type Files = BTreeMap<String, Listed>;

/// Makes `cache` hold the models that the bucket holds; what it already has is not read again.
async fn copy(bucket: &Bucket, cache: &Path) -> Result<(), Failure> {
    // A bucket that is not there, or refuses, says so itself.
    bucket.probe().await?;
    let mut models: BTreeMap<String, Files> = BTreeMap::new();
    for object in bucket.list().await? {
        if let Some((model, file)) = model_file(&object.name) {
            models.entry(model).or_default().insert(file, object);
        }
    }
    if models.is_empty() {
        return Err(Failure::new(Code::ImageNotFound, format!("{bucket} holds no models")));
    }
    let failed = |error: io::Error| not_written(cache, &error);
    tokio::fs::create_dir_all(cache).await.map_err(failed)?;
    for (model, files) in &models {
        if versions(&cache.join(model)).await != listed_versions(files) {
            tracing::info!(model, from = %bucket, "copying");
            replace(bucket, cache, model, files).await?;
        }
    }
    prune(cache, |name| models.contains_key(name)).await.map_err(failed)
}

/// The model and the file's name, where an object is a file of a model; others may lie beside.
fn model_file(name: &str) -> Option<(String, String)> {
    let (model, file) = name.split_once('/')?;
    let plain = |part: &str| (1..=200).contains(&part.len()) && !part.starts_with('.') && !part.contains(['/', '\\']);
    let extension = Path::new(file).extension()?.to_str()?;
    (plain(model) && plain(file) && FILES.contains(&extension)).then(|| (model.to_owned(), file.to_owned()))
}

/// What the copy in this folder was made of.
async fn versions(folder: &Path) -> BTreeMap<String, String> {
    let json = tokio::fs::read(folder.join(VERSIONS)).await.unwrap_or_default();
    serde_json::from_slice(&json).unwrap_or_default()
}

fn listed_versions(files: &Files) -> BTreeMap<String, String> {
    files.iter().map(|(name, object)| (name.clone(), format!("{} {}", object.size, object.version))).collect()
}

/// Copies a model beside the present one, then replaces that.
async fn replace(bucket: &Bucket, cache: &Path, model: &str, files: &Files) -> Result<(), Failure> {
    let place = cache.join(model);
    let failed = |error: io::Error| not_written(&place, &error);
    let new = atomic::folder_beside(&place, ".new-").map_err(failed)?;
    let copied = fill(bucket, new.path(), &place, files).await;
    // Gigabytes may be removed here, of the old copy or of the incomplete new one.
    let target = place.clone();
    let replaced = spawn_blocking(move || match copied {
        Ok(()) => atomic::replace_folder(new, &target).map_err(|error| not_written(&target, &error)),
        Err(failure) => {
            drop(new);
            Err(failure)
        }
    });
    replaced.await.map_err(|error| failed(error.into()))?
}

/// Fills a folder with a model's files: those that have not changed from the present copy, the others from the bucket.
async fn fill(bucket: &Bucket, new: &Path, present: &Path, files: &Files) -> Result<(), Failure> {
    let (had, wanted) = (versions(present).await, listed_versions(files));
    for (name, object) in files {
        let unchanged = had.get(name) == wanted.get(name);
        if unchanged && tokio::fs::hard_link(present.join(name), new.join(name)).await.is_ok() {
            continue;
        }
        tracing::info!(file = object.path.as_ref(), bytes = object.size, "copying");
        bucket.copy_to(&object.path, &new.join(name), object.size).await?;
    }
    let json = serde_json::to_vec(&wanted).unwrap_or_default();
    tokio::fs::write(new.join(VERSIONS), json).await.map_err(|error| not_written(new, &error))
}

/// Removes the copies of models that are not in the bucket any more, and nothing that is no copy.
async fn prune(cache: &Path, is_kept: impl Fn(&str) -> bool) -> io::Result<()> {
    let mut folders = tokio::fs::read_dir(cache).await?;
    while let Some(folder) = folders.next_entry().await? {
        let is_copy = folder.path().join(VERSIONS).is_file();
        if is_copy && !is_kept(&folder.file_name().to_string_lossy()) {
            tokio::fs::remove_dir_all(folder.path()).await?;
        }
    }
    Ok(())
}

fn not_written(file: &Path, error: &io::Error) -> Failure {
    Failure::new(Code::StorageUnavailable, format!("{} can't be written (--models-cache): {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_models_are_copied() {
        let file = |name: &str| model_file(name).map(|(model, file)| format!("{model} {file}"));
        assert_eq!(file("wd/model.onnx").as_deref(), Some("wd model.onnx"));
        assert_eq!(file("wd/model.onnx_data").as_deref(), Some("wd model.onnx_data"));
        for other in
            ["model.onnx", "wd/samples", "wd/a/b.onnx", "../x.onnx", "wd/../x.onnx", ".git/x.json", "wd/.x.toml", "wd/"]
        {
            assert_eq!(file(other), None, "{other}");
        }
    }
}

//! Copies the models of a bucket into a folder that several processes may share.
//!
//! Every version of a model is a folder of its own, named after the bucket's listing of its files:
//! `<model>@<hash>/<model>/`. It is created in a temporary folder, renamed once complete, and never changed. A process holds
//! a shared lock on the versions that it uses. The process that copies a version holds an exclusive lock while others wait.
//! An unused version is removed once the bucket has another. As a result, all processes that read the same listing use the
//! same files.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use crate::atomic;
use crate::failure::{Code, Failure};
use crate::model::catalog::Version;
use crate::store::bucket::Bucket;
use crate::store::bucket::list::Listed;

/// Extensions of a model's files: graphs, their weights, labels and manifests.
const FILES: [&str; 7] = ["onnx", "onnx_data", "data", "csv", "json", "txt", "toml"];

/// File that records the listed versions of the copied files.
const VERSIONS: &str = ".versions.json";

/// Interval for checking a version that another process copies.
const AGAIN: Duration = Duration::from_millis(300);

/// Time limit for another process to copy a version.
const COPIED: Duration = Duration::from_hours(1);

/// Age at which unfinished folders are removed.
const LEFT_OVER: Duration = Duration::from_hours(24);

/// Files of one model, by name.
type Files = BTreeMap<String, Listed>;

/// Copies the bucket's models to `cache`. Existing versions are not read again.
///
/// # Errors
/// If the bucket can't be read or has no models, or the folder can't be written.
pub(super) async fn copy(bucket: &Bucket, cache: &Path) -> Result<Vec<Version>, Failure> {
    // Reports a missing or denied bucket.
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
    let mut versions = Vec::with_capacity(models.len());
    for (model, files) in &models {
        versions.push(version(bucket, cache, model, files).await?);
    }
    let (cache, current) =
        (cache.to_owned(), versions.iter().map(|version| version.folder.clone()).collect::<Vec<_>>());
    // Folders that cannot be removed now are removed by a later call.
    drop(spawn_blocking(move || prune(&cache, &current)).await);
    Ok(versions)
}

/// Model and file name, if an object is a file of a model. Other objects are ignored.
fn model_file(name: &str) -> Option<(String, String)> {
    let (model, file) = name.split_once('/')?;
    let plain = |part: &str| (1..=200).contains(&part.len()) && !part.starts_with('.') && !part.contains(['/', '\\']);
    let extension = Path::new(file).extension()?.to_str()?;
    (plain(model) && plain(file) && FILES.contains(&extension)).then(|| (model.to_owned(), file.to_owned()))
}

/// Returns a version of a model, copied if it is missing, and locked against removal.
async fn version(bucket: &Bucket, cache: &Path, model: &str, files: &Files) -> Result<Version, Failure> {
    let listed = listed_versions(files);
    let json = serde_json::to_vec(&listed).unwrap_or_default();
    let name = format!("{model}@{}", &hex::encode(Sha256::digest(&json))[..16]);
    let place = cache.join(&name);
    let failed = |error: io::Error| not_written(&place, &error);
    let lock = cache.join(format!(".{name}.lock"));
    let (mut waits, began) = (false, Instant::now());
    loop {
        let file = File::options().create(true).truncate(false).write(true).open(&lock).map_err(failed)?;
        let is_there = is_complete(&place, model);
        let locked = if is_there { file.try_lock_shared() } else { file.try_lock() };
        match locked {
            // The lock prevents its removal from here on, so a second check suffices.
            Ok(()) if is_there && is_complete(&place, model) => {
                return Ok(Version { folder: place.join(model), in_use: Arc::new(file) });
            }
            Ok(()) if !is_there && !is_complete(&place, model) => {
                tracing::info!(model, from = %bucket, "copying");
                fill(bucket, cache, &name, model, (files, &listed)).await?;
            }
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if began.elapsed() > COPIED => {
                return Err(failed(io::Error::other("another process has held its lock for too long")));
            }
            Err(TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut waits, true) {
                    tracing::info!(model, "another process copies the model; waiting for it");
                }
                tokio::time::sleep(AGAIN).await;
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

/// Returns `true` if a version is complete: the list of its files is written last.
fn is_complete(place: &Path, model: &str) -> bool {
    place.join(model).join(VERSIONS).is_file()
}

fn listed_versions(files: &Files) -> BTreeMap<String, String> {
    files.iter().map(|(name, object)| (name.clone(), format!("{} {}", object.size, object.version))).collect()
}

/// Creates a version in a temporary folder and renames it. Takes unchanged files from other versions, the rest from the
/// bucket.
async fn fill(
    bucket: &Bucket,
    cache: &Path,
    name: &str,
    model: &str,
    (files, listed): (&Files, &BTreeMap<String, String>),
) -> Result<(), Failure> {
    let place = cache.join(name);
    let failed = |error: io::Error| not_written(&place, &error);
    let aside = atomic::folder_beside(&place, ".new-").map_err(failed)?;
    let folder = aside.path().join(model);
    tokio::fs::create_dir(&folder).await.map_err(failed)?;
    let others = others(cache, model);
    for (file, object) in files {
        let same = others.iter().find(|(_, had)| had.get(file) == listed.get(file));
        if let Some((other, _)) = same
            && tokio::fs::hard_link(other.join(file), folder.join(file)).await.is_ok()
        {
            continue;
        }
        tracing::info!(file = object.key, bytes = object.size, "copying");
        bucket.copy_to(object, &folder.join(file)).await?;
    }
    let json = serde_json::to_vec(listed).unwrap_or_default();
    tokio::fs::write(folder.join(VERSIONS), json).await.map_err(failed)?;
    // Moves away the remains of a version whose removal was interrupted.
    let _ = tokio::fs::rename(&place, aside.path().with_extension("old")).await;
    tokio::fs::rename(aside.path(), &place).await.map_err(failed)?;
    let _ = aside.keep();
    Ok(())
}

/// Other versions of a model, and the listed versions of their files.
fn others(cache: &Path, model: &str) -> Vec<(PathBuf, BTreeMap<String, String>)> {
    let entries = std::fs::read_dir(cache).into_iter().flatten().flatten();
    let versions = entries.filter_map(|entry| {
        let folder = entry.path().join(model);
        let json = std::fs::read(folder.join(VERSIONS)).ok()?;
        Some((folder, serde_json::from_slice(&json).ok()?))
    });
    versions.collect()
}

/// Removes versions that are not current and that no process uses.
fn prune(cache: &Path, current: &[PathBuf]) {
    for entry in std::fs::read_dir(cache).into_iter().flatten().flatten() {
        let (place, name) = (entry.path(), entry.file_name());
        if name.to_string_lossy().starts_with(".new-") || name.to_string_lossy().starts_with(".old-") {
            let age =
                entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
            if age.is_some_and(|age| age > LEFT_OVER) {
                let _ = std::fs::remove_dir_all(&place);
            }
            continue;
        }
        let Some(model) = name.to_str().and_then(|name| Some(name.rsplit_once('@')?.0)) else { continue };
        let folder = place.join(model);
        if current.contains(&folder) || !folder.join(VERSIONS).is_file() {
            continue;
        }
        let lock = cache.join(format!(".{}.lock", name.to_string_lossy()));
        let lock = File::options().create(true).truncate(false).write(true).open(lock);
        // Renamed first, so that a half-removed version never counts as complete.
        let old = cache.join(format!(".old-{:08x}", rand::random::<u32>()));
        if lock.is_ok_and(|lock| lock.try_lock().is_ok() && std::fs::rename(&place, &old).is_ok()) {
            let _ = std::fs::remove_dir_all(&old);
            tracing::info!(version = %name.to_string_lossy(), "removed a version of a model that is no longer used");
        }
    }
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

    #[test]
    fn a_version_is_removed_once_no_process_uses_it() {
        let cache = tempfile::tempdir().expect("a folder");
        let folder = cache.path().join("wd@1/wd");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(VERSIONS), "{}").expect("a file");
        std::fs::create_dir_all(cache.path().join("notes@home")).expect("a folder of the user's");
        let used = File::create(cache.path().join(".wd@1.lock")).expect("a file");
        used.lock_shared().expect("a lock");
        prune(cache.path(), &[]);
        assert!(folder.is_dir(), "it is used");
        drop(used);
        prune(cache.path(), std::slice::from_ref(&folder));
        assert!(folder.is_dir(), "it is current");
        prune(cache.path(), &[]);
        assert!(!folder.exists() && cache.path().join("notes@home").is_dir());
    }
}

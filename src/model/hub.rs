//! Downloads models from the Hugging Face hub, or a compatible server, into local folders.
//!
//! Two requests are enough: `GET /api/models/{repository}/revision/{revision}?blobs=true` lists files with sizes and hashes,
//! `GET /{repository}/resolve/{commit}/{file}` returns the file or redirects to its storage. The crate `hf-hub` does not
//! fit, because a download must be resumable, verified and complete before the file gets its name: `hf-hub` 1.0 writes a
//! folder's files under their names from the first byte on, restarts after an interruption, checks neither sizes nor hashes,
//! ignores `HF_HUB_OFFLINE`, and adds a second TLS provider.

mod client;
mod error;
mod file;
mod listing;
mod record;
mod repository;
mod settings;
mod transfer;
mod verify;

use std::path::{Path, PathBuf};

use client::{Client, Retries};
pub(crate) use error::Error;
pub(crate) use file::File;
use record::Record;
pub(crate) use repository::{FolderName, Repository, Revision};
pub(crate) use settings::Settings;
use transfer::Transfer;
use verify::{Verdict, verify};

/// Manifest that an operator may have written; never overwritten.
const MANIFEST: &str = "tagmill.toml";

/// Download to make: source and target.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// Repository to download from.
    pub repository: Repository,
    /// Revision to download.
    pub revision: Revision,
    /// ONNX file to choose among several.
    pub file: Option<String>,
    /// The model's folder.
    pub folder: PathBuf,
}

/// Progress of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The file is present and matches the hub's listing.
    Present,
    /// The transfer begins, after these bytes of an earlier one.
    Began {
        /// Bytes present.
        from: u64,
    },
    /// More bytes arrived.
    Received {
        /// Bytes present.
        total: u64,
    },
    /// The file is complete and verified and has its name.
    Done,
}

/// Observer of a download.
pub(crate) trait Watch {
    /// Reports a file's progress.
    fn see(&mut self, file: &File, step: Step);
}

/// Downloads a model into its folder and returns its files. Verified files are not downloaded again.
///
/// # Errors
/// If something is missing in the end. Downloaded data stays, and another call resumes it.
pub(crate) async fn pull(settings: &Settings, order: &Order, watch: &mut impl Watch) -> Result<Vec<File>, Error> {
    if settings.offline {
        return look(order, watch).await;
    }
    let client = Client::new(settings, &order.repository)?;
    let mut retries = Retries::default();
    let listing = loop {
        match client.list(&order.revision).await {
            Ok(listing) => break listing,
            Err(failure) => retries.wait(failure).await?,
        }
    };
    let files = listing.choose(order.file.as_deref(), &settings.endpoint_name())?;
    let commit = listing.commit().unwrap_or(order.revision.as_str());
    let folder = order.folder.as_path();
    tokio::fs::create_dir_all(folder).await.map_err(Error::io(folder))?;
    let _lock = lock(folder)?;
    let missing = missing(order, &files, watch).await?;
    let record = Record {
        repository: order.repository.to_string(),
        revision: order.revision.as_str().to_owned(),
        commit: commit.to_owned(),
        files,
    };
    record.write(folder).await?;
    for file in &missing {
        Transfer { client: &client, commit, file, folder, watch: &mut *watch }.run().await?;
    }
    Ok(record.files)
}

/// Returns the files that the folder lacks. Checks all of them before it changes anything.
async fn missing(order: &Order, files: &[File], watch: &mut impl Watch) -> Result<Vec<File>, Error> {
    let known = Record::read(&order.folder).await;
    let ours = known.is_some_and(|record| record.repository == order.repository.to_string());
    let mut missing = Vec::new();
    for file in files {
        match there(file, &order.folder).await? {
            Verdict::Same => watch.see(file, Step::Present),
            Verdict::Other(_) if !ours => return Err(Error::Foreign(order.folder.join(file.name()))),
            Verdict::Other(_) | Verdict::Missing => missing.push(file.clone()),
        }
    }
    Ok(missing)
}

/// Checks for a complete download without the hub.
async fn look(order: &Order, watch: &mut impl Watch) -> Result<Vec<File>, Error> {
    let missing = |reason: String| Error::Offline { reason };
    let (folder, revision) = (&order.folder, order.revision.as_str());
    let of_this = |record: &Record| {
        record.repository == order.repository.to_string()
            && (record.revision == revision || record.commit == revision)
            && order.file.as_ref().is_none_or(|asked| record.files.iter().any(|file| file.path == *asked))
    };
    let Some(record) = Record::read(folder).await.filter(of_this) else {
        return Err(missing(format!("`{}` was not downloaded from there at revision {revision}", folder.display())));
    };
    for file in &record.files {
        match there(file, folder).await? {
            Verdict::Same => watch.see(file, Step::Present),
            Verdict::Missing => return Err(missing(format!("`{}` has no {}", folder.display(), file.name()))),
            Verdict::Other(reason) => {
                return Err(missing(format!(
                    "`{}` is not as it should be: {reason}",
                    folder.join(file.name()).display()
                )));
            }
        }
    }
    Ok(record.files)
}

/// Compares a file with its listing. A manifest counts as the same, whatever its content.
async fn there(file: &File, folder: &Path) -> Result<Verdict, Error> {
    let path = folder.join(file.name());
    if file.name() == MANIFEST && path.exists() {
        return Ok(Verdict::Same);
    }
    verify(file, path.clone()).await.map_err(Error::io(&path))
}

/// Locks a folder against other downloads while the handle lives. File systems without locks are tolerated.
fn lock(folder: &Path) -> Result<std::fs::File, Error> {
    let handle = std::fs::File::open(folder).map_err(Error::io(folder))?;
    match handle.try_lock() {
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Busy(folder.to_owned())),
        Ok(()) | Err(std::fs::TryLockError::Error(_)) => Ok(handle),
    }
}

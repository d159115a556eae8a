//! Models from the Hugging Face hub, or what speaks its protocol, into folders of ours.
//!
//! Two requests are all there is to it: `GET /api/models/{repository}/revision/{revision}?blobs=true` lists files with sizes
//! and hashes, `GET /{repository}/resolve/{commit}/{file}` answers with the file or redirects to where it is stored. They
//! are made here and not with the crate `hf-hub` because a download must be resumed, verified, and whole before it has its
//! name: `hf-hub` 1.0 writes a folder's files under their names from the first byte on, begins again when cut off, compares
//! neither sizes nor hashes, knows no `HF_HUB_OFFLINE`, and brings a second TLS provider.

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

/// What an operator may have written by hand; never overwritten.
const MANIFEST: &str = "tagmill.toml";

/// What to download, and where to.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// From which repository.
    pub repository: Repository,
    /// Which state of it.
    pub revision: Revision,
    /// The ONNX file, where there are several.
    pub file: Option<String>,
    /// The model's folder.
    pub folder: PathBuf,
}

/// How far a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is there already, and is what the hub lists.
    Present,
    /// It begins to come, after these bytes from earlier.
    Began {
        /// Bytes there are.
        from: u64,
    },
    /// More of it came.
    Received {
        /// Bytes there are.
        total: u64,
    },
    /// It is whole, verified, and has its name.
    Done,
}

/// Sees how a download goes.
pub(crate) trait Watch {
    /// A file made a step.
    fn see(&mut self, file: &File, step: Step);
}

/// Brings a model into its folder; the files it then has. What is there and verified is not downloaded again.
///
/// # Errors
/// Where something is missing at the end. What was downloaded stays, and another call goes on from there.
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

/// Which of these files the folder does not have. Nothing is changed before all are looked at.
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

/// Looks whether everything is there, without the hub.
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

/// How a file stands in its folder. A manifest is as it should be however it is.
async fn there(file: &File, folder: &Path) -> Result<Verdict, Error> {
    let path = folder.join(file.name());
    if file.name() == MANIFEST && path.exists() {
        return Ok(Verdict::Same);
    }
    verify(file, path.clone()).await.map_err(Error::io(&path))
}

/// Keeps other downloads out of a folder while the answer lives. A file system without locks goes without.
fn lock(folder: &Path) -> Result<std::fs::File, Error> {
    let handle = std::fs::File::open(folder).map_err(Error::io(folder))?;
    match handle.try_lock() {
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Busy(folder.to_owned())),
        Ok(()) | Err(std::fs::TryLockError::Error(_)) => Ok(handle),
    }
}

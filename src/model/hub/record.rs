//! Record of a download, stored in the model's folder. It distinguishes downloaded files from others, and identifies a
//! complete download without a request to the hub.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::file::File;
use crate::atomic;

/// Name of the file.
const NAME: &str = ".pulled";

/// Source and files of a folder's download.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) repository: String,
    /// Requested revision.
    pub(super) revision: String,
    /// Commit of that revision.
    pub(super) commit: String,
    pub(super) files: Vec<File>,
}

impl Record {
    /// Reads the record of a folder; `None` if it is missing or unreadable.
    pub(super) async fn read(folder: &Path) -> Option<Self> {
        let text = tokio::fs::read(folder.join(NAME)).await.ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes the record atomically.
    pub(super) async fn write(&self, folder: &Path) -> Result<(), Error> {
        let path = folder.join(NAME);
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        let failed = Error::io(&path);
        let written = tokio::task::spawn_blocking(move || atomic::write(&path, &text)).await;
        written.map_err(io::Error::from).flatten().map_err(failed)
    }
}

//! What was downloaded into a folder, written beside it: it tells our files from others, and makes a download that is
//! whole known as such without asking the hub.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::file::File;
use crate::atomic;

/// The file's name.
const NAME: &str = ".pulled";

/// What a folder's download was of.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) repository: String,
    /// As asked for.
    pub(super) revision: String,
    /// What that was.
    pub(super) commit: String,
    pub(super) files: Vec<File>,
}

impl Record {
    /// The folder's; `None` where there is none that can be read, which is as good as none.
    pub(super) async fn read(folder: &Path) -> Option<Self> {
        let text = tokio::fs::read(folder.join(NAME)).await.ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes it, whole or not at all.
    pub(super) async fn write(&self, folder: &Path) -> Result<(), Error> {
        let path = folder.join(NAME);
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        let failed = Error::io(&path);
        let written = tokio::task::spawn_blocking(move || atomic::write(&path, &text)).await;
        written.map_err(io::Error::from).flatten().map_err(failed)
    }
}

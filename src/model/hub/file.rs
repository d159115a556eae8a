//! A file as a repository lists it.

use serde::{Deserialize, Serialize};

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct File {
    /// Where the repository has it.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// Expected hashes.
    pub digest: Digest,
}

/// Expected hash of a file, in hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Digest {
    /// The hub's name for a large file.
    Sha256(String),
    /// git's name for a small one: SHA-1 of a route and the content.
    GitBlob(String),
    /// The hub lists none.
    Unknown,
}

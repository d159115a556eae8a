//! A file as a repository lists it.

use serde::{Deserialize, Serialize};

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct File {
    /// Path in the repository.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Expected hashes.
    pub digest: Digest,
}

impl File {
    /// Returns `true` if the hub lists a hash, by which a download can be verified.
    #[must_use]
    pub(crate) const fn is_verifiable(&self) -> bool {
        !matches!(self.digest, Digest::Unknown)
    }
}

/// Expected hash of a file, in hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Digest {
    /// SHA-256, the hub's identifier of a large file.
    Sha256(String),
    /// SHA-1 of a header and the content, git's identifier of a small file.
    GitBlob(String),
    /// The hub lists no hash.
    Unknown,
}

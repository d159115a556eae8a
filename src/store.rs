//! The configured stores, the only sources of images.

pub(crate) mod bucket;
pub(crate) mod file;
mod folder;
pub(crate) mod inline;
mod invalid;
pub(crate) mod location;
pub(crate) mod outage;
mod reads;
pub(crate) mod suffix;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;

use crate::failure::{Code, Failure};
use crate::memory::{Pool, Reservation};
use bucket::Bucket;
pub(crate) use invalid::{InvalidStore, without_login};
use outage::Outage;
use reads::Reads;

/// One store: a bucket, or a folder.
#[derive(Clone)]
pub(crate) struct Store {
    place: Place,
    outage: Outage,
    reads: Reads,
}

#[derive(Clone)]
enum Place {
    Bucket(Bucket),
    /// Files below a folder. `root` is its path with links followed, `named` the path in the store's URL.
    Folder {
        root: Arc<std::path::Path>,
        named: Arc<std::path::Path>,
    },
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Bucket(bucket) => bucket.fmt(f),
            Place::Folder { root, .. } => write!(f, "file://{}", root.display()),
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({self})")
    }
}

impl FromStr for Store {
    type Err = InvalidStore;

    fn from_str(url: &str) -> Result<Self, InvalidStore> {
        let place = if url.starts_with("s3://") { Place::Bucket(url.parse()?) } else { folder::open(url)? };
        Ok(Self { place, outage: Outage::default(), reads: Reads::default() })
    }
}

impl From<Bucket> for Store {
    fn from(bucket: Bucket) -> Self {
        Self { place: Place::Bucket(bucket), outage: Outage::default(), reads: Reads::default() }
    }
}

/// An object that was read.
pub(crate) struct Read {
    /// The whole object.
    pub bytes: Bytes,
    /// Memory reserved for the bytes.
    pub reserved: Reservation,
    /// Time from the request to the store's first byte.
    pub first_byte: Duration,
}

impl Store {
    /// Reads a whole object of at most `limit` bytes, after it has reserved memory for it.
    ///
    /// # Errors
    /// `image_not_found`, `image_too_large` (before anything is read), `forbidden_location` (a link that leads out of the
    /// folder), `storage_denied` or `storage_unavailable`.
    pub(crate) async fn read(&self, path: &Path, limit: u64, room: &Pool) -> Result<Read, Failure> {
        match &self.place {
            Place::Bucket(bucket) => bucket.read(path, limit, room, &self.reads).await,
            Place::Folder { root, .. } => folder::read(self, root, path, limit, room).await,
        }
    }

    /// Checks that the store exists and grants access.
    ///
    /// # Errors
    /// `image_not_found` if the bucket or folder does not exist, `storage_denied` or `storage_unavailable`.
    pub(crate) async fn probe(&self) -> Result<(), Failure> {
        match &self.place {
            Place::Bucket(bucket) => bucket.probe().await,
            Place::Folder { root, .. } => folder::probe(self, root).await,
        }
    }
}

/// Failure of an image with more bytes than the limit.
pub(crate) fn too_large(size: u64, limit: u64) -> Failure {
    Failure::new(
        Code::ImageTooLarge,
        format!("the image has {size} bytes, over the limit of {limit} (--max-image-bytes)"),
    )
}

/// Name of an object in errors; the empty path names the store itself.
fn what(path: &Path, store: &impl fmt::Display) -> String {
    if path.as_ref().is_empty() { store.to_string() } else { format!("`{path}` in {store}") }
}

fn not_found(path: &Path, store: &impl fmt::Display) -> Failure {
    Failure::new(Code::ImageNotFound, format!("{} does not exist", what(path, store)))
}

fn denied(path: &Path, store: &impl fmt::Display, error: &dyn fmt::Display) -> Failure {
    let what = what(path, store);
    Failure::new(
        Code::StorageDenied,
        format!("access to {what} is refused ({error}); check its credentials and permissions"),
    )
}

fn unavailable(path: &Path, store: &impl fmt::Display, error: &dyn fmt::Display) -> Failure {
    Failure::new(Code::StorageUnavailable, format!("{} can't be read: {error}", what(path, store)))
}

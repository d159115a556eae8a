//! The configured stores: the only places images are read from.

pub(crate) mod file;
mod folder;
mod head;
pub(crate) mod inline;
pub(crate) mod list;
pub(crate) mod location;
mod open;
pub(crate) mod outage;
pub(crate) mod suffix;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::failure::{Code, Failure};
use crate::memory::{Reservation, Share};

use head::HeadBucket;
pub(crate) use open::InvalidStore;
use outage::Outage;

/// One store: a bucket, or a folder.
#[derive(Clone)]
pub(crate) struct Store {
    place: Place,
    objects: Arc<dyn ObjectStore>,
    outage: Outage,
}

#[derive(Clone)]
enum Place {
    /// Objects of a bucket whose keys start with the prefix.
    Bucket { bucket: String, prefix: Path, head: HeadBucket },
    /// Files below a folder: its path with links followed, and as the operator has it.
    Folder { root: Arc<std::path::Path>, named: Arc<std::path::Path> },
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Bucket { bucket, prefix, .. } if prefix.as_ref().is_empty() => write!(f, "s3://{bucket}"),
            Place::Bucket { bucket, prefix, .. } => write!(f, "s3://{bucket}/{prefix}"),
            Place::Folder { root, .. } => write!(f, "file://{}", root.display()),
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({self})")
    }
}

/// An object that was read.
pub(crate) struct Read {
    /// All of it.
    pub bytes: Bytes,
    /// Room for it.
    pub reserved: Reservation,
    /// How long the store took to begin its answer.
    pub first_byte: Duration,
}

impl Store {
    /// Reads an object of at most `limit` bytes whole, once there is room for it.
    ///
    /// # Errors
    /// `image_not_found`, `image_too_large` (known before anything is read), `forbidden_location` (a link that leads out of
    /// the folder), `storage_denied` or `storage_unavailable`.
    pub(crate) async fn read(&self, path: &Path, limit: u64, room: &Share) -> Result<Read, Failure> {
        if let Place::Folder { root, .. } = &self.place {
            return folder::read(self, root, path, limit, room).await;
        }
        let failed = |error| failure(path, self, &error);
        let asked = Instant::now();
        let object = self.objects.get(path).await.map_err(failed)?;
        let first_byte = asked.elapsed();
        let size = object.meta.size;
        if size > limit {
            return Err(too_large(size, limit));
        }
        if let Some(reserved) = room.try_reserve(size) {
            return Ok(Read { bytes: object.bytes().await.map_err(failed)?, reserved, first_byte });
        }
        // An open read would be given up meanwhile, by us or by the store.
        drop(object);
        let reserved = room.reserve(size).await?;
        let object = self.objects.get(path).await.map_err(failed)?;
        if object.meta.size > size {
            return Err(unavailable(path, self, &"it has grown while it was waited for"));
        }
        Ok(Read { bytes: object.bytes().await.map_err(failed)?, reserved, first_byte })
    }

    /// Asks whether the store is there and lets us in.
    ///
    /// # Errors
    /// `image_not_found` where the bucket or folder does not exist, `storage_denied` or `storage_unavailable`.
    pub(crate) async fn probe(&self) -> Result<(), Failure> {
        match &self.place {
            Place::Folder { root, .. } => match tokio::fs::read_dir(root).await {
                Ok(_) => Ok(()),
                Err(error) => Err(io_failure(&Path::default(), self, &error)),
            },
            Place::Bucket { head, .. } => head.ask(self).await,
        }
    }
}

fn io_failure(path: &Path, store: &Store, error: &std::io::Error) -> Failure {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename => not_found(path, store),
        ErrorKind::PermissionDenied => denied(path, store, error),
        _ => unavailable(path, store, error),
    }
}

fn failure(path: &Path, store: &Store, error: &object_store::Error) -> Failure {
    use object_store::Error;
    match error {
        Error::NotFound { .. } => not_found(path, store),
        Error::PermissionDenied { source, .. } | Error::Unauthenticated { source, .. } => denied(path, store, source),
        other => match file_error(store, other) {
            Some(error) => io_failure(path, store, error),
            None => unavailable(path, store, other),
        },
    }
}

/// Why the file system refuses to list a folder, which the object store crate hides in an error of its own.
fn file_error<'a>(store: &Store, error: &'a object_store::Error) -> Option<&'a std::io::Error> {
    if matches!(store.place, Place::Bucket { .. }) {
        return None;
    }
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |error| error.source()).find_map(|error| error.downcast_ref())
}

/// More bytes than allowed, whatever they are.
pub(crate) fn too_large(size: u64, limit: u64) -> Failure {
    Failure::new(
        Code::ImageTooLarge,
        format!("the image has {size} bytes, over the limit of {limit} (--max-image-bytes)"),
    )
}

/// What is spoken of: an object, or with no path the store itself.
fn what(path: &Path, store: &Store) -> String {
    if path.as_ref().is_empty() { store.to_string() } else { format!("`{path}` in {store}") }
}

fn not_found(path: &Path, store: &Store) -> Failure {
    Failure::new(Code::ImageNotFound, format!("{} does not exist", what(path, store)))
}

fn denied(path: &Path, store: &Store, error: &dyn fmt::Display) -> Failure {
    let what = what(path, store);
    Failure::new(
        Code::StorageDenied,
        format!("access to {what} is refused ({error}); check its credentials and permissions"),
    )
}

fn unavailable(path: &Path, store: &Store, error: &dyn fmt::Display) -> Failure {
    Failure::new(Code::StorageUnavailable, format!("{} can't be read: {error}", what(path, store)))
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn what_may_not_be_read_or_listed_is_denied_and_not_the_folders_trouble() {
        let folder = tempfile::tempdir().expect("a folder");
        let store: Store = format!("file://{}", folder.path().display()).parse().expect("a store");
        let code = |kind: ErrorKind| {
            // As the object store crate passes on what it has no word for.
            let error = object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(Error::from(kind)) };
            let listing = failure(&Path::from("a.jpg"), &store, &error).code;
            assert_eq!(io_failure(&Path::from("a.jpg"), &store, &Error::from(kind)).code, listing);
            listing
        };
        assert_eq!(code(ErrorKind::PermissionDenied), Code::StorageDenied);
        assert_eq!(code(ErrorKind::InvalidData), Code::StorageUnavailable);
    }
}

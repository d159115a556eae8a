//! Files that were named by whoever may read them, and so need no store.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::too_large;
use crate::failure::{Code, Failure};
use crate::memory::{Reservation, Share};

/// Reads a file of at most `limit` bytes whole, once there is room for it.
///
/// # Errors
/// `image_not_found`, `image_too_large` (known before anything is read), `storage_denied` or `storage_unavailable`.
pub(crate) async fn read(path: PathBuf, limit: u64, room: &Share) -> Result<(Bytes, Reservation), Failure> {
    let size = size(&path).map_err(|error| failure(&path, &error))?;
    if size > limit {
        return Err(too_large(size, limit));
    }
    let reserved = room.reserve(size).await?;
    let reading = tokio::task::spawn_blocking(move || {
        whole(&path, size).map(Bytes::from).map_err(|error| failure(&path, &error))
    });
    let bytes = reading.await.unwrap_or_else(|error| {
        Err(Failure::new(Code::StorageUnavailable, format!("reading a file came to nothing: {error}")))
    })?;
    Ok((bytes, reserved))
}

/// Of a file and nothing else: a pipe would be waited for, a folder can't be read.
fn size(path: &Path) -> std::io::Result<u64> {
    let metadata = path.metadata()?;
    if metadata.is_file() { Ok(metadata.len()) } else { Err(std::io::Error::other("it is no file")) }
}

/// No more than there is room for, should it have grown.
fn whole(path: &Path, size: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    File::open(path)?.take(size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What an error of the file system means for an image.
pub(crate) fn failure(path: &Path, error: &std::io::Error) -> Failure {
    let code = match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Code::ImageNotFound,
        ErrorKind::PermissionDenied => Code::StorageDenied,
        _ => Code::StorageUnavailable,
    };
    Failure::new(code, format!("`{}` can't be read: {error}", path.display()))
}

//! Reads whole files on blocking threads. A file takes one call of such a thread, unless it must wait for memory.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use tracing::Span;

use super::reads::Reads;
use super::{Read, too_large};
use crate::failure::{Code, Failure};
use crate::memory::Pool;

/// File to read.
pub(super) trait Source: Clone + Send + 'static {
    /// Opens the file; may block. Fails if it is not a regular file: opening a pipe would wait for a writer.
    fn open(&self) -> Result<File, Failure>;

    /// Failure for an error of the file system.
    fn failure(&self, error: &io::Error) -> Failure;
}

/// File named by a user who may read it; it needs no store.
#[derive(Clone)]
struct Named(PathBuf);

impl Source for Named {
    fn open(&self) -> Result<File, Failure> {
        let failed = |error| self.failure(&error);
        if !self.0.metadata().map_err(failed)?.is_file() {
            return Err(Failure::new(Code::ImageNotFound, format!("`{}` is no file", self.0.display())));
        }
        File::open(&self.0).map_err(failed)
    }

    fn failure(&self, error: &io::Error) -> Failure {
        failure(&self.0, error)
    }
}

/// Failure for a file system error on an image in a file.
pub(crate) fn failure(path: &Path, error: &io::Error) -> Failure {
    let code = match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename => Code::ImageNotFound,
        ErrorKind::PermissionDenied => Code::StorageDenied,
        _ => Code::StorageUnavailable,
    };
    Failure::new(code, format!("`{}` can't be read: {error}", path.display()))
}

/// Reads a whole file of at most `limit` bytes, after it has reserved memory for it. The file may be outside the stores,
/// because a user who may read it has named it.
///
/// # Errors
/// `image_not_found`, `image_too_large` (before anything is read), `storage_denied` or `storage_unavailable`.
pub(crate) async fn read(path: PathBuf, limit: u64, room: &Pool) -> Result<Read, Failure> {
    read_from(Named(path), limit, room, None).await
}

/// Reads a whole file from any [`Source`], as [`read`].
///
/// A file of a store takes one slot of the store's `reads`, but not while it waits for memory.
pub(super) async fn read_from(
    source: impl Source,
    limit: u64,
    room: &Pool,
    reads: Option<&Reads>,
) -> Result<Read, Failure> {
    let slot = async || match reads {
        Some(reads) => Some(reads.acquire(room.priority()).await),
        None => None,
    };
    let reading = slot().await;
    let asked = Instant::now();
    let (again, here) = (source.clone(), room.clone());
    let read_at_once = move || {
        let file = source.open()?;
        let size = file.metadata().map_err(|error| source.failure(&error))?.len();
        if size > limit {
            return Err(too_large(size, limit));
        }
        let first_byte = asked.elapsed();
        let Some(reserved) = here.try_reserve(size) else { return Ok(Err((size, first_byte))) };
        let bytes = whole(&file, size).map_err(|error| source.failure(&error))?.into();
        Ok(Ok(Read { bytes, reserved, first_byte }))
    };
    let (size, first_byte) = match blocking(read_at_once).await? {
        Ok(read) => return Ok(read),
        Err(no_room) => no_room,
    };
    // Closes the file during the wait, because many reads may wait.
    drop(reading);
    let reserved = room.reserve(size).await?;
    let _reading = slot().await;
    blocking(move || {
        let bytes = whole(&again.open()?, size).map_err(|error| again.failure(&error))?.into();
        Ok(Read { bytes, reserved, first_byte })
    })
    .await
}

async fn blocking<T: Send + 'static>(read: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    let span = Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(read)).await.unwrap_or_else(|error| {
        Err(Failure::new(Code::StorageUnavailable, format!("reading a file came to nothing: {error}")))
    })
}

/// Reads a file of `size` bytes, for which memory is reserved. Fails if its size has changed.
fn whole(file: &File, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    file.take(size).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != size || file.metadata()?.len() != size {
        return Err(io::Error::other("its size changed while it was read"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Budget;

    /// A file of five bytes, and memory for it.
    fn image() -> (tempfile::TempDir, PathBuf, Pool) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.jpg");
        std::fs::write(&path, b"image").expect("written");
        (folder, path, Budget::new(1 << 20).encoded)
    }

    #[tokio::test]
    async fn a_file_is_read_whole_and_what_changes_meanwhile_is_tried_again() {
        let (_folder, path, room) = image();
        let read = read(path.clone(), 5, &room).await.expect("it is read");
        assert_eq!(&*read.bytes, b"image");
        for size in [4, 6] {
            let changed = whole(&File::open(&path).expect("open"), size).expect_err("another size");
            assert_eq!(failure(&path, &changed).code, Code::StorageUnavailable);
        }
    }

    #[tokio::test]
    async fn where_there_is_no_room_a_file_waits_for_it() {
        let (_folder, path, room) = image();
        let all = room.try_reserve(room.total()).expect("all of it");
        let mut reading = std::pin::pin!(read(path, 5, &room));
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(50), &mut reading).await;
        assert!(waiting.is_err(), "there is no room");
        drop(all);
        assert_eq!(&*reading.await.expect("it is read").bytes, b"image");
    }
}

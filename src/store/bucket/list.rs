//! What a bucket holds, and copies of it on disk.

use std::path::Path as FilePath;

use futures_util::{Stream, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::io::AsyncWriteExt;

use super::super::unavailable;
use super::{Bucket, failure};
use crate::failure::Failure;

/// An object of a bucket.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    /// Its key.
    pub path: Path,
    /// Its key below the bucket's prefix.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// Changes with what it holds.
    pub version: String,
}

impl Bucket {
    /// Everything in the bucket, below its prefix.
    ///
    /// # Errors
    /// `storage_denied` or `storage_unavailable`.
    pub(crate) async fn list(&self) -> Result<Vec<Listed>, Failure> {
        self.listing(None).try_collect().await
    }

    /// The same as it is listed, a page at a time, in the server's order, which should be that of keys; only what comes after
    /// `after`, if that is said.
    ///
    /// # Errors
    /// `storage_denied` or `storage_unavailable`, once, and then no more comes.
    pub(crate) fn listing(&self, after: Option<&Path>) -> impl Stream<Item = Result<Listed, Failure>> + Send + '_ {
        let prefix = self.prefix.clone();
        let objects = match after {
            Some(after) => self.objects.list_with_offset(Some(&prefix), after),
            None => self.objects.list(Some(&prefix)),
        };
        let below = prefix.clone();
        objects
            .map_ok(move |object| Listed {
                name: object
                    .location
                    .as_ref()
                    .strip_prefix(below.as_ref())
                    .unwrap_or_default()
                    .trim_start_matches('/')
                    .to_owned(),
                size: object.size,
                version: object.e_tag.unwrap_or_else(|| object.last_modified.to_rfc3339()),
                path: object.location,
            })
            .map_err(move |error| failure(&prefix, self, &error))
    }

    /// As a job names an object.
    #[must_use]
    pub(crate) fn location_of(&self, path: &Path) -> String {
        format!("s3://{}/{path}", self.name)
    }

    /// Writes an object of `size` bytes to a file, which must not be there.
    ///
    /// # Errors
    /// As for reading; and `storage_unavailable` where the file can't be written or the object has another size.
    pub(crate) async fn copy_to(&self, path: &Path, file: &FilePath, size: u64) -> Result<(), Failure> {
        let not_written = |error: std::io::Error| unavailable(path, self, &format_args!("{}: {error}", file.display()));
        let mut copy = tokio::fs::File::create_new(file).await.map_err(not_written)?;
        let object = self.objects.get(path).await.map_err(|error| failure(path, self, &error))?;
        let mut bytes = object.into_stream();
        let mut written = 0;
        while let Some(chunk) = bytes.try_next().await.map_err(|error| failure(path, self, &error))? {
            written += chunk.len() as u64;
            if written > size {
                break;
            }
            copy.write_all(&chunk).await.map_err(not_written)?;
        }
        if written != size {
            return Err(unavailable(path, self, &format_args!("it has not the {size} bytes that were listed")));
        }
        copy.sync_all().await.map_err(not_written)
    }
}

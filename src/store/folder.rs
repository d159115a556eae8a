//! Objects of a folder, which are files below it.

use std::io;
use std::path::{Path as FilePath, PathBuf};

use object_store::path::Path;

use super::file::{Names, read_named};
use super::{Read, Store, io_failure, what};
use crate::failure::{Code, Failure};
use crate::memory::Share;

/// A file of a folder store.
#[derive(Clone)]
struct InFolder {
    store: Store,
    folder: PathBuf,
    path: Path,
}

/// Reads a file of the folder of `store`, as [`Store::read`].
pub(super) async fn read(
    store: &Store,
    folder: &FilePath,
    path: &Path,
    limit: u64,
    room: &Share,
) -> Result<Read, Failure> {
    read_named(InFolder { store: store.clone(), folder: folder.to_owned(), path: path.clone() }, limit, room).await
}

impl Names for InFolder {
    /// Follows links, and sees that what they lead to is still inside.
    fn find(&self) -> Result<PathBuf, Failure> {
        let Self { store, folder, path } = self;
        let real = folder.join(path.as_ref()).canonicalize().map_err(|error| self.failure(&error))?;
        if !real.starts_with(folder) {
            let message = format!("`{path}` is a link that leads out of the store {store}");
            return Err(Failure::new(Code::ForbiddenLocation, message));
        }
        if !real.metadata().map_err(|error| self.failure(&error))?.is_file() {
            return Err(Failure::new(Code::ImageNotFound, format!("{} is no file", what(path, store))));
        }
        Ok(real)
    }

    fn failure(&self, error: &io::Error) -> Failure {
        io_failure(&self.path, &self.store, error)
    }
}

//! Objects of a folder: the files below it.

use std::fs::File;
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use object_store::path::Path;
use url::Url;

use super::file::{Source, read_from};
use super::{InvalidStore, Place, Read, Store, denied, not_found, unavailable, what, without_login};
use crate::failure::{Code, Failure};
use crate::memory::Pool;

/// A file of a folder store.
#[derive(Clone)]
struct InFolder {
    store: Store,
    folder: Arc<FilePath>,
    path: Path,
}

/// Reads a file of the folder of `store`, as [`Store::read`].
pub(super) async fn read(
    store: &Store,
    folder: &Arc<FilePath>,
    path: &Path,
    limit: u64,
    room: &Pool,
) -> Result<Read, Failure> {
    let file = InFolder { store: store.clone(), folder: Arc::clone(folder), path: path.clone() };
    read_from(file, limit, room, Some(&store.reads)).await
}

/// Opens the folder at a URL.
pub(super) fn open(url: &str) -> Result<Place, InvalidStore> {
    let malformed = || InvalidStore::Url(without_login(url));
    let folder = Url::parse(url).map_err(|_| malformed())?;
    let folder = if folder.scheme() == "file" { folder.to_file_path().ok() } else { None };
    let named = folder.ok_or_else(malformed)?;
    let unusable = |source| InvalidStore::Folder { url: url.to_owned(), source };
    let root = named.canonicalize().map_err(unusable)?;
    std::fs::read_dir(&root).map_err(unusable)?;
    Ok(Place::Folder { root: root.into(), named: named.into() })
}

/// Checks that the folder of `store` exists, as [`Store::probe`].
pub(super) async fn probe(store: &Store, folder: &FilePath) -> Result<(), Failure> {
    let listed = tokio::fs::read_dir(folder).await;
    listed.map(drop).map_err(|error| failure(&Path::default(), store, &error))
}

fn failure(path: &Path, store: &Store, error: &io::Error) -> Failure {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename => not_found(path, store),
        ErrorKind::PermissionDenied => denied(path, store, error),
        _ => unavailable(path, store, error),
    }
}

impl InFolder {
    /// Path of the file with links followed. Fails if that is outside the folder or not a regular file.
    fn find(&self) -> Result<PathBuf, Failure> {
        let failed = |error| self.failure(&error);
        let file = self.folder.join(self.path.as_ref()).canonicalize().map_err(failed)?;
        self.inside(&file)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(Failure::new(Code::ImageNotFound, format!("{} is no file", what(&self.path, &self.store))));
        }
        Ok(file)
    }

    fn inside(&self, file: &FilePath) -> Result<(), Failure> {
        let Self { store, folder, path } = self;
        if file.starts_with(&**folder) {
            return Ok(());
        }
        let message = format!("`{path}` is a link that leads out of the store {store}");
        Err(Failure::new(Code::ForbiddenLocation, message))
    }
}

impl Source for InFolder {
    fn open(&self) -> Result<File, Failure> {
        let opened = without_waiting(&self.find()?).map_err(|error| self.failure(&error))?;
        // The path may have become a link since it was checked.
        if let Some(file) = path_of(&opened) {
            self.inside(&file)?;
        }
        Ok(opened)
    }

    fn failure(&self, error: &io::Error) -> Failure {
        failure(&self.path, &self.store, error)
    }
}

/// Opens a file without blocking. A path that has become a pipe since it was checked opens without a writer and is empty.
#[cfg(target_os = "linux")]
fn without_waiting(file: &FilePath) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    File::options().read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed()).open(file)
}

/// Actual path of an open file, if the system reports it.
#[cfg(target_os = "linux")]
fn path_of(file: &File) -> Option<PathBuf> {
    use std::os::fd::AsRawFd;

    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

#[cfg(not(target_os = "linux"))]
fn without_waiting(file: &FilePath) -> io::Result<File> {
    File::open(file)
}

#[cfg(not(target_os = "linux"))]
fn path_of(_: &File) -> Option<PathBuf> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, InFolder) {
        let folder = tempfile::tempdir().expect("a folder");
        let store: Store = format!("file://{}", folder.path().display()).parse().expect("a store");
        let root = folder.path().canonicalize().expect("it is there");
        (folder, InFolder { store, folder: root.into(), path: Path::from("a.jpg") })
    }

    #[test]
    fn a_link_to_another_file_of_the_folder_is_followed() {
        let (folder, source) = store();
        std::fs::write(folder.path().join("b.jpg"), b"image").expect("written");
        std::os::unix::fs::symlink(folder.path().join("b.jpg"), folder.path().join("a.jpg")).expect("a link");
        assert_eq!(source.open().expect("it is inside").metadata().expect("its size").len(), 5);
    }

    #[test]
    fn what_may_not_be_read_is_denied_and_not_the_folders_trouble() {
        let (_folder, source) = store();
        let code = |kind: io::ErrorKind| source.failure(&kind.into()).code;
        assert_eq!(code(io::ErrorKind::PermissionDenied), Code::StorageDenied);
        assert_eq!(code(io::ErrorKind::InvalidData), Code::StorageUnavailable);
    }

    #[test]
    fn what_no_file_can_be_called_is_not_found_and_no_trouble_of_the_folder() {
        let (_folder, mut source) = store();
        source.path = Path::from("a".repeat(300));
        assert_eq!(source.open().expect_err("too long").code, Code::ImageNotFound);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_was_opened_says_where_it_is_and_a_pipe_does_not_wait() {
        let (folder, source) = store();
        let outside = tempfile::NamedTempFile::new().expect("a file");
        let opened = path_of(&without_waiting(outside.path()).expect("it opens")).expect("it has a path");
        assert_eq!(source.inside(&opened).expect_err("outside").code, Code::ForbiddenLocation);
        let pipe = folder.path().join("pipe.jpg");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
        assert_eq!(without_waiting(&pipe).expect("it opens").metadata().expect("it has some").len(), 0);
    }
}

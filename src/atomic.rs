//! Atomic replacement of files and folders: readers see the old content or the new one, never a part of it.

use std::io::{self, Write};
use std::path::Path;

use tempfile::{Builder, NamedTempFile, PersistError, TempDir};

/// Atomically replaces or creates a file, even if the process ends meanwhile. The file is not synced, so that a power
/// failure may undo the change: syncing each of a million sidecars would take longer than tagging their images.
///
/// # Errors
/// If the folder is missing or not writable.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    persist(temporary_file(path, content)?, path)
}

/// Creates a file, and returns `false` if there is one of this name, made in this very moment perhaps; that one stays.
///
/// # Errors
/// If the folder is missing or not writable.
pub(crate) fn create(path: &Path, content: &[u8]) -> io::Result<bool> {
    let Err(PersistError { error, file }) = temporary_file(path, content)?.persist_noclobber(path) else {
        return Ok(true);
    };
    if let Ok(found) = path.symlink_metadata() {
        return if found.is_dir() { Err(error) } else { Ok(false) };
    }
    // Some file systems can neither link a file nor rename it to a free name alone.
    persist(file, path).map(|()| true)
}

/// Atomically replaces or creates a file with the output of `fill`. The file is synced when this returns.
///
/// # Errors
/// If the folder is missing or not writable; errors of `fill`.
pub(crate) fn write_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut buffered = io::BufWriter::new(temporary_file(path, b"")?);
    fill(&mut buffered)?;
    let written = buffered.into_inner()?;
    written.as_file().sync_data()?;
    persist(written, path)
}

/// Creates an empty folder beside `place` with a name that starts with `prefix`. It is removed with its content on drop.
///
/// # Errors
/// If the parent folder is missing or not writable.
pub(crate) fn folder_beside(place: &Path, prefix: &str) -> io::Result<TempDir> {
    builder(prefix, 0o777).tempdir_in(parent(place))
}

/// Creates a temporary file. Its name is short: one that contains the target's name could be too long for the file system.
fn temporary_file(path: &Path, content: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = builder(".tagmill-", 0o666).suffix(".part").tempfile_in(parent(path))?;
    file.write_all(content)?;
    Ok(file)
}

fn persist(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.persist(path).map(drop).map_err(|error| error.error)
}

/// Builder of temporary names with these permissions less the umask, as for other files and folders. The default of
/// temporary files is private.
fn builder(prefix: &str, mode: u32) -> Builder<'_, 'static> {
    let mut builder = Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    builder
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder").flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn writing_replaces_and_leaves_nothing_else_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.txt");
        for text in ["one", "two"] {
            write(&path, text.as_bytes()).expect("it is written");
            assert_eq!(fs::read_to_string(&path).expect("text"), text);
        }
        write_with(&path, |file| file.write_all(b"three")).expect("it is written");
        assert_eq!(fs::read_to_string(&path).expect("text"), "three");
        assert!(write(&folder.path().join("none/a.txt"), b"").is_err());
        fs::create_dir(folder.path().join("b.txt")).expect("a folder");
        assert!(write(&folder.path().join("b.txt"), b"").is_err());
        assert_eq!(names(folder.path()), ["a.txt", "b.txt"]);
    }

    #[test]
    fn what_exists_is_not_created_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.txt");
        assert!(create(&path, b"one").expect("it is free"));
        assert!(!create(&path, b"two").expect("it is not"));
        assert_eq!(fs::read_to_string(&path).expect("text"), "one");
        let link = folder.path().join("b.txt");
        std::os::unix::fs::symlink(folder.path().join("nowhere"), &link).expect("a link");
        assert!(!create(&link, b"two").expect("a link that leads nowhere is a name too"));
        assert!(create(&folder.path().join("none/a.txt"), b"").is_err() && create(folder.path(), b"").is_err());
        assert_eq!(names(folder.path()), ["a.txt", "b.txt"]);
    }

    #[test]
    fn the_longest_name_can_be_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x".repeat(255));
        write(&path, b"tags").expect("it is written");
        assert_eq!(fs::read(&path).expect("a file"), b"tags");
    }

    #[cfg(unix)]
    #[test]
    fn files_and_folders_have_the_usual_permissions() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let mode = |name: &str| fs::metadata(at(name)).expect("there").permissions().mode();
        fs::write(at("usual.txt"), "").expect("a file");
        write(&at("a.txt"), b"").expect("a file");
        assert_eq!(mode("a.txt"), mode("usual.txt"));
        fs::create_dir(at("usual")).expect("a folder");
        let fresh = folder_beside(&at("a"), ".new-").expect("a folder");
        let name = fresh.path().file_name().expect("a name").to_string_lossy().into_owned();
        assert_eq!(mode(&name), mode("usual"));
    }
}

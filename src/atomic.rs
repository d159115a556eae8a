//! Atomic replacement of files and folders: readers see the old content or the new one, never a part of it.

use std::io::{self, Write};
use std::path::Path;

use tempfile::{Builder, NamedTempFile, TempDir};

/// Replaces or creates a file, whatever happens to the process meanwhile. It is not synced: a loss of power may undo it, but to
/// sync each of a million sidecars takes longer than to tag their images.
///
/// # Errors
/// If the folder is missing or not writable.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    persist(temporary_file(path, content)?, path)
}

/// Replaces or creates a file with what `fill` writes; it is on the disk when this returns.
///
/// # Errors
/// If the folder is missing or not writable; and those of `fill`.
pub(crate) fn write_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut buffered = io::BufWriter::new(temporary_file(path, b"")?);
    fill(&mut buffered)?;
    let written = buffered.into_inner()?;
    written.as_file().sync_data()?;
    persist(written, path)
}

/// Empty folder beside `place`, whose name starts with `prefix`. Dropped, it is removed with its content.
///
/// # Errors
/// If the parent folder is missing or not writable.
pub(crate) fn folder_beside(place: &Path, prefix: &str) -> io::Result<TempDir> {
    builder(prefix, 0o777).tempdir_in(parent(place))
}

/// Its name is short: one with the target's name in it could be too long for the file system.
fn temporary_file(path: &Path, content: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = builder(".tagmill-", 0o666).suffix(".part").tempfile_in(parent(path))?;
    file.write_all(content)?;
    Ok(file)
}

fn persist(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.persist(path).map(drop).map_err(|error| error.error)
}

/// Temporary names with these permissions less the umask, as other files and folders have, and not the private ones that
/// temporary files have by default.
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

//! The files of a folder and the folders in it, by name. However many a folder holds, only some of their names are in memory
//! at a time: they are looked through again for the next.

use std::collections::BinaryHeap;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{Feed, Place, Stopped, file_url};
use crate::command::select::{Selection, Visited, outside, spelled};

/// Names of one folder in memory.
const NAMES: usize = 50_000;

pub(super) fn feed(root: &Path, feed: &Feed) -> Result<(), Stopped> {
    for file in Walk::new(root, NAMES, &feed.maker.selection) {
        let file = file?;
        let name = below(&file, root);
        if !feed.maker.selection.takes_file(&name, &file) {
            continue;
        }
        let version = match file.metadata() {
            Ok(metadata) => version(&metadata),
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(anyhow::Error::from(error).context(format!("{}", file.display())).into()),
        };
        let url = file_url(&file)?;
        feed.send_blocking(feed.maker.job(&name, &url), &version, Place::File(url))?;
    }
    Ok(())
}

/// The name of a file or folder in the outermost.
fn below(path: &Path, root: &Path) -> String {
    match path.strip_prefix(root) {
        Ok(name) if name.to_str().is_some() => spelled(name),
        _ => spelled(path),
    }
}

/// Changes with what the file holds.
pub(super) fn version(metadata: &Metadata) -> String {
    format!("{}.{}-{}", metadata.mtime(), metadata.mtime_nsec(), metadata.len())
}

/// The files below a folder. A link to a folder elsewhere is followed, unless that was looked through before.
struct Walk<'a> {
    root: &'a Path,
    selection: &'a Selection,
    visited: Visited,
    /// From the outermost to the one that is read now.
    folders: Vec<Folder>,
    /// Names in memory at most, of each.
    names: usize,
}

struct Folder {
    path: PathBuf,
    /// The next names, the first at the end.
    next: Vec<Entry>,
    /// The last name that was in `next`.
    last: Option<OsString>,
    /// Whether there may be more after it.
    more: bool,
}

/// By name first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    name: OsString,
    is_folder: bool,
}

impl<'a> Walk<'a> {
    fn new(root: &'a Path, names: usize, selection: &'a Selection) -> Self {
        let mut visited = Visited::default();
        visited.is_new(root);
        Self { root, selection, visited, folders: vec![Folder::new(root.to_owned())], names }
    }

    /// Returns `true` if a folder in another one is looked through.
    fn enters(&mut self, folder: &Path) -> bool {
        let name = below(folder, self.root);
        if folder.is_symlink() && outside(folder, self.root).is_none() {
            self.selection.passes_link(&name);
            return false;
        }
        self.visited.is_new(folder) && self.selection.enters(&name)
    }
}

impl Iterator for Walk<'_> {
    type Item = anyhow::Result<PathBuf>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let folder = self.folders.last_mut()?;
            match folder.next.pop() {
                Some(Entry { name, is_folder: false }) => return Some(Ok(folder.path.join(name))),
                Some(Entry { name, is_folder: true }) => {
                    let inner = folder.path.join(name);
                    if self.enters(&inner) {
                        self.folders.push(Folder::new(inner));
                    }
                }
                None if folder.more => {
                    if let Err(error) = folder.look(self.names) {
                        let message = format!("the folder {} can't be read", folder.path.display());
                        self.folders.clear();
                        return Some(Err(error).context(message));
                    }
                }
                None => {
                    self.folders.pop();
                }
            }
        }
    }
}

impl Folder {
    const fn new(path: PathBuf) -> Self {
        Self { path, next: Vec::new(), last: None, more: true }
    }

    /// Looks through the folder for the first so many names after the last.
    fn look(&mut self, most: usize) -> std::io::Result<()> {
        let mut first = BinaryHeap::new();
        self.more = false;
        let entries = match std::fs::read_dir(&self.path) {
            // Removed since its name was read.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if self.last.as_ref().is_some_and(|last| name <= *last) {
                continue;
            }
            if first.len() == most && first.peek().is_some_and(|last: &Entry| last.name < name) {
                self.more = true;
                continue;
            }
            let Some(is_folder) = is_folder(&entry)? else { continue };
            first.push(Entry { name, is_folder });
            if first.len() > most {
                first.pop();
                self.more = true;
            }
        }
        self.next = first.into_sorted_vec();
        if let Some(last) = self.next.last() {
            self.last = Some(last.name.clone());
        }
        self.next.reverse();
        Ok(())
    }
}

/// `None` for what is neither a file nor a folder. A link is what it leads to.
fn is_folder(entry: &std::fs::DirEntry) -> std::io::Result<Option<bool>> {
    let kind = entry.file_type()?;
    if kind.is_symlink() {
        let found = entry.path().metadata().ok().filter(|found| found.is_file() || found.is_dir());
        return Ok(found.map(|found| found.is_dir()));
    }
    Ok((kind.is_file() || kind.is_dir()).then_some(kind.is_dir()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::select::SelectArgs;

    fn files(root: &Path, names: usize) -> Vec<String> {
        let selection = Selection::new(&SelectArgs::default());
        let files = Walk::new(root, names, &selection).map(|file| file.expect("it can be read"));
        files.map(|file| file.strip_prefix(root).expect("inside").display().to_string()).collect()
    }

    #[test]
    fn links_to_folders_are_followed_once_and_circles_cut() {
        let [folder, elsewhere] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let root = folder.path();
        std::fs::create_dir(root.join("b")).expect("a folder");
        std::fs::write(root.join("b/1"), "").expect("a file");
        std::fs::write(elsewhere.path().join("2"), "").expect("a file");
        let link = |target: &Path, name: &str| std::os::unix::fs::symlink(target, root.join(name)).expect("a link");
        link(root, "b/round");
        link(&root.join("b"), "a");
        link(elsewhere.path(), "c");
        link(elsewhere.path(), "d");
        std::os::unix::fs::symlink(root, elsewhere.path().join("back")).expect("a link");
        assert_eq!(files(root, 2), ["b/1", "c/2"]);
        std::fs::create_dir(root.join("@eaDir")).expect("a folder");
        std::fs::write(root.join("@eaDir/1"), "").expect("a file");
        assert_eq!(files(root, 2), ["b/1", "c/2"]);
    }

    #[test]
    fn files_come_by_name_whatever_is_in_memory() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        let all = ["a/1", "a/2/x", "a/2/y", "a/3", "a.b", "b", "c/1", "d", "e", "f/g/h/i"];
        for name in all {
            let file = root.join(name);
            std::fs::create_dir_all(file.parent().expect("the root")).expect("a folder");
            std::fs::write(file, "").expect("a file");
        }
        std::fs::create_dir(root.join("empty")).expect("a folder");
        std::os::unix::fs::symlink(root.join("a"), root.join("round")).expect("a link");
        std::os::unix::fs::symlink(root.join("nowhere"), root.join("broken")).expect("a link");
        for names in [1, 2, 3, 100] {
            assert_eq!(files(root, names), all, "{names}");
        }
        std::fs::remove_dir_all(root.join("a")).expect("it goes");
        std::os::unix::fs::symlink(root.join("b"), root.join("link")).expect("a link");
        assert_eq!(files(root, 2), ["a.b", "b", "c/1", "d", "e", "f/g/h/i", "link"]);
    }
}

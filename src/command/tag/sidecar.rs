//! Files beside images, written whole or not at all.

use std::collections::HashMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::cli::tag::Sidecar;
use crate::source::local::Image;
use crate::text;

/// The file beside an image, if that is one itself: `name.txt` for `name.jpg`.
pub(super) fn of(image: &Image, kind: Sidecar) -> Option<PathBuf> {
    image.path.as_ref().map(|path| path.with_extension(kind.extension()))
}

/// Which image each of the files of a run belongs to: of two with names that differ in the suffix alone, the second would
/// overwrite what was written for the first.
#[derive(Default)]
pub(super) struct Claims {
    /// Hashes of files, and of their images: names would be much to remember.
    images: Mutex<HashMap<u64, u64>>,
    hash: RandomState,
}

impl Claims {
    /// Whether the file at `target` is this image's, and no other's.
    pub(super) fn take(&self, target: &Path, image: &Path) -> bool {
        let image = self.hash(image);
        let mut images = self.images.lock();
        *images.entry(self.hash(target)).or_insert(image) == image
    }

    /// The same for all names of a file that differ in where they are seen from.
    fn hash(&self, path: &Path) -> u64 {
        self.hash.hash_one(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
    }
}

/// A caption after one that is there: its tags, in one line or several, and those of the new one that it lacks.
///
/// # Errors
/// Where the old one can't be read; [`ErrorKind::InvalidData`] where it is no text.
pub(super) fn appended(path: &Path, caption: &str) -> io::Result<String> {
    let old = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(caption.to_owned()),
        old => old?,
    };
    let old = text::decoded(&old).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    let mut tags: Vec<&str> = Vec::new();
    for tag in old.split([',', '\n', '\r']).chain(caption.split(", ")).map(str::trim).filter(|tag| !tag.is_empty()) {
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(tags.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_beside_an_image_has_its_name_up_to_the_last_dot() {
        let txt = |path: &str| of(&Image { name: path.to_owned(), path: Some(path.into()) }, Sidecar::Txt);
        assert_eq!(txt("a/b.c.jpg").as_deref(), Some(Path::new("a/b.c.txt")));
        assert_eq!(txt("a/b").as_deref(), Some(Path::new("a/b.txt")));
    }

    #[test]
    fn a_file_belongs_to_one_image() {
        let claims = Claims::default();
        let take = |image: &Path| claims.take(&image.with_extension("txt"), image);
        let here = std::env::current_dir().expect("a folder");
        for same in [Path::new("a.jpg"), Path::new("./a.jpg"), &here.join("a.jpg"), &here.join(".//a.jpg")] {
            assert!(take(same), "{same:?} is the same image");
        }
        assert!(!take(Path::new("a.png")) && !take(&here.join("a.png")) && take(Path::new("b.png")));
    }

    #[test]
    fn tags_are_added_to_a_caption_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.txt");
        assert_eq!(appended(&path, "cat, dog").expect("text"), "cat, dog");
        fs::write(&path, "my cat,  dog ,\n").expect("a file");
        assert_eq!(appended(&path, "cat, dog, bird").expect("text"), "my cat, dog, cat, bird");
        fs::write(&path, "\u{feff}my cat,dog\r\nold, \n").expect("a file");
        assert_eq!(appended(&path, "dog, bird").expect("text"), "my cat, dog, old, bird");
        fs::write(&path, b"caf\xe9").expect("a file");
        let error = appended(&path, "cat").expect_err("no text");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains("save it as UTF-8"), "{error}");
    }
}

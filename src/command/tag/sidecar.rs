//! Image that each sidecar of a run belongs to.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use parking_lot::Mutex;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}

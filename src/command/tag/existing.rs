//! Outputs of earlier runs, which are completed and never overwritten.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::beside::Beside;
use super::{names, table};
use crate::atomic;
use crate::command::lines;
use crate::source::local::Image;

/// Outputs of earlier runs.
pub(super) struct Existing {
    /// The sidecars that are wanted, if any.
    pub(super) sidecar: Option<Beside>,
    /// `true` if a line is wanted of every image.
    pub(super) lines: bool,
    /// The lines of earlier runs.
    pub(super) results: Results,
}

/// Results in a file of lines.
#[derive(Default)]
pub(super) struct Results {
    /// Hashes of the images with a result: names would be much to remember.
    images: HashSet<u64>,
    /// Of those that failed last.
    failed: HashSet<u64>,
    /// `true` if there are lines of failures that later ones replace.
    stale: AtomicBool,
    /// How many of them each model has made.
    models: BTreeMap<String, u64>,
    hash: RandomState,
    /// The file's folder, which relative names in it start from.
    folder: Option<PathBuf>,
}

/// What is read of a line again.
#[derive(Deserialize)]
struct Line {
    image: String,
    model: Option<Model>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Model {
    name: String,
}

impl Existing {
    /// Returns `true` if every output that is wanted has this image.
    pub(super) fn has_all(&self, image: &Image) -> bool {
        let has_sidecar = self.sidecar.as_ref().is_none_or(|sidecar| sidecar.is_complete(image));
        has_sidecar && (!self.lines || self.results.has(&image.name))
    }
}

impl Results {
    /// None yet, of a file in this folder.
    pub(super) fn of(folder: Option<&Path>) -> Self {
        Self { folder: folder.map(Path::to_owned), ..Self::default() }
    }

    /// Reads results of an earlier run, and opens their file for more. Images that failed are tried again; the last line of
    /// an image is what became of it.
    ///
    /// # Errors
    /// Where it can't be read or written, or holds something else.
    pub(super) fn read(&mut self, path: &Path) -> anyhow::Result<File> {
        lines::open(path, |line| {
            let Line { image, model, error } = serde_json::from_slice(line)
                .context("--skip-existing adds to results of an earlier run, and it holds something else")?;
            let key = self.key_of_line(&image);
            if self.failed.remove(&key) {
                self.stale.store(true, Ordering::Relaxed);
            }
            if error.is_some() {
                self.failed.insert(key);
            } else if self.images.insert(key) {
                *self.models.entry(model.map(|model| model.name).unwrap_or_default()).or_default() += 1;
            }
            Ok(())
        })
    }

    /// The same of a table.
    ///
    /// # Errors
    /// If it can't be read or written, or holds something else.
    pub(super) fn read_table(&mut self, path: &Path) -> anyhow::Result<File> {
        let (mut images, mut failed, mut stale) = (HashSet::new(), HashSet::new(), false);
        let file = table::open(path, |image, has_failed| {
            let key = self.key_of_line(image);
            stale |= failed.remove(&key);
            if has_failed {
                failed.insert(key);
            } else {
                images.insert(key);
            }
        })?;
        (self.images, self.failed) = (images, failed);
        self.stale.store(stale, Ordering::Relaxed);
        Ok(file)
    }

    /// Returns `true` if an image has a result.
    pub(super) fn has(&self, image: &str) -> bool {
        self.images.contains(&self.key(image))
    }

    /// Notes that an image gets a line.
    pub(super) fn written(&self, image: &str) {
        if self.failed.contains(&self.key(image)) {
            self.stale.store(true, Ordering::Relaxed);
        }
    }

    /// Removes the lines of failures that later lines of their images replace, where there are any. The file is as it was or
    /// complete, whatever happens meanwhile.
    ///
    /// # Errors
    /// If it can't be read or written.
    pub(super) fn tidy(&self, path: &Path) -> io::Result<()> {
        if !self.stale.load(Ordering::Relaxed) {
            return Ok(());
        }
        // The link's target, not the link.
        let path = path.canonicalize()?;
        if table::is_table(&path) {
            return table::tidy(&path, |image| self.key_of_line(image));
        }
        let image = |line: &[u8]| {
            serde_json::from_slice(line)
                .ok()
                .map(|Line { image, error, .. }| (self.key_of_line(&image), error.is_some()))
        };
        let mut last = HashMap::new();
        for (number, line) in BufReader::new(File::open(&path)?).split(b'\n').enumerate() {
            last.extend(image(&line?).map(|(key, _)| (key, number)));
        }
        atomic::write_with(&path, |to| {
            for (number, line) in BufReader::new(File::open(&path)?).split(b'\n').enumerate() {
                let line = line?;
                let replaced = image(&line).is_some_and(|(key, failed)| failed && last.get(&key) != Some(&number));
                if !replaced {
                    to.write_all(&line)?;
                    to.write_all(b"\n")?;
                }
            }
            Ok(())
        })
    }

    /// The same for all names of a file: they differ in where it is seen from.
    pub(super) fn key(&self, image: &str) -> u64 {
        self.hash.hash_one(names::absolute(image, None).as_os_str())
    }

    /// The same key of a name that a line has.
    fn key_of_line(&self, image: &str) -> u64 {
        self.hash.hash_one(names::absolute(image, self.folder.as_deref()).as_os_str())
    }

    /// Warns of results that another model than this one made.
    pub(super) fn compare(&self, model: &str) {
        let others: Vec<_> = self.models.keys().filter(|name| *name != model).collect();
        let results: u64 = self.models.iter().filter(|(name, _)| *name != model).map(|(_, count)| count).sum();
        if results > 0 {
            tracing::warn!(
                results,
                ?others,
                model,
                "there are results of another model, and their images are left out"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_one_key_and_another_object_another() {
        let results = Results::default();
        let here = std::env::current_dir().expect("a folder");
        let absolute = here.join("a//b.jpg").display().to_string();
        assert_eq!(results.key("./a/b.jpg"), results.key(&absolute));
        assert_ne!(results.key("s3://bucket/a//b.jpg"), results.key("s3://bucket/a/b.jpg"));
    }
}

//! What earlier runs have done, where that is to be left out.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::sidecar;
use crate::cli::tag::Sidecar;
use crate::command::lines;
use crate::source::local::Image;

/// What earlier runs have done.
#[derive(Default)]
pub(super) struct Existing {
    sidecar: Option<Sidecar>,
    /// Hashes of the images with a result: names would be much to remember.
    results: Option<HashSet<u64>>,
    /// How many of them each model has made.
    models: BTreeMap<String, u64>,
    hash: RandomState,
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
    /// The sidecars that are there.
    pub(super) fn of(sidecar: Option<Sidecar>) -> Self {
        Self { sidecar, ..Self::default() }
    }

    /// Reads results of an earlier run, and opens their file for more. Images that failed are tried again, so the last line
    /// of an image is what became of it.
    ///
    /// # Errors
    /// Where it can't be read or written, or holds something else.
    pub(super) fn read(&mut self, path: &Path) -> anyhow::Result<File> {
        let mut results = HashSet::new();
        let file = lines::open(path, |line| {
            let Line { image, model, error } = serde_json::from_slice(line)
                .context("--skip-existing adds to results of an earlier run, and it holds something else")?;
            if error.is_none() && results.insert(self.hash.hash_one(&image)) {
                *self.models.entry(model.map(|model| model.name).unwrap_or_default()).or_default() += 1;
            }
            Ok(())
        })?;
        self.results = Some(results);
        Ok(file)
    }

    /// Whether all that is wanted of an image is there.
    pub(super) fn has(&self, image: &Image) -> bool {
        if self.sidecar.is_none() && self.results.is_none() {
            return false;
        }
        let target = self.sidecar.and_then(|sidecar| sidecar::of(image, sidecar));
        let has_sidecar = target.is_none_or(|target| target.exists());
        let has_result = self.results.as_ref().is_none_or(|images| images.contains(&self.hash.hash_one(&image.name)));
        has_sidecar && has_result
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

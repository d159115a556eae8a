//! What earlier runs have done, where that is to be left out.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::sidecar;
use crate::cli::tag::Sidecar;
use crate::door::local::Image;

/// What earlier runs have done.
#[derive(Default)]
pub(super) struct Existing {
    sidecar: Option<Sidecar>,
    /// Hashes of the images with a result: names would be much to remember.
    lines: Option<HashSet<u64>>,
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

    /// Whether all that is wanted of an image is there.
    pub(super) fn has(&self, image: &Image) -> bool {
        if self.sidecar.is_none() && self.lines.is_none() {
            return false;
        }
        let target = self.sidecar.and_then(|sidecar| sidecar::of(image, sidecar));
        let has_sidecar = target.is_none_or(|target| target.exists());
        let has_line = self.lines.as_ref().is_none_or(|lines| lines.contains(&self.hash.hash_one(&image.name)));
        has_sidecar && has_line
    }

    /// Reads results of an earlier run, and opens their file for more. Images that failed are tried again, so their lines go;
    /// so does a line that the run could not finish. Results of another model than `model` are warned of.
    ///
    /// # Errors
    /// Where it can't be read or written, or holds something else.
    pub(super) fn read(&mut self, path: &Path, model: Option<&str>) -> anyhow::Result<File> {
        let open = || OpenOptions::new().read(true).append(true).create(true).open(path);
        let (mut done, mut others) = (HashSet::new(), 0_u64);
        let kept = each(open()?, |line, old| {
            if old.error.is_some() {
                return Ok(0);
            }
            others += u64::from(model.is_some() && old.model.as_ref().map(|model| &*model.name) != model);
            done.insert(self.hash.hash_one(&old.image));
            Ok(line.len() as u64)
        })?;
        if kept < fs::metadata(path)?.len() {
            keep_results(path)?;
        }
        if others > 0 {
            let file = path.display();
            tracing::warn!(%file, others, model, "there are results of another model, and their images are left out");
        }
        self.lines = Some(done);
        Ok(open()?)
    }
}

/// Goes through the whole lines of a file; the sum of what `see` makes of each.
fn each(file: File, mut see: impl FnMut(&[u8], &Line) -> std::io::Result<u64>) -> anyhow::Result<u64> {
    let (mut reader, mut line, mut sum) = (BufReader::new(file), Vec::new(), 0);
    while reader.read_until(b'\n', &mut line)? > 0 && line.last() == Some(&b'\n') {
        if !line.trim_ascii().is_empty() {
            let old: Line = serde_json::from_slice(&line)
                .context("--skip-existing adds to results of an earlier run, and this holds something else")?;
            sum += see(&line, &old)?;
        }
        line.clear();
    }
    Ok(sum)
}

/// Writes the file anew with the lines of results alone; it is as it was or done, whatever happens meanwhile.
fn keep_results(path: &Path) -> anyhow::Result<()> {
    let path = path.canonicalize()?;
    sidecar::replace(&path, |new| {
        let old = File::open(&path)?;
        new.set_permissions(old.metadata()?.permissions())?;
        let mut new = BufWriter::new(new);
        each(old, |line, old| if old.error.is_none() { new.write_all(line).map(|()| 0) } else { Ok(0) })?;
        Ok(new.flush()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str) -> Image {
        Image { name: name.into(), path: None }
    }

    #[test]
    fn an_earlier_run_is_gone_on_with_after_its_results() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tags.jsonl");
        let (good, bad) = ("{\"image\":\"a\",\"text\":\"x\"}\n", "{\"image\":\"b\",\"error\":{\"code\":\"bad\"}}\n");
        fs::write(&path, format!("{bad}{good}{bad}{{\"image\":\"c\",\"te")).expect("a file");
        let mut existing = Existing::default();
        let mut file = existing.read(&path, None).expect("it can be read");
        assert!(existing.has(&image("a")));
        assert!(!existing.has(&image("b")) && !existing.has(&image("c")), "what failed is tried again");
        file.write_all(b"more\n").expect("it is written");
        assert_eq!(fs::read_to_string(&path).expect("text"), format!("{good}more\n"));
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1, "nothing else is left there");
        assert!(Existing::default().read(&path, None).is_err(), "not what an earlier run wrote");
    }
}

//! Where results go: a line each, or a file beside each image, or both.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, ErrorKind, Seek, Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::super::Failed;
use super::sidecar::{self, Claims};
use crate::cli::tag::Sidecar;
use crate::command::images::Found;
use crate::door::local::Image;
use crate::failure::{Code, ErrorBody, Failure};
use crate::tags::TagResult;

/// Where results go.
pub(super) struct Output {
    lines: Option<Lines>,
    sidecar: Option<Sidecar>,
    append: bool,
    existing: Arc<Existing>,
}

struct Lines {
    to: Box<dyn Write + Send>,
    name: String,
}

/// What earlier runs have done, where that is to be left out.
#[derive(Default)]
pub(super) struct Existing {
    sidecar: Option<Sidecar>,
    /// Hashes of the images with a result: names would be much to remember.
    lines: Option<HashSet<u64>>,
    hash: RandomState,
}

/// An image that failed, as a line.
#[derive(Serialize)]
struct FailedLine<'a> {
    image: &'a str,
    error: ErrorBody,
}

/// What is read of a line again.
#[derive(Deserialize)]
struct OldLine {
    image: String,
    error: Option<serde::de::IgnoredAny>,
}

/// Sees whether lines can be written to a file, before a model is loaded; what it holds stays.
///
/// # Errors
/// Where they can't.
pub(super) fn check(file: &Path) -> Result<(), Failed> {
    if file.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        // A pipe is opened once.
        return Ok(());
    }
    let opened = OpenOptions::new().append(true).create(true).open(file).with_context(|| unusable(file));
    opened.map(drop).map_err(Failed::Settings)
}

impl Output {
    /// Lines go to a file, or where there are no sidecars to standard output.
    ///
    /// # Errors
    /// Where the file can't be written, or read again.
    pub(super) fn open(
        file: Option<&Path>,
        sidecar: Option<Sidecar>,
        skip_existing: bool,
        append: bool,
    ) -> Result<Self, Failed> {
        let mut existing = Existing::default();
        let lines = match file {
            Some(path) => {
                let opened = if skip_existing { existing.read(path) } else { File::create(path).map_err(Into::into) };
                let file = opened.with_context(|| unusable(path));
                let name = path.display().to_string();
                Some(Lines { to: Box::new(file.map_err(Failed::Running)?), name })
            }
            None if sidecar.is_none() => Some(Lines { to: Box::new(stdout()), name: "standard output".to_owned() }),
            None => None,
        };
        if skip_existing {
            existing.sidecar = sidecar;
        }
        Ok(Self { lines, sidecar, append, existing: Arc::new(existing) })
    }

    /// Leaves out images that need not be tagged again.
    pub(super) fn left_out(&self) -> impl Fn(Image) -> Found + Send + Sync + 'static {
        let existing = Arc::clone(&self.existing);
        move |image| if existing.has(&image) { Found::Skipped } else { Found::Image(image) }
    }

    /// The same, and refuses those whose sidecar is another image's.
    pub(super) fn looked_at(&self) -> impl Fn(Image) -> Found + Send + Sync + 'static {
        let (left_out, sidecar, claims) = (self.left_out(), self.sidecar, Claims::default());
        move |image| match (&image.path, sidecar.and_then(|sidecar| beside(&image, sidecar))) {
            (Some(path), Some(target)) if !claims.take(&target, path) => taken(image.name, &target),
            _ => left_out(image),
        }
    }

    /// Writes what became of an image; what that is in the end, for its sidecar may not be written.
    ///
    /// # Errors
    /// Where no more lines can be written.
    pub(super) fn write(
        &mut self,
        image: &Image,
        result: Result<Box<TagResult>, Failure>,
    ) -> anyhow::Result<Result<(), Failure>> {
        let written = result.and_then(|result| {
            self.write_beside(image, &result)?;
            Ok(result)
        });
        match written {
            Ok(result) => self.line(&result).map(Ok),
            Err(failure) => self.failed(&image.name, &failure).map(|()| Err(failure)),
        }
    }

    /// Writes that an image failed.
    ///
    /// # Errors
    /// Where no more lines can be written.
    pub(super) fn failed(&mut self, image: &str, failure: &Failure) -> anyhow::Result<()> {
        self.line(&FailedLine { image, error: ErrorBody::from(failure) })
    }

    fn line(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let Some(Lines { to, name }) = &mut self.lines else { return Ok(()) };
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        to.write_all(&text).with_context(|| format!("{name} can't be written to"))
    }

    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        let Some(Lines { to, name }) = &mut self.lines else { return Ok(()) };
        to.flush().with_context(|| format!("{name} can't be written to"))
    }

    fn write_beside(&self, image: &Image, result: &TagResult) -> Result<(), Failure> {
        let Some(sidecar) = self.sidecar else { return Ok(()) };
        let Some(target) = beside(image, sidecar) else { return Ok(()) };
        let text = match sidecar {
            Sidecar::Json => serde_json::to_string(result).map_err(io::Error::other),
            Sidecar::Txt | Sidecar::Caption if self.append => sidecar::appended(&target, &result.tags.text),
            Sidecar::Txt | Sidecar::Caption => Ok(result.tags.text.clone()),
        };
        let written = text.and_then(|text| sidecar::write(&target, format!("{text}\n").as_bytes()));
        written.map_err(|error| not_written(&target, &error))
    }
}

fn unusable(file: &Path) -> String {
    format!("`{}` can't be used (--output)", file.display())
}

/// The file beside an image, if that is one itself.
fn beside(image: &Image, sidecar: Sidecar) -> Option<PathBuf> {
    image.path.as_ref().map(|path| sidecar::beside(path, sidecar.extension()))
}

fn taken(name: String, target: &Path) -> Found {
    let reason = format!(
        "`{}` is the sidecar of another image, whose name differs in the suffix alone: rename this one, or use --output alone",
        target.display()
    );
    Found::Broken { name, failure: Failure::new(Code::BadJob, reason) }
}

fn not_written(target: &Path, error: &io::Error) -> Failure {
    let denied = matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem);
    let code = if denied { Code::StorageDenied } else { Code::StorageUnavailable };
    Failure::new(code, format!("`{}` can't be written: {error}", target.display()))
}

impl Existing {
    /// Whether all that is wanted of an image is there.
    pub(super) fn has(&self, image: &Image) -> bool {
        if self.sidecar.is_none() && self.lines.is_none() {
            return false;
        }
        let target = self.sidecar.and_then(|sidecar| beside(image, sidecar));
        let has_sidecar = target.is_none_or(|target| target.exists());
        let has_line = self.lines.as_ref().is_none_or(|lines| lines.contains(&self.hash.hash_one(&image.name)));
        has_sidecar && has_line
    }

    /// Reads what an earlier run has written, and opens it for more. A line that the run could not finish goes; images that
    /// failed are tried again.
    fn read(&mut self, path: &Path) -> anyhow::Result<File> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let (mut done, mut whole) = (HashSet::new(), 0);
        let (mut reader, mut line) = (BufReader::new(&file), Vec::new());
        while reader.read_until(b'\n', &mut line)? > 0 {
            if line.last() != Some(&b'\n') {
                break;
            }
            whole += line.len() as u64;
            if !line.trim_ascii().is_empty() {
                let old: OldLine = serde_json::from_slice(&line)
                    .context("--skip-existing adds to results of an earlier run, and this holds something else")?;
                if old.error.is_none() {
                    done.insert(self.hash.hash_one(&old.image));
                }
            }
            line.clear();
        }
        drop(reader);
        file.set_len(whole)?;
        file.seek(io::SeekFrom::End(0))?;
        self.lines = Some(done);
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str) -> Image {
        Image { name: name.into(), path: None }
    }

    #[test]
    fn an_earlier_run_is_gone_on_with_after_its_last_whole_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tags.jsonl");
        let good = "{\"image\":\"a\",\"text\":\"x\"}\n{\"image\":\"b\",\"error\":{\"code\":\"bad\"}}\n";
        std::fs::write(&path, format!("{good}{{\"image\":\"c\",\"te")).expect("a file");
        let mut existing = Existing::default();
        let mut file = existing.read(&path).expect("it can be read");
        assert!(existing.has(&image("a")));
        assert!(!existing.has(&image("b")) && !existing.has(&image("c")), "what failed is tried again");
        file.write_all(b"more\n").expect("it is written");
        assert_eq!(std::fs::read_to_string(&path).expect("text"), format!("{good}more\n"));
        assert!(Existing::default().read(&path).is_err(), "not what an earlier run wrote");
    }
}

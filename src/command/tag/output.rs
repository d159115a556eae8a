//! Where results go: a line each, or a file beside each image, or both.

use std::io::{self, ErrorKind, Write, stdout};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use serde::Serialize;

use super::existing::Existing;
use super::sidecar::{self, Claims};
use crate::atomic;
use crate::cli::tag::Sidecar;
use crate::command::images::Found;
use crate::command::lines;
use crate::failure::{Code, ErrorBody, Failure};
use crate::source::local::Image;
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

/// An image that failed, as a line.
#[derive(Serialize)]
struct FailedLine<'a> {
    image: &'a str,
    error: ErrorBody,
}

impl Output {
    /// Lines go to a file, or where there are no sidecars to standard output. With `skip_existing`, what earlier runs have
    /// done is gone on with; without, a file that is not empty is refused.
    ///
    /// # Errors
    /// Where the file can't be written, or read again.
    pub(super) fn open(
        file: Option<&Path>,
        sidecar: Option<Sidecar>,
        skip_existing: bool,
        append: bool,
    ) -> anyhow::Result<Self> {
        let mut existing = Existing::of(sidecar.filter(|_| skip_existing));
        let lines = match file.filter(|file| !is_stdout(file)) {
            Some(path) => {
                let opened = match path.metadata() {
                    Ok(found) if found.is_file() && found.len() > 0 && !skip_existing => Err(not_empty()),
                    _ if skip_existing && is_kept(path) => existing.read(path),
                    _ => lines::open(path, |_| Ok(())),
                };
                let file = opened.with_context(|| format!("`{}` can't be used (--output)", path.display()))?;
                Some(Lines { to: Box::new(file), name: path.display().to_string() })
            }
            None if sidecar.is_none() || file.is_some() => {
                Some(Lines { to: Box::new(stdout()), name: "standard output".to_owned() })
            }
            None => None,
        };
        Ok(Self { lines, sidecar, append, existing: Arc::new(existing) })
    }

    /// What earlier runs have done.
    pub(super) fn existing(&self) -> &Existing {
        &self.existing
    }

    /// Skips images that earlier runs have tagged.
    pub(super) fn skip_existing(&self) -> impl Fn(Image) -> Found + Send + Sync + 'static {
        let existing = Arc::clone(&self.existing);
        move |image| if existing.has(&image) { Found::Skipped } else { Found::Image(image) }
    }

    /// Skips the same images, claims the sidecar of each other one, and refuses images whose sidecar is another's.
    pub(super) fn skip_and_claim(&self) -> impl Fn(Image) -> Found + Send + Sync + 'static {
        let (skip_existing, sidecar, claims) = (self.skip_existing(), self.sidecar, Claims::default());
        move |image| match (&image.path, sidecar.and_then(|sidecar| sidecar::of(&image, sidecar))) {
            (Some(path), Some(target)) if !claims.take(&target, path) => taken(image.name, &target),
            _ => skip_existing(image),
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
        let Some(target) = sidecar::of(image, sidecar) else { return Ok(()) };
        let text = match sidecar {
            Sidecar::Json => serde_json::to_string(result).map_err(io::Error::other),
            Sidecar::Txt | Sidecar::Caption if self.append => sidecar::appended(&target, &result.tags.text),
            Sidecar::Txt | Sidecar::Caption => Ok(result.tags.text.clone()),
        };
        let written = text.and_then(|text| atomic::write(&target, format!("{text}\n").as_bytes()));
        written.map_err(|error| not_written(&target, &error))
    }
}

fn not_empty() -> anyhow::Error {
    anyhow::anyhow!("it is not empty; go on with it (--skip-existing), or remove it to begin anew")
}

/// Whether what is written to this file is there for the next run.
pub(super) fn is_kept(file: &Path) -> bool {
    !is_stdout(file) && file.metadata().map_or(true, |found| found.is_file())
}

/// Whether this is how programs are told to write where they would without it.
fn is_stdout(file: &Path) -> bool {
    file.as_os_str() == "-"
}

fn taken(name: String, target: &Path) -> Found {
    let reason = format!(
        "`{}` is the sidecar of another image, whose name differs in the suffix alone: rename this one, or use --output alone",
        target.display()
    );
    Found::Broken { name, failure: Failure::new(Code::BadJob, reason) }
}

fn not_written(target: &Path, error: &io::Error) -> Failure {
    if error.kind() == ErrorKind::InvalidData {
        let reason = format!("nothing can be added to `{}`: {error}", target.display());
        return Failure::new(Code::BadJob, reason);
    }
    let denied = matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem);
    let code = if denied { Code::StorageDenied } else { Code::StorageUnavailable };
    Failure::new(code, format!("`{}` can't be written: {error}", target.display()))
}

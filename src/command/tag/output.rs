//! Where results go: a line each, or a file beside each image, or both.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use parking_lot::Mutex;
use serde::Serialize;

use super::beside::{Beside, Change};
use super::existing::{Existing, Results};
use super::frequencies::Frequencies;
use super::names;
use super::sidecar::Claims;
use super::table::{self, is_table};
use crate::cli::tag::TagArgs;
use crate::command::images::Found;
use crate::command::lines;
use crate::failure::{Code, ErrorBody, Failure};
use crate::pipeline::publish::caption;
use crate::source::local::Image;
use crate::tags::TagResult;
use crate::terminal;

/// Where results go.
pub(super) struct Output {
    lines: Option<Lines>,
    sidecar: Option<Beside>,
    existing: Arc<Existing>,
    /// Settings of captions.
    caption: caption::Settings,
    frequencies: Option<Frequencies>,
}

struct Lines {
    to: Box<dyn Write + Send>,
    name: String,
    /// `true` if these are rows of a table.
    table: bool,
    /// The file that earlier runs have written to.
    earlier: Option<PathBuf>,
    /// The file's folder, which relative names in it start from; `None` where it is no file.
    folder: Option<PathBuf>,
}

/// An image that failed, as a line.
#[derive(Serialize)]
struct FailedLine<'a> {
    image: &'a str,
    error: ErrorBody,
}

impl Output {
    /// Lines go to a file, or where there are no sidecars to standard output. With `skip_existing`, the lines of an earlier
    /// run are added to; without, a file that is not empty is refused.
    ///
    /// # Errors
    /// Where the file can't be written, or read again.
    pub(super) fn open(args: &TagArgs, caption: &caption::Settings) -> anyhow::Result<Self> {
        let (sidecar, skip_existing) = (Beside::new(args), args.skip_existing);
        // Nothing is written, so lines go where they can be seen.
        let file = args.output.as_deref().filter(|_| !args.dry_run);
        let frequencies = args.frequencies.as_deref().filter(|_| !args.dry_run);
        let frequencies = frequencies.map(|path| Frequencies::open(path, args.overwrite)).transpose()?;
        let mut results = None;
        let lines = match file.filter(|file| !is_stdout(file)) {
            Some(path) => {
                let table = is_table(path);
                let folder = is_kept(path).then(|| names::folder_of(path)).flatten();
                let opened = match path.metadata() {
                    Ok(found) if found.is_file() && found.len() > 0 && !skip_existing => Err(not_empty()),
                    _ if skip_existing && is_kept(path) => {
                        let results = results.insert(Results::of(folder.as_deref()));
                        if table { results.read_table(path) } else { results.read(path) }
                    }
                    _ if table => table::open(path, |_, _| ()),
                    _ => lines::open(path, |_| Ok(())),
                };
                let file = opened.with_context(|| format!("`{}` can't be used (--output)", path.display()))?;
                let earlier = results.is_some().then(|| path.to_owned());
                Some(Lines { to: Box::new(file), name: path.display().to_string(), table, earlier, folder })
            }
            None if sidecar.is_none() || file.is_some() => {
                let (to, name) = (Box::new(terminal::exact()), "standard output".to_owned());
                Some(Lines { to, name, table: false, earlier: None, folder: None })
            }
            None => None,
        };
        let existing =
            Existing { sidecar: sidecar.clone(), lines: lines.is_some(), results: results.unwrap_or_default() };
        Ok(Self { lines, sidecar, existing: Arc::new(existing), caption: caption.clone(), frequencies })
    }

    /// What earlier runs have done.
    pub(super) fn existing(&self) -> &Existing {
        &self.existing
    }

    /// Skips images that need not be tagged again, or were named before under whatever name.
    pub(super) fn skip_existing(&self) -> impl Fn(Image) -> Found + Send + Sync + 'static {
        let (existing, named) = (Arc::clone(&self.existing), Mutex::new(HashSet::new()));
        move |image| {
            let again = !named.lock().insert(existing.results.key(&image.name));
            if again || existing.has_all(&image) { Found::Skipped } else { Found::Image(image) }
        }
    }

    /// Skips the same images, claims the sidecar of each other one, and refuses images whose sidecar is another's.
    pub(super) fn skip_and_claim(&self) -> impl Fn(Image) -> Found + Send + Sync + 'static {
        let (skip_existing, sidecar, claims) = (self.skip_existing(), self.sidecar.clone(), Claims::default());
        move |image| match (&image.path, sidecar.as_ref().and_then(|sidecar| sidecar.of(&image))) {
            (Some(path), Some(target)) if !claims.take(&target, path) => taken(image.name, &target),
            _ => skip_existing(image),
        }
    }

    /// Existing outputs of a skipped image.
    pub(super) const fn skipped(&self) -> Change {
        if self.sidecar.is_some() { Change::Kept } else { Change::None }
    }

    /// Writes what became of an image, to each output that lacks it; what that is in the end, for its sidecar may not be
    /// written.
    ///
    /// # Errors
    /// Where no more lines can be written.
    pub(super) fn write(
        &mut self,
        image: &Image,
        result: Result<Box<TagResult>, Failure>,
    ) -> anyhow::Result<Result<Change, Failure>> {
        let written = result.and_then(|result| {
            let beside = self.sidecar.as_ref().map(|sidecar| sidecar.write(image, &result, &self.caption));
            Ok((result, beside.transpose()?.unwrap_or(Change::None)))
        });
        match written {
            Ok((mut result, change)) => {
                if let Some(frequencies) = &mut self.frequencies {
                    frequencies.count(&result.tags);
                }
                self.line(&image.name, |name, table| {
                    if table {
                        return table::rows(name, &result.tags);
                    }
                    name.clone_into(&mut result.id);
                    name.clone_into(&mut result.image);
                    json_line(&*result)
                })?;
                Ok(Ok(change))
            }
            Err(failure) => self.failed(&image.name, &failure).map(|()| Err(failure)),
        }
    }

    /// Writes that an image failed.
    ///
    /// # Errors
    /// Where no more lines can be written.
    pub(super) fn failed(&mut self, image: &str, failure: &Failure) -> anyhow::Result<()> {
        self.line(image, |name, table| {
            if table {
                return table::failure(name, failure);
            }
            json_line(&FailedLine { image: name, error: ErrorBody::from(failure) })
        })
    }

    /// Writes the line or rows of an image under its name there. One that has its result keeps it: it was tagged again for the
    /// sake of its sidecar.
    fn line(&mut self, image: &str, text: impl FnOnce(&str, bool) -> anyhow::Result<Vec<u8>>) -> anyhow::Result<()> {
        let Some(Lines { to, name, table, folder, .. }) = &mut self.lines else { return Ok(()) };
        if self.existing.results.has(image) {
            return Ok(());
        }
        self.existing.results.written(image);
        let written = folder.as_deref().map_or(image.into(), |folder| names::of_line(image, folder));
        // At once, so that the rows of an image are there together.
        to.write_all(&text(&written, *table)?).with_context(|| format!("{name} can't be written to"))
    }

    /// Writes what is written once, at the end.
    ///
    /// # Errors
    /// If it can't be.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        if let Some(frequencies) = &self.frequencies {
            frequencies.write()?;
        }
        let Some(Lines { to, name, earlier, .. }) = &mut self.lines else { return Ok(()) };
        let flushed = to.flush().and_then(|()| match earlier {
            Some(path) => self.existing.results.tidy(path),
            None => Ok(()),
        });
        flushed.with_context(|| format!("{name} can't be written to"))
    }
}

fn json_line(line: &impl Serialize) -> anyhow::Result<Vec<u8>> {
    Ok([&serde_json::to_vec(line)?[..], b"\n"].concat())
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
        "`{}` is the sidecar of another image, whose name differs in the suffix alone: --sidecar-name full gives each its own, such as a.jpg.txt",
        target.display()
    );
    Found::Broken { name, failure: Failure::new(Code::BadJob, reason) }
}

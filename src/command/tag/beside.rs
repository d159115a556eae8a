//! The sidecar of an image: written where there is none; kept, replaced or added to where there is one.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::atomic;
use crate::cli::tag::{Sidecar, SidecarName, TagArgs};
use crate::failure::{Code, Failure};
use crate::pipeline::publish::caption;
use crate::source::local::Image;
use crate::tags::TagResult;
use crate::terminal::Lines;
use crate::text;

/// Sidecars to write.
#[derive(Clone, Debug)]
pub(super) struct Beside {
    kind: Sidecar,
    name: SidecarName,
    extension: Arc<OsStr>,
    existing: Policy,
    /// `true` if nothing is written, only shown.
    dry: bool,
}

/// Policy for a sidecar that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Keep,
    Replace,
    Append,
}

/// Outcome of writing the sidecar of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing existed before, or no sidecar was wanted.
    None,
    /// It existed and is as it was.
    Kept,
    /// It existed and was written anew.
    Replaced,
}

impl Beside {
    /// As the arguments ask for it, if they do.
    pub(super) fn new(args: &TagArgs) -> Option<Self> {
        let existing = match (args.overwrite, args.append) {
            (true, _) => Policy::Replace,
            (_, true) => Policy::Append,
            _ => Policy::Keep,
        };
        let kind = args.sidecar?;
        let extension = args.sidecar_extension.as_deref().unwrap_or(kind.extension());
        let extension = OsString::from(extension.trim_start_matches('.')).into();
        Some(Self { kind, name: args.sidecar_name, extension, existing, dry: args.dry_run })
    }

    /// The file beside an image, if that is a file itself: `name.txt` for `name.jpg`, or `name.jpg.txt`.
    pub(super) fn of(&self, image: &Image) -> Option<PathBuf> {
        let path = image.path.as_ref()?;
        Some(match self.name {
            SidecarName::Stem => path.with_extension(&self.extension),
            SidecarName::Full => {
                let mut name = path.file_name().unwrap_or_default().to_owned();
                name.push(".");
                name.push(&self.extension);
                path.with_file_name(name)
            }
        })
    }

    /// Returns `true` if nothing is to be written beside an image.
    pub(super) fn is_complete(&self, image: &Image) -> bool {
        self.of(image).is_none_or(|target| self.existing == Policy::Keep && exists(&target))
    }

    /// Writes a sidecar, or says what it would be.
    ///
    /// # Errors
    /// If it cannot be written, or added to.
    pub(super) fn write(
        &self,
        image: &Image,
        result: &TagResult,
        caption: &caption::Settings,
    ) -> Result<Change, Failure> {
        let Some(target) = self.of(image) else { return Ok(Change::None) };
        let exists = exists(&target);
        if exists && self.existing == Policy::Keep {
            return Ok(Change::Kept);
        }
        let text = match self.kind {
            Sidecar::Json => serde_json::to_string(result).map_err(io::Error::other),
            Sidecar::Txt | Sidecar::Caption if self.existing == Policy::Append => {
                appended(&target, &result.tags.text, caption)
            }
            Sidecar::Txt | Sidecar::Caption => Ok(result.tags.text.clone()),
        };
        let written = text.and_then(|text| self.put(&target, &text));
        let is_written = written.map_err(|error| not_written(&target, &error))?;
        Ok(match self.existing {
            // Made by somebody else in this moment.
            _ if !is_written => Change::Kept,
            Policy::Replace if exists => Change::Replaced,
            _ => Change::None,
        })
    }

    /// Returns `false` if a sidecar that is to be kept is there by now.
    fn put(&self, target: &Path, text: &str) -> io::Result<bool> {
        if self.dry {
            return show(target, text).map(|()| true);
        }
        let line = format!("{text}\n");
        match self.existing {
            Policy::Keep => atomic::create(target, line.as_bytes()),
            Policy::Replace | Policy::Append => atomic::write(target, line.as_bytes()).map(|()| true),
        }
    }
}

fn show(target: &Path, text: &str) -> io::Result<()> {
    Lines::open().line(format_args!("{}: {text}", target.display()))
}

/// Returns `true` if there is a file of this name, or a link, wherever it leads.
fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| !found.is_dir())
}

/// A caption after one that is there: what every caption begins with, its tags, in one line or several, and those of the new
/// one that it lacks.
///
/// # Errors
/// If the old one can't be read; [`ErrorKind::InvalidData`] where it is no text.
fn appended(path: &Path, new: &str, caption: &caption::Settings) -> io::Result<String> {
    let old = match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(new.to_owned()),
        old => old?,
    };
    let old = text::decoded(&old).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    let separator = caption.separator();
    // By what counts of it: an editor may have left out the blank.
    let between = Some(separator.trim()).filter(|text| !text.is_empty()).unwrap_or(separator);
    let old = old.split(['\n', '\r']).flat_map(|line| line.split(between)).map(str::trim);
    let new = new.split(separator).map(str::trim);
    let mut tags: Vec<&str> = Vec::new();
    for tag in caption.prepend.iter().map(String::as_str).chain(old).chain(new).filter(|tag| !tag.is_empty()) {
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(tags.join(separator))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn beside(name: SidecarName, extension: &str) -> Beside {
        let extension = OsString::from(extension).into();
        Beside { kind: Sidecar::Txt, name, extension, existing: Policy::Keep, dry: false }
    }

    #[test]
    fn a_sidecar_has_the_images_name_up_to_the_last_dot_or_all_of_it() {
        let of = |name, extension, path: &str| {
            beside(name, extension).of(&Image { name: path.to_owned(), path: Some(path.into()) })
        };
        assert_eq!(of(SidecarName::Stem, "txt", "a/b.c.jpg").as_deref(), Some(Path::new("a/b.c.txt")));
        assert_eq!(of(SidecarName::Stem, "tags", "a/b").as_deref(), Some(Path::new("a/b.tags")));
        assert_eq!(of(SidecarName::Full, "txt", "a/b.c.jpg").as_deref(), Some(Path::new("a/b.c.jpg.txt")));
    }

    #[test]
    fn tags_are_added_to_a_caption_once_after_what_every_caption_begins_with() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.txt");
        let plain = caption::Settings::default();
        let add = |new: &str, caption: &caption::Settings| appended(&path, new, caption).expect("text");
        assert_eq!(add("cat, dog", &plain), "cat, dog");
        std::fs::write(&path, "my cat,  dog ,\n").expect("a file");
        assert_eq!(add("cat, dog, bird", &plain), "my cat, dog, cat, bird");
        let first = caption::Settings { prepend: vec!["style".to_owned()], ..plain.clone() };
        assert_eq!(add("style, cat", &first), "style, my cat, dog, cat");
        std::fs::write(&path, "my cat|dog").expect("a file");
        let bars = caption::Settings { separator: Some(" | ".to_owned()), ..plain.clone() };
        assert_eq!(add("dog | bird", &bars), "my cat | dog | bird");
        std::fs::write(&path, "\u{feff}my cat,dog\r\nold, \n").expect("a file");
        assert_eq!(add("dog, bird", &plain), "my cat, dog, old, bird");
        std::fs::write(&path, b"caf\xe9").expect("a file");
        let error = appended(&path, "cat", &plain).expect_err("no text");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains("save it as UTF-8"), "{error}");
        let failure = not_written(&path, &error);
        assert_eq!(failure.code, Code::BadJob);
    }
}

//! Selection of images in folders and buckets, and counts of skipped files by reason.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::cli::select::{Pattern, SelectArgs};
use crate::pipeline::decode::picture;
use crate::store::suffix::{self, Suffixes};
use crate::telemetry::say;

/// Folders and files that systems keep beside people's own.
const SYSTEM: [&str; 6] = ["@eaDir", "Thumbs.db", "desktop.ini", "#recycle", "$RECYCLE.BIN", "__MACOSX"];

/// Why a file or folder is passed over.
pub(super) type Reason = &'static str;

const HIDDEN: Reason = "hidden, or a system's own";
const EXCLUDED: Reason = "left out by --exclude";
const UNMATCHED: Reason = "not of --match";
const FOLDER: Reason = "in a folder within (--no-recursive)";
const OTHER: Reason = "no image by its name";
const UNKNOWN: Reason = "with no suffix of an image, which --match '*' takes";
const UNADDRESSABLE: Reason = "a key with empty or relative parts, or with control characters";
const LINK: Reason = "a link to a folder that is looked through anyway";

/// Selection of the files of folders and buckets.
#[derive(Clone)]
pub(super) struct Selection {
    only: Option<Pattern>,
    exclude: Arc<[Pattern]>,
    recursive: bool,
    images: Suffixes,
    passed: Arc<Passed>,
}

/// Files passed over.
#[derive(Default)]
pub(super) struct Passed {
    counts: Mutex<BTreeMap<Reason, u64>>,
    named: bool,
}

impl Selection {
    pub(super) fn new(args: &SelectArgs) -> Self {
        Self {
            only: args.only.clone(),
            exclude: args.exclude.clone().into(),
            recursive: !args.no_recursive,
            images: Suffixes::of_images(),
            passed: Arc::new(Passed { named: args.verbose, ..Passed::default() }),
        }
    }

    /// The same, which counts nothing.
    pub(super) fn uncounted(&self) -> Self {
        Self { passed: Arc::default(), ..self.clone() }
    }

    /// Files passed over.
    pub(super) fn passed(&self) -> &Passed {
        &self.passed
    }

    /// Returns `true` if a folder in another one is looked through; `name` is its path below the outermost.
    pub(super) fn enters(&self, name: &str) -> bool {
        let reason = self.left_out(name).or((!self.recursive).then_some(FOLDER));
        self.take(name, reason)
    }

    /// Returns `true` if a file of a folder is an image that is wanted. One whose name does not tell is looked into.
    pub(super) fn takes_file(&self, name: &str, path: &Path) -> bool {
        let reason = self.left_out(name).or_else(|| match &self.only {
            Some(only) => (!only.0.is_match(name)).then_some(UNMATCHED),
            None if self.images.has(name) => None,
            None if suffix::is_other(name) => Some(OTHER),
            None => content(path).err(),
        });
        self.take(name, reason)
    }

    /// Returns `true` if an object is an image that is wanted, by its name alone.
    pub(super) fn takes_key(&self, key: &str) -> bool {
        // Keys that are folders to the bucket's other clients.
        if key.ends_with('/') {
            return false;
        }
        let below = key.rsplit('/');
        let hidden = below.clone().any(is_hidden).then_some(HIDDEN);
        let excluded = self
            .exclude
            .iter()
            .any(|pattern| pattern.0.is_match(key) || below.clone().any(|part| pattern.0.is_match(part)));
        let reason = hidden.or(excluded.then_some(EXCLUDED)).or_else(|| match &self.only {
            Some(only) => (!only.0.is_match(key)).then_some(UNMATCHED),
            None => (!self.images.has(key)).then_some(UNKNOWN),
        });
        self.take(key, reason)
    }

    /// A link to a folder is passed over.
    pub(super) fn passes_link(&self, name: &str) {
        self.take(name, Some(LINK));
    }

    /// An object whose key no job can name is passed over.
    pub(super) fn passes_unaddressable(&self, key: &str) {
        self.take(key, Some(UNADDRESSABLE));
    }

    fn left_out(&self, name: &str) -> Option<Reason> {
        let last = name.rsplit('/').next().unwrap_or_default();
        if is_hidden(last) {
            return Some(HIDDEN);
        }
        let is_excluded = |Pattern(pattern): &Pattern| pattern.is_match(name) || pattern.is_match(last);
        self.exclude.iter().any(is_excluded).then_some(EXCLUDED)
    }

    fn take(&self, name: &str, reason: Option<Reason>) -> bool {
        let Some(reason) = reason else { return true };
        *self.passed.counts.lock().entry(reason).or_default() += 1;
        if self.passed.named {
            say(format_args!("passed over: {name}: {reason}"));
        }
        false
    }
}

impl Passed {
    /// Number of skipped files by reason; `None` if there are none.
    pub(super) fn summary(&self) -> Option<String> {
        let counts = self.counts.lock();
        let total: u64 = counts.values().sum();
        let reasons = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join("; ");
        let hint = if self.named { "" } else { " (--verbose names them)" };
        (total > 0).then(|| format!("{total} passed over: {reasons}{hint}"))
    }
}

impl fmt::Debug for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selection").finish_non_exhaustive()
    }
}

/// Begins with a dot, as also the files that macOS puts beside others on foreign disks, or is of [`SYSTEM`].
fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || SYSTEM.iter().any(|system| name.eq_ignore_ascii_case(system))
}

/// Checks by its first bytes that a file is an image; fails with the reason to pass it over.
fn content(path: &Path) -> Result<(), Reason> {
    let mut head = Vec::with_capacity(picture::HEAD);
    // A pipe would be waited for.
    let is_file = path.metadata().map(|found| found.is_file());
    let read = match is_file {
        Ok(true) => File::open(path).and_then(|file| file.take(picture::HEAD as u64).read_to_end(&mut head)),
        Ok(false) => return Err("no file"),
        Err(error) => Err(error),
    };
    match read {
        Ok(_) => picture::kind(&head).map(drop),
        Err(error) if error.kind() == ErrorKind::NotFound => Err("a link that leads nowhere"),
        // Taken, so that it fails with its reason.
        Err(_) => Ok(()),
    }
}

/// Returns `true` if a file that can be read is an image by its first bytes.
pub(super) fn is_image(path: &Path) -> bool {
    File::open(path).is_ok() && content(path).is_ok()
}

/// Folders that were looked through, so that links lead into none of them again.
#[derive(Default)]
pub(super) struct Visited(HashSet<(u64, u64)>);

impl Visited {
    /// Returns `true` if a folder is met for the first time.
    pub(super) fn is_new(&mut self, folder: &Path) -> bool {
        folder.metadata().map_or(true, |found| self.0.insert(identity(&found)))
    }
}

#[cfg(unix)]
fn identity(found: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;

    (found.dev(), found.ino())
}

/// Target of a link to a folder, unless that is in the folder that is looked through or around it.
pub(super) fn outside(link: &Path, root: &Path) -> Option<PathBuf> {
    let (target, root) = (link.canonicalize().ok()?, root.canonicalize().ok()?);
    (target.is_dir() && !target.starts_with(&root) && !root.starts_with(&target)).then_some(target)
}

/// A path as it is written in answers: as it is, or of one that is not UTF-8 its file URL, which `tagmill` reads too.
pub(super) fn spelled(path: &Path) -> String {
    if let Some(text) = path.to_str() {
        return text.to_owned();
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    url::Url::from_file_path(absolute).map_or_else(|()| path.to_string_lossy().into_owned(), String::from)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn selection(only: Option<&str>, exclude: &[&str], recursive: bool) -> Selection {
        let pattern = |text: &&str| text.parse::<Pattern>().expect("a pattern");
        Selection::new(&SelectArgs {
            only: only.as_ref().map(pattern),
            exclude: exclude.iter().map(pattern).collect(),
            no_recursive: !recursive,
            verbose: false,
        })
    }

    #[test]
    fn files_are_taken_by_suffix_or_content_and_all_others_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let selection = selection(None, &[], true);
        let takes = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).expect("a file");
            selection.takes_file(name, &path)
        };
        let jpeg = b"\xff\xd8\xff\xe0\0\x10JFIF";
        let names = [
            "a.jpg",
            "a.JPG",
            "a.jpeg",
            "a.jfif",
            "a.jpe",
            "a.jif",
            "a.jpg_large",
            "a.jpg:large",
            "a.jpg_orig",
            "a",
            "a.HEIC",
            "a.jpg?w=100",
            "a.1",
            "a.bak",
            "-a.jpg",
            "é.jpg",
            "a\nb.jpg",
            "😀",
        ];
        for name in names {
            assert!(takes(name, jpeg), "{name:?}");
        }
        for (name, content) in [
            ("a.txt", &jpeg[..]),
            ("b", b"hello"),
            ("b.jp2", b"\0\0\0\x0cjP  \r\n\x87\n"),
            ("BMW", b"BMW is a maker of cars"),
            ("._a.jpg", jpeg),
            (".DS_Store", b""),
            ("Thumbs.db", b""),
        ] {
            assert!(!takes(name, content), "{name:?}");
        }
        let summary = selection.passed().summary().expect("some");
        assert!(summary.starts_with("7 passed over: "), "{summary}");
        for part in ["3 hidden", "1 no image by its name", "2 no image", "1 a JPEG 2000 picture"] {
            assert!(summary.contains(part), "{part}: {summary}");
        }
    }

    #[test]
    fn a_picture_that_this_build_does_not_read_is_passed_over_by_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let (selection, path) = (selection(None, &[], true), folder.path().join("a.heic"));
        std::fs::write(&path, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic").expect("a file");
        assert_eq!(selection.takes_file("a.heic", &path), cfg!(feature = "heic"));
        let summary = selection.passed().summary().unwrap_or_default();
        assert_ne!(
            summary.contains("1 HEIC, which builds with --features heic read"),
            cfg!(feature = "heic"),
            "{summary}"
        );
    }

    #[test]
    fn patterns_choose_and_leave_out() {
        let some = selection(Some("*.{heic,txt}"), &["drafts", "2024/*"], true);
        let file = |name: &str| some.takes_file(name, Path::new(name));
        assert!(file("a/b.txt") && file("b.heic") && !file("b.jpg") && !file("2024/b.txt"));
        assert!(some.enters("a") && !some.enters("a/drafts") && !some.enters("@eaDir") && !some.enters(".git"));
        assert!(some.takes_key("a/b.txt") && !some.takes_key("a/drafts/b.txt") && !some.takes_key("a/.git/b.txt"));
        assert!(!selection(None, &[], false).enters("a"));
    }

    #[test]
    fn names_that_are_no_text_stay_distinct_and_can_be_read_back() {
        let [one, two] = [b"/a/\xff.jpg", b"/a/\xfe.jpg"].map(|name| Path::new(OsStr::from_bytes(name)));
        assert_eq!(spelled(one), "file:///a/%FF.jpg");
        assert_ne!(spelled(one), spelled(two));
        let back = url::Url::parse(&spelled(one)).expect("a URL").to_file_path().expect("a path");
        assert_eq!(back, one);
        assert_eq!(spelled(Path::new("a/é %41.jpg")), "a/é %41.jpg");
    }
}

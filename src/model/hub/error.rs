//! What can go wrong, for the operator to read.

use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use bytesize::ByteSize;

use super::file::File;

/// Files an error names at most.
const NAMED: usize = 12;

/// Why a repository was not downloaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The hub knows no such repository.
    #[error("{endpoint} has no such repository; check its name, and HF_ENDPOINT")]
    NoRepository {
        /// Where it was asked for.
        endpoint: String,
    },
    /// The repository has no such revision.
    #[error("it has no revision `{0}` (--revision)")]
    NoRevision(String),
    /// 401. The hub answers so for what does not exist, too.
    #[error("{endpoint} wants to know who asks (401): check the repository's name; if it is private, {}", login(*.token))]
    Unauthorized {
        /// Who refused.
        endpoint: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// 403.
    #[error("{endpoint} refuses access (403): accept the repository's conditions on its page if it has any, and {}", login(*.token))]
    Forbidden {
        /// Who refused.
        endpoint: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// Another status that no further attempt would change.
    #[error("{host} answers {status} to the request for {what}; check HF_ENDPOINT")]
    Refused {
        /// Who.
        host: String,
        /// With what.
        status: u16,
        /// What was asked for.
        what: String,
    },
    /// Every attempt failed.
    #[error(
        "{reason}, {attempts} times in a row; check the network and HF_ENDPOINT, and run it again: it goes on where it stopped"
    )]
    Unreachable {
        /// The last attempt's.
        reason: String,
        /// How many there were.
        attempts: u64,
    },
    /// The hub's answer is not a listing.
    #[error("the listing of {endpoint} can't be used: {reason}; check HF_ENDPOINT")]
    Listing {
        /// Whose.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// A name in the listing that could lead out of the model's folder.
    #[error("it lists the file {0:?}, which is no safe name; nothing was downloaded")]
    UnsafeName(String),
    /// Nothing in it is a model.
    #[error("there is no ONNX file in it, only {}", names(.0))]
    NoOnnx(Vec<String>),
    /// Several models, and none named.
    #[error("it has several ONNX files; choose one with --file: {}", names(.0))]
    Ambiguous(Vec<String>),
    /// No such model among those it has.
    #[error("it has no ONNX file {asked:?} (--file), but {}", names(.there))]
    NoFile {
        /// As asked for.
        asked: String,
        /// Those it has.
        there: Vec<String>,
    },
    /// A file that would be overwritten and is not known to be this repository's.
    #[error("`{}` is there already and is another file than the repository's; move it away, or give the model another --name", .0.display())]
    Foreign(PathBuf),
    /// Someone else writes there.
    #[error("another download into `{}` is under way; wait for it to end", .0.display())]
    Busy(PathBuf),
    /// What came is not what was listed.
    #[error(
        "{file} is not what the hub lists: {reason}; the download is removed. Run it again; if this stays so, something on the way (a proxy, HF_ENDPOINT) changes files"
    )]
    Mismatch {
        /// Which.
        file: String,
        /// How they differ.
        reason: String,
    },
    /// No room.
    #[error("no room for {file} ({}) in `{}`; make some and run it again: it goes on where it stopped", ByteSize(*.size), .folder.display())]
    Full {
        /// Which.
        file: String,
        /// Its bytes.
        size: u64,
        /// Where.
        folder: PathBuf,
    },
    /// A file or folder that can't be read or written.
    #[error("`{}` can't be read or written (--models): {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not to be downloaded, and not there.
    #[error("HF_HUB_OFFLINE is set, and {reason}; unset it to download")]
    Offline {
        /// What is missing.
        reason: String,
    },
    /// The HTTP client can't be made.
    #[error("no HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

impl Error {
    /// An error of the disk, at this path.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    /// An error of the disk, on writing this file.
    pub(super) fn write(file: &File, part: &Path) -> impl FnOnce(io::Error) -> Self {
        let (file, size, path) = (file.path.clone(), file.size, part.to_owned());
        move |source| match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::Full { file, size, folder: path.parent().unwrap_or(&path).to_owned() }
            }
            _ => Self::Io { path, source },
        }
    }
}

const fn login(token: bool) -> &'static str {
    if token {
        "set HF_TOKEN to a token that may read it: the one that is set may not, or has expired"
    } else {
        "set HF_TOKEN to a token that may read it"
    }
}

/// The first few names. They are a stranger's: what a terminal would obey is escaped.
fn names(all: &[String]) -> String {
    if all.is_empty() {
        return "nothing".into();
    }
    let mut text = String::new();
    for (index, name) in all.iter().take(NAMED).enumerate() {
        let _ = write!(text, "{}{}", if index == 0 { "" } else { ", " }, name.escape_debug());
    }
    if all.len() > NAMED {
        let _ = write!(text, " and {} more", all.len() - NAMED);
    }
    text
}

//! Errors of a download, for the operator.

use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use bytesize::ByteSize;

use super::file::File;

/// Maximum number of files that an error lists.
const NAMED: usize = 12;

/// Reasons for a failed download.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The hub has no such repository.
    #[error("{endpoint} has no such repository; check its name, and HF_ENDPOINT")]
    NoRepository {
        /// The hub's endpoint.
        endpoint: String,
    },
    /// The repository has no such revision.
    #[error("it has no revision `{0}` (--revision)")]
    NoRevision(String),
    /// 401. The hub also answers so for repositories that do not exist.
    #[error("{endpoint} wants to know who asks (401): check the repository's name; if it is private, {}", login(*.token))]
    Unauthorized {
        /// The hub's endpoint.
        endpoint: String,
        /// `true` if a token was sent.
        token: bool,
    },
    /// 403.
    #[error("{endpoint} refuses access (403): accept the repository's conditions on its page if it has any, and {}", login(*.token))]
    Forbidden {
        /// The hub's endpoint.
        endpoint: String,
        /// `true` if a token was sent.
        token: bool,
    },
    /// Another status that a retry would not change.
    #[error("{host} answers {status} to the request for {what}; check HF_ENDPOINT")]
    Refused {
        /// Host that answered.
        host: String,
        /// HTTP status.
        status: u16,
        /// Requested object.
        what: String,
    },
    /// Every attempt failed.
    #[error(
        "{reason}, {attempts} times in a row; check the network and HF_ENDPOINT, and run it again: it goes on where it stopped"
    )]
    Unreachable {
        /// Reason of the last attempt.
        reason: String,
        /// Number of attempts.
        attempts: u64,
    },
    /// The hub's answer is not a listing.
    #[error("the listing of {endpoint} can't be used: {reason}; check HF_ENDPOINT")]
    Listing {
        /// The hub's endpoint.
        endpoint: String,
        /// The cause.
        reason: String,
    },
    /// A name in the listing could lead out of the model's folder.
    #[error("it lists the file {0:?}, which is no safe name; nothing was downloaded")]
    UnsafeName(String),
    /// The repository contains no ONNX file.
    #[error("there is no ONNX file in it, only {}", names(.0))]
    NoOnnx(Vec<String>),
    /// The repository contains several ONNX files, and none was named.
    #[error("it has several ONNX files; choose one with --file: {}", names(.0))]
    Ambiguous(Vec<String>),
    /// The repository contains no ONNX file of this name.
    #[error("it has no ONNX file {asked:?} (--file), but {}", names(.there))]
    NoFile {
        /// Requested name.
        asked: String,
        /// ONNX files in the repository.
        there: Vec<String>,
    },
    /// A file that would be overwritten and is not known to be this repository's.
    #[error("`{}` is there already and is another file than the repository's; move it away, or give the model another name (--as)", .0.display())]
    Foreign(PathBuf),
    /// Another process downloads into the folder.
    #[error("another download into `{}` is under way; wait for it to end", .0.display())]
    Busy(PathBuf),
    /// The download does not match the listing.
    #[error(
        "{file} is not what the hub lists: {reason}; the download is removed. Run it again; if this stays so, something on the way (a proxy, HF_ENDPOINT) changes files"
    )]
    Mismatch {
        /// The file.
        file: String,
        /// The difference.
        reason: String,
    },
    /// The disk is full.
    #[error("no room for {file} ({}) in `{}`; make some and run it again: it goes on where it stopped", ByteSize(*.size), .folder.display())]
    Full {
        /// The file.
        file: String,
        /// Its size in bytes.
        size: u64,
        /// Target folder.
        folder: PathBuf,
    },
    /// A file or folder that can't be read or written.
    #[error("`{}` can't be read or written (--models): {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Downloads are disabled, and the model is not complete.
    #[error("HF_HUB_OFFLINE is set, and {reason}; unset it to download")]
    Offline {
        /// The missing part.
        reason: String,
    },
    /// The HTTP client can't be created.
    #[error("no HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

impl Error {
    /// File system error at this path.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    /// Error on writing this file.
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

/// Formats the first few names. They are untrusted, so terminal control characters are escaped.
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

//! Sources of jobs: folders, buckets and lists, one after another, each in an order of its own. Nothing
//! is read ahead but a few jobs.

mod bucket;
mod folder;
mod lines;

use std::fs::File;
use std::io::{BufReader, Read, stdin};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use url::Url;

use super::make::Maker;
use crate::command::select::is_image;
use crate::store::bucket::Bucket;
use crate::store::suffix::Suffixes;

/// Jobs that are ready to be published.
const READY: usize = 128;

/// A job, and where it comes from.
pub(super) struct Item {
    pub(super) payload: Bytes,
    pub(super) at: Position,
    /// The id of its message: changes with the payload, the subject, and the image's version where that is known.
    pub(super) id: [u8; 16],
}

impl Item {
    /// The id's beginning, which checkpoints know a job by.
    pub(super) fn hash(&self) -> u64 {
        self.id.iter().take(8).fold(0, |hash, byte| (hash << 8) | u64::from(*byte))
    }
}

/// Source of a job.
#[derive(Clone, Debug)]
pub(super) struct Position {
    /// Which source, from 0.
    pub(super) source: usize,
    /// The last there.
    pub(super) last: Place,
}

/// A place in a source.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// All there is.
    Only(String),
    /// A file's URL.
    File(String),
    /// An object's key.
    Key(String),
    /// A line of a list, from 1.
    Line(u64),
}

/// One source, known to be there where that can be known.
pub(super) enum Source {
    Folder(PathBuf),
    /// A file, or an object that is named as an image is.
    Image {
        name: String,
        url: String,
    },
    Bucket(Bucket),
    List {
        path: PathBuf,
        file: File,
    },
    Input,
}

impl Source {
    /// Looks at what is named on the command line.
    ///
    /// # Errors
    /// Where it can't be read, or the settings for its bucket are wrong.
    pub(super) fn open(text: &str) -> anyhow::Result<Self> {
        if text == "-" {
            return Ok(Self::Input);
        }
        if let Some(bucket_and_key) = text.strip_prefix("s3://") {
            return match bucket_and_key.split_once('/') {
                Some((_, key)) if Suffixes::of_images().has(key) => {
                    Ok(Self::Image { name: key.to_owned(), url: text.to_owned() })
                }
                _ => Ok(Self::Bucket(text.trim_end_matches('/').parse()?)),
            };
        }
        Self::open_path(&path(text)?, text)
    }

    fn open_path(path: &Path, text: &str) -> anyhow::Result<Self> {
        let unreadable = || format!("`{text}` can't be read");
        let path = path.canonicalize().with_context(unreadable)?;
        if path.is_dir() {
            std::fs::read_dir(&path).with_context(unreadable)?;
            return Ok(Self::Folder(path));
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if Suffixes::of_images().has(&name) || is_image(&path) {
            return Ok(Self::Image { name, url: file_url(&path)? });
        }
        let file = File::open(&path).with_context(unreadable)?;
        Ok(Self::List { path, file })
    }

    /// Whether it is looked through for images.
    pub(super) const fn has_many(&self) -> bool {
        matches!(self, Self::Folder(_) | Self::Bucket(_))
    }

    /// Whether it is a file of lines.
    pub(super) const fn is_list(&self) -> bool {
        matches!(self, Self::List { .. })
    }

    /// As checkpoints and messages name it, wherever the command is run.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Folder(path) | Self::List { path, .. } => path.display().to_string(),
            Self::Image { url, .. } => url.clone(),
            Self::Bucket(bucket) => bucket.to_string(),
            Self::Input => "standard input".to_owned(),
        }
    }

    async fn feed(self, feed: Feed) -> Result<(), Stopped> {
        let name = self.name();
        let blocking: Box<dyn FnOnce() -> Result<(), Stopped> + Send> = match self {
            Self::Bucket(bucket) => return bucket::feed(&bucket, &feed).await,
            Self::Image { name, url } => Box::new(move || feed.image(&name, url)),
            Self::Folder(root) => Box::new(move || folder::feed(&root, &feed)),
            Self::List { file, .. } => Box::new(move || lines::feed(reader(file), &name, &feed)),
            Self::Input => Box::new(move || lines::feed(reader(stdin()), &name, &feed)),
        };
        tokio::task::spawn_blocking(blocking).await.map_err(anyhow::Error::from)?
    }
}

/// The jobs of all sources.
pub(super) fn jobs(sources: Vec<Source>, maker: Maker) -> mpsc::Receiver<anyhow::Result<Item>> {
    let (jobs, items) = mpsc::channel(READY);
    let maker = Arc::new(maker);
    tokio::spawn(async move {
        for (index, source) in sources.into_iter().enumerate() {
            let feed = Feed { jobs: jobs.clone(), source: index, maker: Arc::clone(&maker) };
            match source.feed(feed).await {
                Ok(()) => {}
                Err(Stopped::Closed) => return,
                Err(Stopped::Failed(error)) => {
                    let _ = jobs.send(Err(error)).await;
                    return;
                }
            }
        }
    });
    items
}

/// Why a source is not read further.
enum Stopped {
    /// Nobody wants more.
    Closed,
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Takes the jobs of one source.
struct Feed {
    jobs: mpsc::Sender<anyhow::Result<Item>>,
    source: usize,
    maker: Arc<Maker>,
}

impl Feed {
    fn item(&self, payload: Bytes, version: &str, last: Place) -> Item {
        let mut hash = Sha256::new();
        for part in [self.maker.subject.as_bytes(), &payload, version.as_bytes()] {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize()[..16]);
        Item { payload, at: Position { source: self.source, last }, id }
    }

    async fn send(&self, payload: Bytes, version: &str, last: Place) -> Result<(), Stopped> {
        self.jobs.send(Ok(self.item(payload, version, last))).await.map_err(|_| Stopped::Closed)
    }

    /// The same, from a thread that may wait.
    fn send_blocking(&self, payload: Bytes, version: &str, last: Place) -> Result<(), Stopped> {
        self.jobs.blocking_send(Ok(self.item(payload, version, last))).map_err(|_| Stopped::Closed)
    }

    fn image(&self, name: &str, url: String) -> Result<(), Stopped> {
        let version = path(&url).ok().and_then(|path| path.metadata().ok());
        let version = version.map(|metadata| folder::version(&metadata)).unwrap_or_default();
        self.send_blocking(self.maker.job(name, &url), &version, Place::Only(url))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Only(url) | Self::File(url) => f.write_str(url),
            Self::Key(key) => write!(f, "`{key}`"),
            Self::Line(number) => write!(f, "line {number}"),
        }
    }
}

fn reader(from: impl Read) -> BufReader<impl Read> {
    BufReader::with_capacity(64 * 1024, from)
}

/// A path, or one as a URL.
fn path(text: &str) -> anyhow::Result<PathBuf> {
    if !text.contains("://") {
        return Ok(text.into());
    }
    let url = Url::parse(text).ok().filter(|url| url.scheme() == "file");
    url.and_then(|url| url.to_file_path().ok())
        .with_context(|| format!("`{text}` is no source: use a path, s3://bucket, s3://bucket/prefix or file:///path"))
}

fn file_url(path: &Path) -> anyhow::Result<String> {
    let url = Url::from_file_path(path).map_err(|()| anyhow::anyhow!("`{}` has no absolute path", path.display()))?;
    Ok(url.into())
}

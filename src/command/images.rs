//! The images of files, folders and buckets. They are found as they are asked for, however many there are.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt;
use tokio::sync::mpsc;
use walkdir::{DirEntry, WalkDir};

use super::select::{Selection, Visited, outside, spelled};
use crate::failure::Failure;
use crate::source::local::Image;
use crate::store::bucket::Bucket;
use crate::store::bucket::list::Listed;
use crate::store::suffix::Suffixes;
use crate::store::{InvalidStore, Store, file, without_login};

/// Images found ahead.
const AHEAD: usize = 128;

/// What is on the command line.
#[derive(Clone)]
pub(super) struct Sources {
    #[expect(clippy::struct_field_names, reason = "they are the sources")]
    sources: Arc<[Source]>,
    /// The buckets that are read.
    stores: Vec<Store>,
    selection: Selection,
}

enum Source {
    /// A file, a folder, or nothing at all.
    Path(PathBuf),
    /// An object that is named as an image is.
    Object(String),
    /// All images below a prefix.
    Bucket(Bucket),
}

/// What is found on the way.
pub(super) enum Found {
    /// An image to tag.
    Image(Image),
    /// One that is tagged already.
    Skipped,
    /// Something that can't be looked at, or not be tagged.
    Broken { name: String, failure: Failure },
}

/// Nobody wants more.
struct Closed;

impl Sources {
    /// Reads what is named; what is no path here is looked for in the first of the stores. Paths are looked at later: one that
    /// is bad does not keep the others.
    ///
    /// # Errors
    /// Where a bucket's name or settings are wrong.
    pub(super) fn open(names: &[OsString], stores: &[String], selection: Selection) -> Result<Self, InvalidStore> {
        let names = names.iter().map(|name| located(name, stores.first()).unwrap_or_else(|| name.clone()));
        let mut buckets = BTreeMap::new();
        let mut open = |name: OsString| match name.to_str() {
            Some(location) if location.starts_with("s3://") => Source::of_bucket(location, &mut buckets),
            Some(url) if url.starts_with("file://") => {
                let path = url::Url::parse(url).ok().and_then(|url| url.to_file_path().ok());
                path.map(Source::Path).ok_or_else(|| InvalidStore::Location(url.to_owned()))
            }
            Some(url) if url.contains("://") => Err(InvalidStore::Location(without_login(url))),
            _ => Ok(Source::Path((&name).into())),
        };
        let sources = names.map(&mut open).collect::<Result<_, _>>()?;
        Ok(Self { sources, stores: buckets.into_values().map(Store::from).collect(), selection })
    }

    /// Selection of the files of folders and buckets.
    pub(super) const fn selection(&self) -> &Selection {
        &self.selection
    }

    /// The same, looked through to count what there is: nothing that is passed over is counted or named.
    pub(super) fn uncounted(&self) -> Self {
        Self { selection: self.selection.uncounted(), ..self.clone() }
    }

    /// What is named, where all of it is files and folders that are not there; `None` where anything is.
    pub(super) fn missing(&self) -> Option<Vec<(String, Failure)>> {
        let missing = |source: &Source| match source {
            Source::Path(path) => {
                let error = path.symlink_metadata().err()?;
                Some((spelled(path), file::failure(path, &error)))
            }
            Source::Object(_) | Source::Bucket(_) => None,
        };
        self.sources.iter().map(missing).collect()
    }

    /// The buckets that are read.
    pub(super) fn stores(&self) -> &[Store] {
        &self.stores
    }

    /// What there is, one after another, each image as `look` takes it.
    pub(super) fn found(&self, look: impl Fn(Image) -> Found + Send + Sync + 'static) -> mpsc::Receiver<Found> {
        let (sender, found) = mpsc::channel(AHEAD);
        let (sources, selection) = (Arc::clone(&self.sources), self.selection.clone());
        tokio::spawn(async move {
            let finder = Finder { found: sender, look: Arc::new(look), selection };
            for source in sources.iter() {
                let ended = match source {
                    Source::Path(path) => {
                        let (path, finder) = (path.clone(), finder.clone());
                        let walk = tokio::task::spawn_blocking(move || finder.walk(&path));
                        walk.await.unwrap_or(Err(Closed))
                    }
                    Source::Object(location) => finder.object(location.clone()).await,
                    Source::Bucket(bucket) => finder.list(bucket).await,
                };
                if ended.is_err() {
                    return;
                }
            }
        });
        found
    }
}

/// Where in the store a name is that is neither a URL nor a path here.
fn located(name: &OsString, store: Option<&String>) -> Option<OsString> {
    let (key, store) = (name.to_str()?, store?);
    if key.contains("://") || Path::new(key).is_absolute() || Path::new(key).exists() {
        return None;
    }
    if store.starts_with("s3://") {
        return Some(format!("{}/{key}", store.trim_end_matches('/')).into());
    }
    Some(url::Url::parse(store).ok()?.to_file_path().ok()?.join(key).into())
}

impl Source {
    fn of_bucket(location: &str, buckets: &mut BTreeMap<String, Bucket>) -> Result<Self, InvalidStore> {
        // Each has connections of its own, so many objects share one.
        let mut open = |url: &str| match buckets.get(url) {
            Some(bucket) => Ok::<_, InvalidStore>(bucket.clone()),
            None => Ok(buckets.entry(url.to_owned()).or_insert(url.parse()?).clone()),
        };
        let rest = location.trim_start_matches("s3://");
        match rest.split_once('/') {
            Some((bucket, key)) if Suffixes::of_images().has(key) => {
                open(&format!("s3://{bucket}"))?;
                Ok(Self::Object(location.to_owned()))
            }
            _ => open(location.trim_end_matches('/')).map(Self::Bucket),
        }
    }
}

#[derive(Clone)]
struct Finder {
    found: mpsc::Sender<Found>,
    selection: Selection,
    look: Arc<dyn Fn(Image) -> Found + Send + Sync>,
}

impl Finder {
    /// The images of a folder and the folders in it, or a file. Links to folders elsewhere are followed after all else, so
    /// that each folder is looked through once, under its own name where that is inside.
    fn walk(&self, root: &Path) -> Result<(), Closed> {
        let (mut visited, mut ahead) = (Visited::default(), vec![root.to_owned()]);
        while let Some(start) = ahead.pop() {
            let mut links = Vec::new();
            let below = |entry: &DirEntry| spelled(entry.path().strip_prefix(root).unwrap_or(entry.path()));
            let mut entries = WalkDir::new(&start).into_iter();
            while let Some(entry) = entries.next() {
                let found = match entry {
                    Ok(entry) if entry.path() == root && !entry.path().is_dir() => self.file(entry),
                    Ok(entry) if entry.path().is_dir() => {
                        let is_start = entry.path() == start;
                        if !is_start && entry.path_is_symlink() {
                            links.push(entry);
                        } else if !visited.is_new(entry.path()) || !(is_start || self.selection.enters(&below(&entry)))
                        {
                            entries.skip_current_dir();
                        }
                        continue;
                    }
                    Ok(entry) if !self.selection.takes_file(&below(&entry), entry.path()) => continue,
                    Ok(entry) => self.file(entry),
                    Err(error) => broken(root, error),
                };
                self.found.blocking_send(found).map_err(|_| Closed)?;
            }
            links.sort_by(|one, other| other.path().cmp(one.path()));
            for link in links {
                let name = below(&link);
                if outside(link.path(), root).is_none() {
                    self.selection.passes_link(&name);
                } else if self.selection.enters(&name) {
                    ahead.push(link.into_path());
                }
            }
        }
        Ok(())
    }

    fn file(&self, entry: DirEntry) -> Found {
        let path = entry.into_path();
        (self.look)(Image { name: spelled(&path), path: Some(path) })
    }

    async fn object(&self, location: String) -> Result<(), Closed> {
        let found = (self.look)(Image { name: location, path: None });
        self.found.send(found).await.map_err(|_| Closed)
    }

    async fn list(&self, bucket: &Bucket) -> Result<(), Closed> {
        let mut listing = std::pin::pin!(bucket.listing(None));
        while let Some(object) = listing.next().await {
            match object {
                Ok(Listed { path: Some(path), .. }) if self.selection.takes_key(path.as_ref()) => {
                    self.object(bucket.location_of(&path)).await?;
                }
                Ok(Listed { path: None, key, .. }) => self.selection.passes_unaddressable(&key),
                Ok(_) => {}
                Err(failure) => {
                    let broken = Found::Broken { name: bucket.to_string(), failure };
                    self.found.send(broken).await.map_err(|_| Closed)?;
                }
            }
        }
        Ok(())
    }
}

fn broken(root: &Path, error: walkdir::Error) -> Found {
    let path = error.path().unwrap_or(root).to_owned();
    // Its own text has the path as well.
    let reason = error.into_io_error().unwrap_or_else(|| std::io::Error::other("it leads round in a circle"));
    let failure = file::failure(&path, &reason);
    Found::Broken { name: spelled(&path), failure }
}

//! Objects of a bucket. S3 settings come from the standard `AWS_*` variables.

mod body;
mod http;
pub(crate) mod list;
mod probe;
mod requests;
mod settings;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, ObjectStore, ObjectStoreExt};

use super::reads::{ReadSlot, Reads};
use super::{InvalidStore, Read, denied, not_found, too_large, unavailable, without_login};
use crate::failure::Failure;
use crate::memory::Pool;
use body::{Body, IDLE};
use requests::Requests;
use settings::builder;

/// Objects of a bucket whose keys start with the prefix.
#[derive(Clone)]
pub(crate) struct Bucket {
    pub(super) name: String,
    pub(super) prefix: Path,
    objects: Arc<AmazonS3>,
    requests: Arc<Requests>,
}

/// Retry timeout for images, which are some megabytes. The queue retries them later at less cost.
const IMAGES: Duration = Duration::from_secs(10);

/// Retry timeout for models, which are some gigabytes and are read once.
const MODELS: Duration = Duration::from_hours(24);

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, prefix, .. } = self;
        if prefix.as_ref().is_empty() { write!(f, "s3://{name}") } else { write!(f, "s3://{name}/{prefix}") }
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({self})")
    }
}

impl FromStr for Bucket {
    type Err = InvalidStore;

    fn from_str(url: &str) -> Result<Self, InvalidStore> {
        Self::open(url, IMAGES)
    }
}

impl Bucket {
    /// Opens a bucket of large objects, with a longer retry timeout.
    ///
    /// # Errors
    /// As for a bucket of images.
    pub(crate) fn of_models(url: &str) -> Result<Self, InvalidStore> {
        Self::open(url, MODELS)
    }

    fn open(url: &str, retry: Duration) -> Result<Self, InvalidStore> {
        let malformed = || InvalidStore::Url(without_login(url));
        let rest = url.strip_prefix("s3://").ok_or_else(malformed)?;
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = Path::parse(prefix).map_err(|_| malformed())?;
        if name.is_empty() || name.contains(['?', '#', '@', ':']) {
            return Err(malformed());
        }
        let wrong = |source| InvalidStore::S3 { url: url.to_owned(), source };
        let builder = builder(name, retry)?;
        let objects = builder.clone().build().map(Arc::new).map_err(wrong)?;
        let requests = Requests::new(&builder, Arc::clone(&objects))
            .map(Arc::new)
            .map_err(|reason| wrong(object_store::Error::Generic { store: "S3", source: reason.into() }))?;
        Ok(Self { name: name.to_owned(), prefix, objects, requests })
    }

    /// Reads an object, as [`super::Store::read`]. Holds a slot of `reads`, but not while it waits for memory.
    pub(super) async fn read(&self, path: &Path, limit: u64, room: &Pool, reads: &Reads) -> Result<Read, Failure> {
        let mut reading = Some(reads.acquire(room.priority()).await);
        let asked = Instant::now();
        let (object, first_byte) = (self.get(path, &mut reading).await?, asked.elapsed());
        let size = object.meta.size;
        if size > limit {
            return Err(too_large(size, limit));
        }
        if let Some(reserved) = room.try_reserve(size) {
            let bytes = Body::new(self, path, object).read(&mut reading).await?;
            reads.ended(first_byte, asked.elapsed());
            return Ok(Read { bytes, reserved, first_byte });
        }
        // The connection of an open read would time out during the wait.
        drop((object, reading));
        let reserved = room.reserve(size).await?;
        let mut reading = Some(reads.acquire(room.priority()).await);
        let object = self.get(path, &mut reading).await?;
        if object.meta.size > size {
            return Err(unavailable(path, self, &"it has grown while it was waited for"));
        }
        Ok(Read { bytes: Body::new(self, path, object).read(&mut reading).await?, reserved, first_byte })
    }

    /// Requests an object. Releases the slot if the answer takes long, because the read uses no bandwidth until then.
    async fn get(&self, path: &Path, reading: &mut Option<ReadSlot>) -> Result<GetResult, Failure> {
        let object = self.objects.get(path);
        tokio::pin!(object);
        let answer = if let Ok(answer) = tokio::time::timeout(IDLE, &mut object).await {
            answer
        } else {
            reading.take();
            object.await
        };
        answer.map_err(|error| failure(path, self, &error))
    }

    /// Requests an object from `offset` on, if it still has this tag.
    pub(super) async fn get_from(&self, path: &Path, offset: u64, tag: Option<String>) -> Result<GetResult, Failure> {
        let options = GetOptions { range: Some(GetRange::Offset(offset)), if_match: tag, ..GetOptions::default() };
        self.objects.get_opts(path, options).await.map_err(|error| failure(path, self, &error))
    }
}

/// What the object store crate's error means.
fn failure(path: &Path, bucket: &Bucket, error: &object_store::Error) -> Failure {
    use object_store::Error;
    match error {
        Error::NotFound { .. } => not_found(path, bucket),
        Error::PermissionDenied { source, .. } | Error::Unauthenticated { source, .. } => denied(path, bucket, source),
        other => unavailable(path, bucket, other),
    }
}

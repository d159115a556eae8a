//! From a `--store` URL to a store. S3 settings come from the standard `AWS_*` variables.

use std::path::Path as FilePath;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use url::Url;

use super::{HeadBucket, Outage, Place, Store};

/// Why a `--store` URL can't be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidStore {
    /// Neither an S3 nor a file URL.
    #[error("`{0}` is not a store (--store): use s3://bucket, s3://bucket/prefix or file:///folder")]
    Url(String),
    /// What was named to be read, without a store.
    #[error(
        "`{0}` is neither a path here nor a location that images are read from: s3://bucket, s3://bucket/prefix or \
         s3://bucket/image.jpg"
    )]
    Location(String),
    /// The folder is missing or can't be read.
    #[error("the folder of store `{url}` can't be used: {source}")]
    Folder {
        /// The store.
        url: String,
        /// Why.
        source: std::io::Error,
    },
    /// An `AWS_*` variable is wrong.
    #[error("the S3 settings for `{url}` (AWS_* variables) are wrong: {source}")]
    S3 {
        /// The store.
        url: String,
        /// Why.
        source: object_store::Error,
    },
    /// No endpoint.
    #[error(
        "AWS_ENDPOINT_URL (or AWS_ENDPOINT_URL_S3) is no URL of a server; expected https://host or https://host:port"
    )]
    Endpoint,
    /// A plain HTTP endpoint that was not allowed by name.
    #[error(
        "AWS_ENDPOINT_URL is plain http, which sends images unencrypted: set AWS_ALLOW_HTTP=true to allow it, or use https"
    )]
    PlainHttp,
}

impl FromStr for Store {
    type Err = InvalidStore;

    fn from_str(text: &str) -> Result<Self, InvalidStore> {
        Self::open(text, &IMAGES)
    }
}

/// How long reads may take.
struct Patience {
    /// All of one, where that is limited.
    whole: Option<Duration>,
    /// Tries again after an error, all together.
    retry: Duration,
}

/// Objects of some megabytes, with a queue that has better ways to wait.
const IMAGES: Patience = Patience { whole: Some(Duration::from_mins(1)), retry: Duration::from_secs(10) };

/// Objects of some gigabytes, and nobody else to read them.
const MODELS: Patience = Patience { whole: None, retry: Duration::from_hours(24) };

impl Store {
    /// A store of large objects, whose reads take as long as they take.
    ///
    /// # Errors
    /// As for stores of images.
    pub(crate) fn of_models(text: &str) -> Result<Self, InvalidStore> {
        Self::open(text, &MODELS)
    }

    fn open(text: &str, patience: &Patience) -> Result<Self, InvalidStore> {
        let malformed = || InvalidStore::Url(text.to_owned());
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let prefix = Path::parse(prefix).map_err(|_| malformed())?;
            if bucket.is_empty() || bucket.contains(['?', '#', '@', ':']) {
                return Err(malformed());
            }
            return bucket_store(text, bucket, prefix, patience);
        }
        let url = Url::parse(text).map_err(|_| malformed())?;
        let folder = if url.scheme() == "file" { url.to_file_path().ok() } else { None };
        folder_store(text, &folder.ok_or_else(malformed)?)
    }
}

fn bucket_store(url: &str, bucket: &str, prefix: Path, patience: &Patience) -> Result<Store, InvalidStore> {
    use object_store::aws::AmazonS3ConfigKey as Key;

    let builder = AmazonS3Builder::from_env();
    let endpoint = [Key::S3Endpoint, Key::Endpoint]
        .iter()
        .find_map(|key| builder.get_config_value(key).filter(|endpoint| !endpoint.is_empty()));
    let endpoint = endpoint.unwrap_or_default();
    let allowed =
        std::env::var("AWS_ALLOW_HTTP").is_ok_and(|value| matches!(value.as_str(), "1" | "true" | "yes" | "on"));
    let is_one = |url: Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    if !endpoint.is_empty() && !Url::parse(&endpoint).is_ok_and(is_one) {
        return Err(InvalidStore::Endpoint);
    }
    if endpoint.starts_with("http://") && !allowed {
        return Err(InvalidStore::PlainHttp);
    }
    let retry = RetryConfig {
        max_retries: 2,
        retry_timeout: patience.retry,
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
    };
    let client = ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(5))
        // A read that stands still is given up; one that moves has time.
        .with_read_timeout(Duration::from_secs(10))
        .with_allow_http(allowed);
    let client = match patience.whole {
        Some(whole) => client.with_timeout(whole),
        None => client.with_timeout_disabled(),
    };
    let objects = builder
        .with_bucket_name(bucket)
        .with_retry(retry)
        .with_client_options(client)
        .build()
        .map_err(|source| InvalidStore::S3 { url: url.to_owned(), source })?;
    let objects = Arc::new(objects);
    let head = HeadBucket::new(Arc::clone(&objects)).map_err(|error| InvalidStore::S3 {
        url: url.to_owned(),
        source: object_store::Error::Generic { store: "S3", source: error.into() },
    })?;
    Ok(Store { place: Place::Bucket { bucket: bucket.to_owned(), prefix, head }, objects, outage: Outage::default() })
}

fn folder_store(url: &str, folder: &FilePath) -> Result<Store, InvalidStore> {
    let unusable = |source| InvalidStore::Folder { url: url.to_owned(), source };
    let root = folder.canonicalize().map_err(unusable)?;
    std::fs::read_dir(&root).map_err(unusable)?;
    let objects = LocalFileSystem::new_with_prefix(&root).map_err(|error| unusable(std::io::Error::other(error)))?;
    let place = Place::Folder { root: root.into(), named: folder.into() };
    Ok(Store { place, objects: Arc::new(objects), outage: Outage::default() })
}

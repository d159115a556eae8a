//! S3 server for benchmarks: the real protocol with real signatures, over objects in memory, so that the reader is measured
//! and not the server's disk. `--delay` delays every answer with an object, like a distant bucket.
//!
//! Every folder in FOLDER is a bucket. Prints its address once it serves, and serves until it is killed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Parser;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::dto::{
    GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput, HeadObjectInput, HeadObjectOutput,
    StreamingBlob, Timestamp,
};
use s3s::service::S3ServiceBuilder;
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};
use tokio::net::TcpListener;

#[derive(Parser)]
struct Arguments {
    /// Folder that contains one folder per bucket.
    folder: PathBuf,
    /// Delay before an object is sent.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    delay: Duration,
    /// Access key of clients.
    #[arg(long, env = "AWS_ACCESS_KEY_ID")]
    key: String,
    /// Secret key of clients.
    #[arg(long, env = "AWS_SECRET_ACCESS_KEY", hide_env_values = true)]
    secret: String,
}

struct Storage {
    buckets: HashMap<String, HashMap<String, Bytes>>,
    started: Timestamp,
    delay: Duration,
}

// One thread, because a second one would only compete with the measured programs.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let Arguments { folder, delay, key, secret } = Arguments::parse();
    let buckets = buckets(&folder).with_context(|| format!("can't read {}", folder.display()))?;
    let mut service = S3ServiceBuilder::new(Storage { buckets, started: SystemTime::now().into(), delay });
    service.set_auth(SimpleAuth::from_single(key, secret));
    let service = service.build();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let builder = Arc::new(Builder::new(TokioExecutor::new()));
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let (service, builder) = (service.clone(), Arc::clone(&builder));
        tokio::spawn(async move {
            // An error of one client ends only its own connection.
            let _ = builder.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

fn buckets(folder: &Path) -> anyhow::Result<HashMap<String, HashMap<String, Bytes>>> {
    let mut buckets: HashMap<_, HashMap<_, _>> = HashMap::new();
    for file in walkdir::WalkDir::new(folder).follow_links(true).min_depth(2) {
        let file = file?;
        if !file.file_type().is_file() {
            continue;
        }
        let name = file.path().strip_prefix(folder)?.to_str().context("a name that is no UTF-8")?;
        let (bucket, key) = name.split_once('/').context("a file beside the buckets")?;
        let object = Bytes::from(std::fs::read(file.path())?);
        buckets.entry(bucket.to_owned()).or_default().insert(key.to_owned(), object);
    }
    Ok(buckets)
}

impl Storage {
    fn object(&self, bucket: &str, key: &str) -> S3Result<Bytes> {
        let bucket = self.buckets.get(bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
        bucket.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }
}

fn length(bytes: &Bytes) -> Option<i64> {
    i64::try_from(bytes.len()).ok()
}

#[async_trait::async_trait]
impl S3 for Storage {
    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        if !self.buckets.contains_key(&request.input.bucket) {
            return Err(s3_error!(NoSuchBucket));
        }
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let object = self.object(&request.input.bucket, &request.input.key)?;
        let (content_length, last_modified) = (length(&object), Some(self.started.clone()));
        Ok(S3Response::new(HeadObjectOutput { content_length, last_modified, ..Default::default() }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let GetObjectInput { bucket, key, range, .. } = request.input;
        let object = self.object(&bucket, &key)?;
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        let (object, content_range) = match range {
            None => (object, None),
            Some(range) => {
                let all = object.len();
                let part = range.check(all as u64)?;
                let content_range = format!("bytes {}-{}/{all}", part.start, part.end - 1);
                let within = |offset| usize::try_from(offset).map_err(|_| s3_error!(InvalidRange));
                (object.slice(within(part.start)?..within(part.end)?), Some(content_range))
            }
        };
        Ok(S3Response::new(GetObjectOutput {
            content_length: length(&object),
            content_range,
            last_modified: Some(self.started.clone()),
            body: Some(StreamingBlob::from(Body::from(object))),
            ..Default::default()
        }))
    }
}

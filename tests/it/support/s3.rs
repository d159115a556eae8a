//! Real S3 protocol server, with signatures, over a folder.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use super::until;

const KEY: &str = "tagmill-test";
const SECRET: &str = "tagmill-test-secret";

/// Fault of a key.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    /// Reads stall until the key is healed.
    Stalled,
    /// The server answers with an internal error.
    Broken,
    /// Access is denied.
    Denied,
    /// The bytes arrive one a second.
    Trickling,
    /// The connection breaks in the middle of the object, unless only a part is requested.
    Cut,
}

type Faults = Arc<Mutex<HashMap<String, Fault>>>;

/// State shared by all connections.
#[derive(Default)]
struct Shared {
    faults: Faults,
    healed: Notify,
    /// Keys of which a read has stalled.
    stalled: Mutex<HashSet<String>>,
    link: Link,
    /// The answer to every request for a list, where it is not the truth.
    listing: Mutex<Option<String>>,
    /// Reads of objects in progress, and the most there were.
    reading: AtomicUsize,
    most_reading: AtomicUsize,
}

/// Shared link of all answers.
#[derive(Default)]
struct Link {
    /// Bytes a second; zero for no limit.
    rate: AtomicUsize,
    sent: AtomicUsize,
    free: tokio::sync::Mutex<Option<Instant>>,
}

impl Link {
    /// Waits until `bytes` bytes have passed the link.
    async fn pass(&self, bytes: usize) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        if let Some(micros) = (bytes * 1_000_000).checked_div(self.rate.load(Ordering::Relaxed)) {
            let mut free = self.free.lock().await;
            let until = free.unwrap_or_else(Instant::now).max(Instant::now()) + Duration::from_micros(micros as u64);
            *free = Some(until);
            tokio::time::sleep_until(until.into()).await;
        }
    }
}

pub struct S3Server {
    folder: TempDir,
    port: u16,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl S3Server {
    /// Starts a server with an empty bucket of this name.
    pub async fn start(bucket: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join(bucket)).expect("a bucket");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::<Shared>::default();
        let server = serve(folder.path(), listener, Arc::clone(&shared));
        Self { folder, port, shared, server }
    }

    /// Refuses new connections and ends the open ones.
    pub fn stop(&mut self) {
        self.server.abort();
    }

    /// Serves again, at the same address.
    pub async fn resume(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.expect("its own port");
        self.server = serve(self.folder.path(), listener, Arc::clone(&self.shared));
    }

    /// Has every list hold these keys, as a server that keeps keys that no file system could.
    pub fn set_listing(&self, keys: &[&str]) {
        let size = |key: &str| if key.ends_with('/') { 0 } else { 1000 };
        let object = |key: &&str| {
            let escaped = key.replace('\t', "&#x9;");
            format!("<Contents><Key>{escaped}</Key><Size>{}</Size><ETag>&quot;1&quot;</ETag></Contents>", size(key))
        };
        let objects: String = keys.iter().map(object).collect();
        let list = format!("<ListBucketResult>{objects}</ListBucketResult>");
        *self.shared.listing.lock().expect("no panic") = Some(list);
    }

    /// From now on, this key cannot be read.
    pub fn fault(&self, key: &str, fault: Fault) {
        self.shared.faults.lock().expect("no panic").insert(key.to_owned(), fault);
    }

    /// Resumes stalled reads of this key and removes its fault.
    pub fn heal(&self, key: &str) {
        self.shared.faults.lock().expect("no panic").remove(key);
        self.shared.healed.notify_waiters();
    }

    /// Waits until a read of this key stalls.
    pub async fn stalled(&self, key: &str) {
        until("a read that stands still", || async {
            self.shared.stalled.lock().expect("no panic").contains(key).then_some(())
        })
        .await;
    }

    /// Limits the rate of all answers together to `bytes` bytes a second.
    pub fn set_rate(&self, bytes: usize) {
        self.shared.link.rate.store(bytes, Ordering::Relaxed);
    }

    /// Bytes of objects sent.
    pub fn sent(&self) -> usize {
        self.shared.link.sent.load(Ordering::Relaxed)
    }

    /// Maximum number of concurrent reads of objects.
    pub fn most_reading(&self) -> usize {
        self.shared.most_reading.load(Ordering::Relaxed)
    }

    /// Folder of a bucket.
    pub fn bucket(&self, bucket: &str) -> std::path::PathBuf {
        self.folder.path().join(bucket)
    }

    /// Puts a file into a bucket.
    pub fn put(&self, bucket: &str, key: &str, file: &Path) {
        let target = self.bucket(bucket).join(key);
        std::fs::create_dir_all(target.parent().expect("a bucket")).expect("a folder");
        std::fs::copy(file, target).expect("a copy");
    }

    /// Environment with endpoint and credentials for a worker.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port)),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_ACCESS_KEY_ID", KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.into()),
            ("AWS_REGION", "us-east-1".into()),
        ]
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn serve(folder: &Path, listener: TcpListener, shared: Arc<Shared>) -> JoinHandle<()> {
    let mut service = S3ServiceBuilder::new(FileSystem::new(folder).expect("a store"));
    service.set_auth(SimpleAuth::from_single(KEY, SECRET));
    let service = service.build();
    tokio::spawn(async move {
        // Dropped with this task, together with every connection.
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            let (service, shared) = (service.clone(), Arc::clone(&shared));
            let answer = service_fn(move |request: Request<Incoming>| {
                let (service, shared) = (service.clone(), Arc::clone(&shared));
                async move { shared.answer(&service, request).await }
            });
            connections.spawn(async move {
                let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), answer).await;
            });
        }
    })
}

impl Shared {
    async fn answer(
        self: Arc<Self>,
        service: &S3Service,
        request: Request<Incoming>,
    ) -> Result<Response<s3s::Body>, s3s::HttpError> {
        // For a request to a bucket, this is its name.
        let path = request.uri().path().trim_end_matches('/').to_owned();
        let key = path.rsplit('/').next().unwrap_or_default().to_owned();
        let fault = || self.faults.lock().expect("no panic").get(&key).copied();
        let mut changed = std::pin::pin!(self.healed.notified());
        changed.as_mut().enable();
        while fault() == Some(Fault::Stalled) {
            self.stalled.lock().expect("no panic").insert(key.clone());
            changed.as_mut().await;
            changed.set(self.healed.notified());
            changed.as_mut().enable();
        }
        match fault() {
            Some(Fault::Broken) => return Ok(refusal(500)),
            Some(Fault::Denied) => return Ok(refusal(403)),
            _ => {}
        }
        let listing = self.listing.lock().expect("no panic").clone();
        if let Some(listing) =
            listing.filter(|_| request.uri().query().is_some_and(|query| query.contains("list-type")))
        {
            return Ok(Response::new(s3s::Body::from(listing.into_bytes())));
        }
        let is_object = request.method() == Method::GET && path.matches('/').count() > 1;
        let is_part = request.headers().contains_key("range");
        let answer = Service::call(service, request).await?;
        if !is_object {
            return Ok(answer);
        }
        let fault = fault().filter(|fault| *fault != Fault::Cut || !is_part);
        Ok(Arc::clone(&self).paced(answer, fault).await)
    }

    /// The same answer at the speed of the link and the fault.
    async fn paced(self: Arc<Self>, answer: Response<s3s::Body>, fault: Option<Fault>) -> Response<s3s::Body> {
        let (head, mut body) = answer.into_parts();
        let bytes = body.store_all_limited(64 << 20).await.expect("a file");
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
        let now = self.reading.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_reading.fetch_max(now, Ordering::Relaxed);
        tokio::spawn(async move {
            let size = if fault == Some(Fault::Trickling) { 1 } else { 16 << 10 };
            let half = bytes.len() / 2;
            let mut sent = 0;
            for chunk in bytes.chunks(size) {
                if fault == Some(Fault::Trickling) {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                self.link.pass(chunk.len()).await;
                sent += chunk.len();
                let broken = fault == Some(Fault::Cut) && sent > half;
                let item = if broken { Err(std::io::Error::other("cut")) } else { Ok(bytes.slice_ref(chunk)) };
                if sender.send(item).await.is_err() || broken {
                    break;
                }
            }
            self.reading.fetch_sub(1, Ordering::Relaxed);
        });
        let chunks =
            futures_util::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        Response::from_parts(head, s3s::Body::http_body_unsync(Chunks(Box::pin(chunks))))
    }
}

type BoxStream = std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Bytes, std::io::Error>> + Send>>;

/// Body of chunks.
struct Chunks(BoxStream);

impl hyper::body::Body for Chunks {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, std::io::Error>>> {
        self.0.as_mut().poll_next(context).map(|next| next.map(|chunk| chunk.map(hyper::body::Frame::data)))
    }
}

fn refusal(status: u16) -> Response<s3s::Body> {
    Response::builder().status(status).body(s3s::Body::empty()).expect("a response")
}

//! A real S3 protocol server, with signatures, over a folder.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use super::until;

const KEY: &str = "tagmill-test";
const SECRET: &str = "tagmill-test-secret";

/// What a key does instead of being read.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    /// Its read stands still until it is healed.
    Stalled,
    /// The server has an internal error.
    Broken,
    /// It may not be read by anybody.
    Denied,
}

type Faults = Arc<Mutex<HashMap<String, Fault>>>;

pub struct S3Server {
    folder: TempDir,
    port: u16,
    faults: Faults,
    healed: Arc<Notify>,
    /// The keys of which a read has stood still.
    stalled: Arc<Mutex<HashSet<String>>>,
    server: JoinHandle<()>,
}

impl S3Server {
    /// With an empty bucket of this name.
    pub async fn start(bucket: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join(bucket)).expect("a bucket");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let faults = Faults::default();
        let (healed, stalled) = (Arc::new(Notify::new()), Arc::default());
        let server = serve(folder.path(), listener, Arc::clone(&faults), Arc::clone(&healed), Arc::clone(&stalled));
        Self { folder, port, faults, healed, stalled, server }
    }

    /// Refuses connections from now on, and ends those there are.
    pub fn stop(&mut self) {
        self.server.abort();
    }

    /// Serves again, at the same address.
    pub async fn resume(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.expect("its own port");
        let (faults, healed, stalled) = (self.faults.clone(), self.healed.clone(), self.stalled.clone());
        self.server = serve(self.folder.path(), listener, faults, healed, stalled);
    }

    /// From now on, this key cannot be read.
    pub fn fault(&self, key: &str, fault: Fault) {
        self.faults.lock().expect("no panic").insert(key.to_owned(), fault);
    }

    /// Reads of this key that stand still go on, and later ones are as they should be.
    pub fn heal(&self, key: &str) {
        self.faults.lock().expect("no panic").remove(key);
        self.healed.notify_waiters();
    }

    /// Waits until a read of this key stands still.
    pub async fn stalled(&self, key: &str) {
        until("a read that stands still", || async {
            self.stalled.lock().expect("no panic").contains(key).then_some(())
        })
        .await;
    }

    /// The folder of a bucket.
    pub fn bucket(&self, bucket: &str) -> std::path::PathBuf {
        self.folder.path().join(bucket)
    }

    /// Puts a file into a bucket.
    pub fn put(&self, bucket: &str, key: &str, file: &Path) {
        let target = self.bucket(bucket).join(key);
        std::fs::create_dir_all(target.parent().expect("a bucket")).expect("a folder");
        std::fs::copy(file, target).expect("a copy");
    }

    /// What a worker needs to be let in.
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

fn serve(
    folder: &Path,
    listener: TcpListener,
    faults: Faults,
    healed: Arc<Notify>,
    stalled: Arc<Mutex<HashSet<String>>>,
) -> JoinHandle<()> {
    let mut service = S3ServiceBuilder::new(FileSystem::new(folder).expect("a store"));
    service.set_auth(SimpleAuth::from_single(KEY, SECRET));
    let service = service.build();
    tokio::spawn(async move {
        // Dropped with this task, and every connection with it.
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            let (service, faults, healed) = (service.clone(), Arc::clone(&faults), Arc::clone(&healed));
            let stalled = Arc::clone(&stalled);
            let answer = service_fn(move |request: Request<Incoming>| {
                // Of a bucket, its name.
                let path = request.uri().path().trim_end_matches('/');
                let key = path.rsplit('/').next().unwrap_or_default().to_owned();
                let (service, faults, healed) = (service.clone(), Arc::clone(&faults), Arc::clone(&healed));
                let (stalled, name) = (Arc::clone(&stalled), key.clone());
                let fault = move || faults.lock().expect("no panic").get(&key).copied();
                async move {
                    let mut changed = std::pin::pin!(healed.notified());
                    changed.as_mut().enable();
                    while fault() == Some(Fault::Stalled) {
                        stalled.lock().expect("no panic").insert(name.clone());
                        changed.as_mut().await;
                        changed.set(healed.notified());
                        changed.as_mut().enable();
                    }
                    match fault() {
                        Some(Fault::Stalled) | None => Service::call(&service, request).await,
                        Some(Fault::Broken) => Ok(refusal(500)),
                        Some(Fault::Denied) => Ok(refusal(403)),
                    }
                }
            });
            connections.spawn(async move {
                let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), answer).await;
            });
        }
    })
}

fn refusal(status: u16) -> Response<s3s::Body> {
    Response::builder().status(status).body(s3s::Body::empty()).expect("a response")
}

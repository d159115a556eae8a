//! A real S3 protocol server, with signatures, over a folder.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

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
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

const KEY: &str = "tagmill-test";
const SECRET: &str = "tagmill-test-secret";

/// What a key does instead of being read.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    /// Its read never ends, unless it is healed.
    Stalled,
    /// The server has an internal error.
    Broken,
}

type Faults = Arc<watch::Sender<HashMap<String, Fault>>>;

pub struct S3Server {
    folder: TempDir,
    port: u16,
    faults: Faults,
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
        let server = serve(folder.path(), listener, Arc::clone(&faults));
        Self { folder, port, faults, server }
    }

    /// Refuses connections from now on, and ends those there are.
    pub fn stop(&mut self) {
        self.server.abort();
    }

    /// Serves again, at the same address.
    pub async fn resume(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.expect("its own port");
        self.server = serve(self.folder.path(), listener, Arc::clone(&self.faults));
    }

    /// From now on, this key cannot be read.
    pub fn fault(&self, key: &str, fault: Fault) {
        self.faults.send_modify(|faults| {
            faults.insert(key.to_owned(), fault);
        });
    }

    /// From now on, this key can be read again; reads that stand still go on.
    pub fn heal(&self, key: &str) {
        self.faults.send_modify(|faults| {
            faults.remove(key);
        });
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

fn serve(folder: &Path, listener: TcpListener, faults: Faults) -> JoinHandle<()> {
    let mut service = S3ServiceBuilder::new(FileSystem::new(folder).expect("a store"));
    service.set_auth(SimpleAuth::from_single(KEY, SECRET));
    let service = service.build();
    tokio::spawn(async move {
        // Dropped with this task, and every connection with it.
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            let (service, faults) = (service.clone(), Arc::clone(&faults));
            let answer = service_fn(move |request: Request<Incoming>| {
                let key = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
                let fault = faults.borrow().get(&key).copied();
                let mut faults = faults.subscribe();
                let service = service.clone();
                async move {
                    match fault {
                        None => Service::call(&service, request).await,
                        Some(Fault::Broken) => {
                            let answer = Response::builder().status(500).body(s3s::Body::empty());
                            Ok(answer.expect("a response"))
                        }
                        Some(Fault::Stalled) => {
                            // The other end lives as long as the server.
                            let _ = faults.wait_for(|faults| faults.get(&key) != Some(&Fault::Stalled)).await;
                            Service::call(&service, request).await
                        }
                    }
                }
            });
            connections.spawn(async move {
                let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), answer).await;
            });
        }
    })
}

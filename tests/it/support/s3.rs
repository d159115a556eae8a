//! A real S3 protocol server, with signatures, over a folder.

use std::path::Path;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

const KEY: &str = "tagmill-test";
const SECRET: &str = "tagmill-test-secret";

pub struct S3Server {
    folder: TempDir,
    port: u16,
    server: JoinHandle<()>,
}

impl S3Server {
    /// With an empty bucket of this name.
    pub async fn start(bucket: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join(bucket)).expect("a bucket");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let server = serve(folder.path(), listener);
        Self { folder, port, server }
    }

    /// Refuses connections from now on, and ends those there are.
    pub fn stop(&mut self) {
        self.server.abort();
    }

    /// Serves again, at the same address.
    pub async fn resume(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.expect("its own port");
        self.server = serve(self.folder.path(), listener);
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

fn serve(folder: &Path, listener: TcpListener) -> JoinHandle<()> {
    let mut service = S3ServiceBuilder::new(FileSystem::new(folder).expect("a store"));
    service.set_auth(SimpleAuth::from_single(KEY, SECRET));
    let service = service.build();
    tokio::spawn(async move {
        // Dropped with this task, and every connection with it.
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            connections.spawn(async move {
                let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
            });
        }
    })
}

//! Model hub: listings and small files on one port, large files on another, as the real hub redirects to its storage.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::json;
use sha1::{Digest, Sha1};
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The only repository.
pub const REPOSITORY: &str = "someone/tagger";

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Faulty answer to a request for a file.
#[derive(Clone, Copy)]
pub enum Fault {
    /// This many bytes, then the end of the connection.
    Cut(usize),
    /// The file with one wrong bit.
    Corrupt,
    /// An empty answer with this status.
    Status(u16),
    /// Of a listing: no hash of any file.
    Unhashed,
}

/// Received request.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `true` for a request to the storage instead of the hub itself.
    pub storage: bool,
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
    /// Bytes of the file sent in answer.
    pub sent: usize,
}

#[derive(Default)]
struct Content {
    files: BTreeMap<String, Bytes>,
    token: Option<String>,
    /// Faults of the next requests for a file, or for the `listing`.
    faults: Vec<(String, Fault)>,
    seen: Vec<Seen>,
}

#[derive(Clone)]
struct Server {
    content: Arc<Mutex<Content>>,
    /// Port of the storage; `None` in the storage itself.
    storage: Option<u16>,
}

/// Running hub, stopped on drop.
pub struct Hub {
    content: Arc<Mutex<Content>>,
    port: u16,
    servers: [JoinHandle<()>; 2],
}

impl Hub {
    /// Starts a hub with one repository of these files.
    pub async fn start(files: &[(&str, &[u8])]) -> Self {
        let content: Arc<Mutex<Content>> = Arc::default();
        let (storage, storing) = serve(Server { content: Arc::clone(&content), storage: None }).await;
        let (port, listing) = serve(Server { content: Arc::clone(&content), storage: Some(storage) }).await;
        let hub = Self { content, port, servers: [storing, listing] };
        for (name, bytes) in files {
            hub.put(name, bytes);
        }
        hub
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Adds a file to the repository.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        self.content().files.insert(name.to_owned(), Bytes::copy_from_slice(bytes));
    }

    /// Requires this token from now on.
    pub fn lock(&self, token: &str) {
        self.content().token = Some(token.to_owned());
    }

    /// Sets the answers to the next requests for this file, one after another.
    pub fn fault(&self, name: &str, faults: &[Fault]) {
        self.content().faults.extend(faults.iter().map(|fault| (name.to_owned(), *fault)));
    }

    /// Requests since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.content().seen)
    }

    fn content(&self) -> std::sync::MutexGuard<'_, Content> {
        self.content.lock().expect("no panic")
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

async fn serve(server: Server) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let app = Router::new().fallback(answer).with_state(server);
    (port, tokio::spawn(async move { axum::serve(listener, app).await.expect("it serves") }))
}

async fn answer(State(server): State<Server>, request: Request) -> Response<Body> {
    let header = |name| request.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
    let (path, authorization) = (request.uri().path().to_owned(), header(AUTHORIZATION));
    let mut content = server.content.lock().expect("no panic");
    let seen = Seen { storage: server.storage.is_none(), path, range: header(RANGE), authorization, sent: 0 };
    content.seen.push(seen.clone());
    let Some(storage) = server.storage else {
        assert_eq!(request.uri().query(), Some("signature=signed-by-the-hub"));
        let name = seen.path.strip_prefix("/blobs/").expect("a blob").to_owned();
        return content.send(&name, request.headers());
    };
    let allowed = content.token.as_ref().is_none_or(|token| seen.authorization == Some(format!("Bearer {token}")));
    if !allowed || !seen.path.contains(REPOSITORY) {
        // The real hub answers so to hide the existence of private repositories.
        return refusal(401, "RepoNotFound");
    }
    let file = format!("/{REPOSITORY}/resolve/{COMMIT}/");
    match (seen.path.strip_prefix(&format!("/api/models/{REPOSITORY}/revision/")), seen.path.strip_prefix(&file)) {
        (Some("main"), _) => content.list(),
        (_, Some(name)) if is_large(name) => Response::builder()
            .status(302)
            .header(LOCATION, format!("http://127.0.0.1:{storage}/blobs/{name}?signature=signed-by-the-hub"))
            .body(Body::empty())
            .expect("a response"),
        (_, Some(name)) => content.send(name, request.headers()),
        (_, None) => refusal(404, "RevisionNotFound"),
    }
}

fn refusal(status: u16, code: &str) -> Response<Body> {
    Response::builder().status(status).header("X-Error-Code", code).body(Body::empty()).expect("a response")
}

fn is_large(name: &str) -> bool {
    name.contains(".onnx")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

impl Content {
    fn fault_of(&mut self, name: &str) -> Option<Fault> {
        let index = self.faults.iter().position(|(faulty, _)| faulty == name)?;
        Some(self.faults.remove(index).1)
    }

    fn list(&mut self) -> Response<Body> {
        let fault = self.fault_of("listing");
        if let Some(Fault::Status(status)) = fault {
            return refusal(status, "");
        }
        let siblings = self.files.iter().map(|(name, bytes)| {
            let (size, sha256) = (bytes.len(), hex(&Sha256::digest(bytes)));
            let git = hex(&Sha1::new_with_prefix(format!("blob {size}\0")).chain_update(bytes).finalize());
            if matches!(fault, Some(Fault::Unhashed)) {
                return json!({ "rfilename": name, "size": size });
            }
            let lfs = is_large(name).then(|| json!({ "sha256": sha256, "size": size, "pointerSize": 134 }));
            json!({ "rfilename": name, "size": size, "blobId": git, "lfs": lfs })
        });
        let siblings: Vec<_> = siblings.collect();
        json!({ "id": REPOSITORY, "sha": COMMIT, "siblings": siblings }).to_string().into_response()
    }

    fn send(&mut self, name: &str, headers: &HeaderMap) -> Response<Body> {
        let mut bytes = self.files[name].to_vec();
        let fault = self.fault_of(name);
        match fault {
            Some(Fault::Status(status)) => return refusal(status, ""),
            Some(Fault::Corrupt) => bytes[0] ^= 1,
            _ => {}
        }
        let range = headers.get(RANGE).map(|range| range.to_str().expect("text"));
        let from = range.map(|range| range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')));
        let from = from.map(|from| from.expect("from a byte on").parse::<usize>().expect("a number"));
        let rest = Bytes::from(bytes).slice(from.unwrap_or(0)..);
        let (length, total) = (rest.len(), self.files[name].len());
        let cut = if let Some(Fault::Cut(after)) = fault { after.min(length) } else { length };
        self.seen.last_mut().expect("this request").sent = cut;
        let end = stream::once(async move {
            // Lets the sent bytes leave, then ends the connection.
            tokio::task::yield_now().await;
            if cut < length { Err(io::Error::other("cut")) } else { Ok(Bytes::new()) }
        });
        let body = stream::iter([Ok(rest.slice(..cut))]).chain(end);
        let response = Response::builder().header(CONTENT_LENGTH, length);
        let response = match from {
            Some(from) => response
                .status(StatusCode::PARTIAL_CONTENT)
                .header(CONTENT_RANGE, format!("bytes {from}-{}/{total}", total - 1)),
            None => response,
        };
        response.body(Body::from_stream(body)).expect("a response")
    }
}

//! Relay between the client library and the NATS servers, in this process.
//!
//! The library panics over some messages and drops its connection over others, with whatever else was on its way
//! (docs/security.md, "Messages that no client reads"). Anybody who may publish can send those. So the library connects to a
//! port of the loopback interface, and what the server sends passes through [`frames`], which leaves sound messages as they
//! are and replaces the headers and subjects of others. TLS ends here; logins pass through.
//!
//! The library still decides when to connect and how long to wait in between; with each of its connections the relay takes
//! the next server.

pub(super) mod frames;
mod tls;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use async_nats::ServerAddr;
use bytes::{Bytes, BytesMut};
use memchr::memmem;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use frames::Frames;
use tls::Tls;

/// Time limit for a server to be connected and to introduce itself: as long as the library waits for all of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Time limit for a client to read the last words of a server that has gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Bytes of a server's introduction, at most.
const LONGEST_INFO: usize = 1 << 20;

/// Servers of a cluster that are remembered beyond those that are configured.
const LEARNT: usize = 64;

/// Connections at a time: the library has one, and other local users get no more than this.
const CONNECTIONS: usize = 4;

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// A running relay. It runs as long as the process.
#[derive(Clone)]
pub(super) struct Relay {
    /// Address for the library to connect to.
    pub(super) address: ServerAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// The next server first.
    servers: Mutex<VecDeque<ServerAddr>>,
    tls: Tls,
    /// Why the last attempt failed, until one succeeds.
    failed: Mutex<Option<String>>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the servers, whose URLs may hold passwords.
        write!(f, "Relay({})", shown(&self.address))
    }
}

/// A server's end of a connection.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Relay {
    /// Starts to relay to these servers, with the certificates of `ca` besides the system's.
    ///
    /// # Errors
    /// If the loopback interface has no port left.
    pub(super) async fn start(servers: &[ServerAddr], ca: Option<PathBuf>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string().parse()?;
        let servers = Mutex::new(servers.iter().cloned().collect());
        let shared = Arc::new(Shared { servers, tls: Tls::new(ca), failed: Mutex::default() });
        tokio::spawn(Arc::clone(&shared).accept(listener));
        Ok(Self { address, shared })
    }

    /// Why the last attempt to reach a server failed; `None` after one that did not.
    pub(super) fn failure(&self) -> Option<String> {
        self.shared.failed.lock().clone()
    }
}

impl Shared {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // It is never closed.
            let place = Arc::clone(&places).acquire_owned().await;
            let Ok((client, _)) = listener.accept().await else {
                // Too many open files, as a rule.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let shared = Arc::clone(&self);
            tokio::spawn(async move {
                shared.serve(client).await;
                drop(place);
            });
        }
    }

    /// Relays one connection, to the next server.
    async fn serve(&self, client: TcpStream) {
        let Some(server) = self.next() else { return };
        let dialled = tokio::time::timeout(PATIENCE, self.dial(&server)).await;
        match dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok((stream, info)) => {
                *self.failed.lock() = None;
                let ended = relay(client, stream, info).await;
                tracing::debug!(server = shown(&server), ?ended, "a connection to NATS ended");
            }
            Err(error) => {
                tracing::debug!(server = shown(&server), %error, "a NATS server can't be reached");
                *self.failed.lock() = Some(format!("{}: {error}", shown(&server)));
                // A reset, which the library takes for what it is: a server that is not there.
                let _ = client.set_zero_linger();
            }
        }
    }

    /// The server whose turn it is; the next connection goes to another.
    fn next(&self) -> Option<ServerAddr> {
        let mut servers = self.servers.lock();
        let server = servers.pop_front()?;
        servers.push_back(server.clone());
        Some(server)
    }

    /// Connects to a server, reads its introduction, and secures the connection where one of the two wants it.
    async fn dial(&self, server: &ServerAddr) -> io::Result<(Box<dyn Stream>, Bytes)> {
        let mut stream = TcpStream::connect((server.host(), server.port())).await?;
        stream.set_nodelay(true)?;
        let line = introduction(&mut stream).await?;
        let info = line.strip_prefix(b"INFO ").and_then(|json| serde_json::from_slice::<Map<String, Value>>(json).ok());
        let mut info = info.ok_or_else(|| io::Error::other("it is no NATS server: it does not introduce itself"))?;
        if let Some(others) = info.remove("connect_urls") {
            self.learn(server, &others);
        }
        let wants_tls = info.insert("tls_required".to_owned(), Value::Bool(false)) == Some(Value::Bool(true));
        let stream: Box<dyn Stream> = if wants_tls || server.tls_required() {
            Box::new(self.tls.connect(server.host(), stream).await?)
        } else {
            Box::new(stream)
        };
        Ok((stream, format!("INFO {}\r\n", Value::Object(info)).into()))
    }

    /// Remembers the other servers of a cluster.
    fn learn(&self, server: &ServerAddr, others: &Value) {
        let scheme = server.scheme();
        let others = others.as_array().into_iter().flatten();
        let mut servers = self.servers.lock();
        for other in others.filter_map(Value::as_str).filter_map(|url| format!("{scheme}://{url}").parse().ok()) {
            let other: ServerAddr = other;
            let is_known = servers.iter().any(|known| (known.host(), known.port()) == (other.host(), other.port()));
            if !is_known && servers.len() < LEARNT {
                servers.push_back(other);
            }
        }
    }
}

/// A server without what its URL may hold of users and passwords.
fn shown(server: &ServerAddr) -> String {
    format!("{}:{}", server.host(), server.port())
}

/// The first line that a server sends; it sends nothing more unasked.
async fn introduction(stream: &mut TcpStream) -> io::Result<Bytes> {
    let mut line = BytesMut::new();
    loop {
        if stream.read_buf(&mut line).await? == 0 {
            return Err(io::Error::other("it ended the connection"));
        }
        match memmem::find(&line, b"\r\n") {
            Some(end) if end + 2 == line.len() => return Ok(line.split_to(end).freeze()),
            None if line.len() < LONGEST_INFO => {}
            _ => return Err(io::Error::other("it is no NATS server: its first line is not one")),
        }
    }
}

/// Relays until one side ends the connection.
async fn relay(client: TcpStream, server: Box<dyn Stream>, info: Bytes) -> io::Result<()> {
    client.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = split(server);
    to_client.write_all(&info).await?;
    let ended = tokio::select! {
        ended = copy(&mut from_client, &mut to_server) => ended.map(drop),
        ended = filter(&mut from_server, &mut to_client) => {
            // The reason it gave must arrive: a connection with bytes left to read would be reset.
            let _ = to_client.shutdown().await;
            let _ = tokio::time::timeout(LAST_WORDS, copy(&mut from_client, &mut sink())).await;
            ended
        }
    };
    let _ = tokio::time::timeout(LAST_WORDS, to_server.shutdown()).await;
    ended
}

/// Passes on what a server sends, in a form that the library can read.
async fn filter(server: &mut (impl AsyncRead + Unpin), client: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let (mut frames, mut input, mut output) = (Frames::default(), BytesMut::new(), BytesMut::new());
    loop {
        input.reserve(CHUNK);
        if server.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        frames.pass(&mut input, &mut output)?;
        client.write_all(&output).await?;
        output.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_connection_goes_to_the_next_server_and_those_of_the_cluster_are_learnt() {
        let servers = ["a:1", "tls://b:2"].map(|server| server.parse().expect("an address"));
        let shared = Shared { servers: Mutex::new(servers.into()), tls: Tls::new(None), failed: Mutex::default() };
        let others = serde_json::json!(["b:2", "c:3", "not an address", 7]);
        shared.learn(&"tls://b:2".parse().expect("an address"), &others);
        let next = || shared.next().map(|server| (shown(&server), server.tls_required())).expect("one");
        let expected = [("a:1", false), ("b:2", true), ("c:3", true), ("a:1", false)];
        for (server, tls) in expected {
            assert_eq!(next(), (server.to_owned(), tls));
        }
    }
}

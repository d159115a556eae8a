//! The connection to NATS, whether it stands, and what its subjects and streams are called.

pub(crate) mod answer_body;
pub(crate) mod headers;
pub(crate) mod publisher;
pub(crate) mod subjects;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::secret::Secret;

/// How long a start waits for the server.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest wait between two attempts to reconnect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(8);

/// Where NATS is, and how to be let in. Not `Debug`: a server's URL may hold a password.
#[derive(Clone)]
pub(crate) struct Settings {
    /// The servers of one cluster.
    pub servers: Vec<ServerAddr>,
    /// What identifies us.
    pub login: Login,
    /// Certificates to trust, besides the system's.
    pub ca: Option<PathBuf>,
}

/// What identifies us to the server.
#[derive(Clone, Debug)]
pub(crate) enum Login {
    /// Nothing.
    None,
    /// A credentials file.
    Creds(PathBuf),
    /// A user and password.
    User(String, Secret),
    /// A token.
    Token(Secret),
}

/// A connection that waits for its server when that goes away.
#[derive(Clone, Debug)]
pub(crate) struct Nats {
    /// The client.
    pub client: Client,
    connections: watch::Receiver<Connection>,
    complaint: Complaint,
}

/// What the server has said last against what was sent, and when.
type Complaint = Arc<Mutex<Option<(Instant, String)>>>;

/// How long after a complaint what fails may be for its sake: no request is waited for longer.
const SILENCE: Duration = Duration::from_mins(2);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Connection {
    up: bool,
    /// How often it was made.
    count: u64,
}

/// The server can't be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreachable {
    /// The credentials file can't be read.
    #[error("the credentials file `{}` can't be read (--nats-creds): {source}", path.display())]
    Creds {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It answers, and does not let us in.
    #[error(
        "NATS at {servers} refuses this login (--nats-user and --nats-password, --nats-token or --nats-creds): {source}"
    )]
    Refused {
        /// The servers, without passwords.
        servers: String,
        /// What they say.
        source: async_nats::ConnectError,
    },
    /// No connection within the time a start waits.
    #[error(
        "can't connect to NATS at {servers} within {} s (--nats-url; `nats-server -js` starts one): {source}", PATIENCE.as_secs()
    )]
    Connect {
        /// The servers, without passwords.
        servers: String,
        /// The last attempt's error.
        source: async_nats::ConnectError,
    },
}

impl Settings {
    fn shown(&self) -> String {
        // Without what a URL may hold of users and passwords.
        self.servers.iter().map(|server| format!("{}:{}", server.host(), server.port())).collect::<Vec<_>>().join(", ")
    }
}

impl Nats {
    /// Connects, and stays connected as long as the process lives.
    ///
    /// # Errors
    /// Where no server can be reached, or it does not let us in.
    pub(crate) async fn connect(settings: &Settings, name: &str) -> Result<Self, Unreachable> {
        let (sender, connections) = watch::channel(Connection::default());
        let (sender, complaint) = (Arc::new(sender), Complaint::default());
        let (deadline, mut said) = (tokio::time::Instant::now() + PATIENCE, String::new());
        loop {
            let options = options(settings, name, Arc::clone(&sender), Arc::clone(&complaint)).await?;
            let connecting = tokio::time::timeout_at(deadline, options.connect(&settings.servers[..])).await;
            match connecting.unwrap_or_else(|_| Err(ConnectErrorKind::TimedOut.into())) {
                Ok(client) => {
                    tracing::info!(servers = settings.shown(), "connected to NATS");
                    return Ok(Self { client, connections, complaint });
                }
                // Another server of several may not refuse.
                Err(source) if is_refused(&source) && settings.servers.len() == 1 => {
                    return Err(Unreachable::Refused { servers: settings.shown(), source });
                }
                Err(source) if tokio::time::Instant::now() + Duration::from_secs(1) >= deadline => {
                    return Err(Unreachable::Connect { servers: settings.shown(), source });
                }
                Err(error) => {
                    // Once, not with every attempt.
                    if error.to_string() != std::mem::replace(&mut said, error.to_string()) {
                        tracing::warn!(servers = settings.shown(), %error, "NATS can't be reached; trying again");
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// The same error, after what the server has said of it: of a login without permission, the rest is silence.
    pub(crate) fn with_context(&self, error: impl Into<anyhow::Error>) -> anyhow::Error {
        match &*self.complaint.lock() {
            Some((when, complaint)) if when.elapsed() < SILENCE => {
                error.into().context(format!("the NATS server complains ({complaint})"))
            }
            _ => error.into(),
        }
    }

    /// Ends when the connection stands.
    pub(crate) async fn up(&self) {
        let _ = self.connections.clone().wait_for(|connection| connection.up).await;
    }

    /// Tells whether the connection stands, now and whenever that changes.
    pub(crate) fn follow<F: Fn(bool)>(&self, tell: F) -> impl Future<Output = ()> + use<F> {
        let mut connections = self.connections.clone();
        async move {
            loop {
                tell(connections.borrow_and_update().up);
                if connections.changed().await.is_err() {
                    return;
                }
            }
        }
    }

    /// Ends when a connection later than the present one stands: what was asked of the server before is forgotten.
    pub(crate) async fn renewed(&self) {
        let mut connections = self.connections.clone();
        let now = connections.borrow_and_update().count;
        let _ = connections.wait_for(|connection| connection.count > now).await;
    }
}

fn is_refused(error: &async_nats::ConnectError) -> bool {
    matches!(error.kind(), ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation)
}

/// What the server says of a message that is not stored.
pub(crate) fn reply(error: &PublishError) -> Option<&jetstream::Error> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref())
}

/// Whether this is what a server says that has no room for a message, and may have later.
pub(crate) fn is_full(reply: &jetstream::Error) -> bool {
    let full = [
        ErrorCode::STREAM_STORE_FAILED,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::MEMORY_RESOURCES_EXCEEDED,
        ErrorCode::INSUFFICIENT_RESOURCES,
    ];
    full.contains(&reply.error_code())
}

/// Whether this is what the servers of a cluster say that do not know each other yet, or are choosing a leader.
pub(crate) fn is_passing(reply: &jetstream::Error) -> bool {
    let passing = [
        ErrorCode::CLUSTER_INCOMPLETE,
        ErrorCode::CLUSTER_NO_PEERS,
        ErrorCode::CLUSTER_NOT_AVAILABLE,
        ErrorCode::CLUSTER_NOT_LEADER,
    ];
    passing.contains(&reply.error_code())
}

async fn options(
    settings: &Settings,
    name: &str,
    connections: Arc<watch::Sender<Connection>>,
    complaint: Complaint,
) -> Result<ConnectOptions, Unreachable> {
    let options = match &settings.login {
        Login::None => ConnectOptions::new(),
        Login::User(user, password) => {
            ConnectOptions::with_user_and_password(user.clone(), password.reveal().to_owned())
        }
        Login::Token(token) => ConnectOptions::with_token(token.reveal().to_owned()),
        Login::Creds(path) => ConnectOptions::with_credentials_file(path)
            .await
            .map_err(|source| Unreachable::Creds { path: path.clone(), source })?,
    };
    let options = match &settings.ca {
        Some(ca) => options.add_root_certificates(ca.clone()),
        None => options,
    };
    let (attempts, said, servers) = (AtomicU32::new(0), Mutex::default(), settings.shown());
    Ok(options
        .name(name)
        .connection_timeout(Duration::from_secs(5))
        .ping_interval(Duration::from_secs(10))
        .max_reconnects(None)
        .reconnect_delay_callback(move |attempt| {
            attempts.store(u32::try_from(attempt).unwrap_or(u32::MAX), Ordering::Relaxed);
            reconnect_delay(attempt)
        })
        .event_callback(move |event| {
            if let Event::ServerError(error) = &event {
                *complaint.lock() = Some((Instant::now(), error.to_string()));
            }
            heard(&event, &connections, &servers, &said);
            std::future::ready(())
        }))
}

/// Tells the log, and those who wait. What is in the way of a new connection is `said` once, not with every attempt.
fn heard(event: &Event, connections: &watch::Sender<Connection>, servers: &str, said: &Mutex<Option<String>>) {
    let mut said = said.lock();
    match event {
        Event::Connected => {
            connections.send_modify(|connection| *connection = Connection { up: true, count: connection.count + 1 });
            if connections.borrow().count > 1 {
                tracing::info!(servers, "connected to NATS again");
            }
            *said = None;
        }
        Event::Disconnected => {
            connections.send_modify(|connection| connection.up = false);
            tracing::warn!(servers, "NATS is gone; waiting for it");
        }
        // Our own doing, at the end.
        Event::Draining | Event::Closed => {}
        other => {
            let reason = other.to_string();
            if said.as_ref() != Some(&reason) {
                tracing::warn!(servers, reason, "NATS reports trouble");
                *said = Some(reason);
            }
        }
    }
}

/// Doubles from a tenth of a second, with jitter: a fleet must not come back all at once.
fn reconnect_delay(attempt: usize) -> Duration {
    if attempt <= 1 {
        return Duration::from_millis(rand::random_range(0..100));
    }
    let exponent = u32::try_from(attempt.min(10)).unwrap_or(10);
    let delay = (Duration::from_millis(50) * 2u32.pow(exponent)).min(MAX_RECONNECT_DELAY);
    delay.mul_f64(rand::random_range(0.5..1.0))
}

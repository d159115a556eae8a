//! The connection to NATS, whether it stands, and what its subjects and streams are called.

pub(crate) mod answer_body;
pub(crate) mod headers;
pub(crate) mod publisher;
mod relay;
pub(crate) mod subjects;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;

use crate::backoff::Backoff;
use relay::Relay;

/// Time limit for the first connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Delays between two attempts to reconnect. Their jitter spreads a fleet whose server comes back.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(8));

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
    User(String, SecretString),
    /// A token.
    Token(SecretString),
}

/// A connection that waits for its server when that goes away.
#[derive(Clone, Debug)]
pub(crate) struct Nats {
    /// The client.
    pub client: Client,
    connections: watch::Receiver<Connection>,
    complaint: Complaint,
}

/// The server's last complaint about what was sent, and its time.
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
        "can't connect to NATS at {servers} within {} s (--nats-url; `nats-server -js` starts one): {reason}", CONNECT_TIMEOUT.as_secs()
    )]
    Connect {
        /// The servers, without passwords.
        servers: String,
        /// Error of the last attempt.
        reason: String,
    },
    /// No port on the loopback interface for the relay.
    #[error("cannot listen on the loopback interface for the connection to NATS: {0}")]
    Relay(std::io::Error),
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
        let relay = Relay::start(&settings.servers, settings.ca.clone()).await.map_err(Unreachable::Relay)?;
        // Once for each server: an attempt tries all of them.
        let addresses = vec![relay.address.clone(); settings.servers.len()];
        let (deadline, mut last) = (tokio::time::Instant::now() + CONNECT_TIMEOUT, None::<async_nats::ConnectError>);
        loop {
            let options = options(settings, name, Arc::clone(&sender), Arc::clone(&complaint)).await?;
            let connecting = tokio::time::timeout_at(deadline, options.connect(&addresses[..])).await;
            // One that was cut short by the deadline says less than the one before.
            match connecting.unwrap_or_else(|_| Err(last.take().unwrap_or_else(|| ConnectErrorKind::TimedOut.into()))) {
                Ok(client) => {
                    tracing::info!(servers = settings.shown(), "connected to NATS");
                    return Ok(Self { client, connections, complaint });
                }
                // Another server of several may not refuse.
                Err(source) if is_refused(&source) && settings.servers.len() == 1 => {
                    return Err(Unreachable::Refused { servers: settings.shown(), source });
                }
                Err(source) if tokio::time::Instant::now() + Duration::from_secs(1) >= deadline => {
                    let reason = relay.failure().unwrap_or_else(|| source.to_string());
                    return Err(Unreachable::Connect { servers: settings.shown(), reason });
                }
                Err(error) => {
                    // Once, not with every attempt.
                    if last.as_ref().is_none_or(|last| last.to_string() != error.to_string()) {
                        let reason = relay.failure().unwrap_or_else(|| error.to_string());
                        tracing::warn!(servers = settings.shown(), reason, "NATS can't be reached; trying again");
                    }
                    last = Some(error);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Adds the server's last complaint to an error: a request without permission has no other answer.
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

    /// Notifies of whether the connection stands, now and at every change.
    pub(crate) fn follow<F: Fn(bool)>(&self, notify: F) -> impl Future<Output = ()> + use<F> {
        let mut connections = self.connections.clone();
        async move {
            loop {
                notify(connections.borrow_and_update().up);
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
            ConnectOptions::with_user_and_password(user.clone(), password.expose_secret().to_owned())
        }
        Login::Token(token) => ConnectOptions::with_token(token.expose_secret().to_owned()),
        Login::Creds(path) => ConnectOptions::with_credentials_file(path)
            .await
            .map_err(|source| Unreachable::Creds { path: path.clone(), source })?,
    };
    let (reported, servers) = (Mutex::default(), settings.shown());
    Ok(options
        .name(name)
        .connection_timeout(relay::PATIENCE)
        // The relay finds them.
        .ignore_discovered_servers()
        .ping_interval(Duration::from_secs(10))
        .max_reconnects(None)
        .reconnect_delay_callback(|attempt| RECONNECT.after(u64::try_from(attempt).unwrap_or(u64::MAX)))
        .event_callback(move |event| {
            if let Event::ServerError(error) = &event {
                *complaint.lock() = Some((Instant::now(), error.to_string()));
            }
            on_event(&event, &connections, &servers, &reported);
            std::future::ready(())
        }))
}

/// Logs an event and notifies those who wait for the connection. `reported` keeps the reason that was logged last, so that
/// repeated attempts do not repeat it.
fn on_event(event: &Event, connections: &watch::Sender<Connection>, servers: &str, reported: &Mutex<Option<String>>) {
    let mut reported = reported.lock();
    match event {
        Event::Connected => {
            connections.send_modify(|connection| *connection = Connection { up: true, count: connection.count + 1 });
            if connections.borrow().count > 1 {
                tracing::info!(servers, "connected to NATS again");
            }
            *reported = None;
        }
        Event::Disconnected => {
            connections.send_modify(|connection| connection.up = false);
            tracing::warn!(servers, "NATS is gone; waiting for it");
        }
        // Our own doing, at the end.
        Event::Draining | Event::Closed => {}
        other => {
            let reason = other.to_string();
            if reported.as_ref() != Some(&reason) {
                tracing::warn!(servers, reason, "NATS reports trouble");
                *reported = Some(reason);
            }
        }
    }
}

//! The HTTP server: connections, their limits in time, and a clean end.
//!
//! It serves health and metrics from the program's first moment, and all the rest as soon as there is a model.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::access::Access;
use super::error::{self, Refused};
use super::peer::Peer;
use super::{Http, Settings, access, trace};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Collected;
use crate::telemetry::rate_limited;
use crate::telemetry::server as telemetry;

/// How long a client may take over the head of a request, or keep a connection without one.
const HEAD: Duration = Duration::from_secs(20);

/// Connections at a time, at most. Of few descriptors a quarter: the rest is for the work.
const CONNECTIONS: usize = 1024;

/// How long to wait after a connection could not be accepted: there are too many open files, as a rule.
const BREATH: Duration = Duration::from_millis(100);

/// The port can't be used.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address} (--listen; with port 0, any that is free is taken): {source}")]
pub(crate) struct CannotListen {
    address: SocketAddr,
    source: std::io::Error,
}

/// The running server.
pub(crate) struct Server {
    address: SocketAddr,
    api: Arc<OnceLock<Router>>,
    closing: CancellationToken,
    connections: TaskTracker,
}

impl Server {
    /// Serves health and metrics in the background, until it is closed.
    ///
    /// # Errors
    /// Where the address can't be listened on.
    pub(crate) async fn start(settings: &Settings, health: Health, metrics: Collected) -> Result<Self, CannotListen> {
        let failed = |source| CannotListen { address: settings.listen, source };
        let listener = TcpListener::bind(settings.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (api, closing, connections) = (Arc::default(), CancellationToken::new(), TaskTracker::new());
        let server = Self { address, api, closing, connections };
        let router = router(settings, health, metrics, Arc::clone(&server.api));
        let accepting = accept(listener, router, server.closing.clone(), server.connections.clone());
        server.connections.spawn(accepting);
        tracing::info!(%address, "serving HTTP: /healthz, /readyz and /metrics, the API once there is a model");
        if settings.token.is_none() && !address.ip().is_loopback() {
            tracing::warn!(%address, "whoever reaches this address can use the API; --http-token asks for a token");
        }
        Ok(server)
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves the rest as well.
    pub(crate) fn open(&self, http: &Http) {
        // There is one source to a server.
        let _ = self.api.set(http.routes());
    }

    /// Takes no more connections, and ends when every answer has been sent.
    pub(crate) async fn close(&self) {
        self.closing.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}

fn router(settings: &Settings, health: Health, metrics: Collected, api: Arc<OnceLock<Router>>) -> Router {
    let rest = move |request: Request| {
        let api = Arc::clone(&api);
        async move {
            match api.get() {
                Some(api) => api.clone().oneshot(request).await,
                None => Ok::<Response, Infallible>(starting().into_response()),
            }
        }
    };
    telemetry::routes(health, metrics)
        .route("/health", get(telemetry::alive))
        .method_not_allowed_fallback(error::no_such_method)
        .fallback(rest)
        .layer(from_fn_with_state(Arc::new(Access::from(settings)), access::guard))
        .layer(access::cors(&settings.origins))
        .layer(from_fn(trace::trace))
}

fn starting() -> Refused {
    Refused::new(StatusCode::SERVICE_UNAVAILABLE, "starting", "the model is not loaded yet; /readyz tells when it is")
}

/// Connections at a time, by the descriptors that the process may have.
fn most_connections() -> usize {
    #[cfg(unix)]
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    #[cfg(not(unix))]
    let descriptors = None;
    let quarter = descriptors.and_then(|count| usize::try_from(count / 4).ok()).unwrap_or(CONNECTIONS);
    quarter.clamp(1, CONNECTIONS)
}

async fn accept(listener: TcpListener, router: Router, closing: CancellationToken, connections: TaskTracker) {
    let slots = Arc::new(Semaphore::new(most_connections()));
    loop {
        let next = async {
            // It is never closed. Meanwhile the system keeps those that knock.
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            next = next => next,
            () = closing.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let serving = serve(stream, Peer(peer), router.clone(), closing.clone());
                connections.spawn(async move {
                    serving.await;
                    drop(slot);
                });
            }
            Err(error) => {
                if rate_limited::is_new("a connection can't be accepted", None) {
                    tracing::warn!(%error, "a connection can't be accepted");
                }
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, peer: Peer, router: Router, closing: CancellationToken) {
    // Answers are written whole; to wait for more of them gains nothing.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

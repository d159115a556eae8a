//! The HTTP server of a worker: `/metrics`, `/healthz`, `/readyz`.

use std::net::SocketAddr;

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

use super::health::Health;
use super::metrics::Collected;

/// The port can't be used.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address} (--listen): {source}")]
pub struct CannotListen {
    address: SocketAddr,
    source: std::io::Error,
}

/// Serves in the background until the process ends; gives back the address it really has.
///
/// # Errors
/// Where the address can't be listened on.
pub async fn start(address: SocketAddr, health: Health, metrics: Collected) -> Result<SocketAddr, CannotListen> {
    let failed = |source| CannotListen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes(health, metrics)).await {
            tracing::error!(%error, "the HTTP server ended");
        }
    });
    tracing::info!(address = %bound, "serving /metrics, /healthz and /readyz");
    Ok(bound)
}

fn routes(health: Health, metrics: Collected) -> Router {
    let readyz = move || async move {
        let readiness = health.readiness();
        let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, Json(readiness))
    };
    let metrics = move || async move {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render()).into_response()
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { Json(serde_json::json!({ "alive": true })) }))
        .route("/readyz", get(readyz))
}

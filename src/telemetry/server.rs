//! `/metrics`, `/healthz` and `/readyz`.

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::health::Health;
use super::metrics::Collected;

/// Routes for operators and their tools.
pub(crate) fn routes(health: Health, metrics: Collected) -> Router {
    let readyz = move || async move {
        let readiness = health.readiness();
        let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, Json(readiness))
    };
    let metrics = move || async move {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render()).into_response()
    };
    Router::new().route("/metrics", get(metrics)).route("/healthz", get(alive)).route("/readyz", get(readyz))
}

/// Answers that the process is alive.
pub(crate) async fn alive() -> Json<Value> {
    Json(json!({ "alive": true }))
}

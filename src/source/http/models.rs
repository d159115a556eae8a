//! The models there are, and what the GPU's memory holds.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use super::Http;
use super::error::Refused;
use crate::machine::gpu;
use crate::model::category::{CHARACTER, GENERAL};
use crate::model::threshold::Threshold;
use crate::pipeline::pool::Listed;
use crate::tags::score;

/// Megabytes (2²⁰ bytes) of the GPU's memory that are taken, by whomever.
pub(super) const VRAM_USED: HeaderName = HeaderName::from_static("x-vram-used");
/// Megabytes it has.
pub(super) const VRAM_TOTAL: HeaderName = HeaderName::from_static("x-vram-total");

/// A model as clients see it.
#[derive(Serialize)]
struct Model {
    id: String,
    name: String,
    r#type: &'static str,
    aliases: Vec<String>,
    /// What it runs on; known once it is loaded, as its hash is.
    device: Option<String>,
    sha256: Option<String>,
    loaded: bool,
    default: bool,
    thresholds: Thresholds,
}

#[derive(Serialize)]
struct Thresholds {
    general: Value,
    character: Value,
}

/// As it was written, not as its nearest `f32`.
fn written(threshold: Threshold) -> Value {
    match threshold {
        Threshold::Over(over) => json!(score(over)),
        Threshold::MCut => json!("mcut"),
    }
}

impl From<Listed> for Model {
    fn from(Listed { name, aliases, is_default, thresholds, loaded }: Listed) -> Self {
        let of = |category| written(thresholds.of(category));
        let thresholds = Thresholds { general: of(GENERAL), character: of(CHARACTER) };
        Self {
            id: name.to_string(),
            name: name.to_string(),
            r#type: "tagging",
            aliases,
            device: loaded.as_ref().map(|model| model.device()),
            sha256: loaded.as_ref().map(|model| model.id.sha256.clone()),
            loaded: loaded.is_some(),
            default: is_default,
            thresholds,
        }
    }
}

/// `GET /v1/models`
pub(super) async fn list(State(http): State<Http>) -> Response {
    http.models().await
}

/// `POST /v1/models/refresh`
pub(super) async fn refresh(State(http): State<Http>) -> Result<Response, Refused> {
    let unreadable = |error: String| Refused::new(StatusCode::SERVICE_UNAVAILABLE, "models_unreadable", error);
    // A task of its own: cut short by a client that hangs up it would leave new models with the old list.
    let pool = Arc::clone(&http.0.pool);
    let looked =
        tokio::spawn(async move { pool.refresh().await }).await.map_err(|error| unreadable(error.to_string()))?;
    looked.map_err(|error| unreadable(format!("{error}; the models are as they were")))?;
    Ok(http.models().await)
}

/// The memory of the first GPU among these devices, asked off the threads that answer.
pub(super) async fn memory_of(devices: Vec<String>) -> Option<gpu::Memory> {
    let asked = tokio::task::spawn_blocking(move || devices.iter().find_map(|name| gpu::memory(name)));
    asked.await.ok().flatten()
}

impl Http {
    async fn models(&self) -> Response {
        let models = self.0.pool.list();
        let loaded = models.iter().filter_map(|model| model.loaded.as_ref());
        let memory = memory_of(loaded.flat_map(|model| model.devices.clone()).collect()).await;
        let data: Vec<Model> = models.into_iter().map(Model::from).collect();
        let mut response = Json(json!({ "object": "list", "data": data })).into_response();
        if let Some(gpu::Memory { used, total }) = memory {
            let megabytes = |bytes: u64| HeaderValue::from(bytes >> 20);
            response.headers_mut().extend([(VRAM_USED, megabytes(used)), (VRAM_TOTAL, megabytes(total))]);
        }
        response
    }
}

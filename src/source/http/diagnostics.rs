//! How long batches of a size take, and what they need of the GPU's memory.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::task::JoinError;

use super::body::{self, Kind, Received};
use super::error::Refused;
use super::models::memory_of;
use super::peer::Peer;
use super::{Http, shutting_down};
use crate::failure::{Code, ErrorBody, Failure};
use crate::json::AtMost;
use crate::machine::gpu;

/// Images the largest batch has: more would be a test of the machine's memory.
const LARGEST: usize = 64;

/// Sizes a request may ask for.
const MOST_SIZES: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    batch_sizes: AtMost<usize, MOST_SIZES>,
}

#[derive(Serialize)]
pub(super) struct Trials {
    results: Vec<Trial>,
}

/// What came of one size.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Trial {
    batch_size: usize,
    success: bool,
    /// Of the GPU's memory taken after the run, by whomever; `null` without a GPU.
    vram_percent: Option<f64>,
    /// How long the run took; `null` where it failed.
    seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorBody>,
}

/// `POST /diagnostics/vram-test`: batches of blank images through the default model, on a thread that runs it, between
/// the batches of jobs.
pub(super) async fn vram_test(
    State(http): State<Http>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Json<Trials>, Refused> {
    // Where there is a token, only those who have it come here from elsewhere.
    if http.0.settings.token.is_none() && !peer.is_loopback() {
        body::discard(request.into_body()).await;
        let message = "this can be asked from this machine alone, unless there is a token (--http-token)";
        return Err(Refused::new(StatusCode::FORBIDDEN, "forbidden", message));
    }
    let (kind, Received { bytes, room }) = http.receive(request).await?;
    let Kind::Json = kind else {
        return Err(Refused::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send application/json",
        ));
    };
    let Asked { batch_sizes: AtMost { items: batch_sizes, more } } = body::json(bytes, room).await?;
    if more || batch_sizes.iter().any(|size| !(1..=LARGEST).contains(size)) {
        return Err(Refused::bad(format!("field `batch_sizes`: at most {MOST_SIZES} sizes from 1 to {LARGEST}")));
    }
    let busy = || Refused::new(StatusCode::CONFLICT, "busy", "another test is running; one runs at a time");
    let _one_at_a_time = http.0.trial.try_lock().map_err(|_| busy())?;
    // Ends a test that is in hand with the other requests.
    let _in_hand = http.to_accept()?;
    let mut results = Vec::with_capacity(batch_sizes.len());
    for size in batch_sizes {
        let trial = tokio::select! {
            trial = http.try_out(size) => trial,
            () = http.0.given_up.cancelled() => return Err(shutting_down().into()),
        };
        results.push(trial);
    }
    Ok(Json(Trials { results }))
}

impl Http {
    async fn try_out(&self, batch_size: usize) -> Trial {
        // A task of its own: cut short by a client that hangs up it would have made room for a model that does not come.
        let pool = Arc::clone(&self.0.pool);
        let loading = tokio::spawn(async move { pool.load(&pool.own_name(None)?, || Ok(())).await });
        let tried = async {
            let failed = |error: JoinError| Failure::new(Code::InferenceFailed, error.to_string());
            let queue = loading.await.map_err(failed)??;
            let took = queue.try_out(batch_size).await?;
            Ok::<_, Failure>((took, memory_of(queue.model.devices.clone()).await))
        };
        match tried.await {
            Ok((took, memory)) => {
                #[expect(clippy::cast_precision_loss, reason = "a percentage")]
                let percent = |gpu::Memory { used, total }| (used as f64 / total as f64 * 1e4).round() / 100.0;
                let seconds = Some(took.as_secs_f64());
                Trial { batch_size, success: true, vram_percent: memory.map(percent), seconds, error: None }
            }
            Err(failure) => {
                let error = Some((&failure).into());
                Trial { batch_size, success: false, vram_percent: None, seconds: None, error }
            }
        }
    }
}

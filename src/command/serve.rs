//! `tagmill serve`: the HTTP API alone; start in order, answer until told to stop, drain.

use std::sync::Arc;

use super::Failed;
use super::signals::{Signals, Stopping};
use super::tagging::{self, CLOSING};
use crate::cli::http::ServeArgs;
use crate::delivery::Answers;
use crate::door::admission::Admission;
use crate::door::http::Http;
use crate::door::http::server::Server;
use crate::pipeline::lanes::{Lanes, Outlets};
use crate::pipeline::{Pipeline, StageEnded};
use crate::settings;
use crate::telemetry::health::Health;

pub(super) async fn run(args: ServeArgs) -> Result<(), Failed> {
    let settings = settings::Tagging::try_from(args)?;
    let mut signals = Signals::listen().map_err(Failed::running)?;
    let health = Health::default();
    health.set_no_broker();
    let server = tagging::telemetry(&settings, &health).await?;
    let (lanes, outlets) = tokio::select! {
        started = start(&settings, &health) => started?,
        () = signals.stopping.stop() => {
            tracing::info!("told to stop before the start was done");
            return Ok(());
        }
    };
    serve(settings, server, lanes, outlets, health, signals).await
}

async fn start(settings: &settings::Tagging, health: &Health) -> Result<(Arc<Lanes>, Outlets), Failed> {
    let started = tagging::models(settings, health).await?;
    tagging::stores(&settings.stores, health).await?;
    Ok(started)
}

/// Answers requests until told to stop or something breaks.
async fn serve(
    settings: settings::Tagging,
    server: Server,
    lanes: Arc<Lanes>,
    outlets: Outlets,
    health: Health,
    mut signals: Signals,
) -> Result<(), Failed> {
    let stores = settings.stores.clone();
    let (entrance, mut pipeline) = Pipeline::start(&settings.pipeline, stores, &lanes, outlets);
    let (admission, answers) = (Admission::new(settings.live_in_flight), Answers::new());
    let http = Http::new(settings.http.clone(), admission, Arc::clone(&lanes), entrance, answers.clone());
    server.open(&http);
    tracing::info!(name = %settings.name, page = format!("http://{}/", server.address()), "serving the API");
    let broken = tokio::select! {
        () = signals.stop(&lanes) => None,
        broken = pipeline.broken() => Some(broken),
    };
    health.set_draining();
    http.close();
    if let Some(broken) = broken {
        http.give_up();
        lanes.stop();
        let _ = tokio::time::timeout(CLOSING, server.close()).await;
        return Err(Failed::running(broken));
    }
    drain(&settings, &server, &http, pipeline, &lanes, &mut signals.stopping).await.map_err(Failed::running)
}

/// Finishes the requests in hand, as long as there is time.
async fn drain(
    settings: &settings::Tagging,
    server: &Server,
    http: &Http,
    pipeline: Pipeline,
    lanes: &Lanes,
    stopping: &mut Stopping,
) -> Result<(), StageEnded> {
    tagging::stopping(&settings.stores, settings.drain_timeout);
    let drained = pipeline.drained();
    tokio::pin!(drained);
    let in_time = stopping.in_time(&mut drained, settings.drain_timeout).await;
    http.give_up();
    if in_time.is_none() {
        lanes.stop();
        let _ = tokio::time::timeout(CLOSING, drained).await;
    }
    if tokio::time::timeout(CLOSING, server.close()).await.is_err() {
        tracing::warn!("cutting off clients that are slow to take their answers");
    }
    in_time.unwrap_or(Ok(()))?;
    tracing::info!("stopped");
    Ok(())
}

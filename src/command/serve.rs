//! `tagmill serve`: the HTTP API alone. Starts in order, answers until stopped, drains.

use std::sync::Arc;

use tokio::sync::mpsc::Sender;

use super::Failed;
use super::signals::{Signals, Stopping};
use super::tagging::{self, CLOSING};
use crate::cli::http::ServeArgs;
use crate::delivery::answers::Answers;
use crate::pipeline::accept::Incoming;
use crate::pipeline::{Pipeline, StageEnded};
use crate::settings;
use crate::source::http::Http;
use crate::source::http::server::Server;
use crate::source::limit::RequestLimit;
use crate::telemetry::health::Health;

pub(super) async fn run(args: ServeArgs) -> Result<(), Failed> {
    let settings = settings::Tagging::try_from(args)?;
    let mut signals = Signals::listen().map_err(Failed::running)?;
    let health = Health::default();
    health.set_no_broker();
    let server = tagging::telemetry(&settings, &health).await?;
    let started = tokio::select! {
        started = start(&settings, &health) => started?,
        () = signals.stopping.stop() => {
            tracing::info!("stopped before the start was done");
            return Ok(());
        }
    };
    serve(settings, server, started, health, signals).await
}

async fn start(settings: &settings::Tagging, health: &Health) -> Result<(Sender<Incoming>, Pipeline), Failed> {
    let started = tagging::pipeline(settings, health).await?;
    tagging::stores(&settings.stores, health).await?;
    Ok(started)
}

/// Answers requests until a signal or a broken stage ends it.
async fn serve(
    settings: settings::Tagging,
    server: Server,
    (to_accept, mut pipeline): (Sender<Incoming>, Pipeline),
    health: Health,
    mut signals: Signals,
) -> Result<(), Failed> {
    let pool = Arc::clone(pipeline.pool());
    let (in_flight_limit, answers) = (RequestLimit::new(settings.interactive_in_flight), Answers::new());
    let http = Http::new(settings.http.clone(), in_flight_limit, Arc::clone(&pool), to_accept, answers);
    server.open(&http);
    tracing::info!(name = %settings.name, page = format!("http://{}/", server.address()), "serving the API");
    let broken = tokio::select! {
        () = signals.stop(&pool) => None,
        broken = pipeline.broken() => Some(broken),
    };
    health.set_draining();
    http.close();
    if let Some(broken) = broken {
        http.give_up();
        pool.stop();
        let _ = tokio::time::timeout(CLOSING, server.close()).await;
        return Err(Failed::running(broken));
    }
    drain(&settings, &server, &http, pipeline, &mut signals.stopping).await.map_err(Failed::running)
}

/// Finishes accepted requests within the time limit.
async fn drain(
    settings: &settings::Tagging,
    server: &Server,
    http: &Http,
    pipeline: Pipeline,
    stopping: &mut Stopping,
) -> Result<(), StageEnded> {
    tagging::stopping(&settings.stores, settings.drain_timeout);
    let pool = Arc::clone(pipeline.pool());
    let drained = pipeline.drained();
    tokio::pin!(drained);
    let in_time = stopping.in_time(&mut drained, settings.drain_timeout).await;
    http.give_up();
    if in_time.is_none() {
        pool.stop();
        let _ = tokio::time::timeout(CLOSING, drained).await;
    }
    if tokio::time::timeout(CLOSING, server.close()).await.is_err() {
        tracing::warn!("cutting off clients that are slow to take their answers");
    }
    in_time.unwrap_or(Ok(()))?;
    tracing::info!("stopped");
    Ok(())
}

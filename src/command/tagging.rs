//! Start and stop of all commands that tag images for clients.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{select_all, try_join_all};
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::Failed;
use crate::backoff::Backoff;
use crate::failure::{Code, Failure};
use crate::machine::{self, gpu};
use crate::memory::Budget;
use crate::model::catalog::Catalog;
use crate::pipeline::accept::Incoming;
use crate::pipeline::loaded::LoadedModel;
use crate::pipeline::tag::library;
use crate::pipeline::{self, Pipeline};
use crate::settings;
use crate::source::http::server::Server;
use crate::store::Store;
use crate::store::outage::State;
use crate::telemetry::health::Health;
use crate::telemetry::{dropped_lines, metrics, rate_limited};

/// Time limit of shutdown steps that should complete at once.
pub(super) const CLOSING: Duration = Duration::from_secs(2);

/// Interval of GPU measurements: drivers report averages of about this length.
const DEVICES: Duration = Duration::from_secs(1);

/// Delays between probes of a store that does not answer yet.
const WAITING: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));

/// Starts to serve health and metrics.
pub(super) async fn telemetry(settings: &settings::Tagging, health: &Health) -> Result<Server, Failed> {
    let collected = metrics::start().map_err(Failed::running)?;
    metrics::memory_budget(settings.memory_budget);
    let (budget, available) = (settings.memory_budget, machine::available_memory());
    if budget > available {
        tracing::warn!(budget, available, "images may take more memory than this process may use (--memory-budget)");
    }
    tokio::spawn(fold(collected.clone()));
    Server::start(&settings.http, health.clone(), collected).await.map_err(Failed::running)
}

/// Starts the pipeline and loads the default model: the one of this name, or the only one.
pub(super) async fn start(
    settings: &pipeline::Settings,
    stores: Vec<Store>,
    catalog: Catalog,
    model: Option<&str>,
) -> Result<(Sender<Incoming>, Pipeline, Arc<LoadedModel>), Failed> {
    let default = catalog.choose(model)?.name.clone();
    let (to_accept, pipeline) = Pipeline::start(settings.clone(), stores, catalog, &default);
    let queue = pipeline.pool().load_default().await?;
    Ok((to_accept, pipeline, Arc::clone(&queue.model)))
}

/// Starts the pipeline, loads the default model, and reports it to metrics and readiness.
pub(super) async fn pipeline(
    settings: &settings::Tagging,
    health: &Health,
) -> Result<(Sender<Incoming>, Pipeline), Failed> {
    let pool = &settings.pipeline.pool;
    let catalog = pool.repository.catalog(&pool.aliases).await?;
    let stores = settings.stores.clone();
    let (to_accept, pipeline, model) = start(&settings.pipeline, stores, catalog, settings.model.as_deref()).await?;
    settings.pipeline.publish.caption.check(&model.id.name, &model.labels);
    if let Err(smallest) = Budget::check(&settings.pipeline.decode.memory, model.frame.picture_bytes()) {
        let (budget, smallest) = (settings.memory_budget, smallest.div_ceil(1 << 20));
        return Err(Failed::settings(anyhow::anyhow!(
            "a memory budget of {budget} bytes has no room for requests beside jobs of the stream with the model {} (--memory-budget); the smallest that works is {smallest}MiB",
            model.id.name
        )));
    }
    let library = library::load().map_err(Failed::running)?;
    tracing::debug!(path = %library.path.display(), "ONNX Runtime");
    metrics::running(&library.version);
    health.set_model_ready(&model.devices);
    let readiness = health.clone();
    tokio::spawn(pipeline.pool().health().follow(move |fine| readiness.set_inference(fine)));
    tokio::spawn(watch_devices(model.devices.clone()));
    Ok((to_accept, pipeline))
}

/// Checks every store and keeps readiness up to date with them. A missing or denied store is an error; an unreachable one is
/// waited for.
pub(super) async fn stores(stores: &[Store], health: &Health) -> Result<(), Failed> {
    // Concurrently, so that waiting for one store does not hide an error of another.
    try_join_all(stores.iter().map(usable)).await?;
    health.set_storage(true);
    tokio::spawn(watch_stores(stores.iter().map(Store::state).collect(), health.clone()));
    Ok(())
}

/// Waits until the store answers.
async fn usable(store: &Store) -> Result<(), Failed> {
    let (mut tries, mut said) = (0, false);
    while let Err(Failure { code, message, .. }) = store.probe().await {
        if code != Code::StorageUnavailable {
            return Err(Failed::running(anyhow::anyhow!("a store can't be used (--store): {message}")));
        }
        // Logged once, as during an outage.
        if !std::mem::replace(&mut said, true) {
            tracing::warn!(%store, error = message, "the store can't be read yet; waiting for it");
        }
        tries += 1;
        tokio::time::sleep(WAITING.after(tries)).await;
    }
    if said {
        tracing::info!(%store, "the store answers");
    }
    Ok(())
}

/// Logs the start of a shutdown and ends the waits for stores that are down.
pub(super) fn stopping(stores: &[Store], timeout: Duration) {
    tracing::info!(timeout = ?timeout, "stopping: finishing what is in hand");
    for store in stores {
        store.abandon();
    }
}

/// Follows all stores in one task: with several tasks, a stale state could overwrite a newer one.
async fn watch_stores(mut states: Vec<watch::Receiver<State>>, health: Health) {
    while !states.is_empty() {
        let changes = states.iter_mut().map(|state| state.changed().boxed());
        if select_all(changes).await.0.is_err() {
            return;
        }
        health.set_storage(states.iter().all(|state| *state.borrow() == State::Well));
    }
}

/// Updates the gauges of GPUs. Ends without a GPU or driver.
async fn watch_devices(mut devices: Vec<String>) {
    let mut ticks = tokio::time::interval(DEVICES);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // A driver may block.
        let looked = tokio::task::spawn_blocking(move || {
            devices.retain(|device| gpu::memory(device).is_some());
            for device in &devices {
                metrics::device(device, gpu::memory(device), gpu::utilization(device));
            }
            devices
        });
        match looked.await {
            Ok(left) if !left.is_empty() => devices = left,
            _ => return,
        }
    }
}

/// Periodic work: merges histograms and reports repeated warnings.
async fn fold(collected: metrics::Collected) {
    let mut ticks = tokio::time::interval(Duration::from_secs(5));
    loop {
        ticks.tick().await;
        collected.fold();
        metrics::log_lines_dropped(dropped_lines());
        rate_limited::report();
    }
}

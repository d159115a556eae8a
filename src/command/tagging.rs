//! What all that tag what others send have in common: how they start, and how long the end of a stop may take.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{select_all, try_join_all};
use tokio::sync::watch;

use super::Failed;
use crate::backoff::Backoff;
use crate::door::http::server::Server;
use crate::failure::{Code, Failure};
use crate::memory;
use crate::model::catalog::Catalog;
use crate::pipeline::lanes::lane::Lane;
use crate::pipeline::lanes::{self, Lanes, Outlets};
use crate::pipeline::publish::caption;
use crate::pipeline::tag::library;
use crate::settings;
use crate::store::Store;
use crate::store::outage::State;
use crate::telemetry::health::Health;
use crate::telemetry::{metrics, seldom};

/// How long the end of a stop waits for what should take no time.
pub(super) const CLOSING: Duration = Duration::from_secs(2);

/// How often GPUs are asked what they do: they tell of a time of about that length.
const DEVICES: Duration = Duration::from_secs(1);

/// How long a store that does not answer yet is left alone.
const WAITING: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));

/// Serves health and metrics from here on.
pub(super) async fn telemetry(settings: &settings::Tagging, health: &Health) -> Result<Server, Failed> {
    let collected = metrics::start().map_err(Failed::running)?;
    metrics::memory_budget(settings.memory_budget);
    let (budget, available) = (settings.memory_budget, memory::available());
    if budget > available {
        tracing::warn!(budget, available, "images may take more memory than this process may use (--memory-budget)");
    }
    tokio::spawn(fold(collected.clone()));
    Server::start(&settings.http, health.clone(), collected).await.map_err(Failed::running)
}

/// Loads the default model of those there are: the one of this name, or the only one.
pub(super) async fn load(
    settings: &lanes::Settings,
    catalog: Catalog,
    model: Option<&str>,
    captions: &caption::Settings,
) -> Result<(Arc<Lanes>, Outlets, Arc<Lane>), Failed> {
    let default = catalog.choose(model)?.name.clone();
    let (lanes, outlets) = Lanes::new(settings.clone(), catalog, &default);
    let lane = lanes.load_default().await?;
    captions.check(&lane.model.id.name, &lane.model.labels);
    Ok((lanes, outlets, lane))
}

/// Loads the default model, and tells of it.
pub(super) async fn models(settings: &settings::Tagging, health: &Health) -> Result<(Arc<Lanes>, Outlets), Failed> {
    let captions = &settings.pipeline.publish.caption;
    let catalog = settings.lanes.source.catalog(&settings.lanes.aliases).await?;
    let (lanes, outlets, lane) = load(&settings.lanes, catalog, settings.model.as_deref(), captions).await?;
    let library = library::load().map_err(Failed::running)?;
    tracing::debug!(path = %library.path.display(), "ONNX Runtime");
    metrics::running(&library.version);
    health.set_model_ready(&lane.model.devices);
    let told = health.clone();
    tokio::spawn(lanes.scoring().follow(move |fine| told.set_inference(fine)));
    tokio::spawn(watch_devices(lane.model.devices.clone()));
    Ok((lanes, outlets))
}

/// Looks at every store, and from then on keeps readiness up to date with them: one that does not exist or refuses is an
/// error, one that can't be reached is waited for.
pub(super) async fn stores(stores: &[Store], health: &Health) -> Result<(), Failed> {
    // Beside each other: one that is waited for must not hide what is wrong with another.
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
        // Once, as later.
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

/// Says that a stop has begun; nothing waits for a store in trouble any more.
pub(super) fn stopping(stores: &[Store], patience: Duration) {
    tracing::info!(timeout = ?patience, "stopping: finishing what is in hand");
    for store in stores {
        store.abandon();
    }
}

/// Follows all of them in one task: of several, the one that looked first could have the last word.
async fn watch_stores(mut states: Vec<watch::Receiver<State>>, health: Health) {
    while !states.is_empty() {
        let changes = states.iter_mut().map(|state| state.changed().boxed());
        if select_all(changes).await.0.is_err() {
            return;
        }
        health.set_storage(states.iter().all(|state| *state.borrow() == State::Well));
    }
}

/// Keeps the gauges of GPUs up to date; there are none where there is no GPU, or no driver to ask.
async fn watch_devices(mut devices: Vec<String>) {
    devices.retain(|device| memory::device::memory(device).is_some());
    let mut ticks = tokio::time::interval(DEVICES);
    while !devices.is_empty() {
        ticks.tick().await;
        for device in &devices {
            metrics::device(device, memory::device::memory(device), memory::device::utilization(device));
        }
    }
}

/// What is to be done now and then: histograms folded, repetitions told.
async fn fold(collected: metrics::Collected) {
    let mut ticks = tokio::time::interval(Duration::from_secs(5));
    loop {
        ticks.tick().await;
        collected.fold();
        seldom::report();
    }
}

//! `tagmill worker`: start in order, run until told to stop, drain.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Failed;
use crate::cli::WorkerArgs;
use crate::delivery::Answers;
use crate::door::admission::Admission;
use crate::door::live::{self, Live};
use crate::door::stream::{Stream, pull};
use crate::failure::{Code, Failure};
use crate::nats::Nats;
use crate::pipeline::lanes::{Lanes, Outlets};
use crate::pipeline::tag::library;
use crate::pipeline::tag::onnx::CannotLoad;
use crate::pipeline::{Pipeline, StageEnded};
use crate::settings;
use crate::store::Store;
use crate::store::outage::State;
use crate::telemetry::health::Health;
use crate::telemetry::{metrics, server};

/// How often the backlog is looked at.
const BACKLOG: Duration = Duration::from_secs(5);

/// How long the end of a stop waits for what should take no time.
const CLOSING: Duration = Duration::from_secs(2);

pub(super) async fn run(args: WorkerArgs) -> Result<(), Failed> {
    let settings = settings::Worker::try_from(args)?;
    let mut signals = Signals::listen().map_err(Failed::running)?;
    let health = Health::default();
    let collected = metrics::start().map_err(Failed::running)?;
    metrics::memory_budget(settings.memory_budget);
    tokio::spawn(fold(collected.clone()));
    server::start(settings.listen, health.clone(), collected).await.map_err(Failed::running)?;
    let started = tokio::select! {
        started = start(&settings, &health) => started?,
        () = signals.stopping.stop() => {
            tracing::info!("told to stop before the start was done");
            return Ok(());
        }
    };
    work(settings, started, health, signals).await
}

/// What a worker works with.
struct Started {
    lanes: Arc<Lanes>,
    outlets: Outlets,
    nats: Nats,
    stream: Arc<Stream>,
    live: Arc<Live>,
}

/// Everything that can fail before the first job is taken, in the order in which an operator would look.
async fn start(settings: &settings::Worker, health: &Health) -> Result<Started, Failed> {
    let catalog = settings.lanes.source.catalog(&settings.lanes.aliases).await?;
    let default = catalog.choose(settings.model.as_deref())?.name.clone();
    let (lanes, outlets) = Lanes::new(settings.lanes.clone(), catalog, &default, health.clone());
    lanes.load_default().await.map_err(|error| match error {
        CannotLoad::Model(error) => Failed::settings(error),
        other => Failed::running(other),
    })?;
    let library = library::load().map_err(Failed::running)?;
    tracing::debug!(path = %library.path.display(), "ONNX Runtime");
    metrics::running(&library.version);
    health.set_model_ready();
    let name = format!("tagmill {}", settings.name);
    let nats = Nats::connect(&settings.nats, &name, health).await.map_err(Failed::running)?;
    let stream = Stream::open(settings.stream.clone(), nats.clone()).await.map_err(Failed::running)?;
    let live = Live::new(settings.live.clone(), nats.clone(), Admission::new(settings.live_in_flight));
    look_at_stores(&settings.stores).await?;
    health.set_storage(true);
    Ok(Started { lanes, outlets, nats, stream, live })
}

/// Takes jobs until told to stop or something breaks.
async fn work(
    settings: settings::Worker,
    Started { lanes, outlets, nats, stream, live }: Started,
    health: Health,
    mut signals: Signals,
) -> Result<(), Failed> {
    let stores = settings.stores;
    for store in &stores {
        tokio::spawn(watch_store(store.clone(), stores.clone(), health.clone()));
    }
    let pace = Arc::default();
    let (entrance, mut pipeline) = Pipeline::start(&settings.pipeline, stores.clone(), &lanes, outlets, &pace);
    let (answers, stop) = (Answers::new(), CancellationToken::new());
    tokio::spawn(Arc::clone(&stream).keep_alive());
    tokio::spawn(Arc::clone(&stream).watch_backlog(BACKLOG));
    // Held, so that it is the door that says why it closed and not the stages it leads to.
    let open = entrance.clone();
    let member = live.join().await.map_err(Failed::running)?;
    let requests = live::run(Arc::clone(&live), member, entrance.clone(), answers.clone(), stop.clone());
    let mut requests = tokio::spawn(requests);
    let mut door =
        tokio::spawn(pull::run(Arc::clone(&stream), stores.clone(), entrance, pace, answers.clone(), stop.clone()));
    tracing::info!(worker = %settings.name, prefix = %settings.stream.subjects, "working");

    let refreshing = refresh_on_hangup(&lanes, &mut signals.hangup);
    let broken = tokio::select! {
        () = signals.stopping.stop() => None,
        never = refreshing => match never {},
        broken = pipeline.broken() => Some(anyhow::Error::from(broken)),
        ended = &mut door => Some(match ended {
            Ok(Ok(())) => anyhow::anyhow!("the stream's door closed by itself"),
            Ok(Err(gone)) => gone.into(),
            Err(panicked) => panicked.into(),
        }),
        ended = &mut requests => Some(match ended {
            Ok(Ok(())) => anyhow::anyhow!("the door for requests closed by itself"),
            Ok(Err(closed)) => closed.into(),
            Err(panicked) => panicked.into(),
        }),
    };
    drop(open);
    health.set_draining();
    stop.cancel();
    let ending = Ending { door, requests, pipeline, answers, stream, live, lanes, nats };
    match broken {
        Some(broken) => {
            ending.hand_back().await;
            Err(Failed::Running(broken))
        }
        None => ending.drain(&stores, settings.drain_timeout, &mut signals.stopping).await.map_err(Failed::running),
    }
}

/// What a worker has to bring to an end.
struct Ending {
    door: JoinHandle<Result<(), pull::Closed>>,
    requests: JoinHandle<Result<(), live::Closed>>,
    pipeline: Pipeline,
    answers: Answers,
    stream: Arc<Stream>,
    live: Arc<Live>,
    lanes: Arc<Lanes>,
    nats: Nats,
}

impl Ending {
    /// Gives back everything: something is broken.
    async fn hand_back(self) {
        // At once what is held, and then what the last requests for jobs still bring.
        self.stream.hand_back().await;
        if !self.door.is_finished() {
            let _ = tokio::time::timeout(CLOSING, self.door).await;
            self.stream.hand_back().await;
        }
        if !self.requests.is_finished() {
            let _ = tokio::time::timeout(CLOSING, self.requests).await;
        }
        self.live.hand_back().await;
        let _ = tokio::time::timeout(CLOSING, self.answers.arrived()).await;
        self.stream.flush().await;
        self.lanes.stop();
    }

    /// Finishes what is in hand, as long as there is time.
    async fn drain(self, stores: &[Store], patience: Duration, stopping: &mut Stopping) -> Result<(), StageEnded> {
        let Self { door, requests, pipeline, answers, stream, live, lanes, nats } = self;
        tracing::info!(timeout = ?patience, "stopping: finishing what is in hand");
        for store in stores {
            store.abandon();
        }
        let drained = async {
            let _ = tokio::join!(door, requests);
            let drained = pipeline.drained().await;
            answers.arrived().await;
            drained
        };
        tokio::pin!(drained);
        let in_time = tokio::select! {
            drained = &mut drained => Some(drained),
            () = tokio::time::sleep(patience) => {
                tracing::warn!("the drain timeout is over");
                None
            }
            () = stopping.stop() => {
                tracing::warn!("told again to stop: stopping at once");
                None
            }
        };
        // Whatever is still held goes back now, not after the ack wait.
        stream.hand_back().await;
        live.hand_back().await;
        stream.flush().await;
        if in_time.is_none() {
            lanes.stop();
            let _ = tokio::time::timeout(CLOSING, drained).await;
        }
        let _ = tokio::time::timeout(CLOSING, nats.client.drain()).await;
        in_time.unwrap_or(Ok(()))?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Looks at every store: one that does not exist or refuses is an error, one that can't be reached is waited for.
async fn look_at_stores(stores: &[Store]) -> Result<(), Failed> {
    for store in stores {
        let mut delay = Duration::from_secs(1);
        while let Err(Failure { code, message, .. }) = store.probe().await {
            if code != Code::StorageUnavailable {
                return Err(Failed::running(anyhow::anyhow!("a store can't be used (--store): {message}")));
            }
            tracing::warn!(%store, error = message, "the store does not answer; waiting for it");
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(Duration::from_secs(10));
        }
    }
    Ok(())
}

/// Keeps readiness up to date with a store's state.
async fn watch_store(store: Store, all: Vec<Store>, health: Health) {
    let mut state = store.state();
    while state.changed().await.is_ok() {
        health.set_storage(all.iter().all(|store| *store.state().borrow() == State::Well));
    }
}

async fn fold(collected: metrics::Collected) {
    let mut ticks = tokio::time::interval(Duration::from_secs(5));
    loop {
        ticks.tick().await;
        collected.fold();
    }
}

/// Looks at the models again whenever told to.
async fn refresh_on_hangup(lanes: &Lanes, hangup: &mut Signal) -> Infallible {
    loop {
        hangup.recv().await;
        if let Err(error) = lanes.refresh().await {
            tracing::error!(%error, "the models can't be looked at again; everything stays as it was");
        }
    }
}

/// The signals a worker hears.
struct Signals {
    stopping: Stopping,
    /// Look at the models again.
    hangup: Signal,
}

/// Those that stop it.
struct Stopping {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let stopping =
            Stopping { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
        Ok(Self { stopping, hangup: signal(SignalKind::hangup())? })
    }
}

impl Stopping {
    /// Ends with the next SIGTERM or SIGINT.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

//! `tagmill worker`: start in order, run until told to stop, drain.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::Failed;
use super::signals::{Signals, Stopping};
use super::tagging::{self, CLOSING};
use crate::cli::WorkerArgs;
use crate::delivery::Answers;
use crate::door::admission::Admission;
use crate::door::http::Http;
use crate::door::http::server::Server;
use crate::door::live::{self, Live};
use crate::door::outbox::Outbox;
use crate::door::stream::{self, Stream, pull};
use crate::nats::Nats;
use crate::pipeline::lanes::{Lanes, Outlets};
use crate::pipeline::{Pipeline, StageEnded};
use crate::settings;
use crate::store::Store;
use crate::telemetry::health::Health;

/// How often the backlog is looked at.
const BACKLOG: Duration = Duration::from_secs(5);

pub(super) async fn run(args: WorkerArgs) -> Result<(), Failed> {
    let settings = settings::Worker::try_from(args)?;
    let mut signals = Signals::listen().map_err(Failed::running)?;
    let health = Health::default();
    let server = tagging::telemetry(&settings.tagging, &health).await?;
    let started = tokio::select! {
        started = start(&settings, &health) => started?,
        () = signals.stopping.stop() => {
            tracing::info!("told to stop before the start was done");
            return Ok(());
        }
    };
    work(settings, server, started, health, signals).await
}

/// What a worker works with.
struct Started {
    lanes: Arc<Lanes>,
    outlets: Outlets,
    nats: Nats,
    stream: Arc<Stream>,
    live: Arc<Live>,
    /// Of requests, over NATS and HTTP together.
    admission: Admission,
}

/// Everything that can fail before the first job is taken, in the order in which an operator would look.
async fn start(settings: &settings::Worker, health: &Health) -> Result<Started, Failed> {
    let (lanes, outlets) = tagging::models(&settings.tagging, health).await?;
    let name = format!("tagmill {}", settings.tagging.name);
    let nats = Nats::connect(&settings.nats, &name).await.map_err(Failed::running)?;
    let told = health.clone();
    tokio::spawn(nats.follow(move |connected| told.set_nats(connected)));
    let outbox = Outbox::new(nats.clone(), health.clone());
    let stream = Box::pin(Stream::open(settings.stream.clone(), nats.clone(), outbox.clone())).await;
    let stream = stream.map_err(|error| Failed::Running(nats.blamed(error)))?;
    let admission = Admission::new(settings.tagging.live_in_flight);
    let live = Live::new(settings.live.clone(), nats.clone(), admission.clone(), outbox);
    tagging::stores(&settings.tagging.stores, health).await?;
    Ok(Started { lanes, outlets, nats, stream, live, admission })
}

/// Takes jobs until told to stop or something breaks.
async fn work(
    settings: settings::Worker,
    server: Server,
    Started { lanes, outlets, nats, stream, live, admission }: Started,
    health: Health,
    mut signals: Signals,
) -> Result<(), Failed> {
    let settings::Worker { tagging: settings, stream: stream::Settings { subjects, .. }, .. } = settings;
    let stores = settings.stores;
    let (entrance, mut pipeline) = Pipeline::start(&settings.pipeline, stores.clone(), &lanes, outlets);
    let (answers, stop) = (Answers::new(), CancellationToken::new());
    tokio::spawn(Arc::clone(&stream).keep_alive());
    tokio::spawn(Arc::clone(&stream).watch_backlog(BACKLOG));
    let http = Http::new(settings.http, admission, Arc::clone(&lanes), entrance.clone(), answers.clone());
    server.open(&http);
    // Held, so that it is the door that says why it closed and not the stages it leads to.
    let open = entrance.clone();
    let member = live.join().await.map_err(Failed::running)?;
    let requests = live::run(Arc::clone(&live), member, entrance.clone(), answers.clone(), stop.clone());
    let mut requests = tokio::spawn(requests);
    let mut door = tokio::spawn(pull::run(
        Arc::clone(&stream),
        stores.clone(),
        entrance,
        pipeline.pace(),
        answers.clone(),
        stop.clone(),
    ));
    tracing::info!(worker = %settings.name, prefix = %subjects, "working");

    let broken = tokio::select! {
        () = signals.stop(&lanes) => None,
        broken = pipeline.broken() => Some(broken.into()),
        ended = &mut door => Some(closed("the stream's door", ended)),
        ended = &mut requests => Some(closed("the door for requests", ended)),
    };
    drop(open);
    health.set_draining();
    stop.cancel();
    http.close();
    let ending = Ending { door, requests, http, server, pipeline, answers, stream, live, lanes, nats };
    match broken {
        Some(broken) => {
            ending.hand_back().await;
            Err(Failed::Running(broken))
        }
        None => ending.drain(&stores, settings.drain_timeout, &mut signals.stopping).await.map_err(Failed::running),
    }
}

/// Why a door closed, though the worker was not told to stop.
fn closed<E: Into<anyhow::Error>>(door: &str, ended: Result<Result<(), E>, JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow::anyhow!("{door} closed by itself"),
        Ok(Err(reason)) => reason.into(),
        Err(panicked) => panicked.into(),
    }
}

/// What a worker has to bring to an end.
struct Ending {
    door: JoinHandle<Result<(), pull::Closed>>,
    requests: JoinHandle<Result<(), live::Closed>>,
    http: Http,
    server: Server,
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
        self.http.give_up();
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
        let _ = tokio::time::timeout(CLOSING, self.server.close()).await;
    }

    /// Finishes what is in hand, as long as there is time.
    async fn drain(self, stores: &[Store], patience: Duration, stopping: &mut Stopping) -> Result<(), StageEnded> {
        let Self { door, requests, http, server, pipeline, answers, stream, live, lanes, nats } = self;
        tagging::stopping(stores, patience);
        let drained = async {
            let _ = tokio::join!(door, requests);
            let drained = pipeline.drained().await;
            answers.arrived().await;
            drained
        };
        tokio::pin!(drained);
        let in_time = stopping.in_time(&mut drained, patience).await;
        http.give_up();
        // Whatever is still held goes back now, not after the ack wait.
        stream.hand_back().await;
        live.hand_back().await;
        stream.flush().await;
        if in_time.is_none() {
            lanes.stop();
            let _ = tokio::time::timeout(CLOSING, drained).await;
        }
        let _ = tokio::time::timeout(CLOSING, async { tokio::join!(nats.client.drain(), server.close()) }).await;
        in_time.unwrap_or(Ok(()))?;
        tracing::info!("stopped");
        Ok(())
    }
}

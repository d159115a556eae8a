//! `tagmill worker`: starts in order, runs until stopped, drains.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::Failed;
use super::signals::{Signals, Stopping};
use super::tagging::{self, CLOSING};
use crate::cli::WorkerArgs;
use crate::delivery::answers::Answers;
use crate::nats::Nats;
use crate::nats::publisher::ConfirmedPublisher;
use crate::pipeline::accept::Incoming;
use crate::pipeline::{Pipeline, StageEnded};
use crate::settings;
use crate::source::http::Http;
use crate::source::http::server::Server;
use crate::source::limit::RequestLimit;
use crate::source::nats::{self, NatsSource};
use crate::source::stream::topology::Gone;
use crate::source::stream::{self, Stream, pull};
use crate::store::Store;
use crate::telemetry::health::Health;

pub(super) async fn run(args: WorkerArgs) -> Result<(), Failed> {
    let settings = settings::Worker::try_from(args)?;
    let mut signals = Signals::listen().map_err(Failed::running)?;
    let health = Health::default();
    let server = tagging::telemetry(&settings.tagging, &health).await?;
    let started = tokio::select! {
        started = start(&settings, &health) => started?,
        () = signals.stopping.stop() => {
            tracing::info!("stopped before the start was done");
            return Ok(());
        }
    };
    work(settings, server, started, health, signals).await
}

/// Parts of a started worker.
struct Started {
    to_accept: Sender<Incoming>,
    pipeline: Pipeline,
    nats: Nats,
    stream: Arc<Stream>,
    requests: Arc<NatsSource>,
    /// Limit of interactive images, over NATS and HTTP together.
    in_flight_limit: RequestLimit,
}

/// Everything that can fail before the first job is accepted, in the order in which an operator would check it.
async fn start(settings: &settings::Worker, health: &Health) -> Result<Started, Failed> {
    let (to_accept, pipeline) = tagging::pipeline(&settings.tagging, health).await?;
    let name = format!("tagmill {}", settings.tagging.name);
    let nats = Nats::connect(&settings.nats, &name).await.map_err(Failed::running)?;
    let readiness = health.clone();
    tokio::spawn(nats.follow(move |connected| readiness.set_nats(connected)));
    let publisher = ConfirmedPublisher::new(nats.clone(), health.clone());
    let stream = Box::pin(Stream::open(settings.stream.clone(), nats.clone(), publisher.clone())).await;
    let stream = stream.map_err(|error| Failed::Running(nats.with_context(error)))?;
    let in_flight_limit = RequestLimit::new(settings.tagging.interactive_in_flight);
    let requests = NatsSource::new(settings.requests.clone(), nats.clone(), in_flight_limit.clone(), publisher);
    tagging::stores(&settings.tagging.stores, health).await?;
    Ok(Started { to_accept, pipeline, nats, stream, requests, in_flight_limit })
}

/// Accepts jobs until a signal or a broken part ends it.
async fn work(
    settings: settings::Worker,
    server: Server,
    Started { to_accept, mut pipeline, nats, stream, requests, in_flight_limit }: Started,
    health: Health,
    mut signals: Signals,
) -> Result<(), Failed> {
    let settings::Worker { tagging: settings, stream: stream::Settings { subjects, .. }, .. } = settings;
    let (stores, pool) = (settings.stores, Arc::clone(pipeline.pool()));
    let (answers, stop) = (Answers::new(), CancellationToken::new());
    tokio::spawn(Arc::clone(&stream).keep_alive());
    let http = Http::new(settings.http, in_flight_limit, Arc::clone(&pool), to_accept.clone(), answers.clone());
    server.open(&http);
    let member = requests.join().await.map_err(Failed::running)?;
    let answering = nats::run(Arc::clone(&requests), member, to_accept.clone(), answers.clone(), stop.clone());
    let mut answering = tokio::spawn(answering);
    let mut pulling = tokio::spawn(pull::run(
        Arc::clone(&stream),
        stores.clone(),
        to_accept.clone(),
        pipeline.estimator(),
        answers.clone(),
        stop.clone(),
    ));
    tracing::info!(worker = %settings.name, prefix = %subjects, "working");

    let broken = tokio::select! {
        () = signals.stop(&pool) => None,
        broken = pipeline.broken() => Some(broken.into()),
        ended = &mut pulling => Some(closed("the source of the stream", ended)),
        ended = &mut answering => Some(closed("the source of requests over NATS", ended)),
    };
    // Held until now, so that a source reports its own error before the stages after it end.
    drop(to_accept);
    health.set_draining();
    stop.cancel();
    http.close();
    let ending = Ending { pulling, answering, http, server, pipeline, answers, stream, requests, nats };
    match broken {
        Some(broken) => {
            ending.hand_back().await;
            Err(Failed::Running(broken))
        }
        None => ending.drain(&stores, settings.drain_timeout, &mut signals.stopping).await.map_err(Failed::running),
    }
}

/// Error of a source that closed although the worker was not stopped.
fn closed<E: Into<anyhow::Error>>(source: &str, ended: Result<Result<(), E>, JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow::anyhow!("{source} closed by itself"),
        Ok(Err(reason)) => reason.into(),
        Err(panicked) => panicked.into(),
    }
}

/// Parts of a worker that end in order.
struct Ending {
    pulling: JoinHandle<Result<(), Gone>>,
    answering: JoinHandle<Result<(), nats::Closed>>,
    http: Http,
    server: Server,
    pipeline: Pipeline,
    answers: Answers,
    stream: Arc<Stream>,
    requests: Arc<NatsSource>,
    nats: Nats,
}

impl Ending {
    /// Hands back all jobs after a failure.
    async fn hand_back(self) {
        self.http.give_up();
        self.stream.leave_unexplained();
        // First the jobs held now, then those that outstanding pull requests still deliver.
        self.stream.hand_back().await;
        if !self.pulling.is_finished() {
            let _ = tokio::time::timeout(CLOSING, self.pulling).await;
            self.stream.hand_back().await;
        }
        if !self.answering.is_finished() {
            let _ = tokio::time::timeout(CLOSING, self.answering).await;
        }
        self.requests.hand_back().await;
        let _ = tokio::time::timeout(CLOSING, self.answers.arrived()).await;
        self.stream.flush().await;
        self.pipeline.pool().stop();
        let _ = tokio::time::timeout(CLOSING, self.server.close()).await;
    }

    /// Finishes accepted jobs within the time limit.
    async fn drain(self, stores: &[Store], timeout: Duration, stopping: &mut Stopping) -> Result<(), StageEnded> {
        let Self { pulling, answering, http, server, pipeline, answers, stream, requests, nats } = self;
        tagging::stopping(stores, timeout);
        let pool = Arc::clone(pipeline.pool());
        let drained = async {
            let _ = tokio::join!(pulling, answering);
            let drained = pipeline.drained().await;
            answers.arrived().await;
            drained
        };
        tokio::pin!(drained);
        let in_time = stopping.in_time(&mut drained, timeout).await;
        http.give_up();
        // Jobs still held are handed back at once instead of after the ack wait.
        stream.hand_back().await;
        requests.hand_back().await;
        stream.flush().await;
        if in_time.is_none() {
            pool.stop();
            let _ = tokio::time::timeout(CLOSING, drained).await;
        }
        let _ = tokio::time::timeout(CLOSING, async { tokio::join!(nats.client.drain(), server.close()) }).await;
        in_time.unwrap_or(Ok(()))?;
        tracing::info!("stopped");
        Ok(())
    }
}

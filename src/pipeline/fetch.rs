//! **fetch**: [`Accepted`] jobs become [`Fetched`] ones: the image's bytes are read from their store, several jobs at once.
//! Fails with `image_not_found`, `image_too_large`, `forbidden_location`, `storage_denied`, `storage_unavailable`,
//! `bad_job` for an inline image that is not base64, `overloaded` where nobody waits for the answer any more, or
//! `shutting_down` where the job is to go back to the queue. A model that is not loaded is loaded here, so that other jobs go
//! on; fails with `inference_failed` where it can't be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::path::Path;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinSet;
use tracing::{Instrument, Span};

use super::accept::Accepted;
use super::concurrency::Estimator;
use super::context::JobContext;
use super::handoff::Finished;
use super::model_queue::Route;
use super::pool::{Destination, ModelPool};
use super::queue::{self, Queued};
use super::stage::{Ended, panicked, pass_by_priority};
use crate::delivery::permit::Permit;
use crate::failure::{Code, Failure};
use crate::memory::{Pool, Reservation};
use crate::priority::Priority;
use crate::store::inline::Inline;
use crate::store::location::Location;
use crate::store::outage::{Attempt, all_well, any_troubled};
use crate::store::{Read, Store, file, too_large};
use crate::telemetry::labels::Stage;
use crate::telemetry::metrics;

/// How often a read that takes long is asked whether somebody still waits for it.
const LOOK: Duration = Duration::from_millis(250);

/// How images are read.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Bytes an encoded image may have.
    pub max_image_bytes: u64,
    /// Room for encoded images.
    pub room: Pool,
}

/// A job with its image's bytes.
pub(crate) struct Fetched {
    /// The job.
    pub context: JobContext,
    /// The queue it goes to.
    pub route: Route,
    /// The image, encoded.
    pub bytes: Bytes,
    /// Room for it.
    pub reserved: Reservation,
}

impl Queued for Fetched {
    fn priority(&self) -> Priority {
        self.context.priority()
    }
}

/// An image's bytes, and room for them.
struct Image {
    bytes: Bytes,
    reserved: Reservation,
    /// What answers call it, where the job did not say so.
    name: Option<String>,
}

/// What every fetch works with.
pub(crate) struct Fetch {
    /// How images are read.
    pub settings: Settings,
    /// The stores.
    pub stores: Vec<Store>,
    /// The models.
    pub pool: Arc<ModelPool>,
    /// Learns how far away the stores are.
    pub estimator: Arc<Estimator>,
    /// Takes images that are read.
    pub decode: queue::Sender<Fetched>,
    /// Takes jobs that failed.
    pub publish: Sender<Finished>,
}

/// Fetches until `accepted` closes, then finishes what it has begun.
///
/// # Errors
/// None of its own.
pub(crate) async fn run(fetch: Fetch, mut accepted: Receiver<Accepted>) -> Result<(), Ended> {
    let fetch = Arc::new(fetch);
    let mut fetches = JoinSet::new();
    while let Some(job) = accepted.recv().await {
        // The one concurrent point of this stage, bounded by what sources let in. A fetch that panics drops its delivery,
        // which hands the job back.
        let fetch = Arc::clone(&fetch);
        let span = job.context.delivery.span();
        fetches.spawn(async move { fetch.one(job).await }.instrument(span));
        while fetches.try_join_next().is_some() {}
    }
    while fetches.join_next().await.is_some() {}
    // No job wants a model any more.
    fetch.pool.close();
    Ok(())
}

impl Fetch {
    async fn one(&self, Accepted { mut context, destination, location }: Accepted) {
        // First, so that a job that waits for its model, and with it for another model's last jobs, holds no memory from
        // them.
        let route = self.route(destination, &mut context).await;
        let began = Instant::now();
        let read = match route {
            Ok(route) => self.read(location, route, &mut context).await,
            Err(failure) => Err(failure),
        };
        context.seconds.fetch = metrics::stage_seconds("fetch", began.elapsed());
        match read {
            Ok((route, Image { bytes, reserved, name })) => {
                if let Some(name) = name {
                    context.image = name;
                }
                // Refused only where the stage after this one is gone: the delivery inside hands its job back.
                drop(pass_by_priority(Stage::Fetch, &self.decode, Fetched { context, route, bytes, reserved }).await);
            }
            Err(failure) => {
                metrics::failed(Stage::Fetch, failure.code);
                let _ = self.publish.send(Finished::failed(context.delivery, failure)).await;
            }
        }
    }

    /// The way to a job's model, which is loaded if it is not.
    async fn route(&self, destination: Destination, context: &mut JobContext) -> Result<Route, Failure> {
        let model = match destination {
            Destination::Loaded(route) => return Ok(route),
            Destination::Unloaded(model) => model,
        };
        // Not fetching: it waits to begin, as at the gate.
        let _waiting = metrics::backpressure(Stage::Accept);
        let (priority, waits) = (context.priority(), context);
        let queue = self.pool.load(&model, move || waits.still_wanted()).await?;
        Ok(Route::new(&queue, priority))
    }

    async fn read(
        &self,
        location: Location,
        route: Route,
        context: &mut JobContext,
    ) -> Result<(Route, Image), Failure> {
        context.still_wanted()?;
        match location {
            Location::Stored { store, path } if context.delivery.is_exclusive() => {
                self.read_alone(&store, &path, route, context).await
            }
            location => match context.priority() {
                Priority::Interactive => tokio::select! {
                    image = self.image(location, Priority::Interactive) => Ok((route, image?)),
                    failure = unwanted(context) => Err(failure),
                },
                Priority::Bulk => Ok((route, self.image(location, Priority::Bulk).await?)),
            },
        }
    }

    /// Reads an image. Somebody who waits for the answer does not wait for a store in trouble.
    async fn image(&self, location: Location, priority: Priority) -> Result<Image, Failure> {
        let Settings { max_image_bytes: limit, room } = &self.settings;
        let read = match location {
            Location::Stored { store, path } => {
                let read = match priority {
                    Priority::Interactive => store.read_promptly(&path, *limit, room).await?,
                    Priority::Bulk => self.read_patiently(&store, &path).await?,
                };
                self.estimator.first_byte(read.first_byte);
                read
            }
            Location::File(path) => file::read(path, *limit, room).await?,
            Location::Inline(image) => return inline(image, *limit, room).await,
            Location::Here(bytes) if bytes.len() as u64 > *limit => {
                return Err(too_large(bytes.len() as u64, *limit));
            }
            Location::Here(bytes) => {
                let reserved = room.reserve(bytes.len() as u64).await?;
                return Ok(Image { bytes, reserved, name: None });
            }
        };
        Ok(read.into())
    }

    /// Reads for a job that waits as long as its store is in trouble.
    async fn read_patiently(&self, store: &Store, path: &Path) -> Result<Read, Failure> {
        let mut recoveries = 0;
        loop {
            store.well().await?;
            if let Some(read) = self.attempt(store, path, &mut recoveries).await {
                return read;
            }
        }
    }

    /// What came of one read; `None` where the job is to wait and come again.
    async fn attempt(&self, store: &Store, path: &Path, recoveries: &mut u32) -> Option<Result<Read, Failure>> {
        let Settings { max_image_bytes: limit, room } = &self.settings;
        match store.read_unless_troubled(path, *limit, room, recoveries).await {
            Attempt::Ended(read) => Some(read),
            Attempt::Waits(failure) => {
                metrics::failed(Stage::Fetch, failure.code);
                None
            }
        }
    }

    /// Reads for a job that keeps all others waiting. It does not do so while it waits for a store in trouble: then it steps
    /// aside, and is alone again before it is read for once more. Nor does it keep its model loaded meanwhile: those that
    /// are let in may want another in its place.
    async fn read_alone(
        &self,
        store: &Store,
        path: &Path,
        mut route: Route,
        context: &mut JobContext,
    ) -> Result<(Route, Image), Failure> {
        let mut recoveries = 0;
        loop {
            if let Some(read) = self.attempt(store, path, &mut recoveries).await {
                let read = read?;
                self.estimator.first_byte(read.first_byte);
                return Ok((route, read.into()));
            }
            drop(route);
            if let Some(company) = context.delivery.step_aside() {
                let alone = self.alone_again(company).await?;
                context.delivery.enter(Permit::Exclusive(Arc::new(alone)));
            }
            let destination = self.pool.find(context.job.model.as_deref(), context.priority())?;
            route = self.route(destination, context).await?;
        }
    }

    /// Ends when no store is in trouble and nothing else in flight.
    async fn alone_again(&self, company: Arc<RwLock<()>>) -> Result<OwnedRwLockWriteGuard<()>, Failure> {
        loop {
            all_well(&self.stores).await?;
            tokio::select! {
                biased;
                () = any_troubled(&self.stores) => {}
                alone = Arc::clone(&company).write_owned() => return Ok(alone),
            }
        }
    }
}

impl From<Read> for Image {
    fn from(Read { bytes, reserved, .. }: Read) -> Self {
        Self { bytes, reserved, name: None }
    }
}

/// Ends when nobody waits for the answer any more.
async fn unwanted(context: &mut JobContext) -> Failure {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Err(failure) = context.still_wanted() {
            return failure;
        }
    }
}

/// Decodes an image that came as text, and names it by its hash so that answers do not carry the image back.
async fn inline(image: Inline, limit: u64, room: &Pool) -> Result<Image, Failure> {
    let mut reserved = room.reserve(image.size()).await?;
    let span = Span::current();
    // The room with it: nobody may wait for it any more, and it goes on.
    let decoded = tokio::task::spawn_blocking(move || {
        let _span = span.entered();
        let media_type = image.media_type.clone();
        let bytes = image.decode(limit)?;
        reserved.shrink_to(bytes.len() as u64);
        let hash = Sha256::digest(&bytes);
        let name = Some(format!("data:{media_type};sha256,{}", hex::encode(hash)));
        Ok(Image { bytes, reserved, name })
    });
    decoded.await.unwrap_or_else(|error| {
        Err(match error.try_into_panic() {
            Ok(panic) => panicked(Code::InferenceFailed, "reading an inline image", &*panic),
            Err(cancelled) => {
                Failure::new(Code::InferenceFailed, format!("reading an inline image came to nothing: {cancelled}"))
            }
        })
    })
}

//! **fetch**: [`Accepted`] jobs become [`Fetched`] ones. Reads the bytes of images from their stores, several jobs
//! concurrently, and routes the job to the queue of its model, which is loaded if necessary. Fails with `image_not_found`,
//! `image_too_large`, `forbidden_location`, `storage_denied`, `storage_unavailable`, `bad_job` if an inline image is not
//! base64, `inference_failed` if the model can't be loaded, `overloaded` if the client no longer waits, or `shutting_down`
//! if the job goes back to the queue.
//!
//! A job that waits here holds nothing that others need: no model while it waits for its store, no read of a store while it
//! waits for its model, and no in-flight slot of its source during a long wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::{Instrument, Span};

use super::accept::Accepted;
use super::concurrency::Estimator;
use super::context::JobContext;
use super::handoff::Finished;
use super::model_queue::Route;
use super::pool::ModelPool;
use super::queue::{self, Queued};
use super::queue_state::Pending;
use super::stage::{Ended, panicked, pass, pass_by_priority};
use crate::failure::{Code, Failure};
use crate::memory::{Pool, Reservation};
use crate::priority::Priority;
use crate::store::inline::Inline;
use crate::store::location::Location;
use crate::store::{Read, Store, file, too_large};
use crate::telemetry::labels::Stage;
use crate::telemetry::metrics;

/// Interval at which a long wait checks that the client still waits for the answer.
const CHECK: Duration = Duration::from_millis(250);

/// Time a job waits before it leaves its source's slot to others.
const PARK: Duration = Duration::from_secs(1);

/// Settings of reads.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Maximum bytes of an encoded image.
    pub max_image_bytes: u64,
    /// Memory for encoded images.
    pub memory: Pool,
}

/// A job with its image's bytes.
pub(crate) struct Fetched {
    /// The job.
    pub context: JobContext,
    /// Route to the queue of its model.
    pub route: Route,
    /// Encoded image.
    pub bytes: Bytes,
    /// Memory reserved for the image.
    pub reserved: Reservation,
    /// Slot among quarantined jobs, until the image is decoded.
    pub quarantine: Option<OwnedSemaphorePermit>,
}

impl Queued for Fetched {
    fn priority(&self) -> Priority {
        self.context.priority()
    }
}

/// Bytes of an image, and memory reserved for them.
struct Image {
    bytes: Bytes,
    reserved: Reservation,
    /// Name of the image in answers, if it differs from the job's.
    name: Option<String>,
}

/// Resources of every fetch.
pub(crate) struct Fetch {
    /// Settings of reads.
    pub settings: Settings,
    /// Pool of the models.
    pub pool: Arc<ModelPool>,
    /// Receives latencies of the stores.
    pub estimator: Arc<Estimator>,
    /// Receives fetched images.
    pub decode: queue::Sender<Fetched>,
    /// Receives fetched images of quarantined jobs.
    pub quarantine: Sender<Fetched>,
    /// Limit of quarantined jobs that are read and decoded concurrently.
    pub quarantined: Arc<Semaphore>,
    /// Receives failed jobs.
    pub publish: Sender<Finished>,
}

/// Fetches until `accepted` closes, then completes the fetches in progress.
///
/// # Errors
/// None of its own.
pub(crate) async fn run(fetch: Fetch, mut accepted: Receiver<Accepted>) -> Result<(), Ended> {
    let fetch = Arc::new(fetch);
    let mut fetches = JoinSet::new();
    while let Some(job) = accepted.recv().await {
        // The only concurrent part of this stage, bounded by the limits of sources. A fetch that panics drops its delivery,
        // which hands the job back.
        let fetch = Arc::clone(&fetch);
        let span = job.context.delivery.span();
        fetches.spawn(async move { fetch.one(job).await }.instrument(span));
        while fetches.try_join_next().is_some() {}
    }
    while fetches.join_next().await.is_some() {}
    // No job needs a model any more.
    fetch.pool.close();
    Ok(())
}

impl Fetch {
    async fn one(&self, Accepted { mut context, model, location }: Accepted) {
        // Before the read, so that jobs that wait for an isolated decoder hold no memory.
        let quarantine = if context.is_quarantined() {
            let _waiting = metrics::backpressure(Stage::Accept);
            parked_after(PARK, &context, Arc::clone(&self.quarantined).acquire_owned()).await.ok()
        } else {
            None
        };
        match self.fetch(&model, location, &mut context).await {
            Ok((route, Image { bytes, reserved, name })) => {
                if let Some(name) = name {
                    context.image = name;
                }
                let quarantined = context.is_quarantined();
                let fetched = Fetched { context, route, bytes, reserved, quarantine };
                let passed = if quarantined {
                    pass(Stage::Fetch, &self.quarantine, fetched).await
                } else {
                    pass_by_priority(Stage::Fetch, &self.decode, fetched).await
                };
                // Fails only if the next stage is gone: the delivery inside hands its job back.
                drop(passed);
            }
            Err(failure) => {
                metrics::failed(Stage::Fetch, failure.code);
                let _ = self.publish.send(Finished::failed(context.delivery, failure)).await;
            }
        }
    }

    async fn fetch(
        &self,
        model: &Arc<str>,
        location: Location,
        context: &mut JobContext,
    ) -> Result<(Route, Image), Failure> {
        // Loads the model before the read, so that the job holds no memory during the load. But while the store keeps jobs
        // waiting, the load is put off, because it would evict a model that is needed now. Only the pending count is kept:
        // the model may be evicted during the read.
        let mut pending = match self.pool.route(model, context.priority()) {
            Some(route) => Some(route.pending),
            None if is_slow(&location) => None,
            None => Some(self.loaded(model, context).await?.pending),
        };
        context.still_wanted()?;
        let began = Instant::now();
        let image = self.image(location, context, &mut pending).await;
        context.seconds.fetch = metrics::stage_seconds("fetch", began.elapsed());
        let image = image?;
        let route = match (self.pool.queue(model), pending) {
            (Some(queue), Some(pending)) => Route::with_pending(&queue, pending),
            (Some(queue), None) => Route::new(&queue, context.priority()),
            (None, _) => self.loaded(model, context).await?,
        };
        Ok((route, image))
    }

    /// Route to a job's model, after it is loaded.
    async fn loaded(&self, model: &Arc<str>, context: &JobContext) -> Result<Route, Failure> {
        // Counts as waiting for admission, not as fetching.
        let _waiting = metrics::backpressure(Stage::Accept);
        // A task of its own, so that a client that leaves does not cancel a load that others wait for.
        let (pool, name, wanted) = (Arc::clone(&self.pool), Arc::clone(model), Wanted::default());
        let is_wanted = wanted.0.clone();
        let loading = tokio::spawn(async move { pool.load(&name, || Wanted::check(&is_wanted)).await });
        let queue = tokio::select! {
            loaded = parked_after(PARK, context, loading) => {
                loaded.map_err(|error| Failure::new(Code::InferenceFailed, error.to_string()))??
            }
            failure = unwanted(context) => return Err(failure),
        };
        Ok(Route::new(&queue, context.priority()))
    }

    /// Reads an image. An interactive job waits neither for a store that is down nor longer than its client.
    async fn image(
        &self,
        location: Location,
        context: &JobContext,
        pending: &mut Option<Pending>,
    ) -> Result<Image, Failure> {
        let (limit, memory) = (self.settings.max_image_bytes, self.settings.memory.of(context.priority()));
        match location {
            Location::Stored { store, path } => {
                let read = match context.priority() {
                    Priority::Interactive => tokio::select! {
                        read = store.read_promptly(&path, limit, &memory) => read?,
                        failure = unwanted(context) => return Err(failure),
                    },
                    Priority::Bulk => {
                        let read = store.read_through_outage(&path, limit, &memory);
                        self.through_outage((&store, &memory), context, pending, read).await?
                    }
                };
                self.estimator.first_byte(read.first_byte);
                Ok(read.into())
            }
            Location::File(path) => Ok(file::read(path, limit, &memory).await?.into()),
            Location::Inline(image) => tokio::select! {
                image = inline(image, limit, &memory) => image,
                failure = unwanted(context) => Err(failure),
            },
            Location::Here(bytes) if bytes.len() as u64 > limit => Err(too_large(bytes.len() as u64, limit)),
            Location::Here(bytes) => tokio::select! {
                reserved = memory.reserve(bytes.len() as u64) => Ok(Image { bytes, reserved: reserved?, name: None }),
                failure = unwanted(context) => Err(failure),
            },
        }
    }

    /// Waits for the read of a bulk job. During an outage, the job leaves its slot to jobs of other stores and its batch to
    /// other rows; if too many wait for the store already, it goes back to the queue.
    async fn through_outage(
        &self,
        (store, memory): (&Store, &Pool),
        context: &JobContext,
        pending: &mut Option<Pending>,
        read: impl Future<Output = Result<Read, Failure>>,
    ) -> Result<Read, Failure> {
        tokio::pin!(read);
        loop {
            if let Ok(read) = tokio::time::timeout(PARK, &mut read).await {
                return read;
            }
            // A job that waits for memory does not wait for its store.
            if !memory.is_waited_for() {
                break;
            }
        }
        let Some(_waiting) = store.wait() else {
            let message = format!("too many jobs wait for {store}; others go first");
            return Err(Failure::new(Code::StorageUnavailable, message).without_attempt());
        };
        let _parked = Parked::new(context);
        pending.take();
        read.await
    }
}

/// Marks a load as wanted, until dropped.
struct Wanted(Arc<AtomicBool>);

impl Default for Wanted {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Wanted {
    fn check(wanted: &AtomicBool) -> Result<(), Failure> {
        if wanted.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Failure::new(Code::Overloaded, "nobody waits for the model any more"))
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Returns `true` if an image is in a store that keeps jobs waiting.
fn is_slow(location: &Location) -> bool {
    matches!(location, Location::Stored { store, .. } if store.keeps_waiting())
}

/// Parks a job once it has waited for this time.
async fn parked_after<T>(time: Duration, context: &JobContext, waiting: impl Future<Output = T>) -> T {
    tokio::pin!(waiting);
    if let Ok(ended) = tokio::time::timeout(time, &mut waiting).await {
        return ended;
    }
    let _parked = Parked::new(context);
    waiting.await
}

/// Frees the job's slot at its source, until dropped.
struct Parked<'a>(&'a JobContext);

impl<'a> Parked<'a> {
    fn new(context: &'a JobContext) -> Self {
        context.delivery.set_parked(true);
        Self(context)
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.delivery.set_parked(false);
    }
}

impl From<Read> for Image {
    fn from(Read { bytes, reserved, .. }: Read) -> Self {
        Self { bytes, reserved, name: None }
    }
}

/// Completes once the client no longer waits for the answer.
async fn unwanted(context: &JobContext) -> Failure {
    loop {
        tokio::time::sleep(CHECK).await;
        if let Err(failure) = context.still_wanted() {
            return failure;
        }
    }
}

/// Decodes an image that arrived as text. Names it by its hash, so that answers do not contain the image.
async fn inline(image: Inline, limit: u64, memory: &Pool) -> Result<Image, Failure> {
    let mut reserved = memory.reserve(image.size()).await?;
    let span = Span::current();
    // The task owns the reservation, because it continues after its caller is cancelled.
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

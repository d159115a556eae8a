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
use tokio::task::JoinSet;

use super::accept::Accepted;
use super::lanes::lane::Heading;
use super::lanes::{Destination, Lanes};
use super::pace::Pace;
use super::publish::Finished;
use super::queue::{self, Queued};
use super::{Ended, Flight, pass_in_order};
use crate::delivery::{Delivery, Presence};
use crate::failure::{Code, Failure};
use crate::memory::{Reservation, Share};
use crate::store::inline::Inline;
use crate::store::location::Location;
use crate::store::outage::{all_well, any_troubled};
use crate::store::{Read, Store, file, too_large};
use crate::telemetry::metrics::{self, Stage};

/// How often a read that takes long is asked whether somebody still waits for it.
const LOOK: Duration = Duration::from_millis(250);

/// How images are read.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Bytes an encoded image may have.
    pub max_image_bytes: u64,
    /// Room for encoded images.
    pub room: Share,
}

/// A job with its image's bytes.
pub(crate) struct Fetched {
    /// The job.
    pub flight: Flight,
    /// The lane it goes to.
    pub heading: Heading,
    /// The image, encoded.
    pub bytes: Bytes,
    /// Room for it.
    pub reserved: Reservation,
}

impl Queued for Fetched {
    fn is_urgent(&self) -> bool {
        self.flight.is_urgent()
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
struct Fetch {
    settings: Settings,
    stores: Vec<Store>,
    lanes: Arc<Lanes>,
    pace: Arc<Pace>,
    decode: queue::Sender<Fetched>,
    publish: Sender<Finished>,
}

/// Fetches until `accepted` closes, then finishes what it has begun.
///
/// # Errors
/// None of its own.
pub(crate) async fn run(
    settings: Settings,
    stores: Vec<Store>,
    lanes: Arc<Lanes>,
    pace: Arc<Pace>,
    mut accepted: Receiver<Accepted>,
    decode: queue::Sender<Fetched>,
    publish: Sender<Finished>,
) -> Result<(), Ended> {
    let fetch = Arc::new(Fetch { settings, stores, lanes: Arc::clone(&lanes), pace, decode, publish });
    let mut fetches = JoinSet::new();
    while let Some(job) = accepted.recv().await {
        // The one concurrent point of this stage, bounded by what doors let in. A fetch that panics drops its delivery,
        // which hands the job back.
        let fetch = Arc::clone(&fetch);
        fetches.spawn(async move { fetch.one(job).await });
        while fetches.try_join_next().is_some() {}
    }
    while fetches.join_next().await.is_some() {}
    // No job wants a model any more.
    lanes.close();
    Ok(())
}

impl Fetch {
    async fn one(&self, Accepted { mut flight, destination, location }: Accepted) {
        // First, so that a job that waits for its model, and with it for another model's last jobs, holds no memory from
        // them.
        let heading = match destination {
            Destination::Lane(heading) => Ok(heading),
            Destination::Unloaded(model) => {
                // Not fetching: it waits to begin, as at the entrance.
                let waiting = metrics::backpressure(Stage::Accept);
                let waits = &mut flight;
                let lane = self.lanes.load(&model, move || waits.still_wanted()).await;
                drop(waiting);
                lane.map(|lane| Heading::to(&lane, flight.is_urgent()))
            }
        };
        let began = Instant::now();
        let read = match &heading {
            Err(failure) => Err(failure.clone()),
            Ok(_) => self.read(location, &mut flight).await,
        };
        flight.seconds.fetch = metrics::stage_seconds("fetch", began.elapsed());
        match heading.and_then(|heading| Ok((heading, read?))) {
            Ok((heading, (bytes, reserved))) => {
                // Refused only where the stage after this one is gone: the delivery inside hands its job back.
                drop(pass_in_order(Stage::Fetch, &self.decode, Fetched { flight, heading, bytes, reserved }).await);
            }
            Err(failure) => {
                metrics::failed(Stage::Fetch, failure.code);
                let _ = self.publish.send(Finished::failed(flight.delivery, failure)).await;
            }
        }
    }

    async fn read(&self, location: Location, flight: &mut Flight) -> Result<(Bytes, Reservation), Failure> {
        flight.still_wanted()?;
        let Image { bytes, reserved, name } = if flight.is_urgent() {
            tokio::select! {
                image = self.image(location, None) => image?,
                failure = unwanted(flight) => return Err(failure),
            }
        } else {
            self.image(location, Some(&mut flight.delivery)).await?
        };
        if let Some(name) = name {
            flight.image = name;
        }
        Ok((bytes, reserved))
    }

    /// Reads an image; for a job that waits for a store in trouble, or where there is none for somebody who does not.
    async fn image(&self, location: Location, waits: Option<&mut Delivery>) -> Result<Image, Failure> {
        let Settings { max_image_bytes: limit, room } = &self.settings;
        let Read { bytes, reserved, .. } = match location {
            Location::Stored { store, path } => {
                let read = match waits {
                    None => store.read_promptly(&path, *limit, room).await?,
                    Some(alone) if alone.is_alone() => self.alone(&store, &path, alone).await?,
                    Some(_) => store.read_patiently(&path, *limit, room).await?,
                };
                self.pace.first_byte(read.first_byte);
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
        Ok(Image { bytes, reserved, name: None })
    }

    /// Reads for a job that keeps all others waiting. It does not do so while it waits for a store in trouble: then it steps
    /// aside, and is alone again before it is read for once more.
    async fn alone(&self, store: &Store, path: &Path, job: &mut Delivery) -> Result<Read, Failure> {
        let Settings { max_image_bytes: limit, room } = &self.settings;
        let mut recoveries = 0;
        loop {
            if let Some(read) = store.read_unless_troubled(path, *limit, room, &mut recoveries).await {
                return read;
            }
            let Some(company) = job.step_aside() else { return store.read_patiently(path, *limit, room).await };
            let alone = loop {
                all_well(&self.stores).await?;
                tokio::select! {
                    biased;
                    () = any_troubled(&self.stores) => {}
                    alone = Arc::clone(&company).write_owned() => break alone,
                }
            };
            job.enter(Presence::Alone(Arc::new(alone)));
        }
    }
}

/// Ends when nobody waits for the answer any more.
async fn unwanted(flight: &mut Flight) -> Failure {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Err(failure) = flight.still_wanted() {
            return failure;
        }
    }
}

/// Decodes an image that came as text, and names it by its hash so that answers do not carry the image back.
async fn inline(image: Inline, limit: u64, room: &Share) -> Result<Image, Failure> {
    let mut reserved = room.reserve(image.size()).await?;
    // The room with it: nobody may wait for it any more, and it goes on.
    let decoded = tokio::task::spawn_blocking(move || {
        let media_type = image.media_type.clone();
        let bytes = image.decode(limit)?;
        reserved.shrink_to(bytes.len() as u64);
        let hash = Sha256::digest(&bytes);
        let name = Some(format!("data:{media_type};sha256,{}", hex::encode(hash)));
        Ok(Image { bytes, reserved, name })
    });
    decoded.await.unwrap_or_else(|error| {
        Err(match error.try_into_panic() {
            Ok(panic) => super::panicked(Code::InferenceFailed, "reading an inline image", &*panic),
            Err(cancelled) => {
                Failure::new(Code::InferenceFailed, format!("reading an inline image came to nothing: {cancelled}"))
            }
        })
    })
}

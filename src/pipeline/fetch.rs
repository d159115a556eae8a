//! **fetch**: [`Accepted`] jobs become [`Fetched`] ones: the image's bytes are read from their store, several jobs at once.
//! Fails with `image_not_found`, `image_too_large`, `forbidden_location`, `storage_denied`, `storage_unavailable`, or
//! `bad_job` for a data URI that is not base64. A model that is not loaded is loaded here, so that other jobs go on; fails
//! with `inference_failed` where it can't be.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::task::JoinSet;

use super::accept::Accepted;
use super::batch::Heading;
use super::lanes::{Destination, Lanes};
use super::publish::Finished;
use super::{Ended, Flight, pass};
use crate::failure::Failure;
use crate::memory::{Reservation, Share};
use crate::store::location::{DataUri, Location};
use crate::telemetry::metrics::{self, Stage};

/// How images are read.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Images read at once.
    pub concurrency: usize,
    /// Bytes an encoded image may have.
    pub max_image_bytes: u64,
    /// Room for encoded images.
    pub room: Share,
}

/// A job with its image's bytes.
pub struct Fetched {
    /// The job.
    pub flight: Flight,
    /// The lane it goes to.
    pub heading: Heading,
    /// The image, encoded.
    pub bytes: Bytes,
    /// Room for it.
    pub reserved: Reservation,
}

/// Fetches until `accepted` closes, then finishes what it has begun.
///
/// # Errors
/// None of its own.
pub async fn run(
    settings: Settings,
    lanes: Arc<Lanes>,
    mut accepted: Receiver<Accepted>,
    decode: Sender<Fetched>,
    publish: Sender<Finished>,
) -> Result<(), Ended> {
    let room = Arc::new(Semaphore::new(settings.concurrency));
    let settings = Arc::new(settings);
    let mut fetches = JoinSet::new();
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let Some(job) = accepted.recv().await else { break };
        let (settings, lanes, decode, publish) =
            (Arc::clone(&settings), Arc::clone(&lanes), decode.clone(), publish.clone());
        // The one concurrent point of this stage. A fetch that panics drops its delivery, which hands the job back.
        fetches.spawn(async move {
            fetch(job, &settings, &lanes, &decode, &publish).await;
            drop(permit);
        });
        while fetches.try_join_next().is_some() {}
    }
    while fetches.join_next().await.is_some() {}
    // No job wants a model any more.
    lanes.close();
    Ok(())
}

async fn fetch(
    Accepted { mut flight, destination, location }: Accepted,
    Settings { max_image_bytes, room, .. }: &Settings,
    lanes: &Lanes,
    decode: &Sender<Fetched>,
    publish: &Sender<Finished>,
) {
    // First, so that a job that waits for its model, and with it for another model's last jobs, holds no memory from them.
    let heading = match destination {
        Destination::Lane(heading) => Ok(heading),
        Destination::Unloaded(model) => lanes.load(&model).await.map(|lane| Heading::to(&lane)),
    };
    let began = Instant::now();
    let read = match (&heading, location) {
        (Err(failure), _) => Err(failure.clone()),
        (Ok(_), Location::Stored { store, path }) => store.read_patiently(&path, *max_image_bytes, room).await,
        (Ok(_), Location::Inline(uri)) => inline(uri, *max_image_bytes, room, &mut flight).await,
    };
    flight.seconds.fetch = metrics::stage_seconds("fetch", began.elapsed());
    let fetched = heading.and_then(|heading| Ok((heading, read?)));
    match fetched {
        Ok((heading, (bytes, reserved))) => {
            // Refused only where the stage after this one is gone: the delivery inside hands its job back.
            drop(pass(Stage::Fetch, decode, Fetched { flight, heading, bytes, reserved }).await);
        }
        Err(failure) => {
            metrics::failed(Stage::Fetch, failure.code);
            let _ = publish.send(Finished::failed(flight.delivery, failure)).await;
        }
    }
}

/// Decodes a data URI, and names it by its hash so that answers do not carry the image back.
async fn inline(uri: DataUri, limit: u64, room: &Share, flight: &mut Flight) -> Result<(Bytes, Reservation), Failure> {
    let reserved = room.reserve(uri.size()).await?;
    let decoded = tokio::task::spawn_blocking(move || {
        let bytes = uri.decode(limit)?;
        let hash = Sha256::digest(&bytes);
        Ok((bytes, format!("data:{};sha256,{}", uri.media_type, crate::model::hex(&hash))))
    });
    let (bytes, image) = decoded.await.unwrap_or_else(|error| {
        let panic = error.into_panic();
        Err(super::panicked(crate::failure::Code::InferenceFailed, "reading a data URI", &*panic))
    })?;
    flight.image = image;
    Ok((bytes, reserved))
}

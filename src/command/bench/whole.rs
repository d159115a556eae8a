//! Everything together: the pipeline that all sources share reads, decodes, batches and tags images.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::spread::Spread;
use crate::command::Failed;
use crate::command::tagging::start;
use crate::machine::{self, gpu};
use crate::model::catalog::Catalog;
use crate::settings;
use crate::source::local::{Done, Image, Local};
use crate::store::Store;
use crate::tags::{Seconds, TagResult};

/// Measurement of the whole.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Measured {
    /// Maximum and average number of images per batch.
    pub(super) batch: usize,
    pub(super) filled: f64,
    /// Images a second.
    pub(super) rate: f64,
    /// Time from the request of an image to its tags.
    pub(super) seconds: Spread,
    /// Average time of an image in each part.
    pub(super) parts: Seconds,
    /// Resident bytes of the process at the end.
    pub(super) resident: Option<u64>,
    /// Bytes of the GPU's memory in use at the end, by all processes.
    pub(super) device_memory: Option<u64>,
}

/// Tags the images repeatedly for `time`.
///
/// # Errors
/// If the model can't be loaded, a stage breaks, or no image can be tagged.
pub(super) async fn measure(
    settings: &settings::Local,
    catalog: Catalog,
    stores: Vec<Store>,
    images: &[Image],
    time: Duration,
) -> Result<Measured, Failed> {
    let (to_accept, mut pipeline, model) =
        start(&settings.pipeline, stores, catalog, settings.model.as_deref()).await?;
    let device = model.devices.first().cloned().unwrap_or_default();
    let (done, mut dones) = mpsc::channel(settings.in_flight);
    let stop = CancellationToken::new();
    // Held until all images are through, so that the pipeline does not end before them.
    let open = to_accept.clone();
    let local = Local::new(to_accept, done, stop.clone());
    tokio::spawn(feed(local, images.to_vec(), settings.in_flight, stop.clone()));
    let mut tally = Tally::default();
    let mut passed = 0;
    loop {
        tokio::select! {
            done = dones.recv() => {
                let Some(Done { result, .. }) = done else { break };
                passed += 1;
                // The first images are excluded, because they find everything idle.
                let began = (passed > settings.in_flight).then(|| *tally.began.get_or_insert_with(Instant::now));
                if let (Some(began), Ok(result)) = (began, result) {
                    tally.add(&result);
                    tally.took = began.elapsed();
                }
                if began.is_some_and(|began| began.elapsed() >= time) {
                    stop.cancel();
                }
            }
            broken = pipeline.broken() => return Err(Failed::running(broken)),
        }
    }
    let memory = (machine::resident_memory(), gpu::memory(&device).map(|memory| memory.used));
    drop(open);
    pipeline.drained().await.map_err(Failed::running)?;
    if tally.each.is_empty() {
        return Err(Failed::running(anyhow::anyhow!(
            "not one of the images can be tagged; `tagmill tag` names them, and why"
        )));
    }
    Ok(tally.measured(settings.pipeline.pool.batch.limit, memory))
}

/// Requests one image after another, up to `places` concurrently.
async fn feed(local: Arc<Local>, images: Vec<Image>, places: usize, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(places));
    for image in images.iter().cycle() {
        let place = stop.run_until_cancelled(Arc::clone(&places).acquire_owned()).await;
        let Some(Ok(place)) = place else { return };
        local.tag(image.clone(), place).await;
    }
}

#[derive(Default)]
struct Tally {
    began: Option<Instant>,
    took: Duration,
    each: Vec<Duration>,
    filled: usize,
    sums: Seconds,
}

impl Tally {
    fn add(&mut self, result: &TagResult) {
        let Seconds { queue: _, fetch, decode, wait, infer } = result.seconds;
        self.each.push(Duration::from_secs_f64(fetch + decode + wait + infer));
        self.filled += result.batch;
        self.sums.fetch += fetch;
        self.sums.decode += decode;
        self.sums.wait += wait;
        self.sums.infer += infer;
    }

    #[expect(clippy::cast_precision_loss, reason = "a few thousand images")]
    fn measured(self, batch: usize, (resident, device_memory): (Option<u64>, Option<u64>)) -> Measured {
        let count = self.each.len() as f64;
        let Seconds { queue, fetch, decode, wait, infer } = self.sums;
        let parts =
            Seconds { queue, fetch: fetch / count, decode: decode / count, wait: wait / count, infer: infer / count };
        Measured {
            batch,
            filled: self.filled as f64 / count,
            rate: count / self.took.as_secs_f64(),
            seconds: Spread::of(self.each),
            parts,
            resident,
            device_memory,
        }
    }
}

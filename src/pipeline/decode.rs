//! **decode**: [`Fetched`] jobs become [`Ready`] ones: the image is decoded and fitted to one row of the model's input, on
//! threads of its own. Fails with `image_undecodable` or `image_too_large`.

pub mod fit;
pub mod picture;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc::{Receiver, Sender};

use super::batch::{Approach, Heading};
use super::fetch::Fetched;
use super::publish::Finished;
use super::{Flight, panicked};
use crate::failure::{Code, Failure};
use crate::telemetry::metrics::{self, Stage};
use fit::Fitter;

/// How images are decoded.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads that decode.
    pub threads: usize,
    /// What is refused, and what is looked at.
    pub picture: picture::Settings,
}

/// A job with its row of the model's input.
pub struct Ready {
    /// The job.
    pub flight: Flight,
    /// Counts as on its way until the lane has it.
    pub approach: Approach,
    /// RGB, `side * side * 3` bytes.
    pub row: Box<[u8]>,
}

/// Decodes until `fetched` closes.
///
/// # Errors
/// Where a decoding thread can't be started, or died.
pub async fn run(settings: Settings, fetched: Receiver<Fetched>, publish: Sender<Finished>) -> Result<(), String> {
    let fetched = Arc::new(Mutex::new(fetched));
    let mut threads = tokio::task::JoinSet::new();
    for number in 0..settings.threads {
        let worker = Worker { picture: settings.picture.clone(), publish: publish.clone(), fitter: None };
        let fetched = Arc::clone(&fetched);
        let (done, ended) = tokio::sync::oneshot::channel::<()>();
        std::thread::Builder::new()
            .name(format!("decode-{number}"))
            .spawn(move || {
                worker.run(&fetched);
                let _ = done.send(());
            })
            .map_err(|error| format!("can't start a thread: {error}"))?;
        threads.spawn(ended);
    }
    drop(publish);
    while let Some(ended) = threads.join_next().await {
        if !matches!(ended, Ok(Ok(()))) {
            return Err("one of its threads died".into());
        }
    }
    Ok(())
}

struct Worker {
    picture: picture::Settings,
    publish: Sender<Finished>,
    fitter: Option<Fitter>,
}

impl Worker {
    fn run(mut self, fetched: &Mutex<Receiver<Fetched>>) {
        loop {
            // Whoever holds the lock waits for the next job; the others wait for the lock.
            let next = fetched.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
            let Some(fetched) = next else { return };
            self.one(fetched);
        }
    }

    fn one(&mut self, fetched: Fetched) {
        let Fetched { mut flight, heading: Heading { lane, approach }, bytes } = fetched;
        let began = Instant::now();
        let side = flight.model.side;
        let fitter = self.fitter.get_or_insert_with(|| Fitter::new(side, [255; 3]));
        let row = catch_unwind(AssertUnwindSafe(|| decode(&bytes, &self.picture, fitter))).unwrap_or_else(|panic| {
            self.fitter = None; // Its buffers may be half written.
            Err(panicked(Code::ImageUndecodable, "decoding an image", &*panic))
        });
        flight.seconds.decode = metrics::stage_seconds("decode", began.elapsed());
        match row {
            Ok(row) => {
                let waiting = metrics::backpressure(Stage::Decode);
                // Refused only where the lane is gone: the delivery inside hands its job back.
                drop(lane.rows.blocking_send(Ready { flight, approach, row }));
                drop(waiting);
            }
            Err(failure) => {
                metrics::failed(Stage::Decode, failure.code);
                let _ = self.publish.blocking_send(Finished::failed(flight.delivery, failure));
            }
        }
    }
}

fn decode(bytes: &[u8], settings: &picture::Settings, fitter: &mut Fitter) -> Result<Box<[u8]>, Failure> {
    let picture = picture::decode(bytes, settings)?;
    Ok(fitter.fit(&picture.as_picture()))
}

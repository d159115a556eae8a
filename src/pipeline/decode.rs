//! **decode**: [`Fetched`] jobs become [`Ready`] ones: the image is decoded and fitted to one row of the model's input, on
//! threads of its own. Fails with `image_undecodable` or `image_too_large`.

pub(crate) mod decoder;
pub mod fit;
pub mod picture;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;

use super::batch::traffic::Approach;
use super::fetch::Fetched;
use super::lanes::lane::Heading;
use super::publish::Finished;
use super::queue::{Queued, Receiver};
use super::{Ended, Flight, panicked};
use crate::failure::{Code, Failure};
use crate::memory::{Reservation, Share};
use crate::telemetry::metrics::{self, Stage};
use decoder::Decoder;
use fit::Frame;
use picture::Reserve;

/// How images are decoded.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Threads that decode.
    pub(crate) threads: usize,
    /// What is refused, and what is looked at.
    pub(crate) picture: picture::Settings,
    /// Room for decoded images.
    pub(crate) room: Share,
}

/// A job with its row of the model's input.
pub(crate) struct Ready {
    /// The job.
    pub(crate) flight: Flight,
    /// Counts as on its way until the lane has it.
    pub(crate) approach: Approach,
    /// What the model sees of it.
    pub(crate) input: Input,
}

impl Queued for Ready {
    fn is_urgent(&self) -> bool {
        self.flight.is_urgent()
    }
}

/// One row of a model's input.
pub(crate) struct Input {
    /// RGB, `side * side * 3` of them.
    pub(crate) bytes: Box<[u8]>,
    /// Room for them.
    _room: Reservation,
}

#[cfg(test)]
impl Input {
    pub(crate) const fn new(bytes: Box<[u8]>, room: Reservation) -> Self {
        Self { bytes, _room: room }
    }
}

/// Decodes until `fetched` closes.
///
/// # Errors
/// Where a decoding thread can't be started, or died.
pub(crate) async fn run(
    settings: Settings,
    fetched: Receiver<Fetched>,
    publish: Sender<Finished>,
) -> Result<(), Ended> {
    let fetched = Arc::new(Mutex::new(fetched));
    let mut threads = tokio::task::JoinSet::new();
    for number in 0..settings.threads {
        let (picture, room) = (settings.picture.clone(), settings.room.clone());
        let runtime = Handle::current();
        let worker = Worker { decode: Decoder::row, picture, room, runtime, publish: publish.clone(), decoder: None };
        let fetched = Arc::clone(&fetched);
        let (done, ended) = tokio::sync::oneshot::channel::<()>();
        std::thread::Builder::new()
            .name(format!("decode-{number}"))
            .spawn(move || {
                worker.run(&fetched);
                let _ = done.send(());
            })
            .map_err(|error| Ended::Broken(format!("can't start a thread: {error}")))?;
        threads.spawn(ended);
    }
    drop(publish);
    while let Some(ended) = threads.join_next().await {
        if !matches!(ended, Ok(Ok(()))) {
            return Err(Ended::Broken("one of its threads died".into()));
        }
    }
    Ok(())
}

/// What a thread does with each image.
type Decode = fn(&mut Decoder, &[u8], Reserve<'_>) -> Result<Box<[u8]>, Failure>;

struct Worker {
    decode: Decode,
    picture: picture::Settings,
    room: Share,
    /// What gives room back while a thread waits for it.
    runtime: Handle,
    publish: Sender<Finished>,
    decoder: Option<Decoder>,
}

impl Worker {
    fn run(mut self, fetched: &Mutex<Receiver<Fetched>>) {
        loop {
            // Whoever holds the lock waits for the next job; the others wait for the lock.
            let mut queue = fetched.lock().unwrap_or_else(PoisonError::into_inner);
            let next = self.runtime.block_on(queue.recv());
            drop(queue);
            let Some(fetched) = next else { return };
            self.one(fetched);
        }
    }

    fn one(&mut self, fetched: Fetched) {
        let Fetched { mut flight, heading: Heading { lane, approach }, bytes: encoded, reserved: room } = fetched;
        let began = Instant::now();
        let input = self.input(&flight, &encoded, lane.model.frame);
        drop((encoded, room));
        flight.seconds.decode = metrics::stage_seconds("decode", began.elapsed());
        match input {
            Ok(input) => {
                let waiting = metrics::backpressure(Stage::Decode);
                // Refused only where the lane is gone: the delivery inside hands its job back.
                drop(self.runtime.block_on(lane.rows.send(Ready { flight, approach, input })));
                drop(waiting);
            }
            Err(failure) => {
                metrics::failed(Stage::Decode, failure.code);
                let _ = self.publish.blocking_send(Finished::failed(flight.delivery, failure));
            }
        }
    }

    fn input(&mut self, flight: &Flight, encoded: &[u8], frame: Frame) -> Result<Input, Failure> {
        flight.still_wanted()?;
        // Kept between images of the same model, for its buffers.
        let decoder = match self.decoder.take() {
            Some(decoder) if decoder.frame() == frame => decoder,
            _ => Decoder::new(self.picture.clone(), frame),
        };
        let decoder = self.decoder.insert(decoder);
        let row = frame.row_bytes() as u64;
        let mut reserved = None;
        let mut reserve = |bytes: u64| {
            reserved = Some(self.room.reserve_blocking(bytes + row, &self.runtime)?);
            Ok(())
        };
        let decoding = AssertUnwindSafe(|| (self.decode)(decoder, encoded, &mut reserve));
        let bytes = catch_unwind(decoding).unwrap_or_else(|panic| {
            self.decoder = None; // Its buffers may be half written.
            Err(panicked(Code::ImageUndecodable, "decoding an image", &*panic))
        })?;
        let mut room = reserved.ok_or_else(|| Failure::new(Code::ImageUndecodable, "no room was taken for it"))?;
        // The pixels are gone; the row stays until it has run.
        room.shrink_to(row);
        Ok(Input { bytes, _room: room })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::mpsc;

    use super::*;
    use crate::delivery::tests::noted;
    use crate::failure::Class;
    use crate::job::Job;
    use crate::memory::Budget;
    use crate::pipeline::batch::limit::Limit;
    use crate::pipeline::lanes::lane::Lane;
    use crate::pipeline::queue;
    use crate::pipeline::tag::tests::model;
    use crate::tags::Seconds;

    async fn fetched(lane: &Arc<Lane>, bytes: &'static [u8]) -> Fetched {
        let (delivery, _) = noted("job");
        let job = Job::parse(br#"{"image":"a"}"#).expect("a job");
        let flight = Flight { job, image: "a".into(), seconds: Seconds::default(), delivery };
        let reserved = Budget::new(1 << 20).encoded.reserve(bytes.len() as u64).await.expect("room");
        Fetched { flight, heading: Heading::to(lane, false), bytes: Bytes::from_static(bytes), reserved }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_over_one_image_costs_that_job_a_retry_and_the_thread_goes_on() {
        let (publish, mut finished) = mpsc::channel(2);
        let (lane, mut rows) = Lane::new(Arc::new(model()), Limit::new(8, 8), mpsc::channel(1).0);
        let decode: Decode = |_, bytes, reserve| {
            reserve(bytes.len() as u64)?;
            assert_ne!(bytes, b"bad", "this image");
            Ok(Box::from(bytes))
        };
        let picture = picture::Settings { max_pixels: 1, ignore_orientation: false };
        let (send, jobs) = queue::bounded(2);
        for bytes in [b"bad".as_slice(), b"good"] {
            assert!(send.send(fetched(&lane, bytes).await).await.is_ok());
        }
        drop(send);
        let (room, runtime) = (Budget::new(1 << 20).decoded, Handle::current());
        let worker = Worker { decode, picture, room, runtime, publish, decoder: None };
        let thread = std::thread::spawn(move || worker.run(&Mutex::new(jobs)));
        let Some(Finished::Failed(failed)) = finished.recv().await else { panic!("no failure") };
        assert!(failed.1.message.contains("this image"), "{}", failed.1);
        assert_eq!((failed.1.code, failed.1.class()), (Code::ImageUndecodable, Class::Retry));
        assert_eq!(&*rows.recv().await.expect("the other image").input.bytes, b"good");
        thread.join().expect("it ends with its input");
    }
}

//! **decode**: [`Fetched`] jobs become [`Ready`] ones: decodes the image and fits it to one row of the model's input, on
//! threads of its own; a quarantined one in a process of its own. Fails with `image_undecodable` or `image_too_large`, with
//! `bad_job` for thresholds of a category that the model lacks, with `overloaded` if the client no longer waits, and over a
//! quarantined image with `attempts_exhausted` or `shutting_down`.

pub(crate) mod decoder;
pub mod fit;
pub mod isolated;
pub mod picture;
#[cfg(debug_assertions)]
mod test_picture;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, Sender};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::context::JobContext;
use super::fetch::Fetched;
use super::handoff::{Finished, Input, Ready};
use super::model_queue::Route;
use super::queue::Receiver;
use super::stage::{Ended, panicked, pass_by_priority};
use crate::failure::{Code, Failure};
use crate::memory::Pool;
use crate::model::frame::Frame;
use crate::priority::Priority;
use crate::telemetry::labels::Stage;
use crate::telemetry::metrics;
use decoder::Decoder;
use isolated::IsolatedDecoder;
use picture::Reserve;

/// Settings of decoding.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Number of decoding threads of each kind.
    pub(crate) threads: usize,
    /// Limits and options of decoders.
    pub(crate) picture: picture::Settings,
    /// Memory for decoded images.
    pub(crate) memory: Pool,
}

/// Decodes until `fetched` and `quarantined` close. Interactive images have threads of their own, so that they never wait
/// behind a bulk one; if cores are scarce, bulk leaves them three quarters. Quarantined images, which may take minutes, also
/// have threads of their own.
///
/// # Errors
/// If a decoding thread can't be started, or has died.
pub(crate) async fn run(
    settings: Settings,
    fetched: Receiver<Fetched>,
    quarantined: mpsc::Receiver<Fetched>,
    publish: Sender<Finished>,
) -> Result<(), Ended> {
    run_with(Decoder::row, settings, fetched, quarantined, publish).await
}

/// Function that decodes an image to a row.
type Decode = fn(&mut Decoder, &[u8], Reserve<'_>) -> Result<Box<[u8]>, Failure>;

async fn run_with(
    decode: Decode,
    settings: Settings,
    fetched: Receiver<Fetched>,
    quarantined: mpsc::Receiver<Fetched>,
    publish: Sender<Finished>,
) -> Result<(), Ended> {
    let mut threads = JoinSet::new();
    let (interactive, bulk) = fetched.split();
    let kinds = [
        ("request", Priority::Interactive, interactive),
        ("decode", Priority::Bulk, bulk),
        ("isolated", Priority::Bulk, quarantined),
    ];
    for (kind, priority, jobs) in kinds {
        let gives_way = priority == Priority::Bulk;
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..settings.threads {
            let Settings { picture, memory, .. } = settings.clone();
            let memory = memory.of(priority);
            let (runtime, publish, jobs) = (Handle::current(), publish.clone(), Arc::clone(&jobs));
            let worker = Worker {
                decode,
                picture,
                memory,
                runtime,
                publish,
                decoder: None,
                isolated: IsolatedDecoder::default(),
            };
            let (done, ended) = oneshot::channel::<()>();
            let work = move || {
                if gives_way {
                    give_way();
                }
                worker.run(&jobs);
                let _ = done.send(());
            };
            let started = std::thread::Builder::new().name(format!("{kind}-{number}")).spawn(work);
            started.map_err(|error| Ended::Broken(format!("can't start a thread: {error}")))?;
            threads.spawn(ended);
        }
    }
    drop(publish);
    while let Some(ended) = threads.join_next().await {
        if !matches!(ended, Ok(Ok(()))) {
            return Err(Ended::Broken("one of its threads died".into()));
        }
    }
    Ok(())
}

/// Niceness added to a thread that gives way. Its weight is then a third of another thread's.
#[cfg(target_os = "linux")]
const NICER: i32 = 5;

/// Lowers the thread's priority, so that the program's other threads get three quarters of the cores if they need them.
fn give_way() {
    // On Linux, niceness belongs to a thread, contrary to POSIX; elsewhere it would apply to the program.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICER) {
        tracing::debug!(%error, "a decoder can't give way to requests and the model");
    }
}

struct Worker {
    decode: Decode,
    picture: picture::Settings,
    memory: Pool,
    /// Runtime that runs the tasks which return memory while a thread waits for it.
    runtime: Handle,
    publish: Sender<Finished>,
    decoder: Option<Decoder>,
    /// Decoder of quarantined jobs.
    isolated: IsolatedDecoder,
}

impl Worker {
    fn run(mut self, jobs: &Mutex<mpsc::Receiver<Fetched>>) {
        while let Some(fetched) = self.next(jobs) {
            self.one(fetched);
            self.isolated.end_if_idle();
        }
    }

    /// Takes the next job. The lock's holder waits for the job, the other threads wait for the lock.
    fn next(&mut self, jobs: &Mutex<mpsc::Receiver<Fetched>>) -> Option<Fetched> {
        while let Some(deadline) = self.isolated.idle_until() {
            if let Some(mut queue) = jobs.try_lock_until(deadline) {
                let next = async { tokio::time::timeout_at(deadline.into(), queue.recv()).await };
                if let Ok(next) = self.runtime.block_on(next) {
                    return next;
                }
            }
            self.isolated.end_if_idle();
        }
        self.runtime.block_on(jobs.lock().recv())
    }

    fn one(&mut self, fetched: Fetched) {
        let Fetched { mut context, route: Route { queue, pending }, bytes: encoded, reserved: memory, quarantine } =
            fetched;
        let _span = context.delivery.span().entered();
        let began = Instant::now();
        let checked = queue.model.check_thresholds(&context.job.thresholds);
        let input = checked.and_then(|()| self.input(&context, &encoded, queue.model.frame));
        drop((encoded, memory, quarantine));
        context.seconds.decode = metrics::stage_seconds("decode", began.elapsed());
        match input {
            Ok(input) => {
                let ready = Ready { context, pending, input };
                // Fails only if the queue is gone: the delivery inside hands its job back.
                drop(self.runtime.block_on(pass_by_priority(Stage::Decode, &queue.rows, ready)));
            }
            Err(failure) => {
                metrics::failed(Stage::Decode, failure.code);
                let _ = self.publish.blocking_send(Finished::failed(context.delivery, failure));
            }
        }
    }

    fn input(&mut self, context: &JobContext, encoded: &[u8], frame: Frame) -> Result<Input, Failure> {
        context.still_wanted()?;
        let row = frame.row_bytes() as u64;
        let (memory, runtime) = (self.memory.clone(), self.runtime.clone());
        let mut reserved = None;
        let mut reserve = |bytes: u64| {
            // An isolated decoder reserves again when it restarts.
            reserved = None;
            reserved = Some(memory.reserve_blocking(bytes.saturating_add(row), &runtime)?);
            // The reservation may have taken long.
            context.still_wanted()
        };
        let bytes = if context.is_quarantined() {
            self.isolated.row(&context.delivery.id, (&self.picture, frame), encoded, &mut reserve)?
        } else {
            self.row(frame, encoded, &mut reserve)?
        };
        let mut memory =
            reserved.ok_or_else(|| Failure::new(Code::ImageUndecodable, "no memory was reserved for it"))?;
        // The pixels are freed; the row stays until it has run.
        memory.shrink_to(row);
        Ok(Input::new(bytes, memory))
    }

    /// Decodes an image to a row on this thread.
    fn row(&mut self, frame: Frame, encoded: &[u8], reserve: Reserve<'_>) -> Result<Box<[u8]>, Failure> {
        // The decoder is kept for further images of the same model, for its buffers.
        let decoder = match self.decoder.take() {
            Some(decoder) if decoder.frame() == frame => decoder,
            _ => Decoder::new(self.picture.clone(), frame),
        };
        let decoder = self.decoder.insert(decoder);
        let decoding = AssertUnwindSafe(|| (self.decode)(decoder, encoded, reserve));
        catch_unwind(decoding).unwrap_or_else(|panic| {
            self.decoder = None; // Its buffers may be half written.
            Err(panicked(Code::ImageUndecodable, "decoding an image", &*panic))
        })
    }
}

#[cfg(test)]
mod tests;

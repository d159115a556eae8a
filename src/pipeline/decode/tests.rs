use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::*;
use crate::delivery::tests::noted_at;
use crate::failure::Class;
use crate::job::Job;
use crate::memory::Budget;
use crate::pipeline::batch::limit::Limit;
use crate::pipeline::model_queue::ModelQueue;
use crate::pipeline::queue::{self, Queued};
use crate::pipeline::tag::tests::model;
use crate::priority::Priority;
use crate::tags::Seconds;
use crate::telemetry::labels::Source;
use crate::telemetry::span::tests::Log;

async fn fetched(queue: &Arc<ModelQueue>, source: Source, bytes: &'static [u8]) -> Fetched {
    let (delivery, _) = noted_at(source, "job");
    let job = Job::parse(br#"{"image":"a"}"#).expect("a job");
    let context = JobContext { job, image: "a".into(), seconds: Seconds::default(), delivery };
    let route = Route::new(queue, context.priority());
    let reserved = Budget::new(1 << 20).encoded.reserve(bytes.len() as u64).await.expect("room");
    Fetched { context, route, bytes: Bytes::from_static(bytes), reserved, quarantine: None }
}

fn queue() -> (Arc<ModelQueue>, Receiver<Ready>) {
    let (rows, ready) = queue::bounded(1);
    (ModelQueue::new(Arc::new(model()), Limit::new(8, 8), rows, mpsc::channel(1).0), ready)
}

async fn put(queue: &queue::Sender<Fetched>, image: Fetched) {
    assert!(queue.end_for(&image).send(image).await.is_ok());
}

fn one_thread() -> Settings {
    let picture = picture::Settings { max_pixels: 1, ignore_orientation: false };
    Settings { threads: 1, picture, memory: Budget::new(1 << 20).decoded }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_over_one_image_costs_that_job_a_retry_and_the_thread_goes_on() {
    let log = Log::start();
    let (publish, mut finished) = mpsc::channel(2);
    let (queue, mut rows) = queue();
    let decode: Decode = |_, bytes, reserve| {
        reserve(bytes.len() as u64)?;
        assert_ne!(bytes, b"bad", "this image");
        Ok(Box::from(bytes))
    };
    let (send, jobs) = queue::bounded(2);
    for bytes in [b"bad".as_slice(), b"good"] {
        put(&send, fetched(&queue, Source::Stream, bytes).await).await;
    }
    drop(send);
    let running = tokio::spawn(run_with(decode, one_thread(), jobs, mpsc::channel(1).1, publish));
    let Some(Finished::Failed(failed)) = finished.recv().await else { panic!("no failure") };
    assert!(failed.1.message.contains("this image"), "{}", failed.1);
    assert_eq!((failed.1.code, failed.1.class()), (Code::ImageUndecodable, Class::Retry));
    let lines = log.lines("decoding an image");
    assert!(lines.len() == 1 && lines[0].contains(r#" job{id="job" attempt=1 source=stream}: panicked"#), "{lines:?}");
    assert_eq!(&*rows.recv().await.expect("the other image").input.bytes, b"good");
    assert!(matches!(running.await, Ok(Ok(()))), "it ends with its input");
}

/// Niceness of this thread.
fn niceness() -> i32 {
    #[cfg(target_os = "linux")]
    return rustix::process::getpriority_process(None).expect("its own");
    #[cfg(not(target_os = "linux"))]
    return 0;
}

/// A bulk image could delay an interactive one in two ways: before it, and beside it on the same core.
#[tokio::test(flavor = "multi_thread")]
async fn requests_are_decoded_beside_the_queues_images_and_before_them() {
    #[cfg(not(target_os = "linux"))]
    const NICER: i32 = 0;
    static BEGUN: Notify = Notify::const_new();
    static GATE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    /// Makes rows that contain the niceness of their thread.
    const DECODE: Decode = |_, bytes, reserve| {
        reserve(bytes.len() as u64)?;
        if bytes == b"slow" {
            BEGUN.notify_one();
            drop(GATE.blocking_lock());
        }
        Ok(Box::from(niceness().to_ne_bytes()))
    };
    let (own, gate) = (niceness(), GATE.lock().await);
    let (queue, mut rows) = queue();
    let (send, jobs) = queue::bounded(1);
    let running = tokio::spawn(run_with(DECODE, one_thread(), jobs, mpsc::channel(1).1, mpsc::channel(1).0));
    let mut next = async || {
        let row = tokio::time::timeout(Duration::from_secs(10), rows.recv()).await.expect("soon").expect("a row");
        (row.priority(), i32::from_ne_bytes((*row.input.bytes).try_into().expect("a number")))
    };
    for other_is_busy in [false, true] {
        if other_is_busy {
            put(&send, fetched(&queue, Source::Stream, b"slow").await).await;
            tokio::time::timeout(Duration::from_secs(10), BEGUN.notified()).await.expect("it is being decoded");
        }
        put(&send, fetched(&queue, Source::Http, b"fast").await).await;
        assert_eq!(next().await, (Priority::Interactive, own));
    }
    drop((gate, send));
    assert_eq!(next().await, (Priority::Bulk, (own + NICER).min(19)));
    assert!(matches!(running.await, Ok(Ok(()))), "it ends with its input");
}

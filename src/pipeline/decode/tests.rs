use std::sync::{Arc, Barrier};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::*;
use crate::delivery::Door;
use crate::delivery::tests::noted_at;
use crate::failure::Class;
use crate::job::Job;
use crate::memory::Budget;
use crate::pipeline::batch::limit::Limit;
use crate::pipeline::lanes::lane::Lane;
use crate::pipeline::queue;
use crate::pipeline::tag::tests::model;
use crate::tags::Seconds;

async fn fetched(lane: &Arc<Lane>, door: Door, bytes: &'static [u8]) -> Fetched {
    let (delivery, _) = noted_at(door, "job");
    let job = Job::parse(br#"{"image":"a"}"#).expect("a job");
    let flight = Flight { job, image: "a".into(), seconds: Seconds::default(), delivery };
    let heading = Heading::to(lane, flight.is_urgent());
    let reserved = Budget::new(1 << 20).encoded.reserve(bytes.len() as u64).await.expect("room");
    Fetched { flight, heading, bytes: Bytes::from_static(bytes), reserved }
}

fn lane() -> (Arc<Lane>, Receiver<Ready>) {
    Lane::new(Arc::new(model()), Limit::new(8, 8), mpsc::channel(1).0)
}

fn one_thread() -> Settings {
    let picture = picture::Settings { max_pixels: 1, ignore_orientation: false };
    Settings { threads: 1, picture, room: Budget::new(1 << 20).decoded }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_over_one_image_costs_that_job_a_retry_and_the_thread_goes_on() {
    let (publish, mut finished) = mpsc::channel(2);
    let (lane, mut rows) = lane();
    let decode: Decode = |_, bytes, reserve| {
        reserve(bytes.len() as u64)?;
        assert_ne!(bytes, b"bad", "this image");
        Ok(Box::from(bytes))
    };
    let (send, jobs) = queue::bounded(2);
    for bytes in [b"bad".as_slice(), b"good"] {
        assert!(send.send(fetched(&lane, Door::Stream, bytes).await).await.is_ok());
    }
    drop(send);
    let running = tokio::spawn(run_with(decode, one_thread(), jobs, publish));
    let Some(Finished::Failed(failed)) = finished.recv().await else { panic!("no failure") };
    assert!(failed.1.message.contains("this image"), "{}", failed.1);
    assert_eq!((failed.1.code, failed.1.class()), (Code::ImageUndecodable, Class::Retry));
    assert_eq!(&*rows.recv().await.expect("the other image").input.bytes, b"good");
    assert!(matches!(running.await, Ok(Ok(()))), "it ends with its input");
}

/// Both ways in which a request could wait for an image that nobody waits for: behind it, and beside it on the same core.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_waits_for_is_decoded_while_another_image_is_and_goes_before_it() {
    static BEGUN: Barrier = Barrier::new(2);
    static ENDED: Barrier = Barrier::new(2);
    /// The row says how far its thread gives way.
    const DECODE: Decode = |_, bytes, reserve| {
        reserve(bytes.len() as u64)?;
        if bytes == b"slow" {
            BEGUN.wait();
            ENDED.wait();
        }
        #[cfg(target_os = "linux")]
        let nice = rustix::process::getpriority_process(None).expect("its own priority");
        #[cfg(not(target_os = "linux"))]
        let nice = 0;
        Ok(Box::from([u8::try_from(nice).expect("from 0 to 19")]))
    };
    let (lane, mut rows) = lane();
    let (send, jobs) = queue::bounded(1);
    let running = tokio::spawn(run_with(DECODE, one_thread(), jobs, mpsc::channel(1).0));
    assert!(send.send(fetched(&lane, Door::Stream, b"slow").await).await.is_ok());
    tokio::task::spawn_blocking(|| BEGUN.wait()).await.expect("it is being decoded");
    assert!(send.send(fetched(&lane, Door::Live, b"fast").await).await.is_ok());
    let urgent = tokio::time::timeout(Duration::from_secs(10), rows.recv()).await.expect("soon").expect("a row");
    assert!(urgent.is_urgent());
    tokio::task::spawn_blocking(|| ENDED.wait()).await.expect("it goes on");
    let other = rows.recv().await.expect("a row");
    assert_eq!((urgent.input.bytes[0], other.input.bytes[0]), (0, if cfg!(target_os = "linux") { 10 } else { 0 }));
    drop(send);
    assert!(matches!(running.await, Ok(Ok(()))));
}

//! Reads the body of an object. The time limit is on silence, not on length: a body that is cut is resumed where it ended,
//! if the object has not changed; one that arrives too slowly fails.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{GetResult, ObjectMeta};

use super::Bucket;
use crate::failure::Failure;
use crate::store::reads::ReadSlot;
use crate::store::unavailable;

/// Longest silence in the middle of an answer.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// Minimum bytes of a transfer in this time. A slower one fails.
const TRANSFER: (u64, Duration) = (4096, Duration::from_secs(15));

/// Time and bytes below which a read is idle and releases its slot to others.
pub(super) const IDLE: Duration = Duration::from_secs(2);
const IDLE_BYTES: usize = 8192;

/// Limits on resuming a body: consecutive attempts without new bytes, and attempts in all.
const FRUITLESS: u32 = 1;
const RESUMED: u32 = 30;

/// Body of an object, read in several parts if it is cut.
pub(super) struct Body<'a> {
    bucket: &'a Bucket,
    path: &'a Path,
    object: GetResult,
}

impl<'a> Body<'a> {
    /// Creates the body of this answer.
    pub(super) const fn new(bucket: &'a Bucket, path: &'a Path, object: GetResult) -> Self {
        Self { bucket, path, object }
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// `storage_unavailable` if the body ends early, changes or stalls; otherwise the failure of the request for the rest.
    pub(super) async fn read(self, reading: &mut Option<ReadSlot>) -> Result<Bytes, Failure> {
        let Self { bucket, path, object } = self;
        let meta = object.meta.clone();
        let mut bytes = BytesMut::with_capacity(usize::try_from(meta.size).unwrap_or_default());
        let (mut part, mut fruitless, mut resumed) = (object, 0, 0);
        loop {
            let had = bytes.len();
            let ended = append(part, &mut bytes, meta.size, reading).await;
            if bytes.len() as u64 == meta.size {
                return Ok(bytes.freeze());
            }
            let reason = match ended {
                Ended::TooSlow => {
                    let (least, time) = TRANSFER;
                    let reason = format!("it came slower than {least} bytes in {} s", time.as_secs());
                    return Err(unavailable(path, bucket, &reason));
                }
                Ended::Cut(reason) => reason,
            };
            (fruitless, resumed) = (if bytes.len() > had { 0 } else { fruitless + 1 }, resumed + 1);
            // Without a tag, the rest cannot be matched to the same object.
            let Some(tag) = meta.e_tag.clone().filter(|_| fruitless <= FRUITLESS && resumed <= RESUMED) else {
                return Err(unavailable(path, bucket, &reason));
            };
            part = bucket.get_from(path, bytes.len() as u64, Some(tag)).await?;
            if !is_same(&part.meta, &meta) || part.range.start != bytes.len() as u64 {
                return Err(unavailable(path, bucket, &"it changed while it was read"));
            }
        }
    }
}

/// Reason for the end of a part before the whole body was read.
enum Ended {
    Cut(String),
    TooSlow,
}

/// Appends the part's bytes, up to `size` bytes in all.
async fn append(part: GetResult, bytes: &mut BytesMut, size: u64, reading: &mut Option<ReadSlot>) -> Ended {
    let mut chunks = part.into_stream();
    let began = Instant::now();
    let (mut last, mut idle, mut transfer) = (began, (began, bytes.len()), (began, bytes.len()));
    loop {
        match tokio::time::timeout(IDLE, chunks.next()).await {
            Ok(Some(Ok(chunk))) => {
                let room = usize::try_from(size).unwrap_or(usize::MAX).saturating_sub(bytes.len());
                bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
                last = Instant::now();
            }
            Ok(None) => return Ended::Cut("the answer ended before the object did".to_owned()),
            Ok(Some(Err(error))) => return Ended::Cut(error.to_string()),
            Err(_) if last.elapsed() >= SILENCE => {
                return Ended::Cut(format!("it stood still for {} s", SILENCE.as_secs()));
            }
            Err(_) => {}
        }
        if bytes.len() as u64 == size {
            return Ended::Cut(String::new());
        }
        if idle.0.elapsed() >= IDLE {
            if bytes.len() - idle.1 < IDLE_BYTES {
                reading.take();
            }
            idle = (Instant::now(), bytes.len());
        }
        if transfer.0.elapsed() >= TRANSFER.1 {
            if ((bytes.len() - transfer.1) as u64) < TRANSFER.0 {
                return Ended::TooSlow;
            }
            transfer = (Instant::now(), bytes.len());
        }
    }
}

fn is_same(part: &ObjectMeta, whole: &ObjectMeta) -> bool {
    part.size == whole.size && part.e_tag == whole.e_tag && part.last_modified == whole.last_modified
}

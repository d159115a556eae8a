//! The objects of a bucket, in the order of their keys.

use std::time::Duration;

use anyhow::{anyhow, bail};
use futures_util::StreamExt;

use super::{Feed, Place, Stopped};
use crate::backoff::Backoff;
use crate::failure::{Code, Failure};
use crate::store::bucket::Bucket;

/// Attempts in a row to go on with a listing that breaks off.
const ATTEMPTS: u64 = 5;

/// Delays between two of them.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(16));

pub(super) async fn feed(bucket: &Bucket, feed: &Feed) -> Result<(), Stopped> {
    let (mut last, mut reported) = (None, false);
    match bucket.probe().await {
        Err(failure) if failure.code == Code::StorageUnavailable => {
            tracing::warn!(error = %failure, "the bucket can't be listed yet; trying again");
            reported = true;
        }
        // What is no bucket, or refuses, is not waited for.
        Err(failure) => return Err(unlisted(bucket, &failure)),
        Ok(()) => {}
    }
    let mut tries = 0;
    loop {
        let before = last.clone();
        let Some(broken) = list(bucket, feed, &mut last).await? else { return Ok(()) };
        if last != before {
            (tries, reported) = (0, false);
        }
        match broken.code {
            Code::StorageUnavailable if tries < ATTEMPTS => {
                if !std::mem::replace(&mut reported, true) {
                    tracing::warn!(error = %broken, "the list of objects broke off; going on with it");
                }
                tries += 1;
                tokio::time::sleep(RETRY.after(tries)).await;
            }
            // What the bucket says of itself tells more than what it says of a list.
            _ => return Err(unlisted(bucket, &bucket.probe().await.err().unwrap_or(broken))),
        }
    }
}

fn unlisted(bucket: &Bucket, failure: &Failure) -> Stopped {
    anyhow!("{bucket} can't be listed: {failure}").into()
}

/// Lists what comes after `last`, which moves along; why it ended before its end, where it did.
async fn list(bucket: &Bucket, feed: &Feed, last: &mut Option<String>) -> Result<Option<Failure>, Stopped> {
    let mut objects = std::pin::pin!(bucket.listing(last.clone().as_deref()));
    while let Some(object) = objects.next().await {
        let object = match object {
            Ok(object) => object,
            Err(broken) => return Ok(Some(broken)),
        };
        check_order(bucket, last.as_deref(), &object.key)?;
        match &object.path {
            Some(path) if feed.maker.selection.takes_key(&object.key) => {
                let job = feed.maker.job(&object.key, &bucket.location_of(path));
                feed.send(job, &object.version, Place::Key(object.key.clone())).await?;
            }
            Some(_) => {}
            None => feed.maker.selection.passes_unaddressable(&object.key),
        }
        *last = Some(object.key);
    }
    Ok(None)
}

/// Going on after a key would leave out others where a server has an order of its own.
fn check_order(bucket: &Bucket, last: Option<&str>, next: &str) -> anyhow::Result<()> {
    match last {
        Some(last) if last >= next => {
            bail!(
                "{bucket} does not list its keys in their order (`{next}` after `{last}`); submit a list of them instead"
            )
        }
        _ => Ok(()),
    }
}

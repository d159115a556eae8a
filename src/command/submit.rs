//! `tagmill submit`: publishes a job for every image it is given, and on request waits for the answers.

mod follow;
mod source;

use std::time::Instant;

use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::Failed;
use crate::cli::SubmitArgs;
use crate::door::stream::topology::Subjects;
use crate::nats::{self, Nats};
use crate::settings;
use crate::telemetry::health::Health;
use follow::Follower;

/// Publishes under way at once: the server's confirmations are not waited for one by one.
const UNCONFIRMED: usize = 256;

pub(super) async fn run(args: SubmitArgs) -> Result<(), Failed> {
    let subjects = settings::subjects(&args.nats.prefix)?;
    let settings = nats::Settings::try_from(args.nats)?;
    let jobs = source::jobs(&args.sources).map_err(Failed::settings)?;
    let nats = Nats::connect(&settings, "tagmill submit", &Health::default()).await.map_err(Failed::running)?;
    let jetstream = jetstream::new(nats.client.clone());
    let work = async {
        if args.follow {
            publish_and_follow(&jetstream, &subjects, jobs).await
        } else {
            let began = Instant::now();
            let published = publish(&jetstream, &subjects.jobs(), jobs).await.map_err(Failed::running)?;
            eprintln!("published {published} jobs on {} in {:.1} s", subjects.jobs(), began.elapsed().as_secs_f64());
            Ok(())
        }
    };
    tokio::select! {
        result = work => result,
        _ = tokio::signal::ctrl_c() => Err(Failed::running(anyhow::anyhow!("interrupted; jobs already published stay in the queue"))),
    }
}

async fn publish_and_follow(jetstream: &Context, subjects: &Subjects, jobs: source::Jobs) -> Result<(), Failed> {
    let run = format!("submit.{:08x}", rand::random::<u32>());
    let subject = format!("{}.{run}", subjects.jobs());
    let follower = Follower::start(jetstream, subjects, &subject).await.map_err(Failed::running)?;
    let began = Instant::now();
    let (published, known) = tokio::sync::oneshot::channel();
    let publishing = async {
        let count = publish(jetstream, &subject, jobs).await?;
        eprintln!("published {count} jobs on {subject}");
        let _ = published.send(count);
        Ok::<_, anyhow::Error>(())
    };
    // Answers are read while jobs are still being published.
    let following = async { Ok(follower.run(known).await) };
    let ((), summary) = tokio::try_join!(publishing, following).map_err(Failed::running)?;
    let seconds = began.elapsed().as_secs_f64();
    eprintln!("{} tagged, {} failed in {seconds:.1} s", summary.tagged, summary.dead);
    if summary.dead > 0 {
        return Err(Failed::running(anyhow::anyhow!("{} of the jobs became dead letters", summary.dead)));
    }
    Ok(())
}

/// Publishes every job and sees each confirmed; how many there were.
async fn publish(jetstream: &Context, subject: &str, jobs: source::Jobs) -> anyhow::Result<u64> {
    let mut unconfirmed = FuturesUnordered::new();
    let mut published = 0;
    for job in jobs {
        let sent = jetstream.send_publish(subject.to_owned(), message(job?)).await?;
        unconfirmed.push(confirmed(sent));
        published += 1;
        if unconfirmed.len() >= UNCONFIRMED {
            unconfirmed.next().await.transpose()?;
        }
    }
    while let Some(confirmed) = unconfirmed.next().await {
        confirmed?;
    }
    Ok(published)
}

fn message(job: Bytes) -> PublishMessage {
    PublishMessage::build().payload(job)
}

async fn confirmed(sent: PublishAckFuture) -> anyhow::Result<()> {
    match sent.await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == PublishErrorKind::StreamNotFound => {
            Err(anyhow::anyhow!("no stream takes jobs here; start a worker first, which makes it"))
        }
        Err(error) => Err(error.into()),
    }
}

//! `tagmill init`: creates missing streams and consumers, so that jobs can be published before a worker runs.

use super::Failed;
use super::signals::Stopping;
use crate::cli::init::InitArgs;
use crate::nats::{self, Nats};
use crate::settings;
use crate::source::stream;
use crate::telemetry::say;

pub(super) async fn run(args: InitArgs) -> Result<(), Failed> {
    let streams = settings::streams(&args)?;
    let settings = nats::Settings::try_from(args.nats)?;
    let mut stopping = Stopping::listen().map_err(Failed::running)?;
    tokio::select! {
        made = make(&settings, &streams) => made,
        () = stopping.stop() => Err(Failed::running(anyhow::anyhow!("interrupted; the same command goes on"))),
    }
}

async fn make(settings: &nats::Settings, streams: &[stream::Settings]) -> Result<(), Failed> {
    let nats = Nats::connect(settings, "tagmill init").await.map_err(Failed::running)?;
    for settings in streams {
        let made = Box::pin(stream::init(&nats, settings)).await;
        let consumer = made.map_err(|error| Failed::Running(nats.with_context(error)))?;
        let subjects = &settings.subjects;
        let names = [subjects.jobs_stream(), subjects.results_stream(), subjects.dead_stream()];
        say(format_args!("streams {} and consumer {consumer} are there", names.join(", ")));
    }
    Ok(())
}

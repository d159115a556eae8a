//! `tagmill tag`: images of this machine or of a bucket, tagged here and now.

mod beside;
mod existing;
mod frequencies;
mod names;
mod output;
mod progress;
mod sidecar;
mod table;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::Failed;
use super::images::{Found, Sources};
use super::select::Selection;
use super::signals::Stopping;
use super::tagging::start;
use crate::cli::tag::{Sidecar, TagArgs};
use crate::failure::Failure;
use crate::pipeline::Pipeline;
use crate::pipeline::accept::Incoming;
use crate::settings;
use crate::source::local::{Done, Local};
use crate::store::Store;
use crate::store::suffix::Suffixes;
use output::Output;
use progress::Progress;

/// How often a log is told how far it is.
const MINUTE: Duration = Duration::from_mins(1);

/// How long what is told to stop at once may take.
const CLOSING: Duration = Duration::from_secs(2);

pub(super) async fn run(args: TagArgs) -> Result<(), Failed> {
    let settings = settings::Local::new(&args.tagging, args.caption.clone(), args.name.clone())?;
    let selection = Selection::new(&args.select);
    let sources = Sources::open(&args.sources, &args.tagging.stores, selection).map_err(Failed::settings)?;
    let is_kept = args.sidecar.is_some() || args.output.as_deref().is_some_and(output::is_kept);
    if let Some(wrong) = wrong(&args, &sources, is_kept) {
        return Err(Failed::settings(anyhow::anyhow!(wrong)));
    }
    let output = Output::open(&args, &settings.pipeline.publish.caption);
    let output = output.map_err(Failed::Settings)?;
    let stop = Stop::listen().map_err(Failed::running)?;
    for store in sources.stores() {
        store.probe().await.map_err(|failure| Failed::running(anyhow::anyhow!("{failure}")))?;
    }
    let catalog = settings.pipeline.pool.repository.catalog(&settings.pipeline.pool.aliases).await?;
    output.existing().results.compare(&catalog.choose(settings.model.as_deref())?.name);
    if let Some(missing) = sources.missing() {
        // Loading a model takes seconds.
        return say_missing(missing, output);
    }
    let (stores, model) = (sources.stores().to_vec(), settings.model.as_deref());
    let (to_accept, pipeline, model) = start(&settings.pipeline, stores, catalog, model).await?;
    settings.pipeline.publish.caption.check(&model.id.name, &model.labels);
    let selection = sources.selection().clone();
    let progress = tag(&settings, sources, output, (to_accept, pipeline), stop.clone()).await?;
    progress.end(stop.soon.is_cancelled().then_some(is_kept), selection.passed().summary())
}

/// What does not go together.
fn wrong(args: &TagArgs, sources: &Sources, is_kept: bool) -> Option<&'static str> {
    if args.sidecar.is_some() && !sources.stores().is_empty() {
        return Some("--sidecar writes beside files, and a bucket has none: use --output FILE for its images");
    }
    if args.overwrite && args.sidecar.is_none() && args.frequencies.is_none() {
        return Some(
            "--overwrite replaces sidecars and the file of --frequencies: say --sidecar KIND, or --frequencies FILE",
        );
    }
    let is_database = |file: &std::path::Path| file.extension().is_some_and(|end| end == "db" || end == "sqlite");
    if args.output.as_deref().is_some_and(is_database) {
        return Some(
            "--output writes lines of JSON, or a table (.csv), and no database: the README shows how to make one",
        );
    }
    let extension = args.sidecar_extension.as_ref().map(|extension| format!("x.{extension}"));
    if extension.is_some_and(|name| name.contains('/') || Suffixes::of_images().has(&name)) {
        return Some("--sidecar-extension is that of an image, or has a slash");
    }
    if args.append && args.sidecar == Some(Sidecar::Json) {
        return Some("--append adds to captions, not to JSON (--sidecar txt or caption)");
    }
    if args.skip_existing && !is_kept {
        return Some("--skip-existing needs to see what there is: say --output FILE, or --sidecar KIND");
    }
    None
}

/// The end of a run that has nothing to tag.
fn say_missing(missing: Vec<(String, Failure)>, mut output: Output) -> Result<(), Failed> {
    let mut progress = Progress::new();
    for (name, failure) in missing {
        output.failed(&name, &failure).map_err(Failed::running)?;
        progress.tagged(&name, Err(failure));
    }
    output.flush().map_err(Failed::running)?;
    progress.end(None, None)
}

/// Tags everything that is found, or as much as comes before the stop.
async fn tag(
    settings: &settings::Local,
    sources: Sources,
    mut output: Output,
    (to_accept, mut pipeline): (Sender<Incoming>, Pipeline),
    stop: Stop,
) -> Result<Progress, Failed> {
    let stores = sources.stores().to_vec();
    let pool = Arc::clone(pipeline.pool());
    let (done, mut dones) = mpsc::channel(settings.in_flight);
    let mut progress = Progress::new();
    if progress.is_shown() {
        tokio::spawn(progress.count(sources.uncounted().found(output.skip_existing())));
    }
    let local = Local::new(to_accept.clone(), done, stop.soon.clone());
    let (found, ended) = (sources.found(output.skip_and_claim()), stop.soon.clone());
    let (others, mut passed) = mpsc::channel(settings.in_flight);
    tokio::spawn(feed(local, found, others, Arc::new(Semaphore::new(settings.in_flight)), ended));
    // A sender is held meanwhile, so that the stages end after the images and not while the last is counted.
    let (mut running, mut open) = (true, true);
    let mut minutes = tokio::time::interval_at(tokio::time::Instant::now() + MINUTE, MINUTE);
    while running || open {
        tokio::select! {
            done = dones.recv(), if running => match done {
                Some(Done { image, result, .. }) => {
                    let written = output.write(&image, result).map_err(Failed::running)?;
                    progress.tagged(&image.name, written);
                }
                // All that was brought in is through.
                None => running = false,
            },
            other = passed.recv(), if open => match other {
                Some(Found::Skipped) => progress.skipped(output.skipped()),
                Some(Found::Broken { name, failure }) => {
                    output.failed(&name, &failure).map_err(Failed::running)?;
                    progress.tagged(&name, Err(failure));
                }
                Some(Found::Image(_)) => {}
                None => open = false,
            },
            () = stop.soon.cancelled(), if !progress.is_stopping() => {
                progress.stopping();
                stores.iter().for_each(Store::abandon);
            }
            () = stop.now.cancelled() => {
                // A process must not end under a running model.
                pool.stop();
                let _ = tokio::time::timeout(CLOSING / 2, async { while dones.recv().await.is_some() {} }).await;
                return Ok(progress);
            }
            _ = minutes.tick(), if !progress.is_shown() => progress.log(),
            broken = pipeline.broken() => return Err(Failed::running(broken)),
        }
    }
    drop(to_accept);
    pipeline.drained().await.map_err(Failed::running)?;
    output.flush().map_err(Failed::running)?;
    Ok(progress)
}

/// Brings in what is found, as there is room for it.
async fn feed(
    local: Arc<Local>,
    mut found: mpsc::Receiver<Found>,
    others: Sender<Found>,
    room: Arc<Semaphore>,
    stop: CancellationToken,
) {
    while let Some(Some(found)) = stop.run_until_cancelled(found.recv()).await {
        match found {
            Found::Image(image) => {
                let place = stop.run_until_cancelled(Arc::clone(&room).acquire_owned()).await;
                let Some(Ok(place)) = place else { return };
                local.tag(image, place).await;
            }
            other => {
                if others.send(other).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// What the signals ask for.
#[derive(Clone, Default)]
struct Stop {
    /// Begin no more images: the first SIGINT or SIGTERM.
    soon: CancellationToken,
    /// Leave everything: the second.
    now: CancellationToken,
}

impl Stop {
    fn listen() -> std::io::Result<Self> {
        let (mut stopping, stop) = (Stopping::listen()?, Self::default());
        let tokens = [stop.soon.clone(), stop.now.clone()];
        tokio::spawn(async move {
            for token in tokens {
                stopping.stop().await;
                token.cancel();
            }
            // As where the model is still being loaded.
            tokio::time::sleep(CLOSING).await;
            std::process::exit(1);
        });
        Ok(stop)
    }
}

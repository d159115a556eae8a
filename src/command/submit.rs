//! `tagmill submit`: publishes a job for every image it is given, and on request waits for the answers.
//!
//! ```text
//!  sources ──► jobs, one by one ──► publish ──► confirmed ──► checkpoint
//!  (in an order of their own)       1024 under way            (which jobs are confirmed: left out by later runs)
//!                                      └── results, dead letters ──► follow ──► show
//! ```

mod checkpoint;
mod follow;
mod make;
mod publish;
mod screen;
mod show;
mod source;

use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::select::Selection;
use super::signals::Stopping;
use super::{Failed, how_many};
use crate::cli::select::Pattern;
use crate::cli::submit::SubmitArgs;
use crate::nats::subjects::Subjects;
use crate::nats::{self, Nats};
use crate::settings;
use crate::store::suffix::Suffixes;
use crate::telemetry::say;
use checkpoint::{Checkpoint, Count, Run};
use follow::{Follower, Summary};
use make::Maker;
use publish::{Interrupted, Publisher};
use screen::Screen;
use show::{Existing, Show};
use source::{Item, Source};

pub(super) async fn run(args: SubmitArgs) -> Result<(), Failed> {
    let mut submit = Submit::prepare(&args)?;
    let settings = nats::Settings::try_from(args.nats)?;
    let stop = stop_on_signals().map_err(Failed::running)?;
    let nats = tokio::select! {
        nats = Nats::connect(&settings, "tagmill submit") => nats.map_err(Failed::running)?,
        () = stop.cancelled() => return Err(Failed::running(Interrupted)),
    };
    for list in submit.sources.iter().filter(|source| source.is_list()) {
        submit.screen.say(&format!("{} is taken as a list: a job for each of its lines", list.name()));
    }
    let jobs = source::jobs(submit.sources, submit.maker);
    let publishing = Publishing {
        publisher: Publisher::new(&nats, submit.subject.clone(), submit.names, submit.screen.clone(), stop.clone()),
        existing: submit.existing,
        jobs,
        limit: args.limit.unwrap_or(u64::MAX),
        checkpoint: &mut submit.checkpoint,
    };
    let done = match submit.show {
        None => publishing.run(&watch::channel(Count::default()).0).await,
        Some(show) => {
            let shown = publishing.checkpoint.shown().clone();
            let follower =
                Follower::start(&nats, &submit.subjects, &submit.subject, submit.screen.clone(), show, shown);
            let follower =
                stop.run_until_cancelled(Box::pin(follower)).await.unwrap_or_else(|| Err(Interrupted.into()));
            match follower {
                Ok((follower, shown)) => {
                    let ended = Box::pin(follow(publishing, follower, &stop)).await;
                    // The follower is gone, and with it what it had not written yet is written.
                    let noted = submit.checkpoint.note_shown(&shown.borrow());
                    ended.and(noted)
                }
                Err(error) => Err(nats.with_context(error)),
            }
        }
    };
    submit.screen.clear();
    submit.selection.passed().summary().into_iter().for_each(say);
    if done.is_ok() && submit.checkpoint.count().jobs == 0 {
        submit.nothing.into_iter().for_each(say);
    }
    done.map_err(|error| match error.downcast::<Interrupted>() {
        Ok(_) => interrupted(&submit.checkpoint),
        Err(error) => error,
    })
    .map_err(Failed::Running)
}

/// A run, with everything checked that can be without a connection.
struct Submit {
    subjects: Subjects,
    subject: String,
    sources: Vec<Source>,
    /// Of the sources.
    names: Vec<String>,
    /// What is said where there is no job, and not all names are taken.
    nothing: Option<String>,
    maker: Maker,
    selection: Selection,
    checkpoint: Checkpoint,
    existing: Existing,
    screen: Screen,
    show: Option<Show>,
}

impl Submit {
    fn prepare(args: &SubmitArgs) -> Result<Self, Failed> {
        let subjects = settings::subjects(&args.nats.prefix)?;
        let subject = match &args.subject {
            Some(subject) if subjects.is_of_jobs(subject) => subject.clone(),
            Some(subject) => return Err(settings::Invalid::JobSubject(subject.clone(), subjects.jobs()).into()),
            None => subjects.jobs(),
        };
        let selection = Selection::new(&args.select);
        let sources: Vec<_> = args
            .sources
            .iter()
            .map(|source| Source::open(source))
            .collect::<Result<_, _>>()
            .map_err(Failed::Settings)?;
        let names: Vec<_> = sources.iter().map(Source::name).collect();
        let looks_for_images = sources.iter().any(Source::has_many);
        let wanted = match &args.select.only {
            Some(Pattern(only)) => {
                Some(format!("names like `{}` are taken (--match), capitals and folders included", only.glob()))
            }
            None => looks_for_images.then(|| {
                format!("images are taken whose names end in {} (--match takes others)", Suffixes::of_images())
            }),
        };
        let nothing = wanted.map(|wanted| format!("there is nothing to submit in {}: {wanted}", shown(&names)));
        let run = Run {
            sources: names.clone(),
            only: args.select.only.as_ref().map(|only| only.0.glob().to_string()),
            exclude: args.select.exclude.iter().map(|pattern| pattern.0.glob().to_string()).collect(),
            no_recursive: args.select.no_recursive,
            model: args.model.clone(),
            meta: args.meta.as_ref().map(|meta| meta.0.clone()),
            subject: subject.clone(),
            follow: args.follow.then(|| format!("{:08x}", rand::random::<u32>())),
        };
        let checkpoint = Checkpoint::open(args.checkpoint.clone(), run).map_err(Failed::Settings)?;
        let mut existing = Existing::default();
        let noted = args.skip_existing.then_some(&mut existing);
        let show = args.follow.then(|| Show::new(args.output.as_deref(), args.json, noted)).transpose();
        let show = show.map_err(Failed::Settings)?;
        // Of a run that is gone on with, the name is the earlier one's.
        let subject = match &checkpoint.run().follow {
            Some(name) => format!("{subject}.submit.{name}"),
            None => subject,
        };
        let maker = Maker {
            subject: subject.clone(),
            only: args.select.only.clone(),
            selection: selection.clone(),
            model: args.model.clone(),
            meta: args.meta.clone(),
        };
        let screen = Screen::new(args.follow);
        Ok(Self { subjects, subject, sources, names, nothing, maker, selection, checkpoint, existing, screen, show })
    }
}

/// Jobs on their way into the queue.
struct Publishing<'a> {
    publisher: Publisher,
    jobs: mpsc::Receiver<anyhow::Result<Item>>,
    existing: Existing,
    limit: u64,
    checkpoint: &'a mut Checkpoint,
}

impl Publishing<'_> {
    /// Publishes them all, and says how many that were.
    async fn run(self, counted: &watch::Sender<Count>) -> anyhow::Result<()> {
        let Self { publisher, jobs, existing, limit, checkpoint } = self;
        let (began, before) = (Instant::now(), checkpoint.count());
        counted.send_replace(before);
        let ended = publisher.run(jobs, &existing, limit, checkpoint, counted).await;
        publisher.said(before, checkpoint.count(), began.elapsed());
        ended
    }
}

/// Publishes, and meanwhile reads the answers, until every job that was published is answered.
async fn follow(publishing: Publishing<'_>, follower: Follower, stop: &CancellationToken) -> anyhow::Result<()> {
    let began = Instant::now();
    let screen = publishing.publisher.screen().clone();
    let (counted, published) = watch::channel(Count::default());
    let (over, ended) = (CancellationToken::new(), CancellationToken::new());
    let publish = async {
        let result = publishing.run(&counted).await;
        if let Err(error) = &result {
            if error.is::<Interrupted>() || counted.borrow().published == 0 {
                over.cancel();
            } else {
                screen.say(&format!("{error:#}; what was published before is waited for"));
            }
        }
        ended.cancel();
        drop(counted);
        result
    };
    let follow = async {
        let interrupted = async {
            // What is being published is seen to its end first.
            ended.cancelled().await;
            stop.cancelled().await;
        };
        tokio::select! {
            summary = follower.run(published) => summary.map(Some).inspect_err(|_| stop.cancel()),
            () = over.cancelled() => Ok(None),
            () = interrupted => Ok(None),
        }
    };
    let (published, answered) = tokio::join!(publish, follow);
    let Some(Summary { tagged, dead, missing }) = answered? else {
        return published.and(Err(Interrupted.into()));
    };
    screen.clear();
    let unanswered = if missing > 0 { format!(", {missing} without an answer") } else { String::new() };
    say(format_args!("{tagged} tagged, {dead} failed{unanswered} in {:.1} s", began.elapsed().as_secs_f64()));
    published?;
    match (dead, missing) {
        (0, 0) => Ok(()),
        (dead, 0) => Err(anyhow::anyhow!("{} failed; see `tagmill dead list`", how_many(dead, "job"))),
        (_, missing) => Err(anyhow::anyhow!(
            "{} left the queue without an answer, or with one that its stream no longer has",
            how_many(missing, "job")
        )),
    }
}

/// The first few of the sources, and how many more there are.
fn shown(names: &[String]) -> String {
    let (first, rest) = names.split_at(names.len().min(3));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    first.join(", ") + &more
}

fn interrupted(checkpoint: &Checkpoint) -> anyhow::Error {
    if checkpoint.count().jobs == 0 {
        return anyhow::anyhow!("interrupted; no job was confirmed");
    }
    let then = if checkpoint.is_kept() {
        "the same command publishes the others"
    } else {
        "the same command would publish it again (with --checkpoint FILE, a run can be gone on with)"
    };
    anyhow::anyhow!("interrupted; what is published stays in the queue, and {then}")
}

/// Cancelled by the first SIGINT or SIGTERM.
fn stop_on_signals() -> std::io::Result<CancellationToken> {
    let (mut stopping, stop) = (Stopping::listen()?, CancellationToken::new());
    let told = stop.clone();
    tokio::spawn(async move {
        stopping.stop().await;
        told.cancel();
    });
    Ok(stop)
}

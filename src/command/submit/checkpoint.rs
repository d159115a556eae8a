//! How far a run has come, in a file: what counts is confirmed without a gap. A run that was interrupted goes on from there.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::source::Position;
use crate::atomic;

/// How often it is written, at most: a run that is killed has published this much more than the file says.
const EVERY: Duration = Duration::from_secs(1);

/// How many jobs there were.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Count {
    /// Confirmed.
    pub(super) jobs: u64,
    /// Of these, the ones the stream had not seen before.
    pub(super) published: u64,
}

/// What makes the jobs of a run: an earlier run of anything else can't be gone on with.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Run {
    pub(super) sources: Vec<String>,
    #[serde(rename = "match")]
    pub(super) only: Option<String>,
    pub(super) model: Option<String>,
    pub(super) meta: Option<Box<RawValue>>,
    /// Where jobs are published.
    pub(super) subject: String,
    /// What the subject of a run that is followed ends with.
    pub(super) follow: Option<String>,
}

/// The file.
#[derive(Debug, Deserialize, Serialize)]
struct Content {
    tagmill_submit: u32,
    run: Run,
    count: Count,
    after: Option<Position>,
}

const VERSION: u32 = 1;

/// How far this run has come, and the file that says so, if there is one.
#[derive(Debug)]
pub(super) struct Checkpoint {
    file: Option<PathBuf>,
    content: Content,
    written: Instant,
}

impl Checkpoint {
    /// Begins, or goes on where the file says that an earlier run ended.
    ///
    /// # Errors
    /// Where it can't be read or written, or is of another run.
    pub(super) fn open(file: Option<PathBuf>, run: Run) -> anyhow::Result<Self> {
        let earlier = match &file {
            Some(file) => read(file, &run)?,
            None => None,
        };
        let content = earlier.unwrap_or(Content { tagmill_submit: VERSION, run, count: Count::default(), after: None });
        let mut checkpoint = Self { file, content, written: Instant::now() };
        checkpoint.write()?;
        Ok(checkpoint)
    }

    pub(super) const fn run(&self) -> &Run {
        &self.content.run
    }

    pub(super) const fn count(&self) -> Count {
        self.content.count
    }

    pub(super) const fn after(&self) -> Option<&Position> {
        self.content.after.as_ref()
    }

    /// Whether there is a file.
    pub(super) const fn is_kept(&self) -> bool {
        self.file.is_some()
    }

    /// A job, and all before it, are confirmed.
    ///
    /// # Errors
    /// Where the file can't be written.
    pub(super) fn confirmed(&mut self, at: Position, duplicate: bool) -> anyhow::Result<()> {
        self.content.count.jobs += 1;
        self.content.count.published += u64::from(!duplicate);
        self.content.after = Some(at);
        if self.written.elapsed() < EVERY { Ok(()) } else { self.write() }
    }

    /// Writes it now.
    ///
    /// # Errors
    /// Where it can't be written.
    pub(super) fn write(&mut self) -> anyhow::Result<()> {
        if let Some(file) = &self.file {
            let content = serde_json::to_string(&self.content)?;
            atomic::write_synced(file, content.as_bytes())
                .with_context(|| format!("the checkpoint {} can't be written (--checkpoint)", file.display()))?;
        }
        self.written = Instant::now();
        Ok(())
    }
}

fn read(file: &Path, run: &Run) -> anyhow::Result<Option<Content>> {
    let text = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("the checkpoint {} can't be read (--checkpoint)", file.display()))?,
    };
    let content: Content = serde_json::from_str(&text)
        .with_context(|| format!("{} is no checkpoint of tagmill submit (--checkpoint)", file.display()))?;
    if content.tagmill_submit != VERSION {
        bail!("the checkpoint {} is of another version of tagmill", file.display());
    }
    if let Some((what, theirs, ours)) = content.run.difference(run) {
        bail!(
            "the checkpoint {} is of another run: its {what} was {theirs}, not {ours}; repeat that run, or name another file",
            file.display()
        );
    }
    Ok(Some(content))
}

impl Run {
    /// What differs from another run, in both.
    fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let shown = |run: &Self| {
            let or_none = |value: Option<&str>| value.unwrap_or("none").to_owned();
            [
                ("source", run.sources.join(" ")),
                ("--match", or_none(run.only.as_deref())),
                ("--model", or_none(run.model.as_deref())),
                ("--meta", or_none(run.meta.as_deref().map(RawValue::get))),
                ("subject", run.subject.clone()),
                ("--follow", if run.follow.is_some() { "given" } else { "not given" }.to_owned()),
            ]
        };
        let pairs = shown(self).into_iter().zip(shown(other));
        let mut different = pairs.filter(|((_, one), (_, other))| one != other);
        different.next().map(|((what, one), (_, other))| (what, one, other))
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::Place;
    use super::*;

    fn run(source: &str) -> Run {
        Run {
            sources: vec![source.to_owned()],
            only: None,
            model: None,
            meta: Some(serde_json::from_str(r#"{"a": 1.50}"#).expect("JSON")),
            subject: "tagmill.jobs".to_owned(),
            follow: None,
        }
    }

    fn at(number: u64) -> Position {
        Position { source: 0, last: Place::Line { number, sha256: "x".to_owned() } }
    }

    #[test]
    fn a_later_run_of_the_same_goes_on_and_any_other_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("far");
        let mut first = Checkpoint::open(Some(file.clone()), run("/a")).expect("a new one");
        for (number, duplicate) in [(3, false), (4, true)] {
            first.confirmed(at(number), duplicate).expect("it is noted");
        }
        first.write().expect("it is written");
        let second = Checkpoint::open(Some(file.clone()), run("/a")).expect("the same");
        assert_eq!((second.count().jobs, second.count().published), (2, 1));
        assert!(matches!(second.after(), Some(Position { source: 0, last: Place::Line { number: 4, .. } })));
        let refused = Checkpoint::open(Some(file.clone()), run("/b")).expect_err("another").to_string();
        assert!(refused.contains("its source was /a, not /b"), "{refused}");
        let refused = Checkpoint::open(Some(file.clone()), Run { meta: None, ..run("/a") }).expect_err("another");
        assert!(refused.to_string().contains(r#"--meta was {"a": 1.50}, not none"#), "{refused}");
        std::fs::write(&file, "{}").expect("a file");
        let refused = Checkpoint::open(Some(file), run("/a")).expect_err("no checkpoint").to_string();
        assert!(refused.contains("is no checkpoint"), "{refused}");
    }
}

//! Answers as people or programs read them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::screen::Screen;
use crate::command::lines;
use crate::job::Job;
use crate::terminal::{self, Lines};

/// How wide the column of images is.
const COLUMN: usize = 28;

/// Kind of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Result,
    Dead,
}

/// Where answers go.
pub(super) enum Show {
    Table,
    Json,
    File {
        path: String,
        lines: BufWriter<File>,
        /// Hashes of the lines there were.
        there: HashSet<u64>,
        hash: RandomState,
    },
}

/// The jobs that have a result in a file of answers, by the hashes of their ids.
#[derive(Default)]
pub(super) struct Existing {
    ids: HashSet<u64>,
    hash: RandomState,
}

/// Marks a line as a result.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    error: Option<IgnoredAny>,
}

impl Existing {
    fn note(&mut self, line: &[u8]) {
        if let Ok(Line { id, error: None }) = serde_json::from_slice(line) {
            self.ids.insert(self.hash.hash_one(&*id));
        }
    }

    /// Returns `true` if a job has one. Without an id of its own, none can be found.
    pub(super) fn has(&self, job: &[u8]) -> bool {
        !self.ids.is_empty() && Job::id_in(job).is_some_and(|id| self.ids.contains(&self.hash.hash_one(&*id)))
    }
}

/// What is shown of a result.
#[derive(Deserialize)]
struct Tagged<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    tags: Vec<Tag<'a>>,
}

#[derive(Deserialize)]
struct Tag<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    score: f64,
}

/// What is shown of a dead letter.
#[derive(Deserialize)]
struct Dead {
    id: String,
    error: Error,
}

#[derive(Deserialize)]
struct Error {
    code: String,
    message: String,
}

impl Show {
    /// A file is added to: of a run that was killed answers come again, and those that it has are left out. Those
    /// that it has are noted in `existing`, where that is wanted.
    ///
    /// # Errors
    /// Where the file can't be written.
    pub(super) fn new(output: Option<&Path>, json: bool, mut existing: Option<&mut Existing>) -> anyhow::Result<Self> {
        let Some(path) = output else { return Ok(if json { Self::Json } else { Self::Table }) };
        if path.extension().is_some_and(|end| ["csv", "db", "sqlite"].iter().any(|other| end == *other)) {
            bail!("`{}`: answers are written as lines of JSON, such as answers.jsonl (--output)", path.display());
        }
        let (hash, mut there) = (RandomState::new(), HashSet::new());
        let file = lines::open(path, |line| {
            there.insert(hash.hash_one(line.trim_ascii_end()));
            if let Some(existing) = &mut existing {
                existing.note(line);
            }
            Ok(())
        });
        let file = file.with_context(|| format!("`{}` can't be written (--output)", path.display()))?;
        Ok(Self::File { path: path.display().to_string(), lines: BufWriter::new(file), there, hash })
    }

    /// Returns `true` unless this is a file with fewer answers than these.
    pub(super) fn has(&self, answers: u64) -> bool {
        match self {
            Self::Table | Self::Json => true,
            Self::File { there, .. } => there.len() as u64 >= answers,
        }
    }

    /// What comes before the first answer.
    pub(super) fn begin(&mut self, screen: &Screen) -> anyhow::Result<()> {
        match self {
            Self::Table => print(screen, || Lines::open().line(format_args!("{:COLUMN$}  TAGS", "IMAGE"))),
            Self::Json | Self::File { .. } => Ok(()),
        }
    }

    pub(super) fn answer(&mut self, screen: &Screen, kind: Kind, payload: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::Table => print(screen, || Lines::open().line(row(kind, payload))),
            Self::Json => print(screen, || terminal::exact().write_all(&[&*one_line(payload), b"\n"].concat())),
            Self::File { there, hash, .. } if there.contains(&hash.hash_one(one_line(payload).trim_ascii_end())) => {
                Ok(())
            }
            Self::File { path, lines, .. } => {
                let written = lines.write_all(&one_line(payload)).and_then(|()| lines.write_all(b"\n"));
                written.with_context(|| format!("`{path}` can't be written (--output)"))
            }
        }
    }

    /// No more answers come.
    pub(super) fn end(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Table | Self::Json => Ok(()),
            Self::File { path, lines, .. } => {
                lines.flush().with_context(|| format!("`{path}` can't be written (--output)"))
            }
        }
    }
}

fn print(screen: &Screen, write: impl FnOnce() -> io::Result<()>) -> anyhow::Result<()> {
    screen.aside(write).context("standard output can't be written")
}

/// A dead letter holds its job as it was written; between the tokens of JSON, the end of a line is like any space.
fn one_line(payload: &[u8]) -> Cow<'_, [u8]> {
    let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
    if payload.iter().any(is_end) {
        Cow::Owned(payload.iter().map(|byte| if is_end(byte) { b' ' } else { *byte }).collect())
    } else {
        Cow::Borrowed(payload)
    }
}

fn row(kind: Kind, payload: &[u8]) -> String {
    let row = match kind {
        Kind::Result => serde_json::from_slice(payload).map(|Tagged { id, tags }| {
            let tags: Vec<_> = tags.iter().map(|tag| format!("{} {:.2}", tag.name, tag.score)).collect();
            let tags = if tags.is_empty() { "(none over the thresholds)".to_owned() } else { tags.join("  ") };
            format!("{id:COLUMN$}  {tags}")
        }),
        Kind::Dead => serde_json::from_slice(payload)
            .map(|Dead { id, error }| format!("{id:COLUMN$}  FAILED {}: {}", error.code, error.message)),
    };
    row.unwrap_or_else(|error| format!("{:COLUMN$}  unreadable answer: {error}", "?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_known_by_the_id_of_its_result() {
        let mut existing = Existing::default();
        assert!(!existing.has(br#"{"id":"a","image":"a"}"#));
        existing.note(br#"{"id":"a","tags":[]}"#);
        existing.note(br#"{"id":"b","error":{"code":"bad_job"}}"#);
        existing.note(br#"{"id":"7","tags":[]}"#);
        assert!(existing.has(br#"{"id":"a","image":"x"}"#) && existing.has(br#"{"image":"x","id":7}"#));
        assert!(!existing.has(br#"{"id":"b","image":"b"}"#) && !existing.has(br#"{"image":"a"}"#));
    }

    #[test]
    fn a_job_of_many_lines_is_answered_on_one() {
        let letter = b"{\"job\":{\r\n  \"image\": \"a\\nb\"\n}}";
        assert_eq!(&*one_line(letter), b"{\"job\":{    \"image\": \"a\\nb\" }}");
    }
}

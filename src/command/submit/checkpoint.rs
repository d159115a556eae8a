//! Record of the jobs that a run has published, in a file: one that was interrupted, and any later one of the same command, publishes the
//! others. The file has a line that names the run, then one for each confirmed job, and is only ever added to.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// How often it is written, at most: a run that is killed has published this much more than the file says.
const EVERY: Duration = Duration::from_secs(1);

/// Text after the hash of a job that the stream had already.
const DUPLICATE: u8 = b'=';

/// Start of a line of answers.
const ANSWERS: u8 = b'@';

/// Answers of a run that were shown, so that a later one shows the others alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Shown {
    /// Sequences of the last result and the last dead letter.
    pub(super) last: (u64, u64),
    /// Number of each.
    pub(super) count: (u64, u64),
    /// Identity of their streams: one that was made anew counts from 1.
    pub(super) streams: String,
}

/// How many jobs there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Confirmed.
    pub(super) jobs: u64,
    /// Of these, the ones the stream had not seen before.
    pub(super) published: u64,
}

/// What makes the jobs of a run: an earlier run of anything else can't be gone on with.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Run {
    pub(super) sources: Vec<String>,
    #[serde(rename = "match")]
    pub(super) only: Option<String>,
    #[serde(default)]
    pub(super) exclude: Vec<String>,
    #[serde(default)]
    pub(super) no_recursive: bool,
    pub(super) model: Option<String>,
    pub(super) meta: Option<Box<RawValue>>,
    /// Where jobs are published.
    pub(super) subject: String,
    /// What the subject of a run that is followed ends with.
    pub(super) follow: Option<String>,
}

/// The first line.
#[derive(Debug, Deserialize, Serialize)]
struct Header {
    tagmill_submit: u32,
    run: Option<Run>,
}

const VERSION: u32 = 2;

/// The jobs that are published, and the file that says so, if there is one.
#[derive(Debug)]
pub(super) struct Checkpoint {
    file: Option<(PathBuf, File)>,
    run: Run,
    count: Count,
    /// Hashes of the jobs of earlier runs, in order: eight bytes for each.
    done: Vec<u64>,
    shown: Shown,
    /// Lines that are not in the file yet.
    unwritten: Vec<u8>,
    written: Instant,
}

impl Checkpoint {
    /// Begins, or goes on with what the file says that earlier runs have published.
    ///
    /// # Errors
    /// Where it can't be read or written, or is of another run.
    pub(super) fn open(file: Option<PathBuf>, run: Run) -> anyhow::Result<Self> {
        let (done, unwritten, written) = (Vec::new(), Vec::new(), Instant::now());
        let (count, shown) = (Count::default(), Shown::default());
        let mut checkpoint = Self { file: None, run, count, done, shown, unwritten, written };
        if let Some(path) = file {
            let file = checkpoint.read(&path)?;
            checkpoint.file = Some((path, file));
        }
        Ok(checkpoint)
    }

    pub(super) const fn run(&self) -> &Run {
        &self.run
    }

    /// Of this run and earlier ones.
    pub(super) const fn count(&self) -> Count {
        self.count
    }

    /// Answers that earlier runs have shown.
    pub(super) const fn shown(&self) -> &Shown {
        &self.shown
    }

    /// Notes which answers were shown.
    ///
    /// # Errors
    /// If the file can't be written.
    pub(super) fn note_shown(&mut self, shown: &Shown) -> anyhow::Result<()> {
        if self.file.is_none() || self.shown == *shown {
            return Ok(());
        }
        self.unwritten.push(ANSWERS);
        self.unwritten.extend(serde_json::to_vec(shown)?);
        self.unwritten.push(b'\n');
        self.write()
    }

    /// Whether there is a file.
    pub(super) const fn is_kept(&self) -> bool {
        self.file.is_some()
    }

    /// Returns `true` if an earlier run has published this job.
    pub(super) fn has(&self, job: u64) -> bool {
        self.done.binary_search(&job).is_ok()
    }

    /// A job is confirmed.
    ///
    /// # Errors
    /// Where the file can't be written.
    pub(super) fn confirmed(&mut self, job: u64, duplicate: bool) -> anyhow::Result<()> {
        self.count.jobs += 1;
        self.count.published += u64::from(!duplicate);
        if self.file.is_none() {
            return Ok(());
        }
        self.unwritten.extend(hex::encode(job.to_be_bytes()).bytes());
        self.unwritten.extend(duplicate.then_some(DUPLICATE));
        self.unwritten.push(b'\n');
        if self.written.elapsed() < EVERY { Ok(()) } else { self.write() }
    }

    /// Writes it now.
    ///
    /// # Errors
    /// Where it can't be written.
    pub(super) fn write(&mut self) -> anyhow::Result<()> {
        if let Some((path, file)) = &mut self.file {
            let written = file.write_all(&self.unwritten).and_then(|()| file.sync_data());
            written.with_context(|| unwritable(path))?;
        }
        self.unwritten.clear();
        self.written = Instant::now();
        Ok(())
    }

    /// Reads a file of the same run, or begins a new one, and opens it for more.
    fn read(&mut self, path: &Path) -> anyhow::Result<File> {
        let opened = OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut file = opened.with_context(|| unwritable(path))?;
        // A file system without locks goes without.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            bail!("another run writes to the checkpoint {} (--checkpoint)", path.display());
        }
        let no_checkpoint = || format!("{} is no checkpoint of tagmill submit (--checkpoint)", path.display());
        let (mut lines, mut line) = (BufReader::new(&file), Vec::new());
        let mut whole = lines.read_until(b'\n', &mut line).with_context(|| unwritable(path))? as u64;
        if whole == 0 {
            drop(lines);
            let header = Header { tagmill_submit: VERSION, run: Some(self.run.clone()) };
            let header = serde_json::to_string(&header)? + "\n";
            let written = file.write_all(header.as_bytes()).and_then(|()| file.sync_data());
            return written.map(|()| file).with_context(|| unwritable(path));
        }
        let Header { tagmill_submit, run } = serde_json::from_slice(&line).with_context(no_checkpoint)?;
        let run = run.filter(|_| tagmill_submit == VERSION);
        let run = run.with_context(|| format!("the checkpoint {} is of another version of tagmill", path.display()))?;
        if let Some((what, theirs, ours)) = run.difference(&self.run) {
            bail!(
                "the checkpoint {} is of another run: its {what} was {theirs}, not {ours}; repeat that run, or name another file",
                path.display()
            );
        }
        if !line.ends_with(b"\n") {
            bail!(no_checkpoint());
        }
        self.run = run;
        loop {
            line.clear();
            let read = lines.read_until(b'\n', &mut line).with_context(|| unwritable(path))?;
            // One that was never finished goes; a machine that lost its power may have left zeros.
            let Some(text) = line.strip_suffix(b"\n") else { break };
            if let Some(shown) = text.strip_prefix(&[ANSWERS]) {
                self.shown = serde_json::from_slice(shown).with_context(no_checkpoint)?;
                whole += read as u64;
                continue;
            }
            let (job, duplicate) = text.strip_suffix(&[DUPLICATE]).map_or((text, false), |job| (job, true));
            let job = std::str::from_utf8(job).ok().filter(|job| job.len() == 16);
            let job = job.and_then(|job| u64::from_str_radix(job, 16).ok()).with_context(no_checkpoint)?;
            self.done.push(job);
            self.count.jobs += 1;
            self.count.published += u64::from(!duplicate);
            whole += read as u64;
        }
        drop(lines);
        self.done.sort_unstable();
        file.set_len(whole).with_context(|| unwritable(path))?;
        Ok(file)
    }
}

fn unwritable(path: &Path) -> String {
    format!("the checkpoint {} can't be written (--checkpoint)", path.display())
}

impl Run {
    /// What differs from another run, in both.
    fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let shown = |run: &Self| {
            let or_none = |value: Option<&str>| value.unwrap_or("none").to_owned();
            let given = |flag: bool| if flag { "given" } else { "not given" }.to_owned();
            [
                ("source", run.sources.join(" ")),
                ("--match", or_none(run.only.as_deref())),
                ("--exclude", or_none(Some(run.exclude.join(" ")).filter(|all| !all.is_empty()).as_deref())),
                ("--no-recursive", given(run.no_recursive)),
                ("--model", or_none(run.model.as_deref())),
                ("--meta", or_none(run.meta.as_deref().map(RawValue::get))),
                ("subject", run.subject.clone()),
                ("--follow", given(run.follow.is_some())),
            ]
        };
        let pairs = shown(self).into_iter().zip(shown(other));
        let mut different = pairs.filter(|((_, one), (_, other))| one != other);
        different.next().map(|((what, one), (_, other))| (what, one, other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(source: &str) -> Run {
        Run {
            sources: vec![source.to_owned()],
            only: None,
            exclude: Vec::new(),
            no_recursive: false,
            model: None,
            meta: Some(serde_json::from_str(r#"{"a": 1.50}"#).expect("JSON")),
            subject: "tagmill.jobs".to_owned(),
            follow: None,
        }
    }

    #[test]
    fn a_later_run_of_the_same_goes_on_and_any_other_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("far");
        let mut first = Checkpoint::open(Some(file.clone()), run("/a")).expect("a new one");
        for (job, duplicate) in [(4, false), (3, true)] {
            first.confirmed(job, duplicate).expect("it is noted");
        }
        first.write().expect("it is written");
        let busy = Checkpoint::open(Some(file.clone()), run("/a")).expect_err("it is open").to_string();
        assert!(busy.contains("another run writes"), "{busy}");
        drop(first);
        // A line that was cut off.
        let mut text = std::fs::read(&file).expect("it is there");
        text.extend(b"00000000000");
        std::fs::write(&file, text).expect("written");
        let mut second = Checkpoint::open(Some(file.clone()), run("/a")).expect("the same");
        assert_eq!(second.count(), Count { jobs: 2, published: 1 });
        assert!(second.has(3) && second.has(4) && !second.has(5));
        second.confirmed(5, false).expect("it is noted");
        second.write().expect("it is written");
        let shown = Shown { last: (7, 2), count: (2, 1), streams: "1-2".to_owned() };
        second.note_shown(&shown).expect("it is noted");
        drop(second);
        let third = Checkpoint::open(Some(file.clone()), run("/a")).expect("the same");
        assert_eq!((third.count().jobs, third.has(5), third.shown()), (3, true, &shown));
        drop(third);
        let refused = Checkpoint::open(Some(file.clone()), run("/b")).expect_err("another").to_string();
        assert!(refused.contains("its source was /a, not /b"), "{refused}");
        let refused = Checkpoint::open(Some(file.clone()), Run { meta: None, ..run("/a") }).expect_err("another");
        assert!(refused.to_string().contains(r#"--meta was {"a": 1.50}, not none"#), "{refused}");
        let excluded = Run { exclude: vec!["*.gif".to_owned()], ..run("/a") };
        let refused = Checkpoint::open(Some(file.clone()), excluded).expect_err("another").to_string();
        assert!(refused.contains("its --exclude was none, not *.gif"), "{refused}");
        for (text, said) in
            [("{}", "is no checkpoint"), ("mine\n", "is no checkpoint"), (r#"{"tagmill_submit":1}"#, "another version")]
        {
            std::fs::write(&file, text).expect("a file");
            let refused = Checkpoint::open(Some(file.clone()), run("/a")).expect_err("no checkpoint").to_string();
            assert!(refused.contains(said), "{refused}");
            assert_eq!(std::fs::read_to_string(&file).expect("a file"), text, "nothing of it is lost");
        }
    }
}

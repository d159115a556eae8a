//! `tagmill dead`: lists dead letters, sends their jobs back into the queue, or drops them.

mod letters;

use std::collections::HashSet;
use std::io::{BufRead, IsTerminal, Write, stdin};

use anyhow::bail;
use async_nats::jetstream::{self, message::PublishMessage};
use async_nats::{HeaderMap, HeaderValue, header::NATS_MESSAGE_ID};

use super::{Failed, how_many, said};
use crate::cli::dead::{DeadChangeArgs, DeadCommand, DeadFilter};
use crate::cli::queue::NatsArgs;
use crate::nats::headers::{ID_HEADER, RETRY_HEADER};
use crate::nats::subjects::Subjects;
use crate::nats::{self, Nats};
use crate::settings;
use crate::telemetry::{ask, say};
use crate::terminal::{self, Lines};
use crate::text::plain;
use letters::{Letter, Letters};

pub(super) async fn run(command: DeadCommand) -> Result<(), Failed> {
    match command {
        DeadCommand::List(args) => {
            let letters = open(args.nats, &args.filter, args.all).await?;
            list(letters, args.json).await.map_err(Failed::Running)
        }
        DeadCommand::Retry(args) => change(*args, Change::Retry).await,
        DeadCommand::Drop(args) => change(*args, Change::Drop).await,
    }
}

async fn open(nats: NatsArgs, filter: &DeadFilter, closed: bool) -> Result<Letters, Failed> {
    let subjects = settings::subjects(&nats.prefix)?;
    if let Some(subject) = filter.subject.as_ref().filter(|subject| !selects_jobs(&subjects, subject)) {
        return Err(settings::Invalid::JobSubject(subject.clone(), subjects.jobs()).into());
    }
    let settings = nats::Settings::try_from(nats)?;
    let nats = Nats::connect(&settings, "tagmill dead").await.map_err(Failed::running)?;
    let jetstream = jetstream::new(nats.client.clone());
    Letters::open(jetstream, &subjects, filter, closed).await.map_err(|error| Failed::Running(nats.with_context(error)))
}

/// Whether dead letters can have this subject, or one that it lets through: that of jobs, one below it, or that of requests.
fn selects_jobs(subjects: &Subjects, subject: &str) -> bool {
    let below = subject.strip_prefix(&subjects.jobs());
    let is_of_jobs = |below: &str| below.is_empty() || below.strip_prefix('.').is_some_and(is_pattern);
    subject == subjects.requests() || below.is_some_and(is_of_jobs)
}

/// Whether this is a subject as NATS has them, with or without wildcards: others than us name them, too.
fn is_pattern(subject: &str) -> bool {
    let mut parts = subject.split('.').peekable();
    while let Some(part) = parts.next() {
        let fine = match part {
            "*" => true,
            ">" => parts.peek().is_none(),
            _ => !part.is_empty() && !part.contains(|letter: char| letter.is_whitespace() || "*>".contains(letter)),
        };
        if !fine {
            return false;
        }
    }
    true
}

/// What is counted.
const LETTER: &str = "dead letter";

async fn list(mut letters: Letters, json: bool) -> anyhow::Result<()> {
    let head = || format!("{:>8}  {:24}  {:19}  {:24}  {:24}  MESSAGE", "SEQUENCE", "AT", "CODE", "ID", "IMAGE");
    if !json {
        Lines::open().line(head())?;
    }
    let mut count = 0;
    while let Some(letter) = letters.next().await? {
        count += 1;
        if json {
            writeln!(terminal::exact(), "{}", serde_json::to_string(&letter)?)?;
        } else {
            let (Letter { sequence, at, error, id, .. }, image) = (&letter, letter.image());
            let [at, code, id, image, message] = [at.as_str(), &error.code, id, &image, &error.message].map(plain);
            let line = format_args!("{sequence:>8}  {at:24}  {code:19}  {id:24}  {image:24}  {message}");
            Lines::open().line(line)?;
        }
    }
    if !json {
        say(how_many(count, LETTER));
    }
    Ok(())
}

/// What is done to selected letters.
#[derive(Clone, Copy)]
enum Change {
    Retry,
    Drop,
}

impl Change {
    const fn verb(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Drop => "drop",
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::Retry => "retried",
            Self::Drop => "dropped",
        }
    }
}

async fn change(args: DeadChangeArgs, change: Change) -> Result<(), Failed> {
    if !args.yes && !stdin().is_terminal() {
        let verb = change.verb();
        return Err(Failed::settings(anyhow::anyhow!("there is no terminal to ask on; say --yes to {verb} unasked")));
    }
    // One that is named is meant, and one that was retried is not retried with all the others.
    let closed = matches!(change, Change::Drop) || !args.all;
    let mut letters = open(args.nats, &args.filter, closed).await?;
    let mut chosen = Vec::new();
    while let Some(Letter { sequence, id, .. }) = letters.next().await.map_err(Failed::Running)? {
        if args.all || args.which.iter().any(|name| *name == id || *name == sequence.to_string()) {
            chosen.push((sequence, id));
        }
    }
    if !args.all {
        chosen = named(&args.which, chosen).map_err(|missing| {
            Failed::running(anyhow::anyhow!("no dead letter with the id or sequence {}", missing.join(", ")))
        })?;
    }
    if !chosen.is_empty() && !args.yes {
        confirm(&format!("{} {}?", change.verb(), how_many(chosen.len(), LETTER)))?;
    }
    let mut done = 0;
    for (sequence, id) in &chosen {
        let ended = match change {
            Change::Retry => retry(&letters, *sequence).await,
            Change::Drop => Ok(()),
        };
        let ended = match ended {
            Ok(()) => letters.delete(*sequence).await,
            failed => failed,
        };
        match ended {
            Ok(()) => done += 1,
            Err(error) => say(format_args!("{sequence} ({id}) stays: {}", said(&error))),
        }
    }
    say(format_args!("{} {done} of {}", change.done(), how_many(chosen.len(), LETTER)));
    let stay = chosen.len() - done;
    if stay > 0 {
        return Err(Failed::running(anyhow::anyhow!("{stay} of them stayed")));
    }
    Ok(())
}

/// Of letters, by sequence and id, those that are named. A name is an id, and where no letter has that id a sequence: jobs
/// may well be called by numbers.
///
/// # Errors
/// The names of no letter.
fn named(which: &[String], letters: Vec<(u64, String)>) -> Result<Vec<(u64, String)>, Vec<String>> {
    let ids: HashSet<_> = letters.iter().map(|(_, id)| id.clone()).collect();
    let mut missing = which.to_vec();
    let chosen = letters.into_iter().filter(|(sequence, id)| {
        let sequence = sequence.to_string();
        let is_meant = |name: &String| name == id || (*name == sequence && !ids.contains(name));
        missing.retain(|name| !is_meant(name));
        which.iter().any(is_meant)
    });
    let chosen = chosen.collect();
    if missing.is_empty() { Ok(chosen) } else { Err(missing) }
}

/// Publishes a letter's job where it came from; sees it stored, so that the letter can go.
async fn retry(letters: &Letters, sequence: u64) -> anyhow::Result<()> {
    let (letter, carried) = letters.get(sequence).await?;
    let payload = letter.original_job()?;
    let mut headers = HeaderMap::new();
    for (name, values) in carried.iter().filter(|(name, _)| **name != NATS_MESSAGE_ID) {
        for value in values {
            headers.append(name.clone(), value.clone());
        }
    }
    // An id that no header can have came with the job's own JSON, and still does.
    if let Ok(id) = letter.id.parse::<HeaderValue>() {
        headers.insert(ID_HEADER, id);
    }
    headers.insert(RETRY_HEADER, letters.message_id(sequence).as_str());
    // Of the letter, not the job, so that the stream takes it as new; and the same again should this run be repeated.
    headers.insert(NATS_MESSAGE_ID, letters.message_id(sequence).as_str());
    let message = PublishMessage::build().headers(headers).payload(payload);
    // No stream keeps requests: where nobody waited for the answer, the queue is as good a way to it.
    let requests = letter.subject == letters.subjects.requests();
    let subject = if requests { letters.subjects.jobs() } else { letter.subject };
    // Whoever may publish letters must not have the operator publish elsewhere.
    if !letters.subjects.is_answerable(&subject) {
        bail!("`{subject}` is no subject of jobs below {}; publish the job anew if it is one", letters.subjects.jobs());
    }
    letters.jetstream.send_publish(subject, message).await?.await?;
    Ok(())
}

fn confirm(question: &str) -> Result<(), Failed> {
    let mut answer = String::new();
    ask(question);
    stdin().lock().read_line(&mut answer).map_err(Failed::running)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Failed::running(anyhow::anyhow!("nothing was changed")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequences(which: &[&str]) -> Result<Vec<u64>, Vec<String>> {
        let letters = [(1, "a"), (2, "3"), (3, "b"), (4, "a")].map(|(sequence, id)| (sequence, id.to_owned()));
        let which: Vec<_> = which.iter().map(ToString::to_string).collect();
        named(&which, letters.to_vec()).map(|letters| letters.into_iter().map(|(sequence, _)| sequence).collect())
    }

    #[test]
    fn a_name_is_an_id_before_it_is_a_sequence() {
        assert_eq!(sequences(&["3"]), Ok(vec![2]), "not the third");
        assert_eq!(sequences(&["1", "b"]), Ok(vec![1, 3]));
        assert_eq!(sequences(&["a"]), Ok(vec![1, 4]));
        assert_eq!(sequences(&["2", "nobody", "9"]), Err(vec!["nobody".to_owned(), "9".to_owned()]));
    }
}

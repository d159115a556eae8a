//! `tagmill submit`.

mod follow;
mod interrupted;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::repository;
use crate::support::s3::S3Server;
use crate::support::worker::{Worker, tagmill};

fn submit(nats: &NatsServer, arguments: &[&str]) -> Command {
    tagmill(&[&["submit", "--nats-url", &nats.url()], arguments].concat())
}

/// Exit code, standard output and standard error.
fn ended(mut command: Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("it exits"), text(stdout), text(stderr))
}

/// A queue that no worker takes jobs from.
async fn queue(nats: &NatsServer) -> Client {
    let client = Client::connect(nats).await;
    client.make_queue(Duration::from_secs(30), 1).await;
    client
}

/// A list of this many keys, each with a number.
fn list(folder: &Path, count: usize) -> String {
    let mut lines = String::new();
    for number in 0..count {
        writeln!(lines, "{}", key(number)).expect("a string");
    }
    let path = folder.join("list.txt");
    std::fs::write(&path, lines).expect("a file");
    path.display().to_string()
}

fn key(number: usize) -> String {
    format!("images/of/a/typical/length/{number:08}.jpg")
}

fn ids(jobs: &[impl std::borrow::Borrow<Value>]) -> Vec<&str> {
    jobs.iter().map(|job| job.borrow()["id"].as_str().expect("an id")).collect()
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON on every line")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_published_and_its_answers_are_shown() {
    let nats = NatsServer::start();
    let _worker = Worker::start(&nats);
    let folder = repository("samples").display().to_string();
    let (code, table, log) = ended(submit(&nats, &["--follow", &folder]));
    assert_eq!(code, 0, "{log}");
    let sunset = table.lines().find(|line| line.starts_with("orange-sunset.jpg")).expect("a line per image");
    assert!(sunset.contains("orange 1.00"), "{sunset}");
    assert_eq!(table.lines().count(), 11, "a route and ten images:\n{table}");
    // A run that is followed has jobs of its own: the same images again are no duplicates.
    let (code, table, log) = ended(submit(&nats, &["--follow", &format!("file://{folder}"), "--match", "*.webp"]));
    assert_eq!((code, table.lines().count()), (0, 2), "{table}{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_on_standard_input_are_locations_or_jobs_and_a_failure_is_exit_code_1() {
    let nats = NatsServer::start();
    let _worker = Worker::start(&nats);
    let list = tempfile::NamedTempFile::new().expect("a file");
    let path = repository("samples/blue-ocean.webp").display().to_string();
    let lines = format!("night-sky.png\r\n\n{{\"id\":\"mine\",\"image\":\"grey-fog.jpg\"}}\n{path}\nmissing.png");
    std::fs::write(&list, lines).expect("a file");
    let mut command = submit(&nats, &["--follow", "-"]);
    command.stdin(Stdio::from(list.reopen().expect("a file")));
    let (code, table, _) = ended(command);
    assert_eq!(code, 1, "{table}");
    for (id, shown) in [
        ("night-sky.png", "black"),
        ("mine", "grey"),
        (path.as_str(), "blue"),
        ("missing.png", "FAILED image_not_found"),
    ] {
        let line = table.lines().find(|line| line.starts_with(id)).expect("a line per job");
        assert!(line.contains(shown), "{line}");
    }
    Client::connect(&nats).await.queue_is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_prefix_is_tagged_and_its_answers_written_as_json_lines() {
    let (nats, s3) = (NatsServer::start(), S3Server::start("images").await);
    let keys = ["2024/ä ö+%20.jpg", "2024/a/b/c.jpg", "2024/d.JPG", "2024/e.jpg"];
    for key in keys {
        s3.put("images", key, &repository("samples/orange-sunset.jpg"));
    }
    for other in ["2024/notes.txt", "2024b/x.jpg", "y.jpg"] {
        s3.put("images", other, &repository("samples/README.md"));
    }
    let _worker = Worker::start_with(&nats, "s3://images", &[], &s3.environment());
    let output = tempfile::NamedTempFile::new().expect("a file");
    let path = output.path().display().to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = folder.path().join("checkpoint").display().to_string();
    // Gone on with after all answers are there, it adds none of them again.
    for count in [4, 0] {
        let arguments = ["--follow", "s3://images/2024/", "--output", &path, "--meta", r#"{"set": 7}"#];
        let mut command = submit(&nats, &[&arguments[..], &["--checkpoint", &checkpoint]].concat());
        command.envs(s3.environment());
        let (code, shown, log) = ended(command);
        assert_eq!((code, shown.as_str()), (0, ""), "{log}");
        assert!(log.contains(&format!("{count} tagged, 0 failed")), "{log}");
    }
    let results = json_lines(&std::fs::read_to_string(&path).expect("it is written"));
    assert_eq!((results.len(), ids(&results).into_iter().collect::<HashSet<_>>()), (4, keys.into()));
    for result in &results {
        assert_eq!(result["image"], format!("s3://images/{}", result["id"].as_str().expect("an id")));
        assert_eq!((&result["meta"], &result["tags"][0]["name"]), (&json!({ "set": 7 }), &"orange".into()));
    }
    // One object alone, and standard output.
    let mut command = submit(&nats, &["--follow", "--json", "s3://images/2024b/x.jpg"]);
    command.envs(s3.environment());
    let (code, shown, _) = ended(command);
    let letters = json_lines(&shown);
    assert_eq!((code, &letters[0]["error"]["code"], letters.len()), (1, &"image_undecodable".into(), 1));
    let mut command = submit(&nats, &["s3://nowhere/2024"]);
    command.envs(s3.environment());
    let (code, _, log) = ended(command);
    assert!(code == 1 && log.contains("s3://nowhere/2024") && !log.contains("broke off"), "not waited for: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_say_what_the_flags_say_and_are_stored_once_per_version_of_their_image() {
    let nats = NatsServer::start();
    let client = queue(&nats).await;
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["b/2.png", "a.jpg", "b/1.png", "c.txt", "d.png"] {
        std::fs::create_dir_all(folder.path().join("b")).expect("a folder");
        std::fs::write(folder.path().join(name), name).expect("a file");
    }
    let root = folder.path().canonicalize().expect("it exists").display().to_string();
    let arguments = ["--match", "*.png", "--limit", "2", "--model", "m", "--meta", "[1]", &root];
    let (code, out, log) = ended(submit(&nats, &arguments));
    assert_eq!((code, out.as_str()), (0, ""), "{log}");
    assert!(log.contains("published 2 jobs on tagmill.jobs in"), "{log}");
    let jobs = client.queued().await;
    let made = |name: &str| json!({ "id": name, "image": format!("file://{root}/{name}"), "model": "m", "meta": [1] });
    assert_eq!(jobs.iter().map(|job| &job.json).collect::<Vec<_>>(), [&made("b/1.png"), &made("b/2.png")]);

    // Once more: the first again is a duplicate, the second is a new version of itself.
    std::fs::write(folder.path().join("b/2.png"), "changed").expect("a file");
    let (code, _, log) = ended(submit(&nats, &arguments));
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("published 1 job on") && log.contains("1 more were in the stream already"), "{log}");
    let jobs = client.queued().await;
    assert_eq!((jobs.len(), &jobs[2].json["id"]), (3, &"b/2.png".into()));
    assert_ne!(jobs[1].message_id(), jobs[2].message_id());

    // Another model makes another job.
    let (_, _, log) = ended(submit(&nats, &["--limit", "1", "--match", "b/*", "--model", "n", &root]));
    assert!(log.contains("published 1 job on"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_said_before_anything_is_published() {
    let nats = NatsServer::start();
    let client = queue(&nats).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    let checkpoint = format!("{path}/checkpoint");
    std::fs::write(&checkpoint, "[]").expect("a file");
    let [other, both] = ["other", "both"].map(|name| format!("{path}/{name}"));
    std::fs::write(&other, "mine").expect("a file");
    for (arguments, said) in [
        (vec!["/no/such/folder"], "`/no/such/folder` can't be read"),
        (vec!["http://host/a.jpg"], "is no source"),
        (vec!["s3://"], "is not a store"),
        (vec![&path, "--match", "[a"], "--match"),
        (vec![&path, "--meta", "{"], "--meta"),
        (vec![&path, "--output", "x"], "--follow"),
        (vec![&path, "--follow", "--output", "/no/such/folder/x"], "can't be written (--output)"),
        (vec![&path, "--follow", "--output", &other], "something else than results"),
        (vec![&path, "--follow", "--output", "answers.csv"], "lines of JSON"),
        (vec![&path, "--follow", "--output", &both, "--checkpoint", &both], "another run writes to it"),
        (vec![&path, "--checkpoint", "/no/such/folder/x"], "can't be written (--checkpoint)"),
        (vec![&path, "--checkpoint", &checkpoint], "is no checkpoint"),
    ] {
        let (code, _, log) = ended(submit(&nats, &arguments));
        assert!(code == 2 && log.contains(said), "{arguments:?}: {code} {log}");
    }
    assert_eq!(std::fs::read_to_string(&other).expect("a file"), "mine", "nothing of it is lost");
    let nowhere = tagmill(&["submit", "--nats-url", "nats://127.0.0.1:1", &list(folder.path(), 1)]);
    let (code, _, log) = ended(nowhere);
    assert!(code == 1 && log.contains("127.0.0.1:1"), "{log}");

    // A line that is none is known when it is come to.
    let bad = folder.path().join("bad");
    std::fs::write(&bad, "a.jpg\n\n{\"image\":7}\nb.jpg\n").expect("a file");
    let (code, _, log) = ended(submit(&nats, &[&bad.display().to_string()]));
    assert!(code == 1 && log.contains("line 3 of ") && log.contains("field `image`"), "{log}");
    assert!(log.contains("/bad is taken as a list"), "{log}");
    assert_eq!(client.count("TAGMILL_JOBS").await, 1, "the one before it");
    std::fs::write(&bad, b"a.jpg\n\xff\xd8\n").expect("a file");
    let (code, _, log) = ended(submit(&nats, &[&bad.display().to_string()]));
    assert!(code == 1 && log.contains("line 2 of ") && log.contains("UTF-8"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_stream_for_jobs_it_says_so() {
    let nats = NatsServer::start();
    let folder = tempfile::tempdir().expect("a folder");
    let (code, _, log) = ended(submit(&nats, &[&list(folder.path(), 2000)]));
    assert!(code == 1 && log.contains("`tagmill init` makes it"), "{log}");
    assert_eq!(log.matches("trying again").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_later_makes_the_stream() {
    let nats = NatsServer::start();
    let folder = tempfile::tempdir().expect("a folder");
    let mut run = Worker::run(submit(&nats, &[&list(folder.path(), 2000)]));
    run.logged("trying again");
    let client = queue(&nats).await;
    assert_eq!(run.ended().code(), Some(0), "{}", run.log());
    assert_eq!(client.count("TAGMILL_JOBS").await, 2000);
    // What holds nothing that is wanted says what that is.
    let [samples, models] = ["samples", "models"].map(|folder| repository(folder).display().to_string());
    for (arguments, wanted) in
        [(vec![&*models], "jpeg, jpg,"), (vec![&*samples, "--match", "*.JPG"], "like `*.JPG` are")]
    {
        let (code, _, log) = ended(submit(&nats, &arguments));
        assert!(
            code == 0
                && log.contains("published 0 jobs")
                && log.contains("nothing to submit in /")
                && log.contains(wanted),
            "{log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_or_changed_is_published_later_and_nothing_else() {
    let (nats, s3) = (NatsServer::start(), S3Server::start("images").await);
    let client = queue(&nats).await;
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("a file");
        std::fs::write(s3.bucket("images").join(name), text).expect("an object");
    };
    for name in ["b.jpg", "d.jpg", "e.jpg"] {
        write(name, name);
    }
    let checkpoint = folder.path().join("far").display().to_string();
    let path = folder.path().display().to_string();
    let command = || {
        let mut command = submit(&nats, &[&path, "s3://images", "--checkpoint", &checkpoint]);
        command.envs(s3.environment());
        let (code, _, log) = ended(command);
        assert_eq!(code, 0, "{log}");
        log
    };
    assert!(command().contains("published 6 jobs on"));
    // Before, between and after the others; and one that has changed.
    for name in ["a.jpg", "c.jpg", "f.jpg"] {
        write(name, name);
    }
    write("d.jpg", "changed");
    let log = command();
    assert!(log.contains("published 8 jobs on") && log.contains("6 by earlier runs"), "{log}");
    let jobs = client.queued().await;
    let mut new: Vec<_> = jobs[6..].iter().map(|job| job.json["id"].as_str().expect("an id")).collect();
    new.sort_unstable();
    assert_eq!(new, ["a.jpg", "a.jpg", "c.jpg", "c.jpg", "d.jpg", "d.jpg", "f.jpg", "f.jpg"]);
    assert!(command().contains("published 0 jobs on"), "nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_number_of_jobs() {
    let nats = NatsServer::start();
    let client = queue(&nats).await;
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = folder.path().join("far").display().to_string();
    let mut command = submit(&nats, &["-", "--checkpoint", &checkpoint]);
    // It ends when its input does: until then its memory can be looked at.
    let (input, mut lines) = std::io::pipe().expect("a pipe");
    command.stdin(Stdio::from(input));
    let run = Worker::run(command);
    let mut peaks = Vec::new();
    for (first, end) in [(0, 10_000), (10_000, 100_000)] {
        let text: String = (first..end).map(|number| key(number) + "\n").collect();
        lines.write_all(text.as_bytes()).expect("it reads");
        client.queue_holds(u64::try_from(end).expect("a count")).await;
        peaks.push(run.resident_memory());
    }
    println!("peak memory of submit, in bytes: {} after 10,000 jobs, {} after 100,000", peaks[0], peaks[1]);
    assert!(peaks[1] < peaks[0] + 8 * 1024 * 1024, "{peaks:?}");
    assert!(peaks[1] < 96 * 1024 * 1024, "{peaks:?}");
    drop(lines);
    let mut run = run;
    assert_eq!(run.ended().code(), Some(0), "{}", run.log());
}

//! `tagmill submit --follow`.

use std::collections::HashSet;
use std::process::Stdio;

use super::{ended, ids, json_lines, submit};
use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::worker::Worker;
use crate::support::{repository, samples};

/// The streams, but no worker.
fn streams(nats: &NatsServer) {
    let mut worker = Worker::start(nats);
    worker.signal("TERM");
    worker.ended();
}

/// A run on all samples that is followed, with its log.
fn follow_samples(nats: &NatsServer) -> Worker {
    let mut command = submit(nats, &["--follow", &repository("samples").display().to_string()]);
    command.stdout(Stdio::null());
    Worker::run(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_begins_before_the_first_worker_waits_for_it() {
    let nats = NatsServer::start();
    let mut run = follow_samples(&nats);
    run.logged("there is no stream TAGMILL_JOBS, which `tagmill init` or a worker makes; trying again");
    let _worker = Worker::start(&nats);
    assert_eq!(run.ended().code(), Some(0), "{}", run.log());
    assert!(run.log().contains("10 tagged, 0 failed"), "{}", run.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_nobody_answers_says_that_no_worker_does() {
    let nats = NatsServer::start();
    streams(&nats);
    // One that takes other jobs is none.
    let _other = Worker::start_with(&nats, &samples(), &["--prefix", "shop"], &[]);
    let mut run = follow_samples(&nats);
    run.logged("there is no worker at the moment");
    let _worker = Worker::start(&nats);
    assert_eq!(run.ended().code(), Some(0), "{}", run.log());
    assert_eq!(run.log().matches("no worker").count(), 1, "{}", run.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_before_a_bad_line_is_answered() {
    let nats = NatsServer::start();
    let _worker = Worker::start(&nats);
    let list = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&list, "night-sky.png\n{\"image\":7}\nblue-ocean.webp\n").expect("a file");
    let (code, shown, log) = ended(submit(&nats, &["--follow", "--json", &list.path().display().to_string()]));
    assert_eq!(code, 1, "{log}");
    assert_eq!(ids(&json_lines(&shown)), ["night-sky.png"], "{log}");
    let said = log.lines().position(|line| line.contains("line 2 of ") && line.contains("waited for"));
    let summed_up = log.lines().position(|line| line.contains("1 tagged, 0 failed"));
    assert!(said.is_some() && said < summed_up, "{log}");
    assert!(log.lines().last().is_some_and(|line| line.contains("line 2 of ")), "{log}");
    // Where there is nothing to wait for, it ends at once.
    std::fs::write(&list, "{\"image\":7}\n").expect("a file");
    let (code, shown, log) = ended(submit(&nats, &["--follow", "--json", &list.path().display().to_string()]));
    assert!(code == 1 && shown.is_empty() && log.contains("line 1 of ") && !log.contains("waited for"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_ends_the_run() {
    let nats = NatsServer::start();
    streams(&nats);
    let client = Client::connect(&nats).await;
    let mut run = follow_samples(&nats);
    run.logged("published 10 jobs");
    client.jetstream.delete_stream("TAGMILL_JOBS").await.expect("it is there");
    assert_eq!(run.ended().code(), Some(1), "{}", run.log());
    assert!(run.log().contains("a stream is gone"), "{}", run.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn following_goes_on_after_an_interruption_and_shows_every_answer_of_the_run_once() {
    let nats = NatsServer::start();
    streams(&nats);
    let client = Client::connect(&nats).await;
    // Jobs of others are none of this run's.
    client.submit("other", "night-sky.png").await;
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = folder.path().join("far").display().to_string();
    let path = repository("samples").display().to_string();
    let arguments = [path.as_str(), "--follow", "--json", "--checkpoint", &checkpoint];
    let mut command = submit(&nats, &arguments);
    command.stdout(Stdio::null());
    let mut run = Worker::run(command);
    run.logged("published 10 jobs");
    run.signal("INT");
    assert_eq!(run.ended().code(), Some(1), "{}", run.log());
    assert!(run.log().contains("interrupted"), "{}", run.log());

    let _worker = Worker::start(&nats);
    for count in [10, 0] {
        let (code, shown, log) = ended(submit(&nats, &arguments));
        assert_eq!(code, 0, "{log}");
        assert!(log.contains("published 0 jobs on tagmill.jobs.submit."), "{log}");
        assert!(log.contains(&format!("{count} tagged, 0 failed in ")), "{log}");
        let answers = json_lines(&shown);
        assert_eq!(ids(&answers).into_iter().collect::<HashSet<_>>().len(), count, "{shown}");
        assert_eq!(answers.len(), count);
    }
    // A file has none of them yet, and then all.
    let file = folder.path().join("answers.jsonl");
    let file = file.to_str().expect("UTF-8");
    let into_file = [path.as_str(), "--follow", "--output", file, "--checkpoint", &checkpoint];
    for count in [10, 0] {
        let (code, _, log) = ended(submit(&nats, &into_file));
        assert!(code == 0 && log.contains(&format!("{count} tagged, 0 failed in ")), "{log}");
        assert_eq!(json_lines(&std::fs::read_to_string(file).expect("answers")).len(), 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_somebody_removes_do_not_keep_a_run_waiting() {
    let nats = NatsServer::start();
    streams(&nats);
    let client = Client::connect(&nats).await;
    let mut run = follow_samples(&nats);
    run.logged("published 10 jobs");
    client.jetstream.get_stream("TAGMILL_JOBS").await.expect("the stream").purge().await.expect("it is emptied");
    assert_eq!(run.ended().code(), Some(1), "{}", run.log());
    assert!(run.log().contains("10 jobs left the queue without an answer"), "{}", run.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_with_a_result_in_the_file_are_left_out() {
    let nats = NatsServer::start();
    let _worker = Worker::start(&nats);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("first"), "orange-sunset.jpg\nmissing.jpg\n").expect("a list");
    let answers = path("answers.jsonl");
    let follow =
        |list: &str, more: &[&str]| ended(submit(&nats, &[&[list, "--follow", "--output", &answers], more].concat()));
    let (code, _, log) = follow(&path("first"), &[]);
    assert_eq!(code, 1, "one is missing: {log}");
    std::fs::write(path("second"), "blue-ocean.webp\nmissing.jpg\norange-sunset.jpg\n").expect("a list");
    let (code, _, log) = follow(&path("second"), &["--skip-existing", "--meta", "1"]);
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("published 2 jobs on") && log.contains("1 job left out"), "what failed is tried again: {log}");
    let lines = std::fs::read_to_string(&answers).expect("answers");
    assert_eq!((lines.lines().count(), lines.matches("\"id\":\"orange-sunset.jpg\"").count()), (4, 1), "{lines}");
}

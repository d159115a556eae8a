//! `tagmill submit`.

use std::process::Stdio;

use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::repository;
use crate::support::worker::{Worker, tagmill};

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_published_and_its_answers_are_shown() {
    let nats = NatsServer::start();
    let _worker = Worker::start(&nats);
    let folder = repository("samples").display().to_string();
    let output = tagmill(&["submit", "--follow", &folder, "--nats-url", &nats.url()]).output().expect("it runs");
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sunset = table.lines().find(|line| line.starts_with("orange-sunset.jpg")).expect("a line per image");
    assert!(sunset.contains("orange 1.00"), "{sunset}");
    assert_eq!(table.lines().count(), 11, "a heading and ten images:\n{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_on_standard_input_are_locations_or_jobs_and_a_failure_is_exit_code_1() {
    let nats = NatsServer::start();
    let _worker = Worker::start(&nats);
    let list = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&list, "night-sky.png\n\n{\"id\":\"mine\",\"image\":\"grey-fog.jpg\"}\nmissing.png\n")
        .expect("a file");
    let output = tagmill(&["submit", "--follow", "-", "--nats-url", &nats.url()])
        .stdin(Stdio::from(list.reopen().expect("a file")))
        .output()
        .expect("it runs");
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{table}");
    for (id, shown) in [("night-sky.png", "black"), ("mine", "grey"), ("missing.png", "FAILED image_not_found")] {
        let line = table.lines().find(|line| line.starts_with(id)).expect("a line per job");
        assert!(line.contains(shown), "{line}");
    }
    Client::connect(&nats).await.queue_is_empty().await;
}

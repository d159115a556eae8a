//! Jobs that can't be tagged become dead letters without harm to others.

use std::collections::HashMap;

use async_nats::HeaderMap;
use serde_json::{Value, json};

use crate::support::client::{Answer, Client};
use crate::support::nats::NatsServer;
use crate::support::worker::Worker;
use crate::support::{repository, samples};

#[tokio::test(flavor = "multi_thread")]
async fn each_gets_its_code_and_their_neighbours_their_tags() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    let store = tempfile::tempdir().expect("a folder");
    let file = |name: &str| store.path().join(name);
    std::fs::copy(repository("samples/orange-sunset.jpg"), file("good.jpg")).expect("a copy");
    let whole = std::fs::read(file("good.jpg")).expect("a copy");
    std::fs::write(file("cut.jpg"), &whole[..whole.len() / 2]).expect("a file");
    std::fs::write(file("page.jpg"), "<!doctype html>").expect("a file");
    std::fs::write(file("large.jpg"), [&whole[..], &vec![0; 200_000]].concat()).expect("a file");
    std::os::unix::fs::symlink("/etc/passwd", file("link.jpg")).expect("a link");
    let made = std::process::Command::new("mkfifo").arg(file("pipe.jpg")).status();
    assert!(made.expect("mkfifo runs").success());
    let _worker = Worker::start_with(
        &nats,
        &format!("file://{}", store.path().display()),
        &["--max-image-bytes", "100kB", "--max-image-pixels", "200000"],
        &[],
    );

    let image = |image: &str| json!({ "id": image, "image": image }).to_string();
    let bad = [
        ("not json", "bad_job"),
        (r#"{"id":"no image"}"#, "bad_job"),
        (&image("missing.jpg"), "image_not_found"),
        (&image("pipe.jpg"), "image_not_found"),
        (&image("cut.jpg"), "image_undecodable"),
        (&image("page.jpg"), "image_undecodable"),
        (&image("large.jpg"), "image_too_large"),
        (&image("link.jpg"), "forbidden_location"),
        (&image("file:///etc/passwd"), "forbidden_location"),
        (&image("s3://elsewhere/a.jpg"), "forbidden_location"),
        (&image("http://127.0.0.1/a.jpg"), "forbidden_location"),
        (&image("data:image/png;base64,!"), "bad_job"),
        (r#"{"id":"model","image":"good.jpg","model":"gpt"}"#, "unknown_model"),
        (r#"{"id":7,"image":"good.jpg","modell":"demo"}"#, "bad_job"),
        (r#"{"id":8,"image":"good.jpg","thresholds":{"genral":0.5}}"#, "bad_job"),
    ];
    for (payload, _) in &bad {
        client.publish("tagmill.jobs.a", HeaderMap::new(), (*payload).to_owned()).await;
        client.submit("good", "good.jpg").await;
    }

    let results = client.results(bad.len()).await;
    assert!(results.iter().all(|result| result.score("orange") > 0.9));
    let letters = client.dead(bad.len()).await;
    // By original payload: JSON as JSON, anything else as a string.
    let expected: HashMap<String, &str> = bad
        .iter()
        .map(|(payload, code)| {
            let job = serde_json::from_str(payload).unwrap_or_else(|_| Value::from(*payload));
            (job.to_string(), *code)
        })
        .collect();
    for letter in &letters {
        assert_eq!(Some(&letter.code()), expected.get(&letter.json["job"].to_string()), "{:#}", letter.json);
        assert!(
            letter.json["job"]["id"].as_u64().is_none_or(|id| letter.id() == id.to_string()),
            "an integer is an id"
        );
        assert_eq!(letter.subject, "tagmill.dead.a");
        assert_eq!(letter.json["subject"], "tagmill.jobs.a");
        assert_eq!(letter.json["attempts"], 1);
        assert!(letter.json["error"]["message"].as_str().is_some_and(|message| !message.is_empty()));
        assert!(letter.json["at"].as_str().is_some_and(|at| at.ends_with('Z')));
    }
    client.queue_is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_does_not_fit_the_server_is_a_dead_letter_and_a_large_job_is_left_out_of_it() {
    let config = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&config, "max_payload: 2048").expect("a file");
    let path = config.path().to_str().expect("UTF-8");
    let nats = NatsServer::start_with(&["--jetstream", "--config", path]);
    let client = Client::connect(&nats).await;
    let worker = Worker::start_with(&nats, &samples(), &[], &[]);
    let meta = "x".repeat(1700);
    let job = json!({ "id": "big", "image": "orange-sunset.jpg", "meta": meta }).to_string();
    client.publish("tagmill.jobs", HeaderMap::new(), job.clone()).await;
    let letter = client.dead(1).await.remove(0);
    assert_eq!(letter.code(), "result_too_large");
    assert_eq!(letter.json["job"], Value::Null);
    assert_eq!(letter.json["job_bytes"], job.len());
    assert_eq!(letter.json["job_sha256"].as_str().map(str::len), Some(64));
    client.queue_is_empty().await;
    let failures = r#"tagmill_failures_total{stage="publish",code="result_too_large"}"#;
    assert_eq!(worker.metric(failures).await, Some(1.0));
    assert_eq!(worker.metric(r#"tagmill_images_tagged_total{model="demo"}"#).await, None, "it has no result");
}

/// Together with the message id of its answer, the job's headers exceed the 64 KiB that a stream accepts.
async fn large_headers(nats: NatsServer) {
    let client = Client::connect(&nats).await;
    let _worker = Worker::start(&nats);
    let mut headers = HeaderMap::new();
    headers.insert("trace", "x".repeat(65_500).as_str());
    client.publish("tagmill.jobs", headers.clone(), r#"{"id":"tagged","image":"orange-sunset.jpg"}"#).await;
    client.publish("tagmill.jobs", headers, "not json").await;
    let mut letters = client.dead(2).await;
    letters.sort_by_key(|letter| letter.code().to_owned());
    assert_eq!(letters.iter().map(Answer::code).collect::<Vec<_>>(), ["bad_job", "result_too_large"]);
    for letter in &letters {
        assert!(letter.json["job"] != Value::Null && letter.headers.len() == 1, "the job stays, its headers do not");
        assert!(letter.message_id().starts_with("TAGMILL_JOBS-"));
    }
    client.queue_is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_no_answer_can_carry_are_left_out_of_the_dead_letter() {
    large_headers(NatsServer::start()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_on_a_current_server() {
    large_headers(NatsServer::start_current()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_refuses_all_jobs_says_that_it_may_be_its_own_fault() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    let empty = tempfile::tempdir().expect("a folder");
    let worker = Worker::start_with(&nats, &format!("file://{}", empty.path().display()), &[], &[]);
    for number in 0..40 {
        client.submit(&number.to_string(), "orange-sunset.jpg").await;
    }
    client.dead(40).await;
    let said = worker.logged("is this worker set up as the others are");
    assert!(said.contains("ERROR") && said.contains("code=image_not_found"), "{said}");
    assert_eq!(worker.log().matches("is this worker set up").count(), 1, "once");
}

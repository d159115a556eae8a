//! Jobs of the queue become results.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_nats::HeaderMap;
use base64::Engine;
use serde_json::{Value, json};

use crate::support::client::{Answer, Client};
use crate::support::nats::NatsServer;
use crate::support::s3::{Fault, S3Server};
use crate::support::worker::Worker;
use crate::support::{repository, samples, until};

/// Scores of the sample images in Python (`tests/parity/reference.py`).
fn reference() -> HashMap<String, HashMap<String, f64>> {
    let json = std::fs::read(repository("tests/parity/reference.json")).expect("it is committed");
    serde_json::from_slice(&json).expect("it is JSON")
}

/// Tags every sample image with thresholds of zero, so that every score is reported, and compares each with Python's.
async fn agrees_with_python(client: &Client, location: impl Fn(&str) -> String) {
    let reference = reference();
    for name in reference.keys() {
        let job = json!({ "id": name, "image": location(name), "thresholds": { "general": 0.0 } });
        client.publish("tagmill.jobs", HeaderMap::new(), job.to_string()).await;
    }
    let results = client.results(reference.len()).await;
    for result in &results {
        for (tag, &expected) in &reference[result.id()] {
            let score = result.score(tag);
            assert!((score - expected).abs() <= 0.02, "{}: {tag} is {score}, Python says {expected}", result.id());
        }
    }
    let answered: HashSet<_> = results.iter().map(Answer::id).collect();
    assert_eq!(answered.len(), reference.len());
    client.queue_is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_a_folder_get_the_tags_that_python_gives_them() {
    let nats = NatsServer::start();
    let _worker = Worker::start(&nats);
    agrees_with_python(&Client::connect(&nats).await, |name| format!("{}/{name}", samples())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_a_bucket_get_the_tags_that_python_gives_them() {
    let (nats, s3) = (NatsServer::start(), S3Server::start("images").await);
    for name in reference().keys() {
        s3.put("images", &format!("some folder/{name}"), &repository("samples").join(name));
    }
    let _worker = Worker::start_with(&nats, "s3://images", &[], &s3.environment());
    agrees_with_python(&Client::connect(&nats).await, |name| format!("s3://images/some folder/{name}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_says_what_the_contract_says() {
    let nats = NatsServer::start();
    let _worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    headers.insert("Nats-Msg-Id", "upload-7");
    let job = r#"{"image":"orange-sunset.jpg","meta":{"z": 1.50,"a":[null]}}"#;
    client.publish("tagmill.jobs.shop.eu", headers, job).await;

    let result = client.results(1).await.remove(0);
    assert_eq!(result.subject, "tagmill.results.shop.eu");
    assert_eq!(result.id(), "upload-7", "the message id names a job that does not name itself");
    assert_eq!(result.json["image"], "orange-sunset.jpg");
    assert_eq!(result.json["model"]["name"], "demo");
    assert_eq!(result.json["model"]["sha256"].as_str().map(str::len), Some(64));
    assert_eq!(result.json["meta"], json!({ "z": 1.5, "a": [null] }));
    assert_eq!(result.json["attempt"], 1);
    assert_eq!(result.json["batch"], 1);
    assert!(result.json["worker"].as_str().is_some_and(|worker| worker.contains('-')));
    for stage in ["queue", "fetch", "decode", "wait", "infer"] {
        assert!(result.json["seconds"][stage].as_f64().is_some_and(|seconds| seconds >= 0.0), "{stage}");
    }
    let tags = result.json["tags"].as_array().expect("tags");
    assert_eq!(tags[0]["name"], "orange", "the sunset is orange first of all: {tags:?}");
    let text = result.json["text"].as_str().expect("a text");
    assert!(text.starts_with("orange, warm colors"), "{text}");
    let ratings: Vec<_> = result.json["rating"].as_object().expect("ratings").keys().collect();
    assert_eq!(ratings.len(), 4);
    assert!(result.headers.get("traceparent").is_some());
    let message_id = result.headers.get("Nats-Msg-Id").expect("an id").as_str();
    let info = client.jetstream.get_stream("TAGMILL_JOBS").await.expect("the stream");
    let created = info.cached_info().created.unix_timestamp();
    assert_eq!(message_id, format!("TAGMILL_JOBS-{created}-1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_can_come_with_its_job() {
    let nats = NatsServer::start();
    let _worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    let bytes = std::fs::read(repository("samples/orange-sunset.jpg")).expect("a sample");
    let data = base64::engine::general_purpose::STANDARD.encode(bytes);
    client.submit("inline", &format!("data:image/jpeg;base64,{data}")).await;
    let result = client.results(1).await.remove(0);
    assert!(result.score("orange") > 0.9);
    let image = result.json["image"].as_str().expect("an image");
    assert!(
        image.starts_with("data:image/jpeg;sha256,") && image.len() == "data:image/jpeg;sha256,".len() + 64,
        "{image}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_share_the_queue() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    let _workers = [Worker::start(&nats), Worker::start(&nats)];
    client.submit_samples(200).await;
    let results = client.results(200).await;
    client.queue_is_empty().await;
    assert_eq!(client.count("TAGMILL_RESULTS").await, 200, "exactly one result each");
    let ids: HashSet<_> = results.iter().map(Answer::id).collect();
    assert_eq!(ids.len(), 200);
    let mut shares: HashMap<&Value, usize> = HashMap::new();
    for result in &results {
        *shares.entry(&result.json["worker"]).or_default() += 1;
    }
    assert!(shares.len() == 2 && shares.values().all(|&share| share >= 40), "{shares:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_backlog_spreads_over_the_workers_there_are() {
    let (nats, s3) = (NatsServer::start(), S3Server::start("images").await);
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_secs(30), 1).await;
    for number in 0..30 {
        client.submit(&number.to_string(), "slow.jpg").await;
    }
    // No job completes for a while, so that a worker keeps the jobs it pulls.
    s3.fault("slow.jpg", Fault::Stalled);
    let start = || Worker::spawn(&nats, "s3://images", &["--batch-size", "4"], &s3.environment());
    let workers = [start(), start(), start()];
    until("all jobs to be taken", || async { (client.consumer().await.num_pending == 0).then_some(()) }).await;
    for worker in &workers {
        worker.logged("working");
        let held = until("jobs to be held", || worker.metric("tagmill_inflight_jobs")).await;
        assert!((6.0..=12.0).contains(&held), "three batches of four at most, the rest for others: {held}");
    }
}

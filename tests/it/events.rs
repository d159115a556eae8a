//! S3 event notifications as jobs.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use serde_json::{Value, json};

use crate::support::client::{Answer, Client};
use crate::support::nats::NatsServer;
use crate::support::s3::{Fault, S3Server};
use crate::support::worker::{Worker, tagmill};
use crate::support::{repository, until};

fn record(name: &str, key: &str) -> Value {
    json!({ "eventVersion": "2.1", "eventName": name, "s3": { "bucket": { "name": "images" }, "object": { "key": key } } })
}

fn created(key: &str) -> Value {
    record("ObjectCreated:Put", key)
}

async fn publish(client: &Client, id: &str, records: &[Value]) {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", id);
    headers.insert("traceparent", "00-trace");
    client.publish("tagmill.jobs.uploads", headers, json!({ "Records": records }).to_string()).await;
}

fn by_id(answers: Vec<Answer>) -> BTreeMap<String, Answer> {
    answers.into_iter().map(|answer| (answer.id().to_owned(), answer)).collect()
}

async fn bucket(keys: &[&str]) -> S3Server {
    let s3 = S3Server::start("images").await;
    for key in keys {
        s3.put("images", key, &repository("samples/orange-sunset.jpg"));
    }
    s3
}

#[tokio::test(flavor = "multi_thread")]
async fn each_new_object_gets_an_answer_of_its_own() {
    let (nats, s3) = (NatsServer::start(), bucket(&["a b/ä+%.jpg", "x.jpg", "gone.jpg", "8f3a"]).await);
    s3.put("images", "notes.txt", &repository("README.md"));
    let worker = Worker::start_with(&nats, "s3://images", &[], &s3.environment());
    let client = Client::connect(&nats).await;
    let records = [
        created("a+b/%C3%A4%2B%25.jpg"),
        created("notes.txt"),
        record("s3:ObjectRemoved:Delete", "gone.jpg"),
        json!({ "s3": { "bucket": { "name": "images" }, "object": { "key": "x.jpg" } } }),
        created("missing.jpg"),
        json!({ "s3": { "bucket": { "name": "images" } } }),
        json!({ "s3": { "bucket": { "name": "elsewhere" }, "object": { "key": "x.jpg" } } }),
        created("8f3a"),
    ];
    publish(&client, "upload", &records).await;
    let results = by_id(client.results(3).await);
    let dead = by_id(client.dead(4).await);
    client.queue_is_empty().await;

    assert_eq!(results.keys().collect::<Vec<_>>(), ["upload.1", "upload.4", "upload.8"]);
    assert_eq!(results["upload.1"].json["image"], "s3://images/a b/ä+%.jpg");
    let created = client.jetstream.get_stream("TAGMILL_JOBS").await.expect("the stream");
    let created = created.cached_info().created.unix_timestamp();
    for (id, result) in &results {
        assert!(result.score("orange") > 0.9, "{id}");
        assert_eq!(result.subject, "tagmill.results.uploads");
        assert!(result.headers.get("traceparent").is_some());
        assert_eq!(result.message_id(), format!("TAGMILL_JOBS-{created}-1{}", &id["upload".len()..]));
    }
    for (id, code, job) in [
        ("upload.2", "image_undecodable", json!({ "image": "s3://images/notes.txt" })),
        ("upload.5", "image_not_found", json!({ "image": "s3://images/missing.jpg" })),
        ("upload.6", "bad_job", records[5].clone()),
        ("upload.7", "forbidden_location", json!({ "image": "s3://elsewhere/x.jpg" })),
    ] {
        assert_eq!((dead[id].code(), &dead[id].json["job"]), (code, &job), "{id}");
    }

    // An event without an object to tag is acknowledged without an answer.
    for nothing in [
        json!({ "Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "images" }),
        json!({ "Records": [record("ObjectRemoved:Delete", "x.jpg")] }),
        json!({ "Records": [] }),
    ] {
        client.publish("tagmill.jobs", HeaderMap::new(), nothing.to_string()).await;
    }
    client.queue_is_empty().await;
    assert_eq!(client.count("TAGMILL_RESULTS").await + client.count("TAGMILL_DEAD").await, 7);
    assert_eq!(worker.metric("tagmill_inflight_jobs").await, Some(0.0));

    // A failed record is retried alone, under its own name.
    s3.put("images", "missing.jpg", &repository("samples/orange-sunset.jpg"));
    let output = tagmill(&["dead", "retry", "upload.5", "--yes", "--nats-url", &nats.url()]).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results = client.results(4).await;
    assert_eq!((results[3].id(), results[3].subject.as_str()), ("upload.5", "tagmill.results.uploads"));
    client.queue_is_empty().await;
    assert_eq!(client.count("TAGMILL_RESULTS").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn suffixes_are_the_operators_choice() {
    let (nats, s3) = (NatsServer::start(), bucket(&["a.jpg", "b.upload", "c"]).await);
    let worker = Worker::start_with(&nats, "s3://images", &["--event-suffixes", "upload,.png"], &s3.environment());
    let client = Client::connect(&nats).await;
    publish(&client, "one", &[created("a.jpg"), created("b.upload"), created("c")]).await;
    client.queue_is_empty().await;
    assert_eq!(client.results(1).await[0].id(), "one.2");
    assert!(worker.logged("--event-suffixes").contains("a.jpg"), "what is passed over is said");
    drop(worker);
    let _worker = Worker::start_with(&nats, "s3://images", &["--event-suffixes", "*"], &s3.environment());
    publish(&client, "two", &[created("a.jpg"), created("b.upload"), created("c")]).await;
    let ids: Vec<_> = by_id(client.results(4).await).into_keys().collect();
    assert_eq!(ids, ["one.2", "two.1", "two.2", "two.3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_one_of_whose_records_fails_comes_again_and_no_answer_is_given_twice() {
    let (nats, s3) = (NatsServer::start(), bucket(&["good.jpg", "broken.jpg"]).await);
    s3.fault("broken.jpg", Fault::Broken);
    let worker = Worker::start_with(&nats, "s3://images", &["--max-attempts", "3"], &s3.environment());
    let client = Client::connect(&nats).await;
    publish(&client, "event", &[created("broken.jpg"), created("good.jpg"), created("missing.jpg")]).await;
    client.results(1).await;
    let dead = by_id(client.dead(2).await);
    client.queue_is_empty().await;
    assert_eq!((dead["event.1"].code(), dead["event.3"].code()), ("storage_unavailable", "image_not_found"));
    assert_eq!((&dead["event.1"].json["attempts"], &dead["event.3"].json["attempts"]), (&3.into(), &1.into()));
    assert_eq!((client.count("TAGMILL_RESULTS").await, client.count("TAGMILL_DEAD").await), (1, 2));
    let tagged = until("three times tagged", || worker.metric(r#"tagmill_images_tagged_total{model="demo"}"#)).await;
    assert!((1.0..=3.0).contains(&tagged), "the good one each time: {tagged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_came_often_is_worked_on_like_any_other() {
    let (nats, s3) = (NatsServer::start(), bucket(&["a.jpg"]).await);
    let arguments = ["--max-attempts", "1"];
    let mut worker = Worker::start_with(&nats, "s3://images", &arguments, &s3.environment());
    worker.signal("TERM");
    worker.ended();
    let client = Client::connect(&nats).await;
    publish(&client, "event", &[created("a.jpg"), record("ObjectRemoved:Delete", "x.jpg"), created("b.jpg")]).await;
    client.take_without_answer(2).await;
    let _worker = Worker::start_with(&nats, "s3://images", &arguments, &s3.environment());
    assert_eq!(client.results(1).await[0].id(), "event.1");
    let dead = client.dead(1).await;
    assert_eq!((dead[0].id(), dead[0].code()), ("event.3", "image_not_found"));
    client.queue_is_empty().await;
    assert_eq!(client.count("TAGMILL_DEAD").await, 1);
}

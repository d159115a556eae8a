//! Every log line about a job names it, in the job's span.

use async_nats::HeaderMap;
use serde_json::{Value, json};

use crate::http::client;
use crate::live::request;
use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::s3::{Fault, S3Server};
use crate::support::samples;
use crate::support::worker::Worker;

/// An image that ends after its first bytes.
const CORRUPT: &str = "data:image/png;base64,iVBORw0KGgo=";

/// Span of the line with this code, in a JSON log.
fn span(worker: &Worker, code: &str) -> Value {
    let line = worker.logged(&format!(r#""code":"{code}""#));
    assert_eq!(line.matches(r#""message":"#).count(), 1, "no key comes twice: {line}");
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert!(line.get("spans").is_none() && line["message"].is_string(), "{line}");
    line["span"].clone()
}

/// A server whose payload limit is too small for the result of a job with a long `meta`.
fn small_server() -> (NatsServer, tempfile::NamedTempFile) {
    let config = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&config, "max_payload: 2048").expect("a file");
    let path = config.path().to_str().expect("UTF-8");
    (NatsServer::start_with(&["--jetstream", "--config", path]), config)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_the_stream_is_named_wherever_it_fails() {
    let (nats, _config) = small_server();
    let worker = Worker::start_with(&nats, &samples(), &["--log-format", "json"], &[]);
    let client = Client::connect(&nats).await;
    let before = worker.log().lines().count();
    let submit = async |job: Value| client.publish("tagmill.jobs", HeaderMap::new(), job.to_string()).await;
    submit(json!({ "image": 7, "id": "accept" })).await;
    submit(json!({ "image": "orange-sunset.jpg", "id": "model", "model": "gpt" })).await;
    submit(json!({ "image": "file:///etc/passwd", "id": "store" })).await;
    submit(json!({ "image": "missing.png", "id": "fetch" })).await;
    submit(json!({ "image": CORRUPT, "id": "decode", "model": "demo" })).await;
    submit(json!({ "image": "orange-sunset.jpg", "id": "publish", "meta": "x".repeat(1700) })).await;
    client.dead(6).await;
    for (code, id, model) in [
        ("bad_job", "accept", None),
        ("unknown_model", "model", Some("gpt")),
        ("forbidden_location", "store", Some("demo")),
        ("image_not_found", "fetch", Some("demo")),
        ("image_undecodable", "decode", Some("demo")),
        ("result_too_large", "publish", Some("demo")),
    ] {
        let mut expected = json!({ "name": "job", "id": id, "attempt": 1, "source": "stream" });
        if let Some(model) = model {
            expected["model"] = model.into();
        }
        assert_eq!(span(&worker, code), expected);
    }
    assert_eq!(worker.log().lines().count(), before + 6, "one line each: {}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_attempt_is_told_from_the_first() {
    let (nats, s3) = (NatsServer::start(), S3Server::start("images").await);
    s3.fault("denied.jpg", Fault::Denied);
    let client = Client::connect(&nats).await;
    let worker = Worker::start_with(&nats, "s3://images", &["--max-attempts", "2"], &s3.environment());
    client.submit("in \"text\"\n", "denied.jpg").await;
    client.dead(1).await;
    let job = |attempt| format!(r#" WARN job{{id="in \"text\"\n" attempt={attempt} model="demo" source=stream}}: "#);
    for (attempt, message) in [(1, "a job will be tried again"), (2, "a job becomes a dead letter")] {
        let line = worker.logged(message);
        assert!(line.contains(&(job(attempt) + message + " code=storage_denied")), "{line}");
        assert_eq!(line.matches("attempt").count(), 1, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_nats_is_named_wherever_it_fails() {
    let nats = NatsServer::start();
    let debug = [("RUST_LOG", "tagmill=debug".to_owned())];
    let worker = Worker::start_with(&nats, &samples(), &["--log-format", "json"], &debug);
    let client = Client::connect(&nats).await;
    for (code, job) in [
        ("image_not_found", json!({ "image": "missing.png", "id": "fetch" })),
        ("image_undecodable", json!({ "image": CORRUPT, "id": "decode" })),
    ] {
        request(&client, HeaderMap::new(), &job.to_string()).await;
        let expected = json!({ "name": "job", "id": job["id"], "attempt": 1, "model": "demo", "source": "nats" });
        assert_eq!(span(&worker, code), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_http_is_named_by_its_own_id_too() {
    let arguments = ["--store", &samples(), "--log-format", "json"];
    let server = Worker::serve(&arguments, &[]);
    let before = server.log().lines().count();
    let caption = async |id: &'static str, image: &str| {
        let request = client().post(server.url("/v1/vision/caption")).header("X-Request-Id", id);
        request.json(&json!({ "image": image })).send().await.expect("an answer")
    };
    for (code, id, image) in [
        ("forbidden_location", "shop-1", "file:///etc/passwd"),
        ("image_not_found", "shop-2", "missing.png"),
        ("image_undecodable", "shop-3", CORRUPT),
    ] {
        assert_eq!(caption(id, image).await.headers()["x-request-id"], id);
        let expected =
            json!({ "name": "job", "id": id, "attempt": 1, "model": "demo", "source": "http", "request_id": id });
        assert_eq!(span(&server, code), expected);
    }
    assert_eq!(server.log().lines().count(), before + 3, "one line each: {}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_image_of_a_request_is_a_job_of_its_own_in_the_log() {
    let debug = [("RUST_LOG", "tagmill=debug".to_owned())];
    let server = Worker::serve(&["--store", &samples(), "--log-format", "json"], &debug);
    let request = client().post(server.url("/v1/vision/batch-caption")).header("X-Request-Id", "shop-4");
    let images = json!({ "images": ["blue-ocean.webp", "missing.png"] });
    assert_eq!(request.json(&images).send().await.expect("an answer").status(), 200);
    let expected = json!({
        "name": "job", "id": "shop-4.1", "attempt": 1, "model": "demo", "source": "http", "request_id": "shop-4",
    });
    assert_eq!(span(&server, "image_not_found"), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_warnings_names_jobs_too() {
    let s3 = S3Server::start("images").await;
    s3.fault("denied.jpg", Fault::Denied);
    let mut environment = s3.environment();
    environment.push(("RUST_LOG", "warn,tagmill::command=info,tagmill::source::http::server=info".to_owned()));
    let server = Worker::serve(&["--store", "s3://images", "--log-format", "json"], &environment);
    let request = client().post(server.url("/v1/vision/caption")).header("X-Request-Id", "shop-5");
    let answer = request.json(&json!({ "image": "denied.jpg" })).send().await.expect("an answer");
    assert_eq!(answer.status(), 503);
    let expected = json!({
        "name": "job", "id": "shop-5", "attempt": 1, "model": "demo", "source": "http", "request_id": "shop-5",
    });
    assert_eq!(span(&server, "storage_denied"), expected);
}

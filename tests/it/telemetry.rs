//! Metrics, health and logs.

use async_nats::HeaderMap;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::worker::Worker;
use crate::support::{repository, samples};

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_the_names_of_the_contract_and_count_what_happened() {
    let nats = NatsServer::start();
    let worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    client.submit_samples(20).await;
    client.submit("bad", "missing.png").await;
    client.results(20).await;
    client.dead(1).await;
    client.queue_is_empty().await;
    let (status, text) = worker.get("/metrics").await;
    assert_eq!(status, 200);
    for (series, value) in [
        (r#"tagmill_jobs_total{source="stream",outcome="tagged"}"#, 20.0),
        (r#"tagmill_jobs_total{source="stream",outcome="rejected"}"#, 1.0),
        (r#"tagmill_jobs_total{source="stream",outcome="retried"}"#, 0.0),
        (r#"tagmill_images_tagged_total{model="demo"}"#, 20.0),
        (r#"tagmill_failures_total{stage="fetch",code="image_not_found"}"#, 1.0),
        (r#"tagmill_dead_letters_total{code="image_not_found"}"#, 1.0),
        (r#"tagmill_job_seconds_count{source="stream"}"#, 21.0),
        (r#"tagmill_stage_seconds_count{stage="queue"}"#, 21.0),
        (r#"tagmill_stage_seconds_count{stage="fetch"}"#, 21.0),
        (r#"tagmill_stage_seconds_count{stage="decode"}"#, 20.0),
        (r#"tagmill_stage_seconds_count{stage="wait"}"#, 20.0),
        (r#"tagmill_stage_seconds_count{stage="publish"}"#, 21.0),
        (r#"tagmill_batch_size_sum{model="demo"}"#, 20.0),
        ("tagmill_inflight_jobs", 0.0),
        ("tagmill_redeliveries_total", 0.0),
        ("tagmill_waiting_answers", 0.0),
        ("tagmill_ready", 1.0),
        ("tagmill_nats_connected", 1.0),
    ] {
        assert_eq!(worker.metric(series).await, Some(value), "{series} in\n{text}");
    }
    for family in [
        "# TYPE tagmill_batches_total counter",
        "# TYPE tagmill_backpressure_seconds_total counter",
        "# TYPE tagmill_backlog_jobs gauge",
        "# TYPE tagmill_oldest_job_seconds gauge",
        "# TYPE tagmill_stage_seconds histogram",
        "tagmill_model_info{model=\"demo\",sha256=\"",
        "tagmill_build_info{version=\"",
        "# TYPE process_resident_memory_bytes gauge",
    ] {
        assert!(text.contains(family), "{family} in\n{text}");
    }
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().expect("a name");
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help text");
    }
}

/// Time in stages and backpressure as a share of the time of all jobs.
async fn accounted_for(worker: &Worker) -> f64 {
    let (_, text) = worker.get("/metrics").await;
    let jobs = sum(&text, "tagmill_job_seconds_sum", "-");
    let stages = sum(&text, "tagmill_stage_seconds_sum", "\"queue\"");
    let share = (stages + sum(&text, "tagmill_backpressure_seconds_total", "-")) / jobs;
    println!("{share} of {jobs} s in\n{text}");
    share
}

/// Adds up every series of a metric whose labels do not contain `but`.
fn sum(text: &str, name: &str, but: &str) -> f64 {
    let series = text.lines().filter(|line| line.starts_with(name) && !line.contains(but));
    series.map(|line| line.rsplit_once(' ').expect("a value").1.parse::<f64>().expect("a number")).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_and_backpressure_account_for_the_time_of_jobs() {
    let nats = NatsServer::start();
    let worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    client.submit_samples(400).await;
    client.results(400).await;
    client.queue_is_empty().await;
    let share = accounted_for(&worker).await;
    assert!((0.9..=1.01).contains(&share), "{share}");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_do_they_where_jobs_are_quarantined_and_wait_for_their_model() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    client.submit_quarantined(20).await;
    for number in 0..20 {
        let job = json!({ "id": number.to_string(), "image": "orange-sunset.jpg", "model": "wd-v2" });
        client.publish("tagmill.jobs", HeaderMap::new(), job.to_string()).await;
    }
    let models = repository("tests/models/families").display().to_string();
    let worker = Worker::start_with(&nats, &samples(), &["--models", &models, "--model", "wd-v3"], &[]);
    client.results(40).await;
    client.queue_is_empty().await;
    let share = accounted_for(&worker).await;
    assert!((0.9..=1.01).contains(&share), "{share}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_can_be_json_and_say_nothing_per_tagged_job() {
    let nats = NatsServer::start();
    let worker = Worker::start_with(&nats, &samples(), &["--log-format", "json"], &[]);
    let client = Client::connect(&nats).await;
    let before = worker.log().lines().count();
    client.submit_samples(10).await;
    client.results(10).await;
    let log = worker.log();
    assert_eq!(log.lines().count(), before, "{log}");
    for line in log.lines() {
        let json: Value = serde_json::from_str(line).expect("every line is JSON");
        assert!(json["level"].is_string() && json["message"].is_string(), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_job_after_job_is_said_once() {
    let nats = NatsServer::start();
    let worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    for number in 0..20 {
        client.submit(&format!("missing-{number}"), "missing.png").await;
        client.submit(&format!("corrupt-{number}"), "data:image/png;base64,iVBORw0KGgo=").await;
    }
    client.dead(40).await;
    let log = worker.log();
    for code in ["image_not_found", "image_undecodable"] {
        assert_eq!(log.matches(&format!("code={code}")).count(), 1, "{code} in\n{log}");
    }
}

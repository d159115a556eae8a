//! Stops of workers and servers, and the jobs that outlive them.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::client::{Answer, Client};
use crate::support::nats::NatsServer;
use crate::support::s3::{Fault, S3Server};
use crate::support::worker::Worker;
use crate::support::{repository, samples, until};

const JOBS: usize = 1500;

/// Checks that every job has one result and the queue is empty.
async fn all_answered(client: &Client) {
    client.queue_is_empty().await;
    let results = client.results(JOBS).await;
    let ids: HashSet<_> = results.iter().map(Answer::id).collect();
    assert_eq!(ids.len(), JOBS, "a job was lost or answered twice");
    assert_eq!(client.count("TAGMILL_RESULTS").await, JOBS as u64);
    assert_eq!(client.count("TAGMILL_DEAD").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_told_to_stop_finishes_what_it_has_and_leaves_the_rest() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    // So long that jobs which are not handed back would be missed.
    client.make_queue(Duration::from_mins(10), 1).await;
    let mut worker = Worker::start(&nats);
    client.submit_samples(JOBS / 2).await;
    client.results(20).await;
    worker.signal("TERM");
    let told = Instant::now();
    let submitting = client.submit_samples_from(JOBS / 2, JOBS);
    submitting.await;
    assert!(worker.ended().success(), "{}", worker.log());
    assert!(told.elapsed() < Duration::from_secs(25));
    assert!(client.consumer().await.num_pending > 0, "there is something left to do");
    let _other = Worker::start(&nats);
    all_answered(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_a_killed_worker_go_to_another() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_secs(2), 1).await;
    let worker = Worker::start(&nats);
    client.submit_samples(JOBS).await;
    client.results(20).await;
    worker.signal("KILL");
    drop(worker);
    assert!(client.consumer().await.num_ack_pending > 0, "it was killed with jobs in hand");
    let other = Worker::start(&nats);
    all_answered(&client).await;
    assert!(other.metric("tagmill_redeliveries_total").await > Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_is_waited_for() {
    let mut nats = NatsServer::start();
    let worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    client.submit("before", "orange-sunset.jpg").await;
    client.results(1).await;
    assert_eq!(worker.get("/readyz").await.0, 200);

    nats.kill();
    until("the worker to notice", || async { (worker.get("/readyz").await.0 == 503).then_some(()) }).await;
    assert_eq!(worker.metric("tagmill_nats_connected").await, Some(0.0));
    assert_eq!(worker.metric("tagmill_ready").await, Some(0.0));
    assert_eq!(worker.metric("tagmill_backlog_jobs").await, None, "nothing is known of it");
    assert_eq!(worker.metric("tagmill_oldest_job_seconds").await, None);
    assert_eq!(worker.get("/healthz").await.0, 200, "waiting is no reason to be restarted");

    nats.restart();
    let client = Client::connect(&nats).await;
    client.submit("after", "orange-sunset.jpg").await;
    let results = client.results(2).await;
    assert_eq!(results[1].id(), "after");
    assert_eq!(worker.metric("tagmill_nats_connected").await, Some(1.0));
    assert_eq!(worker.get("/readyz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_trouble_is_waited_for_and_costs_no_attempt() {
    let (nats, mut s3) = (NatsServer::start(), S3Server::start("images").await);
    s3.put("images", "sunset.jpg", &repository("samples/orange-sunset.jpg"));
    let worker = Worker::start_with(&nats, "s3://images", &["--max-attempts", "1"], &s3.environment());
    let client = Client::connect(&nats).await;
    s3.stop();
    for number in 0..30 {
        client.submit(&number.to_string(), "sunset.jpg").await;
    }
    worker.logged("the store is in trouble");
    until("the worker to be unready", || async { (worker.get("/readyz").await.0 == 503).then_some(()) }).await;
    assert_eq!(worker.log().matches("the store is in trouble").count(), 1, "said once, not per job");
    assert!(!worker.log().contains("backing off"), "nor does the client say each attempt: {}", worker.log());
    assert_eq!(client.count("TAGMILL_DEAD").await, 0);

    s3.resume().await;
    let results = client.results(30).await;
    assert!(results.iter().all(|result| result.json["attempt"] == 1), "waiting is not an attempt");
    client.queue_is_empty().await;
    assert_eq!(client.count("TAGMILL_DEAD").await, 0);
    assert_eq!(worker.get("/readyz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_waits_for_a_store_hands_its_jobs_back_at_once_when_told_to_stop() {
    let (nats, mut s3) = (NatsServer::start(), S3Server::start("images").await);
    let mut worker = Worker::start_with(&nats, "s3://images", &[], &s3.environment());
    let client = Client::connect(&nats).await;
    s3.stop();
    client.submit("one", "sunset.jpg").await;
    worker.logged("the store is in trouble");
    worker.signal("TERM");
    let told = Instant::now();
    assert!(worker.ended().success(), "{}", worker.log());
    assert!(told.elapsed() < Duration::from_secs(15), "it need not wait for the drain timeout");
    // The job is redelivered long before the ack wait of half a minute.
    client.take_without_answer(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_told_twice_to_stop_stops_at_once_and_leaves_its_jobs() {
    let (nats, s3) = (NatsServer::start(), S3Server::start("images").await);
    s3.fault("slow.jpg", Fault::Stalled);
    let mut worker = Worker::start_with(&nats, "s3://images", &["--drain-timeout", "10m"], &s3.environment());
    let client = Client::connect(&nats).await;
    client.submit("one", "slow.jpg").await;
    until("the job to be taken", || async { (client.consumer().await.num_ack_pending == 1).then_some(()) }).await;
    worker.signal("TERM");
    worker.logged("finishing what is in hand");
    worker.signal("TERM");
    assert!(worker.ended().success(), "{}", worker.log());
    assert!(worker.log().contains("handing back jobs jobs=1"), "{}", worker.log());
    client.take_without_answer(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_results_of_a_queue_made_anew_are_no_duplicates_of_the_old() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    for round in 1..=2 {
        let mut worker = Worker::start(&nats);
        client.submit("one", "orange-sunset.jpg").await;
        client.results(round).await;
        client.queue_is_empty().await;
        worker.signal("TERM");
        worker.ended();
        client.jetstream.delete_stream("TAGMILL_JOBS").await.expect("it is there");
        // The stream's creation time has a resolution of a second.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_comes_often_is_tagged_like_any_other() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_secs(30), 1).await;
    client.submit("often", "orange-sunset.jpg").await;
    // As after many orderly restarts or killed workers.
    client.take_without_answer(14).await;
    let _worker = Worker::start_with(&nats, &samples(), &["--max-attempts", "3"], &[]);
    assert_eq!(client.results(1).await[0].json["attempt"], 15);
    client.queue_is_empty().await;
    assert_eq!(client.count("TAGMILL_DEAD").await, 0, "deliveries alone decide nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantined_jobs_are_tagged_like_any_other() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    client.submit_quarantined(20).await;
    for number in 0..40 {
        client.submit(&format!("fresh-{number}"), "orange-sunset.jpg").await;
    }
    let worker = Worker::start(&nats);
    let results = client.results(60).await;
    let quarantined: Vec<_> = results.iter().filter(|result| result.id().starts_with("quarantined")).collect();
    assert_eq!(quarantined.len(), 20);
    assert!(quarantined.iter().all(|quarantined| quarantined.json["attempt"] == 3));
    client.queue_is_empty().await;
    assert_eq!(worker.metric("tagmill_redeliveries_total").await, Some(20.0));
}

/// Stops the worker, and publishes two quarantined jobs and another one for this model before it can pull any of them.
async fn submit_quarantined_unseen(client: &Client, worker: &Worker, model: &str) {
    // A worker without an open pull request could send one unnoticed.
    let asks = async || (client.consumer().await.num_waiting > 0).then_some(());
    until("it to ask for jobs", asks).await;
    worker.signal("STOP");
    let over = async || (client.consumer().await.num_waiting == 0).then_some(());
    until("its requests for jobs to be over", over).await;
    for id in ["quarantined-1", "quarantined-2"] {
        client.submit(id, "orange-sunset.jpg").await;
    }
    client.take_without_answer(2).await;
    let beside = json!({ "id": "beside", "image": "orange-sunset.jpg", "model": model });
    client.publish("tagmill.jobs", async_nats::HeaderMap::new(), beside.to_string()).await;
}

/// Checks that a request with an image is answered.
async fn is_answered(worker: &Worker) {
    let image = STANDARD.encode(std::fs::read(repository("samples/orange-sunset.jpg")).expect("a sample"));
    let url = worker.url("/v1/vision/caption");
    let request = reqwest::Client::new().post(url).json(&json!({ "image": image }));
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), 200, "{:?} {}", answer.text().await, worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantined_jobs_keep_nobody_waiting_while_a_store_is_away() {
    let (nats, mut s3) = (NatsServer::start(), S3Server::start("images").await);
    s3.put("images", "orange-sunset.jpg", &repository("samples/orange-sunset.jpg"));
    let client = Client::connect(&nats).await;
    let worker = Worker::start_with(&nats, "s3://images", &["--http-timeout", "10s"], &s3.environment());
    submit_quarantined_unseen(&client, &worker, "demo").await;
    s3.stop();
    worker.signal("CONT");
    worker.logged("the store is in trouble");
    is_answered(&worker).await;

    s3.resume().await;
    let results = client.results(3).await;
    let attempts: BTreeMap<_, _> =
        results.iter().map(|result| (result.id(), result.json["attempt"].as_u64())).collect();
    let expected = BTreeMap::from([("beside", Some(1)), ("quarantined-1", Some(3)), ("quarantined-2", Some(3))]);
    assert_eq!(attempts, expected, "to wait for a store is no attempt");
    client.queue_is_empty().await;
    assert_eq!(client.count("TAGMILL_DEAD").await, 0, "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantined_job_that_waits_for_a_store_keeps_no_model_from_making_room() {
    let (nats, mut s3) = (NatsServer::start(), S3Server::start("images").await);
    s3.put("images", "orange-sunset.jpg", &repository("samples/orange-sunset.jpg"));
    let models = tempfile::tempdir().expect("a folder");
    for name in ["demo", "other"] {
        std::os::unix::fs::symlink(repository("models/demo"), models.path().join(name)).expect("a link");
    }
    let models = models.path().display().to_string();
    let client = Client::connect(&nats).await;
    let arguments = ["--models", &models, "--model", "demo", "--max-models", "1"];
    let worker = Worker::start_with(&nats, "s3://images", &arguments, &s3.environment());
    submit_quarantined_unseen(&client, &worker, "other").await;
    s3.stop();
    worker.signal("CONT");
    worker.logged("the store is in trouble");
    s3.resume().await;
    client.results(3).await;
    client.queue_is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantined_job_that_can_never_be_read_is_refused_for_that() {
    let (nats, s3) = (NatsServer::start(), S3Server::start("images").await);
    s3.fault("broken.jpg", Fault::Broken);
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_secs(30), 1).await;
    // More failures than mark the store as faulty, and then a job whose image exists.
    for number in 0..9 {
        client.submit(&number.to_string(), "broken.jpg").await;
    }
    client.take_without_answer(2).await;
    s3.put("images", "fine.jpg", &repository("samples/orange-sunset.jpg"));
    client.submit("fine", "fine.jpg").await;
    let _worker = Worker::start_with(&nats, "s3://images", &["--max-attempts", "3"], &s3.environment());
    let letters = client.dead(9).await;
    assert!(letters.iter().all(|letter| letter.code() == "storage_unavailable"), "{letters:?}");
    client.results(1).await;
    client.queue_is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_while_answers_of_the_queue_can_not_be() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    let worker = Worker::start_with(&nats, &samples(), &["--http-timeout", "10s"], &[]);
    submit_quarantined_unseen(&client, &worker, "demo").await;
    // The answers to the other two jobs wait.
    client.limit_results(1).await;
    worker.signal("CONT");
    worker.logged("the stream of this subject has no room");
    is_answered(&worker).await;
    assert!(worker.get("/readyz").await.1.contains(r#""answers":false"#));
    assert!(worker.metric("tagmill_waiting_answers").await > Some(0.0));
    client.limit_results(-1).await;
    client.results(3).await;
    let stored = async || worker.get("/readyz").await.1.contains(r#""answers":true"#).then_some(());
    until("the answers to be stored", stored).await;
    worker.logged("all answers are stored");
    client.queue_is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_ends_the_worker_with_a_clear_error() {
    let nats = NatsServer::start();
    let mut worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    client.jetstream.delete_stream("TAGMILL_JOBS").await.expect("it is there");
    assert_eq!(worker.ended().code(), Some(1));
    assert!(worker.log().contains("TAGMILL_JOBS is gone"), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_answer_is_on_its_way_is_not_handed_back_for_another() {
    let (nats, s3) = (NatsServer::start(), S3Server::start("images").await);
    s3.fault("gone.jpg", Fault::Stalled);
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_mins(10), 1).await;
    let mut worker = Worker::start_with(&nats, "s3://images", &["--drain-timeout", "10m"], &s3.environment());
    client.submit("gone", "gone.jpg").await;
    until("the job to be taken", || async { (client.consumer().await.num_ack_pending == 1).then_some(()) }).await;
    nats.signal("STOP");
    s3.heal("gone.jpg");
    worker.logged("a job becomes a dead letter");
    worker.signal("TERM");
    worker.logged("finishing what is in hand");
    worker.signal("TERM");
    worker.logged("stopping at once");
    nats.signal("CONT");
    assert!(worker.ended().success(), "{}", worker.log());
    assert_eq!(client.dead(1).await[0].id(), "gone");
    client.queue_is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_the_dead_letters_of_what_never_came_in() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_mins(10), 1).await;
    let mut worker = Worker::start_with(&nats, &samples(), &["--drain-timeout", "10m"], &[]);
    client.take_dead(&["elsewhere"]).await;
    client.publish("tagmill.jobs", async_nats::HeaderMap::new(), r#"{"Records":[7]}"#).await;
    worker.logged("no stream takes this subject");
    worker.signal("TERM");
    worker.logged("finishing what is in hand");
    client.take_dead(&["tagmill.dead", "tagmill.dead.>"]).await;
    assert!(worker.ended().success(), "{}", worker.log());
    assert_eq!(client.dead(1).await[0].code(), "bad_job");
    client.queue_is_empty().await;
}

//! Many requests at once, stops, and storage that fails.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use super::{Answer, IMAGES, base64, client, get, is_tagged, post};
use crate::support::nats::NatsServer;
use crate::support::s3::{Fault, S3Server};
use crate::support::worker::Worker;
use crate::support::{repository, samples, until};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_brings_is_not_of_the_budget() {
    let s3 = S3Server::start("images").await;
    s3.put("images", "stuck.jpg", &repository("samples/orange-sunset.jpg"));
    s3.fault("stuck.jpg", Fault::Stalled);
    let server = Worker::serve(&["--store", "s3://images"], &s3.environment());
    let body = format!(r#"{{"image":"stuck.jpg"{}}}"#, " ".repeat(1 << 20));
    let request = client().post(server.url("/v1/vision/caption")).header("Content-Type", "application/json").body(body);
    let asked = tokio::spawn(request.send());
    until("it to be in flight", || async { (server.metric("tagmill_inflight_jobs").await? >= 1.0).then_some(()) })
        .await;
    assert_eq!(server.metric("tagmill_memory_reserved_bytes").await, Some(0.0));
    s3.heal("stuck.jpg");
    assert_eq!(asked.await.expect("no panic").expect("an answer").status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_at_once_are_all_answered() {
    let server = Worker::serve(&["--store", &samples()], &[]);
    let (client, url) = (client(), server.url("/v1/vision/caption"));
    let bodies = IMAGES.map(|(name, tag)| (json!({ "image": base64(name) }), tag));
    let ask = |number: usize| {
        let (body, tag) = &bodies[number % bodies.len()];
        let request = client.post(&url).json(body);
        async move { (Answer::to(request).await, *tag) }
    };
    for (answer, tag) in join_all((0..200).map(ask)).await {
        assert_eq!(answer.status, 200, "{}", answer.json);
        is_tagged(&answer.json, tag);
    }
    assert_eq!(server.metric("tagmill_inflight_jobs").await, Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_says_so_at_once_and_a_large_request_takes_turns() {
    let s3 = S3Server::start("images").await;
    for name in ["stuck.jpg", "good.jpg"] {
        s3.put("images", name, &repository("samples/orange-sunset.jpg"));
    }
    // One batch of one: 32 places.
    let server = Worker::serve(&["--store", "s3://images", "--batch-size", "1"], &s3.environment());
    let many = json!({ "images": vec!["good.jpg"; 100] });
    let answer = post(&server, "/v1/vision/batch-caption", many).await;
    assert_eq!((answer.status, answer.json["count"].as_u64()), (200, Some(100)));
    answer.json["captions"].as_array().expect("captions").iter().for_each(|slot| is_tagged(slot, "orange"));

    s3.fault("stuck.jpg", Fault::Stalled);
    let (client, url) = (client(), server.url("/v1/vision/caption"));
    let stuck: Vec<_> =
        (0..32).map(|_| tokio::spawn(client.post(&url).json(&json!({ "image": "stuck.jpg" })).send())).collect();
    until("32 in flight", || async { (server.metric("tagmill_inflight_jobs").await? >= 32.0).then_some(()) }).await;
    let began = Instant::now();
    let refused = post(&server, "/v1/vision/caption", json!({ "image": "good.jpg" })).await;
    assert_eq!(refused.error(), (429, "overloaded"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(began.elapsed() < Duration::from_secs(5), "at once");
    assert_eq!(get(&server, "/v1/models").await.status, 200, "what takes no place is answered");
    stuck.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_any_more_is_not_tagged() {
    let s3 = S3Server::start("images").await;
    s3.put("images", "slow.jpg", &repository("samples/orange-sunset.jpg"));
    s3.fault("slow.jpg", Fault::Stalled);
    let server = Worker::serve(&["--store", "s3://images", "--http-timeout", "500ms"], &s3.environment());
    let late = post(&server, "/v1/vision/caption", json!({ "image": "slow.jpg" })).await;
    assert_eq!(late.error(), (429, "overloaded"));
    let message = late.json["error"]["message"].as_str().expect("a message");
    assert!(message.contains("--http-timeout"), "{message}");
    let left = client().post(server.url("/v1/vision/caption")).json(&json!({ "image": "slow.jpg" }));
    assert!(left.timeout(Duration::from_millis(100)).send().await.is_err());
    until("the read to be given up", || async {
        (server.metric("tagmill_jobs_total{source=\"http\",outcome=\"rejected\"}").await? >= 2.0).then_some(())
    })
    .await;
    let batches = server.metric("tagmill_batch_size_count{model=\"demo\"}").await;
    assert!(batches.is_none_or(|batches| batches < 1.0), "{batches:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_requests_in_hand_and_takes_no_more() {
    let s3 = S3Server::start("images").await;
    for name in ["slow.jpg", "good.jpg"] {
        s3.put("images", name, &repository("samples/orange-sunset.jpg"));
    }
    s3.fault("slow.jpg", Fault::Stalled);
    // Sixteen places for one request: the others of its images wait when the stop comes.
    let arguments = ["--store", "s3://images", "--batch-size", "1"];
    let mut server = Worker::serve(&arguments, &s3.environment());
    assert!(get(&server, "/readyz").await.json.get("nats").is_none(), "there is no broker");
    let images = [vec!["slow.jpg"; 20], vec!["good.jpg"; 20]].concat();
    let request = client().post(server.url("/v1/vision/batch-caption")).json(&json!({ "images": images }));
    let answer = tokio::spawn(Answer::to(request));
    until("it to be in flight", || async { (server.metric("tagmill_inflight_jobs").await? >= 16.0).then_some(()) })
        .await;
    server.signal("TERM");
    server.logged("finishing what is in hand");
    let late = post(&server, "/v1/vision/caption", json!({ "image": base64("orange-sunset.jpg") })).await;
    assert_eq!(late.error(), (503, "shutting_down"));
    assert_eq!(get(&server, "/readyz").await.status, 503);
    // The reads that stand still go on.
    s3.heal("slow.jpg");
    let answer = answer.await.expect("no panic");
    assert_eq!(answer.status, 200);
    let captions = answer.json["captions"].as_array().expect("captions");
    assert_eq!(captions.len(), 40);
    for slot in captions {
        is_tagged(slot, "orange");
    }
    assert!(server.ended().success(), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_may_not_wait_answers_what_it_leaves() {
    let s3 = S3Server::start("images").await;
    s3.put("images", "stuck.jpg", &repository("samples/orange-sunset.jpg"));
    s3.fault("stuck.jpg", Fault::Stalled);
    let mut server = Worker::serve(&["--store", "s3://images", "--drain-timeout", "200ms"], &s3.environment());
    let request = client().post(server.url("/v1/vision/caption")).json(&json!({ "image": "stuck.jpg" }));
    let answer = tokio::spawn(Answer::to(request));
    until("it to be in flight", || async { (server.metric("tagmill_inflight_jobs").await? >= 1.0).then_some(()) })
        .await;
    server.signal("TERM");
    assert_eq!(answer.await.expect("no panic").error(), (503, "shutting_down"));
    assert!(server.ended().success(), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_fails_is_told_and_not_waited_for() {
    let mut s3 = S3Server::start("images").await;
    s3.put("images", "a.jpg", &repository("samples/orange-sunset.jpg"));
    let server = Worker::serve(&["--store", "s3://images"], &s3.environment());
    s3.stop();
    let answer = post(&server, "/v1/vision/caption", json!({ "image": "a.jpg" })).await;
    assert_eq!(answer.error(), (503, "storage_unavailable"));
    assert_eq!(get(&server, "/readyz").await.status, 503);
    s3.resume().await;
    until("the store", || async { (get(&server, "/readyz").await.status == 200).then_some(()) }).await;
    let answer = post(&server, "/v1/vision/caption", json!({ "image": "a.jpg" })).await;
    is_tagged(&answer.json, "orange");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_serves_the_same_beside_its_queue() {
    let nats = NatsServer::start();
    let mut worker = Worker::start(&nats);
    let answer = post(&worker, "/v1/vision/caption", json!({ "image": "orange-sunset.jpg" })).await;
    is_tagged(&answer.json, "orange");
    assert_eq!(get(&worker, "/readyz").await.json["nats"], true);
    assert_eq!(worker.metric("tagmill_jobs_total{source=\"http\",outcome=\"tagged\"}").await, Some(1.0));
    worker.signal("TERM");
    assert!(worker.ended().success(), "{}", worker.log());
}

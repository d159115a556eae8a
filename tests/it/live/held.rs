//! Requests that a worker holds, and what becomes of them and of others when it is full or leaves.

use std::time::Duration;

use async_nats::{HeaderMap, Message, RequestErrorKind};
use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::json;

use super::{SUBJECT, ask, code, header, read, request, tag};
use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::s3::{Fault, S3Server};
use crate::support::worker::Worker;
use crate::support::{PATIENCE, repository, samples, until};

/// Sends so many requests whose image stands still, and waits until the worker has them all.
async fn hold(client: &Client, worker: &Worker, count: u32, headers: &HeaderMap) -> async_nats::Subscriber {
    let nats = client.jetstream.client();
    let inbox = nats.new_inbox();
    let answers = nats.subscribe(inbox.clone()).await.expect("an inbox");
    for _ in 0..count {
        let job = r#"{"image":"slow.jpg"}"#.into();
        nats.publish_with_reply_and_headers(SUBJECT, inbox.clone(), headers.clone(), job).await.expect("it is sent");
    }
    until("requests to be held", || async {
        (worker.metric("tagmill_inflight_jobs").await == Some(f64::from(count))).then_some(())
    })
    .await;
    answers
}

/// A bucket with one image that stands still until it is healed.
async fn slow_bucket() -> S3Server {
    let s3 = S3Server::start("images").await;
    s3.put("images", "slow.jpg", &repository("samples/orange-sunset.jpg"));
    s3.put("images", "fast.jpg", &repository("samples/orange-sunset.jpg"));
    s3.fault("slow.jpg", Fault::Stalled);
    s3
}

async fn next(answers: &mut async_nats::Subscriber) -> Message {
    tokio::time::timeout(PATIENCE, answers.next()).await.expect("an answer in time").expect("an endless subscription")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_worker_says_so_at_once() {
    let (nats, s3) = (NatsServer::start(), slow_bucket().await);
    let worker = Worker::start_with(&nats, "s3://images", &["--batch-size", "2"], &s3.environment());
    let client = Client::connect(&nats).await;
    tag(&client, "fast.jpg").await;
    // Thirty-two batches of two.
    let mut held = hold(&client, &worker, 64, &HeaderMap::new()).await;
    assert_eq!(code(&tag(&client, "fast.jpg").await), "overloaded");
    client.jetstream.client().publish(SUBJECT, r#"{"id":"late","image":"fast.jpg"}"#.into()).await.expect("it is sent");
    let letters = client.dead(1).await;
    assert_eq!((letters[0].id(), letters[0].code()), ("late", "overloaded"));
    s3.heal("slow.jpg");
    for _ in 0..64 {
        assert_eq!(code(&next(&mut held).await), "no error");
    }
    assert_eq!(code(&tag(&client, "fast.jpg").await), "no error", "there is room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_does_not_wait_for_the_company_of_a_job() {
    let (nats, s3) = (NatsServer::start(), slow_bucket().await);
    let _worker = Worker::start_with(&nats, "s3://images", &["--window", "1h"], &s3.environment());
    let client = Client::connect(&nats).await;
    tag(&client, "fast.jpg").await;
    client.submit("bulk", "slow.jpg").await;
    s3.stalled("slow.jpg").await;
    // Before the stalled read is given up, which takes 10 s.
    let answer = request(&client, header("Tagmill-Timeout", "5s"), r#"{"image":"fast.jpg"}"#).await;
    assert_eq!(code(&answer), "no error", "a job is on its way, which nobody waits for");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_too_late_for_its_caller_costs_no_inference() {
    let (nats, s3) = (NatsServer::start(), slow_bucket().await);
    let worker = Worker::start_with(&nats, "s3://images", &["--live-timeout", "150ms"], &s3.environment());
    let client = Client::connect(&nats).await;
    request(&client, header("Tagmill-Timeout", "1m"), r#"{"image":"fast.jpg"}"#).await;
    let tagged = worker.metric("tagmill_stage_seconds_count{stage=\"infer\"}").await;
    for headers in [header("Tagmill-Timeout", "150ms"), HeaderMap::new()] {
        s3.fault("slow.jpg", Fault::Stalled);
        let mut held = hold(&client, &worker, 3, &headers).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        s3.heal("slow.jpg");
        for _ in 0..3 {
            assert_eq!(code(&next(&mut held).await), "overloaded");
        }
    }
    assert_eq!(worker.metric("tagmill_stage_seconds_count{stage=\"infer\"}").await, tagged);
    let malformed = request(&client, header("Tagmill-Timeout", "soon"), r#"{"id":"x","image":"fast.jpg"}"#).await;
    assert_eq!((code(&malformed), &read(&malformed)["id"]), ("bad_job".to_owned(), &json!("x")));
    assert!(read(&malformed)["error"]["message"].as_str().expect("a text").contains("Tagmill-Timeout"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_drains_leaves_the_group_and_answers_what_it_has() {
    let (nats, s3) = (NatsServer::start(), slow_bucket().await);
    let mut worker = Worker::start_with(&nats, "s3://images", &["--batch-size", "32"], &s3.environment());
    let client = Client::connect(&nats).await;
    tag(&client, "fast.jpg").await;
    let mut held = hold(&client, &worker, 200, &HeaderMap::new()).await;
    worker.signal("TERM");
    let asking = client.jetstream.client();
    until("the worker to leave", || async {
        let request = async_nats::Request::new().payload(r#"{"image":"slow.jpg"}"#.into()).timeout(Some(PATIENCE));
        let refused = tokio::time::timeout(Duration::from_millis(500), asking.send_request(SUBJECT, request)).await;
        matches!(refused, Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders).then_some(())
    })
    .await;
    s3.heal("slow.jpg");
    for _ in 0..200 {
        assert_eq!(code(&next(&mut held).await), "no error");
    }
    assert!(worker.ended().success(), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_drain_has_no_time_for_is_answered_too() {
    let (nats, s3) = (NatsServer::start(), slow_bucket().await);
    let arguments = ["--drain-timeout", "300ms"];
    let mut worker = Worker::start_with(&nats, "s3://images", &arguments, &s3.environment());
    let client = Client::connect(&nats).await;
    tag(&client, "fast.jpg").await;
    let mut held = hold(&client, &worker, 20, &HeaderMap::new()).await;
    worker.signal("TERM");
    for _ in 0..20 {
        assert_eq!(code(&next(&mut held).await), "shutting_down");
    }
    assert!(worker.ended().success(), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn others_answer_what_a_leaving_worker_no_longer_takes() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    let stays = Worker::start_with(&nats, &samples(), &["--batch-size", "32"], &[]);
    let mut goes = Worker::start_with(&nats, &samples(), &["--batch-size", "32"], &[]);
    tag(&client, "night-sky.png").await;
    // Where few requests are under way the worker drains its subscription, which the client library lets go of an instant
    // before the server does; it drops what comes in between.
    let nats = client.jetstream.client();
    let ask = || {
        let request = async_nats::Request::new().payload(r#"{"image":"night-sky.png"}"#.into());
        nats.send_request(SUBJECT, request.timeout(Some(Duration::from_secs(10))))
    };
    let asking = async {
        let mut lost = 0;
        for _ in 0..10 {
            for answer in join_all((0..20).map(|_| ask())).await {
                match answer {
                    Ok(answer) => assert_eq!(code(&answer), "no error"),
                    Err(error) if error.kind() == RequestErrorKind::TimedOut => lost += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        assert!(lost <= 1, "{lost} requests were not answered");
    };
    let leaving = async {
        goes.signal("TERM");
        tokio::task::spawn_blocking(move || goes.ended().success()).await.expect("no panic")
    };
    let ((), left) = tokio::time::timeout(PATIENCE, async { tokio::join!(asking, leaving) }).await.expect("in time");
    assert!(left && stays.metric("tagmill_ready").await == Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_is_there_again_after_a_restart_of_the_server() {
    let mut nats = NatsServer::start();
    let worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    tag(&client, "night-sky.png").await;
    nats.kill();
    worker.logged("NATS is gone");
    nats.restart();
    worker.logged("connected to NATS again");
    let client = Client::connect(&nats).await;
    assert_eq!(code(&tag(&client, "night-sky.png").await), "no error");
    assert_eq!(ask(&client, "$SRV.PING.tagmill", 1).await.len(), 1);
}

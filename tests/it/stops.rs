//! SIGTERM while something stands still: the worker ends within its drain timeout and a moment, regardless of the stall.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::s3::{Fault, S3Server};
use crate::support::worker::Worker;
use crate::support::{repository, samples, until};

const DRAIN: [&str; 2] = ["--drain-timeout", "1s"];

/// The drain timeout, the two seconds promised beyond it, and as much again because other tests share the machine.
const BOUND: Duration = Duration::from_secs(6);

/// Sends SIGTERM, and checks that the worker ends in time and by itself, with this exit code.
fn stop(worker: &mut Worker, code: i32) {
    worker.signal("TERM");
    let told = Instant::now();
    let status = worker.ended();
    assert!(told.elapsed() < BOUND, "{:?}\n{}", told.elapsed(), worker.log());
    assert_eq!(status.code(), Some(code), "{status}\n{}", worker.log());
}

async fn in_flight(client: &Client, jobs: usize) {
    until("the jobs to be taken", || async { (client.consumer().await.num_ack_pending == jobs).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_an_object_does_not_come() {
    let (nats, s3) = (NatsServer::start(), S3Server::start("images").await);
    s3.fault("slow.jpg", Fault::Stalled);
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_secs(30), 1).await;
    let mut worker = Worker::start_with(&nats, "s3://images", &DRAIN, &s3.environment());
    client.submit("one", "slow.jpg").await;
    s3.stalled("slow.jpg").await;
    stop(&mut worker, 0);
    client.take_without_answer(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_down() {
    let (nats, mut s3) = (NatsServer::start(), S3Server::start("images").await);
    let mut worker = Worker::start_with(&nats, "s3://images", &DRAIN, &s3.environment());
    let client = Client::connect(&nats).await;
    s3.stop();
    client.submit("one", "sunset.jpg").await;
    worker.logged("the store is in trouble");
    stop(&mut worker, 0);
    client.take_without_answer(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_models_are_being_fetched() {
    let (nats, s3) = (NatsServer::start(), S3Server::start("models").await);
    for file in ["model.onnx", "selected_tags.csv"] {
        let source = repository("models/demo").join(file);
        s3.put("models", &format!("demo/{file}"), &source);
    }
    s3.fault("model.onnx", Fault::Stalled);
    let cache = tempfile::tempdir().expect("a folder");
    let cache = cache.path().to_str().expect("UTF-8");
    let arguments = ["--drain-timeout", "1s", "--models", "s3://models", "--models-cache", cache];
    let mut worker = Worker::spawn(&nats, &samples(), &arguments, &s3.environment());
    s3.stalled("model.onnx").await;
    worker.signal("TERM");
    let told = Instant::now();
    worker.ended();
    assert!(told.elapsed() < BOUND, "{:?}\n{}", told.elapsed(), worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_stands_still_or_is_gone() {
    for is_killed in [false, true] {
        let mut nats = NatsServer::start();
        let s3 = S3Server::start("images").await;
        s3.fault("slow.jpg", Fault::Stalled);
        let client = Client::connect(&nats).await;
        let mut worker = Worker::start_with(&nats, "s3://images", &DRAIN, &s3.environment());
        client.submit("one", "slow.jpg").await;
        s3.stalled("slow.jpg").await;
        if is_killed {
            nats.kill();
        } else {
            nats.signal("STOP");
        }
        stop(&mut worker, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_answers_find_no_stream() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    let mut worker = Worker::start_with(&nats, &samples(), &DRAIN, &[]);
    client.take_results(&["tagmill.parked"]).await;
    client.submit_samples(4).await;
    until("answers to wait", || async { (worker.metric("tagmill_waiting_answers").await? > 0.0).then_some(()) }).await;
    stop(&mut worker, 0);
    client.take_results(&["tagmill.results", "tagmill.results.>"]).await;
    let _other = Worker::start(&nats);
    client.results(4).await;
    client.queue_is_empty().await;
    assert_eq!(client.count("TAGMILL_RESULTS").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_client_does_not_end_its_request() {
    let nats = NatsServer::start();
    let mut worker = Worker::start_with(&nats, &samples(), &DRAIN, &[]);
    let mut client = TcpStream::connect(worker.address()).expect("it listens");
    let head = "POST /v1/vision/caption HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{\"image\": \"";
    client.write_all(head.as_bytes()).expect("it reads");
    until("the request to be read", || async {
        (worker.metric("tagmill_memory_reserved_bytes").await.is_some()).then_some(())
    })
    .await;
    stop(&mut worker, 0);
}

/// A store with a picture of the test format.
fn test_picture(folder: &Path) -> String {
    std::fs::write(folder.join("hang.jpg"), "tagmill-test:hang").expect("a file");
    format!("file://{}", folder.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_decoder_stands_still_in_the_worker_and_in_a_process_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = test_picture(folder.path());
    for is_quarantined in [false, true] {
        let nats = NatsServer::start();
        let client = Client::connect(&nats).await;
        client.make_queue(Duration::from_secs(30), 1).await;
        client.submit("hang", "hang.jpg").await;
        if is_quarantined {
            client.take_without_answer(2).await;
        }
        let pictures = ("TAGMILL_TEST_PICTURES", "1".to_owned());
        let mut worker = Worker::start_with(&nats, &store, &DRAIN, &[pictures]);
        in_flight(&client, 1).await;
        if is_quarantined {
            until("an isolated decoder", || async { worker.children().first().copied() }).await;
        }
        stop(&mut worker, 0);
        client.take_without_answer(1).await;
    }
}

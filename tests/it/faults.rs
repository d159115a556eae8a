//! Each single step fails, and costs at most a retry of its own job.

use std::io::Cursor;
use std::time::Duration;

use async_nats::{ConnectOptions, HeaderMap};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::json;

use crate::support::client::{Answer, Client};
use crate::support::nats::NatsServer;
use crate::support::s3::{Fault, S3Server};
use crate::support::worker::Worker;
use crate::support::{repository, samples, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_not_confirmed_is_published_until_it_is() {
    let nats = NatsServer::start();
    let worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    client.take_results(&["elsewhere"]).await;
    client.submit("one", "orange-sunset.jpg").await;
    worker.logged("no stream takes this subject");
    assert_eq!(client.count("TAGMILL_JOBS").await, 1, "not acknowledged before its result is there");
    client.take_results(&["tagmill.results", "tagmill.results.>"]).await;
    assert_eq!(client.results(1).await[0].json["attempt"], 1, "published again, not tagged again");
    client.queue_is_empty().await;
}

/// Users of a server. Without `acknowledge`, the worker's acknowledgements are refused, as if they were lost.
fn users(acknowledge: bool) -> String {
    let lost = if acknowledge { "" } else { r#", permissions: { publish: { deny: ["$JS.ACK.>"] } }"# };
    format!("authorization {{ users: [{{ user: test, password: test }}, {{ user: worker, password: secret{lost} }}] }}")
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_acknowledgements_make_no_second_answer() {
    let (mut nats, s3) = (NatsServer::start_configured(&users(false)), S3Server::start("images").await);
    nats.login = "worker:secret@";
    s3.put("images", "sunset.jpg", &repository("samples/orange-sunset.jpg"));
    s3.fault("broken.jpg", Fault::Broken);
    let client =
        Client::connect_with(&nats, ConnectOptions::with_user_and_password("test".into(), "test".into())).await;
    client.make_queue(Duration::from_secs(1), 1).await;
    for number in 0..8 {
        client.submit(&number.to_string(), "sunset.jpg").await;
    }
    // Retried, so that one more acknowledgement is lost, and then a dead letter.
    client.submit("broken", "broken.jpg").await;
    // Answered record by record, and acknowledged once.
    let created = |key| json!({ "eventName": "ObjectCreated:Put", "s3": { "bucket": { "name": "images" }, "object": { "key": key } } });
    let event = json!({ "Records": [created("sunset.jpg"), created("sunset.jpg")] });
    client.publish("tagmill.jobs", HeaderMap::new(), event.to_string()).await;
    let worker = Worker::start_with(&nats, "s3://images", &["--max-attempts", "2"], &s3.environment());
    client.dead(1).await;
    until("jobs to come again", || async {
        (worker.metric("tagmill_redeliveries_total").await > Some(9.0)).then_some(())
    })
    .await;
    assert_eq!(client.count("TAGMILL_JOBS").await, 10, "no acknowledgement has arrived");

    nats.configure(&users(true));
    client.queue_is_empty().await;
    assert_eq!(client.count("TAGMILL_RESULTS").await, 10);
    let letters = client.dead(1).await;
    assert_eq!((letters[0].id(), letters[0].code()), ("broken", "storage_unavailable"));
    assert_eq!(client.count("TAGMILL_DEAD").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_stands_still_fails_its_own_job() {
    let (nats, s3) = (NatsServer::start(), S3Server::start("images").await);
    s3.put("images", "sunset.jpg", &repository("samples/orange-sunset.jpg"));
    s3.fault("stalled.jpg", Fault::Stalled);
    let client = Client::connect(&nats).await;
    // Much shorter than the read that stands still, because slow is not dead.
    client.make_queue(Duration::from_secs(1), 1).await;
    let worker = Worker::start_with(&nats, "s3://images", &["--max-attempts", "1"], &s3.environment());
    client.submit("stalled", "stalled.jpg").await;
    for number in 0..20 {
        client.submit(&number.to_string(), "sunset.jpg").await;
    }
    client.results(20).await;
    let letters = client.dead(1).await;
    assert_eq!((letters[0].id(), letters[0].code()), ("stalled", "storage_unavailable"));
    client.queue_is_empty().await;
    assert_eq!(worker.metric("tagmill_redeliveries_total").await, Some(0.0), "its claim was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_wait_for_room_in_their_stream() {
    let nats = NatsServer::start();
    let worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    client.limit_results(3).await;
    client.submit_samples(10).await;
    worker.logged("maximum messages exceeded");
    assert!(client.count("TAGMILL_JOBS").await >= 7, "no job is done without its result");
    client.limit_results(-1).await;
    client.results(10).await;
    client.queue_is_empty().await;
    assert_eq!(client.count("TAGMILL_DEAD").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_loses_nothing() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_secs(1), 1).await;
    let _workers = [Worker::start(&nats), Worker::start(&nats)];
    client.submit_samples(500).await;
    client.results(50).await;
    nats.signal("STOP");
    // Longer than the ack wait, so that it expires for every job.
    tokio::time::sleep(Duration::from_secs(2)).await;
    nats.signal("CONT");
    client.queue_is_empty().await;
    assert_eq!((client.count("TAGMILL_RESULTS").await, client.count("TAGMILL_DEAD").await), (500, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_bucket_goes_away_is_waited_for() {
    let (nats, s3) = (NatsServer::start(), S3Server::start("images").await);
    let client = Client::connect(&nats).await;
    let worker = Worker::start_with(&nats, "s3://images", &[], &s3.environment());
    let (bucket, away) = (s3.bucket("images"), s3.bucket("away"));
    std::fs::rename(&bucket, &away).expect("it is there");
    client.submit("one", "sunset.jpg").await;
    let said = worker.logged("the store is in trouble");
    assert!(said.contains("error=s3://images does not exist"), "not what it says of one object: {said}");
    assert!(said.contains("code=storage_unavailable"), "not the object: {said}");
    std::fs::rename(&away, &bucket).expect("it is there");
    s3.put("images", "sunset.jpg", &repository("samples/orange-sunset.jpg"));
    client.results(1).await;
    assert_eq!(client.count("TAGMILL_DEAD").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_can_never_be_read_do_not_stop_a_worker() {
    let (nats, s3) = (NatsServer::start(), S3Server::start("images").await);
    s3.put("images", "sunset.jpg", &repository("samples/orange-sunset.jpg"));
    s3.fault("denied.jpg", Fault::Denied);
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_secs(30), 1).await;
    // More jobs than a worker holds, of an image that is refused although its bucket answers.
    for number in 0..15 {
        client.submit(&format!("denied-{number}"), "denied.jpg").await;
    }
    for number in 0..5 {
        client.submit(&number.to_string(), "sunset.jpg").await;
    }
    let arguments = ["--batch-size", "1", "--max-attempts", "1"];
    let worker = Worker::start_with(&nats, "s3://images", &arguments, &s3.environment());
    client.results(5).await;
    assert!(client.dead(15).await.iter().all(|letter| letter.code() == "storage_denied"));
    client.queue_is_empty().await;
    until("the worker to be ready", || async { (worker.get("/readyz").await.0 == 200).then_some(()) }).await;
}

/// Submits a job with its image: one colour throughout.
async fn submit_colour(client: &Client, id: &str, colour: [u8; 3]) {
    let mut png = Cursor::new(Vec::new());
    RgbImage::from_pixel(4, 4, Rgb(colour)).write_to(&mut png, ImageFormat::Png).expect("it fits");
    let uri = format!("data:image/png;base64,{}", STANDARD.encode(png.into_inner()));
    client.publish("tagmill.jobs", HeaderMap::new(), json!({ "id": id, "image": uri }).to_string()).await;
}

/// A worker with one of the models made for tests.
fn start_with_model(nats: &NatsServer, model: &str, more: &[&str]) -> Worker {
    let models = repository("tests/models").display().to_string();
    let arguments = [&["--models", &models, "--model", model], more].concat();
    // The C library takes 64 MiB for each of some threads. With limited memory, the runtime's arena would then lack room
    // for its record of allocations, and lose it.
    Worker::start_with(nats, &samples(), &arguments, &[("MALLOC_ARENA_MAX", "1".to_owned())])
}

/// A worker with the model that fails on black images.
fn start_fragile(nats: &NatsServer, more: &[&str]) -> Worker {
    start_with_model(nats, "fragile", more)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_does_not_fit_the_memory_is_split_and_later_ones_are_smaller() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    // A GiB per image, and memory for little more than two.
    let worker = start_with_model(&nats, "hungry", &["--window", "2s"]);
    assert_eq!(worker.metric("tagmill_batch_limit{model=\"hungry\"}").await, Some(8.0));
    worker.limit_memory(2400 << 20);
    for number in 0..12 {
        submit_colour(&client, &number.to_string(), [255, 127, 0]).await;
    }
    let results = client.results(12).await;
    assert!(results.iter().all(|result| result.json["attempt"] == 1), "nobody loses a job, or an attempt");
    let limit = worker.metric("tagmill_batch_limit{model=\"hungry\"}").await;
    assert!(limit < Some(8.0), "{limit:?}\n{}", worker.log());
    assert!(worker.metric("tagmill_out_of_memory_total{model=\"hungry\"}").await > Some(0.0));
    assert_eq!(client.count("TAGMILL_DEAD").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_alone_does_not_fit_the_memory_is_named_so() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    let worker = start_with_model(&nats, "hungry", &["--max-attempts", "1"]);
    worker.limit_memory(800 << 20);
    submit_colour(&client, "large", [255, 127, 0]).await;
    submit_colour(&client, "white", [255; 3]).await;
    assert_eq!(client.dead(1).await[0].code(), "out_of_memory");
    assert_eq!(client.results(1).await[0].id(), "white");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_the_runtime_fails_on_spoils_only_itself() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_secs(30), 1).await;
    for number in 0..8 {
        let colour = if number == 5 { [0; 3] } else { [255, 127, 0] };
        submit_colour(&client, &number.to_string(), colour).await;
    }
    let mut worker = start_fragile(&nats, &["--window", "5s", "--max-attempts", "2"]);
    let results = client.results(7).await;
    assert!(results.iter().all(|result| result.score("not_black") > 0.7 && result.id() != "5"), "{results:#?}");
    assert!(results.iter().any(|result| result.json["batch"].as_u64() > Some(1)), "they ran together: {results:#?}");
    let letters = client.dead(1).await;
    assert_eq!((letters[0].id(), letters[0].code()), ("5", "inference_failed"));
    assert!(worker.is_running());
    assert_eq!(worker.get("/readyz").await.0, 200, "the image was at fault, not the worker");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_image_that_fails_again_and_again_does_not_end_a_worker() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    let mut worker = start_fragile(&nats, &["--max-attempts", "4"]);
    submit_colour(&client, "black", [0; 3]).await;
    assert_eq!(client.dead(1).await[0].json["attempts"], 4);
    assert!(worker.is_running(), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sick_worker_steps_aside_and_a_healthy_one_does_its_jobs() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_mins(10), 1).await;
    for number in 0..60 {
        submit_colour(&client, &number.to_string(), [0; 3]).await;
    }
    let mut sick = start_fragile(&nats, &[]);
    assert_eq!(sick.ended().code(), Some(1));
    assert!(sick.log().contains("3 batches in a row failed without one image tagged"), "{}", sick.log());
    let _healthy = Worker::start(&nats);
    let results = client.results(60).await;
    assert!(results.iter().all(|result: &Answer| result.score("black") > 0.5));
    assert_eq!(client.count("TAGMILL_DEAD").await, 0);
    client.queue_is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_take_no_more_memory_than_the_budget() {
    let (nats, folder) = (NatsServer::start(), tempfile::tempdir().expect("a folder"));
    // 20 megapixels in a small file; 300 of 2 megapixels.
    RgbImage::new(5000, 4000).save(folder.path().join("large.png")).expect("a file");
    RgbImage::from_pixel(1600, 1250, Rgb([255, 127, 0])).save(folder.path().join("photo.png")).expect("a file");
    let store = format!("file://{}", folder.path().display());
    let worker = Worker::start_with(&nats, &store, &["--memory-budget", "64MiB"], &[]);
    assert_eq!(worker.metric("tagmill_memory_budget_bytes").await, Some(f64::from(64 << 20)));
    let client = Client::connect(&nats).await;
    let before = worker.resident_memory();
    client.submit("large", "large.png").await;
    for number in 0..300 {
        client.submit(&number.to_string(), "photo.png").await;
    }
    client.results(300).await;
    let letters = client.dead(1).await;
    assert_eq!((letters[0].id(), letters[0].code()), ("large", "image_too_large"));
    assert!(letters[0].json["error"]["message"].as_str().is_some_and(|text| text.contains("--memory-budget")));
    client.queue_is_empty().await;
    until("all of it to be given back", || async {
        (worker.metric("tagmill_memory_reserved_bytes").await == Some(0.0)).then_some(())
    })
    .await;
    let grown = worker.resident_memory().saturating_sub(before);
    assert!(grown < (64 << 20) + OVERHEAD, "{} MiB", grown >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_find_no_room_are_read_once_there_is() {
    let (nats, folder) = (NatsServer::start(), tempfile::tempdir().expect("a folder"));
    // Six megabytes each. Two of them fit a quarter of the budget.
    RgbImage::from_pixel(1600, 1250, Rgb([255, 127, 0])).save(folder.path().join("photo.bmp")).expect("a file");
    let store = format!("file://{}", folder.path().display());
    let worker = Worker::start_with(&nats, &store, &["--memory-budget", "64MiB"], &[]);
    let client = Client::connect(&nats).await;
    for number in 0..40 {
        client.submit(&number.to_string(), "photo.bmp").await;
    }
    assert!(client.results(40).await.iter().all(|result| result.score("orange") > 0.5));
    client.queue_is_empty().await;
    until("all of it to be given back", || async {
        (worker.metric("tagmill_memory_reserved_bytes").await == Some(0.0)).then_some(())
    })
    .await;
}

/// Memory of rows, sessions and the allocator beyond the budget.
const OVERHEAD: u64 = 128 << 20;

//! Independence: one thing is stalled at a time, and everything that does not need it must continue.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Cursor};
use std::process::Stdio;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::json;

use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::s3::{Fault, S3Server};
use crate::support::worker::{Worker, tagmill};
use crate::support::{repository, until};

/// Time limit for work that must continue, although many tests share two cores: far less than the stalls last.
const SOON: Duration = Duration::from_secs(8);

async fn bucket(keys: &[&str]) -> S3Server {
    let s3 = S3Server::start("images").await;
    for key in keys {
        s3.put("images", key, &repository("samples/orange-sunset.jpg"));
    }
    s3
}

/// A picture of so many bytes.
fn bitmap(bytes: u32) -> Vec<u8> {
    let mut bmp = Cursor::new(Vec::new());
    let image = RgbImage::from_pixel(1000, bytes.div_ceil(3000), Rgb([255, 127, 0]));
    image.write_to(&mut bmp, ImageFormat::Bmp).expect("it fits");
    bmp.into_inner()
}

/// Sends an image in a request, and returns the time to the answer.
async fn request(worker: &Worker, model: Option<&str>) -> Duration {
    let image = STANDARD.encode(std::fs::read(repository("samples/orange-sunset.jpg")).expect("a sample"));
    let began = Instant::now();
    let request = reqwest::Client::new().post(worker.url("/v1/vision/caption"));
    let answer = request.json(&json!({ "image": image, "model": model })).send().await.expect("an answer");
    let status = answer.status();
    assert_eq!(status, 200, "{:?}\n{}", answer.text().await, worker.log());
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_objects_cost_their_own_jobs_and_nobody_elses() {
    let (nats, s3) = (NatsServer::start(), bucket(&["sunset.jpg"]).await);
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_secs(30), 1).await;
    for number in 0..60 {
        s3.fault(&format!("denied-{number}.jpg"), Fault::Denied);
        client.submit(&format!("denied-{number}"), &format!("denied-{number}.jpg")).await;
    }
    for number in 0..200 {
        client.submit(&number.to_string(), "sunset.jpg").await;
    }
    let began = Instant::now();
    let worker = Worker::start_with(&nats, "s3://images", &["--max-attempts", "2"], &s3.environment());
    client.results(200).await;
    assert!(began.elapsed() < 2 * SOON, "{:?}\n{}", began.elapsed(), worker.log());
    assert!(client.dead(60).await.iter().all(|letter| letter.code() == "storage_denied"));
    client.queue_is_empty().await;
    until("the worker to be ready", || async { (worker.get("/readyz").await.0 == 200).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_is_used_whole_and_nothing_is_sent_twice() {
    let (nats, s3) = (NatsServer::start(), S3Server::start("images").await);
    let picture = bitmap(1 << 20);
    std::fs::write(s3.bucket("images").join("large.bmp"), &picture).expect("a file");
    s3.fault("cut.bmp", Fault::Cut);
    std::fs::write(s3.bucket("images").join("cut.bmp"), &picture).expect("a file");
    let client = Client::connect(&nats).await;
    let worker = Worker::start_with(&nats, "s3://images", &["--max-attempts", "1"], &s3.environment());
    s3.set_rate(1 << 20);
    let began = Instant::now();
    for number in 0..9 {
        client.submit(&number.to_string(), "large.bmp").await;
    }
    client.submit("cut", "cut.bmp").await;
    client.results(10).await;
    let (took, sent, all) = (began.elapsed(), s3.sent(), 10 * picture.len());
    assert!(20 * sent < 23 * all, "{sent} of {all} bytes: what was cut goes on where it ended\n{}", worker.log());
    // A third of the link, on the busiest machine.
    assert!(took < 4 * SOON, "{took:?}");
    client.queue_is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_trickles_delays_nothing_else_however_often_its_job_came() {
    let (nats, s3) = (NatsServer::start(), bucket(&["sunset.jpg", "trickling.jpg"]).await);
    s3.fault("trickling.jpg", Fault::Trickling);
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_secs(30), 1).await;
    for number in 0..30 {
        client.submit(&format!("trickling-{number}"), "trickling.jpg").await;
    }
    client.take_without_answer(2).await;
    let worker = Worker::start_with(&nats, "s3://images", &["--max-attempts", "3"], &s3.environment());
    until("the trickling ones to be taken", || async {
        (worker.metric("tagmill_inflight_jobs").await >= Some(20.0)).then_some(())
    })
    .await;
    let began = Instant::now();
    for number in 0..70 {
        client.submit(&number.to_string(), "sunset.jpg").await;
    }
    assert!(request(&worker, None).await < SOON);
    client.results(70).await;
    assert!(began.elapsed() < SOON, "{:?}\n{}", began.elapsed(), worker.log());
    assert_eq!(worker.get("/readyz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_delays_neither_another_store_nor_requests_for_the_loaded_model() {
    let (nats, s3) = (NatsServer::start(), bucket(&["sunset.jpg"]).await);
    s3.fault("hangs.jpg", Fault::Stalled);
    s3.fault("images", Fault::Stalled);
    let (models, folder) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    for name in ["demo", "other"] {
        std::os::unix::fs::symlink(repository("models/demo"), models.path().join(name)).expect("a link");
    }
    std::fs::copy(repository("samples/orange-sunset.jpg"), folder.path().join("here.jpg")).expect("a copy");
    let (models, here) = (models.path().display().to_string(), format!("file://{}", folder.path().display()));
    let client = Client::connect(&nats).await;
    s3.heal("images");
    let arguments = ["--models", &models, "--model", "demo", "--max-models", "1", "--store", &here];
    let worker = Worker::start_with(&nats, "s3://images", &arguments, &s3.environment());
    s3.fault("images", Fault::Stalled);
    let job = |id: String, image: String, model: &str| json!({ "id": id, "image": image, "model": model }).to_string();
    for number in 0..100 {
        let model = ["demo", "other"][number % 2];
        let hangs = job(format!("hangs-{number}"), "hangs.jpg".into(), model);
        client.publish("tagmill.jobs", HeaderMap::new(), hangs).await;
    }
    until("them to be taken", || async { (worker.metric("tagmill_inflight_jobs").await >= Some(20.0)).then_some(()) })
        .await;
    let began = Instant::now();
    for number in 0..40 {
        let image = format!("{here}/here.jpg");
        client.publish("tagmill.jobs", HeaderMap::new(), job(number.to_string(), image, "demo")).await;
    }
    for _ in 0..5 {
        assert!(request(&worker, Some("demo")).await < SOON, "{}", worker.log());
    }
    client.results(40).await;
    assert!(began.elapsed() < 2 * SOON, "{:?}\n{}", began.elapsed(), worker.log());
    s3.heal("images");
    s3.heal("hangs.jpg");
    s3.put("images", "hangs.jpg", &repository("samples/orange-sunset.jpg"));
    client.results(140).await;
    client.queue_is_empty().await;
    assert_eq!(client.count("TAGMILL_DEAD").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_have_room_while_slow_bulk_images_take_the_memory() {
    let (nats, s3) = (NatsServer::start(), S3Server::start("images").await);
    std::fs::write(s3.bucket("images").join("large.bmp"), bitmap(4 << 20)).expect("a file");
    let client = Client::connect(&nats).await;
    let worker = Worker::start_with(&nats, "s3://images", &["--memory-budget", "64MiB"], &s3.environment());
    s3.set_rate(256 << 10);
    for number in 0..40 {
        client.submit(&number.to_string(), "large.bmp").await;
    }
    let full = async || (worker.metric("tagmill_memory_reserved_bytes").await >= Some(8e6)).then_some(());
    until("the memory to be taken", full).await;
    for _ in 0..20 {
        assert!(request(&worker, None).await < SOON, "{}", worker.log());
    }
    s3.set_rate(0);
    client.results(40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_events_take_slots_as_jobs_do() {
    let (nats, s3) = (NatsServer::start(), bucket(&["sunset.jpg"]).await);
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_secs(30), 1).await;
    let record = json!({ "eventName": "ObjectCreated:Put", "s3": { "bucket": { "name": "images" }, "object": { "key": "sunset.jpg" } } });
    for _ in 0..5 {
        let event = json!({ "Records": vec![&record; 200] }).to_string();
        client.publish("tagmill.jobs", HeaderMap::new(), event).await;
    }
    let worker = Worker::start_with(&nats, "s3://images", &[], &s3.environment());
    let mut most = 0.0_f64;
    while client.count("TAGMILL_RESULTS").await < 1000 {
        most = most.max(worker.metric("tagmill_inflight_jobs").await.unwrap_or_default());
    }
    client.queue_is_empty().await;
    assert!(most < 100.0, "{most} jobs in flight");
    assert!(s3.most_reading() < 64, "{} reads at a time", s3.most_reading());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_stream_is_noticed_whatever_else_waits() {
    let (nats, s3) = (NatsServer::start(), bucket(&[]).await);
    s3.fault("hangs.jpg", Fault::Stalled);
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_secs(30), 1).await;
    for number in 0..100 {
        client.submit(&number.to_string(), "hangs.jpg").await;
    }
    client.take_without_answer(2).await;
    let mut worker = Worker::start_with(&nats, "s3://images", &[], &s3.environment());
    s3.stalled("hangs.jpg").await;
    client.jetstream.delete_stream("TAGMILL_JOBS").await.expect("it is there");
    let began = Instant::now();
    assert_eq!(worker.ended().code(), Some(1), "{}", worker.log());
    assert!(began.elapsed() < SOON + Duration::from_secs(5), "{:?}\n{}", began.elapsed(), worker.log());
    assert!(worker.log().contains("TAGMILL_JOBS is gone"), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_made_anew_under_a_worker_loses_no_answer() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_secs(30), 1).await;
    let mut worker = Worker::start(&nats);
    for number in 0..20 {
        client.submit(&format!("old-{number}"), "orange-sunset.jpg").await;
    }
    client.results(20).await;
    client.queue_is_empty().await;
    // At once, because the creation time of the new one, in seconds, may then be that of the old one.
    client.jetstream.delete_stream("TAGMILL_JOBS").await.expect("it is there");
    client.make_queue(Duration::from_secs(2), 1).await;
    for number in 0..20 {
        client.submit(&format!("new-{number}"), "orange-sunset.jpg").await;
    }
    assert_eq!(worker.ended().code(), Some(1), "{}", worker.log());
    assert!(worker.log().contains("made anew") || worker.log().contains("is gone"), "{}", worker.log());
    let _again = Worker::start(&nats);
    let results = client.results(40).await;
    let mut ids: BTreeMap<&str, usize> = BTreeMap::new();
    for result in &results {
        *ids.entry(result.id()).or_default() += 1;
    }
    assert_eq!(ids.len(), 40, "{ids:?}");
    client.queue_is_empty().await;
    assert_eq!(client.count("TAGMILL_DEAD").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_answers_that_are_deleted_under_a_worker_are_made_anew() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    let worker = Worker::start(&nats);
    for stream in ["TAGMILL_RESULTS", "TAGMILL_DEAD"] {
        client.jetstream.delete_stream(stream).await.expect("it is there");
    }
    client.submit_samples(4).await;
    client.submit("missing", "missing.jpg").await;
    client.queue_is_empty().await;
    assert_eq!(client.results(4).await.len(), 4);
    assert_eq!(client.dead(1).await[0].code(), "image_not_found", "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn healthy_jobs_outlive_orderly_restarts() {
    let (nats, s3) = (NatsServer::start(), bucket(&["sunset.jpg"]).await);
    s3.fault("slow.jpg", Fault::Stalled);
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_secs(30), 1).await;
    for number in 0..48 {
        client.submit(&number.to_string(), "slow.jpg").await;
    }
    for _ in 0..8 {
        let mut worker = Worker::start_with(&nats, "s3://images", &["--drain-timeout", "100ms"], &s3.environment());
        s3.stalled("slow.jpg").await;
        worker.signal("TERM");
        assert!(worker.ended().success(), "{}", worker.log());
    }
    s3.put("images", "slow.jpg", &repository("samples/orange-sunset.jpg"));
    s3.heal("slow.jpg");
    let _worker = Worker::start_with(&nats, "s3://images", &[], &s3.environment());
    client.results(48).await;
    client.queue_is_empty().await;
    assert_eq!(client.count("TAGMILL_DEAD").await, 0, "no healthy job is dead");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_stops_nothing() {
    let mut command = tagmill(&["serve", "--listen", "127.0.0.1:0", "--models"]);
    command.arg(repository("models")).env("RUST_LOG", "debug").stderr(Stdio::piped());
    let mut process = command.spawn().expect("it starts");
    let mut log = BufReader::new(process.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("address=") {
        line.clear();
        log.read_line(&mut line).expect("a line");
    }
    let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("an address");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (client, url) = (reqwest::Client::new(), format!("http://{address}/nothing-here"));
    // Each request logs a line or more: several times the capacity of a pipe.
    for _ in 0..2000 {
        client.get(&url).send().await.expect("an answer");
    }
    let began = Instant::now();
    let health = client.get(format!("http://{address}/healthz")).send().await.expect("an answer");
    assert_eq!(health.status(), 200);
    let pid = rustix::process::Pid::from_raw(process.id().cast_signed()).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    let ended = tokio::time::timeout(SOON, tokio::task::spawn_blocking(move || process.wait())).await;
    assert!(ended.expect("in time").expect("no panic").expect("a child").success(), "after {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_processes_share_a_copy_of_the_models() {
    let s3 = S3Server::start("models").await;
    for file in std::fs::read_dir(repository("models/demo")).expect("the demo model") {
        let file = file.expect("a file").path();
        if file.extension().is_some_and(|extension| extension != "py") {
            s3.put("models", &format!("demo/{}", file.file_name().expect("a name").display()), &file);
        }
    }
    s3.set_rate(64 << 10);
    let cache = tempfile::tempdir().expect("a folder");
    let cache = cache.path().display().to_string();
    let arguments = ["--models", "s3://models", "--models-cache", &cache];
    let start = || {
        let mut command = tagmill(&["serve", "--listen", "127.0.0.1:0"]);
        command.args(arguments).envs(s3.environment());
        Worker::run(command)
    };
    let servers: Vec<Worker> = std::iter::repeat_with(start).take(4).collect();
    for server in &servers {
        server.logged("serving the API");
    }
    let copies: usize = servers.iter().map(|server| server.log().matches("copying model").count()).sum();
    assert_eq!(copies, 1, "one copies, the others wait");
    // A new version: all end on it, and the old one is removed when no process uses it any more.
    s3.set_rate(0);
    let manifest = s3.bucket("models").join("demo/tagmill.toml");
    let mut text = std::fs::read_to_string(&manifest).unwrap_or_default();
    text.push_str("\n# changed\n");
    std::fs::write(&manifest, text).expect("a file");
    for server in &servers {
        server.signal("HUP");
    }
    for server in &servers {
        server.logged("read the models again");
        assert!(!server.log().contains("can't"), "{}", server.log());
    }
}

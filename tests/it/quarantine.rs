//! Jobs of which two deliveries ended unexplained: each is decoded in a process of its own, which costs no other job
//! anything.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::client::{Answer, Client};
use crate::support::nats::NatsServer;
use crate::support::s3::{Fault, S3Server};
use crate::support::worker::Worker;
use crate::support::{repository, samples, until};

const SAMPLES: [&str; 4] = ["orange-sunset.jpg", "blue-ocean.webp", "red-strawberry.png", "night-sky.png"];

/// A folder with the sample images and pictures of the test format, as a store.
fn store(orders: &[&str]) -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    for sample in SAMPLES {
        std::fs::copy(repository("samples").join(sample), folder.path().join(sample)).expect("a copy");
    }
    for order in orders {
        std::fs::write(folder.path().join(format!("{order}.jpg")), format!("tagmill-test:{order}")).expect("a file");
    }
    let store = format!("file://{}", folder.path().display());
    (folder, store)
}

fn test_pictures() -> (&'static str, String) {
    ("TAGMILL_TEST_PICTURES", "1".to_owned())
}

/// Tags of the results whose ids have this prefix, in order of ids.
fn tags(results: &[Answer], prefix: &str) -> Vec<(String, Vec<f64>)> {
    let of = |result: &Answer| {
        let number = result.id().strip_prefix(prefix)?.to_owned();
        let tags = result.json["tags"].as_array().expect("tags");
        let names: Vec<_> = tags.iter().map(|tag| &tag["name"]).collect();
        let scores = tags.iter().map(|tag| tag["score"].as_f64().expect("a score")).collect();
        Some((format!("{number} {} {names:?} {}", result.json["image"], result.json["rating"]), scores))
    };
    results.iter().filter_map(of).collect()
}

fn read(process: u32, file: &str) -> String {
    std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join(file)).unwrap_or_default()
}

/// Waits until a process has ended: reaped, or left to the system if its worker is gone.
async fn ended(process: u32) {
    let has_ended = || {
        let stat = read(process, "stat");
        stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.trim_start().starts_with('Z'))
    };
    until("a process to end", || async { has_ended().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantined_job_is_tagged_like_any_other_by_a_process_that_may_do_nothing_else() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_secs(30), 1).await;
    for (number, sample) in SAMPLES.into_iter().enumerate() {
        client.submit(&format!("third-{number}"), sample).await;
    }
    client.take_without_answer(2).await;
    let worker = Worker::spawn(&nats, &samples(), &["--decode-threads", "1"], &[]);
    let child = until("an isolated decoder", || async { worker.children().first().copied() }).await;
    for (number, sample) in SAMPLES.into_iter().cycle().take(40).enumerate() {
        client.submit(&format!("first-{}", number % 4), sample).await;
    }
    // The limits are in place once it has sent its hello, before it has the first image.
    let limits = until("its limits", || async {
        let limits = read(child, "limits");
        let open_files = limits.lines().find(|line| line.starts_with("Max open files"))?.to_owned();
        (open_files.split_whitespace().nth(3) == Some("0")).then_some(limits)
    })
    .await;
    for limit in ["Max core file size", "Max open files", "Max processes"] {
        let line = limits.lines().find(|line| line.starts_with(limit)).expect(limit);
        assert!(line.trim_start_matches(limit).split_whitespace().take(2).all(|value| value == "0"), "{line}");
    }
    assert_eq!(read(child, "environ"), "");
    assert_eq!(read(child, "cmdline"), "tagmill\0decode-isolated\0");
    assert_eq!(std::fs::read_dir(format!("/proc/{child}/task")).expect("it runs").count(), 1);

    let results = client.results(44).await;
    let (first, third) = (tags(&results, "first-"), tags(&results, "third-"));
    assert_eq!(third.len(), 4);
    for (third, scores) in &third {
        // Batches of other sizes round differently.
        let close = |others: &[f64]| others.iter().zip(scores).all(|(one, other)| (one - other).abs() < 0.001);
        assert!(first.iter().any(|(first, others)| first == third && close(others)), "{third} {scores:?} {first:?}");
    }
    for result in results.iter().filter(|result| result.id().starts_with("third-")) {
        assert_eq!((&result.json["attempt"], &result.json["batch"]), (&3.into(), &1.into()));
    }
    client.queue_is_empty().await;
    assert_eq!(client.count("TAGMILL_DEAD").await, 0, "{}", worker.log());
    // It is idle from now on.
    until("no decoder to be left", || async { worker.children().is_empty().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_ends_its_decoder_is_one_dead_letter_and_costs_no_other_job_anything() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_secs(30), 1).await;
    let (_folder, store) = store(&["abort", "memory"]);
    for name in ["abort.jpg", "memory.jpg", "orange-sunset.jpg", "night-sky.png"] {
        client.submit(name, name).await;
    }
    client.take_without_answer(2).await;
    let mut worker = Worker::start_with(&nats, &store, &[], &[test_pictures()]);
    for number in 0..40 {
        client.submit(&format!("fresh-{number}"), SAMPLES[number % 4]).await;
    }
    let results = client.results(42).await;
    assert!(results.iter().any(|result| result.id() == "night-sky.png"));
    let mut letters = client.dead(2).await;
    letters.sort_by_key(|letter| letter.id().to_owned());
    for (letter, id) in letters.iter().zip(["abort.jpg", "memory.jpg"]) {
        assert_eq!((letter.id(), letter.code()), (id, "attempts_exhausted"));
        let message = letter.json["error"]["message"].as_str().expect("a message");
        assert!(message.contains("3 times") && message.contains("SIGABRT"), "{message}");
    }
    client.queue_is_empty().await;
    assert_eq!(client.count("TAGMILL_RESULTS").await, 42);
    assert!(worker.is_running(), "{}", worker.log());
    let children = worker.children();
    worker.signal("TERM");
    assert!(worker.ended().success(), "{}", worker.log());
    for child in children {
        ended(child).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decoder_that_does_not_end_is_ended_and_ends_with_its_worker() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_secs(2), 1).await;
    let (_folder, store) = store(&["hang"]);
    client.submit("hang", "hang.jpg").await;
    client.take_without_answer(2).await;
    let worker = Worker::spawn(&nats, &store, &[], &[test_pictures()]);
    let child = until("an isolated decoder", || async { worker.children().first().copied() }).await;
    worker.signal("KILL");
    ended(child).await;
    drop(worker);

    let limit = ("TAGMILL_TEST_DECODE_MS", "300".to_owned());
    let worker = Worker::start_with(&nats, &store, &[], &[test_pictures(), limit]);
    let letter = client.dead(1).await.remove(0);
    assert_eq!((letter.id(), letter.code()), ("hang", "attempts_exhausted"));
    assert!(letter.json["error"]["message"].to_string().contains("no answer after 300ms"), "{letter:?}");
    client.submit("fresh", "orange-sunset.jpg").await;
    client.results(1).await;
    client.queue_is_empty().await;
    until("no decoder to be left", || async { worker.children().is_empty().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_workers_gave_back_are_not_quarantined_however_often() {
    const JOBS: usize = 8;
    let (nats, s3) = (NatsServer::start(), S3Server::start("images").await);
    s3.put("images", "slow.jpg", &repository("samples/orange-sunset.jpg"));
    let client = Client::connect(&nats).await;
    client.make_queue(Duration::from_secs(30), 1).await;
    for number in 0..JOBS {
        client.submit(&format!("job-{number}"), "slow.jpg").await;
    }
    let taken = || async { (client.consumer().await.num_ack_pending == JOBS).then_some(()) };
    let arguments = ["--batch-size", "8", "--window", "10s", "--drain-timeout", "10m"];
    s3.fault("slow.jpg", Fault::Stalled);
    for restart in 1..=4 {
        let mut worker = Worker::start_with(&nats, "s3://images", &arguments, &s3.environment());
        let times = format!("tagmill_redeliveries_total {}", if restart == 1 { 0 } else { JOBS });
        until("the jobs to be taken", || async { worker.get("/metrics").await.1.contains(&times).then_some(()) }).await;
        until("the jobs to be taken", taken).await;
        worker.signal("TERM");
        worker.logged("finishing what is in hand");
        worker.signal("TERM");
        assert!(worker.ended().success(), "{}", worker.log());
    }
    s3.heal("slow.jpg");
    let worker = Worker::start_with(&nats, "s3://images", &arguments, &s3.environment());
    let results = client.results(JOBS).await;
    assert!(results.iter().all(|result| result.json["attempt"] == 5), "{results:?}");
    assert!(results.iter().any(|result| result.json["batch"] != 1), "they run in batches of one: {results:?}");
    assert_eq!(worker.children(), Vec::<u32>::new());
}

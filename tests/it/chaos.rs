//! Everything fails at once, and nothing is lost: workers are killed and stopped, the server is killed and restarted, the
//! store goes away, objects trickle, and bad jobs are mixed in with good ones, some of which end the worker that decodes
//! them. At the end, every accepted job is compared with its expected outcome.
//!
//! The order of events follows from a seed (`CHAOS_SEED`, to try others).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::support::client::{Answer, Client};
use crate::support::nats::NatsServer;
use crate::support::repository;
use crate::support::s3::{Fault, S3Server};
use crate::support::worker::Worker;

const JOBS: usize = 1200;
const LENGTH: Duration = Duration::from_secs(30);

/// Expected outcome of a job: a result, or a dead letter with this code.
type Expected = Option<&'static str>;

/// Jobs by id, with the expected outcome of each.
fn jobs() -> HashMap<String, (String, Expected)> {
    let image = |id: &str, image: &str| json!({ "id": id, "image": image }).to_string();
    let job = |number: usize| {
        let id = format!("job-{number}");
        let (payload, expected) = match number % 20 {
            // Each ends two workers before it is quarantined.
            _ if number % 300 == 150 => (image(&id, "abort.jpg"), Some("attempts_exhausted")),
            5 if number % 100 == 5 => (image(&id, "slow.jpg"), None),
            3 => (image(&id, "missing.jpg"), Some("image_not_found")),
            7 => (image(&id, "cut.jpg"), Some("image_undecodable")),
            11 => (image(&id, "file:///etc/passwd"), Some("forbidden_location")),
            15 => ("{".to_owned(), Some("bad_job")),
            19 => (json!({ "image": "a.jpg", "model": "gpt" }).to_string(), Some("unknown_model")),
            _ => (image(&id, if number.is_multiple_of(2) { "a.jpg" } else { "b.png" }), None),
        };
        (id, (payload, expected))
    };
    (0..JOBS).map(job).collect()
}

/// Three workers, started again when they end, as by a supervisor.
struct Fleet {
    workers: Vec<Worker>,
    environment: Vec<(&'static str, String)>,
}

impl Fleet {
    fn start(nats: &NatsServer, s3: &S3Server) -> Self {
        let mut environment = s3.environment();
        environment.push(("TAGMILL_TEST_PICTURES", "1".to_owned()));
        let workers = (0..3).map(|_| Worker::spawn(nats, "s3://images", &[], &environment)).collect();
        Self { workers, environment }
    }

    fn supervise(&mut self, nats: &NatsServer) {
        for worker in &mut self.workers {
            if !worker.is_running() {
                *worker = Worker::spawn(nats, "s3://images", &[], &self.environment);
            }
        }
    }
}

/// Publishes every job until the server confirms it, spread over most of the test.
async fn publish(client: Arc<Client>, jobs: Vec<(String, String)>) {
    let pause = LENGTH.mul_f64(0.8) / u32::try_from(jobs.len()).expect("a few");
    for (id, payload) in jobs {
        let mut headers = HeaderMap::new();
        // The message id makes a second try of the same job a duplicate. The other header names the job.
        headers.insert("Nats-Msg-Id", id.as_str());
        headers.insert("Tagmill-Id", id.as_str());
        while !client.try_publish("tagmill.jobs", headers.clone(), payload.clone()).await {}
        tokio::time::sleep(pause).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_every_job_ends_once() {
    let seed = std::env::var("CHAOS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut random = StdRng::seed_from_u64(seed);
    let (mut nats, mut s3) = (NatsServer::start_current(), S3Server::start("images").await);
    s3.put("images", "a.jpg", &repository("samples/orange-sunset.jpg"));
    s3.put("images", "b.png", &repository("samples/night-sky.png"));
    let whole = std::fs::read(repository("samples/orange-sunset.jpg")).expect("a sample");
    std::fs::write(s3.bucket("images").join("cut.jpg"), &whole[..whole.len() / 2]).expect("a file");
    std::fs::write(s3.bucket("images").join("abort.jpg"), "tagmill-test:abort").expect("a file");
    s3.put("images", "slow.jpg", &repository("samples/orange-sunset.jpg"));
    s3.fault("slow.jpg", Fault::Trickling);

    let client = Arc::new(Client::connect(&nats).await);
    client.make_queue(Duration::from_secs(2), 1).await;
    let jobs = jobs();
    let payloads = jobs.iter().map(|(id, (payload, _))| (id.clone(), payload.clone())).collect();
    let publishing = tokio::spawn(publish(Arc::clone(&client), payloads));
    let mut fleet = Fleet::start(&nats, &s3);
    let began = Instant::now();
    while began.elapsed() < LENGTH {
        let victim = random.random_range(0..3);
        match random.random_range(0..7) {
            6 => {
                // Results find no stream for a while, and a worker dies with its results unconfirmed.
                client.take_results(&["tagmill.parked"]).await;
                tokio::time::sleep(Duration::from_millis(random.random_range(300..1000))).await;
                fleet.workers[victim].try_signal("KILL");
                client.take_results(&["tagmill.results", "tagmill.results.>"]).await;
            }
            0 | 1 => fleet.workers[victim].try_signal("KILL"),
            2 | 3 => fleet.workers[victim].try_signal("TERM"),
            4 => {
                nats.kill();
                tokio::time::sleep(Duration::from_millis(random.random_range(100..1500))).await;
                nats.restart();
            }
            _ => {
                s3.stop();
                tokio::time::sleep(Duration::from_millis(random.random_range(100..3000))).await;
                s3.resume().await;
            }
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(300..1500))).await;
        fleet.supervise(&nats);
    }
    publishing.await.expect("every job is published");
    let environment = std::mem::take(&mut fleet.environment);
    drop(fleet);
    s3.heal("slow.jpg");
    let fleet: Vec<_> = (0..2).map(|_| Worker::spawn(&nats, "s3://images", &[], &environment)).collect();
    client.submit("fresh", "a.jpg").await;
    if tokio::time::timeout(Duration::from_secs(80), client.queue_is_empty()).await.is_err() {
        let logs: Vec<_> = fleet.iter().map(Worker::log).collect();
        panic!("jobs stay in the queue (seed {seed}): {:#?}\n{}", client.consumer().await, logs.join("\n\n"));
    }
    judge(&client, &jobs, seed).await;
}

/// Checks that no job is lost, both tagged and dead, or answered twice, and that each dead letter has the right code.
async fn judge(client: &Client, jobs: &HashMap<String, (String, Expected)>, seed: u64) {
    let (results, letters) = (client.count("TAGMILL_RESULTS").await, client.count("TAGMILL_DEAD").await);
    let results = client.results(usize::try_from(results).expect("a few")).await;
    let letters = client.dead(usize::try_from(letters).expect("a few")).await;
    let tagged: HashSet<&str> = results.iter().map(Answer::id).collect();
    let dead: HashMap<&str, &str> = letters.iter().map(|letter| (letter.id(), letter.code())).collect();
    // By the job's place in the queue, not its id: a server killed before it confirmed a job may accept it a second time,
    // because it forgets the ids of finished jobs.
    let answers = || results.iter().chain(&letters);
    let jobs_answered: HashSet<_> = answers().map(Answer::message_id).collect();
    assert_eq!(jobs_answered.len(), answers().count(), "a job has two answers (seed {seed})");
    assert!(tagged.contains("fresh"), "a fresh job still flows (seed {seed})");
    for (id, (_, expected)) in jobs {
        let became = (tagged.contains(id.as_str()), dead.get(id.as_str()).copied());
        assert_eq!(became, (expected.is_none(), *expected), "{id} (seed {seed})");
    }
    assert_eq!(tagged.len() + dead.len(), jobs.len() + 1, "an answer to no job (seed {seed})");
    let attempts = results.iter().map(|result| result.json["attempt"].as_u64().unwrap_or(0)).max();
    println!("{} results, {} dead letters, at most {attempts:?} attempts", results.len(), letters.len());
}

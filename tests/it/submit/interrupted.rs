//! Runs that are interrupted, killed, or wait for a full stream or a server that is away.

use std::collections::HashSet;
use std::io::Write as _;

use super::{ended, ids, list, queue, submit};
use crate::support::nats::NatsServer;
use crate::support::s3::S3Server;
use crate::support::worker::Worker;
use crate::support::{repository, samples};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_is_waited_for_and_an_interrupted_run_goes_on_where_it_was() {
    let nats = NatsServer::start();
    let client = queue(&nats).await;
    client.limit_queue(100).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (list, checkpoint) = (list(folder.path(), 3000), folder.path().join("far").display().to_string());
    let mut first = Worker::run(submit(&nats, &[&list, "--checkpoint", &checkpoint]));
    first.logged("the jobs stream is full");
    client.queue_holds(100).await;
    client.limit_queue(250).await;
    client.queue_holds(250).await;
    first.signal("TERM");
    assert_eq!(first.ended().code(), Some(1), "{}", first.log());
    assert_eq!(first.log().matches("full").count(), 1, "once: {}", first.log());
    assert!(first.log().contains("the same command publishes the others"), "{}", first.log());
    // The run, then a line for each job.
    let done = std::fs::read_to_string(&checkpoint).expect("it is there").lines().count() - 1;
    assert!((100..=250).contains(&done), "{done}");

    let (code, _, log) = ended(submit(&nats, &[&list, "--checkpoint", &checkpoint, "--match", "*"]));
    assert!(code == 2 && log.contains("--match was none, not *"), "{log}");
    client.limit_queue(-1).await;
    let (code, _, log) = ended(submit(&nats, &[&list, "--checkpoint", &checkpoint]));
    assert_eq!(code, 0, "{log}");
    assert!(log.contains(&format!("{done} by earlier runs")), "{log}");
    let jobs: Vec<_> = client.queued().await.into_iter().map(|job| job.json).collect();
    assert_eq!(ids(&jobs).into_iter().collect::<HashSet<_>>().len(), 3000);
    assert_eq!(jobs.len(), 3000, "none twice");

    // Nothing is left to do; and what is added later is all that is done later.
    let (code, _, log) = ended(submit(&nats, &[&list, "--checkpoint", &checkpoint]));
    assert!(code == 0 && log.contains("published 0 jobs"), "{log}");
    let mut longer = std::fs::OpenOptions::new().append(true).open(&list).expect("the list");
    writeln!(longer, "one-more.jpg").expect("it is written");
    let (code, _, log) = ended(submit(&nats, &[&list, "--checkpoint", &checkpoint]));
    assert!(code == 0 && log.contains("published 1 job on"), "{log}");
    // Wherever it stands.
    let text = std::fs::read_to_string(&list).expect("the list");
    std::fs::write(&list, format!("first.jpg\n{text}")).expect("a file");
    let (code, _, log) = ended(submit(&nats, &[&list, "--checkpoint", &checkpoint]));
    assert!(code == 0 && log.contains("published 1 job on") && log.contains("3001 by earlier runs"), "{log}");
    let newest = client.queued().await.pop().expect("the job");
    assert_eq!(newest.json["id"], "first.jpg");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_publishes_no_job_twice() {
    let (nats, s3) = (NatsServer::start(), S3Server::start("images").await);
    let client = queue(&nats).await;
    let folder = tempfile::tempdir().expect("a folder");
    for number in 0..1500 {
        let object = s3.bucket("images").join(format!("{:02}/{number:04}.jpg", number % 7));
        std::fs::create_dir_all(object.parent().expect("the bucket")).expect("a folder");
        std::fs::write(object, "").expect("an object");
        std::fs::write(folder.path().join(format!("{number:04}.png")), "").expect("a file");
    }
    let path = folder.path().display().to_string();
    for (sources, number) in [([path.as_str(), "s3://images"], 0), (["s3://images", path.as_str()], 1)] {
        let checkpoint = format!("{path}/far-{number}");
        let arguments = [sources[0], sources[1], "--checkpoint", &checkpoint, "--model", sources[0]];
        let command = || {
            let mut command = submit(&nats, &arguments);
            command.envs(s3.environment());
            command
        };
        for most in [700, 2100] {
            let before = 3000 * number;
            client.limit_queue(before + most).await;
            let mut run = Worker::run(command());
            client.queue_holds(u64::try_from(before + most).expect("a count")).await;
            run.signal("KILL");
            run.ended();
        }
        client.limit_queue(-1).await;
        let (code, _, log) = ended(command());
        assert_eq!(code, 0, "{log}");
        let jobs: Vec<_> = client.queued().await.into_iter().map(|job| job.json).collect();
        let jobs: Vec<_> = jobs.iter().filter(|job| job["model"] == sources[0]).collect();
        assert_eq!(jobs.len(), 3000, "none twice");
        assert_eq!(ids(&jobs).into_iter().collect::<HashSet<_>>().len(), 3000, "none left out");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_is_filled_again_as_workers_make_room() {
    let nats = NatsServer::start();
    let client = queue(&nats).await;
    client.limit_queue(5).await;
    let worker = Worker::spawn(&nats, &samples(), &[], &[]);
    let folder = repository("samples").display().to_string();
    worker.logged("working");
    let (code, shown, log) = ended(submit(&nats, &[&folder, "--follow", "--json"]));
    assert_eq!((code, shown.lines().count()), (0, 10), "{log}\n{}", worker.log());
    client.queue_is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_is_waited_for() {
    let mut nats = NatsServer::start_current();
    let client = queue(&nats).await;
    client.limit_queue(50).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut run = Worker::run(submit(&nats, &[&list(folder.path(), 400)]));
    client.queue_holds(50).await;
    nats.kill();
    run.logged("NATS is gone");
    nats.restart();
    run.logged("connected to NATS again");
    client.limit_queue(-1).await;
    assert_eq!(run.ended().code(), Some(0), "{}", run.log());
    let jobs: Vec<_> = client.queued().await.into_iter().map(|job| job.json).collect();
    assert_eq!((jobs.len(), ids(&jobs).into_iter().collect::<HashSet<_>>().len()), (400, 400), "each once");
}

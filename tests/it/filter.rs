//! Workers that process a part of the queue.

use async_nats::HeaderMap;

use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::worker::{Worker, tagmill};
use crate::support::{samples, until};

const JOB: &str = r#"{"image":"night-sky.png"}"#;

async fn parts(nats: NatsServer) {
    let client = Client::connect(&nats).await;
    let shop = Worker::start_with(&nats, &samples(), &["--filter", "shop.>"], &[]);
    for subject in ["tagmill.jobs", "tagmill.jobs.other", "tagmill.jobs.shop.eu", "tagmill.jobs.shop.us.ny"] {
        client.publish(subject, HeaderMap::new(), JOB).await;
    }
    let mut subjects: Vec<_> = client.results(2).await.into_iter().map(|result| result.subject).collect();
    subjects.sort();
    assert_eq!(subjects, ["tagmill.results.shop.eu", "tagmill.results.shop.us.ny"]);
    until("the shop's jobs to be gone", || async { (client.count("TAGMILL_JOBS").await == 2).then_some(()) }).await;
    until("its own backlog", || async {
        let backlog = (shop.metric("tagmill_backlog_jobs").await?, shop.metric("tagmill_oldest_job_seconds").await?);
        (backlog == (0.0, 0.0)).then_some(())
    })
    .await;
    assert!(
        client
            .jetstream
            .get_stream("TAGMILL_JOBS")
            .await
            .expect("the queue")
            .consumer_info("workers-shop")
            .await
            .is_ok()
    );

    // An overlapping filter is refused with the name of the other consumer.
    for filter in [None, Some("shop.eu"), Some("*.eu"), Some(">")] {
        let arguments = filter.map_or(vec![], |filter| vec!["--filter", filter]);
        let mut refused = Worker::spawn(&nats, &samples(), &arguments, &[]);
        assert_eq!(refused.ended().code(), Some(1), "{filter:?}");
        let said = refused.logged("tagmill:");
        assert!(
            said.contains("workers-shop") && said.contains("overlap") && said.contains("tagmill.jobs.shop.>"),
            "{said}"
        );
    }
    // A filter without overlap is another part.
    let other = Worker::start_with(&nats, &samples(), &[], &[("TAGMILL_FILTER", "other".into())]);
    client.results(3).await;
    until("the other part to be gone", || async { (client.count("TAGMILL_JOBS").await == 1).then_some(()) }).await;
    assert!(other.metric(r#"tagmill_jobs_total{source="stream",outcome="tagged"}"#).await == Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_its_part_and_no_other() {
    parts(NatsServer::start()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_on_a_current_server() {
    parts(NatsServer::start_current()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_refused_where_workers_take_all() {
    let nats = NatsServer::start();
    let _all = Worker::start(&nats);
    let mut refused = Worker::spawn(&nats, &samples(), &["--filter", "shop.>"], &[]);
    assert_eq!(refused.ended().code(), Some(1));
    let said = refused.logged("tagmill:");
    assert!(said.contains("the consumer workers takes all jobs") && said.contains("--filter"), "{said}");
    let mut wrong = Worker::spawn(&nats, &samples(), &["--filter", "a b"], &[]);
    assert_eq!(wrong.ended().code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_has_its_own_backlog() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    let worker = Worker::start_with(&nats, &samples(), &["--filter", "shop.>"], &[]);
    // Jobs that stay in the queue, because their results are not accepted.
    client.take_results(&["elsewhere"]).await;
    client.publish("tagmill.jobs.other", HeaderMap::new(), JOB).await;
    client.publish("tagmill.jobs.shop", HeaderMap::new(), JOB).await;
    client.publish("tagmill.jobs.shop.eu", HeaderMap::new(), JOB).await;
    until("the age of its oldest job", || async {
        let oldest = worker.metric("tagmill_oldest_job_seconds").await?;
        (oldest > 0.0).then_some(())
    })
    .await;
    client.take_results(&["tagmill.results", "tagmill.results.>"]).await;
    client.results(1).await;
    until("no job of its own", || async {
        (worker.metric("tagmill_oldest_job_seconds").await == Some(0.0)).then_some(())
    })
    .await;
    assert_eq!(client.count("TAGMILL_JOBS").await, 2, "the others are there still");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_alone_and_what_is_below_it_are_parts_that_submit_can_reach() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    let submit = |arguments: &[&str]| {
        let url = nats.url();
        let image = crate::support::repository("samples/night-sky.png").display().to_string();
        let output = tagmill(&[&["submit", "--nats-url", &url, &image], arguments].concat()).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let _shop = Worker::start_with(&nats, &samples(), &["--filter", "shop"], &[]);
    let _below = Worker::start_with(&nats, &samples(), &["--filter", "shop.>"], &[]);
    let (code, said) = submit(&["--subject", "tagmill.jobs.shop"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(client.results(1).await[0].subject, "tagmill.results.shop");
    let (code, said) = submit(&["--subject", "tagmill.jobs.shop", "--follow"]);
    assert_eq!(code, Some(0), "{said}");
    let results = client.results(2).await;
    assert!(results[1].subject.starts_with("tagmill.results.shop.submit."), "{}", results[1].subject);
    client.queue_is_empty().await;

    for elsewhere in ["shop", "tagmill.jobs.shop.>", "tagmill.results"] {
        let (code, said) = submit(&["--subject", elsewhere]);
        assert!(code == Some(2) && said.contains("--subject") && said.contains("tagmill.jobs"), "{said}");
    }
}

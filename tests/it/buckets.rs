//! Buckets as people really have them.

use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::repository;
use crate::support::s3::S3Server;
use crate::support::worker::{Worker, tagmill};

/// Keys in the order in which S3 lists them, three of which no job can name.
const KEYS: [&str; 7] = ["/lead.jpg", "2023-old/1.jpg", "2023/", "2023/2.jpg", "a//2.jpg", "b/./c.jpg", "tab\t.jpg"];

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_can_not_be_named_are_counted_and_stop_nothing() {
    let (nats, s3) = (NatsServer::start(), S3Server::start("images").await);
    for key in ["2023-old/1.jpg", "2023/2.jpg"] {
        s3.put("images", key, &repository("samples/orange-sunset.jpg"));
    }
    s3.set_listing(&KEYS);
    let worker = Worker::start_with(&nats, "s3://images", &[], &s3.environment());
    let run = |arguments: &[&str]| {
        let output = tagmill(arguments).envs(s3.environment()).output().expect("it runs");
        (
            output.status.code(),
            String::from_utf8(output.stderr).expect("UTF-8"),
            String::from_utf8(output.stdout).expect("UTF-8"),
        )
    };
    let passed = "4 passed over: 4 a key with empty or relative parts, or with control characters";
    let (code, log, _) = run(&["submit", "s3://images", "--nats-url", &nats.url()]);
    assert!(code == Some(0) && log.contains(passed), "{log}");
    let client = Client::connect(&nats).await;
    let mut ids: Vec<_> = client.results(2).await.iter().map(|result| result.id().to_owned()).collect();
    ids.sort();
    assert_eq!(ids, ["2023-old/1.jpg", "2023/2.jpg"], "{}", worker.log());

    let models = repository("models").display().to_string();
    let (code, log, lines) = run(&["tag", "s3://images", "--models", &models]);
    assert!(code == Some(0) && log.contains(passed) && lines.lines().count() == 2, "{log}{lines}");

    client.submit("odd", "s3://images/a//2.jpg").await;
    assert_eq!(client.dead(1).await[0].code(), "bad_job");
}

//! The permissions of `deploy/nats-permissions.conf`: enough for each part, and no more.

use std::time::Duration;

use async_nats::{ConnectOptions, HeaderMap};
use serde_json::json;

use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::repository;
use crate::support::worker::{Worker, tagmill};

fn configuration() -> String {
    let text = std::fs::read_to_string(repository("deploy/nats-permissions.conf")).expect("it is committed");
    let words = text.split_inclusive([' ', '\n']);
    words.map(|word| if word.starts_with("$TAGMILL_") { "secret\n".to_owned() } else { word.to_owned() }).collect()
}

async fn connect(nats: &NatsServer, user: &str) -> Client {
    let options = ConnectOptions::with_user_and_password(user.to_owned(), "secret".to_owned());
    Client::connect_with(nats, options.request_timeout(Some(Duration::from_secs(2)))).await
}

fn run(nats: &mut NatsServer, arguments: &[&str]) -> String {
    nats.login = "operator:secret@";
    let url = nats.url();
    let output = tagmill(&[arguments, &["--nats-url", &url]].concat()).output().expect("it runs");
    let shown = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {shown}");
    shown
}

async fn permissions(mut nats: NatsServer) {
    run(&mut nats, &["init"]);
    nats.login = "worker:secret@";
    let worker = Worker::start(&nats);
    let (publisher, operator) = (connect(&nats, "publisher").await, connect(&nats, "operator").await);
    publisher.publish("tagmill.jobs.shop", HeaderMap::new(), r#"{"id":"good","image":"orange-sunset.jpg"}"#).await;
    publisher.publish("tagmill.jobs", HeaderMap::new(), r#"{"id":"gone","image":"missing.jpg"}"#).await;
    assert_eq!(operator.results(1).await[0].id(), "good");
    assert_eq!(operator.dead(1).await[0].id(), "gone");
    let requester = connect(&nats, "requester").await;
    let request = json!({ "image": "orange-sunset.jpg" }).to_string();
    let answer = requester.nats().request("tagmill.tag", request.into()).await.expect("an answer");
    assert!(String::from_utf8_lossy(&answer.payload).contains("orange"));

    let sample = repository("samples/orange-sunset.jpg").display().to_string();
    let followed = run(&mut nats, &["submit", "--follow", &sample]);
    assert!(followed.contains("1 tagged"), "{followed}");
    assert!(run(&mut nats, &["dead", "list"]).contains("gone"));
    run(&mut nats, &["dead", "retry", "--all", "--yes"]);
    operator.dead(1).await;
    run(&mut nats, &["dead", "drop", "--all", "--yes"]);

    // Rights of one of them alone, and rights that nobody has.
    let evidence = connect(&nats, "worker").await.jetstream.get_stream("TAGMILL_EVIDENCE").await.expect("it may look");
    let missing = evidence.get_last_raw_message_by_subject("tagmill.evidence.1.1").await.expect_err("there is none");
    assert!(missing.to_string().contains("no message found"), "{missing}");
    let before = operator.count("TAGMILL_RESULTS").await;
    for user in ["worker", "publisher", "requester", "operator"] {
        let client = connect(&nats, user).await.nats();
        for verb in ["PURGE", "DELETE", "UPDATE"] {
            let refused = client.request(format!("$JS.API.STREAM.{verb}.TAGMILL_RESULTS"), "{}".into()).await;
            assert!(refused.is_err(), "{user} {verb}");
        }
        assert!(client.request("$JS.API.STREAM.NAMES", "".into()).await.is_err(), "{user}");
    }
    assert_eq!(operator.count("TAGMILL_RESULTS").await, before);
    let log = worker.log();
    assert!(!log.contains("Violation") && !log.contains("can't be") && !log.contains("ERROR "), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_has_what_it_needs_and_no_more() {
    permissions(NatsServer::start_configured(&configuration())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_on_a_current_server() {
    permissions(NatsServer::start_current_configured(&configuration())).await;
}

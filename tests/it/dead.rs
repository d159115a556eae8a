//! `tagmill dead`.

use std::collections::BTreeSet;
use std::process::Output;

use async_nats::HeaderMap;
use serde_json::Value;

use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::worker::{Worker, tagmill};
use crate::support::{repository, until};

fn dead(nats: &NatsServer, arguments: &[&str]) -> (i32, String, String) {
    let url = nats.url();
    let Output { status, stdout, stderr } =
        tagmill(&[&["dead"], arguments, &["--nats-url", &url]].concat()).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("it exits"), text(stdout), text(stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_retried_and_dropped() {
    let nats = NatsServer::start();
    let store = tempfile::tempdir().expect("a folder");
    let _worker = Worker::start_with(&nats, &format!("file://{}", store.path().display()), &[], &[]);
    let client = Client::connect(&nats).await;
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", "00-trace");
    headers.insert("Nats-Msg-Id", "upload-1");
    client.publish("tagmill.jobs.shop", headers, r#"{"image":"late.jpg"}"#).await;
    client.publish("tagmill.jobs", HeaderMap::new(), "not json").await;
    client.submit("gone", "missing.jpg").await;
    client.dead(3).await;

    let (code, table, _) = dead(&nats, &["list"]);
    assert_eq!((code, table.lines().count()), (0, 4), "a route and three letters:\n{table}");
    let row = |id: &str| table.lines().find(|line| line.contains(id)).expect("its row").split_whitespace().nth(4);
    assert_eq!((row("upload-1"), row("bad_job")), (Some("late.jpg"), Some("-")), "where the image is");
    let (_, json, _) = dead(&nats, &["list", "--json", "--subject", "tagmill.jobs.shop"]);
    let letter: Value = serde_json::from_str(&json).expect("one letter");
    assert_eq!((&letter["id"], &letter["error"]["code"]), (&"upload-1".into(), &"image_not_found".into()));
    assert_eq!(letter["job"], serde_json::json!({ "image": "late.jpg" }));
    let (_, json, _) = dead(&nats, &["list", "--json", "--code", "bad_job"]);
    assert_eq!(json.lines().count(), 1);

    // Without a terminal for the question and without --yes, nothing changes.
    let (code, _, message) = dead(&nats, &["drop", "--all"]);
    assert_eq!((code, client.count("TAGMILL_DEAD").await), (2, 3), "{message}");
    let (code, _, message) = dead(&nats, &["retry", "nobody", "--yes"]);
    assert_eq!(code, 1);
    assert!(message.contains("nobody"), "{message}");

    std::fs::copy(repository("samples/orange-sunset.jpg"), store.path().join("late.jpg")).expect("a copy");
    let (code, _, message) = dead(&nats, &["retry", "upload-1", "--yes"]);
    assert!(code == 0 && message.ends_with("retried 1 of 1 dead letter\n"), "{message}");
    let result = client.results(1).await.remove(0);
    assert_eq!((result.id(), result.subject.as_str()), ("upload-1", "tagmill.results.shop"));
    assert!(result.headers.get("traceparent").is_some(), "a job's headers stay with it");
    let before = &result.json["retry_of"];
    assert!(before.as_str().is_some_and(|letter| letter.starts_with("TAGMILL_DEAD-")), "{before}");
    until("the letter to be gone", || async { (client.count("TAGMILL_DEAD").await == 2).then_some(()) }).await;

    // A job that fails again produces a new letter, which is not dropped as a duplicate.
    let (code, _, message) = dead(&nats, &["retry", "--all", "--code", "image_not_found", "--yes"]);
    assert_eq!(code, 0, "{message}");
    until("a new letter", || async { (client.count("TAGMILL_DEAD").await == 2).then_some(()) }).await;

    let (code, _, message) = dead(&nats, &["drop", "--all", "--yes"]);
    assert_eq!((code, client.count("TAGMILL_DEAD").await), (0, 0), "{message}");
    let (code, table, _) = dead(&nats, &["list"]);
    assert_eq!((code, table.lines().count()), (0, 1), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_whose_job_has_come_to_another_is_listed_on_request() {
    let nats = NatsServer::start();
    let _worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    client.submit("gone", "missing.jpg").await;
    client.dead(1).await;
    // As after a retry that was interrupted before it removed the letter.
    let info = client.jetstream.get_stream("TAGMILL_DEAD").await.expect("the stream").cached_info().clone();
    let letter = format!("TAGMILL_DEAD-{}-1", info.created.unix_timestamp());
    let mut headers = HeaderMap::new();
    headers.insert("Tagmill-Retry-Of", letter.as_str());
    client.publish("tagmill.jobs", headers, r#"{"id":"again","image":"missing.jpg"}"#).await;
    assert_eq!(client.dead(2).await[1].json["retry_of"], letter);
    let ids = |arguments: &[&str]| {
        let (code, json, log) = dead(&nats, &[&["list", "--json"], arguments].concat());
        assert_eq!(code, 0, "{log}");
        let letters = json.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        letters.map(|letter| letter["id"].as_str().expect("an id").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&[]), ["again"]);
    assert_eq!(ids(&["--all"]), ["gone", "again"]);
    // A result closes a letter too.
    let second = format!("TAGMILL_DEAD-{}-2", info.created.unix_timestamp());
    let mut headers = HeaderMap::new();
    headers.insert("Tagmill-Retry-Of", second.as_str());
    client.submit("third", "missing.jpg").await;
    client.dead(3).await;
    client.publish("tagmill.jobs", headers, r#"{"id":"again","image":"night-sky.png"}"#).await;
    client.queue_is_empty().await;
    assert_eq!(client.results(1).await[0].json["retry_of"], second);
    assert_eq!(ids(&[]), ["third"]);
    assert_eq!(ids(&["--all"]), ["gone", "again", "third"]);
    let (code, _, log) = dead(&nats, &["retry", "--all", "--yes"]);
    assert!(code == 0 && log.ends_with("retried 1 of 1 dead letter\n"), "{log}");
}

#[test]
fn what_a_login_may_not_do_is_said() {
    let may = r#"permissions: { publish: ["tagmill.>"] }"#;
    let mut nats = NatsServer::start_configured(&format!(
        "authorization {{ users: [{{ user: worker, password: secret, {may} }}] }}"
    ));
    nats.login = "worker:secret@";
    let (code, _, message) = dead(&nats, &["list"]);
    let last = message.lines().last().unwrap_or_default();
    assert!(code == 1 && last.contains("Permissions Violation") && last.contains("TAGMILL_DEAD"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_selects_its_own_letters_and_no_others() {
    let nats = NatsServer::start();
    let _worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    let job = |subject: &str| format!(r#"{{"id":"{subject}","image":"missing.jpg"}}"#);
    for subject in ["tagmill.jobs", "tagmill.jobs.shop", "tagmill.jobs.größe.cat@home"] {
        client.publish(subject, HeaderMap::new(), job(subject)).await;
    }
    // A request whose client does not wait for the answer.
    client.jetstream.client().publish("tagmill.tag", job("tagmill.tag").into()).await.expect("it is sent");
    client.dead(4).await;
    let ids = |subject: &str| {
        let (code, json, log) = dead(&nats, &["list", "--json", "--subject", subject]);
        assert_eq!(code, 0, "{log}");
        let letters = json.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        letters.map(|letter| letter["id"].as_str().expect("an id").to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(ids("tagmill.jobs"), BTreeSet::from(["tagmill.jobs".to_owned()]));
    assert_eq!(ids("tagmill.tag"), BTreeSet::from(["tagmill.tag".to_owned()]));
    assert_eq!(ids("tagmill.jobs.>").len(), 2);
    assert_eq!(ids("tagmill.jobs.*"), BTreeSet::from(["tagmill.jobs.shop".to_owned()]));
    assert_eq!(ids("tagmill.jobs.größe.*").len(), 1);
    // An invalid subject selects nothing, and in particular not all letters of a plain one.
    for wrong in [
        "shop.>",
        "tagmill.dead",
        "tagmill.>",
        "other.jobs",
        "tagmill.jobs.",
        "tagmill.jobs.>.a",
        "tagmill.jobs.a*",
        "",
    ] {
        let (code, _, log) = dead(&nats, &["drop", "--all", "--yes", "--subject", wrong]);
        assert!(code == 2 && log.contains("no subject of jobs"), "{wrong}: {code} {log}");
    }
    assert_eq!(client.count("TAGMILL_DEAD").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_goes_back_as_its_job_was_written() {
    let nats = NatsServer::start();
    let store = tempfile::tempdir().expect("a folder");
    let _worker = Worker::start_with(&nats, &format!("file://{}", store.path().display()), &[], &[]);
    let client = Client::connect(&nats).await;
    client
        .publish("tagmill.jobs", HeaderMap::new(), r#"{"id":"b64","image":"late.jpg","meta":{"base64":"aGVsbG8="}}"#)
        .await;
    client.dead(1).await;
    std::fs::copy(repository("samples/orange-sunset.jpg"), store.path().join("late.jpg")).expect("a copy");
    let (code, _, message) = dead(&nats, &["retry", "b64", "--yes"]);
    assert_eq!(code, 0, "{message}");
    client.queue_is_empty().await;
    assert_eq!((client.count("TAGMILL_DEAD").await, client.count("TAGMILL_RESULTS").await), (0, 1));
    assert_eq!(client.results(1).await[0].id(), "b64");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_an_id_before_it_is_a_sequence() {
    let nats = NatsServer::start();
    let _worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    // The second letter's id is the first letter's sequence number.
    for (count, id) in [(1, "first"), (2, "1"), (3, "third")] {
        client.submit(id, "missing.jpg").await;
        client.dead(count).await;
    }
    let (code, _, message) = dead(&nats, &["drop", "1", "3", "--yes"]);
    assert_eq!(code, 0, "{message}");
    let (_, json, _) = dead(&nats, &["list", "--json"]);
    let left: Value = serde_json::from_str(&json).expect("one letter");
    assert_eq!(left["id"], "first");
}

#[test]
fn without_a_terminal_to_ask_on_yes_is_said_before_anything_else() {
    let ended = tagmill(&["dead", "drop", "--all", "--nats-url", "nats://127.0.0.1:1"]).output().expect("it runs");
    let message = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(2) && message.contains("--yes"), "{message}");
}
